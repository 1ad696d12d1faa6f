//! Whether sidecars hold revisions that this control plane never made: then its data folder is an older copy of itself.
//!
//! Their numbers are refused by sidecars as long as they are lower, and would be believed once they pass: without the
//! revocations, enrolments and spent tokens of the time in between. So nothing is made until an operator says that he
//! knows, in an epoch of its own above all that was made before.
//!
//! What a sidecar says that it holds is its word alone. So it counts only where more than half of the machines that are
//! connected say such a thing, and more than half of those that have a certificate by what the folder knows: instances are
//! cheap, machines are not. Who is not trusted is not heard, and who has applied something of this process knows better.
//!
//! Not seen is a copy whose own numbers have passed those of its sidecars before they came back: `vouchsafe restored` is for
//! right after a copy was brought back.
//!
//! Source: DESIGN §7.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;

use super::{Inner, Registry};

/// What machines hold that was never made here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outrun {
    /// The highest revision that one of them holds.
    pub revision: Revision,
    /// How many machines hold such a one.
    pub sidecars: usize,
    /// Of so many that are connected.
    pub of: usize,
}

impl Inner {
    /// A revision came in force here.
    pub(super) fn made(&mut self, revision: Revision) {
        self.highest = self.highest.max(revision);
    }
}

impl Registry {
    /// A sidecar says what it holds when it subscribes; `is_other` where it has another content than this control plane
    /// gave that number.
    pub fn holds(&self, id: &InstanceId, revision: Revision, is_other: bool) {
        let mut inner = self.lock();
        let is_foreign = is_other || revision > inner.highest;
        if let Some(session) = inner.sessions.get_mut(id) {
            let knows_better = session.applied != Revision::default();
            session.foreign = (is_foreign && !knows_better).then_some(revision);
        }
    }

    /// Whether most of the connected sidecars hold what was never made here.
    pub fn outrun(&self, now: SystemTime) -> Option<Outrun> {
        let inner = self.lock();
        let known = |id: &InstanceId| inner.instances.get(id);
        let certified = { inner.instances.values() }
            .filter(|one| inner.withdrawal(one).is_none())
            .filter(|one| one.is_certified(now));
        let certified: BTreeSet<&str> = certified.map(|one| one.hardware.as_str()).collect();
        // An instance that nobody knows here has enrolled since the copy was made.
        let (mut connected, mut foreign) = (BTreeSet::new(), BTreeMap::new());
        for (id, session) in inner.sessions.iter().filter(|(_, one)| one.streams > 0) {
            let machine = match known(id) {
                Some(one) if inner.withdrawal(one).is_some() => continue,
                Some(one) => one.hardware.clone(),
                None => id.to_string(),
            };
            if let Some(held) = session.foreign.filter(|one| *one >= inner.highest) {
                let highest: &mut Revision = foreign.entry(machine.clone()).or_default();
                *highest = held.max(*highest);
            }
            connected.insert(machine);
        }
        let of = connected.len().max(certified.len());
        (foreign.len() * 2 > of).then(|| Outrun {
            revision: foreign.values().copied().max().unwrap_or_default(),
            sidecars: foreign.len(),
            of: connected.len(),
        })
    }

    /// The epoch that is above all that was made here, and above all that most of the connected sidecars hold.
    pub fn next_epoch(&self, now: SystemTime) -> u64 {
        let held = self.outrun(now).map_or(0, |outrun| outrun.revision.epoch);
        let own = self.lock().highest.epoch;
        // One that lies is not to use up all epochs.
        let believed = held.min(own.saturating_add(MAX_LEAP));
        believed.max(own).saturating_add(1)
    }
}

/// Far more than anybody brings back copies.
const MAX_LEAP: u64 = 1_000;
