//! What a device measured, compared with what manifests of its very driver and VBIOS say.

use super::chain::Identity;
use super::report::Report;
use super::rim::{Rim, Values};
use super::{Endorsements, Roots};
use crate::judgement::Ledger;
use std::time::SystemTime;

/// Finds the manifests of the versions that the report names, verifies them, and compares; those that were used.
pub(crate) fn check(
    report: &Report<'_>,
    identity: &Identity,
    endorsements: &Endorsements<'_>,
    roots: Roots<'_>,
    now: SystemTime,
    ledger: &mut Ledger,
) -> Vec<Rim> {
    let rims = endorsements.rims(ledger);
    let is_switch = identity.architecture.is_switch();
    let mut parts = vec![Part {
        name: "vbios_rim",
        version: report.vbios_version(),
    }];
    if !is_switch {
        parts.insert(
            0,
            Part {
                name: "driver_rim",
                version: report.driver_version(),
            },
        );
    }
    let count = parts.len();
    let chosen: Vec<_> = parts
        .into_iter()
        .filter_map(|part| part.choose(&rims, report, identity, ledger))
        .collect();
    let mut values = Values::new();
    for rim in &chosen {
        rim.check_signature(roots.rim, now, ledger);
        for (index, hashes) in &rim.values {
            if values.insert(*index, hashes.clone()).is_some() {
                let detail = format!("index {index} is in both manifests");
                ledger.require("rim_overlap", "rim_overlap", false, detail);
            }
        }
    }
    if chosen.len() == count && compare(report, is_switch, &values, ledger) {
        // As NVIDIA's own verifiers conclude: what boots a device and opens it for debugging is measured.
        ledger.claim("secure_boot", true);
        ledger.claim("debug", false);
    }
    chosen.into_iter().cloned().collect()
}

/// What has a manifest of its own.
struct Part {
    name: &'static str,
    version: Option<String>,
}

impl Part {
    /// The manifest of this very version, product and edition. Boards share versions of VBIOS, so there may be several:
    /// then one that fits what was measured.
    fn choose<'a>(
        &self,
        rims: &'a [(Rim, bool)],
        report: &Report<'_>,
        identity: &Identity,
        ledger: &mut Ledger,
    ) -> Option<&'a Rim> {
        let name = self.name;
        let Some(version) = &self.version else {
            ledger.require(name, "version_missing", false, "not in the report");
            return None;
        };
        let is_switch = identity.architecture.is_switch();
        let edition = if is_switch { "SWITCH" } else { "GPU" };
        let is_of_device = |rim: &Rim| {
            rim.product.replace('_', "") == identity.chip
                && rim.edition.eq_ignore_ascii_case(edition)
        };
        let fitting: Vec<_> = rims
            .iter()
            .map(|(rim, _)| rim)
            .filter(|rim| rim.version.eq_ignore_ascii_case(version) && is_of_device(rim))
            .collect();
        let chosen = fitting
            .iter()
            .find(|rim| differing(report, is_switch, &rim.values).is_empty())
            .or(fitting.first());
        if let Some(rim) = chosen {
            let detail = format!(
                "{} {version}: {} of {} measurements are active",
                rim.product,
                rim.values.len(),
                rim.named
            );
            ledger.require(name, name, true, detail);
            return Some(rim);
        }
        let is_same_part = |rim: &Rim| is_of_vbios(&rim.version) == is_of_vbios(version);
        let other = rims
            .iter()
            .find(|(rim, is_given)| *is_given && is_same_part(rim));
        match other {
            Some((rim, _)) => {
                let detail = format!(
                    "{} {} of {} was given, the device reports {version} of {}",
                    rim.edition, rim.version, rim.product, identity.chip
                );
                ledger.require(name, "rim_of_other_version", false, detail);
            }
            None => {
                let detail = format!("no manifest of version {version} of {}", identity.chip);
                ledger.missing(name, "rim_missing", detail);
            }
        }
        None
    }
}

/// A VBIOS's version has five parts, a driver's two or three.
fn is_of_vbios(version: &str) -> bool {
    version.split('.').count() == 5
}

fn compare(report: &Report<'_>, is_switch: bool, values: &Values, ledger: &mut Ledger) -> bool {
    let differing = differing(report, is_switch, values);
    let detail = format!(
        "{} compared; different: [{}]",
        values.len(),
        differing.join(", ")
    );
    let holds = differing.is_empty() && !values.is_empty();
    ledger.require("measurements", "measurement_mismatch", holds, detail)
}

/// Indices at which no golden value was measured.
fn differing(report: &Report<'_>, is_switch: bool, values: &Values) -> Vec<String> {
    let has_decoder = is_switch || !report.is_decoder_off();
    values
        .iter()
        .filter(|(index, _)| has_decoder || **index != DECODER_MEASUREMENT)
        .filter(|(index, hashes)| {
            // Manifests count from 0, reports from 1.
            let found = index
                .checked_add(1)
                .and_then(|index| report.measurements.get(&index));
            !found.is_some_and(|found| hashes.iter().any(|hash| hash == found))
        })
        .map(|(index, _)| index.to_string())
        .collect()
}

/// Measures the video decoder's firmware, which is not loaded where the decoder is off.
const DECODER_MEASUREMENT: u8 = 35;
