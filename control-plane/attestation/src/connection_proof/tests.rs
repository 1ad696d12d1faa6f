//! Each field of the transcript flipped, each attack of the module's table mounted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use super::*;
use crate::claims::{Claims, Class, EvidenceKind};
use crate::result::{AttestationResult, DeviceResult, InstanceId};
use crate::revision::Revision;
use crate::svid::ATTESTATION_RESULT_OID;
use crate::trust_bundle::Authority;

const LLM: &str = "spiffe://factory.example/ns/inference/workload/llm";
const ECDSA_P256_SHA256: u16 = 0x0403;

/// 2030-01-01.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

fn binding() -> ConnectionBinding {
    let mut exporter = [0; 32];
    for (byte, value) in exporter.iter_mut().zip(0..) {
        *byte = value;
    }
    ConnectionBinding {
        exporter,
        client_leaf_sha256: [0xc1; 32],
        server_leaf_sha256: [0x5e; 32],
    }
}

fn transcript(connection: &ConnectionBinding) -> ConnectionTranscript<'_> {
    ConnectionTranscript {
        purpose: ProofPurpose::Extend,
        prover: PeerRole::Client,
        connection,
        leaf_sha256: [0x1e; 32],
        nonce: Nonce([0x9a; 32]),
        counter: 7,
    }
}

/// Computed apart from this code, from the description in DESIGN §5.3 and this module: label, then SHA-256 over label
/// and framed fields.
#[test]
fn transcripts_and_names_are_those_of_version_one() {
    let connection = binding();
    for (purpose, prover, label, digest) in [
        (
            ProofPurpose::Extend,
            PeerRole::Client,
            "extend",
            "47c52714aca3b20daf5b9982e05402cf991ff5f87467b9ee4e4da4b16e40f768",
        ),
        (
            ProofPurpose::Extend,
            PeerRole::Server,
            "extend",
            "924e8cdd80f7c090b01d997edf2983e6816b48ec1f434eded5da349d66aabdb1",
        ),
        (
            ProofPurpose::StrictInitial,
            PeerRole::Client,
            "strict-initial",
            "4887b35a922930f46bb1eece9ce480037b0a29a390d22e8e417e0f88308f50a4",
        ),
        (
            ProofPurpose::StrictRepeat,
            PeerRole::Server,
            "strict-repeat",
            "5b6d2c84d5c9ef764c29d6dbaa23d079b307b6d841bf9cafe9c8c37994ad9b63",
        ),
    ] {
        let message = ConnectionTranscript {
            purpose,
            prover,
            ..transcript(&connection)
        }
        .message();
        let label = format!("vouchsafe/v1/connection/{label}\0");
        let expected = [label.as_bytes(), &hex::decode(digest).unwrap()].concat();
        assert_eq!(message, expected, "{purpose:?} {prover:?}");
    }
    assert_eq!(
        hex::encode(connection.id().0),
        "514c4970ca1523be11f821df9d6d96fa"
    );
}

#[test]
fn every_field_changes_what_is_signed() {
    let connection = binding();
    let with = |change: fn(&mut ConnectionBinding)| {
        let mut changed = connection.clone();
        change(&mut changed);
        transcript(&changed).message()
    };
    let base = transcript(&connection);
    let messages = [
        base.message(),
        ConnectionTranscript {
            purpose: ProofPurpose::StrictInitial,
            ..base
        }
        .message(),
        ConnectionTranscript {
            purpose: ProofPurpose::StrictRepeat,
            ..base
        }
        .message(),
        ConnectionTranscript {
            prover: PeerRole::Server,
            ..base
        }
        .message(),
        ConnectionTranscript {
            leaf_sha256: [0x1f; 32],
            ..base
        }
        .message(),
        ConnectionTranscript {
            nonce: Nonce([0x9b; 32]),
            ..base
        }
        .message(),
        ConnectionTranscript { counter: 8, ..base }.message(),
        with(|connection| connection.exporter[31] ^= 1),
        with(|connection| connection.client_leaf_sha256[31] ^= 1),
        with(|connection| connection.server_leaf_sha256[31] ^= 1),
        with(|connection| {
            std::mem::swap(
                &mut connection.client_leaf_sha256,
                &mut connection.server_leaf_sha256,
            );
        }),
    ];
    for (index, one) in messages.iter().enumerate() {
        for other in &messages[index + 1..] {
            assert_ne!(one, other, "case {index}");
        }
        // What TLS 1.3 signs begins with 64 spaces: neither is ever taken for the other (RFC 8446 §4.4.3).
        assert_ne!(one[0], b' ');
    }
}

