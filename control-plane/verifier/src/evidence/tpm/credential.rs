//! `TPM2_MakeCredential` without a TPM: a secret that only one TPM, holding one attestation key, can open.
//!
//! The TPM releases the secret (`TPM2_ActivateCredential`) only if the endorsement key is its own and an object with
//! exactly the named attestation key is loaded, so a returned secret proves that both live in the same TPM.
//!
//! Source: TPM 2.0 Part 1 §24 (credential protection), §11.4.10 (KDFa, KDFe), Annex B.10.4 and C.6.4 (secret sharing).

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::RsaPublicKeyComponents;
use zeroize::Zeroizing;

use super::hash::HashAlgorithm;
use super::public::{Curve, Key, PublicArea};
use super::wire::put_sized;

/// The protected secret, in the form in which the TPM takes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// `TPM2B_ID_OBJECT`.
    pub blob: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
}

/// Why no credential can be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MakeCredentialError {
    /// The endorsement key protects nothing with AES.
    #[error("the endorsement key is no storage key")]
    NotAStorageKey,
    /// The endorsement key is no valid key of its kind (a point off its curve, an even modulus).
    #[error("the endorsement key is not a valid key")]
    InvalidKey,
    /// A primitive failed: no randomness, or out of memory.
    #[error("failed to protect the credential")]
    Crypto,
}

/// Protects `secret` for the TPM that holds `ek` and an object named `ak_name`.
///
/// # Errors
/// [`MakeCredentialError`] when `ek` can't protect anything.
pub fn make_credential(
    ek: &PublicArea,
    ak_name: &[u8],
    secret: &[u8; SECRET_BYTES],
) -> Result<Credential, MakeCredentialError> {
    let (seed, encrypted_secret) = match &ek.key {
        Key::Rsa { modulus, exponent } => rsa_seed(ek.name_hash, modulus, *exponent)?,
        Key::Ecc { curve, .. } => ecc_seed(ek, *curve)?,
    };
    protect(ek, &seed, ak_name, secret).map(|blob| Credential {
        blob,
        encrypted_secret,
    })
}

/// Length of a credential's secret: what SHA-256 can hold, which every endorsement key's name hash allows.
pub const SECRET_BYTES: usize = 32;

/// Part 1 §24.4: encrypt, then authenticate.
fn protect(
    ek: &PublicArea,
    seed: &[u8],
    ak_name: &[u8],
    secret: &[u8],
) -> Result<Vec<u8>, MakeCredentialError> {
    let hash = ek.name_hash;
    let aes_bits = ek
        .protects_with_aes_bits
        .ok_or(MakeCredentialError::NotAStorageKey)?;
    let storage = kdf_a(hash, seed, b"STORAGE\0", ak_name, aes_bits.into());
    let mut identity = Vec::new();
    put_sized(&mut identity, secret);
    aes_cfb(&storage, &mut identity)?;
    let integrity = kdf_a(hash, seed, b"INTEGRITY\0", b"", hash.digest_len() * 8);
    let mac = hash.hmac(&integrity, &[&identity, ak_name]);
    let mut object = Vec::new();
    put_sized(&mut object, &mac);
    object.extend_from_slice(&identity);
    let mut blob = Vec::new();
    put_sized(&mut blob, &object);
    Ok(blob)
}

type Seed = Zeroizing<Vec<u8>>;

/// A random seed, encrypted with OAEP under the label `IDENTITY` (Part 1 §B.10.4).
fn rsa_seed(
    hash: HashAlgorithm,
    modulus: &[u8],
    exponent: u32,
) -> Result<(Seed, Vec<u8>), MakeCredentialError> {
    let exponent = exponent.to_be_bytes();
    let first = exponent.iter().take_while(|byte| **byte == 0).count();
    let components = RsaPublicKeyComponents {
        n: modulus,
        e: exponent.get(first..).unwrap_or_default(),
    };
    let key: PublicEncryptingKey = components
        .try_into()
        .map_err(|_| MakeCredentialError::InvalidKey)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| MakeCredentialError::InvalidKey)?;
    let mut seed = Zeroizing::new(vec![0; hash.digest_len()]);
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| MakeCredentialError::Crypto)?;
    let algorithm = match hash {
        HashAlgorithm::Sha256 => &OAEP_SHA256_MGF1SHA256,
        HashAlgorithm::Sha384 => &OAEP_SHA384_MGF1SHA384,
    };
    let mut ciphertext = vec![0; key.ciphertext_size()];
    let written = key
        .encrypt(algorithm, &seed, &mut ciphertext, Some(IDENTITY))
        .map_err(|_| MakeCredentialError::Crypto)?;
    let mut encrypted = Vec::new();
    put_sized(&mut encrypted, written);
    Ok((seed, encrypted))
}

