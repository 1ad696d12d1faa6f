//! OCSP: whether the issuer of a certificate still stands by it.
//!
//! [`request`] asks, [`Response::parse`] reads, and only [`Response::verify`] says what was answered: by whom, about which
//! certificate, and for how long. Whether an answer is fresh is asked of the [`Answer`], so that a caller can treat an old
//! `revoked` as what it is.
//!
//! # Why
//! The responder is the issuer itself, or one that this very issuer certified for nothing but signing responses; a
//! locally configured responder, which RFC 6960 allows too, would be a second root. Of a responder's own revocation
//! nothing is asked: NVIDIA's live three years and say `id-pkix-ocsp-nocheck`.
//!
//! Source: RFC 6960; RFC 9654 (nonce).

#[cfg(test)]
pub(crate) mod maker;
mod parse;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

use self::parse::instant;
use crate::der::{
    DerError, INTEGER, NULL, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SHA384, element,
};
use crate::evidence::x509::{self, Dates, X509Error};

/// Why a response says nothing about a certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OcspError {
    /// Larger than is read.
    #[error("{0} bytes are more than a response has")]
    TooLarge(usize),
    /// Not a response.
    #[error("the response can't be read")]
    Malformed(#[from] DerError),
    /// The responder gave no answer; the number is that of RFC 6960 §4.2.1.
    #[error("the responder refused to answer, with status {0}")]
    Refused(u8),
    /// An extension must be understood and is not.
    #[error("the response has a critical extension that is not understood")]
    Critical,
    /// A certificate that it is asked about can't be read.
    #[error("the certificate or its issuer can't be read")]
    Certificate(#[from] X509Error),
    /// It is about other certificates.
    #[error("the response is not about this certificate, or twice")]
    OtherCertificate,
    /// Signed by somebody whom the issuer did not ask to.
    #[error("the responder may not answer for this issuer: {0}")]
    Responder(&'static str),
    /// The signature is wrong.
    #[error("the responder's signature does not verify")]
    Signature,
    /// It answers another question.
    #[error("the response repeats another nonce")]
    Nonce,
}

impl OcspError {
    /// A bounded word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::Malformed(_) | Self::Critical => "ocsp_malformed",
            Self::Refused(_) => "ocsp_refused",
            Self::Certificate(_) => "ocsp_certificate",
            Self::OtherCertificate => "ocsp_other_certificate",
            Self::Responder(_) => "ocsp_responder",
            Self::Signature => "ocsp_signature",
            Self::Nonce => "ocsp_nonce",
        }
    }
}

/// What the issuer says of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertificateStatus {
    /// Not revoked.
    Good,
    /// Revoked at this time, for ever or (`is_hold`) until further notice.
    Revoked {
        /// When.
        at: SystemTime,
        /// Whether the reason is `certificateHold` (RFC 5280 §5.3.1), which may be lifted.
        is_hold: bool,
    },
    /// The issuer knows no such certificate.
    Unknown,
}

/// Where an answer stands in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    /// It holds.
    Current,
    /// It is from the future.
    NotYet,
    /// There must be a newer one.
    Stale,
}

/// A verified answer about one certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// What it says.
    pub status: CertificateStatus,
    /// Since when.
    pub this_update: SystemTime,
    /// Until when: as the responder says, but not past its own certificate.
    pub next_update: SystemTime,
}

impl Answer {
    /// Where `now` lies. The end itself still counts.
    pub fn freshness(&self, now: SystemTime) -> Freshness {
        if now + TOLERANCE < self.this_update {
            Freshness::NotYet
        } else if now > self.next_update {
            Freshness::Stale
        } else {
            Freshness::Current
        }
    }
}

/// A response that was read; nothing in it is verified.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    responder: Responder<'a>,
    answers: Vec<Single<'a>>,
    certificates: Vec<&'a [u8]>,
    nonce: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug)]
