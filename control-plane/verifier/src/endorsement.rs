//! Endorsements: whom we believe about hardware.
//!
//! What vendors sign is named by [`need::Need`], derived from evidence by [`needs::needs`], read from their services'
//! answers ([`answer`]) and verified by itself by [`object::Endorsement`] before it may be kept. [`bundle`] carries many of them
//! into sites that reach no vendor. [`age`] says how old those are that a judgement rests on.
//!
//! A TPM's maker signs a certificate for the endorsement key. Which makers count is the operator's decision: roots are
//! pinned, and each says what it vouches for. A root that signs software TPMs makes nothing `hardware`.
//!
//! Source: TCG EK Credential Profile for TPM Family 2.0 §3.

pub mod age;
pub mod answer;
pub mod bundle;
pub mod need;
pub mod needs;
pub mod object;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use vouchsafe_attestation::claims::Class;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::evidence::tpm::public::{Curve, Key};

/// A root that signs, over intermediates, certificates of endorsement keys.
#[derive(Clone, Debug)]
pub struct EkRoot {
    anchor: TrustAnchor<'static>,
    not_before: i64,
    not_after: i64,
    class: Class,
}

impl EkRoot {
    /// Pins a root.
    ///
    /// `class` is what a TPM below it is worth: [`Class::Hardware`] for makers of chips, [`Class::Software`] for those
    /// who sign software TPMs (a cloud's, or a local `swtpm` authority).
    ///
    /// # Errors
    /// [`EkRootError`] unless the bytes are one certificate of an authority.
    pub fn new(certificate: &CertificateDer<'_>, class: Class) -> Result<Self, EkRootError> {
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| EkRootError)?;
        if !rest.is_empty() || !parsed.is_ca() {
            return Err(EkRootError);
        }
        let anchor = webpki::anchor_from_trusted_cert(certificate)
            .map_err(|_| EkRootError)?
            .to_owned();
        Ok(Self {
            anchor,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            class,
        })
    }
}

/// The bytes are not one certificate of an authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a certificate authority's certificate in DER")]
pub struct EkRootError;

/// All pinned roots. With none, no endorsement key is certified and every TPM is of class `software`.
#[derive(Clone, Debug, Default)]
pub struct EkRoots(Vec<EkRoot>);

impl EkRoots {
    /// Roots, in no particular order.
    pub fn new(roots: Vec<EkRoot>) -> Self {
        Self(roots)
    }

    /// Verifies the chain of an endorsement key, leaf first, and says what its root vouches for.
    ///
    /// # Errors
    /// [`EkChainError`].
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        ek: &Key,
        now: SystemTime,
    ) -> Result<Class, EkChainError> {
        if chain.len() > MAX_CHAIN || chain.iter().any(|one| one.len() > MAX_CERTIFICATE) {
            return Err(EkChainError::TooLarge);
        }
        let (leaf, intermediates) = chain.split_first().ok_or(EkChainError::Empty)?;
        check_leaf(leaf, ek)?;
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
        let live: Vec<&EkRoot> = self
            .0
            .iter()
            .filter(|root| root.not_before <= seconds && seconds <= root.not_after)
            .collect();
        let anchors: Vec<_> = live.iter().map(|root| root.anchor.clone()).collect();
        let end_entity = EndEntityCert::try_from(leaf).map_err(EkChainError::Path)?;
        let path = end_entity
            .verify_for_usage(
                SIGNATURE_ALGORITHMS,
                &anchors,
                intermediates,
                UnixTime::since_unix_epoch(since_epoch),
                // Demanded of the leaf above; authorities above it rarely state it, and must allow it where they do.
                KeyUsage::required_if_present(EK_CERTIFICATE_CONTENT),
                None,
                None,
            )
            .map_err(EkChainError::Path)?;
        let used = path.anchor();
        live.into_iter()
            .find(|root| {
                root.anchor.subject_public_key_info == used.subject_public_key_info
                    && root.anchor.subject == used.subject
            })
            .map(|root| root.class)
            .ok_or(EkChainError::Path(webpki::Error::UnknownIssuer))
    }
}

/// The leaf is of this very key, and an endorsement key's certificate.
fn check_leaf(leaf: &CertificateDer<'_>, ek: &Key) -> Result<(), EkChainError> {
    let (rest, parsed) = X509Certificate::from_der(leaf).map_err(|_| EkChainError::Malformed)?;
    if !rest.is_empty() {
        return Err(EkChainError::Malformed);
    }
    check_key(&parsed, ek)?;
    let usage = parsed
        .extended_key_usage()
        .map_err(|_| EkChainError::Malformed)?;
    let names_ek = usage.is_some_and(|usage| {
        usage
            .value
            .other
            .iter()
            .any(|oid| oid.as_bytes() == EK_CERTIFICATE_CONTENT)
    });
    if names_ek {
        Ok(())
    } else {
        Err(EkChainError::Usage)
    }
}

fn check_key(leaf: &X509Certificate<'_>, ek: &Key) -> Result<(), EkChainError> {
    let same = match (leaf.public_key().parsed(), ek) {
        (Ok(PublicKey::RSA(found)), Key::Rsa { modulus, exponent }) => {
            trim(found.modulus) == modulus.as_slice()
                && trim(found.exponent) == trim(&exponent.to_be_bytes())
        }
        (Ok(PublicKey::EC(found)), Key::Ecc { curve, .. }) => {
            curve_is(leaf, *curve) && ek.uncompressed_point().as_deref() == Some(found.data())
        }
        _ => false,
    };
    if same {
        Ok(())
    } else {
        Err(EkChainError::OtherKey)
    }
}

fn curve_is(certificate: &X509Certificate<'_>, curve: Curve) -> bool {
    let expected: &[u8] = match curve {
        Curve::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Curve::P384 => &[0x2b, 0x81, 0x04, 0x00, 0x22],
    };
    let parameters = certificate.public_key().algorithm.parameters.as_ref();
    parameters
        .and_then(|any| any.as_oid().ok())
        .is_some_and(|oid| oid.as_bytes() == expected)
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Why a chain does not certify an endorsement key.
#[derive(Debug, thiserror::Error)]
pub enum EkChainError {
    /// No certificate was given.
    #[error("no certificate of the endorsement key was given")]
    Empty,
    /// More than eight certificates, or one of more than 16 KiB.
    #[error("a chain has at most 8 certificates of 16384 bytes")]
    TooLarge,
    /// Not one DER certificate.
    #[error("failed to parse the endorsement key's certificate")]
    Malformed,
    /// The leaf does not say that it is an endorsement key's (`tcg-kp-EKCertificate`).
    #[error("the certificate is not an endorsement key's: usage 2.23.133.8.1 is missing")]
    Usage,
    /// The leaf certifies another key than the one offered.
    #[error("the certificate is of another endorsement key")]
    OtherKey,
    /// No path to a pinned root (RFC 5280 §6).
    #[error("the chain leads to no pinned manufacturer root")]
    Path(#[source] webpki::Error),
}

/// Leaf, two or three intermediates and their cross-signed forms.
const MAX_CHAIN: usize = 8;
const MAX_CERTIFICATE: usize = 16 * 1024;

/// `tcg-kp-EKCertificate`, 2.23.133.8.1, in DER content octets.
const EK_CERTIFICATE_CONTENT: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

const SIGNATURE_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
];

#[cfg(test)]
mod tests;
