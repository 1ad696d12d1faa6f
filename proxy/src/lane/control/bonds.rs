//! All bonds of the process: so that a control stream of one worker can speak of connections of another.
//!
//! A name of a connection follows from its exporter, so whoever can name one is its other end. The directory is locked
//! when a connection with a peer is opened or ends and when one is spoken of, never per request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};
use vouchsafe_attestation::connection_proof::ConnectionId;
use vouchsafe_config::policy::{Binding, Strict};

use crate::lane::control::bond::{Bond, OwnCertificate};
use crate::reason::{self, Reason};
use crate::registry::LaneKind;
use crate::registry::live::Live;
use crate::tls::peer_verifier::Verified;

/// Of all workers.
#[derive(Debug, Default)]
pub(crate) struct Directory(Mutex<HashMap<ConnectionId, Listed>>);

/// A bond and the way to the worker that has its connection.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) bond: Arc<Bond>,
    live: u64,
    owner: mpsc::Sender<Errand>,
}

/// Something to be done with a connection, by the worker that has it.
#[derive(Debug)]
pub(crate) struct Errand {
    live: u64,
    what: Proven,
    answer: oneshot::Sender<Result<(), Reason>>,
}

/// What was proven over a connection.
#[derive(Clone, Debug)]
pub(crate) enum Proven {
    /// The peer's successor.
    Peer(Arc<Verified>),
    /// Our own, to the peer.
    Own(Arc<OwnCertificate>),
    /// That the peer holds its key, at this time.
    Binding(SystemTime),
}

impl Directory {
    /// The connection of that name.
    pub(crate) fn find(&self, id: ConnectionId) -> Option<Listed> {
        self.all().get(&id).cloned()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ConnectionId, Listed>> {
        // Insertions and removals leave nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    /// Has the connection's worker take in what was proven.
    ///
    /// # Errors
    /// The bounded reason why it did not.
    pub(crate) async fn take_in(&self, what: Proven) -> Result<(), Reason> {
        let (answer, answered) = oneshot::channel();
        let errand = Errand {
            live: self.live,
            what,
            answer,
        };
        let busy = |_| reason::CONTROL_STREAM;
        self.owner.try_send(errand).map_err(busy)?;
        match tokio::time::timeout(ERRAND, answered).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(_)) | Err(_) => Err(reason::CONTROL_STREAM),
        }
    }
}

/// Bonds of one worker.
#[derive(Debug)]
pub(crate) struct Bonds {
    pub(crate) directory: Arc<Directory>,
    errands: mpsc::Sender<Errand>,
    own: Rc<RefCell<HashMap<u64, Weak<Bonded>>>>,
}

/// A live connection with its bond; listed until it is dropped.
#[derive(Debug)]
pub(crate) struct Bonded {
    pub(crate) live: Rc<Live>,
    pub(crate) bond: Arc<Bond>,
    pub(crate) since: Instant,
    /// Leaf of the peer that it knows to be taken in.
    pub(crate) settled: Cell<[u8; 32]>,
    /// What we have proven of ourselves for strict routes; of the peer the registry knows it.
    pub(crate) own_proven: Cell<Binding>,
    /// What its control streams may ask of us.
    pub(crate) budget: Budget,
    /// Held while keys are proven for strict routes.
    pub(crate) proving: tokio::sync::Mutex<()>,
    directory: Arc<Directory>,
    own: Rc<RefCell<HashMap<u64, Weak<Self>>>>,
}

impl Bonded {
    /// What must be proven for strict routes before it is used again.
    pub(crate) fn due(&self, strict: Strict, now: SystemTime) -> Strict {
        let is_due = |binding| match binding {
            Binding::Certificate => true,
            Binding::Exporter(at) => now
                .duration_since(at)
                .map_or(true, |age| age >= Binding::REPEAT),
        };
        Strict {
            client: strict.client && is_due(self.own_proven.get()),
            server: strict.server && is_due(self.live.binding()),
        }
    }

