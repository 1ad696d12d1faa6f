//! From offer to verdict, and every way in which it must fail.

use std::time::{Duration, SystemTime};

use vouchsafe_attestation::binding::{Purpose, Role};
use vouchsafe_attestation::claims::{ClaimValue, Class};
use vouchsafe_proxy::attester::CollectError;
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_verifier::endorsement::EkRoots;
use vouchsafe_verifier::evidence::tpm::CheckedOffer;
use vouchsafe_verifier::evidence::tpm::attest::Quote;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::pcr::{PcrSelection, PcrSet, PcrValues};

use crate::support::*;

#[tokio::test]
async fn honest_evidence_of_a_software_tpm_is_accepted_as_software() {
    let swtpm = Swtpm::start().unwrap();
    let appraised = Attempt::honest(&swtpm).await.judge().unwrap();
    assert_eq!(appraised.class(), Class::Software);
    let [device] = appraised.devices() else {
        panic!("one device expected")
    };
    let claim = |name| device.claims.get(name);
    assert_eq!(claim("image"), Some(&ClaimValue::Text("node-1".into())));
    assert_eq!(claim("ek_certified"), Some(&ClaimValue::Bool(false)));
    assert_eq!(claim("event_log"), Some(&ClaimValue::Bool(false)));
    assert_eq!(claim("secure_boot"), None);
}

#[tokio::test]
async fn evidence_over_another_view_of_the_connection_is_refused() {
    let swtpm = Swtpm::start().unwrap();
    let mut attempt = Attempt::honest(&swtpm).await;
    type Change = fn(&mut View);
    let changes: [(&str, Change); 11] = [
        ("client nonce", |view| view.client_nonce = [9; 32]),
        ("server nonce: a replay", |view| view.server_nonce = [9; 32]),
        ("exporter of another connection", |view| {
            view.exporter = [9; 32]
        }),
        ("leaf of another server", |view| {
            view.server_leaf_sha256 = [9; 32]
        }),
        ("key of another request", |view| view.spki_sha256 = [9; 32]),
        ("mirrored role", |view| view.role = Role::ControlPlane),
        ("another purpose", |view| view.purpose = Purpose::Renew),
        ("another workload", |view| view.workload = "inference/other"),
        ("another mesh", |view| {
            view.trust_domain = "other.example".parse().unwrap()
        }),
        ("a later epoch", |view| view.revision.epoch += 1),
        ("a later policy", |view| view.revision.sequence += 1),
    ];
    for (what, change) in changes {
        attempt.view = View::honest();
        change(&mut attempt.view);
        let refusal = attempt.judge().expect_err(what);
        assert_eq!(refusal.reason(), "binding", "{what}");
    }
    attempt.view = View::honest();
    attempt.judge().unwrap();
}

#[tokio::test]
async fn a_quote_by_another_tpm_is_refused() {
    let (one, other) = (Swtpm::start().unwrap(), Swtpm::start().unwrap());
    let mut honest = Attempt::honest(&one).await;
    let theirs = Attempt::honest(&other).await;
    // The whole evidence of another machine, and each of its parts in turn.
    honest.evidence = theirs.evidence.clone();
    honest.refused("credential");
    let mut attempt = Attempt::honest(&one).await;
    attempt.evidence.quote = theirs.evidence.quote.clone();
    attempt.refused("quote_signature");
    attempt.evidence.signature = theirs.evidence.signature;
    attempt.refused("quote_signature");
}

