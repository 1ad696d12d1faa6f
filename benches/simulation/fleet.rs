//! Sidecars without a data path: real attestation, real mesh state, one TLS connection each.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prometheus::Registry;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tracing::Instrument;
use vouchsafe_api::convert::attest::Endpoint;
use vouchsafe_attestation::binding::Purpose;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_proxy::attester::simulated::Simulated;
use vouchsafe_proxy::attester::{Attester, Attesters};
use vouchsafe_proxy::clock::MeshClock;
use vouchsafe_proxy::drain::Drain;
use vouchsafe_proxy::health::Readiness;
use vouchsafe_proxy::mesh_state::farewell::farewell;
use vouchsafe_proxy::mesh_state::held::Wanted;
use vouchsafe_proxy::mesh_state::stream::MeshStateClient;
use vouchsafe_proxy::state::State;
use vouchsafe_proxy::svid::Identities;
use vouchsafe_proxy::svid::client::AttestClient;
use vouchsafe_proxy::svid::connection;
use vouchsafe_proxy::svid::rotation::Rotation;
use vouchsafe_proxy::telemetry::control::ControlMetrics;
use vouchsafe_proxy::telemetry::metrics::DataMetrics;
use vouchsafe_proxy::worker::Connections;

use crate::control_plane::ControlPlane;
use crate::policy;
use crate::watch;

/// Running sidecars; they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    members: Vec<Arc<Member>>,
    _tasks: JoinSet<()>,
    _drains: Vec<Drain>,
}

/// What a sidecar attests with, beside its own rotation.
#[derive(Debug)]
pub(crate) struct Member {
    client: AttestClient,
    attesters: Attesters,
    identities: Arc<Identities>,
    home: Handle,
}

impl Member {
    /// The thread that it lives on.
    pub(crate) fn home(&self) -> &Handle {
        &self.home
    }

    /// Replaces its certificate now, however often it is told to come back; says how often it was.
    pub(crate) async fn renew(&self) -> Result<u32> {
        let mut refused = 0;
        loop {
            let current = self.identities.current().context("it has no certificate")?;
            let svid = Some(current.svid.as_ref());
            let renewed = self
                .client
                .attest(&self.attesters, Purpose::Renew, svid)
                .await;
            match renewed {
                Ok(issuance) => {
                    self.identities.replace_svid(issuance.svid, issuance.bundle);
                    return Ok(refused);
                }
                Err(error) => {
                    refused += 1;
                    let later = error.retry_after().context("it is refused for good")?;
                    tokio::time::sleep(later).await;
                }
            }
        }
    }
}

impl Fleet {
    /// Starts so many, and waits until each has a certificate and a policy.
    pub(crate) async fn start(control_plane: &ControlPlane, sidecars: usize) -> Result<Self> {
        let (mut tasks, mut drains, mut policies) = (JoinSet::new(), Vec::new(), Vec::new());
        let mut members = Vec::new();
        let (here, there) = (Handle::current(), another_thread()?);
        for number in 0..sidecars {
            let drain = Drain::new(Duration::ZERO);
            let home = if number % 2 == 0 { &here } else { &there };
            let (member, readiness) = sidecar(control_plane, number, &drain, home, &mut tasks)?;
            members.push(Arc::new(member));
            policies.push(readiness.has_policy());
            drains.push(drain);
            // A start of all at once would measure how attestations queue.
            if number % 20 == 19 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        for mut policy in policies {
            let there = policy.wait_for(|there| *there);
            let there = tokio::time::timeout(START_DEADLINE, there).await;
            ensure!(
                matches!(there, Ok(Ok(_))),
                "a sidecar has no policy after {START_DEADLINE:?}"
            );
        }
        Ok(Self {
            members,
            _tasks: tasks,
            _drains: drains,
        })
    }

    pub(crate) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }
}

/// A runtime of one thread, until the process ends.
///
/// tokio's runtime of many threads would be linked into the sidecars that are built along with this, and measured there.
fn another_thread() -> Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(handle)
}

fn sidecar(
    control_plane: &ControlPlane,
    number: usize,
    drain: &Drain,
    home: &Handle,
    tasks: &mut JoinSet<()>,
) -> Result<(Member, Arc<Readiness>)> {
    let name = policy::sidecar(number);
    let workload: WorkloadName = format!("fleet/{name}").parse()?;
    let trust_domain: TrustDomain = "simulation.example".parse()?;
    let clock = Arc::new(MeshClock::authenticated());
    let state = Arc::new(State::default());
    let metrics = Arc::new(ControlMetrics::register(&Registry::new())?);
    let identities = Arc::new(Identities::new(Arc::clone(&state), Arc::clone(&metrics)));
    let readiness = Arc::new(Readiness::new(Arc::clone(&state), drain.signal()));
    let remote = Arc::new(connection::ControlPlane::new(
        vec![control_plane.address().to_string()],
        vec![control_plane.root_pin()],
        trust_domain.clone(),
        Arc::clone(&clock),
    ));
    let endpoint = Endpoint {
        listener: format!("127.0.0.1:{}", 10_000 + number),
        ports: vec!["p".parse()?],
    };
    let attesting = || AttestClient {
        control_plane: Arc::clone(&remote),
        clock: Arc::clone(&clock),
        trust_domain: trust_domain.clone(),
        workload: workload.clone(),
        join_token: None,
        endpoints: vec![endpoint.clone()],
    };
    let attesters = || {
        Attesters::new(vec![Attester::Simulated(Simulated {
            machine: name.clone(),
            image: "sim".to_owned(),
        })])
    };
    let member = Member {
        client: attesting(),
        attesters: attesters(),
        identities: Arc::clone(&identities),
        home: home.clone(),
    };
    let rotation = Rotation {
        client: attesting(),
        attesters: attesters(),
        identities: Arc::clone(&identities),
        metrics: Arc::clone(&metrics),
    };
    let client = MeshStateClient {
        control_plane: remote,
        identities,
        state,
        wanted: Wanted {
            trust_domain,
            workload,
        },
        readiness: Arc::clone(&readiness),
        clock,
        metrics,
        connections: Connections::none(),
        decisions: Arc::new(DataMetrics::new(&Registry::new())?),
        farewell: farewell().1,
    };
    tasks.spawn_on(rotation.run(), home);
    let client = client.run().instrument(watch::span_of(number));
    tasks.spawn_on(client, home);
    Ok((member, readiness))
}

const START_DEADLINE: Duration = Duration::from_secs(240);
