//! Reads responses: strictly, since not all of one is signed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    BASIC, CONTEXT_0, CONTEXT_1, CONTEXT_2, CertificateStatus, NONCE, OcspError, Responder,
    Response, Single,
};
use crate::der::{
    BIT_STRING, BOOLEAN, DerError, ENUMERATED, GENERALIZED_TIME, INTEGER, NULL, OBJECT_IDENTIFIER,
    OCTET_STRING, Reader, SEQUENCE, generalized_time,
};

impl<'a> Response<'a> {
    /// Reads a response in DER.
    ///
    /// # Errors
    /// [`OcspError`] unless the bytes are exactly one response that has answers.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OcspError> {
        if bytes.len() > MAX_BYTES {
            return Err(OcspError::TooLarge(bytes.len()));
        }
        let mut outer = Reader(bytes);
        let mut response = outer.inside(SEQUENCE, "OCSPResponse")?;
        outer.end("OCSPResponse")?;
        match response.content(ENUMERATED, "responseStatus")? {
            [0] => {}
            [status] => return Err(OcspError::Refused(*status)),
            _ => return Err(DerError("responseStatus").into()),
        }
        let mut explicit = response.inside(CONTEXT_0, "responseBytes")?;
        response.end("OCSPResponse")?;
        let mut typed = explicit.inside(SEQUENCE, "ResponseBytes")?;
        explicit.end("responseBytes")?;
        if typed.content(OBJECT_IDENTIFIER, "responseType")? != BASIC {
            return Err(DerError("responseType").into());
        }
        let mut octets = typed.inside(OCTET_STRING, "response")?;
        typed.end("ResponseBytes")?;
        let basic = octets.inside(SEQUENCE, "BasicOCSPResponse")?;
        octets.end("response")?;
        Self::parse_basic(basic)
    }

    fn parse_basic(mut basic: Reader<'a>) -> Result<Self, OcspError> {
        let signed = basic.element(SEQUENCE, "tbsResponseData")?;
        let algorithm = basic.element(SEQUENCE, "signatureAlgorithm")?.whole;
        let signature = basic.content(BIT_STRING, "signature")?;
        let signature = signature.strip_prefix(&[0]).ok_or(DerError("signature"))?;
        let mut certificates = Vec::new();
        if let Some(explicit) = basic.optional(CONTEXT_0, "certs")? {
            let mut explicit = Reader(explicit.content);
            let mut list = explicit.inside(SEQUENCE, "certs")?;
            explicit.end("certs")?;
            while !list.0.is_empty() {
                certificates.push(list.element(SEQUENCE, "certs")?.whole);
                if certificates.len() > MAX_CERTIFICATES {
                    return Err(DerError("certs").into());
                }
            }
        }
        basic.end("BasicOCSPResponse")?;

        let mut data = Reader(signed.content);
        let responder = match data.tag() {
            Some(CONTEXT_1) => Responder::Name(data.content(CONTEXT_1, "responderID")?),
            // A version is written only if it is not the default, and there is no other.
            _ => {
                let mut key = data.inside(CONTEXT_2, "responderID")?;
                let digest = key.content(OCTET_STRING, "responderID")?;
                key.end("responderID")?;
                Responder::Key(digest)
            }
        };
        time(&mut data, "producedAt")?;
        let mut list = data.inside(SEQUENCE, "responses")?;
        let mut answers = Vec::new();
        while !list.0.is_empty() {
            answers.push(Single::parse(list.inside(SEQUENCE, "SingleResponse")?)?);
            if answers.len() > MAX_ANSWERS {
                return Err(DerError("responses").into());
            }
        }
        let nonce = extensions(&mut data)?;
        data.end("tbsResponseData")?;
        Ok(Self {
            signed: signed.whole,
            algorithm,
            signature,
            responder,
            answers,
            certificates,
            nonce,
        })
    }
}

