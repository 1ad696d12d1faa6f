//! Intel TDX and SGX: a quote, signed by a quoting enclave that Intel certified for this platform.
//!
//! # What is checked
//! The quote's own signatures, from the attested body to the PCK certificate and the pinned root; then, with Intel's
//! endorsements, revocation, the quoting enclave's identity, the level of platform, TDX module and quoting enclave; then
//! the trust domain or enclave itself. Status and advisories are separate inputs to the rules: a status that is not
//! named is refused, whatever its advisories.
//!
//! # Why
//! Our own, although `dcap-qvl` is well kept: it brings a second X.509 and elliptic-curve stack (about 70 crates, five
//! minutes of one core to build) for what the crates we have do already, and returns success for every status but
//! `Revoked`. Its verdicts over the vectors are what ours were compared with.
//!
//! Source: Intel TDX DCAP Quoting Library API rev. 0.7; Intel SGX and TDX PCS API v4.

pub mod collateral;
pub(crate) mod parts;
pub mod pck;
pub mod quote;
mod tcb;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certificate::X509Certificate;

use self::collateral::{Collateral, TcbStatus};
use self::pck::Platform;
use self::quote::{Body, EnclaveReport, Quote, TdReport};
use crate::evidence::tpm::event_log::EventLog;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::x509::{self, Dates, PathError};
use crate::judgement::{Bound, Ledger};

/// What a trust domain or enclave must be.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Levels that are good enough; others are refused.
    pub accepted_statuses: Vec<TcbStatus>,
    /// Advisories that are known and accepted; `None` leaves advisories to the status.
    pub accepted_advisories: Option<Vec<String>>,
    /// Oldest set of levels by which to judge.
    pub min_tcb_evaluation_data_number: u32,
    /// Accept what the host may read.
    pub danger_accept_debug: bool,
    /// Accept trust domains that the host may hurt by unmapping pages (`SEPT_VE_DISABLE` clear).
    pub danger_accept_sept_ve: bool,
    /// Accept service trust domains, which may migrate this one.
    pub danger_accept_service_td: bool,
    /// Accepted digests of trust domains; empty accepts any.
    pub mrtd: Vec<[u8; 48]>,
    /// Accepted values of each runtime register; empty accepts any.
    pub rtmrs: [Vec<[u8; 48]>; 4],
    /// Accepted launch configurations; empty accepts any.
    pub mrconfigid: Vec<[u8; 48]>,
    /// Accepted digests of TDX modules; empty accepts any.
    pub mrseam: Vec<[u8; 48]>,
    /// Demand an event log that replays to the runtime registers.
    pub require_event_log: bool,
    /// Accepted enclaves; empty accepts any.
    pub mrenclave: Vec<[u8; 32]>,
    /// Accepted signers of enclaves; empty accepts any.
    pub mrsigner: Vec<[u8; 32]>,
    /// Oldest enclave.
    pub min_isv_svn: u16,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            accepted_statuses: vec![TcbStatus::UpToDate],
            accepted_advisories: None,
            min_tcb_evaluation_data_number: 0,
            danger_accept_debug: false,
            danger_accept_sept_ve: false,
            danger_accept_service_td: false,
            mrtd: Vec::new(),
            rtmrs: Default::default(),
            mrconfigid: Vec::new(),
            mrseam: Vec::new(),
            require_event_log: false,
            mrenclave: Vec::new(),
            mrsigner: Vec::new(),
            min_isv_svn: 0,
        }
    }
}

/// What attests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tee {
    Sgx,
    Tdx,
}

/// Judges a quote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a> {
    pub(crate) tee: Tee,
    pub(crate) quote: &'a [u8],
    /// The endorsements; chosen by the caller among several by [`fmspc`].
    pub(crate) collateral: Option<&'a Collateral>,
    pub(crate) event_log: Option<&'a [u8]>,
    pub(crate) rules: &'a Rules,
    pub(crate) root: &'a [u8],
    pub(crate) now: SystemTime,
}

/// The FMSPC that a quote's PCK certificate names, to choose endorsements by; unverified.
pub(crate) fn fmspc(quote: &[u8]) -> Option<[u8; 6]> {
    let quote = Quote::parse(quote).ok()?;
    let chain = x509::certificates(quote.pck_chain)?;
    let leaf = x509::parse(chain.first()?).ok()?;
    Some(Platform::read(&leaf)?.fmspc)
}

