//! What Intel says about a platform in its PCK certificate.
//!
//! Source: Intel SGX PCK Certificate and CRL Profile Specification rev. 1.5 §1.3.5.

use x509_parser::certificate::X509Certificate;

use crate::evidence::x509;

/// A platform, as certified.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Platform {
    /// Family, model, platform and SKU.
    pub fmspc: [u8; 6],
    /// The provisioning enclave.
    pub pce_id: [u8; 2],
    /// Names the machine.
    pub ppid: [u8; 16],
    /// Names the registration of a machine with several processors.
    pub instance_id: Option<[u8; 16]>,
    /// Security versions of its sixteen parts.
    pub components: [u8; 16],
    /// Security version of the provisioning enclave.
    pub pce_svn: u16,
    /// Whether processors may be added; platforms of several processors say it.
    pub is_dynamic: Option<bool>,
    /// Whether keys are kept by Intel's registration service.
    pub has_cached_keys: Option<bool>,
    /// Whether simultaneous multithreading is on.
    pub has_smt: Option<bool>,
}

impl Platform {
    /// Reads the extension; `None` unless all parts are there, each once.
    pub(crate) fn read(certificate: &X509Certificate<'_>) -> Option<Self> {
        let fields = fields(sequence(x509::extension(certificate, OID)?)?)?;
        let tcb = self::fields(body(unique(&fields, 2)?, SEQUENCE)?)?;
        let mut components = [0; 16];
        for (number, component) in (1..).zip(components.iter_mut()) {
            *component = u8::try_from(integer(unique(&tcb, number)?)?).ok()?;
        }
        let configuration = match unique(&fields, 7) {
            Some(value) => self::fields(sequence(value)?)?,
            None => Vec::new(),
        };
        Some(Self {
            is_dynamic: flag(&configuration, 1)?,
            has_cached_keys: flag(&configuration, 2)?,
            has_smt: flag(&configuration, 3)?,
            ppid: octets(unique(&fields, 1)?)?,
            pce_id: octets(unique(&fields, 3)?)?,
            fmspc: octets(unique(&fields, 4)?)?,
            instance_id: match unique(&fields, 6) {
                Some(value) => Some(octets(value)?),
                None => None,
            },
            components,
            pce_svn: integer(unique(&tcb, 17)?)?,
        })
    }
}

/// Number within its arc, and the whole value.
type Field<'a> = (u8, &'a [u8]);

/// A list of `SEQUENCE { OBJECT IDENTIFIER, value }` whose identifiers end in a number of one byte.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (pair, rest) = element(bytes, SEQUENCE)?;
        let (oid, value) = element(pair, OBJECT_IDENTIFIER)?;
        found.push((*oid.last()?, value));
        bytes = rest;
    }
    Some(found)
}

fn unique<'a>(fields: &[Field<'a>], number: u8) -> Option<&'a [u8]> {
    let mut found = fields.iter().filter(|(held, _)| *held == number);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}

fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    body(bytes, SEQUENCE)
}

fn octets<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    body(value, OCTET_STRING)?.try_into().ok()
}

/// An optional `BOOLEAN`; the outer `None` is a malformed one.
fn flag(fields: &[Field<'_>], number: u8) -> Option<Option<bool>> {
    match unique(fields, number) {
        None => Some(None),
        Some([BOOLEAN, 1, 0]) => Some(Some(false)),
        Some([BOOLEAN, 1, 0xff]) => Some(Some(true)),
        Some(_) => None,
    }
}

/// `INTEGER` from 0 to 65535.
fn integer(value: &[u8]) -> Option<u16> {
    match body(value, INTEGER)? {
        [low @ 0..=0x7f] => Some((*low).into()),
        [high @ 0..=0x7f, low] => Some(u16::from_be_bytes([*high, *low])),
        [0, high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// The content of exactly one element.
fn body(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    match element(bytes, tag)? {
        (content, []) => Some(content),
        _ => None,
    }
}

/// The content of the first element, and what follows.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [found, ..] if *found != tag => return None,
        [_, length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [_, 0x81, length, rest @ ..] => (usize::from(*length), rest),
        [_, 0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

const OID: &str = "1.2.840.113741.1.13.1";
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
