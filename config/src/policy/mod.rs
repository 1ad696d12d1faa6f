//! Compiled policy and the one function that decides.
//!
//! [`authorize`] is pure and is used by the sidecar for every connection and request, and by the command line to
//! explain; an explanation can't differ from enforcement because it is the same walk over the same rules, watched.

use std::time::{Duration, SystemTime};

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::peer::Peer;

mod authorize;
mod carry;
mod compile;
mod explain;
mod path;
mod revoked;

pub use authorize::{Failure, Question, authorize, authorize_live};
pub use compile::Policy;
pub use explain::{ExplainedRule, Explanation, RevokedBy};
pub use path::{ParsePatternError, PathError, PathPattern, normalize_path};

/// Which way a connection goes, seen from the sidecar that asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// A peer calls the local workload: the door is the local workload's port.
    Inbound,
    /// The local workload calls a peer: the door is the peer's port.
    Outbound,
}

/// What is asked of a door: everything that a decision may depend on.
#[derive(Debug)]
pub struct Context<'a> {
    /// Which way.
    pub direction: Direction,
    /// The workload that the asking sidecar serves.
    pub local: &'a WorkloadName,
    /// The other end.
    pub peer: &'a Peer,
    /// How the connection is bound to the peer.
    pub binding: Binding,
    /// Name of the door's port.
    pub port: &'a Name,
    /// Its number: tells the ports of a range apart. `None` asks about the name alone.
    pub number: Option<u16>,
    /// The request; `None` asks about the connection alone.
    pub request: Option<&'a Request<'a>>,
    /// The end user. Not built yet.
    pub user: Option<&'a User>,
    /// On whose behalf the peer acts. Not built yet.
    pub on_behalf_of: Option<&'a OnBehalfOf>,
    /// Mesh time.
    pub now: SystemTime,
}

/// How a connection is bound to its peer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Binding {
    /// By the handshake: the peer held the key of its certificate when the connection began.
    #[default]
    Certificate,
    /// By a proof over the TLS exporter of this very connection, at this time.
    Exporter(SystemTime),
}

impl Binding {
    /// How often a proof is repeated on a connection that lives on.
    pub const REPEAT: Duration = Duration::from_secs(10);
    /// How long a proof counts: two repetitions may fail, as where the other end is busy, the third may not.
    pub const LASTS: Duration = Duration::from_secs(30);

    /// Whether a proof over the exporter counts at `now`. One that is [`Self::LASTS`] old still does; one of the future,
    /// which only a clock that went back can show, does not.
    pub fn is_proven(self, now: SystemTime) -> bool {
        match self {
            Self::Certificate => false,
            Self::Exporter(at) => now.duration_since(at).is_ok_and(|age| age <= Self::LASTS),
        }
    }

    /// The first instant at which a proof no longer counts.
    pub fn ends(self) -> Option<SystemTime> {
        match self {
            Self::Certificate => None,
            Self::Exporter(at) => at.checked_add(Self::LASTS + Duration::from_nanos(1)),
        }
    }
}

/// Which ends of a connection must prove their keys over its TLS exporter, as some rule of a door says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Strict {
    /// The client must.
    pub client: bool,
    /// The server must.
    pub server: bool,
}

/// An HTTP request as policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method, as sent.
    pub method: &'a str,
    /// Path, normalised by [`normalize_path`], without query.
    pub path: &'a str,
    /// Whether `content-type` says gRPC.
    pub grpc: bool,
}

/// The end user of a request. Empty until users are built.
#[derive(Debug)]
pub enum User {}

/// The workload on whose behalf a peer acts. Empty until delegation is built.
#[derive(Debug)]
pub enum OnBehalfOf {}

/// A compiled rule, by its place in its [`Policy`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RuleId(u32);

impl RuleId {
    /// Its place, from 0: stable within one [`Policy`].
    pub fn index(self) -> u32 {
        self.0
    }
}

/// What [`authorize`] decided. Copying it costs nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// A rule admits it.
    Allow(RuleId),
    /// The port is in `audit`: admitted, to be counted and logged, though policy would deny it.
    Audit(DenyReason),
    /// Nothing admits it.
    Deny(DenyReason),
}

/// Why something is denied: the same word in log, metric and documentation.
///
/// In the order in which a rule is judged: the reason of a denial is the furthest that any rule of the door came.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DenyReason {
    /// The workload, its port or that number of it is not in the policy.
    UnknownDoor,
    /// No rule of the door names this peer.
    NoRule,
    /// A rule names the peer, which has no attestation result.
    Unattested,
    /// A rule names the peer, whose attestation result is of a class that the rule does not accept.
    Class,
    /// The peer's evidence is older than `attested_within`.
    EvidenceTooOld,
    /// The peer's claims don't satisfy `require`.
    Claims,
    /// No rule for this peer allows this request.
    Request,
    /// The rule is strict, and the peer has not proven its key over this connection.
    BindingNotProven,
    /// The sidecar has heard nothing from the control plane for too long, whatever rules say.
    Stale,
    /// The peer's instance has been silent for too long, whatever rules say.
    Lapsed,
    /// A revocation means the peer, or its evidence turned bad, whatever rules say.
    Revoked,
}

impl DenyReason {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::UnknownDoor,
        Self::NoRule,
        Self::Unattested,
        Self::Class,
        Self::EvidenceTooOld,
        Self::Claims,
        Self::Request,
        Self::BindingNotProven,
        Self::Stale,
        Self::Lapsed,
        Self::Revoked,
    ];

    /// The bounded word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownDoor => "unknown_door",
            Self::NoRule => "no_rule",
            Self::Unattested => "unattested",
            Self::Class => "class",
            Self::EvidenceTooOld => "evidence_too_old",
            Self::Claims => "claims",
            Self::Request => "request",
            Self::BindingNotProven => "binding_not_proven",
            Self::Stale => "stale",
            Self::Lapsed => "lapsed",
            Self::Revoked => "revoked",
        }
    }
}

/// What is spoken behind a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// Bytes.
    Tcp,
    /// HTTP/1.1, HTTP/2, gRPC.
    Http,
}

/// How a port treats what policy denies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Enforcement {
    /// Refuses it.
    Enforce,
    /// Admits, counts and logs it.
    Audit,
}

/// Which kind of connection carries a port's traffic between sidecars.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Lane {
    /// Chosen by the sidecar.
    #[default]
    Auto,
    /// Streams of few warm connections.
    Shared,
    /// One connection per flow.
    Dedicated,
}

/// A declared port of a workload.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: Name,
    /// First and last port number; equal for a single one.
    pub numbers: (u16, u16),
    /// What is spoken.
    pub protocol: Protocol,
    /// How denials are treated.
    pub enforcement: Enforcement,
    /// Which lane carries it.
    pub lane: Lane,
    /// Paths that the health listener answers.
    pub probes: Vec<String>,
}

impl Port {
    /// Whether a number is one of its numbers.
    pub fn has_number(&self, number: u16) -> bool {
        let (first, last) = self.numbers;
        (first..=last).contains(&number)
    }

    /// Whether all numbers of another port are among its numbers.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.has_number(other.numbers.0) && self.has_number(other.numbers.1)
    }
}

/// Where a rule was written: for logs, `explain` and people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleSource {
    /// `AccessPolicy inference/gateway-to-llm`.
    pub document: String,
    /// File as it was given to the loader.
    pub file: String,
    /// Line of the rule, from 1.
    pub line: u32,
}

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
