//! The DER form: what is written of a result, and that nothing else is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use der::Sequence;
use der::asn1::OctetString;

use super::DecodeResultError::{self, Field};
use super::{AttestationResult, DeviceResult, InstanceId};
use crate::claims::{ClaimType, ClaimValue, Claims, EvidenceKind, definition};
use crate::revision::Revision;

const VERSION: u8 = 1;

#[derive(Sequence)]
pub(super) struct Wire {
    version: u8,
    class: String,
    root: String,
    instance: OctetString,
    evidence_time: u64,
    policy_epoch: u64,
    policy_sequence: u64,
    ear_sha256: OctetString,
    pub(super) devices: Vec<WireDevice>,
    #[asn1(context_specific = "0", optional = "true", tag_mode = "EXPLICIT")]
    inclusion: Option<OctetString>,
}

#[derive(Sequence)]
pub(super) struct WireDevice {
    pub(super) kind: String,
    pub(super) index: u32,
    pub(super) claims: Vec<WireClaim>,
    pub(super) without: Vec<String>,
}

#[derive(Clone, Sequence)]
pub(super) struct WireClaim {
    pub(super) name: String,
    pub(super) values: Vec<String>,
}

impl Wire {
    pub(super) fn from_result(result: &AttestationResult) -> Result<Self, der::Error> {
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
            devices: write_devices(&result.devices),
            inclusion: result
                .inclusion_promise
                .as_deref()
                .map(octets)
                .transpose()?,
        })
    }

    pub(super) fn into_result(self) -> Result<AttestationResult, DecodeResultError> {
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
            devices: read_devices(&self.devices)?,
            inclusion_promise: self.inclusion.map(|promise| promise.as_bytes().to_vec()),
        })
    }
}

/// Claims of a device as they are written, by name.
type Texts<'a> = BTreeMap<&'a str, Cow<'a, [String]>>;

/// Each device as what differs from the one before it.
fn write_devices(devices: &[DeviceResult]) -> Vec<WireDevice> {
    let mut before: Option<(EvidenceKind, Texts<'_>)> = None;
    let mut written = Vec::new();
    for device in devices {
        let texts: Texts<'_> = { device.claims.iter() }
            .map(|(name, value)| (name, Cow::Owned(write(value))))
            .collect();
        let other = before.take().filter(|(kind, _)| *kind == device.kind);
        let other = other.map(|(_, texts)| texts).unwrap_or_default();
        let claims = { texts.iter() }
            .filter(|(name, values)| other.get(*name) != Some(values))
            .map(|(name, values)| WireClaim {
                name: (*name).to_owned(),
                values: values.to_vec(),
            });
        let without = other.keys().filter(|name| !texts.contains_key(*name));
        written.push(WireDevice {
            kind: device.kind.as_str().to_owned(),
            index: device.index,
            claims: claims.collect(),
            without: without.map(|name| (*name).to_owned()).collect(),
        });
        before = Some((device.kind, texts));
    }
    written
}

fn read_devices(written: &[WireDevice]) -> Result<Vec<DeviceResult>, DecodeResultError> {
    let mut before: Option<(EvidenceKind, Texts<'_>)> = None;
    let mut devices = Vec::new();
    let mut bytes = 0;
    for one in written {
        let kind: EvidenceKind = one.kind.parse().map_err(|_| Field("kind"))?;
        let other = before.take().filter(|(held, _)| *held == kind);
        let texts = one.unfold(other.map(|(_, texts)| texts).unwrap_or_default())?;
        bytes += bytes_of(&texts);
        if texts.len() > AttestationResult::MAX_CLAIMS || bytes > AttestationResult::MAX_CLAIM_BYTES
        {
            return Err(Field("claims"));
        }
        devices.push(DeviceResult {
            kind,
            index: one.index,
            claims: read_claims(kind, &texts)?,
        });
        before = Some((kind, texts));
    }
    Ok(devices)
}

impl WireDevice {
    /// All claims of the device, from those of the one before it. Only what [`write_devices`] writes is read: the order
    /// is that of names, and nothing is said that held already.
    fn unfold<'a>(&'a self, mut texts: Texts<'a>) -> Result<Texts<'a>, DecodeResultError> {
        let ascend = |names: &[&str]| names.is_sorted_by(|one, next| one < next);
        let named: Vec<&str> = { self.claims.iter() }
            .map(|claim| claim.name.as_str())
            .collect();
        let without: Vec<&str> = self.without.iter().map(String::as_str).collect();
        if !ascend(&named) {
            return Err(Field("claims"));
        }
        if !ascend(&without) || without.iter().any(|name| named.contains(name)) {
            return Err(Field("without"));
        }
        for name in without {
            texts.remove(name).ok_or(Field("without"))?;
        }
        for claim in &self.claims {
            let values = Cow::Borrowed(claim.values.as_slice());
            if texts.get(claim.name.as_str()) == Some(&values) {
                return Err(Field("claims"));
            }
            texts.insert(&claim.name, values);
        }
        Ok(texts)
    }
}

/// Claims that this build knows.
fn read_claims(kind: EvidenceKind, texts: &Texts<'_>) -> Result<Claims, DecodeResultError> {
    let mut claims = Claims::default();
    for (name, values) in texts {
        let Some(definition) = definition(kind, name) else {
            continue;
        };
        let value = read(definition.value, values).ok_or(Field("values"))?;
        claims
            .set(kind, definition.name, value)
            .map_err(|_| Field("values"))?;
    }
    Ok(claims)
}

/// Bytes of names and values of all claims, as if each device were written by itself.
pub(super) fn claim_bytes(devices: &[DeviceResult]) -> usize {
    { devices.iter() }
        .flat_map(|device| device.claims.iter())
        .map(|(name, value)| bytes_of(&Texts::from([(name, Cow::Owned(write(value)))])))
        .sum()
}

fn bytes_of(texts: &Texts<'_>) -> usize {
    let one = |(name, values): (&&str, &Cow<'_, [String]>)| {
        name.len() + values.iter().map(String::len).sum::<usize>()
    };
    texts.iter().map(one).sum()
}

fn write(value: &ClaimValue) -> Vec<String> {
    match value {
        ClaimValue::Set(values) => values.iter().cloned().collect(),
        other => vec![other.to_string()],
    }
}

/// The value that [`write`] wrote, and nothing that merely parses alike (`+7`, `007`, an unsorted set).
fn read(claim_type: ClaimType, values: &[String]) -> Option<ClaimValue> {
    let only = || match values {
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
