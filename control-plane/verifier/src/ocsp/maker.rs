//! Makes authorities and OCSP responses of our own, so that tests can turn each input and sign again.

use std::time::UNIX_EPOCH;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SerialNumber,
};

use super::*;
use crate::der::{BIT_STRING, BOOLEAN, ENUMERATED, GENERALIZED_TIME};

/// Days after 2020-01-01.
pub(crate) fn time(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs((18_262 + days) * 86_400)
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

pub(crate) fn params(name: &str, until: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(1000).into();
    params.not_after = time(until).into();
    params
}

/// Signs as reports do: both numbers at full length.
pub(crate) fn sign_fixed(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    sign(key, message, &ECDSA_P384_SHA384_FIXED_SIGNING)
}

fn sign(key: &KeyPair, message: &[u8], algorithm: &'static EcdsaSigningAlgorithm) -> Vec<u8> {
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, &key.serialize_der()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), message).unwrap();
    signature.as_ref().to_vec()
}

/// An authority, and its certificate: by itself unless another one certified it.
pub(crate) struct Authority {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
    pub(crate) der: Vec<u8>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let (params, key) = Self::prepare(name, None);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { params, key, der }
    }

    /// `depth` is how many authorities may be below.
    pub(crate) fn below(&self, name: &str, serial: Option<&[u8]>, depth: Option<u8>) -> Self {
        let (mut params, key) = Self::prepare(name, serial);
        if let Some(depth) = depth {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
        }
        let der = self.certify(&params, &key);
        Self { params, key, der }
    }

    fn prepare(name: &str, serial: Option<&[u8]>) -> (CertificateParams, KeyPair) {
        let mut params = params(name, 4000);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = serial.map(SerialNumber::from_slice);
        (params, key())
    }

    pub(crate) fn certify(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let own = KeyPair::try_from(self.key.serialize_der()).unwrap();
        let issuer = Issuer::new(self.params.clone(), own);
        params.signed_by(key, &issuer).unwrap().der().to_vec()
    }
}

/// A response about one certificate; each field is an input of a check.
pub(crate) struct Answerer {
    pub(crate) response_status: u8,
    pub(crate) status: Vec<u8>,
    pub(crate) this_update: u64,
    pub(crate) next_update: Option<u64>,
    pub(crate) serial_is_other: bool,
    pub(crate) issuer_name_is_other: bool,
    pub(crate) issuer_key_is_other: bool,
    pub(crate) hash: &'static [u8],
    pub(crate) twice: bool,
    pub(crate) nonce: Option<&'static [u8]>,
    pub(crate) nonce_is_twice: bool,
    pub(crate) critical: bool,
    pub(crate) by_issuer: bool,
    pub(crate) by_name: bool,
    pub(crate) responder_is_of_other: bool,
    pub(crate) responder_is_missing: bool,
    pub(crate) responder_until: u64,
    pub(crate) responder_may_answer: bool,
    pub(crate) responder_may_sign: bool,
    pub(crate) responder_has_key_usage: bool,
    pub(crate) responder_is_critical: bool,
    pub(crate) certificates: usize,
    pub(crate) signed_by_other: bool,
    pub(crate) trailing: bool,
}

pub(crate) const GOOD_STATUS: &[u8] = &[0x80, 0];
pub(crate) const UNKNOWN_STATUS: &[u8] = &[0x82, 0];

/// Revoked on day 1500, with a reason of RFC 5280 §5.3.1.
pub(crate) fn revoked(reason: Option<u8>) -> Vec<u8> {
    let mut info = generalized(1500);
    if let Some(reason) = reason {
        info.extend(element(CONTEXT_0, &element(ENUMERATED, &[reason])));
    }
    element(CONTEXT_1, &info)
}

impl Default for Answerer {
    fn default() -> Self {
        Self {
            response_status: 0,
            status: GOOD_STATUS.to_vec(),
            this_update: 2000,
            next_update: Some(2001),
            serial_is_other: false,
            issuer_name_is_other: false,
            issuer_key_is_other: false,
            hash: SHA384,
            twice: false,
            nonce: None,
            nonce_is_twice: false,
            critical: false,
            by_issuer: false,
            by_name: false,
            responder_is_of_other: false,
            responder_is_missing: false,
            responder_until: 3000,
            responder_may_answer: true,
            responder_may_sign: true,
            responder_has_key_usage: true,
            responder_is_critical: false,
            certificates: 1,
            signed_by_other: false,
            trailing: false,
        }
    }
}

