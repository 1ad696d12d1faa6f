//! NVIDIA devices from files: reports with chains, lists of both as JSON, manifests, and answers of OCSP.
//!
//! Tokens of NVIDIA's remote verifier are recognised and not judged: [`crate::evidence::nvidia_gpu`] says why.

mod container;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::container::Written;
use super::{Dossier, Expected, File, only, refuse_expectation};
use crate::evidence::nvidia_gpu::report::Report;
use crate::evidence::nvidia_gpu::rim::Rim;
use crate::evidence::nvidia_gpu::{self, Device, Endorsements, Roots, Rules, Terms};
use crate::evidence::x509;
use crate::judgement::Ledger;
use crate::ocsp::{OcspError, Response};
use crate::vendor_roots::VendorRoots;

pub(super) fn judge(
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    rules: &Rules,
    roots: &VendorRoots,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let roots = roots.nvidia();
    let expected = match expected {
        None => None,
        Some(Expected::Nonce(nonce)) => Some(nonce.as_slice()),
        Some(Expected::ReportData(_)) => {
            refuse_expectation("NVIDIA's devices have a nonce and no report data", ledger);
            return;
        }
    };
    let found = Found::sort(dossier, ledger);
    let endorsements = &found.endorsements;
    if found.written.is_empty() && found.reports.is_empty() {
        judge_endorsements(&found, roots, now, ledger);
    }
    let devices = found.devices(ledger);
    let terms = Terms {
        endorsements,
        expected,
        rules,
        roots,
        now,
    };
    if !devices.is_empty() {
        nvidia_gpu::judge(&devices, terms, ledger);
    }
    check_responses(&found, ledger);
}

/// Files by their roles.
#[derive(Default)]
struct Found<'a> {
    /// Devices of containers.
    written: Vec<Written>,
    reports: Vec<Cow<'a, [u8]>>,
    /// Chains that are files of their own.
    chains: Vec<Vec<Vec<u8>>>,
    endorsements: Endorsements<'a>,
    has_verdict: bool,
}

impl<'a> Found<'a> {
    fn sort(dossier: Dossier<'a>, ledger: &mut Ledger) -> Self {
        let mut found = Self::default();
        for file in dossier.judged() {
            found.add(file, ledger);
        }
        let cached = of_cache(dossier.endorsements);
        found.endorsements.cached_rims = cached.cached_rims;
        found.endorsements.cached_responses = cached.cached_responses;
        found
    }

    fn add(&mut self, file: File<'a>, ledger: &mut Ledger) {
        if let Some(chain) = x509::certificates(file.bytes) {
            self.chains.push(chain);
        } else if Rim::is_likely(file.bytes) {
            self.endorsements.given_rims.push(file.bytes);
        } else if let Some(devices) = container::read(file.bytes) {
            self.written.extend(devices);
        } else if let Some(response) = response(&file) {
            if let Err(error) = Response::parse(&response) {
                refuse_response(&file, &error, ledger);
            }
            self.endorsements.given_responses.push(response);
        } else if container::is_verdict(file.bytes) {
            self.has_verdict = true;
        } else {
            self.reports.push(report(file.bytes));
        }
    }

    /// Devices of containers, and that of a report with its chain. Several reports and chains belong together by
    /// signature; what then is left of both is a pair too, which will not verify.
    fn devices(&self, ledger: &mut Ledger) -> Vec<Device<'_>> {
        let mut devices: Vec<_> = self.written.iter().map(Written::device).collect();
        if self.has_verdict {
            let detail =
                "a verdict of NVIDIA's service is no evidence: collect the devices' reports";
            if self.reports.is_empty() && devices.is_empty() {
                ledger.missing("evidence", "verdict_of_other_verifier", detail);
                return devices;
            }
            ledger.skip("verdict", detail);
        }
        let (reports, chains) = (&self.reports, &self.chains);
        if reports.len() > 1 && reports.len() == chains.len() {
            devices.extend(paired(reports, chains));
        } else if devices.is_empty() || !reports.is_empty() || !chains.is_empty() {
            devices.extend(single(reports, chains, ledger));
        }
        if devices.len() > MAX_DEVICES {
            let detail = format!("{} devices", devices.len());
            ledger.require("evidence", "too_many_devices", false, detail);
            devices.clear();
        }
        devices
    }
}

/// Of a cache, what can't be read says nothing about these devices.
pub(crate) fn of_cache<'a>(files: &[File<'a>]) -> Endorsements<'a> {
    let mut found = Endorsements::default();
    for file in files {
        if Rim::is_likely(file.bytes) {
            found.cached_rims.push(file.bytes);
        } else if let Some(response) = response(file).filter(|der| Response::parse(der).is_ok()) {
            found.cached_responses.push(response);
        }
    }
    found
}

fn single<'a>(
    reports: &'a [Cow<'_, [u8]>],
    chains: &'a [Vec<Vec<u8>>],
    ledger: &mut Ledger,
) -> Option<Device<'a>> {
    let report = only(reports.iter().collect(), ledger)?;
    if chains.is_empty() {
        // What is no report is refused, and not asked to be completed.
        ledger.succeed("report_format", "report_malformed", Report::parse(report));
        let detail = "the device's chain was not given";
        ledger.missing("chain", "endorsement_missing", detail);
        return None;
    }
    let chain = only(chains.iter().collect(), ledger)?;
    Some(device(report, chain))
}

