//! Certificates and revocation lists as vendors write them: bounded reading, dates, and the signature algorithms that
//! path builders refuse.
//!
//! # Why
//! `rustls-webpki` refuses AMD's RSASSA-PSS parameters (an explicit trailer field), and the chains of this field are
//! fixed: each step has one possible issuer. So a step is checked here by itself, over the very bytes of the
//! `TBSCertificate`.
//!
//! Source: RFC 5280; RFC 4055 §3.1.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::{Validity, X509Certificate};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Name};

/// Largest certificate that is read. Vendors' largest have about 2 KiB.
pub(crate) const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Most certificates that are read from one file.
pub(crate) const MAX_CERTIFICATES: usize = 32;
/// Largest revocation list. Intel's of all platforms has about 100 KiB.
pub(crate) const MAX_CRL_BYTES: usize = 4 * 1024 * 1024;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum X509Error {
    /// Larger than read.
    #[error("{0} bytes are more than is read")]
    TooLarge(usize),
    /// Not one certificate in DER.
    #[error("not exactly one certificate in DER")]
    Certificate,
    /// Not one revocation list in DER.
    #[error("not exactly one certificate revocation list in DER")]
    Crl,
}

/// Reads exactly one certificate.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, X509Error> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(X509Error::TooLarge(der.len()));
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate))
            if is_canonical(
                der,
                certificate.tbs_certificate.as_ref(),
                &certificate.signature_value.data,
            ) =>
        {
            Ok(certificate)
        }
        Ok(_) | Err(_) => Err(X509Error::Certificate),
    }
}

/// Reads exactly one revocation list.
pub(crate) fn parse_crl(der: &[u8]) -> Result<CertificateRevocationList<'_>, X509Error> {
    if der.len() > MAX_CRL_BYTES {
        return Err(X509Error::TooLarge(der.len()));
    }
    match CertificateRevocationList::from_der(der) {
        Ok(([], crl))
            if is_canonical(der, crl.tbs_cert_list.as_ref(), &crl.signature_value.data) =>
        {
            Ok(crl)
        }
        Ok(_) | Err(_) => Err(X509Error::Crl),
    }
}

/// Whether all that is not signed is as DER demands and repeats what is signed, so that nothing can be written otherwise
/// without a signature noticing. The parser is lenient with tags and unused bits.
fn is_canonical(der: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    let tail = [&length_of(0x03, signature.len() + 1), &[0][..], signature].concat();
    let Some(algorithm) = (1..=5).find_map(|header| {
        let content = der.get(header..)?;
        (length_of(0x30, content.len()) == der.get(..header)?).then_some(())?;
        content.strip_prefix(signed)?.strip_suffix(tail.as_slice())
    }) else {
        return false;
    };
    // The algorithm stands twice, and only one of them is signed.
    algorithm.first() == Some(&0x30) && contains(signed, algorithm)
}

/// Tag and length of a DER element, the length in its shortest form.
fn length_of(tag: u8, length: usize) -> Vec<u8> {
    let bytes = length.to_be_bytes();
    let significant: Vec<u8> = bytes
        .iter()
        .copied()
        .skip_while(|byte| *byte == 0)
        .collect();
    match (length, u8::try_from(significant.len())) {
        (0..=0x7f, _) => vec![tag, significant.first().copied().unwrap_or(0)],
        (_, Ok(count)) => [&[tag, 0x80 | count], significant.as_slice()].concat(),
        (_, Err(_)) => Vec::new(),
    }
}

/// Certificates of a file, in its order: PEM, or one in DER. `None` if it is neither.
pub(crate) fn certificates(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    if bytes.starts_with(&[0x30]) {
        return parse(bytes).ok().map(|_| vec![bytes.to_vec()]);
    }
    if !contains(bytes, b"-----BEGIN CERTIFICATE-----") {
        return None;
    }
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        if found.len() == MAX_CERTIFICATES {
            return None;
        }
        found.push(certificate.ok()?.to_vec());
    }
    (!found.is_empty()).then_some(found)
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Whether `issuer` signed `certificate` and the names say so.
pub(crate) fn is_issued_by(
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && is_authority(issuer)
        && is_signed(
            certificate.tbs_certificate.as_ref(),
            &certificate.signature_algorithm,
            &certificate.signature_value.data,
            issuer.public_key(),
        )
}

