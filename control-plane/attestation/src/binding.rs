//! The binding transcript: what every piece of evidence signs over.
//!
//! Evidence proves where a key lives only if it covers that key, this connection, both ends' freshness and roles.
//! Both ends build a [`Transcript`] from their *own* view of the connection, never from what the peer sent, and compare
//! digests. Fields are framed by length, so no two transcripts encode alike.
//!
//! Source: DESIGN §5.3; the attacks each field stops are in the documentation of [`Transcript`].

use aws_lc_rs::digest;
use subtle::ConstantTimeEq;

use crate::claims::EvidenceKind;
use crate::name::WorkloadName;
use crate::revision::Revision;
use crate::trust_domain::TrustDomain;

/// TLS exporter label of an attestation connection (RFC 8446 §7.5); the context is empty, nonces are in the transcript.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-vouchsafe-attest-v1";

/// What evidence is collected for. A transcript of one purpose never satisfies another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// First certificate of an instance, or one whose attestation key changed.
    Enroll,
    /// Successor certificate of a known instance.
    Renew,
    /// Fresh evidence without a new certificate.
    Reattest,
}

impl Purpose {
    /// The word that enters the transcript.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enroll => "enroll",
            Self::Renew => "renew",
            Self::Reattest => "reattest",
        }
    }
}

/// Who collected the evidence: against a mirror that sends our own evidence back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The sidecar of a workload.
    Attester,
    /// The control plane, when sidecars check its evidence.
    ControlPlane,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Attester => "attester",
            Self::ControlPlane => "control-plane",
        }
    }
}

/// 32 random bytes that make evidence fresh. Single use.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Nonce(pub [u8; 32]);

/// Everything that evidence of one attestation is bound to.
#[derive(Clone, Debug)]
pub struct Transcript<'a> {
    /// Against evidence collected for something else.
    pub purpose: Purpose,
    /// Against reflection.
    pub role: Role,
    /// Against use in another mesh.
    pub trust_domain: &'a TrustDomain,
    /// Against use for another name.
    pub workload: &'a WorkloadName,
    /// Freshness that the attester demands.
    pub client_nonce: Nonce,
    /// Freshness that the verifier demands: against replay.
    pub server_nonce: Nonce,
    /// SHA-256 of the DER of the subject public key that the certificate will bear: against key substitution.
    pub spki_sha256: [u8; 32],
    /// SHA-256 of the DER of the leaf that the control plane served on this connection: against relay and reflection.
    pub server_leaf_sha256: [u8; 32],
    /// TLS exporter of this connection: against relay over another session.
    pub exporter: [u8; 32],
    /// TPM name of the endorsement key (algorithm and digest, TPM 2.0 Part 1 §16), empty without a TPM.
    pub ek_name: &'a [u8],
    /// TPM name of the attestation key, empty without a TPM.
    pub ak_name: &'a [u8],
    /// Policy that the evidence will be judged by: against a change of policy in between.
    pub policy_revision: Revision,
}

/// SHA-512 of a transcript.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Base([u8; 64]);

impl Transcript<'_> {
    /// The digest that binds everything (DESIGN §5.3).
    pub fn base(&self) -> Base {
        let mut context = digest::Context::new(&digest::SHA512);
        context.update(BASE_LABEL);
        let workload = self.workload.to_string();
        let fields: [&[u8]; 13] = [
            self.purpose.as_str().as_bytes(),
            self.role.as_str().as_bytes(),
            self.trust_domain.as_str().as_bytes(),
            workload.as_bytes(),
            &self.client_nonce.0,
            &self.server_nonce.0,
            &self.spki_sha256,
            &self.server_leaf_sha256,
            &self.exporter,
            self.ek_name,
            self.ak_name,
            &self.policy_revision.epoch.to_be_bytes(),
            &self.policy_revision.sequence.to_be_bytes(),
        ];
        fields.iter().for_each(|field| frame(&mut context, field));
        let mut out = [0; 64];
        out.copy_from_slice(context.finish().as_ref());
        Base(out)
    }
}

/// What one device signs: exactly 32 bytes, the size of a TPM `extraData` under SHA-256 and of an SPDM nonce.
///
/// Never padded or truncated. Equality is constant-time by [`DeviceBinding::matches`].
#[derive(Clone, Copy, Debug)]
pub struct DeviceBinding([u8; 32]);

impl Base {
    /// The digest, for the record.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// What device `index` of `kind` signs, `prior` being the digest of what was collected before it.
    pub fn device(&self, kind: EvidenceKind, index: u32, prior: &EvidenceDigest) -> DeviceBinding {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(DEVICE_LABEL);
        frame(&mut context, &self.0);
        frame(&mut context, kind.as_str().as_bytes());
        frame(&mut context, &index.to_be_bytes());
        frame(&mut context, &prior.0);
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        DeviceBinding(out)
    }
}

