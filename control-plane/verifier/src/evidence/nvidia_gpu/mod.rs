//! NVIDIA GPUs and NVSwitches in confidential computing mode: a report of measurements, the device's certificates,
//! manifests that say what should be measured, and answers of OCSP.
//!
//! # What is checked
//! The report is bound to the verifier's nonce and signed by the device ([`report`]); the device's chain ends in NVIDIA's
//! pinned root, and the firmware that holds the key is the one that was certified (`chain`). Measurements are compared
//! with the manifests of exactly the driver and VBIOS that the report names (`measurements`), whose signatures end in
//! NVIDIA's root of reference values (`rim`, `signature`). A genuine signature says who measured, not that the
//! measurements are good: without manifests nothing is affirmed. Certificates are asked about by OCSP (`revocation`), and
//! several devices must fit together (`set`).
//!
//! # What is not
//! Whether developer tools are on is not in a report: the driver says so ([`DriverState`]), and is believed as much as the
//! guest that it runs in. A verdict of NVIDIA's own service (an NRAS token) is not evidence here: it would put a service
//! of another company, and its keys, into the trusted base, to say what is computed here from the same report.
//!
//! Source: NVIDIA attestation SDK; DMTF DSP0274 1.1; DICE Attestation Architecture 1.1 §6.

mod chain;
pub mod checks;
pub(crate) mod endorsed;
mod measurements;
pub mod report;
mod revocation;
pub(crate) mod rim;
pub(crate) mod set;
mod signature;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod xml;

use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use vouchsafe_attestation::claims::{HexVersion, Version};
use x509_parser::certificate::X509Certificate;

use self::chain::Identity;
use self::report::{Mode, Report};
use self::rim::Rim;
use self::set::Member;
use crate::evidence::x509;
use crate::judgement::{Ledger, same_bytes};
use crate::ocsp::Response;

/// What devices must be.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Accepted versions of the driver; empty accepts any that a manifest speaks for.
    pub drivers: Vec<String>,
    /// Accepted versions of the VBIOS; empty accepts any that a manifest speaks for.
    pub vbios: Vec<String>,
    /// Oldest accepted driver.
    pub min_driver: Option<Version>,
    /// Oldest accepted VBIOS.
    pub min_vbios: Option<HexVersion>,
    /// Versions of the driver that are refused, whatever else holds.
    pub revoked_drivers: Vec<String>,
    /// Versions of the VBIOS that are refused.
    pub revoked_vbios: Vec<String>,
    /// Demand that firmware states its identity, which drivers before 550 did not.
    pub require_firmware_id: bool,
    /// Demand that confidential computing is on, or (`false`) off.
    pub confidential_compute: Option<bool>,
    /// Demand that developer tools are off (`false`), or on. Where the driver does not say, it is refused.
    pub devtools: Option<bool>,
    /// Accepted modes; empty accepts any.
    pub modes: Vec<Mode>,
    /// How many GPUs there must be.
    pub gpus: Option<u32>,
    /// How many switches there must be.
    pub switches: Option<u32>,
    /// What OCSP must say.
    pub ocsp: OcspRules,
}

/// What OCSP must say.
#[derive(Clone, Copy, Debug, Default)]
pub struct OcspRules {
    /// Demand a fresh answer about every certificate.
    pub is_required: bool,
    /// Accept certificates that are on hold.
    pub allow_hold: bool,
}

/// A device's evidence.
#[derive(Clone, Debug, Default)]
pub struct Device<'a> {
    /// SPDM request and response.
    pub report: &'a [u8],
    /// In DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// What was said beside the report.
    pub stated: Stated,
}

/// What a container says of the report in it. It must not contradict the report; nothing else comes of it.
#[derive(Clone, Debug, Default)]
pub struct Stated {
    /// The nonce.
    pub nonce: Option<Vec<u8>>,
    /// As in `HOPPER`, `BLACKWELL`, `LS10`.
    pub architecture: Option<String>,
    /// What the driver in the guest says.
    pub driver: Option<DriverState>,
}

