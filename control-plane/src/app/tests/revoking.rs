//! Revocations by command: asked about, made, recorded, and ended only by an act or their own hour.

use vouchsafe_api::convert::mesh_state::probe::{Fallen, ProbeReport};
use vouchsafe_api::convert::record::acts::{OperatorAct, RevocationAct};
use vouchsafe_api::convert::record::attestation::Issuance;
use vouchsafe_api::v1::operator_server::Operator;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::{Action, Withdrawal, Withdrawn};

use super::harness::Watch;
use super::*;
use crate::keeper::change::{Deed, Judged};
use crate::rpc::operator::OperatorApi;

const FILE: &str = "revocations/dev.incident-7.yaml";

fn document(found: &str, more: &str) -> String {
    format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: incident-7, namespace: dev}}\nspec: {{match: {found}, action: cut, reason: stolen{more}}}\n"
    )
}

pub(super) fn revoke(found: &str) -> v1::ChangeRequest {
    v1::ChangeRequest {
        act: "revoke".to_owned(),
        reason: "incident 7".to_owned(),
        files: vec![v1::PolicyFile {
            name: FILE.to_owned(),
            text: document(found, ""),
        }],
        max_drop: 25,
        max_drop_is_percent: true,
        ..v1::ChangeRequest::default()
    }
}

pub(super) fn end() -> v1::ChangeRequest {
    v1::ChangeRequest {
        act: "end_revocation".to_owned(),
        reason: "found it under the desk".to_owned(),
        end_revocation: "dev/incident-7".to_owned(),
        ..v1::ChangeRequest::default()
    }
}

impl Factory {
    pub(super) async fn change(
        &self,
        request: v1::ChangeRequest,
    ) -> Result<v1::ChangeResponse, String> {
        let api = OperatorApi::new(Arc::clone(self.control_plane())).acting_for(1234);
        let response = api.change(tonic::Request::new(request)).await;
        response
            .map(tonic::Response::into_inner)
            .map_err(|status| status.message().to_owned())
    }

    /// The newest certificate in the record.
    fn issued(&self) -> Issuance {
        let issued = |record: RecordEntry| match record.event {
            Event::Issued(issued) => Some(*issued),
            _ => None,
        };
        let issued = self.records().into_iter().filter_map(issued).next_back();
        issued.expect("a certificate was issued")
    }

    fn withdrawn(&self) -> Vec<Withdrawal> {
        self.control_plane().registry.withdrawals(now())
    }

    pub(super) fn acts(&self) -> Vec<OperatorAct> {
        let act = |record: RecordEntry| match record.event {
            Event::OperatorAct(act) => Some(*act),
            _ => None,
        };
        self.records().into_iter().filter_map(act).collect()
    }

    /// What the record says of revocations: what became of which, and how.
    fn revocations(&self) -> Vec<(&'static str, RevocationAct)> {
        let told = |record: RecordEntry| match record.event {
            Event::Revoked(act) => Some(("revoked", *act)),
            Event::RevocationEnded(act) => Some(("ended", *act)),
            _ => None,
        };
        self.records().into_iter().filter_map(told).collect()
    }

    #[track_caller]
    fn told(&self, expected: &[(&str, &str)]) -> Vec<RevocationAct> {
        let found = self.revocations();
        let words: Vec<_> = found.iter().map(|(what, act)| (*what, &*act.how)).collect();
        assert_eq!(words, expected);
        found.into_iter().map(|(_, act)| act).collect()
    }
}

