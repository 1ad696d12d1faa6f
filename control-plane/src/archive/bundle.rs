//! One attestation as it is kept.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};
use vouchsafe_api::convert::attest::{EvidenceBody, Hello};
use vouchsafe_api::convert::{time, unix_ms};
use vouchsafe_api::v1;
use vouchsafe_attestation::claims::Class;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::document::Kind;
use vouchsafe_config::mesh::EkRootCertificates;
use vouchsafe_config::profile::AttestationProfile;

use crate::case::Case;
use crate::ear::CoLocation;
use crate::issuance::Plan;
use crate::mesh::MeshState;
use crate::refusal::Refused;
use crate::registration::StoredTpm;

/// One attestation: all that it was judged by, and what came of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Of this form: 1.
    pub(super) version: u8,
    /// When it was judged.
    pub(super) time_ms: u64,
    pub(super) workload: String,
    pub(super) profile: String,
    pub(super) policy_epoch: u64,
    pub(super) policy_sequence: u64,
    /// Digest of the object with the documents: the Mesh, the profile.
    pub(super) policy: String,
    pub(super) ek_roots: Vec<KeptRoot>,
    pub(super) trust_domain: String,
    pub(super) accepts_simulated: bool,
    /// The challenge.
    pub(super) nonce: String,
    pub(super) server_leaf_sha256: String,
    pub(super) exporter: String,
    /// What devices were expected to sign over, as it follows from the rest.
    pub(super) base: String,
    /// Kinds that were challenged.
    pub(super) required: Vec<String>,
    /// Kinds of the whole machine, where only a part of it was challenged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) part_of: Option<Vec<String>>,
    /// `Hello` of the protocol without its join token, in base64.
    pub(super) hello: String,
    /// `Evidence` of the protocol without activated credentials, in base64.
    pub(super) evidence: String,
    /// Whether the TPM opened its credential; null without a TPM.
    pub(super) credential_opened: Option<bool>,
    /// What was known of the instance's TPM.
    pub(super) previous_tpm: Option<StoredTpm>,
    pub(super) endorsements: Vec<KeptEndorsement>,
    pub(super) outcome: Outcome,
}

/// Roots of TPMs' makers that were believed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptRoot {
    pub(super) class: String,
    /// Digest of the object with the certificates in PEM.
    pub(super) certificates: String,
}

/// What a vendor said.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptEndorsement {
    pub(super) name: String,
    /// Digest of the object.
    pub(super) sha256: String,
}

/// What came of an attestation.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Outcome {
    /// A certificate.
    Issued {
        /// Whose.
        spiffe_id: String,
        /// Which instance.
        instance: String,
        /// Its end.
        not_after_ms: u64,
        /// Whether the devices are in one machine, by the `Node` that admitted them.
        co_location: CoLocation,
        /// SHA-256 of the full attestation result.
        result_sha256: String,
    },
    /// The present certificate goes on.
    Confirmed {
        /// Which instance.
        instance: String,
        /// Which part was proven.
        proof: String,
    },
    /// None.
    Refused {
        /// The word.
        reason: String,
        /// For the operator.
        detail: String,
    },
}

impl Outcome {
    /// Of a certificate that is planned.
    pub fn issued(plan: &Plan, co_location: CoLocation) -> Self {
        Self::Issued {
            spiffe_id: plan.template.id.as_str().to_owned(),
            instance: plan.result.instance.to_string(),
            not_after_ms: unix_ms(plan.template.not_after),
            co_location,
            result_sha256: hex::encode(plan.result.ear_sha256),
        }
    }

    /// Of a refusal.
    pub fn refused(refused: &Refused) -> Self {
        Self::Refused {
            reason: refused.reason.to_owned(),
            detail: refused.detail.clone(),
        }
    }
}

/// The policy that evidence is judged by, as texts.
#[derive(Clone, Debug)]
pub struct PolicyTexts {
    profile: String,
    documents: String,
    ek_roots: Vec<(Class, String)>,
}

