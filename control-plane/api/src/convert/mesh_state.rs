//! Mesh state: signed revisions, slices of them, and the resources of a slice.
//!
//! # Why
//! A sidecar holds a *slice*: the resources that concern its workload. The root of a slice is over its resources, and
//! what is signed is the root over all slices. So one proof of a dozen hashes says what the whole slice is, at each
//! revision anew: a change elsewhere costs a sidecar that proof and nothing else, and a receiver that is not told of a
//! change finds another root than the proven one. With one tree over all resources, each change would need a new proof
//! for each resource that is held, and what was left out would not show.
//!
//! | Module | Holds |
//! |---|---|
//! | [`probe`] | what would fall if a change were made |
//! | [`report`] | what a sidecar denied, ended, and admitted by audit |
//! | [`trust`] | instances that must not be believed |
//! | [`renewal`] | certificates that are to be renewed ahead of time |

use std::time::SystemTime;

use prost::bytes::Bytes;
use vouchsafe_attestation::merkle::{Hash, leaf_hash, verify_inclusion};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::Leaf;
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};
use vouchsafe_attestation::trust_domain::TrustDomain;

use self::probe::{Probe, ProbeReport};
use self::report::Report;
use super::attest::{AuthorityCertificate, Endpoint};
use super::{ConvertError, array, bounded, each, frame, some_bytes, text, time, unix_ms};
use crate::v1;

pub mod probe;
pub mod renewal;
pub mod report;
pub mod trust;

#[cfg(test)]
mod tests;

/// A revision with the signature of the mesh-state key. Nothing here says that the signature holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedRevision {
    /// Which state.
    pub revision: Revision,
    /// Merkle root over all slices, in the order of their names.
    pub root: Hash,
    /// Number of slices.
    pub slices: u64,
    /// When it was signed, by the control plane's clock.
    pub time: SystemTime,
    /// ECDSA P-256 with SHA-256 over [`revision_tbs`], DER.
    pub signature: Vec<u8>,
    /// DER, leaf first, ends in the root.
    pub signer_chain: Vec<Vec<u8>>,
}

impl SignedRevision {
    /// The bytes that the signature covers.
    pub fn tbs(&self) -> Vec<u8> {
        revision_tbs(self.revision, &self.root, self.slices, self.time)
    }
}

/// The bytes that a mesh-state key signs: a versioned label, then every field framed by its length.
///
/// `vouchsafe/v1/revision\0 ‖ epoch ‖ sequence ‖ root ‖ number of slices ‖ Unix milliseconds`, numbers as u64
/// big-endian, each field preceded by its length as u64 big-endian.
pub fn revision_tbs(revision: Revision, root: &Hash, slices: u64, time: SystemTime) -> Vec<u8> {
    let mut out = REVISION_LABEL.to_vec();
    frame(&mut out, &revision.epoch.to_be_bytes());
    frame(&mut out, &revision.sequence.to_be_bytes());
    frame(&mut out, root);
    frame(&mut out, &slices.to_be_bytes());
    frame(&mut out, &unix_ms(time).to_be_bytes());
    out
}

/// The Merkle leaf of a resource: its name and content, framed, so that content can't move to another name.
///
/// The leaf hash is [`vouchsafe_attestation::merkle::leaf_hash`] of this.
pub fn resource_leaf(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = RESOURCE_LABEL.to_vec();
    frame(&mut out, name.as_bytes());
    frame(&mut out, content);
    out
}

/// The Merkle leaf of a slice: its name, its root and the number of its resources, framed.
///
/// The leaf hash is [`vouchsafe_attestation::merkle::leaf_hash`] of this.
pub fn slice_leaf(name: &str, root: &Hash, resources: u64) -> Vec<u8> {
    let mut out = SLICE_LABEL.to_vec();
    frame(&mut out, name.as_bytes());
    frame(&mut out, root);
    frame(&mut out, &resources.to_be_bytes());
    out
}

/// Name of the leaf over all resources of the mesh, whomever they concern. No sidecar holds it.
pub const WHOLE: &str = "*";

