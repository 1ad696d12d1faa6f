//! The sidecar's own identity: where it comes from, how it is replaced, when it is withdrawn.
//!
//! | Module | Holds |
//! |---|---|
//! | `agenda` | what is due when |
//! | [`backoff`] | waiting between attempts, saying once what is wrong |
//! | [`connection`] | one TLS session with the control plane, and gRPC on it |
//! | [`client`] | one attestation: evidence in, certificate out |
//! | [`rotation`] | when to attest, how to bear refusal, when to deny everything |
//! | [`files`] | identity from files and policy from a folder |
//!
//! [`Identities`] is the only writer of [`State::identity`].

mod agenda;
pub mod backoff;
pub mod client;
pub mod connection;
pub mod files;
pub mod rotation;

#[cfg(test)]
pub(crate) mod test_control_plane;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};

use crate::state::{IdentityEpoch, State, Svid};
use crate::telemetry::control::{ControlMetrics, unix_seconds};

/// Renewals ahead of time: of a workload, or of all.
pub type Announced = Vec<(Option<WorkloadName>, PacedRenewal)>;

/// Publishes identity epochs: who we are and whom we believe, always together.
#[derive(Debug)]
pub struct Identities {
    state: Arc<State>,
    held: Mutex<Held>,
    has_identity: watch::Sender<bool>,
    /// Renewals ahead of time, as the mesh state announces them.
    renewals: watch::Sender<Announced>,
    metrics: Arc<ControlMetrics>,
}

#[derive(Debug, Default)]
struct Held {
    number: u64,
    svid: Option<Arc<Svid>>,
    bundle: Option<Arc<TrustBundle>>,
    /// A bundle of the mesh state is signed and ordered by revision, so it outranks the one that comes with a
    /// certificate.
    bundle_is_from_mesh_state: bool,
}

impl Identities {
    /// Nothing is published yet.
    pub fn new(state: Arc<State>, metrics: Arc<ControlMetrics>) -> Self {
        Self {
            state,
            held: Mutex::default(),
            has_identity: watch::Sender::new(false),
            renewals: watch::Sender::new(Vec::new()),
            metrics,
        }
    }

    /// Publishes a new certificate, with the bundle that came with it where the mesh state gave none yet.
    pub fn replace_svid(&self, svid: Svid, bundle: TrustBundle) {
        let mut held = self.held();
        held.svid = Some(Arc::new(svid));
        if !held.bundle_is_from_mesh_state {
            held.bundle = Some(Arc::new(bundle));
        }
        self.publish(&mut held);
    }

    /// Publishes the bundle of a mesh-state revision; an unchanged one makes no new epoch.
    pub fn replace_bundle(&self, bundle: Arc<TrustBundle>) {
        let mut held = self.held();
        held.bundle_is_from_mesh_state = true;
        let unchanged = held
            .bundle
            .as_deref()
            .is_some_and(|before| is_same(before, &bundle));
        if unchanged {
            return;
        }
        held.bundle = Some(bundle);
        self.publish(&mut held);
    }

    /// Withdraws the certificate if it has ended at `now`: everything is denied from then on. Says whether it had.
    pub fn withdraw_ended(&self, now: SystemTime) -> bool {
        let mut held = self.held();
        let ended = held.svid.as_ref().is_some_and(|svid| svid.not_after <= now);
        if ended {
            held.svid = None;
            self.publish(&mut held);
        }
        ended
    }

    /// The epoch in force.
    pub fn current(&self) -> Option<Arc<IdentityEpoch>> {
        self.state.identity.load_full()
    }

    /// What the mesh state says against an instance.
    pub(crate) fn distrusted(&self, instance: InstanceId) -> Option<InstanceTrust> {
        let policy = self.state.policy.load();
        let mut trust = policy.trust.iter();
        trust.find(|one| one.instance == instance).cloned()
    }

    /// Replaces what the mesh state says of renewals ahead of time.
    pub fn announce_renewals(&self, renewals: Announced) {
        self.renewals.send_replace(renewals);
    }

    /// Renewals ahead of time that mean instances of a workload.
    pub(crate) fn renewals(&self, workload: &WorkloadName) -> Vec<PacedRenewal> {
        let announced = self.renewals.borrow();
        let ours = announced
            .iter()
            .filter(|(scope, _)| { scope.as_ref() }.is_none_or(|scope| scope == workload));
        ours.map(|(_, paced)| *paced).collect()
    }

    /// Says whether there is an identity, now and on each change.
    pub fn has_identity(&self) -> watch::Receiver<bool> {
        self.has_identity.subscribe()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change of `Held` is a few plain assignments, so a panic elsewhere leaves nothing half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, held: &mut Held) {
        held.number += 1;
        let epoch = match (&held.svid, &held.bundle) {
            (Some(svid), Some(bundle)) => Some(Arc::new(IdentityEpoch {
                number: held.number,
                svid: Arc::clone(svid),
                bundle: Arc::clone(bundle),
            })),
            _ => None,
        };
        let exists = epoch.is_some();
        let expiry = epoch
            .as_ref()
            .map_or(0, |epoch| unix_seconds(epoch.svid.not_after));
        self.metrics.svid_expiry.set(expiry);
        self.metrics
            .identity_epoch
            .set(i64::try_from(held.number).unwrap_or(i64::MAX));
        self.state.replace_identity(epoch);
        self.has_identity.send_replace(exists);
    }
}

/// Whether two bundles believe the same authorities, in whatever order.
fn is_same(one: &TrustBundle, other: &TrustBundle) -> bool {
    let contains = |bundle: &TrustBundle, authority: &Authority| {
        bundle.authorities().iter().any(|held| {
            held.certificate() == authority.certificate()
                && held.trust_domain() == authority.trust_domain()
                && held.is_attested() == authority.is_attested()
        })
    };
    one.authorities().len() == other.authorities().len()
        && one.authorities().iter().all(|held| contains(other, held))
}
