//! Mesh time: what leases, `attested_within` and certificate ends are judged by.
//!
//! Hosts are not trusted with time (DESIGN §5.6). Each time that the control plane says over an authenticated channel is
//! a lower bound, for a message can be late but never early; mesh time is the highest of these bounds, carried on by a
//! counter that also runs while the machine sleeps. So it never goes backwards, and holding messages back makes it no
//! slower. A host whose counter runs fast is ahead until it restarts: leases end early there, which is the safe side.
//!
//! Where identity comes from files nobody authenticates time, so the host's clock is used, and the start-up log says so.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Mesh time. Shared by all threads; reading it takes no lock.
#[derive(Debug)]
pub struct MeshClock {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Host,
    Authenticated(Envelope),
}

impl MeshClock {
    /// A clock that waits for an authenticated time.
    pub fn authenticated() -> Self {
        Self {
            source: Source::Authenticated(Envelope::default()),
        }
    }

    /// The host's own clock, for identities from files.
    pub fn host() -> Self {
        Self {
            source: Source::Host,
        }
    }

    /// The time now.
    ///
    /// Before the first authenticated time this is the host's clock: it judges only the control plane's certificate at
    /// first contact, because without an identity everything else is denied.
    pub fn now(&self) -> SystemTime {
        match &self.source {
            Source::Host => host_now(),
            Source::Authenticated(envelope) => envelope.time(elapsed()),
        }
    }

    /// The time now, with the moment by which to tell how long something takes: one look at the counter for both.
    pub(crate) fn read(&self) -> (SystemTime, Moment) {
        let counter = elapsed();
        let now = match &self.source {
            Source::Host => host_now(),
            Source::Authenticated(envelope) => envelope.time(counter),
        };
        (now, Moment(counter))
    }

    /// Whether an authenticated time was seen; a clock of the host's never has one.
    pub fn is_authenticated(&self) -> bool {
        match &self.source {
            Source::Host => false,
            Source::Authenticated(envelope) => envelope.at(Duration::ZERO).is_some(),
        }
    }

    /// Takes in a time that an authenticated control plane said, in Unix milliseconds. No-op for the host's clock.
    pub fn observe_ms(&self, unix_ms: u64) {
        match &self.source {
            Source::Host => {}
            Source::Authenticated(envelope) => {
                envelope.observe(Duration::from_millis(unix_ms), elapsed());
            }
        }
    }
}

/// A moment of this machine's counter, which no message moves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(Duration);

impl Moment {
    /// How long ago it was, suspend included.
    pub(crate) fn elapsed(self) -> Duration {
        elapsed().saturating_sub(self.0)
    }
}

/// The highest known difference between authenticated time and this machine's counter.
#[derive(Debug)]
struct Envelope {
    /// Nanoseconds to add to the counter; [`UNKNOWN`] before the first observation.
    offset: AtomicI64,
}

/// No real offset: it would put the present before 1678.
const UNKNOWN: i64 = i64::MIN;

impl Default for Envelope {
    fn default() -> Self {
        Self {
            offset: AtomicI64::new(UNKNOWN),
        }
    }
}

impl Envelope {
    fn observe(&self, authenticated: Duration, elapsed: Duration) {
        let offset = nanoseconds(authenticated).saturating_sub(nanoseconds(elapsed));
        // Relaxed: the value stands for itself, and no other memory is published with it.
        self.offset.fetch_max(offset, Ordering::Relaxed);
    }

    /// The time when the counter shows this; before the first observation the host's.
    fn time(&self, elapsed: Duration) -> SystemTime {
        let known = self.at(elapsed);
        let known = known.and_then(|now| UNIX_EPOCH.checked_add(now));
        known.unwrap_or_else(host_now)
    }

    fn at(&self, elapsed: Duration) -> Option<Duration> {
        let offset = self.offset.load(Ordering::Relaxed);
        if offset == UNKNOWN {
            return None;
        }
        let now = offset.saturating_add(nanoseconds(elapsed));
        Some(Duration::from_nanos(u64::try_from(now).unwrap_or(0)))
    }
}

/// 64 bits of nanoseconds reach to the year 2262; beyond that time stands still, and every certificate has ended.
fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Time since boot, suspend included (`CLOCK_BOOTTIME`): a lease must not outlive a nap of the machine.
fn elapsed() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "this module is the sidecar's one reader of the host's clock"
)]
fn host_now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_is_unknown_until_it_is_authenticated() {
        let clock = MeshClock::authenticated();
        assert!(!clock.is_authenticated());
        clock.observe_ms(4_000_000_000_000);
        assert!(clock.is_authenticated());
        assert!(clock.now() >= UNIX_EPOCH + Duration::from_secs(4_000_000_000));
    }

    #[test]
    fn how_long_something_takes_does_not_follow_what_is_said_meanwhile() {
        let clock = MeshClock::authenticated();
        clock.observe_ms(4_000_000_000_000);
        let (before, moment) = clock.read();
        clock.observe_ms(5_000_000_000_000);
        assert!(moment.elapsed() < Duration::from_secs(900_000_000));
        assert!(clock.read().0 >= before + Duration::from_secs(999_000_000));
    }

    #[test]
    fn the_host_clock_listens_to_nobody() {
        let clock = MeshClock::host();
        clock.observe_ms(4_000_000_000_000);
        assert!(!clock.is_authenticated());
        assert!(clock.now() < UNIX_EPOCH + Duration::from_secs(4_000_000_000));
    }

    #[test]
    fn a_late_message_does_not_slow_the_clock() {
        let envelope = Envelope::default();
        envelope.observe(Duration::from_secs(1_000), Duration::from_secs(10));
        // Said at 1005, held back until the counter shows 60.
        envelope.observe(Duration::from_secs(1_005), Duration::from_secs(60));
        assert_eq!(
            envelope.at(Duration::from_secs(60)),
            Some(Duration::from_secs(1_050))
        );
    }

    proptest! {
        #[test]
        fn time_never_goes_backwards_and_never_behind_what_was_said(
            steps in prop::collection::vec((any::<u64>(), 0..u64::from(u32::MAX), any::<bool>()), 1..64),
        ) {
            let envelope = Envelope::default();
            let (mut counter, mut last) = (Duration::ZERO, None);
            for (said_ms, advance_ms, observes) in steps {
                counter += Duration::from_millis(advance_ms);
                if observes {
                    let said = Duration::from_millis(said_ms >> 22);
                    envelope.observe(said, counter);
                    prop_assert!(envelope.at(counter) >= Some(said));
                }
                let now = envelope.at(counter);
                prop_assert!(now >= last, "{now:?} is before {last:?}");
                last = now;
            }
        }

        #[test]
        fn time_goes_on_as_fast_as_the_counter(said in 0..u64::from(u32::MAX), start in 0..u64::from(u32::MAX), sleep in 0..u64::from(u32::MAX)) {
            let envelope = Envelope::default();
            let (said, start, sleep) = (Duration::from_millis(said), Duration::from_millis(start), Duration::from_millis(sleep));
            envelope.observe(said, start);
            prop_assert_eq!(envelope.at(start + sleep), Some(said + sleep));
        }
    }
}
