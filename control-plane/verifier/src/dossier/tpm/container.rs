//! The message in which go-tpm-tools keeps an attestation: protobuf, read strictly.
//!
//! # Why
//! A generated reader would skip what it does not know and take the last of two fields, so that two readers could see two
//! attestations in one file. Here each field stands once, in the form that writers give it, or the file is refused.
//!
//! Source: go-tpm-tools `proto/attest.proto` and `proto/tpm.proto`; protobuf encoding guide.

/// The message.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Attestation {
    pub(super) ak_public: Vec<u8>,
    pub(super) quotes: Vec<Quote>,
    pub(super) event_log: Vec<u8>,
    pub(super) certificates: Vec<Vec<u8>>,
    /// Whether evidence of the machine's processor stands beside, which is another kind's.
    pub(super) has_hardware: bool,
}

/// One quote over one bank.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Quote {
    pub(super) message: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// `TPM_ALG_ID`.
    pub(super) bank: u16,
    pub(super) pcrs: Vec<(u8, Vec<u8>)>,
}

/// Why bytes are no attestation.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ContainerError {
    /// Ends inside a field.
    #[error("`{0}` is cut short")]
    Truncated(&'static str),
    /// A field that the message does not have, of another form than it has, or a second one.
    #[error("field {0} of `{1}` is unknown, misplaced or there twice")]
    Field(u64, &'static str),
    /// More than an attestation has.
    #[error("more `{0}` than an attestation has")]
    TooMany(&'static str),
    /// A number is not written in its shortest form, or too large.
    #[error("a number of `{0}` is out of range")]
    Number(&'static str),
}

/// Whether the bytes begin as the message does: a key of a TPM in its first field.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let [0x0a, rest @ ..] = bytes else {
        return false;
    };
    let key = rest
        .iter()
        .position(|byte| byte & 0x80 == 0)
        .and_then(|last| rest.get(last + 1..));
    key.is_some_and(|key| key.starts_with(&[0, 0x01, 0]) || key.starts_with(&[0, 0x23, 0]))
}

impl Attestation {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ContainerError> {
        const NAME: &str = "Attestation";
        let mut found = Self::default();
        let mut seen = Vec::new();
        for field in Fields::new(bytes, NAME) {
            let (number, value) = field?;
            let repeats = matches!((number, &value), (2 | 7, _));
            if seen.contains(&number) && !repeats {
                return Err(ContainerError::Field(number, NAME));
            }
            seen.push(number);
            match (number, value) {
                (1, Value::Bytes(key)) => found.ak_public = key.to_vec(),
                (2, Value::Bytes(quote)) => found.quotes.push(Quote::parse(quote)?),
                (3, Value::Bytes(log)) => found.event_log = log.to_vec(),
                // Who the machine is by its own word, and the container runtime's log: nothing here proves them.
                (4 | 5, Value::Bytes(_)) => {}
                (6, Value::Bytes(leaf)) => found.certificates.insert(0, leaf.to_vec()),
                (7, Value::Bytes(issuer)) => found.certificates.push(issuer.to_vec()),
                (8 | 9, Value::Bytes(_)) => found.has_hardware = true,
                (number, _) => return Err(ContainerError::Field(number, NAME)),
            }
            if found.quotes.len() > MAX_QUOTES || found.certificates.len() > MAX_CERTIFICATES {
                return Err(ContainerError::TooMany("quotes or certificates"));
            }
        }
        Ok(found)
    }
}

impl Quote {
    fn parse(bytes: &[u8]) -> Result<Self, ContainerError> {
        const NAME: &str = "Quote";
        let mut found = Self::default();
        let mut next = 1;
        for field in Fields::new(bytes, NAME) {
            let (number, value) = field?;
            if number < next {
                return Err(ContainerError::Field(number, NAME));
            }
            next = number + 1;
            match (number, value) {
                (1, Value::Bytes(message)) => found.message = message.to_vec(),
                (2, Value::Bytes(signature)) => found.signature = signature.to_vec(),
                (3, Value::Bytes(pcrs)) => found.read_pcrs(pcrs)?,
                (number, _) => return Err(ContainerError::Field(number, NAME)),
            }
        }
        Ok(found)
    }

    fn read_pcrs(&mut self, bytes: &[u8]) -> Result<(), ContainerError> {
        const NAME: &str = "PCRs";
        for field in Fields::new(bytes, NAME) {
            match field? {
                (1, Value::Number(bank)) if self.bank == 0 && self.pcrs.is_empty() => {
                    self.bank = u16::try_from(bank).map_err(|_| ContainerError::Number(NAME))?;
                }
                (2, Value::Bytes(entry)) => self.pcrs.push(pcr(entry)?),
                (number, _) => return Err(ContainerError::Field(number, NAME)),
            }
            if self.pcrs.len() > MAX_PCRS {
                return Err(ContainerError::TooMany(NAME));
            }
        }
        Ok(())
    }
}

/// An entry of a map from numbers to bytes; a number of 0 may be left out.
fn pcr(bytes: &[u8]) -> Result<(u8, Vec<u8>), ContainerError> {
    const NAME: &str = "PCR";
    let (mut index, mut digest) = (None, None);
    for field in Fields::new(bytes, NAME) {
        match field? {
            (1, Value::Number(number)) if index.is_none() && digest.is_none() => {
                index = Some(u8::try_from(number).map_err(|_| ContainerError::Number(NAME))?);
            }
            (2, Value::Bytes(value)) if digest.is_none() => digest = Some(value.to_vec()),
            (number, _) => return Err(ContainerError::Field(number, NAME)),
        }
    }
    Ok((index.unwrap_or(0), digest.unwrap_or_default()))
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of a message in the order in which they stand.
struct Fields<'a> {
    rest: &'a [u8],
    name: &'static str,
}

impl<'a> Fields<'a> {
    fn new(rest: &'a [u8], name: &'static str) -> Self {
        Self { rest, name }
    }

    fn next_field(&mut self) -> Result<(u64, Value<'a>), ContainerError> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            2 => {
                let length = self.number()?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let (taken, rest) = self
                    .rest
                    .split_at_checked(length)
                    .ok_or(ContainerError::Truncated(self.name))?;
                self.rest = rest;
                Value::Bytes(taken)
            }
            _ => return Err(ContainerError::Field(key >> 3, self.name)),
        };
        Ok((key >> 3, value))
    }

    /// A varint in its shortest form, below 2^32.
    fn number(&mut self) -> Result<u64, ContainerError> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let (byte, rest) = self
                .rest
                .split_first()
                .ok_or(ContainerError::Truncated(self.name))?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let shortest = shift == 0 || *byte != 0;
                return if shortest && value <= u64::from(u32::MAX) {
                    Ok(value)
                } else {
                    Err(ContainerError::Number(self.name))
                };
            }
        }
        Err(ContainerError::Number(self.name))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), ContainerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// One per bank: SHA-1, SHA-256, SHA-384, and room.
