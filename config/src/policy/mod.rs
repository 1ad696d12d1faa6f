//! Compiled policy and the one function that decides.

use std::time::SystemTime;

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::peer::Peer;

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
    /// Name of the door's port.
    pub port: &'a Name,
    /// The request; `None` asks about the connection alone.
    pub request: Option<&'a Request<'a>>,
    /// The end user. Not built yet.
    pub user: Option<&'a User>,
    /// On whose behalf the peer acts. Not built yet.
    pub on_behalf_of: Option<&'a OnBehalfOf>,
    /// Mesh time.
    pub now: SystemTime,
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
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DenyReason {
    /// The workload or port is not in the policy.
    UnknownDoor,
    /// No rule of the door names this peer.
    NoRule,
    /// A rule names the peer, which has no attestation result.
    Unattested,
    /// The peer's evidence is older than `attested_within`.
    EvidenceTooOld,
    /// The peer's claims don't satisfy `require`.
    Claims,
    /// No rule for this peer allows this request.
    Request,
}

impl DenyReason {
    /// The bounded word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownDoor => "unknown_door",
            Self::NoRule => "no_rule",
            Self::Unattested => "unattested",
            Self::EvidenceTooOld => "evidence_too_old",
            Self::Claims => "claims",
            Self::Request => "request",
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

/// A compiled policy: immutable, shared, replaced as a whole.
#[derive(Debug, Default)]
pub struct Policy {}

impl Policy {
    /// The declaration of a workload's port.
    pub fn port(&self, _workload: &WorkloadName, _port: &Name) -> Option<&Port> {
        None
    }

    /// Where a rule was written.
    pub fn source(&self, _rule: RuleId) -> Option<&RuleSource> {
        None
    }
}

/// Decides. Pure; does not allocate; costs what the rules of one door cost.
pub fn authorize(_policy: &Policy, _context: &Context<'_>) -> Decision {
    Decision::Deny(DenyReason::UnknownDoor)
}

/// Why a path can't be judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// Not starting with a slash.
    #[error("a path starts with `/`")]
    NotAbsolute,
    /// `%2f`, `%5c`, `%00`, a backslash, a control character or a broken escape.
    #[error("the path has an encoded slash, a backslash, a control character or a broken escape")]
    Encoding,
    /// `.` or `..`, plain or encoded, or an empty segment.
    #[error("the path has a dot segment or an empty segment")]
    Segment,
}

/// The one normalisation by which paths are judged; borrows when nothing changes.
///
/// # Errors
/// [`PathError`]: what could be read in two ways is refused, not mended.
pub fn normalize_path(path: &str) -> Result<std::borrow::Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    Ok(path.into())
}
