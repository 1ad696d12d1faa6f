//! TPM evidence from files: quotes with their key and values, certificates, boot event logs, measurement lists.
//!
//! # What files can't show
//! That a key lives in a TPM takes a credential which only this TPM opens, during an attestation
//! ([`crate::evidence::tpm::CheckedOffer`]). Here somebody else must have seen that: an authority that certified the
//! attestation key, or an operator who enrolled it (a public key among the endorsements). A quote by a key that nobody
//! vouches for is refused, whatever it says. A certificate by an authority that is not pinned makes a TPM of class
//! `software`, as in an attestation: the claims `class` and `ak_certified` say so, and a rule may demand more.
//!
//! SHA-1 never counts: quotes of SHA-1 banks are verified so that nobody can change them, and their values are not used.

mod certificate;
mod container;
mod legacy;
mod parts;

use std::time::SystemTime;

use vouchsafe_attestation::claims::Class;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Dossier, Expected, certificates, only, refuse_expectation};
use crate::evidence::tpm::attest::Quote;
use crate::evidence::tpm::event_log::{EventLog, SecureBoot};
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::ima::{self, Checkpoint};
use crate::evidence::tpm::pcr::{PcrSet, PcrValueError, PcrValues};
use crate::evidence::tpm::public::{Attributes, Curve, Key, PublicArea, SigningScheme};
use crate::evidence::tpm::rules::Rules;
use crate::evidence::tpm::signature::Signature;
use crate::evidence::tpm::wire::put_sized;
use crate::judgement::{Ledger, same_bytes};
use parts::{Ak, Parts, Quoted, SignedQuote, Values};

pub(super) fn judge(
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    rules: &Rules,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let nonce = match expected {
        None => None,
        Some(Expected::Nonce(nonce)) => Some(nonce.as_slice()),
        Some(Expected::ReportData(_)) => {
            refuse_expectation("a TPM has a nonce and no report data", ledger);
            return;
        }
    };
    let mut parts = Parts::gather(dossier, ledger);
    if parts.is_broken {
        return;
    }
    let case = Case {
        nonce,
        rules,
        now,
        enrolled: enrolled(dossier),
        cached: certificates(dossier.endorsements.iter().copied()),
    };
    if parts.quoted.is_empty() {
        case.judge_loose(&parts, ledger);
        ledger.missing("quote", "evidence_missing", "no file is a quote");
        return;
    }
    let Some(quoted) = only(std::mem::take(&mut parts.quoted), ledger) else {
        return;
    };
    case.judge(quoted, parts, ledger);
}

/// Public keys that an operator keeps of machines that enrolled.
fn enrolled(dossier: Dossier<'_>) -> Vec<Key> {
    let files = dossier.endorsements.iter();
    let keys = files.filter_map(|file| match parts::bare_key(file.bytes) {
        Some(bare) => key_of(&bare),
        None => PublicArea::parse(parts::unsized_area(file.bytes)?)
            .ok()
            .map(|area| area.key),
    });
    keys.collect()
}

/// What evidence is judged by.
struct Case<'a> {
    nonce: Option<&'a [u8]>,
    rules: &'a Rules,
    now: SystemTime,
    enrolled: Vec<Key>,
    cached: Vec<Vec<u8>>,
}

/// A key as far as it is known.
struct KnownAk {
    key: Key,
    /// Fixed in the key, where its public area was given.
    scheme: Option<SigningScheme>,
}

