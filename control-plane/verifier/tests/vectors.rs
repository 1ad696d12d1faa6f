//! Evidence of real machines, and what must be said about it.
//!
//! `testdata/` holds the vectors; its README says where each comes from. One table has a row per vector and time.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vouchsafe_verifier::dossier::{self, Dossier, Expected, File, Kind, Rules};
use vouchsafe_verifier::evidence::dcap::collateral::TcbStatus;
use vouchsafe_verifier::judgement::{Judgement, Outcome, Status};

use Status::{Affirming, Contraindicated, Warning};

/// Case, files (all where empty), time, status, reason.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static str,
    Status,
    &'static str,
);

const SEV_SNP: &[Row] = &[
    (
        "snp/milan-v2-vcek",
        &[],
        "2025-06-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "snp/milan-v2-debug",
        &[],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "debug_enabled",
    ),
    (
        "snp/milan-v3-vlek-vmpl1",
        &[],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "vmpl",
    ),
    (
        "snp/milan-v3-vlek-vmpl1",
        &[],
        "2026-01-01T00:00:00Z",
        Contraindicated,
        "vek_expired",
    ),
    (
        "snp/milan-v3-vlek-vmpl1",
        &[],
        "2024-01-01T00:00:00Z",
        Contraindicated,
        "vek_not_yet_valid",
    ),
    (
        "snp/genoa-v3-azure-aci",
        &[],
        "2026-06-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "snp/turin-v5-azure-aci",
        &[],
        "2026-06-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "snp/neg-wrong-vcek-turin",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "report_signature",
    ),
    (
        "snp/neg-vcek-edited",
        &[],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "vek_signature",
    ),
    (
        "snp/neg-vcek-edited",
        &["report.bin", "vek.der"],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "vek_signature",
    ),
    (
        "snp/neg-vcek-edited",
        &["report.bin", "vek-new.der"],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "vek_signature",
    ),
    (
        "snp/genoa-v3-json-e2e",
        &[],
        "2026-01-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "snp/genoa-v3-json-e2e",
        &["evidence.json"],
        "2026-01-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "snp/milan-v2-vcek",
        &["report.bin"],
        "2025-06-01T00:00:00Z",
        Warning,
        "endorsement_missing",
    ),
    (
        "snp/milan-v2-debug",
        &["report.bin"],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "debug_enabled",
    ),
    (
        "snp/milan-v2-vcek",
        &["vek.der"],
        "2025-06-01T00:00:00Z",
        Warning,
        "evidence_missing",
    ),
    (
        "snp/crl-milan-empty",
        &[],
        "2026-01-01T00:00:00Z",
        Warning,
        "evidence_missing",
    ),
    (
        "snp/crl-milan-empty",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "crl_expired",
    ),
    (
        "snp/crl-milan-empty",
        &[],
        "2025-01-01T00:00:00Z",
        Contraindicated,
        "crl_not_yet_valid",
    ),
    (
        "snp/crl-genoa-revoked-ask",
        &[],
        "2025-06-01T00:00:00Z",
        Warning,
        "evidence_missing",
    ),
];

const NITRO: &[Row] = &[
    (
        "nitro/debug-evervault",
        &[],
        "2022-10-12T14:00:00Z",
        Contraindicated,
        "debug_enabled",
    ),
    (
        "nitro/debug-evervault",
        &[],
        "2025-01-01T00:00:00Z",
        Contraindicated,
        "certificate_expired",
    ),
    (
        "nitro/prod-evervault",
        &[],
        "2022-10-13T09:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "nitro/prod-evervault",
        &[],
        "2022-10-13T12:00:00Z",
        Contraindicated,
        "certificate_expired",
    ),
    (
        "nitro/prod-evervault",
        &[],
        "2022-10-13T08:00:00Z",
        Contraindicated,
        "certificate_not_yet_valid",
    ),
    (
        "nitro/prod-dstack-1",
        &[],
        "2025-12-25T13:30:00Z",
        Affirming,
        "verified",
    ),
    (
        "nitro/neg-trailing-data",
        &[],
        "2025-12-25T13:30:00Z",
        Contraindicated,
        "trailing_data",
    ),
];

