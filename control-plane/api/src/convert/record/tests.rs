use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_800_000_000_000 + ms)
}

const REVISION: Revision = Revision {
    epoch: 1,
    sequence: 7,
};

fn entries() -> Vec<RecordEntry> {
    let issued = Issuance {
        purpose: "enroll".into(),
        spiffe_id: "spiffe://factory.example/ns/inference/workload/llm".into(),
        instance: [1; 16],
        serial: vec![2; 16],
        spki_sha256: [3; 32],
        authority_spki_sha256: [4; 32],
        not_before: at(0),
        not_after: at(3_600_000),
        class: "software".into(),
        kinds: vec!["tpm".into()],
        hardware: vec!["tpm_ek_sha256:aa".into(), "snp_chip_id:bb".into()],
        member: "node inference/gpu-07".into(),
        policy_revision: REVISION,
        evidence_sha256: [5; 32],
        result_sha256: [6; 32],
    };
    let refused = Refused {
        workload: "inference/llm".into(),
        reason: "pcr_mismatch".into(),
        detail: "PCR 7: expected \"aa\", found\n\"bb\"".into(),
        peer: "127.0.0.1:4711".into(),
        evidence_sha256: [0; 32],
        policy_revision: REVISION,
    };
    let without_lists = Issuance {
        kinds: vec![],
        hardware: vec![],
        ..issued.clone()
    };
    let revocation = RevocationAct {
        name: "app/incident-7".into(),
        document_sha256: [9; 32],
        action: "cut".into(),
        reason: "stolen \"laptop\"".into(),
        expires_ms: 0,
        how: "new".into(),
        actor: "uid 0".into(),
        why: String::new(),
    };
    let act = OperatorAct {
        act: "revoke".into(),
        actor: "uid 0".into(),
        reason: "incident 7".into(),
        files: vec![],
        would_drop: 3,
        live: 4,
        unanswered: 1,
        max_drop: "100%".into(),
    };
    [
        Event::Issued(Box::new(issued)),
        Event::Issued(Box::new(without_lists)),
        Event::Refused(Box::new(refused)),
        Event::RefusalsSummed(Box::new(RefusalsSummed {
            reason: "pcr_mismatch".into(),
            network: "192.0.2.0/24".into(),
            count: 1000,
            first: at(2),
            last: at(60_002),
        })),
        Event::PolicyChanged {
            revision: REVISION,
            root: [7; 32],
            documents: 12,
        },
        Event::AuthorityCreated {
            role: "root".into(),
            spki_sha256: [8; 32],
            not_after: at(9),
        },
        Event::Revoked(Box::new(revocation.clone())),
        Event::RevocationEnded(Box::new(revocation)),
        Event::OperatorAct(Box::new(act.clone())),
        Event::OperatorAct(Box::new(OperatorAct {
            files: vec!["revocations/app.incident-7.yaml".into(), "b.yaml".into()],
            ..act
        })),
        Event::StandingChanged(Box::new(StandingChange {
            workload: "inference/llm".into(),
            instance: [9; 16],
            standing: "revoked".into(),
            reason: "ima_file".into(),
            detail: "no rule allows `/tmp/x`".into(),
            evidence_sha256: [10; 32],
            difference: vec!["PCR 10 of sha256: aa is bb".into(), "file `/tmp/x`".into()],
        })),
        Event::BrakeChanged(Box::new(BrakeChange {
            scope: "mesh".into(),
            state: "held".into(),
            silent: 40,
            of: 100,
        })),
        Event::RenewalForced(Box::new(ForcedRenewal {
            scope: "inference/llm".into(),
            actor: "uid 0".into(),
            reason: "key ceremony".into(),
            start: at(10),
            end: at(600_010),
        })),
        // As it was written when nobody was named.
        Event::RenewalForced(Box::new(ForcedRenewal {
            scope: "mesh".into(),
            actor: String::new(),
            reason: "key ceremony".into(),
            start: at(10),
            end: at(600_010),
        })),
    ]
    .into_iter()
    .map(|event| RecordEntry { time: at(1), event })
    .collect()
}

#[test]
fn every_entry_has_one_encoding_and_comes_back() {
    for entry in entries() {
        assert_eq!(RecordEntry::decode(&entry.encode()).unwrap(), entry);
    }
}

#[test]
fn no_prefix_no_trailing_byte_and_no_flipped_bit_is_the_same_entry() {
    for entry in entries() {
        let leaf = entry.encode();
        for end in 0..leaf.len() {
            assert!(RecordEntry::decode(&leaf[..end]).is_err(), "{end}");
        }
        assert!(RecordEntry::decode(&[leaf.as_slice(), &[0]].concat()).is_err());
        for at in 0..leaf.len() {
            let mut flipped = leaf.clone();
            flipped[at] ^= 1;
            if let Ok(other) = RecordEntry::decode(&flipped) {
                assert_ne!(other, entry);
            }
        }
    }
}

#[test]
fn json_is_escaped_and_shows_lists_as_lists() {
    let json: Vec<String> = entries().iter().map(RecordEntry::to_json).collect();
    assert!(json[0].contains(r#""hardware":["tpm_ek_sha256:aa","snp_chip_id:bb"]"#));
    assert!(json[0].contains(r#""kinds":["tpm"]"#));
    assert!(json[2].contains(r#"expected \"aa\", found\u000a\"bb\""#));
}

#[test]
fn a_long_detail_is_cut_not_lost() {
    let mut entry = entries().remove(2);
    let Event::Refused(refused) = &mut entry.event else {
        unreachable!("the third entry is a refusal");
    };
    refused.detail = "ä".repeat(5000);
    let read = RecordEntry::decode(&entry.encode()).unwrap();
    let Event::Refused(read) = read.event else {
        unreachable!("a refusal stays one");
    };
    assert_eq!(read.detail, "ä".repeat(2048));
}

#[test]
fn whatever_is_recorded_fits_a_leaf_and_comes_back() {
    let long = "\u{10ffff}".repeat(10_000);
    for (lines, of) in [
        (17, &long),
        (65, &long),
        (10_000, &long),
        (10_000, &"x".into()),
    ] {
        let list: Vec<String> = (0..lines).map(|number| format!("{number} {of}")).collect();
        for mut entry in entries() {
            match &mut entry.event {
                Event::Issued(issued) => issued.hardware.clone_from(&list),
                Event::StandingChanged(change) => change.difference.clone_from(&list),
                Event::OperatorAct(act) => act.files.clone_from(&list),
                Event::Refused(refused) => refused.detail.clone_from(of),
                Event::Revoked(act) | Event::RevocationEnded(act) => {
                    act.reason.clone_from(of);
                    act.why.clone_from(of);
                }
                Event::PolicyChanged { .. }
                | Event::AuthorityCreated { .. }
                | Event::BrakeChanged(_)
                | Event::RefusalsSummed(_)
                | Event::RenewalForced(_) => {}
            }
            let leaf = entry.encode();
            assert!(leaf.len() <= MAX_LEAF_BYTES, "{lines}: {}", leaf.len());
            let read = RecordEntry::decode(&leaf).unwrap();
            assert_eq!(read.encode(), leaf);
            if let Event::StandingChanged(change) = read.event {
                assert!(change.difference.len() >= lines.min(17));
                assert!(change.difference[0].starts_with("0 "));
                assert_eq!(change.reason, "ima_file");
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = RecordEntry::decode(&[LABEL, &bytes].concat());
        let _ = RecordEntry::decode(&bytes);
    }
}
