//! How fast a service is asked, and when not at all.
//!
//! A token bucket keeps us below what a service admits, a pause is what it asked for (`Retry-After`), and a circuit
//! breaker keeps a service that is down from costing every attestation its time-out. Pure: the caller brings the time.

use std::time::Duration;

use tokio::time::Instant;

/// What a service admits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests at once.
    pub(crate) concurrent: usize,
    /// Between two requests, on average.
    pub(crate) interval: Duration,
    /// Requests that may come together after a rest.
    pub(crate) burst: u32,
}

/// Whether to ask now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// Ask; the request is counted.
    Now,
    /// Not before then.
    At(Instant),
    /// The service is down: nothing is asked until then.
    Open(Instant),
}

/// The state of one service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    limits: Limits,
    /// When the bucket would be full again (generic cell rate algorithm).
    full_at: Instant,
    paused_until: Instant,
    failures: u32,
    open_until: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            full_at: now,
            paused_until: now,
            failures: 0,
            open_until: None,
        }
    }

    /// Asks for one request.
    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        if let Some(until) = self.open_until {
            if now < until {
                return Admission::Open(until);
            }
            // One request looks whether the service is back; others wait for what it finds.
            self.open_until = Some(now + OPEN);
            return Admission::Now;
        }
        if now < self.paused_until {
            return Admission::At(self.paused_until);
        }
        let slack = self.limits.interval * self.limits.burst.saturating_sub(1);
        let earliest = self.full_at.checked_sub(slack).unwrap_or(now);
        if now < earliest {
            return Admission::At(earliest);
        }
        self.full_at = self.full_at.max(now) + self.limits.interval;
        Admission::Now
    }

    /// The service answered, whatever it said about the object.
    pub(crate) fn answered(&mut self) {
        self.failures = 0;
        self.open_until = None;
    }

    /// The service did not answer.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.open_until = Some(now + OPEN);
        }
    }

    /// The service asked for a pause.
    pub(crate) fn pause(&mut self, now: Instant, wanted: Duration) {
        self.paused_until = self.paused_until.max(now + wanted.min(MAX_PAUSE));
        self.answered();
    }

    /// Whether the circuit is open.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }
}

/// Failures in a row after which a service counts as down: more than one unlucky attestation makes.
const FAILURES: u32 = 5;
/// How long nothing is asked of a service that is down.
const OPEN: Duration = Duration::from_secs(30);
/// Longest pause that a service gets: it must not be able to switch us off for days.
const MAX_PAUSE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        concurrent: 1,
        interval: Duration::from_secs(10),
        burst: 3,
    };

    fn pace() -> (Pace, Instant) {
        let now = Instant::now();
        (Pace::new(LIMITS, now), now)
    }

    #[test]
    fn a_burst_is_admitted_and_then_one_per_interval() {
        let (mut pace, now) = pace();
        for _ in 0..3 {
            assert_eq!(pace.admit(now), Admission::Now);
        }
        let next = now + LIMITS.interval;
        assert_eq!(pace.admit(now), Admission::At(next));
        assert_eq!(pace.admit(next), Admission::Now);
        assert_eq!(pace.admit(next), Admission::At(next + LIMITS.interval));
        // After a rest, a burst again and no more.
        let later = now + LIMITS.interval * 100;
        for _ in 0..3 {
            assert_eq!(pace.admit(later), Admission::Now);
        }
        assert_eq!(pace.admit(later), Admission::At(later + LIMITS.interval));
    }

    #[test]
    fn a_pause_is_kept_and_has_a_bound() {
        let (mut pace, now) = pace();
        pace.pause(now, Duration::from_secs(7));
        let end = now + Duration::from_secs(7);
        assert_eq!(pace.admit(now), Admission::At(end));
        assert_eq!(pace.admit(end), Admission::Now);
        pace.pause(end, Duration::from_secs(1_000_000));
        assert_eq!(pace.admit(end), Admission::At(end + MAX_PAUSE));
    }

    #[test]
    fn a_service_that_is_down_is_asked_by_one_after_a_while() {
        let (mut pace, now) = pace();
        for _ in 0..FAILURES {
            assert!(!pace.is_open(now));
            pace.failed(now);
        }
        assert_eq!(pace.admit(now), Admission::Open(now + OPEN));
        let then = now + OPEN;
        assert_eq!(pace.admit(then), Admission::Now);
        assert_eq!(pace.admit(then), Admission::Open(then + OPEN));
        pace.answered();
        assert_eq!(pace.admit(then), Admission::Now);
        // One failure alone opens nothing.
        pace.failed(then);
        assert!(!pace.is_open(then));
    }
}
