//! Inbound: peers that call the local workload.
//!
//! Each phase yields what the next one needs: a slot → a handshake → a verified peer → a registered connection → a port →
//! a decision → the application. Nothing reaches the application before a decision said so.

pub(crate) mod application;
mod control;
mod http;
mod shared;
mod tcp;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use vouchsafe_attestation::name::Name;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::policy::{Direction, Protocol};
use vouchsafe_config::proxy::{InboundListener, InboundPort, Upstream};

use crate::drain::Phase;
use crate::http::head::Added;
use crate::http::serve::{serve_http1, serve_http2};
use crate::inbound::application::Application;
use crate::inbound::http::RequestsIn;
use crate::io::{Io, Transport};
use crate::lane::control::answer::answer_before_preamble;
use crate::lane::control::bonds::Bonded;
use crate::lane::preamble::{FlowProtocol, PROOFS, Parsed, Preamble};
use crate::lane::{ALPN_FLOW, ALPN_H2, ALPN_SHARED};
use crate::listener::{Accepted, Listening, accept};
use crate::reason::{self, Reason};
use crate::registry::LaneKind;
use crate::registry::live::Live;
use crate::spread::Home;
use crate::state::PolicyEpoch;
use crate::tls::TlsEpoch;
use crate::tls::acceptor::{self, HandshakeError, Secured};
use crate::worker::{Registered, Worker};

/// One inbound listener of one worker.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) worker: Rc<Worker>,
    pub(crate) declared: InboundListener,
    /// Names of the ports behind it.
    names: Rc<[Name]>,
    applications: RefCell<BTreeMap<PortKey, Rc<Application>>>,
    doors: RefCell<Doors>,
}

/// A port by its place among those of the listener, and its number.
type PortKey = (usize, u16);

/// Doors that were asked for, as long as the policy that declares them is in force.
#[derive(Debug, Default)]
struct Doors {
    policy: Option<Arc<PolicyEpoch>>,
    known: BTreeMap<PortKey, Rc<Door>>,
    /// The one that was named last, by its field: most requests are for the same.
    last: Option<(HeaderValue, Rc<Door>)>,
}

impl Doors {
    /// Forgets all where another policy is in force.
    fn follow(&mut self, policy: &Arc<PolicyEpoch>) {
        let current = self.policy.as_ref();
        if !current.is_some_and(|held| Arc::ptr_eq(held, policy)) {
            *self = Self {
                policy: Some(Arc::clone(policy)),
                ..Self::default()
            };
        }
    }
}

/// One connection with a verified peer.
#[derive(Debug)]
pub(crate) struct PeerConnection {
    pub(crate) inbound: Rc<Inbound>,
    pub(crate) lane: LaneKind,
    pub(crate) live: Rc<Live>,
    told: RefCell<Told>,
    /// Over which leases can be extended; `None` for a peer without our sidecar.
    bonded: Option<Rc<Bonded>>,
    /// Control streams that are open.
    control_streams: Cell<u32>,
}

/// A connection with a verified peer that was not served yet.
struct SecuredPeer {
    /// Boxed, for it is handed from phase to phase, and each would have room for it.
    io: Box<Io>,
    connection: Rc<PeerConnection>,
    over_http2: bool,
    registered: Registered,
}

/// What the application is told about a peer, made once per certificate.
#[derive(Debug, Default)]
struct Told {
    leaf_sha256: [u8; 32],
    fields: Rc<Added>,
}

/// A port that a peer may ask for: it is behind this listener, and policy declares it.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) port: InboundPort,
    pub(crate) protocol: Protocol,
    pub(crate) application: Rc<Application>,
    number: u16,
}

impl Inbound {
    pub(crate) fn new(worker: Rc<Worker>, declared: InboundListener) -> Rc<Self> {
        let names = declared.ports.iter().map(|port| port.name.clone());
        Rc::new(Self {
            names: names.collect(),
            applications: RefCell::default(),
            doors: RefCell::default(),
            worker,
            declared,
        })
    }

