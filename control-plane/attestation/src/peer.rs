//! From a presented chain to a [`Peer`]: the only way to one.
//!
//! A data-plane peer is [`Peer::Attested`] or [`Peer::Unattested`] (promise 2). Which of them is possible is said by the
//! authority that the chain ends in, never by the certificate: a leaf of an attesting authority without a result is
//! refused, and so is a result under an authority that does not attest.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::result::AttestationResult;
use crate::spiffe_id::SpiffeId;
use crate::svid::{Leaf, MeshRole, ProfileError, Serial, sha256};
use crate::trust_bundle::{Authority, TrustBundle};
use crate::trust_domain::TrustDomain;

/// Which end of the TLS connection the peer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerRole {
    /// It connected to us: extended key usage, where stated, must allow client authentication.
    Client,
    /// We connected to it: extended key usage, where stated, must allow server authentication.
    Server,
}

/// A verified peer.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Its authority verified evidence of where it runs.
    Attested(AttestedPeer),
    /// Its authority is one that the operator marked `attested: false`; matches only rules that say so.
    Unattested(UnattestedPeer),
}

/// A peer with an attestation result.
#[derive(Clone, Debug)]
pub struct AttestedPeer {
    svid: VerifiedSvid,
    result: AttestationResult,
}

/// A peer without one.
#[derive(Clone, Debug)]
pub struct UnattestedPeer {
    svid: VerifiedSvid,
}

/// What a verified leaf says, whoever issued it.
#[derive(Clone, Debug)]
pub struct VerifiedSvid {
    id: SpiffeId,
    serial: Serial,
    spki_sha256: [u8; 32],
    authority_spki_sha256: [u8; 32],
    /// Empty for nearly all: then it takes no memory of its own.
    intermediate_spki_sha256: Box<[[u8; 32]]>,
    not_after: SystemTime,
}

impl VerifiedSvid {
    fn new(leaf: &Leaf, path: &Path<'_>) -> Self {
        Self {
            id: leaf.id.clone(),
            serial: leaf.serial.clone(),
            spki_sha256: leaf.spki_sha256,
            authority_spki_sha256: *path.authority.spki_sha256(),
            intermediate_spki_sha256: path.intermediate_spki_sha256.clone(),
            not_after: leaf.not_after,
        }
    }
}

impl Peer {
    fn svid(&self) -> &VerifiedSvid {
        match self {
            Self::Attested(peer) => &peer.svid,
            Self::Unattested(peer) => &peer.svid,
        }
    }

    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.svid().id
    }

    /// Serial number of its certificate.
    pub fn serial(&self) -> &Serial {
        &self.svid().serial
    }

    /// SHA-256 of the DER of its public key.
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.svid().spki_sha256
    }

    /// SHA-256 of the DER of the public key of the authority that its chain ended in.
    pub fn authority_spki_sha256(&self) -> &[u8; 32] {
        &self.svid().authority_spki_sha256
    }

    /// SHA-256 of the DER of the public keys of the authorities between its certificate and the one that its chain ended
    /// in, from its issuer upwards. Empty where that one issued it.
    pub fn intermediate_spki_sha256(&self) -> &[[u8; 32]] {
        &self.svid().intermediate_spki_sha256
    }

    /// End of its certificate, and so of its lease (promise 4).
    pub fn not_after(&self) -> SystemTime {
        self.svid().not_after
    }

    /// What it proved, if its authority attests.
    pub fn result(&self) -> Option<&AttestationResult> {
        match self {
            Self::Attested(peer) => Some(&peer.result),
            Self::Unattested(_) => None,
        }
    }
}