impl Case<'_> {
    /// Files without a quote: shown, and refused where they are broken.
    fn judge_loose(&self, parts: &Parts, ledger: &mut Ledger) {
        for log in &parts.event_logs {
            show_event_log(log, ledger);
        }
        for entries in &parts.ima {
            show_list(entries, ledger);
        }
        let pool: Vec<_> = parts.certificates.iter().chain(&self.cached).collect();
        for certificate in &parts.certificates {
            certificate::check_alone(certificate, &pool, self.rules, self.now, ledger);
        }
    }

    fn judge(&self, quoted: Quoted, parts: Parts, ledger: &mut Ledger) {
        if let Some(signed) = legacy::verify(&quoted) {
            let detail = "RSASSA with SHA-1, by the key's own scheme";
            ledger.require("quote_signature", "quote_signature", signed, detail);
            let detail = "SHA-1 carries no trust: make an attestation key that signs with SHA-256";
            ledger.require("signature_hash", "sha1", false, detail);
            return;
        }
        let Some(ak) = self.judge_key(quoted.ak.as_ref(), ledger) else {
            for quote in &quoted.quotes {
                let parsed = Quote::parse(&quote.message);
                if let Some(parsed) = ledger.succeed("quote_format", "quote_malformed", parsed) {
                    show_quote(&parsed, ledger);
                }
            }
            return;
        };
        let mut pcrs = PcrValues::default();
        let mut counted = 0;
        for quote in &quoted.quotes {
            if quote.is_sha1() {
                check_sha1_quote(quote, &ak, ledger);
                continue;
            }
            counted += 1;
            self.judge_quote(quote, &ak, &mut pcrs, ledger);
        }
        if counted == 0 {
            let detail = "no quote of a SHA-256 or SHA-384 bank";
            ledger.require("quote_bank", "sha1", false, detail);
        }
        if let Some(stated) = &quoted.stated_nonce {
            ledger.claim("stated_nonce", hex::encode(stated));
        }
        let class = self.judge_certification(&ak, &quoted, &parts, ledger);
        let mut logs = parts.event_logs;
        logs.extend(quoted.event_log);
        self.judge_event_log(logs, &pcrs, ledger);
        self.judge_list(parts.ima, &pcrs, ledger);
        self.judge_image(&pcrs, class, ledger);
        let shown = pcrs
            .iter()
            .map(|(bank, pcr, value)| format!("{bank}:{pcr}:{}", hex::encode(value)));
        ledger.claim("pcrs", shown.collect::<Vec<_>>());
    }

    fn judge_key(&self, ak: Option<&Ak>, ledger: &mut Ledger) -> Option<KnownAk> {
        match ak {
            None => {
                let detail = "neither the attestation key nor a certificate of it";
                ledger.missing("ak_format", "evidence_missing", detail);
                None
            }
            Some(Ak::Bare(bare)) => {
                let key = key_of(bare);
                let detail = "RSA of 2048 bits or more, or a NIST curve";
                ledger.require("ak_format", "ak_malformed", key.is_some(), detail);
                ledger.skip("ak_attributes", "a bare key does not say what it may do");
                key.map(|key| KnownAk { key, scheme: None })
            }
            Some(Ak::Area(area)) => {
                let area = PublicArea::parse(area);
                let area = ledger.succeed("ak_format", "ak_malformed", area)?;
                ledger.claim("ak_name", hex::encode(area.name()));
                let detail = format!("attributes 0x{:08x}", area.attributes.0);
                let holds =
                    area.attributes.has(AK_ATTRIBUTES) && !area.attributes.has(Attributes::DECRYPT);
                ledger.require("ak_attributes", "ak_attributes", holds, detail);
                let fits = matches!(
                    (&area.key, area.scheme),
                    (
                        Key::Rsa { .. },
                        Some(SigningScheme::RsaSsa(_) | SigningScheme::RsaPss(_))
                    ) | (Key::Ecc { .. }, Some(SigningScheme::Ecdsa(_)))
                );
                let detail = format!("{:?}", area.scheme);
                ledger.require("ak_scheme", "ak_scheme", fits, detail);
                Some(KnownAk {
                    key: area.key,
                    scheme: area.scheme,
                })
            }
        }
    }

    fn judge_quote(
        &self,
        quote: &SignedQuote,
        ak: &KnownAk,
        pcrs: &mut PcrValues,
        ledger: &mut Ledger,
    ) {
        let parsed = Quote::parse(&quote.message);
        let parsed = ledger.succeed("quote_format", "quote_malformed", parsed);
        let signature = quote.signed_by(ak);
        match &signature {
            None if quote.signature.is_none() => {
                let detail = "a quote without its signature";
                ledger.missing("quote_signature", "evidence_missing", detail);
            }
            None => {
                let detail = "by the attestation key, with SHA-256 or SHA-384";
                ledger.require("quote_signature", "quote_signature", false, detail);
            }
            Some(scheme) => {
                let detail = format!("{scheme:?}");
                ledger.require("quote_signature", "quote_signature", true, detail);
            }
        }
        let Some(parsed) = parsed else {
            return;
        };
        show_quote(&parsed, ledger);
        match self.nonce {
            Some(expected) => {
                let holds = same_bytes(&parsed.extra_data, expected);
                let detail = "`extraData` of the quote";
                ledger.require("binding", "nonce_mismatch", holds, detail);
            }
            None => ledger.skip("binding", "looked at without an expectation"),
        }
        let hash = signature.map_or(HashAlgorithm::Sha256, SigningScheme::hash);
        check_values(quote, &parsed, hash, pcrs, ledger);
    }

    /// The class that is vouched for.
    fn judge_certification(
        &self,
        ak: &KnownAk,
        quoted: &Quoted,
        parts: &Parts,
        ledger: &mut Ledger,
    ) -> Class {
        let given = quoted.certificates.iter().chain(&parts.certificates);
        let pool: Vec<_> = given.chain(&self.cached).collect();
        let class = if self.enrolled.contains(&ak.key) {
            ledger.require(
                "ak_certified",
                "ak_not_certified",
                true,
                "enrolled by the operator",
            );
            ledger.claim("ak_certified", false);
            Class::Software
        } else {
            certificate::check(&ak.key, &pool, self.rules, self.now, ledger)
        };
        ledger.claim("class", class.as_str());
        class
    }

    /// Replays the log to the quoted firmware PCRs; PCRs from 8 on are extended by the running system too.
    fn judge_event_log(&self, logs: Vec<Vec<u8>>, pcrs: &PcrValues, ledger: &mut Ledger) {
        if logs.is_empty() {
            if self.rules.require_event_log || self.rules.secure_boot.is_some() {
                ledger.missing("event_log", "event_log_missing", "no event log was given");
            } else {
                ledger.skip("event_log", "no event log was given");
            }
            return;
        }
        let Some(raw) = only(logs, ledger) else {
            return;
        };
        let log = EventLog::parse_padded(&raw);
        let Some(log) = ledger.succeed("event_log", "event_log_malformed", log) else {
            return;
        };
        let events = u64::try_from(log.events().len()).unwrap_or(u64::MAX);
        ledger.claim("events", events);
        let quoted = pcrs
            .iter()
            .filter(|(_, pcr, _)| PcrSet::FIRMWARE.contains(*pcr));
        let (mut wrong, mut replayed) = (Vec::new(), 0);
        for (bank, pcr, value) in quoted {
            replayed += 1;
            if log.replay(bank, pcr).as_deref() != Some(value) {
                wrong.push(format!("{bank}:{pcr}"));
            }
        }
        let detail = format!("{replayed} values replayed; not equal: {wrong:?}");
        let holds = replayed > 0 && wrong.is_empty();
        if !ledger.require("event_log_replay", "event_log_replay", holds, detail) {
            return;
        }
        let bank = HashAlgorithm::ALL
            .into_iter()
            .find(|bank| pcrs.get(*bank, SECURE_BOOT_PCR).is_some());
        let secure_boot = bank.map_or(SecureBoot::Unknown, |bank| log.secure_boot(bank));
        claim_secure_boot(secure_boot, ledger);
        if let Some(demanded) = self.rules.secure_boot {
            let wanted = if demanded {
                SecureBoot::Enabled
            } else {
                SecureBoot::Disabled
            };
            let detail = format!("found {secure_boot:?}");
            ledger.require("secure_boot", "secure_boot", secure_boot == wanted, detail);
        }
    }

    fn judge_list(&self, lists: Vec<Vec<ima::Entry>>, pcrs: &PcrValues, ledger: &mut Ledger) {
        if lists.is_empty() {
            if self.rules.ima.is_some() {
                ledger.missing("ima_format", "ima_missing", "no measurement list was given");
            }
            return;
        }
        let Some(entries) = only(lists, ledger) else {
            return;
        };
        let quoted = HashAlgorithm::ALL
            .into_iter()
            .find_map(|bank| Some((bank, pcrs.get(bank, ima::PCR)?)));
        let Some((bank, value)) = quoted else {
            let detail = "PCR 10 is not quoted, so nothing covers the list";
            ledger.require("ima_replay", "ima_replay", false, detail);
            return;
        };
        let advanced = Checkpoint::start(bank).advance(entries, value);
        let Some((checkpoint, entries)) = ledger.succeed("ima_replay", "ima_replay", advanced)
        else {
            return;
        };
        ledger.claim("ima_entries", checkpoint.count);
        show_list_content(&entries, ledger);
        match &self.rules.ima {
            Some(policy) => {
                // A kernel that measures begins with PCRs 0 to 9; without entries it does not measure.
                let measures = checkpoint.count > 0;
                ledger.require("ima_measures", "ima_empty", measures, "PCR 10 was extended");
                let checked = policy.check(0, &entries);
                ledger.succeed("ima_files", "ima_file", checked);
            }
            None => ledger.skip("ima_files", "no rule names files"),
        }
    }

    /// Whether all is quoted that must be, of which no image need name a value.
    fn judge_coverage(&self, pcrs: &PcrValues, ledger: &mut Ledger) {
        if self.rules.pcrs.is_empty() {
            ledger.skip("pcr_coverage", "no PCR is demanded");
            return;
        }
        let demanded = { self.rules.pcrs.banks() }
            .flat_map(|(bank, set)| set.iter().map(move |pcr| (bank, pcr)));
        let lacking: Vec<_> = demanded
            .filter(|(bank, pcr)| pcrs.get(*bank, *pcr).is_none())
            .map(|(bank, pcr)| format!("{bank}:{pcr}"))
            .collect();
        let detail = format!("not quoted: {lacking:?}");
        let holds = lacking.is_empty();
        ledger.require("pcr_coverage", "pcr_not_quoted", holds, detail);
    }

    fn judge_image(&self, pcrs: &PcrValues, class: Class, ledger: &mut Ledger) {
        let accepted: Vec<_> = { self.rules.classes.iter() }
            .map(|class| class.as_str())
            .collect();
        let detail = format!("found `{class}`, accepted {}", accepted.join(", "));
        let holds = self.rules.classes.contains(&class);
        ledger.require("class", "class", holds, detail);
        self.judge_coverage(pcrs, ledger);
        if self.rules.images.is_empty() {
            ledger.skip("image", "no reference value is named");
            return;
        }
        let fitting = self.rules.images.iter().find(|image| {
            let live = image.until.is_none_or(|until| self.now < until);
            let fits = |(bank, pcr, value)| pcrs.get(bank, pcr) == Some(value);
            live && image.pcrs.iter().next().is_some() && image.pcrs.iter().all(fits)
        });
        let detail = fitting.map_or("no image fits", |image| image.name.as_str());
        if ledger.require("image", "image", fitting.is_some(), detail) {
            ledger.claim("image", detail);
        }
    }
}

