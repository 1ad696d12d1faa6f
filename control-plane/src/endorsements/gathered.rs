//! What could be had of the endorsements that evidence needs, and why the rest could not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vouchsafe_verifier::dossier::File;
use vouchsafe_verifier::endorsement::answer::AnswerError;
use vouchsafe_verifier::endorsement::need::Need;
use vouchsafe_verifier::endorsement::object::{Endorsement, EndorsementError};

use super::cache::Held;
use super::client::FetchError;
use crate::telemetry::Chain;

/// Why an endorsement could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GatherError {
    /// The service was asked in vain.
    #[error("failed to fetch it")]
    Fetch(#[source] Arc<FetchError>),
    /// What it answered can't be read.
    #[error("the answer can't be used")]
    Answer(#[source] AnswerError),
    /// What it answered is not what it should be.
    #[error("the answer is not what was asked for")]
    Refused(#[source] EndorsementError),
    /// The operator wants nobody to be asked.
    #[error("this control plane is offline: import it from a bundle")]
    Offline,
    /// The service is down.
    #[error("the service is down and is left alone for a while")]
    CircuitOpen,
    /// Others come first, and it would take too long.
    #[error("the service admits no more requests for now")]
    Paced,
    /// Too much is asked for at once.
    #[error("too many endorsements are asked for at once")]
    Busy,
    /// It takes longer than an attestation waits. It goes on in the background.
    #[error("the service has not answered yet")]
    Slow,
    /// It failed a moment ago.
    #[error("it failed a moment ago: {0}")]
    Recent(String, &'static str),
    /// It is not waited for.
    #[error("it is not needed before the next attestation")]
    Later,
}

impl GatherError {
    /// A bounded word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.reason(),
            Self::Answer(AnswerError::TooLarge(_)) => "answer_too_large",
            Self::Answer(_) => "malformed",
            Self::Refused(error) => error.reason(),
            Self::Offline => "offline",
            Self::CircuitOpen => "circuit_open",
            Self::Paced => "paced",
            Self::Busy => "busy",
            Self::Slow => "slow",
            Self::Recent(_, reason) => reason,
            Self::Later => "later",
        }
    }
}

/// An endorsement for a judgement.
#[derive(Clone, Debug)]
pub struct GatheredFile {
    /// Its name: what a dossier and the record call it.
    pub name: String,
    /// The verified file.
    pub endorsement: Arc<Endorsement>,
    /// When it was fetched or imported.
    pub fetched: SystemTime,
}

impl From<Held> for GatheredFile {
    fn from(held: Held) -> Self {
        Self {
            name: held.endorsement.need().name(),
            endorsement: held.endorsement,
            fetched: held.fetched,
        }
    }
}

/// An endorsement that could not be had.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Which.
    pub need: Need,
    /// `endorsement_expired` if one was held whose time is over, else `endorsement_missing`.
    pub reason: &'static str,
    /// Why no (newer) one could be had.
    pub error: GatherError,
    /// When another attempt makes sense.
    pub retry_after: Duration,
}

/// What could be had.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// What is valid now; of what is over, what it revoked ([`Need::outlives_its_end`]).
    pub files: Vec<GatheredFile>,
    /// What is not there, or over.
    pub missing: Vec<Missing>,
}

impl Gathered {
    /// The files as a dossier takes them.
    pub fn as_files(&self) -> Vec<File<'_>> {
        self.files
            .iter()
            .map(|file| File {
                name: &file.name,
                bytes: file.endorsement.bytes(),
            })
            .collect()
    }

    /// The bounded reason, what to tell the operator, and when to try again, if anything is missing: for a refusal of
    /// evidence that could not be judged for the lack of it.
    pub fn refusal(&self) -> Option<(&'static str, String, Duration)> {
        let first = self.missing.first()?;
        let details = self.missing.iter().map(|missing| {
            let (name, error) = (missing.need.name(), Chain(&missing.error));
            format!("{name} ({}): {error}", missing.error.reason())
        });
        let details: Vec<_> = details.collect();
        let wait = self.missing.iter().map(|missing| missing.retry_after).max();
        Some((
            first.reason,
            details.join("; "),
            wait.unwrap_or(first.retry_after),
        ))
    }
}
