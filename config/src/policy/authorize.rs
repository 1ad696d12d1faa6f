//! The decision, and the walk over a door's rules that makes it.

use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::spiffe_id::SpiffeId;

use super::compile::{Door, From, Policy, Rule};
use super::{
    Binding, Context, Decision, DenyReason, Direction, Enforcement, Protocol, Request, RuleId,
};
use crate::access::{Allow, RequestMatch};
use crate::revocation::{Action, Bearer};

/// Decides. Pure; does not allocate; costs what the rules of one door cost.
///
/// Revocations come first: no rule admits whom one of them means.
/// Without a request it decides about the connection: it is allowed where some rule could admit a request of this peer.
/// On a `tcp` port that is the whole decision.
pub fn authorize(policy: &Policy, context: &Context<'_>) -> Decision {
    judge(policy, &Question::from(context), &mut Unwatched)
}

/// Decides again about what is live: as [`authorize`], but a revocation counts only where it says that what is live is cut.
/// With any other, what is live may stay or finish for as long as rules admit it.
pub fn authorize_live(policy: &Policy, context: &Context<'_>) -> Decision {
    let question = Question::from(context);
    match policy.revoked(&question.peer, question.now) {
        Some(revocation) if revocation.action == Action::Cut => {
            Decision::Deny(revocation.deny_reason())
        }
        _ => judge_rules(policy, &question, &mut Unwatched),
    }
}

/// What [`authorize`] asks, with the peer as what it shows: so that a peer that nobody verified can be explained, but
/// never be authorized.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Which way.
    pub direction: Direction,
    /// The workload that the asking sidecar serves.
    pub local: &'a WorkloadName,
    /// Who the peer is, and what it proved.
    pub peer: Bearer<'a>,
    /// How the connection is bound to the peer.
    pub binding: Binding,
    /// Name of the door's port.
    pub port: &'a Name,
    /// Its number: tells the ports of a range apart. `None` asks about the name alone.
    pub number: Option<u16>,
    /// The request; `None` asks about the connection alone.
    pub request: Option<&'a Request<'a>>,
    /// Mesh time.
    pub now: SystemTime,
}

impl<'a> std::convert::From<&Context<'a>> for Question<'a> {
    fn from(context: &Context<'a>) -> Self {
        Self {
            direction: context.direction,
            local: context.local,
            peer: Bearer::from(context.peer),
            binding: context.binding,
            port: context.port,
            number: context.number,
            request: context.request,
            now: context.now,
        }
    }
}

/// Sees each rule as it is judged.
pub(super) trait Watch {
    /// Whether every rule is to be shown, or only the decision counts.
    const SEES_ALL: bool;

    /// Notes the verdict on a rule; `true` goes on after a rule that allows.
    fn rule(&mut self, rule: RuleId, verdict: Result<(), Failure>) -> bool;
}

struct Unwatched;

impl Watch for Unwatched {
    const SEES_ALL: bool = false;

    fn rule(&mut self, _: RuleId, _: Result<(), Failure>) -> bool {
        false
    }
}

/// The first condition of a rule that did not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The rule is not for this client.
    From,
    /// The rule has expired.
    Expired,
    /// The peer has no attestation result.
    Unattested,
    /// The peer's class is not among the accepted ones.
    Class(Class),
    /// The peer's evidence has this age, which is more than the rule accepts.
    TooOld {
        /// Age of the evidence.
        age: Duration,
        /// Greatest accepted age.
        within: Duration,
    },
    /// The peer proved no device of the kind, or one without the required claim.
    Claims(EvidenceKind, Option<&'static str>),
    /// The rule does not allow the request.
    Request,
    /// The rule is strict, and there is no proof over the connection's exporter that counts.
    Binding,
}

