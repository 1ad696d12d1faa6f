//! Why something that policy had admitted ended: every reason that a sidecar writes into its access log, with what it means
//! and what to do about it.
//!
//! The words are a sidecar's; a test compares them with its source, because nothing here may depend on it.

use vouchsafe_config::policy::DenyReason;

/// A reason that stands beside `decision: allow` or `audit`, or beside `none`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// Policy took back what it had allowed, by the word of what a new request would be denied for.
    Denied(DenyReason),
    /// The document of its rule is gone.
    RuleRemoved,
    /// Its rule has expired.
    RuleExpired,
    /// The authority of the peer's certificate left the trust bundle.
    AuthorityRemoved,
    /// The earlier end of both certificates.
    Lease,
    /// The sidecar was told to leave.
    Drain,
    /// Nothing passed for too long.
    Idle,
    /// It failed, and policy had no part in it.
    Failed(Failure),
}

/// Why something failed that no policy ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// This sidecar has no certificate.
    NoIdentity,
    /// The listener has no such port.
    UnknownPort,
    /// The port is of another protocol.
    PortProtocol,
    /// The control plane names no instance of the called workload.
    NoEndpoint,
    /// The called workload, or the application, can't be reached.
    Unreachable,
    /// Somebody else answers there.
    WrongPeer,
    /// The application, or the other end, broke off.
    UpstreamClosed,
    /// The application's answer is no HTTP.
    UpstreamMalformed,
    /// Whoever asked went away.
    DownstreamClosed,
    /// Too much at once.
    Limit,
    /// A local caller who may not call.
    Uid,
    /// The other sidecar broke the protocol between the two.
    Protocol,
    /// The sidecar at the other end said no.
    RefusedByPeer,
    /// The request itself is no good.
    Request,
    /// The TLS handshake failed, or a proof over the connection did.
    Handshake,
}

impl Ended {
    /// What a word of the access log means; `None` where this version does not know it.
    pub(super) fn parse(word: &str) -> Option<Self> {
        if let Some(denied) = DenyReason::ALL.into_iter().find(|one| one.as_str() == word) {
            return Some(Self::Denied(denied));
        }
        Some(match word {
            "rule_removed" => Self::RuleRemoved,
            "rule_expired" => Self::RuleExpired,
            "authority_removed" => Self::AuthorityRemoved,
            "lease_ended" => Self::Lease,
            "drain" => Self::Drain,
            "idle" => Self::Idle,
            failed => Self::Failed(Failure::parse(failed)?),
        })
    }

    /// Whether a port in `audit` ends what it had admitted for this: whatever else policy says, it admits.
    pub(super) fn ends_what_is_audited(self) -> bool {
        match self {
            Self::Denied(DenyReason::Stale | DenyReason::Lapsed | DenyReason::Revoked)
            | Self::RuleRemoved
            | Self::RuleExpired
            | Self::AuthorityRemoved
            | Self::Lease
            | Self::Drain
            | Self::Idle
            | Self::Failed(_) => true,
            Self::Denied(
                DenyReason::UnknownDoor
                | DenyReason::NoRule
                | DenyReason::Unattested
                | DenyReason::Class
                | DenyReason::EvidenceTooOld
                | DenyReason::Claims
                | DenyReason::Request
                | DenyReason::BindingNotProven,
            ) => false,
        }
    }

