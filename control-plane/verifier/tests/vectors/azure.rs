//! Azure's vTPMs above SEV-SNP and TDX.

use vouchsafe_verifier::dossier::{self, Dossier, Expected, Kind, Rules};
use vouchsafe_verifier::evidence::dcap::collateral::TcbStatus;
use vouchsafe_verifier::judgement::Status::{Affirming, Contraindicated, Warning};

use crate::{Row, at, borrowed, check, judge, load};

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
        "vtpm_quote_signature",
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
