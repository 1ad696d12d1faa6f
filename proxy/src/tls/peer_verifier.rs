//! rustls asks here whether a peer's chain is good; the answer is `attestation::peer::verify_peer`'s, and nothing else's.
//!
//! # Why the outcome is captured
//! rustls keeps the chain but not what a verifier learnt from it, and verifying twice would cost a tenth of a handshake.
//! Verification happens inside one poll of the handshake, on one thread. So the verifier leaves its outcome in a cell of
//! the thread, and [`Captured`] takes it out at the end of that very poll: what it finds is of its own handshake. The
//! alternative, a configuration per connection, costs allocations for each.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use vouchsafe_attestation::peer::{Peer, PeerRole, VerifyPeerError, verify_peer};
use vouchsafe_attestation::svid::sha256;

use crate::clock::MeshClock;
use crate::state::IdentityEpoch;
use crate::telemetry::access_log::line;
use crate::tls::provider;

/// A peer whose chain was verified in a handshake, and whose possession of the key that handshake proved.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) peer: Peer,
    /// SHA-256 of the leaf's DER, as `x-forwarded-client-cert` shows it.
    pub(crate) leaf_sha256: [u8; 32],
    /// What the access log says of it.
    pub(crate) logged: Box<[u8]>,
}

impl Verified {
    pub(crate) fn new(peer: Peer, leaf_sha256: [u8; 32]) -> Self {
        let logged = line::peer_fields(&peer, class(&peer));
        Self {
            peer,
            leaf_sha256,
            logged,
        }
    }

    /// The class of the peer's attestation result, or `unattested`.
    pub(crate) fn class(&self) -> &'static str {
        class(&self.peer)
    }
}

fn class(peer: &Peer) -> &'static str {
    peer.result()
        .map_or("unattested", |result| result.class.as_str())
}

/// Verifies peers of one role against the bundle of one epoch.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    identity: Arc<IdentityEpoch>,
    clock: Arc<MeshClock>,
    role: PeerRole,
    /// Peers that were verified lately, newest first.
    known: Mutex<VecDeque<Known>>,
}

/// A verification that need not be made again: a signature costs a tenth of a handshake, and the same few peers connect
/// again and again.
///
/// What it says follows from the certificate's bytes, the bundle and the role, which are the same, and from the time, of
/// which everything is asked again. That the peer holds the key is proven in each handshake.
#[derive(Debug)]
struct Known {
    verified: Arc<Verified>,
    since: SystemTime,
}

impl PeerVerifier {
    pub(crate) fn new(
        identity: &Arc<IdentityEpoch>,
        clock: &Arc<MeshClock>,
        role: PeerRole,
    ) -> Self {
        Self {
            identity: Arc::clone(identity),
            clock: Arc::clone(clock),
            role,
            known: Mutex::default(),
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let outcome = self.outcome(leaf, intermediates, self.clock.now());
        let verified = outcome.is_ok();
        OUTCOME.with(|slot| *slot.borrow_mut() = Some(outcome));
        if verified {
            Ok(())
        } else {
            // The peer is told no more than that: the reason is ours to log.
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }
}

impl PeerVerifier {
    fn outcome(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Outcome {
        let leaf_sha256 = sha256(leaf);
        // Bundles carry issuing authorities, so the leaf needs no other certificate, and its own end and its authority's
        // say all of the time. Of a longer path the result doesn't say until when all of it is valid.
        if intermediates.len() <= USUAL_INTERMEDIATES {
            if let Some(known) = self.known(&leaf_sha256, now) {
                return Ok(known);
            }
            let leaf = std::slice::from_ref(leaf);
            match verify_peer(leaf, &self.identity.bundle, self.role, now) {
                Ok(peer) => {
                    let verified = Arc::new(Verified::new(peer, leaf_sha256));
                    self.remember(&verified, now);
                    return Ok(verified);
                }
                Err(error) if intermediates.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf)
            .chain(intermediates)
            .map(|certificate| CertificateDer::from(certificate.as_ref()))
            .collect();
        let peer = verify_peer(&chain, &self.identity.bundle, self.role, now)?;
        Ok(Arc::new(Verified::new(peer, leaf_sha256)))
    }

    /// A peer that was verified by the same leaf, if leaf and authority are valid now.
    fn known(&self, leaf_sha256: &[u8; 32], now: SystemTime) -> Option<Arc<Verified>> {
        // Configurations are a worker's own, so nobody ever waits here; a broken lock only costs a verification.
        let known = self.known.lock().ok()?;
        let found = known
            .iter()
            .find(|known| known.verified.leaf_sha256 == *leaf_sha256)?;
        let peer = &found.verified.peer;
        let (authority, trust_domain) = (peer.authority_spki_sha256(), peer.id().trust_domain());
        let vouched = (self.identity.bundle).vouches(authority, trust_domain, now);
        (found.since <= now && now < peer.not_after() && vouched)
            .then(|| Arc::clone(&found.verified))
    }

    fn remember(&self, verified: &Arc<Verified>, now: SystemTime) {
        let Ok(mut known) = self.known.lock() else {
            return;
        };
        known.retain(|known| known.verified.leaf_sha256 != verified.leaf_sha256);
        known.push_front(Known {
            verified: Arc::clone(verified),
            since: now,
        });
        known.truncate(MAX_KNOWN);
    }
}

/// Our control plane sends the leaf and who issued it.
const USUAL_INTERMEDIATES: usize = 1;
/// Peers of one epoch and role whose verification is kept: more than most workloads have callers.
const MAX_KNOWN: usize = 64;

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Which authorities we believe is nothing to tell to strangers.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(self)
    }
}

/// A handshake together with what the verifier concluded in it.
#[derive(Debug)]
pub(crate) struct Captured<F> {
    handshake: F,
    outcome: Option<Outcome>,
}

type Outcome = Result<Arc<Verified>, VerifyPeerError>;

impl<F: Future + Unpin> Captured<F> {
    pub(crate) fn new(handshake: F) -> Self {
        Self {
            handshake,
            outcome: None,
        }
    }
}

impl<F: Future + Unpin> Future for Captured<F> {
    type Output = (F::Output, Option<Outcome>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Nothing may be left of another handshake: each takes its own out below, in the poll that made it.
        OUTCOME.with(|slot| slot.borrow_mut().take());
        let polled = Pin::new(&mut self.handshake).poll(cx);
        if let Some(outcome) = OUTCOME.with(|slot| slot.borrow_mut().take()) {
            self.outcome = Some(outcome);
        }
        polled.map(|output| (output, self.outcome.take()))
    }
}

thread_local! {
    static OUTCOME: RefCell<Option<Outcome>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests;
