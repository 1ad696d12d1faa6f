//! Mesh state to sidecars: a snapshot at once and at each change, a freshly signed heartbeat in between.
//!
//! Source: DESIGN §7.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_api::convert::mesh_state::WatchRequest;
use vouchsafe_api::v1;
use vouchsafe_api::v1::mesh_state_server::MeshState;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;

use crate::mesh::Published;
use crate::mesh::probes::Line;
use crate::state::{ControlPlane, stopped};
use crate::tls::Connection;

/// The mesh-state service.
#[derive(Debug)]
pub struct MeshStateApi {
    control_plane: Arc<ControlPlane>,
}

impl MeshStateApi {
    /// Serves from a control plane.
    pub fn new(control_plane: Arc<ControlPlane>) -> Self {
        Self { control_plane }
    }
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl MeshState for MeshStateApi {
    type WatchStream = Outgoing;

    async fn watch(
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
            workload,
            incoming: request.into_inner(),
            sent: None,
            ends: Instant::now() + left,
        };
        let answers = stream::unfold(watching, |mut watching| async {
            let answer = watching.next().await?;
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
    workload: WorkloadName,
    incoming: Streaming<v1::WatchRequest>,
    /// Revision of the newest snapshot that was sent; `None` before the subscription.
    sent: Option<Revision>,
    /// A stream ends with the certificate that opened it; the sidecar comes back with its successor.
    ends: Instant,
}

enum Heard {
    Said(Result<Option<v1::WatchRequest>, Status>),
    Published,
    Asked(v1::Probe),
    Over,
}

impl Watching {
    /// The next message; `None` ends the stream.
    async fn next(&mut self) -> Option<Result<v1::WatchResponse, Status>> {
        if self.sent.is_none() {
            return match self.subscribe().await? {
                Ok(()) => Some(Ok(self.answer())),
                Err(status) => Some(Err(status)),
            };
        }
        loop {
            let heard = tokio::select! {
                said = self.incoming.message() => Heard::Said(said),
                changed = self.published.changed() => match changed {
                    Ok(()) => Heard::Published,
                    Err(_) => Heard::Over,
                },
                probe = self.line.question() => Heard::Asked(probe),
                () = stopped(&mut self.shutdown) => Heard::Over,
                () = tokio::time::sleep_until(self.ends) => Heard::Over,
            };
            match heard {
                Heard::Published => return Some(Ok(self.answer())),
                Heard::Asked(probe) => {
                    return Some(Ok(v1::WatchResponse {
                        message: Some(v1::watch_response::Message::Probe(probe)),
                    }));
                }
                Heard::Said(Ok(Some(message))) => {
                    if let Err(status) = self.heed(message) {
                        return Some(Err(status));
                    }
                }
                Heard::Said(Ok(None) | Err(_)) | Heard::Over => return None,
            }
        }
    }

    /// The first message, within a deadline. The inner `None` is a peer that left.
    async fn subscribe(&mut self) -> Option<Result<(), Status>> {
        let first = tokio::time::timeout(SUBSCRIBE_DEADLINE, self.incoming.message()).await;
        match first {
            Ok(Ok(Some(message))) => match WatchRequest::try_from(message) {
                // What the sidecar holds already is sent all the same: it is small, and the sidecar repairs itself by it.
                Ok(WatchRequest::Subscribe(_)) => Some(Ok(())),
                Ok(WatchRequest::Acknowledgement { .. } | WatchRequest::ProbeReport(_)) => {
                    Some(Err(Status::failed_precondition("subscribe first")))
                }
                Err(error) => Some(Err(Status::invalid_argument(error.to_string()))),
            },
            Ok(Ok(None)) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => Some(Err(Status::deadline_exceeded("no subscription came"))),
        }
    }

    fn heed(&mut self, message: v1::WatchRequest) -> Result<(), Status> {
        match WatchRequest::try_from(message) {
            Ok(WatchRequest::Acknowledgement { revision, error }) => {
                if let Some(error) = &error {
                    tracing::warn!(
                        workload = %self.workload,
                        revision = %revision,
                        error,
                        "a sidecar could not apply the mesh state"
                    );
                }
                let registry = &self.open.control_plane.registry;
                registry.acknowledged(&self.open.instance, revision, error);
                Ok(())
            }
            Ok(WatchRequest::ProbeReport(report)) => {
                self.line.answered(report);
                Ok(())
            }
            Ok(WatchRequest::Subscribe(_)) => {
                Err(Status::failed_precondition("subscribed already"))
            }
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        }
    }

    /// A snapshot where the state is new to this stream, else a heartbeat.
    fn answer(&mut self) -> v1::WatchResponse {
        use v1::watch_response::Message;
        let published = self.published.borrow_and_update().clone();
        let revision = Some(published.signed);
        let message = if self.sent == Some(published.state.revision) {
            Message::Heartbeat(v1::Heartbeat { revision })
        } else {
            self.sent = Some(published.state.revision);
            let resources = published.state.slice_for(&self.workload).to_vec();
            Message::Snapshot(v1::Snapshot {
                revision,
                resources,
            })
        };
        v1::WatchResponse {
            message: Some(message),
        }
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
        control_plane.registry.stream_opened(instance);
        Self {
            control_plane,
            instance,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.control_plane.metrics.streams.dec();
        self.control_plane.registry.stream_closed(&self.instance);
    }
}

const SUBSCRIBE_DEADLINE: Duration = Duration::from_secs(10);