impl Answerer {
    pub(crate) fn answer(&self, certificate: &[u8], issuer: &Authority) -> Vec<u8> {
        let key = key();
        let mut params = params("responder", self.responder_until);
        if self.responder_may_answer {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        }
        params.key_usages = vec![if self.responder_may_sign {
            KeyUsagePurpose::DigitalSignature
        } else {
            KeyUsagePurpose::KeyAgreement
        }];
        if !self.responder_has_key_usage {
            params.key_usages.clear();
        }
        if self.responder_is_critical {
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        }
        let other;
        let parent = if self.responder_is_of_other {
            other = Authority::root("issuer");
            &other
        } else {
            issuer
        };
        let responder = parent.certify(&params, &key);
        let (signer, signer_key) = if self.by_issuer {
            (issuer.der.as_slice(), &issuer.key)
        } else {
            (responder.as_slice(), &key)
        };
        let data = self.data(certificate, &issuer.der, signer);
        let stranger = self::key();
        let signing = if self.signed_by_other {
            &stranger
        } else {
            signer_key
        };
        let signature = sign(signing, &data, &ECDSA_P384_SHA384_ASN1_SIGNING);
        let algorithm = element(OBJECT_IDENTIFIER, ECDSA_SHA384);
        let mut basic = data;
        basic.extend(element(SEQUENCE, &algorithm));
        basic.extend(element(BIT_STRING, &[&[0], signature.as_slice()].concat()));
        if !self.responder_is_missing {
            basic.extend(element(
                CONTEXT_0,
                &element(SEQUENCE, &responder.repeat(self.certificates)),
            ));
        }
        let basic = element(OCTET_STRING, &element(SEQUENCE, &basic));
        let typed = [element(OBJECT_IDENTIFIER, BASIC), basic].concat();
        let mut response = element(ENUMERATED, &[self.response_status]);
        response.extend(element(CONTEXT_0, &element(SEQUENCE, &typed)));
        let mut response = element(SEQUENCE, &response);
        if self.trailing {
            response.push(0);
        }
        response
    }

    fn data(&self, certificate: &[u8], issuer: &[u8], signer: &[u8]) -> Vec<u8> {
        let parsed = x509::parse(signer).unwrap();
        let mut data = if self.by_name {
            element(CONTEXT_1, parsed.subject().as_raw())
        } else {
            let key = &parsed.public_key().subject_public_key.data;
            let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key);
            element(CONTEXT_2, &element(OCTET_STRING, digest.as_ref()))
        };
        data.extend(generalized(self.this_update));
        let single = self.single(certificate, issuer);
        let singles = if self.twice { single.repeat(2) } else { single };
        data.extend(element(SEQUENCE, &singles));
        let mut list = Vec::new();
        if let Some(nonce) = self.nonce {
            let value = element(OCTET_STRING, &element(OCTET_STRING, nonce));
            let extension = [element(OBJECT_IDENTIFIER, NONCE), value].concat();
            let times = 1 + usize::from(self.nonce_is_twice);
            list.extend(element(SEQUENCE, &extension).repeat(times));
        }
        if self.critical {
            let critical = element(BOOLEAN, &[0xff]);
            let value = element(OCTET_STRING, &element(NULL, &[]));
            let extension = [element(OBJECT_IDENTIFIER, &[0x2a, 3]), critical, value].concat();
            list.extend(element(SEQUENCE, &extension));
        }
        if !list.is_empty() {
            data.extend(element(CONTEXT_1, &element(SEQUENCE, &list)));
        }
        element(SEQUENCE, &data)
    }

    fn single(&self, certificate: &[u8], issuer: &[u8]) -> Vec<u8> {
        let (certificate, issuer) = (
            x509::parse(certificate).unwrap(),
            x509::parse(issuer).unwrap(),
        );
        let algorithm = match self.hash {
            SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            SHA256 => &digest::SHA256,
            SHA512 => &digest::SHA512,
            _ => &digest::SHA384,
        };
        let hash = |bytes: &[u8], is_other: bool| {
            let mut found = digest::digest(algorithm, bytes).as_ref().to_vec();
            found[0] ^= u8::from(is_other);
            element(OCTET_STRING, &found)
        };
        let mut serial = certificate.raw_serial().to_vec();
        *serial.last_mut().unwrap() ^= u8::from(self.serial_is_other);
        let hash_algorithm = [element(OBJECT_IDENTIFIER, self.hash), element(NULL, &[])].concat();
        let id = [
            element(SEQUENCE, &hash_algorithm),
            hash(issuer.subject().as_raw(), self.issuer_name_is_other),
            hash(
                &issuer.public_key().subject_public_key.data,
                self.issuer_key_is_other,
            ),
            element(INTEGER, &serial),
        ]
        .concat();
        let mut single = element(SEQUENCE, &id);
        single.extend(&self.status);
        single.extend(generalized(self.this_update));
        if let Some(next_update) = self.next_update {
            single.extend(element(CONTEXT_0, &generalized(next_update)));
        }
        element(SEQUENCE, &single)
    }
}

fn generalized(days: u64) -> Vec<u8> {
    let time = jiff::Timestamp::try_from(time(days)).unwrap();
    let text = time.strftime("%Y%m%d%H%M%SZ").to_string();
    element(GENERALIZED_TIME, text.as_bytes())
}

const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
