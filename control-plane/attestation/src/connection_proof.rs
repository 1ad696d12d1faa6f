//! Proof that one end of a live TLS connection holds a key now: over that connection, for one purpose, once.
//!
//! A handshake proves possession of a key when a connection begins. Two things need it again later: a lease is extended
//! when the same instance proves its successor certificate for that very connection (promise 4), and a strict route
//! (`binding: exporter`) asks both ends before the first byte and at an interval. Each end builds the
//! [`ConnectionTranscript`] from its *own* view of the connection, never from what the other sent.
//!
//! # What each field stops
//! | Field | Stops |
//! |---|---|
//! | label per [`ProofPurpose`] | a proof for one purpose used for another, or a signature of TLS itself (which begins with 64 spaces, RFC 8446 §4.4.3) |
//! | role of the prover | reflection: my own proof sent back to me |
//! | TLS exporter | relay: a proof made for another session, whoever sits between |
//! | both leaves of the connection | a session between others than those two |
//! | leaf of the key that signs | a proof by another certificate of the same key |
//! | nonce of the verifier | replay, and proofs made in store |
//! | counter | order: of two proofs the later counts |
//!
//! # Why
//! The signing key is that of the certificate, so these proofs say nothing against whoever stole that key: theft is
//! bounded by the lease, by pinned hardware and by revocation. They do say that the key is held at the end of *this*
//! session, *now*: whoever got sessions, or signatures of handshakes, without the key is out.
//!
//! Source: RFC 8446 §7.5 (exporters), RFC 9266 §2 (why an exporter binds to a session), DESIGN §2 (promise 4), §7.

use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use webpki::EndEntityCert;

use crate::binding::{Nonce, framed};
use crate::peer::{Peer, PeerRole, VerifyPeerError, verify_peer};
use crate::svid::sha256;
use crate::trust_bundle::TrustBundle;

/// TLS exporter label of a connection between sidecars (RFC 8446 §7.5). The context is empty; taken once, after the
/// handshake.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-vouchsafe-connection-v1";

/// What a proof is for. A proof of one purpose never satisfies another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProofPurpose {
    /// A successor certificate takes over the lease of a connection.
    Extend,
    /// A strict route, before the first byte.
    StrictInitial,
    /// A strict route, again.
    StrictRepeat,
}

impl ProofPurpose {
    /// All purposes.
    pub const ALL: [Self; 3] = [Self::Extend, Self::StrictInitial, Self::StrictRepeat];

    /// Versioned, NUL-terminated, so that no label is a prefix of another.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Extend => b"vouchsafe/v1/connection/extend\0",
            Self::StrictInitial => b"vouchsafe/v1/connection/strict-initial\0",
            Self::StrictRepeat => b"vouchsafe/v1/connection/strict-repeat\0",
        }
    }
}

/// Names a connection to both of its ends. Follows from the exporter, so nobody else can guess it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(pub [u8; 16]);

/// What both ends know of one TLS connection, each from its own side.
#[derive(Clone, Eq, PartialEq)]
pub struct ConnectionBinding {
    /// TLS exporter under [`EXPORTER_LABEL`].
    pub exporter: [u8; 32],
    /// SHA-256 of the DER of the leaf that the client presented in the handshake.
    pub client_leaf_sha256: [u8; 32],
    /// SHA-256 of the DER of the leaf that the server presented in the handshake.
    pub server_leaf_sha256: [u8; 32],
}

impl std::fmt::Debug for ConnectionBinding {
    /// Without the exporter, which is known to the two ends alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionBinding").finish_non_exhaustive()
    }
}

impl ConnectionBinding {
    /// The connection's name.
    pub fn id(&self) -> ConnectionId {
        let fields = framed(&[
            &self.exporter,
            &self.client_leaf_sha256,
            &self.server_leaf_sha256,
        ]);
        let digest = sha256(&[ID_LABEL, &fields].concat());
        let mut id = [0; 16];
        id.copy_from_slice(digest.split_at(16).0);
        ConnectionId(id)
    }
}

