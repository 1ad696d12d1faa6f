//! A whole control plane in process, asked over real TLS by a sidecar that can lie.

mod authorities;
mod canary;
mod hardware;
mod harness;
mod keeping;
mod machines;
mod questions;
mod restored;
mod revoking;
mod standing;
mod urgent;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use vouchsafe_api::convert::attest::{AttestResponse, JoinToken};
use vouchsafe_api::convert::mesh_state::{WatchRequest, WatchResponse, read_trust_bundle};
use vouchsafe_api::v1;
use vouchsafe_attestation::binding::Purpose;
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_attestation::svid::MeshRole;

use super::*;
use harness::{Factory, POLICY, Sidecar, TOKEN, eventually, now};

#[tokio::test]
async fn a_listed_machine_gets_a_certificate_that_verifies() {
    let factory = Factory::start(POLICY).await;
    let issued = factory
        .attest(&Sidecar::new("dev/api", "laptop"))
        .await
        .unwrap();
    let bundle = read_trust_bundle(&issued.trust_bundle).unwrap();
    let chain: Vec<_> = issued
        .certificate_chain
        .iter()
        .map(|der| der.as_slice().into())
        .collect();
    let peer = verify_peer(&chain, &bundle, PeerRole::Server, now()).unwrap();
    assert_eq!(
        peer.id().as_str(),
        "spiffe://test.example/ns/dev/workload/api"
    );
    let result = peer.result().unwrap();
    assert_eq!(result.class.as_str(), "simulated");
    assert_eq!(result.instance, issued.instance);
    assert_eq!(
        result.ear_sha256,
        vouchsafe_attestation::svid::sha256(&issued.attestation_result)
    );
    let ear: serde_json::Value = serde_json::from_slice(&issued.attestation_result).unwrap();
    assert_eq!(ear["sub"], "spiffe://test.example/ns/dev/workload/api");
    assert_eq!(ear["submods"]["simulated-0"]["ear.status"], "none");
    assert!(issued.renew_at < peer.not_after());
    factory.stop().await;
}

#[track_caller]
fn reason<T: std::fmt::Debug>(outcome: Result<T, String>) -> String {
    outcome.unwrap_err()
}

#[tokio::test]
async fn each_lie_gets_its_word_and_a_record() {
    let factory = Factory::start(POLICY).await;
    let good = || Sidecar::new("dev/api", "laptop");
    let cases: Vec<(&str, Sidecar)> = vec![
        ("unknown_workload", Sidecar::new("dev/nobody", "laptop")),
        ("not_a_member", Sidecar::new("dev/web", "laptop")),
        ("not_a_member", Sidecar::new("dev/api", "stranger")),
        (
            "image",
            Sidecar {
                image: "other",
                ..good()
            },
        ),
        (
            "binding",
            Sidecar {
                wrong_nonce: true,
                ..good()
            },
        ),
        (
            "binding",
            Sidecar {
                wrong_exporter: true,
                ..good()
            },
        ),
        (
            "binding",
            Sidecar {
                wrong_leaf: true,
                ..good()
            },
        ),
        (
            "binding",
            Sidecar {
                claims_workload: Some("dev/web"),
                ..good()
            },
        ),
        (
            "simulated_machine",
            Sidecar {
                evidence_machine: Some("other"),
                ..good()
            },
        ),
        (
            "certificate_request_key",
            Sidecar {
                other_key_in_request: true,
                ..good()
            },
        ),
        (
            "certificate_request",
            Sidecar {
                broken_request: true,
                ..good()
            },
        ),
        (
            "oversize_message",
            Sidecar {
                padding: 2 * 1024 * 1024,
                ..good()
            },
        ),
        (
            "malformed_message",
            Sidecar {
                no_items: true,
                ..good()
            },
        ),
        (
            "out_of_order",
            Sidecar {
                evidence_first: true,
                ..good()
            },
        ),
        (
            "enroll_again",
            Sidecar {
                purpose: Purpose::Renew,
                ..good()
            },
        ),
        (
            "enroll_again",
            Sidecar {
                purpose: Purpose::Reattest,
                ..good()
            },
        ),
        ("required_evidence", Sidecar::new("dev/hard", "laptop")),
        ("join_token_missing", Sidecar::new("dev/batch", "laptop")),
    ];
    let before = factory.records().len();
    for (expected, sidecar) in &cases {
        assert_eq!(reason(factory.attest(sidecar).await), *expected);
    }
    let recorded: Vec<String> = factory
        .records()
        .split_off(before)
        .into_iter()
        .filter_map(|entry| match entry.event {
            Event::Refused(refused) => Some(refused.reason),
            _ => None,
        })
        .collect();
    let expected: Vec<&str> = cases.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(recorded, expected);
    factory.stop().await;
}

