//! What a vendor's service answers, turned into the file that is kept.
//!
//! Certificates and lists are kept as they came. Intel's answers are split over body and header and become parts of its
//! collateral in JSON; NVIDIA's manifests come in JSON and are kept as the XML that was signed. Nothing is verified here:
//! that is [`super::object::Endorsement::verify`]'s, of the file.
//!
//! Source: Intel SGX and TDX PCS API v4; Intel PCCS design guide; NVIDIA RIM service `GET /v1/rim/{id}`.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::need::Need;

/// Why an answer is not one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AnswerError {
    /// Larger than read.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// Another form than the service documents.
    #[error("the answer is not {0}")]
    Malformed(&'static str),
    /// The issuers of the signature were not sent along.
    #[error("the header `{0}` is missing or can't be read")]
    IssuerChain(&'static str),
}

impl Need {
    /// The header in which a service sends the issuers of what it signed, percent-encoded; in order of preference.
    pub fn issuer_chain_headers(&self) -> &'static [&'static str] {
        match self {
            Self::IntelTcbInfo { .. } => &["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"],
            Self::IntelQeIdentity { .. } => &["SGX-Enclave-Identity-Issuer-Chain"],
            Self::IntelPckCrl { .. } => &["SGX-PCK-CRL-Issuer-Chain"],
            Self::AmdVcek { .. }
            | Self::AmdChain { .. }
            | Self::AmdCrl { .. }
            | Self::IntelRootCrl
            | Self::NvidiaRim { .. }
            | Self::Ocsp { .. } => &[],
        }
    }

    /// Makes the file of an answer's body and, where there is one, the header of the issuers.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn read_answer(&self, body: &[u8], issuers: Option<&str>) -> Result<Vec<u8>, AnswerError> {
        if body.len() > self.max_bytes() {
            return Err(AnswerError::TooLarge(self.max_bytes()));
        }
        let issuers = || {
            let header = self.issuer_chain_headers().first().copied();
            issuers
                .and_then(percent_decode)
                .ok_or(AnswerError::IssuerChain(header.unwrap_or_default()))
        };
        match self {
            Self::AmdVcek { .. }
            | Self::AmdChain { .. }
            | Self::AmdCrl { .. }
            | Self::Ocsp { .. } => Ok(body.to_vec()),
            Self::IntelTcbInfo { .. } => {
                let answer: TcbInfoAnswer<'_> = read_json(body, "TCB info and its signature")?;
                Ok(to_bytes(&json!({
                    "tcb_info": answer.tcb_info.get(),
                    "tcb_info_signature": answer.signature,
                    "tcb_info_issuer_chain": issuers()?,
                })))
            }
            Self::IntelQeIdentity { .. } => {
                let answer: QeIdentityAnswer<'_> =
                    read_json(body, "an enclave identity and its signature")?;
                Ok(to_bytes(&json!({
                    "qe_identity": answer.enclave_identity.get(),
                    "qe_identity_signature": answer.signature,
                    "qe_identity_issuer_chain": issuers()?,
                })))
            }
            Self::IntelPckCrl { .. } => Ok(to_bytes(&json!({
                "pck_crl": hex::encode(crl(body)?),
                "pck_crl_issuer_chain": issuers()?,
            }))),
            Self::IntelRootCrl => Ok(to_bytes(&json!({"root_ca_crl": hex::encode(crl(body)?)}))),
            Self::NvidiaRim { id } => rim(body, id.as_str()),
        }
    }
}

/// The texts are kept to the byte, because they are what was signed.
#[derive(Deserialize)]
struct TcbInfoAnswer<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    tcb_info: &'a RawValue,
    signature: String,
}

#[derive(Deserialize)]
struct QeIdentityAnswer<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    enclave_identity: &'a RawValue,
    signature: String,
}

#[derive(Deserialize)]
struct RimAnswer {
    #[serde(default)]
    id: Option<String>,
    rim: String,
    #[serde(default)]
    sha256: Option<String>,
}

fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8], what: &'static str) -> Result<T, AnswerError> {
    serde_json::from_slice(body).map_err(|_| AnswerError::Malformed(what))
}

