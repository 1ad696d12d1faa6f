//! A canary, as an operator asks for it: begun, shown, made everybody's, or ended.

use std::path::Path;
use std::sync::Arc;

use tonic::Status;
use vouchsafe_api::convert::unix_ms;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;

use super::OperatorApi;
use super::change::{APPLY, PROMOTE, ROLLBACK, Wanted};
use super::folder::{folder_change, keeps_revocations};
use super::judging::sums;
use super::limit::PATIENCE;
use crate::canary::{self, Facts, Members};
use crate::change::bounded;
use crate::keeper::change::Deed;
use crate::mesh::frame::{Published, PublishedCanary};
use crate::policy::LoadedPolicy;
use crate::registration::{Instance, Session};
use crate::telemetry::Chain;

impl OperatorApi {
    /// What is to be said of a change that is about a canary; `None` for all others.
    pub(super) async fn change_canary(
        &self,
        asked: &v1::ChangeRequest,
        published: &Published,
    ) -> Option<Result<v1::ChangeResponse, Status>> {
        let present = &published.state.policy;
        let names_one = asked
            .rollback_to
            .is_some_and(|to| Revision::from(to) != Revision::default());
        match (asked.act.as_str(), published.canary.as_deref()) {
            (APPLY, None) if asked.canary_percent > 0 => {
                Some(self.begin_canary(asked, present).await)
            }
            (PROMOTE, None) => Some(Err(Status::failed_precondition(
                "no canary is running: `vouchsafe apply --canary 10%` begins one",
            ))),
            (PROMOTE, Some(canary)) => Some(self.promote(asked, present, canary).await),
            (ROLLBACK, Some(canary)) if !names_one => {
                Some(self.end_canary(asked, present, canary).await)
            }
            (APPLY | ROLLBACK, Some(canary)) => Some(Err(Status::failed_precondition(format!(
                "a canary is running, since {} by {}: `vouchsafe promote` makes it everybody's, `vouchsafe rollback` ends it",
                canary.published.state.revision, canary.facts.actor
            )))),
            _ => None,
        }
    }

    async fn begin_canary(
        &self,
        asked: &v1::ChangeRequest,
        present: &Arc<LoadedPolicy>,
    ) -> Result<v1::ChangeResponse, Status> {
        if !(1..100).contains(&asked.canary_percent) {
            return Err(Status::invalid_argument(
                "a canary is of 1 to 99 percent of the sidecars that it concerns",
            ));
        }
        let control_plane = &self.control_plane;
        let folder = Path::new(&control_plane.policy_folder);
        let change = folder_change(asked, &present.set, folder)?.left_on(&present.files);
        let now = control_plane.now();
        let (owned, shared, whole) = (folder.to_owned(), Arc::clone(present), change.clone());
        let tried =
            tokio::task::spawn_blocking(move || canary::tried(&whole, &shared, &owned, now)).await;
        let tried = tried
            .map_err(|_| Status::internal("judging the policy was interrupted"))?
            .map_err(|error| Status::invalid_argument(Chain(&error).to_string()))?;
        if !asked.replace && !asked.dry_run {
            keeps_revocations(asked, &present.set, &tried.set, now)?;
        }
        let workloads = canary::concerned(&present.set, &tried.set);
        if workloads.is_empty() {
            return Err(Status::failed_precondition(
                "no sidecar would be told anything else: the control plane judges what this changes, so apply it without `--canary`",
            ));
        }
        let connected: Vec<(WorkloadName, InstanceId)> = { self.connected().into_iter() }
            .map(|(instance, _)| (instance.workload, instance.id))
            .collect();
        let members = Members::choose(asked.canary_percent, workloads, &connected);
        if !(connected.iter()).any(|(workload, _)| members.concerns(workload)) {
            return Err(Status::failed_precondition(
                "no sidecar that this concerns is connected, so nobody would try it: apply it without `--canary`, or wait for one (`vouchsafe status`)",
            ));
        }
        let tries = |workload: &WorkloadName, id: &InstanceId| members.includes(workload, id);
        let mut judging = self.judge(present, &Arc::new(tried), tries).await?;
        judging.wait(PATIENCE).await;
        let (would_drop, live, _) = sums(&judging.said(control_plane));
        let facts = Facts {
            change,
            members,
            percent: asked.canary_percent,
            actor: self.actor.clone(),
            reason: asked.reason.clone(),
            started_ms: unix_ms(now),
            would_drop,
            live,
        };
        let mut wanted = Wanted::new(asked, judging);
        wanted.canary = Some(self.canary_of(&facts, Revision::default()));
        let act = format!("canary {}%", asked.canary_percent);
        let names = facts.change.names();
        let deed = Deed::Canary(Box::new(facts));
        self.order(wanted, &act, names, deed).await
    }

