use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384,
};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

use super::*;
use crate::judgement::flips::{Flip, assert_table};
use crate::judgement::{BindingState, Judgement};

/// An enclave of a root of our own.
struct Enclave {
    fields: Vec<(&'static str, Vec<u8>)>,
    signed_by_other: bool,
    leaf_by_other: bool,
    issuer_is_ca: bool,
    root_is_other: bool,
    leaf_is_ca: bool,
    bundle_is_garbage: bool,
    binds_user_data: bool,
    trailing: Vec<u8>,
    tag: Vec<u8>,
    protected: Vec<u8>,
    head: u8,
    unprotected: Vec<u8>,
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
            leaf_is_ca: false,
            bundle_is_garbage: false,
            binds_user_data: false,
            trailing: Vec::new(),
            tag: Vec::new(),
            protected: vec![0xa1, 0x01, 0x38, 0x22],
            head: 0x84,
            unprotected: vec![0xa0],
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
        let mut params = authority("leaf", self.leaf_is_ca);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf_der = params.signed_by(&leaf, &signer).unwrap().der().to_vec();
        let mut bundle = vec![0x82];
        cbor::put_bytes(&mut bundle, &root_der);
        let garbage: &[u8] = &[0x30, 0];
        let second = if self.bundle_is_garbage {
            garbage
        } else {
            &issuer_der
        };
        cbor::put_bytes(&mut bundle, second);
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
        let expected = Some(if self.binds_user_data {
            Binding::UserData(self.nonce)
        } else {
            Binding::Nonce(self.nonce)
        });
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
        let mut document = [&self.tag[..], &[self.head]].concat();
        cbor::put_bytes(&mut document, &self.protected);
        document.extend(&self.unprotected);
        cbor::put_bytes(&mut document, payload);
        cbor::put_bytes(&mut document, signature.as_ref());
        document.extend(&self.trailing);
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

fn flip(check: &'static str, reason: &'static str, change: impl FnOnce(&mut Enclave)) -> Flip {
    Flip {
        check,
        reason,
        follows: &[],
        judgement: Enclave::with(change).judge(),
    }
}

#[test]
fn every_check_notices_its_input_alone() {
    let good = [
        Enclave::with(|_| {}).judge(),
        Enclave::with(|e| e.tag = vec![0xd2]).judge(),
        Enclave::with(|e| {
            e.set("user_data", b"\x42ab");
            e.nonce = b"ab";
            e.binds_user_data = true;
        })
        .judge(),
        Enclave::with(|e| drop(e.rules.pcrs.insert(1, vec![vec![0xcc; 48], vec![0xbb; 48]])))
            .judge(),
        Enclave::with(|e| {
            e.set("pcrs", &[0xa0]);
            e.rules.danger_accept_debug = true;
        })
        .judge(),
    ];
    let mut flips = flips_of_the_format();
    flips.extend(flips_of_the_rest());
    assert_table(CHECKS, &good, &flips, &[include_str!("../nitro.rs")]);
}

fn flips_of_the_format() -> Vec<Flip> {
    let malformed =
        |change: fn(&mut Enclave)| flip("document_format", "document_malformed", change);
    let of_47_bytes = [&[0xa1, 0x00, 0x58, 47][..], &[0xaa; 47]].concat();
    let twice = [
        &[0xa2][..],
        &[&[0x00, 0x58, 48][..], &[0xaa; 48]].concat().repeat(2),
    ]
    .concat();
    let of_32 = [&[0xa1, 0x18, 32, 0x58, 48][..], &[0xaa; 48]].concat();
    let mut flips = vec![
        malformed(|e| e.tag = vec![0xd3]),
        malformed(|e| e.protected = vec![0xa1, 0x01, 0x26]),
        malformed(|e| e.protected = vec![0xa0]),
        malformed(|e| e.protected = vec![0xa1, 0x02, 0x38, 0x22]),
        malformed(|e| e.unprotected = vec![0xa1, 0x01, 0x26]),
        malformed(|e| e.head = 0x83),
        malformed(|e| e.head = 0x85),
        malformed(|e| e.protected = vec![0xa1, 0x01, 0x38, 0x22, 0x00]),
        malformed(|e| e.set("digest", b"\x66SHA256")),
        malformed(|e| e.fields.push(("digest", b"\x66SHA384".to_vec()))),
        malformed(|e| e.fields.push(("unknown", vec![0xf6]))),
        malformed(|e| drop(e.fields.remove(2))),
        malformed(|e| e.set("user_data", &[&[0x59, 4, 1][..], &[0; 1025]].concat())),
        flip("document_format", "trailing_data", |e| e.trailing = vec![0]),
    ];
    for pcrs in [&of_47_bytes, &twice, &of_32] {
        flips.push(flip("document_format", "document_malformed", |e| {
            e.set("pcrs", pcrs)
        }));
    }
    flips
}

fn flips_of_the_rest() -> Vec<Flip> {
    let zero = [&[0xa1, 0x00, 0x58, 48][..], &[0; 48]].concat();
    vec![
        flip("chain_format", "chain_malformed", |e| {
            e.bundle_is_garbage = true
        }),
        flip("chain", "root_not_pinned", |e| e.root_is_other = true),
        flip("chain", "chain_signature", |e| e.leaf_by_other = true),
        flip("chain", "chain_signature", |e| e.issuer_is_ca = false),
        flip("chain", "certificate_expired", |e| e.now = NOW + 1001),
        Flip {
            // Of a time before the certificate, the document is of the future as well.
            follows: &["timestamp"],
            ..flip("chain", "certificate_not_yet_valid", |e| e.now = NOW - 1001)
        },
        flip("leaf_role", "leaf_role", |e| e.leaf_is_ca = true),
        flip("document_signature", "document_signature", |e| {
            e.signed_by_other = true
        }),
        flip("timestamp", "timestamp_in_future", |e| e.now = NOW - 301),
        flip("binding", "nonce_mismatch", |e| e.nonce = b"other"),
        flip("binding", "nonce_mismatch", |e| e.nonce = b""),
        flip("binding", "nonce_mismatch", |e| e.set("nonce", &[0xf6])),
        flip("binding", "report_data_mismatch", |e| {
            e.binds_user_data = true
        }),
        flip("debug", "debug_enabled", |e| e.set("pcrs", &zero)),
        flip("debug", "debug_enabled", |e| e.set("pcrs", &[0xa0])),
        flip("pcrs", "pcrs", |e| {
            drop(e.rules.pcrs.insert(1, vec![vec![0xcc; 48]]))
        }),
        flip("pcrs", "pcrs", |e| {
            drop(e.rules.pcrs.insert(8, vec![vec![0; 48]]))
        }),
    ]
}
