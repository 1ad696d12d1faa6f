//! Sets, and the simulated kind. A TPM's own checks are tested over a real one, in the workspace's tests.

use std::time::{Duration, UNIX_EPOCH};

use vouchsafe_attestation::binding::{Nonce, Purpose, Role, Transcript};

use super::*;
use crate::evidence::{Inspection, inspect};
use crate::reference_value::{SimulatedReference, TpmReference};
use crate::verdict::Outcome;

fn base() -> Base {
    Transcript {
        purpose: Purpose::Enroll,
        role: Role::Attester,
        trust_domain: &"demo.example".parse().unwrap(),
        workload: &"inference/llm".parse().unwrap(),
        client_nonce: Nonce([1; 32]),
        server_nonce: Nonce([2; 32]),
        spki_sha256: [3; 32],
        server_leaf_sha256: [4; 32],
        exporter: [5; 32],
        ek_name: b"",
        ak_name: b"",
        policy_revision: Revision::default(),
    }
    .base()
}

fn simulated(index: u32, prior: &EvidenceDigest) -> EvidenceItem {
    let binding = base().device(EvidenceKind::Simulated, index, prior);
    EvidenceItem {
        index,
        evidence: Evidence::Simulated(simulated::Evidence {
            machine: "laptop".into(),
            image: "demo".into(),
            binding: binding.as_bytes().to_vec(),
        }),
    }
}

fn honest() -> Vec<EvidenceItem> {
    vec![simulated(0, &EvidenceDigest::empty())]
}

fn change(item: &mut EvidenceItem, by: impl FnOnce(&mut simulated::Evidence)) {
    match &mut item.evidence {
        Evidence::Simulated(evidence) => by(evidence),
        _ => panic!("a simulation"),
    }
}

fn profile() -> ReferenceValues {
    ReferenceValues {
        any_of: vec![Alternative {
            tpm: None,
            simulated: Some(SimulatedReference {
                images: vec!["other".into(), "demo".into()],
            }),
            ..Alternative::default()
        }],
    }
}

