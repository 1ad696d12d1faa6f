use std::time::Duration;

use clap::Parser as _;
use vouchsafe_api::convert::record::RecordEntry;
use vouchsafe_api::v1::{AuthorityStatus, SidecarChange};

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    predicates: Predicates,
}

fn wanted(options: &[&str]) -> Predicates {
    let line = Line::try_parse_from(["revoke"].iter().chain(options));
    line.unwrap_or_else(|error| panic!("{error}")).predicates
}

fn known() -> Known {
    let claim = |claim: &str, value: &str| ShownClaim {
        claim: claim.to_owned(),
        value: value.to_owned(),
    };
    Known {
        status: StatusResponse {
            trust_domain: "factory.example".to_owned(),
            sidecars: vec![SidecarStatus {
                workload: "edge/gateway".to_owned(),
                instance: vec![7; 16],
                serial: vec![0x5e, 1],
                spki_sha256: vec![2; 32],
                identities: vec![claim("tpm.ek_sha256", "ee01")],
                measurements: vec![claim("tpm.image", "base-1")],
                connected: true,
                ..SidecarStatus::default()
            }],
            authorities: vec![AuthorityStatus {
                spki_sha256: vec![3; 32],
                ..AuthorityStatus::default()
            }],
            ..StatusResponse::default()
        },
        workloads: vec!["edge/gateway".to_owned(), "inference/llm".to_owned()],
        nodes: vec!["platform/gpu-07".to_owned()],
        images: vec!["base-1".to_owned(), "base-2".to_owned()],
    }
}

#[track_caller]
fn unknown(options: &[&str], expected: &[(&str, bool)]) {
    let namespace = "platform".parse().unwrap();
    let found = known().unknown_names(&wanted(options), &namespace);
    let found: Vec<(&str, bool)> = { found.iter() }
        .map(|one| (one.what.as_str(), one.may_come))
        .collect();
    assert_eq!(found, expected, "{options:?}");
}

