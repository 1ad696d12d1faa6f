//! A trust domain: what its report says, and the event log that explains its runtime registers.
//!
//! Source: Intel TDX Module 1.5 ABI, `ATTRIBUTES` and `XFAM`; UEFI 2.11 §38.4 (CC measurement).

use super::quote::TdReport;
use super::{Bits, Case, Rules};
use crate::evidence::tpm::event_log::EventLog;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::judgement::{Ledger, among};

/// The lowest byte of the attributes marks trust domains that the host may read, profile or test.
pub(super) fn check_debug(td: &TdReport<'_>, rules: &Rules, ledger: &mut Ledger) {
    let attributes = td.attributes();
    let debug = attributes & DEBUG != 0;
    ledger.claim("debug", debug);
    let detail = format!("attributes {attributes:#018x}");
    let holds = rules.danger_accept_debug || !debug;
    ledger.require("debug", "debug_enabled", holds, detail.clone());
    let holds = rules.danger_accept_profiling || attributes & UNTRUSTED & !DEBUG == 0;
    ledger.require("profiling", "profiling_enabled", holds, detail);
}

pub(super) fn judge(td: &TdReport<'_>, case: &Case<'_>, ledger: &mut Ledger) {
    let rules = case.rules;
    claims_of(td, ledger);
    check_attributes(td, rules, ledger);
    check_service(td, rules, ledger);
    among("mrtd", &rules.mrtd, &td.mrtd(), ledger);
    among("mrseam", &rules.mrseam, &td.mrseam(), ledger);
    among("mrconfigid", &rules.mrconfigid, &td.mrconfigid(), ledger);
    among("mrowner", &rules.mrowner, &td.mrowner(), ledger);
    among(
        "mrownerconfig",
        &rules.mrownerconfig,
        &td.mrownerconfig(),
        ledger,
    );
    for ((name, accepted), found) in RTMRS.into_iter().zip(&rules.rtmrs).zip(td.rtmrs()) {
        among(name, accepted, &found, ledger);
    }
    check_event_log(td, case, ledger);
}

fn claims_of(td: &TdReport<'_>, ledger: &mut Ledger) {
    ledger.claim("mrtd", hex::encode(td.mrtd()));
    ledger.claim("mrseam", hex::encode(td.mrseam()));
    ledger.claim("mrsignerseam", hex::encode(td.mrsignerseam()));
    ledger.claim("mrconfigid", hex::encode(td.mrconfigid()));
    ledger.claim("mrowner", hex::encode(td.mrowner()));
    ledger.claim("mrownerconfig", hex::encode(td.mrownerconfig()));
    ledger.claim("mrservicetd", hex::encode(td.mrservicetd()));
    ledger.claim("seam_attributes", hex::encode(td.seam_attributes()));
    ledger.claim("xfam", format!("{:#018x}", td.xfam()));
    ledger.claim("td_attributes", format!("{:#018x}", td.attributes()));
    ledger.claim("tee_tcb_svn", hex::encode(td.tee_tcb_svn()));
    if let Some(now) = td.tee_tcb_svn_now() {
        ledger.claim("tee_tcb_svn_2", hex::encode(now));
    }
    for (name, value) in RTMRS.into_iter().zip(td.rtmrs()) {
        ledger.claim(name, hex::encode(value));
    }
}

fn check_attributes(td: &TdReport<'_>, rules: &Rules, ledger: &mut Ledger) {
    let attributes = td.attributes();
    let shown = format!("attributes {attributes:#018x}");
    let holds = rules.danger_accept_reserved || attributes & !KNOWN == 0;
    ledger.require("reserved", "reserved_bits", holds, shown.clone());
    let holds = rules.danger_accept_sept_ve || attributes & SEPT_VE_DISABLE != 0;
    ledger.require(
        "sept_ve_disable",
        "sept_ve_disable",
        holds,
        "attribute bit 28",
    );
    let holds = rules.danger_accept_migration || attributes & MIGRATABLE == 0;
    ledger.require("migration", "migration_allowed", holds, "attribute bit 29");
    demand("td_attributes", rules.td_attributes, attributes, ledger);
    demand("xfam", rules.xfam, td.xfam(), ledger);
}

fn demand(name: &'static str, bits: Option<Bits>, found: u64, ledger: &mut Ledger) {
    let detail = format!("{found:#018x}");
    match bits {
        None => ledger.skip(name, detail),
        Some(bits) => {
            ledger.require(name, name, bits.are_in(found), detail);
        }
    }
}

fn check_service(td: &TdReport<'_>, rules: &Rules, ledger: &mut Ledger) {
    let bound = td.mrservicetd();
    let holds =
        bound == [0; 48] || rules.danger_accept_service_td || rules.mrservicetd.contains(&bound);
    ledger.require("service_td", "service_td", holds, hex::encode(bound));
}

/// A CCEL names measurement registers from 1 for RTMR0 on; the table's area is padded with 0xff.
fn check_event_log(td: &TdReport<'_>, case: &Case<'_>, ledger: &mut Ledger) {
    let Some(raw) = case.event_log else {
        if case.rules.require_event_log {
            ledger.missing("event_log", "event_log_missing", "no CCEL was given");
        } else {
            ledger.skip("event_log", "no CCEL was given");
        }
        return;
    };
    let end = raw
        .iter()
        .rposition(|byte| *byte != 0xff)
        .map_or(0, |last| last + 1);
    let parsed = EventLog::parse(raw.get(..end).unwrap_or_default());
    let Some(log) = ledger.succeed("event_log", "event_log_malformed", parsed) else {
        return;
    };
    let mut wrong = Vec::new();
    for ((register, name), value) in (1..).zip(RTMRS).zip(td.rtmrs()).take(FIRMWARE_RTMRS) {
        if log.replay(HashAlgorithm::Sha384, register).as_deref() != Some(value.as_slice()) {
            wrong.push(name);
        }
    }
    let detail = format!("{} events; not equal: {wrong:?}", log.events().len());
    ledger.require(
        "event_log_replay",
        "event_log_replay",
        wrong.is_empty(),
        detail,
    );
}

const DEBUG: u64 = 1;
const UNTRUSTED: u64 = 0xff;
const SEPT_VE_DISABLE: u64 = 1 << 28;
const MIGRATABLE: u64 = 1 << 29;
/// The untrusted byte, ICSSD, LASS, `SEPT_VE_DISABLE`, migratable, PKS, KL, TPA, PERFMON.
const KNOWN: u64 = UNTRUSTED | 1 << 16 | 0b1_1111 << 27 | 0b11 << 62;
const RTMRS: [&str; 4] = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"];
/// RTMR3 belongs to the running system, which the firmware's log does not know.
const FIRMWARE_RTMRS: usize = 3;
