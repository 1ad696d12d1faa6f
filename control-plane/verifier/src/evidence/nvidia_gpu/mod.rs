//! NVIDIA GPUs and NVSwitches in confidential computing mode: a report of measurements, the device's certificates, and
//! manifests that say what should be measured.
//!
//! # What is checked
//! The report is bound to the verifier's nonce and signed by the device; the device's chain ends in NVIDIA's pinned
//! root; the firmware that holds the key is the one that was certified. Measurements are compared with the manifests of
//! exactly the driver and VBIOS that the report names, whose signatures end in NVIDIA's root of reference values. A
//! genuine signature says who measured, not that the measurements are good: without manifests nothing is affirmed.
//!
//! # What is not
//! Revocation of device and manifest certificates comes by OCSP only, whose answers live one day; they are not judged
//! yet, and each judgement says so. Whether confidential computing and developer tools are on is not in the report but
//! in what the driver says; the measurements of a released driver cover it.
//!
//! Source: NVIDIA attestation SDK; DMTF DSP0274 1.1.

pub(crate) mod endorsed;
pub mod report;
pub(crate) mod rim;
#[cfg(test)]
mod tests;
mod xml;

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use x509_parser::certificate::X509Certificate;

use self::report::Report;
use self::rim::Rim;
use crate::evidence::x509::{self, PathError};
use crate::judgement::{Ledger, same_bytes};

/// What a device must be.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Accepted versions of the driver; empty accepts any that a manifest speaks for.
    pub drivers: Vec<String>,
    /// Accepted versions of the VBIOS; empty accepts any that a manifest speaks for.
    pub vbios: Vec<String>,
    /// Demand that firmware states its identity, which drivers before 550 did not.
    pub require_firmware_id: bool,
}

/// A device's evidence.
#[derive(Clone, Debug)]
pub(crate) struct Device<'a> {
    pub(crate) report: &'a [u8],
    /// Leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// NVIDIA's roots, or those of a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roots<'a> {
    pub(crate) device: &'a [u8],
    pub(crate) rim: &'a [u8],
}

/// NVIDIA's roots.
pub(crate) const NVIDIA: Roots<'static> = Roots {
    device: include_bytes!("../../../roots/nvidia-device-root.der"),
    rim: include_bytes!("../../../roots/nvidia-rim-root.der"),
};

impl Device<'_> {
    /// Judges one device.
    pub(crate) fn judge(
        &self,
        rims: &[&[u8]],
        expected: Option<&[u8]>,
        rules: &Rules,
        roots: Roots<'_>,
        now: SystemTime,
        ledger: &mut Ledger,
    ) {
        let parsed = Report::parse(self.report);
        let report = ledger.succeed("report_format", "report_malformed", parsed);
        let path: Vec<_> = self
            .chain
            .iter()
            .rev()
            .filter_map(|der| x509::parse(der).ok())
            .collect();
        let is_whole = path.len() == self.chain.len();
        ledger.require("chain_format", "chain_malformed", is_whole, "");
        check_chain(&path, roots, now, ledger);
        let Some(report) = report else { return };
        claims_of(&report, ledger);
        if let Some(leaf) = path.last() {
            let key = &leaf.public_key().subject_public_key.data;
            let signed = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
                .verify(report.signed, report.signature)
                .is_ok();
            ledger.require(
                "report_signature",
                "report_signature",
                signed,
                leaf.subject().to_string(),
            );
            check_firmware(&report, leaf, rules, ledger);
        }
        match expected {
            Some(expected) => {
                let holds = same_bytes(&report.nonce, expected);
                ledger.require("binding", "nonce_mismatch", holds, "nonce of the request");
            }
            None => ledger.skip("binding", "looked at without an expectation"),
        }
        check_version("driver", report.driver_version(), &rules.drivers, ledger);
        check_version("vbios", report.vbios_version(), &rules.vbios, ledger);
        check_measurements(&report, rims, roots, now, ledger);
        ledger.skip("ocsp", "revocation of certificates is not judged");
        ledger.skip(
            "trailing",
            format!("{} bytes follow the report", report.trailing),
        );
    }
}

