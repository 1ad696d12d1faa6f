//! Accepts connections of sidecars and serves the gRPC API on them.
//!
//! Each connection is one TLS session with HTTP/2 on it, and every request on it carries the [`Connection`] that the
//! handshake made, so that an attestation is bound to the session that it really came over.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use vouchsafe_api::convert::MAX_ATTEST_MESSAGE_BYTES;
use vouchsafe_api::v1::attestation_server::AttestationServer;
use vouchsafe_attestation::result::InstanceId;

use crate::holders::{Hold, Holder, Holders};
use crate::rpc::attest::AttestationApi;
use crate::rpc::frames::MeshStateServer;
use crate::rpc::mesh_state::MeshStateApi;
use crate::state::{ControlPlane, stopped};
use crate::telemetry::Chain;
use crate::tls::{Connection, TlsEpoch};

type Attestation = AttestationServer<AttestationApi>;
type MeshState = MeshStateServer;

/// Serves until `shutdown` says so, then lets running requests end within the drain deadline.
pub async fn serve(
    listener: TcpListener,
    control_plane: Arc<ControlPlane>,
    epoch: watch::Receiver<TlsEpoch>,
    mut shutdown: watch::Receiver<bool>,
) {
    let doors = Arc::new(Doors::new(BOUNDS));
    let api = Api {
        attestation: AttestationServer::new(AttestationApi::new(Arc::clone(&control_plane)))
            .max_decoding_message_size(MAX_ATTEST_MESSAGE_BYTES),
        mesh_state: MeshStateServer::new(MeshStateApi::new(Arc::clone(&control_plane))),
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((socket, address)) => {
                let Some(knock) = doors.knock(address) else {
                    count_failure(&control_plane, "too_many_handshakes");
                    continue;
                };
                let epoch = epoch.borrow().clone();
                let (control_plane, api) = (Arc::clone(&control_plane), api.clone());
                let (doors, shutdown) = (Arc::clone(&doors), shutdown.clone());
                connections.spawn(async move {
                    let accepted = accept(socket, knock, &epoch, &control_plane, &doors).await;
                    if let Some(accepted) = accepted {
                        serve_one(accepted, control_plane, api, shutdown).await;
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, usually: wait for some to be closed instead of spinning.
                tracing::error!(error = %error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_DEADLINE, drained).await.is_err() {
        tracing::warn!("connections did not end in time and are closed");
    }
    connections.shutdown().await;
}

/// How many may be there at once.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    handshakes: usize,
    handshakes_of_address: usize,
    connections: usize,
    strangers: usize,
}

/// Who may come in. Handshakes, strangers and instances have bounds of their own, so that none keeps the others out.
struct Doors {
    bounds: Bounds,
    handshakes: Arc<Semaphore>,
    /// Handshakes of each address.
    of_address: Holders,
    connections: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// A place to shake hands, as long as that takes.
struct Knock {
    address: SocketAddr,
    _place: (OwnedSemaphorePermit, Hold),
}

impl Doors {
    fn new(bounds: Bounds) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            bounds,
            handshakes: places(bounds.handshakes),
            of_address: Holders::default(),
            connections: places(bounds.connections),
            strangers: places(bounds.strangers),
        }
    }

    /// A place to shake hands.
    fn knock(&self, address: SocketAddr) -> Option<Knock> {
        let holder = Holder::stranger(address.ip());
        let most = self.bounds.handshakes_of_address;
        let held = self.of_address.take(holder, most)?;
        let permit = Arc::clone(&self.handshakes).try_acquire_owned().ok()?;
        Some(Knock {
            address,
            _place: (permit, held),
        })
    }

    /// A place for a connection whose handshake is done, which gives up its place there; the second one is among those who
    /// present no certificate.
    fn enter(
        &self,
        _done: Knock,
        is_stranger: bool,
    ) -> Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
        let stranger = match is_stranger {
            true => Some(Arc::clone(&self.strangers).try_acquire_owned().ok()?),
            false => None,
        };
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        Some((permit, stranger))
    }
}

/// A connection whose handshake is done.
struct Accepted {
    connection: Connection,
    stream: TlsStream<TcpStream>,
    _place: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

/// Shakes hands.
async fn accept(
    socket: TcpStream,
    knock: Knock,
    epoch: &TlsEpoch,
    control_plane: &ControlPlane,
    doors: &Doors,
) -> Option<Accepted> {
    // Small messages both ways: waiting to fill packets only adds latency.
    let _ = socket.set_nodelay(true);
    let (address, bundle) = (knock.address, control_plane.bundle.load_full());
    let accepted = epoch
        .accept(socket, address, &bundle, control_plane.now())
        .await;
    let (connection, stream) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            count_failure(control_plane, error.reason());
            tracing::debug!(peer = %address, reason = error.reason(), error = %Chain(&error), "handshake failed");
            return None;
        }
    };
    let Some(place) = doors.enter(knock, connection.peer.is_none()) else {
        count_failure(control_plane, "too_many_connections");
        return None;
    };
    Some(Accepted {
        connection,
        stream,
        _place: place,
    })
}

async fn serve_one(
    accepted: Accepted,
    control_plane: Arc<ControlPlane>,
    api: Api,
    mut shutdown: watch::Receiver<bool>,
) {
    let Accepted {
        connection,
        stream,
        _place,
    } = accepted;
    control_plane.metrics.connections.inc();
    let address = connection.address;
    let result = connection.peer.as_ref().and_then(|peer| peer.result());
    let instance = result.map(|result| result.instance);
    let registry = &control_plane.registry;
    let is_revoked = instance.is_some_and(|instance| registry.is_revoked(&instance));
    let lease = connection.lease(control_plane.now());
    let lease = match is_revoked {
        // Long enough to be told to enrol again.
        true => lease.min(REVOKED_LEASE),
        false => lease,
    };
    let over = async {
        tokio::select! {
            () = tokio::time::sleep(lease) => {}
            () = revoked(&control_plane, instance.filter(|_| !is_revoked)) => {}
        }
    };
    let connection = Arc::new(connection);
    let service = service_fn(move |request| {
        let (mut api, connection) = (api.clone(), Arc::clone(&connection));
        async move { api.call(request, connection).await }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(&mut shutdown) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = over => {
            // What runs may end; what does not is cut.
            serving.as_mut().graceful_shutdown();
            let ended = tokio::time::timeout(DRAIN_DEADLINE, serving).await;
            ended.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %address, error = %Chain(&error), "connection ended");
    }
    control_plane.metrics.connections.dec();
}

/// Waits until an instance is revoked.
async fn revoked(control_plane: &ControlPlane, instance: Option<InstanceId>) {
    let Some(instance) = instance else {
        return std::future::pending().await;
    };
    let mut revocations = control_plane.registry.revocations();
    // The sender lives as long as the registry.
    while !control_plane.registry.is_revoked(&instance) && revocations.changed().await.is_ok() {}
}

fn count_failure(control_plane: &ControlPlane, reason: &str) {
    let failures = &control_plane.metrics.handshake_failures;
    failures.with_label_values(&[reason]).inc();
}

/// The services, by the first segment of the path.
#[derive(Clone)]
struct Api {
    attestation: Attestation,
    mesh_state: MeshState,
}

impl Api {
    async fn call(
        &mut self,
        mut request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Result<Response<Body>, Infallible> {
        request.extensions_mut().insert(connection);
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            Attestation::NAME => self.attestation.call(request).await,
            MeshState::NAME => self.mesh_state.call(request).await,
            _ => Ok(tonic::Status::unimplemented("no such service").into_http()),
        }
    }
}

/// Ten seconds each at most: a storm of a whole mesh that comes back at once.
const BOUNDS: Bounds = Bounds {
    handshakes: 8_192,
    // Many machines may share an address; one that only knocks leaves the rest to others.
    handshakes_of_address: 2_048,
    // Sidecars hold one connection each, and a second one while they renew.
    connections: 20_000,
    // Those without a certificate, each for one enrolment.
    strangers: 2_000,
};
/// An attestation and a mesh-state stream, with room.
const MAX_STREAMS: u32 = 8;
/// gRPC's own headers take a few hundred bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Finds ends that are gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// An attestation that is refused with `enroll_again`.
const REVOKED_LEASE: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// An attestation takes a second; mesh-state streams end at once.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn doors() -> Doors {
        Doors::new(Bounds {
            handshakes: 3,
            handshakes_of_address: 2,
            connections: 2,
            strangers: 1,
        })
    }

    fn address(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    #[test]
    fn who_only_knocks_keeps_nobody_else_from_shaking_hands() {
        let doors = doors();
        let knocks = [1, 2].map(|port| doors.knock(address(1, port)));
        assert!(knocks.iter().all(Option::is_some));
        assert!(doors.knock(address(1, 3)).is_none(), "more of one address");
        let other = doors.knock(address(2, 1));
        assert!(other.is_some());
        assert!(doors.knock(address(3, 1)).is_none(), "more than all");
        drop(knocks);
        assert!(doors.knock(address(3, 1)).is_some());
        assert!(doors.knock(address(1, 1)).is_some());
    }

    #[test]
    fn a_handshake_that_is_done_leaves_its_place_to_the_next() {
        let doors = doors();
        let mut inside = Vec::new();
        for port in 1..=2 {
            let knock = doors.knock(address(1, port)).unwrap();
            inside.push(doors.enter(knock, false).unwrap());
        }
        let again = [3, 4].map(|port| doors.knock(address(1, port)));
        assert!(again.iter().all(Option::is_some));
        let [full, _] = again;
        assert!(doors.enter(full.unwrap(), false).is_none());
    }

    #[test]
    fn strangers_keep_no_instance_out() {
        let doors = doors();
        let enter = |is_stranger| doors.enter(doors.knock(address(1, 1)).unwrap(), is_stranger);
        let stranger = enter(true);
        assert!(stranger.is_some());
        assert!(enter(true).is_none());
        let instance = enter(false);
        assert!(instance.is_some());
        drop(stranger);
        // A place among strangers is no place for a connection beyond them all.
        assert!(enter(true).is_some());
        drop(instance);
        assert!(enter(true).is_some());
    }
}
