//! Logs beside a quote, or by themselves: what the firmware measured of the boot, and which files the kernel measured.
//!
//! A log is only as good as what covers it: beside a quote it must replay to the quoted values, by itself it is shown to
//! people and proves nothing.

use super::{Case, only};
use crate::evidence::tpm::event_log::{EventLog, SecureBoot};
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::ima::{self, Checkpoint};
use crate::evidence::tpm::pcr::{PcrSet, PcrValues};
use crate::judgement::Ledger;

impl Case<'_> {
    /// Replays the log to the quoted firmware PCRs; PCRs from 8 on are extended by the running system too.
    pub(super) fn judge_event_log(
        &self,
        logs: Vec<Vec<u8>>,
        pcrs: &PcrValues,
        ledger: &mut Ledger,
    ) {
        if logs.is_empty() {
            if self.rules.require_event_log || self.rules.secure_boot.is_some() {
                ledger.missing("event_log", "event_log_missing", "no event log was given");
            } else {
                ledger.skip("event_log", "no event log was given");
            }
            return;
        }
        let Some(raw) = only(logs, ledger) else {
            return;
        };
        let log = EventLog::parse_padded(&raw);
        let Some(log) = ledger.succeed("event_log", "event_log_malformed", log) else {
            return;
        };
        let events = u64::try_from(log.events().len()).unwrap_or(u64::MAX);
        ledger.claim("events", events);
        let quoted = pcrs
            .iter()
            .filter(|(_, pcr, _)| PcrSet::FIRMWARE.contains(*pcr));
        let (mut wrong, mut replayed) = (Vec::new(), 0);
        for (bank, pcr, value) in quoted {
            replayed += 1;
            if log.replay(bank, pcr).as_deref() != Some(value) {
                wrong.push(format!("{bank}:{pcr}"));
            }
        }
        let detail = format!("{replayed} values replayed; not equal: {wrong:?}");
        let holds = replayed > 0 && wrong.is_empty();
        if !ledger.require("event_log_replay", "event_log_replay", holds, detail) {
            return;
        }
        let bank = HashAlgorithm::ALL
            .into_iter()
            .find(|bank| pcrs.get(*bank, SECURE_BOOT_PCR).is_some());
        let secure_boot = bank.map_or(SecureBoot::Unknown, |bank| log.secure_boot(bank));
        claim_secure_boot(secure_boot, ledger);
        if let Some(demanded) = self.rules.secure_boot {
            let wanted = if demanded {
                SecureBoot::Enabled
            } else {
                SecureBoot::Disabled
            };
            let detail = format!("found {secure_boot:?}");
            ledger.require("secure_boot", "secure_boot", secure_boot == wanted, detail);
        }
    }

    pub(super) fn judge_list(
        &self,
        lists: Vec<Vec<ima::Entry>>,
        pcrs: &PcrValues,
        ledger: &mut Ledger,
    ) {
        if lists.is_empty() {
            if self.rules.ima.is_some() {
                ledger.missing("ima_format", "ima_missing", "no measurement list was given");
            }
            return;
        }
        let Some(entries) = only(lists, ledger) else {
            return;
        };
        let quoted = HashAlgorithm::ALL
            .into_iter()
            .find_map(|bank| Some((bank, pcrs.get(bank, ima::PCR)?)));
        let Some((bank, value)) = quoted else {
            let detail = "PCR 10 is not quoted, so nothing covers the list";
            ledger.require("ima_replay", "ima_replay", false, detail);
            return;
        };
        let advanced = Checkpoint::start(bank).advance(entries, value);
        let Some((checkpoint, entries)) = ledger.succeed("ima_replay", "ima_replay", advanced)
        else {
            return;
        };
        ledger.claim("ima_entries", checkpoint.count);
        show_list_content(&entries, ledger);
        match &self.rules.ima {
            Some(policy) => {
                // A kernel that measures begins with PCRs 0 to 9; without entries it does not measure.
                let measures = checkpoint.count > 0;
                ledger.require("ima_measures", "ima_empty", measures, "PCR 10 was extended");
                let checked = policy.check(0, &entries);
                ledger.succeed("ima_files", "ima_file", checked);
            }
            None => ledger.skip("ima_files", "no rule names files"),
        }
    }
}

/// A log by itself: read, and replayed for people.
pub(super) fn show_event_log(raw: &[u8], ledger: &mut Ledger) {
    let log = EventLog::parse_padded(raw);
    let Some(log) = ledger.succeed("event_log", "event_log_malformed", log) else {
        return;
    };
    let events = u64::try_from(log.events().len()).unwrap_or(u64::MAX);
    ledger.claim("events", events);
    ledger.claim("ccel", log.is_ccel());
    if log.is_ccel() {
        let values = (0..3)
            .filter_map(|index| Some(format!("rtmr{index}:{}", hex::encode(log.rtmr(index)?))));
        ledger.claim("replayed", values.collect::<Vec<_>>());
        claim_secure_boot(log.ccel_secure_boot(), ledger);
        return;
    }
    let banks: Vec<_> = HashAlgorithm::ALL
        .into_iter()
        .filter(|bank| (0..8).all(|pcr| log.replay(*bank, pcr).is_some()))
        .collect();
    let detail = "digests by SHA-256 or SHA-384";
    ledger.require(
        "event_log_bank",
        "event_log_unsupported",
        !banks.is_empty(),
        detail,
    );
    let values = banks.iter().flat_map(|bank| {
        let replayed = |pcr| {
            Some(format!(
                "{bank}:{pcr}:{}",
                hex::encode(log.replay(*bank, pcr)?)
            ))
        };
        (0..8).filter_map(replayed).collect::<Vec<_>>()
    });
    ledger.claim("replayed", values.collect::<Vec<_>>());
    if let Some(bank) = banks.first() {
        claim_secure_boot(log.secure_boot(*bank), ledger);
    }
}

fn claim_secure_boot(found: SecureBoot, ledger: &mut Ledger) {
    match found {
        SecureBoot::Enabled => ledger.claim("secure_boot", true),
        SecureBoot::Disabled => ledger.claim("secure_boot", false),
        // What nothing proves is not claimed.
        SecureBoot::Unknown => {}
    }
}

/// A list by itself.
pub(super) fn show_list(entries: &[ima::Entry], ledger: &mut Ledger) {
    let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    ledger.claim("ima_entries", count);
    let values = HashAlgorithm::ALL.map(|bank| {
        format!(
            "{bank}:{}:{}",
            ima::PCR,
            hex::encode(Checkpoint::start(bank).replay(entries))
        )
    });
    ledger.claim("ima_replayed", values.to_vec());
    show_list_content(entries, ledger);
}

fn show_list_content(entries: &[ima::Entry], ledger: &mut Ledger) {
    let violations = entries.iter().filter(|entry| entry.is_violation).count();
    let violations = u64::try_from(violations).unwrap_or(u64::MAX);
    ledger.claim("ima_violations", violations);
}

const SECURE_BOOT_PCR: u8 = 7;