    pub(crate) async fn run(self: Rc<Self>, listener: Listening) {
        let drain = self.worker.parts.drain.clone();
        let serve = accept(
            listener,
            drain,
            Phase::Inbound,
            || Home::ANYWHERE,
            |accepted| Rc::clone(&self).serve(accepted),
        );
        tokio::select! {
            () = serve => {}
            () = self.sweep() => {}
        }
    }

    async fn serve(self: Rc<Self>, accepted: Accepted) {
        // Inbound listeners are TCP alone.
        let Accepted::Tcp(tcp) = accepted else { return };
        let metrics = &self.worker.parts.metrics;
        let Some(_slot) = self.worker.admit() else {
            metrics.failed(Direction::Inbound, reason::CONNECTION_LIMIT);
            return;
        };
        let Some(epoch) = self.worker.tls() else {
            metrics.failed(Direction::Inbound, reason::NO_IDENTITY);
            return;
        };
        let started = tokio::time::Instant::now();
        // Boxed, as each phase below: an idle connection holds the state of its own phase alone.
        let secured = match Box::pin(self.handshake(tcp, &epoch)).await {
            Ok(secured) => secured,
            Err(error) => {
                let reason = error.reason();
                metrics.handshake_failed(Direction::Inbound, reason);
                tracing::info!(
                    direction = "inbound",
                    reason = reason.as_str(),
                    error = %crate::telemetry::Chain(&error),
                    "handshake failed"
                );
                return;
            }
        };
        let elapsed = started.elapsed().as_secs_f64();
        metrics.of(Direction::Inbound).handshake.observe(elapsed);
        let peer = self.register(secured, &epoch);
        // Configurations of an identity that was renewed since are not kept by connections that it opened.
        drop(epoch);
        self.serve_peer(peer).await;
    }

    async fn handshake(&self, tcp: TcpStream, epoch: &TlsEpoch) -> Result<Secured, HandshakeError> {
        let under_way = self.worker.handshakes.enter();
        let deadline = self.worker.parts.config.limits.handshake;
        tokio::select! {
            result = tokio::time::timeout(deadline, acceptor::accept(tcp, epoch)) => {
                result.unwrap_or(Err(HandshakeError::Timeout))
            }
            () = under_way.evicted() => Err(HandshakeError::Evicted),
        }
    }

    /// Not part of the future that serves it, which would hold for as long what is only needed here.
    fn register(self: &Rc<Self>, secured: Secured, epoch: &TlsEpoch) -> SecuredPeer {
        let Secured {
            stream,
            peer,
            alpn,
            exporter,
        } = secured;
        let (lane, over_http2) = match alpn.as_deref() {
            Some(ALPN_SHARED) => (LaneKind::Shared, true),
            Some(ALPN_FLOW) => (LaneKind::Dedicated, false),
            Some(ALPN_H2) => (LaneKind::Interop, true),
            _ => (LaneKind::Interop, false),
        };
        let registered = self
            .worker
            .register_peer(Some(&self.names), lane, &peer, exporter, epoch);
        let connection = Rc::new(PeerConnection {
            inbound: Rc::clone(self),
            lane,
            live: Rc::clone(&registered.registration.live),
            told: RefCell::default(),
            bonded: registered.bonded.clone(),
            control_streams: Cell::new(0),
        });
        SecuredPeer {
            io: Box::new(Io::new(Transport::Tls(stream))),
            connection,
            over_http2,
            registered,
        }
    }

    async fn serve_peer(&self, peer: SecuredPeer) {
        let SecuredPeer {
            io,
            connection,
            over_http2,
            registered: _registered,
        } = peer;
        let live = &connection.live;
        let serve = connection.serve(io, over_http2);
        tokio::pin!(serve);
        let reason = tokio::select! {
            // First, for a cut ends the streams too: whoever ends by it, the cut is counted.
            biased;
            reason = live.cut() => reason,
            () = &mut serve => return,
        };
        self.worker.parts.metrics.cut(Direction::Inbound, reason);
        // What is open has been told, and ends at the application by a reset: dropped here, its socket would be closed as
        // after a good end, and half an upload taken for a whole one.
        for _ in 0..LAST_TURNS {
            tokio::select! {
                biased;
                () = &mut serve => return,
                () = tokio::task::yield_now() => {}
            }
        }
    }

