//! The mesh state: one revision of everything that sidecars must know, and the slice that concerns each.
//!
//! All resources of the mesh, in the order of their names, are the leaves of one Merkle tree; its root is what the
//! mesh-state key signs. A sidecar gets the resources that concern its workload, each with its proof, encoded once and
//! shared by all sidecars of that workload.
//!
//! Source: DESIGN §7.

pub mod probes;
mod tree;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use vouchsafe_api::convert::attest::{AuthorityCertificate, Endpoint};
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_api::convert::mesh_state::{ResourceName, resource_leaf, revision_tbs, trust_bundle};
use vouchsafe_api::convert::unix_ms;
use vouchsafe_api::v1;
use vouchsafe_attestation::merkle::{Hash, leaf_hash};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::document::Kind;

use crate::ca::{CaError, RoleKey};
use crate::policy::LoadedPolicy;
use tree::ProofTree;

/// Everything that a revision is made of.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Policy in force.
    pub policy: Arc<LoadedPolicy>,
    /// Where instances are reached, by workload.
    pub endpoints: BTreeMap<WorkloadName, Vec<Endpoint>>,
    /// Whom to believe.
    pub bundle: Vec<AuthorityCertificate>,
    /// Instances that must not be believed, each once.
    pub trust: Vec<InstanceTrust>,
    /// Renewals ahead of time, each scope once.
    pub renewals: Vec<(Option<WorkloadName>, PacedRenewal)>,
}

/// One state of the mesh. Immutable: a change makes a new one.
#[derive(Debug)]
pub struct MeshState {
    /// Which.
    pub revision: Revision,
    /// Policy in force.
    pub policy: Arc<LoadedPolicy>,
    /// Root over all resources.
    pub root: Hash,
    resources: BTreeMap<String, (usize, Bytes)>,
    tree: ProofTree,
    slices: Mutex<BTreeMap<WorkloadName, Slice>>,
}

/// Resources of one workload, encoded: cloning shares the content.
type Slice = Arc<[v1::Resource]>;

/// A state with its newest signature: what streams send.
#[derive(Clone, Debug)]
pub struct Published {
    /// The state.
    pub state: Arc<MeshState>,
    /// The revision, signed within the last heartbeat.
    pub signed: v1::SignedRevision,
}

impl MeshState {
    /// Builds a state; `revision` says which it would be, [`Self::root`] whether it differs from another.
    pub fn build(revision: Revision, inputs: &Inputs) -> Self {
        let mut contents: BTreeMap<String, Bytes> = BTreeMap::new();
        for document in inputs.policy.set.documents() {
            contents.insert(document.resource_name(), document.distributable().into());
        }
        for (workload, endpoints) in &inputs.endpoints {
            let endpoints = v1::Endpoints {
                endpoints: endpoints.iter().cloned().map(Into::into).collect(),
            };
            contents.insert(endpoints_name(workload), endpoints.encode_to_vec().into());
        }
        let bundle = trust_bundle(inputs.bundle.clone()).encode_to_vec();
        contents.insert(TRUST_BUNDLE.to_owned(), bundle.into());
        for trust in &inputs.trust {
            let name = ResourceName::Trust(trust.instance).to_string();
            contents.insert(name, trust.encode().into());
        }
        for (scope, paced) in &inputs.renewals {
            let name = ResourceName::Renewal(scope.clone()).to_string();
            contents.insert(name, paced.encode().into());
        }
        let leaves = contents
            .iter()
            .map(|(name, content)| leaf_hash(&resource_leaf(name, content)))
            .collect();
        let tree = ProofTree::new(leaves);
        let resources = contents
            .into_iter()
            .enumerate()
            .map(|(index, (name, content))| (name, (index, content)))
            .collect();
        Self {
            revision,
            policy: Arc::clone(&inputs.policy),
            root: tree.root(),
            resources,
            tree,
            slices: Mutex::default(),
        }
    }

    /// Number of policy documents.
    pub fn documents(&self) -> u64 {
        self.policy.set.documents().len() as u64
    }

    /// The signed form, as of `now`.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn sign(&self, key: &RoleKey, now: SystemTime) -> Result<v1::SignedRevision, CaError> {
        let resources = self.resources.len() as u64;
        let tbs = revision_tbs(self.revision, &self.root, resources, now);
        Ok(v1::SignedRevision {
            revision: Some(self.revision.into()),
            root: self.root.to_vec(),
            resources,
            time_ms: unix_ms(now),
            signature: key.sign(&tbs)?,
            signer_chain: key.chain.iter().map(|der| der.to_vec()).collect(),
        })
    }

    /// All that concerns a workload: its own documents and rules, the doors that it may call and where they are, the
    /// settings of the mesh, the trust bundle, the instances that must not be believed.
    pub fn slice_for(&self, workload: &WorkloadName) -> Slice {
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slice) = slices.get(workload) {
            return Arc::clone(slice);
        }
        let slice: Slice = self.cut(workload).into();
        slices.insert(workload.clone(), Arc::clone(&slice));
        slice
    }

    fn cut(&self, workload: &WorkloadName) -> Vec<v1::Resource> {
        let set = &self.policy.set;
        let mut names = vec![TRUST_BUNDLE.to_owned()];
        // Everybody, as with revocations: who may talk to whom can't be told on a port that only audits.
        let distrusted = self.resources.range(TRUST_PREFIX.to_owned()..);
        let distrusted = distrusted.take_while(|(name, _)| name.starts_with(TRUST_PREFIX));
        names.extend(distrusted.map(|(name, _)| name.clone()));
        let renewals = [None, Some(workload.clone())];
        names.extend(renewals.map(|scope| ResourceName::Renewal(scope).to_string()));
        let mesh = set.documents().iter().filter(|one| one.kind == Kind::Mesh);
        for document in mesh.chain(set.slice_for(workload)) {
            names.push(document.resource_name());
        }
        if let Some(own) = set.workload(workload) {
            let called = set
                .access_policies()
                .filter(|rule| rule.from.iter().any(|from| from.admits(own)))
                .map(|rule| endpoints_name(&rule.to));
            names.extend(called);
        }
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| self.resource(name))
            .collect()
    }

    fn resource(&self, name: String) -> Option<v1::Resource> {
        let (index, content) = self.resources.get(&name)?;
        let proof = self.tree.prove(*index);
        Some(v1::Resource {
            content: content.clone(),
            index: *index as u64,
            proof: proof.iter().map(|hash| hash.to_vec()).collect(),
            name,
        })
    }
}

fn endpoints_name(workload: &WorkloadName) -> String {
    format!("endpoints/{workload}")
}

const TRUST_BUNDLE: &str = "trust-bundle";
const TRUST_PREFIX: &str = "trust/";
