//! TPMs.

use vouchsafe_verifier::dossier::{File, Kind};
use vouchsafe_verifier::judgement::Status::{self, Contraindicated, Warning};

use crate::{at, judge, testdata};

/// Vectors of TPMs lie as single files (`testdata/tpm`); the expected verdict of each.
const TPM: &[(&str, Status, &str)] = &[
    (
        "quote-rsa-trustee.json",
        Contraindicated,
        "ak_not_certified",
    ),
    ("quote.msg", Warning, "evidence_missing"),
    ("eventlog-rhel8-uefi.bin", Warning, "evidence_missing"),
    (
        "eventlog-ubuntu-2404-amd-sevsnp.bin",
        Warning,
        "evidence_missing",
    ),
    (
        "eventlog-arch-linux-workstation.bin",
        Warning,
        "evidence_missing",
    ),
    ("eventlog-cos-101-amd-sev.bin", Warning, "evidence_missing"),
    (
        "eventlog-eventlogwithsp800155.bin",
        Warning,
        "evidence_missing",
    ),
    ("eventlog-gdc-host.bin", Warning, "evidence_missing"),
    (
        "eventlog-neg-short.bin",
        Contraindicated,
        "event_log_malformed",
    ),
    (
        "eventlog-ebs-missing.bin",
        Contraindicated,
        "event_log_unsupported",
    ),
];

#[test]
fn tpm_vectors_are_judged_as_they_must_be() {
    for (name, status, reason) in TPM {
        let bytes = std::fs::read(testdata().join("tpm").join(name)).unwrap();
        let files = [File {
            name,
            bytes: &bytes,
        }];
        let judgement = judge(Kind::Tpm, &files, at("2026-01-01T00:00:00Z"));
        assert_eq!(
            (judgement.status, judgement.reason),
            (*status, *reason),
            "{name}: {judgement:#?}"
        );
    }
}

#[test]
fn every_flip_of_a_quote_from_files_breaks_its_signature_or_its_digest() {
    let bytes = std::fs::read(testdata().join("tpm/quote-rsa-trustee.json")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let check = |text: &str, reason: &str| {
        let files = [File {
            name: "evidence.json",
            bytes: text.as_bytes(),
        }];
        let judgement = judge(Kind::Tpm, &files, at("2026-01-01T00:00:00Z"));
        assert_eq!(judgement.reason, reason);
    };
    for (field, reason) in [
        ("message", "quote_signature"),
        ("signature", "quote_signature"),
    ] {
        let mut changed = value.clone();
        let held = changed["tpm_quote"][field].as_str().unwrap().to_owned();
        let middle = held.len() / 2;
        let letter = if &held[middle..=middle] == "A" {
            "B"
        } else {
            "A"
        };
        let text = format!("{}{letter}{}", &held[..middle], &held[middle + 1..]);
        changed["tpm_quote"][field] = text.into();
        check(&changed.to_string(), reason);
    }
    let mut changed = value.clone();
    changed["tpm_quote"]["pcrs"][3] = "11".repeat(32).into();
    check(&changed.to_string(), "pcr_digest");
}
