//! Start and end of a control plane: the only place that wires its parts.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use vouchsafe_api::convert::record::{Event, RecordEntry};
use vouchsafe_config::control_plane::ControlPlaneConfig;
use vouchsafe_verifier::vendor_roots::VendorRoots;

use crate::admission::Gate;
use crate::archive::Archive;
use crate::ca::{CaError, CertificateAuthority};
use crate::canary::{self, Canary, Facts};
use crate::conversations::Conversations;
use crate::endorsements::Endorsements;
use crate::files::{self, FileError, SECRET_MODE};
use crate::holders::Holders;
use crate::keeper::head::read_head;
use crate::keeper::publishing::{self, PublishError};
use crate::keeper::revocations::Told;
use crate::keeper::rotation::{self, RoleKeys};
use crate::keeper::{self, Keeper, revision};
use crate::log::{Log, LogError};
use crate::mesh::Inputs;
use crate::mesh::probes::Probes;
use crate::operator::OperatorSocket;
use crate::policy::{Fixed, FolderWatch, LoadPolicyError, LoadedPolicy};
use crate::policy_sets::Whose;
use crate::refusals::Refusals;
use crate::registration::Registry;
use crate::renewals::Renewals;
use crate::standing::acts;
use crate::state::ControlPlane;
use crate::store::redb::RedbStore;
use crate::store::{Expect, Store, StoreError};
use crate::telemetry::{Chain, Metrics};
use crate::tls::TlsEpoch;
use crate::{change, http, reappraisal, server};

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The policy folder is no policy for it.
    #[error(transparent)]
    Policy(#[from] LoadPolicyError),
    /// The store can't be used.
    #[error("failed to open the store; is another control plane running on this data folder?")]
    Store(#[source] StoreError),
    /// The authorities can't be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The record can't be used.
    #[error("failed to open the record")]
    Record(#[source] LogError),
    /// The first state can't be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The certificate can't be served.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// An address can't be listened on.
    #[error("failed to listen on `{address}`")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Metrics contradict each other.
    #[error("failed to register metrics")]
    Metrics(#[source] prometheus::Error),
}

/// A control plane whose doors are open; [`App::serve`] answers.
#[derive(Debug)]
pub struct App {
    control_plane: Arc<ControlPlane>,
    keeper: Keeper,
    tls: watch::Receiver<TlsEpoch>,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    operator: OperatorSocket,
    stop: watch::Sender<bool>,
    address: SocketAddr,
}

/// Starts and serves until `shutdown` is done.
///
/// # Errors
/// [`StartError`]; once started, it ends without one.
pub async fn run(
    config: ControlPlaneConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    App::start(config).await?.serve(shutdown).await;
    Ok(())
}

impl App {
    /// Makes or opens everything and listens.
    ///
    /// # Errors
    /// [`StartError`], which names what to do.
    pub async fn start(config: ControlPlaneConfig) -> Result<Self, StartError> {
        Self::danger_start_below(config, VendorRoots::PINNED).await
    }

    /// With roots of hardware's vendors that a test made. Nothing of the program leads here with others than those that
    /// are compiled in: no option, no document, no variable.
    ///
    /// # Errors
    /// [`StartError`], which names what to do.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock is read once at start; later by `ControlPlane::now`"
    )]
    pub async fn danger_start_below(
        config: ControlPlaneConfig,
        roots: VendorRoots,
    ) -> Result<Self, StartError> {
        let now = SystemTime::now();
        let core = Core::open(&config, now).await?;
        let (registry, ca, log) = (core.registry, core.ca, core.log);
        let forced = { Renewals::open(registry.store()).await }.map_err(StartError::Store)?;
        publishing::obey_revocations(&registry, &ca, &core.policy, now);
        let inputs = Inputs {
            policy: Arc::clone(&core.policy),
            endpoints: publishing::places(&registry, &core.policy, now).endpoints,
            bundle: ca.bundle(),
            trust: registry.distrusted(now),
            renewals: forced.current(now),
        };
        let (canary, canary_ended) = recall_canary(&config, &core.policy, now)?;
        let first = revision::first_states(&registry, inputs, canary.as_ref()).await;
        let (first, policy_changed) = first?;
        let beside = first.canary.as_ref();
        let beside = beside.map(|one| (one.state.revision, Arc::clone(&one.facts)));
        registry.published(first.state.revision, beside, now);
        let keys = RoleKeys::new(&ca, now)?;
        let bundle = rotation::shared_bundle(&ca);
        let (tls, tls_receiver) =
            watch::channel(TlsEpoch::new(&keys.serving, &bundle).map_err(StartError::Tls)?);
        let (publish, mesh) = watch::channel(
            { first.sign(None, &keys.mesh_state, now) }.map_err(PublishError::Sign)?,
        );
        let (policy_error, policy_error_receiver) = watch::channel(None);
        let (outrun, outrun_receiver) = watch::channel(None);
        let (stop, shutdown) = watch::channel(false);
        // Operators wait for their turn at the socket.
        let (orders, ordered) = mpsc::channel(1);
        let (authority_orders, authorities_ordered) = mpsc::channel(1);
        let metrics = Metrics::new().map_err(StartError::Metrics)?;
        let endorsements = Endorsements::open(
            config.endorsements.clone(),
            &config.data,
            metrics.endorsements.clone(),
            Arc::new(clock),
            roots.clone(),
        )?;
        let control_plane = Arc::new(ControlPlane {
            fixed: core.fixed,
            ca,
            bundle,
            log,
            archive: Arc::new(Archive::open(&config.data)?),
            roots,
            registry,
            mesh,
            probes: Probes::default(),
            policy_error: policy_error_receiver,
            outrun: outrun_receiver,
            shutdown,
            metrics,
            endorsements,
            attestations: Gate::new(MAX_ATTESTATIONS, MAX_WAITING),
            renewals: Gate::new(MAX_ATTESTATIONS, MAX_WAITING),
            holders: Holders::default(),
            refusals: Refusals::default(),
            conversations: Conversations::default(),
            calendar: Mutex::default(),
            forced,
            data: config.data.clone(),
            policy_folder: config.policy.display().to_string(),
            orders,
            authority_orders,
            started: now,
        });
        let mut events = core.events;
        events.push(rotation::role_created("control-plane", &keys.serving));
        events.push(rotation::role_created("mesh-state", &keys.mesh_state));
        let state = Arc::clone(&first.state);
        if policy_changed {
            events.push(publishing::policy_changed(&state));
        }
        let must_be_kept = policy_changed || canary_ended.is_some();
        events.extend(canary_ended);
        for event in events {
            control_plane
                .record(event)
                .await
                .map_err(StartError::Record)?;
        }
        let mut keeper = Keeper {
            control_plane: Arc::clone(&control_plane),
            folder: core.folder,
            publish,
            policy_error,
            tls,
            keys,
            head_file: config.data.join(HEAD_FILE),
            kept_head: crate::log::Head::EMPTY,
            orders: ordered,
            authority_orders: authorities_ordered,
            data: config.data.clone(),
            revocations: { Told::read(control_plane.registry.store()).await }
                .map_err(StartError::Store)?,
            pending: None,
            is_behind: false,
            is_torn: false,
            actor: None,
            canary,
            epoch: None,
            outrun,
        };
        // What ended while no control plane ran is recorded before anybody can come back by it.
        keeper.settle_revocations(&core.policy.set).await?;
        if keeper.canary.is_none() {
            // Recorded above, so that it is not begun again.
            canary::forget(&config.data)?;
        }
        if must_be_kept {
            keeper.keep_policy(&state, Whose::Everybody).await;
        }
        if let Some(one) = &first.canary {
            keeper.keep_policy(&one.state, Whose::Canary).await;
        }
        let operator_path = config.data.join(OPERATOR_SOCKET);
        let operator = OperatorSocket::bind(&operator_path)
            .map_err(|source| listen_error(&operator_path.display().to_string(), source))?;
        let listener = listen(config.listen).await?;
        let metrics = match config.metrics {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let address = listener
            .local_addr()
            .map_err(|source| listen_error(&config.listen.to_string(), source))?;
        Ok(Self {
            control_plane,
            keeper,
            tls: tls_receiver,
            listener,
            metrics,
            operator,
            stop,
            address,
        })
    }

    /// Where sidecars connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics and probes are, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// SHA-256 of the root's public key: what goes into `root_pins` of each `proxy.yaml`.
    pub fn root_pin(&self) -> [u8; 32] {
        self.control_plane.ca.root_pin()
    }

    /// Answers until `shutdown` is done, then drains and writes down what is only in memory.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        tracing::info!(
            trust_domain = %self.control_plane.fixed.trust_domain,
            address = %self.address,
            root_pin = hex::encode(self.root_pin()),
            revision = %self.control_plane.mesh.borrow().state.revision,
            "control plane ready"
        );
        if self.control_plane.fixed.accepts_simulated {
            tracing::warn!(
                "this trust domain accepts simulated evidence, which proves nothing: never use it for production"
            );
        }
        let stops = || self.control_plane.shutdown.clone();
        let shared = || Arc::clone(&self.control_plane);
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(self.listener, shared(), self.tls, stops()));
        tasks.spawn(self.operator.serve(shared(), stops()));
        if let Some(listener) = self.metrics {
            tasks.spawn(http::serve(listener, shared(), stops()));
        }
        tasks.spawn(self.keeper.run(stops()));
        tasks.spawn(acts::watch_over(shared(), stops()));
        tasks.spawn(reappraisal::keep_judging(shared(), stops()));
        tasks.spawn(self.control_plane.endorsements.clone().run(stops()));
        tokio::select! {
            () = shutdown => tracing::info!("shutting down"),
            // No task ends by itself: one that did has panicked, and half a control plane is none.
            _ = tasks.join_next() => tracing::error!("a part of the control plane ended, shutting down"),
        }
        self.stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
        let control_plane = &self.control_plane;
        control_plane.conversations.end(LAST_WORDS).await;
        control_plane.record_last_refusals().await;
        // What the last of them decided came after the keeper's own last flush.
        if let Err(error) = control_plane.registry.flush(control_plane.now()).await {
            tracing::error!(error = %Chain(&error), "failed to write registrations at the end");
        }
        tracing::info!("control plane stopped");
    }
}

