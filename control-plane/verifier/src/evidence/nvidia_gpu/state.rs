//! What a device says of itself: mode, versions, and what else becomes a claim.

use std::str::FromStr;

use super::chain::{Architecture, Identity};
use super::report::{Mode, Report};
use super::{Rules, Stated};
use crate::judgement::Ledger;

/// Checks what protects the device, and that nobody contradicts the report.
pub(crate) fn check(
    stated: &Stated,
    report: &Report<'_>,
    identity: &Identity,
    rules: &Rules,
    ledger: &mut Ledger,
) {
    if let Some(stated) = &stated.architecture {
        let detail = format!("stated {stated}, is {}", identity.hardware_model);
        let holds = stated.eq_ignore_ascii_case(identity.architecture.as_str());
        ledger.require(
            "stated_architecture",
            "architecture_mismatch",
            holds,
            detail,
        );
    }
    if identity.architecture.is_switch() {
        check_switch(report, identity, ledger);
        return;
    }
    let mode = report.mode(identity);
    let word = mode.map_or("not stated", Mode::as_str);
    let contradicts = matches!(
        (report.stated_mode(), report.protected_pcie()),
        (Some(Mode::ProtectedPcie), Some(false))
            | (Some(Mode::SingleGpu | Mode::MultiGpu), Some(true))
    );
    ledger.require("mode_is_one", "mode_contradicts", !contradicts, word);
    if !rules.modes.is_empty() {
        let holds = mode.is_some_and(|mode| rules.modes.contains(&mode));
        ledger.require("mode", "mode", holds, word);
    }
    let driver = stated.driver;
    // A GPU makes reports in these modes only; links are bare in protected PCIe.
    let by_report = mode.map(|mode| mode != Mode::ProtectedPcie);
    let is_on = match (by_report, driver) {
        (Some(on), Some(driver)) => Some(on && driver.confidential_compute),
        (Some(on), None) => Some(on),
        (None, driver) => driver.map(|driver| driver.confidential_compute),
    };
    let devtools = driver.map(|driver| driver.devtools);
    for (name, found, demanded) in [
        ("confidential_compute", is_on, rules.confidential_compute),
        ("devtools", devtools, rules.devtools),
    ] {
        if let Some(found) = found {
            ledger.claim(name, found);
        }
        if let Some(demanded) = demanded {
            let detail = found.map_or("not stated".to_owned(), |found| found.to_string());
            ledger.require(name, name, found == Some(demanded), detail);
        }
    }
}

impl Report<'_> {
    /// The mode, also of drivers that do not state it: before 590, Hopper was for one GPU unless in protected PCIe.
    pub(crate) fn mode(&self, identity: &Identity) -> Option<Mode> {
        match (self.stated_mode(), self.protected_pcie()) {
            (Some(mode), _) => Some(mode),
            (None, Some(true)) => Some(Mode::ProtectedPcie),
            (None, Some(false)) if identity.architecture == Architecture::Hopper => {
                Some(Mode::SingleGpu)
            }
            (None, _) => None,
        }
    }
}

/// A switch's report names the number that its chip was certified with.
fn check_switch(report: &Report<'_>, identity: &Identity, ledger: &mut Ledger) {
    let pdi = report.own_pdi().map(|pdi| hex::encode(pdi.0));
    let holds = pdi
        .as_ref()
        .is_some_and(|pdi| identity.chip_id.ends_with(pdi.as_str()));
    let detail = pdi.unwrap_or_default();
    ledger.require("switch_pdi", "switch_pdi_mismatch", holds, detail);
}

pub(crate) fn check_versions(
    report: &Report<'_>,
    identity: &Identity,
    rules: &Rules,
    ledger: &mut Ledger,
) {
    if !identity.architecture.is_switch() {
        let found = report.driver_version();
        let reasons = ["driver", "driver_too_old", "driver_revoked"];
        let rules = Versions {
            accepted: &rules.drivers,
            revoked: &rules.revoked_drivers,
            least: rules.min_driver.as_ref(),
        };
        rules.check(found.as_deref(), reasons, ledger);
    }
    let found = report.vbios_version();
    let reasons = ["vbios", "vbios_too_old", "vbios_revoked"];
    let rules = Versions {
        accepted: &rules.vbios,
        revoked: &rules.revoked_vbios,
        least: rules.min_vbios.as_ref(),
    };
    rules.check(found.as_deref(), reasons, ledger);
}

/// Rules about a version of this form.
struct Versions<'a, V> {
    accepted: &'a [String],
    revoked: &'a [String],
    least: Option<&'a V>,
}

impl<V: PartialOrd + FromStr> Versions<'_, V> {
    fn check(&self, found: Option<&str>, reasons: [&'static str; 3], ledger: &mut Ledger) {
        let [name, too_old, revoked] = reasons;
        if self.accepted.is_empty() && self.least.is_none() && self.revoked.is_empty() {
            ledger.skip(name, "no version is named");
            return;
        }
        let is_in = |list: &[String]| {
            found.is_some_and(|found| list.iter().any(|held| held.eq_ignore_ascii_case(found)))
        };
        let number: Option<V> = found.and_then(|found| found.parse().ok());
        let is_old = self
            .least
            .is_some_and(|least| number.is_none_or(|number| number < *least));
        let reason = match () {
            () if !self.accepted.is_empty() && !is_in(self.accepted) => Some(name),
            () if is_old => Some(too_old),
            () if found.is_none() || is_in(self.revoked) => Some(revoked),
            () => None,
        };
        let detail = found.unwrap_or("not in the report");
        ledger.require(name, reason.unwrap_or(name), reason.is_none(), detail);
    }
}

pub(crate) fn claims(report: &Report<'_>, identity: &Identity, ledger: &mut Ledger) {
    let is_switch = identity.architecture.is_switch();
    ledger.claim("device", if is_switch { "switch" } else { "gpu" });
    ledger.claim("architecture", identity.architecture.as_str());
    ledger.claim("hardware_model", identity.hardware_model.as_str());
    ledger.claim("chip_id", identity.chip_id.as_str());
    ledger.claim("ueid", identity.ueid.as_str());
    ledger.claim("nonce", hex::encode(report.nonce));
    for (name, value) in [
        ("driver", report.driver_version()),
        ("vbios", report.vbios_version()),
        ("board", report.board()),
        ("firmware_id", report.firmware_id().map(hex::encode)),
        (
            "mode",
            report.mode(identity).map(|mode| mode.as_str().to_owned()),
        ),
    ] {
        if let Some(value) = value {
            ledger.claim(name, value);
        }
    }
    if let Some(on) = report.protected_pcie() {
        ledger.claim("protected_pcie", on);
    }
}
