//! Attestation: hello → challenge → evidence → outcome.
//!
//! A stream is a story in phases, and each phase is a value that the next one consumes: a `Challenged` exists only
//! after a hello was found good, and is used up by the first evidence, whatever the verdict. So a nonce lives in one
//! stream's memory only, and nothing else has to forget it.
//!
//! The story is told in a task of its own, and the stream only carries its answers: whoever leaves before his evidence
//! came is forgotten, but what follows from evidence that came follows whether he stays or not, and within the stream's
//! deadline whether he reads or not.
//!
//! What evidence is judged by is a [`Case`], made when the evidence is there and kept with the outcome, so that the
//! decision can be made again. Judging costs milliseconds of cryptography, which run on a thread that may block; fetching
//! what vendors say waits on nobody else's behalf, and no longer than the stream's deadline.
//!
//! Source: DESIGN §5.2 to §5.5.

mod confirm;
mod issue;
mod offer;
pub(crate) mod received;
mod refuse;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming};
use vouchsafe_api::convert::attest::{AttestRequest, AttestResponse, Challenge, Evidence, Hello};
use vouchsafe_api::v1;
use vouchsafe_api::v1::attestation_server::Attestation;
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::Withdrawn;
use vouchsafe_config::profile::AttestationProfile;
use vouchsafe_config::workload::Workload;
use vouchsafe_verifier::evidence::tpm;

use crate::admission::{Place, Rank};
use crate::archive::bundle::{Outcome, PolicyTexts, whole_ms};
use crate::ca::{CertifiedRequest, random};
use crate::case::{self, Case};
use crate::holders::{Hold, Holder};
use crate::mesh::MeshState;
use crate::reference::Fitting;
use crate::refusal::{Refused, unavailable};
use crate::registration::Instance;
use crate::standing::Duty;
use crate::state::ControlPlane;
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
        let conversation = Conversation {
            control_plane: Arc::clone(&self.control_plane),
            connection: Arc::clone(connection),
            place: None,
            incoming: request.into_inner(),
            deadline: Instant::now() + STREAM_DEADLINE,
            asked: String::new(),
            shown: None,
            known: None,
        };
        let (answers, told) = mpsc::channel(ANSWERS);
        let running = conversation.run(answers);
        self.control_plane.conversations.spawn(running);
        let told = stream::unfold(told, |mut told| async {
            let answer: AttestResponse = told.recv().await?;
            Some((Ok(answer.into()), told))
        });
        Ok(Response::new(Box::pin(told)))
    }
}

/// One stream.
struct Conversation {
    control_plane: Arc<ControlPlane>,
    connection: Arc<Connection>,
    /// Taken when the hello is there, held until the answer is: a stream that says nothing holds nothing, and one whose
    /// answer nobody reads nothing any more.
    place: Option<(Hold, Place)>,
    incoming: Streaming<v1::AttestRequest>,
    deadline: Instant,
    /// For the record: what was asked for, and what was shown.
    asked: String,
    shown: Option<Shown>,
    /// The instance that the connection proves to be, and what it is about to prove.
    known: Option<(InstanceId, Duty)>,
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
    async fn run(mut self, answers: mpsc::Sender<AttestResponse>) {
        let challenged = tokio::select! {
            biased;
            challenged = self.hello() => challenged,
            () = answers.closed() => return,
        };
        let challenged = match challenged {
            Ok((challenge, challenged)) => {
                let challenge = AttestResponse::Challenge(Box::new(challenge));
                // There is room for all answers, so nobody is waited for.
                let _gone = answers.send(challenge).await;
                challenged
            }
            Err(refused) => {
                let _gone = answers.send(self.refuse(refused).await).await;
                return;
            }
        };
        let evidence = tokio::select! {
            biased;
            evidence = self.next() => evidence,
            () = answers.closed() => return,
        };
        let answered = match evidence {
            Ok(evidence) => self.evidence(challenged, evidence).await,
            Err(refused) => Err(refused),
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(refused) => self.refuse(refused).await,
        };
        self.place = None;
        let _gone = answers.send(answer).await;
    }

    async fn hello(&mut self) -> Result<(Challenge, Box<Challenged>), Refused> {
        let mut hello = match self.next().await? {
            AttestRequest::Hello(hello) => *hello,
            AttestRequest::Evidence(_) => return Err(out_of_order()),
        };
        self.asked = hello.workload.to_string();
        if self.control_plane.outrun.borrow().is_some() {
            return Err(unavailable(
                "sidecars hold what this control plane never made: `vouchsafe status` says what to do",
            ));
        }
        let known = self.known(&hello)?;
        self.place = Some(self.take_place(&hello, known.as_ref()).await?);
        let state = Arc::clone(&self.control_plane.mesh.borrow().state);
        let (workload, profile) = find(&state, &hello.workload)?;
        let required = match (hello.proof, &known) {
            (Some(proof), Some(known)) => self.part(proof, known, &hello)?,
            (Some(_) | None, _) => self.choose(&profile, &hello)?,
        };
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
        Ok((challenge, Box::new(challenged)))
    }