#[test]
fn every_part_of_a_connection_changes_its_name() {
    let base = binding();
    let changed = |change: fn(&mut ConnectionBinding)| {
        let mut changed = base.clone();
        change(&mut changed);
        changed.id()
    };
    for other in [
        changed(|connection| connection.exporter[0] ^= 1),
        changed(|connection| connection.client_leaf_sha256[0] ^= 1),
        changed(|connection| connection.server_leaf_sha256[0] ^= 1),
    ] {
        assert_ne!(base.id(), other);
    }
}

#[test]
fn no_label_begins_another() {
    let mut labels: Vec<&[u8]> = ProofPurpose::ALL.map(ProofPurpose::label).to_vec();
    labels.push(ID_LABEL);
    for (index, one) in labels.iter().enumerate() {
        assert_eq!(one.iter().filter(|byte| **byte == 0).count(), 1);
        assert_eq!(one.last(), Some(&0));
        for (other_index, other) in labels.iter().enumerate() {
            assert!(index == other_index || !other.starts_with(one));
        }
    }
}

#[test]
fn a_binding_does_not_show_its_exporter() {
    let shown = format!("{:?}", binding());
    assert!(!shown.contains("exporter"), "{shown}");
}

/// A mesh with one attesting authority, and keys of its own.
struct World {
    issuer: CertifiedIssuer<'static, KeyPair>,
    bundle: TrustBundle,
}

struct Holder {
    key: KeyPair,
    leaf: CertificateDer<'static>,
}

impl World {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date_time_ymd(2029, 1, 1);
        params.not_after = date_time_ymd(2031, 1, 1);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let root: &rcgen::Certificate = issuer.as_ref();
        let trust_domain = "factory.example".parse().unwrap();
        let authority = Authority::new(trust_domain, root.der(), true).unwrap();
        let bundle = TrustBundle::new(vec![authority]).unwrap();
        Self { issuer, bundle }
    }

    fn holder(&self, id: &str, instance: u8) -> Holder {
        let result = AttestationResult {
            class: Class::Simulated,
            root: EvidenceKind::Simulated,
            instance: InstanceId([instance; 16]),
            evidence_time: now(),
            policy_revision: Revision {
                epoch: 1,
                sequence: 1,
            },
            ear_sha256: [0; 32],
            devices: vec![DeviceResult {
                kind: EvidenceKind::Simulated,
                index: 0,
                claims: Claims::default(),
            }],
            inclusion_promise: None,
        };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = date_time_ymd(2029, 12, 31);
        params.not_after = date_time_ymd(2030, 1, 2);
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &ATTESTATION_RESULT_OID,
            result.encode().unwrap(),
        )];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().into();
        Holder { key, leaf }
    }

    fn peer(&self, holder: &Holder) -> Peer {
        let chain = [holder.leaf.clone()];
        verify_peer(&chain, &self.bundle, PeerRole::Client, now()).unwrap()
    }

    fn successor(&self, present: &Holder, next: &Holder) -> Result<Successor, ProofError> {
        let chain = [next.leaf.clone()];
        let present = self.peer(present);
        Successor::verify(&chain, &self.bundle, PeerRole::Client, now(), &present)
    }
}

