//! Evidence of where this sidecar runs: collected here, judged by the control plane.
//!
//! One attestation is offers, then a challenge, then evidence in order of collection, the binding root last
//! (DESIGN §5.3). What a device signs binds the evidence to the connection, the keys and the roles
//! ([`vouchsafe_attestation::binding`]); it never signs anything that the control plane chose alone.
//! `svid` is the only user.
//!
//! # Why
//! TPM commands are our own: twelve of them, with fixed templates, in one file. A marshalling library would bring the
//! whole command set into the sidecar's trusted base, and libtss2 a C library, for what is a header, a few integers and
//! length-prefixed bytes.

pub mod simulated;
pub mod tpm;

use std::io;
use std::sync::Arc;

use vouchsafe_api::convert::attest::{Challenge, EvidenceItem, Offer};
use vouchsafe_attestation::binding::{Base, EvidenceDigest};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_config::proxy;

use simulated::Simulated;
use tpm::TpmAttester;

/// What collects evidence on this machine.
#[derive(Debug)]
pub enum Attester {
    /// A TPM.
    Tpm(Arc<TpmAttester>),
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
    /// Opens what the configuration names. A TPM makes or reads its keys: milliseconds on a software TPM, up to a
    /// minute on a chip, on a thread that may block.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn open(config: &proxy::Attester) -> Result<Self, CollectError> {
        match config {
            proxy::Attester::Simulated { machine, image } => Ok(Self::Simulated(Simulated {
                machine: machine.clone(),
                image: image.clone(),
            })),
            proxy::Attester::Tpm(tpm) => {
                let tpm = tpm.clone();
                let opened = blocking(move || TpmAttester::open(&tpm)).await?;
                Ok(Self::Tpm(Arc::new(opened)))
            }
        }
    }

    /// What can be proven with, one offer per kind.
    ///
    /// # Errors
    /// [`CollectError`].
    pub async fn offers(&mut self) -> Result<Vec<Offer>, CollectError> {
        match self {
            Self::Tpm(tpm) => Ok(vec![tpm.offer()]),
            Self::Simulated(simulated) => Ok(vec![simulated.offer()]),
        }
    }

    /// Names of the keys offered.
    pub fn names(&self) -> KeyNames {
        match self {
            Self::Tpm(tpm) => tpm.names(),
            Self::Simulated(_) => KeyNames::default(),
        }
    }

    /// Collects what the challenge asks for, bound to `base`.
    ///
    /// # Errors
    /// [`CollectError`].
    ///
    /// # Cancel safety
    /// A TPM finishes its commands and frees its objects even if nobody waits for the evidence.
    pub async fn collect(
        &mut self,
        base: &Base,
        challenge: &Challenge,
    ) -> Result<Vec<EvidenceItem>, CollectError> {
        match self {
            Self::Simulated(simulated) => simulated.collect(base, challenge),
            Self::Tpm(tpm) => {
                let other = |kind: &&EvidenceKind| **kind != EvidenceKind::Tpm;
                if let Some(kind) = challenge.required.iter().find(other) {
                    return Err(CollectError::NotOffered(*kind));
                }
                let (tpm, base, challenge) = (Arc::clone(tpm), *base, challenge.clone());
                let prior = EvidenceDigest::empty();
                let item = blocking(move || tpm.collect(&base, &challenge, &prior)).await?;
                Ok(vec![item])
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CollectError> + Send + 'static,
) -> Result<T, CollectError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(CollectError::Stopped))
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The control plane asks for a kind that was not offered.
    #[error(
        "the control plane asks for `{0}` evidence, which this machine was not configured to give"
    )]
    NotOffered(EvidenceKind),
    /// The TPM can't be reached, or stopped answering.
    #[error("failed to talk to the TPM at `{address}`")]
    Transport {
        /// Path or address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TPM refused a command (TPM 2.0 Part 2 §6.6 explains the code).
    #[error("the TPM refused `{command}` with code 0x{code:03x}")]
    Refused {
        /// Name of the command.
        command: &'static str,
        /// `TPM_RC`.
        code: u32,
    },
    /// The TPM answered something that is not of the command's shape.
    #[error("the TPM's answer to `{0}` can't be read")]
    Malformed(&'static str),
    /// A file that the configuration names can't be used.
    #[error("failed to read {what} from `{path}`")]
    File {
        /// What it should hold.
        what: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The challenge has no answer to the TPM's offer.
    #[error("the control plane's challenge has no answer for the TPM")]
    NoAnswer,
    /// The control plane wants a PCR bank quoted that this TPM does not keep.
    #[error("the TPM keeps no PCR bank `{0}`: activate it, or use another in the profile")]
    NoBank(&'static str),
    /// The keys are not those that were offered: the TPM was cleared or replaced meanwhile.
    #[error("the TPM's keys have changed since they were offered: restart the sidecar")]
    KeysChanged,
    /// PCRs were extended while they were read and quoted, again and again.
    #[error("PCR values keep changing while they are quoted")]
    Unstable,
    /// The thread that talks to the TPM ended early: the process is shutting down.
    #[error("the collection of evidence was stopped")]
    Stopped,
}
