//! A canary: a change of policy that a share of the sidecars tries, while the others stay on the policy in force.
//!
//! # Why
//! A canary is a second signed state of the mesh, with a root of its own, signed by the same key; the stream chooses
//! which of the two a sidecar is sent. So nothing at the sidecar knows of canaries, and nothing there can be talked into
//! one: it follows signed revisions in one order, as ever. Both states draw their numbers from one sequence, even ones
//! for the state in force and odd ones for the canary while there are two, so that nobody who moves from one to the other
//! ever sees a lower one, and a revision in an access log says which policy it was.
//!
//! Kept is the change and not its outcome: the canary's policy is the policy in force with that change, made again
//! whenever that is another one. So revocations, endpoints and trust reach both. A canary whose change no longer fits, or
//! would touch a revocation, ends, and everybody is on the policy in force: that is recorded.
//!
//! Who tries it is decided by the digest of the instance, so it is the same sidecars for as long as a canary runs, and
//! across restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::document::Kind;
use vouchsafe_config::set::PolicySet;

use crate::change::{self, FolderChange};
use crate::files::{self, FileError};
use crate::policy::LoadedPolicy;
use crate::telemetry::Chain;

/// Who tries a canary.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Members {
    /// Workloads that the change concerns.
    workloads: BTreeSet<WorkloadName>,
    /// Instances whose place is not above it.
    limit: u64,
}

impl Members {
    /// A share of instances, in percent and at least one of those that are connected now; nobody's where it concerns
    /// nobody.
    pub fn choose(
        percent: u32,
        workloads: BTreeSet<WorkloadName>,
        connected: &[(WorkloadName, InstanceId)],
    ) -> Self {
        let concerned = connected.iter();
        let concerned = concerned.filter(|(workload, _)| workloads.contains(workload));
        let mut places: Vec<u64> = concerned.map(|(_, instance)| place(instance)).collect();
        places.sort_unstable();
        let share = usize::try_from(percent).unwrap_or(usize::MAX);
        let wanted = places.len().saturating_mul(share) / 100;
        let limit = match places.get(wanted.max(1) - 1) {
            Some(place) => *place,
            // Those that come are a share of what is to be expected.
            None => (u64::MAX / 100).saturating_mul(percent.into()),
        };
        Self { workloads, limit }
    }

    /// Whether an instance tries it.
    pub fn includes(&self, workload: &WorkloadName, instance: &InstanceId) -> bool {
        self.concerns(workload) && place(instance) <= self.limit
    }

    /// Whether it concerns a workload.
    pub fn concerns(&self, workload: &WorkloadName) -> bool {
        self.workloads.contains(workload)
    }

    /// Workloads that it concerns.
    pub fn workloads(&self) -> &BTreeSet<WorkloadName> {
        &self.workloads
    }
}

/// Where an instance stands in the order by which sidecars are chosen.
fn place(instance: &InstanceId) -> u64 {
    let mut labelled = b"vouchsafe/v1/canary\0".to_vec();
    labelled.extend_from_slice(&instance.0);
    let [a, b, c, d, e, f, g, h, ..] = sha256(&labelled);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What is known of a canary, and kept through restarts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// What it changes.
    pub change: FolderChange,
    /// Who tries it.
    pub members: Members,
    /// The share that was asked for.
    pub percent: u32,
    /// Whose act it is.
    pub actor: String,
    /// Why, in his words.
    pub reason: String,
    /// Since when, in Unix milliseconds.
    pub started_ms: u64,
    /// Connections and streams that its sidecars said would end.
    pub would_drop: u64,
    /// Of so many live connections.
    pub live: u64,
}

/// A canary that runs.
#[derive(Clone, Debug)]
pub struct Canary {
    /// What it is.
    pub facts: Arc<Facts>,
    /// The policy that its sidecars try.
    pub policy: Arc<LoadedPolicy>,
    /// Digest of the policy in force that this was made of.
    pub(crate) made_of: [u8; 32],
}

