//! When issuing authorities come and go. Pure.
//!
//! The next one is made at half of the present one's life and is in every bundle from then on; it signs from two thirds
//! on. So between the two no certificate is issued by an authority that a sidecar may not have heard of.

use std::time::{Duration, SystemTime};

use super::AuthorityFacts;

/// Place of the authority that signs now: the newest that every sidecar has had time to learn of, else the newest.
pub(super) fn active(authorities: &[&AuthorityFacts], now: SystemTime) -> Option<usize> {
    let valid = |facts: &AuthorityFacts| facts.not_before <= now && now < facts.not_after;
    let newest = |filter: &dyn Fn(&AuthorityFacts) -> bool| {
        authorities
            .iter()
            .enumerate()
            .filter(|(_, facts)| valid(facts) && filter(facts))
            .max_by_key(|(_, facts)| facts.not_before)
            .map(|(at, _)| at)
    };
    let oldest_end = authorities
        .iter()
        .filter(|facts| valid(facts))
        .map(|facts| facts.not_after)
        .min();
    let near_end = oldest_end.is_some_and(|end| end < now + life_part(authorities, 3));
    if near_end {
        return newest(&|facts| now >= facts.not_before + ANNOUNCED).or_else(|| newest(&|_| true));
    }
    // Far from its end, the oldest goes on.
    authorities
        .iter()
        .enumerate()
        .filter(|(_, facts)| valid(facts))
        .min_by_key(|(_, facts)| facts.not_before)
        .map(|(at, _)| at)
}

/// Whether the next one must be made: none that is valid now has more than half of its life left.
///
/// One that begins in the future was made by a clock that went back since. Whichever time is right, certificates of an
/// authority that is not valid are worth nothing now.
pub(super) fn needs_next(authorities: &[&AuthorityFacts], now: SystemTime) -> bool {
    !authorities
        .iter()
        .any(|facts| facts.not_before <= now && facts.not_after > now + life(facts) / 2)
}

fn life(facts: &AuthorityFacts) -> Duration {
    facts
        .not_after
        .duration_since(facts.not_before)
        .unwrap_or_default()
}

fn life_part(authorities: &[&AuthorityFacts], parts: u32) -> Duration {
    let longest = authorities.iter().map(|facts| life(facts)).max();
    longest.unwrap_or_default() / parts
}

/// How long an authority is in every bundle before it signs, where there is a choice.
const ANNOUNCED: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn day(number: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * (20_000 + number)
    }

    fn made_on(number: u32) -> AuthorityFacts {
        AuthorityFacts {
            role: "issuing",
            spki_sha256: [0; 32],
            not_before: day(number),
            not_after: day(number + 7),
        }
    }

    #[test]
    fn the_next_one_is_made_at_half_life_and_signs_near_the_end() {
        let first = made_on(0);
        assert!(!needs_next(&[&first], day(3)));
        assert!(needs_next(&[&first], day(4)));
        let second = made_on(4);
        assert!(!needs_next(&[&first, &second], day(4)));
        assert_eq!(active(&[&first, &second], day(4)), Some(0));
        assert_eq!(active(&[&first, &second], day(5)), Some(1));
    }

    #[test]
    fn one_that_nobody_heard_of_signs_only_where_there_is_no_other() {
        let (first, second) = (made_on(0), made_on(6));
        assert_eq!(active(&[&first, &second], day(6)), Some(0));
        assert_eq!(active(&[&second], day(6)), Some(0));
        assert_eq!(active(&[&first], day(8)), None);
        assert_eq!(active(&[], day(0)), None);
        assert!(needs_next(&[], day(0)));
    }
}
