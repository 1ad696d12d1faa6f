//! A TPM of our own, in which every input of every check can be turned.

use std::sync::LazyLock;
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{KeyPair, PKCS_ED25519};
use vouchsafe_attestation::claims::Class;

use crate::dossier::{self, Dossier, Expected, File, Kind, Rules};
use crate::evidence::sev_snp::tests::machine::{NOW, authority, params, time};
use crate::evidence::tpm::checks::CHECKS;
use crate::evidence::tpm::hash::HashAlgorithm::Sha256;
use crate::evidence::tpm::ima::policy::{Content, FileRule, PathPattern, Policy};
use crate::evidence::tpm::ima::{self, Checkpoint};
use crate::evidence::tpm::pcr::{PcrSelection, PcrSet, PcrValues};
use crate::evidence::tpm::wire::put_sized;
use crate::judgement::Judgement;
use crate::judgement::flips::{Flip, assert_table};
use crate::reference_value::TpmImage;

const NONCE: &[u8] = b"challenge";

/// The attestation key, and one that is not.
static KEYS: LazyLock<[KeyPair; 2]> =
    LazyLock::new(|| [(); 2].map(|()| KeyPair::generate().unwrap()));

/// Whose evidence is as it should be until a test says otherwise.
struct Machine {
    attributes: u32,
    /// Symmetric algorithm, scheme and its hash.
    scheme: &'static [u8],
    kind: u16,
    nonce: &'static [u8],
    signed_by_other: bool,
    /// Values that are quoted, of SHA-256, and what is given as them.
    quoted: Vec<(u8, Vec<u8>)>,
    given: Vec<(u8, Vec<u8>)>,
    /// The bank of the quote.
    bank: u16,
    /// A quote of SHA-1 values beside: what is given, and whether another key signed it.
    sha1: Option<(Vec<u8>, bool)>,
    log: Option<Vec<u8>>,
    list: Option<Vec<u8>>,
    leaf: Leaf,
    /// Behind the message.
    trailing: &'static [u8],
    beside: Vec<(&'static str, Vec<u8>)>,
    expected: Expected,
    rules: Rules,
}

#[derive(Clone, Copy)]
struct Leaf {
    dates: [u64; 2],
    signed_by_other: bool,
    is_there: bool,
}

impl Machine {
    fn new() -> Self {
        let log = boot_log(1);
        let entries = ima::parse_text(LIST).unwrap();
        let mut quoted: Vec<_> = {
            let log = crate::evidence::tpm::event_log::EventLog::parse(&log).unwrap();
            (0..8)
                .map(|pcr| (pcr, log.replay(Sha256, pcr).unwrap()))
                .collect()
        };
        quoted.push((10, Checkpoint::start(Sha256).replay(&entries)));
        Self {
            attributes: 0x0005_0072,
            scheme: &[0, 0x10, 0, 0x18, 0, 0x0b],
            kind: 0x8018,
            nonce: NONCE,
            signed_by_other: false,
            given: quoted.clone(),
            quoted,
            bank: Sha256.id(),
            sha1: None,
            log: Some(log),
            list: Some(LIST.as_bytes().to_vec()),
            leaf: Leaf {
                dates: [1000, 4000],
                signed_by_other: false,
                is_there: true,
            },
            trailing: &[],
            beside: Vec::new(),
            expected: Expected::Nonce(NONCE.to_vec()),
            rules: Rules::default(),
        }
    }

