//! Decisions that were made lately, to be found again instead of made again.
//!
//! # Why
//! Callers ask the same few things over and over, and a decision costs what all rules of a door cost. [`authorize`] is
//! pure, so the same question has the same answer. What makes it the same is all in [`Question`] and in the epoch of the
//! policy, and is compared each time; nobody has to think of telling this module that something has changed. Time is the
//! one thing that never is the same: an answer holds until the rule that admitted ends by itself, and not for a time
//! before it was given.
//!
//! Only what a rule admits is remembered. A denial may heal by time alone, and nothing waits for it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::{
    Binding, Context, Decision, Direction, Policy, Request, RuleId, authorize,
};

use crate::state::PolicyEpoch;
use crate::tls::peer_verifier::Verified;

/// Decisions of one worker, all under one epoch of the policy.
#[derive(Debug, Default)]
pub(crate) struct Decisions(RefCell<Held>);

#[derive(Debug, Default)]
struct Held {
    epoch: Arc<PolicyEpoch>,
    /// Each at the place that its question leads to; none before the first.
    places: Vec<Option<Remembered>>,
}

/// A question that a rule answered with yes, and for how long.
#[derive(Debug)]
struct Remembered {
    question: Question,
    rule: RuleId,
    since: SystemTime,
    /// The first instant at which the rule no longer admits this, by time alone.
    ends: Option<SystemTime>,
}

/// All that a decision depends on beside policy and time. The local workload is the same for all of a worker.
#[derive(Debug)]
struct Question {
    /// The very certificate and result: a successor is another one.
    peer: Arc<Verified>,
    direction: Direction,
    binding: Binding,
    port: Name,
    number: Option<u16>,
    method: String,
    path: String,
    is_grpc: bool,
}

impl Decisions {
    /// As [`authorize`] by the policy of an epoch, whether it is stale or not. `peer` is that of the context.
    pub(crate) fn authorize(
        &self,
        epoch: &Arc<PolicyEpoch>,
        peer: &Arc<Verified>,
        context: &Context<'_>,
    ) -> Decision {
        let policy = &epoch.policy;
        let Some(request) = context.request.filter(|asked| is_worth_it(context, asked)) else {
            return authorize(policy, context);
        };
        let held = &mut *self.0.borrow_mut();
        if !Arc::ptr_eq(&held.epoch, epoch) {
            held.places.clear();
            held.epoch = Arc::clone(epoch);
        }
        let place = place(peer, request);
        if let Some(Some(known)) = held.places.get(place)
            && known.holds_at(context.now)
            && known.question.is(peer, context, request)
        {
            return Decision::Allow(known.rule);
        }
        let decision = authorize(policy, context);
        if let Decision::Allow(rule) = decision {
            held.remember(place, rule, peer, context, request);
        }
        decision
    }
}

impl Held {
    fn remember(
        &mut self,
        place: usize,
        rule: RuleId,
        peer: &Arc<Verified>,
        context: &Context<'_>,
        request: &Request<'_>,
    ) {
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let ends = ends(&self.epoch.policy, rule, peer, context);
        if let Some(slot) = self.places.get_mut(place) {
            let before = slot.take().map(|known| known.question);
            *slot = Some(Remembered {
                question: Question::new(before, peer, context, request),
                rule,
                since: context.now,
                ends,
            });
        }
    }
}

impl Remembered {
    fn holds_at(&self, now: SystemTime) -> bool {
        self.since <= now && self.ends.is_none_or(|end| now < end)
    }
}

impl Question {
    /// In the memory of one that is forgotten for it.
    fn new(
        before: Option<Self>,
        peer: &Arc<Verified>,
        context: &Context<'_>,
        request: &Request<'_>,
    ) -> Self {
        let (mut method, mut path) =
            before.map_or_else(Default::default, |it| (it.method, it.path));
        method.clear();
        method.push_str(request.method);
        path.clear();
        path.push_str(request.path);
        Self {
            peer: Arc::clone(peer),
            direction: context.direction,
            binding: context.binding,
            port: context.port.clone(),
            number: context.number,
            method,
            path,
            is_grpc: request.grpc,
        }
    }

    fn is(&self, peer: &Arc<Verified>, context: &Context<'_>, request: &Request<'_>) -> bool {
        // Taken apart, so that what comes to be asked besides is not forgotten here.
        let Context {
            direction,
            local: _,
            peer: _,
            binding,
            port,
            number,
            request: _,
            user: _,
            on_behalf_of: _,
            now: _,
        } = context;
        let Request { method, path, grpc } = request;
        Arc::ptr_eq(&self.peer, peer)
            && self.number == *number
            && self.is_grpc == *grpc
            && self.direction == *direction
            && self.path == *path
            && self.method == *method
            && self.port == **port
            && self.binding == *binding
    }
}

/// Whether an answer may be found again at all.
fn is_worth_it(context: &Context<'_>, request: &Request<'_>) -> bool {
    // Nobody compares users yet.
    let is_of_peer_alone = context.user.is_none() && context.on_behalf_of.is_none();
    // Of the future, which only a clock that went back shows: it begins to count by time alone, and a rule before the one
    // that admitted may ask for it.
    let is_bound_later = matches!(context.binding, Binding::Exporter(at) if at > context.now);
    is_of_peer_alone
        && !is_bound_later
        && request.path.len() <= LONGEST_PATH
        && request.method.len() <= LONGEST_METHOD
}

fn ends(
    policy: &Policy,
    rule: RuleId,
    peer: &Verified,
    context: &Context<'_>,
) -> Option<SystemTime> {
    let result = peer.peer.result();
    policy.rule_ends(rule, context.direction, result, context.binding)
}

/// Where an answer lies. Two questions of one place take turns, which costs them no more than a decision each.
fn place(peer: &Arc<Verified>, request: &Request<'_>) -> usize {
    let mut mixed = Arc::as_ptr(peer).addr() as u64;
    let mut mix = |word: u64| mixed = (mixed.rotate_left(5) ^ word).wrapping_mul(SPREAD);
    let (words, rest) = request.path.as_bytes().as_chunks::<8>();
    words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
    rest.iter().for_each(|byte| mix(u64::from(*byte)));
    mix(request.method.len() as u64);
    // Products mix upwards.
    usize::try_from(mixed >> PLACES_SHIFT).unwrap_or_default()
}

/// Answers that one worker remembers: 10 KiB, and 16 more were all paths as long as they may be.
const PLACES: usize = 1 << PLACES_BITS;
const PLACES_BITS: u32 = 6;
const PLACES_SHIFT: u32 = u64::BITS - PLACES_BITS;
/// Longer paths name one thing each, and are not asked for twice.
const LONGEST_PATH: usize = 256;
/// Methods of the registries are shorter.
const LONGEST_METHOD: usize = 24;
/// Odd, with its bits spread evenly (2⁶⁴ by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests;
