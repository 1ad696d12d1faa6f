//! TPMs: quotes, certificates, event logs, measurement lists.

use vouchsafe_attestation::claims::Class;
use vouchsafe_verifier::dossier::{self, Dossier, Expected, File, Kind, Rules};
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm::Sha256;
use vouchsafe_verifier::evidence::tpm::ima;
use vouchsafe_verifier::evidence::tpm::pcr::PcrValues;
use vouchsafe_verifier::judgement::Status::{self, Affirming, Contraindicated, Warning};
use vouchsafe_verifier::judgement::{Judgement, Outcome, Value};
use vouchsafe_verifier::reference_value::TpmImage;

use crate::{at, borrowed, check, judge, load, testdata};

/// Vectors of TPMs lie as single files (`testdata/tpm`); the expected verdict of each.
const TPM: &[(&str, Status, &str)] = &[
    (
        "quote-rsa-trustee.json",
        Contraindicated,
        "ak_not_certified",
    ),
    ("gce-cos85-nonce9009.pb", Affirming, "verified"),
    ("windows-gcp-shielded.json", Contraindicated, "sha1"),
    ("quote.msg", Warning, "evidence_missing"),
    ("pca_tpm_ecc_enc_cert.pem", Warning, "evidence_missing"),
    ("pca_tpm_ecc_sign_cert.pem", Warning, "evidence_missing"),
    ("pca_tpm_rsa_enc_cert.pem", Warning, "evidence_missing"),
    ("pca_tpm_rsa_sign_cert.pem", Warning, "evidence_missing"),
    ("eventlog-rhel8-uefi.bin", Warning, "evidence_missing"),
    (
        "eventlog-ubuntu-2404-amd-sevsnp.bin",
        Warning,
        "evidence_missing",
    ),
    (
        "eventlog-arch-linux-workstation.bin",
        Warning,
        "evidence_missing",
    ),
    ("eventlog-cos-101-amd-sev.bin", Warning, "evidence_missing"),
    (
        "eventlog-eventlogwithsp800155.bin",
        Warning,
        "evidence_missing",
    ),
    ("eventlog-gdc-host.bin", Warning, "evidence_missing"),
    (
        "eventlog-neg-short.bin",
        Contraindicated,
        "event_log_malformed",
    ),
    (
        "eventlog-ebs-missing.bin",
        Contraindicated,
        "event_log_unsupported",
    ),
    ("ima-ascii-big.log", Warning, "evidence_missing"),
    ("ima-ng-sha1.log", Warning, "evidence_missing"),
    ("ima-ng-sha256.log", Warning, "evidence_missing"),
    ("ima-ng-sha384.log", Warning, "evidence_missing"),
    ("ima-ng-sha512.log", Warning, "evidence_missing"),
    ("ima-ng-unknown.log", Contraindicated, "ima_malformed"),
    ("ima-rust-keylime.log", Warning, "evidence_missing"),
    ("ima-rust-keylime-bad.log", Contraindicated, "ima_malformed"),
];

const NOW: &str = "2026-01-01T00:00:00Z";

fn read(name: &str) -> Vec<u8> {
    std::fs::read(testdata().join("tpm").join(name)).unwrap()
}

fn look(name: &str, bytes: &[u8], now: &str) -> Judgement {
    judge(Kind::Tpm, &[File { name, bytes }], at(now))
}

fn outcome(judgement: &Judgement, name: &str) -> Outcome {
    let found = judgement.checks.iter().find(|check| check.name == name);
    found.unwrap().outcome
}

#[test]
fn tpm_vectors_are_judged_as_they_must_be() {
    for (name, status, reason) in TPM {
        let judgement = look(name, &read(name), NOW);
        assert_eq!(
            (judgement.status, judgement.reason),
            (*status, *reason),
            "{name}: {judgement:#?}"
        );
    }
    // No vector is forgotten.
    let held = std::fs::read_dir(testdata().join("tpm")).unwrap().count();
    assert_eq!(held, TPM.len());
}

#[test]
fn event_logs_of_confidential_vms_are_read_and_replayed() {
    let rows = [
        (
            "ccel/cos-113-tdx",
            &[][..],
            NOW,
            Warning,
            "evidence_missing",
        ),
        ("ccel/trustee-grub", &[], NOW, Warning, "evidence_missing"),
    ];
    check(Kind::Tpm, &rows);
    let files = load("ccel/cos-113-tdx", &[]);
    let judgement = judge(Kind::Tpm, &borrowed(&files), at(NOW));
    assert_eq!(outcome(&judgement, "event_log"), Outcome::Passed);
    assert_eq!(judgement.claims["secure_boot"], Value::Bool(false));
    let Value::Set(replayed) = &judgement.claims["replayed"] else {
        panic!("{judgement:#?}");
    };
    assert_eq!(replayed.len(), 3);
}

