//! The messages of one attestation: hello, challenge, evidence, outcome.
//!
//! Nothing here is trusted yet: these types say that a message is well-formed and bounded, not that it is true.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::binding::{Nonce, Purpose, framed};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::{Leaf, sha256};

use super::{ConvertError, array, bounded, bytes, each, some_bytes, text, time, unix_ms, word};
use crate::v1;

/// Opens an attestation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// What the evidence is for.
    pub purpose: Purpose,
    /// The name that the instance wants to bear.
    pub workload: WorkloadName,
    /// SHA-256 of the SubjectPublicKeyInfo that the certificate will bear.
    pub spki_sha256: [u8; 32],
    /// Freshness that the attester demands.
    pub client_nonce: Nonce,
    /// At most one per kind.
    pub offers: Vec<Offer>,
    /// Where the workload's members are joined by token.
    pub join_token: Option<JoinToken>,
    /// Where peers reach this instance.
    pub endpoints: Vec<Endpoint>,
    /// Of the sidecar, for `status`.
    pub software_version: String,
}

/// A join token: 16 to 256 printable characters. Never logged, kept by its hash only.
#[derive(Clone, Eq, PartialEq)]
pub struct JoinToken(String);

impl JoinToken {
    /// Takes a token as an operator wrote it, without surrounding white space.
    ///
    /// # Errors
    /// [`ConvertError`] when it is too short, too long or not printable.
    pub fn new(token: &str) -> Result<Self, ConvertError> {
        let token = word("join_token", MAX_TOKEN_BYTES, token.to_owned())?;
        if token.len() < MIN_TOKEN_BYTES {
            let expected = "at least 16 characters long";
            return Err(ConvertError::Malformed {
                field: "join_token",
                expected,
            });
        }
        Ok(Self(token))
    }

    /// SHA-256 of the token: the form in which policy and store keep it.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

/// What an attester can prove with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Offer {
    /// A TPM.
    Tpm(TpmOffer),
    /// Nothing: a made-up machine of this name.
    Simulated {
        /// Its name.
        machine: String,
    },
}

impl Offer {
    /// The kind of evidence offered.
    pub fn kind(&self) -> EvidenceKind {
        match self {
            Self::Tpm(_) => EvidenceKind::Tpm,
            Self::Simulated { .. } => EvidenceKind::Simulated,
        }
    }
}

/// A TPM's keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TpmOffer {
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek_public: Vec<u8>,
    /// DER, leaf first; empty where the machine has none.
    pub ek_chain: Vec<Vec<u8>>,
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak_public: Vec<u8>,
}

/// The control plane's answer to a hello.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Challenge {
    /// Freshness that the verifier demands.
    pub nonce: Nonce,
    /// Its time, milliseconds kept.
    pub server_time: SystemTime,
    /// Kinds of evidence that it wants, each of them offered.
    pub required: Vec<EvidenceKind>,
    /// Policy that the evidence will be judged by.
    pub policy_revision: Revision,
    /// One per required offer that wants an answer.
    pub answers: Vec<Answer>,
}

/// The answer to one offer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// To a TPM's.
    Tpm(TpmAnswer),
}

/// What a TPM must do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TpmAnswer {
    /// `TPM2B_ID_OBJECT`.
    pub credential_blob: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
    /// What the quote must cover.
    pub selection: Vec<PcrSelection>,
}

/// A hash algorithm of PCR banks.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PcrHash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl PcrHash {
    /// The word on the wire and in policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
        }
    }

    /// Length of a digest.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    fn parse(text: &str) -> Result<Self, ConvertError> {
        [Self::Sha256, Self::Sha384]
            .into_iter()
            .find(|hash| hash.as_str() == text)
            .ok_or(ConvertError::Malformed {
                field: "hash",
                expected: "`sha256` or `sha384`",
            })
    }
}

/// PCRs of one bank.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PcrSelection {
    /// The bank.
    pub hash: PcrHash,
    /// Numbers, ascending, below 24.
    pub pcrs: Vec<u8>,
}

