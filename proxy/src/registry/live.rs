//! One live connection: whom it is with, until when, what is open on it, and how it is told to end.

use std::cell::{Cell, Ref, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use slab::Slab;
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
    /// Who waits for a stage. Of this thread alone, so that it costs no lock to ask with each piece of a stream.
    waiting: RefCell<Slab<Waker>>,
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
            waiting: RefCell::default(),
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
    pub(crate) fn cut(&self) -> impl Future<Output = Reason> + '_ {
        self.reached(|stage| match stage {
            Stage::Cut(why) => Some(why.reason),
            Stage::Open | Stage::Draining(_) => None,
        })
    }

    /// Waits until the connection should take on nothing new.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + '_ {
        self.reached(|stage| (!matches!(stage, Stage::Open)).then_some(()))
    }

    fn reached<S: Fn(&Stage) -> Option<R> + Unpin, R>(&self, stage: S) -> Reached<'_, S> {
        Reached {
            live: self,
            stage,
            place: None,
        }
    }

    /// Wakes who waits for a stage.
    fn wake(&self) {
        let waiting = self.waiting.borrow();
        waiting.iter().for_each(|(_, waker)| waker.wake_by_ref());
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
            self.wake();
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
        self.wake();
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

/// Ready when a connection has reached a stage.
#[derive(Debug)]
struct Reached<'a, S> {
    live: &'a Live,
    stage: S,
    /// Among those who wait, once it has waited.
    place: Option<usize>,
}

impl<S: Fn(&Stage) -> Option<R> + Unpin, R> Future for Reached<'_, S> {
    type Output = R;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        let this = self.get_mut();
        if let Some(reached) = (this.stage)(&this.live.stage.borrow()) {
            return Poll::Ready(reached);
        }
        let mut waiting = this.live.waiting.borrow_mut();
        match this.place.and_then(|place| waiting.get_mut(place)) {
            // Copies nothing where the same task asks again.
            Some(waker) => waker.clone_from(cx.waker()),
            None => this.place = Some(waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl<S> Drop for Reached<'_, S> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.live.waiting.borrow_mut().try_remove(place);
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn live() -> Live {
        let new = NewConnection {
            direction: Direction::Inbound,
            lane: LaneKind::Shared,
            peer: None,
            port: None,
            doors: None,
            lease_end: None,
            now: SystemTime::UNIX_EPOCH,
        };
        Live::new(0, new, Weak::new())
    }

    #[test]
    fn who_waits_for_a_stage_is_woken_by_it() {
        let live = live();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let (mut drained, mut cut) = (pin!(live.drained()), pin!(live.cut()));
        for _ in 0..3 {
            assert!(drained.as_mut().poll(&mut context).is_pending());
            assert!(cut.as_mut().poll(&mut context).is_pending());
        }
        live.drain(reason::DRAIN);
        assert_eq!(woken.0.swap(0, Ordering::Relaxed), 2);
        assert!(drained.as_mut().poll(&mut context).is_ready());
        assert!(cut.as_mut().poll(&mut context).is_pending());
        live.end(reason::LEASE_ENDED);
        assert!(woken.0.load(Ordering::Relaxed) > 0);
        assert_eq!(
            cut.as_mut().poll(&mut context),
            Poll::Ready(reason::LEASE_ENDED)
        );
    }

    #[test]
    fn the_task_that_asked_last_is_woken() {
        let live = live();
        let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let mut cut = pin!(live.cut());
        for task in [&first, &second] {
            let waker = Waker::from(Arc::clone(task));
            assert!(
                cut.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        live.end(reason::DRAIN);
        assert_eq!(first.0.load(Ordering::Relaxed), 0);
        assert_eq!(second.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_no_longer_waits_leaves_no_place_behind() {
        let live = live();
        for _ in 0..3 {
            let mut drained = pin!(live.drained());
            let mut context = Context::from_waker(Waker::noop());
            assert!(drained.as_mut().poll(&mut context).is_pending());
            assert_eq!(live.waiting.borrow().len(), 1);
        }
        assert!(live.waiting.borrow().is_empty());
        assert!(live.waiting.borrow().capacity() <= 4);
    }
}
