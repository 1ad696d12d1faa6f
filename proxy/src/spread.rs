//! How the connections of one listener are spread over workers.
//!
//! # Why
//! Each worker has a socket of its own for a listener, and the kernel's hash says which of them gets a connection
//! (SO_REUSEPORT): no lock, and no other thread woken. But a hash is chance: of eight flows over two workers the busier one
//! had 5.3 on average, and all eight once in fifty times, and bulk is done when the busier one is. One acceptor that deals
//! them out would be exact, and have each connection wake two threads. So the kernel chooses, and a worker that has
//! clearly more connections of a listener than another one hands over what it accepts: with few connections always, with
//! many hardly ever.
//!
//! It counts connections, not what they do: that is not known when one is accepted, and what is busy now may be idle when
//! the next one comes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::listener::Accepted;

/// One listener, as one of its workers sees it.
#[derive(Debug)]
pub(crate) struct Spread {
    /// Number of this worker.
    own: usize,
    workers: Arc<[Place]>,
    handed: mpsc::Receiver<Handed>,
}

/// A worker of a listener.
#[derive(Debug)]
struct Place {
    /// Connections that it has, and those on their way to it.
    open: AtomicUsize,
    door: mpsc::Sender<Handed>,
}

/// A socket between two workers: of no runtime.
#[derive(Debug)]
enum Handed {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// The workers that may have the connections of a listener: so many, beginning with one, and on from the first after the
/// last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Home {
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Home {
    /// Any worker.
    pub(crate) const ANYWHERE: Self = Self {
        first: 0,
        count: usize::MAX,
    };

    fn has(self, worker: usize, workers: usize) -> bool {
        let first = self.first.checked_rem(workers).unwrap_or_default();
        let place = (worker + workers - first).checked_rem(workers);
        place.is_some_and(|place| place < self.count)
    }
}

impl Spread {
    /// Of a listener that so many workers have, for each of them.
    pub(crate) fn over(workers: usize) -> Vec<Self> {
        let doors = (0..workers).map(|_| mpsc::channel(HANDED));
        let (places, handed): (Vec<_>, Vec<_>) = doors
            .map(|(door, handed)| {
                let open = AtomicUsize::new(0);
                (Place { open, door }, handed)
            })
            .unzip();
        let workers: Arc<[Place]> = places.into();
        let handed = handed.into_iter().enumerate();
        handed
            .map(|(own, handed)| Self {
                own,
                workers: Arc::clone(&workers),
                handed,
            })
            .collect()
    }

    /// Takes what was accepted, or hands it over to another worker: `None`. What is taken counts until it has
    /// [left](Self::left).
    ///
    /// # Errors
    /// The socket could not be taken from one runtime, or into another.
    pub(crate) fn take(&self, accepted: Accepted, home: Home) -> io::Result<Option<Accepted>> {
        let open = |place: &Place| place.open.load(Ordering::Relaxed);
        let chosen = choose(self.own, self.workers.iter().map(open), home);
        let Some(other) = self.workers.get(chosen).filter(|_| chosen != self.own) else {
            self.enter();
            return Ok(Some(accepted));
        };
        let handed = Handed::try_from(accepted)?;
        // Counted before it is there, so that of many at once not all go the same way.
        other.open.fetch_add(1, Ordering::Relaxed);
        match other.door.try_send(handed) {
            Ok(()) => Ok(None),
            // It has no time, or leaves: better uneven than late.
            Err(refused) => {
                other.open.fetch_sub(1, Ordering::Relaxed);
                let kept = refused.into_inner().try_into()?;
                self.enter();
                Ok(Some(kept))
            }
        }
    }

    /// The next one that another worker hands over, which counts already.
    ///
    /// # Cancel safety
    /// Loses none.
    pub(crate) async fn next(&mut self) -> io::Result<Accepted> {
        match self.handed.recv().await {
            Some(handed) => handed.try_into(),
            // Never: this worker holds a sender of its own.
            None => std::future::pending().await,
        }
    }

    /// What was handed over before this worker stopped to accept. Afterwards the others keep what they have.
    pub(crate) fn last(&mut self) -> impl Iterator<Item = io::Result<Accepted>> {
        self.handed.close();
        std::iter::from_fn(|| self.handed.try_recv().ok().map(TryInto::try_into))
    }

