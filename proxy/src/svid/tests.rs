//! Getting a certificate, and from whom one is refused.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use vouchsafe_attestation::binding::Purpose;
use vouchsafe_attestation::svid::MeshRole;

use super::Identities;
use super::client::{AttestClient, AttestError, Issuance};
use super::connection::{ConnectError, ControlPlane};
use super::rotation::Rotation;
use super::test_control_plane::{Identity, Pki, Reply, TestControlPlane, trust_domain};
use crate::attester::simulated::Simulated;
use crate::attester::{Attester, Attesters};
use crate::clock::MeshClock;
use crate::state::State;
use crate::telemetry::Chain;
use crate::telemetry::control::ControlMetrics;

fn attesters() -> Attesters {
    Attesters::new(vec![Attester::Simulated(Simulated {
        machine: "laptop".to_owned(),
        image: "llm-1".to_owned(),
    })])
}

fn client_of(address: String, pin: [u8; 32]) -> AttestClient {
    let clock = Arc::new(MeshClock::authenticated());
    AttestClient {
        control_plane: Arc::new(ControlPlane::new(
            vec![address],
            vec![pin],
            trust_domain(),
            Arc::clone(&clock),
        )),
        clock,
        trust_domain: trust_domain(),
        workload: "inference/llm".parse().unwrap(),
        join_token: None,
        endpoints: Vec::new(),
    }
}

async fn start(identity: impl FnOnce(&Pki) -> Identity) -> (TestControlPlane, AttestClient) {
    let pki = Arc::new(Pki::new());
    let identity = identity(&pki);
    let (server, _) = TestControlPlane::start(Arc::clone(&pki), &identity).await;
    let client = client_of(server.address.to_string(), pki.pin());
    (server, client)
}

async fn start_honest() -> (TestControlPlane, AttestClient) {
    start(|pki| pki.role(Some(MeshRole::ControlPlane))).await
}

async fn attest(client: &AttestClient) -> Result<Issuance, AttestError> {
    client.attest(&attesters(), Purpose::Enroll, None).await
}

#[track_caller]
fn refused(result: Result<Issuance, AttestError>, reason: &str) -> String {
    let error = result.expect_err("it must be refused");
    let chain = Chain(&error).to_string();
    assert_eq!(error.reason(), reason, "{chain}");
    chain
}

#[tokio::test]
async fn evidence_is_bound_to_what_the_control_plane_sees_of_this_connection() {
    let (server, client) = start_honest().await;
    let issuance = attest(&client).await.unwrap();
    assert_eq!(
        issuance.peer.id().as_str(),
        "spiffe://factory.example/ns/inference/workload/llm"
    );
    assert!(issuance.peer.result().is_some());
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].is_bound, Some(true));
    assert!(seen[0].presented.is_none());
    assert!(client.clock.is_authenticated());
}

