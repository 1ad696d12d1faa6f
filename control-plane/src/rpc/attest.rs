//! Attestation: hello → challenge → evidence → outcome.
//!
//! A stream is a story in phases, and each phase is a value that the next one consumes: a `Challenged` exists only
//! after a hello was found good, and is used up by the first evidence, whatever the verdict. So a nonce lives in one
//! stream's memory only, and nothing else has to forget it.
//!
//! What evidence is judged by is a [`Case`], made when the evidence is there and kept with the outcome, so that the
//! decision can be made again. Judging costs milliseconds of cryptography, which run on a thread that may block; fetching
//! what vendors say waits on nobody else's behalf, and no longer than the stream's deadline.
//!
//! Source: DESIGN §5.2 to §5.5.

mod issue;
mod offer;
pub(crate) mod received;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming};
use vouchsafe_api::convert::attest::{
    AttestRequest, AttestResponse, Challenge, Evidence, Hello, Issued,
};
use vouchsafe_api::convert::record::{Event, Refused as RefusedRecord};
use vouchsafe_api::v1;
use vouchsafe_api::v1::attestation_server::Attestation;
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_config::profile::AttestationProfile;
use vouchsafe_config::workload::Workload;
use vouchsafe_verifier::evidence::tpm;

use crate::archive::bundle::{Outcome, PolicyTexts, whole_ms};
use crate::ca::{CertifiedRequest, random};
use crate::case::{self, Case};
use crate::mesh::MeshState;
use crate::reference::Fitting;
use crate::refusal::{Refused, unavailable};
use crate::registration::Instance;
use crate::state::ControlPlane;
use crate::telemetry::Chain;
use crate::tls::Connection;

/// The attestation service.
#[derive(Debug)]
pub struct AttestationApi {
    control_plane: Arc<ControlPlane>,
}

impl AttestationApi {
    /// Serves from a control plane.
    pub fn new(control_plane: Arc<ControlPlane>) -> Self {
        Self { control_plane }
    }
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<v1::AttestResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Attestation for AttestationApi {
    type AttestStream = Outgoing;

    async fn attest(
        &self,
        request: Request<Streaming<v1::AttestRequest>>,
    ) -> Result<Response<Outgoing>, Status> {
        let connection = request.extensions().get::<Arc<Connection>>();
        let connection = connection.ok_or_else(|| Status::internal("no connection"))?;
        let attestation = Conversation {
            control_plane: Arc::clone(&self.control_plane),
            connection: Arc::clone(connection),
            permit: None,
            incoming: request.into_inner(),
            deadline: Instant::now() + STREAM_DEADLINE,
            asked: String::new(),
            shown: None,
        };
        let phases = stream::unfold(Phase::Hello(Box::new(attestation)), |phase| async {
            let (answer, next) = phase.run().await?;
            Some((Ok(answer.into()), next))
        });
        Ok(Response::new(Box::pin(phases)))
    }
}

enum Phase {
    Hello(Box<Conversation>),
    Evidence(Box<Conversation>, Box<Challenged>),
    Over,
}

impl Phase {
    /// One answer and the next phase; `None` ends the stream.
    async fn run(self) -> Option<(AttestResponse, Self)> {
        match self {
            Self::Hello(mut conversation) => match conversation.hello().await {
                Ok((challenge, challenged)) => Some((
                    AttestResponse::Challenge(Box::new(challenge)),
                    Self::Evidence(conversation, Box::new(challenged)),
                )),
                Err(refused) => Some((conversation.refuse(refused).await, Self::Over)),
            },
            Self::Evidence(mut conversation, challenged) => {
                let answer = match conversation.evidence(*challenged).await {
                    Ok(issued) => AttestResponse::Issued(Box::new(issued)),
                    Err(refused) => conversation.refuse(refused).await,
                };
                Some((answer, Self::Over))
            }
            Self::Over => None,
        }
    }
}

/// One stream.
struct Conversation {
    control_plane: Arc<ControlPlane>,
    connection: Arc<Connection>,
    /// Taken when the hello is there, held as long as the stream lives: a stream that says nothing holds nothing.
    permit: Option<OwnedSemaphorePermit>,
    incoming: Streaming<v1::AttestRequest>,
    deadline: Instant,
    /// For the record: what was asked for, and what was shown.
    asked: String,
    shown: Option<Shown>,
}

/// Evidence that came, and what it is judged by.
struct Shown {
    case: Arc<Case>,
    policy: PolicyTexts,
}

/// A hello that was found good, and what it was answered: consumed by the first evidence.
struct Challenged {
    hello: Hello,
    nonce: Nonce,
    expires: Instant,
    state: Arc<MeshState>,
    workload: Workload,
    profile: AttestationProfile,
    required: Vec<EvidenceKind>,
    /// Taken by the case.
    tpm: Option<tpm::Challenged>,
    /// The instance that renews; `None` for an enrolment.
    known: Option<Instance>,
    token_sha256: Option<[u8; 32]>,
    /// The earliest end of what vendors said.
    endorsements_end: SystemTime,
}

impl Conversation {
    async fn hello(&mut self) -> Result<(Challenge, Challenged), Refused> {
        let mut hello = match self.next().await? {
            AttestRequest::Hello(hello) => *hello,
            AttestRequest::Evidence(_) => return Err(out_of_order()),
        };
        self.asked = hello.workload.to_string();
        self.permit = Some(self.take_place()?);
        let state = Arc::clone(&self.control_plane.mesh.borrow().state);
        let (workload, profile) = find(&state, &hello.workload)?;
        let required = self.choose(&profile, &hello)?;
        let known = self.known(&hello)?;
        let (tpm, answers) = self.answers(&hello, &required, &state, &profile, known.as_ref())?;
        let nonce = Nonce(random().map_err(|error| unavailable(error.to_string()))?);
        let challenge = Challenge {
            nonce,
            server_time: self.control_plane.now(),
            required: required.clone(),
            policy_revision: state.revision,
            answers,
        };
        // From here on nothing needs the token itself.
        let token_sha256 = hello.join_token.take().map(|token| token.sha256());
        let challenged = Challenged {
            hello,
            nonce,
            expires: Instant::now() + CHALLENGE_LIFETIME,
            state,
            workload,
            profile,
            required,
            tpm,
            known,
            token_sha256,
            endorsements_end: SystemTime::UNIX_EPOCH + FAR,
        };
        Ok((challenge, challenged))
    }