    fn changed(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Only quote, log and list: nothing that other checks read.
    fn bare(mut self) -> Self {
        self.log = None;
        self.list = None;
        self
    }

    fn area(&self) -> Vec<u8> {
        let key = signer(&KEYS[0]);
        let point = key.public_key().as_ref();
        let mut area = vec![0, 0x23, 0, 0x0b];
        area.extend(self.attributes.to_be_bytes());
        area.extend([0, 0]); // no policy
        area.extend(self.scheme);
        area.extend([0, 3, 0, 0x10]); // P-256, no key derivation
        put_sized(&mut area, &point[1..33]);
        put_sized(&mut area, &point[33..]);
        area
    }

    /// Message and signature of a quote over these values of a bank.
    fn quote(&self, bank: u16, values: &[(u8, Vec<u8>)], by_other: bool) -> (Vec<u8>, Vec<u8>) {
        let mut quote = vec![0xff, b'T', b'C', b'G'];
        quote.extend(self.kind.to_be_bytes());
        put_sized(&mut quote, b"\0\x0bsigner");
        put_sized(&mut quote, self.nonce);
        quote.extend([0; 8]); // clock
        quote.extend([0, 0, 0, 5, 0, 0, 0, 2, 1]); // resets, restarts, safe
        quote.extend([0; 8]); // firmware
        quote.extend([0, 0, 0, 1]);
        quote.extend(bank.to_be_bytes());
        let bits = values.iter().fold(0_u32, |bits, (pcr, _)| bits | 1 << pcr);
        quote.push(3);
        quote.extend(&bits.to_le_bytes()[..3]);
        let values: Vec<&[u8]> = values.iter().map(|(_, value)| value.as_slice()).collect();
        put_sized(&mut quote, &Sha256.digest(&values));
        let signed = signer(&KEYS[usize::from(by_other)])
            .sign(&SystemRandom::new(), &quote)
            .unwrap();
        let mut signature = vec![0, 0x18, 0, 0x0b];
        put_sized(&mut signature, &signed.as_ref()[..32]);
        put_sized(&mut signature, &signed.as_ref()[32..]);
        (quote, signature)
    }

    /// As go-tpm-tools writes it; the root is the operator's.
    fn message(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, 1, &self.area());
        if let Some((given, by_other)) = &self.sha1 {
            let honest = [(0, vec![0; 20])];
            let quote = self.quote(ALG_SHA1, &honest, *by_other);
            put(
                &mut out,
                2,
                &container_quote(&quote, ALG_SHA1, &[(0, given.clone())]),
            );
        }
        if self.bank == Sha256.id() {
            let quote = self.quote(self.bank, &self.quoted, self.signed_by_other);
            put(
                &mut out,
                2,
                &container_quote(&quote, self.bank, &self.given),
            );
        }
        if let Some(log) = &self.log {
            put(&mut out, 3, log);
        }
        let (root, leaf) = self.certified();
        if self.leaf.is_there {
            put(&mut out, 6, &leaf);
        }
        self.rules.tpm.ak_roots.push((root, Class::Hardware));
        out.extend(self.trailing);
        out
    }

    /// A root, and the certificate of the key below it.
    fn certified(&self) -> (Vec<u8>, Vec<u8>) {
        let root = authority("AK root", [1000, 4000], true);
        let other = authority("AK root", [1000, 4000], true);
        let signer = if self.leaf.signed_by_other {
            &other
        } else {
            &root
        };
        let leaf = params("AK", self.leaf.dates).signed_by(&KEYS[0], &signer.renamed("AK root"));
        (
            root.certify(&root.renamed("AK root")),
            leaf.unwrap().der().to_vec(),
        )
    }

    fn judge(mut self) -> Judgement {
        let message = self.message();
        let list = self.list.take();
        let mut files = vec![("attestation.pb", message)];
        files.extend(list.map(|list| ("ima.log", list)));
        files.append(&mut self.beside);
        judge(&files, &[], &self.expected, &self.rules)
    }
}

fn judge(
    files: &[(&str, Vec<u8>)],
    endorsements: &[(&str, Vec<u8>)],
    expected: &Expected,
    rules: &Rules,
) -> Judgement {
    let files: Vec<_> = { files.iter() }
        .map(|(name, bytes)| File { name, bytes })
        .collect();
    let endorsements: Vec<_> = { endorsements.iter() }
        .map(|(name, bytes)| File { name, bytes })
        .collect();
    let dossier = Dossier {
        files: &files,
        endorsements: &endorsements,
    };
    dossier::verify(Kind::Tpm, dossier, expected, rules, now())
}

fn now() -> SystemTime {
    time(NOW)
}

fn signer(key: &KeyPair) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap()
}

/// A field of a message, of bytes.
fn put(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend(bytes);
}

fn container_quote(
    (message, signature): &(Vec<u8>, Vec<u8>),
    bank: u16,
    values: &[(u8, Vec<u8>)],
) -> Vec<u8> {
    let mut pcrs = vec![1 << 3, u8::try_from(bank).unwrap()];
    for (pcr, value) in values {
        let mut entry = vec![1 << 3, *pcr];
        put(&mut entry, 2, value);
        put(&mut pcrs, 2, &entry);
    }
    let mut out = Vec::new();
    put(&mut out, 1, message);
    put(&mut out, 2, signature);
    put(&mut out, 3, &pcrs);
    out
}