/// Whether a certificate may issue others: basic constraints, and key usage where stated.
pub(crate) fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    let may_sign = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    certificate.is_ca() && may_sign
}

/// Whether `issuer` signed the list and the names say so.
pub(crate) fn is_crl_of(crl: &CertificateRevocationList<'_>, issuer: &X509Certificate<'_>) -> bool {
    crl.issuer().as_raw() == issuer.subject().as_raw()
        && is_signed(
            crl.tbs_cert_list.as_ref(),
            &crl.signature_algorithm,
            &crl.signature_value.data,
            issuer.public_key(),
        )
}

/// Whether the list names this serial number.
pub(crate) fn is_revoked(crl: &CertificateRevocationList<'_>, serial: &[u8]) -> bool {
    let serial = without_zeros(serial);
    crl.iter_revoked_certificates()
        .any(|revoked| without_zeros(revoked.raw_serial()) == serial)
}

fn without_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Verifies `signature` over `message`, by the algorithms that vendors of hardware use and no others.
pub(crate) fn is_signed(
    message: &[u8],
    algorithm: &AlgorithmIdentifier<'_>,
    signature: &[u8],
    key: &SubjectPublicKeyInfo<'_>,
) -> bool {
    let verification: &dyn VerificationAlgorithm = match algorithm.algorithm.to_id_string().as_str()
    {
        // AMD. The parameters may say otherwise; then verification with SHA-384 fails.
        "1.2.840.113549.1.1.10" => &RSA_PSS_2048_8192_SHA384,
        "1.2.840.113549.1.1.11" => &RSA_PKCS1_2048_8192_SHA256,
        "1.2.840.113549.1.1.12" => &RSA_PKCS1_2048_8192_SHA384,
        "1.2.840.10045.4.3.2" => &ECDSA_P256_SHA256_ASN1,
        "1.2.840.10045.4.3.3" => &ECDSA_P384_SHA384_ASN1,
        _ => return false,
    };
    UnparsedPublicKey::new(verification, &key.subject_public_key.data)
        .verify(message, signature)
        .is_ok()
}

/// Why a chain does not hold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum PathError {
    /// Nothing to verify.
    #[error("the chain is empty")]
    Empty,
    /// The first certificate is not the pinned root.
    #[error("the chain does not begin with the pinned root but with `{0}`")]
    Root(String),
    /// A step's issuer did not sign it, or may not issue.
    #[error("`{0}` is not issued by the one before it")]
    Step(String),
    /// An authority issued deeper than it may.
    #[error("`{0}` may not have so many authorities below it")]
    Depth(String),
    /// An extension that must be understood is not.
    #[error("`{0}` has a critical extension {1} that is not understood")]
    Critical(String, String),
    /// Before its beginning.
    #[error("`{0}` is not valid before {1}")]
    NotYet(String, String),
    /// After its end.
    #[error("`{0}` expired at {1}")]
    Expired(String, String),
}

impl PathError {
    /// The bounded word of a refusal.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Empty | Self::Root(_) => "root_not_pinned",
            Self::Step(_) | Self::Depth(_) | Self::Critical(..) => "chain_signature",
            Self::NotYet(..) => "certificate_not_yet_valid",
            Self::Expired(..) => "certificate_expired",
        }
    }
}

