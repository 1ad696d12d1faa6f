//! Which revisions are applied, and that a bad one never replaces a good one.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::mpsc;
use vouchsafe_api::convert::mesh_state::{Snapshot, WatchRequest};
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::MeshRole;

use super::stream::MeshStateClient;
use crate::clock::MeshClock;
use crate::drain::Drain;
use crate::health::Readiness;
use crate::state::{State, Svid};
use crate::svid::Identities;
use crate::svid::connection::ControlPlane;
use crate::svid::test_control_plane::{
    Identity, NOW_MS, Pki, TestControlPlane, now, sign, snapshot, trust_domain,
};
use crate::telemetry::control::ControlMetrics;

const WORKLOAD: &str = "\
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: llm, namespace: inference}
spec:
  profile: any
  members: {nodes: [one]}
  ports: [{name: openai, port: 8000, protocol: http}]
";

/// A sidecar that follows a test control plane with a certificate of its own.
struct Following {
    pki: Arc<Pki>,
    signer: Identity,
    server: TestControlPlane,
    said: mpsc::Receiver<v1::WatchRequest>,
    state: Arc<State>,
    clock: Arc<MeshClock>,
    readiness: Arc<Readiness>,
    metrics: Arc<ControlMetrics>,
    client: Option<MeshStateClient>,
    task: Option<tokio::task::JoinHandle<()>>,
    _drain: Drain,
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Following {
    async fn new() -> Self {
        let pki = Arc::new(Pki::new());
        let (server, said) =
            TestControlPlane::start(Arc::clone(&pki), &pki.role(Some(MeshRole::ControlPlane)))
                .await;
        let clock = Arc::new(MeshClock::authenticated());
        let state = Arc::new(State::default());
        let metrics = Arc::new(ControlMetrics::register(&Registry::new()).unwrap());
        let identities = Arc::new(Identities::new(Arc::clone(&state), Arc::clone(&metrics)));
        let own = pki.workload("inference/llm");
        let bundle = vouchsafe_api::convert::mesh_state::read_trust_bundle(&pki.authorities());
        let svid = Svid {
            chain: own.chain.clone(),
            key: own.private_key(),
            not_after: now() + Duration::from_secs(3_600),
        };
        identities.replace_svid(svid, bundle.unwrap());
        let drain = Drain::new(Duration::ZERO);
        let readiness = Arc::new(Readiness::new(Arc::clone(&state), drain.signal()));
        let client = MeshStateClient {
            control_plane: Arc::new(ControlPlane::new(
                vec![server.address.to_string()],
                vec![pki.pin()],
                trust_domain(),
                Arc::clone(&clock),
            )),
            identities,
            state: Arc::clone(&state),
            trust_domain: trust_domain(),
            readiness: Arc::clone(&readiness),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            connections: crate::worker::Connections::none(),
        };
        // The certificate's end is judged by mesh time.
        clock.observe_ms(NOW_MS);
        Self {
            signer: pki.role(Some(MeshRole::MeshState)),
            pki,
            server,
            said,
            state,
            clock,
            readiness,
            metrics,
            client: Some(client),
            task: None,
            _drain: drain,
        }
    }

    fn good(&self, sequence: u64) -> Snapshot {
        self.with_policy(sequence, WORKLOAD)
    }

    fn with_policy(&self, sequence: u64, document: &str) -> Snapshot {
        let resources = [
            (
                "policy/Workload/inference/llm",
                document.as_bytes().to_vec(),
            ),
            ("trust-bundle", self.pki.bundle_resource()),
        ];
        snapshot(&self.signer, revision(sequence), &resources)
    }

    fn follow(&mut self, messages: Vec<v1::WatchResponse>) {
        self.server.publish(messages);
        self.task = self.client.take().map(|client| tokio::spawn(client.run()));
    }

    async fn next(&mut self) -> WatchRequest {
        let message = tokio::time::timeout(Duration::from_secs(20), self.said.recv())
            .await
            .unwrap()
            .unwrap();
        message.try_into().unwrap()
    }

    fn applied(&self) -> Revision {
        self.state.policy.load().revision
    }

    fn has_port(&self) -> bool {
        let workload: WorkloadName = "inference/llm".parse().unwrap();
        let epoch = self.state.policy.load();
        epoch
            .policy
            .port(&workload, &"openai".parse().unwrap())
            .is_some()
    }
}

fn revision(sequence: u64) -> Revision {
    Revision { epoch: 1, sequence }
}

fn message(snapshot: Snapshot) -> v1::WatchResponse {
    let wire = v1::Snapshot {
        revision: Some(snapshot.revision.into()),
        resources: snapshot.resources.into_iter().map(Into::into).collect(),
    };
    v1::WatchResponse {
        message: Some(v1::watch_response::Message::Snapshot(wire)),
    }
}

fn acknowledged(sequence: u64) -> WatchRequest {
    WatchRequest::Acknowledgement {
        revision: revision(sequence),
        error: None,
    }
}

#[tokio::test]
async fn a_signed_and_proven_revision_is_applied_and_acknowledged() {
    let mut following = Following::new().await;
    assert_eq!(following.readiness.missing(), Some("no policy"));
    let messages = vec![message(following.good(5))];
    following.follow(messages);
    assert_eq!(
        following.next().await,
        WatchRequest::Subscribe(Revision::default())
    );
    assert_eq!(following.next().await, acknowledged(5));
    assert_eq!(following.applied(), revision(5));
    assert!(following.has_port());
    assert_eq!(following.readiness.missing(), None);
    let epoch = following.state.identity.load_full().unwrap();
    let now = following.clock.now();
    assert!(verify_peer(&epoch.svid.chain[..1], &epoch.bundle, PeerRole::Client, now).is_ok());
    // The bundle is the one that was held already: no new identity epoch, so no lane connection is opened anew.
    assert_eq!(epoch.number, 1);
}

/// After a good revision 5, `broken` comes: it is acknowledged with an error, and 5 stays.
async fn check(reason: &str, expected: &str, broken: impl FnOnce(&Following) -> v1::WatchResponse) {
    let mut following = Following::new().await;
    let messages = vec![message(following.good(5)), broken(&following)];
    following.follow(messages);
    following.next().await;
    assert_eq!(following.next().await, acknowledged(5));
    let WatchRequest::Acknowledgement { error, .. } = following.next().await else {
        panic!("expected an acknowledgement");
    };
    let error = error.unwrap();
    assert!(error.contains(expected), "{error}");
    assert_eq!(following.applied(), revision(5));
    assert!(following.has_port());
    let counted = following
        .metrics
        .mesh_state_messages
        .with_label_values(&[reason]);
    assert_eq!(counted.get(), 1, "{reason}");
}

#[tokio::test]
async fn a_signature_over_something_else_is_refused() {
    check("signature", "signature", |following| {
        let mut snapshot = following.good(6);
        snapshot.revision.time += Duration::from_millis(1);
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn a_signature_by_another_role_of_the_mesh_is_refused() {
    check("signer", "signer", |following| {
        let mut snapshot = following.good(6);
        let other = following.pki.role(Some(MeshRole::ControlPlane));
        snapshot.revision.signer_chain = other.chain.iter().map(|der| der.to_vec()).collect();
        sign(&other, &mut snapshot.revision);
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn a_signature_under_another_root_is_refused() {
    check("signer", "signer", |following| {
        let mut snapshot = following.good(6);
        let other = Pki::new().role(Some(MeshRole::MeshState));
        snapshot.revision.signer_chain = other.chain.iter().map(|der| der.to_vec()).collect();
        sign(&other, &mut snapshot.revision);
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn a_resource_that_the_revision_does_not_hold_is_refused() {
    check("proof", "policy/Workload/inference/llm", |following| {
        let mut snapshot = following.good(6);
        snapshot.resources[0].content.push(b'\n');
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn a_resource_that_comes_twice_is_refused() {
    check("order", "out of order", |following| {
        let mut snapshot = following.good(6);
        snapshot.resources.insert(0, snapshot.resources[0].clone());
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn yesterdays_revision_is_refused() {
    check("lower_revision", "lower than 1.5", |following| {
        message(following.good(4))
    })
    .await;
}

#[tokio::test]
async fn the_same_revision_with_another_content_is_refused() {
    check("forked_revision", "another content", |following| {
        message(following.with_policy(5, &WORKLOAD.replace("8000", "9000")))
    })
    .await;
}

#[tokio::test]
async fn a_resource_of_an_unknown_kind_is_refused() {
    check("message", "malformed", |following| {
        let mut message = message(following.good(6));
        if let Some(v1::watch_response::Message::Snapshot(snapshot)) = &mut message.message {
            snapshot.resources[0].name = "secrets/a/b".to_owned();
        }
        message
    })
    .await;
}

#[tokio::test]
async fn a_document_that_does_not_compile_is_refused() {
    check("policy", "kind", |following| {
        message(following.with_policy(6, &WORKLOAD.replace("kind: Workload", "kind: Wish")))
    })
    .await;
}

#[tokio::test]
async fn a_revision_without_a_bundle_is_refused() {
    check("no_bundle", "trust bundle", |following| {
        let resources = [(
            "policy/Workload/inference/llm",
            WORKLOAD.as_bytes().to_vec(),
        )];
        message(snapshot(&following.signer, revision(6), &resources))
    })
    .await;
}

#[tokio::test]
async fn a_heartbeat_moves_mesh_time_and_a_forged_one_does_not() {
    let mut following = Following::new().await;
    let mut heartbeat = following.good(5).revision;
    heartbeat.time += Duration::from_secs(1_000);
    let mut forged = heartbeat.clone();
    sign(&following.signer, &mut heartbeat);
    forged.time += Duration::from_secs(1_000_000);
    forged.signature = heartbeat.signature.clone();
    let beat = |revision| v1::WatchResponse {
        message: Some(v1::watch_response::Message::Heartbeat(v1::Heartbeat {
            revision: Some(v1::SignedRevision::from(revision)),
        })),
    };
    let messages = vec![message(following.good(5)), beat(heartbeat), beat(forged)];
    following.follow(messages);
    following.next().await;
    assert_eq!(following.next().await, acknowledged(5));
    // Only the forged one is answered.
    let WatchRequest::Acknowledgement { error, .. } = following.next().await else {
        panic!("expected an acknowledgement");
    };
    assert!(error.unwrap().contains("signature"));
    assert!(following.clock.now() >= now() + Duration::from_secs(1_000));
    assert!(following.clock.now() < now() + Duration::from_secs(100_000));
}