#[tokio::test]
async fn a_revocation_by_command_is_in_force_with_the_answer_and_recorded_with_its_actor() {
    let factory = Factory::start(POLICY).await;
    let before = factory.status().await;
    let made = factory.change(revoke("{workload: [api]}")).await.unwrap();
    assert!(made.made, "{made:?}");
    let status = factory.status().await;
    assert_eq!(status.revision, made.revision);
    assert_ne!(status.revision, before.revision);
    let held = &status.revocations[0];
    assert_eq!(
        (held.name.as_str(), held.in_force),
        ("dev/incident-7", true)
    );
    assert!(
        factory
            .metrics()
            .await
            .contains("\nvouchsafe_revocations 1\n")
    );

    let acts = factory.acts();
    assert_eq!(acts.len(), 1);
    assert_eq!(
        (acts[0].act.as_str(), acts[0].files.as_slice()),
        ("revoke", &[FILE.to_owned()][..])
    );
    assert_eq!(acts[0].actor, "uid 1234 at the operator socket");
    assert_eq!(acts[0].max_drop, "25%");
    let told = factory.told(&[("revoked", "new")]);
    assert_eq!(told[0].name, "dev/incident-7");
    assert_eq!(
        (told[0].actor.as_str(), told[0].why.as_str()),
        (acts[0].actor.as_str(), "incident 7")
    );

    let ended = factory.change(end()).await.unwrap();
    assert!(ended.made, "{ended:?}");
    assert!(factory.status().await.revocations.is_empty());
    let told = factory.told(&[("revoked", "new"), ("ended", "removed")]);
    assert_eq!(told[1].why, "found it under the desk");
    factory.verify_record();
    factory.stop().await;
}

#[tokio::test]
async fn a_revoked_instance_can_t_renew_until_its_revocation_is_ended() {
    let factory = Factory::start(POLICY).await;
    let mut sidecar = Sidecar::new("dev/api", "laptop");
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let svid = (issued.certificate_chain.clone(), key);
    sidecar.purpose = Purpose::Renew;
    factory
        .attest_with_key(&sidecar, Some(&svid))
        .await
        .unwrap();
    for found in [
        "{workload: [api]}",
        "{node: [laptop]}",
        "{hardware_id: [laptop]}",
        "{measurement: [dev]}",
        "{device: {simulated: {machine: laptop}}}",
        "{spiffe_id: [\"spiffe://test.example/ns/dev/**\"]}",
        "{policy_revision_below: \"9.0\"}",
    ] {
        factory.change(revoke(found)).await.unwrap();
        let renewed = factory.attest_with_key(&sidecar, Some(&svid)).await;
        assert_eq!(reason(renewed), "revoked", "{found}");
        let enrolled = factory.attest(&Sidecar::new("dev/api", "laptop")).await;
        assert_eq!(reason(enrolled), "revoked", "{found}");
        factory.change(end()).await.unwrap();
        factory
            .attest_with_key(&sidecar, Some(&svid))
            .await
            .unwrap_or_else(|error| panic!("{found}: {error}"));
    }
    factory.stop().await;
}

#[tokio::test]
async fn whoever_is_named_by_a_certificate_stays_out_with_what_followed_it() {
    let factory = Factory::start(POLICY).await;
    let mut sidecar = Sidecar::new("dev/api", "laptop");
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let first = factory.issued();
    let svid = (issued.certificate_chain.clone(), key);
    sidecar.purpose = Purpose::Renew;
    let (renewed, key) = factory
        .attest_with_key(&sidecar, Some(&svid))
        .await
        .unwrap();
    let svid = (renewed.certificate_chain.clone(), key);
    let names = [
        format!("{{serial: [\"{}\"]}}", hex::encode(&first.serial)),
        format!("{{spki_sha256: [\"{}\"]}}", hex::encode(first.spki_sha256)),
    ];
    let mut factory = factory;
    for found in names {
        factory.change(revoke(&found)).await.unwrap();
        let withdrawn = factory.withdrawn();
        assert_eq!(withdrawn.len(), 1, "{found}");
        assert_eq!(withdrawn[0].instance, issued.instance);
        assert_eq!(withdrawn[0].state, Withdrawn::Named(Action::Cut));
        assert_eq!(withdrawn[0].reason, "dev/incident-7");
        factory = factory.restart().await.unwrap();
        assert_eq!(factory.withdrawn().len(), 1, "a restart brings it back");
        let again = factory.attest_with_key(&sidecar, Some(&svid)).await;
        assert_eq!(reason(again), "revoked", "{found}");
        let anew = factory.attest(&Sidecar::new("dev/api", "laptop")).await;
        assert_eq!(reason(anew), "revoked", "{found}");
        factory.change(end()).await.unwrap();
        assert_eq!(factory.withdrawn(), []);
        factory
            .attest_with_key(&sidecar, Some(&svid))
            .await
            .unwrap_or_else(|error| panic!("{found}: {error}"));
    }
    let found = format!("{{serial: [\"{}\"]}}", hex::encode(&first.serial));
    factory.change(revoke(&found)).await.unwrap();
    let somebody_else = Sidecar::new("dev/web", "other");
    factory.attest(&somebody_else).await.unwrap();
    factory.stop().await;
}

