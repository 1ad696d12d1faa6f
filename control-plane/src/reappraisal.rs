//! Live results judged again: when a profile changes, a machine leaves its workload, or a vendor says something new.
//!
//! Each instance keeps under which terms it was judged last ([`terms`]: profile, members, roots of TPMs) and which editions
//! of vendors' statements its result rests on. Where either is no longer what is in force, the evidence of its
//! certificate is taken from the archive and judged by the very function that judged it first, as of now. One that fails
//! is revoked, with the check that failed. This follows from what is stored, so a restart in between loses nothing.
//!
//! What archived evidence can't answer revokes nobody: a PCR that was not quoted, a list of files that was judged in
//! parts by other rules, a vendor that is silent, files that made room. The next proof is judged by the new terms anyway:
//! within `reattest.root`, and of a TPM's log within `reattest.tpm_log`.
//!
//! One instance is judged at a time, on a thread that may block, and as long as it took nothing is judged: so thousands
//! of them leave half of one core to those who attest.
//!
//! Source: DESIGN §7; promise 5.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::Withdrawn;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::document::Kind;
use vouchsafe_config::node::NodeHardware;
use vouchsafe_config::workload::Members;

use crate::case::Case;
use crate::issuance::membership;
use crate::mesh::MeshState;
use crate::refusal::{Blame, Refused};
use crate::registration::Instance;
use crate::standing::acts::Cause;
use crate::state::{ControlPlane, stopped};

/// Vendors' statements that a result rests on, by name, with the digest of the edition.
pub type Editions = Vec<(String, [u8; 32])>;

/// What came of judging one instance again.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Verdict {
    Good,
    /// It can't be told from what was kept.
    Open(String),
    Bad(&'static str, String),
}

/// Digest of all in a state by which instances of a workload are judged; `None` for a workload that is gone.
pub fn terms(state: &MeshState, workload: &WorkloadName) -> Option<[u8; 32]> {
    Terms::default().of(state, workload)
}

/// Digests of the terms of one policy, each made once: the documents of a policy may be thousands, and so may workloads.
#[derive(Debug, Default)]
struct Terms {
    policy: Option<[u8; 32]>,
    /// Texts of profiles.
    profiles: HashMap<WorkloadName, String>,
    made: HashMap<WorkloadName, Option<[u8; 32]>>,
}

impl Terms {
    fn of(&mut self, state: &MeshState, workload: &WorkloadName) -> Option<[u8; 32]> {
        let policy = state.policy.digest;
        if self.policy != Some(policy) {
            *self = Self {
                policy: Some(policy),
                profiles: texts_of_profiles(state),
                made: HashMap::new(),
            };
        }
        if let Some(made) = self.made.get(workload) {
            return *made;
        }
        let made = digest(state, workload, &self.profiles);
        self.made.insert(workload.clone(), made);
        made
    }
}

fn texts_of_profiles(state: &MeshState) -> HashMap<WorkloadName, String> {
    let documents = state.policy.set.documents().iter();
    let profiles = documents.filter(|document| document.kind == Kind::AttestationProfile);
    let named = profiles.filter_map(|document| {
        let name = WorkloadName {
            namespace: document.namespace.clone()?,
            name: document.name.clone(),
        };
        Some((name, document.text.clone()))
    });
    named.collect()
}

fn digest(
    state: &MeshState,
    workload: &WorkloadName,
    profiles: &HashMap<WorkloadName, String>,
) -> Option<[u8; 32]> {
    let set = &state.policy.set;
    let workload = set.workload(workload)?;
    let profile = &workload.profile;
    let mut all = profiles.get(profile).cloned().unwrap_or_default();
    all.push_str(&format!("\n{profile}\n{:?}", workload.members));
    if let Members::Nodes(nodes) = &workload.members {
        for node in nodes {
            let hardware = set.node(node).map(|node| &node.hardware);
            all.push_str(&format!("\n{node} {hardware:?}"));
        }
    }
    all.push_str(&format!("\n{:?}", state.policy.mesh.ek_roots));
    Some(sha256(all.as_bytes()))
}

/// Editions that a case was judged with.
pub fn editions(case: &Case) -> Editions {
    let endorsements = case.endorsements.iter();
    endorsements
        .map(|(name, bytes)| (name.clone(), sha256(bytes)))
        .collect()
}