#[tokio::test]
async fn a_credential_opens_only_for_the_keys_that_were_offered() {
    let (one, other) = (Swtpm::start().unwrap(), Swtpm::start().unwrap());
    let mut attester = open(config(&one)).await;
    let mut theirs = open(config(&other)).await;
    let names = attester.names(TPM);
    let base = View::honest().base(&names.ek, &names.ak);
    let honest = offer(&mut attester).await;
    let foreign = offer(&mut theirs).await;
    // Our endorsement key with the attestation key of another TPM: the name in the credential is not of a loaded key.
    let substituted = vouchsafe_verifier::evidence::tpm::Offer {
        ak_public: foreign.ak_public,
        ..honest
    };
    let (credential, _challenged) = challenge(&substituted, selection());
    let refused = attester
        .collect(&base, &message(&credential, &selection()))
        .await;
    assert!(
        matches!(
            refused,
            Err(CollectError::Refused {
                command: "TPM2_ActivateCredential",
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_unopened_credential_is_refused() {
    let swtpm = Swtpm::start().unwrap();
    let mut attempt = Attempt::honest(&swtpm).await;
    let secret = attempt.evidence.activated_credential.clone();
    for wrong in [
        vec![],
        vec![0; 32],
        secret[..31].to_vec(),
        [&secret[..], &[0]].concat(),
    ] {
        attempt.evidence.activated_credential = wrong;
        attempt.refused("credential");
    }
}

#[tokio::test]
async fn another_image_is_refused() {
    let swtpm = Swtpm::start().unwrap();
    let booted = Attempt::honest(&swtpm).await;
    booted.judge().unwrap();
    swtpm.extend(4, [7; 16]).unwrap();
    let mut changed = Attempt::honest(&swtpm).await;
    changed.reference = booted.reference;
    changed.refused("image");
    // Claiming the old values does not help: they are not what was quoted.
    changed.evidence.pcrs = booted.evidence.pcrs;
    changed.refused("pcr_digest");
}

#[tokio::test]
async fn an_image_that_ended_no_longer_counts() {
    let swtpm = Swtpm::start().unwrap();
    let mut attempt = Attempt::honest(&swtpm).await;
    let mut until = |end: SystemTime| {
        let tpm = attempt.reference.any_of[0].tpm.as_mut().unwrap();
        tpm.images[0].until = Some(end);
        attempt
            .judge()
            .map(drop)
            .map_err(|refusal| refusal.reason())
    };
    let hour = Duration::from_secs(3600);
    assert_eq!(until(SystemTime::now() + hour), Ok(()));
    assert_eq!(until(SystemTime::now() - hour), Err("image"));
}

#[tokio::test]
async fn a_profile_without_values_matches_nothing() {
    let swtpm = Swtpm::start().unwrap();
    let mut attempt = Attempt::honest(&swtpm).await;
    attempt.reference = image(&PcrValues::default());
    attempt.refused("image");
    attempt.reference.any_of[0]
        .tpm
        .as_mut()
        .unwrap()
        .images
        .clear();
    attempt.refused("image");
    attempt.reference.any_of[0].tpm = None;
    attempt.refused("required_evidence");
    attempt.reference.any_of.clear();
    attempt.refused("required_evidence");
}

#[tokio::test]
async fn a_narrowed_or_widened_selection_is_refused() {
    let swtpm = Swtpm::start().unwrap();
    let of = |pcrs: &[u8]| {
        let mut selection = PcrSelection::default();
        selection.add(
            HashAlgorithm::Sha256,
            PcrSet::new(pcrs.iter().copied()).unwrap(),
        );
        selection
    };
    let asked = of(&[0, 1, 2, 3, 4, 5, 6, 7]);
    for quoted in [of(&[0, 1, 2, 3, 5, 6, 7]), of(&[0, 1, 2, 3, 4, 5, 6, 7, 8])] {
        let mut attester = open(config(&swtpm)).await;
        let offer = offer(&mut attester).await;
        let (credential, challenged) = challenge(&offer, asked.clone());
        let names = attester.names(TPM);
        let base = View::honest().base(&names.ek, &names.ak);
        // The sidecar's host lies to its TPM about what was asked.
        let evidence = collect(&mut attester, &base, &message(&credential, &quoted)).await;
        let attempt = Attempt {
            view: View::honest(),
            reference: image(&evidence.pcrs),
            challenged,
            evidence,
            previous: None,
        };
        attempt.refused("pcr_selection");
    }
}

#[tokio::test]
async fn values_beside_the_quoted_ones_are_refused() {
    let swtpm = Swtpm::start().unwrap();
    let mut attempt = Attempt::honest(&swtpm).await;
    let whole = attempt.evidence.pcrs.clone();
    attempt
        .evidence
        .pcrs
        .insert(HashAlgorithm::Sha256, 23, vec![0; 32])
        .unwrap();
    attempt.refused("pcr_values");
    attempt.evidence.pcrs = PcrValues::default();
    attempt.refused("pcr_values");
    let mut flipped = PcrValues::default();
    for (hash, pcr, value) in whole.iter() {
        let mut value = value.to_vec();
        value[0] ^= u8::from(pcr == 7);
        flipped.insert(hash, pcr, value).unwrap();
    }
    attempt.evidence.pcrs = flipped;
    attempt.refused("pcr_digest");
}

#[tokio::test]
async fn no_bit_of_quote_or_signature_can_be_changed() {
    let swtpm = Swtpm::start().unwrap();
    let honest = Attempt::honest(&swtpm).await;
    let mut attempt = Attempt::honest(&swtpm).await;
    attempt.judge().unwrap();
    let (quote, signature) = (
        attempt.evidence.quote.clone(),
        attempt.evidence.signature.clone(),
    );
    for at in 0..quote.len() {
        for bit in 0..8 {
            attempt.evidence.quote = quote.clone();
            attempt.evidence.quote[at] ^= 1 << bit;
            let refusal = attempt.judge().expect_err("a changed quote");
            assert!(
                ["quote", "quote_signature"].contains(&refusal.reason()),
                "byte {at} bit {bit}: {refusal}"
            );
        }
    }
    attempt.evidence.quote = quote.clone();
    for at in 0..signature.len() {
        for bit in 0..8 {
            attempt.evidence.signature = signature.clone();
            attempt.evidence.signature[at] ^= 1 << bit;
            attempt.refused("quote_signature");
        }
    }
    attempt.evidence.signature = signature;
    for end in 0..quote.len() {
        attempt.evidence.quote = quote[..end].to_vec();
        attempt.refused("quote");
    }
    honest.judge().unwrap();
}

#[tokio::test]
async fn a_reboot_is_seen_and_a_restored_snapshot_is_refused() {
    let mut swtpm = Swtpm::start().unwrap();
    let snapshot = swtpm.snapshot().unwrap();
    let first = Attempt::honest(&swtpm).await.judge().unwrap();
    swtpm.reboot().unwrap();
    let mut attempt = Attempt::honest(&swtpm).await;
    attempt.previous = first.tpm().cloned();
    let second = attempt.judge().unwrap();
    let counts = |appraised: &vouchsafe_verifier::appraise::Appraised| {
        appraised.tpm().map(|tpm| tpm.clock.reset_count).unwrap()
    };
    assert!(counts(&second) > counts(&first));
    swtpm.reboot().unwrap();
    let mut third = Attempt::honest(&swtpm).await;
    third.previous = second.tpm().cloned();
    let third = third.judge().unwrap();
    // The host puts the machine's first state back.
    swtpm.restore(&snapshot).unwrap();
    let mut restored = Attempt::honest(&swtpm).await;
    restored.previous = third.tpm().cloned();
    restored.refused("reset_count");
}

#[tokio::test]
async fn counters_are_compared_within_one_boot() {
    let swtpm = Swtpm::start().unwrap();
    let first = Attempt::honest(&swtpm).await.judge().unwrap();
    let before = first.tpm().cloned().unwrap();
    let mut attempt = Attempt::honest(&swtpm).await;
    let mut against = |change: fn(&mut vouchsafe_verifier::evidence::tpm::attest::ClockInfo)| {
        let mut previous = before.clone();
        change(&mut previous.clock);
        attempt.previous = Some(previous);
        attempt
            .judge()
            .map(drop)
            .map_err(|refusal| refusal.reason())
    };
    assert_eq!(against(|_| ()), Ok(()));
    assert_eq!(against(|clock| clock.reset_count += 1), Err("reset_count"));
    assert_eq!(
        against(|clock| clock.restart_count += 1),
        Err("restart_count")
    );
    assert_eq!(against(|clock| clock.clock += 3_600_000), Err("clock"));
}

#[tokio::test]
async fn another_key_or_another_tpm_is_not_the_enrolled_one() {
    let (one, other) = (Swtpm::start().unwrap(), Swtpm::start().unwrap());
    let mut attempt = Attempt::honest(&one).await;
    let state = attempt.judge().unwrap().tpm().cloned().unwrap();
    attempt.previous = Some(state.clone());
    attempt.judge().unwrap();
    let mut changed = state.clone();
    changed.ak_name[33] ^= 1;
    attempt.previous = Some(changed);
    attempt.refused("ak_changed");
    let mut moved = Attempt::honest(&other).await;
    moved.previous = Some(state);
    moved.refused("ek_changed");
}

#[tokio::test]
async fn the_attestation_key_is_the_same_after_a_restart_of_sidecar_and_machine() {
    let mut swtpm = Swtpm::start().unwrap();
    let before = open(config(&swtpm)).await.names(TPM);
    assert_eq!(open(config(&swtpm)).await.names(TPM), before);
    swtpm.reboot().unwrap();
    assert_eq!(open(config(&swtpm)).await.names(TPM), before);
}

#[tokio::test]
async fn many_attestations_leave_no_object_behind() {
    let swtpm = Swtpm::start().unwrap();
    let mut attester = open(config(&swtpm)).await;
    // A TPM without a resource manager holds three objects: one forgotten key each time would end this early.
    for _ in 0..6 {
        Attempt::with(&mut attester).await.judge().unwrap();
    }
    // A failed one frees its objects too.
    let offer = offer(&mut attester).await;
    let (mut credential, _challenged) = challenge(&offer, selection());
    let last = credential.blob.len() - 1;
    credential.blob[last] ^= 1;
    let names = attester.names(TPM);
    let base = View::honest().base(&names.ek, &names.ak);
    for _ in 0..4 {
        let refused = attester
            .collect(&base, &message(&credential, &selection()))
            .await;
        assert!(
            matches!(
                refused,
                Err(CollectError::Refused {
                    command: "TPM2_ActivateCredential",
                    ..
                })
            ),
            "{refused:?}"
        );
    }
    Attempt::with(&mut attester).await.judge().unwrap();
}

#[tokio::test]
async fn a_missing_tpm_is_named() {
    let swtpm = Swtpm::start().unwrap();
    let config = config(&swtpm);
    let mut attester = open(config.clone()).await;
    let (credential, _challenged) = challenge(&offer(&mut attester).await, selection());
    drop(swtpm);
    let names = attester.names(TPM);
    let base = View::honest().base(&names.ek, &names.ak);
    let gone = attester
        .collect(&base, &message(&credential, &selection()))
        .await;
    assert!(
        matches!(gone, Err(CollectError::Transport { .. })),
        "{gone:?}"
    );
}

#[tokio::test]
async fn keys_that_prove_nothing_are_refused_as_offers() {
    let swtpm = Swtpm::start().unwrap();
    let honest = offer(&mut open(config(&swtpm)).await).await;
    let check = |offer: &vouchsafe_verifier::evidence::tpm::Offer| {
        CheckedOffer::check(offer, &EkRoots::default(), SystemTime::now())
            .map(drop)
            .map_err(|refusal| refusal.reason())
    };
    assert_eq!(check(&honest), Ok(()));
    // Attributes are the four bytes after type and name algorithm.
    for (bit, name) in [
        (1, "fixedTPM"),
        (4, "fixedParent"),
        (5, "sensitiveDataOrigin"),
        (16, "restricted"),
        (18, "sign"),
        (17, "decrypt"),
    ] {
        let mut offer = honest.clone();
        offer.ak_public[7 - bit / 8] ^= 1 << (bit % 8);
        assert_eq!(check(&offer), Err("ak_attributes"), "{name}");
    }
    for (bit, name) in [
        (1, "fixedTPM"),
        (4, "fixedParent"),
        (5, "sensitiveDataOrigin"),
        (16, "restricted"),
        (17, "decrypt"),
        (18, "sign"),
    ] {
        let mut offer = honest.clone();
        offer.ek_public[7 - bit / 8] ^= 1 << (bit % 8);
        assert_eq!(check(&offer), Err("ek_attributes"), "{name}");
    }
    for end in 0..honest.ak_public.len() {
        let mut offer = honest.clone();
        offer.ak_public.truncate(end);
        assert_eq!(check(&offer), Err("ak_public"));
    }
    for end in 0..honest.ek_public.len() {
        let mut offer = honest.clone();
        offer.ek_public.truncate(end);
        assert_eq!(check(&offer), Err("ek_public"));
    }
    // The two keys swapped.
    let mut swapped = honest.clone();
    std::mem::swap(&mut swapped.ek_public, &mut swapped.ak_public);
    assert_eq!(check(&swapped), Err("ek_attributes"));
}

#[tokio::test]
async fn quotes_state_their_counters_openly() {
    let swtpm = Swtpm::start().unwrap();
    let attempt = Attempt::honest(&swtpm).await;
    let quote = Quote::parse(&attempt.evidence.quote).unwrap();
    // An obfuscated counter of a fresh TPM would be a random number.
    assert!(quote.clock.reset_count < 10, "{:?}", quote.clock);
    assert_eq!(quote.clock.restart_count, 0);
    assert!(quote.clock.safe);
}
