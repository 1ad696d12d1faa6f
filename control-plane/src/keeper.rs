//! The one task that owns what changes: policy, mesh state, authorities, registrations.
//!
//! It looks at the policy folder, at registrations and at the clock; when the state of the mesh is another one, it gives
//! it the next revision, writes that down, signs it and publishes it. In between it signs the present one again, so that
//! sidecars learn the time and that they are not cut off.

pub mod authority;
pub(crate) mod canary;
pub mod change;
pub(crate) mod revocations;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use vouchsafe_api::convert::record::Event;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::MeshRole;
use vouchsafe_attestation::trust_bundle::TrustBundle;

use crate::ca::{AuthorityFacts, CaError, CertificateAuthority, RoleKey};
use crate::canary::Canary;
use crate::change::ChangeError;
use crate::files::{self, FileError};
use crate::log::{Head, LogError};
use crate::mesh::frame::{Published, PublishedCanary};
use crate::mesh::{Inputs, MeshState};
use crate::policy::{FolderWatch, LoadedPolicy};
use crate::policy_sets::{self, Whose};
use crate::registration::Registry;
use crate::registration::places::Places;
use crate::state::{ControlPlane, stopped};
use crate::store::{Expect, Store, StoreError};
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
}

/// Keys of the mesh's own roles.
#[derive(Debug)]
pub struct RoleKeys {
    /// Serves the API.
    pub serving: RoleKey,
    /// Signs the mesh state.
    pub mesh_state: RoleKey,
}

