//! Which revision is in force, as the store has it: no start gives a number twice.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vouchsafe_attestation::revision::Revision;

use super::canary;
use super::publishing::PublishError;
use crate::canary::Canary;
use crate::mesh::{Inputs, MeshState};
use crate::registration::Registry;
use crate::store::{Expect, Store, StoreError};

/// The states that a start begins with: the one that was in force before, or its successor; and that of a canary that
/// goes on.
///
/// # Errors
/// [`PublishError::Store`].
pub(crate) async fn first_states(
    registry: &Registry,
    inputs: Inputs,
    canary: Option<&Canary>,
) -> Result<(canary::Next, bool), PublishError> {
    let held = registry
        .store()
        .get(REVISION)
        .await
        .map_err(PublishError::Store)?;
    let held: Option<StoredRevision> = match held {
        Some(entry) => Some(serde_json::from_slice(&entry.value).map_err(|_| {
            PublishError::Store(StoreError::Engine(format!("entry `{REVISION}` is damaged")))
        })?),
        None => None,
    };
    let (revision, highest, root, digest) = held.map_or_else(
        || (FIRST_REVISION, 0, String::new(), String::new()),
        |held| (held.revision(), held.highest, held.root, held.policy),
    );
    let policy_changed = hex::encode(inputs.policy.digest) != digest;
    let mut numbers = canary::Numbers::new(revision, highest, canary.is_some());
    let mut state = MeshState::first(revision, inputs.clone());
    // Where a canary ended in the middle of it, its sidecars hold a higher number than the state in force.
    let must_rise = canary.is_none() && highest > revision.sequence;
    if hex::encode(state.root) != root || must_rise {
        state.renumber(numbers.present());
    }
    let beside = canary.map(|canary| canary::NextCanary::first(canary, inputs, &mut numbers));
    let next = canary::Next {
        state: Arc::new(state),
        canary: beside,
    };
    if next.state.revision != revision || next.canary.is_some() {
        write_revision(registry, &next.state, next.highest()).await?;
    }
    Ok((next, policy_changed))
}

pub(super) async fn write_revision(
    registry: &Registry,
    state: &MeshState,
    highest: u64,
) -> Result<(), PublishError> {
    let stored = StoredRevision {
        epoch: state.revision.epoch,
        sequence: state.revision.sequence,
        highest,
        root: hex::encode(state.root),
        policy: hex::encode(state.policy.digest),
    };
    // Plain texts and numbers always have a JSON form.
    let value = serde_json::to_vec(&stored).unwrap_or_default();
    registry
        .store()
        .put_if(REVISION, value, Expect::Any)
        .await
        .map(drop)
        .map_err(PublishError::Store)
}

#[derive(Debug, Deserialize, Serialize)]
struct StoredRevision {
    epoch: u64,
    sequence: u64,
    /// The highest that a sidecar may hold: a canary's may be above that of the state in force.
    #[serde(default)]
    highest: u64,
    root: String,
    policy: String,
}

impl StoredRevision {
    fn revision(&self) -> Revision {
        Revision {
            epoch: self.epoch,
            sequence: self.sequence,
        }
    }
}

const REVISION: &str = "mesh/revision";
/// Sequence 0 is "nothing applied yet", so the first state gets 1.
const FIRST_REVISION: Revision = Revision {
    epoch: 1,
    sequence: 0,
};