/// The clock that endorsements are judged by.
#[expect(
    clippy::disallowed_methods,
    reason = "read where the control plane's own clock is not at hand yet"
)]
pub(crate) fn clock() -> SystemTime {
    SystemTime::now()
}

/// What the data folder holds.
struct Core {
    fixed: Fixed,
    policy: Arc<LoadedPolicy>,
    folder: FolderWatch,
    registry: Registry,
    ca: CertificateAuthority,
    log: Log,
    /// To be recorded.
    events: Vec<Event>,
}

impl Core {
    async fn open(config: &ControlPlaneConfig, now: SystemTime) -> Result<Self, StartError> {
        files::private_folder(&config.data)?;
        let store_path = config.data.join("store.redb");
        let store = RedbStore::open(&store_path).map_err(StartError::Store)?;
        make_private(&store_path)?;
        let held = read_fixed(&store).await?;
        if held.is_none() {
            make_first_policy(config)?;
        }
        if let Some(files) = change::finish(&config.policy, &config.data)? {
            tracing::warn!(
                ?files,
                "finished a change of the policy folder that had broken off"
            );
        }
        let mut folder = FolderWatch::new(config.policy.clone());
        folder.mark_read();
        let policy = LoadedPolicy::load(&config.policy, now)?;
        for warning in policy.set.warnings() {
            tracing::warn!(warning = %warning, "policy");
        }
        let fixed = match held {
            Some(fixed) => {
                policy.fits(&fixed)?;
                fixed
            }
            None => fix(&store, &policy).await?,
        };
        let record_file = config.data.join(RECORD_FILE);
        let kept = read_head(&config.data.join(HEAD_FILE))?;
        if kept.records > 0 {
            // Before it is opened, because opening cuts a torn tail off, and a damaged record must stay as it is.
            crate::log::verify(&record_file, &kept).map_err(StartError::Record)?;
        }
        let (log, opened) = Log::open(&record_file).map_err(StartError::Record)?;
        if opened.torn_bytes > 0 {
            tracing::warn!(
                bytes = opened.torn_bytes,
                "the record's last entry was incomplete and is cut off"
            );
        }
        let (ca, made) =
            CertificateAuthority::open(&config.data.join("ca"), &fixed.trust_domain, now)?;
        Ok(Self {
            fixed,
            policy: Arc::new(policy),
            folder,
            registry: Registry::open(store).await.map_err(StartError::Store)?,
            ca,
            log,
            events: made.iter().map(rotation::authority_created).collect(),
        })
    }
}

