//! From Intel's root to the quoting enclave's report.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certificate::X509Certificate;

use std::time::SystemTime;

use super::Case;
use super::pck::Platform;
use super::quote::Quote;
use crate::evidence::x509::{self, PathError};
use crate::judgement::{Ledger, among};

/// Checks the chain that the quote carries, and what the platform is certified to be.
pub(super) fn check(case: &Case<'_>, quote: &Quote<'_>, ledger: &mut Ledger) -> Option<Platform> {
    let chain = x509::certificates(quote.pck_chain).unwrap_or_default();
    let is_canonical = is_canonical(quote.pck_chain, &chain);
    if !ledger.require("pck_chain_format", "pck_chain_malformed", is_canonical, "") {
        return None;
    }
    let path: Result<Vec<_>, _> = chain.iter().rev().map(|der| x509::parse(der)).collect();
    let path = ledger.succeed("pck_certificates", "pck_chain_malformed", path)?;
    check_path("pck_chain", &path, case.root, case.now, ledger);
    let leaf = path.last()?;
    let names: Vec<_> = { path.iter().skip(1) }
        .map(|certificate| x509::common_name(certificate.subject()).unwrap_or_default())
        .collect();
    // Intel's other leaves are below the same root.
    let is_pck = matches!(names.as_slice(), [PLATFORM_CA | PROCESSOR_CA, PCK]);
    ledger.require("pck_role", "pck_role", is_pck, names.join(" → "));
    let signed = quote.is_qe_report_signed(&leaf.public_key().subject_public_key.data);
    ledger.require(
        "qe_report_signature",
        "qe_report_signature",
        signed,
        "by the PCK",
    );
    let platform = Platform::read(leaf);
    let subject = leaf.subject().to_string();
    ledger.require(
        "pck_extension",
        "pck_extension",
        platform.is_some(),
        subject,
    );
    let platform = platform?;
    claims_of(&platform, ledger);
    among("ppid", &case.rules.ppids, &platform.ppid, ledger);
    let instance = platform.instance_id.unwrap_or_default();
    let accepted = &case.rules.platform_instance_ids;
    among("platform_instance_id", accepted, &instance, ledger);
    Some(platform)
}

fn claims_of(platform: &Platform, ledger: &mut Ledger) {
    ledger.claim("fmspc", hex::encode(platform.fmspc));
    ledger.claim("ppid", hex::encode(platform.ppid));
    if let Some(id) = platform.instance_id {
        ledger.claim("platform_instance_id", hex::encode(id));
    }
    for (name, value) in [
        ("dynamic_platform", platform.is_dynamic),
        ("cached_keys", platform.has_cached_keys),
        ("smt", platform.has_smt),
    ] {
        if let Some(value) = value {
            ledger.claim(name, value);
        }
    }
}

/// Whether the text is one that platforms write for these certificates; or a quote could be changed without a signature
/// noticing. They differ in the line's end, in whether the last line has one, and in zeros after it.
fn is_canonical(text: &[u8], chain: &[Vec<u8>]) -> bool {
    let zeros = text.iter().rev().take_while(|byte| **byte == 0).count();
    let text = text.get(..text.len() - zeros.min(1)).unwrap_or_default();
    !chain.is_empty()
        && ["\n", "\r\n"].into_iter().any(|end| {
            let whole = pem(chain, end);
            let whole = whole.as_bytes();
            text == whole || whole.strip_suffix(end.as_bytes()) == Some(text)
        })
}

/// A path of Intel's, root first.
pub(super) fn check_path(
    name: &'static str,
    path: &[X509Certificate<'_>],
    root: &[u8],
    now: SystemTime,
    ledger: &mut Ledger,
) -> bool {
    let result = x509::verify_path(path, root, now);
    let reason = result.as_ref().map_or_else(PathError::reason, |()| name);
    ledger.succeed(name, reason, result).is_some()
}

/// The text that Intel writes: 64 characters a line, one certificate after the other.
pub(super) fn pem(chain: &[Vec<u8>], end: &str) -> String {
    let mut out = String::new();
    for der in chain {
        out.push_str("-----BEGIN CERTIFICATE-----");
        out.push_str(end);
        let text = STANDARD.encode(der);
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push_str(end);
        }
        out.push_str("-----END CERTIFICATE-----");
        out.push_str(end);
    }
    out
}

const PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
const PROCESSOR_CA: &str = "Intel SGX PCK Processor CA";
const PCK: &str = "Intel SGX PCK Certificate";