/// One resource. Cloning shares the content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    /// What it is.
    pub name: ResourceName,
    /// YAML of the document, or the encoded message that the name implies.
    pub content: Bytes,
}

impl Resource {
    /// Its leaf hash in its slice.
    pub fn leaf(&self) -> Hash {
        leaf_hash(&resource_leaf(&self.name.to_string(), &self.content))
    }
}

/// Whose slice it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum SliceName {
    /// A workload's.
    Workload(WorkloadName),
    /// That of all workloads that the policy does not know: what concerns everybody.
    Unknown,
}

impl std::fmt::Display for SliceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Workload(workload) => workload.fmt(f),
            Self::Unknown => f.write_str("-"),
        }
    }
}

impl std::str::FromStr for SliceName {
    type Err = ConvertError;

    fn from_str(name: &str) -> Result<Self, ConvertError> {
        if name == "-" {
            return Ok(Self::Unknown);
        }
        let workload = name.parse().map_err(|_| ConvertError::Malformed {
            field: "slice",
            expected: "`-` or the name of a workload",
        })?;
        Ok(Self::Workload(workload))
    }
}

/// What leads from a slice to the signed root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SliceProof {
    /// Whose slice.
    pub slice: SliceName,
    /// Number of the leaf.
    pub index: u64,
    /// Siblings up to the root.
    pub siblings: Vec<Hash>,
}

impl SliceProof {
    /// Whether the slice of a revision has this root and so many resources.
    pub fn proves(&self, root: &Hash, resources: u64, revision: &SignedRevision) -> bool {
        let leaf = leaf_hash(&slice_leaf(&self.slice.to_string(), root, resources));
        verify_inclusion(
            &revision.root,
            &leaf,
            self.index,
            revision.slices,
            &self.siblings,
        )
    }
}

/// What a resource is. Names order as their texts do, byte by byte: that is the order of the Merkle leaves.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ResourceName {
    /// A policy document, content in YAML. `Mesh` has no namespace and is written with `-`.
    Policy {
        /// `Workload`, `AccessPolicy`, `Mesh`, ….
        kind: String,
        /// `-` for `Mesh`.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Where a workload is reached, content is [`v1::Endpoints`].
    Endpoints(WorkloadName),
    /// Whom to believe, content is [`v1::TrustBundle`].
    TrustBundle,
    /// Why an instance must not be believed, content is [`v1::InstanceTrust`]; of those that may be, there is none.
    Trust(InstanceId),
    /// Certificates are to be renewed ahead of time, those of a workload or, written `-/-`, all; content is
    /// [`v1::PacedRenewal`].
    Renewal(Option<WorkloadName>),
}

impl std::fmt::Display for ResourceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Policy {
                kind,
                namespace,
                name,
            } => write!(f, "policy/{kind}/{namespace}/{name}"),
            Self::Endpoints(workload) => write!(f, "endpoints/{workload}"),
            Self::TrustBundle => f.write_str("trust-bundle"),
            Self::Trust(instance) => write!(f, "trust/{instance}"),
            Self::Renewal(Some(workload)) => write!(f, "renewal/{workload}"),
            Self::Renewal(None) => f.write_str("renewal/-/-"),
        }
    }
}

impl std::str::FromStr for ResourceName {
    type Err = ConvertError;

