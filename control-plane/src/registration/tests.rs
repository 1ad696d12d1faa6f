use std::sync::Arc;

use futures_util::FutureExt;
use vouchsafe_api::convert::attest::reattest::Proof;
use vouchsafe_attestation::claims::Class;
use vouchsafe_config::policy::RuleSource;
use vouchsafe_config::revocation::{Cause, Match, Revocation};
use vouchsafe_verifier::evidence::tpm::JudgedList;
use vouchsafe_verifier::evidence::tpm::attest::ClockInfo;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::ima::Checkpoint;

use super::trust::Confirming;
use super::*;

pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(super) fn instance(number: u8) -> Instance {
    Instance {
        id: InstanceId([number; 16]),
        workload: "inference/llm".parse().unwrap(),
        hardware: format!("tpm_ek_sha256:{number}"),
        tpm: Some(TpmState {
            ek_sha256: [number; 32],
            ak_name: vec![0, 11, number],
            clock: ClockInfo {
                clock: 1,
                reset_count: 2,
                restart_count: 3,
                safe: true,
            },
            ima: Some(JudgedList {
                checkpoint: Checkpoint {
                    bank: HashAlgorithm::Sha256,
                    count: 826,
                    aggregate: vec![4; 32],
                },
                policy_sha256: [5; 32],
            }),
        }),
        vtpm_key: vec![number],
        class: "software".into(),
        kinds: vec!["tpm".into()],
        image: "node".into(),
        member: "node inference/gpu-07".into(),
        evidence_time: now(),
        not_after: now() + Duration::from_secs(60),
        trusted_until: now() + Duration::from_secs(60),
        certificates: vec![Certificate {
            serial: vec![number, 1],
            spki_sha256: [number; 32],
            authority_spki_sha256: [11; 32],
            not_after: now() + Duration::from_secs(60),
        }],
        endpoints: vec![Endpoint {
            listener: format!("127.0.0.1:{}", 9000 + u16::from(number)),
            ports: vec!["openai".parse().unwrap()],
        }],
        software_version: "0.1.0".into(),
        ear: "{}".into(),
        identities: vec![format!("tpm_ek_sha256:{number}")],
        owed: BTreeMap::from([
            (Duty::Root, owed(600)),
            (Duty::Part(Proof::TpmLog), owed(60)),
        ]),
        withdrawn: None,
        certificate_evidence: [6; 32],
        good_evidence: [7; 32],
        judged_by: [8; 32],
        rests_on: vec![("amd/vcek".into(), [9; 32])],
    }
}

fn owed(seconds: u64) -> Owed {
    Owed {
        interval: Duration::from_secs(seconds),
        good: now(),
    }
}