const TDX: &[Row] = &[
    (
        "tdx/v4-uptodate-dstack",
        &[],
        "2025-07-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "tdx/v4-uptodate-dstack",
        &["quote.bin"],
        "2025-07-01T00:00:00Z",
        Warning,
        "endorsement_missing",
    ),
    (
        "tdx/v5-outofdate-azure",
        &[],
        "2026-03-01T00:00:00Z",
        Contraindicated,
        "tcb_no_match",
    ),
    (
        "tdx/v4-debug",
        &[],
        "2026-04-01T00:00:00Z",
        Contraindicated,
        "debug_enabled",
    ),
    (
        "tdx/v5-trustee",
        &[],
        "2026-04-01T00:00:00Z",
        Contraindicated,
        "tcb_no_match",
    ),
    (
        "tdx/v4-spr-e4-google",
        &[],
        "2026-04-01T00:00:00Z",
        Contraindicated,
        "tcb_no_match",
    ),
    (
        "tdx/v4-gcp-padded-8000",
        &[],
        "2025-07-10T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "tdx/neg-wrong-fmspc",
        &[],
        "2026-03-01T00:00:00Z",
        Contraindicated,
        "fmspc_mismatch",
    ),
    (
        "tdx/neg-collateral-expired",
        &[],
        "2025-09-01T00:00:00Z",
        Contraindicated,
        "tcb_info_expired",
    ),
    (
        "tdx/neg-collateral-expired",
        &[],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "tcb_info_not_yet_valid",
    ),
    (
        "tdx/v4-trustee-6-missing-sig-collateral",
        &[],
        "2025-11-01T00:00:00Z",
        Warning,
        "endorsement_missing",
    ),
];

const SGX: &[Row] = &[
    (
        "sgx/sgx-v3-confswhardening",
        &[],
        "2025-07-01T00:00:00Z",
        Contraindicated,
        "tcb_configuration_and_sw_hardening_needed",
    ),
    (
        "sgx/sgx-v3-debug-occlum",
        &[],
        "2025-08-20T00:00:00Z",
        Contraindicated,
        "debug_enabled",
    ),
];

#[test]
fn tdx_vectors_are_judged_as_they_must_be() {
    check(Kind::Tdx, TDX);
}

#[test]
fn sgx_vectors_are_judged_as_they_must_be() {
    check(Kind::Sgx, SGX);
}

#[test]
fn every_flip_and_every_truncation_of_a_tdx_quote_is_refused() {
    let now = "2025-07-01T00:00:00Z";
    sweep(
        Kind::Tdx,
        "tdx/v4-uptodate-dstack",
        "quote.bin",
        &["collateral.json"],
        now,
        5,
    );
}

