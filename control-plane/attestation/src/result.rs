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
//!     devices       SEQUENCE OF SEQUENCE { kind UTF8String, index INTEGER, claims SEQUENCE OF SEQUENCE {
//!                       name UTF8String, values SEQUENCE OF UTF8String } },
//!     inclusion     [0] EXPLICIT OCTET STRING OPTIONAL  -- room for a promise of inclusion in the log
//! }
//! ```
//! A claim's type is that of [`crate::claims::CATALOG`], so its value is written as text, and a set as several.
//!
//! Source: RFC 9334 §8.4; draft-ietf-rats-ear for the full form.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::asn1::OctetString;
use der::{Decode, Encode, Sequence};

use crate::claims::{ClaimType, ClaimValue, Claims, Class, EvidenceKind, definition};
use crate::revision::Revision;

/// One running instance of a workload: random, given at enrolment and kept through renewals.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InstanceId(pub [u8; 16]);

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

const VERSION: u8 = 1;

#[derive(Sequence)]
struct Wire {
    version: u8,
    class: String,
    root: String,
    instance: OctetString,
    evidence_time: u64,
    policy_epoch: u64,
    policy_sequence: u64,
    ear_sha256: OctetString,
    devices: Vec<WireDevice>,
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    inclusion: Option<OctetString>,
}

#[derive(Sequence)]
struct WireDevice {
    kind: String,
    index: u32,
    claims: Vec<WireClaim>,
}

#[derive(Sequence)]
struct WireClaim {
    name: String,
    values: Vec<String>,
}

impl Wire {
    fn from_result(result: &AttestationResult) -> Result<Self, der::Error> {
        let octets = |bytes: &[u8]| OctetString::new(bytes.to_vec());
        Ok(Self {
            version: VERSION,
            class: result.class.as_str().to_owned(),
            root: result.root.as_str().to_owned(),
            instance: octets(&result.instance.0)?,
            evidence_time: result
                .evidence_time
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            policy_epoch: result.policy_revision.epoch,
            policy_sequence: result.policy_revision.sequence,
            ear_sha256: octets(&result.ear_sha256)?,
            devices: result.devices.iter().map(WireDevice::from_device).collect(),
            inclusion: result
                .inclusion_promise
                .as_deref()
                .map(octets)
                .transpose()?,
        })
    }

    fn into_result(self) -> Result<AttestationResult, DecodeResultError> {
        use DecodeResultError::Field;
        if self.version != VERSION {
            return Err(DecodeResultError::Version(self.version));
        }
        if self.devices.is_empty() || self.devices.len() > AttestationResult::MAX_DEVICES {
            return Err(Field("devices"));
        }
        let evidence_time = UNIX_EPOCH
            .checked_add(Duration::from_secs(self.evidence_time))
            .ok_or(Field("evidenceTime"))?;
        Ok(AttestationResult {
            class: self.class.parse().map_err(|_| Field("class"))?,
            root: self.root.parse().map_err(|_| Field("root"))?,
            instance: InstanceId(
                self.instance
                    .as_bytes()
                    .try_into()
                    .map_err(|_| Field("instance"))?,
            ),
            evidence_time,
            policy_revision: Revision {
                epoch: self.policy_epoch,
                sequence: self.policy_sequence,
            },
            ear_sha256: self
                .ear_sha256
                .as_bytes()
                .try_into()
                .map_err(|_| Field("earSha256"))?,
            devices: self
                .devices
                .into_iter()
                .map(WireDevice::into_device)
                .collect::<Result<_, _>>()?,
            inclusion_promise: self.inclusion.map(|promise| promise.as_bytes().to_vec()),
        })
    }
}

impl WireDevice {
    fn from_device(device: &DeviceResult) -> Self {
        let claims = device.claims.iter().map(|(name, value)| WireClaim {
            name: name.to_owned(),
            values: write(value),
        });
        Self {
            kind: device.kind.as_str().to_owned(),
            index: device.index,
            claims: claims.collect(),
        }
    }

    fn into_device(self) -> Result<DeviceResult, DecodeResultError> {
        use DecodeResultError::Field;
        let kind = self.kind.parse().map_err(|_| Field("kind"))?;
        if self.claims.len() > AttestationResult::MAX_CLAIMS {
            return Err(Field("claims"));
        }
        let mut claims = Claims::default();
        for claim in self.claims {
            let Some(definition) = definition(kind, &claim.name) else {
                continue;
            };
            let value = read(definition.value, claim.values).ok_or(Field("values"))?;
            if claims.get(definition.name).is_some() {
                return Err(Field("claims"));
            }
            claims
                .set(kind, definition.name, value)
                .map_err(|_| Field("values"))?;
        }
        Ok(DeviceResult {
            kind,
            index: self.index,
            claims,
        })
    }
}

fn write(value: &ClaimValue) -> Vec<String> {
    match value {
        ClaimValue::Set(values) => values.iter().cloned().collect(),
        other => vec![other.to_string()],
    }
}