    /// What happened, and what to do.
    pub(super) fn explain(self) -> (&'static str, &'static str) {
        match self {
            Self::Denied(DenyReason::UnknownDoor) => (
                "the workload or its port is no longer in the policy",
                "declare the port in its `Workload` again, or leave it: `vouchsafe log tail` shows the change of policy",
            ),
            Self::Denied(DenyReason::NoRule) => (
                "the policy changed, and no rule of the door names this peer any more",
                "`vouchsafe who-can DOOR` shows who may come now, `vouchsafe rollback --list` the policies before",
            ),
            Self::Denied(DenyReason::Unattested) => (
                "the policy changed and demands an attestation result now, which this peer has not",
                "have the peer attested by a `Workload` and its profile, or say `danger_unattested` in the rule",
            ),
            Self::Denied(DenyReason::Class) => (
                "the rule demands another class of evidence than the peer's now",
                "compare `classes` of the rule with the class of the peer above",
            ),
            Self::Denied(DenyReason::EvidenceTooOld) => (
                "the peer's evidence passed the rule's `attested_within` before it had proven itself afresh",
                "look why it did not renew: `vouchsafe workload explain NAMESPACE/NAME`, `vouchsafe status`",
            ),
            Self::Denied(DenyReason::Claims) => (
                "the peer's claims do not satisfy the rule's `require` now: the rule changed, or newer evidence shows others",
                "`vouchsafe workload explain NAMESPACE/NAME` shows what it proved",
            ),
            Self::Denied(DenyReason::Request) => (
                "the policy changed, and no rule for this peer allows this request any more",
                "`vouchsafe who-can DOOR` shows what each client may ask for now",
            ),
            Self::Denied(DenyReason::BindingNotProven) => (
                "the rule asks for `binding: exporter`, and the peer did not prove its key over this connection in time",
                "look at the peer's sidecar (`vouchsafe_binding_proofs_total`): peers without our sidecar can't use such a rule",
            ),
            Self::Denied(DenyReason::Stale) => (
                "this sidecar had not followed the control plane for longer than `stale_after`, so it ended everything",
                "look at the way to the control plane: `vouchsafe status` says since when, and why, it is behind",
            ),
            Self::Denied(DenyReason::Lapsed) => (
                "the peer's instance was silent when fresh evidence was due",
                "`vouchsafe workload explain NAMESPACE/NAME`: fresh evidence restores it",
            ),
            Self::Denied(DenyReason::Revoked) => (
                "a revocation means the peer, or its evidence turned bad",
                "`vouchsafe revoke list` has revocations, `vouchsafe workload explain NAMESPACE/NAME` what the control plane found",
            ),
            Self::RuleRemoved => (
                "the document of the rule that admitted it is gone, and no other rule admits it",
                "`vouchsafe log tail` shows who changed the policy, `vouchsafe rollback` brings the one before back",
            ),
            Self::RuleExpired => (
                "the `expires` of the rule that admitted it was over, and no other rule admits it",
                "write a rule without `expires`, or a new one to break glass with a reason",
            ),
            Self::AuthorityRemoved => (
                "the authority that signed the peer's certificate left the trust bundle",
                "`vouchsafe authority list` shows which ones are believed; the peer comes back with a certificate of one of them",
            ),
            Self::Lease => (
                "the earlier end of both certificates was reached, and no renewed one was proven over the connection",
                "nothing, where the peer is not our sidecar; else look why one of both did not renew: `vouchsafe status`",
            ),
            Self::Drain => (
                "this sidecar was told to leave, and the time to finish was over",
                "nothing, or give `drain` in proxy.yaml more time",
            ),
            Self::Idle => (
                "nothing passed for as long as `limits.idle`",
                "nothing, or raise `limits.idle` in proxy.yaml",
            ),
            Self::Failed(failure) => failure.explain(),
        }
    }

