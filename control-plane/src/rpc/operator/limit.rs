//! How much a change may end: what `--max-drop` says, and what counts of a sidecar that does not answer.
//!
//! What is not known is within no limit, so a change waits two seconds for its answers and is refused without one of them.
//! A revocation is in a hurry, and whom it means may be the one who is silent: it waits half a second, and a sidecar that
//! has not answered by then counts with all that it had open when it was asked last. One that never was counts for
//! nothing: a connection has two ends, and its peers say what would end there. Only where more than half are silent
//! nothing is known, and it is refused.

use std::time::Duration;

use vouchsafe_api::v1;

use super::judging::{Said, sums};

/// What bounds a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    most: u64,
    is_percent: bool,
    allows_unanswered: bool,
    /// Whether it is a revocation, or the end of one.
    is_urgent: bool,
}

impl Limit {
    pub(super) fn of(asked: &v1::ChangeRequest) -> Self {
        Self {
            most: asked.max_drop,
            is_percent: asked.max_drop_is_percent,
            allows_unanswered: asked.allow_unanswered,
            is_urgent: URGENT.contains(&asked.act.as_str()),
        }
    }

    /// How long answers are waited for before it is decided; not at all where none could change the decision and
    /// somebody is in a hurry.
    pub(super) fn patience(self) -> Option<Duration> {
        match (self.is_urgent, self.allows_all()) {
            (true, true) => None,
            (true, false) => Some(URGENT_PATIENCE),
            (false, _) => Some(PATIENCE),
        }
    }

    fn allows_all(self) -> bool {
        self.is_percent && self.most >= 100
    }

    /// Why more would end than is allowed.
    pub(super) fn passed(self, said: &[Said]) -> Option<String> {
        if self.allows_all() {
            return None;
        }
        let counts = self.is_urgent && !self.allows_unanswered;
        let had = said.iter().filter_map(|one| one.had.filter(|_| counts));
        let had = had.fold(0, u64::saturating_add);
        let (drop, live, silent) = sums(said);
        let (drop, live) = (drop.saturating_add(had), live.saturating_add(had));
        let is_over = match self.is_percent {
            // A few connections are a large part of few.
            true if drop <= ALWAYS_ALLOWED => self.most == 0 && drop > 0,
            true => {
                // What a sidecar says that it would end is no more of it than all of it.
                let ends = said.iter().filter_map(|one| one.ends.as_ref().ok());
                let ending = ends.map(|(ends, live)| *ends.min(live));
                let ending = ending.fold(had, u64::saturating_add);
                ending.saturating_mul(100) > live.saturating_mul(self.most)
            }
            false => drop > self.most,
        };
        if is_over {
            let silently = match had {
                0 => String::new(),
                had => format!(" ({had} of them those that silent sidecars had open last)"),
            };
            return Some(format!(
                "it would end {drop} connections and streams{silently}, of {live} that live: more than `--max-drop {self}` allows"
            ));
        }
        let is_unknown = match self.is_urgent {
            true => silent.saturating_mul(2) > said.len() as u64,
            false => silent > 0,
        };
        if !is_unknown || self.allows_unanswered {
            return None;
        }
        let mut unanswered = said
            .iter()
            .filter_map(|one| Some((one, one.ends.as_ref().err()?)));
        let (first, why) = unanswered.next()?;
        Some(format!(
            "{silent} sidecars did not say what would end there (one of {}: {why}): ask again, or say `--allow-unanswered`, or `--max-drop 100%`",
            first.workload
        ))
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.is_percent { "%" } else { "" };
        write!(f, "{}{sign}", self.most)
    }
}

/// Acts that wait for no sidecar longer than they must.
const URGENT: [&str; 3] = ["revoke", "end_revocation", "restored"];
/// A sidecar judges a thousand connections in milliseconds; whoever needs longer is named.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Several times what a busy sidecar needs, and less than a person needs to look up.
const URGENT_PATIENCE: Duration = Duration::from_millis(500);
/// Connections and streams that a percentage never forbids to end: in a small mesh a machine carries half of them.
const ALWAYS_ALLOWED: u64 = 20;

#[cfg(test)]
mod tests {
    use super::super::judging::MOST_OF_ONE;
    use super::*;

    fn limit(act: &str, most: u64, is_percent: bool) -> Limit {
        Limit::of(&v1::ChangeRequest {
            act: act.to_owned(),
            max_drop: most,
            max_drop_is_percent: is_percent,
            ..v1::ChangeRequest::default()
        })
    }