/// A boot with Secure Boot on or off, as firmware logs it with SHA-256.
fn boot_log(secure_boot: u8) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0".to_vec();
    header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    header.extend([1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let mut log = vec![0, 0, 0, 0, 3, 0, 0, 0];
    log.extend([0; 20]);
    log.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    log.extend(header);
    // EFI_GLOBAL_VARIABLE, lengths, name, value.
    let mut variable = hex::decode("61dfe48bca93d211aa0d00e098032b8c").unwrap();
    variable.extend(10_u64.to_le_bytes());
    variable.extend(1_u64.to_le_bytes());
    variable.extend("SecureBoot".encode_utf16().flat_map(u16::to_le_bytes));
    variable.push(secure_boot);
    let (config, separator) = (0x8000_0001_u32, 4_u32);
    for (pcr, kind, data) in [
        (7_u32, config, variable.as_slice()),
        (7, separator, &[0; 4]),
        (4, 0x8000_0003, b"boot loader"),
    ] {
        log.extend(pcr.to_le_bytes());
        log.extend(kind.to_le_bytes());
        log.extend([1, 0, 0, 0, 0x0b, 0]);
        log.extend(Sha256.digest(&[data]));
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
    }
    log
}

fn images(value: u8) -> Vec<TpmImage> {
    let mut pcrs = PcrValues::default();
    pcrs.insert(Sha256, 5, vec![value; 32]).unwrap();
    vec![TpmImage {
        name: "image".into(),
        pcrs,
        until: None,
    }]
}

fn any_file() -> Policy {
    let rule = FileRule {
        path: PathPattern::new("/**").unwrap(),
        content: Content::DangerAny,
    };
    Policy {
        files: vec![rule],
        ..Policy::default()
    }
}

fn turned(
    check: &'static str,
    reason: &'static str,
    follows: &'static [&'static str],
    change: impl FnOnce(&mut Machine),
) -> Flip {
    Flip {
        check,
        reason,
        follows,
        judgement: Machine::new().changed(change).judge(),
    }
}

/// As [`turned`], of a machine without log and list, which nothing covers once the quote is gone.
fn turned_bare(
    check: &'static str,
    reason: &'static str,
    change: impl FnOnce(&mut Machine),
) -> Flip {
    Flip {
        check,
        reason,
        follows: &[],
        judgement: Machine::new().bare().changed(change).judge(),
    }
}

/// Of files that are no whole evidence.
fn loose(
    check: &'static str,
    reason: &'static str,
    follows: &'static [&'static str],
    files: &[(&str, Vec<u8>)],
    enrolled: &[(&str, Vec<u8>)],
) -> Flip {
    let machine = Machine::new();
    Flip {
        check,
        reason,
        follows,
        judgement: judge(files, enrolled, &machine.expected, &machine.rules),
    }
}

/// Negative tests 26 to 28 of the reference are among these.
#[test]
fn every_check_notices_its_input_alone() {
    let good = [
        Machine::new().judge(),
        Machine::new().changed(meet_every_rule).judge(),
        Machine::new()
            .bare()
            .changed(|m| m.sha1 = Some((vec![0; 20], false)))
            .judge(),
    ];
    let mut flips = flips_of_the_quote();
    flips.extend(flips_of_the_certificate());
    flips.extend(flips_of_the_logs());
    flips.extend(flips_of_loose_files());
    let sources = [
        include_str!("mod.rs"),
        include_str!("certificate.rs"),
        include_str!("logs.rs"),
        include_str!("parts.rs"),
        include_str!("values.rs"),
        include_str!("../mod.rs"),
    ];
    assert_table(CHECKS, &good, &flips, &sources);
}

fn meet_every_rule(m: &mut Machine) {
    m.rules.tpm.classes = vec![Class::Hardware];
    m.rules.tpm.secure_boot = Some(true);
    m.rules.tpm.require_event_log = true;
    m.rules.tpm.images = images(0);
    m.rules.tpm.pcrs = pcrs([0, 10]);
    m.rules.tpm.ima = Some(any_file());
}

fn pcrs(pcrs: [u8; 2]) -> PcrSelection {
    let mut selection = PcrSelection::default();
    selection.add(Sha256, PcrSet::new(pcrs).unwrap());
    selection
}

