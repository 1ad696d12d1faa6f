//! Mesh state: signed revisions of policy, endpoints and trust bundle from the control plane.
//!
//! The stream is only a carrier. What counts is the signature of a mesh-state key that the pinned root certified, and
//! for each resource the proof that it belongs to the signed revision. A revision is applied whole or not at all: one
//! that fails leaves the last good one in force, and the control plane is told why (promise 6). A revision below the
//! highest one seen is refused, so that nobody can bring back yesterday's policy.
//!
//! Source: DESIGN §7.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use prost::Message;
use rustls_pki_types::CertificateDer;
use vouchsafe_api::convert::ConvertError;
use vouchsafe_api::convert::attest::Endpoint;
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_api::convert::mesh_state::{
    ResourceName, SignedRevision, Snapshot, authorities, read_trust_bundle, workload_endpoints,
};
use vouchsafe_api::v1;
use vouchsafe_attestation::merkle::Hash;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::peer::{RoleHolder, VerifyPeerError};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::standing::Withdrawal;
use vouchsafe_attestation::svid::MeshRole;
use vouchsafe_attestation::trust_bundle::TrustBundle;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::problem::Problems;
use vouchsafe_config::set::PolicySet;

use crate::state::{PolicyEpoch, WorkloadEndpoints};

mod probe;
pub mod stream;

#[cfg(test)]
mod tests;

/// What a verified snapshot means.
#[derive(Debug)]
pub struct MeshRevision {
    /// Policy and endpoints.
    pub policy: PolicyEpoch,
    /// Whom to believe.
    pub bundle: TrustBundle,
    /// Renewals ahead of time: of a workload, or of all.
    pub renewals: Vec<(Option<WorkloadName>, PacedRenewal)>,
}

/// Judges revisions: remembers the highest one seen.
#[derive(Debug, Default)]
pub struct Judge {
    highest: Option<(Revision, Hash)>,
}

impl Judge {
    /// Checks who signed a revision and that it is none of the past.
    ///
    /// `verify_signer` is [`crate::svid::connection::ControlPlane::verify_role`].
    ///
    /// # Errors
    /// [`RevisionError`].
    pub fn accept(
        &mut self,
        signed: &SignedRevision,
        verify_signer: impl FnOnce(
            &[CertificateDer<'_>],
            MeshRole,
        ) -> Result<RoleHolder, VerifyPeerError>,
    ) -> Result<(), RevisionError> {
        let chain: Vec<CertificateDer<'_>> = signed
            .signer_chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let signer = verify_signer(&chain, MeshRole::MeshState)?;
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

/// Reads the resources of a revision that [`Judge::accept`] accepted.
///
/// # Errors
/// [`RevisionError`]; nothing of the snapshot may be used then.
pub fn read_snapshot(
    snapshot: Snapshot,
    trust_domain: &TrustDomain,
) -> Result<MeshRevision, RevisionError> {
    let Snapshot {
        revision: signed,
        resources,
    } = snapshot;
    let (mut texts, mut endpoints, mut trust, mut bundle) =
        (Vec::new(), Vec::new(), Vec::new(), None);
    let mut renewals = Vec::new();
    let mut before: Option<u64> = None;
    for resource in resources {
        if !resource.belongs_to(&signed) {
            return Err(RevisionError::Proof(resource.name.to_string()));
        }
        // In the order of leaves, so none comes twice.
        if before.is_some_and(|before| before >= resource.index) {
            return Err(RevisionError::Order(resource.name.to_string()));
        }
        before = Some(resource.index);
        let name = resource.name.to_string();
        match resource.name {
            ResourceName::Policy { .. } => {
                let text = String::from_utf8(resource.content)
                    .map_err(|_| RevisionError::Content(name.clone()))?;
                texts.push((name, text));
            }
            ResourceName::Endpoints(workload) => {
                let wire = v1::Endpoints::decode(resource.content.as_slice())
                    .map_err(|_| RevisionError::Content(name.clone()))?;
                let read = workload_endpoints(wire)
                    .map_err(|error| RevisionError::Resource(name, error))?;
                endpoints.push(WorkloadEndpoints {
                    workload,
                    listeners: read.into_iter().map(listener).collect(),
                });
            }
            ResourceName::TrustBundle => {
                let wire = v1::TrustBundle::decode(resource.content.as_slice())
                    .map_err(|_| RevisionError::Content(name.clone()))?;
                let read = authorities(wire)
                    .and_then(|held| read_trust_bundle(&held))
                    .map_err(|error| RevisionError::Resource(name, error))?;
                bundle = Some(read);
            }
            ResourceName::Trust(instance) => {
                let read = InstanceTrust::decode(instance, &resource.content)
                    .map_err(|error| RevisionError::Resource(name, error))?;
                trust.push(read);
            }
            ResourceName::Renewal(scope) => {
                let read = PacedRenewal::decode(&resource.content)
                    .map_err(|error| RevisionError::Resource(name, error))?;
                renewals.push((scope, read));
            }
        }
    }
    let documents = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    Ok(MeshRevision {
        policy: PolicyEpoch {
            revision: signed.revision,
            policy: PolicySet::compile_slice(trust_domain, documents)
                .map_err(RevisionError::Policy)?
                .withdraw(trust.iter().cloned().map(Withdrawal::from)),
            endpoints,
            trust,
        },
        bundle: bundle.ok_or(RevisionError::NoBundle)?,
        renewals,
    })
}

fn listener(endpoint: Endpoint) -> (String, Vec<String>) {
    let ports = endpoint.ports.iter().map(ToString::to_string).collect();
    (endpoint.listener, ports)
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
    /// A resource is not proven to belong to the revision.
    #[error("`{0}` is not proven to belong to the revision")]
    Proof(String),
    /// Resources are not in the order of their leaves, or one comes twice.
    #[error("`{0}` is out of order")]
    Order(String),
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
    /// The bounded word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Signer(_) => "signer",
            Self::Signature => "signature",
            Self::Lower { .. } => "lower_revision",
            Self::Forked(_) => "forked_revision",
            Self::Proof(_) => "proof",
            Self::Order(_) => "order",
            Self::Content(_) | Self::Resource(..) => "resource",
            Self::NoBundle => "no_bundle",
            Self::Policy(_) => "policy",
        }
    }
}
