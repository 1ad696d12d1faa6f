//! Live connections of one worker: who is connected, since when, until when; and the way to end them.
//!
//! Connections are judged by one sweep per worker and tick, not by a timer each: it compares mesh time, which a timer
//! does not follow when the machine sleeps, and costs nothing per request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::Notify;
use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::{Direction, Policy};
use vouchsafe_config::revocation::{Action, Bearer};

use crate::drain::{OpenConnection, Phase};
use crate::reason::{self, Reason};
use crate::tls::peer_verifier::Verified;

/// What a connection carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneKind {
    /// Many streams of the shared lane.
    Shared,
    /// One flow of the dedicated lane.
    Dedicated,
    /// A peer without our sidecar.
    Interop,
    /// The local application.
    Local,
}

impl LaneKind {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
            Self::Interop => "interop",
            Self::Local => "local",
        }
    }
}

/// One live connection, as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionSnapshot {
    /// Number of the worker that carries it.
    pub worker: usize,
    /// Its number with that worker.
    pub id: u64,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// What it carries.
    pub lane: LaneKind,
    /// SPIFFE ID of the peer; `None` for the local application.
    pub peer: Option<String>,
    /// Class of the peer's attestation result, or `unattested`.
    pub class: Option<&'static str>,
    /// Serial number of the peer's certificate, in hex.
    pub serial: Option<String>,
    /// Name of the port, where there is one for the whole connection.
    pub port: Option<String>,
    /// When it was opened, in Unix seconds.
    pub opened: u64,
    /// When it must end, in Unix seconds.
    pub lease_end: Option<u64>,
    /// Requests and flows that it carries now.
    pub streams: u32,
    /// Bytes of bodies and flows received from the opener.
    pub received_bytes: u64,
    /// Bytes of bodies and flows sent to the opener.
    pub sent_bytes: u64,
}

/// A live connection.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) lane: LaneKind,
    pub(crate) peer: Option<Arc<Verified>>,
    pub(crate) port: RefCell<Option<Name>>,
    pub(crate) streams: Cell<u32>,
    pub(crate) received: Rc<Cell<u64>>,
    pub(crate) sent: Rc<Cell<u64>>,
    opened: SystemTime,
    lease_end: Option<SystemTime>,
    stage: Cell<Stage>,
    changed: Notify,
    ends_when_idle: Cell<bool>,
    /// Bytes and time at which they were last seen to have changed.
    activity: Cell<(u64, SystemTime)>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Open,
    Draining,
    Cut(Reason),
}

impl Live {
    /// Waits until the connection must end now.
    pub(crate) async fn cut(&self) -> Reason {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Stage::Cut(reason) = self.stage.get() {
                return reason;
            }
            changed.await;
        }
    }

    /// Waits until the connection should take on nothing new.
    pub(crate) async fn drained(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_draining() {
                return;
            }
            changed.await;
        }
    }

    /// Whether the connection should take on nothing new.
    pub(crate) fn is_draining(&self) -> bool {
        !matches!(self.stage.get(), Stage::Open)
    }

    /// Why the connection was ended, if it was.
    pub(crate) fn cut_reason(&self) -> Option<Reason> {
        match self.stage.get() {
            Stage::Cut(reason) => Some(reason),
            Stage::Open | Stage::Draining => None,
        }
    }

    /// Has the registry end the connection once it is draining and carries nothing: for those who can't see it themselves.
    pub(crate) fn ends_when_idle(&self) {
        self.ends_when_idle.set(true);
    }

    /// Lets the connection finish what it has.
    pub(crate) fn drain(&self) {
        if !self.is_draining() {
            self.stage.set(Stage::Draining);
            self.changed.notify_waiters();
        }
    }

    /// Ends the connection.
    pub(crate) fn end(&self, reason: Reason) {
        if !matches!(self.stage.get(), Stage::Cut(_)) {
            self.stage.set(Stage::Cut(reason));
            self.changed.notify_waiters();
        }
    }

    /// Counts a request or flow as long as the guard lives.
    pub(crate) fn stream(self: &Rc<Self>) -> StreamGuard {
        self.streams.set(self.streams.get().saturating_add(1));
        StreamGuard(Rc::clone(self))
    }

    fn sweep(&self, now: SystemTime, idle: Option<Duration>) {
        if let Some(end) = self.lease_end {
            let left = end.duration_since(now).unwrap_or_default();
            let whole = end.duration_since(self.opened).unwrap_or_default();
            // One tick early: a connection never outlives its lease.
            if left <= TICK {
                self.end(reason::LEASE_ENDED);
            } else if left <= (whole / 10).min(DRAIN_BEFORE_END) {
                self.drain();
            }
        }
        if self.ends_when_idle.get() && self.is_draining() && self.streams.get() == 0 {
            self.end(reason::DRAIN);
        }
        let bytes = self.received.get().wrapping_add(self.sent.get());
        let (seen, since) = self.activity.get();
        if bytes != seen {
            self.activity.set((bytes, now));
        } else if let Some(idle) = idle
            // A lane's silence is judged where its streams were opened: there the bytes are counted.
            && !self.ends_when_idle.get()
            && self.streams.get() > 0
            && now.duration_since(since).unwrap_or_default() > idle
        {
            self.end(reason::IDLE);
        }
    }

    fn snapshot(&self, worker: usize) -> ConnectionSnapshot {
        let peer = self.peer.as_ref().map(|verified| &verified.peer);
        ConnectionSnapshot {
            worker,
            id: self.id,
            direction: direction_word(self.direction),
            lane: self.lane,
            peer: peer.map(|peer| peer.id().to_string()),
            class: self.peer.as_deref().map(Verified::class),
            serial: peer.map(|peer| peer.serial().to_string()),
            port: self.port.borrow().as_ref().map(Name::to_string),
            opened: unix_seconds(self.opened),
            lease_end: self.lease_end.map(unix_seconds),
            streams: self.streams.get(),
            received_bytes: self.received.get(),
            sent_bytes: self.sent.get(),
        }
    }
}

