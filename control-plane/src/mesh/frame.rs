//! Messages of a state, encoded once for all streams that send them.
//!
//! A change reaches a thousand sidecars of one workload as a thousand copies of the same bytes: they are encoded for the
//! first and shared with the others. What is kept lives until the next signature, so it is bounded by what one heartbeat
//! sees.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use prost::Message;
use tokio::time::Instant;
use vouchsafe_api::convert::mesh_state::Holding;
use vouchsafe_api::v1;
use vouchsafe_api::v1::watch_response;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;

use super::MeshState;
use super::slice::Difference;
use crate::canary::Facts;

/// A state with its newest signature: what streams send. Cloning shares.
#[derive(Clone, Debug)]
pub struct Published {
    /// The state.
    pub state: Arc<MeshState>,
    /// The revision, signed within the last heartbeat.
    pub signed: Arc<v1::SignedRevision>,
    /// When the state came in force in this process.
    pub since: Instant,
    /// What a share of the sidecars is sent instead.
    pub canary: Option<Arc<PublishedCanary>>,
    /// How often a state has been signed again since this process started: each time, every stream says something.
    pub beats: u64,
    heartbeat: Bytes,
    changes: Arc<Mutex<HashMap<(WorkloadName, Base), Frame>>>,
}

/// The state that a canary's sidecars are sent.
#[derive(Clone, Debug)]
pub struct PublishedCanary {
    /// Who they are, and why.
    pub facts: Arc<Facts>,
    /// Sequence of its first state.
    pub first: u64,
    /// The state; no canary is below it.
    pub published: Published,
}

/// One encoded [`v1::WatchResponse`].
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it is, for metrics.
    pub kind: FrameKind,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameKind {
    /// All of a slice.
    Snapshot,
    /// What changed in it.
    Delta,
    /// Nothing changed.
    Heartbeat,
    /// A question.
    Probe,
}

impl FrameKind {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Delta => "delta",
            Self::Heartbeat => "heartbeat",
            Self::Probe => "probe",
        }
    }
}

/// What a change starts from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Base {
    Nothing,
    /// A revision whose slice is known.
    Revision(Revision),
    /// A revision of which the sidecar holds the very slice of now.
    Same(Revision),
}

impl Published {
    /// A state that comes in force now as the first of this process, with a signature over it.
    pub fn new(state: Arc<MeshState>, signed: v1::SignedRevision) -> Self {
        Self::signed(state, signed, Instant::now(), 0)
    }

    /// The state that comes in force now in place of this one.
    pub fn next(&self, state: Arc<MeshState>, signed: v1::SignedRevision) -> Self {
        Self::signed(state, signed, Instant::now(), self.beats)
    }

    /// The same state with a newer signature.
    pub fn resigned(&self, signed: v1::SignedRevision) -> Self {
        let state = Arc::clone(&self.state);
        Self::signed(state, signed, self.since, self.beats + 1)
    }

    fn signed(
        state: Arc<MeshState>,
        signed: v1::SignedRevision,
        since: Instant,
        beats: u64,
    ) -> Self {
        let message = watch_response::Message::Heartbeat(v1::Heartbeat {
            revision: Some(signed.clone()),
        });
        Self {
            state,
            signed: Arc::new(signed),
            since,
            canary: None,
            beats,
            heartbeat: encode(message),
            changes: Arc::default(),
        }
    }

    /// The same beside a canary.
    #[must_use]
    pub fn beside(self, canary: Option<PublishedCanary>) -> Self {
        let canary = canary.map(Arc::new);
        Self { canary, ..self }
    }

    /// What an instance is sent.
    pub fn of(&self, workload: &WorkloadName, instance: &InstanceId) -> &Self {
        match &self.canary {
            Some(canary) if canary.facts.members.includes(workload, instance) => &canary.published,
            Some(_) | None => self,
        }
    }

    /// Says that nothing changed, and the time.
    pub fn heartbeat(&self) -> Frame {
        Frame {
            kind: FrameKind::Heartbeat,
            bytes: self.heartbeat.clone(),
        }
    }

    /// Brings a sidecar of a workload from what it holds to this state.
    pub fn change(&self, workload: &WorkloadName, holding: Holding) -> Frame {
        let slice = self.state.slice(workload);
        let (base, difference) = match holding.slice_root {
            None => (Base::Nothing, None),
            Some(root) if root == slice.root => (
                Base::Same(holding.revision),
                // Whatever the revisions, nothing has to change: a restart costs its sidecars no snapshot.
                Some(Difference::default()),
            ),
            Some(_) => match self.state.since(workload, holding.revision) {
                None => (Base::Nothing, None),
                Some(difference) => (Base::Revision(holding.revision), Some(difference)),
            },
        };
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (workload.clone(), base);
        if let Some(frame) = changes.get(&key) {
            return frame.clone();
        }
        let frame = self.encode(workload, holding.revision, difference);
        if changes.len() < MAX_KEPT {
            changes.insert(key, frame.clone());
        }
        frame
    }

    fn encode(
        &self,
        workload: &WorkloadName,
        base: Revision,
        difference: Option<Difference>,
    ) -> Frame {
        let revision = Some((*self.signed).clone());
        let proof = Some(self.state.proof(workload));
        let (kind, message) = match difference {
            None => {
                let snapshot = v1::Snapshot {
                    revision,
                    resources: self.state.slice(workload).resources(),
                    proof,
                };
                (
                    FrameKind::Snapshot,
                    watch_response::Message::Snapshot(snapshot),
                )
            }
            Some(Difference { changed, removed }) => {
                let delta = v1::Delta {
                    revision,
                    base: Some(base.into()),
                    changed,
                    removed,
                    proof,
                };
                (FrameKind::Delta, watch_response::Message::Delta(delta))
            }
        };
        Frame {
            kind,
            bytes: encode(message),
        }
    }
}

/// A question, as a frame.
pub fn probe(probe: v1::Probe) -> Frame {
    Frame {
        kind: FrameKind::Probe,
        bytes: encode(watch_response::Message::Probe(probe)),
    }
}

fn encode(message: watch_response::Message) -> Bytes {
    let response = v1::WatchResponse {
        message: Some(message),
    };
    response.encode_to_vec().into()
}

/// Changes that are kept: sidecars say themselves what they hold, so they could make any number.
const MAX_KEPT: usize = 16_384;
