//! Refusals of strangers, bounded: anybody who reaches the port can be refused as often as he likes, and a record each time
//! would fill the disk and spend its syncs.
//!
//! Of each reason and network the first few in a minute are recorded one by one, with their evidence; the others are
//! counted, and the count is a record of its own when the minute is over. There is a bound for all strangers together as
//! well, so that many networks are no way around it. What a registered instance is refused is
//! recorded by itself, unless it is revoked: then it is a stranger's.
//!
//! Pure: who looks at a clock tells what has elapsed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::refusals::RefusalsSummed;

use crate::state::ControlPlane;
use crate::telemetry::Chain;

/// Refusals of strangers in the present minute.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    /// When it began, since the process did.
    began: Duration,
    /// Recorded one by one.
    single: u32,
    sorts: HashMap<Sort, Counted>,
}

/// What is counted together.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Sort {
    reason: &'static str,
    /// `None` for all networks for which there was no room.
    network: Option<String>,
}

#[derive(Debug, Default)]
struct Counted {
    single: u32,
    more: u64,
    /// Time of the first and the last of `more`.
    times: Option<(SystemTime, SystemTime)>,
}

/// What becomes of a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Noted {
    /// It is recorded by itself.
    Single,
    /// It is counted.
    Counted {
        /// Whether it is the first of its sort in this minute that is.
        is_first: bool,
    },
}

impl Refusals {
    /// Takes one in.
    pub fn note(&self, reason: &'static str, address: IpAddr, now: SystemTime) -> Noted {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = &mut *minute;
        let mut sort = Sort {
            reason,
            network: Some(network(address)),
        };
        if minute.sorts.len() >= MAX_SORTS && !minute.sorts.contains_key(&sort) {
            // Reasons are a closed set, so these are few.
            sort.network = None;
        }
        let counted = minute.sorts.entry(sort).or_default();
        if counted.single < SINGLE_OF_SORT && minute.single < SINGLE_OF_ALL {
            counted.single += 1;
            minute.single += 1;
            return Noted::Single;
        }
        counted.more = counted.more.saturating_add(1);
        let first = counted.times.map_or(now, |(first, _)| first);
        counted.times = Some((first, now));
        Noted::Counted {
            is_first: counted.more == 1,
        }
    }

    /// Takes the sums out once the minute is over, or at once; the next one begins then.
    pub fn due(&self, elapsed: Duration, at_once: bool) -> Vec<RefusalsSummed> {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !at_once && elapsed.saturating_sub(minute.began) < MINUTE {
            return Vec::new();
        }
        let over = std::mem::take(&mut *minute);
        minute.began = elapsed;
        let mut sums: Vec<RefusalsSummed> = { over.sorts.into_iter() }
            .filter_map(|(sort, counted)| {
                let (first, last) = counted.times?;
                Some(RefusalsSummed {
                    reason: sort.reason.to_owned(),
                    network: sort.network.unwrap_or_else(|| ELSEWHERE.to_owned()),
                    count: counted.more,
                    first,
                    last,
                })
            })
            .collect();
        sums.sort_by(|one, other| {
            (&one.reason, &one.network).cmp(&(&other.reason, &other.network))
        });
        sums
    }
}

impl ControlPlane {
    /// Records how many refusals of strangers were only counted, where a minute of them is over.
    pub(crate) async fn record_refusals(&self) {
        self.record_refusals_of(false).await;
    }

    /// The same at the end, whether it is over or not.
    pub(crate) async fn record_last_refusals(&self) {
        self.record_refusals_of(true).await;
    }

    async fn record_refusals_of(&self, at_once: bool) {
        for sum in self.refusals.due(self.registry.elapsed(), at_once) {
            let (reason, network, count) = (sum.reason.clone(), sum.network.clone(), sum.count);
            tracing::warn!(reason, network, count, "attestations refused and counted");
            if let Err(error) = self.record(Event::RefusalsSummed(Box::new(sum))).await {
                tracing::error!(error = %Chain(&error), reason, network, count, "failed to record a number of refusals");
            }
        }
    }
}

/// What one owner of addresses commonly has: a /24, or a /48 of IPv6.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            let network = std::net::Ipv6Addr::from([a, b, c, 0, 0, 0, 0, 0]);
            format!("{network}/48")
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);
/// A rack that starts with a wrong policy shows itself machine by machine; more of the same says nothing new.
const SINGLE_OF_SORT: u32 = 20;
/// Ten syncs a second would be a tenth of what a disk does.
const SINGLE_OF_ALL: u32 = 600;
/// A few kilobytes each minute, and as many records at its end.
const MAX_SORTS: usize = 128;
/// Said for networks beyond those.
const ELSEWHERE: &str = "elsewhere";

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_of_a_sort_are_single_and_the_rest_is_one_sum() {
        let refusals = Refusals::default();
        let host = |number: u32| address(&format!("192.0.2.{number}"));
        for number in 0..SINGLE_OF_SORT {
            assert_eq!(refusals.note("pcr", host(number), at(0)), Noted::Single);
        }
        for number in 0..1000 {
            let is_first = number == 0;
            let noted = refusals.note("pcr", host(number % 250), at(u64::from(number)));
            assert_eq!(noted, Noted::Counted { is_first });
        }
        // Another reason and another network are other sorts.
        assert_eq!(refusals.note("nonce", host(1), at(0)), Noted::Single);
        let other = address("192.0.3.1");
        assert_eq!(refusals.note("pcr", other, at(0)), Noted::Single);
        assert_eq!(refusals.due(after(59), false), []);
        let expected = RefusalsSummed {
            reason: "pcr".to_owned(),
            network: "192.0.2.0/24".to_owned(),
            count: 1000,
            first: at(0),
            last: at(999),
        };
        assert_eq!(refusals.due(after(60), false), [expected]);
        // A minute of its own follows.
        assert_eq!(refusals.note("pcr", host(1), at(0)), Noted::Single);
        assert_eq!(refusals.due(after(119), false), []);
        assert_eq!(refusals.due(after(119), true), []);
    }

    #[test]
    fn many_networks_are_no_way_around_the_bounds() {
        let refusals = Refusals::default();
        let (mut single, mut counted) = (0_u32, 0_u64);
        for number in 0..100_000_u32 {
            let [_, b, c, d] = number.to_be_bytes();
            let from = IpAddr::from([10 + b, c, d, 1]);
            match refusals.note("pcr", from, at(0)) {
                Noted::Single => single += 1,
                Noted::Counted { .. } => counted += 1,
            }
        }
        assert!(single <= SINGLE_OF_ALL, "{single}");
        assert!(refusals.0.lock().unwrap().sorts.len() <= MAX_SORTS + 1);
        let sums = refusals.due(after(60), false);
        assert!(sums.len() <= MAX_SORTS + 1);
        assert_eq!(sums.iter().map(|one| one.count).sum::<u64>(), counted);
        assert!(sums.iter().any(|one| one.network == ELSEWHERE));
    }

    #[test]
    fn a_host_is_counted_with_its_network() {
        for (host, expected) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("2001:db8:7:8::9", "2001:db8:7::/48"),
        ] {
            assert_eq!(network(address(host)), expected);
        }
    }
}
