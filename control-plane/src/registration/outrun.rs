//! Whether sidecars hold revisions that this control plane never made: then its data folder is an older copy of itself.
//!
//! Their numbers are refused by sidecars as long as they are lower, and would be believed once they pass: without the
//! revocations, enrolments and spent tokens of the time in between. So nothing is made until an operator says that he
//! knows, in an epoch of its own above all that was made before.
//!
//! What a sidecar says that it holds is its word alone, so it counts only where more than half of those that are connected
//! say such a thing.
//!
//! Source: DESIGN §7.

use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;

use super::{Inner, Registry};

/// What sidecars hold that was never made here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outrun {
    /// The highest revision that one of them holds.
    pub revision: Revision,
    /// How many hold such a one.
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
            session.foreign = is_foreign.then_some(revision);
        }
    }

    /// Whether most of the connected sidecars hold what was never made here.
    pub fn outrun(&self) -> Option<Outrun> {
        let inner = self.lock();
        let connected = inner.sessions.values().filter(|one| one.streams > 0);
        let (mut of, mut sidecars, mut revision) = (0, 0, Revision::default());
        for session in connected {
            of += 1;
            if let Some(foreign) = session.foreign.filter(|one| *one >= inner.highest) {
                sidecars += 1;
                revision = revision.max(foreign);
            }
        }
        (sidecars * 2 > of).then_some(Outrun {
            revision,
            sidecars,
            of,
        })
    }

    /// The epoch that is above all that was made here, and above all that most of the connected sidecars hold.
    pub fn next_epoch(&self) -> u64 {
        let held = self.outrun().map_or(0, |outrun| outrun.revision.epoch);
        let own = self.lock().highest.epoch;
        held.max(own).saturating_add(1)
    }
}
