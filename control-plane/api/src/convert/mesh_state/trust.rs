//! Instances that must not be believed although their certificates have not ended.

use std::time::SystemTime;

use prost::Message;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::{Action, Withdrawal, Withdrawn};

use super::super::{ConvertError, time, unix_ms, word};
use crate::v1;

/// Why an instance is not believed.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct InstanceTrust {
    /// Which.
    pub instance: InstanceId,
    /// What it lost.
    pub state: Withdrawn,
    /// A bounded word, for logs and for the peer's access log; at most [`MAX_REASON_BYTES`].
    pub reason: String,
    /// Since when, by the control plane's clock.
    pub since: SystemTime,
}

impl From<InstanceTrust> for Withdrawal {
    fn from(trust: InstanceTrust) -> Self {
        Self {
            instance: trust.instance,
            state: trust.state,
            reason: trust.reason,
            since: trust.since,
        }
    }
}

impl From<Withdrawal> for InstanceTrust {
    fn from(withdrawal: Withdrawal) -> Self {
        Self {
            instance: withdrawal.instance,
            state: withdrawal.state,
            reason: withdrawal.reason,
            since: withdrawal.since,
        }
    }
}

impl InstanceTrust {
    /// The content of its resource.
    pub fn encode(&self) -> Vec<u8> {
        let state = match self.state {
            Withdrawn::Lapsed => v1::InstanceState::Lapsed,
            Withdrawn::Revoked => v1::InstanceState::Revoked,
            Withdrawn::Named(Action::DenyNew) => v1::InstanceState::NamedDenyNew,
            Withdrawn::Named(Action::Drain) => v1::InstanceState::NamedDrain,
            Withdrawn::Named(Action::Cut) => v1::InstanceState::NamedCut,
        };
        let wire = v1::InstanceTrust {
            state: state.into(),
            reason: self.reason.clone(),
            since_ms: unix_ms(self.since),
        };
        wire.encode_to_vec()
    }

    /// Reads the content of the resource of `instance`.
    ///
    /// # Errors
    /// [`ConvertError`] when it is out of bounds or says a state that this build doesn't know.
    pub fn decode(instance: InstanceId, content: &[u8]) -> Result<Self, ConvertError> {
        let malformed = |field, expected| ConvertError::Malformed { field, expected };
        let wire = v1::InstanceTrust::decode(content)
            .map_err(|_| malformed("content", "the trust of an instance"))?;
        let state = match wire.state() {
            v1::InstanceState::Lapsed => Withdrawn::Lapsed,
            v1::InstanceState::Revoked => Withdrawn::Revoked,
            v1::InstanceState::NamedDenyNew => Withdrawn::Named(Action::DenyNew),
            v1::InstanceState::NamedDrain => Withdrawn::Named(Action::Drain),
            v1::InstanceState::NamedCut => Withdrawn::Named(Action::Cut),
            v1::InstanceState::Unspecified => {
                return Err(malformed("state", "a state that this build knows"));
            }
        };
        Ok(Self {
            instance,
            state,
            reason: word("reason", MAX_REASON_BYTES, wire.reason)?,
            since: time("since_ms", wire.since_ms)?,
        })
    }
}

/// As much as the name of a revocation may have: a namespace, a stroke, a name.
pub const MAX_REASON_BYTES: usize = 127;

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn lapsed() -> InstanceTrust {
        InstanceTrust {
            instance: InstanceId([7; 16]),
            state: Withdrawn::Lapsed,
            reason: "silent".to_owned(),
            since: UNIX_EPOCH + Duration::from_millis(1_800_000_000_000),
        }
    }

    #[test]
    fn the_trust_of_an_instance_survives_the_wire() {
        for state in Withdrawn::ALL {
            let trust = InstanceTrust { state, ..lapsed() };
            let read = InstanceTrust::decode(trust.instance, &trust.encode());
            assert_eq!(read, Ok(trust));
        }
    }

    #[test]
    fn a_state_that_is_unknown_or_absent_is_refused() {
        for state in [0, 6] {
            let wire = v1::InstanceTrust {
                state,
                reason: "silent".to_owned(),
                since_ms: 1_800_000_000_000,
            };
            let read = InstanceTrust::decode(InstanceId([7; 16]), &wire.encode_to_vec());
            assert!(read.is_err(), "{state}");
        }
    }

    #[test]
    fn a_reason_has_a_bound() {
        let reason = "x".repeat(MAX_REASON_BYTES + 1);
        let trust = InstanceTrust { reason, ..lapsed() };
        let read = InstanceTrust::decode(trust.instance, &trust.encode());
        assert_eq!(read.unwrap_err().reason(), "oversize_message");
    }

    #[test]
    fn every_cut_of_it_is_refused_or_read_without_a_panic() {
        let whole = lapsed().encode();
        for end in 0..whole.len() {
            let _ = InstanceTrust::decode(InstanceId([7; 16]), &whole[..end]);
        }
    }
}