#[tokio::test]
async fn a_milder_revocation_of_a_certificate_is_as_mild_for_what_followed_it() {
    let factory = Factory::start(POLICY).await;
    factory
        .attest(&Sidecar::new("dev/api", "laptop"))
        .await
        .unwrap();
    let serial = hex::encode(factory.issued().serial);
    let mut request = revoke("{}");
    let cut = document(&format!("{{serial: [\"{serial}\"]}}"), "");
    request.files[0].text = cut.replace("action: cut", "action: drain");
    factory.change(request).await.unwrap();
    assert_eq!(
        factory.withdrawn()[0].state,
        Withdrawn::Named(Action::Drain)
    );
    factory.stop().await;
}

#[tokio::test]
async fn a_revoked_authority_signs_nothing_more_and_another_takes_its_place() {
    let factory = Factory::start(POLICY).await;
    let mut sidecar = Sidecar::new("dev/api", "laptop");
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let svid = (issued.certificate_chain.clone(), key);
    let revoked = factory.issued().authority_spki_sha256;
    let bundle = factory.control_plane().ca.bundle().len();
    let before = Arc::clone(&factory.control_plane().mesh.borrow().state);
    let found = format!("{{authority_sha256: [\"{}\"]}}", hex::encode(revoked));
    factory.change(revoke(&found)).await.unwrap();
    let after = Arc::clone(&factory.control_plane().mesh.borrow().state);
    assert_eq!(factory.control_plane().ca.bundle().len(), bundle + 1);
    let status = factory.status().await;
    let states = { status.authorities.iter() }.filter(|one| one.role == "issuing");
    let states: Vec<(bool, &str)> = states
        .map(|one| (one.spki_sha256 == revoked, one.state.as_str()))
        .collect();
    assert_eq!(states, [(true, "revoked"), (false, "active")]);
    assert!(
        after.has_other_bundle(&before),
        "no sidecar hears of the other"
    );
    sidecar.purpose = Purpose::Renew;
    factory
        .attest_with_key(&sidecar, Some(&svid))
        .await
        .unwrap();
    assert_ne!(factory.issued().authority_spki_sha256, revoked);
    factory
        .attest(&Sidecar::new("dev/web", "other"))
        .await
        .unwrap();
    let next = factory.issued().authority_spki_sha256;
    assert_ne!(next, revoked);
    let factory = factory.restart().await.unwrap();
    factory
        .attest(&Sidecar::new("dev/web", "other"))
        .await
        .unwrap();
    assert_eq!(factory.issued().authority_spki_sha256, next);
    factory.stop().await;
}

#[tokio::test]
async fn a_result_under_an_older_policy_is_cured_by_a_new_one() {
    let factory = Factory::start(POLICY).await;
    let mut sidecar = Sidecar::new("dev/api", "laptop");
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let svid = (issued.certificate_chain.clone(), key);
    let revision = factory.control_plane().mesh.borrow().state.revision;
    let next = format!("{}.{}", revision.epoch, revision.sequence + 1);
    let found = format!("{{policy_revision_below: \"{next}\"}}");
    factory.change(revoke(&found)).await.unwrap();
    sidecar.purpose = Purpose::Renew;
    factory
        .attest_with_key(&sidecar, Some(&svid))
        .await
        .unwrap();
    factory.stop().await;
}

