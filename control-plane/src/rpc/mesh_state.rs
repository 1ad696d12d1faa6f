//! Mesh state to sidecars: what changes in each one's slice, and a freshly signed heartbeat in between.
//!
//! A stream has one position: what its sidecar is taken to hold. It moves when something is sent, and back when the
//! sidecar says that it could not use it; what the sidecar says it holds always counts more. Nothing queues: a stream
//! that is slow is sent the newest state when it can take something again, in one change.
//!
//! # Why
//! A change wakes those whose slice it changes. Another sidecar holds already all that the new revision says of it, so it
//! is proven the revision in place of the next heartbeat: a rule between two workloads costs a mesh of thousands two
//! messages, which do not queue behind thousands. Nothing can be kept back that way: each heartbeat names the newest
//! revision, and a sidecar that was not proven what that one says of it asks.
//!
//! Source: DESIGN §7.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_api::convert::mesh_state::{Acknowledgement, Holding, WatchRequest};
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;

use crate::mesh::frame::{Frame, Published};
use crate::mesh::probes::Line;
use crate::state::{ControlPlane, stopped};
use crate::tls::Connection;

/// The mesh-state service.
#[derive(Debug)]
pub struct MeshStateApi {
    control_plane: Arc<ControlPlane>,
}

/// What a stream sends.
pub type Outgoing = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

