//! The mesh state: one revision of everything that sidecars must know, and the slice that concerns each.
//!
//! The resources that concern a workload are its *slice*, with a Merkle root of its own; the mesh-state key signs the
//! root over all slices. A sidecar gets its slice once and then what changes in it, always with the proof of what the
//! whole slice is now.
//!
//! A state is built from the one before it: what did not change is shared, and each resource remembers when it changed
//! and when it joined or left a slice. So a change can be made from any revision since this process started, without
//! keeping old states.
//!
//! | Module | Holds |
//! |---|---|
//! | `slice` | the resources of one workload, and what changed in them |
//! | [`frame`] | messages, encoded once for all streams of a workload |
//! | [`probes`] | questions to connected sidecars |
//!
//! Source: DESIGN §7.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use vouchsafe_api::convert::attest::{AuthorityCertificate, Endpoint};
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_api::convert::mesh_state::{
    ResourceName, SliceName, WHOLE, resource_leaf, revision_tbs, slice_leaf, trust_bundle,
};
use vouchsafe_api::convert::unix_ms;
use vouchsafe_api::v1;
use vouchsafe_attestation::merkle::{self, Hash, leaf_hash};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::revision::Revision;

use self::slice::{Resource, Slice};
use self::tree::ProofTree;
use crate::ca::{CaError, RoleKey};
use crate::policy::LoadedPolicy;

pub mod frame;
pub mod probes;
pub mod slice;
mod tree;

#[cfg(test)]
mod tests;

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

impl Inputs {
    /// Whether a state of `other` is one of `self`, as far as can be told without building it.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy)
            && self.endpoints == other.endpoints
            && self.bundle == other.bundle
            && self.trust == other.trust
            && self.renewals == other.renewals
    }
}

/// One state of the mesh. Immutable: a change makes a new one.
#[derive(Debug)]
pub struct MeshState {
    /// Which.
    pub revision: Revision,
    /// Policy in force.
    pub policy: Arc<LoadedPolicy>,
    /// Root over all slices.
    pub root: Hash,
    inputs: Inputs,
    layout: Arc<Layout>,
    resources: BTreeMap<Arc<str>, Arc<Resource>>,
    /// With the number of the leaf of each.
    slices: BTreeMap<WorkloadName, (usize, Arc<Slice>)>,
    /// Of workloads that the policy does not know.
    unknown: Arc<Slice>,
    tree: ProofTree,
    /// Sequence below which nothing is known.
    floor: u64,
    /// Sequences between which the odd ones were a canary's.
    canaries: Vec<RangeInclusive<u64>>,
}

/// Which resources concern whom, as far as policy says: it changes with policy only.
#[derive(Debug)]
struct Layout {
    /// Names of documents that concern everybody, and of a renewal of everybody where there is one.
    common: Vec<Arc<str>>,
    /// Names of the other documents, and of endpoints and a renewal where there are any.
    workloads: BTreeMap<WorkloadName, Vec<Arc<str>>>,
}

impl Layout {
    fn new(policy: &LoadedPolicy) -> Self {
        let documents = policy.set.documents().iter();
        let names: Vec<Arc<str>> = documents.map(|one| one.resource_name().into()).collect();
        let mut endpoints: BTreeMap<WorkloadName, Arc<str>> = BTreeMap::new();
        let concerns = policy.set.concerns().into_iter();
        let workloads = concerns.map(|(workload, concern)| {
            let documents = concern.documents.iter().filter_map(|at| names.get(*at));
            let mut wanted: Vec<Arc<str>> = documents.cloned().collect();
            let renewal = ResourceName::Renewal(Some(workload.clone()));
            wanted.push(renewal.to_string().into());
            wanted.extend(concern.calls.into_iter().map(|called| {
                let name = endpoints_name(&called);
                Arc::clone(endpoints.entry(called).or_insert_with(|| name.into()))
            }));
            (workload, wanted)
        });
        Self {
            workloads: workloads.collect(),
            common: policy
                .set
                .common()
                .map(|one| one.resource_name().into())
                .chain([ResourceName::Renewal(None).to_string().into()])
                .collect(),
        }
    }
}

impl MeshState {
    /// Builds the first state of a process: nobody can be told what changed before it.
    pub fn first(revision: Revision, inputs: Inputs) -> Self {
        Self::build(None, revision, inputs)
    }

    /// Builds the state that would follow this one; [`Self::root`] says whether it differs.
    pub fn next(&self, revision: Revision, inputs: Inputs) -> Self {
        Self::build(Some(self), revision, inputs)
    }

