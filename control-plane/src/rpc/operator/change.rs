//! A change of policy, as an operator asks for it: judged, shown with what it would end, made, and watched until every
//! connected sidecar says that it has applied it.
//!
//! What it would end is asked of the sidecars themselves: they hold the connections, and judge the policy as it would be
//! with the function by which they will judge it. A sidecar that does not answer in time is named, never counted as if
//! nothing would fall there: what is not known is not within any limit. What a sidecar says is not believed beyond what one
//! can have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::Status;
use vouchsafe_api::convert::record::OperatorAct;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::document::Kind;
use vouchsafe_config::load;
use vouchsafe_config::reason::diff::diff;
use vouchsafe_config::set::{Document, PolicySet};
use vouchsafe_config::slice::Slices;

use super::OperatorApi;
use super::losses::losses;
use crate::change::{ChangeError, FolderChange, bounded};
use crate::files::FileError;
use crate::keeper::change::{Deed, Judged};
use crate::keeper::revocations;
use crate::mesh::probes::SidecarReport;
use crate::policy::LoadedPolicy;
use crate::policy_sets;
use crate::state::ControlPlane;
use crate::telemetry::Chain;

impl OperatorApi {
    pub(super) async fn change_policy(
        &self,
        asked: v1::ChangeRequest,
    ) -> Result<v1::ChangeResponse, Status> {
        let control_plane = &self.control_plane;
        if !asked.explain_revocation.is_empty() {
            return self.explain_revocation(&asked.explain_revocation).await;
        }
        if !ACTS.contains(&asked.act.as_str()) {
            return Err(Status::invalid_argument(
                "this is no act that is known here",
            ));
        }
        if asked.reason.trim().is_empty() && !asked.dry_run {
            return Err(Status::invalid_argument(
                "say why: a change is recorded with its reason",
            ));
        }
        let published = control_plane.mesh.borrow().clone();
        let before = Arc::clone(&published.state.policy);
        if let Some(answer) = self.change_canary(&asked, &published).await {
            return answer;
        }
        let mut asked = asked;
        if asked.act == ROLLBACK {
            self.former_policy(&mut asked, &before)?;
        }
        let change = folder_change(&asked, &before.set, Path::new(&control_plane.policy_folder))?;
        let after = control_plane.load_with(&change).await.map_err(status_of)?;
        if !asked.replace && (asked.act == ROLLBACK || !asked.dry_run) {
            keeps_revocations(&asked, &before.set, &after.set, control_plane.now())?;
        }
        // A folder that is applied twice is as it should be; whoever revokes or goes back means to change something.
        if asked.act != APPLY && !asked.dry_run && after.files == before.files {
            return Err(Status::failed_precondition(
                "this changes nothing: the policy is so already",
            ));
        }
        let everybody = |_: &WorkloadName, _: &InstanceId| true;
        let response = self.judge(&before.set, &after.set, everybody).await;
        let names = change.names();
        let deed = Deed::Change(change, Judged::between(&before, &after));
        self.order(&asked, response, &asked.act, names, deed).await
    }

    /// Has a deed done that was judged, unless it is only asked about or would end too much.
    pub(super) async fn order(
        &self,
        asked: &v1::ChangeRequest,
        judged: (Vec<SidecarReport>, v1::ChangeResponse),
        act: &str,
        files: Vec<String>,
        deed: Deed,
    ) -> Result<v1::ChangeResponse, Status> {
        let control_plane = &self.control_plane;
        let (_, mut response) = judged;
        response.revision = Some(control_plane.mesh.borrow().state.revision.into());
        if asked.dry_run || !response.refused.is_empty() {
            return Ok(response);
        }
        if let Some(refused) = over_the_limit(asked, &response) {
            response.refused = refused;
            return Ok(response);
        }
        let act = OperatorAct {
            act: act.to_owned(),
            actor: self.actor.clone(),
            reason: asked.reason.clone(),
            files: bounded(files),
            would_drop: response.would_drop,
            live: response.live,
            unanswered: unanswered(&response).count() as u64,
            max_drop: limit_in_words(asked),
        };
        let begun = Instant::now();
        match control_plane.order(deed, act).await {
            Ok(revision) => {
                let published = Instant::now();
                response.made = true;
                response.revision = Some(revision.into());
                response.in_force_us = micros(published - begun);
                await_applied(control_plane, revision, published, &mut response.sidecars).await;
                Ok(response)
            }
            Err(ChangeError::NotWritable(error)) => {
                response.refused = Chain(&error).to_string();
                response.not_writable = true;
                Ok(response)
            }
            Err(error) => Err(status_of(error)),
        }
    }

