//! Outbound: the local workload calls others.
//!
//! Accept → limits and user → which workload → an endpoint → a lane connection whose server is that workload and proved
//! what policy requires of it → forward.

pub(crate) mod balance;
mod binding;
pub(crate) mod control;
mod flow;
pub(crate) mod habit;
mod http;
pub(crate) mod pool;
mod tcp;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::policy::{Direction, Lane, Port, Protocol, Strict};
use vouchsafe_config::proxy::{Limits, OutboundListener};

use crate::drain::Phase;
use crate::http::head::Added;
use crate::http::pool::Http1Pool;
use crate::http::serve::{serve_http1, serve_http2};
use crate::io::{Io, SCRATCH_BYTES, Transport, poll_read_scratch};
use crate::listener::{Accepted, Listening, accept};
use crate::outbound::balance::Endpoints;
use crate::outbound::habit::Habit;
use crate::outbound::http::RequestsOut;
use crate::outbound::pool::Lanes;
use crate::reason;
use crate::registry::live::Live;
use crate::registry::{LaneKind, NewConnection, TICK};
use crate::spread::Home;
use crate::state::PolicyEpoch;
use crate::worker::Worker;

/// One outbound listener of one worker.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) worker: Rc<Worker>,
    pub(crate) declared: OutboundListener,
    /// Who must answer.
    pub(crate) expected: SpiffeId,
    pub(crate) lanes: Rc<Lanes>,
    /// What its flows have moved.
    pub(crate) habit: Arc<Habit>,
    workload: usize,
    /// Where the next endpoint is looked for.
    pub(crate) turn: Cell<usize>,
    pub(crate) endpoints: RefCell<Option<Endpoints>>,
    /// Warm HTTP/1.1 flows of the dedicated lane.
    pub(crate) dedicated: Rc<Http1Pool>,
    /// Warm HTTP/1.1 connections to a server without our sidecar.
    pub(crate) interop: Rc<Http1Pool>,
    /// No field to add.
    pub(crate) nothing: Rc<Added>,
    /// The port as the policy in force declares it, and the field that names it.
    port: RefCell<Option<Declared>>,
}

#[derive(Debug)]
struct Declared {
    policy: Arc<PolicyEpoch>,
    port: Option<Rc<Port>>,
    field: Rc<Added>,
    /// What its rules demand of connections.
    strict: Strict,
}

/// What an outbound listener has beside its configuration.
#[derive(Debug)]
pub(crate) struct Extras {
    /// Lanes of the worker.
    pub(crate) lanes: Rc<Lanes>,
    /// What flows have moved, over all workers.
    pub(crate) habit: Arc<Habit>,
    /// Number of the workload that it calls, among those that listeners call.
    pub(crate) workload: usize,
}

/// One connection of the local application.
#[derive(Debug)]
pub(crate) struct AppConnection {
    pub(crate) outbound: Rc<Outbound>,
    pub(crate) live: Rc<Live>,
}

impl Outbound {
    pub(crate) fn new(worker: Rc<Worker>, declared: OutboundListener, extras: Extras) -> Rc<Self> {
        let expected = SpiffeId::for_workload(&worker.parts.config.trust_domain, &declared.to);
        Rc::new(Self {
            expected,
            lanes: extras.lanes,
            habit: extras.habit,
            workload: extras.workload,
            turn: Cell::new(0),
            endpoints: RefCell::default(),
            dedicated: Rc::default(),
            interop: Rc::default(),
            nothing: Rc::default(),
            port: RefCell::default(),
            worker,
            declared,
        })
    }

    pub(crate) async fn run(self: Rc<Self>, listener: Listening) {
        let drain = self.worker.parts.drain.clone();
        let serve = accept(
            listener,
            drain,
            Phase::Outbound,
            || self.home(),
            |accepted| Rc::clone(&self).serve(accepted),
        );
        tokio::select! {
            () = serve => {}
            () = self.sweep() => {}
        }
    }