    /// A place among the attestations that run at once. Who presents a certificate has places apart, so that a flood
    /// of strangers keeps nobody from renewing.
    fn take_place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        let control_plane = &self.control_plane;
        let places = match self.connection.peer {
            Some(_) => &control_plane.renewals,
            None => &control_plane.attestations,
        };
        Arc::clone(places).try_acquire_owned().map_err(|_| {
            Refused::retry(
                "busy",
                "try again: too many attestations at once",
                "the limit of attestations at once is reached",
            )
        })
    }

    async fn evidence(&mut self, mut challenged: Challenged) -> Result<Issued, Refused> {
        let evidence = match self.next().await? {
            AttestRequest::Evidence(evidence) => *evidence,
            AttestRequest::Hello(_) => return Err(out_of_order()),
        };
        let mut case = self.case(&mut challenged, evidence);
        let policy = PolicyTexts::of(&challenged.state, &challenged.profile);
        let early = self.check_early(&challenged, &case.evidence);
        let mut lacking = None;
        if early.is_ok() {
            lacking = self.gather(&mut challenged, &mut case).await?;
        }
        let case = Arc::new(case);
        self.shown = Some(Shown {
            case: Arc::clone(&case),
            policy,
        });
        let request = early?;
        let fitting = self.judge(&case, &challenged.profile).await;
        let fitting = fitting.map_err(|refused| refused.explained_by(lacking))?;
        self.issue(challenged, &case, &request, fitting).await
    }

