//! The stream that mesh state comes by: kept open, answered, and reopened with patience.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use vouchsafe_api::convert::mesh_state::probe::Probe;
use vouchsafe_api::convert::mesh_state::report::Report;
use vouchsafe_api::convert::mesh_state::{
    Acknowledgement, Holding, SignedRevision, WatchRequest, WatchResponse,
};
use vouchsafe_api::convert::unix_ms;
use vouchsafe_api::v1;
use vouchsafe_attestation::merkle::Hash;
use vouchsafe_attestation::revision::Revision;

use super::farewell::FarewellSpeaker;
use super::freshness::Freshness;
use super::held::{Held, Wanted};
use super::probe::{Asked, Questions};
use super::{Judge, RevisionError};
use crate::clock::MeshClock;
use crate::health::Readiness;
use crate::state::State;
use crate::svid::Identities;
use crate::svid::backoff::{Backoff, SaidOnce};
use crate::svid::connection::{ConnectError, ControlPlane};
use crate::telemetry::Chain;
use crate::telemetry::control::{ControlMetrics, unix_seconds};
use crate::telemetry::metrics::DataMetrics;
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
    /// Whose slice to follow.
    pub wanted: Wanted,
    /// Told of the first policy.
    pub readiness: Arc<Readiness>,
    /// Fed by each signed time.
    pub clock: Arc<MeshClock>,
    /// Counts messages.
    pub metrics: Arc<ControlMetrics>,
    /// What is live, to say what a change would end.
    pub connections: Connections,
    /// What was decided at our doors.
    pub decisions: Arc<DataMetrics>,
    /// Says when we leave.
    pub farewell: FarewellSpeaker,
}

impl MeshStateClient {
    /// Runs until it is dropped.
    ///
    /// # Cancel safety
    /// Safe: a revision is published whole or not at all.
    pub async fn run(self) {
        let progress = Progress::default();
        let freshness = Arc::clone(&progress.freshness);
        tokio::select! {
            never = self.follow_on(progress) => match never {},
            never = self.watch_over(&freshness) => match never {},
        }
    }

