//! Intel TDX and SGX: a quote, signed by a quoting enclave that Intel certified for this platform.
//!
//! # What is checked
//! The quote's own signatures, from the attested body to the PCK certificate and the pinned root; then, with Intel's
//! endorsements, revocation, the quoting enclave's identity, the level of platform, TDX module and quoting enclave; then
//! the trust domain or enclave itself. [`checks`] lists all. Status and advisories are separate inputs to the rules: a status that is not
//! named is refused, whatever its advisories.
//!
//! # Why
//! Our own, although `dcap-qvl` is well kept: it brings a second X.509 and elliptic-curve stack (about 70 crates, five
//! minutes of one core to build) for what the crates we have do already, and returns success for every status but
//! `Revoked`. Its verdicts over the vectors are what ours were compared with.
//!
//! Source: Intel TDX DCAP Quoting Library API rev. 0.7; Intel SGX and TDX PCS API v4.

mod chain;
pub mod checks;
pub mod collateral;
mod enclave;
pub(crate) mod parts;
pub mod pck;
pub mod quote;
mod revocation;
mod tcb;
mod td;
#[cfg(test)]
pub(crate) mod tests;

use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;

use self::collateral::{Collateral, TcbStatus};
use self::pck::Platform;
use self::quote::{Body, Quote};
use crate::evidence::x509::{self, Dates};
use crate::judgement::{Bound, Ledger};

/// What a trust domain or enclave must be. The default demands what is good for everybody and names no reference value.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Levels that are good enough; others are refused.
    pub accepted_statuses: Vec<TcbStatus>,
    /// Advisories that are known and accepted; `None` leaves advisories to the status.
    pub accepted_advisories: Option<Vec<String>>,
    /// Oldest set of levels by which to judge.
    pub min_tcb_evaluation_data_number: u32,
    /// Oldest date of the level that the platform reaches.
    pub min_tcb_date: Option<SystemTime>,
    /// Accepted machines, by the name that Intel's provisioning gives (PPID); empty accepts any.
    pub ppids: Vec<[u8; 16]>,
    /// Accepted machines of several processors, by their registration (PIID); empty accepts any.
    pub platform_instance_ids: Vec<[u8; 16]>,
    /// Accept what the host may read.
    pub danger_accept_debug: bool,
    /// Accept trust domains whose host may profile or test them (the lowest byte of the attributes, but for debug).
    pub danger_accept_profiling: bool,
    /// Accept attributes of trust domains that are not known here.
    pub danger_accept_reserved: bool,
    /// Accept trust domains that may be migrated.
    pub danger_accept_migration: bool,
    /// Accept trust domains that the host may hurt by unmapping pages (`SEPT_VE_DISABLE` clear).
    pub danger_accept_sept_ve: bool,
    /// Accept any service trust domain, which may migrate this one.
    pub danger_accept_service_td: bool,
    /// Accepted service trust domains, by the digest of their binding.
    pub mrservicetd: Vec<[u8; 48]>,
    /// Demanded attributes of the trust domain; `None` demands no more.
    pub td_attributes: Option<Bits>,
    /// Demanded features of the processor; `None` demands none.
    pub xfam: Option<Bits>,
    /// Accepted digests of trust domains; empty accepts any.
    pub mrtd: Vec<[u8; 48]>,
    /// Accepted values of each runtime register; empty accepts any.
    pub rtmrs: [Vec<[u8; 48]>; 4],
    /// Accepted launch configurations; empty accepts any.
    pub mrconfigid: Vec<[u8; 48]>,
    /// Accepted owners; empty accepts any.
    pub mrowner: Vec<[u8; 48]>,
    /// Accepted configurations of owners; empty accepts any.
    pub mrownerconfig: Vec<[u8; 48]>,
    /// Accepted digests of TDX modules; empty accepts any.
    pub mrseam: Vec<[u8; 48]>,
    /// Demand an event log that replays to the runtime registers.
    pub require_event_log: bool,
    /// Accepted enclaves; empty accepts any.
    pub mrenclave: Vec<[u8; 32]>,
    /// Accepted signers of enclaves; empty accepts any.
    pub mrsigner: Vec<[u8; 32]>,
    /// Accepted products of the signer, each as two big-endian bytes; empty accepts any.
    pub isv_prod_ids: Vec<[u8; 2]>,
    /// Oldest enclave.
    pub min_isv_svn: u16,
    /// Demanded flags of the enclave (the lower half of its attributes); `None` demands no more.
    pub enclave_flags: Option<Bits>,
}

/// Bits that must have a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bits {
    /// Which bits.
    pub mask: u64,
    /// Their value; bits outside the mask must be zero here.
    pub value: u64,
}

impl Bits {
    /// Whether `found` has the value.
    pub fn are_in(self, found: u64) -> bool {
        found & self.mask == self.value
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            accepted_statuses: vec![TcbStatus::UpToDate],
            accepted_advisories: None,
            min_tcb_evaluation_data_number: 0,
            min_tcb_date: None,
            ppids: Vec::new(),
            platform_instance_ids: Vec::new(),
            danger_accept_debug: false,
            danger_accept_profiling: false,
            danger_accept_reserved: false,
            danger_accept_migration: false,
            danger_accept_sept_ve: false,
            danger_accept_service_td: false,
            mrservicetd: Vec::new(),
            td_attributes: None,
            xfam: None,
            mrtd: Vec::new(),
            rtmrs: Default::default(),
            mrconfigid: Vec::new(),
            mrowner: Vec::new(),
            mrownerconfig: Vec::new(),
            mrseam: Vec::new(),
            require_event_log: false,
            mrenclave: Vec::new(),
            mrsigner: Vec::new(),
            isv_prod_ids: Vec::new(),
            min_isv_svn: 0,
            enclave_flags: None,
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

/// A chain in the text that Intel writes.
pub(crate) fn pem(chain: &[Vec<u8>]) -> String {
    chain::pem(chain, "\n")
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
        let platform = chain::check(self, &quote, ledger);
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
                enclave::check_debug(enclave, self.rules, ledger);
                enclave.report_data()
            }
            Body::Tdx(td) => {
                td::check_debug(td, self.rules, ledger);
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
            Body::Sgx(enclave) => enclave::judge(enclave, self.rules, ledger),
            Body::Tdx(td) => td::judge(td, self, ledger),
        }
        ledger.claim("report_data", hex::encode(report_data));
        expected.check(&report_data, ledger);
        let padded = quote.trailing.iter().all(|byte| *byte == 0);
        let detail = format!("{} bytes follow the quote", quote.trailing.len());
        ledger.require("trailing", "trailing_data", padded, detail);
        Some(report_data)
    }
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
/// Common name of the certificate by which Intel signs TCB info and identities.
pub(crate) const TCB_SIGNER: &str = "Intel SGX TCB Signing";
