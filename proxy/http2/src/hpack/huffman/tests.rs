use proptest::prelude::*;

use super::*;

/// Writes the code one symbol at a time; only tests need it.
pub(in crate::hpack) fn encode(text: &[u8]) -> Vec<u8> {
    let mut bits = Vec::new();
    for symbol in text {
        let (code, length) = code(*symbol);
        bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
    }
    bits.resize(bits.len().next_multiple_of(8), true);
    let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    bits.chunks(8).map(byte).collect()
}

fn code(symbol: u8) -> (u64, u8) {
    let nth = SORTED.iter().position(|other| *other == symbol).unwrap();
    let of = CODES.iter().rfind(|of| of.before <= nth).unwrap();
    let code = (of.start >> (64 - u32::from(of.length))) + (nth - of.before) as u64;
    (code, of.length)
}

fn decoded(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
    let mut out = vec![0; coded.len() * 8 / 5];
    decode(coded, &mut out).map(<[u8]>::to_vec)
}

#[test]
fn the_lengths_make_the_code_of_the_rfc() {
    for (symbol, expected) in [
        (0, (0x1ff8, 13)),
        (b'\n', (0x3fff_fffc, 30)),
        (b' ', (0x14, 6)),
        (b'!', (0x3f8, 10)),
        (b'0', (0, 5)),
        (b'Z', (0xfd, 8)),
        (b'\\', (0x7fff0, 19)),
        (b'a', (3, 5)),
        (b'~', (0x1ffd, 13)),
        (128, (0xfffe6, 20)),
        (249, (0xffffffe, 28)),
        (255, (0x3ff_ffee, 26)),
    ] {
        assert_eq!(code(symbol), expected, "{symbol}");
    }
    let filled: u64 = LENGTHS.iter().map(|length| 1 << (30 - length)).sum();
    assert_eq!(filled, (1 << 30) - 1, "the end of string has the last code");
}

#[test]
fn padding_is_at_most_seven_ones() {
    // `0` is 00000, `a` is 00011.
    assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
    assert_eq!(decoded(&[0b0000_0110]), Err(HpackError::Huffman));
    assert_eq!(decoded(&[0b0000_0011]), Err(HpackError::Huffman));
    assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(HpackError::Huffman));
    assert_eq!(decoded(&[0xff]), Err(HpackError::Huffman));
    assert_eq!(decoded(&[]), Ok(Vec::new()));
}

#[test]
fn the_end_of_string_is_no_symbol() {
    assert_eq!(decoded(&[0xff; 4]), Err(HpackError::Huffman));
    assert_eq!(decoded(&[0xff; 40]), Err(HpackError::Huffman));
    let mut after = encode(b"accept");
    after.extend([0xff, 0xff, 0xff, 0xfc, 0x00]);
    assert_eq!(decoded(&after), Err(HpackError::Huffman));
}

#[test]
fn each_symbol_stands_alone_and_among_others() {
    for symbol in 0..=255 {
        for text in [
            vec![symbol],
            vec![symbol; 3],
            vec![b'a', symbol, b'0', b'~'],
        ] {
            assert_eq!(decoded(&encode(&text)), Ok(text));
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(decoded(&encode(&text)), Ok(text));
    }

    #[test]
    fn what_decodes_has_one_code(coded in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(text) = decoded(&coded) {
            prop_assert_eq!(encode(&text), coded);
        }
    }
}