#[tokio::test]
async fn whoever_is_asked_about_or_described_wrongly_is_not_revoked() {
    let factory = Factory::start(POLICY).await;
    let asked = v1::ChangeRequest {
        dry_run: true,
        ..revoke("{workload: [api]}")
    };
    let found = factory.change(asked).await.unwrap();
    assert!(!found.made);
    assert_eq!(
        found.difference.unwrap().changes,
        ["revocation dev/incident-7 is new"]
    );
    let wrong = factory
        .change(revoke("{workload: [\"a b\"]}"))
        .await
        .unwrap_err();
    assert!(wrong.contains("incident-7.yaml:4"), "{wrong}");
    let silent = v1::ChangeRequest {
        reason: String::new(),
        ..revoke("{workload: [api]}")
    };
    assert!(
        factory
            .change(silent)
            .await
            .unwrap_err()
            .contains("say why")
    );
    let unknown = factory.change(end()).await.unwrap_err();
    assert!(
        unknown.contains("no Revocation `dev/incident-7`"),
        "{unknown}"
    );
    assert!(factory.acts().is_empty() && factory.revocations().is_empty());
    assert!(!factory.data().join("../policy").join(FILE).exists());
    factory.stop().await;
}

#[tokio::test]
async fn a_folder_that_can_t_be_written_stays_as_it_is() {
    let factory = Factory::start(POLICY).await;
    // Root may write anywhere, but not a file below a file.
    fs::write(factory.data().join("../policy/revocations"), "").unwrap();
    let answer = factory.change(revoke("{workload: [api]}")).await.unwrap();
    assert!(!answer.made && answer.not_writable, "{answer:?}");
    assert!(factory.acts().is_empty(), "what did not happen is recorded");
    factory.stop().await;
}

#[tokio::test]
async fn a_revocation_whose_file_somebody_removed_is_recorded_even_while_nothing_ran() {
    let factory = Factory::start(POLICY).await;
    factory.change(revoke("{workload: [api]}")).await.unwrap();
    let file = factory.data().join("../policy").join(FILE);
    let factory = factory
        .restart_after(|| fs::remove_file(&file).unwrap())
        .await
        .unwrap();
    let told = factory.told(&[("revoked", "new"), ("ended", "removed")]);
    assert!(told[1].actor.contains("policy folder"), "{}", told[1].actor);
    // And while it runs.
    factory.change(revoke("{workload: [api]}")).await.unwrap();
    fs::remove_file(factory.data().join("../policy").join(FILE)).unwrap();
    eventually("the record to tell of the removal", || async {
        factory.revocations().len() == 4
    })
    .await;
    factory.stop().await;
}

#[tokio::test]
async fn a_revocation_that_expired_while_nothing_ran_is_recorded_as_expired() {
    let factory = Factory::start(POLICY).await;
    let soon = now() + Duration::from_secs(2);
    let expires = humantime(soon);
    let mut request = revoke("{workload: [api]}");
    request.files[0].text = document("{workload: [api]}", &format!(", expires: {expires}"));
    factory.change(request).await.unwrap();
    let status = factory.status().await;
    assert!(status.revocations[0].ends_soon);
    eventually("its hour", || async {
        now() > soon + Duration::from_secs(1)
    })
    .await;
    let factory = factory.restart().await.unwrap();
    let told = factory.told(&[("revoked", "new"), ("ended", "expired")]);
    assert_eq!(told[1].actor, "its own `expires`");
    assert!(!factory.status().await.revocations[0].in_force);
    factory.stop().await;
}

fn humantime(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap())
        .unwrap()
        .to_string()
}

pub(super) fn fallen(peer: &str) -> Fallen {
    Fallen {
        direction: "inbound".to_owned(),
        peer: peer.to_owned(),
        instance: Some(InstanceId([1; 16])),
        serial: "0a".to_owned(),
        port: "http".to_owned(),
        rule: String::new(),
        reason: "revoked".to_owned(),
        is_stream: false,
        opened: now(),
        weight: 1,
    }
}

