//! The stream that mesh state comes by: kept open, answered, and reopened with patience.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use vouchsafe_api::convert::mesh_state::probe::{Probe, ProbeReport};
use vouchsafe_api::convert::mesh_state::{SignedRevision, WatchRequest, WatchResponse, one_line};
use vouchsafe_api::convert::unix_ms;
use vouchsafe_api::v1;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::trust_domain::TrustDomain;

use super::probe::{self, Documents};
use super::{Judge, RevisionError, read_snapshot};
use crate::clock::MeshClock;
use crate::health::Readiness;
use crate::state::State;
use crate::svid::Identities;
use crate::svid::backoff::{Backoff, SaidOnce};
use crate::svid::connection::{ConnectError, ControlPlane};
use crate::telemetry::Chain;
use crate::telemetry::control::{ControlMetrics, unix_seconds};
use crate::worker::Connections;

/// Keeps policy, endpoints and bundle as the control plane says.
#[derive(Debug)]
pub struct MeshStateClient {
    /// Whom to ask, and who may sign.
    pub control_plane: Arc<ControlPlane>,
    /// Our certificate is presented; the bundle is published here.
    pub identities: Arc<Identities>,
    /// The policy is published here.
    pub state: Arc<State>,
    /// Of the mesh.
    pub trust_domain: TrustDomain,
    /// Told of the first policy.
    pub readiness: Arc<Readiness>,
    /// Fed by each signed time.
    pub clock: Arc<MeshClock>,
    /// Counts messages.
    pub metrics: Arc<ControlMetrics>,
    /// What is live, to say what a change would end.
    pub connections: Connections,
}

impl MeshStateClient {
    /// Runs until it is dropped.
    ///
    /// # Cancel safety
    /// Safe: a revision is published whole or not at all.
    pub async fn run(self) {
        let mut has_identity = self.identities.has_identity();
        let (mut judge, mut backoff, mut said) = Default::default();
        loop {
            // The sender lives in `identities`, which we hold.
            let _never_closed = has_identity.wait_for(|exists| *exists).await.is_ok();
            let Err(error) = self.follow(&mut judge, &mut backoff, &mut said).await;
            self.metrics.mesh_state_connected.set(0);
            self.report(&error, &mut said);
            tokio::time::sleep(backoff.delay(None)).await;
        }
    }

    /// Follows one stream until it ends, which it always does by an error.
    async fn follow(
        &self,
        judge: &mut Judge,
        backoff: &mut Backoff,
        said: &mut SaidOnce,
    ) -> Result<std::convert::Infallible, StreamError> {
        let mut stream = self.open().await?;
        let mut broken = SaidOnce::default();
        let mut documents = Documents::default();
        loop {
            let message = stream.next(&self.clock).await?;
            let revision = revision_of(&message);
            match self.apply(judge, message, &mut documents) {
                Ok(Applied::Revision(revision)) => {
                    stream.acknowledge(revision, None).await?;
                    tracing::info!(%revision, "mesh state applied");
                    broken.recovered();
                }
                Ok(Applied::Heartbeat) => {}
                Ok(Applied::Asked(probe)) => {
                    let report = self.judge_probe(&probe, &documents).await;
                    stream.report(report).await?;
                }
                Ok(Applied::WantsSnapshot) => return Err(StreamError::Delta),
                Err(error) => {
                    self.count(error.reason());
                    let chain = Chain(&error).to_string();
                    if broken.is_news(&chain) {
                        let reason = error.reason();
                        tracing::error!(
                            %revision,
                            reason,
                            error = chain,
                            "mesh state refused: the last good revision stays"
                        );
                    }
                    stream.acknowledge(revision, Some(chain)).await?;
                    continue;
                }
            }
            // Something verified came over this stream: the way works again.
            backoff.reset();
            if said.recovered() {
                tracing::info!("mesh state is followed again");
            }
        }
    }