enum Responder<'a> {
    /// The subject's name, in DER.
    Name(&'a [u8]),
    /// SHA-1 of the key.
    Key(&'a [u8]),
}

#[derive(Clone, Copy, Debug)]
struct Single<'a> {
    hash: &'a [u8],
    issuer_name: &'a [u8],
    issuer_key: &'a [u8],
    serial: &'a [u8],
    status: CertificateStatus,
    this_update: SystemTime,
    next_update: SystemTime,
}

impl Response<'_> {
    /// About which serial numbers it speaks, since when and until when. Nothing is verified.
    pub(crate) fn stated(&self) -> impl Iterator<Item = (&[u8], SystemTime, SystemTime)> {
        self.answers
            .iter()
            .map(|single| (single.serial, single.this_update, single.next_update))
    }

    /// Whether it is about this certificate. Nothing is verified.
    ///
    /// # Errors
    /// [`X509Error`] if either is no certificate in DER.
    pub fn is_about(&self, certificate: &[u8], issuer: &[u8]) -> Result<bool, X509Error> {
        let (certificate, issuer) = (x509::parse(certificate)?, x509::parse(issuer)?);
        Ok(self
            .answers
            .iter()
            .any(|single| single.is_about(&certificate, &issuer)))
    }

    /// Verifies what it says about a certificate. `issuer` must be trusted already, `nonce` is that of the request; a
    /// response without one answers any request, and its times bound how long.
    ///
    /// # Errors
    /// [`OcspError`] unless exactly one answer is about this certificate and signed by who may.
    pub fn verify(
        &self,
        certificate: &[u8],
        issuer: &[u8],
        nonce: Option<&[u8]>,
    ) -> Result<Answer, OcspError> {
        let (certificate, issuer) = (x509::parse(certificate)?, x509::parse(issuer)?);
        let mut about = self
            .answers
            .iter()
            .filter(|single| single.is_about(&certificate, &issuer));
        let (Some(single), None) = (about.next(), about.next()) else {
            return Err(OcspError::OtherCertificate);
        };
        let next_update = if self.responder.is(&issuer) {
            self.check_signature(&issuer)?;
            single.next_update
        } else {
            let until = self.check_delegate(&issuer, single.this_update)?;
            single.next_update.min(until)
        };
        match (nonce, self.nonce) {
            (Some(sent), Some(echoed)) if sent != echoed => return Err(OcspError::Nonce),
            _ => {}
        }
        Ok(Answer {
            status: single.status,
            this_update: single.this_update,
            next_update,
        })
    }

    fn check_signature(&self, signer: &X509Certificate<'_>) -> Result<(), OcspError> {
        let algorithm = match AlgorithmIdentifier::from_der(self.algorithm) {
            // It is not signed, and that parser is lenient with tags.
            Ok(([], algorithm)) if ALGORITHMS.contains(&self.algorithm) => algorithm,
            Ok(_) | Err(_) => return Err(DerError("signatureAlgorithm").into()),
        };
        let key = signer.public_key();
        if x509::is_signed(self.signed, &algorithm, self.signature, key) {
            Ok(())
        } else {
            Err(OcspError::Signature)
        }
    }

    /// Verifies a response by a responder that the issuer certified; until when it may answer.
    fn check_delegate(
        &self,
        issuer: &X509Certificate<'_>,
        at: SystemTime,
    ) -> Result<SystemTime, OcspError> {
        let certificates: Vec<_> = self
            .certificates
            .iter()
            .map(|der| x509::parse(der))
            .collect::<Result<_, _>>()?;
        let responder = certificates
            .iter()
            .find(|certificate| self.responder.is(certificate))
            .ok_or(OcspError::Responder("its certificate is not given"))?;
        if !x509::is_issued_by(responder, issuer) {
            return Err(OcspError::Responder("its certificate is of another issuer"));
        }
        let may_answer = matches!(
            responder.extended_key_usage(),
            Ok(Some(usage)) if usage.value.ocsp_signing
        );
        let may_sign = match responder.key_usage() {
            Ok(Some(usage)) => usage.value.digital_signature(),
            Ok(None) => true,
            Err(_) => false,
        };
        if !may_answer || !may_sign {
            return Err(OcspError::Responder(
                "its certificate is not for signing responses",
            ));
        }
        if x509::unknown_critical(responder).is_some() {
            return Err(OcspError::Responder(
                "its certificate has a critical extension that is not understood",
            ));
        }
        if x509::validity(at, responder.validity()) != Dates::Valid {
            return Err(OcspError::Responder(
                "its certificate was not valid when it answered",
            ));
        }
        self.check_signature(responder)?;
        let until = responder.validity().not_after.timestamp();
        Ok(instant(until))
    }
}

