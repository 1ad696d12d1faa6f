//! The resources of one workload, and what changed in them.

use std::sync::Arc;

use bytes::Bytes;
use vouchsafe_api::v1;
use vouchsafe_attestation::merkle::{self, Hash};

/// One resource of a state.
#[derive(Debug)]
pub struct Resource {
    pub(super) name: Arc<str>,
    pub(super) content: Bytes,
    pub(super) leaf: Hash,
    /// Sequence of the state in which it got this content.
    pub(super) changed: u64,
}

impl From<&Resource> for v1::Resource {
    fn from(resource: &Resource) -> Self {
        Self {
            name: resource.name.to_string(),
            content: resource.content.clone(),
        }
    }
}

/// The resources of one workload, in the order of their names.
#[derive(Debug)]
pub struct Slice {
    /// Merkle root over them.
    pub root: Hash,
    members: Vec<Member>,
    /// Those that left since `floor`, oldest first.
    gone: Vec<Gone>,
    /// What left before this is no longer known.
    floor: u64,
}

#[derive(Clone, Debug)]
struct Member {
    resource: Arc<Resource>,
    /// Sequence of the state in which it became this workload's concern.
    joined: u64,
}

#[derive(Clone, Debug)]
struct Gone {
    name: Arc<str>,
    /// Sequence of the state in which it had become this workload's concern.
    joined: u64,
    /// Sequence of the first state without it.
    left: u64,
}

/// What makes one slice out of another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// New, or with another content; in the order of names.
    pub changed: Vec<v1::Resource>,
    /// Names of those that are gone, in their order.
    pub removed: Vec<String>,
}

impl Slice {
    /// The slice with these resources, in any order and perhaps twice, as of state `sequence`.
    pub(super) fn next(
        before: Option<&Arc<Self>>,
        mut resources: Vec<Arc<Resource>>,
        sequence: u64,
    ) -> Arc<Self> {
        resources.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        resources.dedup_by(|one, other| one.name == other.name);
        let held = before.map_or(&[][..], |before| &before.members);
        let is_same = held.len() == resources.len()
            && held
                .iter()
                .zip(&resources)
                .all(|(held, resource)| Arc::ptr_eq(&held.resource, resource));
        if let Some(before) = before.filter(|_| is_same) {
            return Arc::clone(before);
        }
        let joined = |name: &str| {
            let place = held.binary_search_by(|one| (*one.resource.name).cmp(name));
            let held = place.ok().and_then(|place| held.get(place));
            held.map_or(sequence, |held| held.joined)
        };
        let leaves: Vec<Hash> = resources.iter().map(|resource| resource.leaf).collect();
        let members: Vec<Member> = resources
            .into_iter()
            .map(|resource| Member {
                joined: joined(&resource.name),
                resource,
            })
            .collect();
        let (mut gone, mut floor) = match before {
            Some(before) => (before.gone.clone(), before.floor),
            None => (Vec::new(), sequence),
        };
        let left = held.iter();
        let left = left.filter(|held| find(&members, &held.resource.name).is_none());
        gone.extend(left.map(|held| Gone {
            name: Arc::clone(&held.resource.name),
            joined: held.joined,
            left: sequence,
        }));
        let excess = gone.len().saturating_sub(MAX_GONE);
        if let Some(last) = gone.drain(..excess).next_back() {
            floor = floor.max(last.left);
        }
        Arc::new(Self {
            root: merkle::root(&leaves),
            members,
            gone,
            floor,
        })
    }

    /// Number of its resources.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All of it.
    pub fn resources(&self) -> Vec<v1::Resource> {
        let members = self.members.iter();
        members.map(|member| (&*member.resource).into()).collect()
    }

    /// What changed after state `sequence`; `None` where that is no longer known.
    pub(super) fn since(&self, sequence: u64) -> Option<Difference> {
        if sequence < self.floor {
            return None;
        }
        let changed = self
            .members
            .iter()
            .filter(|member| member.joined > sequence || member.resource.changed > sequence);
        let gone = self.gone.iter().rev();
        let gone = gone.take_while(|gone| gone.left > sequence);
        // What came and went since then was never held.
        let gone = gone
            .filter(|gone| gone.joined <= sequence && find(&self.members, &gone.name).is_none());
        let mut removed: Vec<String> = gone.map(|gone| gone.name.to_string()).collect();
        removed.sort_unstable();
        removed.dedup();
        Some(Difference {
            changed: changed.map(|member| (&*member.resource).into()).collect(),
            removed,
        })
    }

    /// What makes this slice out of `other`, whatever their history.
    pub(super) fn difference(&self, other: &Self) -> Difference {
        let is_new = |member: &&Member| {
            let held = find(&other.members, &member.resource.name);
            held.is_none_or(|held| held.resource.leaf != member.resource.leaf)
        };
        let left = other.members.iter().map(|held| &held.resource.name);
        let left = left.filter(|name| find(&self.members, name).is_none());
        Difference {
            changed: self
                .members
                .iter()
                .filter(is_new)
                .map(|member| (&*member.resource).into())
                .collect(),
            removed: left.map(ToString::to_string).collect(),
        }
    }
}

fn find<'m>(members: &'m [Member], name: &str) -> Option<&'m Member> {
    let place = members.binary_search_by(|one| (*one.resource.name).cmp(name));
    members.get(place.ok()?)
}

/// Names of what left that a slice remembers; who was away for more gets all of it.
const MAX_GONE: usize = 1024;
