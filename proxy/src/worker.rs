//! Workers: one thread, one runtime, one set of listeners, pools and lane connections each.
//!
//! # Why
//! Nothing of a connection ever leaves its worker, so the request path takes no lock and wakes no other thread. The kernel
//! spreads connections over the workers' listeners (SO_REUSEPORT). What the control side replaces (identity, policy) is
//! read from [`State`], and what it asks (which connections are open) comes as a message.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::MissedTickBehavior;
use tracing::error;
use vouchsafe_attestation::name::Name;
use vouchsafe_attestation::peer::{Peer, PeerRole};
use vouchsafe_config::policy::{Binding, Context, Decision, DenyReason, Direction, Request};
use vouchsafe_config::proxy::{ListenAddr, ProxyConfig};
use vouchsafe_config::revocation::Bearer;

use crate::clock::MeshClock;
use crate::drain::{DrainSignal, Phase};
use crate::inbound::Inbound;
use crate::lane::control::bond::Bond;
use crate::lane::control::bonds::{Bonded, Bonds, Directory, Errand, Proven};
use crate::listener::{Bound, bind_all};
use crate::outbound::control::look_after;
use crate::outbound::habit::Habit;
use crate::outbound::pool::Lanes;
use crate::outbound::{Extras, Outbound};
use crate::reason::{self, Reason, Why};
use crate::registry::decisions::Decisions;
use crate::registry::live::Live;
use crate::registry::snapshot::{ConnectionSnapshot, Fallen};
use crate::registry::{LaneKind, NewConnection, Registration, Registry, TICK};
use crate::state::{IdentityEpoch, PolicyEpoch, State};
use crate::telemetry::Chain;
use crate::telemetry::access_log::{AccessLogBuffer, AccessLogWriter};
use crate::telemetry::metrics::{DataMetrics, OpenGauge};
use crate::tls::TlsEpoch;
use crate::tls::peer_verifier::Verified;

/// What workers share with the control side.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Bootstrap.
    pub config: Arc<ProxyConfig>,
    /// Identity and policy in force.
    pub state: Arc<State>,
    /// Mesh time.
    pub clock: Arc<MeshClock>,
    /// Counters.
    pub metrics: Arc<DataMetrics>,
    /// When to leave.
    pub drain: DrainSignal,
}

/// Running workers.
#[derive(Debug)]
pub struct Workers {
    /// Where inbound listens, in the order of the configuration, with real port numbers.
    pub inbound: Vec<SocketAddr>,
    /// Where outbound listens, in the order of the configuration, with real port numbers.
    pub outbound: Vec<ListenAddr>,
    threads: Vec<JoinHandle<()>>,
    connections: Connections,
}

/// Asks workers for their live connections. Cheap to clone; any thread, any runtime.
#[derive(Clone, Debug)]
pub struct Connections(Arc<[mpsc::Sender<Question>]>);

#[derive(Debug)]
enum Question {
    List(oneshot::Sender<Vec<ConnectionSnapshot>>),
    CountLive(oneshot::Sender<Vec<u64>>),
    WouldFall(Arc<PolicyEpoch>, oneshot::Sender<Vec<Fallen>>),
    Follow(oneshot::Sender<Vec<()>>),
}

/// Binds all listeners and starts the workers. They run until the drain has reached its end.
///
/// # Errors
/// [`SpawnError`]: nothing is left running.
pub fn spawn_all(parts: &Parts, access_log: &AccessLogWriter) -> Result<Workers, SpawnError> {
    let count = parts.config.workers.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        std::num::NonZeroUsize::get,
    );
    let (bound, addresses) = bind_all(&parts.config, count)?;
    let open = Arc::new(AtomicUsize::new(0));
    let directory = Arc::new(Directory::default());
    let habits = (0..parts.config.outbound.len()).map(|_| Arc::<Habit>::default());
    let habits: Arc<[_]> = habits.collect();
    let mut threads = Vec::with_capacity(count);
    let mut askers = Vec::with_capacity(count);
    for (number, bound) in bound.into_iter().enumerate() {
        // Operators ask rarely; one waiting question each is plenty.
        let (asker, questions) = mpsc::channel(4);
        askers.push(asker);
        let parts = parts.clone();
        let log = access_log.worker(&parts.metrics, number);
        let open = Arc::clone(&open);
        let directory = Arc::clone(&directory);
        let habits = Arc::clone(&habits);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(
                move || match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => {
                        let share = parts.config.limits.handshakes / count;
                        let (bonds, errands) = Bonds::new(&directory);
                        let worker = Worker::new(number, parts, log, open, share, bonds);
                        let run = in_a_task(worker.run(bound, habits, questions, errands));
                        LocalSet::new().block_on(&runtime, run);
                    }
                    Err(error) => {
                        error!(error = %Chain(&error), "failed to start a worker's runtime")
                    }
                },
            )
            .map_err(SpawnError::Thread)?;
        threads.push(thread);
    }
    Ok(Workers {
        inbound: addresses.inbound,
        outbound: addresses.outbound,
        threads,
        connections: Connections(askers.into()),
    })
}

