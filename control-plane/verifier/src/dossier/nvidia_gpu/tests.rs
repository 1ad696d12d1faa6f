//! How files of one dossier are told apart, by vectors of real machines.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::dossier::{Kind, inspect, verify};
use crate::evidence::nvidia_gpu::checks::CHECKS;
use crate::judgement::flips::assert_known;
use crate::judgement::{Judgement, Outcome, Status};

type Files = Vec<(String, Vec<u8>)>;

/// Files of a vector.
fn vector(case: &str, names: &[&str]) -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nvidia");
    names
        .iter()
        .map(|name| {
            let bytes = std::fs::read(folder.join(case).join(name)).unwrap();
            ((*name).to_owned(), bytes)
        })
        .collect()
}

fn hopper() -> Files {
    let names = ["report.bin", "chain.pem", "driver-rim.xml", "vbios-rim.xml"];
    vector("hopper-550.90.07-full", &names)
}

fn switch() -> Files {
    let names = ["report.bin", "chain.pem", "vbios-rim.xml"];
    vector("switch-ls10", &names)
}

fn borrowed(files: &Files) -> Vec<File<'_>> {
    files
        .iter()
        .map(|(name, bytes)| File { name, bytes })
        .collect()
}

/// 2025-10-24T12:00:00Z, when the Hopper's manifests are valid.
fn october() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_761_307_200)
}

/// 2026-06-01T00:00:00Z, when the switch's is.
fn june() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

fn look(files: &Files, endorsements: &Files, now: SystemTime) -> Judgement {
    let dossier = Dossier {
        files: &borrowed(files),
        endorsements: &borrowed(endorsements),
    };
    let glance = inspect(
        Kind::NvidiaGpu,
        dossier,
        &crate::dossier::Rules::default(),
        now,
    );
    let judgement = glance.judgement().clone();
    assert_known(CHECKS, &judgement);
    judgement
}

#[track_caller]
fn check(files: &Files, now: SystemTime, status: Status, reason: &str) {
    let judgement = look(files, &Vec::new(), now);
    let found = (judgement.status, judgement.reason);
    assert_eq!(found, (status, reason), "{judgement:#?}");
}

fn device(files: &Files) -> serde_json::Value {
    json!({
        "arch": "HOPPER",
        "evidence": STANDARD.encode(&files[0].1),
        "certificate": STANDARD.encode(&files[1].1),
    })
}

fn with_json(value: &serde_json::Value, files: &Files) -> Files {
    let mut all = vec![("evidence.json".to_owned(), value.to_string().into_bytes())];
    all.extend(files[2..].iter().cloned());
    all
}

#[test]
fn report_is_taken_as_bytes_and_as_text() {
    let files = hopper();
    check(&files, october(), Status::Affirming, "verified");
    let report = files[0].1.clone();
    for text in [hex::encode(&report), STANDARD.encode(&report)] {
        let mut files = files.clone();
        files[0].1 = format!("{text}\n").into_bytes();
        check(&files, october(), Status::Affirming, "verified");
    }
    let mut garbage = files.clone();
    garbage[0].1 = b"garbage".to_vec();
    check(
        &garbage,
        october(),
        Status::Contraindicated,
        "report_malformed",
    );
}

