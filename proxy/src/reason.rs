//! The bounded words that say why something was refused or ended: the same in log, metric, header and documentation.

use std::rc::Rc;

use vouchsafe_attestation::connection_proof::ProofError;
use vouchsafe_attestation::peer::VerifyPeerError;
use vouchsafe_config::policy::DenyReason;
use vouchsafe_config::revocation::Revocation;

/// A word from a closed set. Only this module and the closed sets that it converts from can make one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Reason(&'static str);

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    pub(crate) const fn new(word: &'static str) -> Self {
        Self(word)
    }
}

impl From<DenyReason> for Reason {
    fn from(reason: DenyReason) -> Self {
        Self(reason.as_str())
    }
}

impl From<&VerifyPeerError> for Reason {
    fn from(error: &VerifyPeerError) -> Self {
        Self(error.reason())
    }
}

impl From<&ProofError> for Reason {
    fn from(error: &ProofError) -> Self {
        Self(error.reason())
    }
}

/// Why something live ends: the word, and the document that decided it where one did.
#[derive(Clone, Debug)]
pub(crate) struct Why {
    pub(crate) reason: Reason,
    /// `Revocation platform/amd-sb-1234:3`.
    pub(crate) document: Option<Rc<str>>,
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            document: None,
        }
    }
}

impl Why {
    /// A revocation.
    pub(crate) fn revoked(revocation: &Revocation) -> Self {
        let source = &revocation.source;
        Self {
            reason: revocation.deny_reason().into(),
            document: Some(format!("{}:{}", source.document, source.line).into()),
        }
    }
}

/// The sidecar has no identity yet, or its last one has ended: everything is denied.
pub(crate) const NO_IDENTITY: Reason = Reason("no_identity");
/// The listener has no such port, or several and the peer said none.
pub(crate) const UNKNOWN_PORT: Reason = Reason("unknown_port");
/// The flow is of another protocol than the port.
pub(crate) const PORT_PROTOCOL: Reason = Reason("port_protocol");
/// Nobody has said where the workload is reached.
pub(crate) const NO_ENDPOINT: Reason = Reason("no_endpoint");
/// The TCP connection could not be opened.
pub(crate) const UNREACHABLE: Reason = Reason("unreachable");
/// The TCP connection was not opened in time.
pub(crate) const CONNECT_TIMEOUT: Reason = Reason("connect_timeout");
/// The server is a verified peer, but not the workload that was called.
pub(crate) const WRONG_PEER: Reason = Reason("wrong_peer");
/// The upstream closed before it had answered.
pub(crate) const UPSTREAM_CLOSED: Reason = Reason("upstream_closed");
/// The upstream's answer is not HTTP, or ambiguous.
pub(crate) const UPSTREAM_MALFORMED: Reason = Reason("upstream_malformed");
/// The downstream went away before it had its answer.
pub(crate) const DOWNSTREAM_CLOSED: Reason = Reason("downstream_closed");
/// The earlier end of both ends' certificates was reached.
pub(crate) const LEASE_ENDED: Reason = Reason("lease_ended");
/// The document of the rule that admitted a live stream is gone, and no other rule admits it.
pub(crate) const RULE_REMOVED: Reason = Reason("rule_removed");
/// The rule that admitted a live stream has expired, and no other admits it.
pub(crate) const RULE_EXPIRED: Reason = Reason("rule_expired");
/// The authority that vouches for the peer has left the trust bundle, or changed its meaning there.
pub(crate) const AUTHORITY_REMOVED: Reason = Reason("authority_removed");
/// The sidecar is leaving and its deadline has passed.
pub(crate) const DRAIN: Reason = Reason("drain");
/// Nothing passed for as long as `limits.idle`.
pub(crate) const IDLE: Reason = Reason("idle");
/// Too many connections are open.
pub(crate) const CONNECTION_LIMIT: Reason = Reason("connection_limit");
/// A Unix socket's client is not among `allow_uids`.
pub(crate) const UID: Reason = Reason("uid_not_allowed");
/// The preamble is broken or late.
pub(crate) const PREAMBLE: Reason = Reason("preamble");
/// The control stream broke, or the other end broke its order.
pub(crate) const CONTROL_STREAM: Reason = Reason("control_stream");
/// A lease was extended: the one outcome that is none to worry about.
pub(crate) const EXTENDED: Reason = Reason("extended");
/// A key was proven over a connection, for a strict route.
pub(crate) const PROVEN: Reason = Reason("proven");
/// A control stream speaks of a connection that this sidecar does not have, or not with that peer.
pub(crate) const UNKNOWN_CONNECTION: Reason = Reason("unknown_connection");
/// The other side of the lane refused the flow.
pub(crate) const REFUSED_BY_PEER: Reason = Reason("refused_by_peer");
/// A request's head was not complete within `limits.handshake`.
pub(crate) const HEAD_TIMEOUT: Reason = Reason("http_head_timeout");
/// A path that can be read in two ways.
pub(crate) const PATH: Reason = Reason("http_path");
/// A request's body is not what its head promised.
pub(crate) const BODY: Reason = Reason("http_body");
/// gRPC for an application that speaks HTTP/1.1 alone.
pub(crate) const GRPC_NOT_SERVED: Reason = Reason("grpc_not_served");
/// An upgrade where the way to the application can't carry one.
pub(crate) const UPGRADE: Reason = Reason("upgrade");
/// A peer that sends more control frames than the connection calls for, or breaks HTTP/2.
pub(crate) const HTTP2: Reason = Reason("http2");