/// A connected sidecar that has so many connections open, of which so many would fall.
async fn connected(
    factory: &Factory,
    (workload, machine): (&'static str, &'static str),
    live: u64,
    falls: usize,
    is_revoked: bool,
) -> tokio::task::JoinHandle<()> {
    let sidecar = Sidecar::new(workload, machine);
    let (issued, key) = factory.attest_with_key(&sidecar, None).await.unwrap();
    let svid = (issued.certificate_chain.clone(), key);
    let client = factory.connect(Some(&svid)).await;
    let watch = client.watch().await;
    let told = tokio::spawn(answer(client, watch, live, falls, is_revoked));
    let instance = issued.instance.0.to_vec();
    eventually("the sidecar to be connected", || async {
        let status = factory.status().await;
        let mut sidecars = status.sidecars.iter();
        sidecars.any(|one| one.instance == instance && one.applied == status.revision)
    })
    .await;
    told
}

/// Answers probes and says of each revision that it is applied. Ends with the stream.
async fn answer<C>(_client: C, mut watch: Watch, live: u64, falls: usize, is_revoked: bool) {
    loop {
        match watch.next().await {
            WatchResponse::Probe(probe) => {
                let fallen = (0..falls).map(|_| fallen("spiffe://test.example/ns/dev/workload/x"));
                let report = ProbeReport::new(probe.id, fallen).of(live, is_revoked);
                watch.send(WatchRequest::ProbeReport(report)).await;
            }
            other => drop(watch.take_in(other).await),
        }
    }
}

#[tokio::test]
async fn what_would_drop_is_asked_of_every_sidecar_and_bounds_the_change() {
    let factory = Factory::start(POLICY).await;
    let api = connected(&factory, ("dev/api", "laptop"), 60, 40, true).await;
    let web = connected(&factory, ("dev/web", "other"), 40, 10, false).await;
    let refused = factory.change(revoke("{workload: [api]}")).await.unwrap();
    assert!(!refused.made, "{refused:?}");
    assert_eq!((refused.would_drop, refused.live), (50, 100));
    assert!(
        refused.refused.contains("end 50 connections"),
        "{}",
        refused.refused
    );
    let asked = v1::ChangeRequest {
        dry_run: true,
        ..revoke("{workload: [api]}")
    };
    let told = factory.change(asked).await.unwrap();
    assert_eq!(told.refused, refused.refused, "a question hides a refusal");
    let loss = &refused.losses[0];
    assert_eq!((loss.workload.as_str(), loss.instances), ("dev/api", 1));
    assert_eq!(loss.doors, ["dev/api:http"]);
    // The only caller of the other door is gone as well.
    assert_eq!(loss.last_client_of, ["dev/web:http"]);
    assert!(factory.acts().is_empty());

    let forced = v1::ChangeRequest {
        max_drop: 60,
        ..revoke("{workload: [api]}")
    };
    let made = factory.change(forced).await.unwrap();
    assert!(made.made, "{made:?}");
    assert!(
        made.sidecars.iter().all(|one| one.applied_us > 0),
        "{:?}",
        made.sidecars
    );
    let act = factory.acts().remove(0);
    assert_eq!((act.would_drop, act.live, act.unanswered), (50, 100, 0));
    assert_eq!(act.max_drop, "60%");
    for one in [api, web] {
        one.abort();
    }
    factory.stop().await;
}

fn apply(name: &str, text: &str) -> v1::ChangeRequest {
    v1::ChangeRequest {
        act: "apply".to_owned(),
        files: vec![v1::PolicyFile {
            name: name.to_owned(),
            text: text.to_owned(),
        }],
        ..revoke("")
    }
}

fn rollback(to: Option<v1::Revision>) -> v1::ChangeRequest {
    v1::ChangeRequest {
        act: "rollback".to_owned(),
        files: Vec::new(),
        rollback_to: to,
        ..revoke("")
    }
}

impl Factory {
    fn rules(&self) -> Vec<String> {
        let state = Arc::clone(&self.control_plane().mesh.borrow().state);
        let rules = state.policy.set.access_policies();
        rules.map(|rule| rule.name.to_string()).collect()
    }
}

