//! When instances come back: slots that are spread by what is assigned already. Pure but for what it remembers.
//!
//! A renewal is due within the last tenth of its interval. Where the seconds of that tenth are full, because thousands
//! enrolled at once, it is due earlier, down to half of the interval: then the crowd is spread once and stays so, because
//! each next slot follows from the one before. The first proof of a part is due anywhere within its interval, for the
//! same reason. Each slot is drawn once, because drawing at each look narrows the spread to its beginning.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use vouchsafe_api::convert::attest::reattest::Slot;

use crate::standing::{Duties, Duty};

/// How many attestations are assigned to each second.
#[derive(Debug, Default)]
pub struct Calendar {
    seconds: BTreeMap<u64, u32>,
}

/// The slots of one certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slots {
    /// Of the renewal.
    pub renewal: SystemTime,
    /// Of the first proof of each part.
    pub parts: Vec<Slot>,
}

impl Calendar {
    /// Assigns the slots of a certificate issued now; `random` is drawn for this certificate alone.
    pub fn assign(&mut self, duties: &Duties, now: SystemTime, random: u16) -> Slots {
        self.forget(now);
        let mut slots = Slots {
            renewal: now,
            parts: Vec::new(),
        };
        for (duty, interval) in duties {
            match duty {
                Duty::Root => slots.renewal = self.renewal(now, *interval, random),
                Duty::Part(proof) => slots.parts.push(Slot {
                    proof: *proof,
                    at: self.pick(now + *interval / 10, now + *interval, random).0,
                }),
            }
        }
        for at in { slots.parts.iter() }
            .map(|slot| slot.at)
            .chain([slots.renewal])
        {
            *self.seconds.entry(second(at)).or_default() += 1;
        }
        slots
    }

    fn renewal(&self, now: SystemTime, interval: Duration, random: u16) -> SystemTime {
        let end = now + interval;
        let (slot, load) = self.pick(end - interval / 10, end, random);
        if load < FULL {
            return slot;
        }
        let (earlier, less) = self.pick(end - interval / 2, end - interval / 10, random);
        if less < load { earlier } else { slot }
    }

    /// The least loaded of some instants of a window, from a random one on.
    fn pick(&self, begin: SystemTime, end: SystemTime, random: u16) -> (SystemTime, u32) {
        let whole = end.duration_since(begin).unwrap_or_default();
        let (tries, step) = (
            TRIES
                .min(u32::try_from(whole.as_secs()).unwrap_or(TRIES))
                .max(1),
            u32::from(u16::MAX) + 1,
        );
        let candidates = (0..tries).map(|number| {
            let place =
                (u64::from(random) + u64::from(step / tries) * u64::from(number)) % u64::from(step);
            let place = u32::try_from(place).unwrap_or_default();
            let at = begin + whole / step * place;
            (
                at,
                self.seconds.get(&second(at)).copied().unwrap_or_default(),
            )
        });
        candidates.min_by_key(|(_, load)| *load).unwrap_or((end, 0))
    }

    fn forget(&mut self, now: SystemTime) {
        self.seconds = self.seconds.split_off(&second(now));
    }
}

fn second(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Attestations in one second that leave room for others: judging and signing take about a millisecond.
const FULL: u32 = 50;
/// Instants that are compared: more find hardly better ones, and a window may have thousands of seconds.
const TRIES: u32 = 64;

#[cfg(test)]
mod tests {
    use vouchsafe_api::convert::attest::reattest::Proof;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn duties(root: u64, log: u64) -> Duties {
        Duties::from([
            (Duty::Root, Duration::from_secs(root)),
            (Duty::Part(Proof::TpmLog), Duration::from_secs(log)),
        ])
    }

    /// A random number per certificate, without a pattern.
    fn random(number: u32) -> u16 {
        u16::try_from(number.wrapping_mul(2_654_435_761) >> 16).unwrap()
    }

    fn busiest(slots: &[Slots]) -> u32 {
        let mut seconds: BTreeMap<u64, u32> = BTreeMap::new();
        for slot in slots {
            *seconds.entry(second(slot.renewal)).or_default() += 1;
        }
        seconds.into_values().max().unwrap_or_default()
    }

    #[test]
    fn a_quiet_mesh_renews_within_the_last_tenth() {
        let mut calendar = Calendar::default();
        for number in 0..500 {
            let at = now() + Duration::from_secs(number);
            let slots =
                calendar.assign(&duties(600, 60), at, random(u32::try_from(number).unwrap()));
            assert!(slots.renewal >= at + Duration::from_secs(540), "{number}");
            assert!(slots.renewal <= at + Duration::from_secs(600), "{number}");
            let [log] = slots.parts.as_slice() else {
                panic!("one part");
            };
            assert!(
                log.at >= at + Duration::from_secs(6) && log.at <= at + Duration::from_secs(60)
            );
        }
    }

    #[test]
    fn a_crowd_that_came_at_once_is_spread_and_stays_spread() {
        let mut calendar = Calendar::default();
        let crowd = 10_000;
        let duties = Duties::from([(Duty::Root, Duration::from_secs(600))]);
        let first: Vec<Slots> = (0..crowd)
            .map(|number| calendar.assign(&duties, now(), random(number)))
            .collect();
        // 60 seconds would hold 167 each; 300 hold 34.
        assert!(busiest(&first) <= 60, "{}", busiest(&first));
        let earliest = first.iter().map(|slots| slots.renewal).min().unwrap();
        assert!(earliest >= now() + Duration::from_secs(300));
        let mut second: Vec<SystemTime> = first.iter().map(|slots| slots.renewal).collect();
        second.sort();
        let again: Vec<Slots> = { second.into_iter() }
            .zip(crowd..)
            .map(|(at, number)| calendar.assign(&duties, at, random(number)))
            .collect();
        assert!(busiest(&again) <= 60, "{}", busiest(&again));
        assert!(calendar.seconds.len() <= 700);
    }

    #[test]
    fn slots_of_a_small_mesh_fill_their_window_evenly() {
        let mut tenths = [0_u32; 10];
        for number in 0..2_000 {
            // Each in a mesh of its own: the spread is the draw's, not the calendar's.
            let slots = Calendar::default().assign(&duties(600, 60), now(), random(number));
            let after = slots.renewal.duration_since(now()).unwrap().as_millis() - 540_000;
            tenths[usize::try_from(after / 6_000).unwrap().min(9)] += 1;
        }
        // Chi-square with nine degrees of freedom: 27.9 at 0.1 %.
        let chi: f64 = { tenths.iter() }
            .map(|found| (f64::from(*found) - 200.0).powi(2) / 200.0)
            .sum();
        assert!(chi < 27.9, "{tenths:?}");
    }

    #[test]
    fn short_intervals_have_slots_too() {
        let mut calendar = Calendar::default();
        for number in 0..50 {
            let slots = calendar.assign(&duties(1, 1), now(), random(number));
            let after = slots.renewal.duration_since(now()).unwrap();
            assert!(after >= Duration::from_millis(500) && after <= Duration::from_secs(1));
        }
    }
}
