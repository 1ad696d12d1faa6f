//! A credential is opened here as a TPM would, for key sizes that software TPMs do not offer as endorsement keys. That
//! a TPM opens them too is tested over a real one, in the workspace's tests.

use aws_lc_rs::agreement::{PrivateKey, agree};
use aws_lc_rs::cipher::{DecryptingKey, DecryptionContext};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};

use super::*;
use crate::evidence::tpm::public::{Attributes, PublicArea};
use crate::evidence::tpm::wire::Reader;

const SECRET: [u8; 32] = [0x5e; 32];
const AK_NAME: &[u8] = &[7; 34];

fn put(out: &mut Vec<u8>, words: &[u16]) {
    words.iter().for_each(|word| out.extend(word.to_be_bytes()));
}

fn ek(hash: HashAlgorithm, aes_bits: u16, key: &Key) -> PublicArea {
    let mut raw = Vec::new();
    put(
        &mut raw,
        &[
            if matches!(key, Key::Rsa { .. }) {
                1
            } else {
                0x23
            },
            hash.id(),
        ],
    );
    raw.extend(0x0003_00b2_u32.to_be_bytes());
    put(&mut raw, &[0, 6, aes_bits, 0x43, 0x10]);
    match key {
        Key::Rsa { modulus, .. } => {
            put(&mut raw, &[u16::try_from(modulus.len() * 8).unwrap(), 0, 0]);
            put_sized(&mut raw, modulus);
        }
        Key::Ecc { curve, x, y } => {
            put(&mut raw, &[if *curve == Curve::P256 { 3 } else { 4 }, 0x10]);
            put_sized(&mut raw, x);
            put_sized(&mut raw, y);
        }
    }
    PublicArea::parse(&raw).unwrap()
}

/// Part 1 §24.5, from the seed on.
fn open(ek: &PublicArea, seed: &[u8], blob: &[u8], ak_name: &[u8]) -> Option<Vec<u8>> {
    let hash = ek.name_hash;
    let mut reader = Reader::new(blob);
    let mut object = Reader::new(reader.sized(1024, "object").ok()?);
    let mac = object.sized(64, "mac").ok()?.to_vec();
    let mut identity = object.bytes(34, "identity").ok()?.to_vec();
    let integrity = kdf_a(hash, seed, b"INTEGRITY\0", b"", hash.digest_len() * 8);
    if hash.hmac(&integrity, &[&identity, ak_name]) != mac {
        return None;
    }
    let bits = usize::from(ek.protects_with_aes_bits?);
    let storage = kdf_a(hash, seed, b"STORAGE\0", ak_name, bits);
    let algorithm = if bits == 128 { &AES_128 } else { &AES_256 };
    let key = UnboundCipherKey::new(algorithm, &storage).ok()?;
    DecryptingKey::cfb128(key)
        .ok()?
        .decrypt(
            &mut identity,
            DecryptionContext::Iv128(FixedLength::from([0; 16])),
        )
        .ok()?;
    let mut identity = Reader::new(&identity);
    identity.sized(32, "secret").ok().map(<[u8]>::to_vec)
}

#[test]
fn elliptic_endorsement_keys_of_all_kinds_open_what_is_made_for_them() {
    for (curve, algorithm, hash, bits) in [
        (Curve::P256, &ECDH_P256, HashAlgorithm::Sha256, 128),
        (Curve::P384, &ECDH_P384, HashAlgorithm::Sha384, 256),
    ] {
        let private = PrivateKey::generate(algorithm).unwrap();
        let public = private.compute_public_key().unwrap();
        let (x, y) = coordinates(public.as_ref(), curve).unwrap();
        let key = Key::Ecc {
            curve,
            x: x.to_vec(),
            y: y.to_vec(),
        };
        let ek = ek(hash, bits, &key);
        let credential = make_credential(&ek, AK_NAME, &SECRET).unwrap();
        let mut reader = Reader::new(&credential.encrypted_secret);
        let mut point = Reader::new(reader.sized(256, "secret").unwrap());
        let (px, py) = (point.sized(48, "x").unwrap(), point.sized(48, "y").unwrap());
        let ephemeral = [&[4], px, py].concat();
        let seed = agree(
            &private,
            UnparsedPublicKey::new(algorithm, &ephemeral),
            (),
            |shared| Ok(kdf_e(hash, shared, px, x)),
        )
        .unwrap();
        assert_eq!(
            open(&ek, &seed, &credential.blob, AK_NAME).as_deref(),
            Some(SECRET.as_slice())
        );
        assert_eq!(open(&ek, &seed, &credential.blob, &[8; 34]), None);
    }
}

#[test]
fn rsa_endorsement_keys_of_all_kinds_open_what_is_made_for_them() {
    for (size, hash, bits) in [
        (KeySize::Rsa2048, HashAlgorithm::Sha256, 128),
        (KeySize::Rsa3072, HashAlgorithm::Sha384, 256),
    ] {
        let private = PrivateDecryptingKey::generate(size).unwrap();
        let spki = private.public_key().as_der().unwrap();
        let (_, parsed) =
            <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(
                spki.as_ref(),
            )
            .unwrap();
        let x509_parser::public_key::PublicKey::RSA(found) = parsed.parsed().unwrap() else {
            panic!("an RSA key")
        };
        let modulus = found.modulus.strip_prefix(&[0]).unwrap_or(found.modulus);
        let key = Key::Rsa {
            modulus: modulus.to_vec(),
            exponent: 65_537,
        };
        let ek = ek(hash, bits, &key);
        let credential = make_credential(&ek, AK_NAME, &SECRET).unwrap();
        let private = OaepPrivateDecryptingKey::new(private).unwrap();
        let algorithm = match hash {
            HashAlgorithm::Sha256 => &OAEP_SHA256_MGF1SHA256,
            HashAlgorithm::Sha384 => &OAEP_SHA384_MGF1SHA384,
        };
        let mut out = vec![0; private.min_output_size()];
        let seed = private
            .decrypt(
                algorithm,
                &credential.encrypted_secret[2..],
                &mut out,
                Some(IDENTITY),
            )
            .unwrap();
        assert_eq!(
            open(&ek, seed, &credential.blob, AK_NAME).as_deref(),
            Some(SECRET.as_slice())
        );
    }
}

#[test]
fn a_point_off_its_curve_and_a_key_that_protects_nothing_are_refused() {
    let key = Key::Ecc {
        curve: Curve::P256,
        x: vec![1; 32],
        y: vec![1; 32],
    };
    let ek = ek(HashAlgorithm::Sha256, 128, &key);
    assert!(ek.attributes.has(Attributes::RESTRICTED));
    assert_eq!(
        make_credential(&ek, AK_NAME, &SECRET),
        Err(MakeCredentialError::InvalidKey)
    );
    let mut naked = ek;
    naked.protects_with_aes_bits = None;
    assert!(make_credential(&naked, AK_NAME, &SECRET).is_err());
}
