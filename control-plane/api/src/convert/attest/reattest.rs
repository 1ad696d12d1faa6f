//! What is proven between renewals: which proof, when it is due, and that it was good.

use std::time::SystemTime;

use crate::convert::{ConvertError, each, time, unix_ms};
use crate::v1;

/// What is proven between renewals, each in its own time.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Proof {
    /// A TPM's event log and the kernel's measurement list, the latter from where it was judged.
    TpmLog,
    /// GPUs, over the binding root.
    Gpu,
}

impl Proof {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::TpmLog, Self::Gpu];

    /// The word on the wire, in policy, records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TpmLog => "tpm_log",
            Self::Gpu => "gpu",
        }
    }

    pub(super) fn parse(word: &str) -> Result<Self, ConvertError> {
        let mut all = Self::ALL.into_iter();
        all.find(|proof| proof.as_str() == word)
            .ok_or(ConvertError::Malformed {
                field: "proof",
                expected: "`tpm_log` or `gpu`",
            })
    }
}

/// When a proof is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Which.
    pub proof: Proof,
    /// Not before.
    pub at: SystemTime,
}

/// The outcome of a reattestation that was good: the instance goes on under the certificate that it has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Confirmed {
    /// The control plane's time.
    pub server_time: SystemTime,
    /// When that proof is due again; empty where the renewal comes before.
    pub reattest: Vec<Slot>,
}

impl TryFrom<v1::Slot> for Slot {
    type Error = ConvertError;

    fn try_from(wire: v1::Slot) -> Result<Self, ConvertError> {
        Ok(Self {
            proof: Proof::parse(&wire.proof)?,
            at: time("at_ms", wire.at_ms)?,
        })
    }
}

impl From<Slot> for v1::Slot {
    fn from(slot: Slot) -> Self {
        Self {
            proof: slot.proof.as_str().to_owned(),
            at_ms: unix_ms(slot.at),
        }
    }
}

impl TryFrom<v1::Confirmed> for Confirmed {
    type Error = ConvertError;

    fn try_from(wire: v1::Confirmed) -> Result<Self, ConvertError> {
        Ok(Self {
            server_time: time("server_time_ms", wire.server_time_ms)?,
            reattest: slots(wire.reattest)?,
        })
    }
}

impl From<Confirmed> for v1::Confirmed {
    fn from(confirmed: Confirmed) -> Self {
        Self {
            server_time_ms: unix_ms(confirmed.server_time),
            reattest: confirmed.reattest.into_iter().map(Into::into).collect(),
        }
    }
}

/// At most one per proof.
pub(super) fn slots(wire: Vec<v1::Slot>) -> Result<Vec<Slot>, ConvertError> {
    let slots = each("reattest", Proof::ALL.len(), wire, Slot::try_from)?;
    let once = |proof| slots.iter().filter(|slot| slot.proof == proof).count() <= 1;
    if !Proof::ALL.into_iter().all(once) {
        return Err(ConvertError::Malformed {
            field: "reattest",
            expected: "one slot per proof",
        });
    }
    Ok(slots)
}