/// Verifies a peer's chain, leaf first as TLS presents it.
///
/// # Errors
/// [`VerifyPeerError`], whose [`VerifyPeerError::reason`] is what the log, the metric and the documentation say. The
/// peer itself is told no more than a TLS alert.
pub fn verify_peer(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    role: PeerRole,
    now: SystemTime,
) -> Result<Peer, VerifyPeerError> {
    let (leaf_der, intermediates) = split(chain)?;
    let leaf = Leaf::parse(leaf_der)?;
    if leaf.role.is_some() || leaf.id == SpiffeId::for_control_plane(leaf.id.trust_domain()) {
        return Err(VerifyPeerError::Role);
    }
    let authorities: Vec<&Authority> = bundle.of(leaf.id.trust_domain(), now).collect();
    if authorities.is_empty() {
        return Err(VerifyPeerError::TrustDomain(leaf.id.trust_domain().clone()));
    }
    let path = verify_path(leaf_der, intermediates, &authorities, role, now)?;
    let svid = VerifiedSvid::new(&leaf, &path);
    match (path.authority.is_attested(), leaf.result) {
        (true, Some(result)) => Ok(Peer::Attested(AttestedPeer { svid, result })),
        (false, None) => Ok(Peer::Unattested(UnattestedPeer { svid })),
        (true, None) => Err(VerifyPeerError::NoResult),
        (false, Some(_)) => Err(VerifyPeerError::ResultNotVouchedFor),
    }
}

/// A certificate that the mesh's root issued for a role of the mesh itself.
#[derive(Clone, Debug)]
pub struct RoleHolder {
    /// The role.
    pub role: MeshRole,
    /// SHA-256 of the leaf's DER: enters the binding transcript.
    pub leaf_sha256: [u8; 32],
    /// DER of the root that vouches: its key is pinned, or was walked to from a pinned one.
    pub root: CertificateDer<'static>,
    /// End of the certificate.
    pub not_after: SystemTime,
    /// DER of the SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

/// Verifies the holder of a mesh role: a full chain, leaf first, whose last certificate is a root with a pinned key.
///
/// The leaf has exactly the SPIFFE ID of the control plane and the role's extension; a workload's certificate, or a
/// leaf of the right root without the role, is refused.
///
/// # Errors
/// [`VerifyPeerError`].
pub fn verify_role(
    chain: &[CertificateDer<'_>],
    root_pins: &[[u8; 32]],
    trust_domain: &TrustDomain,
    role: MeshRole,
    now: SystemTime,
) -> Result<RoleHolder, VerifyPeerError> {
    let (leaf_der, rest) = split(chain)?;
    let (root_der, intermediates) = rest.split_last().ok_or(VerifyPeerError::Untrusted)?;
    let leaf = Leaf::parse(leaf_der)?;
    if leaf.role != Some(role) || leaf.id != SpiffeId::for_control_plane(trust_domain) {
        return Err(VerifyPeerError::Role);
    }
    let root = Authority::new(trust_domain.clone(), root_der, true)
        .map_err(|_| VerifyPeerError::Untrusted)?;
    if !root_pins.contains(root.spki_sha256()) {
        return Err(VerifyPeerError::RootNotPinned(hex::encode(
            root.spki_sha256(),
        )));
    }
    if !root.is_valid_at(crate::svid::unix_seconds(now)) {
        return Err(VerifyPeerError::Expired);
    }
    verify_path(leaf_der, intermediates, &[&root], PeerRole::Server, now)?;
    Ok(RoleHolder {
        role,
        leaf_sha256: sha256(leaf_der),
        root: root_der.clone().into_owned(),
        not_after: leaf.not_after,
        spki: EndEntityCert::try_from(leaf_der)
            .map_err(VerifyPeerError::Path)?
            .subject_public_key_info()
            .to_vec(),
    })
}

/// Who vouches for a leaf.
struct Path<'a> {
    /// The one that the path ends in.
    authority: &'a Authority,
    /// Those between, from the issuer upwards.
    intermediate_spki_sha256: Box<[[u8; 32]]>,
}

/// Finds a path from a leaf to one of the authorities, and says which it ends in and by whom it goes (RFC 5280 §6).
fn verify_path<'a>(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[&'a Authority],
    role: PeerRole,
    now: SystemTime,
) -> Result<Path<'a>, VerifyPeerError> {
    let anchors: Vec<TrustAnchor<'_>> = authorities
        .iter()
        .map(|authority| authority.anchor.clone())
        .collect();
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    let end_entity = EndEntityCert::try_from(leaf).map_err(VerifyPeerError::Path)?;
    let path = end_entity
        .verify_for_usage(
            SIGNATURE_ALGORITHMS,
            &anchors,
            intermediates,
            unix_time(now),
            usage,
            None,
            None,
        )
        .map_err(VerifyPeerError::from_path)?;
    let used = path.anchor();
    let authority = authorities.iter().find(|held| {
        held.anchor.subject_public_key_info == used.subject_public_key_info
            && held.anchor.subject == used.subject
    });
    let between = path.intermediate_certificates();
    let between = between.map(|one| sha256(&one.subject_public_key_info()));
    Ok(Path {
        authority: authority.ok_or(VerifyPeerError::Untrusted)?,
        intermediate_spki_sha256: between.collect(),
    })
}

