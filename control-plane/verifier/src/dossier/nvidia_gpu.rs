//! NVIDIA devices from files: a report with its chain, or a list of both as JSON, and manifests.

use std::borrow::Cow;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Dossier, Expected, only, refuse_expectation};
use crate::evidence::nvidia_gpu::rim::Rim;
use crate::evidence::nvidia_gpu::{self, Device, Roots, Rules};
use crate::evidence::x509;
use crate::judgement::Ledger;
use crate::vendor_roots::VendorRoots;

/// A device as NVIDIA's tools and services write it.
#[derive(Deserialize)]
struct Written {
    certificate: String,
    evidence: String,
}

pub(super) fn judge(
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    rules: &Rules,
    roots: &VendorRoots,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let roots = roots.nvidia();
    let nonce = match expected {
        None => None,
        Some(Expected::Nonce(nonce)) => Some(nonce.as_slice()),
        Some(Expected::ReportData(_)) => {
            refuse_expectation("NVIDIA's devices have a nonce and no report data", ledger);
            return;
        }
    };
    let mut chains = Vec::new();
    let mut reports = Vec::new();
    let mut rims: Vec<&[u8]> = Vec::new();
    let mut written = Vec::new();
    for file in dossier.judged() {
        if let Some(chain) = x509::certificates(file.bytes) {
            chains.push(chain);
        } else if Rim::is_likely(file.bytes) {
            rims.push(file.bytes);
        } else if let Some(devices) = read_written(file.bytes) {
            written.extend(devices);
        } else if !file.name.starts_with("ocsp-") {
            reports.push(Cow::Borrowed(file.bytes));
        }
    }
    let given = rims.len();
    let cached = dossier.endorsements.iter().map(|file| file.bytes);
    // Of a cache, what is no manifest says nothing about this device.
    rims.extend(cached.filter(|bytes| Rim::is_likely(bytes) && Rim::parse(bytes).is_ok()));
    if written.is_empty() && reports.is_empty() {
        judge_endorsements(
            &chains,
            rims.get(..given).unwrap_or_default(),
            roots,
            now,
            ledger,
        );
    }
    for (report, chain) in &written {
        let chain = chain.clone();
        Device { report, chain }.judge(&rims, nonce, rules, roots, now, ledger);
    }
    if !written.is_empty() && reports.is_empty() && chains.is_empty() {
        let count = u64::try_from(written.len()).unwrap_or(u64::MAX);
        ledger.claim("count", count);
        return;
    }
    if let Some(report) = only(reports, ledger) {
        let chain = match chains.len() {
            0 => {
                ledger.missing(
                    "chain",
                    "endorsement_missing",
                    "the device's chain was not given",
                );
                Vec::new()
            }
            _ => only(chains, ledger).unwrap_or_default(),
        };
        if !chain.is_empty() {
            let report = report.as_ref();
            Device { report, chain }.judge(&rims, nonce, rules, roots, now, ledger);
        }
    }
}

/// Chains and manifests that stand alone: what is wrong with them is said, but nothing is affirmed.
fn judge_endorsements(
    chains: &[Vec<Vec<u8>>],
    rims: &[&[u8]],
    roots: Roots<'_>,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    for chain in chains {
        let path: Vec<_> = chain
            .iter()
            .rev()
            .filter_map(|der| x509::parse(der).ok())
            .collect();
        nvidia_gpu::check_chain(&path, roots, now, ledger);
    }
    for document in rims {
        if let Some(rim) = ledger.succeed("rim_format", "rim_malformed", Rim::parse(document)) {
            rim.check_signature(roots.rim, now, ledger);
        }
    }
}

/// A report and its chain, leaf first.
pub(crate) type Pair = (Vec<u8>, Vec<Vec<u8>>);

pub(crate) fn read_written(bytes: &[u8]) -> Option<Vec<Pair>> {
    if bytes.len() > MAX_JSON_BYTES || !bytes.trim_ascii_start().starts_with(b"[") {
        return None;
    }
    let written: Vec<Written> = serde_json::from_slice(bytes).ok()?;
    let pairs: Option<Vec<_>> = written
        .iter()
        .map(|device| {
            let chain = STANDARD.decode(&device.certificate).ok()?;
            let report = STANDARD.decode(&device.evidence).ok()?;
            Some((report, x509::certificates(&chain)?))
        })
        .collect();
    pairs.filter(|pairs| !pairs.is_empty())
}

/// Sixteen devices with their chains take about 200 KiB.
const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;
