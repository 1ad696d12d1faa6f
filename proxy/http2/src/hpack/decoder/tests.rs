use super::super::huffman;
use super::super::wire::{put_integer, put_text};
use super::*;

impl Decoder {
    /// As after both ends agreed on a size.
    pub(in crate::hpack) fn of_size(max_size: usize) -> Self {
        Self {
            max_size,
            limit: max_size,
            ..Self::default()
        }
    }
}

/// What a table counts and how many entries it has.
pub(in crate::hpack) fn sizes(decoder: &Decoder) -> (usize, usize) {
    let counted = decoder.entries.iter().map(|entry| entry.size).sum();
    assert_eq!(decoder.size, counted);
    assert!(decoder.size <= decoder.max_size);
    (decoder.size, decoder.entries.len())
}

/// Decodes a block; its fields as text.
pub(in crate::hpack) fn texts(
    decoder: &mut Decoder,
    block: &[u8],
    limit: usize,
) -> Result<(Decoded, Vec<String>), HpackError> {
    let mut found = Vec::new();
    let decoded = decoder.decode(block, limit, |field| found.push(text(&field)))?;
    Ok((decoded, found))
}

fn text(field: &Field) -> String {
    match field {
        Field::Method(method) => format!(":method: {method}"),
        Field::Scheme(scheme) => format!(":scheme: {scheme}"),
        Field::Authority(authority) => format!(":authority: {authority}"),
        Field::Path(path) => format!(":path: {path}"),
        Field::Status(status) => format!(":status: {}", status.as_str()),
        Field::Protocol(protocol) => format!(":protocol: {}", protocol.to_str().unwrap()),
        Field::Regular(name, value) => {
            let text = String::from_utf8_lossy(value.as_bytes());
            let mark = [" (sensitive)", ""][usize::from(!value.is_sensitive())];
            format!("{name}: {text}{mark}")
        }
    }
}

fn literal(lead: u8, name: &str, value: &[u8]) -> Vec<u8> {
    let mut block = vec![lead];
    put_text(&mut block, name.as_bytes());
    put_text(&mut block, value);
    block
}

const INDEXED: u8 = 0x40;
const PLAIN: u8 = 0x00;
const NEVER: u8 = 0x10;

/// A literal is what HTTP allows, or makes the message malformed; either way it enters the table.
#[track_caller]
fn check_field(name: &str, value: &[u8], allowed: bool) {
    let mut decoder = Decoder::default();
    let block = [
        literal(INDEXED, name, value),
        literal(INDEXED, "after", b"1"),
    ]
    .concat();
    let (decoded, found) = texts(&mut decoder, &block, usize::MAX).unwrap();
    let size = name.len() + value.len() + 32;
    assert_eq!(sizes(&decoder), (size + 38, 2));
    if allowed {
        let expected = format!("{name}: {}", String::from_utf8_lossy(value));
        assert_eq!(
            (decoded, found),
            (Decoded::Complete, vec![expected, "after: 1".to_owned()])
        );
        return;
    }
    assert_eq!((decoded, found), (Decoded::Malformed, vec![]));
    // What the table keeps of it stays forbidden, and what came after it is found.
    let (decoded, found) = texts(&mut decoder, &[0xbe, 0xbf, 0xbe], usize::MAX).unwrap();
    assert_eq!(
        (decoded, found),
        (Decoded::Malformed, vec!["after: 1".to_owned()])
    );
}

#[test]
fn names_are_tokens_in_lower_case() {
    check_field("x-request-id", b"1", true);
    check_field("x!#$%&'*+-.^_`|~9", b"1", true);
    for name in [
        "", "Accept", "x y", "x:y", "x\0", "x\r\n", "é", "x\x7f", "x(",
    ] {
        check_field(name, b"1", false);
    }
}

#[test]
fn names_of_a_connection_are_refused() {
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        check_field(name, b"1", false);
    }
    let indexed = texts(&mut Decoder::default(), &[0x80 | 57], usize::MAX);
    assert_eq!(indexed, Ok((Decoded::Malformed, vec![])));
    check_field("te", b"trailers", true);
    check_field("te", b"gzip", false);
    check_field("te", b"trailers, gzip", false);
}

#[test]
fn values_have_no_control_characters_and_no_white_space_around() {
    for value in [&b""[..], b"a b", b"a\tb", b"\xff\x80", b"\"quoted\""] {
        check_field("x-value", value, true);
    }
    for value in [
        &b"a\0b"[..],
        b"a\rb",
        b"a\nb",
        b"\x7f",
        b"\x1b[0m",
        b" a",
        b"a ",
        b"\ta",
        b"a\t",
        b" ",
    ] {
        check_field("x-value", value, false);
    }
}