/// Makes what a first start makes, without listening, and returns the root pin.
///
/// # Errors
/// [`StartError`].
#[expect(
    clippy::disallowed_methods,
    reason = "the clock is read once, by the command that was typed"
)]
pub async fn init(config: &ControlPlaneConfig) -> Result<[u8; 32], StartError> {
    let now = SystemTime::now();
    let core = Core::open(config, now).await?;
    for event in core.events {
        let entry = RecordEntry { time: now, event };
        core.log.append(entry).await.map_err(StartError::Record)?;
    }
    Ok(core.ca.root_pin())
}

#[derive(Debug, Deserialize, Serialize)]
struct StoredFixed {
    trust_domain: String,
    accepts_simulated: bool,
}

async fn read_fixed(store: &RedbStore) -> Result<Option<Fixed>, StartError> {
    let Some(entry) = store.get(FIXED).await.map_err(StartError::Store)? else {
        return Ok(None);
    };
    let damaged = || StartError::Store(StoreError::Engine(format!("entry `{FIXED}` is damaged")));
    let stored: StoredFixed = serde_json::from_slice(&entry.value).map_err(|_| damaged())?;
    Ok(Some(Fixed {
        trust_domain: stored.trust_domain.parse().map_err(|_| damaged())?,
        accepts_simulated: stored.accepts_simulated,
    }))
}

