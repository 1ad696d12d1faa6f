//! Who has applied a change: waited for by what sidecars say, each looked at when it said something.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use vouchsafe_api::v1;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;

use crate::state::ControlPlane;

/// What became of a revision at one sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Applied {
    /// It has applied it, so long after it was published.
    After(Duration),
    /// It may do so yet.
    Waits,
    /// It can't, or nobody knows.
    Not(String),
}

impl Applied {
    /// What `sidecar` shows of it.
    pub(super) fn note(self, sidecar: &mut v1::SidecarChange) {
        match self {
            Self::After(time) => sidecar.applied_us = micros(time).max(1),
            Self::Waits => sidecar.error = "it has not said that it applied it".to_owned(),
            Self::Not(why) => sidecar.error = why,
        }
    }
}

/// Waits until each of those that were connected has applied a revision, or has said why not.
pub(super) async fn applied(
    control_plane: &ControlPlane,
    revision: Revision,
    published: Instant,
    instances: Vec<InstanceId>,
) -> BTreeMap<InstanceId, Applied> {
    let mut heard = control_plane.registry.heard();
    let look = |id: &InstanceId| of(control_plane, revision, published, id);
    let mut found: BTreeMap<InstanceId, Applied> =
        instances.into_iter().map(|id| (id, look(&id))).collect();
    let deadline = published + APPLY_PATIENCE;
    let mut waiting = count(&found);
    while waiting > 0 {
        let Ok(said) = tokio::time::timeout_at(deadline, heard.recv()).await else {
            break;
        };
        match said {
            Ok(id) => {
                if let Some(one) = found.get_mut(&id)
                    && !matches!(one, Applied::After(_))
                {
                    waiting -= usize::from(*one == Applied::Waits);
                    *one = look(&id);
                    waiting += usize::from(*one == Applied::Waits);
                }
            }
            Err(RecvError::Lagged(_)) => {
                for (id, one) in &mut found {
                    if !matches!(one, Applied::After(_)) {
                        *one = look(id);
                    }
                }
                waiting = count(&found);
            }
            Err(RecvError::Closed) => break,
        }
    }
    found
}

fn count(found: &BTreeMap<InstanceId, Applied>) -> usize {
    found.values().filter(|one| **one == Applied::Waits).count()
}

fn of(
    control_plane: &ControlPlane,
    revision: Revision,
    published: Instant,
    id: &InstanceId,
) -> Applied {
    let session = control_plane.registry.session(id, control_plane.now());
    match session {
        None => Applied::Not("its certificate has ended".to_owned()),
        Some(session) if session.in_force() >= revision => Applied::After(published.elapsed()),
        Some(session) => match (session.error, session.streams) {
            (Some(error), _) => Applied::Not(error),
            (None, 0) => Applied::Not("its stream ended".to_owned()),
            (None, _) => Applied::Waits,
        },
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Several times what a slow sidecar needs; the change is in force whether it answers or not.
const APPLY_PATIENCE: Duration = Duration::from_secs(5);
