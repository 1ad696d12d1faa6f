//! What all parts of a running control plane share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use vouchsafe_api::convert::record::{Event, RecordEntry};
use vouchsafe_attestation::trust_bundle::TrustBundle;
use vouchsafe_verifier::vendor_roots::VendorRoots;

use crate::admission::Gate;
use crate::archive::Archive;
use crate::ca::CertificateAuthority;
use crate::conversations::Conversations;
use crate::endorsements::Endorsements;
use crate::holders::Holders;
use crate::keeper::authority;
use crate::keeper::change::Order;
use crate::log::{Head, Log, LogError};
use crate::mesh::frame::Published;
use crate::mesh::probes::Probes;
use crate::policy::Fixed;
use crate::refusals::Refusals;
use crate::registration::Registry;
use crate::registration::outrun::Outrun;
use crate::renewals::Renewals;
use crate::slots::{Calendar, Slots};
use crate::standing::Duties;
use crate::telemetry::Metrics;

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// What can't change.
    pub fixed: Fixed,
    /// Authorities.
    pub ca: CertificateAuthority,
    /// The mesh's bundle, for verifying clients.
    pub bundle: Arc<ArcSwap<TrustBundle>>,
    /// The record.
    pub log: Log,
    /// What decisions were made from.
    pub archive: Arc<Archive>,
    /// Whom evidence of hardware must lead to.
    pub roots: VendorRoots,
    /// Instances and spent tokens.
    pub registry: Registry,
    /// Mesh state with its newest signature.
    pub mesh: watch::Receiver<Published>,
    /// Connected sidecars that can be asked what a change would do.
    pub probes: Probes,
    /// Why the policy folder's present content is not in force; `None` while it is.
    pub policy_error: watch::Receiver<Option<String>>,
    /// What sidecars hold that was never made here: then nothing is issued.
    pub outrun: watch::Receiver<Option<Outrun>>,
    /// Ends streams.
    pub shutdown: watch::Receiver<bool>,
    /// Metrics.
    pub metrics: Metrics,
    /// Vendors' statements about hardware.
    pub endorsements: Endorsements,
    /// Renewals ahead of time.
    pub forced: Renewals,
    /// Attestations at once: each may cost milliseconds of cryptography.
    pub attestations: Arc<Gate>,
    /// Bounds those of instances that present a certificate.
    pub renewals: Arc<Gate>,
    /// How many attestations each instance and each stranger's address has.
    pub holders: Holders,
    /// Refusals of strangers that are counted.
    pub refusals: Refusals,
    /// Attestations under way.
    pub conversations: Conversations,
    /// When instances come back.
    pub calendar: Mutex<Calendar>,
    /// The data folder.
    pub data: PathBuf,
    /// Where policy comes from.
    pub policy_folder: String,
    /// Changes of it that operators ask for, one at a time.
    pub orders: mpsc::Sender<Order>,
    /// Authorities that they ask for.
    pub authority_orders: mpsc::Sender<authority::Order>,
    /// When this process started.
    pub started: SystemTime,
}

impl ControlPlane {
    /// The control plane's clock: the authority of the mesh's time.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the running control plane that reads the clock"
    )]
    pub fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    /// Slots of a certificate issued now, spread over what is assigned already.
    pub fn assign(&self, duties: &Duties, now: SystemTime, random: u16) -> Slots {
        // A panic elsewhere leaves at worst one slot uncounted.
        let mut calendar = { self.calendar.lock() }.unwrap_or_else(PoisonError::into_inner);
        calendar.assign(duties, now, random)
    }

    /// Writes an event down; on the disk when it returns.
    ///
    /// # Errors
    /// [`LogError`]: what was to be recorded must not happen.
    pub async fn record(&self, event: Event) -> Result<Head, LogError> {
        let time = self.now();
        let head = self.log.append(RecordEntry { time, event }).await?;
        let records = i64::try_from(head.records).unwrap_or(i64::MAX);
        self.metrics.records.set(records);
        Ok(head)
    }
}

/// Waits until the control plane is to stop, or has stopped.
pub async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // A closed channel is a control plane that is gone: stopped as well.
    let _ = shutdown.wait_for(|ends| *ends).await.map(drop);
}
