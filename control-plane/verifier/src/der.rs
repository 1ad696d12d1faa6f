//! The few elements of DER that are not certificates, read strictly and written: OCSP, and what DICE says in them.
//!
//! Lengths are definite and in their shortest form, tags have one byte, and nothing may be left over: what is not signed
//! can then be written in one way only.
//!
//! Source: ITU-T X.690 §8.1, §10.1.

/// The bytes are not the DER that is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is missing, cut short or not in DER")]
pub struct DerError(pub(crate) &'static str);

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

/// An element: its content, and all its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next element, which must have this tag.
    pub(crate) fn element(&mut self, tag: u8, name: &'static str) -> Result<Element<'a>, DerError> {
        self.optional(tag, name)?.ok_or(DerError(name))
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn content(&mut self, tag: u8, name: &'static str) -> Result<&'a [u8], DerError> {
        self.element(tag, name).map(|element| element.content)
    }

    /// What is inside the next element, which must have this tag.
    pub(crate) fn inside(&mut self, tag: u8, name: &'static str) -> Result<Self, DerError> {
        self.content(tag, name).map(Self)
    }

    /// The next element if it has this tag.
    pub(crate) fn optional(
        &mut self,
        tag: u8,
        name: &'static str,
    ) -> Result<Option<Element<'a>>, DerError> {
        if self.tag() != Some(tag) {
            return Ok(None);
        }
        let (length, header) = length(self.0).ok_or(DerError(name))?;
        let total = header.checked_add(length).ok_or(DerError(name))?;
        let (whole, rest) = self.0.split_at_checked(total).ok_or(DerError(name))?;
        let content = whole.get(header..).unwrap_or_default();
        self.0 = rest;
        Ok(Some(Element { content, whole }))
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self, name: &'static str) -> Result<(u8, &'a [u8]), DerError> {
        let tag = self.tag().ok_or(DerError(name))?;
        self.content(tag, name).map(|content| (tag, content))
    }

    /// The tag of the next element.
    pub(crate) fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Nothing may follow.
    pub(crate) fn end(self, name: &'static str) -> Result<(), DerError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DerError(name))
        }
    }
}

/// Length of the content, and of tag and length before it. Three bytes of length are more than is read.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes {
        [_, short @ ..=0x7f, ..] => Some((usize::from(*short), 2)),
        [_, 0x81, a @ 0x80..=0xff, ..] => Some((usize::from(*a), 3)),
        [_, 0x82, a @ 1..=0xff, b, ..] => Some((usize::from(u16::from_be_bytes([*a, *b])), 4)),
        _ => None,
    }
}

/// Writes an element.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let head = match (high, low) {
        (0, low @ ..=0x7f) => vec![tag, low],
        (0, low) => vec![tag, 0x81, low],
        (high, low) => vec![tag, 0x82, high, low],
    };
    [head.as_slice(), content].concat()
}

/// Seconds of Unix time of a `GeneralizedTime`, which in DER is `YYYYMMDDHHMMSSZ`.
pub(crate) fn generalized_time(content: &[u8]) -> Option<i64> {
    let digits = content.strip_suffix(b"Z").filter(|rest| rest.len() == 14)?;
    let mut pairs = digits.chunks_exact(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok()?;
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|_| is_number)
    });
    let mut next = || pairs.next().flatten();
    let (century, year, month, day) = (next()?, next()?, next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    let year = century * 100 + year;
    let is_date = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(((days_until(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01, by counting years from March, so that the leap day is the last one.
fn days_until(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    days + (month * 153 + 2) / 5 + day - 1 - DAYS_TO_1970
}

/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
/// 2.16.840.1.101.3.4.2.2.
pub(crate) const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_form() {
        for (bytes, expected) in [
            (&[0x04, 1, 9][..], Some(1)),
            (&[0x04, 0x81, 1, 9], None),
            (&[0x04, 0x80, 9], None),
            (&[0x04, 0x82, 0, 1, 9], None),
            (&[0x04, 0x83, 0, 0, 1, 9], None),
            (&[0x04, 2, 9], None),
            (&[0x04], None),
            (&[], None),
        ] {
            let found = Reader(bytes).content(4, "x").ok().map(<[u8]>::len);
            assert_eq!(found, expected, "{bytes:x?}");
        }
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff] {
            let written = element(4, &vec![7; length]);
            let mut reader = Reader(&written);
            assert_eq!(reader.content(4, "x").unwrap().len(), length);
            assert!(reader.end("x").is_ok());
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, expected) in [
            ("19700101000000Z", Some(0)),
            ("20250821064708Z", Some(1_755_758_828)),
            ("20240229235959Z", Some(1_709_251_199)),
            ("20000301000000Z", Some(951_868_800)),
            ("20250229000000Z", None),
            ("21000229000000Z", None),
            ("20251301000000Z", None),
            ("20250001000000Z", None),
            ("20250821240000Z", None),
            ("20250821064760Z", None),
            ("2025082106470 Z", None),
            ("+0250821064708Z", None),
            ("20250821064708", None),
            ("20250821064708+0000", None),
            ("20250821064708.5Z", None),
        ] {
            assert_eq!(generalized_time(text.as_bytes()), expected, "{text}");
        }
    }
}