/// Judges live results again whenever something changes, until the control plane stops.
pub async fn keep_judging(control_plane: Arc<ControlPlane>, mut shutdown: watch::Receiver<bool>) {
    let mut mesh = control_plane.mesh.clone();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut policy, mut terms) = (None, Terms::default());
    loop {
        tokio::select! {
            () = stopped(&mut shutdown) => return,
            changed = mesh.changed() => {
                if changed.is_err() {
                    return;
                }
                // Heartbeats and endpoints change nothing here.
                let now = Some(mesh.borrow_and_update().state.policy.digest);
                if std::mem::replace(&mut policy, now) == now {
                    continue;
                }
            }
            _ = ticks.tick() => {}
        }
        let round = Round::new(&control_plane, &mut terms);
        round.run(&mut shutdown).await;
    }
}

/// One look at all live instances.
struct Round<'c> {
    control_plane: &'c Arc<ControlPlane>,
    state: Arc<MeshState>,
    terms: &'c mut Terms,
    /// Editions of vendors' statements that are held.
    held: HashMap<String, [u8; 32]>,
}

impl<'c> Round<'c> {
    fn new(control_plane: &'c Arc<ControlPlane>, terms: &'c mut Terms) -> Self {
        Self {
            control_plane,
            state: Arc::clone(&control_plane.mesh.borrow().state),
            terms,
            held: HashMap::new(),
        }
    }

    /// Ends early between two instances: what follows from a judgement that was made is done.
    async fn run(mut self, shutdown: &mut watch::Receiver<bool>) {
        let due = self.due();
        if due.is_empty() {
            return;
        }
        let all = due.len();
        tracing::info!(instances = all, revision = %self.state.revision, "judging live results again");
        let (mut revoked, mut open) = (0_usize, 0_usize);
        for (number, id) in due.into_iter().enumerate() {
            let began = Instant::now();
            match self.judge(&id).await {
                Verdict::Good => {}
                Verdict::Open(why) => {
                    open += 1;
                    tracing::debug!(instance = %id, why, "a result can't be judged from what was kept");
                }
                Verdict::Bad(..) => revoked += 1,
            }
            if number > 0 && number % PROGRESS == 0 {
                tracing::info!(
                    judged = number,
                    of = all,
                    revoked,
                    "judging live results again"
                );
            }
            let rest = began.elapsed().min(LONGEST_REST);
            if { tokio::time::timeout(rest, stopped(shutdown)).await }.is_ok() {
                return;
            }
        }
        tracing::info!(
            judged = all,
            revoked,
            open,
            "live results were judged again"
        );
    }

    /// Instances whose terms or endorsements are no longer those that are in force.
    fn due(&mut self) -> Vec<InstanceId> {
        let control_plane = self.control_plane;
        let (registry, now) = (&control_plane.registry, control_plane.now());
        let rests_on_vendors = |instance: &Instance| !instance.rests_on.is_empty();
        if !registry.select(now, rests_on_vendors).is_empty() {
            self.held = control_plane.endorsements.editions();
        }
        registry.select(now, |instance| {
            let is_revoked = { instance.withdrawn.as_ref() }
                .is_some_and(|withdrawal| withdrawal.state == Withdrawn::Revoked);
            let never_kept = instance.certificate_evidence == [0; 32];
            !is_revoked && !never_kept && (self.terms_changed(instance) || self.edited(instance))
        })
    }

    fn terms_changed(&mut self, instance: &Instance) -> bool {
        let now = self.terms.of(&self.state, &instance.workload);
        // Without its workload nobody may talk to it anyway.
        now.is_some_and(|now| now != instance.judged_by)
    }

    fn edited(&self, instance: &Instance) -> bool {
        has_newer(&instance.rests_on, &self.held)
    }

    /// Judges one, and revokes it where it fails.
    async fn judge(&mut self, id: &InstanceId) -> Verdict {
        let control_plane = self.control_plane;
        let registry = &control_plane.registry;
        let Some(instance) = registry.instance(id) else {
            return Verdict::Good;
        };
        let Some(terms) = self.terms.of(&self.state, &instance.workload) else {
            return Verdict::Good;
        };
        let rests_on = self.newest(&instance);
        let (shared, state) = (Arc::clone(control_plane), Arc::clone(&self.state));
        let asked = instance.clone();
        let judged = tokio::task::spawn_blocking(move || judge(&shared, &state, &asked)).await;
        let verdict = judged.unwrap_or_else(|error| Verdict::Open(error.to_string()));
        // A renewal that came meanwhile was judged by what is in force.
        let evidence = instance.certificate_evidence;
        let is_same = |held: &Instance| held.certificate_evidence == evidence;
        let now = control_plane.now();
        if let Verdict::Bad(reason, detail) = &verdict
            && let Some(instance) = registry.revoke(id, reason, now, is_same).await
        {
            let cause = Cause {
                reason,
                detail: format!("judged again by revision {}: {detail}", self.state.revision),
                evidence_sha256: evidence,
                difference: Vec::new(),
            };
            control_plane.revoked(&instance, cause).await;
        }
        // Last: whoever is stopped before has judged nothing, and judges it again at the next start.
        registry.judged(id, &evidence, terms, rests_on);
        verdict
    }

