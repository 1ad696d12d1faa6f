//! What a change of policy can touch: which rules live on in a new policy, which revocations are new, and when a rule
//! stops to admit somebody by time alone.
//!
//! # Why
//! What is live rests on a rule. While that rule stands unchanged at its door, and nobody revokes, the decision stands,
//! so only what rests on other rules must be judged again. Rules are compared by meaning: a comment, another order or
//! another line of a file touch nothing.

use std::time::{Duration, SystemTime};

use vouchsafe_attestation::result::AttestationResult;

use super::compile::Policy;
use super::{Binding, Direction, RuleId};
use crate::revocation::Revocation;

impl Policy {
    /// The place in this policy of a rule of an `old` one, where the rule still stands at the same door.
    ///
    /// Whom it admitted it admits, as far as revocations and time allow. That the asking workload itself is known to this
    /// policy is for the caller to see.
    pub fn carried(&self, old: &Self, rule: RuleId) -> Option<RuleId> {
        if self.trust_domain != old.trust_domain {
            return None;
        }
        let (path, before) = old.door_of(rule)?;
        let held = old.rules.get(rule.0 as usize)?;
        let after = self.doors_by_path(path)?.door(&before.port.name)?;
        // Of a range that lost numbers each stream is judged by its own.
        if after.port.protocol != before.port.protocol || !after.port.covers(&before.port) {
            return None;
        }
        let (first, end) = after.rules;
        let rules = self.rules.get(first as usize..end as usize)?;
        let found = rules.iter().position(|rule| rule == held)?;
        Some(RuleId(first + u32::try_from(found).ok()?))
    }

    /// Whether the document of a rule of an `old` policy still opens the same door, however changed.
    pub fn has_document_of(&self, old: &Self, rule: RuleId) -> bool {
        let found = || {
            let (path, before) = old.door_of(rule)?;
            let document = &old.source(rule)?.document;
            let (first, end) = self.doors_by_path(path)?.door(&before.port.name)?.rules;
            let mut sources = (first..end).filter_map(|rule| self.source(RuleId(rule)));
            Some(sources.any(|source| source.document == *document))
        };
        found().unwrap_or(false)
    }

    /// Revocations that an `old` policy did not have, or not with the same action and end: the sternest first.
    pub fn fresh_revocations<'p>(&'p self, old: &'p Self) -> impl Iterator<Item = &'p Revocation> {
        let known =
            |fresh: &Revocation| self.trust_domain == old.trust_domain && old.has_revocation(fresh);
        self.revocations().iter().filter(move |one| !known(one))
    }

    /// When a rule expires, if it does.
    pub fn expires(&self, rule: RuleId) -> Option<SystemTime> {
        self.rules.get(rule.0 as usize)?.expires
    }

    /// The first instant at which a rule no longer admits a peer that it admits now, by time alone.
    pub fn rule_ends(
        &self,
        rule: RuleId,
        direction: Direction,
        result: Option<&AttestationResult>,
        binding: Binding,
    ) -> Option<SystemTime> {
        let rule = self.rules.get(rule.0 as usize)?;
        let demands = match direction {
            Direction::Inbound => &rule.client,
            Direction::Outbound => &rule.server,
        };
        let aged = demands.attested_within.zip(result);
        // Evidence of exactly that age still counts.
        let aged = aged.and_then(|(within, result)| {
            let last = result.evidence_time.checked_add(within)?;
            last.checked_add(Duration::from_nanos(1))
        });
        let bound = if demands.exporter_binding {
            binding.ends()
        } else {
            None
        };
        [aged, rule.expires, bound].into_iter().flatten().min()
    }
}
