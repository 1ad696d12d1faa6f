//! What flows of a listener have moved, and so which lane the next one takes where nobody says which (`auto`).
//!
//! # Why
//! By `benches/README.md`, for both sidecars: a connection of its own costs a flow 1.1 ms of processor time, most of it
//! the handshake, and saves it 0.9 ns for each byte that it moves in large pieces. So it pays from 1.2 MB on. Small pieces
//! cost the shared lane less, however many come, so they don't count: a database session of days stays there.
//!
//! The mean of the last flows decides for each new one. Two thresholds lie far enough apart, on both sides of where it
//! pays, that a port which moves about as much does not change with each flow. A flow stays on its lane.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::info;

use crate::outbound::Outbound;

/// Of one listener, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    moves_much: AtomicBool,
    mean: Mutex<Mean>,
}

/// Mean bytes of flows, of which the last eight count most.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    bytes: u64,
    flows: u64,
}

impl Mean {
    fn add(&mut self, bytes: u64) {
        let bytes = bytes.min(MOST);
        self.flows = (self.flows + 1).min(REMEMBERED);
        let rest = self.flows - 1;
        self.bytes = (self.bytes * rest + bytes) / self.flows;
    }

    /// Whether flows move much, where they were known to or not.
    fn is_much(self, was: bool) -> bool {
        self.bytes >= if was { LITTLE } else { MUCH }
    }
}

impl Habit {
    /// Whether the next flow had better have a connection of its own.
    pub(crate) fn moves_much(&self) -> bool {
        self.moves_much.load(Ordering::Relaxed)
    }

    /// Takes in what one flow has moved; what it is now where that changes it, with the mean.
    fn learn(&self, bytes: u64) -> Option<(bool, u64)> {
        // Taken once for each flow, and nothing can fail under it.
        let mut mean = self.mean.lock().unwrap_or_else(PoisonError::into_inner);
        mean.add(bytes);
        let was = self.moves_much();
        let is = mean.is_much(was);
        self.moves_much.store(is, Ordering::Relaxed);
        (is != was).then_some((is, mean.bytes))
    }
}

/// What one flow moves in large pieces; taken in when it is dropped, or when it is much already.
#[derive(Debug)]
pub(crate) struct Tally<'a> {
    outbound: &'a Outbound,
    large: Cell<u64>,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(outbound: &'a Outbound) -> Self {
        Self {
            outbound,
            large: Cell::new(0),
        }
    }

    /// Counts what was passed on in one piece.
    pub(crate) fn passed(&self, piece: usize) {
        let before = self.large.get();
        if piece < LARGE || before >= MOST {
            return;
        }
        let large = before.saturating_add(piece as u64);
        self.large.set(large);
        if large >= MOST {
            // It may go on for days.
            self.tell(large);
        }
    }

    fn tell(&self, bytes: u64) {
        let Some((moves_much, mean)) = self.outbound.habit.learn(bytes) else {
            return;
        };
        let metrics = &self.outbound.worker.parts.metrics;
        metrics.bulk_listeners.add(if moves_much { 1 } else { -1 });
        info!(
            direction = "outbound",
            to = %self.outbound.declared.to,
            port = self.outbound.declared.port.as_str(),
            lane = if moves_much { "dedicated" } else { "shared" },
            mean_bytes = mean,
            "lane of later flows chosen by what earlier ones moved"
        );
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        if self.large.get() < MOST {
            self.tell(self.large.get());
        }
    }
}

/// Bytes of a large piece: a full record.
const LARGE: usize = 16 * 1024;
/// Flows whose mean counts.
const REMEMBERED: u64 = 8;
/// Mean from which flows move much: three times what pays.
const MUCH: u64 = 4 * 1024 * 1024;
/// Mean below which they move much no longer: less than what pays.
const LITTLE: u64 = 1024 * 1024;
/// Most that one flow counts for, so that one of terabytes does not outweigh hundreds of small ones.
const MOST: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(habit: &Habit, flows: &[u64], moves_much: bool) {
        for bytes in flows {
            let _ = habit.learn(*bytes);
        }
        assert_eq!(habit.moves_much(), moves_much, "{flows:?}: {habit:?}");
    }

    #[test]
    fn the_first_flow_that_moves_much_gives_later_ones_a_connection_each() {
        let habit = Habit::default();
        assert!(!habit.moves_much());
        assert!(habit.learn(MUCH).is_some());
        check(&habit, &[], true);
        assert!(habit.learn(MUCH).is_none());
    }

    #[test]
    fn flows_between_the_thresholds_stay_on_the_lane_that_they_have() {
        let between = [2 * LITTLE; 50];
        let habit = Habit::default();
        check(&habit, &between, false);
        check(&habit, &[MOST], true);
        check(&habit, &between, true);
    }

    #[test]
    fn one_large_flow_among_many_small_ones_changes_nothing() {
        let habit = Habit::default();
        check(&habit, &[100; 20], false);
        check(&habit, &[3 * MUCH], false);
        check(&habit, &[100; 20], false);
    }

    #[test]
    fn a_port_that_moves_little_again_returns_to_the_shared_lane() {
        let habit = Habit::default();
        check(&habit, &[u64::MAX; 100], true);
        check(&habit, &[0; 8], true);
        check(&habit, &[0; 32], false);
    }
}