const MAX_QUOTES: usize = 8;
const MAX_CERTIFICATES: usize = 8;
const MAX_PCRS: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    const GCE: &[u8] = include_bytes!("../../../testdata/tpm/gce-cos85-nonce9009.pb");

    #[test]
    fn a_machines_attestation_has_its_key_three_quotes_a_log_and_a_certificate() {
        assert!(begins(GCE));
        let found = Attestation::parse(GCE).unwrap();
        let banks: Vec<_> = found.quotes.iter().map(|quote| quote.bank).collect();
        assert_eq!(banks, [4, 0x0b, 0x0c]);
        assert!(found.quotes.iter().all(|quote| quote.pcrs.len() == 24));
        assert_eq!(
            (
                found.event_log.len(),
                found.certificates.len(),
                found.has_hardware
            ),
            (23_970, 1, false)
        );
    }

    #[test]
    fn every_field_stands_once_in_its_shortest_form() {
        let key = [&[0x0a, 2, 0, 1][..]; 2].concat();
        assert_eq!(
            Attestation::parse(&key),
            Err(ContainerError::Field(1, "Attestation"))
        );
        for (bytes, error) in [
            (&[0x52, 0][..], ContainerError::Field(10, "Attestation")),
            (&[0x0d, 0, 0, 0, 0], ContainerError::Field(1, "Attestation")),
            (&[0x08, 1], ContainerError::Field(1, "Attestation")),
            (&[0x0a, 0x81, 0, 7], ContainerError::Number("Attestation")),
            (&[0x0a, 2, 0], ContainerError::Truncated("Attestation")),
            (&[0x0a], ContainerError::Truncated("Attestation")),
            (
                &[0x12, 4, 0x12, 0, 0x0a, 0],
                ContainerError::Field(1, "Quote"),
            ),
            (
                &[0x12, 4, 0x1a, 2, 0x10, 1],
                ContainerError::Field(2, "PCRs"),
            ),
        ] {
            assert_eq!(Attestation::parse(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn an_attestation_that_is_cut_is_refused_or_lacks_its_later_fields() {
        let whole = Attestation::parse(GCE).unwrap();
        for end in 0..GCE.len() {
            if let Ok(cut) = Attestation::parse(&GCE[..end]) {
                assert!(whole.quotes.starts_with(&cut.quotes), "{end}");
                assert_ne!(whole, cut, "{end}");
            }
        }
    }
}