/// What the driver in the guest says of the GPU's mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DriverState {
    /// Confidential computing is on.
    pub confidential_compute: bool,
    /// Its mode for developers is on, which protects nothing.
    pub devtools: bool,
}

/// Manifests and OCSP responses. What was given must be good; what a cache holds is used where it helps.
#[derive(Clone, Debug, Default)]
pub struct Endorsements<'a> {
    /// Manifests that came with the evidence.
    pub given_rims: Vec<&'a [u8]>,
    /// Manifests of a cache.
    pub cached_rims: Vec<&'a [u8]>,
    /// OCSP responses, in DER, that came with the evidence.
    pub given_responses: Vec<Vec<u8>>,
    /// OCSP responses of a cache, in DER.
    pub cached_responses: Vec<Vec<u8>>,
}

impl Endorsements<'_> {
    /// Manifests that can be read, each once, and whether it was given.
    pub(crate) fn rims(&self, ledger: &mut Ledger) -> Vec<(Rim, bool)> {
        let mut found = Vec::new();
        for document in &self.given_rims {
            match Rim::parse(document) {
                Ok(rim) => found.push((rim, true)),
                Err(error) => {
                    let detail = crate::verdict::chain(&error);
                    ledger.require("rim_format", "rim_malformed", false, detail);
                }
            }
        }
        let cached = self
            .cached_rims
            .iter()
            .filter(|document| !self.given_rims.contains(document))
            .filter_map(|document| Rim::parse(document).ok());
        found.extend(cached.map(|rim| (rim, false)));
        found
    }

    /// Responses that can be read, and whether each was given.
    pub(crate) fn responses(&self) -> Vec<(Response<'_>, bool)> {
        let given = self.given_responses.iter().map(|bytes| (bytes, true));
        let cached = self.cached_responses.iter().map(|bytes| (bytes, false));
        given
            .chain(cached)
            .filter_map(|(bytes, is_given)| Some((Response::parse(bytes).ok()?, is_given)))
            .collect()
    }
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

/// By what devices are judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) endorsements: &'a Endorsements<'a>,
    /// The nonce of the request.
    pub(crate) expected: Option<&'a [u8]>,
    pub(crate) rules: &'a Rules,
    pub(crate) roots: Roots<'a>,
    pub(crate) now: SystemTime,
}

