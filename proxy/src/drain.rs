//! Leaving without breaking anyone: the phases of a drain, who may still come in, and what is still open.
//!
//! The local application often calls others to finish what it is serving, so outbound listeners stay open until the last
//! inbound connection has ended. Then outbound closes too. At the deadline, or at a second signal, the rest is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use vouchsafe_config::policy::Direction;

/// How far the drain is. Only ever grows.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Not draining.
    #[default]
    Serving,
    /// Inbound accepts nothing more and says GOAWAY; outbound still accepts. Not ready.
    Inbound,
    /// Outbound accepts nothing more either; what is open may end by itself.
    Outbound,
    /// What is still open is cut now, with reason `drain`.
    Cut,
}

impl Phase {
    /// The word in logs and in the admin interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Inbound => "draining_inbound",
            Self::Outbound => "draining_outbound",
            Self::Cut => "cut",
        }
    }
}

/// The data path's end: asks for the phase and says what is open. Cheap to clone; any thread, any runtime.
#[derive(Clone, Debug)]
pub struct DrainSignal {
    phase: watch::Receiver<Phase>,
    open: Arc<Open>,
}

impl DrainSignal {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the drain is at `phase` or beyond.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the wait is dropped.
    pub async fn reached(&mut self, phase: Phase) {
        // The sender lives as long as the process; were it gone, everything must end.
        let _closed = self.phase.wait_for(|now| *now >= phase).await;
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn enter(&self, direction: Direction) -> OpenConnection {
        self.open.count(direction).fetch_add(1, Ordering::Relaxed);
        OpenConnection {
            open: Arc::clone(&self.open),
            direction,
        }
    }

    /// How many connections are open.
    pub fn open(&self, direction: Direction) -> usize {
        self.open.count(direction).load(Ordering::Acquire)
    }
}

/// One open connection, counted until it is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    open: Arc<Open>,
    direction: Direction,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let before = self
            .open
            .count(self.direction)
            .fetch_sub(1, Ordering::AcqRel);
        if before == 1 {
            self.open.emptied.notify_waiters();
        }
    }
}

#[derive(Debug, Default)]
struct Open {
    inbound: AtomicUsize,
    outbound: AtomicUsize,
    emptied: Notify,
}

impl Open {
    fn count(&self, direction: Direction) -> &AtomicUsize {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    async fn until_empty(&self, direction: Direction) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Registered before the count is read, so that an end in between still wakes us.
            emptied.as_mut().enable();
            if self.count(direction).load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// The control side's end: decides the phase. One per process, held by `app`.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    open: Arc<Open>,
    deadline: Duration,
}

/// What a drain left behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// Inbound connections that had to be cut.
    pub cut_inbound: usize,
    /// Outbound connections that had to be cut.
    pub cut_outbound: usize,
}

impl Drain {
    /// A drain that has not begun. `deadline` is how long open connections may take to end.
    pub fn new(deadline: Duration) -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            open: Arc::default(),
            deadline,
        }
    }

    /// The data path's end.
    pub fn signal(&self) -> DrainSignal {
        DrainSignal {
            phase: self.phase.subscribe(),
            open: Arc::clone(&self.open),
        }
    }

    /// Drains: inbound, then outbound, then cuts what is left at the deadline or as soon as `hurry` is done.
    pub async fn run(&self, hurry: impl Future<Output = ()>) -> Drained {
        let gently = async {
            self.advance(Phase::Inbound);
            self.open.until_empty(Direction::Inbound).await;
            self.advance(Phase::Outbound);
            self.open.until_empty(Direction::Outbound).await;
        };
        tokio::select! {
            () = gently => {}
            () = tokio::time::sleep(self.deadline) => {}
            () = hurry => {}
        }
        let drained = Drained {
            cut_inbound: self.open.inbound.load(Ordering::Acquire),
            cut_outbound: self.open.outbound.load(Ordering::Acquire),
        };
        self.advance(Phase::Cut);
        drained
    }

    fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let grows = *now < phase;
            *now = (*now).max(phase);
            grows
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain() -> (Arc<Drain>, DrainSignal) {
        let drain = Arc::new(Drain::new(Duration::from_secs(30)));
        let signal = drain.signal();
        (drain, signal)
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_accepts_until_the_last_inbound_connection_ended() {
        let (drain, mut signal) = drain();
        let inbound = signal.enter(Direction::Inbound);
        let outbound = signal.enter(Direction::Outbound);
        let task = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.run(std::future::pending()).await }
        });
        signal.reached(Phase::Inbound).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(signal.phase(), Phase::Inbound);
        drop(inbound);
        signal.reached(Phase::Outbound).await;
        assert_eq!(signal.phase(), Phase::Outbound);
        drop(outbound);
        assert_eq!(
            task.await.unwrap(),
            Drained {
                cut_inbound: 0,
                cut_outbound: 0
            }
        );
        assert_eq!(signal.phase(), Phase::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_open_at_the_deadline_is_cut_and_counted() {
        let (drain, signal) = drain();
        let _inbound = signal.enter(Direction::Inbound);
        let _outbound = signal.enter(Direction::Outbound);
        let drained = drain.run(std::future::pending()).await;
        assert_eq!(
            drained,
            Drained {
                cut_inbound: 1,
                cut_outbound: 1
            }
        );
        assert_eq!(signal.phase(), Phase::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_cuts_at_once() {
        let (drain, signal) = drain();
        let _inbound = signal.enter(Direction::Inbound);
        let begun = tokio::time::Instant::now();
        drain.run(std::future::ready(())).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(signal.phase(), Phase::Cut);
    }
}