#[tokio::test]
async fn a_former_policy_comes_back_as_a_new_revision() {
    let factory = Factory::start(POLICY).await;
    let first = factory.status().await.revision;
    let applied = factory
        .change(apply("more.yaml", harness::ANOTHER_RULE))
        .await
        .unwrap();
    assert!(applied.made, "{applied:?}");
    assert_eq!(
        factory.rules(),
        ["dev/api-calls-web", "dev/batch-calls-api"]
    );
    let changes = applied.difference.unwrap().changes;
    assert!(
        changes
            .iter()
            .any(|one| one.starts_with("dev/api:http opens for dev/batch")),
        "{changes:?}"
    );

    let back = factory.change(rollback(None)).await.unwrap();
    assert!(back.made, "{back:?}");
    assert_eq!(factory.rules(), ["dev/api-calls-web"]);
    let sequence = |revision: Option<v1::Revision>| revision.unwrap().sequence;
    assert!(sequence(back.revision) > sequence(applied.revision));

    factory.change(rollback(applied.revision)).await.unwrap();
    assert_eq!(factory.rules().len(), 2);
    factory.change(rollback(first)).await.unwrap();
    assert_eq!(factory.rules().len(), 1);
    let unknown = rollback(Some(v1::Revision {
        epoch: 9,
        sequence: 1,
    }));
    assert!(
        factory
            .change(unknown)
            .await
            .unwrap_err()
            .contains("no such policy")
    );
    let acts: Vec<String> = factory.acts().into_iter().map(|act| act.act).collect();
    assert_eq!(acts, ["apply", "rollback", "rollback", "rollback"]);
    factory.stop().await;
}

#[tokio::test]
async fn neither_a_rollback_nor_a_new_folder_ends_a_revocation() {
    let factory = Factory::start(POLICY).await;
    factory
        .change(apply("more.yaml", harness::ANOTHER_RULE))
        .await
        .unwrap();
    factory.change(revoke("{workload: [api]}")).await.unwrap();
    let first = factory.status().await;
    let kept = crate::policy_sets::list(&factory.data()).unwrap();
    let oldest = kept[0].revision;
    factory.change(rollback(Some(oldest.into()))).await.unwrap();
    assert_eq!(factory.rules().len(), 1);
    assert!(factory.status().await.revocations[0].in_force);
    let mut folder = apply(
        "all.yaml",
        &fs::read_to_string(factory.data().join("../policy/policy.yaml")).unwrap(),
    );
    folder.replace_all = true;
    let replaced = factory.change(folder).await.unwrap();
    assert!(replaced.made, "{replaced:?}");
    assert!(factory.status().await.revocations[0].in_force);
    assert!(!factory.data().join("../policy/policy.yaml").exists());
    // One that stands among other documents would go with them.
    factory.change(end()).await.unwrap();
    let among = document("{workload: [api]}", "").replace("incident-7", "incident-9");
    factory.change(apply("among.yaml", &among)).await.unwrap();
    let refused = factory.change(rollback(first.revision)).await.unwrap_err();
    assert!(
        refused.contains("lacks revocation `dev/incident-9`"),
        "{refused}"
    );
    assert_eq!(
        factory
            .told(&[("revoked", "new"), ("ended", "removed"), ("revoked", "new")])
            .len(),
        3
    );
    factory.stop().await;
}

#[tokio::test]
async fn a_revocation_takes_the_place_of_no_other_unless_that_is_said() {
    let factory = Factory::start(POLICY).await;
    let first = revoke("{workload: [api]}");
    assert!(factory.change(first.clone()).await.unwrap().made);
    let again = factory.change(first).await.unwrap_err();
    assert!(again.contains("changes nothing"), "{again}");
    let other = revoke("{workload: [web]}");
    let refused = factory.change(other.clone()).await.unwrap_err();
    assert!(
        refused.contains("lacks revocation `dev/incident-7`"),
        "{refused}"
    );
    // Nor does a folder that has another one of the name.
    let applied = v1::ChangeRequest {
        act: "apply".to_owned(),
        ..other.clone()
    };
    assert!(factory.change(applied).await.is_err());
    factory.told(&[("revoked", "new")]);
    let replaced = v1::ChangeRequest {
        replace: true,
        ..other
    };
    assert!(factory.change(replaced).await.unwrap().made);
    factory.told(&[
        ("revoked", "new"),
        ("ended", "changed"),
        ("revoked", "changed"),
    ]);
    factory.stop().await;
}