impl<'a> Single<'a> {
    fn parse(mut single: Reader<'a>) -> Result<Self, OcspError> {
        let mut id = single.inside(SEQUENCE, "certID")?;
        let mut algorithm = id.inside(SEQUENCE, "hashAlgorithm")?;
        let hash = algorithm.content(OBJECT_IDENTIFIER, "hashAlgorithm")?;
        algorithm.optional(NULL, "hashAlgorithm")?;
        algorithm.end("hashAlgorithm")?;
        let issuer_name = id.content(OCTET_STRING, "issuerNameHash")?;
        let issuer_key = id.content(OCTET_STRING, "issuerKeyHash")?;
        let serial = id.content(INTEGER, "serialNumber")?;
        id.end("certID")?;
        let status = status(&mut single)?;
        let this_update = time(&mut single, "thisUpdate")?;
        let next_update = match single.optional(CONTEXT_0, "nextUpdate")? {
            Some(explicit) => {
                let mut explicit = Reader(explicit.content);
                let found = time(&mut explicit, "nextUpdate")?;
                explicit.end("nextUpdate")?;
                found
            }
            None => this_update + WITHOUT_END,
        };
        extensions(&mut single)?;
        single.end("SingleResponse")?;
        Ok(Self {
            hash,
            issuer_name,
            issuer_key,
            serial,
            status,
            this_update,
            next_update,
        })
    }
}

fn status(single: &mut Reader<'_>) -> Result<CertificateStatus, OcspError> {
    let name = "certStatus";
    match single.tag() {
        Some(GOOD) => match single.content(GOOD, name)? {
            [] => Ok(CertificateStatus::Good),
            _ => Err(DerError(name).into()),
        },
        Some(UNKNOWN) => match single.content(UNKNOWN, name)? {
            [] => Ok(CertificateStatus::Unknown),
            _ => Err(DerError(name).into()),
        },
        _ => {
            let mut info = single.inside(CONTEXT_1, name)?;
            let at = time(&mut info, "revocationTime")?;
            let mut is_hold = false;
            if let Some(explicit) = info.optional(CONTEXT_0, "revocationReason")? {
                let mut explicit = Reader(explicit.content);
                let reason = explicit.content(ENUMERATED, "revocationReason")?;
                explicit.end("revocationReason")?;
                is_hold = reason == [CERTIFICATE_HOLD];
            }
            info.end("revoked")?;
            Ok(CertificateStatus::Revoked { at, is_hold })
        }
    }
}

/// Reads extensions, where there are some; the nonce, if it is among them.
fn extensions<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, OcspError> {
    let name = "extensions";
    let Some(explicit) = reader.optional(CONTEXT_1, name)? else {
        return Ok(None);
    };
    let mut explicit = Reader(explicit.content);
    let mut list = explicit.inside(SEQUENCE, name)?;
    explicit.end(name)?;
    let mut nonce = None;
    while !list.0.is_empty() {
        let mut extension = list.inside(SEQUENCE, name)?;
        let id = extension.content(OBJECT_IDENTIFIER, name)?;
        let is_critical = extension.optional(BOOLEAN, name)?.is_some();
        let mut value = extension.inside(OCTET_STRING, name)?;
        extension.end(name)?;
        if id == NONCE {
            let found = value.content(OCTET_STRING, "nonce")?;
            value.end("nonce")?;
            if nonce.replace(found).is_some() {
                return Err(DerError("nonce").into());
            }
        } else if is_critical {
            return Err(OcspError::Critical);
        }
    }
    Ok(nonce)
}

fn time(reader: &mut Reader<'_>, name: &'static str) -> Result<SystemTime, OcspError> {
    let content = reader.content(GENERALIZED_TIME, name)?;
    let seconds = generalized_time(content).ok_or(DerError(name))?;
    Ok(instant(seconds))
}

/// Before 1970 counts as 1970: nothing here was valid then.
pub(super) fn instant(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// NVIDIA's responses have 1 KiB, with the responder's certificate.
const MAX_BYTES: usize = 64 * 1024;
/// A responder sends its own certificate, and at most those above it.
const MAX_CERTIFICATES: usize = 8;
/// One certificate is asked about at a time.
const MAX_ANSWERS: usize = 64;
/// How long an answer without an end counts; RFC 6960 §4.2.2.1 says that newer ones can always be had. NVIDIA's live a day.
const WITHOUT_END: Duration = Duration::from_secs(86_400);

const GOOD: u8 = 0x80;
const UNKNOWN: u8 = 0x82;
/// `certificateHold` of RFC 5280 §5.3.1.
const CERTIFICATE_HOLD: u8 = 6;
