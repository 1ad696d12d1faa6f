//! A change of policy, as an operator asks for it: judged, shown with what it would end, made, and watched until every
//! connected sidecar says that it has applied it.
//!
//! A revocation comes first: where nothing that sidecars say could stop it, it is made while they are still being asked,
//! and else as soon as enough have answered ([`Limit`]). What it means is worked out after it is in force.

use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;
use tonic::Status;
use vouchsafe_api::convert::record::acts::OperatorAct;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_config::document::Kind;
use vouchsafe_config::set::Document;

use super::OperatorApi;
use super::applied::{applied, micros};
use super::folder::{folder_change, keeps_revocations, without_revocations};
use super::judging::{Judging, sums};
use super::limit::{Limit, PATIENCE};
use crate::change::{ChangeError, bounded};
use crate::files::FileError;
use crate::keeper::change::{Deed, Judged};
use crate::keeper::publishing::PublishError;
use crate::policy::LoadedPolicy;
use crate::policy_sets;
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
        let outrun = control_plane.registry.outrun(control_plane.now());
        if let Some(outrun) = outrun.filter(|_| asked.act != RESTORED && !asked.dry_run) {
            return Err(status_of(ChangeError::Outrun(PublishError::Outrun(outrun))));
        }
        if asked.act == RESTORED {
            let everybody = |_: &WorkloadName, _: &InstanceId| true;
            let judging = self.judge(&before, &before, everybody).await?;
            let wanted = Wanted::new(&asked, judging);
            return self
                .order(wanted, RESTORED, Vec::new(), Deed::BeginEpoch)
                .await;
        }
        if let Some(answer) = self.change_canary(&asked, &published).await {
            return answer;
        }
        let mut asked = asked;
        if asked.act == ROLLBACK {
            self.former_policy(&mut asked, &before)?;
        }
        let change = folder_change(&asked, &before.set, Path::new(&control_plane.policy_folder))?;
        let after = control_plane.load_with(&change).await.map_err(status_of)?;
        let after = Arc::new(after);
        let kept = match asked.replace {
            true => Ok(()),
            false => keeps_revocations(&asked, &before.set, &after.set, control_plane.now()),
        };
        let lost = match kept {
            Err(lost) if asked.dry_run && asked.act != ROLLBACK => lost.message().to_owned(),
            kept => kept.map(|()| String::new())?,
        };
        // A folder that is applied twice is as it should be; whoever revokes or goes back means to change something.
        if asked.act != APPLY && !asked.dry_run && after.files == before.files {
            return Err(Status::failed_precondition(
                "this changes nothing: the policy is so already",
            ));
        }
        let everybody = |_: &WorkloadName, _: &InstanceId| true;
        let judging = self.judge(&before, &after, everybody).await?;
        let names = change.names();
        let deed = Deed::Change(change, Judged::between(&before, &after));
        let mut wanted = Wanted::new(&asked, judging);
        wanted.refused = lost;
        self.order(wanted, &asked.act, names, deed).await
    }

    /// Has a deed done, unless it is only asked about or would end too much.
    pub(super) async fn order(
        &self,
        wanted: Wanted<'_>,
        act: &str,
        files: Vec<String>,
        deed: Deed,
    ) -> Result<v1::ChangeResponse, Status> {
        let control_plane = &self.control_plane;
        let Wanted {
            asked,
            mut judging,
            canary,
            mut refused,
        } = wanted;
        let limit = Limit::of(asked);
        let is_wanted = !asked.dry_run && refused.is_empty();
        match limit.patience() {
            _ if !is_wanted => judging.wait(PATIENCE).await,
            Some(patience) => judging.wait(patience).await,
            None => {}
        }
        let said = judging.said(control_plane);
        if refused.is_empty() {
            // Also of what is only asked about: whether it would be refused is a part of the answer.
            refused = limit.passed(&said).unwrap_or_default();
        }
        let mut response = v1::ChangeResponse {
            refused,
            canary,
            revision: Some(control_plane.mesh.borrow().state.revision.into()),
            ..v1::ChangeResponse::default()
        };
        if !is_wanted || !response.refused.is_empty() {
            return explained(judging, response, self).await;
        }
        let (would_drop, live, unanswered) = sums(&said);
        let act = OperatorAct {
            act: act.to_owned(),
            actor: self.actor.clone(),
            reason: asked.reason.clone(),
            files: bounded(files),
            would_drop,
            live,
            unanswered,
            max_drop: limit.to_string(),
        };
        let begun = Instant::now();
        match control_plane.order(deed, act).await {
            Ok(revision) => {
                let published = Instant::now();
                response.made = true;
                response.revision = Some(revision.into());
                response.in_force_us = micros(published - begun);
                let instances = judging.instances();
                let (mut applied, ()) = tokio::join!(
                    applied(control_plane, revision, published, instances.clone()),
                    judging.wait(PATIENCE)
                );
                let mut response = explained(judging, response, self).await?;
                for (id, sidecar) in instances.iter().zip(&mut response.sidecars) {
                    if let Some(applied) = applied.remove(id) {
                        applied.note(sidecar);
                    }
                }
                Ok(response)
            }
            Err(ChangeError::NotWritable(error)) => {
                response.refused = Chain(&error).to_string();
                response.not_writable = true;
                explained(judging, response, self).await
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
        let probe = Arc::new(v1::Probe {
            removed,
            ..v1::Probe::default()
        });
        let question = |_: &WorkloadName| Arc::clone(&probe);
        let everybody = |_: &WorkloadName, _: &InstanceId| true;
        let mut judging = self.judge_by(&state.policy, &state.policy, everybody, question);
        judging.wait(PATIENCE).await;
        let mut response = judging.explained(&self.control_plane).await?;
        response.revision = Some(state.revision.into());
        Ok(response)
    }
}

/// A change that somebody asks for, and what sidecars say of it.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    asked: &'a v1::ChangeRequest,
    judging: Judging,
    /// That it begins, ends or makes everybody's.
    pub(super) canary: Option<v1::CanaryStatus>,
    /// Why it must not be made, whatever they say; empty where nothing is in its way.
    pub(super) refused: String,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(asked: &'a v1::ChangeRequest, judging: Judging) -> Self {
        Self {
            asked,
            judging,
            canary: None,
            refused: String::new(),
        }
    }
}

