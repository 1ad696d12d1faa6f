//! Judgements of hardware evidence: each check by name, the claims it yields, and one status.
//!
//! A [`Judgement`] says what a machine proved; nothing turns it into an attestation result. That needs the binding of a
//! live attestation and a profile ([`crate::appraise`]). All checks that can be made are made, also after one failed,
//! so that an auditor sees everything; the reason is that of the first failed one.
//!
//! Source: RFC 9334; draft-ietf-rats-ar4si §2.3 (tiers); DESIGN §5.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

#[cfg(test)]
pub(crate) mod flips;

/// How a check ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it must be.
    Passed,
    /// Not as it must be.
    Failed,
    /// Acceptable to some; a profile decides.
    Warning,
    /// What the check needs was not given, so it could not be made.
    Missing,
    /// Not asked for.
    NotChecked,
}

/// One check.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// Which: a bounded word.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, for the operator.
    pub detail: String,
}

/// A check that a kind of evidence is put through: what an auditor can expect to see in a judgement.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Check {
    /// Its name in [`Finding::name`].
    pub name: &'static str,
    /// The reasons by which it refuses, or says that it lacks something.
    pub reasons: &'static [&'static str],
    /// What is compared with what.
    pub about: &'static str,
}

/// The tier of a judgement.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All that was demanded is proven.
    Affirming,
    /// Genuine, but not as good as it should be, or not all could be judged.
    Warning,
    /// Refused.
    Contraindicated,
}

/// Whether freshness was judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingState {
    /// The evidence was compared with what was expected; the check `binding` says how that ended.
    Checked,
    /// The evidence was looked at without an expectation: it may be of any time and for anyone.
    NotChecked,
}

/// A claim's value.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// An unsigned number.
    Number(u64),
    /// A text; bytes are lower-case hex.
    Text(String),
    /// A set of texts.
    Set(Vec<String>),
}

impl Value {
    /// What two pieces claim together.
    fn merged(self, other: Self) -> Option<Self> {
        if self == other {
            return Some(self);
        }
        let texts = |value: Self| match value {
            Self::Text(text) => vec![text],
            Self::Set(set) => set,
            Self::Bool(_) | Self::Number(_) => Vec::new(),
        };
        let (held, more) = (texts(self), texts(other));
        if held.is_empty() || more.is_empty() {
            return None;
        }
        let all: BTreeSet<_> = held.into_iter().chain(more).collect();
        Some(Self::Set(all.into_iter().collect()))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<u8> for Value {
    fn from(value: u8) -> Self {
        Self::Number(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<Vec<String>> for Value {
    fn from(value: Vec<String>) -> Self {
        Self::Set(value)
    }
}

/// What came of looking at evidence.
#[must_use = "a judgement that nobody reads protects nothing"]
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Judgement {
    /// The tier.
    pub status: Status,
    /// A bounded word: `verified`, or why not.
    pub reason: &'static str,
    /// Whether freshness was judged.
    pub binding: BindingState,
    /// The checks, in order.
    pub checks: Vec<Finding>,
    /// What the evidence says; worth as much as the status.
    pub claims: BTreeMap<&'static str, Value>,
    /// Whether nothing failed but something needed was missing, so that no judgement is possible.
    #[serde(skip)]
    pub is_incomplete: bool,
}

/// Collects checks and claims.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    checks: Vec<(Finding, &'static str)>,
    claims: BTreeMap<&'static str, Value>,
    disagreed: BTreeSet<&'static str>,
}

impl Ledger {
    fn push(
        &mut self,
        name: &'static str,
        reason: &'static str,
        outcome: Outcome,
        detail: impl Into<String>,
    ) {
        let detail = detail.into();
        self.checks.push((
            Finding {
                name,
                outcome,
                detail,
            },
            reason,
        ));
    }

    /// A check that must hold; `reason` is the bounded word if it does not.
    pub(crate) fn require(
        &mut self,
        name: &'static str,
        reason: &'static str,
        holds: bool,
        detail: impl Into<String>,
    ) -> bool {
        let outcome = if holds {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        self.push(name, reason, outcome, detail);
        holds
    }

    /// A step that must succeed.
    pub(crate) fn succeed<T, E: std::error::Error>(
        &mut self,
        name: &'static str,
        reason: &'static str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.push(name, reason, Outcome::Passed, "");
                Some(value)
            }
            Err(error) => {
                self.push(name, reason, Outcome::Failed, crate::verdict::chain(&error));
                None
            }
        }
    }

    /// What the check needs was not given.
    pub(crate) fn missing(
        &mut self,
        name: &'static str,
        reason: &'static str,
        detail: impl Into<String>,
    ) {
        self.push(name, reason, Outcome::Missing, detail);
    }

    /// Nobody asked for the check.
    pub(crate) fn skip(&mut self, name: &'static str, detail: impl Into<String>) {
        self.push(name, name, Outcome::NotChecked, detail);
    }

    pub(crate) fn claim(&mut self, name: &'static str, value: impl Into<Value>) {
        self.claims.insert(name, value.into());
    }

    /// Takes over what was found about one of several pieces; `label` says which. A claim stands if all pieces that make
    /// it agree; different texts become a set, and other differences leave none, since a claim that lacks fails what
    /// demands it.
    pub(crate) fn absorb(&mut self, label: Option<&str>, other: Self) {
        for (mut finding, reason) in other.checks {
            if let Some(label) = label {
                finding.detail = match finding.detail.as_str() {
                    "" => label.to_owned(),
                    detail => format!("{label}: {detail}"),
                };
            }
            self.checks.push((finding, reason));
        }
        for (name, value) in other.claims {
            let merged = match self.claims.remove(name) {
                None if self.disagreed.contains(name) => None,
                None => Some(value),
                Some(held) => held.merged(value),
            };
            match merged {
                Some(value) => drop(self.claims.insert(name, value)),
                None => drop(self.disagreed.insert(name)),
            }
        }
    }

    /// What was claimed so far.
    pub(crate) fn claims(&self) -> &BTreeMap<&'static str, Value> {
        &self.claims
    }

    fn first(&self, outcome: Outcome) -> Option<&'static str> {
        self.checks
            .iter()
            .find(|(finding, _)| finding.outcome == outcome)
            .map(|(_, reason)| *reason)
    }

    /// Draws the conclusion. Without a single passed check there is nothing to affirm.
    pub(crate) fn conclude(self, binding: BindingState) -> Judgement {
        let failed = self.first(Outcome::Failed);
        let missing = self.first(Outcome::Missing);
        let warned = self.first(Outcome::Warning);
        let passed = self.first(Outcome::Passed).map(|_| "verified");
        let (status, reason) = match (failed, missing, warned, passed) {
            (Some(reason), ..) => (Status::Contraindicated, reason),
            (None, Some(reason), ..) | (None, None, Some(reason), _) => (Status::Warning, reason),
            (None, None, None, Some(reason)) => (Status::Affirming, reason),
            (None, None, None, None) => (Status::Contraindicated, "nothing_checked"),
        };
        Judgement {
            status,
            reason,
            binding,
            is_incomplete: failed.is_none() && missing.is_some(),
            checks: self
                .checks
                .into_iter()
                .map(|(finding, _)| finding)
                .collect(),
            claims: self.claims,
        }
    }
}

/// A row of a table of checks.
pub(crate) const fn check(
    name: &'static str,
    reasons: &'static [&'static str],
    about: &'static str,
) -> Check {
    Check {
        name,
        reasons,
        about,
    }
}

