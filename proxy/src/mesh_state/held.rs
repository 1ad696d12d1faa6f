//! What a sidecar holds of the mesh: its slice, resource by resource, and what the resources mean.
//!
//! Immutable: a change makes another one, which is used only when the signed revision proves it as a whole and all of it
//! can be read. What did not change is shared between the two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use vouchsafe_api::convert::attest::Endpoint;
use vouchsafe_api::convert::mesh_state::probe::Probe;
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_api::convert::mesh_state::{
    Delta, Holding, Resource, ResourceName, SignedRevision, SliceName, SliceProof, Snapshot,
    authorities, read_trust_bundle, workload_endpoints,
};
use vouchsafe_api::v1;
use vouchsafe_attestation::merkle::{self, Hash};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::standing::Withdrawal;
use vouchsafe_attestation::trust_bundle::TrustBundle;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::policy::Policy;
use vouchsafe_config::slice::PolicySlice;

use super::RevisionError;
use crate::state::{PolicyEpoch, WorkloadEndpoints};

/// Whose slice is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of the mesh.
    pub trust_domain: TrustDomain,
    /// The workload that the sidecar serves.
    pub workload: WorkloadName,
}

/// A slice, held. The default holds nothing.
#[derive(Clone, Debug, Default)]
pub struct Held {
    revision: Revision,
    root: Option<Hash>,
    leaves: BTreeMap<Arc<str>, Hash>,
    slice: PolicySlice,
    policy: Arc<Policy>,
    endpoints: BTreeMap<WorkloadName, Vec<(String, Vec<String>)>>,
    trust: BTreeMap<Arc<str>, InstanceTrust>,
    renewals: BTreeMap<Arc<str>, (Option<WorkloadName>, PacedRenewal)>,
    bundle: Option<Arc<TrustBundle>>,
}

impl Held {
    /// What is held, as the control plane is told.
    pub fn holding(&self) -> Holding {
        Holding {
            revision: self.revision,
            slice_root: self.root,
        }
    }

    /// Its revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether it is still what was proven when it came, computed afresh from what is held.
    pub fn is_whole(&self) -> bool {
        self.root
            .is_none_or(|root| root == slice_root(&self.leaves))
    }

    /// Whom to believe.
    pub fn bundle(&self) -> Option<&Arc<TrustBundle>> {
        self.bundle.as_ref()
    }

    /// Renewals ahead of time: of a workload, or of all.
    pub fn renewals(&self) -> Vec<(Option<WorkloadName>, PacedRenewal)> {
        self.renewals.values().cloned().collect()
    }

    /// How long it may be decided by without word from the control plane, where the mesh says so.
    pub fn stale_after(&self) -> Option<Duration> {
        self.slice.stale_after()
    }

    /// What the data path decides by.
    pub fn epoch(&self) -> PolicyEpoch {
        let endpoints = self.endpoints.iter();
        let endpoints = endpoints.map(|(workload, listeners)| WorkloadEndpoints {
            workload: workload.clone(),
            listeners: listeners.clone(),
        });
        PolicyEpoch {
            revision: self.revision,
            policy: Arc::clone(&self.policy),
            endpoints: endpoints.collect(),
            trust: self.trust.values().cloned().collect(),
            is_stale: false,
        }
    }

    /// What a snapshot holds, whose revision [`super::Judge::accept`] accepted.
    ///
    /// # Errors
    /// [`RevisionError`]; nothing of the snapshot may be used then.
    pub fn from_snapshot(snapshot: Snapshot, wanted: &Wanted) -> Result<Self, RevisionError> {
        Self::default().proven(
            &snapshot.revision,
            &snapshot.proof,
            snapshot.resources,
            &[],
            wanted,
        )
    }

    /// What is held after a change, whose revision [`super::Judge::accept`] accepted.
    ///
    /// # Errors
    /// [`RevisionError`]; what is held stays as it is.
    pub fn changed(&self, delta: Delta, wanted: &Wanted) -> Result<Self, RevisionError> {
        if self.root.is_none() || delta.base != self.revision {
            return Err(RevisionError::Base {
                base: delta.base,
                held: self.revision,
            });
        }
        self.proven(
            &delta.revision,
            &delta.proof,
            delta.changed,
            &delta.removed,
            wanted,
        )
    }

    /// What the data path would decide by if a probe's resources were in force.
    ///
    /// # Errors
    /// [`RevisionError`] where they can't be read.
    pub fn supposed(&self, probe: &Probe, wanted: &Wanted) -> Result<PolicyEpoch, RevisionError> {
        let supposed = self.with(probe.resources.clone(), &probe.removed, wanted)?;
        Ok(supposed.epoch())
    }

