//! Random changes to known inputs, the same on every machine: a short run of each fuzz target on a stable compiler.
//!
//! The tests that replay a corpus include this file by its path, since the crates below can't depend on the harness. It
//! does what libFuzzer does without looking at coverage, which is why it finds less, and needs no nightly.

/// Runs `count` changed inputs, each made of one input by a few changes, some with a piece of another.
///
/// # Panics
/// When there is no input to change; and when `run` does, having said which mutant it was.
pub fn mutate(inputs: &[Vec<u8>], count: u64, run: fn(&[u8])) {
    assert!(!inputs.is_empty(), "there is nothing to change");
    for number in 0..count {
        let mut random = Random(number);
        let mut mutant = random.pick(inputs).clone();
        for _ in 0..=random.below(4) {
            random.change(&mut mutant, inputs);
        }
        let teller = Teller(number);
        run(&mutant);
        std::mem::forget(teller);
    }
}

/// Says which mutant was run, if that panics.
struct Teller(u64);

impl Drop for Teller {
    fn drop(&mut self) {
        eprintln!("this was mutant {}", self.0);
    }
}

/// SplitMix64: every seed gives another sequence.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = self.below(from.len());
        &from[at]
    }

    /// A range of at most 64 bytes.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length);
        from..length.min(from + 1 + self.below(64))
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let length = bytes.len();
        let at = self.below(length);
        match self.below(9) {
            0 if length > 0 => bytes[at] ^= 1 << self.below(8),
            1 if length > 0 => bytes[at] = *self.pick(&NOTABLE),
            2 if length > 0 => bytes.truncate(at),
            3 if length > 0 => drop(bytes.drain(self.range(length))),
            4 if length > 0 => {
                let twice = bytes[self.range(length)].to_vec();
                bytes.splice(at..at, twice);
            }
            5 => {
                let value = *self.pick(&NOTABLE);
                bytes.splice(at..at, vec![value; 1 + self.below(40)]);
            }
            // A length or a count, of either byte order.
            6 if length >= 8 => {
                let size = *self.pick(&[2, 4, 8]);
                let from = self.below(length - size + 1);
                let mut number = self.next() >> self.below(64);
                if self.below(2) == 0 {
                    number = number.swap_bytes() >> (64 - 8 * size);
                }
                bytes[from..from + size].copy_from_slice(&number.to_le_bytes()[..size]);
            }
            7 if length > 0 => {
                let end = self.range(length).end;
                let other = self.pick(inputs);
                let piece = other.get(self.range(other.len())).unwrap_or_default();
                bytes.splice(at.min(end)..end, piece.iter().copied());
            }
            _ => bytes.push(*self.pick(&NOTABLE)),
        }
    }
}

/// Bytes at which formats change their mind: ends of ranges, and what opens, closes and quotes.
const NOTABLE: [u8; 20] = [
    0, 1, 0x7f, 0x80, 0x81, 0x82, 0x84, 0xfe, 0xff, 0x30, 0x02, 0x06, 0xa0, 0x9f, b'"', b'{', b'[',
    b'<', b'-', b'\n',
];