#[test]
fn containers_of_devices_are_read() {
    let files = hopper();
    let own = device(&files);
    let nonce = hex::encode(&files[0].1[4..36]);
    let pem = String::from_utf8(files[1].1.clone()).unwrap();
    let mut with_pem = own.clone();
    with_pem["certificate"] = json!(pem);
    let record = |kind: &str, bytes: &[u8]| {
        json!([format!("application/{kind}"), URL_SAFE_NO_PAD.encode(bytes)])
    };
    let message = json!({
        "__cmwc_t": "tag:nvidia.com,2026:verifier-input/profiles/base/pre-1.0.0",
        "nonce": record("octet-stream", &files[0].1[4..36]),
        "gpu_0": {
            "__cmwc_t": "tag:nvidia.com,2026:evidence-item/v1",
            "evidence": record("vnd.nvidia.spdm-measurement-transcript", &files[0].1),
            "certificate": record("vnd.nvidia.pem-cert-chain", &files[1].1),
        },
    });
    for container in [
        json!([own]),
        own.clone(),
        with_pem,
        json!({"nonce": nonce, "arch": "HOPPER", "evidence_list": [own]}),
        json!({"device_evidence_list": [own]}),
        message.clone(),
    ] {
        let files = with_json(&container, &files);
        check(&files, october(), Status::Affirming, "verified");
    }
    for (name, value) in [("nonce", json!("00")), ("nonce", json!("00".repeat(32)))] {
        let mut changed = own.clone();
        changed[name] = value;
        let files = with_json(&json!([changed]), &files);
        check(&files, october(), Status::Contraindicated, "nonce_mismatch");
    }
    let mut other = message;
    other["nonce"] = record("octet-stream", &[7; 32]);
    check(
        &with_json(&other, &files),
        october(),
        Status::Contraindicated,
        "nonce_mismatch",
    );
    let mut stated = own.clone();
    stated["arch"] = json!("BLACKWELL");
    check(
        &with_json(&json!([stated]), &files),
        october(),
        Status::Contraindicated,
        "architecture_mismatch",
    );
}

#[test]
fn container_that_can_not_be_read_is_no_evidence() {
    let files = hopper();
    let own = device(&files);
    for (name, value) in [
        ("evidence", json!("*")),
        ("evidence", json!(5)),
        ("evidence", json!(["text/plain", "AA"])),
        ("certificate", json!("AAAA")),
        ("certificate", json!(null)),
        ("nonce", json!("xy")),
        ("arch", json!(1)),
    ] {
        let mut changed = own.clone();
        changed[name] = value;
        let files = with_json(&json!([own, changed]), &files);
        check(
            &files,
            october(),
            Status::Contraindicated,
            "report_malformed",
        );
    }
    let empty = with_json(&json!([]), &files);
    check(
        &empty,
        october(),
        Status::Contraindicated,
        "report_malformed",
    );
}

#[test]
fn device_that_is_shown_twice_is_found_and_claims_are_of_all() {
    let files = hopper();
    let own = device(&files);
    let twice = with_json(&json!([own, own]), &files);
    check(&twice, october(), Status::Contraindicated, "device_twice");
    let many = with_json(&json!(vec![own; 33]), &files);
    check(
        &many,
        october(),
        Status::Contraindicated,
        "too_many_devices",
    );
}

#[test]
fn several_reports_and_chains_find_one_another() {
    let mut files = hopper();
    for (name, bytes) in switch() {
        files.push((format!("switch-{name}"), bytes));
    }
    // The switch is of another machine: its manifest is not valid yet, and no GPU names it.
    let judgement = look(&files, &Vec::new(), october());
    assert_eq!(judgement.reason, "rim_certificate_not_yet_valid");
    let outcome = |name: &str, outcome: Outcome| {
        judgement
            .checks
            .iter()
            .filter(|check| check.name == name && check.outcome == outcome)
            .count()
    };
    assert_eq!(outcome("report_signature", Outcome::Passed), 2);
    assert_eq!(outcome("links", Outcome::Failed), 1);

    let tampered = |files: &Files| {
        let mut files = files.clone();
        files[0].1[60] ^= 1;
        files
    };
    let judgement = look(&tampered(&files), &Vec::new(), october());
    assert_eq!(judgement.reason, "report_signature");
    // Two reports and one chain.
    files.retain(|(name, _)| name != "switch-chain.pem");
    check(
        &files,
        october(),
        Status::Contraindicated,
        "evidence_ambiguous",
    );
}

#[test]
fn what_is_missing_is_said() {
    let files = hopper();
    let check = |files: Files, reason: &str| {
        check(&files, october(), Status::Warning, reason);
    };
    check(Vec::new(), "evidence_missing");
    check(files[..1].to_vec(), "endorsement_missing");
    check(files[1..2].to_vec(), "evidence_missing");
    check(files[2..].to_vec(), "evidence_missing");
    check(files[..2].to_vec(), "rim_missing");
}

