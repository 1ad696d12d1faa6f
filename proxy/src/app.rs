//! Puts the sidecar together, and takes it apart again. The only place that wires.
//!
//! One runtime of one thread carries everything that is not traffic: the control-plane client, admin, health and
//! signals. Workers carry traffic, each on a thread of its own; they share [`State`] and nothing else with this side.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use vouchsafe_api::convert::attest::Endpoint;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_config::proxy::{ControlPlaneClient, IdentityFiles, IdentitySource, ProxyConfig};

use crate::admin::{self, Admin, Leave};
use crate::attester::{Attesters, OpenError};
use crate::clock::MeshClock;
use crate::config_dump::{Addresses, config_dump};
use crate::drain::Drain;
use crate::health::{Monitoring, Probes, Readiness};
use crate::mesh_state::farewell::{Farewell, farewell};
use crate::mesh_state::held::Wanted;
use crate::mesh_state::stream::MeshStateClient;
use crate::plain_http::{self, Door};
use crate::policy_folder::PolicyFolder;
use crate::state::State;
use crate::svid::Identities;
use crate::svid::client::AttestClient;
use crate::svid::connection::ControlPlane;
use crate::svid::files::FileIdentity;
use crate::svid::rotation::{Rotation, withdraw_at_end};
use crate::telemetry::LogLevel;
use crate::telemetry::access_log::AccessLogWriter;
use crate::telemetry::control::ControlMetrics;
use crate::telemetry::metrics::DataMetrics;
use crate::worker::{self, Connections, SpawnError};

/// Runs a sidecar until it is told to leave.
///
/// # Errors
/// [`AppError`] when it can't start, or a part of it ends by itself.
pub fn run(config: ProxyConfig, log_level: LogLevel) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AppError::Runtime)?;
    let result = runtime.block_on(async { App::start(config, log_level).await?.serve().await });
    runtime.shutdown_timeout(LAST_MOMENT);
    result
}

/// A running sidecar.
struct App {
    tasks: JoinSet<&'static str>,
    workers: JoinHandle<Result<(), usize>>,
    access_log: AccessLogWriter,
    drain: Drain,
    leave: mpsc::Receiver<Leave>,
    signals: Signals,
    /// Where a control plane waits for us.
    farewell: Option<Farewell>,
    _admin: admin::SocketFile,
}

/// What every part needs.
struct Parts {
    config: Arc<ProxyConfig>,
    state: Arc<State>,
    clock: Arc<MeshClock>,
    identities: Arc<Identities>,
    readiness: Arc<Readiness>,
    metrics: Arc<ControlMetrics>,
}

impl App {
    async fn start(config: ProxyConfig, log_level: LogLevel) -> Result<Self, AppError> {
        let signals = Signals::new().map_err(AppError::Signals)?;
        let registry = Registry::new();
        let metrics = Arc::new(ControlMetrics::register(&registry).map_err(AppError::Metrics)?);
        let state = Arc::new(State::default());
        let drain = Drain::new(config.drain);
        let parts = Parts {
            clock: Arc::new(match &config.identity {
                IdentitySource::ControlPlane(_) => MeshClock::authenticated(),
                IdentitySource::Files(_) => MeshClock::host(),
            }),
            identities: Arc::new(Identities::new(Arc::clone(&state), Arc::clone(&metrics))),
            readiness: Arc::new(Readiness::new(Arc::clone(&state), drain.signal())),
            config: Arc::new(config),
            state,
            metrics,
        };
        let access_log =
            AccessLogWriter::start(&parts.config.access_log).map_err(AppError::AccessLog)?;
        let decisions = Arc::new(DataMetrics::new(&registry).map_err(AppError::Metrics)?);
        let workers = worker::spawn_all(
            &worker::Parts {
                config: Arc::clone(&parts.config),
                state: Arc::clone(&parts.state),
                clock: Arc::clone(&parts.clock),
                metrics: Arc::clone(&decisions),
                drain: drain.signal(),
            },
            &access_log,
        )?;
        let mut tasks = JoinSet::new();
        let addresses = Addresses {
            inbound: workers.inbound.clone(),
            outbound: workers.outbound.clone(),
            health: serve_probes(&parts, &mut tasks).await?,
            metrics: serve_monitoring(&parts, registry, &mut tasks).await?,
        };
        let dump = Arc::new(config_dump(&parts.config, &addresses));
        let (ask_to_leave, leave) = mpsc::channel(1);
        let admin = Admin {
            config: Arc::clone(&dump),
            workload: parts.config.workload.clone(),
            state: Arc::clone(&parts.state),
            clock: Arc::clone(&parts.clock),
            readiness: Arc::clone(&parts.readiness),
            drain: drain.signal(),
            log_level,
            leave: ask_to_leave,
            connections: workers.connections(),
        };
        let socket_file = serve_admin(&parts.config.admin, admin, &mut tasks)?;
        let mut last_word = None;
        match &parts.config.identity {
            IdentitySource::ControlPlane(client) => {
                let live = (workers.connections(), decisions);
                let farewell =
                    follow_control_plane(&parts, client, &addresses, live, &mut tasks).await?;
                last_word = Some(farewell);
            }
            IdentitySource::Files(files) => follow_files(&parts, files, &mut tasks),
        }
        spawn(
            &mut tasks,
            "certificate end",
            withdraw_at_end(Arc::clone(&parts.identities), Arc::clone(&parts.clock)),
        );
        tracing::info!(
            local_id = %SpiffeId::for_workload(&parts.config.trust_domain, &parts.config.workload),
            addresses = %addresses.to_json(),
            "listening: everything is denied until there is a certificate"
        );
        tasks.spawn(say_when_ready(parts));
        Ok(Self {
            tasks,
            workers: tokio::task::spawn_blocking(move || workers.join()),
            access_log,
            drain,
            leave,
            signals,
            farewell: last_word,
            _admin: socket_file,
        })
    }

