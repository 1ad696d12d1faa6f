//! Attestation: hello → challenge → evidence → outcome.
//!
//! A stream is a story in phases, and each phase is a value that the next one consumes: a `Challenged` exists only
//! after a hello was found good, and is used up by the first evidence, whatever the verdict. So a nonce lives in one
//! stream's memory only, and nothing else has to forget it.
//!
//! Source: DESIGN §5.2 to §5.5.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming};
use vouchsafe_api::convert::attest::{
    Answer, AttestRequest, AttestResponse, AzVtpmEvidence, Challenge, Evidence, EvidenceBody,
    Hello, Issued, Offer, PcrBank, PcrHash, PcrSelection as WireSelection, TpmAnswer, TpmOffer,
};
use vouchsafe_api::convert::record::{Event, Issuance, Refused as RefusedRecord};
use vouchsafe_api::v1;
use vouchsafe_api::v1::attestation_server::Attestation;
use vouchsafe_attestation::binding::{Base, Nonce, Purpose, Role, Transcript};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::node::NodeHardware;
use vouchsafe_config::profile::AttestationProfile;
use vouchsafe_config::workload::Workload;
use vouchsafe_verifier::appraise::Expected;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::pcr::{PcrSelection, PcrSet, PcrValues};
use vouchsafe_verifier::evidence::{self, received, simulated, tpm};
use vouchsafe_verifier::vendor_roots::VendorRoots;

use crate::ca::{CertifiedRequest, random};
use crate::issuance::{Decision, Membership, Plan, hardware_name, membership, plan};
use crate::mesh::MeshState;
use crate::reference::{self, Fitting, appraise_profile, pcr_selection};
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
            evidence_sha256: [0; 32],
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
    evidence_sha256: [u8; 32],
}

/// A hello that was found good, and what it was answered: consumed by the first evidence.
struct Challenged {
    hello: Hello,
    nonce: Nonce,
    expires: Instant,
    state: Arc<MeshState>,
    workload: Workload,
    profile: AttestationProfile,
    kind: EvidenceKind,
    tpm: Option<tpm::Challenged>,
    /// The instance that renews; `None` for an enrolment.
    known: Option<Instance>,
}