    async fn open(&self) -> Result<Watch, StreamError> {
        let identity = self.identities.current().ok_or(StreamError::NoIdentity)?;
        let connection = self.control_plane.connect(Some(&identity.svid)).await?;
        // A connection never outlives its lease (promise 4).
        let ends = identity.svid.not_after.min(connection.server().not_after);
        // A subscription and one acknowledgement: the next snapshot is read only when this one is answered.
        let (requests, receiver) = mpsc::channel(2);
        let outgoing = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|message| (message, receiver))
        });
        let applied = self.state.policy.load().revision;
        requests
            .send(WatchRequest::Subscribe(applied).into())
            .await
            .map_err(|_| StreamError::Ended)?;
        let mut client = connection.mesh_state();
        let call = client.watch(outgoing);
        let responses = tokio::time::timeout(OPEN_DEADLINE, call)
            .await
            .map_err(|_| StreamError::Silent)?
            .map_err(|status| StreamError::Rpc(Box::new(status)))?
            .into_inner();
        self.metrics.mesh_state_connected.set(1);
        Ok(Watch {
            requests,
            responses,
            ends,
            _connection: connection,
        })
    }

    fn apply(
        &self,
        judge: &mut Judge,
        message: v1::WatchResponse,
        documents: &mut Documents,
    ) -> Result<Applied, RevisionError> {
        match WatchResponse::try_from(message)? {
            WatchResponse::Heartbeat(signed) => {
                self.accept(judge, &signed)?;
                self.count("heartbeat");
                Ok(Applied::Heartbeat)
            }
            WatchResponse::Delta(_) => Ok(Applied::WantsSnapshot),
            WatchResponse::Probe(probe) => Ok(Applied::Asked(probe)),
            WatchResponse::Snapshot(snapshot) => {
                self.accept(judge, &snapshot.revision)?;
                let revision = snapshot.revision.revision;
                let held = Documents::of(&snapshot.resources);
                let read = read_snapshot(snapshot, &self.trust_domain)?;
                *documents = held;
                // The bundle first: a policy never runs with authorities that its own revision dropped.
                self.identities.replace_bundle(read.bundle);
                self.identities.announce_renewals(read.renewals);
                self.state.replace_policy(read.policy);
                self.readiness.policy_is_there();
                self.count("applied");
                self.sequence("applied", revision);
                Ok(Applied::Revision(revision))
            }
        }
    }

    /// What would fall if the probe's resources were in force.
    async fn judge_probe(&self, probe: &Probe, documents: &Documents) -> ProbeReport {
        let supposed = documents.supposed(probe, &self.trust_domain);
        let own = self.state.identity.load_full();
        probe::answer(probe.id, supposed, &self.connections, own, self.clock.now()).await
    }

    fn accept(&self, judge: &mut Judge, signed: &SignedRevision) -> Result<(), RevisionError> {
        judge.accept(signed, |chain, role| {
            self.control_plane.verify_role(chain, role)
        })?;
        self.clock.observe_ms(unix_ms(signed.time));
        self.metrics
            .mesh_state_heard
            .set(unix_seconds(self.clock.now()));
        self.sequence("seen", signed.revision);
        Ok(())
    }

    fn sequence(&self, which: &str, revision: Revision) {
        let sequence = i64::try_from(revision.sequence).unwrap_or(i64::MAX);
        self.metrics
            .mesh_state_sequence
            .with_label_values(&[which])
            .set(sequence);
    }

    fn count(&self, outcome: &str) {
        self.metrics
            .mesh_state_messages
            .with_label_values(&[outcome])
            .inc();
    }

    /// Says once why the stream ended; its planned end is no news.
    fn report(&self, error: &StreamError, said: &mut SaidOnce) {
        let chain = Chain(error).to_string();
        if !matches!(error, StreamError::Lease) && said.is_news(&chain) {
            tracing::warn!(
                reason = error.reason(),
                error = chain,
                "mesh state is not followed: the last revision stays in force, will keep trying"
            );
        }
    }
}

/// What a message led to.
enum Applied {
    Revision(Revision),
    Heartbeat,
    Asked(Probe),
    WantsSnapshot,
}

/// One open stream.
struct Watch {
    requests: mpsc::Sender<v1::WatchRequest>,
    responses: Streaming<v1::WatchResponse>,
    ends: SystemTime,
    _connection: crate::svid::connection::Connection,
}

impl Watch {
    async fn next(&mut self, clock: &MeshClock) -> Result<v1::WatchResponse, StreamError> {
        let lease = self
            .ends
            .duration_since(clock.now())
            .map_err(|_| StreamError::Lease)?;
        let deadline = SILENCE.min(lease);
        match tokio::time::timeout(deadline, self.responses.message()).await {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(StreamError::Ended),
            Ok(Err(status)) => Err(StreamError::Rpc(Box::new(status))),
            Err(_) if deadline < SILENCE => Err(StreamError::Lease),
            Err(_) => Err(StreamError::Silent),
        }
    }

    async fn acknowledge(
        &self,
        revision: Revision,
        error: Option<String>,
    ) -> Result<(), StreamError> {
        let error = error.map(|error| one_line(&error));
        self.say(WatchRequest::Acknowledgement { revision, error })
            .await
    }

    async fn report(&self, report: ProbeReport) -> Result<(), StreamError> {
        self.say(WatchRequest::ProbeReport(report)).await
    }

    async fn say(&self, message: WatchRequest) -> Result<(), StreamError> {
        tokio::time::timeout(OPEN_DEADLINE, self.requests.send(message.into()))
            .await
            .map_err(|_| StreamError::Silent)?
            .map_err(|_| StreamError::Ended)
    }
}

/// The revision that a message speaks of, before anything is believed: for the acknowledgement.
fn revision_of(message: &v1::WatchResponse) -> Revision {
    use v1::watch_response::Message;
    let signed = match &message.message {
        Some(Message::Snapshot(snapshot)) => snapshot.revision.as_ref(),
        Some(Message::Heartbeat(heartbeat)) => heartbeat.revision.as_ref(),
        Some(Message::Delta(delta)) => delta.revision.as_ref(),
        Some(Message::Probe(_)) | None => None,
    };
    signed
        .and_then(|signed| signed.revision)
        .map(Into::into)
        .unwrap_or_default()
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Our certificate was withdrawn meanwhile.
    #[error("there is no certificate to present")]
    NoIdentity,
    /// No connection to the control plane.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The call failed.
    #[error("the mesh-state call failed")]
    Rpc(#[source] Box<Status>),
    /// The control plane ended the stream.
    #[error("the control plane ended the stream")]
    Ended,
    /// Nothing came for longer than heartbeats are apart.
    #[error("the control plane fell silent")]
    Silent,
    /// Our certificate or the control plane's ended: a new connection shows the new one.
    #[error("the connection's lease ended")]
    Lease,
    /// A change came that this build can't apply; a new stream starts with a snapshot.
    #[error("the control plane sent a delta")]
    Delta,
}

impl StreamError {
    /// The bounded word for logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::Connect(error) => error.reason(),
            Self::Rpc(_) | Self::Ended => "transport",
            Self::Silent => "silent",
            Self::Lease => "lease",
            Self::Delta => "delta",
        }
    }
}

/// Several heartbeats long; a dead connection is noticed earlier, by its own pings.
const SILENCE: Duration = Duration::from_secs(60);
/// For the call to open and for an acknowledgement to be taken.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