#[tokio::test]
async fn a_change_is_made_between_no_other_policies_than_it_was_judged_by() {
    let factory = Factory::start(POLICY).await;
    let control_plane = factory.control_plane();
    let before = Arc::clone(&control_plane.mesh.borrow().state.policy);
    let text = document("{workload: [api]}", "");
    let wanted = || change::FolderChange::new([(FILE.to_owned(), text.clone())], []);
    let after = control_plane.load_with(&wanted().unwrap()).await.unwrap();
    let judged = Judged::between(&before, &after);
    let act = || OperatorAct {
        act: "revoke".to_owned(),
        actor: "uid 1".to_owned(),
        reason: "incident 7".to_owned(),
        files: vec![FILE.to_owned()],
        would_drop: 0,
        live: 0,
        unanswered: 0,
        max_drop: "25%".to_owned(),
    };
    // Somebody else was faster.
    let more = apply("more.yaml", harness::ANOTHER_RULE);
    assert!(factory.change(more).await.unwrap().made);
    let refused = control_plane
        .order(Deed::Change(wanted().unwrap(), judged), act())
        .await;
    assert!(
        matches!(refused, Err(change::ChangeError::Changed)),
        "{refused:?}"
    );
    assert!(factory.revocations().is_empty());
    let before = Arc::clone(&control_plane.mesh.borrow().state.policy);
    let after = control_plane.load_with(&wanted().unwrap()).await.unwrap();
    let judged = Judged::between(&before, &after);
    let made = control_plane
        .order(Deed::Change(wanted().unwrap(), judged), act())
        .await;
    assert!(made.is_ok(), "{made:?}");
    factory.stop().await;
}

#[tokio::test]
async fn a_rollback_after_a_revocation_goes_back_to_another_policy_and_keeps_the_revocation() {
    let factory = Factory::start(POLICY).await;
    let more = apply("more.yaml", harness::ANOTHER_RULE);
    factory.change(more).await.unwrap();
    let revoked = factory.change(revoke("{workload: [api]}")).await.unwrap();
    assert_eq!(factory.rules().len(), 2);
    let nothing = factory
        .change(rollback(revoked.revision))
        .await
        .unwrap_err();
    assert!(nothing.contains("changes nothing"), "{nothing}");
    let back = factory.change(rollback(None)).await.unwrap();
    assert!(back.made, "{back:?}");
    assert_eq!(factory.rules().len(), 1);
    assert!(factory.status().await.revocations[0].in_force);
    factory.stop().await;
}

#[tokio::test]
async fn a_change_that_breaks_off_is_finished_before_anything_else_is_read() {
    let factory = Factory::start(POLICY).await;
    let folder = factory.data().join("../policy");
    // Root may write anywhere, but no file over a folder.
    let obstacle = folder.join("z.yaml");
    fs::create_dir(&obstacle).unwrap();
    fs::write(obstacle.join("x"), "").unwrap();
    let mut both = apply("a.yaml", harness::ANOTHER_RULE);
    both.files.push(v1::PolicyFile {
        name: "z.yaml".to_owned(),
        text: document("{workload: [api]}", ""),
    });
    let torn = factory.change(both).await.unwrap_err();
    assert!(torn.contains("broke off"), "{torn}");
    // The half of it is not put in force, and nothing else is done to the folder.
    eventually("the control plane to say so", || async {
        factory.status().await.policy_error.contains("broke off")
    })
    .await;
    let other = factory.change(revoke("{workload: [web]}")).await;
    assert!(other.unwrap_err().contains("broke off"));
    assert_eq!(factory.rules().len(), 1);
    fs::remove_dir_all(&obstacle).unwrap();
    eventually("all of it to be in force", || async {
        factory.rules().len() == 2 && factory.status().await.revocations.len() == 1
    })
    .await;
    factory.told(&[("revoked", "new")]);
    factory.stop().await;
}
