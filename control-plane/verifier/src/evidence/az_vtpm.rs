//! Azure confidential VMs: a vTPM whose key the hardware's report vouches for.
//!
//! A paravisor below the guest owns the hardware's report: its report data is the digest of *runtime data*, which names
//! the attestation key of the vTPM. That key signs the quote that carries the guest's nonce. So three links hold the
//! evidence together: report → runtime data → key → quote; the report data itself is never the guest's to choose.
//!
//! Source: Microsoft, *Guest attestation for confidential VMs: attestation report format*; TPM 2.0 Part 2 §10.12.

use std::time::SystemTime;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::evidence::dcap;
use crate::evidence::sev_snp::{self, chain};
use crate::evidence::tpm::attest::Quote;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::pcr::PcrValues;
use crate::judgement::{Bound, Ledger, same_bytes};

/// What Azure's firmware writes: a report of the hardware, and the runtime data that it vouches for.
#[derive(Clone, Copy, Debug)]
pub struct HclReport<'a> {
    /// The hardware's report, as long as one of SEV-SNP.
    pub report: &'a [u8],
    /// What attests.
    pub hardware: Hardware,
    /// JSON, whose digest is the report data.
    pub runtime_data: &'a [u8],
}

/// What attests below a vTPM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hardware {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX: the report is for the local quoting enclave only, and a quote says the same remotely.
    Tdx,
}

/// Why bytes are not what Azure's firmware writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HclError {
    /// The bytes end inside a field.
    #[error("the report is cut short")]
    Truncated,
    /// A field has a value that is not known.
    #[error("`{0}` has a value that is not known")]
    Unknown(&'static str),
    /// Something other than zeros follows.
    #[error("something follows the runtime data")]
    Trailing,
}

impl<'a> HclReport<'a> {
    /// Reads a report.
    ///
    /// # Errors
    /// [`HclError`] unless the bytes are exactly one report over SHA-256 of its runtime data.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HclError> {
        if bytes.len() > MAX_BYTES {
            return Err(HclError::Trailing);
        }
        let (header, rest) = bytes.split_at_checked(32).ok_or(HclError::Truncated)?;
        let (magic, header) = header.split_at_checked(4).ok_or(HclError::Truncated)?;
        let [1 | 2, 0, 0, 0, _, _, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, ..] = header else {
            return Err(HclError::Unknown("header"));
        };
        if magic != b"HCLA" {
            return Err(HclError::Unknown("magic"));
        }
        let (report, rest) = rest
            .split_at_checked(sev_snp::report::Report::BYTES)
            .ok_or(HclError::Truncated)?;
        let (fields, rest) = rest.split_first_chunk::<20>().ok_or(HclError::Truncated)?;
        let field = |at: usize| -> u32 {
            let bytes = fields
                .get(at..at + 4)
                .and_then(|field| field.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let hardware = match field(8) {
            2 => Hardware::SevSnp,
            4 => Hardware::Tdx,
            _ => return Err(HclError::Unknown("report type")),
        };
        if field(4) != 1 || field(12) != SHA256 || field(0) != field(16).saturating_add(20) {
            return Err(HclError::Unknown("runtime data header"));
        }
        let length = usize::try_from(field(16)).map_err(|_| HclError::Truncated)?;
        let (runtime_data, padding) = rest.split_at_checked(length).ok_or(HclError::Truncated)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(HclError::Trailing);
        }
        Ok(Self {
            report,
            hardware,
            runtime_data,
        })
    }

    /// What the report data must be.
    fn report_data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        let (head, _) = data.split_at_mut(32);
        head.copy_from_slice(digest::digest(&digest::SHA256, self.runtime_data).as_ref());
        data
    }

    /// The vTPM's attestation key, if the runtime data names exactly one.
    fn key(&self) -> Option<RsaPublicKeyComponents<Vec<u8>>> {
        let data: RuntimeData = serde_json::from_slice(self.runtime_data).ok()?;
        let mut keys = data
            .keys
            .into_iter()
            .filter(|key| key.kid == "HCLAkPub" && key.kty == "RSA");
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return None;
        };
        Some(RsaPublicKeyComponents {
            n: URL_SAFE_NO_PAD.decode(key.n).ok()?,
            e: URL_SAFE_NO_PAD.decode(key.e).ok()?,
        })
    }
}