impl Failure {
    /// What a denial says when no rule came further.
    pub fn reason(self) -> DenyReason {
        match self {
            Self::From | Self::Expired => DenyReason::NoRule,
            Self::Unattested => DenyReason::Unattested,
            Self::Class(_) => DenyReason::Class,
            Self::TooOld { .. } => DenyReason::EvidenceTooOld,
            Self::Claims(..) => DenyReason::Claims,
            Self::Request => DenyReason::Request,
            Self::Binding => DenyReason::BindingNotProven,
        }
    }
}

/// The one walk: [`authorize`] makes it unwatched, an explanation watches it.
pub(super) fn judge<W: Watch>(policy: &Policy, question: &Question<'_>, watch: &mut W) -> Decision {
    if let Some(revocation) = policy.revoked(&question.peer, question.now) {
        return Decision::Deny(revocation.deny_reason());
    }
    judge_rules(policy, question, watch)
}

fn judge_rules<W: Watch>(policy: &Policy, question: &Question<'_>, watch: &mut W) -> Decision {
    let Some((door, client)) = find_door(policy, question) else {
        return Decision::Deny(DenyReason::UnknownDoor);
    };
    let (first, end) = door.rules;
    let rules = policy.rules.get(first as usize..end as usize);
    let rules = || (first..).zip(rules.unwrap_or_default());
    if !W::SEES_ALL {
        // Most rules of a door are for other requests, which is seen sooner than what the peer has proven. How far each
        // rule came is only looked at where none admits.
        let admits = |rule: &Rule| {
            judge_request(rule, door, question).is_ok()
                && judge_rule(rule, door, &client, question).is_ok()
        };
        if let Some((index, _)) = rules().find(|(_, rule)| admits(rule)) {
            return Decision::Allow(RuleId(index));
        }
    }
    let mut furthest = DenyReason::NoRule;
    let mut allowed = None;
    for (index, rule) in rules() {
        let verdict = judge_rule(rule, door, &client, question);
        let go_on = watch.rule(RuleId(index), verdict);
        match verdict {
            Ok(()) if !go_on => return Decision::Allow(RuleId(index)),
            Ok(()) => allowed = allowed.or(Some(RuleId(index))),
            Err(failure) => furthest = furthest.max(failure.reason()),
        }
    }
    match allowed {
        Some(rule) => Decision::Allow(rule),
        None => deny(door.port.enforcement, furthest, question),
    }
}

/// What `audit` may admit: it keeps identity and class mandatory.
fn deny(enforcement: Enforcement, reason: DenyReason, question: &Question<'_>) -> Decision {
    match (enforcement, reason) {
        (Enforcement::Enforce, _)
        | (
            _,
            DenyReason::UnknownDoor
            | DenyReason::Unattested
            | DenyReason::Class
            | DenyReason::Stale
            | DenyReason::Lapsed
            | DenyReason::Revoked,
        ) => Decision::Deny(reason),
        (Enforcement::Audit, DenyReason::NoRule) if question.peer.result.is_none() => {
            Decision::Deny(DenyReason::Unattested)
        }
        (
            Enforcement::Audit,
            DenyReason::NoRule
            | DenyReason::EvidenceTooOld
            | DenyReason::Claims
            | DenyReason::Request
            | DenyReason::BindingNotProven,
        ) => Decision::Audit(reason),
    }
}

/// Who comes through the door, as selectors see it.
struct Client<'a> {
    /// The path of its SPIFFE ID, where its trust domain is ours.
    path: Option<&'a str>,
    /// The whole ID, where it is a peer's.
    id: Option<&'a SpiffeId>,
}

fn find_door<'p>(policy: &'p Policy, question: &Question<'p>) -> Option<(&'p Door, Client<'p>)> {
    let id = question.peer.id;
    let path = (Some(id.trust_domain()) == policy.trust_domain.as_ref()).then(|| id.path());
    let local = policy.doors(question.local)?;
    let (door, client) = match question.direction {
        Direction::Inbound => {
            let client = Client { path, id: Some(id) };
            (local.door(question.port)?, client)
        }
        Direction::Outbound => {
            let client = Client {
                path: Some(&local.path),
                id: None,
            };
            let peer = policy.doors_by_path(path?)?;
            (peer.door(question.port)?, client)
        }
    };
    let has_number = question
        .number
        .is_none_or(|number| door.port.has_number(number));
    has_number.then_some((door, client))
}

