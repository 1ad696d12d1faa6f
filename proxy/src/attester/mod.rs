//! Evidence of where this sidecar runs: collected here, judged by the control plane.
//!
//! One attestation is offers, then a challenge, then evidence in order of collection, the binding root last
//! (DESIGN §5.3). `svid` is the only user.

pub mod simulated;

use vouchsafe_api::convert::attest::{Challenge, EvidenceItem, Offer};
use vouchsafe_attestation::binding::Base;
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_config::proxy;

use simulated::Simulated;

/// What collects evidence on this machine.
#[derive(Debug)]
pub enum Attester {
    /// Nothing: made-up evidence of a made-up machine.
    Simulated(Simulated),
}

/// TPM names that enter the transcript; empty without a TPM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyNames {
    /// Of the endorsement key.
    pub ek: Vec<u8>,
    /// Of the attestation key.
    pub ak: Vec<u8>,
}

impl Attester {
    /// Opens what the configuration names.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn open(config: &proxy::Attester) -> Result<Self, CollectError> {
        match config {
            proxy::Attester::Simulated { machine, image } => Ok(Self::Simulated(Simulated {
                machine: machine.clone(),
                image: image.clone(),
            })),
            proxy::Attester::Tpm(_) => Err(CollectError::NotBuilt(EvidenceKind::Tpm)),
        }
    }

    /// What can be proven with, one offer per kind.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn offers(&mut self) -> Result<Vec<Offer>, CollectError> {
        match self {
            Self::Simulated(simulated) => Ok(vec![simulated.offer()]),
        }
    }

    /// Names of the keys offered.
    pub fn names(&self) -> KeyNames {
        match self {
            Self::Simulated(_) => KeyNames::default(),
        }
    }

    /// Collects what the challenge asks for, bound to `base`.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn collect(
        &mut self,
        base: &Base,
        challenge: &Challenge,
    ) -> Result<Vec<EvidenceItem>, CollectError> {
        match self {
            Self::Simulated(simulated) => simulated.collect(base, challenge),
        }
    }
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The control plane asks for a kind that was not offered.
    #[error(
        "the control plane asks for `{0}` evidence, which this machine was not configured to give"
    )]
    NotOffered(EvidenceKind),
    /// This build has no attester of that kind.
    #[error("this build collects no `{0}` evidence")]
    NotBuilt(EvidenceKind),
}
