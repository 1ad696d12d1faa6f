//! TDX and SGX from files: a quote, Intel's endorsements, and the event log.

use std::time::SystemTime;

use super::{Dossier, Expected, File, only, refuse_expectation};
use crate::evidence::dcap::collateral::Collateral;
use crate::evidence::dcap::{self, Case, Rules, Tee, parts};
use crate::judgement::Ledger;
use crate::vendor_roots::VendorRoots;

pub(super) fn judge(
    tee: Tee,
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    rules: &Rules,
    roots: &VendorRoots,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let report_data = expected.and_then(Expected::as_report_data);
    if expected.is_some() && report_data.is_none() {
        refuse_expectation("TDX and SGX have report data and no nonce", ledger);
        return;
    }
    let mut quotes = Vec::new();
    let mut logs = Vec::new();
    for file in dossier.judged() {
        if file.bytes.starts_with(b"{") || file.bytes.starts_with(CCEL_TABLE) {
            continue;
        }
        if is_event_log(&file) {
            logs.push(file.bytes);
        } else {
            quotes.push(file.bytes);
        }
    }
    let event_log = match logs.as_slice() {
        [] => None,
        _ => match only(logs, ledger) {
            Some(log) => Some(log),
            None => return,
        },
    };
    let Some(quote) = only(quotes, ledger) else {
        return;
    };
    let collateral = choose(dossier, quote);
    let case = Case {
        tee,
        quote,
        collateral: collateral.as_ref(),
        event_log,
        rules,
        root: roots.intel(),
        now,
    };
    case.judge(report_data.into(), ledger);
}

/// Endorsements that came with the quote count as they are; of a cache, those of the quote's platform.
pub(super) fn choose(dossier: Dossier<'_>, quote: &[u8]) -> Option<Collateral> {
    if let Some(given) = dossier
        .judged()
        .find_map(|file| Collateral::parse(file.bytes))
    {
        return Some(given);
    }
    let fmspc = hex::encode(dcap::fmspc(quote)?);
    let cached = dossier
        .endorsements
        .iter()
        .filter_map(|file| Collateral::parse(file.bytes));
    // By the text, which is verified later: here it only chooses.
    { cached }
        .find(|cached| cached.tcb_info.to_ascii_lowercase().contains(&fmspc))
        .or_else(|| {
            // A cache that is filled from Intel's services holds the answers one by one.
            let parts = dossier.endorsements.iter().map(|file| file.bytes);
            parts::assemble(quote, parts)
        })
}

/// A log begins with an event of no action in PCR 0 or 1, whose header names its own format.
fn is_event_log(file: &File<'_>) -> bool {
    let head = file.bytes.get(..64).unwrap_or(file.bytes);
    let marked = head.windows(SPEC_ID.len()).any(|window| window == SPEC_ID);
    marked || file.name.starts_with("ccel")
}

/// The ACPI table that says where the log is.
const CCEL_TABLE: &[u8] = b"CCEL";
const SPEC_ID: &[u8] = b"Spec ID Event03";