/// Modulus and exponent of the key that a report vouches for; the report is not verified here.
pub(crate) fn attestation_key(hcl: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let key = HclReport::parse(hcl).ok()?.key()?;
    Some((key.n, key.e))
}

#[derive(Deserialize)]
struct RuntimeData {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    kty: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

/// A quote of the vTPM with the values of SHA-256 PCRs from 0 on, where given.
#[derive(Clone, Debug, Default)]
pub(crate) struct VtpmQuote {
    pub(crate) message: Vec<u8>,
    /// RSASSA-PKCS1-v1_5 with SHA-256, bare.
    pub(crate) signature: Vec<u8>,
    pub(crate) pcrs: Option<Vec<Vec<u8>>>,
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
            ledger.missing(
                "td_quote",
                "evidence_missing",
                "no quote of the trust domain",
            );
        }
        (Vouching::SevSnp(..), Hardware::Tdx) | (Vouching::Tdx(_), Hardware::SevSnp) => {
            ledger.require(
                "hardware",
                "tee_mismatch",
                false,
                format!("{:?}", hcl.hardware),
            );
        }
    }
    check_quote(&hcl, quote, expected, ledger);
}

fn check_quote(
    hcl: &HclReport<'_>,
    quote: &VtpmQuote,
    expected: Option<&[u8]>,
    ledger: &mut Ledger,
) {
    let key = hcl.key();
    let detail = "exactly one RSA key `HCLAkPub` in the runtime data";
    ledger.require("attestation_key", "attestation_key", key.is_some(), detail);
    let parsed = Quote::parse(&quote.message);
    let signed = key.is_some_and(|key| {
        key.verify(
            &RSA_PKCS1_2048_8192_SHA256,
            &quote.message,
            &quote.signature,
        )
        .is_ok()
    });
    ledger.require(
        "quote_signature",
        "quote_signature",
        signed,
        "by the vTPM's key",
    );
    let Some(attested) = ledger.succeed("quote_format", "quote_malformed", parsed) else {
        return;
    };
    ledger.claim("nonce", hex::encode(&attested.extra_data));
    ledger.claim("reset_count", attested.clock.reset_count);
    ledger.claim("pcr_selection", attested.selection.to_string());
    ledger.claim("pcr_digest", hex::encode(&attested.pcr_digest));
    match expected {
        Some(expected) => {
            let holds = same_bytes(&attested.extra_data, expected);
            ledger.require(
                "binding",
                "nonce_mismatch",
                holds,
                "`extraData` of the quote",
            );
        }
        None => ledger.skip("binding", "looked at without an expectation"),
    }
    match &quote.pcrs {
        None => ledger.skip("pcr_values", "no values were given"),
        Some(values) => check_pcrs(&attested, values, ledger),
    }
}

fn check_pcrs(quote: &Quote, values: &[Vec<u8>], ledger: &mut Ledger) {
    let mut pcrs = PcrValues::default();
    let read = (0_u8..)
        .zip(values)
        .try_for_each(|(pcr, value)| pcrs.insert(HashAlgorithm::Sha256, pcr, value.clone()));
    if ledger
        .succeed("pcr_values", "pcr_values_malformed", read)
        .is_none()
    {
        return;
    }
    let same = pcrs.selection().same_as(&quote.selection);
    let detail = format!("quoted {}", quote.selection);
    ledger.require("pcr_selection", "pcr_selection", same, detail);
    let digest = pcrs.digest(&quote.selection, HashAlgorithm::Sha256);
    let holds = digest.as_deref() == Some(quote.pcr_digest.as_slice());
    ledger.require(
        "pcr_digest",
        "pcr_digest",
        holds,
        hex::encode(&quote.pcr_digest),
    );
    let shown = pcrs
        .iter()
        .map(|(_, pcr, value)| format!("{pcr}:{}", hex::encode(value)));
    ledger.claim("pcrs", shown.collect::<Vec<_>>());
}

/// The vTPM's space for the report has 2600 bytes.
const MAX_BYTES: usize = 16 * 1024;
const SHA256: u32 = 1;
