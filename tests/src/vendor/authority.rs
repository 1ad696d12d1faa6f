//! Keys, certificates and revocation lists of test vendors.

use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, SerialNumber, date_time_ymd,
};

/// A curve, with the digest that goes with it.
#[derive(Clone, Copy, Debug)]
pub enum Curve {
    /// Intel's.
    P256,
    /// That of AMD, NVIDIA and AWS.
    P384,
}

/// A key that signs.
#[derive(Clone, Debug)]
pub struct Key {
    curve: Curve,
    pkcs8: Vec<u8>,
}

impl Key {
    /// A new one.
    ///
    /// # Panics
    /// Without randomness.
    pub fn new(curve: Curve) -> Self {
        let algorithm = match curve {
            Curve::P256 => &PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &PKCS_ECDSA_P384_SHA384,
        };
        let pair = KeyPair::generate_for(algorithm).expect("there is randomness");
        Self {
            curve,
            pkcs8: pair.serialize_der(),
        }
    }

    /// Both numbers of a signature at full length, most significant byte first.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.ecdsa().sign(&SystemRandom::new(), message);
        signature.expect("there is randomness").as_ref().to_vec()
    }

    /// Both coordinates of the public key.
    pub fn point(&self) -> Vec<u8> {
        self.ecdsa().public_key().as_ref()[1..].to_vec()
    }

    fn ecdsa(&self) -> EcdsaKeyPair {
        let algorithm = match self.curve {
            Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        };
        EcdsaKeyPair::from_pkcs8(algorithm, &self.pkcs8).expect("it is a key")
    }

    fn pair(&self) -> KeyPair {
        KeyPair::try_from(self.pkcs8.as_slice()).expect("it is a key")
    }
}

/// Who signs certificates.
#[derive(Clone, Debug)]
pub struct Authority {
    params: CertificateParams,
    key: Key,
    der: Vec<u8>,
}

impl Authority {
    /// One that signed itself.
    pub fn root(name: &str, curve: Curve) -> Self {
        let (params, key) = (authority(name), Key::new(curve));
        let certificate = params.self_signed(&key.pair()).expect("it can sign");
        Self {
            der: certificate.der().to_vec(),
            params,
            key,
        }
    }

    /// One below, with a serial number where that means something.
    pub fn below(&self, name: &str, serial: Option<&[u8]>) -> Self {
        let (mut params, key) = (authority(name), Key::new(self.key.curve));
        params.serial_number = serial.map(SerialNumber::from_slice);
        Self {
            der: self.certify(&params, &key),
            params,
            key,
        }
    }

    /// Its certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Signs a certificate of a key.
    pub fn certify(&self, params: &CertificateParams, key: &Key) -> Vec<u8> {
        let certificate = params.signed_by(&key.pair(), &self.issuer());
        certificate.expect("it can sign").der().to_vec()
    }

    /// An empty list, good until `until`.
    pub fn revocation_list(&self, until: SystemTime) -> Vec<u8> {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: until.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer());
        list.expect("it can sign").der().to_vec()
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        Issuer::new(self.params.clone(), self.key.pair())
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A certificate of this name for thirty years.
pub fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params
}

/// Certificates in PEM, in this order.
pub fn pem(certificates: &[&[u8]]) -> String {
    let one = |der: &&[u8]| {
        let body = STANDARD.encode(der);
        let lines: Vec<_> = body.as_bytes().chunks(64).collect();
        let body = lines.join(&b'\n');
        let body = String::from_utf8_lossy(&body).into_owned();
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    certificates.iter().map(one).collect()
}