fn flips_of_the_quote() -> Vec<Flip> {
    vec![
        turned("attestation_format", "attestation_malformed", &[], |m| {
            m.trailing = &[1]
        }),
        turned("evidence_format", "evidence_malformed", &[], |m| {
            m.beside = vec![("evidence.json", b"{\"a\": 1}".to_vec())];
        }),
        turned("evidence", "evidence_ambiguous", &[], |m| {
            m.beside = vec![("other.pb", Machine::new().message())];
        }),
        turned("evidence", "evidence_ambiguous", &[], |m| {
            m.beside = vec![("other.log", boot_log(0))];
        }),
        turned("ak_attributes", "ak_attributes", &[], |m| {
            m.attributes &= !(1 << 16)
        }),
        turned("ak_attributes", "ak_attributes", &[], |m| {
            m.attributes |= 1 << 17
        }),
        turned("ak_scheme", "ak_scheme", &[], |m| {
            m.scheme = &[0, 0x10, 0, 0x10]
        }),
        turned_bare("quote_format", "quote_malformed", |m| m.kind = 0x8017),
        turned("quote_signature", "quote_signature", &[], |m| {
            m.signed_by_other = true
        }),
        turned("binding", "nonce_mismatch", &[], |m| m.nonce = b"challengf"),
        turned("binding", "expectation_unsuitable", &[], |m| {
            m.expected = Expected::ReportData([0; 64]);
        }),
        turned_bare("pcr_values", "pcr_values_malformed", |m| {
            m.given[3].1.pop();
        }),
        turned_bare("pcr_values", "pcr_values_malformed", |m| {
            let twice = m.given[3].clone();
            m.given.push(twice);
        }),
        // A value that nobody quoted, and a quoted one that nobody shows.
        turned_bare("pcr_selection", "pcr_selection", |m| {
            m.given.push((11, vec![0; 32]))
        }),
        Flip {
            follows: &["pcr_digest"],
            ..turned_bare("pcr_selection", "pcr_selection", |m| drop(m.given.pop()))
        },
        turned_bare("pcr_digest", "pcr_digest", |m| m.given[3].1[0] ^= 1),
        turned("sha1_quote", "quote_signature", &[], |m| {
            m.sha1 = Some((vec![0; 20], true))
        }),
        turned("sha1_quote", "pcr_digest", &[], |m| {
            m.sha1 = Some((vec![1; 20], false))
        }),
        turned_bare("quote_bank", "sha1", |m| {
            m.sha1 = Some((vec![0; 20], false));
            m.bank = ALG_SHA1;
        }),
        turned("class", "class", &[], |m| {
            m.rules.tpm.classes = vec![Class::Hardware];
            m.leaf.is_there = false;
            m.beside = vec![("leaf.der", below_nobody())];
        }),
        turned("class", "class", &[], |m| {
            m.rules.tpm.classes = vec![Class::Software]
        }),
        turned("pcr_coverage", "pcr_not_quoted", &[], |m| {
            m.rules.tpm.pcrs = pcrs([0, 11])
        }),
        turned("image", "image", &[], |m| m.rules.tpm.images = images(1)),
        turned("image", "image", &[], |m| {
            m.rules.tpm.images = images(0);
            m.rules.tpm.images[0].until = Some(now());
        }),
        loose(
            "signature_hash",
            "sha1",
            &[],
            &[("dump.json", WINDOWS.to_vec())],
            &[],
        ),
    ]
}

/// A certificate of the key by an authority that nobody pinned.
fn below_nobody() -> Vec<u8> {
    let nobody = authority("nobody", [1000, 4000], true);
    let leaf = params("AK", [1000, 4000]).signed_by(&KEYS[0], &nobody.renamed("nobody"));
    leaf.unwrap().der().to_vec()
}

fn flips_of_the_certificate() -> Vec<Flip> {
    let certified = |reason, change: fn(&mut Leaf)| {
        turned("ak_certified", reason, &[], |m| change(&mut m.leaf))
    };
    let alone = |reason, change: fn(&mut Leaf)| {
        let mut machine = Machine::new();
        change(&mut machine.leaf);
        let (root, leaf) = machine.certified();
        machine.rules.tpm.ak_roots.push((root, Class::Hardware));
        Flip {
            check: "certificate",
            reason,
            follows: &["quote"],
            judgement: judge(&[("ak.der", leaf)], &[], &machine.expected, &machine.rules),
        }
    };
    let pem = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec();
    let edwards = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let edwards = params("AK", [1000, 4000]).self_signed(&edwards).unwrap();
    vec![
        certified("ak_not_certified", |leaf| leaf.is_there = false),
        certified("certificate_chain", |leaf| leaf.signed_by_other = true),
        certified("certificate_not_yet_valid", |leaf| leaf.dates[0] = NOW + 1),
        certified("certificate_expired", |leaf| leaf.dates[1] = NOW - 1),
        alone("certificate_chain", |leaf| leaf.signed_by_other = true),
        alone("certificate_not_yet_valid", |leaf| leaf.dates[0] = NOW + 1),
        alone("certificate_expired", |leaf| leaf.dates[1] = NOW - 1),
        loose(
            "certificate_format",
            "certificate_malformed",
            &["quote"],
            &[("ak.pem", pem)],
            &[],
        ),
        loose(
            "certificate_key",
            "certificate_key",
            &["quote"],
            &[("ak.der", edwards.der().to_vec())],
            &[],
        ),
    ]
}

