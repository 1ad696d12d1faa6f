//! How reports and chains are written together as JSON: lists of NVIDIA's tools, requests to its service, evidence of
//! Confidential Containers, and conceptual messages (CMW).
//!
//! Source: NVIDIA attestation SDK (`evidence` JSON, CMW profile `pre-1.0.0`); NRAS API; CoCo Trustee.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::evidence::nvidia_gpu::{Device, Stated};
use crate::evidence::x509;

/// A device of a container.
pub(super) struct Written {
    report: Vec<u8>,
    /// Leaf first.
    pub(super) chain: Vec<Vec<u8>>,
    stated: Stated,
}

impl Written {
    pub(super) fn device(&self) -> Device<'_> {
        Device {
            report: &self.report,
            chain: self.chain.clone(),
            stated: self.stated.clone(),
        }
    }

    pub(super) fn into_pair(self) -> super::Pair {
        (self.report, self.chain)
    }

    fn read(object: &Map<String, Value>, nonce: Option<&Value>) -> Option<Self> {
        let report = bytes(object.get("evidence")?)?;
        let chain = match object.get("certificate")? {
            Value::String(pem) if pem.contains("-----BEGIN") => x509::certificates(pem.as_bytes()),
            other => x509::certificates(&bytes(other)?),
        };
        let stated = match object.get("nonce").or(nonce) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(hex::decode(text).ok()?),
            Some(other) => Some(bytes(other)?),
        };
        let architecture = match object.get("arch") {
            None | Some(Value::Null) => None,
            Some(other) => Some(other.as_str()?.to_owned()),
        };
        Some(Self {
            report,
            chain: chain?,
            stated: Stated {
                nonce: stated,
                architecture,
                driver: None,
            },
        })
    }
}

/// The devices of a container; `None` if it is none, or any part of it can't be read.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<Written>> {
    let value = json(bytes)?;
    let found: Option<Vec<_>> = match &value {
        Value::Array(list) => read_list(list, None),
        Value::Object(object) if object.contains_key("evidence") => {
            Written::read(object, None).map(|only| vec![only])
        }
        Value::Object(object) if object.contains_key(CMW_TYPE) => object
            .iter()
            .filter_map(|(_, member)| member.as_object())
            .map(|member| Written::read(member, object.get("nonce")))
            .collect(),
        Value::Object(object) => LISTS
            .iter()
            .find_map(|name| object.get(*name)?.as_array())
            .and_then(|list| read_list(list, object.get("nonce"))),
        _ => None,
    };
    found.filter(|found| !found.is_empty())
}

fn read_list(list: &[Value], nonce: Option<&Value>) -> Option<Vec<Written>> {
    list.iter()
        .map(|item| Written::read(item.as_object()?, nonce))
        .collect()
}

/// Whether a file is a token of NVIDIA's remote verifier, in one of the forms in which it is passed on.
pub(super) fn is_verdict(bytes: &[u8]) -> bool {
    if is_token(bytes.trim_ascii()) {
        return true;
    }
    match json(bytes) {
        Some(Value::Array(list)) => list.iter().any(|item| {
            item.as_array()
                .and_then(|pair| pair.first())
                .is_some_and(|first| first == "JWT")
        }),
        Some(Value::Object(object)) => {
            object.contains_key("x5c")
                || object.values().filter_map(Value::as_object).any(|claims| {
                    let mut names = claims.keys();
                    names.any(|name| name.starts_with("x-nvidia-"))
                })
        }
        _ => false,
    }
}

/// A JWT: three parts in base64url, the first one beginning as JSON does.
fn is_token(text: &[u8]) -> bool {
    let parts: Vec<_> = text.split(|byte| *byte == b'.').collect();
    text.starts_with(b"eyJ")
        && parts.len() == 3
        && parts
            .concat()
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn json(bytes: &[u8]) -> Option<Value> {
    let begins = matches!(bytes.trim_ascii_start().first(), Some(b'[' | b'{'));
    if !begins || bytes.len() > MAX_BYTES {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// Bytes as base64, or as a record of a conceptual message: media type and base64url.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => STANDARD.decode(text).ok(),
        Value::Array(record) => match record.as_slice() {
            [Value::String(kind), Value::String(text)] if MEDIA_TYPES.contains(&kind.as_str()) => {
                URL_SAFE_NO_PAD.decode(text).ok()
            }
            _ => None,
        },
        _ => None,
    }
}

/// Sixteen devices with their chains take about 200 KiB.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Where requests to NVIDIA's service, and evidence of Confidential Containers, have their list.
const LISTS: [&str; 2] = ["evidence_list", "device_evidence_list"];
/// Marks a collection of conceptual messages.
const CMW_TYPE: &str = "__cmwc_t";
const MEDIA_TYPES: [&str; 3] = [
    "application/vnd.nvidia.spdm-measurement-transcript",
    "application/vnd.nvidia.pem-cert-chain",
    "application/octet-stream",
];
