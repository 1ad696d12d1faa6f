//! Holds tables of checks to tests: no row without a test that turns its input alone, no check without a row.

use std::collections::BTreeSet;

use super::{Check, Judgement, Outcome, Status};

/// A judgement after one input was turned.
pub(crate) struct Flip {
    /// The check that must notice.
    pub(crate) check: &'static str,
    /// Its reason, which must be that of the judgement.
    pub(crate) reason: &'static str,
    /// Checks that can't hold either, since the same input is theirs too.
    pub(crate) follows: &'static [&'static str],
    pub(crate) judgement: Judgement,
}

/// Asserts that `flips` has one flip for each reason of each row, that each is noticed by its check and no other, and
/// that neither judgements nor `sources` know a check that is not in the table.
pub(crate) fn assert_table(table: &[Check], good: &[Judgement], flips: &[Flip], sources: &[&str]) {
    for judgement in good {
        let found = (judgement.status, judgement.reason);
        assert_eq!(found, (Status::Affirming, "verified"), "{judgement:#?}");
        assert_known(table, judgement);
    }
    for flip in flips {
        assert_flip(table, flip);
    }
    for row in table {
        for reason in row.reasons {
            let turned = flips
                .iter()
                .any(|flip| (flip.check, flip.reason) == (row.name, *reason));
            assert!(
                turned,
                "no test turns the input of `{}` into `{reason}`",
                row.name
            );
        }
    }
    for name in sources.iter().flat_map(|source| names_in(source)) {
        let known = table.iter().any(|row| row.name == name);
        assert!(
            known,
            "check `{name}` is in the source and not in the table"
        );
    }
}

fn assert_flip(table: &[Check], flip: &Flip) {
    let (name, reason) = (flip.check, flip.reason);
    let judgement = &flip.judgement;
    assert_ne!(
        judgement.status,
        Status::Affirming,
        "{name}: {judgement:#?}"
    );
    assert_eq!(judgement.reason, reason, "{name}: {judgement:#?}");
    assert_known(table, judgement);
    let row = table.iter().find(|row| row.name == name);
    let listed = row.is_some_and(|row| row.reasons.contains(&reason));
    assert!(listed, "`{reason}` of `{name}` is not in the table");
    let noticed: BTreeSet<_> = judgement
        .checks
        .iter()
        .filter(|check| !matches!(check.outcome, Outcome::Passed | Outcome::NotChecked))
        .map(|check| check.name)
        .collect();
    let expected: BTreeSet<_> = flip.follows.iter().copied().chain([name]).collect();
    assert_eq!(noticed, expected, "{name} {reason}: {judgement:#?}");
}

fn assert_known(table: &[Check], judgement: &Judgement) {
    for check in &judgement.checks {
        let known = table.iter().any(|row| row.name == check.name);
        assert!(known, "check `{}` is not in the table", check.name);
    }
}

/// Names that a source gives to its ledger as literals.
fn names_in(source: &str) -> Vec<&str> {
    let calls = ["require(", "succeed(", "missing(", "skip("];
    let after = calls.iter().flat_map(|call| source.split(call).skip(1));
    after
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .collect()
}
