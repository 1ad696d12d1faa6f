use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::body::{BodyDecoder, BodyError, Decoded, Framing};
use super::fields::is_reserved;
use super::head::{HeadError, RequestHead, ResponseHead, split_query};
use crate::http::head::Added;

const LIMIT: usize = 64 * 1024;

fn parse(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    RequestHead::parse(&mut BytesMut::from(bytes), &mut 0, LIMIT)
}

fn parse_response(bytes: &[u8], to_head: bool) -> Result<Option<ResponseHead>, HeadError> {
    ResponseHead::parse(&mut BytesMut::from(bytes), &mut 0, LIMIT, to_head)
}

#[track_caller]
fn accepted(text: &str) -> RequestHead {
    parse(text.as_bytes())
        .unwrap_or_else(|error| panic!("{text:?}: {error}"))
        .unwrap_or_else(|| panic!("{text:?}: incomplete"))
}

#[track_caller]
fn refused(text: &str, error: HeadError) {
    match parse(text.as_bytes()) {
        Err(found) => assert_eq!(found, error, "{text:?}"),
        Ok(head) => panic!("{text:?}: taken as {head:?}"),
    }
}

/// A request with these lines after its request line and host.
fn with(lines: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

#[test]
fn an_ordinary_request_is_read() {
    let head = accepted("GET /a?b=c HTTP/1.1\r\nhost: app:80\r\nAccept:  x \r\n\r\nrest");
    assert_eq!(head.method, "GET");
    assert_eq!(head.target.as_str(), "/a?b=c");
    assert_eq!(head.slice(&head.host), b"app:80");
    assert_eq!(head.framing, Framing::None);
    assert!(head.keep_alive);
    assert_eq!(head.slice(&head.fields[1].value), b"x");
}

#[test]
fn two_readings_of_the_length_are_refused() {
    use HeadError::{ContentLength, FramingTwin, TransferEncoding, TwoFramings};
    for (lines, error) in [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            TwoFramings,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            TwoFramings,
        ),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", ContentLength),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", ContentLength),
        ("Content-Length: 5, 5\r\n", ContentLength),
        ("Content-Length: +5\r\n", ContentLength),
        ("Content-Length: -5\r\n", ContentLength),
        ("Content-Length: 0x5\r\n", ContentLength),
        ("Content-Length: 5 5\r\n", ContentLength),
        ("Content-Length: \r\n", ContentLength),
        ("Content-Length: 99999999999999999999\r\n", ContentLength),
        ("Transfer-Encoding: xchunked\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked, identity\r\n", TransferEncoding),
        ("Transfer-Encoding: identity, chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: gzip\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked;x=1\r\n", TransferEncoding),
        ("Transfer-Encoding:\r\n", TransferEncoding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            TransferEncoding,
        ),
        ("Content_Length: 5\r\n", FramingTwin),
        ("Transfer_Encoding: chunked\r\n", FramingTwin),
    ] {
        refused(&with(lines), error);
    }
    refused(
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        TransferEncoding,
    );
}

#[test]
fn bytes_that_parsers_read_differently_are_refused() {
    use HeadError::{BareLf, Syntax};
    for (text, error) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", Syntax),
        ("GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n", Syntax),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Syntax),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
            Syntax,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0Y: b\r\n\r\n", Syntax),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", Syntax),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\u{1}c\r\n\r\n", Syntax),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", Syntax),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Syntax),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Syntax),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Syntax),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Syntax),
        ("GET /\r\nHost: a\r\n\r\n", Syntax),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
    ] {
        refused(text, error);
    }
}

#[test]
fn host_is_one_host_and_the_targets() {
    use HeadError::{AuthorityMismatch, Connect, Host, Target};
    for (text, error) in [
        ("GET / HTTP/1.1\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Host),
        (
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            AuthorityMismatch,
        ),
        (
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            AuthorityMismatch,
        ),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Connect),
        ("connect / HTTP/1.1\r\nHost: a\r\n\r\n", Connect),
    ] {
        refused(text, error);
    }
    let head = accepted("GET HTTP://A:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n");
    assert_eq!(head.target.as_str(), "/x?y");
}

#[test]
fn connection_can_not_take_away_what_a_request_means() {
    for field in [
        "Host",
        "content-length",
        "Authorization",
        "Cookie",
        "Transfer-Encoding",
    ] {
        refused(
            &with(&format!("Connection: close, {field}\r\n")),
            HeadError::Connection,
        );
    }
    let many = (0..17)
        .map(|n| format!("x{n}"))
        .collect::<Vec<_>>()
        .join(",");
    refused(
        &with(&format!("Connection: {many}\r\n")),
        HeadError::Connection,
    );
    assert_eq!(
        accepted(&with("Connection: TE, x-one\r\n")).nominated.len(),
        2
    );
}