impl Holder {
    fn sign(&self, transcript: &ConnectionTranscript<'_>) -> ConnectionProof {
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.key.serialize_der())
                .unwrap();
        let signature = key
            .sign(&SystemRandom::new(), &transcript.message())
            .unwrap();
        ConnectionProof {
            scheme: ECDSA_P256_SHA256,
            counter: transcript.counter,
            signature: signature.as_ref().to_vec(),
        }
    }
}

fn expected(connection: &ConnectionBinding) -> ExpectedProof<'_> {
    ExpectedProof {
        purpose: ProofPurpose::Extend,
        prover: PeerRole::Client,
        connection,
        nonce: Nonce([0x9a; 32]),
        after: 6,
    }
}

#[test]
fn the_same_instance_proves_its_successor() {
    let world = World::new();
    let (present, next) = (world.holder(LLM, 1), world.holder(LLM, 1));
    let connection = binding();
    let successor = world.successor(&present, &next).unwrap();
    let proof = next.sign(&ConnectionTranscript {
        leaf_sha256: sha256(&next.leaf),
        ..transcript(&connection)
    });
    let peer = successor.proven(&expected(&connection), &proof).unwrap();
    assert_eq!(peer.serial(), world.peer(&next).serial());
    assert_eq!(successor.leaf_sha256(), sha256(&next.leaf));
}

#[test]
fn another_instance_or_workload_is_no_successor() {
    let world = World::new();
    let present = world.holder(LLM, 1);
    let other = "spiffe://factory.example/ns/inference/workload/other";
    for next in [world.holder(LLM, 2), world.holder(other, 1)] {
        let refused = world.successor(&present, &next).unwrap_err();
        assert_eq!(refused.reason(), "other_instance");
    }
    let stranger = World::new().holder(LLM, 1);
    let refused = world.successor(&present, &stranger).unwrap_err();
    assert_eq!(refused.reason(), "untrusted_authority");
}

/// A proof that was made as `made` says, where `wanted` is expected.
#[track_caller]
fn refused(
    made: impl for<'a> FnOnce(&mut ConnectionTranscript<'a>),
    wanted: impl for<'a> FnOnce(&mut ExpectedProof<'a>),
    reason: &str,
) {
    let world = World::new();
    let next = world.holder(LLM, 1);
    let connection = binding();
    let mut transcript = ConnectionTranscript {
        leaf_sha256: sha256(&next.leaf),
        ..transcript(&connection)
    };
    let mut expected = expected(&connection);
    made(&mut transcript);
    wanted(&mut expected);
    let outcome = verify_proof(&expected, &next.leaf, &next.sign(&transcript));
    assert_eq!(outcome.unwrap_err().reason(), reason);
}

#[test]
fn a_proof_is_good_for_its_purpose_role_connection_nonce_and_leaf_alone() {
    let bad = "proof_signature";
    refused(
        |made| made.purpose = ProofPurpose::StrictInitial,
        |_| (),
        bad,
    );
    refused(
        |made| made.purpose = ProofPurpose::StrictRepeat,
        |_| (),
        bad,
    );
    // Reflection: what I proved comes back as the other end's.
    refused(|made| made.prover = PeerRole::Server, |_| (), bad);
    refused(|_| (), |wanted| wanted.prover = PeerRole::Server, bad);
    // Replay of a proof over an earlier nonce.
    refused(|_| (), |wanted| wanted.nonce = Nonce([0x9b; 32]), bad);
    refused(|made| made.leaf_sha256[0] ^= 1, |_| (), bad);
    refused(|_| (), |wanted| wanted.after = 7, "proof_counter");
    refused(|_| (), |wanted| wanted.after = u64::MAX, "proof_counter");
}

