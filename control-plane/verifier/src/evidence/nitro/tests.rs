use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384,
};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

use super::*;
use crate::judgement::{BindingState, Judgement, Status};

/// An enclave of a root of our own.
struct Enclave {
    fields: Vec<(&'static str, Vec<u8>)>,
    signed_by_other: bool,
    leaf_by_other: bool,
    issuer_is_ca: bool,
    root_is_other: bool,
    tag: Vec<u8>,
    protected: Vec<u8>,
    rules: Rules,
    nonce: &'static [u8],
    now: u64,
}

impl Enclave {
    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut pcrs = vec![0xa2, 0x00, 0x58, 48];
        pcrs.extend([0xaa; 48]);
        pcrs.extend([0x01, 0x58, 48]);
        pcrs.extend([0xbb; 48]);
        let mut enclave = Self {
            fields: vec![
                ("module_id", b"\x63i-1".to_vec()),
                ("digest", b"\x66SHA384".to_vec()),
                (
                    "timestamp",
                    [&[0x1b][..], &(NOW * 1000).to_be_bytes()].concat(),
                ),
                ("pcrs", pcrs),
                ("user_data", vec![0xf6]),
                ("nonce", b"\x45nonce".to_vec()),
            ],
            signed_by_other: false,
            leaf_by_other: false,
            issuer_is_ca: true,
            root_is_other: false,
            tag: Vec::new(),
            protected: vec![0xa1, 0x01, 0x38, 0x22],
            rules: Rules::default(),
            nonce: b"nonce",
            now: NOW,
        };
        change(&mut enclave);
        enclave
    }

    fn judge(&self) -> Judgement {
        let (root, other, issuer, leaf) = (key(), key(), key(), key());
        let root_der = authority("root", true)
            .self_signed(&root)
            .unwrap()
            .der()
            .to_vec();
        let other_der = authority("root", true)
            .self_signed(&other)
            .unwrap()
            .der()
            .to_vec();
        let parent = Issuer::new(authority("root", true), root);
        let issuer_params = authority("issuer", self.issuer_is_ca);
        let issuer_der = issuer_params
            .signed_by(&issuer, &parent)
            .unwrap()
            .der()
            .to_vec();
        let signer = if self.leaf_by_other { key() } else { issuer };
        let signer = Issuer::new(authority("issuer", true), signer);
        let mut params = authority("leaf", false);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf_der = params.signed_by(&leaf, &signer).unwrap().der().to_vec();
        let mut bundle = vec![0x82];
        cbor::put_bytes(&mut bundle, &root_der);
        cbor::put_bytes(&mut bundle, &issuer_der);
        let mut certificate = Vec::new();
        cbor::put_bytes(&mut certificate, &leaf_der);
        let mut fields = self.fields.clone();
        fields.extend([("cabundle", bundle), ("certificate", certificate)]);
        let payload = map(&fields);
        let signing = if self.signed_by_other { &other } else { &leaf };
        let document = self.document(&payload, signing);
        let pinned = if self.root_is_other {
            &other_der
        } else {
            &root_der
        };
        let mut ledger = Ledger::default();
        let expected = Some(Binding::Nonce(self.nonce));
        judge_below(
            pinned,
            &document,
            expected,
            &self.rules,
            time(self.now),
            &mut ledger,
        );
        ledger.conclude(BindingState::Checked)
    }

    fn document(&self, payload: &[u8], key: &KeyPair) -> Vec<u8> {
        let mut signed = b"\x84\x6aSignature1".to_vec();
        cbor::put_bytes(&mut signed, &self.protected);
        signed.push(0x40);
        cbor::put_bytes(&mut signed, payload);
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key.serialize_der())
            .unwrap();
        let signature = pair.sign(&SystemRandom::new(), &signed).unwrap();
        let mut document = [&self.tag[..], &[0x84]].concat();
        cbor::put_bytes(&mut document, &self.protected);
        document.push(0xa0);
        cbor::put_bytes(&mut document, payload);
        cbor::put_bytes(&mut document, signature.as_ref());
        document
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        let field = self
            .fields
            .iter_mut()
            .find(|(held, _)| *held == name)
            .unwrap();
        field.1 = value.to_vec();
    }
}