    fn enter(&self) {
        if let Some(own) = self.workers.get(self.own) {
            own.open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a connection of this worker no longer.
    pub(crate) fn left(&self) {
        if let Some(own) = self.workers.get(self.own) {
            own.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Who takes a connection that worker `own` has accepted, where each has so many open.
fn choose(own: usize, open: impl ExactSizeIterator<Item = usize> + Clone, home: Home) -> usize {
    let workers = open.len();
    let mine = open.clone().nth(own).unwrap_or_default();
    let others = open.enumerate();
    let least = others
        .filter(|(worker, _)| home.has(*worker, workers))
        .min_by_key(|(_, open)| *open);
    match least {
        Some((least, fewest)) if !home.has(own, workers) || mine > fewest + mine / UNEVEN => least,
        _ => own,
    }
}

impl TryFrom<Accepted> for Handed {
    type Error = io::Error;

    fn try_from(accepted: Accepted) -> io::Result<Self> {
        match accepted {
            Accepted::Tcp(tcp) => tcp.into_std().map(Self::Tcp),
            Accepted::Unix(unix) => unix.into_std().map(Self::Unix),
        }
    }
}

impl TryFrom<Handed> for Accepted {
    type Error = io::Error;

    fn try_from(handed: Handed) -> io::Result<Self> {
        match handed {
            Handed::Tcp(tcp) => TcpStream::from_std(tcp).map(Self::Tcp),
            Handed::Unix(unix) => UnixStream::from_std(unix).map(Self::Unix),
        }
    }
}

/// Connections on their way to a worker; one that has so many waiting gets no more.
const HANDED: usize = 64;
/// A worker may have more than another by the eighth part: about what is chance among 250 connections of two workers.
const UNEVEN: usize = 8;

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[track_caller]
    fn check(own: usize, open: &[usize], home: Home, chosen: usize) {
        assert_eq!(choose(own, open.iter().copied(), home), chosen, "{open:?}");
    }

    #[test]
    fn few_connections_are_dealt_out_and_many_stay_where_they_came() {
        check(0, &[0], Home::ANYWHERE, 0);
        check(0, &[0, 0], Home::ANYWHERE, 0);
        check(1, &[0, 0], Home::ANYWHERE, 1);
        check(0, &[1, 0], Home::ANYWHERE, 1);
        check(0, &[4, 3], Home::ANYWHERE, 1);
        check(1, &[4, 3], Home::ANYWHERE, 1);
        check(0, &[5, 4, 3, 4], Home::ANYWHERE, 2);
        check(0, &[128, 112], Home::ANYWHERE, 0);
        check(0, &[128, 111], Home::ANYWHERE, 1);
    }

    #[test]
    fn connections_stay_within_their_home() {
        let home = Home { first: 3, count: 2 };
        for (own, chosen) in [(0, 0), (1, 0), (2, 0), (3, 3)] {
            check(own, &[1, 0, 0, 1], home, chosen);
        }
        check(1, &[1, 0, 0, 2], home, 0);
        check(3, &[1, 0, 0, 2], home, 0);
        // More than there are, and a beginning behind the last.
        check(1, &[1, 0], Home { first: 9, count: 8 }, 1);
        check(0, &[1, 0], Home { first: 9, count: 1 }, 1);
    }

    #[test]
    fn of_any_number_in_any_order_no_worker_has_more_than_its_part() {
        for workers in 1..9 {
            let mut open = vec![0_usize; workers];
            for number in 0..400_usize {
                // As uneven as a hash could be.
                let own = number * number % workers % 2;
                let chosen = choose(own, open.iter().copied(), Home::ANYWHERE);
                open[chosen] += 1;
                let (most, least) = (open.iter().max().unwrap(), open.iter().min().unwrap());
                assert!(*most <= least + 1 + most / UNEVEN, "{open:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_handed_over_arrives_and_what_can_t_be_is_kept() {
        let mut spread = Spread::over(2);
        let (mut second, first) = (spread.pop().unwrap(), spread.pop().unwrap());
        let socket = || Accepted::Unix(UnixStream::pair().unwrap().0);
        let counts = |spread: &Spread| {
            let open = spread.workers.iter();
            open.map(|place| place.open.load(Ordering::Relaxed))
                .collect::<Vec<_>>()
        };
        assert!(first.take(socket(), Home::ANYWHERE).unwrap().is_some());
        assert!(first.take(socket(), Home::ANYWHERE).unwrap().is_none());
        assert_eq!(counts(&first), [1, 1]);
        second.next().await.unwrap();
        second.left();
        assert_eq!(counts(&first), [1, 0]);
        assert!(first.take(socket(), Home::ANYWHERE).unwrap().is_none());
        assert_eq!(second.last().count(), 1);
        second.left();
        // It leaves, and takes no more.
        assert!(first.take(socket(), Home::ANYWHERE).unwrap().is_some());
        assert_eq!(counts(&first), [2, 0]);
    }
}