#[test]
fn a_proof_over_another_session_is_refused() {
    let world = World::new();
    let next = world.holder(LLM, 1);
    let mine = binding();
    let changes: [fn(&mut ConnectionBinding); 3] = [
        |connection| connection.exporter[0] ^= 1,
        |connection| connection.client_leaf_sha256[0] ^= 1,
        |connection| connection.server_leaf_sha256[0] ^= 1,
    ];
    for change in changes {
        let mut theirs = mine.clone();
        change(&mut theirs);
        let proof = next.sign(&ConnectionTranscript {
            leaf_sha256: sha256(&next.leaf),
            ..transcript(&theirs)
        });
        let outcome = verify_proof(&expected(&mine), &next.leaf, &proof);
        assert_eq!(outcome.unwrap_err().reason(), "proof_signature");
    }
}

#[test]
fn a_changed_proof_or_key_is_refused() {
    let world = World::new();
    let (next, other) = (world.holder(LLM, 1), world.holder(LLM, 1));
    let connection = binding();
    let transcript = ConnectionTranscript {
        leaf_sha256: sha256(&next.leaf),
        ..transcript(&connection)
    };
    let check = |proof: &ConnectionProof, reason: &str| {
        let outcome = verify_proof(&expected(&connection), &next.leaf, proof);
        assert_eq!(outcome.unwrap_err().reason(), reason);
    };
    let good = next.sign(&transcript);
    check(&other.sign(&transcript), "proof_signature");
    check(
        &ConnectionProof {
            counter: 8,
            ..good.clone()
        },
        "proof_signature",
    );
    check(
        &ConnectionProof {
            scheme: 0x0503,
            ..good.clone()
        },
        "proof_signature",
    );
    check(
        &ConnectionProof {
            scheme: 0x0201,
            ..good.clone()
        },
        "proof_scheme",
    );
    for at in 0..good.signature.len() {
        let mut changed = good.clone();
        changed.signature[at] ^= 1;
        check(&changed, "proof_signature");
    }
}

#[test]
fn a_strict_proof_extends_nothing() {
    let world = World::new();
    let (present, next) = (world.holder(LLM, 1), world.holder(LLM, 1));
    let connection = binding();
    let proof = next.sign(&ConnectionTranscript {
        purpose: ProofPurpose::StrictInitial,
        leaf_sha256: sha256(&next.leaf),
        ..transcript(&connection)
    });
    let wanted = ExpectedProof {
        purpose: ProofPurpose::StrictInitial,
        ..expected(&connection)
    };
    verify_proof(&wanted, &next.leaf, &proof).unwrap();
    let successor = world.successor(&present, &next).unwrap();
    assert!(successor.proven(&wanted, &proof).is_err());
}

#[test]
fn every_prefix_and_every_longer_proof_is_malformed() {
    let proof = ConnectionProof {
        scheme: ECDSA_P256_SHA256,
        counter: 9,
        signature: vec![3; 70],
    };
    let mut bytes = proof.encode().unwrap();
    for end in 0..bytes.len() {
        assert!(ConnectionProof::parse(&bytes[..end]).is_err(), "{end}");
    }
    bytes.push(0);
    assert!(ConnectionProof::parse(&bytes).is_err());
    for length in [0, MAX_SIGNATURE_BYTES + 1] {
        let signature = vec![3; length];
        assert_eq!(
            ConnectionProof {
                signature,
                ..proof.clone()
            }
            .encode(),
            None
        );
    }
}

proptest! {
    #[test]
    fn a_proof_survives_the_wire(scheme: u16, counter: u64, signature in prop::collection::vec(any::<u8>(), 1..=512)) {
        let proof = ConnectionProof { scheme, counter, signature };
        let bytes = proof.encode().unwrap();
        prop_assert!(bytes.len() <= ConnectionProof::MAX_BYTES);
        prop_assert_eq!(ConnectionProof::parse(&bytes).unwrap(), proof);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(proof) = ConnectionProof::parse(&bytes) {
            prop_assert_eq!(proof.encode().unwrap(), bytes);
        }
    }
}