/// Runs a worker in a task: a future that is blocked on is asked in each turn of the runtime, at low rates with each event
/// of each connection, and a task only when there is something for it.
async fn in_a_task(run: impl Future<Output = ()> + 'static) {
    if let Err(error) = tokio::task::spawn_local(run).await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

impl Workers {
    /// The way to ask for live connections.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Waits until all workers have ended, which they do when the drain is through. Blocks the thread.
    ///
    /// # Errors
    /// The number of workers that panicked.
    pub fn join(self) -> Result<(), usize> {
        let panicked = self
            .threads
            .into_iter()
            .map(JoinHandle::join)
            .filter(Result::is_err)
            .count();
        if panicked == 0 { Ok(()) } else { Err(panicked) }
    }
}

impl Connections {
    /// Of no worker at all: of a sidecar without a data path.
    pub fn none() -> Self {
        Self(Arc::new([]))
    }

    /// Of one worker that is asked and never answers.
    #[cfg(test)]
    pub(crate) fn busy() -> (Self, impl Send) {
        let (asker, questions) = mpsc::channel(4);
        (Self(Arc::new([asker])), questions)
    }

    /// All live connections; those of a worker that is too busy to answer within a second are missing.
    pub async fn list(&self) -> Vec<ConnectionSnapshot> {
        self.ask(Question::List).await.0
    }

    /// How many connections with peers, and requests and flows on them, there are; those of a worker that is too busy to
    /// answer are missing.
    pub async fn count_live(&self) -> u64 {
        self.ask(Question::CountLive).await.0.into_iter().sum()
    }

    /// Waits until what is live was judged by the policy and the trust bundle in force; for no longer than a second, after
    /// which a worker that is too busy does so when it comes to it.
    pub async fn followed(&self) {
        self.ask(Question::Follow).await;
    }

    /// What would end were a policy in force, without ending it.
    ///
    /// # Errors
    /// A worker is too busy to answer within a second: what the others said would not be all.
    pub async fn would_fall(&self, policy: Arc<PolicyEpoch>) -> Result<Vec<Fallen>, WorkerBusy> {
        let ask = |answer| Question::WouldFall(Arc::clone(&policy), answer);
        match self.ask(ask).await {
            (fallen, true) => Ok(fallen),
            (_, false) => Err(WorkerBusy),
        }
    }

    /// What all workers answer, and whether all did.
    async fn ask<T>(
        &self,
        question: impl Fn(oneshot::Sender<Vec<T>>) -> Question,
    ) -> (Vec<T>, bool) {
        let asked = self.0.iter().map(|worker| {
            let (answer, answered) = oneshot::channel();
            worker.try_send(question(answer)).ok().map(|()| answered)
        });
        // All are asked before the first is waited for: together they have a second.
        let asked: Vec<_> = asked.collect();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        let mut all = Vec::new();
        let mut complete = true;
        for answered in asked {
            match answered {
                Some(answered) => match tokio::time::timeout_at(deadline, answered).await {
                    Ok(Ok(found)) => all.extend(found),
                    Ok(Err(_)) | Err(_) => complete = false,
                },
                None => complete = false,
            }
        }
        (all, complete)
    }
}

/// A worker did not answer within a second.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a worker did not answer within a second")]
pub struct WorkerBusy;

/// Why workers could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A listener could not be bound.
    #[error("failed to listen on `{address}`")]
    Bind {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("failed to start a worker thread")]
    Thread(#[source] io::Error),
}

/// What all connections of one worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) parts: Parts,
    pub(crate) log: AccessLogBuffer,
    pub(crate) registry: Rc<Registry>,
    decisions: Decisions,
    pub(crate) handshakes: Handshakes,
    /// `namespace/name` of the local workload, for logs.
    pub(crate) local: String,
    /// Open connections of all workers.
    open: Arc<AtomicUsize>,
    tls: RefCell<Option<Rc<TlsEpoch>>>,
    /// The epoch whose configuration could not be built: said once.
    broken_epoch: Cell<Option<u64>>,
    pub(crate) bonds: Bonds,
    /// Number of the identity epoch, as of the last tick: wakes those who have something to prove.
    pub(crate) epochs: watch::Sender<u64>,
}

