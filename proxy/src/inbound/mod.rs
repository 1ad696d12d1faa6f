//! Inbound: peers that call the local workload.
//!
//! Each phase yields what the next one needs: a slot → a handshake → a verified peer → a registered connection → a port →
//! a decision → the application. Nothing reaches the application before a decision said so.

pub(crate) mod application;
mod shared;
mod tcp;

use std::rc::Rc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::{Direction, Protocol, Request, authorize};
use vouchsafe_config::proxy::{InboundListener, InboundPort};

use crate::drain::Phase;
use crate::io::{Io, Transport};
use crate::lane::preamble::{FlowProtocol, Parsed, Preamble};
use crate::lane::{ALPN_FLOW, ALPN_H2, ALPN_SHARED};
use crate::listener::{Accepted, Listening, accept};
use crate::reason::{self, Reason};
use crate::record::Judged;
use crate::registry::{LaneKind, Live};
use crate::tls::TlsEpoch;
use crate::tls::acceptor::{self, HandshakeError, Secured};
use crate::tls::peer_verifier::Verified;
use crate::worker::Worker;

/// One inbound listener of one worker.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) worker: Rc<Worker>,
    pub(crate) declared: InboundListener,
    pub(crate) applications: application::Applications,
}

/// One connection with a verified peer.
#[derive(Debug)]
pub(crate) struct PeerConnection {
    pub(crate) inbound: Rc<Inbound>,
    pub(crate) peer: Rc<Verified>,
    pub(crate) lane: LaneKind,
    pub(crate) live: Rc<Live>,
}

/// A port that a peer may ask for: it is behind this listener, and policy declares it.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) port: InboundPort,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

impl Inbound {
    pub(crate) fn new(worker: Rc<Worker>, declared: InboundListener) -> Rc<Self> {
        Rc::new(Self {
            applications: application::Applications::new(&worker.parts.config.limits),
            worker,
            declared,
        })
    }

    pub(crate) async fn run(self: Rc<Self>, listener: Listening) {
        let drain = self.worker.parts.drain.clone();
        accept(listener, drain, Phase::Inbound, |accepted| {
            let inbound = Rc::clone(&self);
            async move {
                if let Accepted::Tcp(tcp) = accepted {
                    inbound.serve(tcp).await;
                }
            }
        })
        .await;
    }

    async fn serve(self: Rc<Self>, tcp: TcpStream) {
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
        let secured = match self.handshake(tcp, &epoch).await {
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
        self.serve_peer(secured, &epoch).await;
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

    async fn serve_peer(self: &Rc<Self>, secured: Secured, epoch: &TlsEpoch) {
        let Secured { stream, peer, alpn } = secured;
        let alpn = alpn.as_deref();
        let lane = match alpn {
            Some(ALPN_SHARED) => LaneKind::Shared,
            Some(ALPN_FLOW) => LaneKind::Dedicated,
            _ => LaneKind::Interop,
        };
        let registered = self
            .worker
            .register_peer(Direction::Inbound, lane, &peer, epoch);
        let live = &registered.registration.live;
        let connection = Rc::new(PeerConnection {
            inbound: Rc::clone(self),
            peer,
            lane,
            live: Rc::clone(live),
        });
        let io = Io::new(Transport::Tls(stream));
        tokio::select! {
            reason = live.cut() => self.worker.parts.metrics.cut(Direction::Inbound, reason),
            () = connection.serve(io, alpn) => {}
        }
    }

    /// The port behind this listener that a peer asked for.
    fn door(&self, name: &Name, number: u16) -> Option<Door> {
        let port = self.declared.ports.iter().find(|port| port.name == *name)?;
        let policy = self.worker.parts.state.policy.load();
        let declared = policy
            .policy
            .port(&self.worker.parts.config.workload, name)?;
        let (first, last) = declared.numbers;
        (first..=last).contains(&number).then(|| Door {
            port: port.clone(),
            number,
            protocol: declared.protocol,
        })
    }

    /// The only port behind this listener: what a peer without our sidecar gets.
    fn only_door(&self) -> Option<Door> {
        let [port] = self.declared.ports.as_slice() else {
            return None;
        };
        let policy = self.worker.parts.state.policy.load();
        let declared = policy
            .policy
            .port(&self.worker.parts.config.workload, &port.name)?;
        Some(Door {
            port: port.clone(),
            number: declared.numbers.0,
            protocol: declared.protocol,
        })
    }
}

impl PeerConnection {
    async fn serve(self: &Rc<Self>, mut io: Io, alpn: Option<&[u8]>) {
        match alpn {
            Some(ALPN_SHARED) => self.shared(io).await,
            Some(ALPN_FLOW) => match self.preamble(&mut io).await {
                Some(preamble) => self.flow(io, &preamble).await,
                None => self.refuse(reason::PREAMBLE),
            },
            other => match self.inbound.only_door() {
                Some(door) => {
                    *self.live.port.borrow_mut() = Some(door.port.name.clone());
                    match (door.protocol, other) {
                        (Protocol::Tcp, _) => self.relay(io, &door).await,
                        (Protocol::Http, Some(ALPN_H2)) | (Protocol::Http, _) => {
                            self.refuse(reason::PORT_PROTOCOL);
                        }
                    }
                }
                None => self.refuse(reason::UNKNOWN_PORT),
            },
        }
    }

    /// Serves one flow for a named port.
    pub(crate) async fn flow(self: &Rc<Self>, io: Io, preamble: &Preamble) {
        let Some(door) = self.inbound.door(&preamble.port, preamble.number) else {
            self.refuse(reason::UNKNOWN_PORT);
            return;
        };
        match (door.protocol, preamble.protocol) {
            (Protocol::Tcp, FlowProtocol::Tcp) => self.relay(io, &door).await,
            _ => self.refuse(reason::PORT_PROTOCOL),
        }
    }

    async fn preamble(&self, io: &mut Io) -> Option<Preamble> {
        let deadline = self.inbound.worker.parts.config.limits.handshake;
        let read = async {
            let mut bytes = bytes::BytesMut::with_capacity(Preamble::MAX_BYTES);
            loop {
                if io.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
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

    /// Asks policy.
    pub(crate) fn judge(&self, port: &Name, request: Option<&Request<'_>>) -> Judged {
        let worker = &self.inbound.worker;
        let epoch = worker.parts.state.policy.load();
        let decision = authorize(
            &epoch.policy,
            &vouchsafe_config::policy::Context {
                direction: Direction::Inbound,
                local: &worker.parts.config.workload,
                peer: &self.peer.peer,
                port,
                request,
                user: None,
                on_behalf_of: None,
                now: worker.now(),
            },
        );
        Judged {
            decision,
            policy: epoch,
        }
    }

    fn refuse(&self, reason: Reason) {
        self.inbound
            .worker
            .parts
            .metrics
            .failed(Direction::Inbound, reason);
    }
}
