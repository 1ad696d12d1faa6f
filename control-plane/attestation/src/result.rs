//! The attestation result: what a verifier concluded, in the form that a certificate carries.
//!
//! The control plane keeps the full result (an EAR); the certificate has this summary of it, in DER, under
//! [`crate::svid::ATTESTATION_RESULT_OID`]. It is bound to the key by the certificate's signature.
//!
//! ```asn1
//! AttestationResult ::= SEQUENCE {
//!     version       INTEGER (1),
//!     class         UTF8String,
//!     root          UTF8String,              -- kind of the binding root
//!     instance      OCTET STRING (SIZE (16)),
//!     evidenceTime  INTEGER,                 -- Unix seconds
//!     policyEpoch   INTEGER,
//!     policySeq     INTEGER,
//!     earSha256     OCTET STRING (SIZE (32)),
//!     devices       SEQUENCE OF SEQUENCE {
//!                       kind UTF8String, index INTEGER,
//!                       claims SEQUENCE OF SEQUENCE { name UTF8String, values SEQUENCE OF UTF8String },
//!                       without SEQUENCE OF UTF8String },
//!     inclusion     [0] EXPLICIT OCTET STRING OPTIONAL  -- room for a promise of inclusion in the log
//! }
//! ```
//! - A claim's type is that of [`crate::claims::CATALOG`], so its value is written as text, and a set as several.
//! - The GPUs of a machine differ by their numbers only, and each handshake carries all of them. So a device is written as
//!   what differs from the one before it, where that is of its kind: `claims` are those that it has and the other has
//!   not, or not so; `without` names those that only the other has. Both are in the order of names. Every other way to
//!   write the same result is refused.
//!
//! Source: RFC 9334 §8.4; draft-ietf-rats-ear for the full form.

mod wire;

use std::fmt;
use std::time::{Duration, SystemTime};

use der::{Decode, Encode};

use self::wire::Wire;
use crate::claims::{Claims, Class, EvidenceKind};
use crate::revision::Revision;

/// One running instance of a workload: random, given at enrolment and kept through renewals.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InstanceId(pub [u8; 16]);

impl InstanceId {
    /// Its length.
    pub const BYTES: usize = 16;

    /// Reads what [`fmt::Display`] writes: 32 hex digits in lower case. Everything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut id).ok()?;
        let id = Self(id);
        // One instance has one text, so that it has one resource.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What one device proved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceResult {
    /// Kind of the device.
    pub kind: EvidenceKind,
    /// Number of the device among those of its kind, from 0.
    pub index: u32,
    /// What policy may read of it.
    pub claims: Claims,
}

/// A verifier's conclusion about one instance.
///
/// It lives as long as the certificate that carries it, never longer (promise 4).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttestationResult {
    /// The weakest class among the devices.
    pub class: Class,
    /// Kind of the device that signed over all the rest.
    pub root: EvidenceKind,
    /// The instance that was attested.
    pub instance: InstanceId,
    /// When the evidence was verified, in whole seconds.
    pub evidence_time: SystemTime,
    /// Policy that the evidence was appraised by.
    pub policy_revision: Revision,
    /// SHA-256 of the full attestation result that the control plane keeps.
    pub ear_sha256: [u8; 32],
    /// The devices, in the order in which they were collected.
    pub devices: Vec<DeviceResult>,
    /// Promise that the issuance is in the log; empty until the log makes them.
    pub inclusion_promise: Option<Vec<u8>>,
}

impl AttestationResult {
    /// Largest encoding in bytes: an extension is read before its certificate's signature is checked.
    pub const MAX_BYTES: usize = 16 * 1024;
    /// Most devices of one instance: eight GPUs, four switches, CPU, TPM, and as many again to spare.
    pub const MAX_DEVICES: usize = 32;
    /// Most claims of one device.
    pub const MAX_CLAIMS: usize = 64;
    /// Most bytes of names and values of all devices' claims together, each counted where it holds: a few bytes must not
    /// unfold into many. The largest machine has a seventh of it.
    pub const MAX_CLAIM_BYTES: usize = 64 * 1024;

    /// The devices of one kind.
    pub fn devices_of(&self, kind: EvidenceKind) -> impl Iterator<Item = &DeviceResult> {
        self.devices
            .iter()
            .filter(move |device| device.kind == kind)
    }

    /// Age of the evidence at `now`; zero for evidence of the future.
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.evidence_time).unwrap_or_default()
    }

    /// The DER form.
    ///
    /// # Errors
    /// [`EncodeResultError`] when a bound of this type is passed.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeResultError> {
        let too_many = self.devices.len() > Self::MAX_DEVICES
            || self
                .devices
                .iter()
                .any(|device| device.claims.iter().count() > Self::MAX_CLAIMS);
        if too_many {
            return Err(EncodeResultError::TooMany);
        }
        let claim_bytes = wire::claim_bytes(&self.devices);
        if claim_bytes > Self::MAX_CLAIM_BYTES {
            return Err(EncodeResultError::TooMuchClaimed(claim_bytes));
        }
        let der = Wire::from_result(self)?.to_der()?;
        if der.len() > Self::MAX_BYTES {
            return Err(EncodeResultError::TooLarge(der.len()));
        }
        Ok(der)
    }

    /// Reads the DER form. Claims that this build does not know are left out: they can satisfy no rule.
    ///
    /// # Errors
    /// [`DecodeResultError`] for anything else that is not exactly what [`Self::encode`] writes.
    pub fn decode(der: &[u8]) -> Result<Self, DecodeResultError> {
        if der.len() > Self::MAX_BYTES {
            return Err(DecodeResultError::TooLarge(der.len()));
        }
        Wire::from_der(der)?.into_result()
    }
}

/// Why a result can't be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeResultError {
    /// More devices or claims than the form allows.
    #[error("an attestation result has at most 32 devices of 64 claims each")]
    TooMany,
    /// Larger than [`AttestationResult::MAX_BYTES`].
    #[error("an attestation result has at most 16384 bytes, this one {0}")]
    TooLarge(usize),
    /// More than [`AttestationResult::MAX_CLAIM_BYTES`].
    #[error("claims of an attestation result have at most 65536 bytes together, these {0}")]
    TooMuchClaimed(usize),
    /// A value has no DER form.
    #[error("failed to encode the attestation result")]
    Der(#[from] der::Error),
}

/// Why bytes are not an attestation result.
#[derive(Debug, thiserror::Error)]
pub enum DecodeResultError {
    /// Larger than [`AttestationResult::MAX_BYTES`].
    #[error("an attestation result has at most 16384 bytes, found {0}")]
    TooLarge(usize),
    /// Not DER of the expected shape.
    #[error("failed to decode the attestation result")]
    Der(#[from] der::Error),
    /// Written by a later version of Vouchsafe.
    #[error("attestation result of version {0}, this build reads version 1")]
    Version(u8),
    /// A field has a value that no verifier writes.
    #[error("the attestation result's `{0}` is out of range")]
    Field(&'static str),
}

#[cfg(test)]
mod tests;
