//! Records of refusals that are too many to be told one by one.

use std::time::SystemTime;

use super::fields::{Fields, Value};
use super::{Event, RecordEntry};
use crate::convert::ConvertError;

/// How often strangers of a network were refused for a reason, beyond what was recorded one by one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RefusalsSummed {
    /// Stable word, as of a single refusal.
    pub reason: String,
    /// Network that they came from, `192.0.2.0/24`; `elsewhere` for all those that were too many to be told apart.
    pub network: String,
    /// How often.
    pub count: u64,
    /// When first.
    pub first: SystemTime,
    /// When last.
    pub last: SystemTime,
}

impl RefusalsSummed {
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        vec![
            ("reason", Value::Text(&self.reason)),
            ("network", Value::Text(&self.network)),
            ("count", Value::Number(self.count)),
            ("first", Value::Time(self.first)),
            ("last", Value::Time(self.last)),
        ]
    }
}

impl Fields<'_> {
    pub(super) fn refusals_summed(&mut self) -> Result<RecordEntry, ConvertError> {
        Ok(RecordEntry {
            time: self.time("time")?,
            event: Event::RefusalsSummed(Box::new(RefusalsSummed {
                reason: self.text("reason")?,
                network: self.text("network")?,
                count: self.number("count")?,
                first: self.time("first")?,
                last: self.time("last")?,
            })),
        })
    }
}
