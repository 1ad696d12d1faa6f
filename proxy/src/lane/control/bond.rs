//! One connection, as its two ends know it: by name, and by what each has proven over it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::CertificateDer;
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::connection_proof::{
    ConnectionBinding, ConnectionId, ConnectionProof, ConnectionTranscript, ExpectedProof,
    ProofError, ProofPurpose, Successor, is_same_instance, verify_proof,
};
use vouchsafe_attestation::peer::{Peer, PeerRole};
use vouchsafe_attestation::svid::sha256;

use crate::tls::peer_verifier::Verified;

/// A certificate of our own, with what signs for it.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the leaf's DER.
    pub(crate) leaf_sha256: [u8; 32],
    /// End of the leaf.
    pub(crate) not_after: SystemTime,
    /// Signs with the leaf's key.
    pub(crate) key: Arc<dyn SigningKey>,
}

impl OwnCertificate {
    fn sign(&self, message: &[u8]) -> Option<(u16, Vec<u8>)> {
        let signer = self.key.choose_scheme(SCHEMES)?;
        let signature = signer.sign(message).ok()?;
        Some((signer.scheme().into(), signature))
    }
}

/// A connection with a peer that has our sidecar. Shared with the workers that speak of it.
#[derive(Debug)]
pub(crate) struct Bond {
    pub(crate) id: ConnectionId,
    connection: ConnectionBinding,
    /// Which end the peer is.
    peer_role: PeerRole,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// The peer by the certificate that it proved last.
    peer: Arc<Verified>,
    /// Leaf that the peer proved before that.
    peer_before: Option<[u8; 32]>,
    /// Our own certificate that the peer accepted last.
    own: Arc<OwnCertificate>,
    /// Counter of the peer's last good proof of a successor.
    seen_successor: u64,
    /// Counter of the peer's last good proof for strict routes, which come by other streams.
    seen_strict: u64,
    /// Counter of our last proof.
    sent: u64,
}

impl Bond {
    /// What a handshake has bound: each end by the certificate that it showed.
    pub(crate) fn new(
        exporter: [u8; 32],
        peer_role: PeerRole,
        peer: Arc<Verified>,
        own: Arc<OwnCertificate>,
    ) -> Self {
        let (client_leaf_sha256, server_leaf_sha256) = match peer_role {
            PeerRole::Client => (peer.leaf_sha256, own.leaf_sha256),
            PeerRole::Server => (own.leaf_sha256, peer.leaf_sha256),
        };
        let connection = ConnectionBinding {
            exporter,
            client_leaf_sha256,
            server_leaf_sha256,
        };
        Self {
            id: connection.id(),
            connection,
            peer_role,
            held: Mutex::new(Held {
                peer,
                peer_before: None,
                own,
                seen_successor: 0,
                seen_strict: 0,
                sent: 0,
            }),
        }
    }

    /// The peer, by the certificate that it proved last.
    pub(crate) fn peer(&self) -> Arc<Verified> {
        Arc::clone(&self.held().peer)
    }

    /// SHA-256 of our own leaf that the peer accepted last.
    pub(crate) fn own_leaf(&self) -> [u8; 32] {
        self.held().own.leaf_sha256
    }

    /// Proves a certificate that succeeds ours on this connection.
    pub(crate) fn prove_successor(
        &self,
        successor: &OwnCertificate,
        nonce: Nonce,
    ) -> Option<ConnectionProof> {
        self.prove(successor, ProofPurpose::Extend, nonce)
    }

    /// Proves the certificate that the peer knows of us.
    pub(crate) fn prove_present(
        &self,
        purpose: ProofPurpose,
        nonce: Nonce,
    ) -> Option<(CertificateDer<'static>, ConnectionProof)> {
        let own = Arc::clone(&self.held().own);
        let leaf = own.chain.first()?.clone();
        Some((leaf, self.prove(&own, purpose, nonce)?))
    }

