//! Bounded reading of what a TPM writes: big-endian, length-prefixed (TPM 2.0 Part 2).

/// Bytes that are not what a TPM writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseError {
    /// The bytes end inside a field.
    #[error("`{0}` is cut short")]
    Truncated(&'static str),
    /// Bytes follow the structure.
    #[error("{0} bytes follow the structure")]
    Trailing(usize),
    /// A field has a value that its structure does not allow, or that we refuse on purpose (SHA-1, odd curves).
    #[error("`{0}` has an unsupported value")]
    Unsupported(&'static str),
    /// A list or buffer is larger than we read.
    #[error("`{0}` is larger than the bound")]
    TooLarge(&'static str),
}

/// A cursor over bytes that can only move forward and never panics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn bytes(
        &mut self,
        length: usize,
        field: &'static str,
    ) -> Result<&'a [u8], ParseError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ParseError::Truncated(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ParseError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(ParseError::Truncated(field))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, ParseError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, ParseError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, ParseError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, ParseError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Little-endian, as event logs are written.
    pub(crate) fn u16_le(&mut self, field: &'static str) -> Result<u16, ParseError> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// Little-endian, as event logs are written.
    pub(crate) fn u32_le(&mut self, field: &'static str) -> Result<u32, ParseError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// Little-endian, as event logs are written.
    pub(crate) fn u64_le(&mut self, field: &'static str) -> Result<u64, ParseError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A `TPM2B`: 16-bit size, then that many bytes, at most `max`.
    pub(crate) fn sized(
        &mut self,
        max: usize,
        field: &'static str,
    ) -> Result<&'a [u8], ParseError> {
        let size = usize::from(self.u16(field)?);
        if size > max {
            return Err(ParseError::TooLarge(field));
        }
        self.bytes(size, field)
    }

    pub(crate) fn finish(self) -> Result<(), ParseError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(ParseError::Trailing(left)),
        }
    }
}

/// Appends a `TPM2B`. Everything that we write is far below 64 KiB; longer input is a defect and yields no valid form.
pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(bytes);
}
