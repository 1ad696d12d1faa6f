//! NVIDIA's GPUs and NVSwitches.

use vouchsafe_verifier::dossier::{File, Kind};
use vouchsafe_verifier::judgement::Status::{Affirming, Contraindicated, Warning};

use crate::{Row, at, check, judge, load, sweep};

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