    /// Which workers may have connections of the application: for shared lanes only as many as may keep some to the same
    /// workload, so that a machine with many cores does not open one with each of them.
    fn home(&self) -> Home {
        let is_dedicated = self
            .port()
            .is_some_and(|port| self.lane(&port) == Lane::Dedicated);
        if is_dedicated {
            return Home::ANYWHERE;
        }
        let count = self.worker.parts.config.limits.lanes;
        Home {
            first: self.workload.wrapping_mul(count),
            count,
        }
    }

    async fn sweep(&self) {
        let metrics = &self.worker.parts.metrics;
        let was_cut = |reason| metrics.cut(Direction::Outbound, reason);
        // Nobody waits for the end of an idle connection, so it is looked for.
        let mut interval = tokio::time::interval(TICK);
        loop {
            interval.tick().await;
            self.dedicated.sweep(was_cut);
            self.interop.sweep(was_cut);
        }
    }

    async fn serve(self: Rc<Self>, accepted: Accepted) {
        let metrics = &self.worker.parts.metrics;
        let Some(_slot) = self.worker.admit() else {
            metrics.failed(Direction::Outbound, reason::CONNECTION_LIMIT);
            return;
        };
        if !self.is_allowed_user(&accepted) {
            metrics.failed(Direction::Outbound, reason::UID);
            return;
        }
        // Boxed, for it is handed from phase to phase, and each would have room for it.
        let io = Box::new(Io::new(match accepted {
            Accepted::Tcp(tcp) => Transport::Tcp(tcp),
            Accepted::Unix(unix) => Transport::Unix(unix),
        }));
        let registered = self.worker.register(NewConnection {
            direction: Direction::Outbound,
            lane: LaneKind::Local,
            peer: None,
            port: Some(self.declared.port.clone()),
            doors: None,
            lease_end: None,
            now: self.worker.now(),
        });
        let live = &registered.registration.live;
        let connection = Rc::new(AppConnection {
            outbound: Rc::clone(&self),
            live: Rc::clone(live),
        });
        tokio::select! {
            // First, as inbound: a cut is counted.
            biased;
            reason = live.cut() => metrics.cut(Direction::Outbound, reason),
            () = connection.serve(io) => {}
        }
    }

    fn is_allowed_user(&self, accepted: &Accepted) -> bool {
        let allowed = &self.declared.allow_uids;
        match accepted {
            Accepted::Tcp(_) => true,
            Accepted::Unix(_) if allowed.is_empty() => true,
            // SO_PEERCRED: who the connecting process was when it connected.
            Accepted::Unix(unix) => unix
                .peer_cred()
                .is_ok_and(|credentials| allowed.contains(&credentials.uid())),
        }
    }

    /// The port that is called, as policy declares it.
    pub(crate) fn port(&self) -> Option<Rc<Port>> {
        let policy = self.worker.parts.state.policy.load();
        let mut held = self.port.borrow_mut();
        if let Some(held) = held.as_ref()
            && Arc::ptr_eq(&held.policy, &policy)
        {
            return held.port.clone();
        }
        let port = policy.policy.port(&self.declared.to, &self.declared.port);
        let port = port.cloned().map(Rc::new);
        *held = Some(Declared {
            policy: Arc::clone(&policy),
            field: port.as_ref().map_or_else(
                || Rc::clone(&self.nothing),
                |port| http::port_field(port, self.number(port)),
            ),
            strict: policy.policy.strict(&self.declared.to, &self.declared.port),
            port: port.clone(),
        });
        port
    }

    /// Which ends must prove their keys over each connection for a port.
    pub(crate) fn strict(&self, port: &Port) -> Strict {
        let held = self.port.borrow();
        match held.as_ref() {
            Some(held) => held.strict,
            None => {
                let policy = self.worker.parts.state.policy.load();
                policy.policy.strict(&self.declared.to, &port.name)
            }
        }
    }

    /// Whether a connection that carries on may carry this too: it was opened for this number of the port, if for one, and
    /// what rules of the port demand of it is proven.
    pub(crate) fn may_carry(&self, live: &Live, port: &Port) -> bool {
        if ![0, self.number(port)].contains(&live.number.get()) {
            return false;
        }
        let strict = self.strict(port);
        strict == Strict::default()
            // Nobody proves anything over a connection without a bond, and policy says what that is worth.
            || self.worker.bonds.of(live).is_none_or(|bonded| {
                bonded.due(strict, self.worker.now()) == Strict::default()
            })
    }