impl Worker {
    /// `share`: handshakes that this worker may have under way.
    fn new(
        number: usize,
        parts: Parts,
        log: AccessLogBuffer,
        open: Arc<AtomicUsize>,
        share: usize,
        bonds: Bonds,
    ) -> Self {
        Self {
            local: parts.config.workload.to_string(),
            registry: Rc::new(Registry::new(parts.config.workload.clone(), number)),
            decisions: Decisions::default(),
            parts,
            log,
            handshakes: Handshakes::new(share),
            open,
            tls: RefCell::default(),
            broken_epoch: Cell::default(),
            bonds,
            epochs: watch::Sender::new(0),
        }
    }

    async fn run(
        self,
        bound: Bound,
        habits: Arc<[Arc<Habit>]>,
        mut questions: mpsc::Receiver<Question>,
        mut errands: mpsc::Receiver<Errand>,
    ) {
        let worker = Rc::new(self);
        let mut listeners = JoinSet::new();
        let config = Arc::clone(&worker.parts.config);
        for (index, listener) in bound.inbound.into_iter().enumerate() {
            if let Some(declared) = config.inbound.get(index) {
                let inbound = Inbound::new(Rc::clone(&worker), declared.clone());
                listeners.spawn_local(inbound.run(listener));
            }
        }
        let lanes = Rc::<Lanes>::default();
        let called: BTreeSet<_> = config
            .outbound
            .iter()
            .map(|listener| &listener.to)
            .collect();
        let declared = config.outbound.iter().zip(&*habits);
        for (listener, (declared, habit)) in bound.outbound.into_iter().zip(declared) {
            let extras = Extras {
                lanes: Rc::clone(&lanes),
                habit: Arc::clone(habit),
                workload: called.iter().filter(|to| **to < &declared.to).count(),
            };
            let outbound = Outbound::new(Rc::clone(&worker), declared.clone(), extras);
            listeners.spawn_local(outbound.run(listener));
        }
        let mut care = JoinSet::new();
        care.spawn_local(look_after(Rc::clone(&worker), lanes));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = worker.parts.drain.clone();
        let mut changed = worker.parts.state.changed.subscribe();
        loop {
            tokio::select! {
                _ = tick.tick() => worker.tick(),
                Ok(()) = changed.changed() => worker.follow(),
                Some(question) = questions.recv() => worker.answer(question),
                Some(errand) = errands.recv() => {
                    worker.bonds.run(errand, |bonded, proven| worker.take_in(bonded, proven));
                }
                ended = listeners.join_next() => match ended {
                    Some(Ok(())) => {}
                    Some(Err(error)) => error!(error = %Chain(&error), "a listener's task broke"),
                    // Without any listener a worker still waits for the end of the process.
                    None => {
                        left.reached(Phase::Outbound).await;
                        break;
                    }
                },
            }
        }
        worker.log.flush();
    }

    /// Judges again what is live where policy or trust bundle have changed.
    fn follow(&self) {
        self.follow_policy(&self.parts.state.policy.load());
        if let Some(identity) = &*self.parts.state.identity.load() {
            self.registry.rejudge_peers(&identity.bundle, self.now());
        }
    }

    /// Judges again what is live where this is not the policy by which it was judged last.
    fn follow_policy(&self, policy: &Arc<PolicyEpoch>) {
        if !self.registry.follows(policy) {
            self.registry.rejudge(policy, self.now());
        }
    }

    /// Asks policy about the peer of a connection.
    pub(crate) fn judge(
        &self,
        on: &Live,
        port: &Name,
        number: u16,
        request: Option<&Request<'_>>,
    ) -> Decision {
        let epoch = self.parts.state.policy.load();
        // What is admitted now is registered under the same policy as all that is live.
        self.follow_policy(&epoch);
        if epoch.is_stale {
            return Decision::Deny(DenyReason::Stale);
        }
        let peer = on.peer();
        let Some(verified) = &*peer else {
            return Decision::Deny(DenyReason::UnknownDoor);
        };
        self.decisions.authorize(
            &epoch,
            verified,
            &Context {
                direction: on.direction,
                local: &self.parts.config.workload,
                peer: &verified.peer,
                binding: on.binding(),
                port,
                number: Some(number),
                request,
                user: None,
                on_behalf_of: None,
                now: self.now(),
            },
        )
    }

