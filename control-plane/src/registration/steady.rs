//! Time by which things are forgotten: the control plane's clock, as far as it goes at the pace of time.
//!
//! A clock that somebody sets forward by years must not make every registration and every withdrawal be over and deleted.
//! So a leap is followed slowly, at twice the pace of a clock that nobody sets; a clock that is set back is followed at
//! once: that forgets nothing.

use std::time::{Duration, SystemTime};

/// Follows a clock. Pure.
#[derive(Debug, Default)]
pub(super) struct Steady {
    /// What it said last, and what had passed by then.
    last: Option<(SystemTime, Duration)>,
}

impl Steady {
    /// The time to forget by when the clock says `now`; `elapsed` is what has passed by a clock that nobody sets.
    pub(super) fn at(&mut self, now: SystemTime, elapsed: Duration) -> SystemTime {
        let steady = match self.last {
            None => now,
            Some((last, then)) => {
                let passed = elapsed.saturating_sub(then) * PACE;
                last.checked_add(passed).map_or(now, |most| now.min(most))
            }
        };
        self.last = Some((steady, elapsed));
        steady
    }
}

/// Twice as fast as time, so that a leap that was right is made up for.
const PACE: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_forward_is_followed_slowly_and_one_back_at_once() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
        let seconds = Duration::from_secs;
        let mut steady = Steady::default();
        assert_eq!(steady.at(at(0), seconds(5)), at(0));
        assert_eq!(steady.at(at(10), seconds(15)), at(10));
        assert_eq!(steady.at(at(900_000), seconds(16)), at(12));
        assert_eq!(steady.at(at(900_010), seconds(26)), at(32));
        assert_eq!(steady.at(at(31), seconds(27)), at(31));
        assert_eq!(steady.at(at(3), seconds(28)), at(3));
        assert_eq!(steady.at(at(4), seconds(29)), at(4));
    }
}
