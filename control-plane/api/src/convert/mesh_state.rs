//! Mesh state: signed revisions and the resources that belong to them.
//!
//! | Module | Holds |
//! |---|---|
//! | [`probe`] | what would fall if a change were made |
//! | [`trust`] | instances that must not be believed |
//! | [`renewal`] | certificates that are to be renewed ahead of time |

use std::time::SystemTime;

use vouchsafe_attestation::merkle::Hash;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::Leaf;
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};
use vouchsafe_attestation::trust_domain::TrustDomain;

use self::probe::{Probe, ProbeReport};
use super::attest::{AuthorityCertificate, Endpoint};
use super::{ConvertError, array, bounded, bytes, each, frame, some_bytes, text, time, unix_ms};
use crate::v1;

pub mod probe;
pub mod renewal;
pub mod trust;

#[cfg(test)]
mod tests;

/// A revision with the signature of the mesh-state key. Nothing here says that the signature holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedRevision {
    /// Which state.
    pub revision: Revision,
    /// Merkle root over all resources of the mesh, in the order of their names.
    pub root: Hash,
    /// Number of leaves.
    pub resources: u64,
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
        revision_tbs(self.revision, &self.root, self.resources, self.time)
    }
}

/// The bytes that a mesh-state key signs: a versioned label, then every field framed by its length.
///
/// `vouchsafe/v1/revision\0 ‖ epoch ‖ sequence ‖ root ‖ number of resources ‖ Unix milliseconds`, numbers as u64
/// big-endian, each field preceded by its length as u64 big-endian.
pub fn revision_tbs(revision: Revision, root: &Hash, resources: u64, time: SystemTime) -> Vec<u8> {
    let mut out = REVISION_LABEL.to_vec();
    frame(&mut out, &revision.epoch.to_be_bytes());
    frame(&mut out, &revision.sequence.to_be_bytes());
    frame(&mut out, root);
    frame(&mut out, &resources.to_be_bytes());
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

/// One resource with the proof that it belongs to a revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    /// `policy/<Kind>/<namespace>/<name>`, `endpoints/<namespace>/<name>`, `trust-bundle`.
    pub name: ResourceName,
    /// YAML of the document, or the encoded message that the name implies.
    pub content: Vec<u8>,
    /// Number of the leaf.
    pub index: u64,
    /// Siblings up to the root.
    pub proof: Vec<Hash>,
}

impl Resource {
    /// Whether the proof leads to the revision's root.
    pub fn belongs_to(&self, revision: &SignedRevision) -> bool {
        use vouchsafe_attestation::merkle::{leaf_hash, verify_inclusion};
        let leaf = leaf_hash(&resource_leaf(&self.name.to_string(), &self.content));
        verify_inclusion(
            &revision.root,
            &leaf,
            self.index,
            revision.resources,
            &self.proof,
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
    /// All resources that concern the receiver.
    Snapshot(Snapshot),
    /// The current revision, freshly signed.
    Heartbeat(SignedRevision),
    /// A change. The control plane sends none yet; a receiver that gets one asks for a snapshot.
    Delta(SignedRevision),
    /// A question about a change that is not made.
    Probe(Probe),
}

/// All resources that concern one sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The revision that they belong to.
    pub revision: SignedRevision,
    /// In the order of their names.
    pub resources: Vec<Resource>,
}

/// What a sidecar says on a mesh-state stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WatchRequest {
    /// First: the highest revision that the sidecar holds.
    Subscribe(Revision),
    /// A revision is applied, or why not.
    Acknowledgement {
        /// Which.
        revision: Revision,
        /// `None`: applied.
        error: Option<String>,
    },
    /// The answer to a probe.
    ProbeReport(ProbeReport),
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
            resources: wire.resources,
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
            resources: signed.resources,
            time_ms: unix_ms(signed.time),
            signature: signed.signature,
            signer_chain: signed.signer_chain,
        }
    }
}

impl TryFrom<v1::Resource> for Resource {
    type Error = ConvertError;