fn split<'c, 'd>(
    chain: &'c [CertificateDer<'d>],
) -> Result<(&'c CertificateDer<'d>, &'c [CertificateDer<'d>]), VerifyPeerError> {
    if chain.len() > MAX_CHAIN {
        return Err(VerifyPeerError::ChainTooLong(chain.len()));
    }
    chain.split_first().ok_or(VerifyPeerError::NoCertificate)
}

fn unix_time(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// Why a chain does not make a peer.
#[derive(Debug, thiserror::Error)]
pub enum VerifyPeerError {
    /// The peer presented none.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// More than eight certificates.
    #[error("a chain has at most 8 certificates, found {0}")]
    ChainTooLong(usize),
    /// The leaf breaks the profile.
    #[error("the certificate breaks the profile of an X.509-SVID")]
    Profile(#[from] ProfileError),
    /// No authority in the bundle speaks for this trust domain now.
    #[error("no authority speaks for trust domain `{0}`")]
    TrustDomain(TrustDomain),
    /// The chain does not end in a known authority.
    #[error("the chain ends in no known authority")]
    Untrusted,
    /// The root's key is not among the pinned ones; the digest is what a pin would be.
    #[error("the root key with SHA-256 {0} is not pinned")]
    RootNotPinned(String),
    /// A certificate of the chain is past its end.
    #[error("a certificate of the chain has expired")]
    Expired,
    /// A certificate of the chain is before its start: mind the clocks.
    #[error("a certificate of the chain is not valid yet")]
    NotYetValid,
    /// Any other failure of path validation (RFC 5280 §6).
    #[error("the chain does not validate")]
    Path(#[source] webpki::Error),
    /// An attesting authority's leaf carries no attestation result.
    #[error("the certificate carries no attestation result")]
    NoResult,
    /// The leaf carries a result, but its authority does not attest.
    #[error("the certificate carries an attestation result that its authority may not vouch for")]
    ResultNotVouchedFor,
    /// A role of the mesh itself where a workload is due, or the reverse.
    #[error("the certificate has not the role that is due here")]
    Role,
}

impl VerifyPeerError {
    fn from_path(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { .. } => Self::Expired,
            webpki::Error::CertNotValidYet { .. } => Self::NotYetValid,
            // An authority that only borrows a known one's name is no better known than one with another name.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                Self::Untrusted
            }
            other => Self::Path(other),
        }
    }

    /// The bounded word for logs, metrics and documentation.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong(_) => "chain_too_long",
            Self::Profile(_) => "certificate_profile",
            Self::TrustDomain(_) => "foreign_trust_domain",
            Self::Untrusted | Self::RootNotPinned(_) => "untrusted_authority",
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Path(_) => "certificate_path",
            Self::NoResult => "no_attestation_result",
            Self::ResultNotVouchedFor => "attestation_result_not_vouched_for",
            Self::Role => "wrong_role",
        }
    }
}

/// Longest chain. Ours have one or two; SPIRE with nested upstreams four.
const MAX_CHAIN: usize = 8;

/// Signatures that a chain may bear: what TLS 1.3 peers use, without SHA-1 and RSA PKCS#1 below 2048 bits.
const SIGNATURE_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ED25519,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

#[cfg(test)]
mod limbo;
#[cfg(test)]
mod tests;