fn flips_of_the_logs() -> Vec<Flip> {
    vec![
        turned("event_log", "event_log_missing", &[], |m| {
            m.log = None;
            m.rules.tpm.require_event_log = true;
        }),
        turned("event_log", "event_log_missing", &[], |m| {
            m.log = None;
            m.rules.tpm.secure_boot = Some(true);
        }),
        turned("event_log", "event_log_malformed", &[], |m| {
            m.log.as_mut().unwrap().pop();
        }),
        turned("event_log_replay", "event_log_replay", &[], |m| {
            m.log = Some(boot_log(0))
        }),
        turned("secure_boot", "secure_boot", &[], |m| {
            m.rules.tpm.secure_boot = Some(false)
        }),
        turned("ima_format", "ima_malformed", &[], |m| {
            m.list = Some(b"10 list\n".to_vec())
        }),
        turned("ima_format", "ima_missing", &[], |m| {
            m.list = None;
            m.rules.tpm.ima = Some(any_file());
        }),
        turned("ima_replay", "ima_replay", &[], |m| {
            let line = LIST.lines().nth(1).unwrap();
            m.list = Some(format!("{line}\n").into_bytes());
        }),
        turned("ima_replay", "ima_replay", &[], |m| {
            m.quoted.pop();
            m.given.pop();
        }),
        turned("ima_measures", "ima_empty", &[], |m| {
            m.quoted[8].1 = vec![0; 32];
            m.given[8].1 = vec![0; 32];
            m.rules.tpm.ima = Some(any_file());
        }),
        turned("ima_files", "ima_file", &[], |m| {
            m.rules.tpm.ima = Some(Policy::default())
        }),
    ]
}

fn flips_of_loose_files() -> Vec<Flip> {
    let machine = Machine::new();
    let (message, signature) = machine.quote(Sha256.id(), &machine.quoted, false);
    let area = machine.area();
    let file = |name, bytes: &[u8]| (name, bytes.to_vec());
    let quote = [file("quote.msg", &message), file("quote.sig", &signature)];
    let with = |more| [quote.as_slice(), &[more]].concat();
    let enrolled = [file("node.pub", &area)];
    let edwards = KeyPair::generate_for(&PKCS_ED25519)
        .unwrap()
        .public_key_pem();
    let whole = judge(
        &with(file("ak.pub", &area)),
        &enrolled,
        &machine.expected,
        &machine.rules,
    );
    assert_eq!(whole.reason, "verified", "{whole:#?}");
    vec![
        loose(
            "evidence",
            "evidence_missing",
            &[],
            &[file("quote.sig", &signature)],
            &[],
        ),
        loose(
            "quote",
            "evidence_missing",
            &[],
            &[file("boot.log", &boot_log(1))],
            &[],
        ),
        loose("ak_format", "evidence_missing", &[], &quote, &enrolled),
        loose(
            "ak_format",
            "ak_malformed",
            &[],
            &with(file("ak.pem", edwards.as_bytes())),
            &enrolled,
        ),
        loose(
            "quote_signature",
            "evidence_missing",
            &[],
            &[file("quote.msg", &message), file("ak.pub", &area)],
            &enrolled,
        ),
        loose(
            "event_log_bank",
            "event_log_unsupported",
            &["quote"],
            &[file("boot.log", LEGACY_LOG)],
            &[],
        ),
    ]
}

/// A list of a real machine.
const LIST: &str = include_str!("../../../testdata/tpm/ima-ng-sha256.log");
const WINDOWS: &[u8] = include_bytes!("../../../testdata/tpm/windows-gcp-shielded.json");
const LEGACY_LOG: &[u8] = include_bytes!("../../../testdata/tpm/eventlog-ebs-missing.bin");
const ALG_SHA1: u16 = 4;
