//! Waiting between attempts, and saying once what is wrong.

use std::time::Duration;

/// Exponential back-off with jitter: half of each delay is random, so that sidecars that failed together don't return
/// together.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The delay before the next attempt, at least `asked` where the other end asked for patience.
    pub fn delay(&mut self, asked: Option<Duration>) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(LONGEST);
        let delay = base / 2 + random_part(base / 2);
        delay.max(asked.unwrap_or_default()).min(PATIENCE)
    }

    /// Starts again from the shortest delay, after a success.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn random_part(whole: Duration) -> Duration {
    let mut random = [0; 2];
    // Without random numbers the delay is merely not spread; nothing secret hangs on it.
    let _unspread = aws_lc_rs::rand::fill(&mut random);
    whole * u32::from(u16::from_be_bytes(random)) / u32::from(u16::MAX)
}

/// Remembers what was last said about a failure, so that it is said again only when it changes.
#[derive(Debug, Default)]
pub struct SaidOnce {
    last: Option<String>,
}

impl SaidOnce {
    /// Whether this failure is news.
    pub fn is_news(&mut self, failure: &str) -> bool {
        let news = self.last.as_deref() != Some(failure);
        if news {
            self.last = Some(failure.to_owned());
        }
        news
    }

    /// Forgets the failure; says whether there was one.
    pub fn recovered(&mut self) -> bool {
        self.last.take().is_some()
    }
}

/// Long enough that a thousand restarts in a loop don't crowd a control plane.
const FIRST: Duration = Duration::from_millis(500);
/// Short enough that a repaired control plane is noticed by people who wait for it.
const LONGEST: Duration = Duration::from_secs(15);
/// However long the other end asks us to wait, try once a minute.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        let mut base = FIRST;
        for _ in 0..20 {
            let delay = backoff.delay(None);
            assert!(delay >= base / 2 && delay <= base, "{delay:?} of {base:?}");
            base = (base * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.delay(None) <= FIRST);
    }

    #[test]
    fn the_other_end_may_ask_for_patience_but_not_for_silence() {
        let mut backoff = Backoff::default();
        let (asked, forever) = (Duration::from_secs(20), Duration::from_secs(86_400));
        assert_eq!(backoff.delay(Some(asked)), asked);
        assert_eq!(backoff.delay(Some(forever)), PATIENCE);
    }

    #[test]
    fn a_failure_is_news_once() {
        let mut said = SaidOnce::default();
        assert!(said.is_news("refused"));
        assert!(!said.is_news("refused"));
        assert!(said.is_news("unreachable"));
        assert!(said.recovered());
        assert!(!said.recovered());
        assert!(said.is_news("unreachable"));
    }
}