/// Everything that one proof is bound to.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionTranscript<'a> {
    /// What it is for.
    pub purpose: ProofPurpose,
    /// Which end of the connection proves.
    pub prover: PeerRole,
    /// The connection.
    pub connection: &'a ConnectionBinding,
    /// SHA-256 of the DER of the leaf whose key signs: the successor, or the present one.
    pub leaf_sha256: [u8; 32],
    /// The verifier's, made for this proof.
    pub nonce: Nonce,
    /// Grows with each proof of this end over this connection.
    pub counter: u64,
}

impl ConnectionTranscript<'_> {
    /// The bytes to sign: always 32 of digest behind the label of the purpose.
    pub fn message(&self) -> Vec<u8> {
        let role: &[u8] = match self.prover {
            PeerRole::Client => b"client",
            PeerRole::Server => b"server",
        };
        let fields = framed(&[
            role,
            &self.connection.exporter,
            &self.connection.client_leaf_sha256,
            &self.connection.server_leaf_sha256,
            &self.leaf_sha256,
            &self.nonce.0,
            &self.counter.to_be_bytes(),
        ]);
        let label = self.purpose.label();
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(label);
        context.update(&fields);
        [label, context.finish().as_ref()].concat()
    }
}

/// A signature over a [`ConnectionTranscript`], as it travels.
///
/// ```text
/// version u8 (1) | scheme u16be | counter u64be | signature length u16be | signature (1..=512 bytes)
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectionProof {
    /// TLS 1.3 code of the signature scheme (RFC 8446 §4.2.3).
    pub scheme: u16,
    /// The transcript's counter.
    pub counter: u64,
    /// The signature.
    pub signature: Vec<u8>,
}

impl ConnectionProof {
    /// Longest encoding in bytes: the signature of an RSA key of 4,096 bits.
    pub const MAX_BYTES: usize = FIXED_BYTES + MAX_SIGNATURE_BYTES;

    /// The wire form; `None` where the signature is longer than any that [`verify_proof`] takes, or empty.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let length = self.signature.len();
        if length == 0 || length > MAX_SIGNATURE_BYTES {
            return None;
        }
        let mut out = Vec::with_capacity(FIXED_BYTES + length);
        out.push(VERSION);
        out.extend(self.scheme.to_be_bytes());
        out.extend(self.counter.to_be_bytes());
        out.extend(u16::try_from(length).ok()?.to_be_bytes());
        out.extend(&self.signature);
        Some(out)
    }

    /// Reads the wire form: all of the bytes, no more and no less.
    ///
    /// # Errors
    /// [`ProofError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        let (fixed, signature) = bytes
            .split_first_chunk::<FIXED_BYTES>()
            .ok_or(ProofError::Malformed)?;
        let [version, s0, s1, c0, c1, c2, c3, c4, c5, c6, c7, l0, l1] = *fixed;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let is_framed = (1..=MAX_SIGNATURE_BYTES).contains(&length) && length == signature.len();
        if version != VERSION || !is_framed {
            return Err(ProofError::Malformed);
        }
        Ok(Self {
            scheme: u16::from_be_bytes([s0, s1]),
            counter: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            signature: signature.to_vec(),
        })
    }
}

/// What a verifier expects of a proof: its own view of the connection, and the nonce that it made for this proof.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedProof<'a> {
    /// What it is to be for.
    pub purpose: ProofPurpose,
    /// Which end of the connection the peer is.
    pub prover: PeerRole,
    /// The connection.
    pub connection: &'a ConnectionBinding,
    /// The nonce. The caller forgets it with the first proof, whatever the verdict.
    pub nonce: Nonce,
    /// The counter of the last proof of this peer over this connection; a new one has a greater.
    pub after: u64,
}

/// Verifies that the holder of `leaf`'s key proved it as expected.
///
/// Who the leaf is is not said here: [`Successor`] says it for an extension; for a strict route the caller compares with
/// the leaf that it knows.
///
/// # Errors
/// [`ProofError`].
pub fn verify_proof(
    expected: &ExpectedProof<'_>,
    leaf: &CertificateDer<'_>,
    proof: &ConnectionProof,
) -> Result<(), ProofError> {
    if proof.counter <= expected.after {
        return Err(ProofError::Counter);
    }
    let algorithm = algorithm(proof.scheme).ok_or(ProofError::Scheme(proof.scheme))?;
    let message = ConnectionTranscript {
        purpose: expected.purpose,
        prover: expected.prover,
        connection: expected.connection,
        leaf_sha256: sha256(leaf),
        nonce: expected.nonce,
        counter: proof.counter,
    }
    .message();
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| leaf.verify_signature(algorithm, &message, &proof.signature))
        .map_err(|_| ProofError::Signature)
}