    /// The port behind this listener that a field names: `name:number`.
    fn named_door(&self, field: &HeaderValue) -> Option<Rc<Door>> {
        {
            let mut doors = self.doors.borrow_mut();
            doors.follow(&self.worker.parts.state.policy.load());
            if let Some((named, door)) = &doors.last
                && named == field
            {
                return Some(Rc::clone(door));
            }
        }
        let (name, number) = field.to_str().ok()?.split_once(':')?;
        let door = self.door(name, number.parse().ok()?)?;
        // The same policy or a later one: what it does not declare is found out with the next request.
        self.doors.borrow_mut().last = Some((field.clone(), Rc::clone(&door)));
        Some(door)
    }

    /// The port behind this listener that a peer asked for.
    fn door(&self, name: &str, number: u16) -> Option<Rc<Door>> {
        let policy = self.worker.parts.state.policy.load();
        let mut doors = self.doors.borrow_mut();
        doors.follow(&policy);
        let mut ports = self.declared.ports.iter().enumerate();
        let (place, port) = ports.find(|(_, port)| port.name.as_str() == name)?;
        if let Some(door) = doors.known.get(&(place, number)) {
            return Some(Rc::clone(door));
        }
        let workload = &self.worker.parts.config.workload;
        let declared = policy.policy.port(workload, &port.name)?;
        if !declared.has_number(number) {
            return None;
        }
        let door = Rc::new(Door {
            port: port.clone(),
            protocol: declared.protocol,
            application: self.application((place, number), &port.upstream),
            number,
        });
        doors.known.insert((place, number), Rc::clone(&door));
        Some(door)
    }

    /// The only port behind this listener: what a peer without our sidecar gets.
    fn only_door(&self) -> Option<Rc<Door>> {
        let [port] = self.declared.ports.as_slice() else {
            return None;
        };
        let policy = self.worker.parts.state.policy.load();
        let workload = &self.worker.parts.config.workload;
        let number = policy.policy.port(workload, &port.name)?.numbers.0;
        drop(policy);
        self.door(port.name.as_str(), number)
    }

    /// The application's connections outlive policies, so that a change does not drop warm ones.
    fn application(&self, port: PortKey, upstream: &Upstream) -> Rc<Application> {
        let deadline = self.worker.parts.config.limits.connect;
        let mut applications = self.applications.borrow_mut();
        let application = applications
            .entry(port)
            .or_insert_with(|| Rc::new(Application::new(upstream.clone(), port.1, deadline)));
        Rc::clone(application)
    }

    async fn sweep(&self) {
        let mut interval = tokio::time::interval(SWEEP);
        loop {
            interval.tick().await;
            self.sweep_once();
        }
    }

    /// Closes idle connections to the application, and forgets ports of a range that nobody uses.
    fn sweep_once(&self) {
        let mut applications = self.applications.borrow_mut();
        // Connections to the application rest on nobody's trust.
        applications
            .values()
            .for_each(|one| one.http1.sweep(|_| ()));
        let mut doors = self.doors.borrow_mut();
        doors.last = None;
        forget_unused(&mut doors.known, &mut applications);
    }
}

/// Forgets ports that nobody passes, where there are many.
fn forget_unused(
    doors: &mut BTreeMap<PortKey, Rc<Door>>,
    applications: &mut BTreeMap<PortKey, Rc<Application>>,
) {
    if doors.len() > KEPT_DOORS {
        doors.retain(|_, door| Rc::strong_count(door) > 1);
    }
    if applications.len() > KEPT_DOORS {
        applications.retain(|_, one| Rc::strong_count(one) > 1 || !one.is_idle());
    }
}

impl PeerConnection {
    /// What the application is told about the peer, by the certificate that it proved last.
    pub(crate) fn identity(&self) -> Rc<Added> {
        let mut told = self.told.borrow_mut();
        if let Some(peer) = &*self.live.peer()
            && told.leaf_sha256 != peer.leaf_sha256
        {
            let config = &self.inbound.worker.parts.config;
            let own = SpiffeId::for_workload(&config.trust_domain, &config.workload);
            *told = Told {
                leaf_sha256: peer.leaf_sha256,
                fields: http::identity_fields(peer, own.as_str()),
            };
        }
        Rc::clone(&told.fields)
    }

