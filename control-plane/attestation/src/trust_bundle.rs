//! The trust bundle: which authorities may speak for which trust domain, and whether they attest.
//!
//! Name constraints on URIs can't be relied on (path builders fail closed on them or ignore them), so the tie between an
//! authority and its trust domain is this type: a leaf is verified only against the authorities of its own trust domain.
//!
//! Source: SPIFFE Trust Domain and Bundle §4; DESIGN §5.4 and §8 (issuing authorities are anchors of the mesh's bundle).

use std::fmt;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::peer::Peer;
use crate::svid;
use crate::trust_domain::TrustDomain;

/// A certificate authority that speaks for one trust domain.
#[derive(Clone)]
pub struct Authority {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) attested: bool,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) anchor: TrustAnchor<'static>,
    certificate: CertificateDer<'static>,
    spki_sha256: [u8; 32],
}

impl Authority {
    /// Reads an authority's certificate.
    ///
    /// `attested` says that this authority issues only after verifying evidence: its leaves must carry an attestation
    /// result. An operator marks others, such as SPIRE or cert-manager, as not attested.
    ///
    /// # Errors
    /// [`AuthorityError`] when the certificate can't be an authority.
    pub fn new(
        trust_domain: TrustDomain,
        certificate: &CertificateDer<'_>,
        attested: bool,
    ) -> Result<Self, AuthorityError> {
        let certificate = certificate.clone().into_owned();
        let (rest, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| AuthorityError::Malformed)?;
        if !rest.is_empty() {
            return Err(AuthorityError::Malformed);
        }
        let basic_constraints = parsed
            .basic_constraints()
            .map_err(|_| AuthorityError::Malformed)?;
        if !basic_constraints.is_some_and(|extension| extension.value.ca) {
            return Err(AuthorityError::NotAnAuthority);
        }
        let key_usage = parsed.key_usage().map_err(|_| AuthorityError::Malformed)?;
        if key_usage.is_some_and(|extension| !extension.value.key_cert_sign()) {
            return Err(AuthorityError::NotAnAuthority);
        }
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|_| AuthorityError::Malformed)?
            .to_owned();
        let (not_before, not_after) = (
            parsed.validity().not_before.timestamp(),
            parsed.validity().not_after.timestamp(),
        );
        let spki_sha256 = svid::sha256(parsed.public_key().raw);
        Ok(Self {
            trust_domain,
            attested,
            not_before,
            not_after,
            anchor,
            certificate,
            spki_sha256,
        })
    }

    /// The trust domain that the authority speaks for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether its leaves must carry an attestation result.
    pub fn is_attested(&self) -> bool {
        self.attested
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the DER of the authority's public key.
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// Whether the authority may be used at `now` (Unix seconds). Path builders don't check this for anchors.
    pub(crate) fn is_valid_at(&self, now: i64) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("attested", &self.attested)
            .field("spki_sha256", &hex::encode(self.spki_sha256))
            .finish_non_exhaustive()
    }
}

/// Why a certificate can't be an authority.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthorityError {
    /// Not one DER certificate.
    #[error("failed to parse the authority's certificate")]
    Malformed,
    /// Without `CA: TRUE`, or without `keyCertSign` where key usage is stated.
    #[error("the certificate is not a certificate authority's")]
    NotAnAuthority,
}

/// All authorities that a relying party accepts. Immutable: a change makes a new bundle.
#[derive(Clone, Debug, Default)]
pub struct TrustBundle {
    authorities: Vec<Authority>,
}

impl TrustBundle {
    /// Most authorities of one bundle: every verification walks those of one trust domain.
    pub const MAX_AUTHORITIES: usize = 1024;

    /// Makes a bundle.
    ///
    /// # Errors
    /// [`TrustBundleError`] when one key would speak for two trust domains, or both attested and not.
    pub fn new(authorities: Vec<Authority>) -> Result<Self, TrustBundleError> {
        if authorities.len() > Self::MAX_AUTHORITIES {
            return Err(TrustBundleError::TooMany(authorities.len()));
        }
        for (index, one) in authorities.iter().enumerate() {
            let conflict = authorities.iter().skip(index + 1).any(|other| {
                one.spki_sha256 == other.spki_sha256
                    && (one.trust_domain != other.trust_domain || one.attested != other.attested)
            });
            if conflict {
                return Err(TrustBundleError::Conflict(hex::encode(one.spki_sha256)));
            }
        }
        Ok(Self { authorities })
    }

    /// All authorities.
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// Whether the authority with this key (SHA-256 of its SPKI) may speak for a trust domain at a time: for relying
    /// parties that keep what [`crate::peer::verify_peer`] concluded.
    pub fn vouches(
        &self,
        spki_sha256: &[u8; 32],
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> bool {
        self.of(trust_domain, now)
            .any(|held| held.spki_sha256 == *spki_sha256)
    }

    /// Whether the authority of a peer that was verified before may still vouch for it: the bundle holds it, for the
    /// peer's trust domain, and as one that attests exactly where the peer has an attestation result.
    pub fn vouches_for(&self, peer: &Peer, now: SystemTime) -> bool {
        self.of(peer.id().trust_domain(), now).any(|held| {
            held.spki_sha256 == *peer.authority_spki_sha256()
                && held.attested == peer.result().is_some()
        })
    }

    /// Authorities that may speak for a trust domain at a time.
    pub(crate) fn of(
        &self,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> impl Iterator<Item = &Authority> {
        let now = svid::unix_seconds(now);
        self.authorities
            .iter()
            .filter(move |held| held.trust_domain == *trust_domain && held.is_valid_at(now))
    }
}

/// Why authorities don't make a bundle.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TrustBundleError {
    /// More than [`TrustBundle::MAX_AUTHORITIES`].
    #[error("a trust bundle has at most 1024 authorities, found {0}")]
    TooMany(usize),
    /// The key with this SHA-256 appears with two meanings.
    #[error(
        "the authority key with SHA-256 {0} is listed for two trust domains, or both attested and not"
    )]
    Conflict(String),
}