#[tokio::test]
async fn a_workload_is_not_taken_for_the_control_plane() {
    let (server, client) = start(|pki| pki.workload("inference/llm")).await;
    let chain = refused(attest(&client).await, "untrusted");
    assert!(chain.contains("has not the role"), "{chain}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_leaf_of_the_right_root_without_the_role_is_not_the_control_plane() {
    let (server, client) = start(|pki| pki.role(None)).await;
    let chain = refused(attest(&client).await, "untrusted");
    assert!(chain.contains("has not the role"), "{chain}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn the_mesh_state_key_is_not_the_control_plane() {
    let (server, client) = start(|pki| pki.role(Some(MeshRole::MeshState))).await;
    refused(attest(&client).await, "untrusted");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_root_that_is_not_pinned_is_refused() {
    let (server, _) = start_honest().await;
    let client = client_of(server.address.to_string(), [1; 32]);
    let chain = refused(attest(&client).await, "untrusted");
    assert!(chain.contains("is not pinned"), "{chain}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_control_plane_that_answers_in_tls_1_2_is_refused() {
    // Written by hand: this build has no TLS 1.2 to serve with. A record with a ServerHello of version 1.2 that names
    // ECDHE-ECDSA with AES-128-GCM and no extension (RFC 5246 §7.4.1.3).
    let mut hello = vec![22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x2b, 0]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client_of(listener.local_addr().unwrap().to_string(), [0; 32]);
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(&hello).await.unwrap();
        let mut said = Vec::new();
        socket.read_to_end(&mut said).await.unwrap();
        said
    });
    refused(attest(&client).await, "handshake");
    let said = server.await.unwrap();
    // A fatal alert `protocol_version` (70) ends what the client says.
    assert_eq!(said[said.len() - 2..], [2, 70]);
}

#[tokio::test]
async fn an_address_where_nobody_answers_is_named() {
    // Bound and not listening: nobody else gets the port meanwhile.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = held.local_addr().unwrap().to_string();
    let chain = refused(
        attest(&client_of(address.clone(), [0; 32])).await,
        "unreachable",
    );
    assert!(chain.contains(&address), "{chain}");
}

#[test]
fn a_session_without_an_exporter_is_refused() {
    let pki = Pki::new();
    let control_plane = client_of("127.0.0.1:1".to_owned(), pki.pin()).control_plane;
    // Before the handshake a session has no exporter: the only way to have none.
    let session = control_plane.session_before_handshake();
    assert!(matches!(
        super::connection::exporter(&session),
        Err(ConnectError::Exporter(_))
    ));
}

#[tokio::test]
async fn what_is_issued_must_be_for_our_key_our_name_and_attested() {
    let (server, client) = start_honest().await;
    for (reply, expected) in [
        (Reply::IssueForAnotherKey, "for another key"),
        (Reply::IssueForAnotherName, "workload/other"),
        (Reply::IssueWithoutResult, "no attestation result"),
        (Reply::IssueWithAnotherInstance, "another instance"),
    ] {
        server.reply_with(reply);
        let chain = refused(attest(&client).await, "issued_certificate");
        assert!(chain.contains(expected), "{chain}");
    }
}

#[tokio::test]
async fn a_renewal_presents_the_present_certificate_and_has_a_key_of_its_own() {
    let (server, client) = start_honest().await;
    let first = attest(&client).await.unwrap();
    let second = client
        .attest(&attesters(), Purpose::Renew, Some(&first.svid))
        .await
        .unwrap();
    let seen = server.seen();
    assert_eq!(seen[1].presented.as_ref(), first.svid.chain.first());
    assert_ne!(seen[0].hello.spki_sha256, seen[1].hello.spki_sha256);
    assert_ne!(seen[0].hello.client_nonce, seen[1].hello.client_nonce);
    assert_ne!(first.peer.spki_sha256(), second.peer.spki_sha256());
}

#[tokio::test]
async fn a_join_token_is_sent_at_enrolment_only() {
    let (server, mut client) = start_honest().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    client.join_token = Some(path.clone());
    let chain = refused(attest(&client).await, "join_token");
    assert!(chain.contains("token"), "{chain}");
    std::fs::write(&path, "0123456789abcdef0123\n").unwrap();
    let first = attest(&client).await.unwrap();
    client
        .attest(&attesters(), Purpose::Renew, Some(&first.svid))
        .await
        .unwrap();
    let tokens: Vec<bool> = server
        .seen()
        .iter()
        .map(|seen| seen.hello.join_token.is_some())
        .collect();
    assert_eq!(tokens, [true, false]);
}

struct Rotating {
    server: TestControlPlane,
    identities: Arc<Identities>,
    metrics: Arc<ControlMetrics>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Rotating {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn rotate(reply: Reply) -> Rotating {
    let (server, client) = start_honest().await;
    server.reply_with(reply);
    let metrics = Arc::new(ControlMetrics::register(&Registry::new()).unwrap());
    let identities = Arc::new(Identities::new(
        Arc::new(State::default()),
        Arc::clone(&metrics),
    ));
    let rotation = Rotation {
        client,
        attesters: attesters(),
        identities: Arc::clone(&identities),
        metrics: Arc::clone(&metrics),
    };
    Rotating {
        server,
        identities,
        metrics,
        task: tokio::spawn(rotation.run()),
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_refusal_is_said_once_counted_always_and_tried_again() {
    let log = crate::telemetry::capture::start();
    let running = rotate(Reply::Refuse("not_a_member")).await;
    let refusals = running.metrics.attestations.with_label_values(&["refused"]);
    until("three refusals", || refusals.get() >= 3).await;
    assert!(running.identities.current().is_none());
    assert_eq!(
        log.count("no certificate: everything is denied, will keep trying"),
        1
    );
    running.server.reply_with(Reply::Issue);
    until("a certificate", || running.identities.current().is_some()).await;
    assert_eq!(log.count("the control plane issues certificates again"), 1);
}

#[tokio::test]
async fn a_certificate_is_replaced_at_its_slot_with_new_evidence() {
    let running = rotate(Reply::Issue).await;
    until("a second certificate", || {
        running
            .identities
            .current()
            .is_some_and(|epoch| epoch.number >= 2)
    })
    .await;
    let seen = running.server.seen();
    assert_eq!(seen[0].hello.purpose, Purpose::Enroll);
    assert_eq!(seen[1].hello.purpose, Purpose::Renew);
    assert!(seen[1].presented.is_some());
    assert_eq!(seen[1].is_bound, Some(true));
}

#[tokio::test]
async fn an_instance_that_is_not_known_any_more_enrols_again_and_keeps_its_certificate() {
    let running = rotate(Reply::Issue).await;
    until("a certificate", || running.identities.current().is_some()).await;
    running.server.reply_with(Reply::Refuse("enroll_again"));
    let after_renewal = || {
        let seen = running.server.seen();
        let after = seen
            .into_iter()
            .skip_while(|seen| seen.hello.purpose == Purpose::Enroll);
        after
            .skip(1)
            .find(|seen| seen.hello.purpose == Purpose::Enroll)
    };
    until("an enrolment after the renewal", || {
        after_renewal().is_some()
    })
    .await;
    assert!(after_renewal().unwrap().presented.is_none());
    assert!(running.identities.current().is_some());
}

#[tokio::test]
async fn a_renewal_that_is_refused_for_another_reason_stays_a_renewal() {
    let running = rotate(Reply::Issue).await;
    until("a certificate", || running.identities.current().is_some()).await;
    running.server.reply_with(Reply::Refuse("not_a_member"));
    let refusals = running.metrics.attestations.with_label_values(&["refused"]);
    until("three refusals", || refusals.get() >= 3).await;
    let seen = running.server.seen();
    assert!(
        seen[1..]
            .iter()
            .all(|seen| seen.hello.purpose == Purpose::Renew)
    );
    assert!(running.identities.current().is_some());
}
