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
mod key;
mod legacy;
mod logs;
mod parts;
mod values;

use std::time::SystemTime;

use vouchsafe_attestation::claims::Class;

use super::{Dossier, Expected, certificates, only, refuse_expectation};
use crate::evidence::tpm::attest::Quote;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::pcr::{PcrSet, PcrValues};
use crate::evidence::tpm::public::{Attributes, Key, PublicArea, SigningScheme};
use crate::evidence::tpm::rules::Rules;
use crate::evidence::tpm::signature::Signature;
use crate::evidence::tpm::wire::put_sized;
use crate::judgement::{Ledger, same_bytes};
use key::key_of;
use logs::{show_event_log, show_list};
use parts::{Ak, Parts, Quoted, SignedQuote, Values};
use values::check_values;

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

/// A restricted signing key of a TPM: an unrestricted one would sign a forged statement.
const AK_ATTRIBUTES: Attributes = Attributes::FIXED_TPM
    .and(Attributes::FIXED_PARENT)
    .and(Attributes::SENSITIVE_DATA_ORIGIN)
    .and(Attributes::RESTRICTED)
    .and(Attributes::SIGN);

#[cfg(test)]
mod tests;