#[tokio::test]
async fn evidence_of_one_connection_is_worth_nothing_on_another() {
    let factory = Factory::start(POLICY).await;
    let sidecar = Sidecar::new("dev/api", "laptop");
    let connection = factory.connect(None).await;
    let other = factory.connect(None).await;
    assert_ne!(connection.exporter, other.exporter);
    let (mut stream, challenge) = connection.open(&sidecar).await;
    // Everything is as this challenge demands, but it was collected for the other connection.
    let stolen = other.evidence(&sidecar, &stream, &challenge);
    stream.send(stolen).await;
    let AttestResponse::Refusal(refusal) = stream.answer().await.unwrap() else {
        panic!("stolen evidence was not refused");
    };
    assert_eq!(refusal.reason, "binding");
    factory.stop().await;
}

#[tokio::test]
async fn a_challenge_is_consumed_by_the_first_evidence() {
    let factory = Factory::start(POLICY).await;
    let sidecar = Sidecar::new("dev/api", "laptop");
    let connection = factory.connect(None).await;
    let (mut stream, challenge) = connection.open(&sidecar).await;
    let bad = Sidecar {
        image: "other",
        ..Sidecar::new("dev/api", "laptop")
    };
    let first = connection.evidence(&bad, &stream, &challenge);
    let second = connection.evidence(&sidecar, &stream, &challenge);
    stream.send(first).await;
    assert!(matches!(
        stream.answer().await.unwrap(),
        AttestResponse::Refusal(_)
    ));
    // The right evidence for the same challenge comes too late, whatever the first verdict was.
    stream.send(second).await;
    assert!(stream.answer().await.is_none());
    factory.stop().await;
}

#[tokio::test]
async fn a_join_token_wanted_by_two_machines_at_once_admits_one() {
    let factory = Factory::start(POLICY).await;
    let with_token = |machine| Sidecar {
        token: Some(JoinToken::new(TOKEN).unwrap()),
        ..Sidecar::new("dev/batch", machine)
    };
    let (a, b) = (with_token("machine-a"), with_token("machine-b"));
    let (first, second) = tokio::join!(factory.attest(&a), factory.attest(&b));
    let (winner, loser) = match (&first, &second) {
        (Ok(_), Err(reason)) => ("machine-a", reason.clone()),
        (Err(reason), Ok(_)) => ("machine-b", reason.clone()),
        other => panic!("exactly one must win: {other:?}"),
    };
    assert_eq!(loser, "join_token_spent");
    // The machine that the token has pinned comes back without showing it.
    let again = Sidecar::new("dev/batch", winner);
    assert!(factory.attest(&again).await.is_ok());
    factory.stop().await;
}

#[tokio::test]
async fn simulated_evidence_is_refused_where_the_trust_domain_was_not_made_for_it() {
    let hard = POLICY.replace(
        "danger_accept_simulated: true",
        "danger_accept_simulated: false",
    );
    let hard = harness::without_simulated_profile(&hard);
    let factory = Factory::start(&hard).await;
    let outcome = factory.attest(&Sidecar::new("dev/hard", "laptop")).await;
    assert_eq!(reason(outcome), "simulated_not_accepted");
    factory.stop().await;
}

#[tokio::test]
async fn a_renewal_keeps_its_instance_and_needs_its_certificate() {
    let factory = Factory::start(POLICY).await;
    let sidecar = Sidecar::new("dev/api", "laptop");
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let renewal = Sidecar {
        purpose: Purpose::Renew,
        ..Sidecar::new("dev/api", "laptop")
    };
    let svid = (issued.certificate_chain.clone(), key);
    let (renewed, _) = factory
        .attest_with_key(&renewal, Some(&svid))
        .await
        .unwrap();
    assert_eq!(renewed.instance, issued.instance);
    assert_ne!(renewed.certificate_chain, issued.certificate_chain);
    // The certificate of one workload renews no other.
    let other = Sidecar {
        purpose: Purpose::Renew,
        ..Sidecar::new("dev/web", "laptop")
    };
    let outcome = factory.attest_with_key(&other, Some(&svid)).await;
    assert_eq!(reason(outcome.map(|_| ())), "enroll_again");
    factory.stop().await;
}