/// Objects of texts always have a JSON form.
fn to_bytes(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Intel's service sends DER; caches of it send hex, or DER when asked for.
fn crl(body: &[u8]) -> Result<Vec<u8>, AnswerError> {
    match body.trim_ascii() {
        // `0` of hex is no beginning of DER, and the tag of DER is no digit of hex followed by a length that is.
        text if text.len() > 2 && text.iter().all(u8::is_ascii_hexdigit) => {
            hex::decode(text).map_err(|_| AnswerError::Malformed("a revocation list"))
        }
        _ if body.first() == Some(&0x30) => Ok(body.to_vec()),
        _ => Err(AnswerError::Malformed("a revocation list")),
    }
}

fn rim(body: &[u8], id: &str) -> Result<Vec<u8>, AnswerError> {
    let answer: RimAnswer = read_json(body, "a manifest in JSON")?;
    let document = STANDARD
        .decode(answer.rim.trim())
        .map_err(|_| AnswerError::Malformed("a manifest in Base64"))?;
    if answer.id.is_some_and(|named| named != id) {
        return Err(AnswerError::Malformed("the manifest that was asked for"));
    }
    // No protection (whoever changes one changes the other), but it tells damage from forgery.
    let whole = answer.sha256.is_none_or(|expected| {
        let found = digest::digest(&digest::SHA256, &document);
        let text = hex::encode(found.as_ref());
        expected.eq_ignore_ascii_case(&text) || expected == STANDARD.encode(found.as_ref())
    });
    if whole {
        Ok(document)
    } else {
        Err(AnswerError::Malformed("whole: its digest is another"))
    }
}

/// `%0A` and the like. A header that is not encoded is taken as it is.
fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.extend(hex::decode(digits).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endorsement::need::{IntelTee, PckCa, RimId};

    const TCB_INFO: Need = Need::IntelTcbInfo {
        tee: IntelTee::Tdx,
        fmspc: [0; 6],
    };

    #[test]
    fn signed_texts_are_kept_to_the_byte() {
        let body = br#"{"tcbInfo":{"id": "TDX",  "b":1.0},"signature":"00ff"}"#;
        let file = TCB_INFO.read_answer(body, Some("A%0AB%2B+")).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(read["tcb_info"], r#"{"id": "TDX",  "b":1.0}"#);
        assert_eq!(read["tcb_info_issuer_chain"], "A\nB++");
        assert_eq!(read["tcb_info_signature"], "00ff");
    }

    #[test]
    fn an_answer_without_its_issuers_is_refused() {
        let body = br#"{"tcbInfo":{},"signature":""}"#;
        for header in [None, Some("%"), Some("%0"), Some("%zz"), Some("%ff")] {
            assert_eq!(
                TCB_INFO.read_answer(body, header),
                Err(AnswerError::IssuerChain("TCB-Info-Issuer-Chain")),
            );
        }
    }

    #[test]
    fn lists_are_read_as_der_and_as_hex() {
        let need = Need::IntelPckCrl {
            ca: PckCa::Platform,
        };
        let der = need.read_answer(&[0x30, 0x82, 0x00], Some("chain"));
        assert_eq!(der, need.read_answer(b"308200\n", Some("chain")));
        assert!(der.is_ok());
        for body in [&b""[..], b"<html>", b"308"] {
            assert!(need.read_answer(body, Some("chain")).is_err());
        }
    }

    #[test]
    fn a_manifest_of_another_name_or_digest_is_refused() {
        let id = RimId::new("NV_GPU_DRIVER_GH100_1").unwrap();
        let need = Need::NvidiaRim { id };
        let good = br#"{"id":"NV_GPU_DRIVER_GH100_1","rim":"PGE+","sha256":"e8d71af86ef5cd9f98a22060eb4f95e7ee0a1ee5dcbb2a7baf69ca5a54d82d6a"}"#;
        let digest = hex::encode(digest::digest(&digest::SHA256, b"<a>"));
        let good = String::from_utf8_lossy(good).replace(
            "e8d71af86ef5cd9f98a22060eb4f95e7ee0a1ee5dcbb2a7baf69ca5a54d82d6a",
            &digest,
        );
        let read = |text: &str| need.read_answer(text.as_bytes(), None);
        assert_eq!(read(&good).unwrap(), b"<a>");
        assert!(read(&good.replace("GH100_1", "GH100_2")).is_err());
        assert!(read(&good.replace(&digest[..4], "0000")).is_err());
        assert!(read(&good.replace("PGE+", "PGE")).is_err());
    }

    #[test]
    fn an_answer_that_is_too_large_is_refused() {
        let body = vec![0x30; 2 * 1024 * 1024];
        assert_eq!(
            Need::IntelRootCrl.read_answer(&body, None),
            Err(AnswerError::TooLarge(1024 * 1024)),
        );
    }
}
