//! Fields of a leaf: each its name and its value, framed by length.

use std::fmt::Write as _;
use std::time::SystemTime;

use vouchsafe_attestation::revision::Revision;

use super::super::{ConvertError, frame, time, unix_ms};
use super::{LABEL, MALFORMED, MAX_TEXT_BYTES};

pub(super) fn revision_fields(revision: Revision) -> [(&'static str, Value<'static>); 2] {
    [
        ("policy_epoch", Value::Number(revision.epoch)),
        ("policy_sequence", Value::Number(revision.sequence)),
    ]
}

/// A leaf whose texts have at most so many bytes each.
pub(super) fn leaf<'f, 'a: 'f>(
    kind: &str,
    fields: impl Iterator<Item = &'f (&'static str, Value<'a>)>,
    most: usize,
) -> Vec<u8> {
    let mut out = LABEL.to_vec();
    frame(&mut out, kind.as_bytes());
    for (name, value) in fields {
        frame(&mut out, name.as_bytes());
        frame(&mut out, &value.encode(most));
    }
    out
}

pub(super) enum Value<'a> {
    Text(&'a str),
    Entry(&'a str),
    Bytes(&'a [u8]),
    Number(u64),
    Time(SystemTime),
}

impl Value<'_> {
    pub(super) fn is_entry(&self) -> bool {
        matches!(self, Self::Entry(_))
    }

    fn encode(&self, most: usize) -> Vec<u8> {
        match self {
            Self::Text(text) | Self::Entry(text) => cut(text, most).as_bytes().to_vec(),
            Self::Bytes(bytes) => bytes.to_vec(),
            Self::Number(number) => number.to_be_bytes().to_vec(),
            Self::Time(time) => unix_ms(*time).to_be_bytes().to_vec(),
        }
    }

    pub(super) fn json(&self) -> String {
        match self {
            Self::Text(text) | Self::Entry(text) => json_string(cut(text, MAX_TEXT_BYTES)),
            Self::Bytes(bytes) => {
                let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
                format!("\"{hex}\"")
            }
            Self::Number(number) => number.to_string(),
            Self::Time(time) => unix_ms(*time).to_string(),
        }
    }
}

/// A JSON string (RFC 8259 §7): quotes, backslashes and control characters escaped.
fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The longest prefix of whole characters within so many bytes.
fn cut(text: &str, most: usize) -> &str {
    let end = text.floor_char_boundary(most);
    text.get(..end).unwrap_or_default()
}

/// The unread rest of a leaf.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn framed(&mut self) -> Result<&'a [u8], ConvertError> {
        let (length, rest) = self.0.split_first_chunk::<8>().ok_or(MALFORMED)?;
        let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| MALFORMED)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(MALFORMED)?;
        self.0 = rest;
        Ok(value)
    }

    pub(super) fn value(&mut self, name: &'static str) -> Result<&'a [u8], ConvertError> {
        if self.framed()? != name.as_bytes() {
            return Err(MALFORMED);
        }
        self.framed()
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<String, ConvertError> {
        let value = self.value(name)?.to_vec();
        String::from_utf8(value).map_err(|_| MALFORMED)
    }

    pub(super) fn entries(&mut self, name: &'static str) -> Result<Vec<String>, ConvertError> {
        let mut entries = Vec::new();
        loop {
            if !self.is_next(name)? {
                return Ok(entries);
            }
            entries.push(self.text(name)?);
        }
    }

    pub(super) fn is_next(&self, name: &'static str) -> Result<bool, ConvertError> {
        Ok(Fields(self.0).framed()? == name.as_bytes())
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        name: &'static str,
    ) -> Result<[u8; N], ConvertError> {
        self.value(name)?.try_into().map_err(|_| MALFORMED)
    }

    pub(super) fn number(&mut self, name: &'static str) -> Result<u64, ConvertError> {
        Ok(u64::from_be_bytes(self.array(name)?))
    }

    pub(super) fn time(&mut self, name: &'static str) -> Result<SystemTime, ConvertError> {
        time(name, self.number(name)?)
    }

    pub(super) fn revision(&mut self) -> Result<Revision, ConvertError> {
        Ok(Revision {
            epoch: self.number("policy_epoch")?,
            sequence: self.number("policy_sequence")?,
        })
    }
}