impl SignedQuote {
    /// Whether the values are all of a SHA-1 bank, as in the first quote of a machine that keeps one.
    fn is_sha1(&self) -> bool {
        match &self.values {
            Values::Named(named) => {
                !named.is_empty() && named.iter().all(|(bank, ..)| *bank == legacy::ALG_SHA1)
            }
            Values::None | Values::InOrder(_) => false,
        }
    }

    /// The scheme by which the key signed the message; `None` if it did not.
    fn signed_by(&self, ak: &KnownAk) -> Option<SigningScheme> {
        let raw = self.signature.as_deref()?;
        let signature = match (Signature::parse(raw), &ak.key, ak.scheme) {
            (Ok(signature), ..) => signature,
            // Tools write the bare signature too: then the key's scheme was used, or the usual one of its kind.
            (Err(_), _, Some(scheme)) => Signature::bare(scheme, raw),
            (Err(_), Key::Rsa { .. }, None) => {
                Signature::bare(SigningScheme::RsaSsa(HashAlgorithm::Sha256), raw)
            }
            (Err(_), Key::Ecc { .. }, None) => {
                Signature::bare(SigningScheme::Ecdsa(HashAlgorithm::Sha256), raw)
            }
        };
        let fixed = ak.scheme.is_none_or(|scheme| scheme == signature.scheme);
        (fixed && signature.verifies_by(&ak.key, &self.message)).then_some(signature.scheme)
    }
}