    /// Puts the files of a former policy into the request.
    fn former_policy(
        &self,
        asked: &mut v1::ChangeRequest,
        present: &LoadedPolicy,
    ) -> Result<(), Status> {
        let failed = |error: FileError| Status::internal(Chain(&error).to_string());
        let wanted: Revision = asked.rollback_to.map(Into::into).unwrap_or_default();
        let former = match wanted == Revision::default() {
            false => policy_sets::at(&self.control_plane.data, wanted).map_err(failed)?,
            true => {
                let kept = policy_sets::list(&self.control_plane.data).map_err(failed)?;
                // The newest that differs: what is in force is kept as well. Revocations make no difference, because they
                // stay as they are.
                kept.into_iter().rfind(|kept| {
                    let present = without_revocations(&present.files);
                    !without_revocations(&kept.files).eq(present)
                })
            }
        };
        let former = former.ok_or_else(|| {
            Status::not_found("no such policy is kept; `vouchsafe rollback --list` shows which are")
        })?;
        // What `vouchsafe revoke` wrote stays as it is now: it ends by an act of its own.
        asked.files = without_revocations(&former.files)
            .map(|(name, text)| v1::PolicyFile {
                name: name.display().to_string(),
                text: text.clone(),
            })
            .collect();
        asked.replace_all = true;
        Ok(())
    }

    /// Asks connected sidecars what would fall.
    pub(super) async fn judge(
        &self,
        before: &PolicySet,
        after: &PolicySet,
        whom: impl Fn(&WorkloadName, &InstanceId) -> bool,
    ) -> (Vec<SidecarReport>, v1::ChangeResponse) {
        let (old, new) = (before.slices(), after.slices());
        let mut questions: BTreeMap<WorkloadName, v1::Probe> = BTreeMap::new();
        let question = |workload: &WorkloadName| {
            let held = questions.entry(workload.clone());
            held.or_insert_with(|| probe(&old, &new, workload)).clone()
        };
        self.judge_by(before, after, whom, question).await
    }

    /// Whom a revocation that is in force means: every sidecar says so of its own certificate, as if there were no other.
    async fn explain_revocation(&self, name: &str) -> Result<v1::ChangeResponse, Status> {
        let state = Arc::clone(&self.control_plane.mesh.borrow().state);
        let set = &state.policy.set;
        let mut revocations = set.revocations();
        if !revocations.any(|one| one.name.to_string() == name) {
            return Err(Status::not_found(format!(
                "there is no Revocation `{name}`"
            )));
        }
        let is_other = |one: &&Document| {
            let namespace = one
                .namespace
                .as_ref()
                .map_or("", |namespace| namespace.as_str());
            one.kind == Kind::Revocation && format!("{namespace}/{}", one.name) != name
        };
        let others = set.documents().iter().filter(is_other);
        let mut removed: Vec<String> = others.map(Document::resource_name).collect();
        removed.sort_unstable();
        let question = |_: &WorkloadName| v1::Probe {
            removed: removed.clone(),
            ..v1::Probe::default()
        };
        let everybody = |_: &WorkloadName, _: &InstanceId| true;
        let (_, mut response) = self.judge_by(set, set, everybody, question).await;
        response.revision = Some(state.revision.into());
        Ok(response)
    }

    async fn judge_by(
        &self,
        before: &PolicySet,
        after: &PolicySet,
        whom: impl Fn(&WorkloadName, &InstanceId) -> bool,
        question: impl FnMut(&WorkloadName) -> v1::Probe,
    ) -> (Vec<SidecarReport>, v1::ChangeResponse) {
        let control_plane = &self.control_plane;
        let mut reports = control_plane
            .probes
            .ask(whom, question, PROBE_PATIENCE)
            .await;
        reports.sort_by(|one, other| {
            (&one.workload, one.instance.0).cmp(&(&other.workload, other.instance.0))
        });
        let now = control_plane.now();
        let difference = diff(before, after, now);
        let sidecars: Vec<v1::SidecarChange> = reports.iter().map(sidecar_change).collect();
        let instances = control_plane.registry.instances(now);
        let sum = |of: fn(&v1::SidecarChange) -> u64| {
            let each = sidecars.iter().map(of);
            each.fold(0, u64::saturating_add)
        };
        let response = v1::ChangeResponse {
            live: sum(|one| one.live),
            would_drop: sum(|one| one.total),
            losses: losses(before, after, &instances, &reports, now),
            difference: Some(v1::Difference {
                changes: difference.in_words(),
                may_widen: difference.may_widen(),
            }),
            sidecars,
            ..v1::ChangeResponse::default()
        };
        (reports, response)
    }
}

