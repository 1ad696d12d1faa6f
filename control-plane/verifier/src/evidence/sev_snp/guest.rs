//! The guest itself: what its report says once the signature is another's business.

use super::Rules;
use super::report::Report;
use crate::judgement::{Bound, Ledger, among, demanded};

/// What needs no endorsement.
pub(super) fn judge(report: &Report, expected: Bound<'_>, rules: &Rules, ledger: &mut Ledger) {
    expected.check(&report.report_data(), ledger);
    check_debug(report, rules, ledger);
    check_migration(report, rules, ledger);
    check_vmpl(report, rules, ledger);
    check_policy(report, rules, ledger);
    check_reference_values(report, rules, ledger);
    check_platform(report, rules, ledger);
    check_mitigations(report, rules, ledger);
}

pub(super) fn claims_of(report: &Report, ledger: &mut Ledger) {
    ledger.claim("report_version", report.version());
    ledger.claim("guest_svn", report.guest_svn());
    ledger.claim("measurement", hex::encode(report.measurement()));
    ledger.claim("host_data", hex::encode(report.host_data()));
    ledger.claim("report_data", hex::encode(report.report_data()));
    ledger.claim("id_key_digest", hex::encode(report.id_key_digest()));
    ledger.claim("author_key_digest", hex::encode(report.author_key_digest()));
    ledger.claim("family_id", hex::encode(report.family_id()));
    ledger.claim("image_id", hex::encode(report.image_id()));
    ledger.claim("chip_id", hex::encode(report.chip_id()));
    ledger.claim("report_id", hex::encode(report.report_id()));
    ledger.claim("vmpl", report.vmpl());
    let policy = report.policy();
    ledger.claim("policy", format!("{:#x}", policy.0));
    let (major, minor) = policy.least_abi();
    ledger.claim("abi", format!("{major}.{minor}"));
    ledger.claim("debug", policy.allows_debug());
    ledger.claim("migration", policy.allows_migration());
    ledger.claim("smt_allowed", policy.allows_smt());
    ledger.claim("single_socket", policy.is_single_socket());
    ledger.claim("cxl_allowed", policy.allows_cxl());
    ledger.claim("smt", report.is_smt_enabled());
    ledger.claim("tsme", report.is_memory_encrypted());
    ledger.claim("ecc", report.is_ecc_enabled());
    ledger.claim("power_meter_disabled", report.is_power_meter_disabled());
    ledger.claim("ciphertext_hiding", report.is_ciphertext_hidden());
    ledger.claim("alias_check", report.is_alias_check_complete());
    ledger.claim("firmware", version(report.current_firmware()));
    ledger.claim("committed_firmware", version(report.committed_firmware()));
    if let Some((launch, current)) = report.mitigations() {
        ledger.claim("launch_mitigations", launch);
        ledger.claim("current_mitigations", current);
    }
}

fn version((major, minor, build): (u8, u8, u8)) -> String {
    format!("{major}.{minor}.{build}")
}

fn check_debug(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let holds = rules.danger_accept_debug || !report.policy().allows_debug();
    ledger.require("debug", "debug_enabled", holds, "guest policy bit 19");
}

fn check_migration(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let agent = report.report_id_of_migration_agent() != [0xff; 32];
    let holds = rules.danger_accept_migration || !(report.policy().allows_migration() || agent);
    let detail = "guest policy bit 18, and whether a migration agent is bound";
    ledger.require("migration", "migration_allowed", holds, detail);
}

fn check_vmpl(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let detail = format!("{}, at most {} is accepted", report.vmpl(), rules.max_vmpl);
    // 0xffffffff marks a report that the host asked for.
    let holds = report.vmpl() <= rules.max_vmpl.min(3);
    ledger.require("vmpl", "vmpl", holds, detail);
}

fn check_policy(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let policy = report.policy();
    let (major, minor) = policy.least_abi();
    let detail = format!("{major}.{minor}, at least {:?}", rules.min_abi);
    ledger.require(
        "abi",
        "abi_too_old",
        (major, minor) >= rules.min_abi,
        detail,
    );
    demanded(
        "smt",
        "smt_allowed",
        rules.forbid_smt,
        !policy.allows_smt(),
        ledger,
    );
    let alone = policy.is_single_socket();
    demanded(
        "single_socket",
        "single_socket",
        rules.require_single_socket,
        alone,
        ledger,
    );
    demanded(
        "cxl",
        "cxl_allowed",
        rules.forbid_cxl,
        !policy.allows_cxl(),
        ledger,
    );
}

fn check_reference_values(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    among(
        "measurement",
        &rules.measurements,
        &report.measurement(),
        ledger,
    );
    among("host_data", &rules.host_data, &report.host_data(), ledger);
    among(
        "id_key_digest",
        &rules.id_key_digests,
        &report.id_key_digest(),
        ledger,
    );
    let author = report.author_key_digest();
    among(
        "author_key_digest",
        &rules.author_key_digests,
        &author,
        ledger,
    );
    among("family_id", &rules.family_ids, &report.family_id(), ledger);
    among("image_id", &rules.image_ids, &report.image_id(), ledger);
    let detail = format!("{}, at least {}", report.guest_svn(), rules.guest_svn);
    let holds = report.guest_svn() >= rules.guest_svn;
    ledger.require("guest_svn", "guest_svn", holds, detail);
}

fn check_platform(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    for (name, is_demanded, holds) in [
        (
            "alias_check",
            rules.require_alias_check,
            report.is_alias_check_complete(),
        ),
        (
            "ciphertext_hiding",
            rules.require_ciphertext_hiding,
            report.is_ciphertext_hidden(),
        ),
        (
            "power_meter",
            rules.require_power_meter_disabled,
            report.is_power_meter_disabled(),
        ),
    ] {
        demanded(name, name, is_demanded, holds, ledger);
    }
}

/// Vulnerabilities that firmware closed without a change of its version; what was open at launch may have been used.
fn check_mitigations(report: &Report, rules: &Rules, ledger: &mut Ledger) {
    let (launch, current) = report.mitigations().unwrap_or_default();
    let detail = format!("launch {launch:#x}, current {current:#x}");
    if rules.required_mitigations == 0 {
        ledger.skip("mitigations", detail);
    } else {
        let holds = launch & current & rules.required_mitigations == rules.required_mitigations;
        ledger.require("mitigations", "mitigations", holds, detail);
    }
}