    fn from_str(name: &str) -> Result<Self, ConvertError> {
        bounded("name", MAX_NAME_BYTES, name.len())?;
        let malformed = ConvertError::Malformed {
            field: "name",
            expected: "the name of a resource that this build knows",
        };
        let parts: Vec<&str> = name.split('/').collect();
        let word = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !part.is_empty() && part.bytes().all(allowed)
        };
        match parts.as_slice() {
            ["trust-bundle"] => Ok(Self::TrustBundle),
            ["trust", instance] => InstanceId::parse(instance)
                .map(Self::Trust)
                .ok_or(malformed),
            ["endpoints", namespace, workload] => {
                let workload = format!("{namespace}/{workload}")
                    .parse()
                    .map_err(|_| malformed)?;
                Ok(Self::Endpoints(workload))
            }
            ["renewal", "-", "-"] => Ok(Self::Renewal(None)),
            ["renewal", namespace, workload] => {
                let workload = format!("{namespace}/{workload}").parse();
                workload
                    .map(|workload| Self::Renewal(Some(workload)))
                    .map_err(|_| malformed)
            }
            ["policy", kind, namespace, name] if word(kind) && word(namespace) && word(name) => {
                Ok(Self::Policy {
                    kind: (*kind).to_owned(),
                    namespace: (*namespace).to_owned(),
                    name: (*name).to_owned(),
                })
            }
            _ => Err(malformed),
        }
    }
}

/// What a mesh-state stream says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WatchResponse {
    /// All resources of the receiver's slice.
    Snapshot(Snapshot),
    /// The current revision, freshly signed.
    Heartbeat(SignedRevision),
    /// What changed in the receiver's slice.
    Delta(Delta),
    /// A question about a change that is not made.
    Probe(Probe),
}

/// All resources of one slice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The revision that they belong to.
    pub revision: SignedRevision,
    /// What the slice is.
    pub proof: SliceProof,
    /// In the order of their names.
    pub resources: Vec<Resource>,
}

/// What makes the slice of one revision out of that of another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delta {
    /// The revision that it leads to.
    pub revision: SignedRevision,
    /// The revision that it starts from.
    pub base: Revision,
    /// What the slice is afterwards.
    pub proof: SliceProof,
    /// New, or with another content; in the order of their names.
    pub changed: Vec<Resource>,
    /// No longer there, or no longer the receiver's concern.
    pub removed: Vec<ResourceName>,
}

/// What a sidecar says on a mesh-state stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WatchRequest {
    /// First, and whenever what came can't be used: what the sidecar holds.
    Subscribe(Holding),
    /// A revision is applied, or why not.
    Acknowledgement(Acknowledgement),
    /// The answer to a probe.
    ProbeReport(ProbeReport),
    /// What it decided at its doors.
    Report(Report),
    /// It has drained and ends.
    Goodbye,
}

/// What a sidecar holds; the default is nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Holding {
    /// Its revision.
    pub revision: Revision,
    /// Root of the slice; `None` for nothing.
    pub slice_root: Option<Hash>,
}

/// What became of a revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acknowledgement {
    /// Which.
    pub revision: Revision,
    /// Root of the slice that the sidecar holds now, or why it did not apply the revision.
    pub outcome: Result<Hash, String>,
}

impl TryFrom<v1::SignedRevision> for SignedRevision {
    type Error = ConvertError;

    fn try_from(wire: v1::SignedRevision) -> Result<Self, ConvertError> {
        let certificate = |der| some_bytes("signer_chain", Leaf::MAX_BYTES, der);
        Ok(Self {
            revision: wire
                .revision
                .ok_or(ConvertError::Missing("revision"))?
                .into(),
            root: array("root", &wire.root)?,
            slices: wire.slices,
            time: time("time_ms", wire.time_ms)?,
            signature: some_bytes("signature", MAX_SIGNATURE_BYTES, wire.signature)?,
            signer_chain: each("signer_chain", MAX_CHAIN, wire.signer_chain, certificate)?,
        })
    }
}

impl From<SignedRevision> for v1::SignedRevision {
    fn from(signed: SignedRevision) -> Self {
        Self {
            revision: Some(signed.revision.into()),
            root: signed.root.to_vec(),
            slices: signed.slices,
            time_ms: unix_ms(signed.time),
            signature: signed.signature,
            signer_chain: signed.signer_chain,
        }
    }
}

impl TryFrom<v1::Resource> for Resource {
    type Error = ConvertError;

    fn try_from(wire: v1::Resource) -> Result<Self, ConvertError> {
        bounded("content", MAX_CONTENT_BYTES, wire.content.len())?;
        Ok(Self {
            name: wire.name.parse()?,
            content: wire.content,
        })
    }
}