/// Evidence as collected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// PKCS#10 in DER; only its key is used.
    pub csr: Vec<u8>,
    /// In the order of collection, the binding root last.
    pub items: Vec<EvidenceItem>,
}

/// Evidence of one device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EvidenceItem {
    /// Number among those of its kind, from 0.
    pub index: u32,
    /// What the device said.
    pub body: EvidenceBody,
}

/// Evidence by kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EvidenceBody {
    /// A TPM's.
    Tpm(TpmEvidence),
    /// Made up.
    Simulated(SimulatedEvidence),
}

/// A quote and what explains it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TpmEvidence {
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The values that were quoted.
    pub pcrs: Vec<PcrBank>,
    /// TCG2 log; empty where the machine has none.
    pub event_log: Vec<u8>,
    /// What the credential blob held.
    pub activated_credential: Vec<u8>,
}

/// PCR values of one bank.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PcrBank {
    /// The bank.
    pub hash: PcrHash,
    /// (number, digest), ascending.
    pub values: Vec<(u8, Vec<u8>)>,
}

/// Made-up evidence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SimulatedEvidence {
    /// Name of the machine.
    pub machine: String,
    /// Name of the image.
    pub image: String,
    /// What a device would have signed.
    pub binding: [u8; 32],
}

impl EvidenceItem {
    /// The kind of the device.
    pub fn kind(&self) -> EvidenceKind {
        match self.body {
            EvidenceBody::Tpm(_) => EvidenceKind::Tpm,
            EvidenceBody::Simulated(_) => EvidenceKind::Simulated,
        }
    }

    /// Canonical bytes: what [`vouchsafe_attestation::binding::EvidenceDigest::after`] covers of this item.
    ///
    /// Both ends compute it from the item itself. What is not signed by the device is not in it: PCR values and event
    /// log are covered by the quote, the activated credential is known to both ends.
    pub fn canonical(&self) -> Vec<u8> {
        match &self.body {
            EvidenceBody::Tpm(tpm) => framed(&[&tpm.quote, &tpm.signature]),
            EvidenceBody::Simulated(simulated) => framed(&[
                simulated.machine.as_bytes(),
                simulated.image.as_bytes(),
                &simulated.binding,
            ]),
        }
    }
}

/// The outcome of a successful attestation. The certificates are checked by who relies on them, not here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issued {
    /// DER, leaf first.
    pub certificate_chain: Vec<Vec<u8>>,
    /// EAR claims as JSON.
    pub attestation_result: Vec<u8>,
    /// Whom to believe.
    pub trust_bundle: Vec<AuthorityCertificate>,
    /// Slot for the next attestation.
    pub renew_at: SystemTime,
    /// The control plane's time.
    pub server_time: SystemTime,
    /// Which instance this is.
    pub instance: InstanceId,
}

/// An authority as it travels; `attestation::trust_bundle` reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorityCertificate {
    /// The trust domain that it speaks for.
    pub trust_domain: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// Whether its leaves must carry a result.
    pub attested: bool,
}

/// The outcome of a failed one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Stable word.
    pub reason: String,
    /// What to do next.
    pub remedy: String,
    /// When another attempt makes sense, from now.
    pub retry_after: Duration,
}

/// Where an instance is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// `host:port`.
    pub listener: String,
    /// Names of the ports behind it.
    pub ports: Vec<Name>,
}

/// What a sidecar sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AttestRequest {
    /// First.
    Hello(Box<Hello>),
    /// Second and last.
    Evidence(Box<Evidence>),
}

/// What the control plane sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AttestResponse {
    /// First.
    Challenge(Box<Challenge>),
    /// Last.
    Issued(Box<Issued>),
    /// Last, at any point.
    Refusal(Refusal),
}

impl TryFrom<v1::AttestRequest> for AttestRequest {
    type Error = ConvertError;

