//! The part of a policy that one sidecar needs: which documents it is made of, and what they mean together.
//!
//! The control plane cuts slices out of a whole policy ([`PolicySet::concerns`]); a sidecar keeps the documents of its
//! own ([`PolicySlice`]), each read once, so that a change costs what changed and one compilation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::trust_domain::TrustDomain;

#[cfg(test)]
mod tests;

use crate::access::{AccessPolicy, Selector};
use crate::document::Kind;
use crate::node::Node;
use crate::policy::Policy;
use crate::problem::{Problem, Problems};
use crate::revocation::Revocation;
use crate::set::{Document, PolicySet};
use crate::source::Source;
use crate::workload::Workload;

/// What of a policy concerns one workload, beside what concerns everybody (the Mesh and all revocations).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Concern {
    /// Places in [`PolicySet::documents`], ascending, each once: its own Workload; the rules of its ports, with the
    /// Workloads that their labels may select; the rules that may admit it elsewhere, with the Workloads whose doors
    /// they open.
    pub documents: Vec<usize>,
    /// Workloads that a rule may admit it to.
    pub calls: BTreeSet<WorkloadName>,
}

impl PolicySet {
    /// What concerns each workload. One pass over the rules, whatever the number of workloads.
    pub fn concerns(&self) -> BTreeMap<WorkloadName, Concern> {
        let places = Places::new(self);
        let mut found: BTreeMap<WorkloadName, Concern> = self
            .workloads()
            .map(|workload| (workload.name.clone(), Concern::default()))
            .collect();
        for (name, concern) in &mut found {
            concern.documents.extend(places.of(Kind::Workload, name));
        }
        for rule in self.access_policies() {
            let place = places.of(Kind::AccessPolicy, &rule.name);
            if let Some(own) = found.get_mut(&rule.to) {
                own.documents.extend(place);
                for from in rule.from.iter().filter(|from| is_labelled(from)) {
                    let selected = places.admitted(from).into_iter();
                    let selected = selected.filter_map(|one| places.of(Kind::Workload, &one.name));
                    own.documents.extend(selected);
                }
            }
            let opened = places.of(Kind::Workload, &rule.to);
            for caller in rule.from.iter().flat_map(|from| places.admitted(from)) {
                let Some(concern) = found.get_mut(&caller.name) else {
                    continue;
                };
                concern.calls.insert(rule.to.clone());
                concern.documents.extend(place.into_iter().chain(opened));
            }
        }
        for concern in found.values_mut() {
            concern.documents.sort_unstable();
            concern.documents.dedup();
        }
        found
    }

    /// Documents that concern every sidecar: settings of the mesh, and all revocations with the Nodes that they name,
    /// because whom a revocation means can't be told from names.
    pub fn common(&self) -> impl Iterator<Item = &Document> {
        let revocations = self.revocations();
        let named: BTreeSet<_> = revocations
            .flat_map(|one| &one.matches.nodes)
            .map(|node| (&node.namespace, &node.name))
            .collect();
        self.documents()
            .iter()
            .filter(move |one| match (&one.kind, &one.namespace) {
                (Kind::Mesh | Kind::Revocation, _) => true,
                (Kind::Node, Some(namespace)) => named.contains(&(namespace, &one.name)),
                _ => false,
            })
    }

    /// The slices of all workloads.
    pub fn slices(&self) -> Slices<'_> {
        Slices {
            set: self,
            concerns: self.concerns(),
            common: self.common().collect(),
        }
    }

    /// The documents that the sidecar of a workload needs to decide about all its doors and all doors that it may call,
    /// in the order of [`PolicySet::documents`]; none for a workload that the policy does not know.
    pub fn slice_for(&self, workload: &WorkloadName) -> Vec<&Document> {
        if self.workload(workload).is_none() {
            return Vec::new();
        }
        let slice = self.slices().of(workload).into_iter();
        slice.filter(|one| one.kind != Kind::Mesh).collect()
    }
}

/// Whose concern which document is.
#[derive(Debug)]
pub struct Slices<'s> {
    set: &'s PolicySet,
    concerns: BTreeMap<WorkloadName, Concern>,
    common: Vec<&'s Document>,
}

impl<'s> Slices<'s> {
    /// The documents of a workload's slice, in the order of [`PolicySet::documents`]; what concerns everybody, for a
    /// workload that the policy does not know.
    pub fn of(&self, workload: &WorkloadName) -> Vec<&'s Document> {
        let own = self.concerns.get(workload).map(|own| &own.documents);
        let own = own.into_iter().flatten();
        let own = own.filter_map(|place| self.set.documents().get(*place));
        let mut documents: Vec<&Document> = own.chain(self.common.iter().copied()).collect();
        documents.sort_unstable_by_key(|one| std::ptr::from_ref(*one));
        documents.dedup_by_key(|one| std::ptr::from_ref(*one));
        documents
    }
}

/// Where documents and workloads are.
struct Places<'s> {
    documents: HashMap<(Kind, &'s Name, &'s Name), usize>,
    workloads: HashMap<&'s WorkloadName, &'s Workload>,
    namespaces: HashMap<&'s Name, Vec<&'s Workload>>,
}

impl<'s> Places<'s> {
    fn new(set: &'s PolicySet) -> Self {
        let documents = set.documents().iter().enumerate();
        let documents = documents.filter_map(|(place, document)| {
            let namespace = document.namespace.as_ref()?;
            Some(((document.kind, namespace, &document.name), place))
        });
        let mut namespaces: HashMap<&Name, Vec<&Workload>> = HashMap::new();
        for workload in set.workloads() {
            let held = namespaces.entry(&workload.name.namespace).or_default();
            held.push(workload);
        }
        Self {
            documents: documents.collect(),
            workloads: set.workloads().map(|one| (&one.name, one)).collect(),
            namespaces,
        }
    }

