//! What becomes of an instance between renewals, at the control plane's doors: evidence that turns bad, and silence.

use vouchsafe_api::convert::attest::Issued;
use vouchsafe_api::convert::mesh_state::ResourceName;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_api::convert::record::standing::{BrakeChange, StandingChange};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::Withdrawn;

use super::harness::Watch;
use super::*;

type Held = (Issued, (Vec<Vec<u8>>, Vec<u8>));

async fn enroll(factory: &Factory, sidecar: &Sidecar) -> Held {
    let (issued, key) = factory.attest_with_key(sidecar, None).await.unwrap();
    let svid = (issued.certificate_chain.clone(), key);
    (issued, svid)
}

fn renewal(sidecar: Sidecar) -> Sidecar {
    Sidecar {
        purpose: Purpose::Renew,
        ..sidecar
    }
}

fn api() -> Sidecar {
    Sidecar::new("dev/api", "laptop")
}

fn web() -> Sidecar {
    Sidecar::new("dev/web", "other")
}

fn distrusted(watch: &Watch) -> Vec<InstanceTrust> {
    let resources = watch.resources();
    resources
        .filter_map(|resource| match &resource.name {
            ResourceName::Trust(instance) => {
                Some(InstanceTrust::decode(*instance, &resource.content).unwrap())
            }
            _ => None,
        })
        .collect()
}