impl RoleKeys {
    /// Makes both.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn new(ca: &CertificateAuthority, now: SystemTime) -> Result<Self, CaError> {
        Ok(Self {
            serving: ca.certify_role(MeshRole::ControlPlane, now)?,
            mesh_state: ca.certify_role(MeshRole::MeshState, now)?,
        })
    }
}

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
    /// What is kept of a canary can't be written.
    #[error("failed to keep or forget the canary")]
    Canary(#[source] FileError),
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

    /// Builds the state again from what changed beside policy.
    async fn refresh(&mut self) {
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

    async fn publish(&mut self, mut inputs: Inputs) -> Result<(), PublishError> {
        self.settle_revocations(&inputs.policy.set).await?;
        if self.control_plane.ca.wants_next(self.control_plane.now()) {
            // A revocation took the one that signs.
            self.rotate().await.map_err(PublishError::Sign)?;
            inputs.bundle = self.control_plane.ca.bundle();
        }
        self.settle_canary(&inputs.policy).await?;
        let before = self.publish.borrow().clone();
        let next = canary::next_states(&before, inputs, self.canary.as_ref());
        if next.is_nothing_new(&before) {
            return Ok(());
        }
        let control_plane = &self.control_plane;
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
        // Endpoints of instances that ended leave the state.
        self.refresh().await;
        let now = self.control_plane.now();
        let metrics = &self.control_plane.metrics;
        let live = self.control_plane.registry.instances(now).len();
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

    async fn rotate(&mut self) -> Result<(), CaError> {
        let now = self.control_plane.now();
        let is_behind = self.control_plane.ca.begins_after(now);
        for facts in self.control_plane.ca.rotate(now)? {
            if is_behind {
                tracing::warn!(
                    "the clock shows a time before all issuing authorities were made, so another one signs: check the clock"
                );
            }
            tracing::info!(
                spki_sha256 = hex::encode(facts.spki_sha256),
                "issuing authority made"
            );
            self.record_authority(authority_created(&facts)).await;
        }
        let bundle = self.control_plane.ca.trust_bundle();
        self.control_plane.bundle.store(Arc::new(bundle));
        if self.keys.mesh_state.renew_at <= now {
            let key = self
                .control_plane
                .ca
                .certify_role(MeshRole::MeshState, now)?;
            self.record_authority(role_created("mesh-state", &key))
                .await;
            self.keys.mesh_state = key;
        }
        if self.keys.serving.renew_at <= now {
            let key = self
                .control_plane
                .ca
                .certify_role(MeshRole::ControlPlane, now)?;
            match TlsEpoch::new(&key, &self.control_plane.bundle) {
                Ok(epoch) => {
                    self.record_authority(role_created("control-plane", &key))
                        .await;
                    self.tls.send_replace(epoch);
                    self.keys.serving = key;
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "failed to serve a new certificate");
                }
            }
        }
        Ok(())
    }

    async fn record_authority(&self, event: Event) {
        if let Err(error) = self.control_plane.record(event).await {
            tracing::error!(error = %Chain(&error), "failed to record a new authority");
        }
    }

    /// Keeps the head of the record beside it, so that a cut at its end shows.
    fn keep_head(&mut self) {
        let head = self.control_plane.log.head();
        if head == self.kept_head {
            return;
        }
        match write_head(&self.head_file, &head) {
            Ok(()) => self.kept_head = head,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "failed to keep the record's head");
            }
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

/// The states that a start begins with: the one that was in force before, or its successor; and that of a canary that
/// goes on.
///
/// # Errors
/// [`PublishError::Store`].
pub(crate) async fn first_states(
    registry: &Registry,
    inputs: Inputs,
    canary: Option<&Canary>,
) -> Result<(canary::Next, bool), PublishError> {
    let held = registry
        .store()
        .get(REVISION)
        .await
        .map_err(PublishError::Store)?;
    let held: Option<StoredRevision> = match held {
        Some(entry) => Some(serde_json::from_slice(&entry.value).map_err(|_| {
            PublishError::Store(StoreError::Engine(format!("entry `{REVISION}` is damaged")))
        })?),
        None => None,
    };
    let (revision, highest, root, digest) = held.map_or_else(
        || (FIRST_REVISION, 0, String::new(), String::new()),
        |held| (held.revision(), held.highest, held.root, held.policy),
    );
    let policy_changed = hex::encode(inputs.policy.digest) != digest;
    let mut numbers = canary::Numbers::new(revision, highest, canary.is_some());
    let mut state = MeshState::first(revision, inputs.clone());
    // Where a canary ended in the middle of it, its sidecars hold a higher number than the state in force.
    let must_rise = canary.is_none() && highest > revision.sequence;
    if hex::encode(state.root) != root || must_rise {
        state.renumber(numbers.present());
    }
    let beside = canary.map(|canary| canary::NextCanary::first(canary, inputs, &mut numbers));
    let next = canary::Next {
        state: Arc::new(state),
        canary: beside,
    };
    if next.state.revision != revision || next.canary.is_some() {
        write_revision(registry, &next.state, next.highest()).await?;
    }
    Ok((next, policy_changed))
}

async fn write_revision(
    registry: &Registry,
    state: &MeshState,
    highest: u64,
) -> Result<(), PublishError> {
    let stored = StoredRevision {
        epoch: state.revision.epoch,
        sequence: state.revision.sequence,
        highest,
        root: hex::encode(state.root),
        policy: hex::encode(state.policy.digest),
    };
    // Plain texts and numbers always have a JSON form.
    let value = serde_json::to_vec(&stored).unwrap_or_default();
    registry
        .store()
        .put_if(REVISION, value, Expect::Any)
        .await
        .map(drop)
        .map_err(PublishError::Store)
}

#[derive(Debug, Deserialize, Serialize)]
struct StoredRevision {
    epoch: u64,
    sequence: u64,
    /// The highest that a sidecar may hold: a canary's may be above that of the state in force.
    #[serde(default)]
    highest: u64,
    root: String,
    policy: String,
}

impl StoredRevision {
    fn revision(&self) -> Revision {
        Revision {
            epoch: self.epoch,
            sequence: self.sequence,
        }
    }
}

pub(crate) fn policy_changed(state: &MeshState) -> Event {
    Event::PolicyChanged {
        revision: state.revision,
        root: state.root,
        documents: state.documents(),
    }
}

pub(crate) fn authority_created(facts: &AuthorityFacts) -> Event {
    Event::AuthorityCreated {
        role: facts.role.to_owned(),
        spki_sha256: facts.spki_sha256,
        not_after: facts.not_after,
    }
}

pub(crate) fn role_created(role: &str, key: &RoleKey) -> Event {
    Event::AuthorityCreated {
        role: role.to_owned(),
        spki_sha256: key.spki_sha256,
        not_after: key.not_after,
    }
}

/// Writes a head down: number and hash on one line.
///
/// # Errors
/// [`FileError`].
pub fn write_head(path: &std::path::Path, head: &Head) -> Result<(), FileError> {
    let line = format!("{} {}\n", head.records, hex::encode(head.hash));
    files::write_secret(path, &line)
}

/// Reads a head that was kept; the empty one where none was.
///
/// # Errors
/// [`FileError`]; a damaged file counts as none kept, and the chain itself is checked all the same.
pub fn read_head(path: &std::path::Path) -> Result<Head, FileError> {
    if !path.exists() {
        return Ok(Head::EMPTY);
    }
    let text = files::read_secret(path)?;
    let parsed = text.trim().split_once(' ').and_then(|(records, hash)| {
        let mut head = Head {
            records: records.parse().ok()?,
            hash: [0; 32],
        };
        hex::decode_to_slice(hash, &mut head.hash).ok()?;
        Some(head)
    });
    Ok(parsed.unwrap_or(Head::EMPTY))
}

/// The bundle that verifies clients, replaced when authorities change.
pub(crate) fn shared_bundle(ca: &CertificateAuthority) -> Arc<ArcSwap<TrustBundle>> {
    Arc::new(ArcSwap::from_pointee(ca.trust_bundle()))
}

const REVISION: &str = "mesh/revision";
/// Sequence 0 is "nothing applied yet", so the first state gets 1.
const FIRST_REVISION: Revision = Revision {
    epoch: 1,
    sequence: 0,
};
/// Two looks that agree make a change, so it is seen within half a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A sidecar that hears nothing for three of these is cut off (DESIGN §7).
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
const TIDY_INTERVAL: Duration = Duration::from_secs(10);
/// How long registrations are gathered into one revision.
const GATHER: Duration = Duration::from_millis(50);
