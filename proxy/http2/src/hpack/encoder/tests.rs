use http::HeaderValue;

use super::super::decoder::Decoder;
use super::super::decoder::tests::texts;
use super::*;

/// One field as trailers; what was appended.
fn put(encoder: &mut Encoder, name: &'static str, value: &str) -> Vec<u8> {
    let mut fields = HeaderMap::new();
    fields.append(name, HeaderValue::from_str(value).unwrap());
    let mut out = Vec::new();
    encoder.fields(&fields, &mut out);
    out
}

#[test]
fn what_repeats_becomes_one_byte() {
    let mut encoder = Encoder::default();
    let first = put(&mut encoder, "content-type", "application/grpc");
    assert_eq!(first[..3], [0x0f, 31 - 15, 16]);
    let second = put(&mut encoder, "content-type", "application/grpc");
    assert_eq!(second[..2], [0x40 | 31, 16]);
    for _ in 0..3 {
        assert_eq!(
            put(&mut encoder, "content-type", "application/grpc"),
            [0xbe]
        );
    }
}

#[test]
fn of_what_changes_the_name_alone_is_kept() {
    let mut encoder = Encoder::default();
    let lengths: Vec<_> = (1000..1010)
        .map(|id| put(&mut encoder, "x-request-id", &id.to_string()).len())
        .collect();
    assert_eq!(lengths, [19, 19, 7, 7, 7, 7, 7, 7, 7, 7]);
    assert_eq!(encoder.table.sizes().1, 1);
    // A name that the static table has costs no entry.
    for length in 1000..1010 {
        put(&mut encoder, "content-length", &length.to_string());
    }
    assert_eq!(encoder.table.sizes().1, 1);
}

#[test]
fn secrets_enter_no_table() {
    let mut encoder = Encoder::default();
    for name in [
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
    ] {
        for _ in 0..3 {
            let out = put(&mut encoder, name, "secret");
            assert_eq!(out[0] & 0xf0, 0x10, "{name}");
            assert!(out.ends_with(b"\x06secret"));
        }
    }
    let mut fields = HeaderMap::new();
    let mut key = HeaderValue::from_static("secret");
    key.set_sensitive(true);
    fields.append("x-api-key", key);
    for _ in 0..3 {
        let mut out = Vec::new();
        encoder.fields(&fields, &mut out);
        assert_eq!(out, *b"\x10\x09x-api-key\x06secret");
    }
    assert_eq!(encoder.table.sizes(), (0, 0));
}

#[test]
fn what_came_never_indexed_goes_on_never_indexed() {
    let block = b"\x10\x09x-api-key\x06secret";
    let mut fields = HeaderMap::new();
    let decoded = Decoder::default().decode(block, 4096, |field| {
        if let super::super::field::Field::Regular(name, value) = field {
            fields.append(name, value);
        }
    });
    assert!(decoded.is_ok());
    let mut out = Vec::new();
    Encoder::default().fields(&fields, &mut out);
    assert_eq!(out, block);
}

#[test]
fn a_path_repeats_and_a_query_does_not() {
    let mut encoder = Encoder::default();
    let mut request = |uri: &str| {
        let mut out = Vec::new();
        let uri: Uri = uri.parse().unwrap();
        encoder.request(&Method::POST, &uri, &HeaderMap::new(), &mut out);
        out
    };
    for _ in 0..2 {
        request("http://llm.example/llm.Inference/Generate");
    }
    let third = request("http://llm.example/llm.Inference/Generate");
    assert_eq!(third, [0x83, 0x86, 0xbf, 0xbe]);
    for _ in 0..3 {
        let query = request("http://llm.example/v1?token=secret");
        assert_eq!(query[2], 0x04);
        assert_eq!(query.last(), Some(&0xbe));
    }
}

#[test]
fn large_fields_push_nothing_out() {
    let mut encoder = Encoder::default();
    let large = "a".repeat(1000);
    for _ in 0..3 {
        put(&mut encoder, "x-large", &large);
    }
    assert_eq!(encoder.table.sizes(), (0, 0));
}

#[track_caller]
fn check_request(method: Method, uri: &str, expected: &[&str]) {
    let mut out = Vec::new();
    let uri: Uri = uri.parse().unwrap();
    Encoder::default().request(&method, &uri, &HeaderMap::new(), &mut out);
    let (_, found) = texts(&mut Decoder::default(), &out, 4096).unwrap();
    assert_eq!(found, expected);
}

#[test]
fn requests_name_their_target_as_their_method_wants() {
    check_request(
        Method::GET,
        "https://a.example",
        &[
            ":method: GET",
            ":scheme: https",
            ":path: /",
            ":authority: a.example",
        ],
    );
    check_request(
        Method::PUT,
        "ftp://a.example:1/b?c",
        &[
            ":method: PUT",
            ":scheme: ftp",
            ":path: /b?c",
            ":authority: a.example:1",
        ],
    );
    check_request(
        Method::OPTIONS,
        "*",
        &[":method: OPTIONS", ":scheme: http", ":path: *"],
    );
    check_request(
        Method::CONNECT,
        "a.example:443",
        &[":method: CONNECT", ":authority: a.example:443"],
    );
}

#[test]
fn each_status_is_written() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for _ in 0..3 {
        for status in 100..=999 {
            let mut out = Vec::new();
            let status = StatusCode::from_u16(status).unwrap();
            encoder.response(status, &HeaderMap::new(), &mut out);
            let (_, found) = texts(&mut decoder, &out, 4096).unwrap();
            assert_eq!(found, [format!(":status: {}", status.as_str())]);
        }
    }
}

#[test]
fn changes_of_the_tables_size_stand_first() {
    let mut encoder = Encoder::default();
    let mut block = |sizes: &[u32]| {
        for size in sizes {
            encoder.set_peer_table_size(*size);
        }
        let mut out = Vec::new();
        encoder.response(StatusCode::OK, &HeaderMap::new(), &mut out);
        out
    };
    assert_eq!(block(&[4096]), [0x88]);
    assert_eq!(block(&[u32::MAX]), [0x88]);
    assert_eq!(block(&[10]), [0x2a, 0x88]);
    assert_eq!(block(&[]), [0x88]);
    assert_eq!(block(&[0, 20, 5]), [0x20, 0x25, 0x88]);
    assert_eq!(block(&[3, 5]), [0x23, 0x25, 0x88]);
    assert_eq!(block(&[1 << 30]), [0x3f, 0xe1, 0x1f, 0x88]);
}

#[test]
fn a_peer_without_a_table_gets_literals() {
    let mut encoder = Encoder::default();
    for _ in 0..3 {
        put(&mut encoder, "x-value", "1");
    }
    assert_eq!(encoder.table.sizes().1, 1);
    encoder.set_peer_table_size(0);
    assert_eq!(
        put(&mut encoder, "x-value", "1"),
        *b"\x20\0\x07x-value\x011"
    );
    assert_eq!(put(&mut encoder, "x-value", "1"), *b"\0\x07x-value\x011");
}

impl Encoder {
    /// What the table counts and how many entries it has.
    pub(in crate::hpack) fn sizes(&self) -> (usize, usize) {
        self.table.sizes()
    }
}
