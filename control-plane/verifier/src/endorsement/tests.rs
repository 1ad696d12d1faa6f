//! Chains of endorsement keys made here, and real certificates. Chains that a real maker's tool made are tested in the
//! workspace's tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;

use super::*;

type Ca = CertifiedIssuer<'static, KeyPair>;

const EK_USAGE: &[u64] = &[2, 23, 133, 8, 1];
const YEAR: u64 = 365 * 86_400;
/// 2030-01-01.
const NOW: u64 = 1_893_456_000;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(2029, 1, 1);
    params.not_after = date_time_ymd(2031, 1, 1);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn der(ca: &Ca) -> CertificateDer<'static> {
    let certificate: &rcgen::Certificate = ca.as_ref();
    certificate.der().clone()
}

fn leaf(ca: &Ca, key: &KeyPair, usages: Vec<ExtendedKeyUsagePurpose>) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.extended_key_usages = usages;
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.not_before = date_time_ymd(2029, 6, 1);
    params.not_after = date_time_ymd(2030, 6, 1);
    params.signed_by(key, ca).unwrap().into()
}

fn ek_usage() -> Vec<ExtendedKeyUsagePurpose> {
    vec![ExtendedKeyUsagePurpose::Other(EK_USAGE.to_vec())]
}

/// The public area's key of a P-256 key pair.
fn public(key: &KeyPair) -> Key {
    let point = key.der_bytes();
    Key::Ecc {
        curve: Curve::P256,
        x: point[1..33].to_vec(),
        y: point[33..65].to_vec(),
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[track_caller]
fn check(
    roots: &EkRoots,
    chain: &[CertificateDer<'_>],
    key: &Key,
    seconds: u64,
    expected: Result<Class, &str>,
) {
    let found = roots.verify(chain, key, at(seconds));
    let found = found.map_err(|error| match error {
        EkChainError::Empty => "empty",
        EkChainError::TooLarge => "too large",
        EkChainError::Malformed => "malformed",
        EkChainError::Usage => "usage",
        EkChainError::OtherKey => "other key",
        EkChainError::Path(_) => "path",
    });
    assert_eq!(found, expected);
}

#[test]
fn a_chain_is_worth_what_its_root_says_and_each_fault_is_named() {
    let (maker, stranger) = (ca("maker"), ca("stranger"));
    let key = KeyPair::generate().unwrap();
    let other = KeyPair::generate().unwrap();
    let roots = EkRoots::new(vec![
        EkRoot::new(&der(&maker), Class::Hardware).unwrap(),
        EkRoot::new(&der(&ca("software maker")), Class::Software).unwrap(),
    ]);
    let good = leaf(&maker, &key, ek_usage());
    let one = std::slice::from_ref(&good);
    check(&roots, one, &public(&key), NOW, Ok(Class::Hardware));
    check(&roots, &[], &public(&key), NOW, Err("empty"));
    check(&roots, one, &public(&other), NOW, Err("other key"));
    check(&EkRoots::default(), one, &public(&key), NOW, Err("path"));
    check(
        &roots,
        &[leaf(&stranger, &key, ek_usage())],
        &public(&key),
        NOW,
        Err("path"),
    );
    check(
        &roots,
        &[leaf(&maker, &key, vec![])],
        &public(&key),
        NOW,
        Err("usage"),
    );
    let client = vec![ExtendedKeyUsagePurpose::ClientAuth];
    check(
        &roots,
        &[leaf(&maker, &key, client)],
        &public(&key),
        NOW,
        Err("usage"),
    );
    check(&roots, one, &public(&key), NOW + YEAR, Err("path"));
    check(&roots, one, &public(&key), NOW - YEAR, Err("path"));
    check(
        &roots,
        &vec![good.clone(); 9],
        &public(&key),
        NOW,
        Err("too large"),
    );
    let rsa = Key::Rsa {
        modulus: vec![0x80; 256],
        exponent: 65_537,
    };
    check(&roots, one, &rsa, NOW, Err("other key"));
}

#[test]
fn no_bit_of_a_certificate_can_be_changed() {
    let maker = ca("maker");
    let key = KeyPair::generate().unwrap();
    let roots = EkRoots::new(vec![EkRoot::new(&der(&maker), Class::Hardware).unwrap()]);
    let good = leaf(&maker, &key, ek_usage());
    for at_byte in 0..good.len() {
        for bit in 0..8 {
            let mut flipped = good.to_vec();
            flipped[at_byte] ^= 1 << bit;
            let chain = [CertificateDer::from(flipped)];
            let accepted = roots.verify(&chain, &public(&key), at(NOW));
            assert!(accepted.is_err(), "byte {at_byte} bit {bit}");
        }
    }
}

#[test]
fn only_an_authority_is_a_root() {
    let maker = ca("maker");
    let key = KeyPair::generate().unwrap();
    let not_ca = leaf(&maker, &key, ek_usage());
    assert!(EkRoot::new(&not_ca, Class::Hardware).is_err());
    assert!(EkRoot::new(&CertificateDer::from(vec![0x30, 0]), Class::Hardware).is_err());
    let trailing = CertificateDer::from([der(&maker).to_vec(), vec![0]].concat());
    assert!(EkRoot::new(&trailing, Class::Hardware).is_err());
}

#[test]
fn real_certificates_that_do_not_say_what_they_are_of_certify_nothing() {
    // One authority of Google's signs endorsement and attestation keys alike, and states no extended usage: nothing in
    // these certificates says that the key is an endorsement key.
    for pem in [
        &include_bytes!("../../testdata/tpm/pca_tpm_rsa_enc_cert.pem")[..],
        &include_bytes!("../../testdata/tpm/pca_tpm_ecc_enc_cert.pem")[..],
        &include_bytes!("../../testdata/tpm/pca_tpm_rsa_sign_cert.pem")[..],
        &include_bytes!("../../testdata/tpm/pca_tpm_ecc_sign_cert.pem")[..],
    ] {
        let certificate = CertificateDer::from_pem_slice(pem).unwrap();
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let key = match parsed.public_key().parsed().unwrap() {
            PublicKey::RSA(rsa) => Key::Rsa {
                modulus: trim(rsa.modulus).to_vec(),
                exponent: 65_537,
            },
            PublicKey::EC(point) => Key::Ecc {
                curve: Curve::P256,
                x: point.data()[1..33].to_vec(),
                y: point.data()[33..].to_vec(),
            },
            other => panic!("{other:?}"),
        };
        assert!(check_key(&parsed, &key).is_ok());
        check(&EkRoots::default(), &[certificate], &key, NOW, Err("usage"));
    }
}