/// In the order of reports.
fn paired<'a>(reports: &'a [Cow<'_, [u8]>], chains: &'a [Vec<Vec<u8>>]) -> Vec<Device<'a>> {
    let mut left: Vec<_> = chains.iter().collect();
    let own: Vec<_> = reports
        .iter()
        .map(|report| {
            let at = left.iter().position(|chain| is_signed(report, chain))?;
            Some(left.remove(at))
        })
        .collect();
    let mut left = left.into_iter();
    let pairs = reports.iter().zip(own);
    pairs
        .filter_map(|(report, own)| Some(device(report, own.or_else(|| left.next())?)))
        .collect()
}

fn is_signed(report: &[u8], chain: &[Vec<u8>]) -> bool {
    let leaf = chain.first().and_then(|leaf| x509::parse(leaf).ok());
    match (Report::parse(report), leaf) {
        (Ok(report), Some(leaf)) => nvidia_gpu::is_signed_by(&report, &leaf),
        _ => false,
    }
}

fn device<'a>(report: &'a [u8], chain: &[Vec<u8>]) -> Device<'a> {
    Device {
        report,
        chain: chain.to_vec(),
        ..Device::default()
    }
}

/// A report, which upstream's samples write as text.
fn report(bytes: &[u8]) -> Cow<'_, [u8]> {
    let decoded = || {
        let text = std::str::from_utf8(bytes).ok()?.trim();
        let report = hex::decode(text)
            .ok()
            .or_else(|| STANDARD.decode(text).ok())?;
        Report::parse(&report).is_ok().then_some(report)
    };
    decoded().map_or(Cow::Borrowed(bytes), Cow::Owned)
}

/// A response of OCSP, in DER or as text: what says so by its name, or can be read as one.
pub(crate) fn response(file: &File<'_>) -> Option<Vec<u8>> {
    let is_named = file.name.to_ascii_lowercase().starts_with("ocsp");
    if file.bytes.len() > MAX_RESPONSE_BYTES {
        return is_named.then(Vec::new);
    }
    let text = || {
        let text = std::str::from_utf8(file.bytes).ok()?;
        let text: String = text.split_ascii_whitespace().collect();
        STANDARD.decode(text).ok()
    };
    let der = if file.bytes.starts_with(&[0x30]) {
        file.bytes.to_vec()
    } else {
        text().or_else(|| is_named.then(|| file.bytes.to_vec()))?
    };
    (is_named || Response::parse(&der).is_ok()).then_some(der)
}

fn refuse_response(file: &File<'_>, error: &OcspError, ledger: &mut Ledger) {
    let detail = format!("{}: {}", file.name, crate::verdict::chain(error));
    ledger.require("ocsp_format", error.reason(), false, detail);
}

/// Chains and manifests that stand alone: what is wrong with them is said, but nothing is affirmed.
fn judge_endorsements(found: &Found<'_>, roots: Roots<'_>, now: SystemTime, ledger: &mut Ledger) {
    for chain in &found.chains {
        nvidia_gpu::check_chain(chain, roots, now, ledger);
    }
    for document in &found.endorsements.given_rims {
        if let Some(rim) = ledger.succeed("rim_format", "rim_malformed", Rim::parse(document)) {
            rim.check_signature(roots.rim, now, ledger);
        }
    }
}

/// A response that was given must be about a certificate of a device or manifest that was given.
fn check_responses(found: &Found<'_>, ledger: &mut Ledger) {
    let endorsements = &found.endorsements;
    let responses: Vec<_> = endorsements
        .given_responses
        .iter()
        .filter_map(|bytes| Response::parse(bytes).ok())
        .collect();
    if responses.is_empty() {
        return;
    }
    let signers: Vec<_> = endorsements
        .given_rims
        .iter()
        .chain(&endorsements.cached_rims)
        .filter_map(|document| Rim::parse(document).ok())
        .map(|rim| rim.certificates())
        .collect();
    let written = found.written.iter().map(|written| &written.chain);
    let chains: Vec<_> = found.chains.iter().chain(&signers).chain(written).collect();
    for response in responses {
        let is_about = chains.iter().any(|chain| {
            let pairs = chain.iter().zip(chain.iter().skip(1));
            pairs
                .into_iter()
                .any(|(certificate, issuer)| response.is_about(certificate, issuer) == Ok(true))
        });
        if !is_about {
            let error = OcspError::OtherCertificate;
            ledger.require("ocsp", error.reason(), false, error.to_string());
        }
    }
}

/// A report and its chain, leaf first.
pub(crate) type Pair = (Vec<u8>, Vec<Vec<u8>>);

/// Reports and chains of a container, if a file is one.
pub(crate) fn read_written(bytes: &[u8]) -> Option<Vec<Pair>> {
    let written = container::read(bytes)?;
    Some(written.into_iter().map(Written::into_pair).collect())
}

/// A machine has up to 16 GPUs and 8 switches.
const MAX_DEVICES: usize = 32;
/// A response as text.
const MAX_RESPONSE_BYTES: usize = 128 * 1024;