#[tokio::test]
async fn a_watching_sidecar_gets_its_slice_signed_and_proven_and_every_change() {
    let factory = Factory::start(POLICY).await;
    let sidecar = Sidecar::new("dev/api", "laptop");
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let connection = factory
        .connect(Some(&(issued.certificate_chain, key)))
        .await;
    let mut watch = connection.watch().await;
    let first = watch.change().await;
    factory.verify(&first);
    assert!(watch.has("policy/Workload/dev/api"));
    assert!(watch.has("policy/Mesh/-/test"));
    assert!(watch.has("policy/AccessPolicy/dev/api-calls-web"));
    assert!(watch.has("policy/Workload/dev/web"));
    assert!(watch.has("trust-bundle"));
    assert!(!watch.has("policy/Workload/dev/batch"), "not its concern");
    assert!(!watch.has("policy/Node/dev/laptop"), "never leaves");

    // Where `web` is reached comes as soon as it is there.
    let web = Sidecar::new("dev/web", "other");
    factory.attest(&web).await.unwrap();
    // The revision that the watching sidecar's own registration made may come first.
    while !watch.has("endpoints/dev/web") {
        factory.verify(&watch.change().await);
    }

    // A change of policy, too; the acknowledgement shows in `status`.
    factory.write_policy(&format!("{POLICY}{}", harness::ANOTHER_RULE));
    let mut newest = watch.change().await;
    while !watch.has("policy/AccessPolicy/dev/batch-calls-api") {
        newest = watch.change().await;
    }
    assert!(newest.revision > first.revision);
    let applied = v1::Revision::from(newest.revision);
    eventually("the acknowledgement to show", || async {
        let status = factory.status().await;
        let sidecar = status.sidecars.iter().find(|one| one.workload == "dev/api");
        sidecar.is_some_and(|one| one.connected && one.applied == Some(applied) && one.behind == 0)
    })
    .await;
    // In between, the same revision is signed afresh.
    let heartbeat = watch.heartbeat().await;
    assert_eq!(heartbeat.revision, newest.revision);
    factory.verify(&heartbeat);

    // What is taken away goes away.
    factory.write_policy(POLICY);
    while watch.has("policy/AccessPolicy/dev/batch-calls-api") {
        factory.verify(&watch.change().await);
    }
    factory.stop().await;
}

/// A sidecar of `dev/api` that watches and holds the first state.
async fn watching(factory: &Factory) -> (harness::Client, harness::Watch) {
    let sidecar = Sidecar::new("dev/api", "laptop");
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let svid = (issued.certificate_chain, key);
    let connection = factory.connect(Some(&svid)).await;
    let mut watch = connection.watch().await;
    watch.change().await;
    // The endpoint of the new instance is a revision of its own; it may come before the stream or on it.
    eventually("the sidecar's own registration to be in force", || async {
        factory.status().await.revision.unwrap_or_default().sequence == 2
    })
    .await;
    watch.settled().await;
    (connection, watch)
}

#[tokio::test]
async fn who_is_not_concerned_is_proven_a_revision_in_place_of_the_next_heartbeat() {
    let factory = Factory::start(POLICY).await;
    let (_connection, mut watch) = watching(&factory).await;
    let held = watch.settled().await;
    // A workload that nobody here calls.
    let workload = "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: lonely, namespace: dev}\nspec: {profile: soft, members: {nodes: [laptop]}, ports: [{name: p, port: 9, protocol: tcp}]}\n";
    factory.write_policy(&format!("{POLICY}{workload}"));
    eventually("nobody to be behind a newer revision", || async {
        let status = factory.status().await;
        let newest = status.revision.unwrap_or_default().sequence;
        let sidecar = status.sidecars.iter().find(|one| one.workload == "dev/api");
        newest > held.revision.sequence
            && sidecar.is_some_and(|one| one.behind == 0 && one.behind_since_ms == 0)
    })
    .await;
    let WatchResponse::Delta(delta) = watch.next_change().await else {
        panic!("expected a proof");
    };
    assert_eq!((delta.changed.len(), delta.removed.len()), (0, 0));
    assert_eq!(delta.base, held.revision);
    factory.verify(&delta.revision);
    let resources = watch.resources().count() as u64;
    let (root, proof) = (watch.root(), delta.proof);
    assert!(proof.proves(&root, resources, &delta.revision));
    factory.stop().await;
}