#[test]
fn pseudo_header_fields_have_their_own_grammar() {
    for (name, value, allowed) in [
        (":method", "GET", true),
        (":method", "M-SEARCH", true),
        (":method", "G T", false),
        (":method", "", false),
        (":scheme", "https", true),
        (":scheme", "ht tp", false),
        (":scheme", "", false),
        (":scheme", "1http", false),
        (":authority", "models.example:8443", true),
        (":authority", "[::1]:80", true),
        (":authority", "", false),
        (":authority", "user@models.example", false),
        (":authority", "a b", false),
        (":authority", "models.example/path", false),
        (":path", "/v1/models?limit=1", true),
        (":path", "*", true),
        (":path", "", false),
        (":path", "v1", false),
        (":path", "http://models.example/", false),
        (":path", "/v1#top", false),
        (":path", "/a b", false),
        (":path", "/a\r\nb", false),
        (":status", "204", true),
        (":status", "99", false),
        (":status", "2000", false),
        (":status", "+20", false),
        (":protocol", "connect-udp", true),
        (":protocol", "", false),
        (":protocol", "a/b", false),
        (":unknown", "1", false),
        (":", "1", false),
    ] {
        check_field(name, value.as_bytes(), allowed);
    }
}

#[test]
fn an_indexed_authority_without_value_is_malformed() {
    let found = texts(&mut Decoder::default(), &[0x81], usize::MAX);
    assert_eq!(found, Ok((Decoded::Malformed, vec![])));
}

#[test]
fn a_name_of_a_refused_value_can_be_used_again() {
    let mut decoder = Decoder::default();
    let refused = literal(INDEXED, "x-value", b" padded");
    let (decoded, _) = texts(&mut decoder, &refused, usize::MAX).unwrap();
    assert_eq!(decoded, Decoded::Malformed);
    let mut again = vec![INDEXED | 62];
    put_text(&mut again, b"right");
    let found = texts(&mut decoder, &again, usize::MAX);
    assert_eq!(
        found,
        Ok((Decoded::Complete, vec!["x-value: right".to_owned()]))
    );
}

#[test]
fn what_came_never_indexed_is_sensitive_and_in_no_table() {
    let mut decoder = Decoder::default();
    let block = literal(NEVER, "x-api-key", b"secret");
    let (_, found) = texts(&mut decoder, &block, usize::MAX).unwrap();
    assert_eq!(found, ["x-api-key: secret (sensitive)"]);
    assert_eq!(sizes(&decoder), (0, 0));
    let block = literal(PLAIN, "x-api-key", b"secret");
    let (_, found) = texts(&mut decoder, &block, usize::MAX).unwrap();
    assert_eq!(found, ["x-api-key: secret"]);
    assert_eq!(sizes(&decoder), (0, 0));
}

#[test]
fn a_list_past_its_limit_stops_and_the_table_goes_on() {
    let block = [
        literal(PLAIN, "one", b"1"),
        literal(INDEXED, "two", b"2"),
        literal(PLAIN, "three", b"3"),
        vec![0xbe, 0x82],
        literal(INDEXED, "four", b"4"),
    ]
    .concat();
    let whole = 36 + 36 + 38 + 36 + 42 + 37;
    for limit in 0..=whole {
        let mut decoder = Decoder::default();
        let (decoded, found) = texts(&mut decoder, &block, limit).unwrap();
        let fits = [36, 72, 110, 146, 188, 225];
        let count = fits.iter().filter(|size| **size <= limit).count();
        assert_eq!(found.len(), count, "{limit}");
        assert_eq!(decoded == Decoded::Complete, limit == whole);
        assert_eq!(decoded == Decoded::TooLarge, limit < whole);
        assert_eq!(sizes(&decoder), (73, 2));
    }
}

#[test]
fn one_large_entry_named_often_costs_no_more_than_the_limit() {
    let mut decoder = Decoder::default();
    let mut block = literal(INDEXED, "x-bomb", &[b'a'; 4000]);
    block.extend([0xbe; 60_000]);
    let (decoded, found) = texts(&mut decoder, &block, 16 * 1024).unwrap();
    assert_eq!((decoded, found.len()), (Decoded::TooLarge, 4));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::default();
    let _ = texts(&mut decoder, &literal(INDEXED, "one", b"1"), 4096).unwrap();
    assert_eq!(sizes(&decoder), (36, 1));
    let large = literal(INDEXED, "x-large", &[b'a'; 5000]);
    let (decoded, found) = texts(&mut decoder, &large, usize::MAX).unwrap();
    assert_eq!((decoded, found.len()), (Decoded::Complete, 1));
    assert_eq!(sizes(&decoder), (0, 0));
}