impl MeshStateApi {
    /// Serves from a control plane.
    pub fn new(control_plane: Arc<ControlPlane>) -> Self {
        Self { control_plane }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// `unauthenticated` without a certificate of this mesh that is still valid.
    pub fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Outgoing>, Status> {
        let connection = request.extensions().get::<Arc<Connection>>();
        let connection = connection.ok_or_else(|| Status::internal("no connection"))?;
        let (workload, instance) = holder(connection)?;
        let left = connection.lease(self.control_plane.now());
        if left.is_zero() {
            return Err(Status::unauthenticated(
                "the certificate of this connection has ended",
            ));
        }
        let watching = Watching {
            published: self.control_plane.mesh.clone(),
            shutdown: self.control_plane.shutdown.clone(),
            line: self.control_plane.probes.attach(workload.clone(), instance),
            open: Open::new(Arc::clone(&self.control_plane), instance),
            position: Position::new(workload),
            is_subscribed: false,
            beats: 0,
            incoming: request.into_inner(),
            ends: Instant::now() + left,
        };
        let answers = stream::unfold(watching, |mut watching| async {
            let answer = watching.next().await?;
            if let Ok(frame) = &answer {
                watching.open.count_sent(frame);
            }
            Some((answer, watching))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Who watches: the certificate that the connection presents says so.
fn holder(connection: &Connection) -> Result<(WorkloadName, InstanceId), Status> {
    let denied = || Status::unauthenticated("present a certificate of this mesh");
    let peer = connection.peer.as_ref().ok_or_else(denied)?;
    let workload = peer.id().workload().ok_or_else(denied)?;
    let result = peer.result().ok_or_else(denied)?;
    Ok((workload, result.instance))
}

/// One stream.
struct Watching {
    published: watch::Receiver<Published>,
    shutdown: watch::Receiver<bool>,
    open: Open,
    line: Line,
    position: Position,
    is_subscribed: bool,
    /// Signatures over a state that were passed on, or were not news.
    beats: u64,
    incoming: Streaming<v1::WatchRequest>,
    /// A stream ends with the certificate that opened it; the sidecar comes back with its successor.
    ends: Instant,
}

enum Heard {
    Said(Result<Option<v1::WatchRequest>, Status>),
    Published,
    Asked(Frame),
    Over,
}

/// What follows from what a sidecar said.
enum Next {
    /// Something must be sent now.
    Answer,
    Nothing,
    /// The sidecar ends, and the stream with it.
    Leave,
}

impl Watching {
    /// The next message; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<Frame, Status>> {
        if !self.is_subscribed {
            return match self.subscribe().await? {
                Ok(()) => Some(Ok(self.answer())),
                Err(status) => Some(Err(status)),
            };
        }
        loop {
            let heard = tokio::select! {
                // What would fall by a change is asked before the change is sent, also where both come at once. A sidecar
                // that talks without end keeps only itself from hearing.
                biased;
                () = stopped(&mut self.shutdown) => Heard::Over,
                () = tokio::time::sleep_until(self.ends) => Heard::Over,
                question = self.line.question() => Heard::Asked(question),
                changed = self.published.changed() => match changed {
                    Ok(()) => Heard::Published,
                    Err(_) => Heard::Over,
                },
                said = self.incoming.message() => Heard::Said(said),
            };
            match heard {
                Heard::Published => {
                    if let Some(frame) = self.news() {
                        return Some(Ok(frame));
                    }
                }
                Heard::Asked(question) => return Some(Ok(question)),
                Heard::Said(Ok(Some(message))) => match self.heed(message) {
                    Ok(Next::Answer) => return Some(Ok(self.answer())),
                    Ok(Next::Nothing) => {}
                    Ok(Next::Leave) => {
                        let instance = self.open.instance;
                        self.open.control_plane.left(&instance).await;
                        return None;
                    }
                    Err(status) => return Some(Err(status)),
                },
                Heard::Said(Ok(None) | Err(_)) | Heard::Over => return None,
            }
        }
    }

    /// The first message, within a deadline. The inner `None` is a peer that left.
    async fn subscribe(&mut self) -> Option<Result<(), Status>> {
        let first = tokio::time::timeout(SUBSCRIBE_DEADLINE, self.incoming.message()).await;
        match first {
            Ok(Ok(Some(message))) => match WatchRequest::try_from(message) {
                Ok(WatchRequest::Subscribe(holding)) => {
                    self.holds(holding);
                    self.is_subscribed = true;
                    Some(Ok(()))
                }
                Ok(
                    WatchRequest::Acknowledgement(_)
                    | WatchRequest::ProbeReport(_)
                    | WatchRequest::Report(_)
                    | WatchRequest::Goodbye,
                ) => Some(Err(Status::failed_precondition("subscribe first"))),
                Err(error) => Some(Err(Status::invalid_argument(error.to_string()))),
            },
            Ok(Ok(None)) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => Some(Err(Status::deadline_exceeded("no subscription came"))),
        }
    }

    fn holds(&mut self, holding: Holding) {
        let published = self.published();
        let is_other = self.position.is_other(holding, &published);
        let registry = &self.open.control_plane.registry;
        registry.holds(&self.open.instance, holding.revision, is_other);
        if self.position.subscribed(holding, &published) {
            self.open.applied(&published, holding.revision);
        }
    }

    /// Takes what the sidecar says, and says what follows.
    fn heed(&mut self, message: v1::WatchRequest) -> Result<Next, Status> {
        match WatchRequest::try_from(message) {
            Ok(WatchRequest::Acknowledgement(ack)) => match self.acknowledged(ack) {
                true => Ok(Next::Answer),
                false => Ok(Next::Nothing),
            },
            Ok(WatchRequest::ProbeReport(report)) => {
                if report.error.is_none() {
                    let registry = &self.open.control_plane.registry;
                    registry.has_open(&self.open.instance, report.live);
                }
                self.line.answered(report);
                Ok(Next::Nothing)
            }
            // Whose goodbye it is, the certificate of this connection says.
            Ok(WatchRequest::Goodbye) => Ok(Next::Leave),
            Ok(WatchRequest::Report(report)) => {
                let registry = &self.open.control_plane.registry;
                registry.reported(&self.open.instance, report);
                Ok(Next::Nothing)
            }
            Ok(WatchRequest::Subscribe(holding)) => {
                tracing::info!(
                    workload = %self.position.workload,
                    holds = %holding.revision,
                    wants_snapshot = holding.slice_root.is_none(),
                    "a sidecar asks for the mesh state again"
                );
                self.holds(holding);
                Ok(Next::Answer)
            }
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        }
    }

    fn acknowledged(&mut self, ack: Acknowledgement) -> bool {
        let published = self.published();
        let revision = ack.revision;
        match ack.outcome {
            Ok(root) => {
                let holding = Holding {
                    revision,
                    slice_root: Some(root),
                };
                match self.position.confirmed(holding, &published) {
                    Found::Whole => {
                        self.open.applied(&published, revision);
                        false
                    }
                    Found::Other => {
                        self.open.control_plane.metrics.mesh_state.repairs.inc();
                        tracing::error!(
                            workload = %self.position.workload,
                            %revision,
                            "a sidecar holds another slice than its revision has: sending all of it"
                        );
                        true
                    }
                    Found::OtherAgain => {
                        tracing::error!(
                            workload = %self.position.workload,
                            %revision,
                            "a sidecar holds another slice than its revision has after all of it was sent"
                        );
                        self.position.refused(revision);
                        self.open.refused(OTHER_SLICE.to_owned());
                        false
                    }
                }
            }
            Err(error) => {
                tracing::warn!(
                    workload = %self.position.workload,
                    %revision,
                    error,
                    "a sidecar could not apply the mesh state"
                );
                self.position.refused(revision);
                self.open.refused(error);
                false
            }
        }
    }

    /// What was published, for this sidecar; `None` where it may wait for the next heartbeat.
    fn news(&mut self) -> Option<Frame> {
        self.published.mark_unchanged();
        let published = self.published();
        let is_beat = self.beats != published.beats;
        if !is_beat && self.position.has_all_of(&published) {
            if self.position.has_confirmed_all_of(&published) {
                self.open.unconcerned(published.state.revision);
            }
            return None;
        }
        self.beats = published.beats;
        Some(self.position.answer(&published))
    }

    /// What brings the sidecar to the present state; a heartbeat where nothing does.
    fn answer(&mut self) -> Frame {
        self.published.mark_unchanged();
        let published = self.published();
        self.beats = published.beats;
        self.position.answer(&published)
    }

    /// What this sidecar is to hold: the state in force, or that of a canary.
    fn published(&self) -> Published {
        let published = self.published.borrow();
        let (workload, instance) = (&self.position.workload, &self.open.instance);
        published.of(workload, instance).clone()
    }
}

/// What a stream's sidecar is taken to hold.
#[derive(Debug)]
struct Position {
    workload: WorkloadName,
    /// With what was sent and not yet answered.
    holds: Holding,
    /// By its own word.
    confirmed: Holding,
    /// Revision that it could not apply; it is not sent again.
    refused: Option<Revision>,
    /// Revision at which all was sent because the sidecar held something else; once is enough.
    repaired: Option<Revision>,
}

/// Whether what a sidecar says that it holds is what the revision has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    Whole,
    Other,
    /// Though all of it was sent.
    OtherAgain,
}

impl Position {
    fn new(workload: WorkloadName) -> Self {
        Self {
            workload,
            holds: Holding::default(),
            confirmed: Holding::default(),
            refused: None,
            repaired: None,
        }
    }

    /// Whether a sidecar holds something else under the number of the present state.
    fn is_other(&self, holding: Holding, published: &Published) -> bool {
        let slice = published.state.slice(&self.workload);
        let is_present = holding.revision == published.state.revision;
        is_present && holding.slice_root.is_some_and(|root| root != slice.root)
    }

    /// The sidecar says what it holds. Whether it is the present state.
    fn subscribed(&mut self, holding: Holding, published: &Published) -> bool {
        let slice = published.state.slice(&self.workload);
        let is_present = holding.revision == published.state.revision;
        // The right revision with another content is worth nothing.
        let holding = match is_present && holding.slice_root != Some(slice.root) {
            true => Holding::default(),
            false => holding,
        };
        (self.holds, self.confirmed, self.refused) = (holding, holding, None);
        is_present && holding.slice_root.is_some()
    }

    /// The sidecar has applied something.
    fn confirmed(&mut self, holding: Holding, published: &Published) -> Found {
        self.refused = None;
        let slice = published.state.slice(&self.workload);
        let is_other =
            holding.revision == published.state.revision && holding.slice_root != Some(slice.root);
        match is_other {
            false => {
                self.confirmed = holding;
                Found::Whole
            }
            true if self.repaired == Some(holding.revision) => Found::OtherAgain,
            true => {
                self.repaired = Some(holding.revision);
                (self.holds, self.confirmed) = (Holding::default(), Holding::default());
                Found::Other
            }
        }
    }

    fn refused(&mut self, revision: Revision) {
        if self.holds.revision == revision {
            self.holds = self.confirmed;
        }
        self.refused = Some(revision);
    }

    /// Whether the sidecar was sent all that a state says of its workload, though perhaps under an older number.
    fn has_all_of(&self, published: &Published) -> bool {
        let slice = published.state.slice(&self.workload);
        self.holds.slice_root == Some(slice.root) && self.refused.is_none()
    }

    /// The same by the sidecar's own word.
    fn has_confirmed_all_of(&self, published: &Published) -> bool {
        let slice = published.state.slice(&self.workload);
        self.confirmed.slice_root == Some(slice.root)
    }

    fn answer(&mut self, published: &Published) -> Frame {
        let state = &published.state;
        let is_held = self.holds.slice_root.is_some() && self.holds.revision == state.revision;
        if is_held || self.refused == Some(state.revision) {
            return published.heartbeat();
        }
        let frame = published.change(&self.workload, self.holds);
        self.holds = Holding {
            revision: state.revision,
            slice_root: Some(state.slice(&self.workload).root),
        };
        frame
    }
}

/// Counts a stream for as long as it lives.
struct Open {
    control_plane: Arc<ControlPlane>,
    instance: InstanceId,
}

impl Open {
    fn new(control_plane: Arc<ControlPlane>, instance: InstanceId) -> Self {
        control_plane.metrics.streams.inc();
        let now = control_plane.now();
        control_plane.registry.stream_opened(instance, now);
        Self {
            control_plane,
            instance,
        }
    }

    fn applied(&self, published: &Published, revision: Revision) {
        let registry = &self.control_plane.registry;
        let is_news = registry.acknowledged(&self.instance, revision, None);
        if is_news && revision == published.state.revision {
            let metrics = &self.control_plane.metrics.mesh_state;
            metrics
                .apply
                .observe(published.since.elapsed().as_secs_f64());
        }
    }

    fn unconcerned(&self, revision: Revision) {
        let registry = &self.control_plane.registry;
        registry.unconcerned(&self.instance, revision);
    }

    fn refused(&self, error: String) {
        let registry = &self.control_plane.registry;
        registry.acknowledged(&self.instance, Revision::default(), Some(error));
        self.control_plane.metrics.mesh_state.refusals.inc();
    }

    fn count_sent(&self, frame: &Frame) {
        let metrics = &self.control_plane.metrics.mesh_state;
        metrics.sent.with_label_values(&[frame.kind.as_str()]).inc();
        let bytes = u64::try_from(frame.bytes.len()).unwrap_or(u64::MAX);
        metrics.sent_bytes.inc_by(bytes);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.control_plane.metrics.streams.dec();
        self.control_plane.registry.stream_closed(&self.instance);
    }
}

const SUBSCRIBE_DEADLINE: Duration = Duration::from_secs(10);
/// What `status` says of a sidecar that can't be brought to hold what it was sent.
const OTHER_SLICE: &str =
    "it holds another slice than its revision has, though all of it was sent again";
