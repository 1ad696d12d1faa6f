//! Judging again what is live, when policy, revocations, the trust bundle or the time have changed.
//!
//! What falls is found first and ended then; a question about a policy that is not in force is the first half alone, so
//! that what an operator is told beforehand can't differ from what happens.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::trust_bundle::TrustBundle;
use vouchsafe_config::policy::{
    Binding, Context, Decision, DenyReason, Policy, RuleId, authorize_live,
};
use vouchsafe_config::revocation::{Action, Bearer, Revocation};

use crate::reason::{self, Reason, Why};
use crate::registry::Registry;
use crate::registry::admission::{Admission, Carried};
use crate::registry::live::Live;
use crate::registry::snapshot::{ConnectionSnapshot, Fallen};
use crate::registry::stream::Stream;
use crate::state::PolicyEpoch;

/// What a change ends.
#[derive(Debug)]
struct Fall {
    live: Rc<Live>,
    /// Key of the stream that ends alone; `None`: the whole connection.
    stream: Option<usize>,
    action: Action,
    why: Why,
}

/// A stream that another rule admits from now on.
#[derive(Debug)]
struct Move {
    live: Rc<Live>,
    key: usize,
    decision: Decision,
}

/// What a change does to what is live.
#[derive(Debug, Default)]
struct Outcome {
    falls: Vec<Fall>,
    moves: Vec<Move>,
    carried: Vec<Carried>,
}

impl Registry {
    /// Whether what is live was judged by this policy.
    pub(crate) fn follows(&self, policy: &Arc<PolicyEpoch>) -> bool {
        Arc::ptr_eq(&self.policy.borrow(), policy)
    }

    /// The revision of the policy by which what is live was judged.
    pub(crate) fn revision(&self) -> Revision {
        self.policy.borrow().revision
    }

    /// Judges again what a changed policy can touch, and ends what it no longer allows.
    pub(crate) fn rejudge(&self, policy: &Arc<PolicyEpoch>, now: SystemTime) {
        let old = Arc::clone(&self.policy.borrow());
        // Another number, or other endpoints: what was decided stands, and what only time ends is found by time.
        if Arc::ptr_eq(&old.policy, &policy.policy) && !policy.is_stale {
            *self.policy.borrow_mut() = Arc::clone(policy);
            return;
        }
        let outcome = self.judge_change(&old.policy, &policy.policy, now);
        *self.policy.borrow_mut() = Arc::clone(policy);
        (self.admissions).move_on(&policy.policy, &outcome.carried);
        for Move {
            live,
            key,
            decision,
        } in outcome.moves
        {
            self.move_stream(&live, key, decision);
        }
        outcome.carried.iter().for_each(|one| self.forget(one));
        outcome.falls.iter().for_each(Fall::apply);
        if policy.is_stale {
            // What the local application opened ends with what it carries.
            let live = self.live.borrow();
            let with_peers = live.values().filter(|live| live.peer().is_some());
            with_peers.for_each(|live| live.end(Reason::from(DenyReason::Stale)));
        }
    }

    /// What would end were this policy in force, without ending it.
    pub(crate) fn would_fall(&self, policy: &PolicyEpoch, now: SystemTime) -> Vec<Fallen> {
        let old = Arc::clone(&self.policy.borrow());
        let outcome = self.judge_change(&old.policy, &policy.policy, now);
        let whole = |fall: &&Fall| fall.stream.is_none() && fall.action == Action::Cut;
        let cut: HashSet<u64> = (outcome.falls.iter().filter(whole))
            .map(|fall| fall.live.id)
            .collect();
        // What ends with its connection does not end alone.
        let falls = outcome.falls.iter();
        let falls = falls.filter(|fall| fall.stream.is_none() || !cut.contains(&fall.live.id));
        falls
            .filter_map(|fall| fall.describe(self.worker))
            .collect()
    }