    fn proven(
        &self,
        signed: &SignedRevision,
        proof: &SliceProof,
        changed: Vec<Resource>,
        removed: &[ResourceName],
        wanted: &Wanted,
    ) -> Result<Self, RevisionError> {
        let is_ours = match &proof.slice {
            SliceName::Workload(workload) => *workload == wanted.workload,
            // Of a workload that the policy does not know: it has no rule, so everything is denied.
            SliceName::Unknown => true,
        };
        if !is_ours {
            return Err(RevisionError::Slice(proof.slice.to_string()));
        }
        let mut leaves = self.leaves.clone();
        for name in removed {
            leaves.remove(name.to_string().as_str());
        }
        for resource in &changed {
            leaves.insert(resource.name.to_string().into(), resource.leaf());
        }
        // Before anything is read: what is not proven is nobody's word.
        let root = slice_root(&leaves);
        if !proof.proves(&root, leaves.len() as u64, signed) {
            return Err(RevisionError::Proof(proof.slice.to_string()));
        }
        let held = self.with(changed, removed, wanted)?;
        if held.bundle.is_none() {
            return Err(RevisionError::NoBundle);
        }
        Ok(Self {
            revision: signed.revision,
            root: Some(root),
            leaves,
            ..held
        })
    }

    /// The meaning of what is held with changes; revision and root are not looked at.
    fn with(
        &self,
        changed: Vec<Resource>,
        removed: &[ResourceName],
        wanted: &Wanted,
    ) -> Result<Self, RevisionError> {
        let mut next = self.clone();
        let (mut texts, mut gone, mut is_other_policy) = (Vec::new(), Vec::new(), false);
        for name in removed {
            match name {
                ResourceName::Policy { .. } => gone.push(name.to_string()),
                ResourceName::Endpoints(workload) => drop(next.endpoints.remove(workload)),
                ResourceName::TrustBundle => next.bundle = None,
                ResourceName::Trust(_) => {
                    is_other_policy = true;
                    next.trust.remove(name.to_string().as_str());
                }
                ResourceName::Renewal(_) => drop(next.renewals.remove(name.to_string().as_str())),
            }
        }
        for resource in changed {
            let name = resource.name.to_string();
            match resource.name {
                ResourceName::Policy { .. } => {
                    let text = std::str::from_utf8(&resource.content)
                        .map_err(|_| RevisionError::Content(name.clone()))?;
                    texts.push((name, text.to_owned()));
                }
                ResourceName::Endpoints(workload) => {
                    let listeners = listeners(&name, &resource.content)?;
                    next.endpoints.insert(workload, listeners);
                }
                ResourceName::TrustBundle => {
                    next.bundle = Some(Arc::new(bundle(&name, &resource.content)?));
                }
                ResourceName::Trust(instance) => {
                    let read = InstanceTrust::decode(instance, &resource.content)
                        .map_err(|error| RevisionError::Resource(name.clone(), error))?;
                    is_other_policy = true;
                    next.trust.insert(name.into(), read);
                }
                ResourceName::Renewal(scope) => {
                    let read = PacedRenewal::decode(&resource.content)
                        .map_err(|error| RevisionError::Resource(name.clone(), error))?;
                    next.renewals.insert(name.into(), (scope, read));
                }
            }
        }
        if !texts.is_empty() || !gone.is_empty() {
            let texts = texts.iter();
            let texts = texts.map(|(name, text)| (name.as_str(), text.as_str()));
            next.slice = self
                .slice
                .with(texts, gone.iter().map(String::as_str))
                .map_err(RevisionError::Policy)?;
            is_other_policy = true;
        }
        if is_other_policy {
            let policy = next.slice.policy(&wanted.trust_domain);
            let policy = policy.map_err(RevisionError::Policy)?;
            let withdrawn = next.trust.values().cloned().map(Withdrawal::from);
            next.policy = Arc::new(policy.withdraw(withdrawn));
        }
        Ok(next)
    }
}

fn slice_root(leaves: &BTreeMap<Arc<str>, Hash>) -> Hash {
    let leaves: Vec<Hash> = leaves.values().copied().collect();
    merkle::root(&leaves)
}

fn listeners(name: &str, content: &[u8]) -> Result<Vec<(String, Vec<String>)>, RevisionError> {
    let wire =
        v1::Endpoints::decode(content).map_err(|_| RevisionError::Content(name.to_owned()))?;
    let read = workload_endpoints(wire)
        .map_err(|error| RevisionError::Resource(name.to_owned(), error))?;
    let listener = |endpoint: Endpoint| {
        let ports = endpoint.ports.iter().map(ToString::to_string).collect();
        (endpoint.listener, ports)
    };
    Ok(read.into_iter().map(listener).collect())
}

fn bundle(name: &str, content: &[u8]) -> Result<TrustBundle, RevisionError> {
    let wire =
        v1::TrustBundle::decode(content).map_err(|_| RevisionError::Content(name.to_owned()))?;
    authorities(wire)
        .and_then(|held| read_trust_bundle(&held))
        .map_err(|error| RevisionError::Resource(name.to_owned(), error))
}
