//! Canaries: a share tries a change and all others don't, in one order of revisions; made everybody's, ended, or ended by
//! what does not fit it.

use std::path::Path;
use std::sync::Mutex;

use tokio::task::JoinHandle;
use vouchsafe_api::convert::mesh_state::probe::ProbeReport;
use vouchsafe_api::convert::record::acts::OperatorAct;
use vouchsafe_api::v1::operator_server::Operator;
use vouchsafe_attestation::merkle::Hash;
use vouchsafe_attestation::revision::Revision;

use super::harness::Watch;
use super::*;
use crate::rpc::operator::OperatorApi;

const TRIED: &str = "policy/AccessPolicy/dev/batch-calls-api";

/// A connected sidecar that does what it is told, and notes what it was told.
struct Connected {
    instance: Vec<u8>,
    told: Arc<Mutex<Told>>,
    follows: JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    highest: Option<(Revision, Hash)>,
    names: Vec<String>,
}

impl Connected {
    async fn start(factory: &Factory, refuses: bool) -> Self {
        let sidecar = Sidecar::new("dev/api", "laptop");
        let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
        let svid = (issued.certificate_chain.clone(), key);
        let client = factory.connect(Some(&svid)).await;
        let watch = client.watch().await;
        let told = Arc::default();
        let follows = tokio::spawn(follow(client, watch, Arc::clone(&told), refuses));
        Self {
            instance: issued.instance.0.to_vec(),
            told,
            follows,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.told
            .lock()
            .unwrap()
            .names
            .iter()
            .any(|one| one == name)
    }

    fn revision(&self) -> Revision {
        let told = self.told.lock().unwrap();
        told.highest
            .map(|(revision, _)| revision)
            .unwrap_or_default()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.follows.abort();
    }
}

/// Answers probes and applies what comes, but for a canary that it refuses, by the rules of a sidecar: no revision below
/// the highest, and none with two contents.
async fn follow<C>(_client: C, mut watch: Watch, told: Arc<Mutex<Told>>, refuses: bool) {
    loop {
        let message = watch.next().await;
        let signed = match &message {
            WatchResponse::Probe(probe) => {
                let report = ProbeReport::new(probe.id, []).of(1, false);
                watch.send(WatchRequest::ProbeReport(report)).await;
                continue;
            }
            WatchResponse::Heartbeat(signed) => signed.clone(),
            WatchResponse::Snapshot(snapshot) => snapshot.revision.clone(),
            WatchResponse::Delta(delta) => delta.revision.clone(),
        };
        {
            let mut told = told.lock().unwrap();
            if let Some((highest, root)) = told.highest {
                assert!(signed.revision >= highest, "{} {highest}", signed.revision);
                assert!(
                    signed.revision > highest || signed.root == root,
                    "{highest}"
                );
            }
            told.highest = Some((signed.revision, signed.root));
        }
        let brings = match &message {
            WatchResponse::Snapshot(snapshot) => &snapshot.resources[..],
            WatchResponse::Delta(delta) => &delta.changed[..],
            _ => &[],
        };
        let is_tried = brings.iter().any(|one| one.name.to_string() == TRIED);
        if refuses && is_tried {
            let why = Err("it does not compile here".to_owned());
            watch.acknowledge(signed.revision, why).await;
            continue;
        }
        watch.take_in(message).await;
        let names = watch.resources().map(|one| one.name.to_string());
        told.lock().unwrap().names = names.collect();
    }
}

fn request(act: &str) -> v1::ChangeRequest {
    v1::ChangeRequest {
        act: act.to_owned(),
        reason: "try it".to_owned(),
        max_drop: 100,
        max_drop_is_percent: true,
        ..v1::ChangeRequest::default()
    }
}

fn canary(percent: u32, text: &str) -> v1::ChangeRequest {
    v1::ChangeRequest {
        canary_percent: percent,
        files: vec![v1::PolicyFile {
            name: "more.yaml".to_owned(),
            text: text.to_owned(),
        }],
        ..request("apply")
    }
}

fn revocation() -> String {
    "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {name: nobody, namespace: dev}\nspec: {match: {serial: [\"00ff\"]}, action: cut, reason: lost}\n".to_owned()
}

impl Factory {
    async fn ask(&self, request: v1::ChangeRequest) -> Result<v1::ChangeResponse, String> {
        let api = OperatorApi::new(Arc::clone(self.control_plane())).acting_for(1234);
        let response = api.change(tonic::Request::new(request)).await;
        response
            .map(tonic::Response::into_inner)
            .map_err(|status| status.message().to_owned())
    }

