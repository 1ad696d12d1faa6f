//! One live connection: whom it is with, until when, what is open on it, and how it is told to end.

use std::cell::{Cell, Ref, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use slab::Slab;
use tokio::sync::Notify;
use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::{Binding, Direction};

use crate::reason::{self, Reason, Why};
use crate::registry::admission::Admission;
use crate::registry::stream::Stream;
use crate::registry::{LaneKind, NewConnection, Registry, TICK};
use crate::tls::peer_verifier::Verified;

/// A live connection.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: u64,
    pub(crate) direction: Direction,
    pub(crate) lane: LaneKind,
    pub(crate) port: RefCell<Option<Name>>,
    /// The number of the port, where there is one for the whole connection; else 0.
    pub(crate) number: Cell<u16>,
    /// Ports that its peer may ask for by it, where the peer calls us.
    pub(super) doors: Option<Rc<[Name]>>,
    /// Requests and flows that came by it or go by it.
    pub(crate) streams: Cell<u32>,
    pub(crate) received: Rc<Cell<u64>>,
    pub(crate) sent: Rc<Cell<u64>>,
    pub(super) opened: SystemTime,
    pub(super) lease_end: Cell<Option<SystemTime>>,
    /// Requests and flows that policy admitted for the peer of this connection.
    pub(super) open: RefCell<Slab<Stream>>,
    /// What has admitted them.
    pub(super) relies_on: RefCell<Vec<Rc<Admission>>>,
    /// When one of these may stop to admit by time alone.
    pub(super) due: Cell<Option<SystemTime>>,
    peer: RefCell<Option<Arc<Verified>>>,
    binding: Cell<Binding>,
    registry: Weak<Registry>,
    stage: RefCell<Stage>,
    changed: Notify,
    ends_when_idle: Cell<bool>,
    /// Bytes and time at which they were last seen to have changed.
    activity: Cell<(u64, SystemTime)>,
}

#[derive(Clone, Debug)]
enum Stage {
    Open,
    /// Takes on nothing new, and ends for this when it carries nothing.
    Draining(Why),
    Cut(Why),
}

impl Live {
    pub(super) fn new(id: u64, new: NewConnection, registry: Weak<Registry>) -> Self {
        Self {
            id,
            direction: new.direction,
            lane: new.lane,
            port: RefCell::new(new.port),
            number: Cell::new(0),
            doors: new.doors,
            streams: Cell::new(0),
            received: Rc::default(),
            sent: Rc::default(),
            opened: new.now,
            lease_end: Cell::new(new.lease_end),
            open: RefCell::default(),
            relies_on: RefCell::default(),
            due: Cell::new(None),
            peer: RefCell::new(new.peer),
            binding: Cell::default(),
            registry,
            stage: RefCell::new(Stage::Open),
            changed: Notify::new(),
            ends_when_idle: Cell::new(false),
            activity: Cell::new((0, new.now)),
        }
    }

    /// Who is at the other end; `None` for the local application.
    pub(crate) fn peer(&self) -> Ref<'_, Option<Arc<Verified>>> {
        self.peer.borrow()
    }

    /// Lets the connection live on after the same instance proved its successor certificate for it (promise 4).
    ///
    /// Whoever calls this has authorized the successor. What is open is judged again with it at the next tick.
    pub(crate) fn extend_lease(&self, end: SystemTime, successor: Arc<Verified>) {
        let before = self.peer.replace(Some(Arc::clone(&successor)));
        self.lease_end.set(Some(end));
        self.due.set(Some(SystemTime::UNIX_EPOCH));
        if let Some(registry) = self.registry.upgrade() {
            registry.replace_peer(self.id, before.as_deref(), &successor);
        }
    }

    /// How the connection is bound to its peer.
    pub(crate) fn binding(&self) -> Binding {
        self.binding.get()
    }

    /// Takes in that the peer has proven its key over this connection. Of two proofs the later counts.
    pub(crate) fn bind(&self, binding: Binding) {
        if binding.ends() > self.binding.get().ends() {
            self.binding.set(binding);
        }
    }

    /// Until when the connection may live; `None` for the local application.
    pub(crate) fn lease_end(&self) -> Option<SystemTime> {
        self.lease_end.get()
    }

    /// Waits until the connection must end now.
    pub(crate) async fn cut(&self) -> Reason {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(why) = self.why_cut() {
                return why.reason;
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
        !matches!(*self.stage.borrow(), Stage::Open)
    }

    /// Why the connection was ended, if it was.
    pub(crate) fn why_cut(&self) -> Option<Why> {
        match &*self.stage.borrow() {
            Stage::Cut(why) => Some(why.clone()),
            Stage::Open | Stage::Draining(_) => None,
        }
    }

    /// Has the registry end the connection once it is draining and carries nothing: for those who can't see it themselves.
    pub(crate) fn ends_when_idle(&self) {
        self.ends_when_idle.set(true);
    }

    /// Lets the connection finish what it has.
    pub(crate) fn drain(&self, why: impl Into<Why>) {
        if !self.is_draining() {
            *self.stage.borrow_mut() = Stage::Draining(why.into());
            self.changed.notify_waiters();
        }
    }

    /// Ends the connection, and all that is open on it.
    pub(crate) fn end(&self, why: impl Into<Why>) {
        if self.why_cut().is_some() {
            return;
        }
        let why = why.into();
        *self.stage.borrow_mut() = Stage::Cut(why.clone());
        for (_, stream) in self.open.borrow_mut().iter_mut() {
            stream.cut(&why);
        }
        self.changed.notify_waiters();
    }

    /// The connection and what is open on it, each for one.
    pub(super) fn weight(&self) -> u64 {
        1 + self.open.borrow().len() as u64
    }

    /// Ends one stream.
    pub(super) fn end_stream(&self, key: usize, why: &Why) {
        if let Some(stream) = self.open.borrow_mut().get_mut(key) {
            stream.cut(why);
        }
    }

    /// Counts a request or flow as long as the guard lives.
    pub(crate) fn stream(self: &Rc<Self>) -> StreamGuard {
        self.streams.set(self.streams.get().saturating_add(1));
        StreamGuard(Rc::clone(self))
    }

    pub(super) fn sweep(&self, now: SystemTime, idle: Option<Duration>) {
        if let Some(end) = self.lease_end.get() {
            let left = end.duration_since(now).unwrap_or_default();
            let whole = end.duration_since(self.opened).unwrap_or_default();
            // One tick early: a connection never outlives its lease.
            if left <= TICK {
                self.end(reason::LEASE_ENDED);
            } else if left <= (whole / 10).min(DRAIN_BEFORE_END) {
                self.drain(reason::LEASE_ENDED);
            }
        }
        if self.ends_when_idle.get() && self.streams.get() == 0 {
            self.end_drained();
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
        self.shrink();
    }

    fn end_drained(&self) {
        let stage = self.stage.borrow().clone();
        if let Stage::Draining(why) = stage {
            self.end(why);
        }
    }

    /// Gives back what a burst of streams needed.
    fn shrink(&self) {
        let mut open = self.open.borrow_mut();
        if open.is_empty() && open.capacity() > KEPT_SLOTS {
            *open = Slab::new();
        }
    }
}

/// Counts a stream of a connection.
#[derive(Debug)]
pub(crate) struct StreamGuard(Rc<Live>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// How long before its end a connection takes on nothing new, at most; a tenth of its lease where that is less.
const DRAIN_BEFORE_END: Duration = Duration::from_secs(10);
/// Slots for streams that a connection keeps while it carries none: enough for a caller that asks one after another.
const KEPT_SLOTS: usize = 4;