fn judge(
    items: &[EvidenceItem],
    reference: &ReferenceValues,
    adjust: impl FnOnce(&mut Expected<'_>),
) -> Verdict {
    let base = base();
    let mut expected = Expected {
        base: &base,
        required: &[EvidenceKind::Simulated],
        tpm: None,
        previous_tpm: None,
        simulated_machine: Some("laptop"),
        danger_accept_simulated: true,
        vtpm_key: None,
        nvidia_devices: 0,
        endorsements: &[],
        roots: &VendorRoots::PINNED,
    };
    adjust(&mut expected);
    appraise(items, reference, &expected, now())
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

#[track_caller]
fn check(
    items: &[EvidenceItem],
    reference: &ReferenceValues,
    adjust: impl FnOnce(&mut Expected<'_>),
    reason: &str,
) {
    match judge(items, reference, adjust).into_outcome() {
        Ok(appraised) => panic!("accepted, expected `{reason}`: {appraised:?}"),
        Err(refusal) => assert_eq!(refusal.reason(), reason, "{refusal}"),
    }
}

#[test]
fn simulated_evidence_is_accepted_only_where_the_trust_domain_says_so_and_shows_its_class() {
    let appraised = judge(&honest(), &profile(), |_| ()).into_outcome().unwrap();
    assert_eq!(appraised.class(), Class::Simulated);
    assert_eq!(appraised.root(), EvidenceKind::Simulated);
    assert_eq!(appraised.tpm(), None);
    check(
        &honest(),
        &profile(),
        |expected| expected.danger_accept_simulated = false,
        "simulated_not_accepted",
    );
}

#[test]
fn each_input_of_simulated_evidence_is_checked() {
    check(
        &honest(),
        &profile(),
        |expected| expected.simulated_machine = None,
        "unsolicited_evidence",
    );
    check(
        &honest(),
        &profile(),
        |expected| expected.simulated_machine = Some("other"),
        "simulated_machine",
    );
    let with = |by: fn(&mut simulated::Evidence)| {
        let mut items = honest();
        change(&mut items[0], by);
        items
    };
    let flipped = with(|evidence| evidence.binding[0] ^= 1);
    check(&flipped, &profile(), |_| (), "binding");
    let short = with(|evidence| evidence.binding.truncate(31));
    check(&short, &profile(), |_| (), "binding");
    let empty = with(|evidence| evidence.binding.clear());
    check(&empty, &profile(), |_| (), "binding");
    let image = with(|evidence| evidence.image = "unknown".into());
    check(&image, &profile(), |_| (), "image");
}

#[test]
fn a_set_is_bounded_numbered_and_ends_in_its_only_root() {
    check(&[], &profile(), |_| (), "evidence_set");
    let numbered_from_one = [simulated(1, &EvidenceDigest::empty())];
    check(&numbered_from_one, &profile(), |_| (), "evidence_set");
    let first = simulated(0, &EvidenceDigest::empty());
    let prior =
        EvidenceDigest::empty().after(EvidenceKind::Simulated, 0, &first.evidence.transcript());
    let two_roots = [first, simulated(1, &prior)];
    check(&two_roots, &profile(), |_| (), "evidence_set");
    let tpm = EvidenceItem {
        index: 0,
        evidence: Evidence::Tpm(tpm::Evidence::default()),
    };
    let two_kinds = [honest().remove(0), tpm.clone()];
    check(&two_kinds, &profile(), |_| (), "evidence_set");
    let many: Vec<_> = (0..33)
        .map(|index| simulated(index, &EvidenceDigest::empty()))
        .collect();
    check(&many, &profile(), |_| (), "evidence_set");
    // A quote that nobody asked for.
    check(&[tpm], &profile(), |_| (), "unsolicited_evidence");
}

#[test]
fn evidence_has_exactly_the_kinds_that_an_alternative_names() {
    let nothing = ReferenceValues::default();
    check(&honest(), &nothing, |_| (), "required_evidence");
    let mut both = profile();
    both.any_of[0].tpm = Some(TpmReference {
        images: vec![],
        class: Class::Software,
        ek_certified: None,
        secure_boot: None,
        ima: None,
    });
    check(&honest(), &both, |_| (), "required_evidence");
    // The second alternative fits.
    both.any_of.push(profile().any_of.remove(0));
    let appraised = judge(&honest(), &both, |_| ()).into_outcome().unwrap();
    assert_eq!(appraised.alternative(), 1);
}

#[test]
fn a_verdict_names_each_check_and_ends_with_the_failed_one() {
    let verdict = judge(&honest(), &profile(), |_| ());
    let checks: Vec<_> = verdict
        .findings()
        .iter()
        .map(|finding| finding.check.as_str())
        .collect();
    assert!(checks.ends_with(&[
        "unsolicited_evidence",
        "required_evidence",
        "simulated_not_accepted",
        "simulated_machine",
        "binding",
        "image"
    ]));
    assert!(verdict.outcome().is_ok());
    let refused = judge(&honest(), &profile(), |expected| {
        expected.simulated_machine = Some("other");
    });
    let last = refused.findings().last().unwrap();
    assert_eq!(last.outcome, Outcome::Failed);
    assert_eq!(last.check, Check::SimulatedMachine);
    assert_eq!(refused.outcome().unwrap_err().check, last.check);
}

#[test]
fn a_result_says_what_was_appraised() {
    let appraised = judge(&honest(), &profile(), |_| ()).into_outcome().unwrap();
    let revision = Revision {
        epoch: 3,
        sequence: 4,
    };
    let result = appraised.into_result(InstanceId([9; 16]), revision, [8; 32]);
    assert_eq!(result.class, Class::Simulated);
    assert_eq!(result.evidence_time, now());
    assert_eq!(result.policy_revision, revision);
    assert_eq!(result.devices.len(), 1);
    let read = AttestationResult::decode(&result.encode().unwrap()).unwrap();
    assert_eq!(read, result);
}

#[test]
fn a_profile_selects_its_images_pcrs_and_the_firmwares() {
    use crate::evidence::tpm::hash::HashAlgorithm::{Sha256, Sha384};
    use crate::evidence::tpm::pcr::PcrValues;
    use crate::reference_value::TpmImage;
    let selected = |values: &[(_, u8, usize)]| {
        let mut pcrs = PcrValues::default();
        for (hash, pcr, length) in values {
            pcrs.insert(*hash, *pcr, vec![0; *length]).unwrap();
        }
        let mut profile = profile();
        profile.any_of[0].tpm = Some(TpmReference {
            images: vec![TpmImage {
                name: "a".into(),
                pcrs,
                until: None,
            }],
            class: Class::Software,
            ek_certified: None,
            secure_boot: None,
            ima: None,
        });
        profile.pcr_selection().to_string()
    };
    assert_eq!(selected(&[]), "sha256:0,1,2,3,4,5,6,7");
    assert_eq!(selected(&[(Sha256, 11, 32)]), "sha256:0,1,2,3,4,5,6,7,11");
    assert_eq!(selected(&[(Sha384, 4, 48)]), "sha384:0,1,2,3,4,5,6,7");
}

#[test]
fn inspection_shows_without_verifying() {
    let item = honest().remove(0);
    assert!(matches!(
        inspect(&item.evidence),
        Ok(Some(Inspection::Simulated(shown))) if shown.machine == "laptop"
    ));
    assert!(inspect(&Evidence::Tpm(tpm::Evidence::default())).is_err());
}

#[test]
fn reasons_are_words_that_stand_once() {
    let all = [
        Check::EvidenceSet,
        Check::Solicited,
        Check::RequiredEvidence,
        Check::EkPublic,
        Check::EkAttributes,
        Check::EkCertificate,
        Check::EkCertified,
        Check::AkPublic,
        Check::AkAttributes,
        Check::AkScheme,
        Check::MakeCredential,
        Check::Credential,
        Check::Quote,
        Check::QuoteSignature,
        Check::AkHierarchy,
        Check::Binding,
        Check::PcrSelection,
        Check::PcrValues,
        Check::PcrDigest,
        Check::ClockSafe,
        Check::SameEk,
        Check::SameAk,
        Check::ResetCount,
        Check::RestartCount,
        Check::Clock,
        Check::EventLog,
        Check::EventLogReplay,
        Check::ImaLog,
        Check::ImaCheckpoint,
        Check::ImaReplay,
        Check::ImaFile,
        Check::Image,
        Check::SecureBoot,
        Check::Class,
        Check::SimulatedAccepted,
        Check::SimulatedMachine,
    ];
    let mut words: Vec<_> = all.iter().map(|check| check.as_str()).collect();
    for word in &words {
        assert!(
            word.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{word}"
        );
    }
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), all.len());
    assert!(all.iter().all(|check| !check.remedy().is_empty()));
}

mod sets;
mod vtpm;