/// Nothing of it is used, and nobody may change it all the same.
fn check_sha1_quote(quote: &SignedQuote, ak: &KnownAk, ledger: &mut Ledger) {
    let signature = quote.signed_by(ak);
    let detail = "a quote of SHA-1 values, which count for nothing";
    ledger.require("sha1_quote", "quote_signature", signature.is_some(), detail);
    let Values::Named(named) = &quote.values else {
        return;
    };
    let mut values: Vec<_> = named.iter().map(|(_, pcr, value)| (*pcr, value)).collect();
    values.sort_unstable();
    let bitmap = PcrSet::new(values.iter().map(|(pcr, _)| *pcr)).map(PcrSet::bitmap);
    let values: Vec<&[u8]> = values.iter().map(|(_, value)| value.as_slice()).collect();
    let hash = signature.map_or(HashAlgorithm::Sha256, SigningScheme::hash);
    // One selection of three bytes, then the digest.
    let mut tail = vec![0, 0, 0, 1, 0, 4, 3];
    tail.extend(bitmap.unwrap_or_default());
    put_sized(&mut tail, &hash.digest(&values));
    let holds = bitmap.is_some() && quote.message.ends_with(&tail);
    ledger.require("sha1_quote", "pcr_digest", holds, "their digest");
}

fn show_quote(quote: &Quote, ledger: &mut Ledger) {
    ledger.claim("nonce", hex::encode(&quote.extra_data));
    ledger.claim("firmware", quote.firmware);
    ledger.claim("clock", quote.clock.clock);
    ledger.claim("clock_safe", quote.clock.safe);
    ledger.claim("reset_count", quote.clock.reset_count);
    ledger.claim("restart_count", quote.clock.restart_count);
    ledger.claim("pcr_selection", quote.selection.to_string());
    ledger.claim("pcr_digest", hex::encode(&quote.pcr_digest));
    ledger.claim("qualified_signer", hex::encode(&quote.qualified_signer));
}