/// Verifies a path, root first, whose first certificate is `root` to the byte; the last one is the leaf.
///
/// # Errors
/// [`PathError`] of the first step that does not hold; dates come after signatures.
pub(crate) fn verify_path(
    path: &[X509Certificate<'_>],
    root: &[u8],
    now: SystemTime,
) -> Result<(), PathError> {
    let name = |certificate: &X509Certificate<'_>| certificate.subject().to_string();
    let first = path.first().ok_or(PathError::Empty)?;
    if first.as_raw() != root {
        return Err(PathError::Root(name(first)));
    }
    for (issuer, certificate) in path.iter().zip(path.iter().skip(1)) {
        if !is_issued_by(certificate, issuer) {
            return Err(PathError::Step(name(certificate)));
        }
    }
    for (index, certificate) in path.iter().enumerate() {
        let below = path.len().saturating_sub(index + 2);
        let depth = certificate
            .basic_constraints()
            .ok()
            .flatten()
            .and_then(|constraints| constraints.value.path_len_constraint);
        let fits = depth.is_none_or(|depth| usize::try_from(depth).is_ok_and(|most| below <= most));
        if !fits {
            return Err(PathError::Depth(name(certificate)));
        }
        if let Some(unknown) = unknown_critical(certificate) {
            return Err(PathError::Critical(name(certificate), unknown));
        }
    }
    for certificate in path {
        let dates = certificate.validity();
        match validity(now, dates) {
            Dates::Valid => {}
            Dates::NotYet => {
                return Err(PathError::NotYet(
                    name(certificate),
                    dates.not_before.to_string(),
                ));
            }
            Dates::Expired => {
                return Err(PathError::Expired(
                    name(certificate),
                    dates.not_after.to_string(),
                ));
            }
        }
    }
    Ok(())
}

/// A critical extension that is not understood, if there is one.
pub(crate) fn unknown_critical(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate
        .extensions()
        .iter()
        .filter(|extension| extension.critical)
        .map(|extension| extension.oid.to_id_string())
        .find(|oid| !UNDERSTOOD.contains(&oid.as_str()))
}

/// Critical extensions whose meaning is respected here, or that restrict nothing that matters here: basic constraints,
/// key usage, extended key usage, subject alternative name, and DICE's `TcbInfo`.
const UNDERSTOOD: [&str; 5] = [
    "2.5.29.19",
    "2.5.29.15",
    "2.5.29.37",
    "2.5.29.17",
    "2.23.133.5.4.1",
];

/// Where a time lies in a validity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Dates {
    /// Within, both ends included (RFC 5280 §4.1.2.5).
    Valid,
    /// Before the beginning.
    NotYet,
    /// After the end.
    Expired,
}

/// Where `now` lies between two times in seconds of Unix time; without an end, nothing expires.
pub(crate) fn dates(now: SystemTime, from: i64, until: Option<i64>) -> Dates {
    let now = seconds(now);
    if now < from {
        Dates::NotYet
    } else if until.is_some_and(|until| now > until) {
        Dates::Expired
    } else {
        Dates::Valid
    }
}

/// Where `now` lies in a certificate's validity.
pub(crate) fn validity(now: SystemTime, validity: &Validity) -> Dates {
    dates(
        now,
        validity.not_before.timestamp(),
        Some(validity.not_after.timestamp()),
    )
}

/// Unix time. A time before 1970 counts as 1970: nothing here was valid then.
pub(crate) fn seconds(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// The common name, if it has exactly one.
pub(crate) fn common_name<'a>(name: &'a X509Name<'_>) -> Option<&'a str> {
    let mut names = name.iter_common_name();
    match (names.next(), names.next()) {
        (Some(only), None) => only.as_str().ok(),
        _ => None,
    }
}

/// The value of an extension, if it stands exactly once.
pub(crate) fn extension<'a>(certificate: &X509Certificate<'a>, oid: &str) -> Option<&'a [u8]> {
    let mut found = certificate
        .extensions()
        .iter()
        .filter(|extension| extension.oid.to_id_string() == oid);
    match (found.next(), found.next()) {
        (Some(only), None) => Some(only.value),
        _ => None,
    }
}