    /// What has been proven for strict routes, and so is repeated.
    pub(crate) fn strict(&self) -> Strict {
        Strict {
            client: self.own_proven.get() != Binding::Certificate,
            server: self.live.binding() != Binding::Certificate,
        }
    }

    /// Whether the connection carries something: a dedicated one is its flow.
    pub(crate) fn is_in_use(&self) -> bool {
        self.live.lane == LaneKind::Dedicated || self.live.streams.get() > 0
    }
}

/// Signatures and verifications that the other end of a connection may have us make.
///
/// # Why
/// Whoever completes a handshake gets a control stream, before any rule admits it. What it asks for there costs us as much
/// as its handshake did, so it gets a burst that renews all connections that two ends may have between them, and then no
/// more than a fraction of a core.
#[derive(Debug)]
pub(crate) struct Budget(Cell<(Instant, u32)>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new((Instant::now(), BURST)))
    }
}

impl Budget {
    /// Pays for one; whether there was something left.
    pub(crate) fn spend(&self, now: Instant) -> bool {
        let (since, left) = self.0.get();
        let passed = now.saturating_duration_since(since).as_millis();
        let earned = u32::try_from(passed * RATE / 1000).unwrap_or(BURST);
        let (since, left) = match earned {
            0 => (since, left),
            earned => (now, left.saturating_add(earned).min(BURST)),
        };
        self.0.set((since, left.saturating_sub(1)));
        left > 0
    }
}

impl Drop for Bonded {
    fn drop(&mut self) {
        self.own.borrow_mut().remove(&self.live.id);
        self.directory.all().remove(&self.bond.id);
    }
}

impl Bonds {
    /// No bonds yet; the receiver is for the worker's loop.
    pub(crate) fn new(directory: &Arc<Directory>) -> (Self, mpsc::Receiver<Errand>) {
        let (errands, received) = mpsc::channel(ERRANDS);
        let bonds = Self {
            directory: Arc::clone(directory),
            errands,
            own: Rc::default(),
        };
        (bonds, received)
    }

    /// Lists a connection.
    pub(crate) fn list(&self, live: &Rc<Live>, bond: Bond) -> Rc<Bonded> {
        let bond = Arc::new(bond);
        let listed = Listed {
            bond: Arc::clone(&bond),
            live: live.id,
            owner: self.errands.clone(),
        };
        self.directory.all().insert(bond.id, listed);
        let bonded = Rc::new(Bonded {
            live: Rc::clone(live),
            settled: Cell::new(bond.peer().leaf_sha256),
            bond,
            since: Instant::now(),
            own_proven: Cell::default(),
            budget: Budget::default(),
            proving: tokio::sync::Mutex::default(),
            directory: Arc::clone(&self.directory),
            own: Rc::clone(&self.own),
        });
        self.own
            .borrow_mut()
            .insert(live.id, Rc::downgrade(&bonded));
        bonded
    }

    /// The bond of a connection of this worker.
    pub(crate) fn of(&self, live: &Live) -> Option<Rc<Bonded>> {
        self.own.borrow().get(&live.id)?.upgrade()
    }

    /// Does what another worker, or this one, asks for.
    pub(crate) fn run(
        &self,
        errand: Errand,
        take_in: impl FnOnce(&Bonded, Proven) -> Result<(), Reason>,
    ) {
        let bonded = self.own.borrow().get(&errand.live).and_then(Weak::upgrade);
        let taken = match bonded {
            Some(bonded) => take_in(&bonded, errand.what),
            None => Err(reason::UNKNOWN_CONNECTION),
        };
        // Whoever asked may have gone away.
        let _ = errand.answer.send(taken);
    }
}

/// Errands that wait for a worker: a peer has one under way per control stream, so this is as many peers at once.
const ERRANDS: usize = 1024;
/// For a busy pair of sidecars: every connection between them proven by both ends twice over.
const BURST: u32 = 8192;
/// A second; about a hundredth of a core.
const RATE: u128 = 256;
/// A worker that takes longer has other troubles, and the lease goes on as it was.
const ERRAND: Duration = Duration::from_secs(5);
