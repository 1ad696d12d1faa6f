//! Whatever happens to a mesh, what a sidecar makes of the changes is what the state says.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use vouchsafe_api::convert::mesh_state::{
    Holding, Resource as Sent, SignedRevision, SliceProof, WatchResponse,
};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::Withdrawn;

use super::frame::{FrameKind, Published};
use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn policy(workloads: u8, rules: &[(u8, u8)]) -> Arc<LoadedPolicy> {
    let mut text = "\
apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {name: m}
spec: {trust_domain: test.example, danger_accept_simulated: true}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: any, namespace: team}
spec: {any_of: [{simulated: {images: [{name: dev}]}}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: one, namespace: team}
spec: {hardware: {simulated_machine: laptop}}
"
    .to_owned();
    for workload in 0..workloads {
        text.push_str(&format!(
            "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w{workload}, namespace: team}}\nspec: {{profile: any, members: {{nodes: [one]}}, ports: [{{name: p, port: 1, protocol: tcp}}]}}\n"
        ));
    }
    for (from, to) in rules {
        if *from < workloads && *to < workloads {
            text.push_str(&format!(
                "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: r{from}-{to}, namespace: team}}\nspec: {{to: {{workload: w{to}, port: p}}, from: [{{workload: w{from}}}]}}\n"
            ));
        }
    }
    // Documents say in which file they were written, so it must be the same one each time.
    static FOLDER: LazyLock<Mutex<tempfile::TempDir>> =
        LazyLock::new(|| Mutex::new(tempfile::tempdir().unwrap()));
    let folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    std::fs::write(folder.path().join("all.yaml"), text).unwrap();
    let loaded = LoadedPolicy::load(folder.path(), now());
    Arc::new(loaded.unwrap_or_else(|error| panic!("{error}")))
}

fn inputs(policy: &Arc<LoadedPolicy>, endpoints: &[u8], trust: &[u8]) -> Inputs {
    let endpoint = |number: &u8| {
        let workload: WorkloadName = format!("team/w{number}").parse().unwrap();
        let endpoint = Endpoint {
            listener: format!("127.0.0.1:{}", 9000 + u16::from(*number)),
            ports: vec!["p".parse().unwrap()],
        };
        (workload, vec![endpoint])
    };
    Inputs {
        policy: Arc::clone(policy),
        endpoints: endpoints.iter().map(endpoint).collect(),
        bundle: Vec::new(),
        renewals: Vec::new(),
        trust: trust
            .iter()
            .map(|number| InstanceTrust {
                instance: InstanceId([*number; 16]),
                state: Withdrawn::Lapsed,
                reason: "silent".to_owned(),
                since: now(),
            })
            .collect(),
    }
}

fn published(state: MeshState) -> Published {
    let state = Arc::new(state);
    let signed = v1::SignedRevision {
        revision: Some(state.revision.into()),
        root: state.root.to_vec(),
        slices: state.tree.leaves() as u64,
        time_ms: unix_ms(now()),
        // Nobody looks at it here.
        signature: vec![1],
        signer_chain: vec![vec![1]],
    };
    Published::new(state, signed)
}

fn revision(sequence: u64) -> Revision {
    Revision { epoch: 1, sequence }
}

/// A sidecar that trusts nothing but the proof.
#[derive(Clone, Debug, Default)]
struct Receiver {
    holding: Holding,
    held: BTreeMap<String, Sent>,
}

impl Receiver {
    fn take(&mut self, published: &Published, workload: &WorkloadName) -> FrameKind {
        let frame = published.change(workload, self.holding);
        let wire = v1::WatchResponse::decode(frame.bytes).unwrap();
        let (signed, proof) = match WatchResponse::try_from(wire).unwrap() {
            WatchResponse::Snapshot(snapshot) => {
                self.held.clear();
                self.put(snapshot.resources);
                (snapshot.revision, snapshot.proof)
            }
            WatchResponse::Delta(delta) => {
                assert_eq!(delta.base, self.holding.revision);
                for name in &delta.removed {
                    self.held.remove(&name.to_string()).unwrap();
                }
                self.put(delta.changed);
                (delta.revision, delta.proof)
            }
            other => panic!("{other:?}"),
        };
        self.prove(&signed, &proof);
        frame.kind
    }

    fn put(&mut self, resources: Vec<Sent>) {
        for resource in resources {
            self.held.insert(resource.name.to_string(), resource);
        }
    }

    fn prove(&mut self, signed: &SignedRevision, proof: &SliceProof) {
        let leaves: Vec<Hash> = self.held.values().map(Sent::leaf).collect();
        let root = merkle::root(&leaves);
        assert!(proof.proves(&root, leaves.len() as u64, signed));
        self.holding = Holding {
            revision: signed.revision,
            slice_root: Some(root),
        };
    }
}

fn workload(number: u8) -> WorkloadName {
    format!("team/w{number}").parse().unwrap()
}

