//! The Huffman code of RFC 7541 Appendix B.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and longer codes follow
//! shorter ones. So the lengths alone say everything, and all tables are made from them by the compiler. Codes of up to
//! ten bits, which all letters, digits and most marks have, take one look-up; the others are found by their length.

use super::HpackError;

/// Decodes all of `coded` into the start of `out`, which must have room for 8/5 of its length.
pub(super) fn decode<'a>(mut coded: &[u8], out: &'a mut [u8]) -> Result<&'a [u8], HpackError> {
    // The next bits, at the upper end; zeros below them.
    let (mut window, mut bits) = (0_u64, 0_u32);
    let mut written = 0;
    loop {
        if bits < LONGEST {
            (window, bits) = refill(&mut coded, window, bits);
        }
        let fast = usize::try_from(window >> (64 - FAST_BITS)).map_err(|_| HpackError::Huffman)?;
        let [symbol, length] = match FAST.get(fast) {
            Some([_, 0]) | None => by_length(window)?,
            Some(found) => *found,
        };
        let Some(left) = bits.checked_sub(length.into()) else {
            break;
        };
        *out.get_mut(written).ok_or(HpackError::Huffman)? = symbol;
        written += 1;
        window <<= length;
        bits = left;
    }
    // What is left is padding: fewer than eight bits, all ones (§5.2).
    if bits < 8 && window == !(u64::MAX >> bits) {
        out.get(..written).ok_or(HpackError::Huffman)
    } else {
        Err(HpackError::Huffman)
    }
}

fn refill(coded: &mut &[u8], mut window: u64, mut bits: u32) -> (u64, u32) {
    if let Some((four, rest)) = coded.split_first_chunk() {
        *coded = rest;
        return (
            window | u64::from(u32::from_be_bytes(*four)) << (32 - bits),
            bits + 32,
        );
    }
    while let Some((one, rest)) = coded.split_first()
        && bits <= 56
    {
        *coded = rest;
        window |= u64::from(*one) << (56 - bits);
        bits += 8;
    }
    (window, bits)
}

/// Finds a code that is longer than the fast table's, or what padding with ones begins like.
#[cold]
fn by_length(window: u64) -> Result<[u8; 2], HpackError> {
    let found = CODES.iter().find(|of| window < of.end);
    let of = found.ok_or(HpackError::Huffman)?;
    let nth = usize::try_from((window - of.start) >> (64 - u32::from(of.length)));
    let nth = nth.map_err(|_| HpackError::Huffman)? + of.before;
    match SORTED.get(nth) {
        Some(symbol) => Ok([*symbol, of.length]),
        None => Err(HpackError::Huffman),
    }
}

/// All codes of one length.
#[derive(Clone, Copy, Debug)]
struct Codes {
    length: u8,
    /// The first code, and what follows the last, at the upper end of 64 bits.
    start: u64,
    end: u64,
    /// How many symbols have shorter codes.
    before: usize,
}

const LONGEST: u32 = 30;
const FAST_BITS: u32 = 10;

/// Symbol and length of the code that ten bits begin with; length 0 if it is longer.
static FAST: [[u8; 2]; 1 << FAST_BITS] = fast();
static CODES: [Codes; LONGEST as usize] = codes();
/// All symbols, those with shorter codes first.
static SORTED: [u8; 256] = sorted();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "runs in the compiler"
)]
const fn sorted() -> [u8; 256] {
    let mut sorted = [0; 256];
    let (mut at, mut length) = (0, 1);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as u32 == length {
                sorted[at] = symbol as u8;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    sorted
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "runs in the compiler"
)]
const fn codes() -> [Codes; LONGEST as usize] {
    let none = Codes {
        length: 0,
        start: 0,
        end: 0,
        before: 0,
    };
    let mut codes = [none; LONGEST as usize];
    let (mut length, mut start, mut before) = (1, 0_u64, 0);
    while length <= LONGEST {
        let (mut symbol, mut count) = (0, 0);
        while symbol < 256 {
            if LENGTHS[symbol] as u32 == length {
                count += 1;
            }
            symbol += 1;
        }
        let end = start + ((count as u64) << (64 - length));
        codes[length as usize - 1] = Codes {
            length: length as u8,
            start,
            end,
            before,
        };
        start = end;
        before += count;
        length += 1;
    }
    codes
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "runs in the compiler"
)]
const fn fast() -> [[u8; 2]; 1 << FAST_BITS] {
    let (sorted, codes) = (sorted(), codes());
    let mut fast = [[0; 2]; 1 << FAST_BITS];
    let (mut bits, mut length) = (0, 0);
    while bits < fast.len() {
        let window = (bits as u64) << (64 - FAST_BITS);
        while length < LONGEST as usize && window >= codes[length].end {
            length += 1;
        }
        if length < FAST_BITS as usize {
            let of = codes[length];
            let nth = (window - of.start) >> (64 - of.length as u32);
            fast[bits] = [sorted[of.before + nth as usize], of.length];
        }
        bits += 1;
    }
    fast
}

/// Bits of each symbol's code.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

#[cfg(test)]
pub(super) mod tests;