    /// Serves until it is told to leave, then drains.
    async fn serve(mut self) -> Result<(), AppError> {
        let leave = loop {
            tokio::select! {
                leave = self.leave.recv() => break leave.unwrap_or(Leave::Quit),
                () = self.signals.leave() => break Leave::Drain,
                ended = self.tasks.join_next() => check_end(ended)?,
                _ = &mut self.workers => return Err(AppError::Ended("workers")),
            }
        };
        tracing::info!(immediately = leave == Leave::Quit, "leaving");
        let hurry = async {
            if leave == Leave::Drain {
                tokio::select! {
                    _ = self.leave.recv() => {}
                    () = self.signals.leave() => {}
                }
            }
        };
        let drained = self.drain.run(hurry).await;
        // What is left has been cut: workers and the log have only to write their last lines.
        let ended = tokio::time::timeout(LAST_LINES, &mut self.workers).await;
        if matches!(ended, Ok(Ok(Ok(())))) {
            self.access_log.finish();
        } else {
            tracing::error!(
                "workers did not end in time: the last lines of the access log may be lost"
            );
        }
        if let Some(farewell) = self.farewell.take() {
            farewell.say().await;
        }
        tracing::info!(
            cut_inbound = drained.cut_inbound,
            cut_outbound = drained.cut_outbound,
            "left"
        );
        self.tasks.shutdown().await;
        Ok(())
    }
}

/// A part that ends by itself leaves a sidecar that only seems to work: better none.
fn check_end(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> Result<(), AppError> {
    match ended {
        Some(Ok(READY)) => Ok(()),
        Some(Ok(part)) => Err(AppError::Ended(part)),
        Some(Err(error)) => Err(AppError::Panicked(error)),
        None => Err(AppError::Ended("everything")),
    }
}

fn spawn(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        part.await;
        name
    });
}

async fn serve_probes(
    parts: &Parts,
    tasks: &mut JoinSet<&'static str>,
) -> Result<Option<SocketAddr>, AppError> {
    let Some(address) = parts.config.health else {
        return Ok(None);
    };
    let (listener, bound) = bind_tcp("health", address).await?;
    let probes = Probes {
        config: Arc::clone(&parts.config),
        state: Arc::clone(&parts.state),
    };
    let handler = move |request| {
        let probes = probes.clone();
        async move { probes.answer(request).await }
    };
    spawn(
        tasks,
        "health",
        plain_http::serve(Door::Tcp(listener), handler),
    );
    Ok(Some(bound))
}

async fn serve_monitoring(
    parts: &Parts,
    registry: Registry,
    tasks: &mut JoinSet<&'static str>,
) -> Result<Option<SocketAddr>, AppError> {
    let Some(address) = parts.config.metrics else {
        return Ok(None);
    };
    let (listener, bound) = bind_tcp("metrics", address).await?;
    let monitoring = Monitoring {
        readiness: Arc::clone(&parts.readiness),
        registry,
    };
    let handler =
        move |request: plain_http::Request| std::future::ready(monitoring.answer(&request));
    spawn(
        tasks,
        "metrics",
        plain_http::serve(Door::Tcp(listener), handler),
    );
    Ok(Some(bound))
}

fn serve_admin(
    path: &std::path::Path,
    admin: Admin,
    tasks: &mut JoinSet<&'static str>,
) -> Result<admin::SocketFile, AppError> {
    let (listener, file) =
        admin::bind(path).map_err(|error| AppError::Admin(path.to_owned(), error))?;
    let handler = move |request| {
        let admin = admin.clone();
        async move { admin.answer(request).await }
    };
    spawn(
        tasks,
        "admin",
        plain_http::serve(Door::Unix(listener), handler),
    );
    Ok(file)
}