#[test]
fn heads_have_bounds() {
    let long = |length: usize| format!("/{}", "a".repeat(length));
    refused(
        &format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", long(20_000)),
        HeadError::TargetTooLong,
    );
    refused(
        &with(&format!("X: {}\r\n", "a".repeat(LIMIT))),
        HeadError::TooLarge,
    );
    refused(&with(&"X: a\r\n".repeat(200)), HeadError::TooManyFields);
    // Endless heads are refused before their end.
    refused(&format!("GET {}", long(LIMIT)), HeadError::TooLarge);
    refused(&with("Expect: 200-maybe\r\n"), HeadError::Expect);
}

#[test]
fn an_upgrade_to_another_http_is_not_one() {
    let upgrade = |lines: &str| {
        let head = accepted(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        head.upgrade
            .as_ref()
            .map(|span| String::from_utf8(head.slice(span).to_vec()).unwrap())
    };
    assert_eq!(
        upgrade("Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        Some("websocket".to_owned())
    );
    for lines in [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: H2C\r\n",
        "Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n",
        "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
    ] {
        assert_eq!(upgrade(lines), None, "{lines:?}");
    }
}

#[test]
fn every_spelling_of_a_reserved_name_is_known() {
    for name in [
        "x-forwarded-client-cert",
        "X-Forwarded-Client-Cert",
        "X_FORWARDED_CLIENT_CERT",
        "x.forwarded-client_cert",
        "vouchsafe-peer",
        "Vouchsafe_Peer",
        "vouchsafe.anything",
    ] {
        assert!(is_reserved(name.as_bytes()), "{name}");
    }
    for name in [
        "x-forwarded-client-certs",
        "x-forwarded-for",
        "vouchsafe",
        "host",
    ] {
        assert!(!is_reserved(name.as_bytes()), "{name}");
    }
}

#[test]
fn every_prefix_of_a_request_waits_for_more() {
    let text = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for end in 0..text.len() {
        assert!(matches!(parse(&text[..end]), Ok(None)), "{end}");
    }
    assert!(matches!(parse(text), Ok(Some(_))));
}

#[test]
fn a_request_that_comes_byte_by_byte_is_the_same() {
    let text = b"\r\n\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let (mut buf, mut scanned) = (BytesMut::new(), 0);
    let mut found = None;
    for byte in text {
        buf.extend_from_slice(&[*byte]);
        if found.is_none() {
            found = RequestHead::parse(&mut buf, &mut scanned, LIMIT).unwrap();
        }
    }
    assert_eq!(found.unwrap().framing, Framing::Length(3));
    assert_eq!(&buf[..], b"abc");
}

#[test]
fn responses_are_read_as_strictly() {
    let refused = |lines: &str, error: HeadError| {
        let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        assert_eq!(
            parse_response(text.as_bytes(), false).unwrap_err(),
            error,
            "{lines:?}"
        );
    };
    refused(
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        HeadError::TwoFramings,
    );
    refused(
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        HeadError::ContentLength,
    );
    refused(
        "Transfer-Encoding: gzip, chunked\r\n",
        HeadError::TransferEncoding,
    );
    refused("X: a\n", HeadError::BareLf);
    refused("X: a\r\n b\r\n", HeadError::Syntax);
    assert!(parse_response(b"HTTP/1.1 99 Low\r\n\r\n", false).is_err());
}

#[test]
fn the_length_of_a_response_follows_status_and_method() {
    let framing = |status: u16, lines: &str, to_head: bool| {
        let text = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
        let head = parse_response(text.as_bytes(), to_head).unwrap().unwrap();
        (head.framing, head.told_length, head.keep_alive)
    };
    assert_eq!(
        framing(200, "Content-Length: 5\r\n", false),
        (Framing::Length(5), Some(5), true)
    );
    assert_eq!(
        framing(200, "Content-Length: 5\r\n", true),
        (Framing::None, Some(5), true)
    );
    assert_eq!(
        framing(304, "Content-Length: 5\r\n", false),
        (Framing::None, Some(5), true)
    );
    assert_eq!(framing(204, "", false), (Framing::None, None, true));
    assert_eq!(framing(100, "", false), (Framing::None, None, true));
    assert_eq!(framing(200, "", false), (Framing::UntilClose, None, false));
    let chunked = "Connection: close\r\nTransfer-Encoding: chunked\r\n";
    assert!(!framing(200, chunked, false).2);
}

fn decode_all(framing: Framing, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, bool), BodyError> {
    let mut decoder = BodyDecoder::new(framing);
    let (mut buf, mut body) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::End(_) => return Ok((body, true)),
                Decoded::NeedMore => break,
            }
        }
    }
    Ok((body, false))
}

#[test]
fn chunks_are_read_in_any_pieces() {
    let bytes = b"5;ext=\"v\"\r\nhello\r\n00a\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\nnext";
    for piece in 1..bytes.len() {
        let (body, ended) = decode_all(Framing::Chunked, bytes, piece).unwrap();
        assert_eq!(
            (&body[..], ended),
            (&b"hello0123456789"[..], true),
            "{piece}"
        );
    }
}