    /// What can be refused without judging evidence.
    fn check_early(
        &self,
        challenged: &Challenged,
        evidence: &Evidence,
    ) -> Result<CertifiedRequest, Refused> {
        if Instant::now() >= challenged.expires {
            return Err(Refused::retry(
                "challenge_expired",
                "start again: the challenge was good for 60 seconds",
                "evidence came after the challenge had expired",
            ));
        }
        let current = Arc::clone(&self.control_plane.mesh.borrow().state);
        if current.policy.digest != challenged.state.policy.digest {
            return Err(Refused::retry(
                "policy_changed",
                "start again: policy changed in between",
                format!(
                    "challenged under {}, in force is {}",
                    challenged.state.revision, current.revision
                ),
            ));
        }
        let request = CertifiedRequest::verify(&evidence.csr).map_err(|error| {
            Refused::new(
                "certificate_request",
                "update the sidecar: its certificate request is not acceptable",
                error.to_string(),
            )
        })?;
        if request.spki_sha256() != challenged.hello.spki_sha256 {
            return Err(Refused::new(
                "certificate_request_key",
                "ask for a certificate for the key that the hello named",
                format!(
                    "the hello names key {}, the request is for {}",
                    hex::encode(challenged.hello.spki_sha256),
                    hex::encode(request.spki_sha256())
                ),
            ));
        }
        Ok(request)
    }

    /// What the evidence is judged by, from our own view of the connection.
    fn case(&self, challenged: &mut Challenged, evidence: Evidence) -> Case {
        let control_plane = &self.control_plane;
        Case {
            time: whole_ms(control_plane.now()),
            hello: challenged.hello.clone(),
            evidence,
            required: challenged.required.clone(),
            tpm: challenged.tpm.take(),
            previous_tpm: { challenged.known.as_ref() }.and_then(|known| known.tpm.clone()),
            connection: case::Connection {
                nonce: challenged.nonce,
                leaf_sha256: self.connection.leaf_sha256,
                exporter: self.connection.exporter,
            },
            trust_domain: control_plane.fixed.trust_domain.clone(),
            accepts_simulated: control_plane.fixed.accepts_simulated,
            revision: challenged.state.revision,
            endorsements: control_plane.roots.published().to_vec(),
            roots: control_plane.roots.clone(),
        }
    }

    /// Gets what vendors must say of this hardware, and says what could not be had and when to try again. That alone
    /// refuses nothing: the verifier says whether it lacks it.
    ///
    /// Waits on nobody else's behalf: what is held is there at once, and what a vendor does not answer in time is left out.
    async fn gather(
        &self,
        challenged: &mut Challenged,
        case: &mut Case,
    ) -> Result<Option<(String, Duration)>, Refused> {
        let needs = case.needs()?;
        if needs.is_empty() {
            return Ok(None);
        }
        let user = challenged.hello.workload.to_string();
        let gathering = self.control_plane.endorsements.gather(&needs, &user);
        let gathered = tokio::time::timeout_at(self.deadline, gathering).await;
        let gathered = gathered.map_err(|_| deadline())?;
        let now = self.control_plane.now();
        for file in &gathered.files {
            // What is over and given all the same only revokes: it vouches for nothing whose end could count.
            if now <= file.endorsement.until() {
                let end = challenged.endorsements_end.min(file.endorsement.until());
                challenged.endorsements_end = end;
            }
            let bytes = file.endorsement.bytes().to_vec();
            case.endorsements.push((file.name.clone(), bytes));
        }
        // Fetching took its time: what is judged now is judged by the time of now.
        case.time = whole_ms(self.control_plane.now());
        Ok(gathered.refusal().map(|(_, detail, wait)| (detail, wait)))
    }

    /// Judges on a thread that may block: a machine with eight GPUs costs tens of milliseconds.
    async fn judge(
        &self,
        case: &Arc<Case>,
        profile: &AttestationProfile,
    ) -> Result<Fitting, Refused> {
        let (case, profile) = (Arc::clone(case), profile.clone());
        let judged = tokio::task::spawn_blocking(move || case.judge(&profile)).await;
        judged.unwrap_or_else(|error| Err(unavailable(error.to_string())))
    }

    /// Keeps what a decision was made from; the digest is for the record.
    async fn keep(
        &self,
        case: &Arc<Case>,
        challenged: &Challenged,
        outcome: Outcome,
    ) -> Result<[u8; 32], Refused> {
        let policy = PolicyTexts::of(&challenged.state, &challenged.profile);
        let kept = self.control_plane.archive.keep(case, policy, outcome).await;
        kept.map_err(|error| unavailable(format!("the archive can't be written: {error}")))
    }