/// Files of a policy but for those that `vouchsafe revoke` wrote.
fn without_revocations(
    files: &BTreeMap<PathBuf, String>,
) -> impl Iterator<Item = (&PathBuf, &String)> {
    let files = files.iter();
    files.filter(|(name, _)| !name.starts_with(REVOCATIONS_FOLDER))
}

/// No change brings back whom a revocation means now, unless it says that it does.
pub(super) fn keeps_revocations(
    asked: &v1::ChangeRequest,
    before: &PolicySet,
    after: &PolicySet,
    now: SystemTime,
) -> Result<(), Status> {
    let (held, kept) = (
        revocations::in_force(before, now),
        revocations::in_force(after, now),
    );
    let lost = held.iter().find(|(name, one)| {
        let is_ended = **name == asked.end_revocation && !kept.contains_key(*name);
        !is_ended && kept.get(*name) != Some(*one)
    });
    match lost {
        None => Ok(()),
        Some((name, _)) => Err(Status::failed_precondition(format!(
            "the policy as it would be lacks revocation `{name}` as it is in force: choose another name, end that one first, with `vouchsafe revoke end {name}` or in its file, or say `--replace`"
        ))),
    }
}

/// The files that an act writes and removes.
pub(super) fn folder_change(
    asked: &v1::ChangeRequest,
    set: &PolicySet,
    folder: &Path,
) -> Result<FolderChange, Status> {
    let mut removed = asked.removed.clone();
    if !asked.end_revocation.is_empty() {
        removed.push(file_of_revocation(&asked.end_revocation, set, folder)?);
    }
    if asked.replace_all {
        let present = load::policy_files(folder)
            .map_err(|problems| Status::failed_precondition(problems.to_string()))?;
        let named: BTreeSet<&str> = asked.files.iter().map(|file| file.name.as_str()).collect();
        let is_kept = |name: &PathBuf| {
            // What `vouchsafe revoke` wrote ends by itself or by an act that says so.
            name.starts_with(REVOCATIONS_FOLDER)
                || name.to_str().is_some_and(|name| named.contains(name))
        };
        let gone = present.keys().filter(|name| !is_kept(name));
        removed.extend(gone.map(|name| name.display().to_string()));
    }
    let written = asked.files.iter();
    let written = written.map(|file| (file.name.clone(), file.text.clone()));
    let change = FolderChange::new(written, removed)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if change.is_empty() {
        return Err(Status::invalid_argument("the change names no file"));
    }
    Ok(change)
}

/// The file that holds a revocation and nothing else, by its name below the folder.
fn file_of_revocation(name: &str, set: &PolicySet, folder: &Path) -> Result<String, Status> {
    let found = set
        .revocations()
        .find(|one| one.name.to_string() == name)
        .ok_or_else(|| Status::not_found(format!("there is no Revocation `{name}`")))?;
    let file = &found.source.file;
    if set
        .documents()
        .iter()
        .filter(|one| one.file == *file)
        .count()
        > 1
    {
        return Err(Status::failed_precondition(format!(
            "`{name}` stands among other documents at {file}:{}: take it out there, which is recorded as well",
            found.source.line
        )));
    }
    let below = Path::new(file).strip_prefix(folder);
    let below = below.map_err(|_| Status::internal("the file is not below the policy folder"))?;
    Ok(below.display().to_string())
}

/// What changes for a workload's sidecars.
fn probe(before: &Slices<'_>, after: &Slices<'_>, workload: &WorkloadName) -> v1::Probe {
    let slice = |slices: &Slices<'_>| -> BTreeMap<String, String> {
        let documents = slices.of(workload).into_iter();
        documents
            .map(|one| (one.resource_name(), one.distributable()))
            .collect()
    };
    let (old, new) = (slice(before), slice(after));
    let changed = new
        .iter()
        .filter(|(name, text)| old.get(*name) != Some(*text));
    v1::Probe {
        id: 0,
        resources: changed
            .map(|(name, text)| v1::Resource {
                name: name.clone(),
                content: text.clone().into(),
            })
            .collect(),
        removed: old
            .keys()
            .filter(|name| !new.contains_key(*name))
            .cloned()
            .collect(),
    }
}