#[test]
fn trailers_come_with_the_end_and_what_follows_stays() {
    let mut buf = BytesMut::from(&b"0\r\nx-t: 1\r\n\r\nnext"[..]);
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let Decoded::End(Some(trailers)) = decoder.decode(&mut buf).unwrap() else {
        panic!("no trailers");
    };
    assert_eq!(trailers["x-t"], "1");
    assert_eq!(&buf[..], b"next");
}

#[test]
fn chunks_that_parsers_read_differently_are_refused() {
    use BodyError::{BareLf, ChunkEnd, ChunkLine, ChunkSize, Trailers};
    for (bytes, error) in [
        (&b"5\nhello\r\n0\r\n\r\n"[..], BareLf),
        (b"5\r\nhello\n0\r\n\r\n", BareLf),
        (b"0\r\n\n", BareLf),
        (b"0x5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"+5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b" 5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"5 \r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"5;a\x00b\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"11111111111111111\r\n", ChunkSize),
        (b"5\r\nhelloworld\r\n0\r\n\r\n", ChunkLine),
        (b"0\r\nx y: 1\r\n\r\n", Trailers),
        (b"0\r\nx-a: 1\r\n x: 2\r\n\r\n", Trailers),
    ] {
        let found = decode_all(Framing::Chunked, bytes, 1024);
        // A chunk that is too long shows as a line that is too long, or as one that is not empty.
        let same = found == Err(error) || (error == ChunkLine && found == Err(ChunkEnd));
        assert!(same, "{:?}: {found:?}", String::from_utf8_lossy(bytes));
    }
    let endless = [b"5;".to_vec(), vec![b'a'; 10_000]].concat();
    assert_eq!(decode_all(Framing::Chunked, &endless, 64), Err(ChunkLine));
    let endless = [b"0\r\n".to_vec(), b"x: a\r\n".repeat(5_000)].concat();
    assert_eq!(
        decode_all(Framing::Chunked, &endless, 64),
        Err(BodyError::TrailersTooLarge)
    );
}

#[test]
fn an_empty_piece_does_not_end_a_chunked_body() {
    let mut wire = BytesMut::new();
    for piece in [&b""[..], b"one", b"", b"two"] {
        super::body::encode_chunk(&mut wire, piece);
    }
    super::body::encode_last_chunk(&mut wire, None);
    assert_eq!(&wire[..], b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
}

#[test]
fn a_body_that_breaks_off_is_not_complete() {
    for framing in [Framing::Length(5), Framing::Chunked] {
        let mut decoder = BodyDecoder::new(framing);
        assert_eq!(decoder.end_of_stream(), Err(BodyError::Truncated));
    }
    assert_eq!(
        BodyDecoder::new(Framing::UntilClose).end_of_stream(),
        Ok(())
    );
}

proptest! {
    #[test]
    fn a_body_survives_our_own_chunks(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8), piece in 1_usize..64) {
        let mut wire = BytesMut::new();
        for data in &pieces {
            super::body::encode_chunk(&mut wire, data);
        }
        super::body::encode_last_chunk(&mut wire, None);
        prop_assert_eq!(decode_all(Framing::Chunked, &wire, piece), Ok((pieces.concat(), true)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1_usize..64) {
        let _ = parse(&bytes);
        let _ = parse_response(&bytes, false);
        let _ = decode_all(Framing::Chunked, &bytes, piece);
    }

    #[test]
    fn arbitrary_heads_never_panic(lines in prop::collection::vec("[ -~\t]{0,40}", 0..10)) {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", lines.join("\r\n"));
        if let Ok(Some(head)) = parse(text.as_bytes()) {
            // What was accepted and written again is accepted again, and means the same.
            let head = crate::http::head::RequestHead::Http1(head);
            let mut out = BytesMut::new();
            head.encode_http1(&mut out, head.target(), Framing::None, &Added::default());
            let again = parse(&out).unwrap().unwrap();
            prop_assert_eq!(again.target.as_str(), "/");
        }
    }
}

#[test]
fn an_empty_body_needs_no_bytes() {
    let mut decoder = BodyDecoder::new(Framing::Length(0));
    assert_eq!(
        decoder.decode(&mut BytesMut::from(&b"x"[..])),
        Ok(Decoded::End(None))
    );
    let mut decoder = BodyDecoder::new(Framing::Length(2));
    let mut buf = BytesMut::from(&b"abc"[..]);
    assert_eq!(
        decoder.decode(&mut buf),
        Ok(Decoded::Data(Bytes::from_static(b"ab")))
    );
    assert!(decoder.is_done());
}

#[test]
fn a_query_begins_with_the_first_question_mark() {
    for (target, path, query) in [
        ("/", "/", None),
        ("/a?", "/a", Some("")),
        ("/a?b?c", "/a", Some("b?c")),
    ] {
        assert_eq!(split_query(target), (path, query));
    }
}
