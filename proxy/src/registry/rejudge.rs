//! Judging again what is live, when policy, revocations, the trust bundle or the time have changed.
//!
//! What falls is found first and ended then; a question about a policy that is not in force is the first half alone, so
//! that what an operator is told beforehand can't differ from what happens.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_attestation::name::Name;
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
    /// Connections to which another rule admits their peer from now on.
    stays: Vec<(Rc<Live>, Decision)>,
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
        for (live, decision) in outcome.stays {
            self.stay(&live, decision);
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
        let mut whole = HashSet::new();
        let told = outcome.falls.iter().filter(|fall| match fall.stream {
            // What ends with its connection does not end alone.
            Some(_) => !cut.contains(&fall.live.id),
            // Of two causes the first is told: a revocation.
            None => whole.insert(fall.live.id),
        });
        let told = told.filter_map(|fall| fall.describe(self.worker));
        let mut told: Vec<Fallen> = told.collect();
        // A connection counts with all that is open on it.
        let ends = told.iter().filter(|fallen| fallen.stream.is_none());
        let ends: HashSet<u64> = ends.map(|fallen| fallen.connection.id).collect();
        for fallen in &mut told {
            if fallen.stream.is_some() && ends.contains(&fallen.connection.id) {
                fallen.weight = 0;
            }
        }
        told
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
        let before = live.relies_on.borrow().first().map(Rc::clone);
        if let Some(before) = before {
            self.judge_idle(live, &before, &policy.policy, now, &mut outcome);
        }
        for Move { key, decision, .. } in outcome.moves {
            self.move_stream(live, key, decision);
        }
        for (live, decision) in outcome.stays {
            self.stay(&live, decision);
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
            carried: self.admissions.carried(carried),
            ..Outcome::default()
        };
        let gone: Vec<Rc<Admission>> = (outcome.carried.iter())
            .filter(|one| one.to.is_none())
            .map(|one| Rc::clone(&one.admission))
            // What only `audit` admits depends on all that is said of its door, and a new rule may admit whom none did.
            .chain([&self.admissions.audit, &self.admissions.nothing].map(Rc::clone))
            .collect();
        let all = self.live.borrow();
        let lost: HashSet<*const Admission> = gone.iter().map(Rc::as_ptr).collect();
        let mut judged = HashSet::new();
        for admission in &gone {
            let connections = admission.connections.borrow();
            for live in connections.iter().filter_map(|id| all.get(id)) {
                for (key, stream) in live.open.borrow().iter() {
                    if Rc::ptr_eq(&stream.admission, admission) {
                        self.judge_stream(live, key, stream, new, now, &mut outcome);
                    }
                }
                let stands = |held: &Rc<Admission>| {
                    let ends = held.rule.get().and_then(|rule| {
                        let peer = live.peer();
                        let result = peer.as_ref().and_then(|verified| verified.peer.result());
                        old.rule_ends(rule, live.direction, result, live.binding())
                    });
                    !lost.contains(&Rc::as_ptr(held)) && ends.is_none_or(|end| now < end)
                };
                if !live.relies_on.borrow().iter().any(stands) && judged.insert(live.id) {
                    self.judge_idle(live, admission, new, now, &mut outcome);
                }
            }
        }
        outcome
    }

    /// Whether the peer of a connection that rested on what is gone may still ask for anything by it. If not, the
    /// connection only holds a place.
    fn judge_idle(
        &self,
        live: &Rc<Live>,
        before: &Rc<Admission>,
        new: &Policy,
        now: SystemTime,
        outcome: &mut Outcome,
    ) {
        if live.is_draining() {
            return;
        }
        match self.decide_idle(live, new, now) {
            None => {}
            // Evidence that is too old is replaced over the same connection; a revocation says itself what becomes of one.
            Some(Decision::Deny(denied)) if !may_heal(denied) => outcome.falls.push(Fall {
                live: Rc::clone(live),
                stream: None,
                action: Action::Drain,
                why: self.why((live, before), denied, new, now),
            }),
            Some(decision) => outcome.stays.push((Rc::clone(live), decision)),
        }
    }

    /// What policy says of a peer that calls us, at the door of its connection that it comes furthest at; `None` for any
    /// other connection. What the peer can still prove over the connection counts as proven.
    fn decide_idle(&self, live: &Live, policy: &Policy, now: SystemTime) -> Option<Decision> {
        let (doors, peer, port) = (live.doors.as_ref()?, live.peer(), live.port.borrow());
        let verified = peer.as_ref()?;
        let decide = |port: &Name, number: u16| {
            authorize_live(
                policy,
                &Context {
                    direction: live.direction,
                    local: &self.local,
                    peer: &verified.peer,
                    binding: Binding::Exporter(now),
                    port,
                    number: Some(number).filter(|number| *number != 0),
                    request: None,
                    user: None,
                    on_behalf_of: None,
                    now,
                },
            )
        };
        if let Some(port) = &*port {
            return Some(decide(port, live.number.get()));
        }
        let mut furthest = DenyReason::UnknownDoor;
        for port in doors.iter() {
            match decide(port, 0) {
                Decision::Deny(reason) => furthest = furthest.max(reason),
                admitted => return Some(admitted),
            }
        }
        Some(Decision::Deny(furthest))
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
                why: self.why((live, &stream.admission), denied, policy, now),
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
                    number: Some(stream.facts.number),
                    request,
                    user: None,
                    on_behalf_of: None,
                    now,
                },
            )
        })
    }

    /// The word for what falls on a live connection: what became of the rule that admitted it, or, where that says no
    /// more than that it is another rule now, what a new stream would be denied for.
    fn why(
        &self,
        fallen: (&Live, &Admission),
        denied: DenyReason,
        new: &Policy,
        now: SystemTime,
    ) -> Why {
        let (live, admission) = fallen;
        let held = self.policy.borrow();
        let Some(rule) = admission.rule.get() else {
            return Reason::from(denied).into();
        };
        let is_over = |end: Option<SystemTime>| end.is_some_and(|end| end <= now);
        let reason: Reason = match denied {
            DenyReason::Revoked
            | DenyReason::Lapsed
            | DenyReason::Stale
            | DenyReason::UnknownDoor => denied.into(),
            _ if is_over(held.policy.expires(rule)) => reason::RULE_EXPIRED,
            _ if is_over(self.ends(live, admission, Binding::Certificate)) => {
                DenyReason::EvidenceTooOld.into()
            }
            _ if !new.has_document_of(&held.policy, rule) => reason::RULE_REMOVED,
            _ => denied.into(),
        };
        reason.into()
    }

    /// Notes what admits the peer of a new connection to any of its doors, if anything does, so that the connection is
    /// found when that changes, also where it never carries anything.
    pub(crate) fn settle(&self, on: &Rc<Live>, now: SystemTime) {
        let policy = Arc::clone(&self.policy.borrow());
        if let Some(decision) = self.decide_idle(on, &policy.policy, now) {
            self.stay(on, decision);
        }
    }

    fn stay(&self, live: &Live, decision: Decision) {
        match self.admission(decision) {
            Some((admission, _)) => self.rely(live, &admission),
            None => self.rely(live, &self.admissions.nothing),
        }
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
            weight: self.stream.map_or_else(|| self.live.weight(), |_| 1),
        })
    }
}

/// Whether what is denied for this may be admitted again as things stand.
fn may_heal(denied: DenyReason) -> bool {
    matches!(
        denied,
        DenyReason::EvidenceTooOld | DenyReason::Lapsed | DenyReason::Revoked
    )
}
