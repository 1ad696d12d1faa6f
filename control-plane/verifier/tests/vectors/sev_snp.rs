//! AMD SEV-SNP.

use std::collections::BTreeSet;

use vouchsafe_verifier::dossier::{self, Dossier, Expected, File, Kind, Rules};
use vouchsafe_verifier::evidence::sev_snp::checks::CHECKS;
use vouchsafe_verifier::judgement::Status;

use Status::{Affirming, Contraindicated, Warning};

use crate::{Row, at, borrowed, check, judge, load};

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

#[test]
fn every_check_of_an_affirmed_report_is_shown() {
    let files = load("snp/milan-v2-vcek", &[]);
    let judgement = judge(Kind::SevSnp, &borrowed(&files), at("2025-06-01T00:00:00Z"));
    // Not shown: checks that there is nothing for (no CPUID in version 2, the certificate is there, no vTPM).
    let absent = ["cpuid", "vek", "vek_issuer", "runtime_data"];
    let expected: BTreeSet<_> = CHECKS
        .iter()
        .map(|check| check.name)
        .filter(|name| !absent.contains(name))
        .collect();
    let shown: BTreeSet<_> = judgement.checks.iter().map(|check| check.name).collect();
    assert_eq!(shown, expected);
}
