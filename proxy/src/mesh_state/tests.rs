//! Which revisions are applied, and that a bad one never replaces a good one.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::Registry;
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use vouchsafe_api::convert::mesh_state::probe::Probe;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_api::convert::mesh_state::{
    Acknowledgement, Delta, Holding, Snapshot, WatchRequest, WatchResponse,
};
use vouchsafe_api::v1;
use vouchsafe_attestation::merkle;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::peer::{PeerRole, verify_peer, verify_role};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::standing::Withdrawn;
use vouchsafe_attestation::svid::MeshRole;

use super::Judge;
use super::farewell::farewell;
use super::held::Wanted;
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
use crate::telemetry::metrics::DataMetrics;

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
            wanted: Wanted {
                trust_domain: trust_domain(),
                workload: "inference/llm".parse().unwrap(),
            },
            readiness: Arc::clone(&readiness),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            connections: crate::worker::Connections::none(),
            farewell: farewell().1,
            decisions: Arc::new(DataMetrics::new(&Registry::new()).unwrap()),
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
        self.at(revision(sequence), document)
    }

    fn at(&self, revision: Revision, document: &str) -> Snapshot {
        let resources = [
            (
                "policy/Workload/inference/llm",
                document.as_bytes().to_vec(),
            ),
            ("trust-bundle", self.pki.bundle_resource()),
        ];
        snapshot(&self.signer, revision, &resources)
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

    async fn refused(&mut self) -> String {
        match self.next().await {
            WatchRequest::Acknowledgement(ack) => ack.outcome.unwrap_err(),
            other => panic!("expected an acknowledgement, found {other:?}"),
        }
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
    WatchResponse::Snapshot(snapshot).into()
}

/// What makes `after` out of `before`.
fn change(before: &Snapshot, after: Snapshot) -> Delta {
    let changed = after.resources.iter();
    let changed = changed.filter(|resource| !before.resources.contains(resource));
    let gone = before.resources.iter().filter(|held| {
        let mut kept = after.resources.iter();
        !kept.any(|resource| resource.name == held.name)
    });
    Delta {
        base: before.revision.revision,
        changed: changed.cloned().collect(),
        removed: gone.map(|held| held.name.clone()).collect(),
        revision: after.revision,
        proof: after.proof,
    }
}

fn acknowledged(snapshot: &Snapshot) -> WatchRequest {
    let leaves: Vec<_> = snapshot.resources.iter().map(|one| one.leaf()).collect();
    WatchRequest::Acknowledgement(Acknowledgement {
        revision: snapshot.revision.revision,
        outcome: Ok(merkle::root(&leaves)),
    })
}

fn nothing() -> WatchRequest {
    WatchRequest::Subscribe(Holding::default())
}

#[tokio::test]
async fn a_signed_and_proven_revision_is_applied_and_acknowledged() {
    let mut following = Following::new().await;
    assert_eq!(following.readiness.missing(), Some("no policy"));
    let good = following.good(5);
    following.follow(vec![message(good.clone())]);
    assert_eq!(following.next().await, nothing());
    assert_eq!(following.next().await, acknowledged(&good));
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
    let good = following.good(5);
    following.follow(messages);
    following.next().await;
    assert_eq!(following.next().await, acknowledged(&good));
    let error = following.refused().await;
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
    check("proof", "inference/llm", |following| {
        let mut snapshot = following.good(6);
        let content = snapshot.resources[0].content.to_vec();
        snapshot.resources[0].content = [content, b"\n".to_vec()].concat().into();
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn a_resource_that_is_left_out_is_noticed() {
    check("proof", "inference/llm", |following| {
        let mut snapshot = following.good(6);
        snapshot.resources.remove(0);
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn a_resource_that_comes_twice_is_refused() {
    check("message", "malformed", |following| {
        let mut snapshot = following.good(6);
        snapshot.resources.insert(0, snapshot.resources[0].clone());
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn the_slice_of_another_workload_is_refused() {
    check("slice", "inference/other", |following| {
        let mut snapshot = following.good(6);
        snapshot.proof.slice = "inference/other".parse().unwrap();
        message(snapshot)
    })
    .await;
}

#[tokio::test]
async fn a_document_under_another_name_is_refused() {
    check("policy", "not the document", |following| {
        let resources = [
            (
                "policy/Workload/inference/another",
                WORKLOAD.as_bytes().to_vec(),
            ),
            ("trust-bundle", following.pki.bundle_resource()),
        ];
        message(snapshot(&following.signer, revision(6), &resources))
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

/// A control plane that was restored from a backup counts on from there: only an act of the root makes its changes count.
#[tokio::test]
async fn a_revision_of_an_earlier_epoch_is_refused_whatever_its_number() {
    check("lower_revision", "0.900 is lower than 1.5", |following| {
        let earlier = Revision {
            epoch: 0,
            sequence: 900,
        };
        message(following.at(earlier, WORKLOAD))
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
    assert_eq!(following.next().await, acknowledged(&following.good(5)));
    // Only the forged one is answered.
    assert!(following.refused().await.contains("signature"));
    assert!(following.clock.now() >= now() + Duration::from_secs(1_000));
    assert!(following.clock.now() < now() + Duration::from_secs(100_000));
}

/// Two states that follow each other: the second has another port and an instance that must not be believed.
fn two_states(following: &Following) -> (Snapshot, Snapshot) {
    let resources = [
        (
            "policy/Workload/inference/llm",
            WORKLOAD.replace("openai", "chat").into_bytes(),
        ),
        ("trust-bundle", following.pki.bundle_resource()),
        (
            "trust/07070707070707070707070707070707",
            InstanceTrust {
                instance: InstanceId([7; 16]),
                state: Withdrawn::Lapsed,
                reason: "silent".to_owned(),
                since: now(),
            }
            .encode(),
        ),
    ];
    let after = snapshot(&following.signer, revision(9), &resources);
    (following.good(5), after)
}

#[tokio::test]
async fn a_change_is_applied_to_what_is_held() {
    let mut following = Following::new().await;
    let (before, after) = two_states(&following);
    let (there, back) = (
        change(&before, after.clone()),
        snapshot_again(&following, &before, 10),
    );
    let again = change(&after, back.clone());
    assert_eq!((there.changed.len(), there.removed.len()), (2, 0));
    assert_eq!((again.changed.len(), again.removed.len()), (1, 1));
    following.follow(vec![
        message(before.clone()),
        WatchResponse::Delta(there).into(),
    ]);
    following.next().await;
    assert_eq!(following.next().await, acknowledged(&before));
    assert_eq!(following.next().await, acknowledged(&after));
    assert!(!following.has_port());
    assert_eq!(following.applied(), revision(9));
    assert_eq!(following.state.policy.load().trust.len(), 1);
    // On a later stream the sidecar says what it holds, and goes on from there.
    following
        .server
        .publish(vec![WatchResponse::Delta(again).into()]);
    following.server.cut();
    let root = match acknowledged(&after) {
        WatchRequest::Acknowledgement(ack) => ack.outcome.ok(),
        _ => None,
    };
    assert_eq!(
        following.next().await,
        WatchRequest::Subscribe(Holding {
            revision: revision(9),
            slice_root: root,
        })
    );
    assert_eq!(following.next().await, acknowledged(&back));
    assert!(following.has_port());
    assert_eq!(following.state.policy.load().trust.len(), 0);
}

/// The resources of a state under a later number.
fn snapshot_again(following: &Following, before: &Snapshot, sequence: u64) -> Snapshot {
    let resources: Vec<_> = before
        .resources
        .iter()
        .map(|one| (one.name.to_string(), one.content.to_vec()))
        .collect();
    let resources: Vec<_> = resources
        .iter()
        .map(|(name, content)| (name.as_str(), content.clone()))
        .collect();
    snapshot(&following.signer, revision(sequence), &resources)
}

/// After revision 5 a change comes that does not fit: the sidecar keeps what it has and asks with `expected`.
async fn misfit(reason: &str, spoil: impl FnOnce(&mut Delta), asks: fn(Holding) -> Holding) {
    let mut following = Following::new().await;
    let (before, after) = two_states(&following);
    let mut delta = change(&before, after);
    spoil(&mut delta);
    following.follow(vec![
        message(before.clone()),
        WatchResponse::Delta(delta).into(),
    ]);
    following.next().await;
    let WatchRequest::Acknowledgement(held) = following.next().await else {
        panic!("expected an acknowledgement");
    };
    let held = Holding {
        revision: held.revision,
        slice_root: held.outcome.ok(),
    };
    assert_eq!(
        following.next().await,
        WatchRequest::Subscribe(asks(held)),
        "{reason}"
    );
    assert_eq!(following.applied(), revision(5));
    assert!(following.has_port());
    let counted = following
        .metrics
        .mesh_state_messages
        .with_label_values(&[reason]);
    assert_eq!(counted.get(), 1, "{reason}");
}

#[tokio::test]
async fn a_change_that_skips_a_revision_is_not_guessed_at() {
    misfit("base", |delta| delta.base = revision(6), |held| held).await;
}

#[tokio::test]
async fn a_change_that_leaves_something_out_is_noticed() {
    misfit(
        "proof",
        |delta| drop(delta.changed.pop()),
        |_| Holding::default(),
    )
    .await;
}

#[tokio::test]
async fn a_change_that_removes_too_much_is_noticed() {
    let too_much = |delta: &mut Delta| {
        delta.removed = vec!["trust-bundle".parse().unwrap()];
    };
    misfit("proof", too_much, |_| Holding::default()).await;
}

#[tokio::test]
async fn a_heartbeat_of_a_revision_that_never_came_is_asked_about() {
    let mut following = Following::new().await;
    let (before, after) = two_states(&following);
    let beat = WatchResponse::Heartbeat(after.revision);
    following.follow(vec![message(before.clone()), beat.into()]);
    following.next().await;
    following.next().await;
    let WatchRequest::Subscribe(holding) = following.next().await else {
        panic!("expected a subscription");
    };
    assert_eq!(holding.revision, revision(5));
    assert_eq!(following.applied(), revision(5));
}

#[tokio::test]
async fn what_is_held_is_looked_at_as_a_whole_now_and_then() {
    let mut following = Following::new().await;
    let good = following.good(5);
    let mut messages = vec![message(good.clone())];
    let beat = WatchResponse::Heartbeat(good.revision.clone());
    messages.extend((0..30).map(|_| v1::WatchResponse::from(beat.clone())));
    following.follow(messages);
    following.next().await;
    assert_eq!(following.next().await, acknowledged(&good));
    // Thirty heartbeats lead to one more, with a root that was computed afresh.
    assert_eq!(following.next().await, acknowledged(&good));
}

#[test]
fn a_signer_is_verified_once_until_it_is_another_one_or_ends() {
    let pki = Pki::new();
    let [one, other] = [(); 2].map(|()| pki.role(Some(MeshRole::MeshState)));
    let verified = Cell::new(0);
    let mut judge = Judge::default();
    let mut check = |signer: &Identity, at: SystemTime, expected: u32| {
        let signed = snapshot(signer, revision(1), &[]).revision;
        let verify = |chain: &[CertificateDer<'_>], role| {
            verified.set(verified.get() + 1);
            verify_role(chain, &[pki.pin()], &trust_domain(), role, now())
        };
        judge.accept(&signed, at, verify).unwrap();
        assert_eq!(verified.get(), expected);
    };
    check(&one, now(), 1);
    check(&one, now(), 1);
    check(&other, now(), 2);
    check(&one, now(), 3);
    // The test's certificates end with the year 2039.
    let end = UNIX_EPOCH + Duration::from_secs(2_208_988_800);
    check(&one, end - Duration::from_secs(1), 3);
    check(&one, end, 4);
}

impl Following {
    /// A state of the mesh that is held for half a minute without word.
    fn bounded(&self, sequence: u64, document: &str) -> Snapshot {
        let resources = [
            ("policy/Mesh/-/m", MESH.as_bytes().to_vec()),
            (
                "policy/Workload/inference/llm",
                document.as_bytes().to_vec(),
            ),
            ("trust-bundle", self.pki.bundle_resource()),
        ];
        snapshot(&self.signer, revision(sequence), &resources)
    }

    /// The same, signed so many seconds later.
    fn later(&self, mut snapshot: Snapshot, seconds: u64) -> Snapshot {
        snapshot.revision.time += Duration::from_secs(seconds);
        sign(&self.signer, &mut snapshot.revision);
        snapshot
    }

    fn beat(&self, of: &Snapshot, seconds: u64) -> v1::WatchResponse {
        WatchResponse::Heartbeat(self.later(of.clone(), seconds).revision).into()
    }

    fn is_stale(&self) -> bool {
        self.state.policy.load().is_stale
    }
}

const MESH: &str = "\
apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {name: m}
spec: {trust_domain: factory.example, stale_after: 30s}
";

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

#[tokio::test]
async fn who_hears_of_a_revision_and_can_not_apply_it_grows_stale() {
    let mut following = Following::new().await;
    let good = following.bounded(5, WORKLOAD);
    let broken = following.bounded(6, &WORKLOAD.replace("kind: Workload", "kind: Wish"));
    let heard = 20 + 29;
    following.follow(vec![
        message(good.clone()),
        following.beat(&good, 20),
        message(broken.clone()),
        following.beat(&broken, 40),
        following.beat(&broken, heard),
    ]);
    following.next().await;
    assert_eq!(following.next().await, acknowledged(&good));
    assert!(following.refused().await.contains("kind"));
    let at = now() + Duration::from_secs(heard);
    until("all to be heard", || following.clock.now() >= at).await;
    assert!(!following.is_stale(), "before the bound");
    // What is heard goes on: that a revision is in force that can't be applied here.
    following.server.publish(vec![
        following.beat(&broken, heard + 1),
        following.beat(&broken, heard + 60),
    ]);
    following.server.cut();
    until("it to be stale", || following.is_stale()).await;
    // The newest, held again, lifts it.
    let mended = following.later(following.bounded(7, WORKLOAD), heard + 60);
    following.server.publish(vec![message(mended)]);
    following.server.cut();
    until("it to be lifted", || !following.is_stale()).await;
    assert_eq!(following.applied(), revision(7));
}

#[tokio::test]
async fn who_hears_that_it_holds_the_newest_does_not_grow_stale() {
    let mut following = Following::new().await;
    let good = following.bounded(5, WORKLOAD);
    let beats = (1..=10).map(|beat| following.beat(&good, 20 * beat));
    let messages = std::iter::once(message(good.clone())).chain(beats);
    following.follow(messages.collect());
    let at = now() + Duration::from_secs(200);
    until("all to be heard", || following.clock.now() >= at).await;
    // Longer than its guard looks away.
    let looked = tokio::time::timeout(Duration::from_secs(1), async {
        while !following.is_stale() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(looked.await.is_err(), "stale, and holds the newest");
}

/// A heartbeat that nobody signed: its answer shows that all before it was answered.
fn forged(following: &Following) -> v1::WatchResponse {
    let mut revision = following.good(5).revision;
    revision.time += Duration::from_millis(1);
    WatchResponse::Heartbeat(revision).into()
}

#[tokio::test]
async fn a_revision_that_is_wrong_as_a_whole_is_refused_and_not_asked_for_for_ever() {
    let mut following = Following::new().await;
    let (before, after) = two_states(&following);
    let mut delta = change(&before, after.clone());
    drop(delta.changed.pop());
    let mut whole = after.clone();
    whole.resources.remove(0);
    let beat = WatchResponse::Heartbeat(after.revision.clone());
    following.follow(vec![
        message(before.clone()),
        WatchResponse::Delta(delta).into(),
        message(whole),
        beat.clone().into(),
        beat.into(),
        forged(&following),
    ]);
    following.next().await;
    assert_eq!(following.next().await, acknowledged(&before));
    // Once, because the change may have been made for somebody who held something else.
    assert_eq!(following.next().await, nothing());
    assert!(following.refused().await.contains("proves"));
    // That it exists is heard again and again, and nothing is asked for.
    assert!(following.refused().await.contains("signature"));
    assert_eq!(following.applied(), revision(5));
}

#[tokio::test]
async fn a_revision_whose_signer_was_not_believed_is_asked_for_again() {
    let mut following = Following::new().await;
    let good = following.good(5);
    let mut stranger = following.good(6);
    let other = Pki::new().role(Some(MeshRole::MeshState));
    stranger.revision.signer_chain = other.chain.iter().map(|der| der.to_vec()).collect();
    sign(&other, &mut stranger.revision);
    let beat = WatchResponse::Heartbeat(following.good(6).revision);
    following.follow(vec![message(good.clone()), message(stranger), beat.into()]);
    following.next().await;
    assert_eq!(following.next().await, acknowledged(&good));
    assert!(following.refused().await.contains("signer"));
    let WatchRequest::Subscribe(holding) = following.next().await else {
        panic!("expected a subscription");
    };
    assert_eq!(holding.revision, revision(5));
}

fn probe(id: u64) -> v1::WatchResponse {
    let probe = Probe {
        id,
        resources: Vec::new(),
        removed: Vec::new(),
    };
    WatchResponse::Probe(probe).into()
}

#[tokio::test]
async fn a_question_keeps_no_revision_waiting_and_of_many_the_newest_is_answered() {
    let mut following = Following::new().await;
    // A worker that is too busy to answer within a second.
    let (connections, _busy) = crate::worker::Connections::busy();
    if let Some(client) = &mut following.client {
        client.connections = connections;
    }
    let (good, newer) = (following.good(5), following.good(6));
    following.follow(vec![
        message(good.clone()),
        probe(1),
        probe(2),
        probe(3),
        message(newer.clone()),
    ]);
    following.next().await;
    // Of what workers are still to follow the newest is acknowledged: it says all that the one before it said.
    let mut reports = Vec::new();
    for _ in 0..3 {
        match following.next().await {
            WatchRequest::ProbeReport(report) => {
                assert!(report.error.is_some_and(|error| error.contains("worker")));
                reports.push(report.id);
            }
            other => assert_eq!(other, acknowledged(&newer)),
        }
    }
    assert_eq!(reports, [1, 3]);
}