    async fn serve(self: &Rc<Self>, mut io: Box<Io>, over_http2: bool) {
        match self.lane {
            LaneKind::Shared => {
                self.settle();
                Box::pin(self.shared(*io)).await;
            }
            LaneKind::Dedicated => match Box::pin(self.preamble(&mut io)).await {
                Some(preamble) => self.flow(io, &preamble).await,
                None => self.refuse(reason::PREAMBLE),
            },
            LaneKind::Interop | LaneKind::Local => match self.inbound.only_door() {
                Some(door) if door.protocol == Protocol::Tcp => {
                    Box::pin(self.relay(io, &door)).await;
                }
                Some(door) => self.requests(io, door, over_http2).await,
                None => self.refuse(reason::UNKNOWN_PORT),
            },
        }
    }

    /// Serves one flow for a named port.
    pub(crate) async fn flow(self: &Rc<Self>, io: Box<Io>, preamble: &Preamble) {
        let Some(door) = self.inbound.door(preamble.port.as_str(), preamble.number) else {
            self.refuse(reason::UNKNOWN_PORT);
            return;
        };
        match (door.protocol, preamble.protocol) {
            (Protocol::Tcp, FlowProtocol::Tcp) => Box::pin(self.relay(io, &door)).await,
            (Protocol::Http, FlowProtocol::Http1) => self.requests(io, door, false).await,
            (Protocol::Http, FlowProtocol::Http2) => self.requests(io, door, true).await,
            _ => self.refuse(reason::PORT_PROTOCOL),
        }
    }

    /// Serves requests for one port.
    async fn requests(self: &Rc<Self>, io: Box<Io>, door: Rc<Door>, over_http2: bool) {
        if self.lane != LaneKind::Shared {
            self.is_for(&door);
        }
        let requests = Rc::new(RequestsIn {
            connection: Rc::clone(self),
            fixed: Some(door),
        });
        if over_http2 {
            Box::pin(serve_http2(*io, &requests)).await;
        } else {
            Box::pin(serve_http1(*io, &requests)).await;
        }
    }

    /// Notes that the whole connection is for one port.
    fn is_for(&self, door: &Door) {
        *self.live.port.borrow_mut() = Some(door.port.name.clone());
        self.live.number.set(door.number);
        self.settle();
    }

    fn settle(&self) {
        let worker = &self.inbound.worker;
        worker.registry.settle(&self.live, worker.now());
    }

    async fn preamble(&self, io: &mut Io) -> Option<Preamble> {
        let deadline = self.inbound.worker.parts.config.limits.handshake;
        let read = async {
            let mut bytes = bytes::BytesMut::with_capacity(Preamble::MAX_BYTES);
            let mut proven = false;
            loop {
                if io.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
                if bytes.first() == Some(&PROOFS) && !proven {
                    proven = true;
                    io.unread(bytes.split_off(1).freeze());
                    bytes.clear();
                    let bonded = self.bonded.as_ref()?;
                    let worker = &self.inbound.worker;
                    // Boxed: rare, and large by what it proves and verifies.
                    let answered = Box::pin(answer_before_preamble(worker, bonded, io)).await;
                    io.unread(answered.ok()?);
                    continue;
                }
                if let Parsed::Complete(preamble, length) = Preamble::parse(&bytes).ok()? {
                    let _ = bytes.split_to(length);
                    return Some((preamble, bytes.freeze()));
                }
            }
        };
        let (preamble, rest) = tokio::time::timeout(deadline, read).await.ok()??;
        io.unread(rest);
        Some(preamble)
    }

    fn refuse(&self, reason: Reason) {
        self.inbound
            .worker
            .parts
            .metrics
            .failed(Direction::Inbound, reason);
    }
}

/// Turns of the worker for those who serve a connection that was cut: one sees it, another passes it on.
const LAST_TURNS: usize = 4;
/// Ports of ranges that are remembered while nobody uses them. Whoever may call a range could ask for each of its numbers.
const KEPT_DOORS: usize = 64;
/// How often idle connections to the application are looked through.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