/// # Why a machine whose certificate leads to no pinned root is affirmed, of class `software`
/// This machine's key was certified by an authority of its cloud that is not among the pinned roots, so nobody vouches
/// that the key lives in a TPM. That is what a software TPM is too: a key whose quotes are genuine and whose home is not
/// proven. Class `software` says just that, is shown wherever the identity is, and satisfies only a profile that names
/// it (the default of `classes` is `hardware` alone). So the judgement of a file is the one that an attestation would
/// come to. Anybody can make such an authority, as anybody can run a software TPM: what keeps strangers out is who else a
/// profile and `members` name, not this class. `ak_certified` is `false` and its check `not_checked`, never `passed`. What would claim more than is proven
/// is refused instead: an issuer that is there and did not sign (`certificate_chain`), dates, a key without certificate.
#[test]
fn a_cloud_machines_attestation_is_bound_to_its_nonce_and_no_other() {
    let bytes = read("gce-cos85-nonce9009.pb");
    let files = [File {
        name: "attestation.pb",
        bytes: &bytes,
    }];
    let dossier = Dossier {
        files: &files,
        endorsements: &[],
    };
    let verify = |expected: Expected, rules: &Rules| {
        dossier::verify(Kind::Tpm, dossier, &expected, rules, at(NOW))
    };
    let rules = Rules::default();
    let good = verify(Expected::Nonce(vec![0x90, 0x09]), &rules);
    assert_eq!(
        (good.status, good.reason),
        (Affirming, "verified"),
        "{good:#?}"
    );
    assert_eq!(outcome(&good, "event_log_replay"), Outcome::Passed);
    // No pinned root is above the certificate, and that shows.
    assert_eq!(outcome(&good, "ak_certified"), Outcome::NotChecked);
    assert_eq!(good.claims["class"], Value::Text("software".into()));
    assert_eq!(good.claims["ak_certified"], Value::Bool(false));
    for other in [&[0x90, 0x08][..], &[0x90], &[0x90, 0x09, 0]] {
        let judgement = verify(Expected::Nonce(other.to_vec()), &rules);
        assert_eq!(judgement.reason, "nonce_mismatch");
    }
    let data = Expected::ReportData([0; 64]);
    assert_eq!(verify(data, &rules).reason, "expectation_unsuitable");

    let nonce = || Expected::Nonce(vec![0x90, 0x09]);
    let with = |change: &dyn Fn(&mut Rules)| {
        let mut rules = Rules::default();
        change(&mut rules);
        verify(nonce(), &rules).reason
    };
    assert_eq!(
        with(&|rules| rules.tpm.classes = vec![Class::Hardware]),
        "class"
    );
    assert_eq!(
        with(&|rules| rules.tpm.secure_boot = Some(true)),
        "verified"
    );
    assert_eq!(
        with(&|rules| rules.tpm.secure_boot = Some(false)),
        "secure_boot"
    );
    assert_eq!(
        with(&|rules| rules.tpm.require_event_log = true),
        "verified"
    );
    assert_eq!(
        with(&|rules| rules.tpm.ima = Some(Default::default())),
        "ima_missing"
    );
    let image = |value: &str, until: Option<&str>| {
        let mut pcrs = PcrValues::default();
        pcrs.insert(Sha256, 4, hex::decode(value).unwrap()).unwrap();
        vec![TpmImage {
            name: "cos-85".into(),
            pcrs,
            until: until.map(at),
        }]
    };
    let pcr4 = "d690bdac2aa8b73a1d718cb91990df07d0747b07ea57b3b2d0f0d511f0d90491";
    assert_eq!(
        with(&|rules| rules.tpm.images = image(pcr4, None)),
        "verified"
    );
    assert_eq!(
        with(&|rules| rules.tpm.images = image(&"11".repeat(32), None)),
        "image"
    );
    assert_eq!(
        with(&|rules| rules.tpm.images = image(pcr4, Some(NOW))),
        "image"
    );
}

