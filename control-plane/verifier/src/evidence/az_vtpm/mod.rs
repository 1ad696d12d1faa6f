//! Azure confidential VMs: a vTPM whose key the hardware's report vouches for.
//!
//! A paravisor below the guest owns the hardware's report: its report data is the digest of *runtime data* ([`hcl`]),
//! which names the attestation key of the vTPM. That key signs the quote that carries the guest's nonce. So three links
//! hold the evidence together: report → runtime data → key → quote; the report data itself is never the guest's to
//! choose. [`checks`] lists what is checked beside the report's own checks.
//!
//! Source: Microsoft, *Guest attestation for confidential VMs: attestation report format*; TPM 2.0 Part 2 §10.12.

pub mod checks;
pub mod hcl;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;

use self::hcl::{Hardware, HclReport, RuntimeData};
use crate::evidence::dcap;
use crate::evidence::sev_snp::{self, chain};
use crate::evidence::tpm::attest::Quote;
use crate::evidence::tpm::event_log::EventLog;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::pcr::{PcrSet, PcrValues};
use crate::judgement::{Bound, Ledger, demanded, same_bytes};

/// What the machine above the hardware must be; what the hardware must be has rules of its own.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Accepted values of SHA-256 PCRs; one that is not named may have any.
    pub pcrs: BTreeMap<u8, Vec<[u8; 32]>>,
    /// Demand the values of the quoted PCRs.
    pub require_pcrs: bool,
    /// Demand an event log that replays to PCRs 0 to 7.
    pub require_event_log: bool,
    /// Demand that Azure started the machine with Secure Boot.
    pub require_secure_boot: bool,
    /// Demand that Azure started the machine without a console.
    pub forbid_console: bool,
}

/// A quote of the vTPM, with what explains it.
#[derive(Clone, Debug, Default)]
pub(crate) struct VtpmQuote {
    pub(crate) message: Vec<u8>,
    /// RSASSA-PKCS1-v1_5 with SHA-256, bare.
    pub(crate) signature: Vec<u8>,
    /// Values of SHA-256 PCRs from 0 on, where given.
    pub(crate) pcrs: Option<Vec<Vec<u8>>>,
    /// The boot event log, where given.
    pub(crate) event_log: Option<Vec<u8>>,
}

