//! Who attests now and who waits: places, and a queue by urgency.
//!
//! | First | because |
//! |---|---|
//! | renewals whose certificate ends within `URGENT`, the soonest first | they would lose what they have |
//! | enrolments of workloads that have no instance | nobody serves their callers |
//! | everything else: renewals, the soonest-ending first, proofs, further instances | it can wait |
//!
//! Who presents a certificate has places apart, so that a flood of strangers keeps nobody from renewing. A queue is
//! bounded: whoever is least urgent is sent away, and told when to come back, each a little later than the one before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

/// How urgent an attestation is: the lesser goes first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rank {
    class: Class,
    /// Of what the instance has.
    ends: SystemTime,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Class {
    Ending,
    Alone,
    Rest,
}

impl Rank {
    /// Of a renewal or a proof, by the end of the certificate that the instance has.
    pub fn of_instance(ends: SystemTime, renews: bool, now: SystemTime) -> Self {
        let is_urgent = renews && ends.duration_since(now).unwrap_or_default() < URGENT;
        let class = if is_urgent {
            Class::Ending
        } else {
            Class::Rest
        };
        Self { class, ends }
    }

    /// Of an enrolment.
    pub fn of_stranger(workload_has_instances: bool, now: SystemTime) -> Self {
        let class = match workload_has_instances {
            false => Class::Alone,
            true => Class::Rest,
        };
        Self { class, ends: now }
    }
}

/// Places and who waits for one. Pure.
#[derive(Debug)]
struct Queue<W> {
    free: usize,
    most_waiting: usize,
    next: u64,
    waiting: BTreeMap<(Rank, u64), W>,
    sent_away: u32,
}

/// What becomes of one that arrives.
#[derive(Debug, Eq, PartialEq)]
enum Arrival<W> {
    Enters,
    Waits((Rank, u64)),
    /// Somebody less urgent has to go.
    Displaces((Rank, u64), W),
    SentAway,
}

impl<W> Queue<W> {
    fn new(places: usize, most_waiting: usize) -> Self {
        Self {
            free: places,
            most_waiting,
            next: 0,
            waiting: BTreeMap::new(),
            sent_away: 0,
        }
    }

    fn arrive(&mut self, rank: Rank, waiter: W) -> Arrival<W> {
        if self.free > 0 {
            self.free -= 1;
            self.sent_away = 0;
            return Arrival::Enters;
        }
        self.next += 1;
        let ticket = (rank, self.next);
        if self.waiting.len() < self.most_waiting {
            self.waiting.insert(ticket, waiter);
            return Arrival::Waits(ticket);
        }
        match self.waiting.last_key_value() {
            Some(((last, _), _)) if *last > rank => {
                let displaced = self.waiting.pop_last();
                self.waiting.insert(ticket, waiter);
                displaced.map_or(Arrival::Waits(ticket), |(_, waiter)| {
                    Arrival::Displaces(ticket, waiter)
                })
            }
            Some(_) | None => Arrival::SentAway,
        }
    }

    /// A place is free: who gets it.
    fn leave(&mut self) -> Option<W> {
        let next = self.waiting.pop_first();
        if next.is_none() {
            self.free += 1;
        }
        next.map(|(_, waiter)| waiter)
    }

    /// When one that is sent away had better come back: after those that wait, and after those sent away before it.
    fn come_back(&mut self) -> Duration {
        self.sent_away = (self.sent_away + 1) % MOST_SPREAD;
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let ahead = waiting.saturating_add(self.sent_away);
        (SOONEST + EACH.saturating_mul(ahead)).min(LATEST)
    }
}

/// A door with places.
#[derive(Debug)]
pub struct Gate(Mutex<Queue<oneshot::Sender<Place>>>);

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place(Option<Arc<Gate>>);

impl Gate {
    /// A gate of so many places, before which so many may wait.
    pub fn new(places: usize, most_waiting: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queue::new(places, most_waiting))))
    }

    /// Waits for a place, no longer than `PATIENCE`. The error says when to come back.
    ///
    /// # Errors
    /// There is no room, or somebody more urgent needs it.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    pub async fn enter(self: &Arc<Self>, rank: Rank) -> Result<Place, Duration> {
        let (sender, receiver) = oneshot::channel();
        let arrival = self.queue().arrive(rank, sender);
        let ticket = match arrival {
            Arrival::Enters => return Ok(Place(Some(Arc::clone(self)))),
            // The sender of the one that has to go is dropped, which tells it.
            Arrival::Waits(ticket) | Arrival::Displaces(ticket, _) => ticket,
            Arrival::SentAway => return Err(self.come_back()),
        };
        let _waiting = Waiting { gate: self, ticket };
        let until = Instant::now() + PATIENCE;
        match tokio::time::timeout_at(until, receiver).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(self.come_back()),
        }
    }

    fn come_back(&self) -> Duration {
        self.queue().come_back()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<oneshot::Sender<Place>>> {
        // Every change is a single insertion or removal, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a free place to the next who still waits.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = self.queue().leave();
            let Some(next) = next else {
                return;
            };
            match next.send(Place(Some(Arc::clone(self)))) {
                Ok(()) => return,
                // It has given up meanwhile; its place is dropped without passing it on a second time.
                Err(mut place) => place.0 = None,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.pass_on();
        }
    }
}

/// A ticket, given back when nobody waits with it any more.
struct Waiting<'g> {
    gate: &'g Gate,
    ticket: (Rank, u64),
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.queue().waiting.remove(&self.ticket);
    }
}