impl From<Resource> for v1::Resource {
    fn from(resource: Resource) -> Self {
        Self {
            name: resource.name.to_string(),
            content: resource.content,
        }
    }
}

impl TryFrom<v1::SliceProof> for SliceProof {
    type Error = ConvertError;

    fn try_from(wire: v1::SliceProof) -> Result<Self, ConvertError> {
        Ok(Self {
            slice: wire.slice.parse()?,
            index: wire.index,
            siblings: each("siblings", MAX_PROOF, wire.siblings, |hash| {
                array("siblings", &hash)
            })?,
        })
    }
}

impl From<SliceProof> for v1::SliceProof {
    fn from(proof: SliceProof) -> Self {
        Self {
            slice: proof.slice.to_string(),
            index: proof.index,
            siblings: proof.siblings.iter().map(|hash| hash.to_vec()).collect(),
        }
    }
}

impl TryFrom<v1::Snapshot> for Snapshot {
    type Error = ConvertError;

    fn try_from(wire: v1::Snapshot) -> Result<Self, ConvertError> {
        Ok(Self {
            revision: required("revision", wire.revision)?,
            proof: required("proof", wire.proof)?,
            resources: resources("resources", wire.resources)?,
        })
    }
}

impl From<Snapshot> for v1::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            revision: Some(snapshot.revision.into()),
            resources: snapshot.resources.into_iter().map(Into::into).collect(),
            proof: Some(snapshot.proof.into()),
        }
    }
}

impl TryFrom<v1::Delta> for Delta {
    type Error = ConvertError;

    fn try_from(wire: v1::Delta) -> Result<Self, ConvertError> {
        Ok(Self {
            revision: required("revision", wire.revision)?,
            base: wire.base.ok_or(ConvertError::Missing("base"))?.into(),
            proof: required("proof", wire.proof)?,
            changed: resources("changed", wire.changed)?,
            removed: names("removed", &wire.removed)?,
        })
    }
}

impl From<Delta> for v1::Delta {
    fn from(delta: Delta) -> Self {
        Self {
            revision: Some(delta.revision.into()),
            base: Some(delta.base.into()),
            changed: delta.changed.into_iter().map(Into::into).collect(),
            removed: delta.removed.iter().map(ToString::to_string).collect(),
            proof: Some(delta.proof.into()),
        }
    }
}

fn required<W, T: TryFrom<W, Error = ConvertError>>(
    field: &'static str,
    wire: Option<W>,
) -> Result<T, ConvertError> {
    wire.ok_or(ConvertError::Missing(field))?.try_into()
}

/// Reads resources, none of which comes twice.
fn resources(field: &'static str, wire: Vec<v1::Resource>) -> Result<Vec<Resource>, ConvertError> {
    ordered(field, wire.iter().map(|resource| &resource.name))?;
    each(field, MAX_RESOURCES, wire, Resource::try_from)
}

fn names(field: &'static str, wire: &[String]) -> Result<Vec<ResourceName>, ConvertError> {
    ordered(field, wire.iter())?;
    bounded(field, MAX_RESOURCES, wire.len())?;
    wire.iter().map(|name| name.parse()).collect()
}

fn ordered<'n>(
    field: &'static str,
    names: impl Iterator<Item = &'n String> + Clone,
) -> Result<(), ConvertError> {
    let expected = "in the order of names, each once";
    let next = names.clone().skip(1);
    match names.zip(next).all(|(one, next)| one < next) {
        true => Ok(()),
        false => Err(ConvertError::Malformed { field, expected }),
    }
}

fn slice_root(wire: &[u8]) -> Result<Option<Hash>, ConvertError> {
    match wire {
        [] => Ok(None),
        hash => array("slice_root", hash).map(Some),
    }
}

impl TryFrom<v1::WatchResponse> for WatchResponse {
    type Error = ConvertError;