async fn bind_tcp(
    what: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |error| AppError::Bind {
        what,
        address,
        error,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn follow_control_plane(
    parts: &Parts,
    client: &ControlPlaneClient,
    addresses: &Addresses,
    (connections, decisions): (Connections, Arc<DataMetrics>),
    tasks: &mut JoinSet<&'static str>,
) -> Result<Farewell, AppError> {
    let control_plane = Arc::new(ControlPlane::new(
        client.addresses.clone(),
        client.root_pins.clone(),
        parts.config.trust_domain.clone(),
        Arc::clone(&parts.clock),
    ));
    let attesters = Attesters::open(&client.attesters).await?;
    tracing::info!(found = %attesters.describe(), "attesters are ready");
    let rotation = Rotation {
        client: AttestClient {
            control_plane: Arc::clone(&control_plane),
            clock: Arc::clone(&parts.clock),
            trust_domain: parts.config.trust_domain.clone(),
            workload: parts.config.workload.clone(),
            join_token: client.join_token.clone(),
            endpoints: endpoints(&parts.config, addresses),
        },
        attesters,
        identities: Arc::clone(&parts.identities),
        metrics: Arc::clone(&parts.metrics),
    };
    let (farewell, speaker) = farewell();
    let mesh_state = MeshStateClient {
        control_plane,
        identities: Arc::clone(&parts.identities),
        state: Arc::clone(&parts.state),
        wanted: Wanted {
            trust_domain: parts.config.trust_domain.clone(),
            workload: parts.config.workload.clone(),
        },
        readiness: Arc::clone(&parts.readiness),
        clock: Arc::clone(&parts.clock),
        metrics: Arc::clone(&parts.metrics),
        connections,
        decisions,
        farewell: speaker,
    };
    spawn(tasks, "rotation", rotation.run());
    spawn(tasks, "mesh state", mesh_state.run());
    Ok(farewell)
}

fn follow_files(parts: &Parts, files: &IdentityFiles, tasks: &mut JoinSet<&'static str>) {
    tracing::warn!("identity comes from files: peers are not attested, time is the host's");
    let identity = FileIdentity {
        files: files.clone(),
        id: SpiffeId::for_workload(&parts.config.trust_domain, &parts.config.workload),
        clock: Arc::clone(&parts.clock),
        identities: Arc::clone(&parts.identities),
        metrics: Arc::clone(&parts.metrics),
    };
    let policy = PolicyFolder {
        folder: files.policy.clone(),
        trust_domain: parts.config.trust_domain.clone(),
        clock: Arc::clone(&parts.clock),
        state: Arc::clone(&parts.state),
        readiness: Arc::clone(&parts.readiness),
        metrics: Arc::clone(&parts.metrics),
    };
    spawn(tasks, "identity files", identity.run());
    spawn(tasks, "policy folder", policy.run());
}

/// Where peers reach us: as advertised, or as really bound.
fn endpoints(config: &ProxyConfig, addresses: &Addresses) -> Vec<Endpoint> {
    let doors = config.inbound.iter().zip(&addresses.inbound);
    doors
        .map(|(door, bound)| Endpoint {
            listener: door.advertise.clone().unwrap_or_else(|| bound.to_string()),
            ports: door.ports.iter().map(|port| port.name.clone()).collect(),
        })
        .collect()
}

/// One line for people and scripts that wait for it.
async fn say_when_ready(parts: Parts) -> &'static str {
    let mut has_identity = parts.identities.has_identity();
    let mut has_policy = parts.readiness.has_policy();
    // Both senders live as long as the process.
    let _exists = has_identity.wait_for(|exists| *exists).await.is_ok();
    let _exists = has_policy.wait_for(|exists| *exists).await.is_ok();
    tracing::info!("ready");
    READY
}

/// The one task that ends by itself.
const READY: &str = "ready";

/// The signals that concern us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Taken so that it does not kill us: files are watched, so there is nothing to reload.
    _hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn leave(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Why a sidecar can't start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// No runtime: out of threads or descriptors.
    #[error("failed to start the control runtime")]
    Runtime(#[source] io::Error),
    /// Signals can't be taken.
    #[error("failed to listen for signals")]
    Signals(#[source] io::Error),
    /// A metric is registered twice: a mistake of ours.
    #[error("failed to register metrics")]
    Metrics(#[source] prometheus::Error),
    /// A listener can't be bound.
    #[error("failed to listen on `{address}`, as `{what}` of the configuration says")]
    Bind {
        /// Key in `proxy.yaml`.
        what: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The admin socket can't be made.
    #[error("failed to make the admin socket `{0}`")]
    Admin(PathBuf, #[source] io::Error),
    /// What collects evidence can't be opened.
    #[error("failed to open the attester")]
    Attester(#[from] OpenError),
    /// The access log can't be opened.
    #[error("failed to open the access log")]
    AccessLog(#[source] io::Error),
    /// A listener can't be bound, or a thread not started.
    #[error("failed to start the workers")]
    Workers(#[from] SpawnError),
    /// A part ended by itself: a mistake of ours.
    #[error("the `{0}` part of the sidecar ended by itself")]
    Ended(&'static str),
    /// A part panicked: a mistake of ours.
    #[error("a part of the sidecar panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Workers give cut connections a second for their last lines.
const LAST_LINES: Duration = Duration::from_secs(5);
/// For a file that is being read on a blocking thread while everything else has ended.
const LAST_MOMENT: Duration = Duration::from_secs(1);