fn sidecar_change(report: &SidecarReport) -> v1::SidecarChange {
    let mut change = v1::SidecarChange {
        workload: report.workload.to_string(),
        instance: report.instance.0.to_vec(),
        ..v1::SidecarChange::default()
    };
    match &report.report {
        Err(unanswered) => change.unanswered = unanswered.to_string(),
        Ok(report) => {
            change.unanswered = report.error.clone().unwrap_or_default();
            change.fallen = report.fallen.iter().cloned().map(Into::into).collect();
            change.total = report.total.min(MOST_OF_ONE);
            change.live = report.live.min(MOST_OF_ONE);
            change.is_revoked = report.is_revoked;
        }
    }
    change
}

/// Sidecars that did not say what would end there.
fn unanswered(found: &v1::ChangeResponse) -> impl Iterator<Item = &v1::SidecarChange> {
    let sidecars = found.sidecars.iter();
    sidecars.filter(|one| !one.unanswered.is_empty())
}

/// Why more would end than the operator allows.
fn over_the_limit(asked: &v1::ChangeRequest, found: &v1::ChangeResponse) -> Option<String> {
    if asked.max_drop_is_percent && asked.max_drop >= 100 {
        return None;
    }
    let (drop, live) = (found.would_drop, found.live);
    let is_over = match asked.max_drop_is_percent {
        // A few connections are a large part of few.
        true if drop <= ALWAYS_ALLOWED => asked.max_drop == 0 && drop > 0,
        true => {
            // What a sidecar says that it would end is no more of it than all of it.
            let ending = { found.sidecars.iter() }.map(|one| one.total.min(one.live));
            let ending = ending.fold(0, u64::saturating_add);
            ending.saturating_mul(100) > live.saturating_mul(asked.max_drop)
        }
        false => drop > asked.max_drop,
    };
    if is_over {
        return Some(format!(
            "it would end {drop} connections and streams, of {live} that live: more than `--max-drop {}` allows",
            limit_in_words(asked)
        ));
    }
    let mut silent = unanswered(found);
    let first = silent.next().filter(|_| !asked.allow_unanswered)?;
    Some(format!(
        "{} sidecars did not say what would end there (one of {}: {}): ask again, or say `--allow-unanswered`, or `--max-drop 100%`",
        1 + silent.count(),
        first.workload,
        first.unanswered
    ))
}

fn limit_in_words(asked: &v1::ChangeRequest) -> String {
    match asked.max_drop_is_percent {
        true => format!("{}%", asked.max_drop),
        false => asked.max_drop.to_string(),
    }
}

/// Waits until each sidecar that was connected has applied the revision, or has said why not; notes when.
async fn await_applied(
    control_plane: &ControlPlane,
    revision: Revision,
    published: Instant,
    sidecars: &mut [v1::SidecarChange],
) {
    while published.elapsed() < APPLY_PATIENCE {
        let sessions: BTreeMap<Vec<u8>, _> = control_plane
            .registry
            .instances(control_plane.now())
            .into_iter()
            .map(|(instance, session)| (instance.id.0.to_vec(), session))
            .collect();
        let mut is_waiting = false;
        for sidecar in sidecars.iter_mut().filter(|one| one.applied_us == 0) {
            match sessions.get(&sidecar.instance) {
                Some(session) if session.in_force() >= revision => {
                    sidecar.applied_us = micros(published.elapsed()).max(1);
                    sidecar.error.clear();
                }
                Some(session) => {
                    is_waiting |= session.streams > 0 && session.error.is_none();
                    sidecar.error = match (&session.error, session.streams) {
                        (Some(error), _) => error.clone(),
                        (None, 0) => "its stream ended".to_owned(),
                        (None, _) => "it has not said that it applied it".to_owned(),
                    };
                }
                None => sidecar.error = "its certificate has ended".to_owned(),
            }
        }
        if !is_waiting {
            return;
        }
        tokio::time::sleep(APPLY_LOOK).await;
    }
}