    fn answer(&self, question: Question) {
        // Whoever asked may have gone away.
        match question {
            Question::List(answer) => {
                let _ = answer.send(self.registry.snapshot());
            }
            Question::CountLive(answer) => {
                let _ = answer.send(vec![self.registry.count_live()]);
            }
            Question::Follow(answer) => {
                self.follow();
                let _ = answer.send(Vec::new());
            }
            Question::WouldFall(policy, answer) => {
                self.follow();
                let _ = answer.send(self.registry.would_fall(&policy, self.now()));
            }
        }
    }

    fn tick(&self) {
        self.follow();
        let identity = self.parts.state.identity.load();
        let number = identity.as_ref().map_or(0, |epoch| epoch.number);
        self.epochs
            .send_if_modified(|known| std::mem::replace(known, number) != number);
        let idle = self.parts.config.limits.idle;
        self.registry
            .sweep(self.now(), idle, self.parts.drain.phase());
        self.log.flush();
    }

    /// Mesh time.
    pub(crate) fn now(&self) -> SystemTime {
        self.parts.clock.now()
    }

    /// What handshakes need now; `None` without a living identity, and then everything is denied.
    pub(crate) fn tls(&self) -> Option<Rc<TlsEpoch>> {
        let identity = self.parts.state.identity.load();
        let identity = identity.as_ref()?;
        if identity.svid.not_after <= self.now() {
            return None;
        }
        if let Some(held) = self.tls.borrow().as_ref()
            && Arc::ptr_eq(&held.identity, identity)
        {
            return Some(Rc::clone(held));
        }
        self.build_tls(identity)
    }

    fn build_tls(&self, identity: &Arc<IdentityEpoch>) -> Option<Rc<TlsEpoch>> {
        if self.broken_epoch.get() == Some(identity.number) {
            return None;
        }
        match TlsEpoch::new(Arc::clone(identity), &self.parts.clock) {
            Ok(built) => {
                let built = Rc::new(built);
                *self.tls.borrow_mut() = Some(Rc::clone(&built));
                Some(built)
            }
            Err(error) => {
                self.broken_epoch.set(Some(identity.number));
                error!(error = %Chain(&error), "the identity can't be used for TLS");
                None
            }
        }
    }

    /// Room for one more connection, as long as the slot lives.
    pub(crate) fn admit(&self) -> Option<Slot> {
        let slot = Slot(Arc::clone(&self.open));
        // Counted before it is compared, so that the bound holds over all workers; the slot's drop takes it back.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        (before < self.parts.config.limits.connections).then_some(slot)
    }

    /// Registers a connection with a peer; `doors`: the ports that the peer may ask for by it, where it calls us.
    pub(crate) fn register_peer(
        &self,
        doors: Option<&Rc<[Name]>>,
        lane: LaneKind,
        peer: &Arc<Verified>,
        exporter: [u8; 32],
        epoch: &TlsEpoch,
    ) -> Registered {
        let direction = match doors {
            Some(_) => Direction::Inbound,
            None => Direction::Outbound,
        };
        // Promise 4: a connection never outlives the earlier end of both ends.
        let lease_end = peer.peer.not_after().min(epoch.identity.svid.not_after);
        let now = self.now();
        let mut registered = self.register(NewConnection {
            direction,
            lane,
            peer: Some(Arc::clone(peer)),
            port: None,
            doors: doors.map(Rc::clone),
            lease_end: Some(lease_end),
            now,
        });
        self.refuse_fallen(&registered.registration.live, epoch, now);
        if lane != LaneKind::Interop {
            let role = match direction {
                Direction::Inbound => PeerRole::Client,
                Direction::Outbound => PeerRole::Server,
            };
            let bond = Bond::new(exporter, role, Arc::clone(peer), Arc::clone(&epoch.own));
            let live = &registered.registration.live;
            registered.bonded = Some(self.bonds.list(live, bond));
        }
        registered
    }