impl DeviceBinding {
    /// The bytes to give to the device.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What a device signs whose field has 64 bytes (report data of SEV-SNP and TDX): SHA-512 of the binding under a
    /// label of its own, so that the field is full without padding.
    pub fn report_data(&self) -> [u8; 64] {
        let mut context = digest::Context::new(&digest::SHA512);
        context.update(REPORT_DATA_LABEL);
        frame(&mut context, &self.0);
        let mut out = [0; 64];
        out.copy_from_slice(context.finish().as_ref());
        out
    }

    /// Whether `found`, taken from evidence, is this binding. Constant-time; another length never matches.
    pub fn matches(&self, found: &[u8]) -> bool {
        self.0.ct_eq(found).into()
    }
}

/// Digest over the ordered evidence that was collected before a device: (kind, index, bytes) each.
///
/// The binding root is collected last, so it signs over all the rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EvidenceDigest([u8; 32]);

impl EvidenceDigest {
    /// The digest before anything was collected.
    pub fn empty() -> Self {
        Self::next(&[0; 32], "", 0, b"")
    }

    /// The digest after one more piece of evidence.
    pub fn after(&self, kind: EvidenceKind, index: u32, evidence: &[u8]) -> Self {
        Self::next(&self.0, kind.as_str(), index, evidence)
    }

    fn next(before: &[u8; 32], kind: &str, index: u32, evidence: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(EVIDENCE_LABEL);
        frame(&mut context, before);
        frame(&mut context, kind.as_bytes());
        frame(&mut context, &index.to_be_bytes());
        frame(&mut context, evidence);
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }
}

