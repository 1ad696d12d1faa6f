//! Several devices of one machine: how many, that none is shown twice, and that they are wired to one another.
//!
//! Each device was judged by itself before. What GPUs and switches say of their links is in their signed reports, so a
//! switch that was not shown, or one of another machine, is found; that the links are there is not proven by anything
//! stronger.
//!
//! Source: NVIDIA nvtrust, `ppcie-verifier`.

use std::collections::BTreeSet;

use super::Rules;
use super::chain::Identity;
use super::report::{Mode, Pdi, Report};
use crate::judgement::Ledger;

/// A device of a set.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) identity: Identity,
    pub(crate) report: Report<'a>,
}

/// Judges a set.
pub(crate) fn check(members: &[Member<'_>], rules: &Rules, ledger: &mut Ledger) {
    let (switches, gpus): (Vec<_>, Vec<_>) = members
        .iter()
        .partition(|member| member.identity.architecture.is_switch());
    for (name, found, demanded) in [
        ("gpu_count", gpus.len(), rules.gpus),
        ("switch_count", switches.len(), rules.switches),
    ] {
        if let Some(demanded) = demanded {
            let holds = u32::try_from(found) == Ok(demanded);
            ledger.require(name, name, holds, format!("{found}, must be {demanded}"));
        }
    }
    ledger.claim("count", number(gpus.len()));
    ledger.claim("switches", number(switches.len()));
    check_unique(members, ledger);
    check_modes(&gpus, ledger);
    check_links(&gpus, &switches, ledger);
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A chip's own number; its reports may differ.
fn check_unique(members: &[Member<'_>], ledger: &mut Ledger) {
    let ids: BTreeSet<_> = members.iter().map(|held| &held.identity.chip_id).collect();
    let detail = format!("{} chips in {} reports", ids.len(), members.len());
    let holds = ids.len() == members.len();
    ledger.require("unique_devices", "device_twice", holds, detail);
}

/// GPUs of one machine are in one mode.
fn check_modes(gpus: &[&Member<'_>], ledger: &mut Ledger) {
    let mut modes = gpus.iter().map(|gpu| gpu.report.mode(&gpu.identity));
    let Some(first) = modes.next() else { return };
    let holds = modes.all(|mode| mode == first);
    let detail = first.map_or("not stated", Mode::as_str);
    ledger.require("one_mode", "modes_differ", holds, detail);
}

/// All GPUs name the same switches, these are the ones that were shown, and all switches name the same GPUs.
fn check_links(gpus: &[&Member<'_>], switches: &[&Member<'_>], ledger: &mut Ledger) {
    let named: Vec<_> = gpus
        .iter()
        .map(|gpu| connected(gpu.report.switch_pdis()))
        .collect();
    if let [first, rest @ ..] = named.as_slice() {
        let holds = rest.iter().all(|other| other == first);
        let detail = format!("each GPU names {} switches", first.len());
        ledger.require("links_of_gpus", "links_differ", holds, detail);
    }
    let seen: Vec<_> = switches
        .iter()
        .map(|switch| connected(switch.report.gpu_pdis()))
        .collect();
    if let [first, rest @ ..] = seen.as_slice() {
        let holds = rest.iter().all(|other| other == first);
        let detail = format!("each switch names {} GPUs", first.len());
        ledger.require("links_of_switches", "links_differ", holds, detail);
    }
    if switches.is_empty() || gpus.is_empty() {
        ledger.skip("links", "only one side of the links was shown");
        return;
    }
    let shown: BTreeSet<_> = switches
        .iter()
        .filter_map(|switch| switch.report.own_pdi())
        .collect();
    let holds = shown.len() == switches.len() && named.iter().all(|named| *named == shown);
    let detail = format!("{} switches shown", shown.len());
    ledger.require("links", "switch_not_linked", holds, detail);
}

fn connected(pdis: Vec<Pdi>) -> BTreeSet<Pdi> {
    pdis.into_iter().filter(|pdi| pdi.is_connected()).collect()
}