    /// Verifies that the peer proved the key of the certificate that we know of it.
    ///
    /// # Errors
    /// [`ProofError`].
    pub(crate) fn verify_present(
        &self,
        purpose: ProofPurpose,
        nonce: Nonce,
        leaf: &CertificateDer<'_>,
        proof: &ConnectionProof,
    ) -> Result<(), ProofError> {
        let mut held = self.held();
        if sha256(leaf) != held.peer.leaf_sha256 {
            return Err(ProofError::OtherInstance);
        }
        verify_proof(&self.expected(purpose, nonce, &held), leaf, proof)?;
        held.seen_strict = proof.counter;
        Ok(())
    }

    /// Whether that is the leaf that the peer's present one succeeded.
    pub(crate) fn is_replaced(&self, leaf: &CertificateDer<'_>) -> bool {
        self.held().peer_before == Some(sha256(leaf))
    }

    fn prove(
        &self,
        own: &OwnCertificate,
        purpose: ProofPurpose,
        nonce: Nonce,
    ) -> Option<ConnectionProof> {
        let counter = {
            let mut held = self.held();
            held.sent = held.sent.checked_add(1)?;
            held.sent
        };
        let transcript = ConnectionTranscript {
            purpose,
            prover: match self.peer_role {
                PeerRole::Client => PeerRole::Server,
                PeerRole::Server => PeerRole::Client,
            },
            connection: &self.connection,
            leaf_sha256: own.leaf_sha256,
            nonce,
            counter,
        };
        let (scheme, signature) = own.sign(&transcript.message())?;
        Some(ConnectionProof {
            scheme,
            counter,
            signature,
        })
    }

    /// Verifies that the peer's successor was proven over this connection, and yields the peer that it now is. Nothing
    /// changes before [`Bond::peer_succeeded`].
    ///
    /// # Errors
    /// [`ProofError`].
    pub(crate) fn verify_successor(
        &self,
        successor: &Successor,
        nonce: Nonce,
        proof: &ConnectionProof,
    ) -> Result<Arc<Verified>, ProofError> {
        let mut held = self.held();
        let peer = successor.proven(&self.expected(ProofPurpose::Extend, nonce, &held), proof)?;
        if !is_same_instance(&held.peer.peer, peer) {
            return Err(ProofError::OtherInstance);
        }
        held.seen_successor = proof.counter;
        Ok(Arc::new(Verified::new(
            peer.clone(),
            successor.leaf_sha256(),
        )))
    }

    fn expected(&self, purpose: ProofPurpose, nonce: Nonce, held: &Held) -> ExpectedProof<'_> {
        ExpectedProof {
            purpose,
            prover: self.peer_role,
            connection: &self.connection,
            nonce,
            after: match purpose {
                ProofPurpose::Extend => held.seen_successor,
                ProofPurpose::StrictInitial | ProofPurpose::StrictRepeat => held.seen_strict,
            },
        }
    }

    /// Takes in that the peer proved its successor; returns the earlier end of both ends.
    pub(crate) fn peer_succeeded(&self, peer: Arc<Verified>) -> SystemTime {
        let mut held = self.held();
        held.peer_before = Some(held.peer.leaf_sha256);
        held.peer = peer;
        held.lease_end()
    }

    /// Takes in that the peer accepted our successor; returns the earlier end of both ends.
    pub(crate) fn own_succeeded(&self, own: Arc<OwnCertificate>) -> SystemTime {
        let mut held = self.held();
        held.own = own;
        held.lease_end()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is a plain assignment, so a panic elsewhere leaves nothing half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn lease_end(&self) -> SystemTime {
        self.peer.peer.not_after().min(self.own.not_after)
    }
}

/// Whether two certificates are of one peer: of the same instance, or, where no instance is proven, of the same name.
pub(crate) fn is_same_peer(one: &Peer, other: &Peer) -> bool {
    match (one.result(), other.result()) {
        (None, None) => one.id() == other.id(),
        _ => is_same_instance(one, other),
    }
}

/// What proofs are signed with: schemes of TLS 1.3 for each kind of key.
const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];