/// Opens the store again: its thread lets go of the file after the drop, not within it.
async fn reopen(folder: &std::path::Path) -> Registry {
    let store = loop {
        match RedbStore::open(&folder.join("store.redb")) {
            Ok(store) => break store,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    Registry::open(store).await.unwrap()
}

#[tokio::test]
async fn a_revoked_instance_stays_so_through_renewals_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    registry.enroll(instance(1), None).await.unwrap();
    let id = InstanceId([1; 16]);
    assert!(revoke(&registry, "ima_file").await.is_some());
    assert!(revoke(&registry, "ima_file").await.is_none());
    // A renewal that was under way when the evidence turned bad.
    registry.renew(instance(1));
    assert_eq!(registry.withdrawals(now()).len(), 1);
    assert_eq!(registry.places(now(), |_, _| true).endpoints.len(), 0);
    // Nothing was flushed: it is in the store at once.
    drop(registry);
    let registry = reopen(folder.path()).await;
    let found = registry.withdrawals(now());
    assert_eq!(found[0].state, Withdrawn::Revoked);
    assert_eq!(found[0].reason, "ima_file");
    let evidence = registry.confirm(&id, &Confirming::of(Proof::TpmLog, now()));
    assert_eq!(evidence, None);
    assert_eq!(registry.withdrawals(now()).len(), 1);
    drop(registry);
    // Its certificate has ended: there is nobody left to cut.
    let registry = reopen(folder.path()).await;
    let end = now() + Duration::from_secs(60);
    assert_eq!(registry.withdrawals(end).len(), 0);
}

async fn revoke(registry: &Registry, reason: &str) -> Option<Instance> {
    let id = InstanceId([1; 16]);
    registry.revoke(&id, reason, now(), |_| true).await
}

#[tokio::test]
async fn a_revocation_that_nobody_waits_for_any_more_is_made_published_and_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    registry.enroll(instance(1), None).await.unwrap();
    let mut changes = registry.changes();
    changes.mark_unchanged();
    let mut revocations = registry.revocations();
    {
        // Dropped at the first thing that it waits for, as a reset stream or a stop drops it.
        let revoked = revoke(&registry, "ima_file").now_or_never();
        assert!(revoked.is_none());
    }
    assert_eq!(registry.withdrawals(now())[0].reason, "ima_file");
    assert!(changes.has_changed().unwrap() && revocations.has_changed().unwrap());
    revocations.mark_unchanged();
    assert!(registry.is_revoked(&InstanceId([1; 16])));
    // It is no news twice, and the next flush writes it.
    assert!(revoke(&registry, "ima_file").await.is_none());
    assert!(!revocations.has_changed().unwrap());
    registry.flush(now()).await.unwrap();
    drop(registry);
    let registry = reopen(folder.path()).await;
    assert_eq!(registry.withdrawals(now())[0].state, Withdrawn::Revoked);
}

#[tokio::test]
async fn whatever_is_written_meanwhile_a_revocation_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let registry = Arc::new(match round {
            0 => registry(folder.path()).await,
            _ => reopen(folder.path()).await,
        });
        let mut one = instance(1);
        one.id = InstanceId([round; 16]);
        registry.enroll(one.clone(), None).await.unwrap();
        let (flushing, renewing) = (Arc::clone(&registry), Arc::clone(&registry));
        let again = one.clone();
        let id = one.id;
        let others = tokio::spawn(async move {
            for _ in 0..5 {
                flushing.renew(again.clone());
                flushing.flush(now()).await.unwrap();
            }
        });
        let enrolling = tokio::spawn(async move {
            for number in 0..5 {
                renewing.enroll(one.clone(), Some([number; 32])).await.ok();
            }
        });
        assert!(
            registry
                .revoke(&id, "ima_file", now(), |_| true)
                .await
                .is_some()
        );
        others.await.unwrap();
        enrolling.await.unwrap();
        drop(registry);
        let registry = reopen(folder.path()).await;
        assert!(registry.is_revoked(&id), "{round}");
    }
}

#[tokio::test]
async fn an_instance_that_renewed_meanwhile_is_not_revoked_for_its_former_evidence() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    registry.enroll(instance(1), None).await.unwrap();
    let id = InstanceId([1; 16]);
    let judged = [9; 32];
    let is_same = |one: &Instance| one.certificate_evidence == judged;
    let revoked = registry.revoke(&id, "image", now(), is_same).await;
    assert_eq!(revoked, None);
    assert_eq!(registry.withdrawals(now()), []);
}

#[tokio::test]
async fn a_revoked_instance_stays_so_until_the_last_of_its_certificates_ends() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let mut long = instance(1);
    long.not_after = now() + Duration::from_secs(600);
    registry.enroll(long, None).await.unwrap();
    // Its successor ends earlier: the lifetime was lowered.
    registry.renew(instance(1));
    revoke(&registry, "ima_file").await.unwrap();
    drop(registry);
    for (after, expected) in [(61, 1), (599, 1), (600, 0)] {
        let later = now() + Duration::from_secs(after);
        let registry = reopen(folder.path()).await;
        assert_eq!(registry.withdrawals(later).len(), expected, "{after}");
        assert_eq!(registry.select(later, |_| true).len(), expected, "{after}");
    }
    // Nor is it forgotten before an hour after that.
    let registry = reopen(folder.path()).await;
    registry
        .flush(now() + Duration::from_secs(4199))
        .await
        .unwrap();
    assert!(registry.is_revoked(&InstanceId([1; 16])));
}

