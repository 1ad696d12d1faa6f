//! `TPMT_SIGNATURE`: reading and verifying the signature over a quote.
//!
//! Source: TPM 2.0 Part 2 §11.3.4.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::hash::HashAlgorithm;
use super::public::{Curve, Key, PublicArea, SigningScheme};
use super::wire::{ParseError, Reader};

/// A parsed signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature {
    /// How it was made.
    pub scheme: SigningScheme,
    /// The bytes as a verifier takes them: RSA big-endian, ECDSA in DER.
    encoded: Vec<u8>,
}

impl Signature {
    /// Reads a `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// [`ParseError`] unless the bytes are exactly one RSASSA, RSAPSS or ECDSA signature with SHA-256 or SHA-384.
    pub fn parse(raw: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(raw);
        let scheme =
            SigningScheme::read(&mut reader)?.ok_or(ParseError::Unsupported("signature scheme"))?;
        let encoded = match scheme {
            SigningScheme::RsaSsa(_) | SigningScheme::RsaPss(_) => {
                reader.sized(MAX_RSA, "signature")?.to_vec()
            }
            SigningScheme::Ecdsa(_) => {
                let r = reader.sized(MAX_COORDINATE, "r")?;
                let s = reader.sized(MAX_COORDINATE, "s")?;
                ecdsa_der(r, s)
            }
        };
        reader.finish()?;
        Ok(Self { scheme, encoded })
    }

    /// A signature without its head, as libraries take it: RSA big-endian, ECDSA in DER.
    pub(crate) fn bare(scheme: SigningScheme, encoded: &[u8]) -> Self {
        Self {
            scheme,
            encoded: encoded.to_vec(),
        }
    }

    /// Whether `key` made this signature over `message`, by exactly the scheme that is fixed in the key.
    pub(crate) fn verifies(&self, key: &PublicArea, message: &[u8]) -> bool {
        key.scheme == Some(self.scheme) && self.verifies_by(&key.key, message)
    }

    /// Whether `key`, of which nothing else is known, made this signature over `message`.
    pub(crate) fn verifies_by(&self, key: &Key, message: &[u8]) -> bool {
        match (key, self.scheme) {
            (Key::Rsa { modulus, exponent }, SigningScheme::RsaSsa(hash)) => {
                let parameters = match hash {
                    HashAlgorithm::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                    HashAlgorithm::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                };
                components(modulus, *exponent)
                    .verify(parameters, message, &self.encoded)
                    .is_ok()
            }
            (Key::Rsa { modulus, exponent }, SigningScheme::RsaPss(hash)) => {
                let parameters = match hash {
                    HashAlgorithm::Sha256 => &RSA_PSS_2048_8192_SHA256,
                    HashAlgorithm::Sha384 => &RSA_PSS_2048_8192_SHA384,
                };
                components(modulus, *exponent)
                    .verify(parameters, message, &self.encoded)
                    .is_ok()
            }
            (Key::Ecc { curve, .. }, SigningScheme::Ecdsa(hash)) => {
                let Some(point) = key.uncompressed_point() else {
                    return false;
                };
                UnparsedPublicKey::new(ecdsa(*curve, hash), point)
                    .verify(message, &self.encoded)
                    .is_ok()
            }
            (Key::Rsa { .. }, SigningScheme::Ecdsa(_))
            | (Key::Ecc { .. }, SigningScheme::RsaSsa(_) | SigningScheme::RsaPss(_)) => false,
        }
    }
}

fn components(modulus: &[u8], exponent: u32) -> RsaPublicKeyComponents<Vec<u8>> {
    let exponent = exponent.to_be_bytes();
    RsaPublicKeyComponents {
        n: modulus.to_vec(),
        e: without_leading_zeros(&exponent).to_vec(),
    }
}

fn ecdsa(curve: Curve, hash: HashAlgorithm) -> &'static dyn VerificationAlgorithm {
    match (curve, hash) {
        (Curve::P256, HashAlgorithm::Sha256) => &ECDSA_P256_SHA256_ASN1,
        (Curve::P256, HashAlgorithm::Sha384) => &ECDSA_P256_SHA384_ASN1,
        (Curve::P384, HashAlgorithm::Sha256) => &ECDSA_P384_SHA256_ASN1,
        (Curve::P384, HashAlgorithm::Sha384) => &ECDSA_P384_SHA384_ASN1,
    }
}

/// `SEQUENCE { r INTEGER, s INTEGER }`; both are at most 49 bytes, so every length fits one byte.
fn ecdsa_der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let body = [der_integer(r), der_integer(s)].concat();
    [
        vec![0x30, u8::try_from(body.len()).unwrap_or(u8::MAX)],
        body,
    ]
    .concat()
}

fn der_integer(bytes: &[u8]) -> Vec<u8> {
    let value = without_leading_zeros(bytes);
    let pad = value.first().is_none_or(|byte| byte & 0x80 != 0);
    let length = value.len() + usize::from(pad);
    let mut der = vec![0x02, u8::try_from(length).unwrap_or(u8::MAX)];
    if pad {
        der.push(0);
    }
    der.extend_from_slice(value);
    der
}

fn without_leading_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// RSA-4096.
const MAX_RSA: usize = 512;
/// P-384.
const MAX_COORDINATE: usize = 48;