    /// Whether the sidecar ended it; else it failed by itself.
    pub(super) fn is_cut(self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

impl Failure {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "no_identity" => Self::NoIdentity,
            "unknown_port" => Self::UnknownPort,
            "port_protocol" => Self::PortProtocol,
            "no_endpoint" => Self::NoEndpoint,
            "unreachable" | "connect_timeout" => Self::Unreachable,
            "wrong_peer" => Self::WrongPeer,
            "upstream_closed" => Self::UpstreamClosed,
            "upstream_malformed" => Self::UpstreamMalformed,
            "downstream_closed" => Self::DownstreamClosed,
            "connection_limit" | "handshake_limit" => Self::Limit,
            "uid_not_allowed" => Self::Uid,
            "preamble" | "control_stream" | "unknown_connection" | "http2" => Self::Protocol,
            "refused_by_peer" => Self::RefusedByPeer,
            "grpc_not_served" | "upgrade" => Self::Request,
            http if http.starts_with("http_") => Self::Request,
            "handshake_timeout"
            | "handshake_io"
            | "plaintext"
            | "other_instance"
            | "no_certificate"
            | "chain_too_long"
            | "foreign_trust_domain"
            | "untrusted_authority"
            | "no_attestation_result"
            | "attestation_result_not_vouched_for"
            | "wrong_role" => Self::Handshake,
            word if ["tls_", "certificate_", "proof_"]
                .iter()
                .any(|set| word.starts_with(set)) =>
            {
                Self::Handshake
            }
            _ => return None,
        })
    }

    fn explain(self) -> (&'static str, &'static str) {
        match self {
            Self::NoIdentity => (
                "the sidecar had no certificate, so it could not speak for its workload",
                "`vouchsafe workload explain NAMESPACE/NAME` says why it got none",
            ),
            Self::UnknownPort => (
                "the listener has no such port, or several and the peer named none",
                "compare `inbound` and `outbound` of proxy.yaml with the ports of the `Workload`",
            ),
            Self::PortProtocol => (
                "it was of another protocol than the port",
                "compare `protocol` of the port with what the application speaks",
            ),
            Self::NoEndpoint => (
                "no instance of the called workload is known and trusted",
                "`vouchsafe status` shows which instances there are, and where they listen",
            ),
            Self::Unreachable => (
                "no TCP connection could be opened",
                "look at the application, its address in proxy.yaml, and the network between",
            ),
            Self::WrongPeer => (
                "another workload than the called one answered there",
                "look who listens at that address: `vouchsafe status` shows where each instance does",
            ),
            Self::UpstreamClosed => (
                "the application, or the other end, closed before it had answered",
                "look at its own log",
            ),
            Self::UpstreamMalformed => (
                "the application's answer is no HTTP, or can be read in two ways",
                "look at the application, or make its port `tcp`",
            ),
            Self::DownstreamClosed => ("whoever asked went away before the end", "nothing"),
            Self::Limit => (
                "too many connections or handshakes were open",
                "look who opens them; `limits` in proxy.yaml has the bounds",
            ),
            Self::Uid => (
                "a local caller is not among the listener's `allow_uids`",
                "add its user there, if it may call",
            ),
            Self::Protocol => (
                "the other sidecar broke the protocol between the two",
                "compare the versions of both: `vouchsafe status -o json`",
            ),
            Self::RefusedByPeer => (
                "the sidecar at the other end refused it",
                "its access log says why, at the same time",
            ),
            Self::Request => (
                "the request itself is one that no sidecar passes on",
                "look at the client: the word says what is wrong with its request",
            ),
            Self::Handshake => (
                "the TLS handshake, or a proof over the connection, failed",
                "the word says what was wrong; the other end's log has the same moment",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Words that a sidecar's source makes a reason of.
    fn words_of_the_sidecar() -> BTreeSet<String> {
        let mut words = BTreeSet::new();
        let proxy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/src");
        for (file, marks) in [
            ("reason.rs", &["Reason(\""][..]),
            ("tls/acceptor.rs", &["Reason::new(\"", "=> \""]),
            ("http1/head.rs", &["=> \"http_"]),
        ] {
            let text = std::fs::read_to_string(proxy.join(file)).unwrap();
            let (text, _tests) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
            for mark in marks {
                let begin = mark.rsplit('"').next().unwrap();
                for rest in text.split(mark).skip(1) {
                    let word = rest.split('"').next().unwrap();
                    words.insert(format!("{begin}{word}"));
                }
            }
        }
        words
    }

    #[test]
    fn every_word_of_a_sidecar_is_known() {
        let words = words_of_the_sidecar();
        assert!(words.len() > 40, "{words:?}");
        // No stream ends by these: they are counted for connections between sidecars.
        let others = ["extended", "proven"];
        for word in words.iter().filter(|word| !others.contains(&word.as_str())) {
            assert!(Ended::parse(word).is_some(), "{word}");
        }
    }

    #[test]
    fn every_reason_says_what_happened_and_what_to_do() {
        let denied = DenyReason::ALL.into_iter();
        let denied = denied.map(|one| one.as_str().to_owned());
        let all = words_of_the_sidecar().into_iter().chain(denied);
        for ended in all.filter_map(|word| Ended::parse(&word)) {
            let (what, remedy) = ended.explain();
            assert!(what.len() > 20 && !remedy.is_empty(), "{ended:?}");
            for text in [what, remedy] {
                assert!(!text.ends_with('.') && !text.contains("  "), "{text}");
            }
        }
        assert_eq!(Ended::parse("unheard_of"), None);
    }
}