#[tokio::test]
async fn a_clock_that_leaps_forward_makes_nobody_trusted_and_nothing_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    registry.enroll(instance(1), None).await.unwrap();
    registry.enroll(instance(2), None).await.unwrap();
    revoke(&registry, "ima_file").await.unwrap();
    registry.look(now());
    let leapt = now() + Duration::from_secs(1_000_000);
    assert_eq!(registry.withdrawals(leapt).len(), 1);
    registry.look(leapt);
    registry.flush(leapt).await.unwrap();
    // Corrected again, everything is as it was, and bad evidence still revokes.
    assert_eq!(registry.instances(now()).len(), 2);
    let second = InstanceId([2; 16]);
    let revoked = registry.revoke(&second, "image", now(), |_| true).await;
    assert!(revoked.is_some());
    drop(registry);
    let registry = reopen(folder.path()).await;
    assert_eq!(registry.withdrawals(now()).len(), 2);
}

#[tokio::test]
async fn a_sidecar_that_was_started_again_takes_the_place_of_the_old_one_unless_that_still_listens()
{
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let again = |number| Instance {
        id: InstanceId([number; 16]),
        ..instance(1)
    };
    for one in [instance(1), again(2), instance(3)] {
        registry.enroll(one, None).await.unwrap();
    }
    registry.stream_opened(InstanceId([2; 16]), now());
    registry.enroll(again(4), None).await.unwrap();
    let superseded = registry.supersede(&InstanceId([4; 16]), now());
    let ids: Vec<_> = superseded.iter().map(|one| one.id).collect();
    assert_eq!(ids, [InstanceId([1; 16])]);
    assert_eq!(registry.withdrawals(now())[0].reason, "superseded");
    assert_eq!(registry.supersede(&InstanceId([4; 16]), now()).len(), 0);
    // It lives after all.
    assert!(registry.renew(instance(1)));
    assert_eq!(registry.withdrawals(now()), []);
}

#[tokio::test]
async fn a_counter_that_went_back_is_not_written_over_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    registry.enroll(instance(1), None).await.unwrap();
    let id = InstanceId([1; 16]);
    let confirm = |clock| {
        let mut tpm = instance(1).tpm.unwrap();
        tpm.clock.clock = clock;
        let confirming = Confirming {
            tpm: Some(tpm),
            evidence: [8; 32],
            ..Confirming::of(Proof::TpmLog, now() + Duration::from_secs(clock))
        };
        registry.confirm(&id, &confirming).unwrap();
        registry.instance(&id).unwrap()
    };
    assert_eq!(confirm(9).tpm.unwrap().clock.clock, 9);
    let held = confirm(5);
    assert_eq!(held.tpm.unwrap().clock.clock, 9);
    let log = held.owed.get(&Duty::Part(Proof::TpmLog)).unwrap();
    assert_eq!(log.good, now() + Duration::from_secs(9));
    assert_eq!(held.good_evidence, [8; 32]);
    assert_eq!(held.certificate_evidence, [6; 32]);
}

pub(super) async fn registry(folder: &std::path::Path) -> Registry {
    let store = RedbStore::open(&folder.join("store.redb")).unwrap();
    Registry::open(store).await.unwrap()
}

#[tokio::test]
async fn a_token_wanted_by_many_machines_at_once_admits_exactly_one() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Arc::new(registry(folder.path()).await);
    let claims: Vec<_> = (0..16)
        .map(|number| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move { registry.enroll(instance(number), Some([1; 32])).await })
        })
        .collect();
    let mut admitted = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Ok(()) => admitted += 1,
            Err(refused) => assert_eq!(refused.reason, "join_token_spent"),
        }
    }
    assert_eq!(admitted, 1);
    assert_eq!(registry.instances(now()).len(), 1);
}