    /// Judges again whether the authorities of live peers may vouch for them, and cuts those that may not.
    pub(crate) fn rejudge_peers(&self, bundle: &Arc<TrustBundle>, now: SystemTime) {
        let held = self.bundle.replace(Some(Arc::clone(bundle)));
        if held.is_some_and(|held| Arc::ptr_eq(&held, bundle)) {
            return;
        }
        for peer in self.peers.borrow().values() {
            if !bundle.vouches_for(&peer.verified.peer, now) {
                let live = self.live.borrow();
                let connections = peer.connections.iter().filter_map(|id| live.get(id));
                connections.for_each(|live| live.end(reason::AUTHORITY_REMOVED));
            }
        }
    }

    /// Judges again all that is open on one connection, because of the time or of a successor certificate.
    pub(super) fn rejudge_connection(&self, live: &Rc<Live>, now: SystemTime) {
        let policy = Arc::clone(&self.policy.borrow());
        let mut outcome = Outcome::default();
        if let Some(verified) = &*live.peer() {
            let revoked = policy.policy.revoked(&Bearer::from(&verified.peer), now);
            outcome
                .falls
                .extend(revoked.and_then(|one| Fall::revoked(live, one)));
        }
        for (key, stream) in live.open.borrow().iter() {
            self.judge_stream(live, key, stream, &policy.policy, now, &mut outcome);
        }
        for Move { key, decision, .. } in outcome.moves {
            self.move_stream(live, key, decision);
        }
        outcome.falls.iter().for_each(Fall::apply);
        let relies_on = live.relies_on.borrow();
        let ends = relies_on
            .iter()
            .filter_map(|held| self.ends(live, held, live.binding()));
        live.due.set(ends.filter(|end| *end > now).min());
    }

    fn judge_change(&self, old: &Policy, new: &Policy, now: SystemTime) -> Outcome {
        let knows_us = new.knows(&self.local);
        let carried = |rule: RuleId| new.carried(old, rule).filter(|_| knows_us);
        let mut outcome = Outcome {
            falls: self.judge_revocations(old, new, now),
            moves: Vec::new(),
            carried: self.admissions.carried(carried),
        };
        let gone: Vec<Rc<Admission>> = (outcome.carried.iter())
            .filter(|one| one.to.is_none())
            .map(|one| Rc::clone(&one.admission))
            // What only `audit` admits depends on all that is said of its door.
            .chain([Rc::clone(&self.admissions.audit)])
            .collect();
        let all = self.live.borrow();
        for admission in gone {
            let connections = admission.connections.borrow();
            for live in connections.iter().filter_map(|id| all.get(id)) {
                for (key, stream) in live.open.borrow().iter() {
                    if Rc::ptr_eq(&stream.admission, &admission) {
                        self.judge_stream(live, key, stream, new, now, &mut outcome);
                    }
                }
            }
        }
        outcome
    }

    /// Whom new revocations mean. Each certificate is looked at once, however many connections its holder has.
    fn judge_revocations(&self, old: &Policy, new: &Policy, now: SystemTime) -> Vec<Fall> {
        let mut fresh = new.fresh_revocations(old);
        if fresh.all(|one| one.action == Action::DenyNew) {
            return Vec::new();
        }
        let all = self.live.borrow();
        let mut falls = Vec::new();
        for peer in self.peers.borrow().values() {
            let Some(revoked) = new.revoked(&Bearer::from(&peer.verified.peer), now) else {
                continue;
            };
            let connections = peer.connections.iter().filter_map(|id| all.get(id));
            falls.extend(connections.filter_map(|live| Fall::revoked(live, revoked)));
        }
        falls
    }

    fn judge_stream(
        &self,
        live: &Rc<Live>,
        key: usize,
        stream: &Stream,
        policy: &Policy,
        now: SystemTime,
        outcome: &mut Outcome,
    ) {
        if stream.cut.is_some() {
            return;
        }
        match self.decide(live, stream, policy, now) {
            Decision::Deny(denied) => outcome.falls.push(Fall {
                live: Rc::clone(live),
                stream: Some(key),
                action: Action::Cut,
                why: self.why((live, stream), denied, policy, now),
            }),
            decision => outcome.moves.push(Move {
                live: Rc::clone(live),
                key,
                decision,
            }),
        }
    }