    fn try_from(wire: v1::AttestRequest) -> Result<Self, ConvertError> {
        use v1::attest_request::Step;
        match wire.step.ok_or(ConvertError::Missing("step"))? {
            Step::Hello(hello) => Ok(Self::Hello(Box::new(hello.try_into()?))),
            Step::Evidence(evidence) => Ok(Self::Evidence(Box::new(evidence.try_into()?))),
        }
    }
}

impl From<AttestRequest> for v1::AttestRequest {
    fn from(request: AttestRequest) -> Self {
        use v1::attest_request::Step;
        let step = match request {
            AttestRequest::Hello(hello) => Step::Hello((*hello).into()),
            AttestRequest::Evidence(evidence) => Step::Evidence((*evidence).into()),
        };
        Self { step: Some(step) }
    }
}

impl TryFrom<v1::AttestResponse> for AttestResponse {
    type Error = ConvertError;

    fn try_from(wire: v1::AttestResponse) -> Result<Self, ConvertError> {
        use v1::attest_response::Step;
        match wire.step.ok_or(ConvertError::Missing("step"))? {
            Step::Challenge(challenge) => Ok(Self::Challenge(Box::new(challenge.try_into()?))),
            Step::Issued(issued) => Ok(Self::Issued(Box::new(issued.try_into()?))),
            Step::Refusal(refusal) => Ok(Self::Refusal(refusal.try_into()?)),
        }
    }
}

impl From<AttestResponse> for v1::AttestResponse {
    fn from(response: AttestResponse) -> Self {
        use v1::attest_response::Step;
        let step = match response {
            AttestResponse::Challenge(challenge) => Step::Challenge((*challenge).into()),
            AttestResponse::Issued(issued) => Step::Issued((*issued).into()),
            AttestResponse::Refusal(refusal) => Step::Refusal(refusal.into()),
        };
        Self { step: Some(step) }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = ConvertError;

    fn try_from(wire: v1::Hello) -> Result<Self, ConvertError> {
        let purpose = match v1::Purpose::try_from(wire.purpose) {
            Ok(v1::Purpose::Enroll) => Purpose::Enroll,
            Ok(v1::Purpose::Renew) => Purpose::Renew,
            Ok(v1::Purpose::Reattest) => Purpose::Reattest,
            Ok(v1::Purpose::Unspecified) | Err(_) => return Err(ConvertError::Missing("purpose")),
        };
        let offers = each("offers", MAX_OFFERS, wire.offers, Offer::try_from)?;
        let kinds: BTreeSet<EvidenceKind> = offers.iter().map(Offer::kind).collect();
        if offers.is_empty() || kinds.len() != offers.len() {
            let expected = "one offer per kind of evidence, at least one";
            return Err(ConvertError::Malformed {
                field: "offers",
                expected,
            });
        }
        let join_token = match wire.join_token.as_str() {
            "" => None,
            token => Some(JoinToken::new(token)?),
        };
        Ok(Self {
            purpose,
            workload: workload(&wire.workload)?,
            spki_sha256: array("spki_sha256", &wire.spki_sha256)?,
            client_nonce: Nonce(array("client_nonce", &wire.client_nonce)?),
            offers,
            join_token,
            endpoints: endpoints(wire.endpoints)?,
            software_version: word("software_version", MAX_VERSION_BYTES, wire.software_version)?,
        })
    }
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        let purpose = match hello.purpose {
            Purpose::Enroll => v1::Purpose::Enroll,
            Purpose::Renew => v1::Purpose::Renew,
            Purpose::Reattest => v1::Purpose::Reattest,
        };
        Self {
            purpose: purpose.into(),
            workload: hello.workload.to_string(),
            spki_sha256: hello.spki_sha256.to_vec(),
            client_nonce: hello.client_nonce.0.to_vec(),
            offers: hello.offers.into_iter().map(Into::into).collect(),
            join_token: hello.join_token.map(|token| token.0).unwrap_or_default(),
            endpoints: hello.endpoints.into_iter().map(Into::into).collect(),
            software_version: hello.software_version,
        }
    }
}