    async fn promote(
        &self,
        asked: &v1::ChangeRequest,
        present: &Arc<LoadedPolicy>,
        canary: &PublishedCanary,
    ) -> Result<v1::ChangeResponse, Status> {
        let tried = &canary.published.state.policy;
        if !asked.replace && !asked.dry_run {
            let now = self.control_plane.now();
            keeps_revocations(asked, &present.set, &tried.set, now)?;
        }
        let everybody = |_: &WorkloadName, _: &InstanceId| true;
        let mut wanted = Wanted::new(asked, self.judge(present, tried, everybody).await?);
        wanted.canary = Some(self.canary(canary));
        if !asked.force {
            wanted.refused = self.doubt(canary).unwrap_or_default();
        }
        let names = canary.facts.change.names();
        self.order(wanted, PROMOTE, names, Deed::Promote).await
    }

    async fn end_canary(
        &self,
        asked: &v1::ChangeRequest,
        present: &Arc<LoadedPolicy>,
        canary: &PublishedCanary,
    ) -> Result<v1::ChangeResponse, Status> {
        let tried = &canary.published.state.policy;
        let members = &canary.facts.members;
        let tries = |workload: &WorkloadName, id: &InstanceId| members.includes(workload, id);
        let mut wanted = Wanted::new(asked, self.judge(tried, present, tries).await?);
        wanted.canary = Some(self.canary(canary));
        let names = canary.facts.change.names();
        let act = "rollback of a canary";
        self.order(wanted, act, names, Deed::EndCanary).await
    }

    /// Why a canary has not shown that everybody can have it.
    fn doubt(&self, canary: &PublishedCanary) -> Option<String> {
        let revision = canary.published.state.revision;
        let tries = self.trying(&canary.facts);
        let refused = tries.iter().find_map(|(instance, session)| {
            let error = session.error.as_ref()?;
            Some((instance, error))
        });
        if let Some((instance, error)) = refused {
            return Some(format!(
                "sidecar {} of {} can't apply the canary: {error} (`--force` makes it everybody's all the same)",
                instance.id, instance.workload
            ));
        }
        let waiting = tries
            .iter()
            .filter(|(_, session)| session.applied < revision);
        match (tries.len(), waiting.count()) {
            (0, _) => Some(
                "no sidecar that tries it is connected (`--force` makes it everybody's all the same)"
                    .to_owned(),
            ),
            (_, 0) => None,
            (all, waiting) => Some(format!(
                "{waiting} of the {all} sidecars that try it have not applied it yet (`--force` makes it everybody's all the same)"
            )),
        }
    }

    /// A canary for `status`.
    pub(super) fn canary(&self, canary: &PublishedCanary) -> v1::CanaryStatus {
        self.canary_of(&canary.facts, canary.published.state.revision)
    }

    fn canary_of(&self, facts: &Facts, revision: Revision) -> v1::CanaryStatus {
        let tries = self.trying(facts);
        let count = |test: fn(&Session, Revision) -> bool| {
            let found = tries.iter().filter(|(_, session)| test(session, revision));
            found.count() as u64
        };
        let concerned = self.connected().into_iter();
        let concerned = concerned.filter(|(one, _)| facts.members.concerns(&one.workload));
        let runs = revision != Revision::default();
        let since = tries.iter().map(|(_, session)| session.since_canary());
        let (denied, ended) = since.fold((0_u64, 0_u64), |all, one| {
            (all.0.saturating_add(one.0), all.1.saturating_add(one.1))
        });
        v1::CanaryStatus {
            revision: Some(revision.into()),
            percent: facts.percent,
            sidecars: tries.len() as u64,
            of: concerned.count() as u64,
            started_ms: facts.started_ms,
            actor: facts.actor.clone(),
            reason: facts.reason.clone(),
            files: bounded(facts.change.names()),
            workloads: { facts.members.workloads().iter() }
                .map(ToString::to_string)
                .collect(),
            would_drop: facts.would_drop,
            live: facts.live,
            denied: if runs { denied } else { 0 },
            ended: if runs { ended } else { 0 },
            applied: match runs {
                true => count(|session, revision| session.applied >= revision),
                false => 0,
            },
            refused: match runs {
                true => count(|session, _| session.error.is_some()),
                false => 0,
            },
        }
    }

    /// Connected sidecars that try a canary.
    fn trying(&self, facts: &Facts) -> Vec<(Instance, Session)> {
        let mut connected = self.connected();
        connected.retain(|(one, _)| facts.members.includes(&one.workload, &one.id));
        connected
    }

    fn connected(&self) -> Vec<(Instance, Session)> {
        let now = self.control_plane.now();
        let mut instances = self.control_plane.registry.instances(now);
        instances.retain(|(_, session)| session.streams > 0);
        instances
    }
}
