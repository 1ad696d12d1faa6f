//! The profile of our leaf certificates, and of those that we accept.
//!
//! Path building is webpki's work; this module reads what webpki does not: that a leaf is a leaf, names exactly one
//! SPIFFE ID, and carries our extensions at most once each.
//!
//! Source: SPIFFE X509-SVID §2–§5, RFC 5280 §4.2, DESIGN §5.4.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::result::{AttestationResult, DecodeResultError};
use crate::spiffe_id::{ParseSpiffeIdError, SpiffeId};

/// Arc of all our object identifiers: `2.25.` and a UUID as an integer (X.667 §6.3), so that no number is borrowed.
///
/// The UUID is one whose value fits 63 bits, because certificate libraries keep an arc in 64.
const OID_ARC: [u64; 3] = [2, 25, 4_928_371_059_274_810_365];

/// Extension of a leaf that carries its attestation result. Not critical: standard path builders refuse unknown
/// critical extensions; [`crate::peer::verify_peer`] demands it instead.
pub const ATTESTATION_RESULT_OID: [u64; 4] = [OID_ARC[0], OID_ARC[1], OID_ARC[2], 1];

/// Extension of a leaf that has a role in the mesh itself; issuance for workloads never produces it.
pub const ROLE_OID: [u64; 4] = [OID_ARC[0], OID_ARC[1], OID_ARC[2], 2];

/// A role in the mesh itself, written as a UTF8String in the role extension.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MeshRole {
    /// Serves the control-plane API.
    ControlPlane,
    /// Signs revisions of the mesh state; its key is no CA key.
    MeshState,
}

impl MeshRole {
    /// The word in the extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::MeshState => "mesh-state",
        }
    }

    /// The value of the role extension in DER.
    pub fn to_der(self) -> Vec<u8> {
        let text = self.as_str().as_bytes();
        // Both words are short, so a one-byte length is exact.
        [
            &[UTF8_STRING, u8::try_from(text.len()).unwrap_or(u8::MAX)],
            text,
        ]
        .concat()
    }

    fn from_der(der: &[u8]) -> Option<Self> {
        [Self::ControlPlane, Self::MeshState]
            .into_iter()
            .find(|role| role.to_der() == der)
    }
}

/// What a leaf says of itself, before anyone vouched for it. Only [`crate::peer`] makes it into a peer.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) serial: Serial,
    pub(crate) spki_sha256: [u8; 32],
    pub(crate) not_after: SystemTime,
    pub(crate) result: Option<AttestationResult>,
    pub(crate) role: Option<MeshRole>,
}

/// A certificate's serial number: 1 to 20 bytes, big-endian (RFC 5280 §4.1.2.2).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// The bytes, without sign padding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl Leaf {
    /// Largest certificate in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// Reads a leaf and checks its profile.
    ///
    /// # Errors
    /// [`ProfileError`] naming the rule that the certificate breaks.
    pub fn parse(der: &[u8]) -> Result<Self, ProfileError> {
        if der.len() > Self::MAX_BYTES {
            return Err(ProfileError::TooLarge(der.len()));
        }
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| ProfileError::Malformed)?;
        if !rest.is_empty() {
            return Err(ProfileError::Malformed);
        }
        let extensions = Extensions::read(&certificate)?;
        Ok(Self {
            id: extensions.id.ok_or(ProfileError::NoSpiffeId)?,
            serial: serial(certificate.raw_serial())?,
            spki_sha256: sha256(certificate.public_key().raw),
            not_after: system_time(certificate.validity().not_after.timestamp())?,
            result: extensions.result,
            role: extensions.role,
        })
    }
}

#[derive(Default)]
struct Extensions {
    id: Option<SpiffeId>,
    key_usage: bool,
    result: Option<AttestationResult>,
    role: Option<MeshRole>,
}

impl Extensions {
    fn read(certificate: &X509Certificate<'_>) -> Result<Self, ProfileError> {
        let mut found = Self::default();
        for (index, extension) in certificate.extensions().iter().enumerate() {
            let repeated = certificate
                .extensions()
                .iter()
                .skip(index + 1)
                .any(|other| other.oid == extension.oid);
            if repeated {
                return Err(ProfileError::RepeatedExtension(
                    extension.oid.to_id_string(),
                ));
            }
            found.read_one(extension)?;
        }
        if !found.key_usage {
            return Err(ProfileError::KeyUsage);
        }
        Ok(found)
    }

