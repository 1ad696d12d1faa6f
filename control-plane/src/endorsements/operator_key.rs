//! The key with which an operator signs bundles of endorsements.
//!
//! It belongs to who carries bundles over, not to the mesh: it is a file of that person's, in PKCS #8, and no authority
//! knows it. Sites that import pin its public half.

use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use vouchsafe_verifier::endorsement::bundle::BundleKey;
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorKeyError {
    /// The file can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something is there already.
    #[error("`{0}` exists: a key is never overwritten")]
    Exists(String),
    /// No key that signs bundles.
    #[error("`{0}` is not one private key in PEM (PKCS #8), of Ed25519 or P-256")]
    Malformed(String),
    /// The cryptographic library says no.
    #[error("failed to make or use the key")]
    Crypto,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// A key that signs.
pub(crate) struct OperatorKey {
    pair: Pair,
    public: BundleKey,
}

impl OperatorKey {
    /// Makes an Ed25519 key and writes it, mode 0600, and its public half beside it (`.pub`).
    pub(crate) fn generate(path: &Path) -> Result<(Self, std::path::PathBuf), OperatorKeyError> {
        let public_path = path.with_added_extension("pub");
        for path in [path, &public_path] {
            if path.exists() {
                return Err(OperatorKeyError::Exists(path.display().to_string()));
            }
        }
        let pair = Ed25519KeyPair::generate().map_err(|_| OperatorKeyError::Crypto)?;
        let document = pair.to_pkcs8().map_err(|_| OperatorKeyError::Crypto)?;
        let private = Zeroizing::new(pem("PRIVATE KEY", document.as_ref()));
        let public = public_der(pair.public_key())?;
        files::write_secret(path, &private)?;
        files::write_secret(&public_path, &pem("PUBLIC KEY", &public))?;
        let public = BundleKey::from_der(&public).map_err(|_| OperatorKeyError::Crypto)?;
        let pair = Pair::Ed25519(pair);
        Ok((Self { pair, public }, public_path))
    }

    /// Reads a key that nobody else can read.
    pub(crate) fn load(path: &Path) -> Result<Self, OperatorKeyError> {
        let text = files::read_secret(path)?;
        let malformed = || OperatorKeyError::Malformed(path.display().to_string());
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| malformed())?;
        let der = der.secret_pkcs8_der();
        let (pair, public) = match Ed25519KeyPair::from_pkcs8(der) {
            Ok(pair) => {
                let public = public_der(pair.public_key())?;
                (Pair::Ed25519(pair), public)
            }
            Err(_) => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
                    .map_err(|_| malformed())?;
                let public = public_der(pair.public_key())?;
                (Pair::P256(pair), public)
            }
        };
        let public = BundleKey::from_der(&public).map_err(|_| malformed())?;
        Ok(Self { pair, public })
    }

    pub(crate) fn public(&self) -> &BundleKey {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, OperatorKeyError> {
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message),
            Pair::P256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map_err(|_| OperatorKeyError::Crypto)?,
        };
        Ok(signature.as_ref().to_vec())
    }
}

fn public_der(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Result<Vec<u8>, OperatorKeyError> {
    key.as_der()
        .map(|der| der.as_ref().to_vec())
        .map_err(|_| OperatorKeyError::Crypto)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
