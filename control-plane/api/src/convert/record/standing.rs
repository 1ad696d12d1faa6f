//! Records of what becomes of instances between issuances: standings, the brake, renewals that an operator forced.

use std::time::SystemTime;

use super::fields::{Fields, Value};
use super::{Event, RecordEntry};
use crate::convert::ConvertError;

/// The standing of an instance changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StandingChange {
    /// Whose name it bears.
    pub workload: String,
    /// Which instance.
    pub instance: [u8; 16],
    /// `live`, `lapsed`, `revoked`.
    pub standing: String,
    /// Stable word: which proof is missing, or which check failed.
    pub reason: String,
    /// What was expected and found.
    pub detail: String,
    /// SHA-256 over the evidence that turned bad; zeros where none did.
    pub evidence_sha256: [u8; 32],
    /// How that evidence differs from the last that was good, one line each.
    pub difference: Vec<String>,
}

/// The brake took hold, or let go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BrakeChange {
    /// `mesh`, or the name of a workload.
    pub scope: String,
    /// `held` or `released`.
    pub state: String,
    /// Instances that are silent.
    pub silent: u64,
    /// Of so many.
    pub of: u64,
}

/// An operator has instances renew their certificates ahead of time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForcedRenewal {
    /// `mesh`, or the name of a workload.
    pub scope: String,
    /// Who, as the operator socket knows him; empty in entries of earlier versions.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// From then on.
    pub start: SystemTime,
    /// Until when all are to have renewed.
    pub end: SystemTime,
}

impl StandingChange {
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![
            ("workload", Value::Text(&self.workload)),
            ("instance", Value::Bytes(&self.instance)),
            ("standing", Value::Text(&self.standing)),
            ("reason", Value::Text(&self.reason)),
            ("detail", Value::Text(&self.detail)),
        ];
        let lines = self.difference.iter();
        fields.extend(lines.map(|line| ("difference", Value::Entry(line))));
        // Last, so that no leaf with fewer lines is the beginning of one with more.
        fields.push(("evidence_sha256", Value::Bytes(&self.evidence_sha256)));
        fields
    }
}

impl BrakeChange {
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        vec![
            ("scope", Value::Text(&self.scope)),
            ("state", Value::Text(&self.state)),
            ("silent", Value::Number(self.silent)),
            ("of", Value::Number(self.of)),
        ]
    }
}

impl ForcedRenewal {
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![("scope", Value::Text(&self.scope))];
        if !self.actor.is_empty() {
            fields.push(("actor", Value::Text(&self.actor)));
        }
        fields.extend([
            ("reason", Value::Text(&self.reason)),
            ("start", Value::Time(self.start)),
            ("end", Value::Time(self.end)),
        ]);
        fields
    }
}

impl Fields<'_> {
    pub(super) fn standing_changed(&mut self) -> Result<RecordEntry, ConvertError> {
        Ok(RecordEntry {
            time: self.time("time")?,
            event: Event::StandingChanged(Box::new(StandingChange {
                workload: self.text("workload")?,
                instance: self.array("instance")?,
                standing: self.text("standing")?,
                reason: self.text("reason")?,
                detail: self.text("detail")?,
                difference: self.entries("difference")?,
                evidence_sha256: self.array("evidence_sha256")?,
            })),
        })
    }

    pub(super) fn brake_changed(&mut self) -> Result<RecordEntry, ConvertError> {
        Ok(RecordEntry {
            time: self.time("time")?,
            event: Event::BrakeChanged(Box::new(BrakeChange {
                scope: self.text("scope")?,
                state: self.text("state")?,
                silent: self.number("silent")?,
                of: self.number("of")?,
            })),
        })
    }

    pub(super) fn renewal_forced(&mut self) -> Result<RecordEntry, ConvertError> {
        Ok(RecordEntry {
            time: self.time("time")?,
            event: Event::RenewalForced(Box::new(ForcedRenewal {
                scope: self.text("scope")?,
                actor: match self.is_next("actor")? {
                    true => self.text("actor")?,
                    false => String::new(),
                },
                reason: self.text("reason")?,
                start: self.time("start")?,
                end: self.time("end")?,
            })),
        })
    }
}
