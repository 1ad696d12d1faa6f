//! Versions of the mesh state.
//!
//! A revision names one state of policy, endpoints, trust bundle and revocations, for all sidecars alike.

use std::fmt;

/// One version of the mesh state. Ordered: a sidecar keeps the highest it saw and refuses lower ones.
///
/// `epoch` grows only by an act signed by the root (a restore from backup); `sequence` grows with each change.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Revision {
    /// Life of the store that the sequence belongs to, from 1.
    pub epoch: u64,
    /// Number of the change within the epoch, from 1; 0 is "nothing applied yet".
    pub sequence: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}