/// A narrowed selection leaves out values that were given, a widened one quotes what nobody shows: both are refused.
fn check_values(
    quote: &SignedQuote,
    parsed: &Quote,
    hash: HashAlgorithm,
    all: &mut PcrValues,
    ledger: &mut Ledger,
) {
    let values = match &quote.values {
        Values::None => {
            ledger.skip("pcr_values", "no values were given");
            return;
        }
        Values::Named(named) => named_values(named),
        Values::InOrder(raw) => values_in_order(raw, parsed),
    };
    let Some(values) = ledger.succeed("pcr_values", "pcr_values_malformed", values) else {
        return;
    };
    let given = values.selection();
    let detail = format!("quoted {}, given {given}", parsed.selection);
    let same = given.same_as(&parsed.selection);
    let same = ledger.require("pcr_selection", "pcr_selection", same, detail);
    let digest = values.digest(&parsed.selection, hash);
    let holds = digest.as_deref() == Some(parsed.pcr_digest.as_slice());
    let detail = parsed.selection.to_string();
    if !ledger.require("pcr_digest", "pcr_digest", holds, detail) || !same {
        return;
    }
    for (bank, pcr, value) in values.iter() {
        let added = all.insert(bank, pcr, value.to_vec());
        if added.is_err() {
            ledger.succeed("pcr_values", "pcr_values_malformed", added);
        }
    }
}

fn named_values(named: &[(u16, u8, Vec<u8>)]) -> Result<PcrValues, ValuesError> {
    let mut values = PcrValues::default();
    for (bank, pcr, value) in named {
        let bank = HashAlgorithm::ALL
            .into_iter()
            .find(|hash| hash.id() == *bank)
            .ok_or(ValuesError::Bank(*bank))?;
        values.insert(bank, *pcr, value.clone())?;
    }
    Ok(values)
}

fn values_in_order(mut raw: &[u8], quote: &Quote) -> Result<PcrValues, ValuesError> {
    let mut values = PcrValues::default();
    for (bank, set) in quote.selection.banks() {
        for pcr in set.iter() {
            let (value, rest) = raw
                .split_at_checked(bank.digest_len())
                .ok_or(ValuesError::Length)?;
            values.insert(bank, pcr, value.to_vec())?;
            raw = rest;
        }
    }
    if raw.is_empty() {
        Ok(values)
    } else {
        Err(ValuesError::Length)
    }
}

