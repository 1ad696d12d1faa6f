//! As much CBOR as the security module speaks: one request, and finding byte strings in what it answers.
//!
//! Lengths are definite, as the module writes them, and every length is checked against what is left. Nesting is bounded.
//!
//! Source: RFC 8949 §3.

/// Reads items from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

/// Why there is no such item: the bytes end too early, are of another type, or go too deep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed;

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.of_type(BYTES)?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.of_type(TEXT)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)
    }

    /// How many items follow.
    pub(super) fn array(&mut self) -> Result<u64, Malformed> {
        self.of_type(ARRAY)
    }

    /// How many pairs follow.
    pub(super) fn map(&mut self) -> Result<u64, Malformed> {
        self.of_type(MAP)
    }

    /// Passes a tag, if there is one.
    pub(super) fn skip_tag(&mut self) -> Result<(), Malformed> {
        let mut ahead = *self;
        if let (TAG, _) = ahead.head()? {
            *self = ahead;
        }
        Ok(())
    }

    /// Passes one item with all that is in it.
    pub(super) fn skip(&mut self) -> Result<(), Malformed> {
        self.skip_within(MAX_DEPTH)
    }

    fn skip_within(&mut self, depth: u8) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        let (kind, value) = self.head()?;
        let items = match kind {
            BYTES | TEXT => {
                self.take(value)?;
                0
            }
            ARRAY => value,
            MAP => value.checked_mul(2).ok_or(Malformed)?,
            TAG => 1,
            _ => 0,
        };
        // Each item takes at least a byte, so that a great count ends with the bytes.
        for _ in 0..items {
            self.skip_within(depth)?;
        }
        Ok(())
    }

    fn of_type(&mut self, wanted: u8) -> Result<u64, Malformed> {
        match self.head()? {
            (kind, value) if kind == wanted => Ok(value),
            _ => Err(Malformed),
        }
    }

    /// Major type and argument of the next item.
    fn head(&mut self) -> Result<(u8, u64), Malformed> {
        let [first] = self.chunk()?;
        let value = match first & 0x1f {
            value @ 0..=23 => value.into(),
            24 => u8::from_be_bytes(self.chunk()?).into(),
            25 => u16::from_be_bytes(self.chunk()?).into(),
            26 => u32::from_be_bytes(self.chunk()?).into(),
            27 => u64::from_be_bytes(self.chunk()?),
            _ => return Err(Malformed),
        };
        Ok((first >> 5, value))
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (chunk, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*chunk)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// `{"Attestation": {"nonce": nonce, "user_data": null, "public_key": null}}`.
pub(super) fn attestation_request(nonce: &[u8; 32]) -> Vec<u8> {
    let mut out = vec![0xa1];
    put_text(&mut out, "Attestation");
    out.push(0xa3);
    put_text(&mut out, "nonce");
    out.extend([0x58, 32]);
    out.extend_from_slice(nonce);
    put_text(&mut out, "user_data");
    out.push(NULL);
    put_text(&mut out, "public_key");
    out.push(NULL);
    out
}

/// Names of the module are shorter than 24 bytes, so that their length is in the first byte.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or(23).min(23);
    out.push(TEXT << 5 | length);
    out.extend_from_slice(text.as_bytes());
}

const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const NULL: u8 = 0xf6;
/// A document is four deep.
const MAX_DEPTH: u8 = 8;