async fn behind(factory: &Factory) -> (u64, String) {
    let status = factory.status().await;
    let sidecar = status.sidecars.iter().find(|one| one.workload == "dev/api");
    sidecar.map_or((0, String::new()), |one| (one.behind, one.error.clone()))
}

#[tokio::test]
async fn a_refused_revision_shows_in_status_and_the_next_one_starts_from_what_is_held() {
    let factory = Factory::start(POLICY).await;
    let (_connection, mut watch) = watching(&factory).await;
    factory.write_policy(&format!("{POLICY}{}", harness::ANOTHER_RULE));
    let WatchResponse::Delta(refused) = watch.next_change().await else {
        panic!("expected a change");
    };
    let refusal = Err("no, thank you".to_owned());
    watch.acknowledge(refused.revision.revision, refusal).await;
    eventually("the refusal to show", || async {
        behind(&factory).await == (1, "no, thank you".to_owned())
    })
    .await;
    assert!(
        factory
            .metrics()
            .await
            .contains("vouchsafe_mesh_state_refusals_total 1")
    );
    // It is not sent again; heartbeats come.
    watch.heartbeat().await;
    factory.write_policy(&POLICY.replace("port: 8000", "port: 8001"));
    let WatchResponse::Delta(delta) = watch.next_change().await else {
        panic!("expected a change");
    };
    assert_eq!(delta.base, refused.base);
    factory.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_holds_something_else_is_sent_all_of_it_once() {
    let factory = Factory::start(POLICY).await;
    let (_connection, mut watch) = watching(&factory).await;
    let beat = watch.heartbeat().await;
    watch.acknowledge(beat.revision, Ok([9; 32])).await;
    let WatchResponse::Snapshot(_) = watch.next_change().await else {
        panic!("expected all of it");
    };
    assert!(
        factory
            .metrics()
            .await
            .contains("vouchsafe_mesh_state_repairs_total 1")
    );
    // One that never gets it right does not keep the stream busy.
    watch.acknowledge(beat.revision, Ok([9; 32])).await;
    watch.heartbeat().await;
    factory.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_comes_back_goes_on_from_what_it_holds() {
    let factory = Factory::start(POLICY).await;
    let (connection, mut watch) = watching(&factory).await;
    let held = watch.settled().await;
    // Another stream of the same sidecar that holds the same: nothing is sent but the time.
    let mut again = connection.subscribe(held).await.unwrap();
    let WatchResponse::Heartbeat(signed) = again.next().await else {
        panic!("expected a heartbeat");
    };
    assert_eq!(signed.revision, held.revision);
    // What it missed in between comes as one change.
    drop(again);
    factory.write_policy(&POLICY.replace("port: 8000", "port: 8001"));
    watch.change().await;
    let mut later = connection.subscribe(held).await.unwrap();
    let WatchResponse::Delta(delta) = later.next().await else {
        panic!("expected a change");
    };
    assert_eq!(delta.base, held.revision);
    let names: Vec<_> = delta
        .changed
        .iter()
        .map(|one| one.name.to_string())
        .collect();
    assert_eq!(
        names,
        ["policy/Workload/dev/api", "policy/Workload/dev/web"]
    );
    // And on the stream, whenever it asks: nothing held means all of it.
    later
        .send(WatchRequest::Subscribe(Default::default()))
        .await;
    let WatchResponse::Snapshot(_) = later.next_change().await else {
        panic!("expected all of it");
    };
    factory.stop().await;
}

#[tokio::test]
async fn mesh_state_needs_a_certificate() {
    let factory = Factory::start(POLICY).await;
    let connection = factory.connect(None).await;
    let status = connection.try_watch().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    factory.stop().await;
}

#[tokio::test]
async fn a_broken_policy_folder_keeps_the_last_good_policy_and_says_so() {
    let factory = Factory::start(POLICY).await;
    factory.write_policy("kind: [");
    eventually("the mistake to show", || async {
        !factory.status().await.policy_error.is_empty()
    })
    .await;
    assert!(
        factory
            .attest(&Sidecar::new("dev/api", "laptop"))
            .await
            .is_ok()
    );
    assert!(
        factory
            .metrics()
            .await
            .contains("vouchsafe_policy_broken 1")
    );
    // So does one for another trust domain.
    factory.write_policy(&POLICY.replace("test.example", "other.example"));
    eventually("the other trust domain to show", || async {
        factory
            .status()
            .await
            .policy_error
            .contains("other.example")
    })
    .await;
    factory.write_policy(POLICY);
    eventually("the mistake to be over", || async {
        factory.status().await.policy_error.is_empty()
    })
    .await;
    assert!(
        factory
            .metrics()
            .await
            .contains("vouchsafe_policy_broken 0")
    );
    factory.stop().await;
}

#[tokio::test]
async fn a_second_start_keeps_pin_revision_and_record() {
    let factory = Factory::start(POLICY).await;
    factory
        .attest(&Sidecar::new("dev/api", "laptop"))
        .await
        .unwrap();
    // The endpoint of the new instance is a revision of its own.
    eventually("the endpoint to be in force", || async {
        factory.status().await.revision.unwrap_or_default().sequence == 2
    })
    .await;
    let (before, records) = (factory.status().await, factory.records().len());
    let factory = factory.restart().await.unwrap();
    let after = factory.status().await;
    assert_eq!(after.revision, before.revision);
    assert_eq!(after.authorities, before.authorities);
    // Two role keys are new with each start; nothing else happened.
    assert_eq!(factory.records().len(), records + 2);
    assert_eq!(
        usize::try_from(factory.verify_record().records),
        Ok(records + 2)
    );
    factory.stop().await;
}

#[tokio::test]
async fn a_second_start_refuses_what_was_fixed_at_the_first() {
    for (from, to) in [
        ("test.example", "other.example"),
        (
            "danger_accept_simulated: true",
            "danger_accept_simulated: false",
        ),
    ] {
        let factory = Factory::start(POLICY).await;
        let changed = POLICY.replace(from, to);
        let changed = match to.starts_with("danger") {
            true => harness::without_simulated_profile(&changed),
            false => changed,
        };
        factory.write_policy(&changed);
        let error = factory.restart().await.unwrap_err();
        assert!(matches!(error, StartError::Policy(_)), "{error}");
    }
}

#[tokio::test]
async fn a_data_folder_that_others_can_enter_is_refused() {
    let factory = Factory::start(POLICY).await;
    let data = factory.data();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let error = factory.restart().await.unwrap_err();
    assert!(error.to_string().contains("chmod 0700"), "{error}");
}

#[tokio::test]
async fn the_operator_socket_is_for_its_owner_only() {
    let factory = Factory::start(POLICY).await;
    let socket = operator_socket(&factory.data());
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    factory.stop().await;
    assert!(!socket.exists(), "it goes away with the control plane");
}

#[tokio::test]
async fn a_first_start_with_nothing_but_a_data_folder_admits_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let config = ControlPlaneConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics: None,
        ..ControlPlaneConfig::new(folder.path().join("data"))
    };
    let app = App::start(config).await.unwrap();
    let fixed = &app.control_plane.fixed;
    assert!(fixed.trust_domain.as_str().starts_with("mesh-"));
    assert!(!fixed.accepts_simulated);
    assert_eq!(
        app.control_plane
            .mesh
            .borrow()
            .state
            .policy
            .set
            .workloads()
            .count(),
        0
    );
}