/// Fields as one string of bytes, framed as in the transcript: how a piece of evidence of several fields enters
/// [`EvidenceDigest::after`]. Attester and verifier frame the same fields in the same order.
pub fn framed(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        out.extend_from_slice(&(field.len() as u64).to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// Appends `u64be(len) || field`; a length of 64 bits cannot wrap.
fn frame(context: &mut digest::Context, field: &[u8]) {
    context.update(&(field.len() as u64).to_be_bytes());
    context.update(field);
}

/// Versioned, NUL-terminated, so that no label is a prefix of another.
const BASE_LABEL: &[u8] = b"vouchsafe/v1/attest\0";
const DEVICE_LABEL: &[u8] = b"vouchsafe/v1/device\0";
const EVIDENCE_LABEL: &[u8] = b"vouchsafe/v1/evidence\0";
const REPORT_DATA_LABEL: &[u8] = b"vouchsafe/v1/report-data\0";

#[cfg(test)]
mod tests {
    use super::*;

    struct Fields {
        purpose: Purpose,
        role: Role,
        trust_domain: TrustDomain,
        workload: WorkloadName,
        client_nonce: [u8; 32],
        server_nonce: [u8; 32],
        spki_sha256: [u8; 32],
        server_leaf_sha256: [u8; 32],
        exporter: [u8; 32],
        ek_name: Vec<u8>,
        ak_name: Vec<u8>,
        revision: Revision,
    }

    fn fields() -> Fields {
        Fields {
            purpose: Purpose::Enroll,
            role: Role::Attester,
            trust_domain: "factory.example".parse().unwrap(),
            workload: "inference/llm".parse().unwrap(),
            client_nonce: [1; 32],
            server_nonce: [2; 32],
            spki_sha256: [3; 32],
            server_leaf_sha256: [4; 32],
            exporter: [5; 32],
            ek_name: vec![6; 34],
            ak_name: vec![7; 34],
            revision: Revision {
                epoch: 1,
                sequence: 2,
            },
        }
    }

    fn base(change: impl FnOnce(&mut Fields)) -> Base {
        let mut fields = fields();
        change(&mut fields);
        Transcript {
            purpose: fields.purpose,
            role: fields.role,
            trust_domain: &fields.trust_domain,
            workload: &fields.workload,
            client_nonce: Nonce(fields.client_nonce),
            server_nonce: Nonce(fields.server_nonce),
            spki_sha256: fields.spki_sha256,
            server_leaf_sha256: fields.server_leaf_sha256,
            exporter: fields.exporter,
            ek_name: &fields.ek_name,
            ak_name: &fields.ak_name,
            policy_revision: fields.revision,
        }
        .base()
    }

    #[test]
    fn every_field_of_the_transcript_changes_the_base() {
        let bases = [
            base(|_| ()),
            base(|fields| fields.purpose = Purpose::Renew),
            base(|fields| fields.purpose = Purpose::Reattest),
            base(|fields| fields.role = Role::ControlPlane),
            base(|fields| fields.trust_domain = "factory.exampla".parse().unwrap()),
            base(|fields| fields.workload = "inference/lln".parse().unwrap()),
            base(|fields| fields.client_nonce[31] ^= 1),
            base(|fields| fields.server_nonce[31] ^= 1),
            base(|fields| fields.spki_sha256[31] ^= 1),
            base(|fields| fields.server_leaf_sha256[31] ^= 1),
            base(|fields| fields.exporter[31] ^= 1),
            base(|fields| fields.ek_name[33] ^= 1),
            base(|fields| fields.ak_name[33] ^= 1),
            base(|fields| fields.revision.epoch += 1),
            base(|fields| fields.revision.sequence += 1),
            // Two fields that trade places, and bytes that move over a border between fields.
            base(|fields| std::mem::swap(&mut fields.client_nonce, &mut fields.server_nonce)),
            base(|fields| std::mem::swap(&mut fields.ek_name, &mut fields.ak_name)),
            base(|fields| {
                let moved = fields.ek_name.pop().unwrap();
                fields.ak_name.insert(0, moved);
            }),
            base(|fields| {
                fields.revision = Revision {
                    epoch: 2,
                    sequence: 1,
                };
            }),
        ];
        for (index, one) in bases.iter().enumerate() {
            for other in &bases[index + 1..] {
                assert_ne!(one, other, "case {index}");
            }
        }
    }

    #[test]
    fn every_part_of_a_device_binding_changes_it() {
        let (one, other) = (base(|_| ()), base(|fields| fields.exporter = [9; 32]));
        let before = EvidenceDigest::empty();
        let after = before.after(EvidenceKind::Tpm, 0, b"quote");
        let binding = one.device(EvidenceKind::Tpm, 0, &before);
        for changed in [
            other.device(EvidenceKind::Tpm, 0, &before),
            one.device(EvidenceKind::Simulated, 0, &before),
            one.device(EvidenceKind::Tpm, 1, &before),
            one.device(EvidenceKind::Tpm, 0, &after),
        ] {
            assert!(!binding.matches(changed.as_bytes()));
        }
        assert!(binding.matches(one.device(EvidenceKind::Tpm, 0, &before).as_bytes()));
    }

    #[test]
    fn a_binding_matches_no_prefix_and_no_longer_value() {
        let binding = base(|_| ()).device(EvidenceKind::Tpm, 0, &EvidenceDigest::empty());
        let bytes = binding.as_bytes();
        assert!(!binding.matches(&[]));
        assert!(!binding.matches(&bytes[..31]));
        assert!(!binding.matches(&[bytes.as_slice(), &[0]].concat()));
        assert!(!binding.matches(&[0; 32]));
    }

    #[test]
    fn report_data_is_full_and_of_this_binding_only() {
        let before = EvidenceDigest::empty();
        let of = |index| base(|_| ()).device(EvidenceKind::SevSnp, index, &before);
        let data = of(0).report_data();
        assert_eq!(data, of(0).report_data());
        assert_ne!(data, of(1).report_data());
        assert_ne!(
            data[..32],
            *of(0).as_bytes(),
            "no prefix of it is the binding"
        );
        assert_ne!(data[32..], [0; 32], "no part of it is padding");
    }

    #[test]
    fn evidence_is_digested_with_its_kind_number_and_order() {
        let empty = EvidenceDigest::empty();
        let (a, b) = (
            empty.after(EvidenceKind::Tpm, 0, b"a"),
            empty.after(EvidenceKind::Tpm, 0, b"b"),
        );
        let digests = [
            empty,
            a,
            b,
            empty.after(EvidenceKind::Simulated, 0, b"a"),
            empty.after(EvidenceKind::Tpm, 1, b"a"),
            empty.after(EvidenceKind::Tpm, 0, b""),
            a.after(EvidenceKind::Tpm, 1, b"b"),
            b.after(EvidenceKind::Tpm, 1, b"a"),
            empty.after(EvidenceKind::Tpm, 0, b"ab"),
        ];
        for (index, one) in digests.iter().enumerate() {
            for other in &digests[index + 1..] {
                assert_ne!(one, other, "case {index}");
            }
        }
    }

    #[test]
    fn no_label_begins_another() {
        let labels = [BASE_LABEL, DEVICE_LABEL, EVIDENCE_LABEL, REPORT_DATA_LABEL];
        for (index, one) in labels.iter().enumerate() {
            assert_eq!(one.last(), Some(&0), "a label ends in NUL and has no other");
            assert_eq!(one.iter().filter(|byte| **byte == 0).count(), 1);
            for (other_index, other) in labels.iter().enumerate() {
                assert!(index == other_index || !other.starts_with(one));
            }
        }
    }

    #[test]
    fn fields_are_framed_without_ambiguity() {
        assert_ne!(framed(&[b"ab", b"c"]), framed(&[b"a", b"bc"]));
        assert_ne!(framed(&[b"a"]), framed(&[b"a", b""]));
        assert_eq!(framed(&[b"a"]), [0, 0, 0, 0, 0, 0, 0, 1, b'a']);
    }
}
