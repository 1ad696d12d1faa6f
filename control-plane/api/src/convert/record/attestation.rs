//! What became of attestations: certificates that were issued, and those that were refused.

use std::time::SystemTime;

use vouchsafe_attestation::revision::Revision;

use super::super::ConvertError;
use super::fields::{Fields, Value, revision_fields};
use super::{Event, RecordEntry};

/// A certificate that was issued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuance {
    /// `enroll` or `renew`.
    pub purpose: String,
    /// Whose.
    pub spiffe_id: String,
    /// Which instance.
    pub instance: [u8; 16],
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// SHA-256 of the certified SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// SHA-256 of the issuing authority's SubjectPublicKeyInfo.
    pub authority_spki_sha256: [u8; 32],
    /// Start of the certificate.
    pub not_before: SystemTime,
    /// End of the certificate.
    pub not_after: SystemTime,
    /// Class of the evidence.
    pub class: String,
    /// Kinds of the evidence, the binding root last.
    pub kinds: Vec<String>,
    /// Hardware identities that the evidence proved, `<kind>:<hex>`.
    pub hardware: Vec<String>,
    /// How the instance is a member: `node <namespace>/<name>`, `join_token <hash>`.
    pub member: String,
    /// Policy that the evidence was appraised by.
    pub policy_revision: Revision,
    /// SHA-256 over the evidence.
    pub evidence_sha256: [u8; 32],
    /// SHA-256 of the full attestation result.
    pub result_sha256: [u8; 32],
}

/// An attestation that was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The name that was asked for; empty when it could not be read.
    pub workload: String,
    /// Stable word.
    pub reason: String,
    /// What was expected and found: for operators, never sent to the peer.
    pub detail: String,
    /// Address of the peer.
    pub peer: String,
    /// SHA-256 over the evidence; zeros when none came.
    pub evidence_sha256: [u8; 32],
    /// Policy in force.
    pub policy_revision: Revision,
}

impl Issuance {
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![
            ("purpose", Value::Text(&self.purpose)),
            ("spiffe_id", Value::Text(&self.spiffe_id)),
            ("instance", Value::Bytes(&self.instance)),
            ("serial", Value::Bytes(&self.serial)),
            ("spki_sha256", Value::Bytes(&self.spki_sha256)),
            (
                "authority_spki_sha256",
                Value::Bytes(&self.authority_spki_sha256),
            ),
            ("not_before", Value::Time(self.not_before)),
            ("not_after", Value::Time(self.not_after)),
            ("class", Value::Text(&self.class)),
        ];
        let entries = |list: &'static str| move |entry| (list, Value::Entry(entry));
        fields.extend(self.kinds.iter().map(String::as_str).map(entries("kinds")));
        fields.extend(
            self.hardware
                .iter()
                .map(String::as_str)
                .map(entries("hardware")),
        );
        fields.push(("member", Value::Text(&self.member)));
        fields.extend(revision_fields(self.policy_revision));
        fields.push(("evidence_sha256", Value::Bytes(&self.evidence_sha256)));
        fields.push(("result_sha256", Value::Bytes(&self.result_sha256)));
        fields
    }
}

impl Refused {
    pub(super) fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        let mut fields = vec![
            ("workload", Value::Text(&self.workload)),
            ("reason", Value::Text(&self.reason)),
            ("detail", Value::Text(&self.detail)),
            ("peer", Value::Text(&self.peer)),
            ("evidence_sha256", Value::Bytes(&self.evidence_sha256)),
        ];
        fields.extend(revision_fields(self.policy_revision));
        fields
    }
}

impl Fields<'_> {
    pub(super) fn issued(&mut self) -> Result<RecordEntry, ConvertError> {
        Ok(RecordEntry {
            time: self.time("time")?,
            event: Event::Issued(Box::new(Issuance {
                purpose: self.text("purpose")?,
                spiffe_id: self.text("spiffe_id")?,
                instance: self.array("instance")?,
                serial: self.value("serial")?.to_vec(),
                spki_sha256: self.array("spki_sha256")?,
                authority_spki_sha256: self.array("authority_spki_sha256")?,
                not_before: self.time("not_before")?,
                not_after: self.time("not_after")?,
                class: self.text("class")?,
                kinds: self.entries("kinds")?,
                hardware: self.entries("hardware")?,
                member: self.text("member")?,
                policy_revision: self.revision()?,
                evidence_sha256: self.array("evidence_sha256")?,
                result_sha256: self.array("result_sha256")?,
            })),
        })
    }

    pub(super) fn refused(&mut self) -> Result<RecordEntry, ConvertError> {
        Ok(RecordEntry {
            time: self.time("time")?,
            event: Event::Refused(Box::new(Refused {
                workload: self.text("workload")?,
                reason: self.text("reason")?,
                detail: self.text("detail")?,
                peer: self.text("peer")?,
                evidence_sha256: self.array("evidence_sha256")?,
                policy_revision: self.revision()?,
            })),
        })
    }
}