#[test]
fn a_change_elsewhere_costs_a_sidecar_a_proof_and_nothing_else() {
    let before = policy(4, &[(0, 1)]);
    let first = MeshState::first(revision(1), inputs(&before, &[], &[]));
    let after = policy(4, &[(0, 1), (2, 3)]);
    let next = published(first.next(revision(2), inputs(&after, &[], &[])));
    let mut receiver = Receiver::default();
    let first = published(first);
    assert_eq!(receiver.take(&first, &workload(0)), FrameKind::Snapshot);
    let frame = next.change(&workload(0), receiver.holding);
    assert_eq!(frame.kind, FrameKind::Delta);
    let wire = v1::WatchResponse::decode(frame.bytes).unwrap();
    let Ok(WatchResponse::Delta(delta)) = wire.try_into() else {
        panic!("expected a delta");
    };
    assert_eq!((delta.changed.len(), delta.removed.len()), (0, 0));
    assert_eq!(delta.proof.siblings.len(), 3);
}

#[test]
fn a_document_that_concerns_no_sidecar_makes_another_state_all_the_same() {
    let before = policy(2, &[]);
    let first = MeshState::first(revision(1), inputs(&before, &[], &[]));
    let same = first.next(revision(2), inputs(&policy(2, &[]), &[], &[]));
    assert_eq!(same.root, first.root);
    let more = inputs(&before, &[1], &[]);
    assert_ne!(first.next(revision(2), more).root, first.root);
}

#[test]
fn frames_of_one_change_are_encoded_once() {
    let policy = policy(2, &[(0, 1)]);
    let first = MeshState::first(revision(1), inputs(&policy, &[], &[]));
    let second = published(first.next(revision(2), inputs(&policy, &[1], &[])));
    let mut receiver = Receiver::default();
    receiver.take(&published(first), &workload(0));
    let (one, other) = (
        second.change(&workload(0), receiver.holding),
        second.change(&workload(0), receiver.holding),
    );
    assert_eq!(one.bytes.as_ptr(), other.bytes.as_ptr());
    assert_eq!(
        second.heartbeat().bytes.as_ptr(),
        second.clone().heartbeat().bytes.as_ptr()
    );
}

#[test]
fn who_holds_the_very_slice_is_sent_nothing_of_it_even_after_a_restart() {
    let policy = policy(2, &[(0, 1)]);
    let first = published(MeshState::first(revision(7), inputs(&policy, &[], &[])));
    let mut receiver = Receiver::default();
    receiver.take(&first, &workload(0));
    // The process that comes next knows nothing of revision 7, and where `w0` itself is reached does not concern it.
    let next = published(MeshState::first(revision(8), inputs(&policy, &[0], &[])));
    assert_eq!(receiver.take(&next, &workload(0)), FrameKind::Delta);
    let changed = published(MeshState::first(revision(9), inputs(&policy, &[1], &[])));
    assert_eq!(receiver.take(&changed, &workload(0)), FrameKind::Snapshot);
}

#[test]
fn a_workload_that_leaves_the_policy_and_comes_back_gets_its_slice_as_a_whole() {
    let (with, without) = (policy(2, &[(0, 1)]), policy(1, &[]));
    let first = MeshState::first(revision(1), inputs(&with, &[], &[]));
    let gone = first.next(revision(2), inputs(&without, &[], &[]));
    let back = gone.next(revision(3), inputs(&with, &[], &[]));
    let mut receiver = Receiver::default();
    for state in [first, gone, back].map(published) {
        assert_eq!(receiver.take(&state, &workload(1)), FrameKind::Snapshot);
    }
}

#[test]
fn a_slice_forgets_what_left_long_ago_and_says_so() {
    let policy = policy(1, &[]);
    let mut state = MeshState::first(revision(1), inputs(&policy, &[], &[]));
    let base = revision(1);
    for sequence in 2..1_200 {
        // Each state loses the instance of the one before.
        let trust = [u8::try_from(sequence % 250).unwrap()];
        state = state.next(revision(sequence), inputs(&policy, &[], &trust));
    }
    assert_eq!(state.since(&workload(0), base), None);
    assert!(state.since(&workload(0), revision(1_000)).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Sidecars that look at every state, at some, or begin anew, all hold what the state says, by the proof.
    #[test]
    fn changes_lead_where_the_state_is(
        steps in proptest::collection::vec(
            (0u8..5, proptest::collection::vec((0u8..5, 0u8..5), 0..6),
             proptest::collection::vec(0u8..5, 0..4), proptest::collection::vec(0u8..5, 0..3),
             proptest::collection::vec(any::<bool>(), 5)),
            1..8,
        )
    ) {
        let mut receivers = vec![Receiver::default(); 5];
        let mut before: Option<Published> = None;
        for (sequence, (workloads, mut rules, endpoints, mut trust, looks)) in (1..).zip(steps) {
            rules.sort_unstable();
            rules.dedup();
            trust.sort_unstable();
            trust.dedup();
            let inputs = inputs(&policy(workloads, &rules), &endpoints, &trust);
            let state = match &before {
                Some(before) => before.state.next(revision(sequence), inputs.clone()),
                None => MeshState::first(revision(sequence), inputs.clone()),
            };
            // However it came to be, it is the state of its inputs.
            prop_assert_eq!(state.root, MeshState::first(revision(1), inputs).root);
            let now = published(state);
            for (number, (receiver, looks)) in (0u8..).zip(receivers.iter_mut().zip(looks)) {
                if looks {
                    receiver.take(&now, &workload(number));
                }
                if let Some(before) = &before {
                    let name = workload(number);
                    let moved = now.state.difference(&before.state, &name);
                    let size = now.state.slice(&name).len();
                    prop_assert!(moved.changed.len() <= size);
                }
            }
            before = Some(now);
        }
    }
}
