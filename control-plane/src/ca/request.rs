//! Certificate requests (PKCS#10, RFC 2986): a proof that whoever asks holds the key. Nothing else of one is used.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey, VerificationAlgorithm,
};
use vouchsafe_attestation::svid::sha256;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// A key whose possession was proven: the only thing that a certificate is issued for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertifiedRequest {
    spki: Vec<u8>,
}

impl CertifiedRequest {
    /// Reads a request and verifies its signature by its own key. Names, usages and extensions that it asks for are
    /// ignored: identity comes from policy.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn verify(der: &[u8]) -> Result<Self, RequestError> {
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let info = &request.certification_request_info;
        let (key, signature) = (
            &info.subject_pki.subject_public_key,
            &request.signature_value,
        );
        // DER of whole bytes (X.690 §11.2); otherwise two encodings would be one request.
        if key.unused_bits != 0 || signature.unused_bits != 0 {
            return Err(RequestError::Malformed);
        }
        let algorithm = algorithm(&request).ok_or(RequestError::Algorithm)?;
        UnparsedPublicKey::new(algorithm, &key.data)
            .verify(info.raw, &signature.data)
            .map_err(|_| RequestError::Signature)?;
        Ok(Self {
            spki: info.subject_pki.raw.to_vec(),
        })
    }

    /// DER of the SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Its SHA-256.
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.spki)
    }
}

/// P-256 with SHA-256 or P-384 with SHA-384, key and signature of the same kind.
fn algorithm(request: &X509CertificationRequest<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    let key = &request.certification_request_info.subject_pki.algorithm;
    if key.algorithm.as_bytes() != EC_PUBLIC_KEY {
        return None;
    }
    let curve = key.parameters.as_ref()?.as_oid().ok()?;
    match (
        curve.as_bytes(),
        request.signature_algorithm.algorithm.as_bytes(),
    ) {
        (P256, ECDSA_SHA256) => Some(&ECDSA_P256_SHA256_ASN1),
        (P384, ECDSA_SHA384) => Some(&ECDSA_P384_SHA384_ASN1),
        _ => None,
    }
}

/// Why a request proves nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// Not one PKCS#10 request in DER.
    #[error("failed to parse the certificate request")]
    Malformed,
    /// Not a key that workloads may have.
    #[error("a workload's key is ECDSA P-256 or P-384, its request signed with SHA-256 or SHA-384")]
    Algorithm,
    /// Signed by another key than the one it holds.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

// Object identifiers as DER content octets (RFC 5480 §2.1.1, RFC 5758 §3.2).
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