#[test]
fn no_bit_of_a_cloud_machines_quotes_or_key_can_be_changed() {
    let whole = read("gce-cos85-nonce9009.pb");
    // Key, three quotes and their values; the log and the certificate follow.
    let log = whole
        .windows(13)
        .position(|window| window == b"Spec ID Event")
        .unwrap()
        - 32;
    for index in (0..log).step_by(7) {
        let mut flipped = whole.clone();
        flipped[index] ^= 1 << (index % 8);
        let judgement = look("attestation.pb", &flipped, NOW);
        // What the key may do beside is its maker's to say; a certificate is of the key alone.
        let harmless = (7..11).contains(&index) && judgement.reason == "verified";
        assert!(
            harmless || judgement.status != Affirming,
            "byte {index}: {judgement:#?}"
        );
    }
    for index in (0..whole.len()).step_by(211) {
        let judgement = look("attestation.pb", &whole[..index], NOW);
        assert_ne!(judgement.status, Affirming, "cut at {index}");
    }
    let longer = [whole.as_slice(), &[1]].concat();
    assert_eq!(
        look("attestation.pb", &longer, NOW).reason,
        "attestation_malformed"
    );
}

#[test]
fn certificates_of_keys_are_followed_to_their_clouds_root() {
    for key in ["ecc_enc", "ecc_sign", "rsa_enc", "rsa_sign"] {
        let name = format!("pca_tpm_{key}_cert.pem");
        let bytes = read(&name);
        let now = look(&name, &bytes, NOW);
        assert_eq!(outcome(&now, "certificate"), Outcome::Passed);
        assert_eq!(
            look(&name, &bytes, "2022-11-23T00:00:00Z").reason,
            "certificate_not_yet_valid"
        );
        assert_eq!(
            look(&name, &bytes, "2052-12-01T00:00:00Z").reason,
            "certificate_expired"
        );
        // The last bytes are the signature's.
        let mut der = pem_content(&bytes);
        *der.last_mut().unwrap() ^= 1;
        assert_eq!(look("cert.der", &der, NOW).reason, "certificate_chain");
    }
}

fn pem_content(pem: &[u8]) -> Vec<u8> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem).unwrap().to_vec()
}

#[test]
fn a_key_that_signs_with_sha1_is_told_from_a_forgery_and_refused_all_the_same() {
    let bytes = read("windows-gcp-shielded.json");
    let honest = look("dump.json", &bytes, NOW);
    assert_eq!(outcome(&honest, "quote_signature"), Outcome::Passed);
    assert_eq!(honest.reason, "sha1");
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    value["Quote"]["Quote"] = value["AK"]["CreateAttestation"].clone();
    let forged = look("dump.json", value.to_string().as_bytes(), NOW);
    assert_eq!(forged.reason, "quote_signature");
}

/// Trustee's evidence in its parts, as `tpm2_quote` and `tpm2_readpublic` write them.
struct Tools {
    key: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
    values: Vec<Vec<u8>>,
}

fn tools() -> Tools {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let value: serde_json::Value = serde_json::from_slice(&read("quote-rsa-trustee.json")).unwrap();
    let decode = |value: &serde_json::Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
    let quote = &value["tpm_quote"];
    let values = quote["pcrs"].as_array().unwrap().iter();
    let key = value["ak_public"].as_str().unwrap();
    Tools {
        key: format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n").into(),
        message: decode(&quote["message"]),
        signature: decode(&quote["signature"]),
        values: values
            .map(|value| hex::decode(value.as_str().unwrap()).unwrap())
            .collect(),
    }
}

impl Tools {
    /// The area of the same key, with these attributes.
    fn area(&self, attributes: u32) -> Vec<u8> {
        let der = base64_of(&self.key);
        let modulus = &der[der.len() - 5 - 256..der.len() - 5];
        let mut area = vec![0, 1, 0, 0x0b];
        area.extend(attributes.to_be_bytes());
        area.extend(hex::decode("0000001000140 00b0800000000000100".replace(' ', "")).unwrap());
        area.extend(modulus);
        area
    }

    /// As a C structure of a little-endian host.
    fn serialized(&self) -> Vec<u8> {
        let mut out = vec![1, 0, 0, 0, 0x0b, 0, 3, 0xff, 0xff, 0xff, 0, 0];
        out.resize(132, 0);
        out.extend(3_u32.to_le_bytes());
        for eight in self.values.chunks(8) {
            let mut list = 8_u32.to_le_bytes().to_vec();
            for value in eight {
                list.extend([32, 0]);
                list.extend(value);
                list.extend([0; 32]);
            }
            out.extend(list);
        }
        out
    }