    /// Records a refusal with all that is known, and answers with the word and the remedy only.
    async fn refuse(&mut self, refused: Refused) -> AttestResponse {
        let evidence_sha256 = self.keep_refused(&refused).await;
        let control_plane = &self.control_plane;
        let refusals = &control_plane.metrics.refused;
        refusals.with_label_values(&[refused.reason]).inc();
        let peer = self.connection.address.to_string();
        tracing::info!(
            workload = self.asked,
            reason = refused.reason,
            detail = refused.detail,
            peer,
            "attestation refused"
        );
        let state = Arc::clone(&control_plane.mesh.borrow().state);
        if let Ok(workload) = self.asked.parse::<WorkloadName>()
            && state.policy.set.workload(&workload).is_some()
        {
            let now = control_plane.now();
            control_plane
                .registry
                .refused(workload, now, refused.reason);
        }
        let event = Event::Refused(Box::new(RefusedRecord {
            workload: self.asked.clone(),
            reason: refused.reason.to_owned(),
            detail: refused.detail.clone(),
            peer,
            evidence_sha256,
            policy_revision: state.revision,
        }));
        if let Err(error) = control_plane.record(event).await {
            tracing::error!(error = %Chain(&error), "failed to record a refusal");
        }
        AttestResponse::Refusal(refused.to_wire())
    }

    /// A refusal stands whether its evidence could be kept or not.
    async fn keep_refused(&mut self, refused: &Refused) -> [u8; 32] {
        let Some(Shown { case, policy }) = self.shown.take() else {
            return [0; 32];
        };
        let outcome = Outcome::refused(refused);
        match self
            .control_plane
            .archive
            .keep(&case, policy, outcome)
            .await
        {
            Ok(digest) => digest,
            Err(error) => {
                tracing::error!(%error, "failed to keep refused evidence");
                [0; 32]
            }
        }
    }

    /// The peer's next message, within the stream's deadline and every bound.
    async fn next(&mut self) -> Result<AttestRequest, Refused> {
        let message = tokio::time::timeout_at(self.deadline, self.incoming.message())
            .await
            .map_err(|_| deadline())?;
        match message {
            Ok(Some(message)) => Ok(AttestRequest::try_from(message)?),
            Ok(None) => Err(Refused::retry(
                "incomplete",
                "start again: the attestation ended early",
                "the peer ended the stream",
            )),
            Err(status) if status.code() == Code::OutOfRange => Err(Refused::new(
                "oversize_message",
                "send at most 1 MiB of evidence",
                status.message(),
            )),
            Err(status) => Err(Refused::new(
                "malformed_message",
                "update the sidecar: it sent a message that this control plane does not accept",
                status.message(),
            )),
        }
    }
}

fn find(state: &MeshState, name: &WorkloadName) -> Result<(Workload, AttestationProfile), Refused> {
    let set = &state.policy.set;
    let workload = set.workload(name).ok_or_else(|| {
        Refused::new(
            "unknown_workload",
            "write a Workload document of this name, or correct the name in proxy.yaml",
            format!("policy {} has no workload {name}", state.revision),
        )
    })?;
    let profile = set.profile(&workload.profile).ok_or_else(|| {
        unavailable(format!(
            "policy {} has no profile {}",
            state.revision, workload.profile
        ))
    })?;
    Ok((workload.clone(), profile.clone()))
}

fn deadline() -> Refused {
    Refused::retry(
        "deadline",
        "start again: the attestation did not end in time",
        "the stream's deadline passed",
    )
}

fn out_of_order() -> Refused {
    Refused::new(
        "out_of_order",
        "update the sidecar: a hello comes first, evidence second",
        "a message came out of order",
    )
}

fn enroll_again(detail: impl Into<String>) -> Refused {
    Refused::retry("enroll_again", "start again with an enrolment", detail)
}

/// A nonce is good for a minute: a TPM needs a second, a busy machine ten.
const CHALLENGE_LIFETIME: Duration = Duration::from_secs(60);
/// Hello, challenge and evidence together.
const STREAM_DEADLINE: Duration = Duration::from_secs(90);
/// Beyond every certificate's end: without endorsements nothing ends with them.
const FAR: Duration = Duration::from_secs(200 * 365 * 24 * 3600);
