//! Looks at bytes eight at a time: heads and log lines are looked through with each request.

/// The same byte eight times.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Not 0 if one of eight bytes is below a bound, which is at most 0x80. The lowest bit then is the highest of the first
/// such byte; above it there may be bits that mean nothing.
pub(crate) const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(each(bound)) & !word & each(0x80)
}

/// As [`below`], for bytes that are this one.
pub(crate) const fn is(word: u64, byte: u8) -> u64 {
    below(word ^ each(byte), 1)
}

/// As [`below`], for bytes beyond ASCII.
pub(crate) const fn is_foreign(word: u64) -> u64 {
    word & each(0x80)
}

/// Whether one of the bytes is as looked for: by `word`, eight at a time, and by `byte`, where there are fewer.
pub(crate) fn any_of(bytes: &[u8], word: impl Fn(u64) -> bool, byte: impl Fn(u8) -> bool) -> bool {
    // What is left over is looked at with bytes that were looked at before.
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes.iter().any(|one| byte(*one));
    };
    let (words, _) = bytes.as_chunks::<8>();
    let mut words = words.iter().chain([last]);
    words.any(|one| word(u64::from_le_bytes(*one)))
}

/// The place of the first such byte.
pub(crate) fn position(bytes: &[u8], byte: u8) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let found = is(u64::from_le_bytes(*word), byte);
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|one| *one == byte)?;
    Some(words.len() * 8 + found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_byte_is_found_where_it_is_first(
            bytes in proptest::collection::vec(prop_oneof![3 => 8u8..13, 1 => any::<u8>()], 0..40),
        ) {
            let first = bytes.iter().position(|byte| *byte == b'\n');
            prop_assert_eq!(position(&bytes, b'\n'), first);
        }

        #[test]
        fn eight_at_a_time_show_what_one_at_a_time_shows(
            bytes in proptest::collection::vec(any::<u8>(), 0..20),
            bound in 0u8..=0x80,
            wanted: u8,
        ) {
            let check = |word: &dyn Fn(u64) -> u64, byte: &dyn Fn(u8) -> bool| {
                any_of(&bytes, |found| word(found) != 0, byte) == bytes.iter().any(|found| byte(*found))
            };
            prop_assert!(check(&|word| below(word, bound), &|byte| byte < bound));
            prop_assert!(check(&|word| is(word, wanted), &|byte| byte == wanted));
            prop_assert!(check(&is_foreign, &|byte| !byte.is_ascii()));
        }
    }
}
