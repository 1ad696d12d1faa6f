//! What an instance is worth between its attestations: whether peers may go on talking to it.
//!
//! | Standing | Means | Ends by |
//! |---|---|---|
//! | live | proofs come in time and are good | silence, or bad evidence |
//! | lapsed | silent for two intervals | fresh evidence |
//! | revoked | its evidence turned bad, or no longer fits policy | nothing: the machine enrols afresh, as another instance |
//!
//! Source: DESIGN §7.

use std::str::FromStr;
use std::time::SystemTime;

use crate::result::InstanceId;

/// Why an instance is not to be trusted now.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Withdrawn {
    /// It has been silent for too long.
    Lapsed,
    /// Its evidence turned bad.
    Revoked,
}

impl Withdrawn {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lapsed, Self::Revoked];

    /// The word on the wire, in records, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lapsed => "lapsed",
            Self::Revoked => "revoked",
        }
    }
}

impl FromStr for Withdrawn {
    type Err = ParseStandingError;

    fn from_str(word: &str) -> Result<Self, ParseStandingError> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.as_str() == word)
            .ok_or(ParseStandingError)
    }
}

/// A word that is none of [`Withdrawn`]'s.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the standing of an instance is `lapsed` or `revoked`")]
pub struct ParseStandingError;

/// An instance that nobody may talk to now. A live one has none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Withdrawal {
    /// Which instance.
    pub instance: InstanceId,
    /// In which way.
    pub state: Withdrawn,
    /// Stable word: the proof that is missing, or the check that failed.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
}
