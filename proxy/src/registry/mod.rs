//! Live connections of one worker and what is open on them: who is connected, since when, until when, by which rule; and
//! the way to end them.
//!
//! # Why
//! Trust that ends is cut (promise 5), so everything that is live can be judged again with the same `authorize`. What a
//! change can touch is found by three indices: connections by their peer's certificate, connections by the rules that
//! what is open on them rests on, and by the next time at which one of these rules ends by itself. Streams have no index
//! of their own, so that a request costs a slot and nothing else.
//!
//! Ends in time are found by one sweep per worker and tick, not by a timer each: it compares mesh time, which a timer
//! does not follow when the machine sleeps, and costs nothing per request.

pub(crate) mod admission;
pub(crate) mod decisions;
pub(crate) mod live;
mod rejudge;
pub mod snapshot;
pub(crate) mod stream;

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use slab::Slab;
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::trust_bundle::TrustBundle;
use vouchsafe_config::policy::{Binding, Decision, DenyReason, Direction};

use crate::drain::{OpenConnection, Phase};
use crate::reason;
use crate::registry::admission::{Admission, Admissions};
use crate::registry::live::Live;
use crate::registry::stream::{Facts, Stream, Ticket};
use crate::state::PolicyEpoch;
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

/// The word for a direction in logs and metrics.
pub(crate) fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

/// What is known of a connection when it is registered.
#[derive(Debug)]
pub(crate) struct NewConnection {
    pub(crate) direction: Direction,
    pub(crate) lane: LaneKind,
    pub(crate) peer: Option<Arc<Verified>>,
    pub(crate) port: Option<Name>,
    /// Ports that the peer may ask for by it, where it calls us.
    pub(crate) doors: Option<Rc<[Name]>>,
    pub(crate) lease_end: Option<SystemTime>,
    pub(crate) now: SystemTime,
}

/// All live connections of one worker.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Whose sidecar this is.
    local: WorkloadName,
    /// Number of the worker.
    worker: usize,
    next: Cell<u64>,
    live: RefCell<HashMap<u64, Rc<Live>>>,
    /// By SHA-256 of the peer's certificate: what is said of a peer is judged once for all its connections.
    peers: RefCell<HashMap<[u8; 32], PeerConnections>>,
    admissions: Admissions,
    /// By what live streams were judged last.
    policy: RefCell<Arc<PolicyEpoch>>,
    /// By what live peers were judged last.
    bundle: RefCell<Option<Arc<TrustBundle>>>,
}

/// Connections with the holder of one certificate.
#[derive(Debug)]
struct PeerConnections {
    verified: Arc<Verified>,
    connections: HashSet<u64>,
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
        self.registry.remove(&self.live);
    }
}

impl Registry {
    /// The registry of one worker of a workload's sidecar.
    pub(crate) fn new(local: WorkloadName, worker: usize) -> Self {
        Self {
            local,
            worker,
            next: Cell::new(0),
            live: RefCell::default(),
            peers: RefCell::default(),
            admissions: Admissions::default(),
            policy: RefCell::default(),
            bundle: RefCell::default(),
        }
    }

    /// Registers a connection.
    pub(crate) fn register(
        self: &Rc<Self>,
        new: NewConnection,
        open: OpenConnection,
    ) -> Registration {
        let id = self.next.get();
        self.next.set(id + 1);
        if let Some(peer) = &new.peer {
            self.add_peer(id, peer);
        }
        let live = Rc::new(Live::new(id, new, Rc::downgrade(self)));
        self.live.borrow_mut().insert(id, Rc::clone(&live));
        Registration {
            live,
            registry: Rc::clone(self),
            _open: open,
        }
    }

    /// How many connections with peers, and requests and flows on them, there are: each counts for one.
    pub(crate) fn count_live(&self) -> u64 {
        let live = self.live.borrow();
        let with_peers = live.values().filter(|live| live.peer().is_some());
        with_peers.map(|live| live.weight()).sum()
    }

    fn remove(&self, live: &Live) {
        self.live.borrow_mut().remove(&live.id);
        if let Some(peer) = &*live.peer() {
            self.remove_peer(live.id, peer);
        }
        for admission in live.relies_on.take() {
            admission.connections.borrow_mut().remove(&live.id);
        }
    }