    fn build(before: Option<&Self>, revision: Revision, inputs: Inputs) -> Self {
        let sequence = revision.sequence;
        let same_policy = before.filter(|held| Arc::ptr_eq(&held.policy, &inputs.policy));
        let resources = resources(before, same_policy.is_some(), sequence, &inputs);
        let layout = match same_policy {
            Some(held) => Arc::clone(&held.layout),
            None => Arc::new(Layout::new(&inputs.policy)),
        };
        let mut common: Vec<&Arc<Resource>> = Vec::new();
        common.extend(layout.common.iter().filter_map(|name| resources.get(name)));
        // Trust concerns everybody, as revocations do: on a port that only audits anybody may come.
        let trust = resources.range::<str, _>(TRUST);
        common.extend(trust.map(|(_, resource)| resource));
        let slice = |wanted: &[Arc<str>], held: Option<&Arc<Slice>>| {
            let wanted = wanted.iter().filter_map(|name| resources.get(name));
            let members = wanted.chain(common.iter().copied()).cloned().collect();
            Slice::next(held, members, sequence)
        };
        let slices: BTreeMap<WorkloadName, (usize, Arc<Slice>)> = layout
            .workloads
            .iter()
            .zip(FIRST_WORKLOAD..)
            .map(|((workload, wanted), index)| {
                let held = before.and_then(|before| before.slices.get(workload));
                let slice = slice(wanted, held.map(|(_, held)| held));
                (workload.clone(), (index, slice))
            })
            .collect();
        let unknown = slice(&[], before.map(|before| &before.unknown));
        let tree = tree(&resources, &unknown, &slices);
        Self {
            revision,
            policy: Arc::clone(&inputs.policy),
            root: tree.root(),
            inputs,
            layout,
            resources,
            slices,
            unknown,
            tree,
            floor: before.map_or(sequence, |before| before.floor),
            canaries: before.map_or_else(Vec::new, |before| before.canaries.clone()),
        }
    }

    /// Notes that a canary ran beside the states before this one: whoever held it held no part of this one's past.
    pub fn follows_canary(&mut self, sequences: RangeInclusive<u64>) {
        if self.canaries.len() >= MAX_CANARIES {
            let oldest = self.canaries.remove(0);
            self.floor = self.floor.max(oldest.end() + 1);
        }
        self.canaries.push(sequences);
    }

    /// Gives the first state of a process another number.
    pub fn renumber(&mut self, revision: Revision) {
        self.revision = revision;
        self.floor = revision.sequence;
    }

    /// Whether a state of these inputs would be this one.
    pub fn is_of(&self, inputs: &Inputs) -> bool {
        self.inputs.is_same(inputs)
    }

    /// Whether a state believes others than this one.
    pub fn has_other_bundle(&self, other: &Self) -> bool {
        self.inputs.bundle != other.inputs.bundle
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
        let slices = self.tree.leaves() as u64;
        let tbs = revision_tbs(self.revision, &self.root, slices, now);
        Ok(v1::SignedRevision {
            revision: Some(self.revision.into()),
            root: self.root.to_vec(),
            slices,
            time_ms: unix_ms(now),
            signature: key.sign(&tbs)?,
            signer_chain: key.chain.iter().map(|der| der.to_vec()).collect(),
        })
    }

    /// All that concerns a workload: its own documents and rules, the doors that it may call and where they are, the
    /// settings of the mesh, the trust bundle, all revocations, the instances that must not be believed.
    pub fn slice(&self, workload: &WorkloadName) -> &Arc<Slice> {
        let held = self.slices.get(workload);
        held.map_or(&self.unknown, |(_, slice)| slice)
    }

    /// The proof of [`Self::slice`].
    pub fn proof(&self, workload: &WorkloadName) -> v1::SliceProof {
        let (slice, index) = match self.slices.get(workload) {
            Some((index, _)) => (SliceName::Workload(workload.clone()), *index),
            None => (SliceName::Unknown, UNKNOWN),
        };
        let siblings = self.tree.prove(index);
        v1::SliceProof {
            slice: slice.to_string(),
            index: index as u64,
            siblings: siblings.iter().map(|hash| hash.to_vec()).collect(),
        }
    }