/// Waits until exactly these are not to be believed.
async fn wait_for_trust(
    watch: &mut Watch,
    expected: &[(InstanceId, Withdrawn)],
) -> Vec<InstanceTrust> {
    let waiting = async {
        loop {
            let held = distrusted(watch);
            let found = held.iter().map(|trust| (trust.instance, trust.state));
            if watch.has("trust-bundle") && found.eq(expected.iter().copied()) {
                return held;
            }
            watch.change().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.unwrap_or_else(|_| panic!("waited too long for {expected:?}"))
}

fn changes(factory: &Factory) -> Vec<StandingChange> {
    let records = factory.records().into_iter();
    records
        .filter_map(|entry| match entry.event {
            Event::StandingChanged(change) => Some(*change),
            _ => None,
        })
        .collect()
}

fn brakes(factory: &Factory) -> Vec<BrakeChange> {
    let records = factory.records().into_iter();
    records
        .filter_map(|entry| match entry.event {
            Event::BrakeChanged(change) => Some(*change),
            _ => None,
        })
        .collect()
}

/// The shortest intervals, and no certificate that ends meanwhile.
fn impatient() -> String {
    POLICY.replace(
        "trust_domain: test.example\n",
        "trust_domain: test.example\n  reattest: {root: 1s}\n",
    )
}

#[tokio::test]
async fn evidence_that_turns_bad_is_published_at_once_and_no_restart_forgets_it() {
    let factory = Factory::start(POLICY).await;
    let (good, svid) = enroll(&factory, &api()).await;
    let (_, other) = enroll(&factory, &web()).await;
    let connection = factory.connect(Some(&other)).await;
    let mut watch = connection.watch().await;
    wait_for_trust(&mut watch, &[]).await;
    let bad = renewal(Sidecar {
        image: "rootkit",
        ..api()
    });
    let refused = factory.attest_with_key(&bad, Some(&svid)).await;
    assert_eq!(reason(refused.map(|_| ())), "image");
    let revoked = [(good.instance, Withdrawn::Revoked)];
    let held = wait_for_trust(&mut watch, &revoked).await;
    assert_eq!(held[0].reason, "image");
    let recorded = changes(&factory);
    let [change] = recorded.as_slice() else {
        panic!("one change: {recorded:?}");
    };
    assert_eq!(
        (change.standing.as_str(), change.reason.as_str()),
        ("revoked", "image")
    );
    assert_eq!(change.instance, good.instance.0);
    assert_ne!(change.evidence_sha256, [0; 32]);
    // Good evidence does not bring this instance back, also not after a restart; its machine enrols as another one.
    let factory = factory.restart().await.unwrap();
    let again = factory.attest_with_key(&renewal(api()), Some(&svid)).await;
    assert_eq!(reason(again.map(|_| ())), "enroll_again");
    let (fresh, _) = enroll(&factory, &api()).await;
    assert_ne!(fresh.instance, good.instance);
    let connection = factory.connect(Some(&other)).await;
    let mut watch = connection.watch().await;
    wait_for_trust(&mut watch, &revoked).await;
    let metrics = factory.metrics().await;
    assert!(metrics.contains("vouchsafe_instances_withdrawn{standing=\"revoked\"} 1"));
    factory.stop().await;
}

#[tokio::test]
async fn bad_evidence_has_its_consequence_though_whoever_showed_it_hangs_up_at_once() {
    let factory = Factory::start(POLICY).await;
    let (held, svid) = enroll(&factory, &api()).await;
    let bad = renewal(Sidecar {
        image: "rootkit",
        ..api()
    });
    let connection = factory.connect(Some(&svid)).await;
    let (mut stream, challenge) = connection.open(&bad).await;
    let evidence = connection.evidence(&bad, &stream, &challenge);
    stream.send(evidence).await;
    // As the message is on its way, and before anything is answered.
    stream.is_sent().await;
    drop(stream);
    eventually("the record of the revocation", || async {
        changes(&factory)
            .iter()
            .any(|change| change.instance == held.instance.0 && change.reason == "image")
    })
    .await;
    assert!(factory.control_plane().registry.is_revoked(&held.instance));
    let refusals = factory.records().into_iter();
    let refusals = refusals.filter(|entry| matches!(&entry.event, Event::Refused(_)));
    assert_eq!(refusals.count(), 1);
    factory.stop().await;
}

#[tokio::test]
async fn the_connections_of_an_instance_that_is_revoked_are_closed() {
    let factory = Factory::start(POLICY).await;
    let (held, svid) = enroll(&factory, &api()).await;
    let (_, other) = enroll(&factory, &web()).await;
    let (revoked, stays) = (
        factory.connect(Some(&svid)).await,
        factory.connect(Some(&other)).await,
    );
    let (mut watch, mut kept) = (revoked.watch().await, stays.watch().await);
    wait_for_trust(&mut watch, &[]).await;
    let bad = renewal(Sidecar {
        image: "rootkit",
        ..api()
    });
    let refused = factory.attest_with_key(&bad, Some(&svid)).await;
    assert_eq!(reason(refused.map(|_| ())), "image");
    eventually("one connection to be left", || async {
        let metrics = factory.metrics().await;
        metrics.contains("vouchsafe_control_plane_connections 1\n")
    })
    .await;
    wait_for_trust(&mut kept, &[(held.instance, Withdrawn::Revoked)]).await;
    factory.stop().await;
}

#[tokio::test]
async fn an_instance_and_an_address_have_only_so_many_attestations_at_once() {
    let factory = Factory::start(POLICY).await;
    let (_, svid) = enroll(&factory, &api()).await;
    let connection = factory.connect(Some(&svid)).await;
    let held = [
        connection.open(&renewal(api())).await,
        connection.open(&renewal(api())).await,
    ];
    let refused = factory.attest_with_key(&renewal(api()), Some(&svid)).await;
    assert_eq!(reason(refused.map(|_| ())), "busy");
    // Others are not concerned.
    let (_, other) = enroll(&factory, &web()).await;
    let renewed = factory.attest_with_key(&renewal(web()), Some(&other)).await;
    assert!(renewed.is_ok());
    drop(held);
    eventually("the places to be given back", || async {
        let renewed = factory.attest_with_key(&renewal(api()), Some(&svid)).await;
        renewed.is_ok()
    })
    .await;
    factory.stop().await;
}

#[tokio::test]
async fn a_refusal_that_is_not_about_evidence_revokes_nobody() {
    let factory = Factory::start(POLICY).await;
    let (_, svid) = enroll(&factory, &api()).await;
    let cases = [
        (
            "certificate_request_key",
            Sidecar {
                other_key_in_request: true,
                ..api()
            },
        ),
        (
            "malformed_message",
            Sidecar {
                no_items: true,
                ..api()
            },
        ),
        (
            "not_a_member",
            Sidecar {
                machine: "stranger",
                ..api()
            },
        ),
    ];
    for (expected, sidecar) in cases {
        let refused = factory
            .attest_with_key(&renewal(sidecar), Some(&svid))
            .await;
        let found = reason(refused.map(|_| ()));
        // Another machine is another instance.
        assert!(
            [expected, "enroll_again"].contains(&found.as_str()),
            "{found}"
        );
    }
    let renewed = factory.attest_with_key(&renewal(api()), Some(&svid)).await;
    assert!(renewed.is_ok());
    assert_eq!(changes(&factory), []);
    factory.stop().await;
}

#[tokio::test]
async fn silence_lapses_and_fresh_evidence_restores() {
    let factory = Factory::start(&impatient()).await;
    let (silent, svid) = enroll(&factory, &api()).await;
    let connection = factory.connect(Some(&svid)).await;
    let mut watch = connection.watch().await;
    wait_for_trust(&mut watch, &[]).await;
    wait_for_trust(&mut watch, &[(silent.instance, Withdrawn::Lapsed)]).await;
    let renewed = factory.attest_with_key(&renewal(api()), Some(&svid)).await;
    let (renewed, _) = renewed.unwrap();
    assert_eq!(renewed.instance, silent.instance);
    wait_for_trust(&mut watch, &[]).await;
    let recorded: Vec<_> = { changes(&factory).into_iter() }
        .map(|change| (change.standing, change.reason))
        .collect();
    let words = |standing: &str, reason: &str| (standing.to_owned(), reason.to_owned());
    assert_eq!(
        recorded[..2],
        [words("lapsed", "root"), words("live", "fresh_evidence")]
    );
    factory.stop().await;
}

#[tokio::test]
async fn silence_of_everybody_lapses_nobody_and_alarms() {
    let factory = Factory::start(&impatient()).await;
    let (_, svid) = enroll(&factory, &api()).await;
    enroll(&factory, &web()).await;
    eventually("the brake to hold", || async {
        brakes(&factory)
            .iter()
            .any(|change| change.scope == "mesh" && change.state == "held")
    })
    .await;
    assert_eq!(changes(&factory), []);
    assert!(
        factory
            .metrics()
            .await
            .contains("vouchsafe_lapse_brake_held 1")
    );
    // They come back, one after the other.
    let again = renewal(api());
    let renew = || factory.attest_with_key(&again, Some(&svid));
    renew().await.unwrap();
    eventually("the brake to let go", || async {
        renew().await.unwrap();
        brakes(&factory)
            .iter()
            .any(|change| change.state == "released")
    })
    .await;
    factory.stop().await;
}

#[tokio::test]
async fn a_profile_change_judges_live_results_again_and_revokes_those_that_fail() {
    let factory = Factory::start(POLICY).await;
    let (held, _) = enroll(&factory, &api()).await;
    let (_, other) = enroll(&factory, &web()).await;
    let connection = factory.connect(Some(&other)).await;
    let mut watch = connection.watch().await;
    wait_for_trust(&mut watch, &[]).await;
    // One image more is nobody's fault, nor is a machine more.
    let more = POLICY.replace("[{name: dev}]", "[{name: dev}, {name: next}]");
    let more = more.replace("{nodes: [laptop]}", "{nodes: [laptop, other]}");
    factory.write_policy(&more);
    assert_eq!(wait_for_trust(&mut watch, &[]).await, []);
    // The machine leaves the workload; the other stays.
    factory.write_policy(&more.replace("{nodes: [laptop, other]}", "{nodes: [other]}"));
    let revoked = [(held.instance, Withdrawn::Revoked)];
    wait_for_trust(&mut watch, &revoked).await;
    let recorded = changes(&factory);
    let [change] = recorded.as_slice() else {
        panic!("one change: {recorded:?}");
    };
    assert_eq!(change.reason, "not_a_member");
    assert_eq!(change.instance, held.instance.0);
    assert!(
        change.detail.starts_with("judged again by revision"),
        "{}",
        change.detail
    );
    factory.stop().await;
}

#[tokio::test]
async fn a_profile_that_changed_while_the_control_plane_was_away_is_applied_when_it_is_back() {
    let factory = Factory::start(POLICY).await;
    let (held, _) = enroll(&factory, &api()).await;
    let policy = POLICY.replace("[{name: dev}]", "[{name: next}]");
    let policy = policy.replace(
        "TOKEN_SHA256",
        &hex::encode(vouchsafe_attestation::svid::sha256(TOKEN.as_bytes())),
    );
    let file = factory.data().parent().unwrap().join("policy/policy.yaml");
    let factory = factory
        .restart_after(|| fs::write(file, policy).unwrap())
        .await
        .unwrap();
    eventually("the instance to be revoked", || async {
        changes(&factory)
            .iter()
            .any(|change| change.instance == held.instance.0 && change.reason == "image")
    })
    .await;
    factory.stop().await;
}
