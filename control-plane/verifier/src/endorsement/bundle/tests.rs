//! Bundles made here, and changed in every byte.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};

use super::*;
use crate::endorsement::need::{IntelTee, RimId};

struct Operator {
    key: rcgen::KeyPair,
}

impl Operator {
    fn new(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        Self { key }
    }

    fn public(&self) -> BundleKey {
        BundleKey::from_der(&self.key.subject_public_key_info()).unwrap()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let pkcs8 = self.key.serialize_der();
        if let Ok(key) = Ed25519KeyPair::from_pkcs8(&pkcs8) {
            assert_eq!(key.public_key().as_ref().len(), 32);
            return key.sign(message).as_ref().to_vec();
        }
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap();
        let signature = key.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }

    fn bundle(&self, objects: &[(Need, Vec<u8>)]) -> Vec<u8> {
        let objects = objects.iter().map(|(need, bytes)| (need, bytes.as_slice()));
        let unsigned = Unsigned::new(objects).unwrap();
        let signature = self.sign(unsigned.message());
        unsigned.signed(&self.public(), &signature)
    }
}

fn objects() -> Vec<(Need, Vec<u8>)> {
    vec![
        (Need::IntelQeIdentity { tee: IntelTee::Tdx }, b"{}".to_vec()),
        (Need::IntelRootCrl, vec![0, 1, 2]),
        (
            Need::NvidiaRim {
                id: RimId::new("NV_GPU_DRIVER_GH100_550.90.07").unwrap(),
            },
            b"<a/>".to_vec(),
        ),
        (
            Need::Ocsp {
                certificate: vec![1],
                issuer: vec![2],
            },
            vec![],
        ),
    ]
}

#[test]
fn what_was_carried_out_is_carried_in_with_either_algorithm() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256] {
        let operator = Operator::new(algorithm);
        let bundle = operator.bundle(&objects());
        let keys = [Operator::new(&PKCS_ED25519).public(), operator.public()];
        assert_eq!(read(&bundle, &keys).unwrap(), objects());
        let empty = operator.bundle(&[]);
        assert_eq!(read(&empty, &keys).unwrap(), []);
    }
}

#[test]
fn the_same_objects_make_the_same_file() {
    let operator = Operator::new(&PKCS_ED25519);
    let mut reversed = objects();
    reversed.reverse();
    assert_eq!(operator.bundle(&objects()), operator.bundle(&reversed));
}

#[test]
fn a_key_that_is_not_pinned_is_named() {
    let bundle = Operator::new(&PKCS_ED25519).bundle(&objects());
    let error = read(&bundle, &[Operator::new(&PKCS_ED25519).public()]).unwrap_err();
    assert!(matches!(error, BundleError::UnknownKey(_)), "{error}");
    assert_eq!(error.reason(), "bundle_key_not_pinned");
    assert!(read(&bundle, &[]).is_err());
}

#[test]
fn no_byte_can_be_changed_and_no_end_cut_off() {
    let operator = Operator::new(&PKCS_ED25519);
    let bundle = operator.bundle(&objects());
    let keys = [operator.public()];
    for at in 0..bundle.len() {
        assert!(read(&bundle[..at], &keys).is_err(), "cut at {at}");
        for flip in [1, 0x20, 0x80] {
            let mut changed = bundle.clone();
            changed[at] ^= flip;
            let Ok(found) = read(&changed, &keys) else {
                continue;
            };
            // Hex of the signature may be written in either case.
            assert_eq!(found, objects());
            assert!(changed.eq_ignore_ascii_case(&bundle));
        }
    }
    let longer = [bundle.as_slice(), b"\n"].concat();
    assert_eq!(read(&longer, &keys), Err(BundleError::Signature));
}

#[test]
fn a_signed_file_must_still_be_in_order() {
    let operator = Operator::new(&PKCS_ED25519);
    let unsigned = Unsigned::new(
        objects()
            .iter()
            .map(|(need, bytes)| (need, bytes.as_slice())),
    );
    let text = unsigned.unwrap().0;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.swap(1, 2);
    let check = |text: String, expected: BundleError| {
        let unsigned = Unsigned(text);
        let signature = operator.sign(unsigned.message());
        let bundle = unsigned.signed(&operator.public(), &signature);
        assert_eq!(read(&bundle, &[operator.public()]), Err(expected));
    };
    check(format!("{}\n", lines.join("\n")), BundleError::Order(5));
    check(
        text.replace("intel-root-crl", "intel-root-crx"),
        BundleError::Object(5),
    );
    check(
        text.replace("\"bytes\"", "\"byte\""),
        BundleError::Object(4),
    );
    let first = text.lines().nth(1).unwrap();
    check(
        text.replace(first, &format!("{first}\n{first}")),
        BundleError::Order(5),
    );
}

#[test]
fn keys_of_other_sorts_are_refused() {
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for der in [p384.subject_public_key_info(), vec![], b"junk".to_vec()] {
        assert_eq!(BundleKey::from_der(&der), Err(BundleKeyError));
    }
    let good = rcgen::KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let pem = good.public_key_pem();
    assert!(BundleKey::from_pem(pem.as_bytes()).is_ok());
    let longer = [good.subject_public_key_info(), vec![0]].concat();
    assert_eq!(BundleKey::from_der(&longer), Err(BundleKeyError));
}
