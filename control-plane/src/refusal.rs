//! Why an attestation is refused: a bounded word and a remedy for the peer, the details for the operator.

use std::borrow::Cow;
use std::time::Duration;

use vouchsafe_api::convert::ConvertError;
use vouchsafe_api::convert::attest::Refusal;

/// A refusal with everything that the operator may know and the peer may not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Stable word: the same on the wire, in the record, the log and the metric.
    pub reason: &'static str,
    /// What to do next, for the peer.
    pub remedy: Cow<'static, str>,
    /// What was expected and found, for the operator.
    pub detail: String,
    /// When another attempt makes sense.
    pub retry_after: Duration,
    /// What it says of the instance that showed the evidence.
    pub blame: Blame,
}

/// What a refusal says of an instance that was good before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// Its evidence turned bad: nobody may talk to it any more.
    Evidence,
    /// Nothing: what it asked for can't be had, or it asked wrongly.
    Request,
    /// Nothing: we could not listen, or lack what others say of its hardware.
    Ours,
}

impl Refused {
    /// A refusal that only an operator's act can change.
    pub fn new(
        reason: &'static str,
        remedy: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            reason,
            remedy: remedy.into(),
            detail: detail.into(),
            retry_after: OPERATOR_ACTS,
            blame: Blame::Request,
        }
    }

    /// For evidence that was judged and is bad.
    pub fn of_evidence(self) -> Self {
        Self {
            blame: Blame::Evidence,
            ..self
        }
    }

    /// For what is not the peer's fault.
    pub fn ours(self) -> Self {
        Self {
            blame: Blame::Ours,
            ..self
        }
    }

    /// A refusal that another attempt may change at once.
    pub fn retry(
        reason: &'static str,
        remedy: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            retry_after: AT_ONCE,
            ..Self::new(reason, remedy, detail)
        }
    }

    /// What could not be had explains why something lacks, and says when it may be there.
    pub fn explained_by(mut self, lacking: Option<(String, Duration)>) -> Self {
        if let ("endorsement_missing" | "endorsement_expired", Some((detail, wait))) =
            (self.reason, lacking)
        {
            self.detail = format!("{}; {detail}", self.detail);
            self.retry_after = wait;
        }
        self
    }

    /// What goes to the peer.
    pub fn to_wire(&self) -> Refusal {
        Refusal {
            reason: self.reason.to_owned(),
            remedy: self.remedy.clone().into_owned(),
            retry_after: self.retry_after,
        }
    }
}

impl From<ConvertError> for Refused {
    fn from(error: ConvertError) -> Self {
        Self::new(
            error.reason(),
            "update the sidecar: it sent a message that this control plane does not accept",
            error.to_string(),
        )
    }
}

impl From<vouchsafe_verifier::verdict::Refusal> for Refused {
    fn from(refusal: vouchsafe_verifier::verdict::Refusal) -> Self {
        let refused = Self::new(refusal.reason(), refusal.remedy(), refusal.detail.clone());
        match refusal.check.is_passing() {
            true => Self {
                retry_after: ENDORSEMENTS_COME,
                ..refused.ours()
            },
            false => refused.of_evidence(),
        }
    }
}

/// The control plane could not do its part: the peer keeps what it has and tries again.
pub fn unavailable(detail: impl Into<String>) -> Refused {
    Refused {
        retry_after: Duration::from_secs(2),
        ..Refused::new(
            "control_plane_unavailable",
            "try again: the control plane could not do its part",
            detail,
        )
        .ours()
    }
}

/// An operator edits a document: seconds to minutes. Short, so that a repaired policy acts soon.
const OPERATOR_ACTS: Duration = Duration::from_secs(10);
/// Vendors answer within seconds, or are down for minutes.
const ENDORSEMENTS_COME: Duration = Duration::from_secs(5);
/// Long enough not to be a busy loop.
const AT_ONCE: Duration = Duration::from_millis(200);
