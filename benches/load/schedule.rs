//! Requests that are due at fixed instants, whatever the answers do.
//!
//! Latency counts from when a request was due: a stall delays all that were due during it (corrected for coordinated
//! omission).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::timer::Ticker;

/// What is due and begun by nobody. Whoever has nothing to do takes the oldest.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    due: RefCell<VecDeque<Instant>>,
    wake: Notify,
}

impl Schedule {
    /// Waits for the next request, and says when it was due.
    pub(crate) async fn next(&self) -> Instant {
        loop {
            let next = self.due.borrow_mut().pop_front();
            match next {
                Some(due_at) => return due_at,
                None => self.wake.notified().await,
            }
        }
    }

    /// Makes `rate` requests due each second, the first one period from now, until the task is ended.
    pub(crate) fn start(
        self: &Rc<Self>,
        rate: u64,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let period = Duration::from_nanos(1_000_000_000 / rate.max(1));
        let schedule = Rc::clone(self);
        let started = Instant::now();
        let mut ticker = Ticker::start(period)?;
        Ok(spawn_local(async move {
            let mut sent: u32 = 0;
            loop {
                for _ in 0..ticker.ticks().await? {
                    sent += 1;
                    schedule.due.borrow_mut().push_back(started + period * sent);
                    schedule.wake.notify_one();
                }
            }
            #[expect(unreachable_code, reason = "gives the endless task its error type")]
            anyhow::Ok(())
        }))
    }
}
