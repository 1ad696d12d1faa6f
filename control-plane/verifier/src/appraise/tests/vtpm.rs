//! A vTPM of Azure: the key that was offered, whose name is in the transcript, and the values that are shown with a quote.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::evidence::az_vtpm;
use crate::evidence::received::AzVtpm;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::pcr::PcrValues;
use crate::evidence::tpm::wire::put_sized;
use crate::reference_value::HardwareReference;

/// The report of a real machine.
fn report() -> Vec<u8> {
    let file = include_str!("../../../testdata/az-snp-vtpm/milan-v1/evidence.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let report = file["hcl_report"].as_str().unwrap();
    URL_SAFE_NO_PAD
        .decode(report.trim_end_matches('='))
        .unwrap()
}

/// The public area of an RSA key of Azure's form.
fn area(modulus: &[u8]) -> Vec<u8> {
    let mut area = vec![
        0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b,
    ];
    area.extend([0x08, 0, 0, 0, 0, 0]);
    put_sized(&mut area, modulus);
    area
}

/// Values of these PCRs, zeros all of them.
fn values(bank: HashAlgorithm, pcrs: &[u8]) -> PcrValues {
    let mut values = PcrValues::default();
    for pcr in pcrs {
        let zeros = vec![0; bank.digest_len()];
        values.insert(bank, *pcr, zeros).unwrap();
    }
    values
}

/// What becomes of a report that was not made for this attestation: the reason says how far it came.
fn reason(key: Option<&[u8]>, pcrs: PcrValues) -> &'static str {
    let items = [EvidenceItem {
        index: 0,
        evidence: Evidence::AzSnpVtpm(AzVtpm {
            hcl_report: report(),
            quote: vec![1],
            signature: vec![1],
            pcrs,
            event_log: Vec::new(),
            hardware: Vec::new(),
        }),
    }];
    let reference = ReferenceValues {
        any_of: vec![Alternative {
            hardware: BTreeMap::from([(EvidenceKind::AzSnpVtpm, HardwareReference::default())]),
            ..Alternative::default()
        }],
    };
    let base = base();
    let expected = Expected {
        base: &base,
        required: &[EvidenceKind::AzSnpVtpm],
        tpm: None,
        previous_tpm: None,
        simulated_machine: None,
        danger_accept_simulated: false,
        vtpm_key: key,
        nvidia_devices: 0,
        endorsements: &[],
        roots: &VendorRoots::PINNED,
    };
    let verdict = appraise(&items, &reference, &expected, now());
    verdict.into_outcome().unwrap_err().reason()
}

#[test]
fn the_key_is_the_one_that_was_offered_and_the_values_are_plain() {
    let (modulus, _) = az_vtpm::attestation_key(&report()).unwrap();
    let good = area(&modulus);
    let mut other = modulus.clone();
    *other.last_mut().unwrap() ^= 2;
    let plain = || values(HashAlgorithm::Sha256, &[0, 1, 2]);
    assert_eq!(reason(None, plain()), "unsolicited_evidence");
    assert_eq!(reason(Some(b"no key"), plain()), "ak_public");
    assert_eq!(reason(Some(&area(&other)), plain()), "vtpm_key");
    let mut exponent = good.clone();
    exponent[21] = 3;
    assert!(["ak_public", "vtpm_key"].contains(&reason(Some(&exponent), plain())));
    for pcrs in [
        values(HashAlgorithm::Sha384, &[0, 1, 2]),
        values(HashAlgorithm::Sha256, &[0, 2]),
        values(HashAlgorithm::Sha256, &[1, 2]),
    ] {
        assert_eq!(reason(Some(&good), pcrs), "pcr_values");
    }
    // All this was right, and what comes next is judged.
    let next = reason(Some(&good), plain());
    assert!(
        !["vtpm_key", "pcr_values", "ak_public"].contains(&next),
        "{next}"
    );
}

#[test]
fn evidence_of_a_tpm_that_was_not_challenged_is_not_looked_at() {
    let items = [EvidenceItem {
        index: 0,
        evidence: Evidence::Tpm(tpm::Evidence {
            quote: vec![1],
            signature: vec![1],
            pcrs: PcrValues::default(),
            event_log: Vec::new(),
            activated_credential: Vec::new(),
            ima_log: Vec::new(),
            ima_offset: 0,
        }),
    }];
    let reference = ReferenceValues {
        any_of: vec![Alternative {
            tpm: Some(TpmReference {
                images: Vec::new(),
                class: Class::Software,
                ek_certified: None,
                secure_boot: None,
                ima: None,
            }),
            ..Alternative::default()
        }],
    };
    let required = |expected: &mut Expected<'_>| expected.required = &[EvidenceKind::Tpm];
    check(&items, &reference, required, "unsolicited_evidence");
}
