//! Endorsements of many sorts in one signed file, for sites without a way to the vendors.
//!
//! ```text
//! vouchsafe-endorsements v1
//! key SHA-256 OF THE PUBLIC KEY IN DER, HEX
//! signature HEX
//! {"need":{"name":"intel-root-crl.json"},"bytes":"BASE64"}
//! …
//! ```
//! One object per line, sorted by name, each name once. The signature covers the first line and all objects, so that
//! what is carried in stays what was carried out. The same objects and an Ed25519 key make the same file to the byte.
//!
//! # Why
//! The signature says who chose the objects; each is verified by itself as well when it is imported, because a bundle
//! that is signed can still be old or wrong. It is checked before anything else is parsed.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::need::Need;

/// Why a file is no bundle that may be imported.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BundleError {
    /// Larger than read.
    #[error("{0} bytes are more than a bundle has")]
    TooLarge(usize),
    /// Not a bundle.
    #[error("this is not a bundle of endorsements, version 1")]
    Format,
    /// Signed by somebody else.
    #[error("the bundle is signed by key {0}, which is not among the pinned ones")]
    UnknownKey(String),
    /// Changed after it was signed.
    #[error("the signature of the bundle does not hold")]
    Signature,
    /// A line is no object.
    #[error("line {0} is no endorsement")]
    Object(usize),
    /// Lines are not in order, or one name stands twice.
    #[error("line {0} is not after the one before it")]
    Order(usize),
    /// More objects than read.
    #[error("a bundle has at most {MAX_OBJECTS} endorsements")]
    TooMany,
}

impl BundleError {
    /// A bounded word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::TooMany => "bundle_too_large",
            Self::Format | Self::Object(_) | Self::Order(_) => "bundle_malformed",
            Self::UnknownKey(_) => "bundle_key_not_pinned",
            Self::Signature => "bundle_signature",
        }
    }
}

/// The text is no public key that can sign bundles.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this is not one public key in PEM, of Ed25519 or P-256")]
pub struct BundleKeyError;

/// The public key of an operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BundleKey {
    spki: Vec<u8>,
    point: Vec<u8>,
    algorithm: Algorithm,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Algorithm {
    Ed25519,
    P256,
}

impl BundleKey {
    /// Reads a key in PEM (`PUBLIC KEY`).
    ///
    /// # Errors
    /// [`BundleKeyError`] unless it is one of Ed25519 or P-256.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BundleKeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| BundleKeyError)?;
        Self::from_der(&der)
    }

    /// Reads a `SubjectPublicKeyInfo` in DER.
    ///
    /// # Errors
    /// [`BundleKeyError`] unless it is one of Ed25519 or P-256.
    pub fn from_der(der: &[u8]) -> Result<Self, BundleKeyError> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| BundleKeyError)?;
        let curve = spki.algorithm.parameters.as_ref();
        let curve = curve.and_then(|any| any.as_oid().ok());
        let curve = curve.map(|oid| oid.to_id_string());
        let oid = spki.algorithm.algorithm.to_id_string();
        let algorithm = match (oid.as_str(), curve.as_deref()) {
            ("1.3.101.112", None) => Algorithm::Ed25519,
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => Algorithm::P256,
            _ => return Err(BundleKeyError),
        };
        if !rest.is_empty() {
            return Err(BundleKeyError);
        }
        Ok(Self {
            spki: der.to_vec(),
            point: spki.subject_public_key.data.to_vec(),
            algorithm,
        })
    }

    /// SHA-256 of the key in DER, in hex: what people compare.
    pub fn id(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, &self.spki).as_ref())
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Ed25519 => &ED25519,
            Algorithm::P256 => &ECDSA_P256_SHA256_ASN1,
        };
        UnparsedPublicKey::new(algorithm, &self.point)
            .verify(message, signature)
            .is_ok()
    }
}

/// What is to be signed, and to be written behind the signature.
#[derive(Clone, Debug)]
pub struct Unsigned(String);

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    need: Need,
    bytes: String,
}