    /// The field that names the port on the shared lane.
    pub(crate) fn port_field(&self, port: &Port) -> Rc<Added> {
        match self.port.borrow().as_ref() {
            Some(held) => Rc::clone(&held.field),
            None => http::port_field(port, self.number(port)),
        }
    }

    /// The number of the port that is called: in a range the listener's own, where that lies in it.
    pub(crate) fn number(&self, port: &Port) -> u16 {
        match &self.declared.listen {
            vouchsafe_config::proxy::ListenAddr::Tcp(address)
                if port.has_number(address.port()) =>
            {
                address.port()
            }
            _ => port.numbers.0,
        }
    }

    /// The lane that configuration, policy, or else what flows of the port have moved, want; `Auto` is the shared one.
    pub(crate) fn lane(&self, port: &Port) -> Lane {
        let forced = self.worker.parts.config.lane;
        let wanted = if forced == Lane::Auto {
            port.lane
        } else {
            forced
        };
        match (wanted, port.protocol) {
            (Lane::Auto, Protocol::Tcp) if self.habit.moves_much() => Lane::Dedicated,
            _ => wanted,
        }
    }
}

impl AppConnection {
    async fn serve(self: &Rc<Self>, io: Box<Io>) {
        let port = self.outbound.port();
        // Boxed, as each phase below: an idle connection holds the state of its own phase alone.
        match port.as_ref().filter(|port| port.protocol == Protocol::Tcp) {
            Some(port) => Box::pin(self.relay(io, port)).await,
            None => Box::pin(self.requests(io, port.is_some())).await,
        }
    }

    /// Serves HTTP, once it is seen that it is; `is_known`: whether policy says so.
    async fn requests(self: &Rc<Self>, mut io: Box<Io>, is_known: bool) {
        let limits = &self.outbound.worker.parts.config.limits;
        let first = tokio::select! {
            first = read_some(&mut io) => first,
            () = self.live.drained() => return,
            // Without a policy nobody knows what is spoken here, and who may be waiting for whom.
            () = tokio::time::sleep(limits.handshake), if !is_known => return,
        };
        let Some(first) = first else { return };
        // HTTP can be told why it is refused; anything else is closed.
        if !is_known && !METHODS.iter().any(|method| first.starts_with(method)) {
            let metrics = &self.outbound.worker.parts.metrics;
            metrics.failed(Direction::Outbound, reason::UNKNOWN_PORT);
            return;
        }
        let requests = Rc::new(RequestsOut {
            connection: Rc::clone(self),
            own: RefCell::default(),
        });
        match Box::pin(begins_http2(&mut io, first, limits)).await {
            Some(true) => Box::pin(serve_http2(*io, &requests)).await,
            Some(false) => Box::pin(serve_http1(*io, &requests)).await,
            None => {}
        }
    }
}

/// Whether an application speaks HTTP/2 with prior knowledge (RFC 9113 §3.4); `None` when it has gone away.
async fn begins_http2(io: &mut Io, mut bytes: BytesMut, limits: &Limits) -> Option<bool> {
    let rest = async {
        while bytes.len() < PREFACE.len() && PREFACE.starts_with(&bytes) {
            bytes.extend_from_slice(&read_some(io).await?);
        }
        Some(bytes)
    };
    let bytes = tokio::time::timeout(limits.handshake, rest).await.ok()??;
    let begins = bytes.starts_with(PREFACE);
    io.unread(bytes.freeze());
    Some(begins)
}

async fn read_some(io: &mut Io) -> Option<BytesMut> {
    let read = std::future::poll_fn(|cx| {
        poll_read_scratch(io, cx, SCRATCH_BYTES, |bytes| BytesMut::from(bytes))
    });
    read.await.ok().filter(|bytes| !bytes.is_empty())
}

/// How HTTP begins.
const METHODS: [&[u8]; 8] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"PATCH ",
    b"OPTIONS ",
    b"PRI ",
];
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