impl<'a> Case<'a> {
    /// Returns the report data, for those who bind more to it.
    pub(crate) fn judge(&self, expected: Bound<'_>, ledger: &mut Ledger) -> Option<[u8; 64]> {
        let parsed = Quote::parse(self.quote);
        let quote = ledger.succeed("quote_format", "quote_malformed", parsed)?;
        let fits = matches!(
            (&quote.body, self.tee),
            (Body::Sgx(_), Tee::Sgx) | (Body::Tdx(_), Tee::Tdx)
        );
        ledger.require("tee", "tee_mismatch", fits, "");
        ledger.claim("quote_version", u64::from(quote.version));
        let platform = self.check_chain(&quote, ledger);
        ledger.require(
            "attestation_key",
            "attestation_key",
            quote.is_key_bound(),
            "the quoting enclave's report data commits to the key",
        );
        let signed = quote.is_signed();
        ledger.require(
            "quote_signature",
            "quote_signature",
            signed,
            "header and body",
        );
        let report_data = match &quote.body {
            Body::Sgx(enclave) => {
                check_enclave_debug(enclave, self.rules, ledger);
                enclave.report_data()
            }
            Body::Tdx(td) => {
                check_td_debug(td, self.rules, ledger);
                td.report_data()
            }
        };
        match (platform, self.collateral) {
            (Some(platform), Some(collateral)) => {
                tcb::check(self, &quote, &platform, collateral, ledger);
            }
            (_, None) => ledger.missing(
                "collateral",
                "endorsement_missing",
                "TCB info, QE identity and revocation lists were not given, or not signed",
            ),
            (None, Some(_)) => {}
        }
        match &quote.body {
            Body::Sgx(enclave) => judge_enclave(enclave, self.rules, ledger),
            Body::Tdx(td) => judge_td(td, self, ledger),
        }
        ledger.claim("report_data", hex::encode(report_data));
        expected.check(&report_data, ledger);
        let padded = quote.trailing.iter().all(|byte| *byte == 0);
        let detail = format!("{} bytes follow the quote", quote.trailing.len());
        ledger.require("trailing", "trailing_data", padded, detail);
        Some(report_data)
    }

    /// From the root to the quoting enclave's report.
    fn check_chain(&self, quote: &Quote<'_>, ledger: &mut Ledger) -> Option<Platform> {
        let text = quote.pck_chain;
        let chain = x509::certificates(text).unwrap_or_default();
        // One text per chain, or a quote could be changed without a signature noticing.
        let canonical = pem(&chain);
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        let is_canonical = text == canonical.as_bytes();
        if !ledger.require("pck_chain_format", "pck_chain_malformed", is_canonical, "") {
            return None;
        }
        let path: Result<Vec<_>, _> = chain.iter().rev().map(|der| x509::parse(der)).collect();
        let path = ledger.succeed("pck_certificates", "pck_chain_malformed", path)?;
        check_path("pck_chain", &path, self.root, self.now, ledger);
        let leaf = path.last()?;
        let signed = quote.is_qe_report_signed(&leaf.public_key().subject_public_key.data);
        ledger.require(
            "qe_report_signature",
            "qe_report_signature",
            signed,
            "by the PCK",
        );
        let platform = Platform::read(leaf);
        let found = platform.is_some();
        ledger.require(
            "pck_extension",
            "pck_extension",
            found,
            leaf.subject().to_string(),
        );
        let platform = platform?;
        ledger.claim("fmspc", hex::encode(platform.fmspc));
        ledger.claim("ppid", hex::encode(platform.ppid));
        if let Some(id) = platform.instance_id {
            ledger.claim("platform_instance_id", hex::encode(id));
        }
        Some(platform)
    }
}

