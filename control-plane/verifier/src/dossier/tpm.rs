//! TPM evidence from files: a quote with its attestation key, and event logs.
//!
//! Files can't show that the key lives in a TPM: that takes a credential that only this TPM opens, during an attestation
//! ([`crate::evidence::tpm::CheckedOffer`]). So a quote is verified here against the key that came with it, and is
//! refused for that key, whatever it says.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Dossier, Expected, only, refuse_expectation};
use crate::evidence::tpm::attest::Quote;
use crate::evidence::tpm::event_log::EventLog;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::pcr::PcrValues;
use crate::evidence::x509;
use crate::judgement::{Ledger, same_bytes};

/// Evidence as Trustee writes it: base64, the values of SHA-256 PCRs from 0 on in hex.
#[derive(Deserialize)]
struct Written {
    ak_public: String,
    tpm_quote: WrittenQuote,
}

#[derive(Deserialize)]
struct WrittenQuote {
    message: String,
    signature: String,
    pcrs: Vec<String>,
}

struct Parts {
    /// `SubjectPublicKeyInfo`.
    key: Vec<u8>,
    message: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    signature: Vec<u8>,
    pcrs: Vec<Vec<u8>>,
}

pub(super) fn judge(dossier: Dossier<'_>, expected: Option<&Expected>, ledger: &mut Ledger) {
    let nonce = match expected {
        None => None,
        Some(Expected::Nonce(nonce)) => Some(nonce.as_slice()),
        Some(Expected::ReportData(_)) => {
            refuse_expectation("a TPM has a nonce and no report data", ledger);
            return;
        }
    };
    let mut written = Vec::new();
    for file in dossier.judged() {
        if x509::certificates(file.bytes).is_some() {
            continue;
        }
        if let Some(parts) = Written::parse(file.bytes) {
            written.push(parts);
        } else if file.bytes.starts_with(TPM_GENERATED) {
            ledger.succeed("quote_format", "quote_malformed", Quote::parse(file.bytes));
            ledger.missing(
                "quote_signature",
                "evidence_missing",
                "a quote without its signature",
            );
        } else {
            let log = EventLog::parse(file.bytes);
            if let Some(log) = ledger.succeed("event_log", "event_log_malformed", log) {
                let events = u64::try_from(log.events().len()).unwrap_or(u64::MAX);
                ledger.claim("events", events);
                let usable = HashAlgorithm::ALL
                    .into_iter()
                    .any(|hash| (0..8).all(|pcr| log.replay(hash, pcr).is_some()));
                let detail = "digests by SHA-256 or SHA-384";
                ledger.require("event_log_bank", "event_log_unsupported", usable, detail);
            }
        }
    }
    if let Some(parts) = only(written, ledger) {
        parts.judge(nonce, ledger);
    }
}

impl Written {
    fn parse(bytes: &[u8]) -> Option<Parts> {
        if bytes.len() > MAX_JSON_BYTES || !bytes.starts_with(b"{") {
            return None;
        }
        let written: Self = serde_json::from_slice(bytes).ok()?;
        let pcrs = written
            .tpm_quote
            .pcrs
            .iter()
            .map(|pcr| hex::decode(pcr).ok());
        Some(Parts {
            key: STANDARD.decode(&written.ak_public).ok()?,
            message: STANDARD.decode(&written.tpm_quote.message).ok()?,
            signature: STANDARD.decode(&written.tpm_quote.signature).ok()?,
            pcrs: pcrs.collect::<Option<_>>()?,
        })
    }
}

impl Parts {
    fn judge(&self, nonce: Option<&[u8]>, ledger: &mut Ledger) {
        let signed = self.is_signed();
        ledger.require(
            "quote_signature",
            "quote_signature",
            signed,
            "RSASSA with SHA-256",
        );
        let parsed = Quote::parse(&self.message);
        let Some(quote) = ledger.succeed("quote_format", "quote_malformed", parsed) else {
            return;
        };
        ledger.claim("nonce", hex::encode(&quote.extra_data));
        ledger.claim("firmware", quote.firmware);
        ledger.claim("reset_count", quote.clock.reset_count);
        ledger.claim("pcr_digest", hex::encode(&quote.pcr_digest));
        match nonce {
            Some(expected) => {
                let holds = same_bytes(&quote.extra_data, expected);
                ledger.require(
                    "binding",
                    "nonce_mismatch",
                    holds,
                    "`extraData` of the quote",
                );
            }
            None => ledger.skip("binding", "looked at without an expectation"),
        }
        self.check_pcrs(&quote, ledger);
        let detail = "nothing shows that the key lives in a TPM: enrolment does";
        ledger.require("ak_certified", "ak_not_certified", false, detail);
    }

    fn is_signed(&self) -> bool {
        let Ok(([], key)) = SubjectPublicKeyInfo::from_der(&self.key) else {
            return false;
        };
        let Some(signature) = self.signature.strip_prefix(RSASSA_SHA256) else {
            return false;
        };
        let Some((size, signature)) = signature.split_first_chunk::<2>() else {
            return false;
        };
        usize::from(u16::from_be_bytes(*size)) == signature.len()
            && UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.subject_public_key.data)
                .verify(&self.message, signature)
                .is_ok()
    }

    fn check_pcrs(&self, quote: &Quote, ledger: &mut Ledger) {
        let mut pcrs = PcrValues::default();
        let read = (0_u8..)
            .zip(&self.pcrs)
            .try_for_each(|(pcr, value)| pcrs.insert(HashAlgorithm::Sha256, pcr, value.clone()));
        ledger.succeed("pcr_values", "pcr_values_malformed", read);
        let digest = pcrs.digest(&quote.selection, HashAlgorithm::Sha256);
        let holds = digest.as_deref() == Some(quote.pcr_digest.as_slice());
        ledger.require(
            "pcr_digest",
            "pcr_digest",
            holds,
            quote.selection.to_string(),
        );
    }
}

const MAX_JSON_BYTES: usize = 1024 * 1024;
const TPM_GENERATED: &[u8] = b"\xffTCG";
/// `TPM_ALG_RSASSA`, `TPM_ALG_SHA256`.
const RSASSA_SHA256: &[u8] = &[0, 0x14, 0, 0x0b];
