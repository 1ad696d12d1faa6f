//! How long ago what is held was the newest, and whether that is too long.
//!
//! What counts is the time at which the revision that is held was signed as the newest, by mesh time: a message can be
//! late, but never early. A control plane that is heard and not followed, because what it says can't be applied, is worth no
//! more than silence: a revocation that it made is not in force here. Mesh time runs on while the machine sleeps, so one
//! that wakes up after too long is stale at once.
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
    /// End of the certificate that was held then, in Unix milliseconds.
    certified_until: AtomicU64,
    /// In milliseconds; 0: until the end of that certificate, however often it is renewed since.
    stale_after: AtomicU64,
}

impl Freshness {
    /// What is held was the newest when it was signed at this time, and our certificate ended then.
    pub(super) fn confirmed(&self, signed: SystemTime, certified_until: SystemTime) {
        self.heard.fetch_max(unix_ms(signed), Ordering::Relaxed);
        self.certified_until
            .store(unix_ms(certified_until), Ordering::Relaxed);
    }

    /// The bound that is in force from now on.
    pub(super) fn bound(&self, stale_after: Option<Duration>) {
        let bound = stale_after.map_or(0, |bound| {
            u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)
        });
        self.stale_after.store(bound, Ordering::Relaxed);
    }

    /// Whether what is held is too old at `now`. The bound itself is too old.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        let now = unix_ms(now);
        match (
            self.heard.load(Ordering::Relaxed),
            self.stale_after.load(Ordering::Relaxed),
        ) {
            (0, _) => false,
            (_, 0) => now >= self.certified_until.load(Ordering::Relaxed),
            (heard, bound) => now.saturating_sub(heard) >= bound,
        }
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
        freshness.confirmed(at(100), at(3_600));
        assert!(!freshness.is_over(at(3_599)), "nobody asks for a bound");
        assert!(
            freshness.is_over(at(3_600)),
            "a renewed certificate is no newer policy"
        );
        freshness.bound(Some(Duration::from_secs(30)));
        assert!(!freshness.is_over(at(129)));
        assert!(freshness.is_over(at(130)));
        // What comes late is no news.
        freshness.confirmed(at(90), at(3_600));
        assert!(freshness.is_over(at(130)));
        freshness.confirmed(at(101), at(200_000));
        assert!(!freshness.is_over(at(130)));
        freshness.bound(None);
        assert!(!freshness.is_over(at(100_000)));
    }
}
