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

#[cfg(test)]
mod tests {
    use super::*;

    /// `SEQUENCE { 1.2.<number>, value }`.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let pair = [&[OBJECT_IDENTIFIER, 2, 42, number], value].concat();
        let length = u8::try_from(pair.len()).unwrap();
        [&[SEQUENCE, length], pair.as_slice()].concat()
    }

    #[test]
    fn fields_are_whole_pairs_and_those_that_count_stand_once() {
        let (one, two) = (field(1, &[INTEGER, 1, 5]), field(2, &[BOOLEAN, 1, 0xff]));
        let both = [one.as_slice(), &two].concat();
        let found = fields(&both).unwrap();
        assert_eq!(unique(&found, 1), Some([INTEGER, 1, 5].as_slice()));
        assert_eq!(unique(&found, 3), None);
        assert_eq!(flag(&found, 2), Some(Some(true)));
        assert_eq!(flag(&found, 3), Some(None));
        assert_eq!(flag(&found, 1), None);
        let twice = [both.as_slice(), &one].concat();
        assert_eq!(unique(&fields(&twice).unwrap(), 1), None);
        for end in 1..both.len() {
            assert!(fields(&both[..end]).is_none() || end == one.len(), "{end}");
        }
        assert_eq!(fields(&[]), Some(Vec::new()));
        assert!(fields(&[SEQUENCE, 2, OBJECT_IDENTIFIER, 0]).is_none());
        assert!(fields(&[SEQUENCE, 3, INTEGER, 1, 5]).is_none());
        let no = field(2, &[BOOLEAN, 1, 1]);
        assert_eq!(flag(&fields(&no).unwrap(), 2), None);
        let off = field(2, &[BOOLEAN, 1, 0]);
        assert_eq!(flag(&fields(&off).unwrap(), 2), Some(Some(false)));
    }

    #[test]
    fn integers_have_their_shortest_positive_form_up_to_16_bits() {
        for (bytes, value) in [
            (&[INTEGER, 1, 0][..], Some(0)),
            (&[INTEGER, 1, 0x7f], Some(0x7f)),
            (&[INTEGER, 2, 0, 0x80], Some(0x80)),
            (&[INTEGER, 2, 0x7f, 0xff], Some(0x7fff)),
            (&[INTEGER, 3, 0, 0xff, 0xff], Some(0xffff)),
            (&[INTEGER, 1, 0x80], None),
            (&[INTEGER, 2, 0x80, 0], None),
            (&[INTEGER, 3, 1, 0, 0], None),
            (&[INTEGER, 0], None),
            (&[INTEGER, 1, 5, 0], None),
            (&[OCTET_STRING, 1, 5], None),
            (&[INTEGER], None),
            (&[], None),
        ] {
            assert_eq!(integer(bytes), value, "{bytes:?}");
        }
    }

    #[test]
    fn lengths_are_read_in_their_forms_of_up_to_two_bytes() {
        let octets_of = |head: &[u8], length: usize| [head, &vec![7; length]].concat();
        let short = octets_of(&[OCTET_STRING, 16], 16);
        assert_eq!(octets::<16>(&short), Some([7; 16]));
        assert_eq!(octets::<15>(&short), None);
        let long = octets_of(&[OCTET_STRING, 0x81, 200], 200);
        assert_eq!(octets::<200>(&long), Some([7; 200]));
        let longer = octets_of(&[OCTET_STRING, 0x82, 1, 4], 260);
        assert_eq!(octets::<260>(&longer), Some([7; 260]));
        assert_eq!(octets::<260>(&longer[..263]), None);
        for none in [
            &[OCTET_STRING, 0x83, 0, 0, 1, 7][..],
            &[OCTET_STRING, 0x80, 7, 0, 0],
        ] {
            assert_eq!(octets::<1>(none), None, "{none:?}");
        }
    }
}
