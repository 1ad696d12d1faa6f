//! The messages of one attestation: hello, challenge, evidence, outcome.
//!
//! Nothing here is trusted yet: these types say that a message is well-formed and bounded, not that it is true.
//! The types are here; their conversion, with the bounds of each field, is in a module per message.

mod challenge;
mod evidence;
mod hello;
mod outcome;
pub mod reattest;

use std::fmt;
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::binding::{Nonce, Purpose};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::sha256;

use self::reattest::{Confirmed, Proof, Slot};
use super::{ConvertError, bounded, each, word};
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
    /// What a reattestation proves; `None` for an enrolment or a renewal, which prove everything.
    pub proof: Option<Proof>,
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
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// Azure's vTPM above AMD SEV-SNP.
    AzSnpVtpm(AzVtpmOffer),
    /// Azure's vTPM above Intel TDX.
    AzTdxVtpm(AzVtpmOffer),
    /// NVIDIA GPUs and switches.
    NvidiaGpu(NvidiaGpuOffer),
    /// AWS Nitro Enclaves.
    Nitro,
}

impl Offer {
    /// The kind of evidence offered.
    pub fn kind(&self) -> EvidenceKind {
        match self {
            Self::Tpm(_) => EvidenceKind::Tpm,
            Self::Simulated { .. } => EvidenceKind::Simulated,
            Self::SevSnp => EvidenceKind::SevSnp,
            Self::Tdx => EvidenceKind::Tdx,
            Self::AzSnpVtpm(_) => EvidenceKind::AzSnpVtpm,
            Self::AzTdxVtpm(_) => EvidenceKind::AzTdxVtpm,
            Self::NvidiaGpu(_) => EvidenceKind::NvidiaGpu,
            Self::Nitro => EvidenceKind::Nitro,
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

/// The key of an Azure vTPM. The hardware's report vouches for it, so no credential is made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AzVtpmOffer {
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak_public: Vec<u8>,
}

/// How many devices a machine has. Evidence is one item per device: GPUs first, switches after them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NvidiaGpuOffer {
    /// 1 to 16.
    pub gpus: u32,
    /// 0 to 8.
    pub switches: u32,
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
    /// To that of Azure's vTPM above AMD SEV-SNP: what its quote must cover.
    AzSnpVtpm(Vec<PcrSelection>),
    /// To that of Azure's vTPM above Intel TDX: what its quote must cover.
    AzTdxVtpm(Vec<PcrSelection>),
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
    /// From where on the kernel's measurement list is wanted; `None` where it is not.
    pub ima: Option<ImaFrom>,
}

/// From where on a measurement list is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ImaFrom {
    /// Entries that were judged before.
    pub entries: u64,
    /// The TPM's reset count when they were: in another boot the whole list is wanted.
    pub reset_count: u32,
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
    /// PKCS#10 in DER, only its key is used; empty for a reattestation.
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
    /// Of AMD SEV-SNP.
    SevSnp(SevSnpEvidence),
    /// Of Intel TDX.
    Tdx(TdxEvidence),
    /// Of Azure's vTPM above AMD SEV-SNP.
    AzSnpVtpm(AzVtpmEvidence),
    /// Of Azure's vTPM above Intel TDX.
    AzTdxVtpm(AzVtpmEvidence),
    /// Of one NVIDIA GPU or switch.
    NvidiaGpu(NvidiaGpuEvidence),
    /// Of AWS Nitro Enclaves.
    Nitro(NitroEvidence),
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
    /// The kernel's measurement list from entry `ima_offset` on, at most [`TpmEvidence::MAX_IMA_LOG_BYTES`].
    pub ima_log: Vec<u8>,
    /// Entries that were judged before and are left out.
    pub ima_offset: u64,
}

impl TpmEvidence {
    /// Longest part of a measurement list that one attestation carries.
    pub const MAX_IMA_LOG_BYTES: usize = evidence::MAX_IMA_LOG_BYTES;
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

/// A report of AMD SEV-SNP, whose report data is [`DeviceBinding::report_data`].
///
/// [`DeviceBinding::report_data`]: vouchsafe_attestation::binding::DeviceBinding::report_data
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SevSnpEvidence {
    /// 1184 bytes.
    pub report: Vec<u8>,
    /// The table of GUIDs and certificates as the host gave it; empty where it gave none.
    pub certificates: Vec<u8>,
}

/// A quote of Intel TDX, whose report data is as that of SEV-SNP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TdxEvidence {
    /// Version 4 or 5, as the quoting enclave gave it.
    pub quote: Vec<u8>,
    /// CCEL; empty where the machine has none.
    pub event_log: Vec<u8>,
}

/// A quote of Azure's vTPM, whose `extraData` is the binding, and what vouches for its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AzVtpmEvidence {
    /// What the firmware wrote: the hardware's report and the runtime data.
    pub hcl_report: Vec<u8>,
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The values that were quoted.
    pub pcrs: Vec<PcrBank>,
    /// TCG2 log; empty where the machine has none.
    pub event_log: Vec<u8>,
    /// TDX: the quote of the trust domain. SEV-SNP: certificates in PEM, or empty.
    pub hardware: Vec<u8>,
}

/// A report of an NVIDIA GPU or switch over the binding as its nonce.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NvidiaGpuEvidence {
    /// SPDM request and response.
    pub report: Vec<u8>,
    /// PEM, leaf first.
    pub certificate_chain: Vec<u8>,
    /// The word of the driver: `hopper`, `blackwell`, `ls10`.
    pub architecture: String,
    /// A switch is no GPU, and does not count as one.
    pub is_switch: bool,
    /// What the driver says of the GPU's mode; `None` for switches.
    pub driver: Option<NvidiaDriverState>,
}

/// What the driver in the guest says of a GPU: believed as much as the guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NvidiaDriverState {
    /// Confidential computing is on.
    pub confidential_compute: bool,
    /// Its mode for developers is on, which protects nothing.
    pub devtools: bool,
}

/// A document of AWS Nitro Enclaves, whose nonce is the binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NitroEvidence {
    /// COSE_Sign1.
    pub document: Vec<u8>,
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
    /// Slot for the renewal.
    pub renew_at: SystemTime,
    /// The control plane's time.
    pub server_time: SystemTime,
    /// Which instance this is.
    pub instance: InstanceId,
    /// Proofs that are due before the renewal.
    pub reattest: Vec<Slot>,
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
    /// Last, of a reattestation.
    Confirmed(Confirmed),
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
            Step::Confirmed(confirmed) => Ok(Self::Confirmed(confirmed.try_into()?)),
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
            AttestResponse::Confirmed(confirmed) => Step::Confirmed(confirmed.into()),
            AttestResponse::Refusal(refusal) => Step::Refusal(refusal.into()),
        };
        Self { step: Some(step) }
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

fn ascending<'a, T: PartialOrd + 'a>(
    field: &'static str,
    mut numbers: impl Iterator<Item = &'a T>,
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

/// The shortest that nobody guesses.
const MIN_TOKEN_BYTES: usize = 16;
const MAX_TOKEN_BYTES: usize = 256;
/// One per kind, with room.
const MAX_OFFERS: usize = 12;
/// SHA-256 and SHA-384, and room.
const MAX_BANKS: usize = 4;
/// PCRs of a PC client TPM (TCG PC Client Platform TPM Profile §4.6).
const PCRS: usize = 24;
const MAX_ENDPOINTS: usize = 16;
const MAX_WORD_BYTES: usize = 128;

#[cfg(test)]
mod tests;