/// A seed from one-pass ECDH with an ephemeral key, which the TPM gets as the secret (Part 1 §C.6.4).
fn ecc_seed(ek: &PublicArea, curve: Curve) -> Result<(Seed, Vec<u8>), MakeCredentialError> {
    let algorithm = match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
    };
    let point = ek
        .key
        .uncompressed_point()
        .ok_or(MakeCredentialError::InvalidKey)?;
    let ephemeral = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())
        .map_err(|_| MakeCredentialError::Crypto)?;
    let public = ephemeral
        .compute_public_key()
        .map_err(|_| MakeCredentialError::Crypto)?;
    let (x, y) = coordinates(public.as_ref(), curve).ok_or(MakeCredentialError::Crypto)?;
    let (ek_x, _) = coordinates(&point, curve).ok_or(MakeCredentialError::InvalidKey)?;
    let seed = agreement::agree_ephemeral(
        ephemeral,
        UnparsedPublicKey::new(algorithm, &point),
        MakeCredentialError::InvalidKey,
        |shared| Ok(kdf_e(ek.name_hash, shared, x, ek_x)),
    )?;
    let mut secret = Vec::new();
    put_sized(&mut secret, x);
    put_sized(&mut secret, y);
    let mut encrypted = Vec::new();
    put_sized(&mut encrypted, &secret);
    Ok((seed, encrypted))
}

/// X and Y of an uncompressed point.
fn coordinates(point: &[u8], curve: Curve) -> Option<(&[u8], &[u8])> {
    let (tag, rest) = point.split_first()?;
    (*tag == 4 && rest.len() == 2 * curve.coordinate_len())
        .then(|| rest.split_at(curve.coordinate_len()))
}

fn aes_cfb(key: &[u8], in_out: &mut [u8]) -> Result<(), MakeCredentialError> {
    let algorithm = match key.len() {
        16 => &AES_128,
        32 => &AES_256,
        _ => return Err(MakeCredentialError::Crypto),
    };
    // The IV is zero by specification: the key is used for this one message.
    UnboundCipherKey::new(algorithm, key)
        .and_then(EncryptingKey::cfb128)
        .and_then(|key| {
            key.less_safe_encrypt(in_out, EncryptionContext::Iv128(FixedLength::from([0; 16])))
        })
        .map(|_| ())
        .map_err(|_| MakeCredentialError::Crypto)
}

/// SP 800-108 in counter mode (Part 1 §11.4.10.2). `label` ends in NUL; `bits` is a multiple of 8, one or two blocks.
fn kdf_a(hash: HashAlgorithm, key: &[u8], label: &[u8], context: &[u8], bits: usize) -> Seed {
    let bits_field = u32::try_from(bits).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = Zeroizing::new(Vec::new());
    let mut counter: u32 = 0;
    while out.len() * 8 < bits {
        counter += 1;
        let block = hash.hmac(key, &[&counter.to_be_bytes(), label, context, &bits_field]);
        out.extend_from_slice(&block);
    }
    out.truncate(bits / 8);
    out
}

/// SP 800-56A, one block (Part 1 §11.4.10.3): the seed is as long as the hash.
fn kdf_e(hash: HashAlgorithm, shared: &[u8], party_u: &[u8], party_v: &[u8]) -> Seed {
    let counter = 1_u32.to_be_bytes();
    Zeroizing::new(hash.digest(&[&counter, shared, IDENTITY, party_u, party_v]))
}

const IDENTITY: &[u8] = b"IDENTITY\0";

#[cfg(test)]
mod tests;