/// A verified certificate of the very instance that holds an earlier one.
#[derive(Clone, Debug)]
pub struct Successor {
    peer: Peer,
    leaf: CertificateDer<'static>,
}

impl Successor {
    /// Verifies a chain as a handshake would, and that it is of the same instance as `present`: same SPIFFE ID, same
    /// instance in the attestation result. Who has no result is no instance, and has no successor.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn verify(
        chain: &[CertificateDer<'_>],
        bundle: &TrustBundle,
        role: PeerRole,
        now: std::time::SystemTime,
        present: &Peer,
    ) -> Result<Self, ProofError> {
        let peer = verify_peer(chain, bundle, role, now)?;
        let leaf = chain.first().ok_or(VerifyPeerError::NoCertificate)?;
        if !is_same_instance(present, &peer) {
            return Err(ProofError::OtherInstance);
        }
        Ok(Self {
            peer,
            leaf: leaf.clone().into_owned(),
        })
    }

    /// Verifies that the successor's key was proven over a connection, and yields the peer that it now is.
    ///
    /// # Errors
    /// [`ProofError`]; of another purpose than [`ProofPurpose::Extend`] always.
    pub fn proven(
        &self,
        expected: &ExpectedProof<'_>,
        proof: &ConnectionProof,
    ) -> Result<&Peer, ProofError> {
        if expected.purpose != ProofPurpose::Extend {
            return Err(ProofError::Signature);
        }
        verify_proof(expected, &self.leaf, proof)?;
        Ok(&self.peer)
    }

    /// SHA-256 of the leaf's DER.
    pub fn leaf_sha256(&self) -> [u8; 32] {
        sha256(&self.leaf)
    }
}

/// Whether two certificates are of one running instance.
pub fn is_same_instance(one: &Peer, other: &Peer) -> bool {
    let instance = |peer: &Peer| peer.result().map(|result| result.instance);
    one.id() == other.id() && instance(one).is_some() && instance(one) == instance(other)
}

/// Why a proof over a connection is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// Not the wire form.
    #[error("the proof is malformed")]
    Malformed,
    /// Not a scheme that TLS 1.3 peers sign with.
    #[error("signature scheme {0:#06x} is not one that proofs bear")]
    Scheme(u16),
    /// The counter did not grow.
    #[error("the proof's counter is not above the last one")]
    Counter,
    /// The signature is not by that key over this connection, purpose, role and nonce.
    #[error("the proof is not over this connection and nonce by the key of the certificate")]
    Signature,
    /// The certificate is of another instance or workload, or of none.
    #[error("the certificate is not of the same instance")]
    OtherInstance,
    /// The successor's chain is no good.
    #[error("the successor's certificate was refused")]
    Peer(#[from] VerifyPeerError),
}

impl ProofError {
    /// The bounded word for logs, metrics and documentation.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "proof_malformed",
            Self::Scheme(_) => "proof_scheme",
            Self::Counter => "proof_counter",
            Self::Signature => "proof_signature",
            Self::OtherInstance => "other_instance",
            Self::Peer(error) => error.reason(),
        }
    }
}

/// What TLS 1.3 certificates sign with (RFC 8446 §4.2.3), by code.
fn algorithm(scheme: u16) -> Option<&'static dyn SignatureVerificationAlgorithm> {
    match scheme {
        0x0403 => Some(webpki::aws_lc_rs::ECDSA_P256_SHA256),
        0x0503 => Some(webpki::aws_lc_rs::ECDSA_P384_SHA384),
        0x0804 => Some(webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY),
        0x0805 => Some(webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY),
        0x0806 => Some(webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY),
        0x0807 => Some(webpki::aws_lc_rs::ED25519),
        _ => None,
    }
}

const VERSION: u8 = 1;
/// Version, scheme, counter, length.
const FIXED_BYTES: usize = 13;
const MAX_SIGNATURE_BYTES: usize = 512;
const ID_LABEL: &[u8] = b"vouchsafe/v1/connection/id\0";

#[cfg(test)]
mod tests;
