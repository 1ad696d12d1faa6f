//! Connections to peers: warm shared lanes, kept by target, and connections of one flow's own.
//!
//! A lane is keyed by identity epoch, expected SPIFFE ID and endpoint. A new epoch opens new lanes; old ones are no longer
//! found, and end when their last stream does or when their lease does.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::info;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::policy::Direction;
use vouchsafe_http2::client::SendRequest;

use crate::http2;
use crate::io::{Io, Transport};
use crate::lane::control::bonds::Bonded;
use crate::lane::preamble::Preamble;
use crate::lane::{ALPN_FLOW, ALPN_H2, ALPN_HTTP1, ALPN_SHARED};
use crate::outbound::Outbound;
use crate::reason::{self, Reason};
use crate::registry::LaneKind;
use crate::registry::live::Live;
use crate::telemetry::Chain;
use crate::tls::acceptor::{HandshakeError, Secured};
use crate::tls::{Offer, TlsEpoch, connector};
use crate::worker::{Registered, Worker};

/// All targets of one worker.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    targets: RefCell<Vec<Rc<Target>>>,
}

/// One workload at one endpoint.
#[derive(Debug)]
pub(crate) struct Target {
    id: SpiffeId,
    endpoint: Box<str>,
    lanes: RefCell<Vec<Rc<PeerLane>>>,
    /// Held while a lane is opened, so that a burst opens one and not hundreds.
    opening: tokio::sync::Mutex<()>,
    /// Connections over which leases can be extended.
    bonded: RefCell<Vec<Weak<Bonded>>>,
    /// Whether a control stream is open, or being opened.
    pub(crate) looked_after: Cell<bool>,
}

/// A warm connection that carries many streams.
#[derive(Debug)]
pub(crate) struct PeerLane {
    pub(crate) send: SendRequest,
    /// `Shared`, or `Interop` for a server without our sidecar that speaks HTTP/2.
    pub(crate) kind: LaneKind,
    pub(crate) live: Rc<Live>,
    epoch: u64,
    closed: Rc<Cell<bool>>,
}

impl PeerLane {
    fn is_usable(&self, epoch: u64) -> bool {
        !self.closed.get()
            && self.epoch == epoch
            && !self.live.is_draining()
            && (self.live.streams.get() as usize)
                < room_for_streams(self.send.current_max_send_streams())
    }

    /// Takes the lane out of use: it refused a stream.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }
}

/// What was opened to a peer.
#[derive(Debug)]
pub(crate) enum Opened {
    /// A lane for many streams.
    Lane(Rc<PeerLane>),
    /// A connection of one's own.
    Direct(Box<Direct>),
}

/// A connection of one flow's own.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) io: Io,
    pub(crate) registered: Registered,
    /// Whether the server waits for a preamble: it has our sidecar.
    pub(crate) takes_preamble: bool,
    /// Epoch of the identity that it was opened with.
    pub(crate) epoch: u64,
}

impl Direct {
    /// Says for which port the flow is.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn write_preamble(&mut self, preamble: &Preamble) -> Result<(), Reason> {
        (self.registered.registration.live)
            .number
            .set(preamble.number);
        let written = self.io.write_all(&preamble.encode()).await;
        written.map_err(|_| reason::UPSTREAM_CLOSED)
    }
}

/// Speaks HTTP/2 on a connection of one's own.
pub(crate) fn into_lane(worker: &Rc<Worker>, direct: Direct) -> Rc<PeerLane> {
    let Direct {
        io,
        registered,
        epoch,
        ..
    } = direct;
    open_lane(worker, io, LaneKind::Dedicated, registered, epoch)
}

impl Opened {
    /// The connection with the peer.
    pub(crate) fn live(&self) -> &Rc<Live> {
        match self {
            Self::Lane(lane) => &lane.live,
            Self::Direct(direct) => &direct.registered.registration.live,
        }
    }
}