    /// Denies everything once what is held was the newest too long ago; the newest revision, held again, lifts that.
    async fn watch_over(&self, freshness: &Freshness) -> std::convert::Infallible {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            ticks.tick().await;
            if freshness.is_over(self.clock.now()) && self.state.set_stale(true) {
                self.count("stale");
                tracing::error!(
                    "what is held of the mesh state was the newest too long ago (`stale_after` of the Mesh, or else the end of the certificate held then): everything is denied until the control plane is followed again"
                );
            }
        }
    }

    async fn follow_on(&self, mut progress: Progress) -> std::convert::Infallible {
        let mut has_identity = self.identities.has_identity();
        let (mut backoff, mut said) = Default::default();
        loop {
            // The sender lives in `identities`, which we hold.
            let _never_closed = has_identity.wait_for(|exists| *exists).await.is_ok();
            let Err(error) = self.follow(&mut progress, &mut backoff, &mut said).await;
            self.metrics.mesh_state_connected.set(0);
            self.tell(&error, &mut said);
            tokio::time::sleep(backoff.delay(None)).await;
        }
    }

    /// Follows one stream until it ends, which it always does by an error.
    async fn follow(
        &self,
        progress: &mut Progress,
        backoff: &mut Backoff,
        said: &mut SaidOnce,
    ) -> Result<std::convert::Infallible, StreamError> {
        let mut stream = self.open(progress.held.holding()).await?;
        (progress.has_asked, progress.reported) = (false, None);
        let mut broken = SaidOnce::default();
        let mut questions = Questions::default();
        // What is to be acknowledged once all workers follow it; what comes meanwhile is taken in, and takes its place.
        let mut following: Option<Following> = None;
        loop {
            let message = tokio::select! {
                // Where workers are quick, acknowledgements keep their place among what is said.
                biased;
                answer = followed(&mut following) => {
                    stream.say(answer).await?;
                    continue;
                }
                message = stream.next(&self.clock) => message?,
                report = questions.answered() => {
                    stream.say(WatchRequest::ProbeReport(report)).await?;
                    continue;
                }
                () = self.farewell.wanted() => return self.leave(stream).await,
            };
            let revision = revision_of(&message);
            let before = progress.held.revision();
            match self.take(progress, &mut questions, message) {
                Ok(answer) => {
                    match answer {
                        // Applied means that nobody lives on what it ended: an operator's command returns when this is
                        // acknowledged.
                        Some(answer) if progress.held.revision() != before => {
                            let workers = self.connections.clone();
                            following = Some(Box::pin(async move {
                                workers.followed().await;
                                answer
                            }));
                        }
                        Some(answer) => stream.say(answer).await?,
                        None => {}
                    }
                    if progress.held.revision() == revision {
                        broken.recovered();
                    }
                }
                Err(error) => {
                    self.count(error.reason());
                    let chain = Chain(&error).to_string();
                    if broken.is_news(&chain) {
                        let reason = error.reason();
                        tracing::error!(
                            %revision,
                            reason,
                            error = chain,
                            "mesh state refused: the last good revision stays until it is stale"
                        );
                    }
                    // What was not even believed may be believed a moment later, and is then asked for again.
                    if error.is_of_content() {
                        progress.refused = Some(revision);
                    }
                    stream.say(acknowledgement(revision, Err(chain))).await?;
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

    /// Says goodbye, and waits until the control plane ends the stream: then it knows.
    async fn leave(&self, mut stream: Watch) -> Result<std::convert::Infallible, StreamError> {
        stream.say(WatchRequest::Goodbye).await?;
        while stream.next(&self.clock).await.is_ok() {}
        self.farewell.said();
        // Nothing is followed any more: the process ends.
        std::future::pending().await
    }

    async fn open(&self, holding: Holding) -> Result<Watch, StreamError> {
        let identity = self.identities.current().ok_or(StreamError::NoIdentity)?;
        let connection = self.control_plane.connect(Some(&identity.svid)).await?;
        // A connection never outlives its lease (promise 4).
        let ends = identity.svid.not_after.min(connection.server().not_after);
        // A subscription and one answer: the next message is read only when this one is answered.
        let (requests, receiver) = mpsc::channel(2);
        let outgoing = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|message| (message, receiver))
        });
        requests
            .send(WatchRequest::Subscribe(holding).into())
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

    /// Takes a message in, and says what to answer.
    fn take(
        &self,
        progress: &mut Progress,
        questions: &mut Questions,
        message: v1::WatchResponse,
    ) -> Result<Option<WatchRequest>, RevisionError> {
        let (signed, next) = match WatchResponse::try_from(message)? {
            WatchResponse::Heartbeat(signed) => {
                self.accept(progress, &signed)?;
                self.count("heartbeat");
                if signed.revision == progress.held.revision() {
                    self.confirm(progress, signed.time);
                }
                let answer = self.beat(progress, signed.revision);
                return Ok(answer.or_else(|| self.report(progress)));
            }
            WatchResponse::Probe(probe) => {
                self.count("probe");
                questions.put(self.asked(probe, &progress.held));
                return Ok(None);
            }
            WatchResponse::Snapshot(snapshot) => {
                self.accept(progress, &snapshot.revision)?;
                let signed = snapshot.revision.time;
                (signed, Held::from_snapshot(snapshot, &self.wanted)?)
            }
            WatchResponse::Delta(delta) => {
                self.accept(progress, &delta.revision)?;
                let signed = delta.revision.time;
                match progress.held.changed(delta, &self.wanted) {
                    Err(error) if error.is_misfit() => {
                        return Ok(Some(self.ask_again(progress, &error)));
                    }
                    changed => (signed, changed?),
                }
            }
        };
        progress.freshness.bound(next.stale_after());
        self.put_in_force(&next);
        self.confirm(progress, signed);
        let held = next.holding();
        *progress = Progress {
            judge: std::mem::take(&mut progress.judge),
            freshness: Arc::clone(&progress.freshness),
            held: next,
            reported: progress.reported.take(),
            ..Progress::default()
        };
        self.count("applied");
        self.sequence("applied", held.revision);
        tracing::info!(revision = %held.revision, "mesh state applied");
        let root = held.slice_root.unwrap_or_default();
        Ok(Some(acknowledgement(held.revision, Ok(root))))
    }

    fn put_in_force(&self, held: &Held) {
        // The bundle first: a policy never runs with authorities that its own revision dropped.
        if let Some(bundle) = held.bundle() {
            self.identities.replace_bundle(Arc::clone(bundle));
        }
        self.identities.announce_renewals(held.renewals());
        self.state.replace_policy(held.epoch());
        self.readiness.policy_is_there();
    }

    /// What came does not fit what is held: a change that does is asked for, and if that was asked already, or what is
    /// held is not what was proven, all of it.
    fn ask_again(&self, progress: &mut Progress, error: &RevisionError) -> WatchRequest {
        self.count(error.reason());
        let is_skip = matches!(error, RevisionError::Base { .. });
        let holding = match is_skip && !progress.has_asked {
            true => progress.held.holding(),
            false => Holding::default(),
        };
        progress.has_asked = true;
        tracing::warn!(
            reason = error.reason(),
            error = %Chain(error),
            wants_snapshot = holding.slice_root.is_none(),
            "mesh state does not fit what is held: asking again"
        );
        WatchRequest::Subscribe(holding)
    }

    /// A heartbeat: what is held must be the revision that it names, and is looked at as a whole now and then.
    fn beat(&self, progress: &mut Progress, newest: Revision) -> Option<WatchRequest> {
        let held = progress.held.holding();
        if newest != held.revision {
            if progress.refused == Some(newest) {
                return None;
            }
            self.count("behind");
            return Some(WatchRequest::Subscribe(held));
        }
        progress.beats += 1;
        if progress.beats < AUDIT_BEATS {
            return None;
        }
        progress.beats = 0;
        if !progress.held.is_whole() {
            self.count("repair");
            tracing::error!(
                revision = %held.revision,
                "what is held of the mesh state is damaged: asking for all of it"
            );
            return Some(WatchRequest::Subscribe(Holding::default()));
        }
        let root = held.slice_root?;
        Some(acknowledgement(held.revision, Ok(root)))
    }

    /// What was decided at our doors, where the control plane does not know it yet.
    fn report(&self, progress: &mut Progress) -> Option<WatchRequest> {
        let report = self.decisions.audits.report();
        if *progress.reported.get_or_insert_default() == report {
            return None;
        }
        progress.reported = Some(report.clone());
        Some(WatchRequest::Report(report))
    }

    fn asked(&self, probe: Probe, held: &Held) -> Asked {
        Asked {
            probe,
            held: held.clone(),
            wanted: self.wanted.clone(),
            connections: self.connections.clone(),
            own: self.state.identity.load_full(),
            now: self.clock.now(),
        }
    }

    /// What is held is the newest revision, as of the time of a signature.
    fn confirm(&self, progress: &Progress, signed: SystemTime) {
        if let Some(identity) = self.identities.current() {
            let until = identity.svid.not_after;
            progress.freshness.confirmed(signed, until);
        }
        let now = self.clock.now();
        if !progress.freshness.is_over(now) && self.state.set_stale(false) {
            tracing::info!("the control plane is followed again: policy counts again");
        }
    }

    fn accept(
        &self,
        progress: &mut Progress,
        signed: &SignedRevision,
    ) -> Result<(), RevisionError> {
        progress
            .judge
            .accept(signed, self.clock.now(), |chain, role| {
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
    fn tell(&self, error: &StreamError, said: &mut SaidOnce) {
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

/// How far the mesh state is followed, through streams that come and go.
#[derive(Debug, Default)]
struct Progress {
    judge: Judge,
    freshness: Arc<Freshness>,
    held: Held,
    /// Revision that was answered with an error.
    refused: Option<Revision>,
    /// Whether a change that fits was asked for since the last one that was applied.
    has_asked: bool,
    /// Heartbeats since all of it was looked at.
    beats: u32,
    /// What this stream was told of our doors.
    reported: Option<Report>,
}

/// An acknowledgement, once all workers follow what it is for.
type Following = Pin<Box<dyn Future<Output = WatchRequest> + Send>>;

/// The acknowledgement that is due; never, while none is.
async fn followed(following: &mut Option<Following>) -> WatchRequest {
    match following {
        None => std::future::pending().await,
        Some(answer) => {
            let answer = answer.await;
            *following = None;
            answer
        }
    }
}

fn acknowledgement(revision: Revision, outcome: Result<Hash, String>) -> WatchRequest {
    WatchRequest::Acknowledgement(Acknowledgement { revision, outcome })
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
        }
    }
}

/// Several heartbeats long; a dead connection is noticed earlier, by its own pings.
const SILENCE: Duration = Duration::from_secs(60);
/// For the call to open and for an acknowledgement to be taken.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// How precisely staleness is noticed.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Heartbeats between two looks at all that is held: a minute.
const AUDIT_BEATS: u32 = 30;