    fn said(ends: u64, live: u64) -> Said {
        Said {
            workload: "a/b".to_owned(),
            ends: Ok((ends, live)),
            had: None,
        }
    }

    fn silent(had: Option<u64>) -> Said {
        Said {
            ends: Err("it did not answer in time".to_owned()),
            had,
            ..said(0, 0)
        }
    }

    #[test]
    fn a_sidecar_that_did_not_say_is_within_no_limit_unless_that_is_allowed() {
        let found = [said(0, 10), silent(Some(3))];
        for (most, is_percent) in [(25, true), (0, true), (50, false)] {
            let limit = limit("apply", most, is_percent);
            let refused = limit.passed(&found).unwrap();
            assert!(refused.starts_with("1 sidecars did not say"), "{refused}");
            let allowed = Limit {
                allows_unanswered: true,
                ..limit
            };
            assert_eq!(allowed.passed(&found), None);
        }
        assert_eq!(limit("apply", 100, true).passed(&found), None);
    }

    #[test]
    fn a_silent_sidecar_counts_in_a_revocation_with_what_it_had_open_last() {
        let revoke = limit("revoke", 25, true);
        let others = [said(10, 100), said(10, 100)];
        let with = |one: Said| [&others[..], &[one]].concat();
        assert_eq!(revoke.passed(&with(silent(None))), None);
        assert_eq!(revoke.passed(&with(silent(Some(30)))), None);
        let refused = revoke.passed(&with(silent(Some(60)))).unwrap();
        assert!(
            refused.contains("end 80") && refused.contains("of 260") && refused.contains("(60 of"),
            "{refused}"
        );
        let allowed = Limit {
            allows_unanswered: true,
            ..revoke
        };
        assert_eq!(allowed.passed(&with(silent(Some(60)))), None);
        // By number as well.
        assert!(
            limit("revoke", 79, false)
                .passed(&with(silent(Some(60))))
                .is_some()
        );
        assert!(
            limit("revoke", 80, false)
                .passed(&with(silent(Some(60))))
                .is_none()
        );
    }

    #[test]
    fn of_a_mesh_that_is_mostly_silent_nothing_is_known() {
        let revoke = limit("revoke", 25, true);
        let half = [said(0, 10), silent(None)];
        assert_eq!(revoke.passed(&half), None);
        let most = [said(0, 10), silent(None), silent(None)];
        let refused = revoke.passed(&most).unwrap();
        assert!(refused.starts_with("2 sidecars did not say"), "{refused}");
    }

    #[test]
    fn nobody_waits_for_answers_that_could_not_stop_a_revocation() {
        assert_eq!(limit("revoke", 100, true).patience(), None);
        assert_eq!(limit("end_revocation", 100, true).patience(), None);
        assert_eq!(limit("revoke", 25, true).patience(), Some(URGENT_PATIENCE));
        assert_eq!(
            limit("revoke", 100, false).patience(),
            Some(URGENT_PATIENCE)
        );
        assert_eq!(limit("apply", 100, true).patience(), Some(PATIENCE));
        assert!(URGENT_PATIENCE < Duration::from_secs(1));
    }

    #[test]
    fn one_sidecar_that_lies_neither_hides_nor_stops_what_others_say() {
        let over = |most, said: &[Said]| limit("apply", most, true).passed(said).is_some();
        let liar = |ends: u64, live: u64| said(ends.min(MOST_OF_ONE), live.min(MOST_OF_ONE));
        assert!(over(25, &[liar(0, 1 << 60), said(60_000, 60_000)]));
        // Streams without connections are nothing that could end.
        assert!(!over(25, &[liar(u64::MAX, 0), said(10, 1000)]));
        assert!(!over(100, &[liar(u64::MAX, 0)]));
    }

    #[test]
    fn more_than_the_operator_allows_is_refused_and_the_limit_itself_is_allowed() {
        for (most, is_percent, drop, live, expected) in [
            (10, false, 10, 1000, false),
            (10, false, 11, 1000, true),
            (0, false, 0, 0, false),
            (0, false, 1, 1000, true),
            (25, true, 250, 1000, false),
            (25, true, 251, 1000, true),
            (100, true, 1000, 1000, false),
            // A small mesh: half of it is one machine.
            (25, true, 20, 30, false),
            (25, true, 21, 30, true),
            (0, true, 1, 30, true),
        ] {
            for act in ["apply", "revoke"] {
                let found = limit(act, most, is_percent).passed(&[said(drop, live)]);
                assert_eq!(
                    found.is_some(),
                    expected,
                    "{most} {is_percent} {drop} {live}"
                );
            }
        }
    }
}