fn map(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0xa0 | u8::try_from(fields.len()).unwrap()];
    for (name, value) in fields {
        out.push(0x60 | u8::try_from(name.len()).unwrap());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value);
    }
    out
}

fn authority(name: &str, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(NOW - 1000).into();
    params.not_after = time(NOW + 1000).into();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

const NOW: u64 = 1_700_000_000;

#[test]
fn document_as_it_should_be_is_affirmed() {
    let judgement = Enclave::with(|_| {}).judge();
    assert_eq!(
        (judgement.status, judgement.reason),
        (Status::Affirming, "verified"),
        "{judgement:#?}"
    );
    assert_eq!(
        Enclave::with(|e| e.tag = vec![0xd2]).judge().reason,
        "verified"
    );
}

#[test]
fn every_check_fails_by_itself() {
    let cases: Vec<(&str, Enclave)> = vec![
        ("document_malformed", Enclave::with(|e| e.tag = vec![0xd3])),
        (
            "document_malformed",
            Enclave::with(|e| e.protected = vec![0xa1, 0x01, 0x26]),
        ),
        (
            "document_malformed",
            Enclave::with(|e| e.protected = vec![0xa0]),
        ),
        (
            "document_malformed",
            Enclave::with(|e| e.set("digest", b"\x66SHA256")),
        ),
        (
            "document_malformed",
            Enclave::with(|e| e.fields.push(("digest", b"\x66SHA384".to_vec()))),
        ),
        (
            "document_malformed",
            Enclave::with(|e| e.fields.push(("unknown", vec![0xf6]))),
        ),
        (
            "document_malformed",
            Enclave::with(|e| drop(e.fields.remove(2))),
        ),
        (
            "document_malformed",
            Enclave::with(|e| e.set("pcrs", &[0xa1, 0x00, 0x41, 0xaa])),
        ),
        ("root_not_pinned", Enclave::with(|e| e.root_is_other = true)),
        ("chain_signature", Enclave::with(|e| e.leaf_by_other = true)),
        ("chain_signature", Enclave::with(|e| e.issuer_is_ca = false)),
        ("certificate_expired", Enclave::with(|e| e.now = NOW + 1001)),
        (
            "certificate_not_yet_valid",
            Enclave::with(|e| e.now = NOW - 1001),
        ),
        (
            "document_signature",
            Enclave::with(|e| e.signed_by_other = true),
        ),
        ("timestamp_in_future", Enclave::with(|e| e.now = NOW - 301)),
        ("nonce_mismatch", Enclave::with(|e| e.nonce = b"other")),
        ("nonce_mismatch", Enclave::with(|e| e.nonce = b"")),
        ("nonce_mismatch", Enclave::with(|e| e.set("nonce", &[0xf6]))),
        (
            "debug_enabled",
            Enclave::with(|e| {
                let mut pcrs = vec![0xa1, 0x00, 0x58, 48];
                pcrs.extend([0; 48]);
                e.set("pcrs", &pcrs);
            }),
        ),
        ("debug_enabled", Enclave::with(|e| e.set("pcrs", &[0xa0]))),
        (
            "pcrs",
            Enclave::with(|e| drop(e.rules.pcrs.insert(1, vec![vec![0xcc; 48]]))),
        ),
        (
            "pcrs",
            Enclave::with(|e| drop(e.rules.pcrs.insert(8, vec![vec![0; 48]]))),
        ),
    ];
    for (reason, enclave) in cases {
        let judgement = enclave.judge();
        assert_eq!(judgement.status, Status::Contraindicated, "{reason}");
        assert_eq!(judgement.reason, reason, "{judgement:#?}");
    }
    let met = Enclave::with(|e| drop(e.rules.pcrs.insert(1, vec![vec![0xcc; 48], vec![0xbb; 48]])));
    assert_eq!(met.judge().reason, "verified");
}