    fn newest(&self, instance: &Instance) -> Editions {
        let newest = |(name, digest): &(String, [u8; 32])| {
            (name.clone(), *self.held.get(name).unwrap_or(digest))
        };
        instance.rests_on.iter().map(newest).collect()
    }
}

/// Whether another edition is held of something that a result rests on. What is not held any more is not another one.
fn has_newer(rests_on: &Editions, held: &HashMap<String, [u8; 32]>) -> bool {
    let mut rests_on = rests_on.iter();
    rests_on.any(|(name, digest)| held.get(name).is_some_and(|held| held != digest))
}

/// The evidence of a certificate, by the terms and endorsements of now.
fn judge(control_plane: &ControlPlane, state: &MeshState, instance: &Instance) -> Verdict {
    let set = &state.policy.set;
    let workload = set.workload(&instance.workload);
    let profile = workload.and_then(|workload| set.profile(&workload.profile));
    let (Some(workload), Some(profile)) = (workload, profile) else {
        return Verdict::Open("its workload has no profile".to_owned());
    };
    let archive = &control_plane.archive;
    let recalled = archive.recall(
        &instance.certificate_evidence,
        profile,
        &control_plane.roots,
    );
    let mut case = match recalled {
        Ok(Ok(case)) => case,
        Ok(Err(refused)) => return of(refused),
        Err(error) => return Verdict::Open(error.to_string()),
    };
    case.time = control_plane.now();
    for (name, bytes) in &mut case.endorsements {
        if let Some(newest) = control_plane.endorsements.newest(name) {
            *bytes = newest;
        }
    }
    let fitting = match case.judge(profile) {
        Ok(fitting) => fitting,
        Err(refused) => return of(refused),
    };
    let mut hardware = NodeHardware::of(fitting.appraised.devices());
    hardware.simulated_machine = case.simulated_machine().map(str::to_owned);
    let registry = &control_plane.registry;
    let member = membership(
        workload,
        &hardware,
        None,
        |name| set.node(name),
        |token| registry.pinned(token),
        case.time,
    );
    match member {
        Ok(_) => Verdict::Good,
        Err(refused) => Verdict::Bad(refused.reason, refused.detail),
    }
}

fn of(refused: Refused) -> Verdict {
    match refused.blame {
        Blame::Evidence if !NEEDS_FRESH.contains(&refused.reason) => {
            Verdict::Bad(refused.reason, refused.detail)
        }
        Blame::Evidence | Blame::Request | Blame::Ours => {
            Verdict::Open(format!("{}: {}", refused.reason, refused.detail))
        }
    }
}

/// Checks that fail where terms ask for what was not asked then: fresh evidence has the answer.
const NEEDS_FRESH: [&str; 3] = ["pcr_selection", "ima_checkpoint", "ima_log"];
/// How long a vendor's new statement may wait; policy is looked at when it changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// A line of progress for each so many.
const PROGRESS: usize = 500;
/// A machine with eight GPUs takes tens of milliseconds.
const LONGEST_REST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_judged_again_when_an_edition_that_it_rests_on_is_replaced() {
        let rests_on: Editions = vec![("crl".into(), [1; 32]), ("chain".into(), [2; 32])];
        let held = |editions: &[(&str, u8)]| -> HashMap<String, [u8; 32]> {
            let editions = editions.iter();
            editions
                .map(|(name, byte)| ((*name).to_owned(), [*byte; 32]))
                .collect()
        };
        assert!(!has_newer(
            &rests_on,
            &held(&[("crl", 1), ("chain", 2), ("other", 3)])
        ));
        assert!(has_newer(&rests_on, &held(&[("crl", 9), ("chain", 2)])));
        assert!(!has_newer(&rests_on, &held(&[])));
        assert!(!has_newer(&Editions::new(), &held(&[("crl", 9)])));
    }

    #[test]
    fn only_evidence_that_is_bad_revokes() {
        let refused = |reason| Refused::new(reason, "remedy", "detail");
        let bad = Verdict::Bad("image", "detail".to_owned());
        assert_eq!(of(refused("image").of_evidence()), bad);
        for open in [
            refused("endorsement_expired").ours(),
            refused("enroll_again"),
            refused("ima_checkpoint").of_evidence(),
            refused("pcr_selection").of_evidence(),
        ] {
            assert!(matches!(of(open), Verdict::Open(_)));
        }
    }
}