    fn judge(&self, key: &[u8], values: &[u8], enrolled: &[u8]) -> Judgement {
        let file = |name, bytes| File { name, bytes };
        let files = [
            file("ak.pub", key),
            file("quote.msg", &self.message),
            file("quote.sig", &self.signature),
            file("quote.pcrs", values),
        ];
        let dossier = Dossier {
            files: &files,
            endorsements: &[file("node-1.pub", enrolled)],
        };
        let glance = dossier::inspect(Kind::Tpm, dossier, &Rules::default(), at(NOW));
        glance.judgement().clone()
    }
}

fn base64_of(pem: &[u8]) -> Vec<u8> {
    use rustls_pki_types::SubjectPublicKeyInfoDer;
    use rustls_pki_types::pem::PemObject;
    SubjectPublicKeyInfoDer::from_pem_slice(pem)
        .unwrap()
        .to_vec()
}

const GOOD_ATTRIBUTES: u32 = 0x0005_0072;

#[test]
fn files_of_tpm2_tools_are_judged_by_the_key_that_an_operator_enrolled() {
    let tools = tools();
    let serialized = tools.serialized();
    let in_order = tools.values.concat();
    let area = tools.area(GOOD_ATTRIBUTES);
    let sized = [&[1, 0x18][..], &area].concat();
    assert_eq!(area.len(), 0x118);
    for key in [&tools.key, &area, &sized] {
        for values in [&serialized, &in_order] {
            for enrolled in [&tools.key, &area] {
                let judgement = tools.judge(key, values, enrolled);
                assert_eq!(
                    (judgement.status, judgement.reason),
                    (Affirming, "verified"),
                    "{judgement:#?}"
                );
            }
            assert_eq!(
                tools.judge(key, values, b"no key").reason,
                "ak_not_certified"
            );
        }
    }
    // The bare signature, without its head.
    let bare = Tools {
        signature: tools.signature[6..].to_vec(),
        ..self::tools()
    };
    assert_eq!(bare.judge(&area, &serialized, &area).reason, "verified");
    assert_eq!(
        bare.judge(&tools.key, &serialized, &area).reason,
        "verified"
    );
}

#[test]
fn keys_that_could_sign_a_forged_quote_are_refused() {
    let tools = tools();
    let judge = |attributes| {
        let area = tools.area(attributes);
        tools.judge(&area, &tools.serialized(), &area).reason
    };
    assert_eq!(judge(GOOD_ATTRIBUTES), "verified");
    for (missing, bit) in [
        ("fixedTPM", 1),
        ("fixedParent", 4),
        ("sensitiveDataOrigin", 5),
        ("restricted", 16),
        ("sign", 18),
    ] {
        assert_eq!(
            judge(GOOD_ATTRIBUTES & !(1 << bit)),
            "ak_attributes",
            "{missing}"
        );
    }
    assert_eq!(judge(GOOD_ATTRIBUTES | 1 << 17), "ak_attributes");
    // A key of 1024 bits can't be named at all.
    let mut small = tools.area(GOOD_ATTRIBUTES);
    let at = small
        .windows(4)
        .position(|window| window == [0x08, 0, 0, 0])
        .unwrap();
    small[at..at + 2].copy_from_slice(&1024_u16.to_be_bytes());
    assert_eq!(
        tools.judge(&small, &tools.serialized(), &small).reason,
        "ak_malformed"
    );
}

#[test]
fn values_must_be_all_those_that_were_quoted_and_no_others() {
    let tools = tools();
    let area = tools.area(GOOD_ATTRIBUTES);
    let judge = |values: &[u8]| tools.judge(&area, values, &area).reason;
    let good = tools.serialized();
    // A selection that is narrowed beside its values, a value changed, cut, of a bank that counts for nothing.
    let mut narrowed = good.clone();
    narrowed[7] = 0xfe;
    assert_ne!(judge(&narrowed), "verified");
    let mut changed = good.clone();
    changed[132 + 4 + 4 + 2] ^= 1;
    assert_eq!(judge(&changed), "pcr_digest");
    assert_ne!(judge(&good[..good.len() - 1]), "verified");
    let mut sha1 = good.clone();
    sha1[4] = 4;
    assert_ne!(judge(&sha1), "verified");
    let order = tools.values.concat();
    assert_eq!(judge(&order[32..]), "pcr_values_malformed");
    assert_eq!(judge(&[&order[32..], &order[..32]].concat()), "pcr_digest");
    let twice = [order.as_slice(), &order[..32]].concat();
    assert_eq!(judge(&twice), "pcr_values_malformed");
}