impl Verified {
    /// The class of the peer's attestation result, or `unattested`.
    pub(crate) fn class(&self) -> &'static str {
        self.peer
            .result()
            .map_or("unattested", |result| result.class.as_str())
    }
}

/// The word for a direction in logs and metrics.
pub(crate) fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Counts a stream of a connection.
#[derive(Debug)]
pub(crate) struct StreamGuard(Rc<Live>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// All live connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next: Cell<u64>,
    live: RefCell<HashMap<u64, Rc<Live>>>,
}

/// Keeps a connection registered until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) live: Rc<Live>,
    registry: Rc<Registry>,
    _open: OpenConnection,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.live.borrow_mut().remove(&self.live.id);
    }
}

impl Registry {
    /// Registers a connection.
    pub(crate) fn register(
        self: &Rc<Self>,
        new: NewConnection,
        open: OpenConnection,
    ) -> Registration {
        let id = self.next.get();
        self.next.set(id + 1);
        let live = Rc::new(Live {
            id,
            direction: new.direction,
            lane: new.lane,
            peer: new.peer,
            port: RefCell::new(new.port),
            streams: Cell::new(0),
            received: Rc::default(),
            sent: Rc::default(),
            opened: new.now,
            lease_end: new.lease_end,
            stage: Cell::new(Stage::Open),
            changed: Notify::new(),
            ends_when_idle: Cell::new(false),
            activity: Cell::new((0, new.now)),
        });
        self.live.borrow_mut().insert(id, Rc::clone(&live));
        Registration {
            live,
            registry: Rc::clone(self),
            _open: open,
        }
    }

    /// Ends or drains what is due.
    pub(crate) fn sweep(&self, now: SystemTime, idle: Option<Duration>, phase: Phase) {
        for live in self.live.borrow().values() {
            live.sweep(now, idle);
            match phase {
                Phase::Serving => {}
                Phase::Inbound if live.direction == Direction::Inbound => live.drain(),
                Phase::Inbound => {}
                Phase::Outbound => live.drain(),
                Phase::Cut => live.end(reason::DRAIN),
            }
        }
    }

    /// Judges again whom the connections are with, after policy changed: ends or drains those that a revocation means.
    pub(crate) fn judge_peers(&self, policy: &Policy, now: SystemTime) {
        if policy.revocations().is_empty() {
            return;
        }
        for live in self.live.borrow().values() {
            let Some(verified) = &live.peer else {
                continue;
            };
            let revoked = policy.revoked(&Bearer::from(&verified.peer), now);
            match revoked.map(|revocation| revocation.action) {
                None | Some(Action::DenyNew) => {}
                Some(Action::Drain) => live.drain(),
                Some(Action::Cut) => live.end(reason::REVOKED),
            }
        }
    }

    /// All live connections, as an operator sees them.
    pub(crate) fn snapshot(&self, worker: usize) -> Vec<ConnectionSnapshot> {
        let live = self.live.borrow();
        live.values().map(|live| live.snapshot(worker)).collect()
    }
}

/// What is known of a connection when it is registered.
#[derive(Debug)]
pub(crate) struct NewConnection {
    pub(crate) direction: Direction,
    pub(crate) lane: LaneKind,
    pub(crate) peer: Option<Arc<Verified>>,
    pub(crate) port: Option<Name>,
    pub(crate) lease_end: Option<SystemTime>,
    pub(crate) now: SystemTime,
}

/// How often a worker sweeps: the precision of every end that is not an event.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// How long before its end a connection takes on nothing new, at most; a tenth of its lease where that is less.
const DRAIN_BEFORE_END: Duration = Duration::from_secs(10);