/// Reads a workload's full name.
///
/// # Errors
/// [`ConvertError`] when it is not `namespace/name`.
pub fn workload(text: &str) -> Result<WorkloadName, ConvertError> {
    bounded("workload", 2 * Name::MAX_BYTES + 1, text.len())?;
    text.parse().map_err(|_| ConvertError::Malformed {
        field: "workload",
        expected: "`namespace/name`",
    })
}

/// Reads where an instance is reached.
///
/// # Errors
/// [`ConvertError`] when there are too many, or one is malformed.
pub fn endpoints(wire: Vec<v1::Endpoint>) -> Result<Vec<Endpoint>, ConvertError> {
    each("endpoints", MAX_ENDPOINTS, wire, Endpoint::try_from)
}

impl TryFrom<v1::Offer> for Offer {
    type Error = ConvertError;

    fn try_from(wire: v1::Offer) -> Result<Self, ConvertError> {
        match wire.kind.ok_or(ConvertError::Missing("offers.kind"))? {
            v1::offer::Kind::Tpm(tpm) => Ok(Self::Tpm(TpmOffer {
                ek_public: some_bytes("ek_public", MAX_PUBLIC_BYTES, tpm.ek_public)?,
                ek_chain: each("ek_chain", MAX_EK_CHAIN, tpm.ek_chain, |certificate| {
                    some_bytes("ek_chain", MAX_EK_CERTIFICATE_BYTES, certificate)
                })?,
                ak_public: some_bytes("ak_public", MAX_PUBLIC_BYTES, tpm.ak_public)?,
            })),
            v1::offer::Kind::Simulated(simulated) => Ok(Self::Simulated {
                machine: some_word("machine", simulated.machine)?,
            }),
        }
    }
}