/// A certificate that ends before this is in danger.
const URGENT: Duration = Duration::from_secs(300);
/// How long one waits for a place: a sidecar had better hear that it is busy than hold a stream.
const PATIENCE: Duration = Duration::from_secs(10);
/// Not at once.
const SOONEST: Duration = Duration::from_millis(200);
/// What one attestation takes a place for, spread over all places.
const EACH: Duration = Duration::from_millis(10);
const LATEST: Duration = Duration::from_secs(60);
/// So many come back one after the other, then it begins anew.
const MOST_SPREAD: u32 = 3_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn ends_in(seconds: u64) -> Rank {
        Rank::of_instance(now() + Duration::from_secs(seconds), true, now())
    }

    #[test]
    fn the_soonest_ending_goes_first_then_workloads_without_instances_then_the_rest() {
        let mut queue = Queue::new(1, 10);
        assert_eq!(queue.arrive(ends_in(3000), "in"), Arrival::Enters);
        let proof = Rank::of_instance(now() + Duration::from_secs(10), false, now());
        for (rank, name) in [
            (Rank::of_stranger(true, now()), "one more"),
            (ends_in(3000), "fresh"),
            (Rank::of_stranger(false, now()), "alone"),
            (ends_in(250), "ending"),
            (proof, "proof"),
            (ends_in(20), "dying"),
        ] {
            assert!(
                matches!(queue.arrive(rank, name), Arrival::Waits(_)),
                "{name}"
            );
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.leave()).collect();
        let expected = ["dying", "ending", "alone", "one more", "proof", "fresh"];
        assert_eq!(order, expected);
        assert_eq!(queue.free, 1);
    }

    #[test]
    fn a_full_queue_sends_the_least_urgent_away() {
        let mut queue = Queue::new(0, 2);
        queue.arrive(ends_in(3000), "fresh");
        queue.arrive(ends_in(100), "ending");
        let arrival = queue.arrive(ends_in(50), "dying");
        assert!(
            matches!(arrival, Arrival::Displaces(_, "fresh")),
            "{arrival:?}"
        );
        assert_eq!(queue.arrive(ends_in(3000), "late"), Arrival::SentAway);
        assert_eq!(queue.waiting.len(), 2);
    }

    #[test]
    fn those_sent_away_come_back_one_after_the_other() {
        let mut queue: Queue<()> = Queue::new(0, 0);
        let back: Vec<Duration> = (0..500).map(|_| queue.come_back()).collect();
        assert!(back.windows(2).all(|two| two[0] < two[1]));
        assert!(back.last().is_some_and(|last| *last <= LATEST));
    }

    #[test]
    fn hundreds_that_end_at_once_all_get_their_turn_in_order() {
        let mut queue = Queue::new(4, 1000);
        let mut waiting = 0;
        for number in 0..600_u64 {
            // In an order of arrival that is not the order of need.
            let arrival = queue.arrive(ends_in(1 + number * 271 % 600), number * 271 % 600);
            waiting += usize::from(matches!(arrival, Arrival::Waits(_)));
        }
        assert_eq!(waiting, 596);
        let served: Vec<u64> = std::iter::from_fn(|| queue.leave()).collect();
        assert_eq!(served.len(), 596);
        // Of those in danger the soonest first; who has time keeps the same order.
        assert!(served.windows(2).all(|two| two[0] < two[1]));
    }

    /// More than may wait: the last are sent away, and come back when they were told.
    #[tokio::test(start_paused = true)]
    async fn thousands_that_renew_at_once_all_get_through_in_time_and_few_at_once() {
        const STORM: u64 = 3_000;
        let gate = Gate::new(256, 1024);
        let inside = Arc::new(Mutex::new((0_usize, 0_usize)));
        let began = Instant::now();
        let renewals = (0..STORM).map(|number| {
            let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
            tokio::spawn(async move {
                let mut attempts = 1;
                let _place = loop {
                    match gate.enter(ends_in(600 + number)).await {
                        Ok(place) => break place,
                        Err(back) => tokio::time::sleep(back).await,
                    }
                    attempts += 1;
                };
                {
                    let mut inside = inside.lock().unwrap();
                    inside.0 += 1;
                    inside.1 = inside.1.max(inside.0);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                inside.lock().unwrap().0 -= 1;
                attempts
            })
        });
        let renewals: Vec<_> = renewals.collect();
        let mut attempts = 0;
        for renewal in renewals {
            attempts += renewal.await.unwrap();
        }
        assert_eq!(*inside.lock().unwrap(), (0, 256));
        // The queue holds four of ten: the others came twice, and hardly anybody more often.
        assert!(attempts < 2 * STORM, "{attempts}");
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(gate.queue().free, 256);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_passes_to_the_most_urgent_who_still_waits() {
        let gate = Gate::new(1, 10);
        let place = gate.enter(ends_in(3000)).await.unwrap();
        let wait = |rank| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.enter(rank).await.map(drop) })
        };
        let gone = wait(ends_in(10));
        let (calm, urgent) = (wait(ends_in(3000)), wait(ends_in(20)));
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.is_err());
        drop(place);
        assert_eq!(urgent.await.unwrap(), Ok(()));
        assert_eq!(calm.await.unwrap(), Ok(()));
        assert_eq!(gate.queue().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let gate = Gate::new(1, 10);
        let place = gate.enter(ends_in(3000)).await.unwrap();
        let sent_away = gate.enter(ends_in(1)).await.unwrap_err();
        assert!(sent_away >= SOONEST);
        assert_eq!(gate.queue().waiting.len(), 0);
        drop(place);
        assert!(gate.enter(ends_in(3000)).await.is_ok());
    }
}