#[tokio::test]
async fn a_restart_knows_instances_renewals_and_spent_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    registry.enroll(instance(1), Some([1; 32])).await.unwrap();
    let mut renewed = instance(1);
    renewed.not_after += Duration::from_secs(600);
    renewed.trusted_until = renewed.not_after;
    registry.renew(renewed.clone());
    registry.flush(now()).await.unwrap();
    drop(registry);
    let registry = reopen(folder.path()).await;
    assert_eq!(registry.instance(&renewed.id), Some(renewed));
    assert_eq!(
        registry.pinned(&[1; 32]).as_deref(),
        Some("tpm_ek_sha256:1")
    );
}

#[tokio::test]
async fn an_instance_that_ended_has_no_endpoint_and_is_forgotten_later() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    registry.enroll(instance(1), None).await.unwrap();
    assert_eq!(registry.places(now(), |_, _| true).endpoints.len(), 1);
    let later = now() + Duration::from_secs(60);
    assert_eq!(registry.places(later, |_, _| true).endpoints.len(), 0);
    registry.flush(later + KEPT_AFTER_END).await.unwrap();
    assert_eq!(registry.instance(&InstanceId([1; 16])), None);
}

/// Names the first certificate of `instance(1)`, whose evidence nobody looks at then.
fn naming(action: Action) -> Revocation {
    Revocation {
        name: "platform/seen".parse().unwrap(),
        matches: Match {
            serials: vec![vec![1, 1]],
            classes: vec![Class::Hardware],
            ..Match::default()
        },
        action,
        reason: "seen elsewhere".to_owned(),
        expires: None,
        source: RuleSource {
            document: "Revocation platform/seen".to_owned(),
            file: "seen.yaml".to_owned(),
            line: 1,
        },
        cause: Cause::Act,
    }
}

#[tokio::test]
async fn whoever_bears_the_name_on_the_machine_of_a_named_certificate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let domain = "factory.example".parse().unwrap();
    let beside = Instance {
        hardware: instance(1).hardware,
        ..instance(2)
    };
    for one in [instance(1), beside, instance(3)] {
        registry.enroll(one, None).await.unwrap();
    }
    let name = |revocations: &[Revocation]| registry.name_by(revocations.iter(), &domain, now());
    name(&[naming(Action::Drain)]);
    let found = registry.withdrawals(now());
    let ids: Vec<u8> = found.iter().map(|one| one.instance.0[0]).collect();
    assert_eq!(ids, [1, 2], "{found:?}");
    assert!(
        found
            .iter()
            .all(|one| one.state == Withdrawn::Named(Action::Drain))
    );
    // Whoever was let in by an older policy comes too late.
    let late = Instance {
        hardware: instance(1).hardware,
        ..instance(4)
    };
    let refused = registry.enroll(late, None).await.unwrap_err();
    assert_eq!(refused.reason, "revoked");
    name(&[]);
    assert_eq!(registry.withdrawals(now()), []);
}

#[tokio::test]
async fn a_mild_revocation_shields_nobody_from_what_silence_costs() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path()).await;
    let domain = "factory.example".parse().unwrap();
    registry.enroll(instance(1), None).await.unwrap();
    registry.left(&InstanceId([1; 16]), now()).unwrap();
    for (action, expected) in [
        (Action::DenyNew, Withdrawn::Lapsed),
        (Action::Drain, Withdrawn::Lapsed),
        (Action::Cut, Withdrawn::Named(Action::Cut)),
    ] {
        registry.name_by([naming(action)].iter(), &domain, now());
        assert_eq!(registry.withdrawals(now())[0].state, expected, "{action:?}");
    }
}