#[test]
fn the_oldest_entries_leave_first_and_may_give_their_name() {
    let mut decoder = Decoder::of_size(100);
    for value in [b"1", b"2", b"3"] {
        let _ = texts(&mut decoder, &literal(INDEXED, "one", value), 4096).unwrap();
    }
    // Index 63 is pushed out by the entry that takes its name.
    let mut block = vec![INDEXED | 0x3f];
    block.clear();
    put_integer(&mut block, INDEXED, 0x3f, 63);
    put_text(&mut block, b"4");
    block.extend([0xbe, 0xbf]);
    let (_, found) = texts(&mut decoder, &block, 4096).unwrap();
    assert_eq!(found, ["one: 4", "one: 4", "one: 3"]);
    assert_eq!(sizes(&decoder), (72, 2));
}

#[track_caller]
fn check_error(block: &[u8], expected: HpackError) {
    let found = texts(&mut Decoder::default(), block, usize::MAX);
    assert_eq!(found, Err(expected));
}

#[test]
fn indices_in_no_table_are_errors() {
    check_error(&[0x80], HpackError::Index(0));
    check_error(&[0x80 | 62], HpackError::Index(62));
    check_error(
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0x0e],
        HpackError::Index(0xf000_007e),
    );
    check_error(&[0x7f, 0x00, 0x01, b'1'], HpackError::Index(63));
    check_error(&[0x0f, 0x2f, 0x01, b'1'], HpackError::Index(62));
    // Where nothing is handed on any more, too.
    let mut block = literal(PLAIN, "BAD", b"1");
    block.extend([0x0f, 0x2f, 0x01, b'1']);
    check_error(&block, HpackError::Index(62));
}

#[test]
fn integers_above_32_bits_are_errors() {
    check_error(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], HpackError::Integer);
    check_error(
        &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        HpackError::Integer,
    );
    check_error(
        &[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        HpackError::Integer,
    );
}

#[test]
fn strings_longer_than_the_block_are_errors() {
    check_error(&[0x00, 0x05, b'a'], HpackError::Truncated);
    check_error(
        &[0x00, 0x7f, 0x80, 0xff, 0xff, 0xff, 0x0e],
        HpackError::Truncated,
    );
    check_error(&[0x00, 0x01, b'a'], HpackError::Truncated);
    check_error(&[0x00], HpackError::Truncated);
    check_error(&[0xff], HpackError::Truncated);
}

#[test]
fn strings_in_no_code_are_errors() {
    check_error(&[0x00, 0x81, 0x00, 0x00], HpackError::Huffman);
    check_error(&[0x00, 0x01, b'a', 0x81, 0xff], HpackError::Huffman);
}

#[test]
fn long_strings_decode_as_short_ones() {
    for length in [100, 159, 160, 161, 255, 256, 257, 5000] {
        let value: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
        let coded = huffman::tests::encode(&value);
        let mut block = literal(PLAIN, "x-long", b"");
        block.pop();
        put_integer(&mut block, 0x80, 0x7f, coded.len());
        block.extend(&coded);
        let found = texts(&mut Decoder::default(), &block, usize::MAX).unwrap();
        let expected = format!("x-long: {}", String::from_utf8(value).unwrap());
        assert_eq!(found, (Decoded::Complete, vec![expected]));
    }
}

#[test]
fn the_tables_size_changes_only_first_and_within_the_limit() {
    let mut decoder = Decoder::default();
    let _ = texts(&mut decoder, &literal(INDEXED, "one", b"1"), 4096).unwrap();
    let size = |size| {
        let mut block = Vec::new();
        put_integer(&mut block, 0x20, 0x1f, size);
        block
    };
    let block = [size(0), size(4096), literal(INDEXED, "two", b"2")].concat();
    let _ = texts(&mut decoder, &block, 4096).unwrap();
    assert_eq!(sizes(&decoder), (36, 1));
    check_error(&size(4097), HpackError::TableSize(4097));
    check_error(&[&[0x82][..], &size(0)].concat(), HpackError::LateTableSize);
}

#[test]
fn a_smaller_table_must_be_taken_up() {
    let mut decoder = Decoder::default();
    let _ = texts(&mut decoder, &literal(INDEXED, "one", b"1"), 4096).unwrap();
    decoder.set_max_table(10);
    let refused = texts(&mut decoder, &[0x82], 4096);
    assert_eq!(refused, Err(HpackError::MissingTableSize));
    let too_large = texts(&mut decoder, &[0x2b, 0x82], 4096);
    assert_eq!(too_large, Err(HpackError::TableSize(11)));
    let taken = texts(&mut decoder, &[0x2a, 0x82], 4096);
    assert_eq!(
        taken,
        Ok((Decoded::Complete, vec![":method: GET".to_owned()]))
    );
    assert_eq!(sizes(&decoder), (0, 0));
    // A larger one need not be.
    decoder.set_max_table(8192);
    let (decoded, _) = texts(&mut decoder, &[0x82], 4096).unwrap();
    assert_eq!(decoded, Decoded::Complete);
    let (decoded, _) = texts(&mut decoder, &[0x3f, 0xe1, 0x3f], 4096).unwrap();
    assert_eq!((decoded, decoder.max_size), (Decoded::Complete, 8192));
}