/// Why a change is no canary.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The policy as it would be is none.
    #[error("{0}")]
    Policy(String),
    /// A revocation is everybody's at once.
    #[error(
        "it changes `{0}`: a revocation always goes to everybody, with `vouchsafe revoke` or `vouchsafe apply`"
    )]
    Revocation(String),
    /// Nothing differs.
    #[error("it is the policy that is in force")]
    Same,
}

impl Canary {
    /// The canary that a change makes of the policy in force.
    ///
    /// # Errors
    /// [`CanaryError`]: it must not run.
    pub fn new(
        facts: Arc<Facts>,
        present: &LoadedPolicy,
        folder: &Path,
        now: SystemTime,
    ) -> Result<Self, CanaryError> {
        Ok(Self {
            policy: Arc::new(tried(&facts.change, present, folder, now)?),
            facts,
            made_of: present.digest,
        })
    }
}

/// The policy in force with a change, which leaves revocations as they are.
///
/// # Errors
/// [`CanaryError`].
pub fn tried(
    change: &FolderChange,
    present: &LoadedPolicy,
    folder: &Path,
    now: SystemTime,
) -> Result<LoadedPolicy, CanaryError> {
    let files = change.on(&present.files);
    let policy = LoadedPolicy::of(folder, files, now)
        .map_err(|error| CanaryError::Policy(Chain(&error).to_string()))?;
    let same =
        |what: &str| CanaryError::Policy(format!("a canary can't change {what} of the Mesh"));
    if policy.mesh.trust_domain != present.mesh.trust_domain {
        return Err(same("`trust_domain`"));
    }
    if policy.mesh.danger_accept_simulated != present.mesh.danger_accept_simulated {
        return Err(same("`danger_accept_simulated`"));
    }
    let (held, wanted) = (revoking(&present.set), revoking(&policy.set));
    let names = held.keys().chain(wanted.keys());
    for name in names {
        if held.get(name) != wanted.get(name) {
            return Err(CanaryError::Revocation(name.clone()));
        }
    }
    match policy.digest == present.digest {
        true => Err(CanaryError::Same),
        false => Ok(policy),
    }
}

/// What revocations mean: their documents, and the Nodes that they name.
fn revoking(set: &PolicySet) -> BTreeMap<String, &str> {
    let common = set.common().filter(|one| one.kind != Kind::Mesh);
    common.map(|one| (one.title(), one.text.as_str())).collect()
}

/// Workloads whose sidecars would be told something else.
pub fn concerned(before: &PolicySet, after: &PolicySet) -> BTreeSet<WorkloadName> {
    let (old, new) = (before.slices(), after.slices());
    let names = before.workloads().chain(after.workloads());
    let names: BTreeSet<&WorkloadName> = names.map(|one| &one.name).collect();
    let differs = |workload: &&WorkloadName| {
        let (old, new) = (old.of(workload), new.of(workload));
        let same = |(one, other): (&&_, &&_)| is_same(one, other);
        old.len() != new.len() || !old.iter().zip(&new).all(same)
    };
    names.into_iter().filter(differs).cloned().collect()
}

fn is_same(one: &vouchsafe_config::set::Document, other: &vouchsafe_config::set::Document) -> bool {
    one.resource_name() == other.resource_name() && one.distributable() == other.distributable()
}

#[derive(Deserialize, Serialize)]
struct Stored {
    change: FolderChange,
    workloads: BTreeSet<String>,
    limit: u64,
    percent: u32,
    actor: String,
    reason: String,
    started_ms: u64,
    would_drop: u64,
    live: u64,
}

/// Keeps what is known of a canary.
///
/// # Errors
/// [`FileError`].
pub(crate) fn keep(data: &Path, facts: &Facts) -> Result<(), FileError> {
    let stored = Stored {
        change: facts.change.clone(),
        workloads: { facts.members.workloads.iter() }
            .map(ToString::to_string)
            .collect(),
        limit: facts.members.limit,
        percent: facts.percent,
        actor: facts.actor.clone(),
        reason: facts.reason.clone(),
        started_ms: facts.started_ms,
        would_drop: facts.would_drop,
        live: facts.live,
    };
    // Plain texts and numbers always have a JSON form.
    let text = serde_json::to_string(&stored).unwrap_or_default();
    files::write_secret(&data.join(KEPT), &text)
}