impl Responder<'_> {
    fn is(self, certificate: &X509Certificate<'_>) -> bool {
        match self {
            Self::Name(name) => certificate.subject().as_raw() == name,
            // SHA-1 only finds the certificate; its signature is verified.
            Self::Key(key) => {
                let found = &certificate.public_key().subject_public_key.data;
                digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, found).as_ref() == key
            }
        }
    }
}

impl Single<'_> {
    fn is_about(&self, certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
        let algorithm = match self.hash {
            SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            SHA256 => &digest::SHA256,
            SHA384 => &digest::SHA384,
            SHA512 => &digest::SHA512,
            _ => return false,
        };
        let hash = |bytes: &[u8]| digest::digest(algorithm, bytes);
        self.serial == certificate.raw_serial()
            && certificate.issuer().as_raw() == issuer.subject().as_raw()
            && hash(issuer.subject().as_raw()).as_ref() == self.issuer_name
            && hash(&issuer.public_key().subject_public_key.data).as_ref() == self.issuer_key
    }
}

/// Writes a request about one certificate, by SHA-384 as NVIDIA's responder expects. A nonce has 1 to 128 bytes.
///
/// # Errors
/// [`X509Error`] if either is no certificate in DER.
pub fn request(
    certificate: &[u8],
    issuer: &[u8],
    nonce: Option<&[u8]>,
) -> Result<Vec<u8>, X509Error> {
    let (certificate, issuer) = (x509::parse(certificate)?, x509::parse(issuer)?);
    let hash = |bytes: &[u8]| {
        element(
            OCTET_STRING,
            digest::digest(&digest::SHA384, bytes).as_ref(),
        )
    };
    let algorithm = [element(OBJECT_IDENTIFIER, SHA384), element(NULL, &[])].concat();
    let id = [
        element(SEQUENCE, &algorithm),
        hash(issuer.subject().as_raw()),
        hash(&issuer.public_key().subject_public_key.data),
        element(INTEGER, certificate.raw_serial()),
    ]
    .concat();
    let single = element(SEQUENCE, &element(SEQUENCE, &id));
    let mut content = element(SEQUENCE, &single);
    if let Some(nonce) = nonce {
        let value = element(OCTET_STRING, &element(OCTET_STRING, nonce));
        let extension = [element(OBJECT_IDENTIFIER, NONCE), value].concat();
        let list = element(SEQUENCE, &element(SEQUENCE, &extension));
        content.extend(element(CONTEXT_2, &list));
    }
    Ok(element(SEQUENCE, &element(SEQUENCE, &content)))
}

/// How far the responder's clock may be ahead of ours.
///
/// Clocks of hosts differ by seconds; a response of this moment must not count as one of the future. It makes no response
/// live longer.
const TOLERANCE: Duration = Duration::from_secs(300);
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;
const CONTEXT_2: u8 = 0xa2;
/// `id-pkix-ocsp-basic`, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// `id-pkix-ocsp-nonce`, 1.3.6.1.5.5.7.48.1.2.
const NONCE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];
/// ECDSA with SHA-256 and SHA-384, RSA (PKCS #1) with SHA-256 and SHA-384, as RFC 5758 and RFC 4055 write them.
const ALGORITHMS: [&[u8]; 4] = [
    &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
    &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
    &[
        0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 11, 5, 0,
    ],
    &[
        0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 12, 5, 0,
    ],
];
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];