    fn try_from(wire: v1::Resource) -> Result<Self, ConvertError> {
        Ok(Self {
            name: wire.name.parse()?,
            content: bytes("content", MAX_CONTENT_BYTES, wire.content.into())?,
            index: wire.index,
            proof: each("proof", MAX_PROOF, wire.proof, |hash| array("proof", &hash))?,
        })
    }
}

impl From<Resource> for v1::Resource {
    fn from(resource: Resource) -> Self {
        Self {
            name: resource.name.to_string(),
            content: resource.content.into(),
            index: resource.index,
            proof: resource.proof.iter().map(|hash| hash.to_vec()).collect(),
        }
    }
}

impl TryFrom<v1::WatchResponse> for WatchResponse {
    type Error = ConvertError;

    fn try_from(wire: v1::WatchResponse) -> Result<Self, ConvertError> {
        use v1::watch_response::Message;
        let revision = |wire: Option<v1::SignedRevision>| {
            wire.ok_or(ConvertError::Missing("revision"))?.try_into()
        };
        match wire.message.ok_or(ConvertError::Missing("message"))? {
            Message::Snapshot(snapshot) => Ok(Self::Snapshot(Snapshot {
                revision: revision(snapshot.revision)?,
                resources: each(
                    "resources",
                    MAX_RESOURCES,
                    snapshot.resources,
                    Resource::try_from,
                )?,
            })),
            Message::Heartbeat(heartbeat) => Ok(Self::Heartbeat(revision(heartbeat.revision)?)),
            Message::Delta(delta) => Ok(Self::Delta(revision(delta.revision)?)),
            Message::Probe(probe) => Ok(Self::Probe(probe.try_into()?)),
        }
    }
}

impl TryFrom<v1::WatchRequest> for WatchRequest {
    type Error = ConvertError;

    fn try_from(wire: v1::WatchRequest) -> Result<Self, ConvertError> {
        use v1::watch_request::Message;
        match wire.message.ok_or(ConvertError::Missing("message"))? {
            Message::Subscribe(subscribe) => Ok(Self::Subscribe(
                subscribe.applied.map(Into::into).unwrap_or_default(),
            )),
            Message::Acknowledgement(ack) => {
                let error = text("error", MAX_ERROR_BYTES, ack.error)?;
                Ok(Self::Acknowledgement {
                    revision: ack
                        .revision
                        .ok_or(ConvertError::Missing("revision"))?
                        .into(),
                    error: Some(error).filter(|error| !error.is_empty()),
                })
            }
            Message::ProbeReport(report) => Ok(Self::ProbeReport(report.try_into()?)),
        }
    }
}

impl From<WatchRequest> for v1::WatchRequest {
    fn from(request: WatchRequest) -> Self {
        use v1::watch_request::Message;
        let message = match request {
            WatchRequest::Subscribe(applied) => Message::Subscribe(v1::Subscribe {
                applied: Some(applied.into()),
            }),
            WatchRequest::Acknowledgement { revision, error } => {
                Message::Acknowledgement(v1::Acknowledgement {
                    revision: Some(revision.into()),
                    error: error.unwrap_or_default(),
                })
            }
            WatchRequest::ProbeReport(report) => Message::ProbeReport(report.into()),
        };
        Self {
            message: Some(message),
        }
    }
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
const MAX_CHAIN: usize = 8;
/// Two integers of 33 bytes with their headers.
const MAX_SIGNATURE_BYTES: usize = 80;
/// Kind, namespace and name with slashes.
const MAX_NAME_BYTES: usize = 256;
/// A document of the size that a whole file may have.
const MAX_CONTENT_BYTES: usize = 4 * 1024 * 1024;
/// Depth of a tree of 2^40 leaves.
const MAX_PROOF: usize = 40;
const MAX_RESOURCES: usize = 200_000;
const MAX_ERROR_BYTES: usize = 4096;
/// Instances of one workload times their listeners.
const MAX_WORKLOAD_ENDPOINTS: usize = 16_384;