impl Conversation {
    async fn hello(&mut self) -> Result<(Challenge, Challenged), Refused> {
        let hello = match self.next().await? {
            AttestRequest::Hello(hello) => *hello,
            AttestRequest::Evidence(_) => return Err(out_of_order()),
        };
        self.asked = hello.workload.to_string();
        self.permit = Some(self.take_place()?);
        let state = Arc::clone(&self.control_plane.mesh.borrow().state);
        let (workload, profile) = find(&state, &hello.workload)?;
        let kind = self.choose(&profile, &hello)?;
        let known = self.known(&hello)?;
        let (tpm, answers) = self.challenge_tpm(&hello, kind, &state, &profile, known.as_ref())?;
        let nonce = Nonce(random().map_err(|error| unavailable(error.to_string()))?);
        let challenge = Challenge {
            nonce,
            server_time: self.control_plane.now(),
            required: vec![kind],
            policy_revision: state.revision,
            answers,
        };
        let challenged = Challenged {
            hello,
            nonce,
            expires: Instant::now() + CHALLENGE_LIFETIME,
            state,
            workload,
            profile,
            kind,
            tpm,
            known,
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

    /// The first alternative of the profile for which evidence is offered.
    fn choose(&self, profile: &AttestationProfile, hello: &Hello) -> Result<EvidenceKind, Refused> {
        let accepts_simulated = self.control_plane.fixed.accepts_simulated;
        let offered = |kind: EvidenceKind| hello.offers.iter().any(|offer| offer.kind() == kind);
        let acceptable = |kind: &EvidenceKind| match kind {
            EvidenceKind::Tpm => true,
            EvidenceKind::Simulated => accepts_simulated,
            // No attester is wired to these yet.
            EvidenceKind::SevSnp
            | EvidenceKind::Tdx
            | EvidenceKind::AzSnpVtpm
            | EvidenceKind::AzTdxVtpm
            | EvidenceKind::NvidiaGpu
            | EvidenceKind::Nitro => false,
        };
        // Sets of several kinds are not asked for yet.
        let mut wanted = reference::kinds(profile).filter_map(|kinds| match kinds.as_slice() {
            [one] => Some(*one),
            _ => None,
        });
        if let Some(kind) = wanted.find(|kind| acceptable(kind) && offered(*kind)) {
            return Ok(kind);
        }
        if offered(EvidenceKind::Simulated) && !accepts_simulated {
            return Err(Refused::new(
                "simulated_not_accepted",
                "this trust domain does not accept simulated evidence: offer a TPM's",
                "the trust domain was made without `danger_accept_simulated`",
            ));
        }
        let names: Vec<String> = reference::kinds(profile)
            .map(|kinds| {
                let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
                words.join(" with ")
            })
            .collect();
        Err(Refused::new(
            "required_evidence",
            "offer the evidence that the workload's profile names",
            format!("profile {} wants {}", profile.name, names.join(" or ")),
        ))
    }

    /// The instance that a renewal is of: who the connection says it is, and nothing that the hello claims.
    fn known(&self, hello: &Hello) -> Result<Option<Instance>, Refused> {
        match hello.purpose {
            Purpose::Enroll => return Ok(None),
            Purpose::Reattest => {
                return Err(Refused::new(
                    "purpose_not_supported",
                    "renew instead: this control plane issues a certificate for every attestation",
                    "purpose `reattest`",
                ));
            }
            Purpose::Renew => {}
        }
        let peer = self.connection.peer.as_ref();
        let result = peer.and_then(|peer| peer.result());
        let (Some(peer), Some(result)) = (peer, result) else {
            return Err(enroll_again("the connection presents no certificate"));
        };
        if peer.not_after() <= self.control_plane.now() {
            return Err(enroll_again("the certificate of the connection has ended"));
        }
        if peer.id().workload().as_ref() != Some(&hello.workload) {
            return Err(enroll_again(format!("the connection is of {}", peer.id())));
        }
        let instance = self.control_plane.registry.instance(&result.instance);
        match instance {
            Some(instance) if instance.workload == hello.workload => Ok(Some(instance)),
            Some(_) | None => Err(enroll_again(format!(
                "instance {} is not registered",
                result.instance
            ))),
        }
    }

    fn challenge_tpm(
        &self,
        hello: &Hello,
        kind: EvidenceKind,
        state: &MeshState,
        profile: &AttestationProfile,
        known: Option<&Instance>,
    ) -> Result<(Option<tpm::Challenged>, Vec<Answer>), Refused> {
        let offer = match (kind, tpm_offer(hello)) {
            (EvidenceKind::Tpm, Some(offer)) => offer,
            (
                EvidenceKind::Tpm
                | EvidenceKind::SevSnp
                | EvidenceKind::Tdx
                | EvidenceKind::AzSnpVtpm
                | EvidenceKind::AzTdxVtpm
                | EvidenceKind::NvidiaGpu
                | EvidenceKind::Nitro
                | EvidenceKind::Simulated,
                _,
            ) => {
                if known.is_some_and(|known| known.tpm.is_some()) {
                    return Err(enroll_again("the instance enrolled with a TPM"));
                }
                return Ok((None, vec![]));
            }
        };
        let now = self.control_plane.now();
        let checked = tpm::CheckedOffer::check(&offer, &state.policy.ek_roots, now)?;
        if let Some(known) = known {
            let same = known
                .tpm
                .as_ref()
                .is_some_and(|tpm| tpm.ak_name == checked.ak_name());
            if !same {
                // Another key may be another TPM: its history starts anew (DESIGN §5.3).
                return Err(enroll_again("the attestation key is not the one enrolled"));
            }
        }
        let (credential, challenged) = checked.challenge(pcr_selection(profile))?;
        let answer = Answer::Tpm(TpmAnswer {
            credential_blob: credential.blob,
            encrypted_secret: credential.encrypted_secret,
            selection: wire_selection(challenged.selection()),
        });
        Ok((Some(challenged), vec![answer]))
    }

    async fn evidence(&mut self, challenged: Challenged) -> Result<Issued, Refused> {
        let evidence = match self.next().await? {
            AttestRequest::Evidence(evidence) => *evidence,
            AttestRequest::Hello(_) => return Err(out_of_order()),
        };
        self.evidence_sha256 = digest_of(&evidence);
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
        let now = self.control_plane.now();
        let fitting = self.appraise(&challenged, evidence, now)?;
        self.issue(challenged, &request, fitting, now).await
    }

    /// Judges evidence against what this end of the connection knows.
    fn appraise(
        &self,
        challenged: &Challenged,
        evidence: Evidence,
        now: SystemTime,
    ) -> Result<Fitting, Refused> {
        let base = self.base(challenged);
        let machine = challenged
            .hello
            .offers
            .iter()
            .find_map(|offer| match offer {
                Offer::Simulated { machine } => Some(machine.as_str()),
                _ => None,
            });
        let expected = Expected {
            base: &base,
            required: &[challenged.kind],
            vtpm_key: None,
            nvidia_devices: 0,
            endorsements: &[],
            roots: &VendorRoots::PINNED,
            tpm: challenged.tpm.as_ref(),
            previous_tpm: challenged.known.as_ref().and_then(|one| one.tpm.as_ref()),
            simulated_machine: machine.filter(|_| challenged.kind == EvidenceKind::Simulated),
            danger_accept_simulated: self.control_plane.fixed.accepts_simulated,
        };
        let items = evidence
            .items
            .into_iter()
            .map(verifier_item)
            .collect::<Result<Vec<_>, _>>()?;
        appraise_profile(&items, &challenged.profile, &expected, now)
    }

    /// The transcript, from our own view of the connection.
    fn base(&self, challenged: &Challenged) -> Base {
        let offer = challenged.tpm.as_ref().map(tpm::Challenged::offer);
        let names = offer.map(|offer| (offer.ek_name(), offer.ak_name()));
        let (ek_name, ak_name) = names.unwrap_or_default();
        Transcript {
            purpose: challenged.hello.purpose,
            role: Role::Attester,
            trust_domain: &self.control_plane.fixed.trust_domain,
            workload: &challenged.hello.workload,
            client_nonce: challenged.hello.client_nonce,
            server_nonce: challenged.nonce,
            spki_sha256: challenged.hello.spki_sha256,
            server_leaf_sha256: self.connection.leaf_sha256,
            exporter: self.connection.exporter,
            ek_name: &ek_name,
            ak_name: &ak_name,
            policy_revision: challenged.state.revision,
        }
        .base()
    }

    /// Membership, certificate, registration, record; the answer last, so that nothing is handed out unrecorded.
    async fn issue(
        &self,
        challenged: Challenged,
        request: &CertifiedRequest,
        fitting: Fitting,
        now: SystemTime,
    ) -> Result<Issued, Refused> {
        let control_plane = &self.control_plane;
        let hardware = hardware_of(&challenged)?;
        let hardware_words = hardware_name(&hardware);
        // Counting and registering are one step where there is a limit, or two machines at once would both be the last.
        let _turn = match fitting.max_instances {
            Some(_) => Some(control_plane.registry.turn().await),
            None => None,
        };
        let member = self.member(&challenged, &hardware, &fitting, now)?;
        let failed = |error: crate::ca::CaError| unavailable(Chain(&error).to_string());
        let instance = match &challenged.known {
            Some(known) => known.id,
            None => InstanceId(random().map_err(failed)?),
        };
        let state_of_tpm = fitting.appraised.tpm().cloned();
        let plan = plan(
            &Decision {
                mesh: &challenged.state.policy.mesh,
                workload: &challenged.hello.workload,
                profile: &challenged.profile.name,
                profile_lifetime: challenged.profile.lifetime,
                issuer_end: control_plane.ca.issuer_end(now).map_err(failed)?,
                request,
                instance,
                revision: challenged.state.revision,
                nonce: challenged.nonce,
                random: random().map_err(failed)?,
                now,
            },
            fitting.appraised,
        )?;
        let signed = control_plane
            .ca
            .sign_svid(&plan.template, now)
            .map_err(failed)?;
        let registered = Instance {
            id: instance,
            workload: challenged.hello.workload.clone(),
            hardware: hardware_words.clone(),
            tpm: state_of_tpm,
            class: plan.result.class.as_str().to_owned(),
            kinds: vec![challenged.kind.as_str().to_owned()],
            image: fitting.image,
            member: member.describe(),
            evidence_time: plan.result.evidence_time,
            not_after: plan.template.not_after,
            endpoints: challenged.hello.endpoints.clone(),
            software_version: challenged.hello.software_version.clone(),
            ear: String::from_utf8_lossy(&plan.ear).into_owned(),
        };
        self.register(registered, &challenged, &member).await?;
        let authority = signed.authority_spki_sha256;
        let record = self.issuance(&challenged, &plan, &member, hardware_words, authority);
        if let Err(error) = control_plane.record(record).await {
            return Err(unavailable(Chain(&error).to_string()));
        }
        self.say_issued(&plan);
        Ok(Issued {
            certificate_chain: signed.chain,
            attestation_result: plan.ear,
            trust_bundle: control_plane.ca.bundle(),
            renew_at: plan.renew_at,
            server_time: control_plane.now(),
            instance,
        })
    }

    fn member(
        &self,
        challenged: &Challenged,
        hardware: &NodeHardware,
        fitting: &Fitting,
        now: SystemTime,
    ) -> Result<Membership, Refused> {
        let registry = &self.control_plane.registry;
        let set = &challenged.state.policy.set;
        let member = membership(
            &challenged.workload,
            hardware,
            challenged
                .hello
                .join_token
                .as_ref()
                .map(|token| token.sha256()),
            |name| set.node(name),
            |token| registry.pinned(token),
            now,
        )?;
        if let Some(most) = fitting.max_instances {
            let words = hardware_name(hardware);
            let others =
                registry.others_running(&challenged.workload.name, &fitting.image, &words, now);
            if others >= usize::try_from(most).unwrap_or(usize::MAX) {
                return Err(Refused::new(
                    "max_instances",
                    "wait until another instance of this image has ended, or raise `max_instances`",
                    format!(
                        "{others} other machines run image `{}`, at most {most} may",
                        fitting.image
                    ),
                ));
            }
        }
        Ok(member)
    }

    async fn register(
        &self,
        instance: Instance,
        challenged: &Challenged,
        member: &Membership,
    ) -> Result<(), Refused> {
        let spend = match member {
            Membership::Spend(token) => Some(*token),
            Membership::Node(_) | Membership::Pinned(_) => None,
        };
        if challenged.known.is_some() && spend.is_none() {
            self.control_plane.registry.renew(instance);
            return Ok(());
        }
        self.control_plane.registry.enroll(instance, spend).await
    }

    fn issuance(
        &self,
        challenged: &Challenged,
        plan: &Plan,
        member: &Membership,
        hardware: String,
        authority_spki_sha256: [u8; 32],
    ) -> Event {
        Event::Issued(Box::new(Issuance {
            purpose: challenged.hello.purpose.as_str().to_owned(),
            spiffe_id: plan.template.id.as_str().to_owned(),
            instance: plan.result.instance.0,
            serial: plan.template.serial.to_vec(),
            spki_sha256: challenged.hello.spki_sha256,
            authority_spki_sha256,
            not_before: plan.template.not_before,
            not_after: plan.template.not_after,
            class: plan.result.class.as_str().to_owned(),
            kinds: vec![challenged.kind.as_str().to_owned()],
            hardware: vec![hardware],
            member: member.describe(),
            policy_revision: challenged.state.revision,
            evidence_sha256: self.evidence_sha256,
            result_sha256: plan.result.ear_sha256,
        }))
    }

    fn say_issued(&self, plan: &Plan) {
        let class = plan.result.class.as_str();
        let issued = &self.control_plane.metrics.issued;
        issued.with_label_values(&[class]).inc();
        tracing::info!(
            peer_id = %plan.template.id,
            instance = %plan.result.instance,
            serial = hex::encode(plan.template.serial),
            class,
            not_after = vouchsafe_api::convert::unix_ms(plan.template.not_after),
            "certificate issued"
        );
    }

    /// Records a refusal with all that is known, and answers with the word and the remedy only.
    async fn refuse(&self, refused: Refused) -> AttestResponse {
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
            evidence_sha256: self.evidence_sha256,
            policy_revision: state.revision,
        }));
        if let Err(error) = control_plane.record(event).await {
            tracing::error!(error = %Chain(&error), "failed to record a refusal");
        }
        AttestResponse::Refusal(refused.to_wire())
    }

    /// The peer's next message, within the stream's deadline and every bound.
    async fn next(&mut self) -> Result<AttestRequest, Refused> {
        let message = tokio::time::timeout_at(self.deadline, self.incoming.message())
            .await
            .map_err(|_| {
                Refused::retry(
                    "deadline",
                    "start again: the attestation did not end in time",
                    "the stream's deadline passed",
                )
            })?;
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

/// The machine, as the evidence has just proved it.
fn hardware_of(challenged: &Challenged) -> Result<NodeHardware, Refused> {
    match (challenged.kind, &challenged.tpm) {
        (EvidenceKind::Tpm, Some(tpm)) => Ok(NodeHardware::tpm(tpm.offer().ek_sha256())),
        (EvidenceKind::Tpm, None) => Err(unavailable("a TPM that was not challenged")),
        (EvidenceKind::Simulated, _) => challenged
            .hello
            .offers
            .iter()
            .find_map(|offer| match offer {
                Offer::Simulated { machine } => Some(NodeHardware::simulated(machine)),
                _ => None,
            })
            .ok_or_else(out_of_order),
        (
            EvidenceKind::SevSnp
            | EvidenceKind::Tdx
            | EvidenceKind::AzSnpVtpm
            | EvidenceKind::AzTdxVtpm
            | EvidenceKind::NvidiaGpu
            | EvidenceKind::Nitro,
            _,
        ) => Err(unavailable("a kind of evidence that is not wired")),
    }
}

fn tpm_offer(hello: &Hello) -> Option<tpm::Offer> {
    hello.offers.iter().find_map(|offer| match offer {
        Offer::Tpm(TpmOffer {
            ek_public,
            ek_chain,
            ak_public,
        }) => Some(tpm::Offer {
            ek_public: ek_public.clone(),
            ek_chain: ek_chain.clone(),
            ak_public: ak_public.clone(),
        }),
        _ => None,
    })
}

fn verifier_item(
    item: vouchsafe_api::convert::attest::EvidenceItem,
) -> Result<evidence::EvidenceItem, Refused> {
    let evidence = match item.body {
        EvidenceBody::Tpm(tpm) => evidence::Evidence::Tpm(tpm::Evidence {
            quote: tpm.quote,
            signature: tpm.signature,
            pcrs: pcr_values(tpm.pcrs)?,
            event_log: tpm.event_log,
            activated_credential: tpm.activated_credential,
        }),
        EvidenceBody::Simulated(made_up) => evidence::Evidence::Simulated(simulated::Evidence {
            machine: made_up.machine,
            image: made_up.image,
            binding: made_up.binding.to_vec(),
        }),
        EvidenceBody::SevSnp(snp) => evidence::Evidence::SevSnp(received::SevSnp {
            report: snp.report,
            certificates: snp.certificates,
        }),
        EvidenceBody::Tdx(tdx) => evidence::Evidence::Tdx(received::Tdx {
            quote: tdx.quote,
            event_log: tdx.event_log,
        }),
        EvidenceBody::AzSnpVtpm(vtpm) => evidence::Evidence::AzSnpVtpm(az_vtpm(vtpm)?),
        EvidenceBody::AzTdxVtpm(vtpm) => evidence::Evidence::AzTdxVtpm(az_vtpm(vtpm)?),
        EvidenceBody::NvidiaGpu(gpu) => evidence::Evidence::NvidiaGpu(received::NvidiaGpu {
            report: gpu.report,
            certificate_chain: gpu.certificate_chain,
            architecture: gpu.architecture,
            is_switch: gpu.is_switch,
        }),
        EvidenceBody::Nitro(nitro) => evidence::Evidence::Nitro(received::Nitro {
            document: nitro.document,
        }),
    };
    Ok(evidence::EvidenceItem {
        index: item.index,
        evidence,
    })
}

fn az_vtpm(vtpm: AzVtpmEvidence) -> Result<received::AzVtpm, Refused> {
    Ok(received::AzVtpm {
        hcl_report: vtpm.hcl_report,
        quote: vtpm.quote,
        signature: vtpm.signature,
        pcrs: pcr_values(vtpm.pcrs)?,
        event_log: vtpm.event_log,
        hardware: vtpm.hardware,
    })
}

fn pcr_values(banks: Vec<PcrBank>) -> Result<PcrValues, Refused> {
    let mut pcrs = PcrValues::default();
    for bank in banks {
        for (pcr, value) in bank.values {
            pcrs.insert(algorithm(bank.hash), pcr, value)
                .map_err(|error| {
                    Refused::new(
                        "malformed_message",
                        "update the sidecar: its PCR values are not acceptable",
                        error.to_string(),
                    )
                })?;
        }
    }
    Ok(pcrs)
}

fn wire_selection(selection: &PcrSelection) -> Vec<WireSelection> {
    let bank = |(hash, pcrs): (HashAlgorithm, PcrSet)| WireSelection {
        hash: match hash {
            HashAlgorithm::Sha256 => PcrHash::Sha256,
            HashAlgorithm::Sha384 => PcrHash::Sha384,
        },
        pcrs: pcrs.iter().collect(),
    };
    selection.banks().map(bank).collect()
}

fn algorithm(hash: PcrHash) -> HashAlgorithm {
    match hash {
        PcrHash::Sha256 => HashAlgorithm::Sha256,
        PcrHash::Sha384 => HashAlgorithm::Sha384,
    }
}

/// SHA-256 over the whole evidence set and request: what the record refers to.
fn digest_of(evidence: &Evidence) -> [u8; 32] {
    let mut all: Vec<u8> = evidence
        .items
        .iter()
        .flat_map(|item| sha256(&item.canonical()))
        .collect();
    all.extend_from_slice(&sha256(&evidence.csr));
    sha256(&all)
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
