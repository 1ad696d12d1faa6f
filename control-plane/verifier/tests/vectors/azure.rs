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

/// # Why this vector is refused by default, though its case says that policy accepts
/// Intel's TCB info of 2025-07-07 for the platform (FMSPC 00806f050000, evaluation 17) calls the machine out of date, by
/// facts that are signed: its PCK certificate has SVN 6 in the components of microcode where the only level that is up to
/// date has 7, and its TDX module has 2 where that level has 4; it reaches the level of 2023-08-09, for which the info
/// names INTEL-SA-00960, -00982 and -00986. (`dcap-qvl` 0.7 does not come to a status: it refuses the quote because the
/// paravisor's trust domain leaves `SEPT_VE_DISABLE` clear, which is accepted below a paravisor here.)
/// The case states what its project's verifier does, which reports the status as a claim and leaves it to policy. Here
/// the default is the strict policy, so the reason is `tcb_out_of_date`; a profile that names `OutOfDate` accepts it.
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
    let old = [TcbStatus::UpToDate, TcbStatus::OutOfDate];
    assert_eq!(verify(b"challenge", &old[..1]), "tcb_out_of_date");
    assert_eq!(verify(b"challenge", &old), "verified");
    assert_eq!(verify(b"challengf", &old), "nonce_mismatch");
    assert_eq!(judge(Kind::AzSnpVtpm, &files, now).reason, "tee_mismatch");
}