#[test]
fn a_name_that_the_policy_lacks_is_told_with_the_one_that_was_likely_meant() {
    unknown(
        &["--workload", "edge/gatewy"],
        &[(
            "--workload: there is no Workload `edge/gatewy`; did you mean `edge/gateway`?",
            true,
        )],
    );
    unknown(
        &["--workload", "later"],
        &[("--workload: there is no Workload `platform/later`", true)],
    );
    unknown(
        &["--node", "gpu-08"],
        &[(
            "--node: there is no Node `platform/gpu-08`; did you mean `platform/gpu-07`?",
            false,
        )],
    );
    unknown(
        &[
            "--spiffe-id",
            "spiffe://factory.example/ns/edge/workload/gatewy",
        ],
        &[(
            "--spiffe-id: no workload of the policy has an ID like `spiffe://factory.example/ns/edge/workload/gatewy`; did you mean `spiffe://factory.example/ns/edge/workload/gateway`?",
            true,
        )],
    );
    for right in [
        &["--workload", "edge/gateway", "--node", "gpu-07"][..],
        &["--spiffe-id", "spiffe://factory.example/ns/edge/**"],
        &["--spiffe-id", "spiffe://elsewhere/ns/edge/workload/gatewy"],
    ] {
        unknown(right, &[]);
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn issued(serial: u8, seconds: u64) -> RecordEntry {
    let json = vouchsafe_api::convert::record::attestation::Issuance {
        purpose: "renew".to_owned(),
        spiffe_id: "spiffe://factory.example/ns/edge/workload/gateway".to_owned(),
        instance: [7; 16],
        serial: vec![0x5e, serial],
        spki_sha256: [9; 32],
        authority_spki_sha256: [3; 32],
        not_before: at(seconds),
        not_after: at(seconds + 3600),
        class: "software".to_owned(),
        kinds: vec!["tpm".to_owned()],
        hardware: vec!["tpm_ek_sha256:ee00".to_owned()],
        member: "node platform/gpu-07".to_owned(),
        policy_revision: vouchsafe_attestation::revision::Revision::default(),
        evidence_sha256: [0; 32],
        result_sha256: [0; 32],
    };
    RecordEntry {
        time: at(seconds),
        event: Event::Issued(Box::new(json)),
    }
}

#[track_caller]
fn remarks(options: &[&str], expected: &[&str]) {
    let known = known();
    let unshown = known.unshown(&wanted(options));
    let mut past = Past::default();
    let old = RecordEntry {
        time: at(0),
        event: Event::AuthorityCreated {
            role: "issuing".to_owned(),
            spki_sha256: [4; 32],
            not_after: at(60),
        },
    };
    for entry in [issued(0, 0), issued(0xff, 60), old] {
        past.see(&entry, &unshown);
    }
    let told = Ok(past);
    let found: Vec<String> = unshown.iter().map(|one| known.remark(one, &told)).collect();
    assert_eq!(found, expected, "{options:?}");
}

#[test]
fn a_fact_that_nobody_shows_is_told_with_whose_it_was() {
    remarks(
        &["--serial", "005E00"],
        &[
            "--serial `005E00`: was of spiffe://factory.example/ns/edge/workload/gateway (instance 07070707070707070707070707070707), issued at 2027-01-15T08:00:00Z, until 2027-01-15T09:00:00Z; that instance was renewed since, its certificate is `5e01` now",
        ],
    );
    remarks(
        &["--spki", &"09".repeat(32)],
        &[&format!(
            "--spki `{}`: was of spiffe://factory.example/ns/edge/workload/gateway (instance 07070707070707070707070707070707), issued at 2027-01-15T08:01:00Z, until 2027-01-15T09:01:00Z; that instance has another key now, of certificate `5e01`",
            "09".repeat(32)
        )],
    );
    remarks(
        &["--hardware-id", "EE00"],
        &[
            "--hardware-id `EE00`: nobody proves it now; spiffe://factory.example/ns/edge/workload/gateway (instance 07070707070707070707070707070707) did last, at 2027-01-15T08:01:00Z",
        ],
    );
    remarks(
        &["--authority", &"04".repeat(32)],
        &[&format!(
            "--authority `{}`: is none of the authorities now; it was the issuing authority that ends at 2027-01-15T08:01:00Z",
            "04".repeat(32)
        )],
    );
    remarks(
        &[
            "--serial",
            "77",
            "--hardware-id",
            "88",
            "--measurement",
            "base-2",
            "--measurement",
            "bse-1",
        ],
        &[
            "--serial `77`: no certificate with it is in the record",
            "--hardware-id `88`: nobody who is in the record has proven it",
            "--measurement `base-2`: is an image of a profile, and nobody runs it now",
            "--measurement `bse-1`: nobody shows it now, and no profile has an image of that name; did you mean `base-1`?",
        ],
    );
    remarks(
        &[
            "--serial",
            "5E01",
            "--spki",
            &"02".repeat(32),
            "--hardware-id",
            "EE01",
            "--measurement",
            "base-1",
            "--authority",
            &"03".repeat(32),
        ],
        &[],
    );
}

#[test]
fn a_revocation_that_means_nobody_is_said_to() {
    let sidecar = |is_revoked, unanswered: &str| SidecarChange {
        is_revoked,
        unanswered: unanswered.to_owned(),
        ..SidecarChange::default()
    };
    let said = |sidecars: Vec<SidecarChange>, would_drop| {
        let response = ChangeResponse {
            sidecars,
            would_drop,
            ..ChangeResponse::default()
        };
        let nowhere = Path::new("/nonexistent");
        known().remarks(&wanted(&["--class", "software"]), &response, nowhere)
    };
    let nobody = said(vec![sidecar(false, "")], 0);
    assert_eq!(nobody.len(), 1, "{nobody:?}");
    assert!(nobody[0].contains("it means nobody who is known now: none of the 1"));
    // One that did not answer may be meant.
    assert_eq!(said(vec![sidecar(false, "late")], 0).len(), 0);
    assert_eq!(said(vec![sidecar(true, "")], 0).len(), 0);
    assert_eq!(said(vec![sidecar(false, "")], 1).len(), 0);
    let unread = known().remarks(
        &wanted(&["--serial", "77"]),
        &ChangeResponse::default(),
        Path::new("/nonexistent"),
    );
    assert!(unread[1].contains("the record can't be read"), "{unread:?}");
}