impl Lanes {
    /// The target of a workload at an endpoint (`host:port`).
    pub(crate) fn target(&self, id: &SpiffeId, endpoint: &str) -> Rc<Target> {
        let mut targets = self.targets.borrow_mut();
        let known = targets
            .iter()
            .find(|target| &*target.endpoint == endpoint && target.id == *id);
        if let Some(known) = known {
            return Rc::clone(known);
        }
        let target = Rc::new(Target {
            id: id.clone(),
            endpoint: endpoint.into(),
            lanes: RefCell::default(),
            opening: tokio::sync::Mutex::default(),
            bonded: RefCell::default(),
            looked_after: Cell::new(false),
        });
        // Endpoints come and go with the mesh state; those that nobody uses have no lanes.
        targets.retain(|target| Rc::strong_count(target) > 1 || target.has_lanes());
        targets.push(Rc::clone(&target));
        target
    }
}

impl Lanes {
    /// All targets that are known.
    pub(crate) fn all(&self) -> Vec<Rc<Target>> {
        self.targets.borrow().clone()
    }
}

impl Outbound {
    /// Whether a lane may take another request.
    pub(crate) fn is_usable(&self, lane: &PeerLane) -> bool {
        let epoch = self.worker.tls();
        epoch.is_some_and(|epoch| lane.is_usable(epoch.identity.number))
    }