/// The value that [`write`] wrote, and nothing that merely parses alike (`+7`, `007`, an unsorted set).
fn read(claim_type: ClaimType, values: Vec<String>) -> Option<ClaimValue> {
    let only = || match values.as_slice() {
        [only] => Some(only.as_str()),
        _ => None,
    };
    let value = match claim_type {
        ClaimType::Set => ClaimValue::Set(values.iter().cloned().collect()),
        ClaimType::Bool
        | ClaimType::Number
        | ClaimType::Text
        | ClaimType::Version
        | ClaimType::HexVersion
        | ClaimType::Time => ClaimValue::parse(claim_type, only()?).ok()?,
    };
    (write(&value) == values).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::claims::{ClaimDefinition, Time, claims_of};

    fn result() -> AttestationResult {
        let mut claims = Claims::default();
        claims
            .set(
                EvidenceKind::Tpm,
                "image",
                ClaimValue::Text("node-1".into()),
            )
            .unwrap();
        claims
            .set(EvidenceKind::Tpm, "reset_count", ClaimValue::Number(7))
            .unwrap();
        AttestationResult {
            class: Class::Software,
            root: EvidenceKind::Tpm,
            instance: InstanceId([7; 16]),
            evidence_time: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            policy_revision: Revision {
                epoch: 1,
                sequence: 42,
            },
            ear_sha256: [9; 32],
            devices: vec![DeviceResult {
                kind: EvidenceKind::Tpm,
                index: 0,
                claims,
            }],
            inclusion_promise: None,
        }
    }

    #[test]
    fn a_result_survives_the_certificate() {
        let with_promise = AttestationResult {
            inclusion_promise: Some(vec![1, 2, 3]),
            ..result()
        };
        for result in [result(), with_promise] {
            assert_eq!(
                AttestationResult::decode(&result.encode().unwrap()).unwrap(),
                result
            );
        }
    }

    #[test]
    fn every_truncation_and_every_trailing_byte_is_refused() {
        let der = result().encode().unwrap();
        for end in 0..der.len() {
            assert!(AttestationResult::decode(&der[..end]).is_err(), "{end}");
        }
        assert!(AttestationResult::decode(&[der, vec![0]].concat()).is_err());
    }

    #[test]
    fn no_byte_can_be_changed_without_changing_the_result() {
        let (whole, der) = (result(), result().encode().unwrap());
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut flipped = der.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(other) = AttestationResult::decode(&flipped) {
                    assert_ne!(other, whole, "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn another_version_and_an_oversize_form_are_named() {
        let mut der = result().encode().unwrap();
        let version_at = der
            .windows(3)
            .position(|window| window == [2, 1, 1])
            .unwrap()
            + 2;
        der[version_at] = 2;
        assert!(matches!(
            AttestationResult::decode(&der),
            Err(DecodeResultError::Version(2))
        ));
        assert!(matches!(
            AttestationResult::decode(&vec![0; 16385]),
            Err(DecodeResultError::TooLarge(16385))
        ));
    }

    fn claim_values(definition: ClaimDefinition) -> BoxedStrategy<ClaimValue> {
        match definition.value {
            ClaimType::Bool => any::<bool>().prop_map(ClaimValue::Bool).boxed(),
            ClaimType::Number => any::<u64>().prop_map(ClaimValue::Number).boxed(),
            ClaimType::Text => "\\PC{0,24}".prop_map(ClaimValue::Text).boxed(),
            ClaimType::Version => "[0-9]{1,9}(\\.[0-9]{1,9}){0,5}"
                .prop_map(|text| ClaimValue::Version(text.parse().unwrap()))
                .boxed(),
            ClaimType::HexVersion => "[0-9A-F]{1,9}(\\.[0-9A-F]{1,9}){0,5}"
                .prop_map(|text| ClaimValue::HexVersion(text.parse().unwrap()))
                .boxed(),
            ClaimType::Time => (0..253_402_300_800_u64)
                .prop_map(|seconds| Time::new(UNIX_EPOCH + Duration::from_secs(seconds)))
                .prop_map(|time| ClaimValue::Time(time.unwrap()))
                .boxed(),
            ClaimType::Set => prop::collection::btree_set("[a-z]{1,8}", 0..4)
                .prop_map(ClaimValue::Set)
                .boxed(),
        }
    }

    fn devices() -> impl Strategy<Value = DeviceResult> {
        prop::sample::select(EvidenceKind::ALL.to_vec()).prop_flat_map(|kind| {
            let claim =
                prop::sample::select(claims_of(kind).to_vec()).prop_flat_map(|definition| {
                    claim_values(definition).prop_map(move |value| (definition, value))
                });
            let claims = prop::collection::vec(claim, 0..8);
            (any::<u32>(), claims).prop_map(move |(index, values)| {
                let mut claims = Claims::default();
                for (definition, value) in values {
                    claims.set(kind, definition.name, value).unwrap();
                }
                DeviceResult {
                    kind,
                    index,
                    claims,
                }
            })
        })
    }

    proptest! {
        #[test]
        fn any_result_survives_the_certificate(
            devices in prop::collection::vec(devices(), 1..6),
            class in prop::sample::select(Class::ALL.to_vec()),
            instance in any::<[u8; 16]>(),
            seconds in 0..10_000_000_000_u64,
            (epoch, sequence) in any::<(u64, u64)>(),
            promise in prop::option::of(prop::collection::vec(any::<u8>(), 0..64)),
        ) {
            let result = AttestationResult {
                class,
                instance: InstanceId(instance),
                evidence_time: UNIX_EPOCH + Duration::from_secs(seconds),
                policy_revision: Revision { epoch, sequence },
                devices,
                inclusion_promise: promise,
                ..result()
            };
            let der = result.encode().unwrap();
            prop_assert_eq!(AttestationResult::decode(&der).unwrap(), result);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(der in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = AttestationResult::decode(&der);
        }
    }
}