    fn of(&self, kind: Kind, name: &WorkloadName) -> Option<usize> {
        let key = (kind, &name.namespace, &name.name);
        self.documents.get(&key).copied()
    }

    fn admitted(&self, from: &Selector) -> Vec<&'s Workload> {
        match from {
            Selector::Workload(name) => self.workloads.get(name).copied().into_iter().collect(),
            Selector::Namespace { namespace, .. } => {
                let held = self.namespaces.get(namespace).into_iter().flatten();
                held.copied().filter(|one| from.admits(one)).collect()
            }
            Selector::SpiffeId(_) => Vec::new(),
        }
    }
}

fn is_labelled(from: &Selector) -> bool {
    matches!(from, Selector::Namespace { labels, .. } if !labels.is_empty())
}

/// The documents that a sidecar was sent, which lack most others: only what each says by itself is checked.
///
/// Immutable: a change makes another one, so that a bad change leaves this one as it is (promise 6). What did not
/// change is shared between the two.
#[derive(Clone, Debug, Default)]
pub struct PolicySlice {
    documents: BTreeMap<Arc<str>, Arc<Read>>,
}

/// One document, as it was read.
#[derive(Debug)]
enum Read {
    Workload(Workload),
    AccessPolicy(AccessPolicy),
    Revocation(Revocation),
    /// A machine that a revocation names.
    Node(Node),
    /// Settings of the mesh, of which a sidecar decides by `stale_after`.
    Mesh(Option<Duration>),
    /// A kind that says nothing to a sidecar's decisions.
    Other,
}

impl PolicySlice {
    /// This slice with changes: `changed` are (resource name, text as of [`Document::distributable`]) and stand in for
    /// those of the same name, `removed` are names.
    ///
    /// # Errors
    /// All mistakes of all changed documents at once.
    pub fn with<'d>(
        &self,
        changed: impl IntoIterator<Item = (&'d str, &'d str)>,
        removed: impl IntoIterator<Item = &'d str>,
    ) -> Result<Self, Problems> {
        let mut documents = self.documents.clone();
        for name in removed {
            documents.remove(name);
        }
        let mut found = Vec::new();
        for (name, text) in changed {
            match read(name, text) {
                Ok(document) => {
                    documents.insert(name.into(), Arc::new(document));
                }
                Err(problems) => found.extend(problems.iter().cloned()),
            }
            found.truncate(Problems::MAX);
        }
        if found.is_empty() {
            return Ok(Self { documents });
        }
        Err(Problems::from_errors(found))
    }

    /// How long the slice may be decided by without word from the control plane; `None` for as long as certificates live.
    pub fn stale_after(&self) -> Option<Duration> {
        let mut documents = self.documents.values();
        documents.find_map(|document| match document.as_ref() {
            Read::Mesh(stale_after) => *stale_after,
            _ => None,
        })
    }

    /// What the documents mean together.
    ///
    /// # Errors
    /// All mistakes between them at once.
    pub fn policy(&self, trust_domain: &TrustDomain) -> Result<Policy, Problems> {
        let (mut workloads, mut access, mut revocations) = (Vec::new(), Vec::new(), Vec::new());
        let mut nodes = BTreeMap::new();
        for document in self.documents.values() {
            match document.as_ref() {
                Read::Workload(workload) => workloads.push(workload),
                Read::AccessPolicy(rule) => access.push(rule),
                Read::Revocation(revocation) => revocations.push(revocation.clone()),
                Read::Node(node) => drop(nodes.insert(&node.name, node)),
                Read::Mesh(_) | Read::Other => {}
            }
        }
        // As of a whole policy, so that of several rules that admit, the same one is named everywhere.
        workloads.sort_by_key(|one| &one.name);
        access.sort_by_key(|one| &one.name);
        revocations.sort_by(|one, other| one.name.cmp(&other.name));
        for revocation in &mut revocations {
            revocation.resolve(|name| nodes.get(name).copied())?;
        }
        Ok(Policy::compile(
            trust_domain,
            workloads.into_iter(),
            access.into_iter(),
            revocations.iter(),
        ))
    }
}

/// Reads one document, which must be the one that its name says.
fn read(name: &str, text: &str) -> Result<Read, Problems> {
    let set = PolicySet::slice(vec![Source::new(name, text)])?;
    match set.documents() {
        [document] if document.resource_name() == name => {}
        _ => {
            let problem = Problem::of_file(name, "the text is not the document that its name says");
            return Err(Problems::one(
                problem.hint("this is a mistake of the control plane, please report it"),
            ));
        }
    }
    Ok(set.into_only())
}

impl PolicySet {
    /// The only document of a set.
    fn into_only(self) -> Read {
        if let Some(mesh) = self.mesh() {
            return Read::Mesh(mesh.stale_after);
        }
        let (workloads, access, revocations, nodes) = self.into_parts();
        let workload = workloads.into_values().next().map(Read::Workload);
        workload
            .or_else(|| access.into_values().next().map(Read::AccessPolicy))
            .or_else(|| revocations.into_values().next().map(Read::Revocation))
            .or_else(|| nodes.into_values().next().map(Read::Node))
            .unwrap_or(Read::Other)
    }
}