/// A path of Intel's, root first.
fn check_path(
    name: &'static str,
    path: &[X509Certificate<'_>],
    root: &[u8],
    now: SystemTime,
    ledger: &mut Ledger,
) -> bool {
    let result = x509::verify_path(path, root, now);
    let reason = match result {
        Ok(()) => name,
        Err(PathError::Empty | PathError::Root(_)) => "root_not_pinned",
        Err(PathError::Step(_) | PathError::Depth(_) | PathError::Critical(..)) => {
            "chain_signature"
        }
        Err(PathError::NotYet(..)) => "certificate_not_yet_valid",
        Err(PathError::Expired(..)) => "certificate_expired",
    };
    ledger.succeed(name, reason, result).is_some()
}

/// The text that Intel writes: 64 characters a line, one certificate after the other.
fn pem(chain: &[Vec<u8>]) -> String {
    let mut out = String::new();
    for der in chain {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(der);
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

/// Whether Intel's signing key, at the end of `path`, signed `text`.
fn is_text_signed(path: &[X509Certificate<'_>], text: &str, signature: &str) -> bool {
    let Some(signer) = path.last() else {
        return false;
    };
    hex::decode(signature).is_ok_and(|signature| {
        UnparsedPublicKey::new(
            &ECDSA_P256_SHA256_FIXED,
            &signer.public_key().subject_public_key.data,
        )
        .verify(text.as_bytes(), &signature)
        .is_ok()
    })
}

fn check_enclave_debug(enclave: &EnclaveReport<'_>, rules: &Rules, ledger: &mut Ledger) {
    ledger.claim("debug", enclave.is_debug());
    let holds = rules.danger_accept_debug || !enclave.is_debug();
    ledger.require(
        "debug",
        "debug_enabled",
        holds,
        "attribute DEBUG of the enclave",
    );
}

fn judge_enclave(enclave: &EnclaveReport<'_>, rules: &Rules, ledger: &mut Ledger) {
    ledger.claim("mrenclave", hex::encode(enclave.mrenclave()));
    ledger.claim("mrsigner", hex::encode(enclave.mrsigner()));
    ledger.claim("isv_prod_id", u64::from(enclave.product_id()));
    ledger.claim("isv_svn", u64::from(enclave.security_version()));
    ledger.claim("attributes", hex::encode(enclave.attributes()));
    among("mrenclave", &rules.mrenclave, &enclave.mrenclave(), ledger);
    among("mrsigner", &rules.mrsigner, &enclave.mrsigner(), ledger);
    let holds = enclave.security_version() >= rules.min_isv_svn;
    ledger.require(
        "isv_svn",
        "isv_svn",
        holds,
        enclave.security_version().to_string(),
    );
}

/// The lowest byte of the attributes marks trust domains under debug or another test.
fn check_td_debug(td: &TdReport<'_>, rules: &Rules, ledger: &mut Ledger) {
    let debug = td.attributes() & 0xff != 0;
    ledger.claim("debug", debug);
    let detail = format!("attributes {:#018x}", td.attributes());
    let holds = rules.danger_accept_debug || !debug;
    ledger.require("debug", "debug_enabled", holds, detail);
}

fn judge_td(td: &TdReport<'_>, case: &Case<'_>, ledger: &mut Ledger) {
    let rules = case.rules;
    ledger.claim("mrtd", hex::encode(td.mrtd()));
    ledger.claim("mrseam", hex::encode(td.mrseam()));
    ledger.claim("mrconfigid", hex::encode(td.mrconfigid()));
    ledger.claim("mrowner", hex::encode(td.mrowner()));
    ledger.claim("xfam", format!("{:#018x}", td.xfam()));
    ledger.claim("td_attributes", format!("{:#018x}", td.attributes()));
    ledger.claim("tee_tcb_svn", hex::encode(td.tee_tcb_svn()));
    for (name, value) in RTMRS.into_iter().zip(td.rtmrs()) {
        ledger.claim(name, hex::encode(value));
    }
    let ve_disabled = td.attributes() & SEPT_VE_DISABLE != 0;
    let holds = rules.danger_accept_sept_ve || ve_disabled;
    ledger.require(
        "sept_ve_disable",
        "sept_ve_disable",
        holds,
        "attribute bit 28",
    );
    let alone = td.mrservicetd() == [0; 48];
    let holds = rules.danger_accept_service_td || alone;
    ledger.require(
        "service_td",
        "service_td",
        holds,
        hex::encode(td.mrservicetd()),
    );
    among("mrtd", &rules.mrtd, &td.mrtd(), ledger);
    among("mrseam", &rules.mrseam, &td.mrseam(), ledger);
    among("mrconfigid", &rules.mrconfigid, &td.mrconfigid(), ledger);
    for ((name, accepted), found) in RTMRS.into_iter().zip(&rules.rtmrs).zip(td.rtmrs()) {
        among(name, accepted, &found, ledger);
    }
    check_event_log(td, case, ledger);
}

/// A CCEL names measurement registers from 1 for RTMR0 on; the table's area is padded with 0xff.
fn check_event_log(td: &TdReport<'_>, case: &Case<'_>, ledger: &mut Ledger) {
    let Some(raw) = case.event_log else {
        if case.rules.require_event_log {
            ledger.missing("event_log", "event_log_missing", "no CCEL was given");
        } else {
            ledger.skip("event_log", "no CCEL was given");
        }
        return;
    };
    let end = raw
        .iter()
        .rposition(|byte| *byte != 0xff)
        .map_or(0, |last| last + 1);
    let parsed = EventLog::parse(raw.get(..end).unwrap_or_default());
    let Some(log) = ledger.succeed("event_log", "event_log_malformed", parsed) else {
        return;
    };
    let mut wrong = Vec::new();
    for ((register, name), value) in (1..).zip(RTMRS).zip(td.rtmrs()).take(FIRMWARE_RTMRS) {
        if log.replay(HashAlgorithm::Sha384, register).as_deref() != Some(value.as_slice()) {
            wrong.push(name);
        }
    }
    let detail = format!("{} events; not equal: {wrong:?}", log.events().len());
    ledger.require(
        "event_log_replay",
        "event_log_replay",
        wrong.is_empty(),
        detail,
    );
}

fn among<const N: usize>(
    name: &'static str,
    accepted: &[[u8; N]],
    found: &[u8; N],
    ledger: &mut Ledger,
) {
    if accepted.is_empty() {
        ledger.skip(name, "no reference value is named");
    } else {
        ledger.require(name, name, accepted.contains(found), hex::encode(found));
    }
}

/// Reasons of something that is valid for a time.
fn dated(dates: Dates, [name, not_yet, expired]: [&'static str; 3]) -> (&'static str, bool) {
    match dates {
        Dates::Valid => (name, true),
        Dates::NotYet => (not_yet, false),
        Dates::Expired => (expired, false),
    }
}

/// Intel SGX Root CA.
pub(crate) const INTEL_ROOT: &[u8] = include_bytes!("../../../roots/intel-sgx-root-ca.der");
const SEPT_VE_DISABLE: u64 = 1 << 28;
const RTMRS: [&str; 4] = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"];
/// RTMR3 belongs to the running system, which the firmware's log does not know.
const FIRMWARE_RTMRS: usize = 3;