    /// Ends a new connection whose peer lost its trust while the handshake was under way.
    fn refuse_fallen(&self, live: &Live, epoch: &TlsEpoch, now: SystemTime) {
        // What changes after this finds the connection registered.
        self.follow();
        let peer = live.peer();
        let Some(peer) = peer.as_ref().map(|verified| &verified.peer) else {
            return;
        };
        // Whatever becomes of live ones, a new connection of a revoked peer has no future.
        let policy = self.parts.state.policy.load();
        if let Some(revocation) = policy.policy.revoked(&Bearer::from(peer), now) {
            live.end(Why::revoked(revocation));
        }
        let identity = self.parts.state.identity.load();
        let newer = identity
            .as_ref()
            .filter(|identity| !Arc::ptr_eq(&identity.bundle, &epoch.identity.bundle));
        if newer.is_some_and(|identity| !identity.bundle.vouches_for(peer, now)) {
            live.end(reason::AUTHORITY_REMOVED);
        }
        // The handshake may have taken longer than the certificates had left.
        let soon = now + TICK;
        if live.lease_end().is_some_and(|end| end <= soon) {
            live.end(reason::LEASE_ENDED);
        }
    }

    /// Takes in what was proven over a live connection of this worker: its lease is then the earlier end of both ends'
    /// new ones, and what is open on it is judged again.
    ///
    /// # Errors
    /// The bounded reason why the connection gets no longer lease.
    pub(crate) fn take_in(&self, bonded: &Bonded, proven: Proven) -> Result<(), Reason> {
        let (live, bond) = (&bonded.live, &bonded.bond);
        // What fell by a change ends before anything lives longer by it.
        self.follow();
        if live.why_cut().is_some() {
            return Err(reason::UNKNOWN_CONNECTION);
        }
        match proven {
            Proven::Binding(at) => live.bind(Binding::Exporter(at)),
            Proven::Own(own) => {
                let peer = bond.peer();
                self.believe(&peer.peer)?;
                live.extend_lease(bond.own_succeeded(own), peer);
            }
            Proven::Peer(peer) => {
                self.believe(&peer.peer)?;
                live.extend_lease(bond.peer_succeeded(Arc::clone(&peer)), peer);
            }
        }
        Ok(())
    }

    /// Whether a peer is believed now whose chain was verified some time ago: nobody revokes it, and its authority may
    /// still vouch for it.
    fn believe(&self, peer: &Peer) -> Result<(), Reason> {
        let now = self.now();
        let policy = self.parts.state.policy.load();
        if let Some(revocation) = policy.policy.revoked(&Bearer::from(peer), now) {
            return Err(revocation.deny_reason().into());
        }
        match &*self.parts.state.identity.load() {
            Some(identity) if identity.bundle.vouches_for(peer, now) => Ok(()),
            Some(_) => Err(reason::AUTHORITY_REMOVED),
            None => Err(reason::NO_IDENTITY),
        }
    }

    /// Registers a connection.
    pub(crate) fn register(&self, new: NewConnection) -> Registered {
        let gauge = self.parts.metrics.of(new.direction).connection(new.lane);
        let open = self.parts.drain.enter(new.direction);
        Registered {
            registration: self.registry.register(new, open),
            bonded: None,
            _gauge: gauge,
        }
    }
}

/// A connection that is registered and counted.
#[derive(Debug)]
pub(crate) struct Registered {
    /// Dropped before the registration: nobody speaks of a connection that is not registered.
    pub(crate) bonded: Option<Rc<Bonded>>,
    pub(crate) registration: Registration,
    _gauge: Option<OpenGauge>,
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Handshakes under way. Beyond the limit the oldest is given up: those of a flood stand still, an honest one is done in
/// milliseconds, so the oldest is never an honest one.
#[derive(Debug)]
pub(crate) struct Handshakes {
    limit: usize,
    next: Cell<u64>,
    pending: RefCell<VecDeque<(u64, Rc<Notify>)>>,
}

impl Handshakes {
    fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            next: Cell::new(0),
            pending: RefCell::default(),
        }
    }

    /// Enters a handshake, and may evict the oldest.
    pub(crate) fn enter(&self) -> Handshake<'_> {
        let id = self.next.get();
        self.next.set(id + 1);
        let evicted = Rc::new(Notify::new());
        let mut pending = self.pending.borrow_mut();
        pending.push_back((id, Rc::clone(&evicted)));
        if pending.len() > self.limit
            && let Some((_, oldest)) = pending.pop_front()
        {
            oldest.notify_one();
        }
        Handshake {
            all: self,
            id,
            evicted,
        }
    }
}

/// A handshake under way.
#[derive(Debug)]
pub(crate) struct Handshake<'a> {
    all: &'a Handshakes,
    id: u64,
    evicted: Rc<Notify>,
}

impl Handshake<'_> {
    /// Waits until the handshake must be given up.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let mut pending = self.all.pending.borrow_mut();
        // Numbers grow from front to back.
        if let Ok(index) = pending.binary_search_by_key(&self.id, |(id, _)| *id) {
            pending.remove(index);
        }
    }
}
