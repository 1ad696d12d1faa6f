//! The one task that owns what changes: policy, mesh state, authorities, registrations.
//!
//! It looks at the policy folder, at registrations and at the clock; when the state of the mesh is another one, it gives
//! it the next revision, writes that down, signs it and publishes it. In between it signs the present one again, so that
//! sidecars learn the time and that they are not cut off.

pub mod authority;
pub(crate) mod canary;
pub mod change;
pub(crate) mod head;
pub mod publishing;
mod restored;
pub(crate) mod revision;
pub(crate) mod revocations;
pub mod rotation;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::publishing::inputs;
use self::rotation::RoleKeys;
use crate::ca::CaError;
use crate::canary::Canary;
use crate::change::ChangeError;
use crate::log::Head;
use crate::mesh::frame::{Published, PublishedCanary};
use crate::policy::{FolderWatch, LoadedPolicy};
use crate::registration::outrun::Outrun;
use crate::state::{ControlPlane, stopped};
use crate::telemetry::Chain;
use crate::tls::TlsEpoch;

/// Owner of what changes.
#[derive(Debug)]
pub struct Keeper {
    pub(crate) control_plane: Arc<ControlPlane>,
    pub(crate) folder: FolderWatch,
    pub(crate) publish: watch::Sender<Published>,
    pub(crate) policy_error: watch::Sender<Option<String>>,
    pub(crate) tls: watch::Sender<TlsEpoch>,
    pub(crate) keys: RoleKeys,
    pub(crate) head_file: std::path::PathBuf,
    pub(crate) kept_head: Head,
    /// Changes that operators ask for.
    pub(crate) orders: mpsc::Receiver<change::Order>,
    /// Authorities that they ask for.
    pub(crate) authority_orders: mpsc::Receiver<authority::Order>,
    /// The data folder.
    pub(crate) data: std::path::PathBuf,
    /// Revocations in force, as the record and the store have them.
    pub(crate) revocations: revocations::Told,
    /// The folder's policy, as long as it could not be published: it is tried again at each look.
    pub(crate) pending: Option<Arc<LoadedPolicy>>,
    /// Whether the newest state could not be published; it is tried again at each look.
    pub(crate) is_behind: bool,
    /// Whether a change of the folder broke off: nothing is read from there until it is finished.
    pub(crate) is_torn: bool,
    /// Whose change is being made; nobody's while the folder speaks for itself.
    pub(crate) actor: Option<revocations::Actor>,
    /// What a share of the sidecars tries.
    pub(crate) canary: Option<Canary>,
    /// The epoch that is to begin with the next state.
    pub(crate) epoch: Option<u64>,
    /// Whether, and how far, sidecars are ahead.
    pub(crate) outrun: watch::Sender<Option<Outrun>>,
}

