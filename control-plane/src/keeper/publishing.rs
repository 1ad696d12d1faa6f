//! What becomes the state in force: built from what there is, written down, signed, published.

use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_api::convert::record::Event;

use super::revision::write_revision;
use super::{Keeper, canary};
use crate::ca::{CaError, CertificateAuthority};
use crate::files::FileError;
use crate::log::LogError;
use crate::mesh::{Inputs, MeshState};
use crate::policy::LoadedPolicy;
use crate::policy_sets::{self, Whose};
use crate::registration::Registry;
use crate::registration::outrun::Outrun;
use crate::registration::places::Places;
use crate::state::ControlPlane;
use crate::store::StoreError;
use crate::telemetry::Chain;

/// Why a state could not become the one in force.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The revision can't be written down.
    #[error("failed to write the revision down")]
    Store(#[source] StoreError),
    /// It can't be signed.
    #[error("failed to sign the mesh state")]
    Sign(#[source] CaError),
    /// It can't be recorded.
    #[error("failed to record the change of policy")]
    Record(#[source] LogError),
    /// Sidecars hold what was never made here.
    #[error(
        "most of the connected sidecars ({} of {}) hold revisions up to {}, which this control plane never made, so its data folder is an older copy: nothing is put in force and no certificate is issued until `vouchsafe restored --reason ...`",
        .0.sidecars,
        .0.of,
        .0.revision
    )]
    Outrun(Outrun),
    /// What is kept of a canary can't be written.
    #[error("failed to keep or forget the canary")]
    Canary(#[source] FileError),
}

impl Keeper {
    /// Builds the state again from what changed beside policy.
    pub(super) async fn refresh(&mut self) {
        let policy = Arc::clone(&self.publish.borrow().state.policy);
        let inputs = inputs(&self.control_plane, policy);
        let published = self.publish(inputs).await;
        if let Err(error) = &published
            && !self.is_behind
        {
            tracing::error!(error = %Chain(error), "failed to publish the mesh state, will try again");
        }
        self.is_behind = published.is_err();
    }

    pub(super) async fn publish(&mut self, mut inputs: Inputs) -> Result<(), PublishError> {
        if let (None, Some(outrun)) = (
            self.epoch,
            self.control_plane.registry.outrun(self.control_plane.now()),
        ) {
            return Err(PublishError::Outrun(outrun));
        }
        self.settle_revocations(&inputs.policy.set).await?;
        if self.control_plane.ca.wants_next(self.control_plane.now()) {
            // A revocation took the one that signs.
            self.rotate().await.map_err(PublishError::Sign)?;
            inputs.bundle = self.control_plane.ca.bundle();
        }
        self.settle_canary(&inputs.policy).await?;
        let before = self.publish.borrow().clone();
        let next = match self.epoch {
            Some(epoch) => canary::Next::in_epoch(epoch, inputs, self.canary.as_ref()),
            None => canary::next_states(&before, inputs, self.canary.as_ref()),
        };
        if next.is_nothing_new(&before) {
            return Ok(());
        }
        let control_plane = &self.control_plane;
        // What peers act upon is in the store before they hear of it, so that no crash forgets it.
        if let Err(error) = control_plane.registry.settle().await {
            control_plane.metrics.store_failures.inc();
            // Where only this write fails, whoever must be cut is cut all the same.
            tracing::error!(error = %Chain(&error), "failed to write a revocation down before it is published, will try again");
        }
        write_revision(&control_plane.registry, &next.state, next.highest()).await?;
        for (was, is) in before.states().into_iter().zip(next.states()) {
            let was = was.map(|held| held.policy.digest);
            let Some(state) = is.filter(|state| was != Some(state.policy.digest)) else {
                continue;
            };
            control_plane
                .record(policy_changed(state))
                .await
                .map_err(PublishError::Record)?;
            tracing::info!(
                revision = %state.revision,
                documents = state.documents(),
                "policy changed"
            );
        }
        if before.state.has_other_bundle(&next.state) {
            tracing::info!(revision = %next.state.revision, "trust bundle changed");
        }
        let now = control_plane.now();
        let published = next.sign(Some(&before), &self.keys.mesh_state, now);
        let published = published.map_err(PublishError::Sign)?;
        let sequence = i64::try_from(next.state.revision.sequence).unwrap_or(i64::MAX);
        control_plane.metrics.revision.set(sequence);
        let beside = next.canary.as_ref();
        let beside = beside.map(|one| (one.state.revision, Arc::clone(&one.facts)));
        let registry = &control_plane.registry;
        registry.published(next.state.revision, beside, now);
        self.publish.send_replace(published);
        self.keep_policies(&before, &next).await;
        Ok(())
    }

    /// Keeps the files of a policy, for `rollback` and `explain`. Without them it is in force all the same.
    pub(crate) async fn keep_policy(&self, state: &MeshState, whose: Whose) {
        let (data, now) = (self.data.clone(), self.control_plane.now());
        let (policy, revision) = (Arc::clone(&state.policy), state.revision);
        let kept = tokio::task::spawn_blocking(move || {
            policy_sets::keep(&data, revision, whose, &policy.files, now)
        });
        if let Ok(Err(error)) = kept.await {
            tracing::error!(error = %Chain(&error), "failed to keep the policy for a rollback");
        }
    }
}

/// Where workloads are reached, by the ports that a policy declares.
pub(crate) fn places(registry: &Registry, policy: &LoadedPolicy, now: SystemTime) -> Places {
    registry.places(now, |workload, port| {
        let workload = policy.set.workload(workload);
        workload.is_some_and(|workload| workload.port(port).is_some())
    })
}

/// Has registrations and authorities know what a policy revokes of certificates: whom it names by one, and who signs none
/// any more.
pub(crate) fn obey_revocations(
    registry: &Registry,
    ca: &CertificateAuthority,
    policy: &LoadedPolicy,
    now: SystemTime,
) {
    let revocations = policy.set.revocations();
    registry.name_by(revocations.clone(), &policy.mesh.trust_domain, now);
    let revoked = revocations.flat_map(|one| one.revokes_authorities(now));
    ca.revoke(revoked.copied().collect());
}

/// What the state of the mesh is made of now.
pub(crate) fn inputs(control_plane: &ControlPlane, policy: Arc<LoadedPolicy>) -> Inputs {
    let (registry, ca) = (&control_plane.registry, &control_plane.ca);
    obey_revocations(registry, ca, &policy, control_plane.now());
    let places = places(&control_plane.registry, &policy, control_plane.now());
    let gauge = &control_plane.metrics.mesh_state.left_out;
    let left_out = i64::try_from(places.left_out).unwrap_or(i64::MAX);
    if gauge.get() != left_out && left_out > 0 {
        tracing::warn!(
            left_out,
            "a workload has more endpoints than sidecars take: the rest is left out"
        );
    }
    gauge.set(left_out);
    Inputs {
        policy,
        endpoints: places.endpoints,
        bundle: control_plane.ca.bundle(),
        trust: control_plane.registry.distrusted(control_plane.now()),
        renewals: control_plane.forced.current(control_plane.now()),
    }
}

pub(crate) fn policy_changed(state: &MeshState) -> Event {
    Event::PolicyChanged {
        revision: state.revision,
        root: state.root,
        documents: state.documents(),
    }
}