/// The canary that ran when a control plane last ran here, as it goes on; or the record of its end, where it can't.
fn recall_canary(
    config: &ControlPlaneConfig,
    present: &LoadedPolicy,
    now: SystemTime,
) -> Result<(Option<Canary>, Option<Event>), StartError> {
    let Some(kept) = canary::kept(&config.data)? else {
        return Ok((None, None));
    };
    let ended = |facts: Option<&Facts>, why: String| {
        let act = keeper::canary::ended_by_itself(facts, why);
        (None, Some(Event::OperatorAct(Box::new(act))))
    };
    let facts = match kept {
        Ok(facts) => Arc::new(facts),
        Err(why) => {
            return Ok(ended(
                None,
                format!("what was kept of it is damaged: {why}"),
            ));
        }
    };
    match Canary::new(Arc::clone(&facts), present, &config.policy, now) {
        Ok(canary) => Ok((Some(canary), None)),
        Err(error) => Ok(ended(Some(&facts), Chain(&error).to_string())),
    }
}

async fn fix(store: &RedbStore, policy: &LoadedPolicy) -> Result<Fixed, StartError> {
    let fixed = Fixed {
        trust_domain: policy.mesh.trust_domain.clone(),
        accepts_simulated: policy.mesh.danger_accept_simulated,
    };
    let stored = StoredFixed {
        trust_domain: fixed.trust_domain.to_string(),
        accepts_simulated: fixed.accepts_simulated,
    };
    // A text and a boolean always have a JSON form.
    let value = serde_json::to_vec(&stored).unwrap_or_default();
    store
        .put_if(FIXED, value, Expect::Absent)
        .await
        .map_err(StartError::Store)?;
    Ok(fixed)
}

/// A first start without a policy folder makes one that admits nobody, with a trust domain of its own.
fn make_first_policy(config: &ControlPlaneConfig) -> Result<(), StartError> {
    if config.policy.exists() {
        return Ok(());
    }
    let random: [u8; 4] = crate::ca::random()?;
    let trust_domain = format!("mesh-{}.internal", hex::encode(random));
    files::private_folder(&config.policy)?;
    let document = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec: {{trust_domain: {trust_domain}}}\n"
    );
    files::write_secret(&config.policy.join("mesh.yaml"), &document)?;
    tracing::warn!(
        folder = %config.policy.display(),
        trust_domain,
        "no policy folder was there: made one that admits nobody, with a trust domain that stays"
    );
    Ok(())
}

fn make_private(path: &Path) -> Result<(), StartError> {
    fs::set_permissions(path, fs::Permissions::from_mode(SECRET_MODE)).map_err(|source| {
        StartError::File(FileError::Io {
            act: "set the mode of",
            path: path.to_owned(),
            source,
        })
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| listen_error(&address.to_string(), source))
}

fn listen_error(address: &str, source: io::Error) -> StartError {
    StartError::Listen {
        address: address.to_owned(),
        source,
    }
}

/// The operator socket of a data folder.
pub fn operator_socket(data: &Path) -> PathBuf {
    data.join(OPERATOR_SOCKET)
}

/// The record of a data folder, and the head that was kept of it.
///
/// # Errors
/// [`FileError`].
pub fn record(data: &Path) -> Result<(PathBuf, crate::log::Head), FileError> {
    let head = read_head(&data.join(HEAD_FILE))?;
    Ok((data.join(RECORD_FILE), head))
}

/// A start that fails says everything on one line.
pub fn explain(error: &StartError) -> String {
    Chain(error).to_string()
}

const FIXED: &str = "mesh/fixed";
const OPERATOR_SOCKET: &str = "operator.sock";
const RECORD_FILE: &str = "records";
const HEAD_FILE: &str = "records.head";
/// At the end, for evidence that came: judging takes milliseconds, writing down a few more.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Each takes a few milliseconds of cryptography; more at once would only make all of them late.
const MAX_ATTESTATIONS: usize = 256;
/// Who waits for a place holds a stream and a hello.
const MAX_WAITING: usize = 1024;

#[cfg(test)]
mod tests;