    /// A place among the attestations that run at once, by urgency. Who presents a certificate has places apart, so that
    /// a flood of strangers keeps nobody from renewing.
    async fn take_place(
        &self,
        hello: &Hello,
        known: Option<&Instance>,
    ) -> Result<(Hold, Place), Refused> {
        let control_plane = &self.control_plane;
        let now = control_plane.now();
        let held = self.hold()?;
        let gate = match self.connection.peer {
            Some(_) => &control_plane.renewals,
            None => &control_plane.attestations,
        };
        let rank = match known {
            Some(known) => Rank::of_instance(known.not_after, hello.proof.is_none(), now),
            None => {
                let others = control_plane.registry.has_instances(&hello.workload, now);
                Rank::of_stranger(others, now)
            }
        };
        let place = gate.enter(rank).await.map_err(|retry_after| Refused {
            retry_after,
            ..Refused::retry(
                "busy",
                "try again when told: too many attestations at once",
                "the limit of attestations at once is reached",
            )
            .ours()
        });
        Ok((held, place?))
    }

    /// One of the few attestations that an instance, or a stranger's address, may have at once. Nobody is excused for
    /// what his own are in the way of.
    fn hold(&self) -> Result<Hold, Refused> {
        let result = self.connection.peer.as_ref().and_then(|peer| peer.result());
        let (holder, most) = match result {
            Some(result) => (Holder::Instance(result.instance), MOST_OF_INSTANCE),
            None => {
                let address = self.connection.address.ip();
                (Holder::stranger(address), MOST_OF_ADDRESS)
            }
        };
        let held = self.control_plane.holders.take(holder, most);
        held.ok_or_else(|| Refused {
            retry_after: OWN_END,
            ..Refused::retry(
                "busy",
                "end the attestations that run, or let them end, and try again",
                format!("{most} attestations of {holder:?} run already"),
            )
        })
    }

    async fn evidence(
        &mut self,
        mut challenged: Box<Challenged>,
        evidence: AttestRequest,
    ) -> Result<AttestResponse, Refused> {
        let evidence = match evidence {
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
        match request {
            Some(request) => {
                let issued = self.issue(*challenged, &case, &request, fitting).await?;
                Ok(AttestResponse::Issued(Box::new(issued)))
            }
            None => {
                let confirmed = self.confirm(*challenged, &case, fitting).await?;
                Ok(AttestResponse::Confirmed(confirmed))
            }
        }
    }

    /// What can be refused without judging evidence. The request is there unless only a part is proven.
    fn check_early(
        &self,
        challenged: &Challenged,
        evidence: &Evidence,
    ) -> Result<Option<CertifiedRequest>, Refused> {
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
            )
            .ours());
        }
        if challenged.hello.proof.is_some() {
            return match evidence.csr.is_empty() {
                true => Ok(None),
                false => Err(Refused::new(
                    "certificate_request",
                    "renew where a certificate is wanted",
                    "a certificate is requested with the proof of a part",
                )),
            };
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
        Ok(Some(request))
    }

    /// What the evidence is judged by, from our own view of the connection.
    fn case(&self, challenged: &mut Challenged, evidence: Evidence) -> Case {
        let control_plane = &self.control_plane;
        Case {
            time: whole_ms(control_plane.now()),
            hello: challenged.hello.clone(),
            evidence,
            required: challenged.required.clone(),
            part_of: challenged.part_of(),
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

/// A revoked instance proves nothing any more: its machine starts anew, as another one.
fn not_revoked(instance: &Instance) -> Result<(), Refused> {
    match &instance.withdrawn {
        Some(withdrawal) if withdrawal.state == Withdrawn::Revoked => Err(enroll_again(format!(
            "instance {} is revoked: {}",
            instance.id, withdrawal.reason
        ))),
        Some(_) | None => Ok(()),
    }
}

fn enroll_again(detail: impl Into<String>) -> Refused {
    Refused::retry("enroll_again", "start again with an enrolment", detail)
}

/// A nonce is good for a minute: a TPM needs a second, a busy machine ten.
const CHALLENGE_LIFETIME: Duration = Duration::from_secs(60);
/// Hello, challenge and evidence together.
const STREAM_DEADLINE: Duration = Duration::from_secs(90);
/// A challenge and an outcome: a task never waits for who reads them.
const ANSWERS: usize = 2;
/// A renewal and the proof of a part.
const MOST_OF_INSTANCE: usize = 2;
/// Half of the places: many machines may share an address, and one that floods leaves the other half.
const MOST_OF_ADDRESS: usize = 128;
/// An attestation takes a second.
const OWN_END: Duration = Duration::from_secs(1);
/// Beyond every certificate's end: without endorsements nothing ends with them.
const FAR: Duration = Duration::from_secs(200 * 365 * 24 * 3600);