    fn read_one(
        &mut self,
        extension: &x509_parser::prelude::X509Extension<'_>,
    ) -> Result<(), ProfileError> {
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return Err(ProfileError::Malformed),
            ParsedExtension::SubjectAlternativeName(names) => {
                self.id = Some(spiffe_id(&names.general_names)?)
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(ProfileError::Authority);
            }
            ParsedExtension::KeyUsage(usage) => {
                let signs_certificates = usage.key_cert_sign() || usage.crl_sign();
                if !usage.digital_signature() || signs_certificates || !extension.critical {
                    return Err(ProfileError::KeyUsage);
                }
                self.key_usage = true;
            }
            _ if oid_is(extension.oid.as_bytes(), &ATTESTATION_RESULT_OID) => {
                self.result =
                    Some(AttestationResult::decode(extension.value).map_err(ProfileError::Result)?);
            }
            _ if oid_is(extension.oid.as_bytes(), &ROLE_OID) => {
                self.role = Some(MeshRole::from_der(extension.value).ok_or(ProfileError::Role)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The one SPIFFE ID among the names: exactly one URI (SPIFFE X509-SVID §2); DNS names may stand beside it.
fn spiffe_id(names: &[GeneralName<'_>]) -> Result<SpiffeId, ProfileError> {
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().map_err(ProfileError::SpiffeId),
        (None, _) => Err(ProfileError::NoSpiffeId),
        (Some(_), Some(_)) => Err(ProfileError::SeveralUris),
    }
}

fn serial(raw: &[u8]) -> Result<Serial, ProfileError> {
    let unsigned = match raw {
        [0, rest @ ..] if !rest.is_empty() => rest,
        other => other,
    };
    let negative = raw.first().is_some_and(|byte| byte & 0x80 != 0);
    let zero = unsigned.iter().all(|byte| *byte == 0);
    if zero || unsigned.len() > MAX_SERIAL_BYTES || negative {
        return Err(ProfileError::Serial);
    }
    Ok(Serial(unsigned.into()))
}

/// Whether DER content octets of an object identifier are these arcs.
fn oid_is(content: &[u8], arcs: &[u64; 4]) -> bool {
    let [first, second, rest @ ..] = arcs;
    let mut expected = base128(first * 40 + second);
    rest.iter().for_each(|arc| expected.extend(base128(*arc)));
    content == expected
}

fn base128(mut value: u64) -> Vec<u8> {
    let mut out = vec![(value & 0x7f) as u8];
    while value > 0x7f {
        value >>= 7;
        out.push((value & 0x7f) as u8 | 0x80);
    }
    out.reverse();
    out
}

fn system_time(seconds: i64) -> Result<SystemTime, ProfileError> {
    let seconds = u64::try_from(seconds).map_err(|_| ProfileError::Validity)?;
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or(ProfileError::Validity)
}

/// Unix seconds of a time; before 1970 counts as 0, which no certificate of ours reaches.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// SHA-256, as an array.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Why a certificate is no acceptable leaf.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Larger than [`Leaf::MAX_BYTES`].
    #[error("a certificate has at most 65536 bytes, found {0}")]
    TooLarge(usize),
    /// Not one DER certificate with readable extensions.
    #[error("failed to parse the certificate")]
    Malformed,
    /// An extension stands twice (RFC 5280 §4.2).
    #[error("extension {0} stands twice")]
    RepeatedExtension(String),
    /// No URI among the subject alternative names.
    #[error("the certificate names no SPIFFE ID")]
    NoSpiffeId,
    /// Two or more URIs.
    #[error("the certificate has more than one URI name")]
    SeveralUris,
    /// The one URI is not a SPIFFE ID.
    #[error("the certificate's URI name is not a SPIFFE ID")]
    SpiffeId(#[source] ParseSpiffeIdError),
    /// `CA: TRUE` on a leaf.
    #[error("the certificate is an authority's, not a workload's")]
    Authority,
    /// Key usage is missing, not critical, without `digitalSignature`, or signs certificates.
    #[error("key usage must be critical and `digitalSignature` without `keyCertSign` or `cRLSign`")]
    KeyUsage,
    /// Serial number zero, negative, or longer than 20 bytes.
    #[error("the serial number is not 1 to 20 bytes of a positive number")]
    Serial,
    /// A date before 1970 or beyond the clock.
    #[error("the validity period is out of range")]
    Validity,
    /// The attestation-result extension can't be read.
    #[error("failed to read the attestation result")]
    Result(#[source] DecodeResultError),
    /// The role extension names no role.
    #[error("the role extension names no role")]
    Role,
}

const UTF8_STRING: u8 = 0x0c;
/// RFC 5280 §4.1.2.2 allows 20 octets, without DER's octet of sign.
const MAX_SERIAL_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_a_positive_number_of_at_most_twenty_bytes() {
        let check = |raw: &[u8]| serial(raw).map(|serial| serial.to_string()).ok();
        assert_eq!(check(&[1]).as_deref(), Some("01"));
        assert_eq!(check(&[0, 0x80]).as_deref(), Some("80"));
        assert!(check(&[0x7f; 20]).is_some());
        assert!(check(&[&[0_u8][..], &[0xff; 20]].concat()).is_some());
        for raw in [&[][..], &[0], &[0, 0], &[0x80], &[0x7f; 21]] {
            assert_eq!(check(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn our_object_identifiers_are_recognised_from_their_content() {
        // 2.25.4928371059274810365.1, encoded by hand: 2·40+25 = 105, then base 128.
        let mut content = vec![105];
        content.extend(base128(OID_ARC[2]));
        content.push(1);
        assert!(oid_is(&content, &ATTESTATION_RESULT_OID));
        assert!(!oid_is(&content, &ROLE_OID));
        assert!(!oid_is(
            &content[..content.len() - 1],
            &ATTESTATION_RESULT_OID
        ));
        assert_eq!(base128(0x7f), [0x7f]);
        assert_eq!(base128(0x80), [0x81, 0x00]);
    }
}