impl From<Offer> for v1::Offer {
    fn from(offer: Offer) -> Self {
        let kind = match offer {
            Offer::Tpm(tpm) => v1::offer::Kind::Tpm(v1::TpmOffer {
                ek_public: tpm.ek_public,
                ek_chain: tpm.ek_chain,
                ak_public: tpm.ak_public,
            }),
            Offer::Simulated { machine } => {
                v1::offer::Kind::Simulated(v1::SimulatedOffer { machine })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Challenge> for Challenge {
    type Error = ConvertError;

    fn try_from(wire: v1::Challenge) -> Result<Self, ConvertError> {
        let kind = |word: String| {
            word.parse().map_err(|_| ConvertError::Malformed {
                field: "required",
                expected: "a kind of evidence that this build knows",
            })
        };
        let revision = wire
            .policy_revision
            .ok_or(ConvertError::Missing("policy_revision"))?;
        Ok(Self {
            nonce: Nonce(array("nonce", &wire.nonce)?),
            server_time: time("server_time_ms", wire.server_time_ms)?,
            required: each("required", MAX_OFFERS, wire.required, kind)?,
            policy_revision: revision.into(),
            answers: each("answers", MAX_OFFERS, wire.answers, Answer::try_from)?,
        })
    }
}

impl From<Challenge> for v1::Challenge {
    fn from(challenge: Challenge) -> Self {
        let kinds = challenge.required.iter();
        Self {
            nonce: challenge.nonce.0.to_vec(),
            server_time_ms: unix_ms(challenge.server_time),
            required: kinds.map(|kind| kind.as_str().to_owned()).collect(),
            policy_revision: Some(challenge.policy_revision.into()),
            answers: challenge.answers.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Answer> for Answer {
    type Error = ConvertError;

    fn try_from(wire: v1::Answer) -> Result<Self, ConvertError> {
        let v1::answer::Kind::Tpm(tpm) = wire.kind.ok_or(ConvertError::Missing("answers.kind"))?;
        let selection = |wire: v1::PcrSelection| {
            let pcrs = each("pcrs", PCRS, wire.pcrs, pcr)?;
            ascending("pcrs", pcrs.iter())?;
            let hash = PcrHash::parse(&wire.hash)?;
            Ok(PcrSelection { hash, pcrs })
        };
        Ok(Self::Tpm(TpmAnswer {
            credential_blob: some_bytes("credential_blob", MAX_BLOB_BYTES, tpm.credential_blob)?,
            encrypted_secret: some_bytes("encrypted_secret", MAX_BLOB_BYTES, tpm.encrypted_secret)?,
            selection: each("selection", MAX_BANKS, tpm.selection, selection)?,
        }))
    }
}

impl From<Answer> for v1::Answer {
    fn from(answer: Answer) -> Self {
        let Answer::Tpm(tpm) = answer;
        let selection = tpm.selection.into_iter().map(|bank| v1::PcrSelection {
            hash: bank.hash.as_str().to_owned(),
            pcrs: bank.pcrs.into_iter().map(u32::from).collect(),
        });
        Self {
            kind: Some(v1::answer::Kind::Tpm(v1::TpmAnswer {
                credential_blob: tpm.credential_blob,
                encrypted_secret: tpm.encrypted_secret,
                selection: selection.collect(),
            })),
        }
    }
}

impl TryFrom<v1::Evidence> for Evidence {
    type Error = ConvertError;

    fn try_from(wire: v1::Evidence) -> Result<Self, ConvertError> {
        if wire.items.is_empty() {
            return Err(ConvertError::Missing("items"));
        }
        Ok(Self {
            csr: some_bytes("csr", MAX_CSR_BYTES, wire.csr)?,
            items: each("items", MAX_ITEMS, wire.items, EvidenceItem::try_from)?,
        })
    }
}

impl From<Evidence> for v1::Evidence {
    fn from(evidence: Evidence) -> Self {
        Self {
            csr: evidence.csr,
            items: evidence.items.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::EvidenceItem> for EvidenceItem {
    type Error = ConvertError;

    fn try_from(wire: v1::EvidenceItem) -> Result<Self, ConvertError> {
        use v1::evidence_item::Kind;
        let body = match wire.kind.ok_or(ConvertError::Missing("items.kind"))? {
            Kind::Tpm(tpm) => EvidenceBody::Tpm(tpm.try_into()?),
            Kind::Simulated(simulated) => EvidenceBody::Simulated(SimulatedEvidence {
                machine: some_word("machine", simulated.machine)?,
                image: some_word("image", simulated.image)?,
                binding: array("binding", &simulated.binding)?,
            }),
        };
        let index = wire.index;
        if usize::try_from(index).map_or(true, |index| index >= MAX_ITEMS) {
            let expected = "below 32";
            return Err(ConvertError::Malformed {
                field: "index",
                expected,
            });
        }
        Ok(Self { index, body })
    }
}

impl From<EvidenceItem> for v1::EvidenceItem {
    fn from(item: EvidenceItem) -> Self {
        use v1::evidence_item::Kind;
        let kind = match item.body {
            EvidenceBody::Tpm(tpm) => Kind::Tpm(tpm.into()),
            EvidenceBody::Simulated(simulated) => Kind::Simulated(v1::SimulatedEvidence {
                machine: simulated.machine,
                image: simulated.image,
                binding: simulated.binding.to_vec(),
            }),
        };
        Self {
            index: item.index,
            kind: Some(kind),
        }
    }
}

impl TryFrom<v1::TpmEvidence> for TpmEvidence {
    type Error = ConvertError;

    fn try_from(wire: v1::TpmEvidence) -> Result<Self, ConvertError> {
        Ok(Self {
            quote: some_bytes("quote", MAX_QUOTE_BYTES, wire.quote)?,
            signature: some_bytes("signature", MAX_QUOTE_BYTES, wire.signature)?,
            pcrs: each("pcrs", MAX_BANKS, wire.pcrs, PcrBank::try_from)?,
            event_log: bytes("event_log", MAX_EVENT_LOG_BYTES, wire.event_log)?,
            activated_credential: some_bytes(
                "activated_credential",
                MAX_CREDENTIAL_BYTES,
                wire.activated_credential,
            )?,
        })
    }
}

impl From<TpmEvidence> for v1::TpmEvidence {
    fn from(tpm: TpmEvidence) -> Self {
        let value = |(pcr, digest): (u8, Vec<u8>)| v1::PcrValue {
            pcr: pcr.into(),
            digest,
        };
        let bank = |bank: PcrBank| v1::PcrBank {
            hash: bank.hash.as_str().to_owned(),
            values: bank.values.into_iter().map(value).collect(),
        };
        Self {
            quote: tpm.quote,
            signature: tpm.signature,
            pcrs: tpm.pcrs.into_iter().map(bank).collect(),
            event_log: tpm.event_log,
            activated_credential: tpm.activated_credential,
        }
    }
}

impl TryFrom<v1::PcrBank> for PcrBank {
    type Error = ConvertError;

    fn try_from(wire: v1::PcrBank) -> Result<Self, ConvertError> {
        let hash = PcrHash::parse(&wire.hash)?;
        let value = |wire: v1::PcrValue| {
            let number = pcr(wire.pcr)?;
            if wire.digest.len() != hash.digest_bytes() {
                let expected = "as long as its hash";
                return Err(ConvertError::Malformed {
                    field: "digest",
                    expected,
                });
            }
            Ok((number, wire.digest))
        };
        let values = each("values", PCRS, wire.values, value)?;
        ascending("values", values.iter().map(|(pcr, _)| pcr))?;
        Ok(Self { hash, values })
    }
}

impl TryFrom<v1::Issued> for Issued {
    type Error = ConvertError;

    fn try_from(wire: v1::Issued) -> Result<Self, ConvertError> {
        let certificate = |der| some_bytes("certificate_chain", Leaf::MAX_BYTES, der);
        let bundle = wire
            .trust_bundle
            .ok_or(ConvertError::Missing("trust_bundle"))?;
        if wire.certificate_chain.is_empty() {
            return Err(ConvertError::Missing("certificate_chain"));
        }
        Ok(Self {
            certificate_chain: each(
                "certificate_chain",
                MAX_CHAIN,
                wire.certificate_chain,
                certificate,
            )?,
            attestation_result: some_bytes(
                "attestation_result",
                MAX_RESULT_BYTES,
                wire.attestation_result,
            )?,
            trust_bundle: super::mesh_state::authorities(bundle)?,
            renew_at: time("renew_at_ms", wire.renew_at_ms)?,
            server_time: time("server_time_ms", wire.server_time_ms)?,
            instance: InstanceId(array("instance", &wire.instance)?),
        })
    }
}

impl From<Issued> for v1::Issued {
    fn from(issued: Issued) -> Self {
        Self {
            certificate_chain: issued.certificate_chain,
            attestation_result: issued.attestation_result,
            trust_bundle: Some(super::mesh_state::trust_bundle(issued.trust_bundle)),
            renew_at_ms: unix_ms(issued.renew_at),
            server_time_ms: unix_ms(issued.server_time),
            instance: issued.instance.0.to_vec(),
        }
    }
}

impl TryFrom<v1::Refusal> for Refusal {
    type Error = ConvertError;

    fn try_from(wire: v1::Refusal) -> Result<Self, ConvertError> {
        let max = u64::try_from(MAX_RETRY_AFTER.as_millis()).unwrap_or(u64::MAX);
        Ok(Self {
            reason: some_word("reason", wire.reason)?,
            remedy: text("remedy", MAX_REMEDY_BYTES, wire.remedy)?,
            retry_after: Duration::from_millis(wire.retry_after_ms.min(max)),
        })
    }
}

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: refusal.reason,
            remedy: refusal.remedy,
            retry_after_ms: u64::try_from(refusal.retry_after.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = ConvertError;

    fn try_from(wire: v1::Endpoint) -> Result<Self, ConvertError> {
        let port = |name: String| {
            name.parse().map_err(|_| ConvertError::Malformed {
                field: "endpoints.ports",
                expected: "a port's name",
            })
        };
        let listener = word("endpoints.listener", MAX_LISTENER_BYTES, wire.listener)?;
        let has_port = listener.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if !has_port {
            return Err(ConvertError::Malformed {
                field: "endpoints.listener",
                expected: "`host:port`",
            });
        }
        let ports = each("endpoints.ports", MAX_PORTS, wire.ports, port)?;
        Ok(Self { listener, ports })
    }
}

impl From<Endpoint> for v1::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            listener: endpoint.listener,
            ports: endpoint.ports.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<v1::Revision> for Revision {
    fn from(wire: v1::Revision) -> Self {
        Self {
            epoch: wire.epoch,
            sequence: wire.sequence,
        }
    }
}

impl From<Revision> for v1::Revision {
    fn from(revision: Revision) -> Self {
        Self {
            epoch: revision.epoch,
            sequence: revision.sequence,
        }
    }
}

fn some_word(field: &'static str, value: String) -> Result<String, ConvertError> {
    if value.is_empty() {
        return Err(ConvertError::Missing(field));
    }
    word(field, MAX_WORD_BYTES, value)
}

fn pcr(number: u32) -> Result<u8, ConvertError> {
    u8::try_from(number)
        .ok()
        .filter(|number| usize::from(*number) < PCRS)
        .ok_or(ConvertError::Malformed {
            field: "pcrs",
            expected: "below 24",
        })
}

fn ascending<'a>(
    field: &'static str,
    mut numbers: impl Iterator<Item = &'a u8>,
) -> Result<(), ConvertError> {
    let mut last = numbers.next();
    let mut sorted = true;
    for next in numbers {
        sorted &= last.is_some_and(|last| last < next);
        last = Some(next);
    }
    if sorted {
        return Ok(());
    }
    let expected = "in ascending order";
    Err(ConvertError::Malformed { field, expected })
}

/// One per kind that may ever be built, with room.
const MAX_OFFERS: usize = 8;
/// A `TPMT_PUBLIC` of RSA 4096 has less than 600 bytes.
const MAX_PUBLIC_BYTES: usize = 2048;
/// Manufacturers' chains have two to four certificates.
const MAX_EK_CHAIN: usize = 8;
const MAX_EK_CERTIFICATE_BYTES: usize = 16 * 1024;
const MIN_TOKEN_BYTES: usize = 16;
const MAX_TOKEN_BYTES: usize = 256;
const MAX_ENDPOINTS: usize = 16;
/// The longest DNS name, brackets and a port number.
const MAX_LISTENER_BYTES: usize = 262;
const MAX_PORTS: usize = 64;
const MAX_VERSION_BYTES: usize = 64;
const MAX_WORD_BYTES: usize = 128;
/// `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET` of RSA 4096 have less than 600 bytes.
const MAX_BLOB_BYTES: usize = 1024;
/// SHA-256 and SHA-384, each at most twice.
const MAX_BANKS: usize = 4;
/// PCRs of a PC client TPM (TCG PC Client Platform TPM Profile §4.6).
const PCRS: usize = 24;
const MAX_CSR_BYTES: usize = 8 * 1024;
/// As many as a result may have devices.
const MAX_ITEMS: usize = 32;
const MAX_QUOTE_BYTES: usize = 4 * 1024;
/// Firmware logs have 20 to 100 KiB; the rest is room for shim and boot loaders that log a lot.
const MAX_EVENT_LOG_BYTES: usize = 768 * 1024;
const MAX_CREDENTIAL_BYTES: usize = 128;
/// As many as a verifier of chains takes.
const MAX_CHAIN: usize = 8;
const MAX_RESULT_BYTES: usize = 64 * 1024;
const MAX_REMEDY_BYTES: usize = 1024;
/// Beyond a day, a sidecar had better ask again.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