    /// What makes a workload's slice of this state out of that of `base`; `None` where that can't be told, so that all of
    /// it must be sent.
    pub fn since(&self, workload: &WorkloadName, base: Revision) -> Option<slice::Difference> {
        let was_canary = |ran: &RangeInclusive<u64>| ran.contains(&base.sequence);
        let is_known = base.epoch == self.revision.epoch
            && (self.floor..=self.revision.sequence).contains(&base.sequence)
            && (base.sequence.is_multiple_of(2) || !self.canaries.iter().any(was_canary));
        // Who holds the slice of unknown workloads may have held one of its own before.
        let (_, slice) = self.slices.get(workload).filter(|_| is_known)?;
        slice.since(base.sequence)
    }

    /// What makes a workload's slice of this state out of that of another, which need not be one that ever was.
    pub fn difference(&self, other: &Self, workload: &WorkloadName) -> slice::Difference {
        self.slice(workload).difference(other.slice(workload))
    }
}

/// All resources of a state; those that did not change are those of the state before.
fn resources(
    before: Option<&MeshState>,
    is_same_policy: bool,
    sequence: u64,
    inputs: &Inputs,
) -> BTreeMap<Arc<str>, Arc<Resource>> {
    let mut found = BTreeMap::new();
    let mut add = |name: String, content: Bytes| {
        let held = before.and_then(|before| before.resources.get(name.as_str()));
        let resource = match held.filter(|held| held.content == content) {
            Some(held) => Arc::clone(held),
            None => Arc::new(Resource {
                leaf: leaf_hash(&resource_leaf(&name, &content)),
                name: held.map_or_else(|| name.into(), |held| Arc::clone(&held.name)),
                content,
                changed: sequence,
            }),
        };
        found.insert(Arc::clone(&resource.name), resource);
    };
    if !is_same_policy {
        for document in inputs.policy.set.documents() {
            add(document.resource_name(), document.distributable().into());
        }
    }
    for (workload, endpoints) in &inputs.endpoints {
        let endpoints = v1::Endpoints {
            endpoints: endpoints.iter().cloned().map(Into::into).collect(),
        };
        add(endpoints_name(workload), endpoints.encode_to_vec().into());
    }
    let bundle = trust_bundle(inputs.bundle.clone()).encode_to_vec();
    add(ResourceName::TrustBundle.to_string(), bundle.into());
    for trust in &inputs.trust {
        let name = ResourceName::Trust(trust.instance).to_string();
        add(name, trust.encode().into());
    }
    for (scope, paced) in &inputs.renewals {
        let name = ResourceName::Renewal(scope.clone()).to_string();
        add(name, paced.encode().into());
    }
    if let Some(before) = before.filter(|_| is_same_policy) {
        let documents = before.resources.range::<str, _>(POLICY);
        found.extend(documents.map(|(name, held)| (Arc::clone(name), Arc::clone(held))));
    }
    found
}

/// The tree whose root is signed: everything, the slice of unknown workloads, then workloads in the order of names.
fn tree(
    resources: &BTreeMap<Arc<str>, Arc<Resource>>,
    unknown: &Slice,
    slices: &BTreeMap<WorkloadName, (usize, Arc<Slice>)>,
) -> ProofTree {
    let leaf =
        |name: &str, root: &Hash, count: usize| leaf_hash(&slice_leaf(name, root, count as u64));
    // So that a change which concerns no sidecar (a profile) is another state, too.
    let all: Vec<Hash> = resources.values().map(|resource| resource.leaf).collect();
    let mut leaves = vec![
        leaf(WHOLE, &merkle::root(&all), all.len()),
        leaf(
            &SliceName::Unknown.to_string(),
            &unknown.root,
            unknown.len(),
        ),
    ];
    let known = slices.iter();
    leaves
        .extend(known.map(|(name, (_, slice))| leaf(&name.to_string(), &slice.root, slice.len())));
    ProofTree::new(leaves)
}

fn endpoints_name(workload: &WorkloadName) -> String {
    ResourceName::Endpoints(workload.clone()).to_string()
}

/// Canaries that a state remembers; whoever was away since an earlier one gets all of its slice.
const MAX_CANARIES: usize = 64;
/// Leaf of the slice of unknown workloads, after the one over everything.
const UNKNOWN: usize = 1;
/// Leaf of the first workload's slice.
const FIRST_WORKLOAD: usize = 2;
/// Names of policy documents lie between these two, since `0` follows `/`.
const POLICY: (Bound<&str>, Bound<&str>) = (Bound::Included("policy/"), Bound::Excluded("policy0"));
/// Those of trust, the bundle and instances, between these.
const TRUST: (Bound<&str>, Bound<&str>) = (Bound::Included("trust-"), Bound::Excluded("trust0"));