fn status_of(error: ChangeError) -> Status {
    let text = Chain(&error).to_string();
    match error {
        ChangeError::Name(_) | ChangeError::Both(_) | ChangeError::Policy(_) => {
            Status::invalid_argument(text)
        }
        ChangeError::NotWritable(_) => Status::failed_precondition(text),
        ChangeError::Changed => Status::aborted(text),
        ChangeError::Ending => Status::unavailable(text),
        ChangeError::Torn(_)
        | ChangeError::Record(_)
        | ChangeError::Publish(_)
        | ChangeError::Canary(_) => Status::internal(text),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

const ACTS: [&str; 5] = ["revoke", "end_revocation", APPLY, PROMOTE, ROLLBACK];
pub(super) const APPLY: &str = "apply";
pub(super) const PROMOTE: &str = "promote";
pub(super) const ROLLBACK: &str = "rollback";
/// Below the policy folder: where `vouchsafe revoke` writes, and what a replaced folder keeps.
pub(crate) const REVOCATIONS_FOLDER: &str = "revocations";
/// Connections and streams that a percentage never forbids to end: in a small mesh a machine carries half of them.
const ALWAYS_ALLOWED: u64 = 20;
/// More than one sidecar holds; who says more is not believed.
const MOST_OF_ONE: u64 = 100_000;
/// A sidecar judges a thousand connections in milliseconds; whoever needs longer is named.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// Several times what a slow sidecar needs; the change is in force whether it answers or not.
const APPLY_PATIENCE: Duration = Duration::from_secs(5);
/// The precision of the times that are reported.
const APPLY_LOOK: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use vouchsafe_api::convert::mesh_state::probe::ProbeReport;

    use super::*;

    fn asked(max_drop: u64, is_percent: bool) -> v1::ChangeRequest {
        v1::ChangeRequest {
            max_drop,
            max_drop_is_percent: is_percent,
            ..v1::ChangeRequest::default()
        }
    }

    fn found(sidecars: Vec<v1::SidecarChange>) -> v1::ChangeResponse {
        let sum = |of: fn(&v1::SidecarChange) -> u64| sidecars.iter().map(of).sum();
        v1::ChangeResponse {
            would_drop: sum(|one| one.total),
            live: sum(|one| one.live),
            sidecars,
            ..v1::ChangeResponse::default()
        }
    }

    fn sidecar(total: u64, live: u64) -> v1::SidecarChange {
        v1::SidecarChange {
            total,
            live,
            ..v1::SidecarChange::default()
        }
    }

    fn refused(max_drop: u64, is_percent: bool, drop: u64, live: u64) -> bool {
        let found = found(vec![sidecar(drop, live)]);
        over_the_limit(&asked(max_drop, is_percent), &found).is_some()
    }

    #[test]
    fn a_sidecar_that_did_not_say_is_within_no_limit_unless_that_is_allowed() {
        let mut silent = sidecar(0, 0);
        silent.unanswered = "it did not answer in time".to_owned();
        let found = found(vec![sidecar(0, 10), silent]);
        for (max_drop, is_percent) in [(25, true), (0, true), (50, false)] {
            let mut asked = asked(max_drop, is_percent);
            let refused = over_the_limit(&asked, &found).unwrap();
            assert!(refused.starts_with("1 sidecars did not say"), "{refused}");
            asked.allow_unanswered = true;
            assert_eq!(over_the_limit(&asked, &found), None);
        }
        assert_eq!(over_the_limit(&asked(100, true), &found), None);
    }

    #[test]
    fn one_sidecar_that_lies_neither_hides_nor_stops_what_others_say() {
        let report = |total, live| {
            let report = ProbeReport {
                total,
                ..ProbeReport::new(1, []).of(live, false)
            };
            sidecar_change(&SidecarReport {
                workload: "a/b".parse().unwrap(),
                instance: InstanceId([1; 16]),
                report: Ok(report),
            })
        };
        let said = report(u64::MAX, u64::MAX);
        assert_eq!((said.total, said.live), (MOST_OF_ONE, MOST_OF_ONE));
        let over = |max_drop, said: Vec<_>| {
            let found = found(said);
            over_the_limit(&asked(max_drop, true), &found).is_some()
        };
        assert!(over(25, vec![report(0, 1 << 60), report(60_000, 60_000)]));
        // Streams without connections are nothing that could end.
        assert!(!over(25, vec![report(u64::MAX, 0), report(10, 1000)]));
        assert!(!over(100, vec![report(u64::MAX, 0)]));
    }

    #[test]
    fn more_than_the_operator_allows_is_refused_and_the_limit_itself_is_allowed() {
        for (max_drop, is_percent, drop, live, expected) in [
            (10, false, 10, 1000, false),
            (10, false, 11, 1000, true),
            (0, false, 0, 0, false),
            (0, false, 1, 1000, true),
            (25, true, 250, 1000, false),
            (25, true, 251, 1000, true),
            (100, true, 1000, 1000, false),
            // A small mesh: half of it is one machine.
            (25, true, 20, 30, false),
            (25, true, 21, 30, true),
            (0, true, 1, 30, true),
        ] {
            let found = refused(max_drop, is_percent, drop, live);
            assert_eq!(found, expected, "{max_drop} {is_percent} {drop} {live}");
        }
    }
}
