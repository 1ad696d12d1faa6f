//! What a change would end, as sidecars say: they hold the connections, and judge the policy as it would be with the
//! function by which they will judge it.
//!
//! What a sidecar says is not believed beyond what one can have. What takes long with many rules (which documents differ
//! for whom, what the difference means, who depends on whom) is worked out on threads that may block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::Status;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_config::reason::diff::diff;
use vouchsafe_config::set::{Document, PolicySet};
use vouchsafe_config::slice::Slices;

use super::OperatorApi;
use super::losses::losses;
use crate::mesh::probes::{Asked, SidecarReport};
use crate::policy::LoadedPolicy;
use crate::state::ControlPlane;

/// A change about which connected sidecars are asked.
#[derive(Debug)]
pub(super) struct Judging {
    before: Arc<LoadedPolicy>,
    after: Arc<LoadedPolicy>,
    asked: Asked,
    /// When.
    begun: Instant,
}

/// What one sidecar says, in numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Said {
    /// Whose name it bears.
    pub(super) workload: String,
    /// Connections and streams that would end, and how many connections it has; or why it has not said.
    pub(super) ends: Result<(u64, u64), String>,
    /// Of one that has not: how many connections it had when it said so last.
    pub(super) had: Option<u64>,
}

impl Said {
    fn of(report: &SidecarReport, control_plane: &ControlPlane) -> Self {
        let ends = match &report.report {
            Err(unanswered) => Err(unanswered.to_string()),
            Ok(said) => match &said.error {
                Some(error) => Err(error.clone()),
                None => Ok((said.total.min(MOST_OF_ONE), said.live.min(MOST_OF_ONE))),
            },
        };
        let had = match ends {
            Ok(_) => None,
            Err(_) => control_plane.registry.had_open(&report.instance),
        };
        Self {
            workload: report.workload.to_string(),
            ends,
            had: had.map(|had| had.min(MOST_OF_ONE)),
        }
    }
}

impl OperatorApi {
    /// Asks connected sidecars what would fall. Nobody has answered when it returns.
    pub(super) async fn judge(
        &self,
        before: &Arc<LoadedPolicy>,
        after: &Arc<LoadedPolicy>,
        whom: impl Fn(&WorkloadName, &InstanceId) -> bool,
    ) -> Result<Judging, Status> {
        let (old, new) = (Arc::clone(before), Arc::clone(after));
        let connected = self.control_plane.probes.workloads(&whom);
        let questions =
            tokio::task::spawn_blocking(move || Questions::new(&old.set, &new.set, connected));
        let questions = questions.await.map_err(|_| interrupted())?;
        let question = |workload: &WorkloadName| questions.of(workload);
        Ok(self.judge_by(before, after, whom, question))
    }

    /// The same by questions of another sort.
    pub(super) fn judge_by(
        &self,
        before: &Arc<LoadedPolicy>,
        after: &Arc<LoadedPolicy>,
        whom: impl Fn(&WorkloadName, &InstanceId) -> bool,
        question: impl FnMut(&WorkloadName) -> Arc<v1::Probe>,
    ) -> Judging {
        Judging {
            before: Arc::clone(before),
            after: Arc::clone(after),
            asked: self.control_plane.probes.ask(whom, question),
            begun: Instant::now(),
        }
    }
}

impl Judging {
    /// Waits until all sidecars have answered, but no longer than `patience` after they were asked.
    pub(super) async fn wait(&mut self, patience: Duration) {
        self.asked.wait(self.begun + patience).await;
    }

    /// What has been said so far.
    pub(super) fn said(&self, control_plane: &ControlPlane) -> Vec<Said> {
        let reports = self.asked.reports();
        reports.map(|one| Said::of(one, control_plane)).collect()
    }

    /// Who was asked.
    pub(super) fn instances(&self) -> Vec<InstanceId> {
        self.asked.reports().map(|one| one.instance).collect()
    }

    /// All that there is to say of the change.
    pub(super) async fn explained(
        self,
        control_plane: &ControlPlane,
    ) -> Result<v1::ChangeResponse, Status> {
        let now = control_plane.now();
        let living = control_plane.registry.living(now);
        let (before, after) = (self.before, self.after);
        let reports = self.asked.into_reports();
        let response =
            tokio::task::spawn_blocking(move || response(&before, &after, &living, &reports, now));
        response.await.map_err(|_| interrupted())
    }
}

/// Numbers of what was said: connections and streams that end, live connections, and sidecars that have not said.
pub(super) fn sums(said: &[Said]) -> (u64, u64, u64) {
    let sums = said.iter().map(|one| match one.ends {
        Ok((ends, live)) => (ends, live, 0),
        Err(_) => (0, 0, 1),
    });
    sums.fold((0_u64, 0_u64, 0_u64), |all, one| {
        (
            all.0.saturating_add(one.0),
            all.1.saturating_add(one.1),
            all.2.saturating_add(one.2),
        )
    })
}

fn interrupted() -> Status {
    Status::internal("working out what the change means was interrupted")
}