/// What was decided, with all that there is to say of it.
async fn explained(
    judging: Judging,
    decided: v1::ChangeResponse,
    api: &OperatorApi,
) -> Result<v1::ChangeResponse, Status> {
    let is_made = decided.made;
    let said = judging.explained(&api.control_plane).await;
    let said = said.map_err(|status| match is_made {
        true => Status::internal(format!("the change is made, but {}", status.message())),
        false => status,
    })?;
    Ok(v1::ChangeResponse {
        live: said.live,
        would_drop: said.would_drop,
        losses: said.losses,
        difference: said.difference,
        sidecars: said.sidecars,
        ..decided
    })
}

fn status_of(error: ChangeError) -> Status {
    let text = Chain(&error).to_string();
    match error {
        ChangeError::Name(_) | ChangeError::Both(_) | ChangeError::Policy(_) => {
            Status::invalid_argument(text)
        }
        ChangeError::NotWritable(_) | ChangeError::Outrun(_) => Status::failed_precondition(text),
        ChangeError::Changed => Status::aborted(text),
        ChangeError::Ending => Status::unavailable(text),
        ChangeError::Torn(_)
        | ChangeError::Record(_)
        | ChangeError::Publish(_)
        | ChangeError::Canary(_) => Status::internal(text),
    }
}

const ACTS: [&str; 6] = [
    "revoke",
    "end_revocation",
    APPLY,
    PROMOTE,
    ROLLBACK,
    RESTORED,
];
const RESTORED: &str = "restored";
pub(super) const APPLY: &str = "apply";
pub(super) const PROMOTE: &str = "promote";
pub(super) const ROLLBACK: &str = "rollback";