impl Keeper {
    /// Runs until `shutdown`, then writes down what is only in memory.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut registrations = self.control_plane.registry.changes();
        let mut renewals = self.control_plane.forced.changes();
        let (mut look, mut beat, mut tidy) = (
            interval(LOOK_INTERVAL),
            interval(HEARTBEAT_INTERVAL),
            interval(TIDY_INTERVAL),
        );
        for ticks in [&mut look, &mut beat, &mut tidy] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                () = stopped(&mut shutdown) => break,
                _ = look.tick() => self.look().await,
                Some(order) = self.orders.recv() => self.obey(order).await,
                Some(order) = self.authority_orders.recv() => self.prepare(order).await,
                Ok(()) = registrations.changed() => {
                    // Those that come together make one revision.
                    tokio::time::sleep_until(Instant::now() + GATHER).await;
                    registrations.mark_unchanged();
                    self.refresh().await;
                }
                Ok(()) = renewals.changed() => self.refresh().await,
                _ = beat.tick() => self.beat().await,
                _ = tidy.tick() => self.tidy().await,
            }
        }
        self.flush().await;
        self.keep_head();
    }

    /// Looks at the policy folder.
    async fn look(&mut self) {
        self.look_ahead();
        if let Err(error) = self.mend() {
            self.refuse_policy(Chain(&error).to_string());
            return;
        }
        let now = self.control_plane.now();
        // What stays here knows the folder as well: where the loader panics, the next look begins anew.
        let anew = FolderWatch::new(self.folder.folder().to_owned());
        let folder = std::mem::replace(&mut self.folder, anew);
        let looked = tokio::task::spawn_blocking(move || {
            let mut folder = folder;
            let found = folder.poll(now);
            (folder, found)
        });
        let Ok((folder, found)) = looked.await else {
            self.refuse_policy("the policy folder could not be read".to_owned());
            return;
        };
        self.folder = folder;
        let loaded = match found {
            None => return self.retry().await,
            Some(loaded) => loaded.and_then(|policy| {
                policy.fits(&self.control_plane.fixed)?;
                Ok(policy)
            }),
        };
        match loaded {
            Ok(policy) => self.replace_policy(policy).await,
            Err(error) => self.refuse_policy(Chain(&error).to_string()),
        }
    }

    async fn replace_policy(&mut self, policy: LoadedPolicy) {
        let policy = Arc::new(policy);
        self.pending = Some(Arc::clone(&policy));
        self.put_in_force(policy).await;
    }

    async fn put_in_force(&mut self, policy: Arc<LoadedPolicy>) {
        let inputs = inputs(&self.control_plane, policy);
        match self.publish(inputs).await {
            Ok(()) => {
                self.pending = None;
                self.count_load("loaded");
                self.control_plane.metrics.policy_broken.set(0);
                self.policy_error.send_replace(None);
            }
            Err(error) => self.refuse_policy(Chain(&error).to_string()),
        }
    }

    /// Tries again what could not be published.
    async fn retry(&mut self) {
        if let Some(policy) = self.pending.clone() {
            self.put_in_force(policy).await;
        }
        if self.is_behind {
            self.refresh().await;
        }
    }

    /// Finishes a change of the folder that broke off.
    pub(crate) fn mend(&mut self) -> Result<(), ChangeError> {
        if self.is_torn {
            let finished = crate::change::finish(self.folder.folder(), &self.data);
            let files = finished.map_err(ChangeError::Torn)?;
            tracing::warn!(
                ?files,
                "finished a change of the policy folder that had broken off"
            );
            self.is_torn = false;
        }
        Ok(())
    }

    /// The last good policy stays; said once, because the same is tried again and again.
    fn refuse_policy(&self, error: String) {
        if self.policy_error.borrow().as_ref() == Some(&error) {
            return;
        }
        self.count_load("refused");
        self.control_plane.metrics.policy_broken.set(1);
        tracing::error!(
            error,
            "the policy folder is refused, the last good policy stays in force"
        );
        self.policy_error.send_replace(Some(error));
    }

    fn count_load(&self, outcome: &str) {
        let loads = &self.control_plane.metrics.policy_loads;
        loads.with_label_values(&[outcome]).inc();
    }

    /// Signs the present state again.
    async fn beat(&mut self) {
        self.flush().await;
        let held = self.publish.borrow().clone();
        let now = self.control_plane.now();
        let (lagging, lag) = self.control_plane.registry.lag(now);
        let metrics = &self.control_plane.metrics.mesh_state;
        metrics
            .lagging
            .set(i64::try_from(lagging).unwrap_or(i64::MAX));
        metrics
            .lag
            .set(i64::try_from(lag.as_secs()).unwrap_or(i64::MAX));
        match self.resigned(&held, now) {
            Ok(resigned) => drop(self.publish.send_replace(resigned)),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "failed to sign the mesh state");
            }
        }
    }

    fn resigned(&self, held: &Published, now: SystemTime) -> Result<Published, CaError> {
        let sign = |held: &Published| {
            let signed = held.state.sign(&self.keys.mesh_state, now);
            signed.map(|signed| held.resigned(signed))
        };
        let canary = match held.canary.as_deref() {
            None => None,
            Some(one) => Some(PublishedCanary {
                published: sign(&one.published)?,
                ..one.clone()
            }),
        };
        Ok(sign(held)?.beside(canary))
    }

    async fn flush(&self) {
        let now = self.control_plane.now();
        if let Err(error) = self.control_plane.registry.flush(now).await {
            self.control_plane.metrics.store_failures.inc();
            tracing::error!(error = %Chain(&error), "failed to write registrations, will try again");
        }
    }

    /// Renews authorities and role keys in good time, and looks at what only time changes.
    async fn tidy(&mut self) {
        if let Err(error) = self.rotate().await {
            tracing::error!(error = %Chain(&error), "failed to renew an authority, will try again");
        }
        self.keep_head();
        self.control_plane.record_refusals().await;
        // Endpoints of instances that ended leave the state.
        self.refresh().await;
        let now = self.control_plane.now();
        let metrics = &self.control_plane.metrics;
        let live = self.control_plane.registry.living(now).len();
        metrics
            .instances
            .set(i64::try_from(live).unwrap_or(i64::MAX));
        let end = self.control_plane.ca.issuer_end(now);
        if let Err(error) = &end {
            tracing::error!(error = %Chain(error), "certificates can't be issued");
        }
        let left = end.ok().and_then(|end| end.duration_since(now).ok());
        let left = left.unwrap_or_default().as_secs();
        metrics
            .issuer_expiry
            .set(i64::try_from(left).unwrap_or(i64::MAX));
    }
}

/// Two looks that agree make a change, so it is seen within half a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A sidecar that hears nothing for three of these is cut off (DESIGN §7).
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
const TIDY_INTERVAL: Duration = Duration::from_secs(10);
/// How long registrations are gathered into one revision.
const GATHER: Duration = Duration::from_millis(50);