/// What is kept of a canary: `None` where none ran, the inner error where it can't be read.
///
/// # Errors
/// [`FileError`].
pub(crate) fn kept(data: &Path) -> Result<Option<Result<Facts, String>>, FileError> {
    let path = data.join(KEPT);
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read_secret(&path)?;
    let read = serde_json::from_str::<Stored>(&text).map_err(|error| error.to_string());
    Ok(Some(read.and_then(Stored::into_facts)))
}

/// Forgets a canary.
///
/// # Errors
/// [`FileError`].
pub(crate) fn forget(data: &Path) -> Result<(), FileError> {
    change::remove(&data.join(KEPT))
}

impl Stored {
    fn into_facts(self) -> Result<Facts, String> {
        let workloads = self.workloads.iter().map(|name| {
            let bad = |_| format!("`{name}` is no name of a workload");
            name.parse().map_err(bad)
        });
        Ok(Facts {
            members: Members {
                workloads: workloads.collect::<Result<_, String>>()?,
                limit: self.limit,
            },
            change: self.change,
            percent: self.percent,
            actor: self.actor,
            reason: self.reason,
            started_ms: self.started_ms,
            would_drop: self.would_drop,
            live: self.live,
        })
    }
}

const KEPT: &str = "canary.json";

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> WorkloadName {
        name.parse().unwrap()
    }

    fn connected(count: u8, name: &str) -> Vec<(WorkloadName, InstanceId)> {
        let instances = (0..count).map(|number| (workload(name), InstanceId([number; 16])));
        instances.collect()
    }

    #[track_caller]
    fn check(percent: u32, count: u8, expected: usize) {
        let mut all = connected(count, "a/api");
        let members = Members::choose(percent, [workload("a/api")].into(), &all);
        // Whom it does not concern is no part of it, whatever its place.
        all.extend(connected(count, "a/other"));
        let chosen = all.iter().filter(|(name, id)| members.includes(name, id));
        assert_eq!(chosen.count(), expected, "{percent}% of {count}");
    }

    #[test]
    fn a_share_is_rounded_down_and_at_least_one() {
        for (percent, count, expected) in [
            (10, 100, 10),
            (10, 109, 10),
            (10, 9, 1),
            (1, 1, 1),
            (50, 3, 1),
            (99, 100, 99),
        ] {
            check(percent, count, expected);
        }
    }

    #[test]
    fn where_nobody_is_connected_a_share_of_those_who_come_try_it() {
        let members = Members::choose(25, [workload("a/api")].into(), &[]);
        let all = connected(200, "a/api").into_iter();
        let chosen = all.filter(|(name, id)| members.includes(name, id)).count();
        assert!((20..90).contains(&chosen), "{chosen}");
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was_and_a_damaged_file_is_told() {
        let data = tempfile::tempdir().unwrap();
        assert!(kept(data.path()).unwrap().is_none());
        let change = FolderChange::new([("a.yaml".to_owned(), "a".to_owned())], []).unwrap();
        let facts = Facts {
            change,
            members: Members::choose(10, [workload("a/api")].into(), &connected(9, "a/api")),
            percent: 10,
            actor: "uid 7".to_owned(),
            reason: "try".to_owned(),
            started_ms: 1,
            would_drop: 2,
            live: 3,
        };
        keep(data.path(), &facts).unwrap();
        assert_eq!(kept(data.path()).unwrap(), Some(Ok(facts)));
        files::write_secret(&data.path().join(KEPT), "{").unwrap();
        assert!(matches!(kept(data.path()), Ok(Some(Err(_)))));
        forget(data.path()).unwrap();
        assert!(kept(data.path()).unwrap().is_none());
    }
}