impl PolicyTexts {
    /// Of a state and the profile by which it judges.
    pub fn of(state: &MeshState, profile: &AttestationProfile) -> Self {
        let named = profile.name.to_string();
        let is_wanted = |kind: Kind, name: String| match kind {
            Kind::Mesh => true,
            Kind::AttestationProfile => name == named,
            _ => false,
        };
        let documents = state.policy.set.documents().iter();
        let texts: Vec<&str> = documents
            .filter(|document| {
                let namespace = document.namespace.as_ref().map_or("", |name| name.as_str());
                is_wanted(document.kind, format!("{namespace}/{}", document.name))
            })
            .map(|document| document.text.as_str())
            .collect();
        let roots = state.policy.mesh.ek_roots.iter();
        let roots = roots.filter_map(|root| match &root.certificates {
            EkRootCertificates::Pem(pem) => Some((root.class, pem.clone())),
            // The loader has read every file.
            EkRootCertificates::File(_) => None,
        });
        Self {
            documents: texts.join("\n---\n"),
            ek_roots: roots.collect(),
            profile: named,
        }
    }
}

impl Bundle {
    /// What is kept of a case, and the objects that it refers to.
    pub(super) fn of(case: &Case, policy: PolicyTexts, outcome: Outcome) -> (Self, Vec<Vec<u8>>) {
        let mut objects = Vec::new();
        let mut object = |bytes: Vec<u8>| {
            let digest = hex::encode(sha256(&bytes));
            objects.push(bytes);
            digest
        };
        let endorsements = { case.endorsements.iter() }
            .map(|(name, bytes)| KeptEndorsement {
                name: name.clone(),
                sha256: object(bytes.clone()),
            })
            .collect();
        let ek_roots = { policy.ek_roots.into_iter() }
            .map(|(class, pem)| KeptRoot {
                class: class.as_str().to_owned(),
                certificates: object(pem.into_bytes()),
            })
            .collect();
        let documents = object(policy.documents.into_bytes());
        let (evidence, credential_opened) = without_credentials(case);
        let hello = Hello {
            join_token: None,
            ..case.hello.clone()
        };
        let bundle = Self {
            version: VERSION,
            time_ms: unix_ms(case.time),
            workload: case.hello.workload.to_string(),
            profile: policy.profile,
            policy_epoch: case.revision.epoch,
            policy_sequence: case.revision.sequence,
            policy: documents,
            ek_roots,
            trust_domain: case.trust_domain.as_str().to_owned(),
            accepts_simulated: case.accepts_simulated,
            nonce: hex::encode(case.connection.nonce.0),
            server_leaf_sha256: hex::encode(case.connection.leaf_sha256),
            exporter: hex::encode(case.connection.exporter),
            base: hex::encode(case.base().as_bytes()),
            required: { case.required.iter() }
                .map(|kind| kind.as_str().to_owned())
                .collect(),
            part_of: { case.part_of.as_ref() }
                .map(|kinds| kinds.iter().map(|kind| kind.as_str().to_owned()).collect()),
            hello: STANDARD.encode(v1::Hello::from(hello).encode_to_vec()),
            evidence: STANDARD.encode(evidence.encode_to_vec()),
            credential_opened,
            previous_tpm: case.previous_tpm.as_ref().map(StoredTpm::from),
            endorsements,
            outcome,
        };
        (bundle, objects)
    }

    pub(super) fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// The evidence as it is kept: credentials are secrets of the challenge, and only whether they fit is of interest.
fn without_credentials(case: &Case) -> (v1::Evidence, Option<bool>) {
    let mut evidence = case.evidence.clone();
    let mut opened = None;
    for item in &mut evidence.items {
        if let EvidenceBody::Tpm(tpm) = &mut item.body {
            let found = std::mem::take(&mut tpm.activated_credential);
            opened = { case.tpm.as_ref() }.map(|challenged| challenged.is_opened_by(&found));
        }
    }
    (evidence.into(), opened)
}

/// When a case is judged: in whole milliseconds, as it is kept.
pub fn whole_ms(now: SystemTime) -> SystemTime {
    time("now", unix_ms(now)).unwrap_or(now)
}

/// A later form is refused rather than misread.
pub(super) const VERSION: u8 = 1;
