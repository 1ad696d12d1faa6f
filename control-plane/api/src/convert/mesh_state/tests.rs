//! What the mesh state carries survives the wire, and nothing else is read.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use prost::Message;
use vouchsafe_attestation::merkle;

use super::*;

const RESOURCES: [(&str, &[u8]); 3] = [
    ("endpoints/inference/llm", b"e"),
    ("policy/Mesh/-/factory", b"m"),
    ("trust-bundle", b"t"),
];

fn held() -> Vec<Resource> {
    let resource = |(name, content): (&str, &'static [u8])| Resource {
        name: name.parse().unwrap(),
        content: Bytes::from_static(content),
    };
    RESOURCES.map(resource).to_vec()
}

fn root_of(resources: &[Resource]) -> Hash {
    let leaves: Vec<Hash> = resources.iter().map(Resource::leaf).collect();
    merkle::root(&leaves)
}

/// A revision of three slices, the last of which is that of `inference/llm`, with its proof.
fn signed(resources: &[Resource]) -> (SignedRevision, SliceProof) {
    let slice = SliceName::Workload("inference/llm".parse().unwrap());
    let own = slice_leaf(
        &slice.to_string(),
        &root_of(resources),
        resources.len() as u64,
    );
    let leaves = [
        leaf_hash(&slice_leaf(WHOLE, &[1; 32], 9)),
        leaf_hash(&slice_leaf("-", &[2; 32], 1)),
        leaf_hash(&own),
    ];
    let revision = SignedRevision {
        revision: Revision {
            epoch: 1,
            sequence: 2,
        },
        root: merkle::root(&leaves),
        slices: 3,
        time: UNIX_EPOCH + Duration::from_millis(1_800_000_000_000),
        signature: vec![1; 70],
        signer_chain: vec![vec![2; 400], vec![3; 400]],
    };
    let proof = SliceProof {
        slice,
        index: 2,
        siblings: merkle::prove(&leaves, 2).unwrap(),
    };
    (revision, proof)
}

fn proves(proof: &SliceProof, resources: &[Resource], revision: &SignedRevision) -> bool {
    proof.proves(&root_of(resources), resources.len() as u64, revision)
}

#[test]
fn a_slice_is_proven_as_a_whole_and_under_its_own_name_only() {
    let resources = held();
    let (revision, proof) = signed(&resources);
    assert!(proves(&proof, &resources, &revision));
    for at in 0..resources.len() {
        let mut other = resources.clone();
        other[at].content = [&*other[at].content, b"x"].concat().into();
        assert!(!proves(&proof, &other, &revision), "{at} is altered");
        other.remove(at);
        assert!(!proves(&proof, &other, &revision), "{at} is left out");
        let mut other = resources.clone();
        other[at].name = "policy/Mesh/-/other".parse().unwrap();
        assert!(!proves(&proof, &other, &revision), "{at} is renamed");
    }
    let changes: [fn(&mut SliceProof); 4] = [
        |proof| proof.slice = "inference/other".parse().unwrap(),
        |proof| proof.slice = SliceName::Unknown,
        |proof| proof.index = 1,
        |proof| proof.siblings.clear(),
    ];
    for change in changes {
        let mut other = proof.clone();
        change(&mut other);
        assert!(!proves(&other, &resources, &revision), "{other:?}");
    }
    let mut fewer = revision.clone();
    fewer.slices = 2;
    assert!(!proves(&proof, &resources, &fewer));
}

#[test]
fn a_resource_is_not_a_slice_nor_a_slice_a_resource() {
    // The labels keep the two kinds of leaves apart, whatever their fields hold.
    let root = [7; 32];
    assert_ne!(
        leaf_hash(&slice_leaf("trust-bundle", &root, 1)),
        leaf_hash(&resource_leaf("trust-bundle", &root))
    );
}

fn messages() -> [WatchResponse; 3] {
    let (revision, proof) = signed(&held());
    [
        WatchResponse::Snapshot(Snapshot {
            revision: revision.clone(),
            proof: proof.clone(),
            resources: held(),
        }),
        WatchResponse::Delta(Delta {
            base: Revision {
                epoch: 1,
                sequence: 1,
            },
            proof,
            changed: held(),
            removed: vec![
                "endpoints/a/b".parse().unwrap(),
                "endpoints/a/c".parse().unwrap(),
            ],
            revision: revision.clone(),
        }),
        WatchResponse::Heartbeat(revision),
    ]
}

#[test]
fn what_a_stream_says_survives_the_wire() {
    for message in messages() {
        let bytes = v1::WatchResponse::from(message.clone()).encode_to_vec();
        let wire = v1::WatchResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(WatchResponse::try_from(wire), Ok(message));
    }
}

#[test]
fn what_a_sidecar_says_survives_the_wire() {
    let revision = Revision {
        epoch: 3,
        sequence: 4,
    };
    let ack = |outcome| WatchRequest::Acknowledgement(Acknowledgement { revision, outcome });
    for message in [
        WatchRequest::Subscribe(Holding::default()),
        WatchRequest::Subscribe(Holding {
            revision,
            slice_root: Some([5; 32]),
        }),
        ack(Ok([6; 32])),
        ack(Err("no bundle".to_owned())),
    ] {
        let bytes = v1::WatchRequest::from(message.clone()).encode_to_vec();
        let wire = v1::WatchRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!(WatchRequest::try_from(wire), Ok(message));
    }
}

#[test]
fn an_acknowledgement_says_either_what_is_held_or_what_is_wrong() {
    let wire = |error: &str, slice_root: &[u8]| v1::Acknowledgement {
        revision: Some(Revision::default().into()),
        error: error.to_owned(),
        slice_root: slice_root.to_vec(),
    };
    assert!(Acknowledgement::try_from(wire("", &[1; 32])).is_ok());
    assert!(Acknowledgement::try_from(wire("broken", &[])).is_ok());
    assert!(Acknowledgement::try_from(wire("", &[])).is_err());
    assert!(Acknowledgement::try_from(wire("broken", &[1; 32])).is_err());
    assert!(Acknowledgement::try_from(wire("", &[1; 31])).is_err());
}

#[test]
fn resources_come_in_order_and_each_once() {
    let wire = |names: &[&str]| {
        let [WatchResponse::Snapshot(snapshot), ..] = messages() else {
            panic!("the first is a snapshot");
        };
        let mut wire = v1::Snapshot::from(snapshot);
        wire.resources = names
            .iter()
            .map(|name| v1::Resource {
                name: (*name).to_owned(),
                content: Bytes::new(),
            })
            .collect();
        Snapshot::try_from(wire).is_ok()
    };
    assert!(wire(&["endpoints/a/b", "trust-bundle"]));
    assert!(!wire(&["trust-bundle", "endpoints/a/b"]));
    assert!(!wire(&["trust-bundle", "trust-bundle"]));
    let [_, WatchResponse::Delta(delta), _] = messages() else {
        panic!("the second is a delta");
    };
    let mut wire = v1::Delta::from(delta);
    wire.removed.reverse();
    assert!(Delta::try_from(wire).is_err());
}

#[test]
fn the_signed_bytes_change_with_every_field() {
    let (whole, _) = signed(&held());
    let tbs = whole.tbs();
    let changes: [fn(&mut SignedRevision); 5] = [
        |signed| signed.revision.epoch += 1,
        |signed| signed.revision.sequence += 1,
        |signed| signed.root[31] ^= 1,
        |signed| signed.slices += 1,
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
