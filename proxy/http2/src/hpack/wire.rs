//! Integers and strings (RFC 7541 §5).

use super::{HpackError, huffman};

/// Reads an integer whose first byte leaves it the bits of `mask` (§5.1).
pub(super) fn integer(block: &mut &[u8], mask: u8) -> Result<u32, HpackError> {
    let prefix = byte(block)? & mask;
    if prefix < mask {
        return Ok(prefix.into());
    }
    let mut value = u64::from(mask);
    // Five bytes of seven bits hold 32.
    for shift in [0, 7, 14, 21, 28] {
        let byte = byte(block)?;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).map_err(|_| HpackError::Integer);
        }
    }
    Err(HpackError::Integer)
}

fn byte(block: &mut &[u8]) -> Result<u8, HpackError> {
    let (first, rest) = block.split_first().ok_or(HpackError::Truncated)?;
    *block = rest;
    Ok(*first)
}

/// Appends an integer after the bits of `lead`.
pub(super) fn put_integer(out: &mut Vec<u8>, lead: u8, mask: u8, value: usize) {
    match u8::try_from(value) {
        Ok(small) if small < mask => out.push(lead | small),
        _ => put_long_integer(out, lead | mask, value - usize::from(mask)),
    }
}

fn put_long_integer(out: &mut Vec<u8>, first: u8, mut rest: usize) {
    out.push(first);
    while rest >= 0x80 {
        out.push(0x80 | low_bits(rest));
        rest >>= 7;
    }
    out.push(low_bits(rest));
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to what a byte holds"
)]
fn low_bits(value: usize) -> u8 {
    (value & 0x7f) as u8
}

/// A string as it stands in a block (§5.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    huffman: bool,
}

impl<'a> Text<'a> {
    pub(super) fn read(block: &mut &'a [u8]) -> Result<Self, HpackError> {
        let huffman = block.first().is_some_and(|first| first & 0x80 != 0);
        let length = integer(block, 0x7f)?;
        let length = usize::try_from(length).map_err(|_| HpackError::Truncated)?;
        let (bytes, rest) = block
            .split_at_checked(length)
            .ok_or(HpackError::Truncated)?;
        *block = rest;
        Ok(Self { bytes, huffman })
    }

    /// Gives the text to `then`.
    pub(super) fn with<R>(self, then: impl FnOnce(&[u8]) -> R) -> Result<R, HpackError> {
        if !self.huffman {
            return Ok(then(self.bytes));
        }
        // The shortest code has five bits.
        let most = self.bytes.len() * 8 / 5;
        let mut short = [0; SHORT];
        if let Some(out) = short.get_mut(..most) {
            return Ok(then(huffman::decode(self.bytes, out)?));
        }
        let mut long = vec![0; most];
        Ok(then(huffman::decode(self.bytes, &mut long)?))
    }
}

/// Appends a string as it is.
pub(super) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 0x7f, text.len());
    out.extend_from_slice(text);
}

/// Longest string that is decoded on the stack: all but tokens and cookies fit.
const SHORT: usize = 256;
