//! Holds tables of checks to tests: no row without a test that turns its input alone, no check without a row.

use std::collections::BTreeSet;

use super::{Check, Finding, Judgement, Outcome, Status};

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
    assert_table_above(table, &[], good, flips, sources);
}

/// As [`assert_table`], where `below` are tables of evidence inside this one, whose own tests turn their inputs.
pub(crate) fn assert_table_above(
    table: &[Check],
    below: &[&[Check]],
    good: &[Judgement],
    flips: &[Flip],
    sources: &[&str],
) {
    let mut wrong = Vec::new();
    for judgement in good {
        if (judgement.status, judgement.reason) != (Status::Affirming, "verified") {
            wrong.push(format!("should be affirmed: {}", seen(judgement)));
        }
    }
    wrong.extend(flips.iter().filter_map(|flip| misses(table, flip)));
    let judgements = good.iter().chain(flips.iter().map(|flip| &flip.judgement));
    let names = judgements.flat_map(|judgement| judgement.checks.iter().map(|check| check.name));
    let names: BTreeSet<_> = names.collect();
    for name in names
        .into_iter()
        .chain(sources.iter().flat_map(|source| names_in(source)))
    {
        let mut known = table.iter().chain(below.iter().copied().flatten());
        if !known.any(|row| row.name == name) {
            wrong.push(format!("check `{name}` is not in the table"));
        }
    }
    for (row, reason) in table
        .iter()
        .flat_map(|row| row.reasons.iter().map(move |it| (row, it)))
    {
        let is_turned = |flip: &Flip| (flip.check, flip.reason) == (row.name, *reason);
        if !flips.iter().any(is_turned) {
            wrong.push(format!(
                "no test turns the input of `{}` into `{reason}`",
                row.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with a flip, if anything.
fn misses(table: &[Check], flip: &Flip) -> Option<String> {
    let (name, reason) = (flip.check, flip.reason);
    let listed = |row: &Check| row.name == name && row.reasons.contains(&reason);
    let expected: BTreeSet<_> = flip.follows.iter().copied().chain([name]).collect();
    let noticed: BTreeSet<_> = noticed(&flip.judgement).map(|check| check.name).collect();
    let is_right = flip.judgement.status != Status::Affirming
        && flip.judgement.reason == reason
        && table.iter().any(listed)
        && noticed == expected;
    (!is_right).then(|| format!("{name} {reason}: {}", seen(&flip.judgement)))
}

fn noticed(judgement: &Judgement) -> impl Iterator<Item = &Finding> {
    let checks = judgement.checks.iter();
    checks.filter(|check| !matches!(check.outcome, Outcome::Passed | Outcome::NotChecked))
}

fn seen(judgement: &Judgement) -> String {
    let noticed: Vec<_> = noticed(judgement).collect();
    format!("{} {noticed:?}", judgement.reason)
}

/// Asserts that a judgement knows no check that is not in the table.
pub(crate) fn assert_known(table: &[Check], judgement: &Judgement) {
    for check in &judgement.checks {
        let known = table.iter().any(|row| row.name == check.name);
        assert!(known, "check `{}` is not in the table", check.name);
    }
}

/// Names that a source gives to its ledger as literals.
pub(crate) fn names_in(source: &str) -> Vec<&str> {
    let calls = ["require(", "succeed(", "missing(", "skip("];
    let after = calls.iter().flat_map(|call| source.split(call).skip(1));
    after
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .collect()
}
