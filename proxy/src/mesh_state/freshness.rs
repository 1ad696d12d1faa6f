//! How long ago the control plane was heard, and whether that is too long.
//!
//! What counts is the time at which a revision was signed, by mesh time: a message can be late, but never early. Mesh time
//! runs on while the machine sleeps, so one that wakes up after too long is stale at once.
//!
//! Source: DESIGN §2.5.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use vouchsafe_api::convert::unix_ms;

/// Shared by the stream, which hears, and by whoever watches over it.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// In Unix milliseconds; 0: never.
    heard: AtomicU64,
    /// In milliseconds; 0: as long as certificates live.
    stale_after: AtomicU64,
}

impl Freshness {
    /// A revision that was signed at this time was heard.
    pub(super) fn heard(&self, signed: SystemTime) {
        self.heard.fetch_max(unix_ms(signed), Ordering::Relaxed);
    }

    /// The bound that is in force from now on.
    pub(super) fn bound(&self, stale_after: Option<Duration>) {
        let bound = stale_after.map_or(0, |bound| {
            u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)
        });
        self.stale_after.store(bound, Ordering::Relaxed);
    }

    /// Whether what was heard last is too old at `now`. The bound itself is too old.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        let (heard, bound) = (
            self.heard.load(Ordering::Relaxed),
            self.stale_after.load(Ordering::Relaxed),
        );
        heard > 0 && bound > 0 && unix_ms(now).saturating_sub(heard) >= bound
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_heard_counts_until_its_bound() {
        let freshness = Freshness::default();
        assert!(!freshness.is_over(at(1_000)), "nothing is in force yet");
        freshness.heard(at(100));
        assert!(!freshness.is_over(at(100_000)), "nobody asks for a bound");
        freshness.bound(Some(Duration::from_secs(30)));
        assert!(!freshness.is_over(at(129)));
        assert!(freshness.is_over(at(130)));
        // What comes late is no news.
        freshness.heard(at(90));
        assert!(freshness.is_over(at(130)));
        freshness.heard(at(101));
        assert!(!freshness.is_over(at(130)));
        freshness.bound(None);
        assert!(!freshness.is_over(at(100_000)));
    }
}