    /// Takes or opens a connection to the workload, at the first endpoint that answers.
    ///
    /// # Errors
    /// The reason of the last endpoint that was tried.
    pub(crate) async fn acquire(&self, offer: Offer) -> Result<Opened, Reason> {
        let epoch = self.worker.tls().ok_or(reason::NO_IDENTITY)?;
        let mut last = reason::NO_ENDPOINT;
        for target in self.targets() {
            match target.acquire(&self.worker, &epoch, offer).await {
                Ok(opened) => return Ok(opened),
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }
}

impl Target {
    /// `host:port`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Live connections over which leases can be extended.
    pub(crate) fn bonded(&self) -> Vec<Rc<Bonded>> {
        let mut bonded = self.bonded.borrow_mut();
        bonded.retain(|one| one.strong_count() > 0);
        bonded.iter().filter_map(Weak::upgrade).collect()
    }

    fn has_lanes(&self) -> bool {
        let mut lanes = self.lanes.borrow_mut();
        lanes.retain(|lane| !lane.closed.get());
        !lanes.is_empty()
    }

    fn usable(&self, epoch: u64) -> Option<Rc<PeerLane>> {
        let mut lanes = self.lanes.borrow_mut();
        lanes.retain(|lane| !lane.closed.get() && lane.epoch == epoch);
        lanes
            .iter()
            .find(|lane| lane.is_usable(epoch))
            .map(Rc::clone)
    }

    pub(crate) async fn acquire(
        &self,
        worker: &Rc<Worker>,
        epoch: &Rc<TlsEpoch>,
        offer: Offer,
    ) -> Result<Opened, Reason> {
        let shared = matches!(offer, Offer::SharedHttp | Offer::SharedTcp);
        if !shared {
            return Box::pin(self.open(worker, epoch, offer)).await;
        }
        let number = epoch.identity.number;
        if let Some(lane) = self.usable(number) {
            return Ok(Opened::Lane(lane));
        }
        // Boxed: rare, and large by its handshake.
        Box::pin(self.open_shared(worker, epoch, offer)).await
    }

    async fn open_shared(
        &self,
        worker: &Rc<Worker>,
        epoch: &Rc<TlsEpoch>,
        offer: Offer,
    ) -> Result<Opened, Reason> {
        let _opening = self.opening.lock().await;
        if let Some(lane) = self.usable(epoch.identity.number) {
            return Ok(Opened::Lane(lane));
        }
        let opened = self.open(worker, epoch, offer).await?;
        if let Opened::Lane(lane) = &opened {
            self.lanes.borrow_mut().push(Rc::clone(lane));
        }
        Ok(opened)
    }

    async fn open(
        &self,
        worker: &Rc<Worker>,
        epoch: &Rc<TlsEpoch>,
        offer: Offer,
    ) -> Result<Opened, Reason> {
        let limits = &worker.parts.config.limits;
        let started = tokio::time::Instant::now();
        let connect = self.connect(epoch, offer);
        let secured = match tokio::time::timeout(limits.handshake, connect).await {
            Ok(Ok(secured)) => secured,
            Ok(Err(error)) => return Err(self.failed(worker, &error)),
            Err(_) => {
                return Err(self.failed(worker, &ConnectError::Handshake(HandshakeError::Timeout)));
            }
        };
        let metrics = worker.parts.metrics.of(Direction::Outbound);
        metrics.handshake.observe(started.elapsed().as_secs_f64());
        let Secured {
            stream,
            peer,
            alpn,
            exporter,
        } = secured;
        let io = Io::new(Transport::Tls(stream));
        let lane = match alpn.as_deref() {
            Some(ALPN_SHARED) => LaneKind::Shared,
            Some(ALPN_FLOW) => LaneKind::Dedicated,
            _ => LaneKind::Interop,
        };
        let registered = worker.register_peer(None, lane, &peer, exporter, epoch);
        if let Some(bonded) = &registered.bonded {
            let mut all = self.bonded.borrow_mut();
            all.retain(|one| one.strong_count() > 0);
            all.push(Rc::downgrade(bonded));
        }
        let number = epoch.identity.number;
        match alpn.as_deref() {
            Some(ALPN_SHARED | ALPN_H2) => {
                let lane = open_lane(worker, io, lane, registered, number);
                Ok(Opened::Lane(lane))
            }
            Some(ALPN_FLOW | ALPN_HTTP1) | None => Ok(Opened::Direct(Box::new(Direct {
                io,
                registered,
                takes_preamble: lane == LaneKind::Dedicated,
                epoch: number,
            }))),
            // rustls only ever reports what we offered.
            Some(_) => Err(reason::HTTP2),
        }
    }

    async fn connect(&self, epoch: &TlsEpoch, offer: Offer) -> Result<Secured, ConnectError> {
        let tcp = TcpStream::connect(&*self.endpoint)
            .await
            .map_err(ConnectError::Tcp)?;
        tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
        let secured = connector::connect(tcp, epoch, offer)
            .await
            .map_err(ConnectError::Handshake)?;
        if *secured.peer.peer.id() != self.id {
            return Err(ConnectError::WrongPeer(secured.peer.peer.id().clone()));
        }
        Ok(secured)
    }

    fn failed(&self, worker: &Worker, error: &ConnectError) -> Reason {
        let reason = error.reason();
        let metrics = &worker.parts.metrics;
        metrics.handshake_failed(Direction::Outbound, reason);
        info!(
            direction = "outbound",
            reason = reason.as_str(),
            peer_id = %self.id,
            endpoint = &*self.endpoint,
            error = %Chain(error),
            "connection to a peer failed"
        );
        reason
    }
}

/// How many requests and flows may be open on a lane where the peer admits so many streams: control streams are streams
/// too, and come when they are due. Where they took the last place, a flow would wait for another one's end.
fn room_for_streams(admitted: usize) -> usize {
    admitted.saturating_sub(CONTROL_STREAMS).max(1)
}

fn open_lane(
    worker: &Rc<Worker>,
    io: Io,
    kind: LaneKind,
    registered: Registered,
    epoch: u64,
) -> Rc<PeerLane> {
    let limits = &worker.parts.config.limits;
    let (send, connection) = http2::connect(io, limits);
    let live = Rc::clone(&registered.registration.live);
    live.ends_when_idle();
    let closed = Rc::new(Cell::new(false));
    // Ends by itself, after what is still to be sent, when the last handle and stream are gone.
    tokio::task::spawn_local({
        let closed = Rc::clone(&closed);
        let live = Rc::clone(&live);
        let worker = Rc::clone(worker);
        async move {
            let _registered = registered;
            tokio::select! {
                // First, as inbound: a cut is counted.
                biased;
                reason = live.cut() => worker.parts.metrics.cut(Direction::Outbound, reason),
                // How the connection ended is seen by its streams.
                _ = connection => {}
            }
            closed.set(true);
        }
    });
    Rc::new(PeerLane {
        send,
        kind,
        live,
        epoch,
        closed,
    })
}

/// One that extends leases, and one that proves keys for strict routes.
const CONTROL_STREAMS: usize = 2;

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("failed to connect")]
    Tcp(#[source] std::io::Error),
    #[error("failed to agree on TLS")]
    Handshake(#[source] HandshakeError),
    #[error("the server is `{0}`")]
    WrongPeer(SpiffeId),
}

impl ConnectError {
    fn reason(&self) -> Reason {
        match self {
            Self::Tcp(_) => reason::UNREACHABLE,
            Self::Handshake(error) => error.reason(),
            Self::WrongPeer(_) => reason::WRONG_PEER,
        }
    }
}