/// What vouches for the runtime data.
#[derive(Clone, Debug)]
pub(crate) enum Vouching<'a> {
    SevSnp(&'a chain::Endorsements<'a>, &'a sev_snp::Rules),
    /// The quote's own rules and endorsements; `None` without a quote.
    Tdx(Option<dcap::Case<'a>>),
}

/// Judges evidence whose hardware is that of `vouching`.
pub(crate) fn judge(
    hcl: &[u8],
    quote: &VtpmQuote,
    vouching: &Vouching<'_>,
    expected: Option<&[u8]>,
    rules: &Rules,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let parsed = HclReport::parse(hcl);
    let Some(hcl) = ledger.succeed("hcl_format", "hcl_malformed", parsed) else {
        return;
    };
    let report_data = hcl.report_data();
    let bound = Bound::RuntimeData(&report_data);
    match (vouching, hcl.hardware) {
        (Vouching::SevSnp(endorsements, rules), Hardware::SevSnp) => {
            sev_snp::judge(hcl.report, endorsements, bound, rules, now, ledger);
        }
        (Vouching::Tdx(Some(case)), Hardware::Tdx) => {
            case.judge(bound, ledger);
        }
        (Vouching::Tdx(None), Hardware::Tdx) => {
            let detail = "no quote of the trust domain";
            ledger.missing("td_quote", "evidence_missing", detail);
        }
        (Vouching::SevSnp(..), Hardware::Tdx) | (Vouching::Tdx(_), Hardware::SevSnp) => {
            let detail = format!("{:?}", hcl.hardware);
            ledger.require("hardware", "tee_mismatch", false, detail);
        }
    }
    let runtime = hcl.claims();
    let holds = runtime.is_some();
    let detail = "JSON with keys, once each";
    ledger.require("runtime_format", "runtime_malformed", holds, detail);
    if let Some(runtime) = runtime {
        check_configuration(&runtime, rules, ledger);
        check_quote(&runtime, quote, expected, rules, ledger);
    }
}

/// Modulus and exponent of the key that a report vouches for; the report is not verified here.
pub(crate) fn attestation_key(hcl: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let key = HclReport::parse(hcl).ok()?.claims()?.key()?;
    Some((key.n, key.e))
}

fn check_configuration(runtime: &RuntimeData, rules: &Rules, ledger: &mut Ledger) {
    let held = &runtime.configuration;
    for (name, value) in [("secure_boot", held.secure_boot), ("console", held.console)] {
        if let Some(value) = value {
            ledger.claim(name, value);
        }
    }
    for (name, value) in [
        ("vm_unique_id", &held.vm_unique_id),
        ("user_data", &runtime.user_data),
    ] {
        if let Some(value) = value {
            ledger.claim(name, value.to_ascii_lowercase());
        }
    }
    let holds = held.secure_boot == Some(true);
    demanded(
        "secure_boot",
        "secure_boot",
        rules.require_secure_boot,
        holds,
        ledger,
    );
    let holds = held.console == Some(false);
    demanded("console", "console", rules.forbid_console, holds, ledger);
}

fn check_quote(
    runtime: &RuntimeData,
    quote: &VtpmQuote,
    expected: Option<&[u8]>,
    rules: &Rules,
    ledger: &mut Ledger,
) {
    let key = runtime.key();
    let detail = "exactly one RSA key `HCLAkPub` in the runtime data";
    if !ledger.require("vtpm_key", "vtpm_key", key.is_some(), detail) {
        return;
    }
    let signed = key.is_some_and(|key| {
        key.verify(
            &RSA_PKCS1_2048_8192_SHA256,
            &quote.message,
            &quote.signature,
        )
        .is_ok()
    });
    let detail = "by the vTPM's key";
    ledger.require(
        "vtpm_quote_signature",
        "vtpm_quote_signature",
        signed,
        detail,
    );
    let parsed = Quote::parse(&quote.message);
    let parsed = ledger.succeed("vtpm_quote_format", "vtpm_quote_malformed", parsed);
    let Some(attested) = parsed else {
        return;
    };
    ledger.claim("nonce", hex::encode(&attested.extra_data));
    ledger.claim("reset_count", attested.clock.reset_count);
    ledger.claim("restart_count", attested.clock.restart_count);
    ledger.claim("pcr_selection", attested.selection.to_string());
    ledger.claim("pcr_digest", hex::encode(&attested.pcr_digest));
    match expected {
        Some(expected) => {
            let holds = same_bytes(&attested.extra_data, expected);
            let detail = "`extraData` of the quote";
            ledger.require("binding", "nonce_mismatch", holds, detail);
        }
        None => ledger.skip("binding", "looked at without an expectation"),
    }
    let is_needed = rules.require_pcrs || rules.require_event_log || !rules.pcrs.is_empty();
    match &quote.pcrs {
        None if is_needed => {
            ledger.missing("pcr_values", "pcr_values_missing", "no values were given");
        }
        None => ledger.skip("pcr_values", "no values were given"),
        Some(values) => {
            if let Some(pcrs) = check_values(&attested, values, ledger) {
                check_references(&pcrs, rules, ledger);
                check_event_log(&pcrs, quote.event_log.as_deref(), rules, ledger);
            }
        }
    }
}

/// The values are those that the quote's digest is of, all of them and no others.
fn check_values(quote: &Quote, values: &[Vec<u8>], ledger: &mut Ledger) -> Option<PcrValues> {
    let mut pcrs = PcrValues::default();
    let read = (0_u8..)
        .zip(values)
        .try_for_each(|(pcr, value)| pcrs.insert(HashAlgorithm::Sha256, pcr, value.clone()));
    ledger.succeed("pcr_values", "pcr_values_malformed", read)?;
    let same = pcrs.selection().same_as(&quote.selection);
    let detail = format!("quoted {}", quote.selection);
    if !ledger.require("pcr_selection", "pcr_selection", same, detail) {
        return None;
    }
    let digest = pcrs.digest(&quote.selection, HashAlgorithm::Sha256);
    let holds = digest.as_deref() == Some(quote.pcr_digest.as_slice());
    let shown = hex::encode(&quote.pcr_digest);
    ledger.require("pcr_digest", "pcr_digest", holds, shown);
    let shown = pcrs
        .iter()
        .map(|(_, pcr, value)| format!("{pcr}:{}", hex::encode(value)));
    ledger.claim("pcrs", shown.collect::<Vec<_>>());
    Some(pcrs)
}

fn check_references(pcrs: &PcrValues, rules: &Rules, ledger: &mut Ledger) {
    if rules.pcrs.is_empty() {
        ledger.skip("pcrs", "no reference value is named");
        return;
    }
    let wrong: Vec<_> = { rules.pcrs.iter() }
        .filter(|(pcr, accepted)| {
            let found = pcrs.get(HashAlgorithm::Sha256, **pcr);
            !accepted.iter().any(|value| Some(value.as_slice()) == found)
        })
        .map(|(pcr, _)| format!("PCR {pcr}"))
        .collect();
    ledger.require("pcrs", "pcrs", wrong.is_empty(), wrong.join(", "));
}

/// The firmware's own PCRs end with what its log says; systems extend others without it.
fn check_event_log(pcrs: &PcrValues, log: Option<&[u8]>, rules: &Rules, ledger: &mut Ledger) {
    let Some(raw) = log else {
        if rules.require_event_log {
            ledger.missing("event_log", "event_log_missing", "no event log was given");
        } else {
            ledger.skip("event_log", "no event log was given");
        }
        return;
    };
    let parsed = EventLog::parse(raw);
    let Some(log) = ledger.succeed("event_log", "event_log_malformed", parsed) else {
        return;
    };
    let wrong: Vec<_> = { PcrSet::FIRMWARE.iter() }
        .filter(|pcr| {
            let replayed = log.replay(HashAlgorithm::Sha256, *pcr);
            replayed.as_deref() != pcrs.get(HashAlgorithm::Sha256, *pcr)
        })
        .map(|pcr| format!("PCR {pcr}"))
        .collect();
    let detail = format!(
        "{} events; not equal: {}",
        log.events().len(),
        wrong.join(", ")
    );
    ledger.require(
        "event_log_replay",
        "event_log_replay",
        wrong.is_empty(),
        detail,
    );
}