#[test]
fn a_measurement_list_counts_as_far_as_pcr_10_covers_it() {
    let tools = tools();
    let area = tools.area(GOOD_ATTRIBUTES);
    let list = read("ima-ng-sha256.log");
    let (serialized, file) = (tools.serialized(), |name, bytes| File { name, bytes });
    let files = [
        file("ak.pub", area.as_slice()),
        file("quote.msg", &tools.message),
        file("quote.sig", &tools.signature),
        file("quote.pcrs", &serialized),
        file("ima.log", &list),
    ];
    let judge = |files: &[File<'_>], policy: Option<ima::policy::Policy>| {
        let dossier = Dossier {
            files,
            endorsements: &files[..1],
        };
        let mut rules = Rules::default();
        rules.tpm.ima = policy;
        dossier::inspect(Kind::Tpm, dossier, &rules, at(NOW))
            .judgement()
            .clone()
    };
    // That machine's kernel measured nothing, so its quote covers no entry of anybody's list.
    let found = judge(&files, None);
    assert_eq!(
        (found.reason, &found.claims["ima_entries"]),
        ("verified", &Value::Number(0))
    );
    let policy = || Some(ima::policy::Policy::default());
    assert_eq!(judge(&files, policy()).reason, "ima_empty");
    assert_eq!(judge(&files[..4], policy()).reason, "ima_missing");
    // A real machine's list, and another machine's quote.
    let cloud = read("gce-cos85-nonce9009.pb");
    let mixed = [file("attestation.pb", cloud.as_slice()), files[4]];
    assert_eq!(judge(&mixed, None).reason, "ima_replay");
    let entries = ima::parse_text(std::str::from_utf8(&list).unwrap()).unwrap();
    let shown = look("ima.log", &list, NOW);
    let replayed = hex::encode(ima::Checkpoint::start(Sha256).replay(&entries));
    let Value::Set(values) = &shown.claims["ima_replayed"] else {
        panic!("{shown:#?}");
    };
    assert_eq!(values[0], format!("sha256:10:{replayed}"));
}

#[test]
fn pieces_that_can_not_be_told_apart_are_refused() {
    let bytes = read("gce-cos85-nonce9009.pb");
    let tools = tools();
    let file = |name, bytes| File { name, bytes };
    let both = [file("a.pb", bytes.as_slice()), file("b.pb", &bytes)];
    assert_eq!(
        judge(Kind::Tpm, &both, at(NOW)).reason,
        "evidence_ambiguous"
    );
    let two = [
        file("a.msg", tools.message.as_slice()),
        file("b.msg", &tools.message),
    ];
    assert_eq!(judge(Kind::Tpm, &two, at(NOW)).reason, "evidence_ambiguous");
    let alone = [file("a.sig", tools.signature.as_slice())];
    assert_eq!(judge(Kind::Tpm, &alone, at(NOW)).reason, "evidence_missing");
    let json = [file("evidence.json", b"{\"a\": 1}".as_slice())];
    assert_eq!(
        judge(Kind::Tpm, &json, at(NOW)).reason,
        "evidence_malformed"
    );
}

#[test]
fn every_flip_of_a_quote_from_files_breaks_its_signature_or_its_digest() {
    let tools = tools();
    let (area, serialized) = (tools.area(GOOD_ATTRIBUTES), tools.serialized());
    for at in 0..tools.message.len() {
        let mut flipped = self::tools();
        flipped.message[at] ^= 1 << (at % 8);
        assert_ne!(
            flipped.judge(&area, &serialized, &area).status,
            Affirming,
            "message {at}"
        );
        flipped.message = tools.message[..at].to_vec();
        assert_ne!(
            flipped.judge(&area, &serialized, &area).status,
            Affirming,
            "message cut at {at}"
        );
    }
    for at in 0..tools.signature.len() {
        let mut flipped = self::tools();
        flipped.signature[at] ^= 1 << (at % 8);
        assert_ne!(
            flipped.judge(&area, &serialized, &area).status,
            Affirming,
            "signature {at}"
        );
        flipped.signature = tools.signature[..at].to_vec();
        assert_ne!(
            flipped.judge(&area, &serialized, &area).status,
            Affirming,
            "signature cut at {at}"
        );
    }
    for at in 0..area.len() {
        let mut flipped = area.clone();
        flipped[at] ^= 1 << (at % 8);
        // Enrolled is the honest key; what a key may do beside is its maker's.
        let judgement = tools.judge(&flipped, &serialized, &area);
        let harmless = [4, 5, 6, 7].contains(&at) && judgement.reason == "verified";
        assert!(
            harmless || judgement.status != Affirming,
            "area {at}: {judgement:#?}"
        );
    }
}
