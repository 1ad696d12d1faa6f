//! Mesh state: signed revisions of policy, endpoints and trust from the control plane.
//!
//! The stream is only a carrier. What counts is the signature of a mesh-state key that the pinned root certified, and
//! the proof of what this workload's whole slice is in the signed revision ([`held`]): what was altered, added or left
//! out gives another root. A revision is applied whole or not at all: one that fails leaves the last good one in force,
//! and the control plane is told why (promise 6). A revision below the highest one seen is refused, so that nobody can
//! bring back yesterday's policy. A change that starts from another revision than the one that is held is never guessed
//! at: the control plane is told what is held, and makes a change that fits, or sends all of it.
//!
//! Source: DESIGN §7.

use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use vouchsafe_api::convert::ConvertError;
use vouchsafe_api::convert::mesh_state::SignedRevision;
use vouchsafe_attestation::merkle::Hash;
use vouchsafe_attestation::peer::{RoleHolder, VerifyPeerError};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::MeshRole;
use vouchsafe_config::problem::Problems;

pub mod farewell;
mod freshness;
pub mod held;
mod probe;
pub mod stream;

#[cfg(test)]
mod tests;

/// Judges revisions: remembers the highest one seen.
#[derive(Debug, Default)]
pub struct Judge {
    highest: Option<(Revision, Hash)>,
    /// The chain that was verified last, and whose it is: it signs until it ends, so a heartbeat costs one signature.
    signer: Option<(Vec<Vec<u8>>, RoleHolder)>,
}

impl Judge {
    /// Checks who signed a revision and that it is none of the past.
    ///
    /// `verify_signer` is [`crate::svid::connection::ControlPlane::verify_role`], which judges as of `now`.
    ///
    /// # Errors
    /// [`RevisionError`].
    pub fn accept(
        &mut self,
        signed: &SignedRevision,
        now: SystemTime,
        verify_signer: impl FnOnce(
            &[CertificateDer<'_>],
            MeshRole,
        ) -> Result<RoleHolder, VerifyPeerError>,
    ) -> Result<(), RevisionError> {
        let known = self.signer.take();
        let known =
            known.filter(|(chain, held)| *chain == signed.signer_chain && now < held.not_after);
        let (_, signer) = match known {
            Some(known) => self.signer.insert(known),
            None => {
                let chain: Vec<CertificateDer<'_>> = signed
                    .signer_chain
                    .iter()
                    .map(|der| CertificateDer::from(der.as_slice()))
                    .collect();
                let holder = verify_signer(&chain, MeshRole::MeshState)?;
                self.signer.insert((signed.signer_chain.clone(), holder))
            }
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &signer.spki)
            .verify(&signed.tbs(), &signed.signature)
            .map_err(|_| RevisionError::Signature)?;
        if let Some((highest, root)) = self.highest {
            if signed.revision < highest {
                return Err(RevisionError::Lower {
                    found: signed.revision,
                    highest,
                });
            }
            if signed.revision == highest && signed.root != root {
                return Err(RevisionError::Forked(highest));
            }
        }
        self.highest = Some((signed.revision, signed.root));
        Ok(())
    }
}

/// Why a revision is not applied.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    /// The message is out of bounds or names a resource that this build doesn't know.
    #[error("the message is malformed")]
    Message(#[from] ConvertError),
    /// Whoever signed is not a mesh-state key of this mesh.
    #[error("the signer is not the mesh state's")]
    Signer(#[from] VerifyPeerError),
    /// The signature is not the signer's over this revision.
    #[error("the signature does not verify")]
    Signature,
    /// Below what was already seen.
    #[error("revision {found} is lower than {highest}, which was already seen")]
    Lower {
        /// What came.
        found: Revision,
        /// The highest one seen.
        highest: Revision,
    },
    /// The same number with another content.
    #[error("revision {0} was already seen with another content")]
    Forked(Revision),
    /// A change starts from another revision than the one that is held.
    #[error("the change starts from revision {base}, and {held} is held")]
    Base {
        /// What it starts from.
        base: Revision,
        /// What is held.
        held: Revision,
    },
    /// What would be held is not what the revision proves of the slice.
    #[error("the resources are not those that the revision proves of slice `{0}`")]
    Proof(String),
    /// A slice of another workload.
    #[error("slice `{0}` is not of this workload")]
    Slice(String),
    /// A resource is not what its name says.
    #[error("`{0}` is not of the form that its name says")]
    Content(String),
    /// A resource is out of bounds.
    #[error("`{0}` can't be used")]
    Resource(String, #[source] ConvertError),
    /// The revision says not whom to believe.
    #[error("the revision has no trust bundle")]
    NoBundle,
    /// The documents don't compile; the text has every problem.
    #[error("the policy does not compile: {0}")]
    Policy(Problems),
}

impl RevisionError {
    /// Whether what came does not fit what is held, though its signer is right: then what is held is said, and a
    /// change that fits is asked for.
    pub fn is_misfit(&self) -> bool {
        matches!(self, Self::Base { .. } | Self::Proof(_))
    }

    /// Whether a revision that is to be believed can't be used: the same one again would fare no better.
    pub fn is_of_content(&self) -> bool {
        match self {
            Self::Message(_)
            | Self::Signer(_)
            | Self::Signature
            | Self::Lower { .. }
            | Self::Forked(_)
            | Self::Base { .. } => false,
            Self::Proof(_)
            | Self::Slice(_)
            | Self::Content(_)
            | Self::Resource(..)
            | Self::NoBundle
            | Self::Policy(_) => true,
        }
    }

    /// The bounded word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Signer(_) => "signer",
            Self::Signature => "signature",
            Self::Lower { .. } => "lower_revision",
            Self::Forked(_) => "forked_revision",
            Self::Proof(_) => "proof",
            Self::Base { .. } => "base",
            Self::Slice(_) => "slice",
            Self::Content(_) | Self::Resource(..) => "resource",
            Self::NoBundle => "no_bundle",
            Self::Policy(_) => "policy",
        }
    }
}
