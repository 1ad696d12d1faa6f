//! What admits streams: a rule of the policy in force, and the connections that rest on it.
//!
//! One per rule that has admitted something, with the worker; it moves on from policy to policy for as long as its rule
//! stands. So a change costs what the rules in use cost, and only those who rest on a rule that is gone are judged again.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use vouchsafe_config::policy::{Policy, RuleId, RuleSource};

use crate::telemetry::access_log::line::rule_field;

/// A rule that has admitted something, or, once for all, the leniency of doors in `audit`, or nothing at all.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// Its place in the policy in force; `None` for what is no rule, and for a rule that is gone.
    pub(super) rule: Cell<Option<RuleId>>,
    written: RefCell<Option<Written>>,
    /// Connections that carry, or have carried, streams that it admitted, and those that could.
    pub(super) connections: RefCell<HashSet<u64>>,
}

/// Where a rule was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) source: RuleSource,
    /// What the access log says of it.
    pub(crate) logged: Box<[u8]>,
}

impl Written {
    fn of(policy: &Policy, rule: RuleId) -> Option<Self> {
        let source = policy.source(rule)?.clone();
        let logged = rule_field(&source);
        Some(Self { source, logged })
    }
}

impl Admission {
    /// Where its rule was written; `None` for `audit`.
    pub(crate) fn written(&self) -> std::cell::Ref<'_, Option<Written>> {
        self.written.borrow()
    }

    /// The document with its rule, as logs and operators see it: `AccessPolicy inference/llm:12`.
    pub(super) fn document(&self) -> Option<String> {
        let written = self.written.borrow();
        let source = &written.as_ref()?.source;
        Some(format!("{}:{}", source.document, source.line))
    }
}

/// All admissions of one worker, by the rules of the policy in force.
#[derive(Debug, Default)]
pub(super) struct Admissions {
    by_rule: RefCell<Vec<Option<Rc<Admission>>>>,
    pub(super) audit: Rc<Admission>,
    /// What connections rest on whose peers may ask for nothing.
    pub(super) nothing: Rc<Admission>,
}

impl Admissions {
    /// The admission of a rule of the policy in force.
    pub(super) fn of(&self, policy: &Policy, rule: RuleId) -> Rc<Admission> {
        let mut by_rule = self.by_rule.borrow_mut();
        let index = rule.index() as usize;
        if let Some(Some(known)) = by_rule.get(index) {
            return Rc::clone(known);
        }
        let admission = Rc::new(Admission {
            rule: Cell::new(Some(rule)),
            written: RefCell::new(Written::of(policy, rule)),
            connections: RefCell::default(),
        });
        place(&mut by_rule, index, Rc::clone(&admission));
        admission
    }

    /// Where the rules in use stand in another policy; `None` for one that is gone from it.
    ///
    /// Of two that would come to stand at one place the second counts as gone: its streams are judged again.
    pub(super) fn carried(&self, carried: impl Fn(RuleId) -> Option<RuleId>) -> Vec<Carried> {
        let mut taken = HashSet::new();
        let by_rule = self.by_rule.borrow();
        let used = by_rule.iter().flatten();
        used.map(|admission| Carried {
            admission: Rc::clone(admission),
            to: admission
                .rule
                .get()
                .and_then(&carried)
                .filter(|to| taken.insert(to.index())),
        })
        .collect()
    }

    /// Moves on to a policy.
    pub(super) fn move_on(&self, policy: &Policy, carried: &[Carried]) {
        let mut moved = Vec::new();
        for Carried { admission, to } in carried {
            // Nobody rests on it: its next stream makes a new one.
            let to = to.filter(|_| !admission.connections.borrow().is_empty());
            admission.rule.set(to);
            if let Some(rule) = to {
                *admission.written.borrow_mut() = Written::of(policy, rule);
                place(&mut moved, rule.index() as usize, Rc::clone(admission));
            }
        }
        *self.by_rule.borrow_mut() = moved;
    }
}

/// Where a rule stands in another policy.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) admission: Rc<Admission>,
    pub(super) to: Option<RuleId>,
}

fn place(by_rule: &mut Vec<Option<Rc<Admission>>>, index: usize, admission: Rc<Admission>) {
    if by_rule.len() <= index {
        by_rule.resize(index + 1, None);
    }
    if let Some(slot) = by_rule.get_mut(index) {
        *slot = Some(admission);
    }
}