impl Unsigned {
    /// Takes objects in any order; of two with one name, the last.
    ///
    /// # Errors
    /// [`BundleError::TooMany`].
    pub fn new<'a>(
        objects: impl IntoIterator<Item = (&'a Need, &'a [u8])>,
    ) -> Result<Self, BundleError> {
        let mut lines = std::collections::BTreeMap::new();
        for (need, bytes) in objects {
            let line = Line {
                need: need.clone(),
                bytes: STANDARD.encode(bytes),
            };
            // Texts always have a JSON form.
            lines.insert(
                need.name(),
                serde_json::to_string(&line).unwrap_or_default(),
            );
        }
        if lines.len() > MAX_OBJECTS {
            return Err(BundleError::TooMany);
        }
        let mut text = format!("{FIRST_LINE}\n");
        for line in lines.values() {
            text.push_str(line);
            text.push('\n');
        }
        Ok(Self(text))
    }

    /// What the operator's key signs.
    pub fn message(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The file.
    pub fn signed(&self, key: &BundleKey, signature: &[u8]) -> Vec<u8> {
        let objects = self.0.strip_prefix(FIRST_LINE).unwrap_or_default();
        let head = format!(
            "{FIRST_LINE}\nkey {}\nsignature {}",
            key.id(),
            hex::encode(signature)
        );
        [head.as_bytes(), objects.as_bytes()].concat()
    }
}

/// Reads a bundle that one of these keys signed. Its objects are not verified yet.
///
/// # Errors
/// [`BundleError`].
pub fn read(bytes: &[u8], keys: &[BundleKey]) -> Result<Vec<(Need, Vec<u8>)>, BundleError> {
    if bytes.len() > MAX_BYTES {
        return Err(BundleError::TooLarge(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BundleError::Format)?;
    let mut parts = text.splitn(4, '\n');
    let (Some(FIRST_LINE), Some(key), Some(signature), Some(objects)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BundleError::Format);
    };
    let id = key.strip_prefix("key ").ok_or(BundleError::Format)?;
    let signature = signature
        .strip_prefix("signature ")
        .filter(|text| text.len() <= MAX_SIGNATURE_HEX)
        .and_then(|text| hex::decode(text).ok())
        .ok_or(BundleError::Format)?;
    let key = keys
        .iter()
        .find(|key| key.id() == id)
        .ok_or_else(|| BundleError::UnknownKey(id.chars().take(64).collect()))?;
    let message = [FIRST_LINE.as_bytes(), b"\n", objects.as_bytes()].concat();
    if !key.verifies(&message, &signature) {
        return Err(BundleError::Signature);
    }
    read_objects(objects)
}

/// Reads the objects of a bundle, behind the signature's line.
///
/// # Errors
/// [`BundleError`] unless each line is an object, in order.
pub fn read_objects(text: &str) -> Result<Vec<(Need, Vec<u8>)>, BundleError> {
    let text = match text {
        "" => return Ok(Vec::new()),
        _ => text.strip_suffix('\n').ok_or(BundleError::Format)?,
    };
    let mut objects: Vec<(Need, Vec<u8>)> = Vec::new();
    let mut last = String::new();
    // The first object stands in the file's fourth line.
    for (number, line) in (4..).zip(text.split('\n')) {
        if objects.len() == MAX_OBJECTS {
            return Err(BundleError::TooMany);
        }
        let line: Line = serde_json::from_str(line).map_err(|_| BundleError::Object(number))?;
        let bytes = STANDARD
            .decode(&line.bytes)
            .map_err(|_| BundleError::Object(number))?;
        let name = line.need.name();
        if name <= last {
            return Err(BundleError::Order(number));
        }
        last = name;
        objects.push((line.need, bytes));
    }
    Ok(objects)
}

const FIRST_LINE: &str = "vouchsafe-endorsements v1";
/// A thousand machines of several sorts have less than 10 MiB.
const MAX_BYTES: usize = 64 * 1024 * 1024;
const MAX_OBJECTS: usize = 16 * 1024;
/// An ECDSA signature in DER has up to 72 bytes.
const MAX_SIGNATURE_HEX: usize = 256;

#[cfg(test)]
mod tests;