fn judge_rule(
    rule: &Rule,
    door: &Door,
    client: &Client<'_>,
    question: &Question<'_>,
) -> Result<(), Failure> {
    if !rule.from.iter().any(|from| from.admits(client)) {
        return Err(Failure::From);
    }
    if rule.expires.is_some_and(|expires| question.now >= expires) {
        return Err(Failure::Expired);
    }
    let demands = match question.direction {
        Direction::Inbound => &rule.client,
        Direction::Outbound => &rule.server,
    };
    match question.peer.result {
        None if !demands.danger_unattested => return Err(Failure::Unattested),
        None => {}
        Some(result) => {
            if !demands.classes.is_empty() && !demands.classes.contains(&result.class) {
                return Err(Failure::Class(result.class));
            }
            let age = result.age(question.now);
            if let Some(within) = demands.attested_within
                && age > within
            {
                return Err(Failure::TooOld { age, within });
            }
            for requirement in &demands.require {
                let kind = requirement.kind;
                let checked = requirement.check(result);
                checked.map_err(|claim| Failure::Claims(kind, claim))?;
            }
        }
    }
    judge_request(rule, door, question)?;
    // Last, because the sidecar can do something about it: who is denied for nothing else is asked for a proof.
    if demands.exporter_binding && !question.binding.is_proven(question.now) {
        return Err(Failure::Binding);
    }
    Ok(())
}

fn judge_request(rule: &Rule, door: &Door, question: &Question<'_>) -> Result<(), Failure> {
    match (door.port.protocol, question.request) {
        (Protocol::Http, Some(request)) if !allows(&rule.allow, request) => Err(Failure::Request),
        (Protocol::Http | Protocol::Tcp, _) => Ok(()),
    }
}

impl From {
    fn admits(&self, client: &Client<'_>) -> bool {
        let Some(path) = client.path else {
            return match self {
                Self::Id(wanted) => client.id.is_some_and(|id| id.as_str() == &**wanted),
                Self::Path(_) | Self::Namespace(_) | Self::Labelled(_) => false,
            };
        };
        match self {
            Self::Path(wanted) => path == &**wanted,
            Self::Namespace(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|name| !name.is_empty() && !name.contains('/')),
            Self::Labelled(paths) => paths
                .binary_search_by(|wanted| (**wanted).cmp(path))
                .is_ok(),
            // Of our own trust domain only the path can differ; a rule may still write the whole ID.
            Self::Id(wanted) => client.id.is_some_and(|id| id.as_str() == &**wanted),
        }
    }
}

fn allows(allow: &Allow, request: &Request<'_>) -> bool {
    match allow {
        Allow::Any => true,
        Allow::Connections => false,
        Allow::Only(matches) => matches.iter().any(|one| one.matches(request)),
    }
}

impl RequestMatch {
    /// Whether a request is of this sort. Allocates nothing.
    pub fn matches(&self, request: &Request<'_>) -> bool {
        let listed = |list: &Option<Vec<String>>, found: &str| match list {
            None => true,
            Some(list) => list.iter().any(|one| one == found),
        };
        match self {
            Self::Http { methods, paths } => {
                let path_fits = match paths {
                    None => true,
                    Some(paths) => paths.iter().any(|path| path.matches(request.path)),
                };
                path_fits && listed(methods, request.method)
            }
            Self::Grpc { service, methods } => {
                let called = request.path.strip_prefix('/');
                let called = called.and_then(|path| path.split_once('/'));
                // gRPC over HTTP/2 has no other method (gRPC PROTOCOL-HTTP2, Requests).
                request.grpc
                    && request.method == "POST"
                    && called.is_some_and(|(found, method)| {
                        found == service && !method.contains('/') && listed(methods, method)
                    })
            }
        }
    }
}