#[tokio::test]
async fn a_connection_is_tls_1_3_with_a_hybrid_key_exchange_and_the_role() {
    let factory = Factory::start(POLICY).await;
    let connection = factory.connect(None).await;
    assert_eq!(connection.role, MeshRole::ControlPlane);
    assert_eq!(connection.version, rustls::ProtocolVersion::TLSv1_3);
    assert_eq!(connection.group, rustls::NamedGroup::X25519MLKEM768);
    factory.stop().await;
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_ended_and_counted() {
    let factory = Factory::start(POLICY).await;
    let connection = factory.connect(None).await;
    let status = connection.silent_attestation().await;
    assert_eq!(status.reason, "incomplete");
    assert!(status.retry_after < Duration::from_secs(1));
    factory.stop().await;
}

#[tokio::test]
async fn of_two_machines_that_want_the_last_place_at_once_one_gets_it() {
    let limited = POLICY
        .replace("[{name: dev}]", "[{name: dev, max_instances: 1}]")
        .replace(
            "members: {nodes: [laptop]}",
            "members: {nodes: [laptop, other]}",
        );
    let factory = Factory::start(&limited).await;
    let (laptop, other) = (
        Sidecar::new("dev/api", "laptop"),
        Sidecar::new("dev/api", "other"),
    );
    let (first, second) = tokio::join!(factory.attest(&laptop), factory.attest(&other));
    let (winner, loser) = match (first, second) {
        (Ok(_), Err(reason)) => (laptop, reason),
        (Err(reason), Ok(_)) => (other, reason),
        outcome => panic!("exactly one must win: {outcome:?}"),
    };
    assert_eq!(loser, "max_instances");
    // The machine that has the place keeps it; the image has its places per workload.
    factory.attest(&winner).await.unwrap();
    factory
        .attest(&Sidecar::new("dev/web", "other"))
        .await
        .unwrap();
    factory.stop().await;
}

#[tokio::test]
async fn streams_that_say_nothing_keep_nobody_out() {
    let factory = Factory::start(POLICY).await;
    let mut silent = Vec::new();
    while silent.len() < MAX_ATTESTATIONS + 8 {
        let connection = factory.connect(None).await;
        for _ in 0..8 {
            silent.push(connection.say_nothing().await);
        }
    }
    factory
        .attest(&Sidecar::new("dev/api", "laptop"))
        .await
        .unwrap();
    factory.stop().await;
}

#[tokio::test]
async fn a_start_on_a_cut_record_is_refused_and_changes_nothing() {
    let factory = Factory::start(POLICY).await;
    let (path, _) = record(&factory.data()).unwrap();
    factory
        .attest(&Sidecar::new("dev/api", "laptop"))
        .await
        .unwrap();
    // A clean end keeps the head. Then the length of an early record becomes one that reaches beyond the end, which
    // looks like a torn write.
    let kept = tempfile::tempdir().unwrap();
    let same_file = kept.path().join("records");
    let mut bytes = Vec::new();
    let spoil = || {
        bytes = fs::read(&path).unwrap();
        let at = second_record(&bytes);
        bytes[at..at + 4].copy_from_slice(&30_000_u32.to_be_bytes());
        fs::write(&path, &bytes).unwrap();
        fs::hard_link(&path, &same_file).unwrap();
    };
    let error = factory.restart_after(spoil).await.unwrap_err();
    assert!(
        matches!(error, StartError::Record(LogError::CutOff { found: 1, .. })),
        "{error}"
    );
    assert_eq!(
        fs::read(&same_file).unwrap(),
        bytes,
        "the evidence is as it was"
    );
}

/// Where the second record of a file starts.
fn second_record(bytes: &[u8]) -> usize {
    let length: [u8; 4] = bytes[24..28].try_into().unwrap();
    28 + u32::from_be_bytes(length) as usize + 32
}

#[tokio::test]
async fn a_connection_lives_as_long_as_the_certificate_that_it_presented() {
    let factory = Factory::start(POLICY).await;
    let issued = factory
        .attest(&Sidecar::new("dev/api", "laptop"))
        .await
        .unwrap();
    let bundle = read_trust_bundle(&issued.trust_bundle).unwrap();
    let chain: Vec<_> = issued
        .certificate_chain
        .iter()
        .map(|der| der.as_slice().into())
        .collect();
    let peer = verify_peer(&chain, &bundle, PeerRole::Client, now()).unwrap();
    let end = peer.not_after();
    let connection = crate::tls::Connection {
        exporter: [0; 32],
        leaf_sha256: [0; 32],
        peer: Some(peer),
        address: "127.0.0.1:1".parse().unwrap(),
    };
    let minute = Duration::from_secs(60);
    assert_eq!(connection.lease(end - minute), minute);
    assert_eq!(connection.lease(end), Duration::ZERO);
    assert_eq!(connection.lease(end + minute), Duration::ZERO);
    let stranger = crate::tls::Connection {
        peer: None,
        ..connection
    };
    assert!(stranger.lease(end) <= 2 * minute);
    factory.stop().await;
}

#[tokio::test]
async fn evidence_for_a_policy_that_changed_meanwhile_is_refused() {
    let factory = Factory::start(POLICY).await;
    let sidecar = Sidecar::new("dev/api", "laptop");
    let connection = factory.connect(None).await;
    let (mut stream, challenge) = connection.open(&sidecar).await;
    factory.write_policy(&format!("{POLICY}{}", harness::ANOTHER_RULE));
    eventually("the new policy to be in force", || async {
        factory.status().await.revision.unwrap_or_default().sequence
            > challenge.policy_revision.sequence
    })
    .await;
    let evidence = connection.evidence(&sidecar, &stream, &challenge);
    stream.send(evidence).await;
    let AttestResponse::Refusal(refusal) = stream.answer().await.unwrap() else {
        panic!("evidence for yesterday's policy was not refused");
    };
    assert_eq!(refusal.reason, "policy_changed");
    // At once again, by the policy in force.
    factory.attest(&sidecar).await.unwrap();
    factory.stop().await;
}