#[test]
fn chain_with_what_is_no_certificate_is_refused() {
    let mut files = hopper();
    let pem = String::from_utf8(files[1].1.clone()).unwrap();
    files[1].1 = pem.replacen("MIID", "AAAA", 1).into_bytes();
    check(
        &files,
        october(),
        Status::Contraindicated,
        "chain_malformed",
    );
}

#[test]
fn expectation_of_another_sort_is_refused() {
    let files = hopper();
    let dossier = Dossier {
        files: &borrowed(&files),
        endorsements: &[],
    };
    let rules = crate::dossier::Rules::default();
    let look = |expected: &Expected| verify(Kind::NvidiaGpu, dossier, expected, &rules, october());
    let report_data = Expected::ReportData([0; 64]);
    assert_eq!(look(&report_data).reason, "expectation_unsuitable");
    let nonce = Expected::Nonce(files[0].1[4..36].to_vec());
    assert_eq!(look(&nonce).reason, "verified");
    let other = Expected::Nonce(vec![1; 32]);
    assert_eq!(look(&other).reason, "nonce_mismatch");
}

#[test]
fn verdict_of_nvidias_service_is_no_evidence() {
    let tokens = [
        "hopperClaimsv3_decoded.json",
        "hopperClaimsv3_detached_eat.json",
    ];
    for name in [tokens[0], tokens[1], "nras_gpu_x5c_chain.json"] {
        let files = vector("eat-nras-samples", &[name]);
        check(&files, june(), Status::Warning, "verdict_of_other_verifier");
    }
    let token = vec![(
        "token".to_owned(),
        b"eyJhbGciOiJFUzM4NCJ9.eyJhIjoxfQ.AA_-".to_vec(),
    )];
    check(&token, june(), Status::Warning, "verdict_of_other_verifier");
    // Beside evidence it changes nothing.
    let mut files = hopper();
    files.extend(vector("eat-nras-samples", &tokens));
    check(&files, october(), Status::Affirming, "verified");
}

#[test]
fn responses_are_taken_as_der_and_as_text_and_must_be_about_something_here() {
    let name = "ocsp-gpu_certificate_l4.b64";
    let mut files = hopper();
    files.extend(vector("hopper-550.90.07-full", &[name]));
    check(&files, october(), Status::Affirming, "verified");
    let der = STANDARD.decode(files[4].1.trim_ascii()).unwrap();
    files[4] = ("response".into(), der.clone());
    check(&files, october(), Status::Affirming, "verified");

    let response = |name: &str, bytes: &[u8]| {
        let mut files = hopper();
        files.push((name.to_owned(), bytes.to_vec()));
        files
    };
    let refused = Status::Contraindicated;
    check(
        &response("ocsp-1.der", &der[..90]),
        october(),
        refused,
        "ocsp_malformed",
    );
    check(
        &response("ocsp-1.b64", b"*"),
        october(),
        refused,
        "ocsp_malformed",
    );
    let try_later = [0x30, 3, 0x0a, 1, 3];
    check(
        &response("ocsp-1.der", &try_later),
        october(),
        refused,
        "ocsp_refused",
    );
    let mut switch = switch();
    switch.push(("ocsp-1.der".into(), der.clone()));
    check(&switch, june(), refused, "ocsp_other_certificate");
    // In a cache, it is of other machines.
    let cache = vec![
        ("ocsp-1.der".to_owned(), der),
        ("x".to_owned(), vec![1, 2, 3]),
    ];
    let judgement = look(&self::switch(), &cache, june());
    assert_eq!(judgement.status, Status::Affirming, "{judgement:#?}");
}

#[test]
fn manifests_of_a_cache_are_used() {
    let files = hopper();
    let judgement = look(&files[..2].to_vec(), &files[2..].to_vec(), october());
    assert_eq!(judgement.status, Status::Affirming, "{judgement:#?}");
}