    fn try_from(wire: v1::WatchResponse) -> Result<Self, ConvertError> {
        use v1::watch_response::Message;
        match wire.message.ok_or(ConvertError::Missing("message"))? {
            Message::Snapshot(snapshot) => snapshot.try_into().map(Self::Snapshot),
            Message::Heartbeat(heartbeat) => {
                required("revision", heartbeat.revision).map(Self::Heartbeat)
            }
            Message::Delta(delta) => delta.try_into().map(Self::Delta),
            Message::Probe(probe) => probe.try_into().map(Self::Probe),
        }
    }
}

impl From<WatchResponse> for v1::WatchResponse {
    fn from(response: WatchResponse) -> Self {
        use v1::watch_response::Message;
        let message = match response {
            WatchResponse::Snapshot(snapshot) => Message::Snapshot(snapshot.into()),
            WatchResponse::Heartbeat(signed) => Message::Heartbeat(v1::Heartbeat {
                revision: Some(signed.into()),
            }),
            WatchResponse::Delta(delta) => Message::Delta(delta.into()),
            WatchResponse::Probe(probe) => Message::Probe(probe.into()),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<v1::WatchRequest> for WatchRequest {
    type Error = ConvertError;

    fn try_from(wire: v1::WatchRequest) -> Result<Self, ConvertError> {
        use v1::watch_request::Message;
        match wire.message.ok_or(ConvertError::Missing("message"))? {
            Message::Subscribe(subscribe) => Ok(Self::Subscribe(Holding {
                revision: subscribe.applied.map(Into::into).unwrap_or_default(),
                slice_root: slice_root(&subscribe.slice_root)?,
            })),
            Message::Acknowledgement(ack) => ack.try_into().map(Self::Acknowledgement),
            Message::ProbeReport(report) => report.try_into().map(Self::ProbeReport),
            Message::Report(report) => report.try_into().map(Self::Report),
            Message::Goodbye(v1::Goodbye {}) => Ok(Self::Goodbye),
        }
    }
}

impl From<WatchRequest> for v1::WatchRequest {
    fn from(request: WatchRequest) -> Self {
        use v1::watch_request::Message;
        let message = match request {
            WatchRequest::Subscribe(holding) => Message::Subscribe(v1::Subscribe {
                applied: Some(holding.revision.into()),
                slice_root: holding
                    .slice_root
                    .map_or_else(Vec::new, |root| root.to_vec()),
            }),
            WatchRequest::Acknowledgement(ack) => Message::Acknowledgement(ack.into()),
            WatchRequest::ProbeReport(report) => Message::ProbeReport(report.into()),
            WatchRequest::Report(report) => Message::Report(report.into()),
            WatchRequest::Goodbye => Message::Goodbye(v1::Goodbye {}),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<v1::Acknowledgement> for Acknowledgement {
    type Error = ConvertError;

    fn try_from(wire: v1::Acknowledgement) -> Result<Self, ConvertError> {
        let error = text("error", MAX_ERROR_BYTES, wire.error)?;
        let root = slice_root(&wire.slice_root)?;
        Ok(Self {
            revision: required_revision(wire.revision)?,
            outcome: match (root, error.is_empty()) {
                (Some(root), true) => Ok(root),
                (None, false) => Err(error),
                (None, true) => return Err(ConvertError::Missing("slice_root")),
                (Some(_), false) => {
                    let expected = "absent beside an error";
                    return Err(ConvertError::Malformed {
                        field: "slice_root",
                        expected,
                    });
                }
            },
        })
    }
}

impl From<Acknowledgement> for v1::Acknowledgement {
    fn from(ack: Acknowledgement) -> Self {
        let (slice_root, error) = match ack.outcome {
            Ok(root) => (root.to_vec(), String::new()),
            // An error without words would read as none.
            Err(error) if error.is_empty() => (Vec::new(), "unknown".to_owned()),
            Err(error) => (Vec::new(), one_line(&error)),
        };
        Self {
            revision: Some(ack.revision.into()),
            error,
            slice_root,
        }
    }
}

fn required_revision(wire: Option<v1::Revision>) -> Result<Revision, ConvertError> {
    Ok(wire.ok_or(ConvertError::Missing("revision"))?.into())
}

/// Reads the authorities of a bundle on the wire.
///
/// # Errors
/// [`ConvertError`] when there are too many, or one is out of bounds.
pub fn authorities(wire: v1::TrustBundle) -> Result<Vec<AuthorityCertificate>, ConvertError> {
    let authority = |wire: v1::Authority| {
        bounded(
            "trust_domain",
            TrustDomain::MAX_BYTES,
            wire.trust_domain.len(),
        )?;
        Ok(AuthorityCertificate {
            certificate: some_bytes("certificate", Leaf::MAX_BYTES, wire.certificate)?,
            trust_domain: wire.trust_domain,
            attested: wire.attested,
        })
    };
    each(
        "authorities",
        TrustBundle::MAX_AUTHORITIES,
        wire.authorities,
        authority,
    )
}

/// The wire form of a bundle.
pub fn trust_bundle(authorities: Vec<AuthorityCertificate>) -> v1::TrustBundle {
    let authority = |held: AuthorityCertificate| v1::Authority {
        trust_domain: held.trust_domain,
        certificate: held.certificate,
        attested: held.attested,
    };
    v1::TrustBundle {
        authorities: authorities.into_iter().map(authority).collect(),
    }
}

/// Makes a bundle of authorities that came over the wire.
///
/// # Errors
/// [`ConvertError`] when one is no authority, or two contradict each other.
pub fn read_trust_bundle(
    authorities: &[AuthorityCertificate],
) -> Result<TrustBundle, ConvertError> {
    let malformed = |expected| ConvertError::Malformed {
        field: "authorities",
        expected,
    };
    let read = |held: &AuthorityCertificate| {
        let trust_domain: TrustDomain = held
            .trust_domain
            .parse()
            .map_err(|_| malformed("of a trust domain"))?;
        let certificate = held.certificate.as_slice().into();
        Authority::new(trust_domain, &certificate, held.attested)
            .map_err(|_| malformed("the certificate of an authority"))
    };
    let authorities = authorities.iter().map(read).collect::<Result<_, _>>()?;
    TrustBundle::new(authorities).map_err(|_| malformed("free of contradictions"))
}

/// Reads the endpoints of one workload.
///
/// # Errors
/// [`ConvertError`] when there are too many, or one is malformed.
pub fn workload_endpoints(wire: v1::Endpoints) -> Result<Vec<Endpoint>, ConvertError> {
    each(
        "endpoints",
        MAX_WORKLOAD_ENDPOINTS,
        wire.endpoints,
        Endpoint::try_from,
    )
}

/// A text that fits an error on the wire: one line, bounded.
pub fn one_line(error: &str) -> String {
    let line = error.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut text = String::new();
    for c in line {
        if text.len() + c.len_utf8() > MAX_ERROR_BYTES {
            break;
        }
        text.push(c);
    }
    text
}

/// Versioned, NUL-terminated, so that no label is a prefix of another.
const REVISION_LABEL: &[u8] = b"vouchsafe/v1/revision\0";
const RESOURCE_LABEL: &[u8] = b"vouchsafe/v1/resource\0";
const SLICE_LABEL: &[u8] = b"vouchsafe/v1/slice\0";
const MAX_CHAIN: usize = 8;
/// Two integers of 33 bytes with their headers.
const MAX_SIGNATURE_BYTES: usize = 80;
/// Kind, namespace and name with slashes.
const MAX_NAME_BYTES: usize = 256;
/// A document of the size that a whole file may have.
pub const MAX_CONTENT_BYTES: usize = 4 * 1024 * 1024;
/// Depth of a tree of 2^40 leaves.
const MAX_PROOF: usize = 40;
const MAX_RESOURCES: usize = 200_000;
const MAX_ERROR_BYTES: usize = 4096;
/// Instances of one workload times their listeners.
pub const MAX_WORKLOAD_ENDPOINTS: usize = 16_384;