/// Verifies a chain of a device.
pub(crate) fn check_chain(
    path: &[X509Certificate<'_>],
    roots: Roots<'_>,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let detail = format!("{} certificates", path.len());
    // Root, model, provisioner, chip, firmware.
    if !ledger.require("chain_length", "chain_incomplete", path.len() >= 3, detail) {
        return;
    }
    let result = x509::verify_path(path, roots.device, now);
    let reason = match result {
        Ok(()) => "chain",
        Err(PathError::Root(_) | PathError::Empty) => "root_not_pinned",
        Err(PathError::Step(_)) => "chain_incomplete",
        Err(PathError::Depth(_) | PathError::Critical(..)) => "chain_signature",
        Err(PathError::NotYet(..)) => "certificate_not_yet_valid",
        Err(PathError::Expired(..)) => "certificate_expired",
    };
    ledger.succeed("chain", reason, result);
    // The end of the chain is a key of firmware that was measured; a chip's own key signs no reports.
    let is_leaf = path.last().is_some_and(|leaf| !leaf.is_ca());
    ledger.require(
        "chain_leaf",
        "chain_incomplete",
        is_leaf,
        "the last one is no authority",
    );
}

fn claims_of(report: &Report<'_>, ledger: &mut Ledger) {
    ledger.claim("nonce", hex::encode(report.nonce));
    ledger.claim(
        "measurements",
        u64::try_from(report.measurements.len()).unwrap_or(u64::MAX),
    );
    for (name, value) in [
        ("driver", report.driver_version()),
        ("vbios", report.vbios_version()),
        ("board", report.board()),
        ("firmware_id", report.firmware_id().map(hex::encode)),
    ] {
        if let Some(value) = value {
            ledger.claim(name, value);
        }
    }
    if let Some(on) = report.protected_pcie() {
        ledger.claim("protected_pcie", on);
    }
}

/// The certificate of the key names the firmware that holds it; the report must name the same.
fn check_firmware(
    report: &Report<'_>,
    leaf: &X509Certificate<'_>,
    rules: &Rules,
    ledger: &mut Ledger,
) {
    let certified = [TCB_INFO, TCB_INFO_BLACKWELL]
        .into_iter()
        .find_map(|oid| x509::extension(leaf, oid))
        .and_then(firmware_digest);
    match (report.firmware_id(), certified) {
        (Some(found), Some(certified)) => {
            let holds = found == certified;
            ledger.require(
                "firmware_id",
                "firmware_id_mismatch",
                holds,
                hex::encode(certified),
            );
        }
        (Some(_), None) => {
            ledger.require(
                "firmware_id",
                "firmware_id_mismatch",
                false,
                "not in the certificate",
            );
        }
        (None, _) if rules.require_firmware_id => {
            ledger.require(
                "firmware_id",
                "firmware_id_missing",
                false,
                "not in the report",
            );
        }
        (None, _) => ledger.skip("firmware_id", "the report names none"),
    }
}

/// The first digest of a `TcbInfo` of DICE, `SEQUENCE { OBJECT IDENTIFIER, OCTET STRING }` with SHA-384. Blackwell has a
/// second one, which is zero.
fn firmware_digest(tcb_info: &[u8]) -> Option<&[u8]> {
    tcb_info
        .windows(FWID_PREFIX.len() + 48)
        .find_map(|window| window.strip_prefix(FWID_PREFIX))
        .filter(|digest| digest.iter().any(|byte| *byte != 0))
}

fn check_version(
    name: &'static str,
    found: Option<String>,
    accepted: &[String],
    ledger: &mut Ledger,
) {
    if accepted.is_empty() {
        ledger.skip(name, "no version is named");
        return;
    }
    let holds = found.as_ref().is_some_and(|found| accepted.contains(found));
    ledger.require(name, name, holds, found.unwrap_or_default());
}

/// Finds the manifests of the versions that the report names, verifies them, and compares.
fn check_measurements(
    report: &Report<'_>,
    rims: &[&[u8]],
    roots: Roots<'_>,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let mut parsed = Vec::new();
    for document in rims {
        match Rim::parse(document) {
            Ok(rim) => parsed.push(rim),
            Err(error) => {
                let detail = crate::verdict::chain(&error);
                ledger.require("rim_format", "rim_malformed", false, detail);
            }
        }
    }
    let versions = [
        ("driver_rim", report.driver_version()),
        ("vbios_rim", report.vbios_version()),
    ];
    let mut values: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
    let mut is_complete = true;
    for (name, version) in versions {
        let Some(version) = version else { continue };
        let mut fitting = parsed
            .iter()
            .filter(|rim| rim.version.eq_ignore_ascii_case(&version));
        let (Some(rim), None) = (fitting.next(), fitting.next()) else {
            let detail = format!("no manifest, or more than one, of version {version}");
            ledger.missing(name, "rim_missing", detail);
            is_complete = false;
            continue;
        };
        ledger.require(
            name,
            name,
            true,
            format!("{} {version}, {} active", rim.product, rim.active),
        );
        rim.check_signature(roots.rim, now, ledger);
        for (index, hashes) in &rim.values {
            if values.insert(*index, hashes.clone()).is_some() {
                let detail = format!("index {index} is in both manifests");
                ledger.require("rim_overlap", "rim_overlap", false, detail);
            }
        }
    }
    if is_complete {
        compare(report, &values, ledger);
    }
}

fn compare(report: &Report<'_>, values: &BTreeMap<u8, Vec<Vec<u8>>>, ledger: &mut Ledger) {
    let differing: Vec<_> = values
        .iter()
        .filter(|(index, _)| **index != DECODER_MEASUREMENT || report.is_decoder_on())
        .filter(|(index, hashes)| {
            // Manifests count from 0, reports from 1.
            let found = index
                .checked_add(1)
                .and_then(|index| report.measurements.get(&index));
            !found.is_some_and(|found| hashes.iter().any(|hash| hash == found))
        })
        .map(|(index, _)| index.to_string())
        .collect();
    let holds = differing.is_empty() && !values.is_empty();
    let detail = format!(
        "{} compared; different: [{}]",
        values.len(),
        differing.join(", ")
    );
    ledger.require("measurements", "measurement_mismatch", holds, detail);
}

const TCB_INFO: &str = "2.23.133.5.4.1";
const TCB_INFO_BLACKWELL: &str = "2.23.133.5.4.1.1";
/// `OBJECT IDENTIFIER` SHA-384, then the head of an `OCTET STRING` of 48 bytes.
const FWID_PREFIX: &[u8] = &[
    0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x04, 0x30,
];
/// Measures the video decoder's firmware, which is not loaded where the decoder is off.
const DECODER_MEASUREMENT: u8 = 35;