impl<'a> Device<'a> {
    /// Judges one device; what a set needs to know of it, if that can be said.
    pub(crate) fn judge(&self, terms: Terms<'_>, ledger: &mut Ledger) -> Option<Member<'a>> {
        let parsed = Report::parse(self.report);
        let report = ledger.succeed("report_format", "report_malformed", parsed);
        let path = parse_path(&self.chain, ledger);
        let identity = chain::check(&path, terms.roots.device, terms.now, ledger);
        let report = report?;
        check_nonce(
            &report,
            self.stated.nonce.as_deref(),
            terms.expected,
            ledger,
        );
        if let Some(leaf) = path.last() {
            check_signature(&report, leaf, ledger);
            let is_required = terms.rules.require_firmware_id;
            chain::check_firmware(&report, leaf, is_required, ledger);
        }
        let identity = identity?;
        state::check(&self.stated, &report, &identity, terms.rules, ledger);
        state::check_versions(&report, &identity, terms.rules, ledger);
        let Terms {
            endorsements,
            roots,
            now,
            ..
        } = terms;
        let rims = measurements::check(&report, &identity, endorsements, roots, now, ledger);
        // The device's own certificate is not NVIDIA's to revoke.
        let above = path.iter().take(path.len() - 1).map(|held| held.as_raw());
        let signers: Vec<_> = rims.iter().map(Rim::certificates).collect();
        let signers = signers
            .iter()
            .map(|chain| chain.iter().rev().map(Vec::as_slice).collect());
        let paths: Vec<Vec<&[u8]>> = std::iter::once(above.collect()).chain(signers).collect();
        let is_good = revocation::check(&paths, endorsements, terms.rules.ocsp, now, ledger);
        ledger.claim("revocation_checked", is_good);
        ledger.skip(
            "trailing",
            format!("{} bytes follow the report", report.trailing),
        );
        state::claims(&report, &identity, ledger);
        Some(Member { identity, report })
    }
}

/// Judges a set of devices, each by itself and all together.
pub(crate) fn judge(devices: &[Device<'_>], terms: Terms<'_>, ledger: &mut Ledger) {
    let mut members = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let mut own = Ledger::default();
        members.extend(device.judge(terms, &mut own));
        let label = (devices.len() > 1).then(|| format!("device {index}"));
        ledger.absorb(label.as_deref(), own);
    }
    // A device that could not be read has failed already.
    if members.len() == devices.len() {
        set::check(&members, terms.rules, ledger);
    }
}

/// Judges whether devices fit together whose evidence was judged one by one: number, identities, modes and links.
pub fn judge_set(devices: &[Device<'_>], rules: &Rules) -> crate::judgement::Judgement {
    let mut ledger = Ledger::default();
    let members: Vec<_> = devices
        .iter()
        .filter_map(|device| {
            let path: Vec<_> = device
                .chain
                .iter()
                .rev()
                .filter_map(|der| x509::parse(der).ok())
                .collect();
            let identity = Identity::of(&path)?;
            let report = Report::parse(device.report).ok()?;
            Some(Member { identity, report })
        })
        .collect();
    let detail = format!("{} of {} devices", members.len(), devices.len());
    let holds = members.len() == devices.len();
    ledger.require("set_format", "report_malformed", holds, detail);
    set::check(&members, rules, &mut ledger);
    ledger.conclude(crate::judgement::BindingState::NotChecked)
}

/// Certificates, root first; those that can be read.
pub(crate) fn parse_path<'c>(
    chain: &'c [Vec<u8>],
    ledger: &mut Ledger,
) -> Vec<X509Certificate<'c>> {
    let path: Vec<_> = chain
        .iter()
        .rev()
        .filter_map(|der| x509::parse(der).ok())
        .collect();
    let is_whole = path.len() == chain.len();
    ledger.require("chain_format", "chain_malformed", is_whole, "");
    path
}

/// Verifies a chain that stands alone.
pub(crate) fn check_chain(
    chain: &[Vec<u8>],
    roots: Roots<'_>,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let path = parse_path(chain, ledger);
    chain::check(&path, roots.device, now, ledger);
}

fn check_signature(report: &Report<'_>, leaf: &X509Certificate<'_>, ledger: &mut Ledger) {
    let signed = is_signed_by(report, leaf);
    let detail = leaf.subject().to_string();
    ledger.require("report_signature", "report_signature", signed, detail);
}

/// Whether the key of a certificate signed a report.
pub(crate) fn is_signed_by(report: &Report<'_>, leaf: &X509Certificate<'_>) -> bool {
    let key = &leaf.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
        .verify(report.signed, report.signature)
        .is_ok()
}

fn check_nonce(
    report: &Report<'_>,
    stated: Option<&[u8]>,
    expected: Option<&[u8]>,
    ledger: &mut Ledger,
) {
    match expected {
        Some(expected) => {
            let holds = same_bytes(&report.nonce, expected);
            ledger.require("binding", "nonce_mismatch", holds, "nonce of the request");
        }
        None => ledger.skip("binding", "looked at without an expectation"),
    }
    if let Some(stated) = stated {
        let holds = same_bytes(&report.nonce, stated);
        let detail = "what is stated beside the report";
        ledger.require("stated_nonce", "nonce_mismatch", holds, detail);
    }
}