/// Why values can't be those that were quoted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
enum ValuesError {
    /// Not of SHA-256 or SHA-384.
    #[error("values of bank 0x{0:04x} count for nothing")]
    Bank(u16),
    /// Not a PCR's value.
    #[error("not a value of a PCR")]
    Value(#[from] PcrValueError),
    /// More or fewer bytes than the quoted PCRs have.
    #[error("not as many bytes as the quoted PCRs have")]
    Length,
}

/// A log by itself: read, and replayed for people.
fn show_event_log(raw: &[u8], ledger: &mut Ledger) {
    let log = EventLog::parse_padded(raw);
    let Some(log) = ledger.succeed("event_log", "event_log_malformed", log) else {
        return;
    };
    let events = u64::try_from(log.events().len()).unwrap_or(u64::MAX);
    ledger.claim("events", events);
    ledger.claim("ccel", log.is_ccel());
    if log.is_ccel() {
        let values = (0..3)
            .filter_map(|index| Some(format!("rtmr{index}:{}", hex::encode(log.rtmr(index)?))));
        ledger.claim("replayed", values.collect::<Vec<_>>());
        claim_secure_boot(log.ccel_secure_boot(), ledger);
        return;
    }
    let banks: Vec<_> = HashAlgorithm::ALL
        .into_iter()
        .filter(|bank| (0..8).all(|pcr| log.replay(*bank, pcr).is_some()))
        .collect();
    let detail = "digests by SHA-256 or SHA-384";
    ledger.require(
        "event_log_bank",
        "event_log_unsupported",
        !banks.is_empty(),
        detail,
    );
    let values = banks.iter().flat_map(|bank| {
        let replayed = |pcr| {
            Some(format!(
                "{bank}:{pcr}:{}",
                hex::encode(log.replay(*bank, pcr)?)
            ))
        };
        (0..8).filter_map(replayed).collect::<Vec<_>>()
    });
    ledger.claim("replayed", values.collect::<Vec<_>>());
    if let Some(bank) = banks.first() {
        claim_secure_boot(log.secure_boot(*bank), ledger);
    }
}

fn claim_secure_boot(found: SecureBoot, ledger: &mut Ledger) {
    match found {
        SecureBoot::Enabled => ledger.claim("secure_boot", true),
        SecureBoot::Disabled => ledger.claim("secure_boot", false),
        // What nothing proves is not claimed.
        SecureBoot::Unknown => {}
    }
}

/// A list by itself.
fn show_list(entries: &[ima::Entry], ledger: &mut Ledger) {
    let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    ledger.claim("ima_entries", count);
    let values = HashAlgorithm::ALL.map(|bank| {
        format!(
            "{bank}:{}:{}",
            ima::PCR,
            hex::encode(Checkpoint::start(bank).replay(entries))
        )
    });
    ledger.claim("ima_replayed", values.to_vec());
    show_list_content(entries, ledger);
}

fn show_list_content(entries: &[ima::Entry], ledger: &mut Ledger) {
    let violations = entries.iter().filter(|entry| entry.is_violation).count();
    let violations = u64::try_from(violations).unwrap_or(u64::MAX);
    ledger.claim("ima_violations", violations);
}

/// A key of an accepted kind from its `SubjectPublicKeyInfo`.
fn key_of(bare: &[u8]) -> Option<Key> {
    let Ok(([], info)) = SubjectPublicKeyInfo::from_der(bare) else {
        return None;
    };
    key_of_info(&info)
}

fn key_of_info(info: &SubjectPublicKeyInfo<'_>) -> Option<Key> {
    match info.parsed().ok()? {
        PublicKey::RSA(key) => {
            let modulus = trim(key.modulus);
            let bits_fit = matches!(modulus.len(), 256 | 384 | 512)
                && modulus.first().is_some_and(|byte| byte & 0x80 != 0);
            (bits_fit && trim(key.exponent) == [1, 0, 1]).then(|| Key::Rsa {
                modulus: modulus.to_vec(),
                exponent: 65_537,
            })
        }
        PublicKey::EC(point) => {
            let named = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let curve = match named.to_id_string().as_str() {
                "1.2.840.10045.3.1.7" => Curve::P256,
                "1.3.132.0.34" => Curve::P384,
                _ => return None,
            };
            let (tag, coordinates) = point.data().split_first()?;
            let (x, y) = coordinates.split_at_checked(curve.coordinate_len())?;
            (*tag == 4 && x.len() == y.len()).then(|| Key::Ecc {
                curve,
                x: x.to_vec(),
                y: y.to_vec(),
            })
        }
        _ => None,
    }
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// A restricted signing key of a TPM: an unrestricted one would sign a forged statement.
const AK_ATTRIBUTES: Attributes = Attributes::FIXED_TPM
    .and(Attributes::FIXED_PARENT)
    .and(Attributes::SENSITIVE_DATA_ORIGIN)
    .and(Attributes::RESTRICTED)
    .and(Attributes::SIGN);
const SECURE_BOOT_PCR: u8 = 7;

#[cfg(test)]
mod tests;