fn response(
    before: &LoadedPolicy,
    after: &LoadedPolicy,
    living: &[(InstanceId, WorkloadName)],
    reports: &[SidecarReport],
    now: SystemTime,
) -> v1::ChangeResponse {
    let difference = diff(&before.set, &after.set, now);
    let sidecars: Vec<v1::SidecarChange> = reports.iter().map(sidecar_change).collect();
    let sum = |of: fn(&v1::SidecarChange) -> u64| {
        let each = sidecars.iter().map(of);
        each.fold(0, u64::saturating_add)
    };
    v1::ChangeResponse {
        live: sum(|one| one.live),
        would_drop: sum(|one| one.total),
        losses: losses(&before.set, &after.set, living, reports, now),
        difference: Some(v1::Difference {
            changes: difference.in_words(),
            may_widen: difference.may_widen(),
        }),
        sidecars,
        ..v1::ChangeResponse::default()
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

/// What changes for each workload's sidecars.
#[derive(Debug)]
struct Questions {
    /// For those who are not named: what changes for everybody.
    common: Arc<v1::Probe>,
    own: BTreeMap<WorkloadName, Arc<v1::Probe>>,
}

impl Questions {
    fn new(before: &PolicySet, after: &PolicySet, connected: BTreeSet<WorkloadName>) -> Self {
        let (old, new) = (texts(before.common()), texts(after.common()));
        let common = Arc::new(probe(&old, &new));
        // A revocation changes the same for everybody: what concerns each needs not be worked out.
        let changed = differing(before, after);
        if { changed.iter() }.all(|name| old.contains_key(name) || new.contains_key(name)) {
            let own = BTreeMap::new();
            return Self { common, own };
        }
        let (before, after) = (before.slices(), after.slices());
        let of = |slices: &Slices<'_>, name: &WorkloadName| texts(slices.of(name).into_iter());
        let own = connected.into_iter().map(|workload| {
            let probe = probe(&of(&before, &workload), &of(&after, &workload));
            (workload, Arc::new(probe))
        });
        Self {
            own: own.collect(),
            common,
        }
    }

    fn of(&self, workload: &WorkloadName) -> Arc<v1::Probe> {
        Arc::clone(self.own.get(workload).unwrap_or(&self.common))
    }
}

fn texts<'d>(documents: impl Iterator<Item = &'d Document>) -> BTreeMap<String, String> {
    let named = documents.map(|one| (one.resource_name(), one.distributable()));
    named.collect()
}

/// Names of the documents of which one policy has another text than the other, or none.
fn differing(before: &PolicySet, after: &PolicySet) -> BTreeSet<String> {
    let all = |set: &PolicySet| -> BTreeSet<(String, String)> {
        let documents = set.documents().iter();
        documents
            .map(|one| (one.resource_name(), one.distributable()))
            .collect()
    };
    let (old, new) = (all(before), all(after));
    let differing = old.symmetric_difference(&new);
    differing.map(|(name, _)| name.clone()).collect()
}

fn probe(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> v1::Probe {
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

/// More than one sidecar holds; who says more is not believed.
pub(super) const MOST_OF_ONE: u64 = 100_000;

#[cfg(test)]
mod tests {
    use vouchsafe_config::set::Options;
    use vouchsafe_config::source::Source;

    use super::*;

    const POLICY: &str = "\
apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {name: m}
spec: {trust_domain: factory.example, danger_accept_simulated: true}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: soft, namespace: a}
spec: {any_of: [{simulated: {images: [{name: dev}]}}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: n, namespace: a}
spec: {hardware: {simulated_machine: n}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: one, namespace: a}
spec: {profile: soft, members: {nodes: [n]}, ports: [{name: http, port: 8000, protocol: http}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: two, namespace: a}
spec: {profile: soft, members: {nodes: [n]}, ports: [{name: http, port: 8000, protocol: http}]}
";

    fn set(more: &str) -> PolicySet {
        let source = Source::new("p.yaml", format!("{POLICY}{more}"));
        let set = PolicySet::parse(vec![source], Options::default());
        set.unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[track_caller]
    fn check(before: &str, after: &str, workload: &str, is_common: bool) -> Vec<String> {
        let (before, after) = (set(before), set(after));
        let name: WorkloadName = workload.parse().unwrap();
        let questions = Questions::new(&before, &after, BTreeSet::from([name.clone()]));
        assert_eq!(questions.own.is_empty(), is_common);
        let found = questions.of(&name);
        // Whichever way it was worked out, it is what differs between the slices.
        let (old, new) = (before.slices(), after.slices());
        let slice = |slices: &Slices<'_>| texts(slices.of(&name).into_iter());
        assert_eq!(*found, probe(&slice(&old), &slice(&new)));
        let changed = found.resources.iter().map(|one| one.name.clone());
        changed.chain(found.removed.iter().cloned()).collect()
    }

    #[test]
    fn everybody_is_asked_the_same_of_a_revocation_and_each_its_own_of_a_rule() {
        let revocation = "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {name: r, namespace: a}\nspec: {match: {node: [n]}, action: cut, reason: stolen}\n";
        // With the machine that it names.
        assert_eq!(check("", revocation, "a/one", true).len(), 2);
        assert_eq!(check(revocation, "", "a/two", true).len(), 2);
        let rule = "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p, namespace: a}\nspec: {to: {workload: one, port: http}, from: [{workload: two}], allow: any}\n";
        assert_eq!(check("", rule, "a/one", false).len(), 1);
        let both = format!("{revocation}{rule}");
        assert_eq!(check("", &both, "a/two", false).len(), 4);
    }
}
