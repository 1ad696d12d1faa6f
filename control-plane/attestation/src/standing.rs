//! What an instance is worth between its attestations: whether peers may go on talking to it.
//!
//! | Standing | Means | Ends by |
//! |---|---|---|
//! | live | proofs come in time and are good | silence, or bad evidence |
//! | lapsed | silent for two intervals | fresh evidence |
//! | revoked | its evidence turned bad, or no longer fits policy | nothing: the machine enrols afresh, as another instance |
//! | named | an operator's revocation names a certificate or key that it bore | the end of that revocation |
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
    /// An operator's revocation names a certificate or key that it bore: what it says becomes of whom it means. The reason
    /// is the revocation's name.
    Named(Action),
}

/// What becomes of connections and streams that rest on what was revoked. New ones are denied whatever it says.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Action {
    /// They stay until they end by themselves or their lease does.
    DenyNew,
    /// They may finish what they have, and take on nothing new.
    Drain,
    /// They end at once.
    Cut,
}

impl Action {
    /// All actions, mildest first.
    pub const ALL: [Self; 3] = [Self::DenyNew, Self::Drain, Self::Cut];

    /// The word in documents, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DenyNew => "deny_new",
            Self::Drain => "drain",
            Self::Cut => "cut",
        }
    }
}

impl Withdrawn {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Lapsed,
        Self::Revoked,
        Self::Named(Action::DenyNew),
        Self::Named(Action::Drain),
        Self::Named(Action::Cut),
    ];

    /// The word on the wire, in records, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lapsed => "lapsed",
            Self::Revoked => "revoked",
            Self::Named(Action::DenyNew) => "named_deny_new",
            Self::Named(Action::Drain) => "named_drain",
            Self::Named(Action::Cut) => "named_cut",
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
#[error(
    "the standing of an instance is `lapsed`, `revoked`, `named_deny_new`, `named_drain` or `named_cut`"
)]
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
