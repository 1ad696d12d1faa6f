//! The full attestation result: EAR claims as JSON (draft-ietf-rats-ear §3), one submodule per device.
//!
//! ```json
//! {
//!   "eat_profile": "tag:ietf.org,2026:rats/ear#03",
//!   "iat": 1800000000, "exp": 1800003600,
//!   "sub": "spiffe://factory.example/ns/inference/workload/llm", "aud": "factory.example",
//!   "eat_nonce": "…", "cnf": {"x5t#S256-spki": "…"},
//!   "ear.verifier-id": {"developer": "Vouchsafe", "build": "…"},
//!   "vouchsafe.status": "affirming",
//!   "vouchsafe.class": "hardware", "vouchsafe.root": "sev_snp", "vouchsafe.instance": "…",
//!   "vouchsafe.co_location": "pinned",
//!   "submods": {
//!     "nvidia_gpu-0": {"ear.status": "affirming", "ear.appraisal-policy-id": "inference/confidential-gpu@1.42",
//!                      "vouchsafe.class": "hardware", "vouchsafe.claims": {"driver": "570.86.15", …},
//!                      "vouchsafe.shown": {"nonce": "…", …}},
//!     "sev_snp-0": {…}
//!   }
//! }
//! ```
//! - A submodule's name is `<kind>-<index>`; each says its own tier by its own class, and `vouchsafe.status` is the worst
//!   of them: `contraindicated` is never written (it is a refusal), then `none`, `warning`, `affirming`.
//! - `vouchsafe.claims` are those of the catalog, which policy may read and the certificate carries;
//!   `vouchsafe.shown` is all that the verifier of the hardware shows besides, for people and auditors.
//! - `vouchsafe.co_location` says whether devices of a set were shown to be in one machine: `single` for one device,
//!   `pinned` where a `Node` names every one of them, else `not_proven` (DESIGN §2: a genuine GPU of another machine can
//!   be relayed to this one).
//!
//! SHA-256 of these bytes is in the certificate and in the record. They follow from the inputs alone, so that a decision
//! can be made again and compared.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::claims::{ClaimValue, Class};
use vouchsafe_attestation::result::{DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_verifier::appraise::{Appraised, Shown};

/// Whether devices of a set were shown to be in one machine.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CoLocation {
    /// There is one device only.
    Single,
    /// A `Node` names every one of them.
    Pinned,
    /// Each is genuine and bound to this attestation; nothing shows that they are in one machine.
    NotProven,
}

impl CoLocation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Pinned => "pinned",
            Self::NotProven => "not_proven",
        }
    }
}

/// What a result says of whom and what it is for.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The SPIFFE ID that was issued.
    pub spiffe_id: &'a str,
    /// Whose relying parties it is for.
    pub trust_domain: &'a str,
    /// Which instance.
    pub instance: InstanceId,
    /// The certified key.
    pub spki_sha256: [u8; 32],
    /// What the evidence answered.
    pub nonce: Nonce,
    /// Name of the profile.
    pub profile: &'a str,
    /// Policy that the evidence was appraised by.
    pub revision: Revision,
    /// Whether the devices are in one machine.
    pub co_location: CoLocation,
    /// When it was decided.
    pub now: SystemTime,
    /// End of the certificate.
    pub not_after: SystemTime,
}

/// Writes the result.
pub fn compose(subject: &Subject<'_>, appraised: &Appraised) -> Vec<u8> {
    use base64::Engine;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let policy = format!("{}@{}", subject.profile, subject.revision);
    let submods: Map<String, Value> = appraised
        .details()
        .map(|(device, class, shown)| {
            let name = format!("{}-{}", device.kind, device.index);
            (name, submodule(device, class, shown, &policy))
        })
        .collect();
    let ear = json!({
        "eat_profile": EAR_PROFILE,
        "iat": unix_seconds(subject.now),
        "exp": unix_seconds(subject.not_after),
        "sub": subject.spiffe_id,
        "aud": subject.trust_domain,
        "eat_nonce": base64(&subject.nonce.0),
        "cnf": {"x5t#S256-spki": base64(&subject.spki_sha256)},
        "ear.verifier-id": {"developer": "Vouchsafe", "build": env!("CARGO_PKG_VERSION")},
        "vouchsafe.status": status(appraised.class()),
        "vouchsafe.class": appraised.class().as_str(),
        "vouchsafe.root": appraised.root().as_str(),
        "vouchsafe.instance": subject.instance.to_string(),
        "vouchsafe.co_location": subject.co_location.as_str(),
        "submods": submods,
    });
    ear.to_string().into_bytes()
}

fn submodule(device: &DeviceResult, class: Class, shown: &Shown, policy: &str) -> Value {
    let claims: Map<String, Value> = device
        .claims
        .iter()
        .map(|(name, value)| (name.to_owned(), claim(value)))
        .collect();
    let rest: Map<String, Value> = shown
        .iter()
        .filter(|(name, _)| !claims.contains_key(**name))
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let mut submodule = json!({
        "ear.status": status(class),
        "ear.appraisal-policy-id": policy,
        "vouchsafe.class": class.as_str(),
        "vouchsafe.claims": claims,
    });
    if let (Some(fields), false) = (submodule.as_object_mut(), rest.is_empty()) {
        fields.insert("vouchsafe.shown".to_owned(), Value::Object(rest));
    }
    submodule
}

fn claim(value: &ClaimValue) -> Value {
    match value {
        ClaimValue::Bool(value) => json!(value),
        ClaimValue::Number(value) => json!(value),
        ClaimValue::Text(value) => json!(value),
        ClaimValue::Version(_) | ClaimValue::HexVersion(_) | ClaimValue::Time(_) => {
            json!(value.to_string())
        }
        ClaimValue::Set(values) => json!(values),
    }
}

/// Trustworthiness tier (draft-ietf-rats-ar4si §2.3.2): only hardware is affirmed. The class of a set is that of its
/// weakest device, so its tier is the worst one.
fn status(class: Class) -> &'static str {
    match class {
        Class::Hardware => "affirming",
        Class::Software => "warning",
        Class::Simulated => "none",
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Profile of the EAR draft that the claims follow.
const EAR_PROFILE: &str = "tag:ietf.org,2026:rats/ear#03";
