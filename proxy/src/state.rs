//! What the data path reads and the control side replaces.
//!
//! The control side (one runtime) builds whole new values; workers load the current one per connection or request. A
//! worker never waits for the control side, and nothing here is ever half replaced.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::trust_bundle::TrustBundle;
use vouchsafe_config::policy::Policy;

/// An X.509-SVID with its private key.
#[derive(Debug)]
pub struct Svid {
    /// Chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// End of the leaf.
    pub not_after: SystemTime,
}

/// One identity epoch: everything that a handshake needs, built once per SVID or bundle change.
#[derive(Debug)]
pub struct IdentityEpoch {
    /// Grows with each change; lane connections are keyed by it.
    pub number: u64,
    /// Who we are.
    pub svid: Arc<Svid>,
    /// Whom we believe.
    pub bundle: Arc<TrustBundle>,
}

/// Policy in force.
#[derive(Clone, Debug, Default)]
pub struct PolicyEpoch {
    /// Revision; zero where policy comes from a folder.
    pub revision: Revision,
    /// Compiled; the same one for as long as no document changes.
    pub policy: Arc<Policy>,
    /// Where the workloads that we may call are reached: `host:port` of listeners, and the ports behind each.
    pub endpoints: Vec<WorkloadEndpoints>,
    /// Instances that must not be believed although their certificates have not ended.
    pub trust: Vec<InstanceTrust>,
    /// Nothing was heard from the control plane for too long: everything is denied, whatever the policy says.
    pub is_stale: bool,
}

/// Where one workload is reached.
#[derive(Clone, Debug)]
pub struct WorkloadEndpoints {
    /// The workload.
    pub workload: WorkloadName,
    /// (`host:port`, names of ports).
    pub listeners: Vec<(String, Vec<String>)>,
}

/// Shared by all threads.
#[derive(Debug, Default)]
pub struct State {
    /// `None` until the first SVID, and again when it ended without a successor: everything is denied. Replaced by
    /// [`State::replace_identity`].
    pub identity: ArcSwapOption<IdentityEpoch>,
    /// Empty at first: denies everything. Replaced by [`State::replace_policy`].
    pub policy: ArcSwap<PolicyEpoch>,
    /// Told of each change: workers then judge again what is live. No change is missed while a worker is busy.
    pub(crate) changed: watch::Sender<()>,
}

impl State {
    /// Puts a policy in force, for what is new and for what is live.
    pub fn replace_policy(&self, policy: PolicyEpoch) {
        let policy = Arc::new(policy);
        let before = self.policy.swap(Arc::clone(&policy));
        // Where workloads are, or another revision's number, changes nothing for what is live.
        if !Arc::ptr_eq(&before.policy, &policy.policy)
            || before.trust != policy.trust
            || before.is_stale != policy.is_stale
        {
            self.changed.send_replace(());
        }
    }

    /// Says whether the policy in force is too old to decide by. Whether that is news.
    pub fn set_stale(&self, is_stale: bool) -> bool {
        let held = self.policy.load_full();
        let is_news = held.is_stale != is_stale;
        if is_news {
            self.replace_policy(PolicyEpoch {
                is_stale,
                ..PolicyEpoch::clone(&held)
            });
        }
        is_news
    }

    /// Puts an identity and its trust bundle in force, for what is new and for what is live.
    pub fn replace_identity(&self, identity: Option<Arc<IdentityEpoch>>) {
        self.identity.store(identity);
        self.changed.send_replace(());
    }
}