/// Whether what was found is among what a rule accepts; a rule that names nothing is not checked.
pub(crate) fn among<T: AsRef<[u8]> + PartialEq>(
    name: &'static str,
    accepted: &[T],
    found: &T,
    ledger: &mut Ledger,
) {
    if accepted.is_empty() {
        ledger.skip(name, "no reference value is named");
    } else {
        let holds = accepted.contains(found);
        ledger.require(name, name, holds, hex::encode(found));
    }
}

/// A property that a rule may demand.
pub(crate) fn demanded(
    name: &'static str,
    reason: &'static str,
    is_demanded: bool,
    holds: bool,
    ledger: &mut Ledger,
) {
    if is_demanded {
        ledger.require(name, reason, holds, "");
    } else {
        ledger.skip(name, format!("not demanded; found: {holds}"));
    }
}

/// Compares in time that does not depend on the content; different lengths are different.
pub(crate) fn same_bytes(left: &[u8], right: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    left.ct_eq(right).into()
}

/// What a report's 64 bytes must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound<'a> {
    /// Nobody says.
    Nothing,
    /// What the relying party expects.
    ReportData(&'a [u8; 64]),
    /// What other evidence, which carries the binding, is digested to.
    RuntimeData(&'a [u8; 64]),
}

impl Bound<'_> {
    pub(crate) fn check(self, found: &[u8; 64], ledger: &mut Ledger) {
        match self {
            Self::Nothing => ledger.skip("binding", "looked at without an expectation"),
            Self::ReportData(expected) => {
                let holds = same_bytes(found, expected);
                ledger.require("binding", "report_data_mismatch", holds, "report data");
            }
            Self::RuntimeData(expected) => {
                let holds = same_bytes(found, expected);
                let detail = "report data is the digest of the runtime data";
                ledger.require("runtime_data", "runtime_data_mismatch", holds, detail);
            }
        }
    }
}

impl<'a> From<Option<&'a [u8; 64]>> for Bound<'a> {
    fn from(expected: Option<&'a [u8; 64]>) -> Self {
        expected.map_or(Self::Nothing, Self::ReportData)
    }
}
