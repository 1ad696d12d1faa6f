//! Kinds by their words, expectations of the wrong sort, and files judged by a profile's reference.

use vouchsafe_attestation::claims::ClaimValue;
use vouchsafe_attestation::condition::{Comparison, Condition, Operator};

use super::*;
use crate::evidence::sev_snp::tests::machine::time;
use crate::judgement::Status;
use crate::reference_value::HardwareImage;

const REPORT: &[u8] = include_bytes!("../../testdata/snp/milan-v2-vcek/report.bin");
const VEK: &[u8] = include_bytes!("../../testdata/snp/milan-v2-vcek/vek.der");
const MEASUREMENT: &str = "a1f3930413247bb38cfc171579ea3c12d5fe4901f0c792f63fd75d98f1ef827c23500644e0e692e6be917f9050d3d38c";

/// June 2025.
fn now() -> SystemTime {
    time(1978)
}

#[test]
fn kinds_are_told_by_their_words() {
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
        if let Some(evidence) = kind.evidence_kind() {
            assert_eq!(evidence.as_str(), kind.as_str());
        }
    }
    let unknown: Result<Kind, _> = "sev".parse();
    assert_eq!(unknown, Err(UnknownKindError("sev".into())));
}

#[test]
fn every_row_of_a_table_says_what_it_compares_to_who_asks_about_the_kind() {
    let below = evidence::sev_snp::checks::CHECKS;
    for (kind, tables) in [
        (Kind::SevSnp, [below, &[]]),
        (Kind::Tdx, [evidence::dcap::checks::CHECKS, &[]]),
        (Kind::Sgx, [evidence::dcap::checks::CHECKS, &[]]),
        (Kind::AzSnpVtpm, [evidence::az_vtpm::checks::CHECKS, below]),
        (
            Kind::AzTdxVtpm,
            [
                evidence::az_vtpm::checks::CHECKS,
                evidence::dcap::checks::CHECKS,
            ],
        ),
        (Kind::NvidiaGpu, [evidence::nvidia_gpu::checks::CHECKS, &[]]),
        (Kind::Nitro, [evidence::nitro::CHECKS, &[]]),
        (Kind::Tpm, [evidence::tpm::checks::CHECKS, &[]]),
    ] {
        for row in tables.into_iter().flatten() {
            assert!(!kind.about(row.name).is_empty(), "{kind:?} {}", row.name);
        }
        assert_eq!(kind.about("nothing"), "");
    }
    // A claim that a profile compares is a check too.
    assert_ne!(Kind::SevSnp.about("product"), "");
    assert_eq!(Kind::Sgx.about("tcb.snp"), "");
}

#[test]
fn an_expectation_of_the_wrong_sort_is_refused_before_anything_else() {
    let files = [File {
        name: "report.bin",
        bytes: REPORT,
    }];
    let dossier = Dossier {
        files: &files,
        endorsements: &[],
    };
    for (kind, expected) in [
        (Kind::SevSnp, Expected::Nonce(vec![1])),
        (Kind::Tdx, Expected::Nonce(vec![1])),
        (Kind::Sgx, Expected::Nonce(vec![1])),
        (Kind::AzSnpVtpm, Expected::ReportData([0; 64])),
        (Kind::AzTdxVtpm, Expected::ReportData([0; 64])),
        (Kind::NvidiaGpu, Expected::ReportData([0; 64])),
        (Kind::Tpm, Expected::ReportData([0; 64])),
    ] {
        let judgement = verify(kind, dossier, &expected, &Rules::default(), now());
        assert_eq!(judgement.reason, "expectation_unsuitable", "{kind:?}");
        assert_eq!(judgement.status, Status::Contraindicated, "{kind:?}");
        assert_eq!(judgement.checks.len(), 1, "{kind:?}: {judgement:#?}");
    }
}

fn reference(measurement: &str, product: &str) -> HardwareReference {
    HardwareReference {
        images: vec![HardwareImage {
            name: "a".into(),
            values: vec![("measurement".into(), measurement.into())],
            until: None,
        }],
        conditions: vec![Condition {
            claim: "product",
            any_of: vec![Comparison {
                operator: Operator::Equal,
                value: ClaimValue::Text(product.into()),
            }],
        }],
        ..HardwareReference::default()
    }
}

#[test]
fn files_are_judged_by_a_reference_with_a_binding_and_without() {
    let (report, vek) = (
        File {
            name: "report.bin",
            bytes: REPORT,
        },
        File {
            name: "vek.der",
            bytes: VEK,
        },
    );
    let files = [report, vek];
    let dossier = Dossier {
        files: &files,
        endorsements: &[],
    };
    let report_data: [u8; 64] = REPORT[0x50..0x90].try_into().unwrap();
    let bound = |data: [u8; 64], reference: &HardwareReference| {
        let expected = Expected::ReportData(data);
        verify_against(Kind::SevSnp, dossier, &expected, reference, now())
    };
    let good = reference(MEASUREMENT, "Milan");
    let judgement = bound(report_data, &good);
    assert_eq!(
        (judgement.status, judgement.reason),
        (Status::Affirming, "verified")
    );
    assert_eq!(judgement.binding, BindingState::Checked);
    assert_eq!(bound([0; 64], &good).reason, "report_data_mismatch");
    let other = reference(&"00".repeat(48), "Milan");
    assert_eq!(bound(report_data, &other).reason, "image");
    let unmet = reference(MEASUREMENT, "Genoa");
    assert_eq!(bound(report_data, &unmet).reason, "claim_not_accepted");
    let seen = inspect_against(Kind::SevSnp, dossier, &good, now());
    assert_eq!(seen.judgement().reason, "verified");
    assert_eq!(seen.judgement().binding, BindingState::NotChecked);
    // Kinds that no profile speaks of are judged by their rules alone.
    let sgx = inspect_against(Kind::Sgx, dossier, &good, now());
    assert_ne!(sgx.judgement().status, Status::Affirming);
}
