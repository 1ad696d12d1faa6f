//! What the mesh state carries survives the wire, and nothing else is read.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use prost::Message;
use vouchsafe_attestation::merkle;

use super::*;

fn resource(name: &str, leaves: &[(&str, &[u8])]) -> Resource {
    let at = leaves.iter().position(|(held, _)| *held == name).unwrap();
    let hashes: Vec<Hash> = leaves
        .iter()
        .map(|(name, content)| merkle::leaf_hash(&resource_leaf(name, content)))
        .collect();
    Resource {
        name: name.parse().unwrap(),
        content: leaves[at].1.to_vec(),
        index: at as u64,
        proof: merkle::prove(&hashes, at).unwrap(),
    }
}

fn signed(leaves: &[(&str, &[u8])]) -> SignedRevision {
    let hashes: Vec<Hash> = leaves
        .iter()
        .map(|(name, content)| merkle::leaf_hash(&resource_leaf(name, content)))
        .collect();
    SignedRevision {
        revision: Revision {
            epoch: 1,
            sequence: 2,
        },
        root: merkle::root(&hashes),
        resources: leaves.len() as u64,
        time: UNIX_EPOCH + Duration::from_millis(1_800_000_000_000),
        signature: vec![1; 70],
        signer_chain: vec![vec![2; 400], vec![3; 400]],
    }
}

const LEAVES: [(&str, &[u8]); 3] = [
    ("endpoints/inference/llm", b"e"),
    ("policy/Mesh/-/factory", b"m"),
    ("trust-bundle", b"t"),
];

#[test]
fn a_resource_belongs_to_its_revision_under_its_own_name_only() {
    let revision = signed(&LEAVES);
    for (name, _) in LEAVES {
        let mut resource = resource(name, &LEAVES);
        assert!(resource.belongs_to(&revision), "{name}");
        resource.content.push(0);
        assert!(!resource.belongs_to(&revision), "{name}");
    }
    let mut renamed = resource("policy/Mesh/-/factory", &LEAVES);
    renamed.name = "policy/Mesh/-/other".parse().unwrap();
    assert!(!renamed.belongs_to(&revision));
}

#[test]
fn a_snapshot_survives_the_wire() {
    let (revision, resources) = (
        signed(&LEAVES),
        LEAVES.map(|(name, _)| resource(name, &LEAVES)).to_vec(),
    );
    let wire = v1::WatchResponse {
        message: Some(v1::watch_response::Message::Snapshot(v1::Snapshot {
            revision: Some(revision.clone().into()),
            resources: resources.iter().cloned().map(Into::into).collect(),
        })),
    };
    let wire = v1::WatchResponse::decode(wire.encode_to_vec().as_slice()).unwrap();
    assert_eq!(
        WatchResponse::try_from(wire),
        Ok(WatchResponse::Snapshot(Snapshot {
            revision,
            resources
        }))
    );
}

#[test]
fn the_signed_bytes_change_with_every_field() {
    let whole = signed(&LEAVES);
    let tbs = whole.tbs();
    let changes: [fn(&mut SignedRevision); 5] = [
        |signed| signed.revision.epoch += 1,
        |signed| signed.revision.sequence += 1,
        |signed| signed.root[31] ^= 1,
        |signed| signed.resources += 1,
        |signed| signed.time += Duration::from_millis(1),
    ];
    for change in changes {
        let mut other = whole.clone();
        change(&mut other);
        assert_ne!(other.tbs(), tbs);
    }
}

#[test]
fn names_of_resources_are_read_strictly() {
    for name in [
        "trust-bundle",
        "endpoints/a/b",
        "policy/Workload/a/b",
        "policy/Mesh/-/factory",
        "trust/000102030405060708090a0b0c0d0e0f",
    ] {
        assert_eq!(name.parse::<ResourceName>().unwrap().to_string(), name);
    }
    for name in [
        "",
        "trust-bundle/",
        "endpoints/a",
        "endpoints/A/b",
        "policy/Workload/a",
        "policy//a/b",
        "policy/Workload/a/b/c",
        "policy/Workload/../b",
        "renewal/-/b",
        "renewal",
        "trust/",
        "trust/000102030405060708090A0B0C0D0E0F",
        "trust/000102030405060708090a0b0c0d0e",
        "trust/000102030405060708090a0b0c0d0e0f/x",
    ] {
        assert!(name.parse::<ResourceName>().is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(wire) = v1::WatchResponse::decode(bytes.as_slice()) {
            let _ = WatchResponse::try_from(wire);
        }
        if let Ok(wire) = v1::WatchRequest::decode(bytes.as_slice()) {
            let _ = WatchRequest::try_from(wire);
        }
    }
}