    fn canary_acts(&self) -> Vec<OperatorAct> {
        let act = |record: RecordEntry| match record.event {
            Event::OperatorAct(act) => Some(*act),
            _ => None,
        };
        self.records().into_iter().filter_map(act).collect()
    }

    async fn sidecars<const N: usize>(&self, refuses: bool) -> [Connected; N] {
        let mut all = Vec::new();
        for _ in 0..N {
            all.push(Connected::start(self, refuses).await);
        }
        eventually("all sidecars to be up to date", || async {
            let status = self.status().await;
            let held = status.sidecars.iter().filter(|one| one.behind == 0);
            held.count() == N
        })
        .await;
        all.try_into().unwrap_or_else(|_| panic!("there are N"))
    }
}

#[track_caller]
fn counts(all: &[Connected]) -> usize {
    all.iter().filter(|one| one.has(TRIED)).count()
}

#[tokio::test]
async fn a_canary_reaches_its_share_and_promotion_everybody_in_one_order_of_revisions() {
    let factory = Factory::start(POLICY).await;
    let all: [Connected; 5] = factory.sidecars(false).await;
    let asked = v1::ChangeRequest {
        dry_run: true,
        ..canary(40, harness::ANOTHER_RULE)
    };
    let would = factory.ask(asked).await.unwrap();
    let described = would.canary.unwrap();
    assert_eq!((described.sidecars, described.of), (2, 5), "{described:?}");
    assert!(!would.made && factory.canary_acts().is_empty());
    assert_eq!(counts(&all), 0);

    let made = factory
        .ask(canary(40, harness::ANOTHER_RULE))
        .await
        .unwrap();
    assert!(made.made, "{made:?}");
    assert_eq!(made.sidecars.len(), 2);
    assert!(
        made.sidecars.iter().all(|one| one.applied_us > 0),
        "{made:?}"
    );
    assert_eq!(counts(&all), 2);
    let status = factory.status().await;
    let shown = status.canary.clone().unwrap();
    assert_eq!((shown.applied, shown.refused), (2, 0));
    assert_eq!(shown.workloads, ["dev/api", "dev/batch"]);
    for one in &status.sidecars {
        let own = all.iter().find(|held| held.instance == one.instance);
        assert_eq!(own.unwrap().has(TRIED), one.is_canary);
        assert_eq!(one.behind, 0, "{one:?}");
    }
    // Nothing else may be changed meanwhile but revocations, which reach everybody.
    let busy = v1::ChangeRequest {
        canary_percent: 0,
        ..canary(0, "")
    };
    let busy = factory.ask(busy).await.unwrap_err();
    assert!(busy.contains("a canary is running"), "{busy}");
    let revoke = v1::ChangeRequest {
        files: vec![v1::PolicyFile {
            name: "revocations/dev.nobody.yaml".to_owned(),
            text: revocation(),
        }],
        ..request("revoke")
    };
    let revoked = factory.ask(revoke).await.unwrap();
    assert_eq!(revoked.sidecars.len(), 5);
    assert!(
        revoked.sidecars.iter().all(|one| one.applied_us > 0),
        "{revoked:?}"
    );
    assert!(
        all.iter()
            .all(|one| one.has("policy/Revocation/dev/nobody"))
    );
    assert_eq!(counts(&all), 2);

    let promoted = factory.ask(request("promote")).await.unwrap();
    assert!(promoted.made, "{promoted:?}");
    assert!(
        promoted.sidecars.iter().all(|one| one.applied_us > 0),
        "{promoted:?}"
    );
    assert_eq!(counts(&all), 5);
    // Whom the promotion leaves as he is learns its number with the next heartbeat.
    eventually("one revision everywhere", || async {
        let revisions: Vec<Revision> = all.iter().map(Connected::revision).collect();
        revisions.iter().all(|one| *one == revisions[0])
    })
    .await;
    assert!(factory.status().await.canary.is_none());
    assert!(!factory.data().join("canary.json").exists());
    let acts = factory.canary_acts();
    let words: Vec<_> = acts.iter().map(|act| act.act.as_str()).collect();
    assert_eq!(words, ["canary 40%", "revoke", "promote"]);
    assert!(
        acts.iter()
            .all(|act| act.actor == "uid 1234 at the operator socket")
    );
    factory.verify_record();
    factory.stop().await;
}

#[tokio::test]
async fn the_end_of_a_canary_brings_its_sidecars_back_by_a_higher_revision() {
    let factory = Factory::start(POLICY).await;
    let all: [Connected; 3] = factory.sidecars(false).await;
    factory
        .ask(canary(10, harness::ANOTHER_RULE))
        .await
        .unwrap();
    assert_eq!(counts(&all), 1);
    let tried = all.iter().find(|one| one.has(TRIED)).unwrap().revision();
    let ended = factory.ask(request("rollback")).await.unwrap();
    assert!(ended.made, "{ended:?}");
    assert_eq!(ended.sidecars.len(), 1);
    assert_eq!(counts(&all), 0);
    eventually("everybody to be above what was tried", || async {
        all.iter().all(|one| one.revision() > tried)
    })
    .await;
    // What is kept of the policies tells later which one a sidecar at that revision decided by.
    let at = |revision| {
        crate::policy_sets::at(&factory.data(), revision)
            .unwrap()
            .unwrap()
    };
    let name = Path::new("more.yaml");
    assert!(at(tried).files.contains_key(name));
    assert!(!at(all[0].revision()).files.contains_key(name));
    let acts = factory.canary_acts();
    assert_eq!(acts[1].act, "rollback of a canary");
    // Once it has ended, a rollback means the policy before again.
    let nothing = factory.ask(request("rollback")).await.unwrap_err();
    assert!(nothing.contains("no such policy"), "{nothing}");
    factory.stop().await;
}

#[tokio::test]
async fn a_canary_that_a_sidecar_refuses_is_everybody_s_by_force_alone() {
    let factory = Factory::start(POLICY).await;
    let all: [Connected; 3] = factory.sidecars(true).await;
    let made = factory
        .ask(canary(34, harness::ANOTHER_RULE))
        .await
        .unwrap();
    assert!(made.made);
    assert_eq!(made.sidecars[0].error, "it does not compile here");
    let shown = factory.status().await.canary.unwrap();
    assert_eq!((shown.applied, shown.refused), (0, 1));
    let refused = factory.ask(request("promote")).await.unwrap();
    assert!(!refused.made, "{refused:?}");
    assert!(
        refused.refused.contains("does not compile here"),
        "{}",
        refused.refused
    );
    let by_force = v1::ChangeRequest {
        force: true,
        ..request("promote")
    };
    assert!(factory.ask(by_force).await.unwrap().made);
    assert!(factory.status().await.canary.is_none());
    drop(all);
    factory.stop().await;
}

#[tokio::test]
async fn a_canary_goes_on_after_a_restart_or_its_end_is_recorded() {
    let factory = Factory::start(POLICY).await;
    let tried = {
        let all: [Connected; 2] = factory.sidecars(false).await;
        factory
            .ask(canary(50, harness::ANOTHER_RULE))
            .await
            .unwrap();
        all.iter().find(|one| one.has(TRIED)).unwrap().revision()
    };
    let factory = factory.restart().await.unwrap();
    let status = factory.status().await;
    let shown = status.canary.clone().unwrap();
    assert_eq!((shown.percent, shown.reason.as_str()), (50, "try it"));
    let above = |revision: Option<v1::Revision>| Revision::from(revision.unwrap()) > tried;
    assert!(above(shown.revision));
    // Somebody breaks what it rests on while nothing runs.
    let path = factory.data().join("canary.json");
    let factory = factory
        .restart_after(|| fs::write(&path, "{").unwrap())
        .await
        .unwrap();
    let status = factory.status().await;
    assert!(status.canary.is_none() && !path.exists());
    assert!(
        above(status.revision),
        "whoever tried it would refuse what is in force"
    );
    let acts = factory.canary_acts();
    let end = acts.last().unwrap();
    assert_eq!(
        (end.act.as_str(), end.actor.as_str()),
        ("canary_ended", "the control plane")
    );
    assert!(end.reason.contains("damaged"), "{}", end.reason);
    // It ended once.
    let factory = factory.restart().await.unwrap();
    assert_eq!(factory.canary_acts().len(), acts.len());
    factory.stop().await;
}

#[tokio::test]
async fn a_canary_ends_where_the_folder_no_longer_fits_it() {
    let factory = Factory::start(POLICY).await;
    let _tries_it: [Connected; 1] = factory.sidecars(false).await;
    factory
        .ask(canary(50, harness::ANOTHER_RULE))
        .await
        .unwrap();
    // The same document elsewhere: together they name one thing twice.
    let other = factory.data().join("../policy/other.yaml");
    fs::write(&other, harness::ANOTHER_RULE).unwrap();
    eventually("the canary to end", || async {
        factory.status().await.canary.is_none()
    })
    .await;
    let end = factory.canary_acts().pop().unwrap();
    assert_eq!(end.act, "canary_ended");
    // And where it has nothing left to try.
    fs::remove_file(&other).unwrap();
    eventually("the folder to be as it was", || async {
        let state = Arc::clone(&factory.control_plane().mesh.borrow().state);
        state.policy.set.access_policies().count() == 1
    })
    .await;
    factory
        .ask(canary(50, harness::ANOTHER_RULE))
        .await
        .unwrap();
    fs::write(
        factory.data().join("../policy/more.yaml"),
        harness::ANOTHER_RULE,
    )
    .unwrap();
    eventually("the canary to end", || async {
        factory.status().await.canary.is_none()
    })
    .await;
    let end = factory.canary_acts().pop().unwrap();
    assert!(
        end.reason.contains("is the policy that is in force"),
        "{}",
        end.reason
    );
    factory.stop().await;
}

#[tokio::test]
async fn a_change_that_is_no_canary_is_refused_and_says_why() {
    let factory = Factory::start(POLICY).await;
    for (text, expected) in [
        (revocation(), "a revocation always goes to everybody"),
        (
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {name: more, namespace: dev}\nspec: {hardware: {simulated_machine: more}}\n".to_owned(),
            "apply it without `--canary`",
        ),
        ("kind: [".to_owned(), "more.yaml"),
    ] {
        let refused = factory.ask(canary(10, &text)).await.unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
    for dry_run in [true, false] {
        let asked = v1::ChangeRequest {
            dry_run,
            ..canary(10, harness::ANOTHER_RULE)
        };
        let nobody = factory.ask(asked).await.unwrap_err();
        assert!(nobody.contains("nobody would try it"), "{nobody}");
    }
    let all = factory
        .ask(canary(100, harness::ANOTHER_RULE))
        .await
        .unwrap_err();
    assert!(all.contains("1 to 99 percent"), "{all}");
    let none = factory.ask(request("promote")).await.unwrap_err();
    assert!(none.contains("no canary is running"), "{none}");
    assert!(factory.canary_acts().is_empty());
    assert!(factory.status().await.canary.is_none());
    factory.stop().await;
}