const NVIDIA_GPU: &[Row] = &[
    (
        "nvidia/hopper-550.90.07-full",
        &[],
        "2025-10-24T12:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "nvidia/hopper-550.90.07-full",
        &[],
        "2026-06-02T00:00:00Z",
        Contraindicated,
        "rim_certificate_expired",
    ),
    (
        "nvidia/hopper-550.90.07-full",
        &["report.bin", "chain.pem"],
        "2025-10-24T12:00:00Z",
        Warning,
        "rim_missing",
    ),
    (
        "nvidia/hopper-550.90.07-full",
        &["report.bin"],
        "2025-10-24T12:00:00Z",
        Warning,
        "endorsement_missing",
    ),
    (
        "nvidia/hopper-570.124.03-expired-rim",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "rim_certificate_expired",
    ),
    (
        "nvidia/blackwell-575.32",
        &[],
        "2026-06-01T00:00:00Z",
        Warning,
        "rim_missing",
    ),
    (
        "nvidia/switch-ls10",
        &[],
        "2026-06-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "nvidia/neg-hopper-bad-signature",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "report_signature",
    ),
    (
        "nvidia/neg-switch-other-chain",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "report_signature",
    ),
    (
        "nvidia/neg-cert-chains",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "chain_incomplete",
    ),
    (
        "nvidia/neg-cert-chains",
        &["chain-case2.pem"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "chain_incomplete",
    ),
    (
        "nvidia/neg-cert-chains",
        &["chain-case3.pem"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "chain_incomplete",
    ),
    (
        "nvidia/neg-cert-chains",
        &["chain-case4.pem"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "chain_incomplete",
    ),
    (
        "nvidia/hopper-590.12-ppcie",
        &[],
        "2026-06-01T00:00:00Z",
        Warning,
        "rim_missing",
    ),
    (
        "nvidia/rim-driver-550.144.03",
        &["rim.xml"],
        "2026-06-01T00:00:00Z",
        Warning,
        "evidence_missing",
    ),
    (
        "nvidia/rim-driver-550.144.03",
        &["rim.xml"],
        "2027-01-01T00:00:00Z",
        Contraindicated,
        "rim_certificate_expired",
    ),
    (
        "nvidia/rim-driver-550.144.03",
        &["rim-badsig.xml"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "rim_signature",
    ),
    (
        "nvidia/rim-driver-550.144.03",
        &["rim-other-chain.xml"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "rim_root_not_pinned",
    ),
];

#[test]
fn nvidia_vectors_are_judged_as_they_must_be() {
    check(Kind::NvidiaGpu, NVIDIA_GPU);
}

#[test]
fn manifests_that_must_not_parse_do_not() {
    for (name, bytes) in load("nvidia/rim-parse-failures", &[]) {
        let files = [File {
            name: &name,
            bytes: &bytes,
        }];
        let judgement = judge(Kind::NvidiaGpu, &files, at("2026-06-01T00:00:00Z"));
        assert_eq!(
            judgement.status,
            if name == "case.json" {
                Warning
            } else {
                Contraindicated
            },
            "{name}"
        );
    }
}

#[test]
fn every_flip_and_every_truncation_of_a_gpus_report_is_refused() {
    let now = "2025-10-24T12:00:00Z";
    let others = ["chain.pem", "driver-rim.xml", "vbios-rim.xml"];
    sweep(
        Kind::NvidiaGpu,
        "nvidia/hopper-550.90.07-full",
        "report.bin",
        &others,
        now,
        41,
    );
    sweep(
        Kind::NvidiaGpu,
        "nvidia/switch-ls10",
        "report.bin",
        &["chain.pem", "vbios-rim.xml"],
        "2026-06-01T00:00:00Z",
        37,
    );
}

const AZ_SNP_VTPM: &[Row] = &[
    (
        "az-snp-vtpm/milan-v1",
        &[],
        "2025-06-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "az-snp-vtpm/v2-userdata",
        &[],
        "2026-06-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "az-snp-vtpm/neg-mixed-parts",
        &[],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "evidence_ambiguous",
    ),
    (
        "az-snp-vtpm/neg-mixed-parts",
        &["hcl-report.bin", "other-quote.json", "vcek.pem"],
        "2025-06-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "az-snp-vtpm/neg-mixed-parts",
        &["hcl-report.bin", "other-quote.json"],
        "2025-06-01T00:00:00Z",
        Warning,
        "endorsement_missing",
    ),
    (
        "az-snp-vtpm/neg-mixed-parts",
        &[
            "hcl-report.bin",
            "tpm-quote.msg",
            "tpm-quote.sig",
            "vcek.pem",
        ],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "quote_signature",
    ),
];

#[test]
fn azures_vectors_above_sev_snp_are_judged_as_they_must_be() {
    check(Kind::AzSnpVtpm, AZ_SNP_VTPM);
}

#[test]
fn azures_vector_above_tdx_is_judged_with_the_collateral_of_its_platform() {
    let now = at("2025-07-10T00:00:00Z");
    let files = load("az-tdx-vtpm/v1", &[]);
    let collateral = load("tdx/v4-gcp-padded-8000", &["collateral.json"]);
    let (files, endorsements) = (borrowed(&files), borrowed(&collateral));
    let alone = judge(Kind::AzTdxVtpm, &files, now);
    assert_eq!(
        (alone.status, alone.reason),
        (Warning, "endorsement_missing")
    );
    let dossier = Dossier {
        files: &files,
        endorsements: &endorsements,
    };
    let verify = |nonce: &[u8], statuses: &[TcbStatus]| {
        let expected = Expected::Nonce(nonce.to_vec());
        let mut rules = Rules::default();
        rules.dcap.accepted_statuses = statuses.to_vec();
        dossier::verify(Kind::AzTdxVtpm, dossier, &expected, &rules, now).reason
    };
    // Intel lists microcode 7 and module version 4 as the only ones that are up to date; this machine has 6 and 2.
    let old = [TcbStatus::UpToDate, TcbStatus::OutOfDate];
    assert_eq!(verify(b"challenge", &old[..1]), "tcb_out_of_date");
    assert_eq!(verify(b"challenge", &old), "verified");
    assert_eq!(verify(b"challengf", &old), "nonce_mismatch");
    assert_eq!(judge(Kind::AzSnpVtpm, &files, now).reason, "tee_mismatch");
}

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

#[test]
fn nitro_vectors_are_judged_as_they_must_be() {
    check(Kind::Nitro, NITRO);
}

#[test]
fn every_flip_and_every_truncation_of_a_nitro_document_is_refused() {
    sweep(
        Kind::Nitro,
        "nitro/prod-dstack-1",
        "doc.cose",
        &[],
        "2025-12-25T13:30:00Z",
        3,
    );
}

#[test]
fn sev_snp_vectors_are_judged_as_they_must_be() {
    check(Kind::SevSnp, SEV_SNP);
}

#[test]
fn sev_snp_report_is_bound_to_its_report_data_alone() {
    let files = load("snp/milan-v2-vcek", &[]);
    let found: [u8; 64] = files[1].1[0x50..0x90].try_into().unwrap();
    assert_eq!(files[1].0, "report.bin");
    let now = at("2025-06-01T00:00:00Z");
    let verify = |expected| {
        let files = borrowed(&files);
        let dossier = Dossier {
            files: &files,
            endorsements: &[],
        };
        dossier::verify(Kind::SevSnp, dossier, &expected, &Rules::default(), now)
    };
    assert_eq!(verify(Expected::ReportData(found)).status, Affirming);
    for byte in 0..found.len() {
        let mut other = found;
        other[byte] ^= 1;
        let judgement = verify(Expected::ReportData(other));
        assert_eq!(judgement.reason, "report_data_mismatch");
    }
    assert_eq!(
        verify(Expected::Nonce(found.to_vec())).reason,
        "expectation_unsuitable"
    );
}

#[test]
fn revocation_list_that_was_given_must_be_valid_and_a_cached_one_may_be_old() {
    let report = load("snp/milan-v2-vcek", &["report.bin", "vek.der"]);
    let crl = load("snp/crl-milan-empty", &["crl.der"]);
    let (report, crl) = (borrowed(&report), borrowed(&crl));
    let judge = |files: &[File<'_>], endorsements: &[File<'_>], now: &str| {
        let dossier = Dossier {
            files,
            endorsements,
        };
        dossier::inspect(Kind::SevSnp, dossier, &Rules::default(), at(now))
            .judgement()
            .clone()
    };
    let given = [report.as_slice(), &crl].concat();
    assert_eq!(
        judge(&given, &[], "2025-06-01T00:00:00Z").reason,
        "verified"
    );
    assert_eq!(
        judge(&given, &[], "2026-06-01T00:00:00Z").reason,
        "crl_expired"
    );
    assert_eq!(
        judge(&given, &[], "2025-01-01T00:00:00Z").reason,
        "crl_not_yet_valid"
    );
    assert_eq!(
        judge(&report, &crl, "2026-06-01T00:00:00Z").reason,
        "verified"
    );
    let mut forged = crl[0].bytes.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = File {
        name: "crl.der",
        bytes: &forged,
    };
    let given = [report.as_slice(), &[forged]].concat();
    assert_eq!(
        judge(&given, &[], "2025-06-01T00:00:00Z").reason,
        "crl_signature"
    );
}

/// No byte of evidence can change, and none can be missing, without the verdict becoming a refusal.
#[test]
fn every_flip_and_every_truncation_of_sev_snp_evidence_is_refused() {
    let cases = [
        (
            "snp/milan-v2-vcek",
            "report.bin",
            "vek.der",
            "2025-06-01T00:00:00Z",
            3,
        ),
        (
            "snp/milan-v2-vcek",
            "vek.der",
            "report.bin",
            "2025-06-01T00:00:00Z",
            7,
        ),
        (
            "snp/genoa-v3-azure-aci",
            "report.bin",
            "vek.pem",
            "2026-06-01T00:00:00Z",
            11,
        ),
        (
            "snp/turin-v5-azure-aci",
            "report.bin",
            "vek.pem",
            "2026-06-01T00:00:00Z",
            7,
        ),
    ];
    for (case, name, other, now, step) in cases {
        sweep(Kind::SevSnp, case, name, &[other], now, step);
    }
}

fn check(kind: Kind, rows: &[Row]) {
    let mut wrong = Vec::new();
    for (case, files, now, status, reason) in rows {
        let files = load(case, files);
        let judgement = judge(kind, &borrowed(&files), at(now));
        if (judgement.status, judgement.reason) != (*status, *reason) {
            wrong.push(format!(
                "{case} at {now}: expected {status:?} {reason}, found {judgement:#?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn judge(kind: Kind, files: &[File<'_>], now: SystemTime) -> Judgement {
    let dossier = Dossier {
        files,
        endorsements: &[],
    };
    dossier::inspect(kind, dossier, &Rules::default(), now)
        .judgement()
        .clone()
}

/// Flips every `step`-th byte and cuts at every `step`-th length; each result must be a refusal.
#[track_caller]
fn sweep(kind: Kind, case: &str, name: &str, others: &[&str], now: &str, step: usize) {
    let names = [others, &[name]].concat();
    let whole = load(case, &names);
    let now = at(now);
    let with = |bytes: &[u8]| {
        let files: Vec<_> = whole
            .iter()
            .map(|(held, content)| File {
                name: held,
                bytes: if held == name { bytes } else { content },
            })
            .collect();
        judge(kind, &files, now)
    };
    let original = whole
        .iter()
        .find(|(held, _)| held == name)
        .unwrap()
        .1
        .clone();
    // Platforms pad quotes with zeros, which are no evidence; the quote itself may end with one.
    let padding = original
        .iter()
        .rev()
        .take_while(|byte| kind == Kind::Tdx && **byte == 0)
        .count();
    let original = original[..original.len() - padding.saturating_sub(1)].to_vec();
    assert_eq!(with(&original).status, Affirming, "{case}");
    for index in (0..original.len()).step_by(step) {
        let mut flipped = original.clone();
        flipped[index] ^= 1 << (index % 8);
        assert_ne!(
            with(&flipped).status,
            Affirming,
            "{case} {name}: byte {index} flipped"
        );
        assert_ne!(
            with(&original[..index]).status,
            Affirming,
            "{case} {name}: cut at {index}"
        );
    }
    // Some collectors leave a byte after the report of a GPU.
    if kind == Kind::NvidiaGpu {
        return;
    }
    let longer = [original.as_slice(), &[1]].concat();
    assert_ne!(
        with(&longer).status,
        Affirming,
        "{case} {name}: a byte appended"
    );
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// The files of a case in order of name; all where none is named.
fn load(case: &str, names: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(testdata().join(case))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .filter(|(name, _)| names.is_empty() || names.contains(&name.as_str()))
        .collect();
    files.sort();
    files
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<File<'_>> {
    files
        .iter()
        .map(|(name, bytes)| File { name, bytes })
        .collect()
}

fn at(time: &str) -> SystemTime {
    time.parse::<jiff::Timestamp>().unwrap().into()
}

#[test]
fn every_check_of_an_affirmed_report_is_shown() {
    let files = load("snp/milan-v2-vcek", &[]);
    let judgement = judge(Kind::SevSnp, &borrowed(&files), at("2025-06-01T00:00:00Z"));
    let of = |outcome| -> Vec<_> {
        let checks = judgement.checks.iter();
        checks
            .filter(|check| check.outcome == outcome)
            .map(|check| check.name)
            .collect()
    };
    assert_eq!(
        of(Outcome::Passed),
        [
            "report_format",
            "vek_dates",
            "product",
            "vek_signature",
            "ask_signature",
            "vek_role",
            "ask_dates",
            "ark_dates",
            "signing_key",
            "chip_key",
            "report_signature",
            "vek_tcb",
            "hwid",
            "tcb_order",
            "debug",
            "migration",
            "vmpl",
            "guest_svn",
            "vlek",
        ]
    );
    assert_eq!(
        of(Outcome::NotChecked),
        [
            "crl",
            "binding",
            "measurement",
            "host_data",
            "id_key_digest",
            "alias_check",
            "tcb_floor",
            "chip_id",
        ]
    );
}