    fn decide(&self, live: &Live, stream: &Stream, policy: &Policy, now: SystemTime) -> Decision {
        let peer = live.peer();
        // Only what policy admitted for a peer and a port is registered.
        let (Some(verified), Some(port)) = (&*peer, &stream.facts.port) else {
            return Decision::Deny(DenyReason::UnknownDoor);
        };
        stream.facts.with_request(|request| {
            authorize_live(
                policy,
                &Context {
                    direction: live.direction,
                    local: &self.local,
                    peer: &verified.peer,
                    binding: live.binding(),
                    port,
                    request,
                    user: None,
                    on_behalf_of: None,
                    now,
                },
            )
        })
    }

    /// The word for what a live stream falls by: what became of the rule that admitted it, or, where that says no more
    /// than that it is another rule now, what a new stream would be denied for.
    fn why(
        &self,
        fallen: (&Live, &Stream),
        denied: DenyReason,
        new: &Policy,
        now: SystemTime,
    ) -> Why {
        let (live, stream) = fallen;
        let held = self.policy.borrow();
        let Some(rule) = stream.admission.rule.get() else {
            return Reason::from(denied).into();
        };
        let is_over = |end: Option<SystemTime>| end.is_some_and(|end| end <= now);
        let reason: Reason = match denied {
            DenyReason::Revoked
            | DenyReason::Lapsed
            | DenyReason::Stale
            | DenyReason::UnknownDoor => denied.into(),
            _ if is_over(held.policy.expires(rule)) => reason::RULE_EXPIRED,
            _ if is_over(self.ends(live, &stream.admission, Binding::Certificate)) => {
                DenyReason::EvidenceTooOld.into()
            }
            _ if !new.has_document_of(&held.policy, rule) => reason::RULE_REMOVED,
            _ => denied.into(),
        };
        reason.into()
    }

    fn move_stream(&self, live: &Live, key: usize, decision: Decision) {
        let Some((admission, audited)) = self.admission(decision) else {
            return;
        };
        self.rely(live, &admission);
        if let Some(stream) = live.open.borrow_mut().get_mut(key) {
            stream.admission = admission;
            stream.audited = audited;
        }
    }

    /// Lets go of an admission whose rule is gone.
    fn forget(&self, one: &Carried) {
        if one.to.is_some() {
            return;
        }
        let all = self.live.borrow();
        for id in one.admission.connections.take() {
            if let Some(live) = all.get(&id) {
                let mut relies_on = live.relies_on.borrow_mut();
                relies_on.retain(|held| !Rc::ptr_eq(held, &one.admission));
            }
        }
    }
}

impl Fall {
    fn revoked(live: &Rc<Live>, revocation: &Revocation) -> Option<Self> {
        (revocation.action != Action::DenyNew).then(|| Self {
            live: Rc::clone(live),
            stream: None,
            action: revocation.action,
            why: Why::revoked(revocation),
        })
    }

    fn apply(&self) {
        match (self.stream, self.action) {
            (Some(key), _) => self.live.end_stream(key, &self.why),
            (None, Action::Cut) => self.live.end(self.why.clone()),
            (None, Action::Drain) => self.live.drain(self.why.clone()),
            (None, Action::DenyNew) => {}
        }
    }

    /// As an operator is told; `None` where it has happened already.
    fn describe(&self, worker: usize) -> Option<Fallen> {
        let is_over = match self.action {
            Action::Cut => self.live.why_cut().is_some(),
            Action::Drain | Action::DenyNew => self.live.is_draining(),
        };
        if is_over {
            return None;
        }
        let open = self.live.open.borrow();
        let stream = match self.stream {
            Some(key) => Some(open.get(key)?.snapshot()),
            None => None,
        };
        let connection = ConnectionSnapshot {
            open: match stream {
                Some(_) => Vec::new(),
                None => open.iter().map(|(_, stream)| stream.snapshot()).collect(),
            },
            ..self.live.snapshot_alone(worker)
        };
        Some(Fallen {
            connection,
            stream,
            action: self.action.as_str(),
            reason: self.why.reason.as_str(),
            document: self.why.document.as_deref().map(str::to_owned),
        })
    }
}