    fn add_peer(&self, id: u64, verified: &Arc<Verified>) {
        let mut peers = self.peers.borrow_mut();
        let held = peers.entry(verified.leaf_sha256);
        let held = held.or_insert_with(|| PeerConnections {
            verified: Arc::clone(verified),
            connections: HashSet::new(),
        });
        held.connections.insert(id);
    }

    fn remove_peer(&self, id: u64, verified: &Verified) {
        let mut peers = self.peers.borrow_mut();
        if let Entry::Occupied(mut held) = peers.entry(verified.leaf_sha256) {
            held.get_mut().connections.remove(&id);
            if held.get().connections.is_empty() {
                held.remove();
            }
        }
    }

    /// Finds a connection under its peer's successor certificate from now on.
    fn replace_peer(&self, id: u64, before: Option<&Verified>, successor: &Arc<Verified>) {
        if !self.live.borrow().contains_key(&id) {
            return;
        }
        if let Some(before) = before {
            self.remove_peer(id, before);
        }
        self.add_peer(id, successor);
    }

    /// Registers a request or flow that policy admitted for the peer of a connection. The decision must be one by the
    /// policy that the registry [follows](Self::follows).
    pub(crate) fn admit(
        &self,
        on: &Rc<Live>,
        facts: &mut Facts,
        decision: Decision,
    ) -> Option<Ticket> {
        let (admission, audited) = self.admission(decision)?;
        self.rely(on, &admission);
        let facts = std::mem::take(facts);
        let stream = Stream::new(facts, admission, audited, on.why_cut());
        let mut open = on.open.borrow_mut();
        if open.capacity() == 0 {
            // One by itself would have room for four: a flow with a connection of its own stays alone.
            *open = Slab::with_capacity(1);
        }
        let key = open.insert(stream);
        drop(open);
        Some(Ticket::new(Rc::clone(on), key))
    }

    fn admission(&self, decision: Decision) -> Option<(Rc<Admission>, Option<DenyReason>)> {
        match decision {
            Decision::Allow(rule) => {
                let policy = self.policy.borrow();
                Some((self.admissions.of(&policy.policy, rule), None))
            }
            Decision::Audit(reason) => Some((Rc::clone(&self.admissions.audit), Some(reason))),
            Decision::Deny(_) => None,
        }
    }

    /// Notes that something on a connection rests on an admission.
    fn rely(&self, on: &Live, admission: &Rc<Admission>) {
        let mut relies_on = on.relies_on.borrow_mut();
        let held = relies_on.iter().any(|held| Rc::ptr_eq(held, admission));
        // A connection that is gone is not found any more, and its streams end with it.
        if held || !self.live.borrow().contains_key(&on.id) {
            return;
        }
        relies_on.push(Rc::clone(admission));
        admission.connections.borrow_mut().insert(on.id);
        if let Some(end) = self.ends(on, admission, on.binding()) {
            let due = on.due.get().map_or(end, |due| due.min(end));
            on.due.set(Some(due));
        }
    }

    /// When an admission ends for the peer of a connection, by time alone.
    fn ends(&self, on: &Live, admission: &Admission, binding: Binding) -> Option<SystemTime> {
        let rule = admission.rule.get()?;
        let peer = on.peer();
        let result = peer.as_ref().and_then(|verified| verified.peer.result());
        let policy = self.policy.borrow();
        let policy = &policy.policy;
        policy.rule_ends(rule, on.direction, result, binding)
    }

    /// Ends or drains what is due.
    pub(crate) fn sweep(&self, now: SystemTime, idle: Option<Duration>, phase: Phase) {
        for live in self.live.borrow().values() {
            live.sweep(now, idle);
            if live.due.get().is_some_and(|due| due <= now) {
                self.rejudge_connection(live, now);
            }
            match phase {
                Phase::Serving => {}
                Phase::Inbound if live.direction == Direction::Inbound => live.drain(reason::DRAIN),
                Phase::Inbound => {}
                Phase::Outbound => live.drain(reason::DRAIN),
                Phase::Cut => live.end(reason::DRAIN),
            }
        }
    }
}

/// How often a worker sweeps: the precision of every end that is not an event.
pub(crate) const TICK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
