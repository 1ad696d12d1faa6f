//! What makes a request malformed, and a body not as long as was told (RFC 9113 §8).

use super::frames::*;
use super::raw::*;

/// What a request with these fields, and then a body, is: malformed and alone in that, or served.
#[track_caller]
fn check_fields(fields: &[(&str, &str)], served: bool) {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        peer.send(frame(HEADERS, HEAD, 1, block(fields))).await;
        if served {
            peer.send(frame(DATA, END_STREAM, 1, "")).await;
            let seen = peer.until(|frame| frame.stream == 1 && frame.ends()).await;
            assert!(
                seen.iter().all(|frame| frame.kind != RST_STREAM),
                "{fields:?}"
            );
        } else {
            peer.resets(1, PROTOCOL_ERROR).await;
        }
        // Others are served.
        peer.send(get(3)).await;
        peer.until(|frame| frame.stream == 3 && frame.ends()).await;
    });
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&POST[..], more].concat()
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    let all = POST.iter().copied();
    all.filter(|(other, _)| *other != name).collect()
}

#[test]
fn a_request_has_its_pseudo_fields_once_and_first() {
    check_fields(&POST, true);
    for name in [":method", ":scheme", ":path"] {
        check_fields(&without(name), false);
    }
    check_fields(&without(":authority"), true);
    for field in POST {
        check_fields(&with(&[field]), false);
    }
    check_fields(&[&[("accept", "*/*")], &POST[..]].concat(), false);
    check_fields(
        &[&POST[..3], &[("accept", "*/*")], &POST[3..]].concat(),
        false,
    );
    check_fields(&with(&[(":status", "200")]), false);
    check_fields(&with(&[(":unknown", "1")]), false);
    check_fields(&with(&[(":protocol", "websocket")]), false);
}

#[test]
fn pseudo_fields_have_their_grammar() {
    for (name, value) in [
        (":method", "G T"),
        (":method", ""),
        (":scheme", ""),
        (":scheme", "h p"),
        (":path", ""),
        (":path", "v1"),
        (":path", "/a b"),
        (":path", "/a#b"),
        (":path", "http://llm.example/"),
        (":authority", "user@llm.example"),
        (":authority", "a b"),
        (":authority", "a/b"),
    ] {
        let mut fields = POST;
        for field in &mut fields {
            if field.0 == name {
                field.1 = value;
            }
        }
        check_fields(&fields, false);
    }
}

#[test]
fn a_connect_has_an_authority_and_nothing_else() {
    let connect = (":method", "CONNECT");
    check_fields(&[connect, (":authority", "llm.example:443")], true);
    check_fields(&[connect], false);
    check_fields(&[connect, (":authority", "a:1"), (":path", "/")], false);
    check_fields(
        &[connect, (":authority", "a:1"), (":scheme", "http")],
        false,
    );
}

#[test]
fn names_and_values_are_those_of_http() {
    for field in [
        ("Accept", "*/*"),
        ("a b", "1"),
        ("", "1"),
        ("a:b", "1"),
        ("x", "a\r\nb: c"),
        ("x", "a\0b"),
        ("x", " a"),
        ("x", "a "),
    ] {
        check_fields(&with(&[field]), false);
    }
    check_fields(&with(&[("x", ""), ("x", "a b"), ("x", "é")]), true);
}

#[test]
fn fields_of_a_connection_have_no_place() {
    for field in [
        ("connection", "close"),
        ("connection", "x"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
    ] {
        check_fields(&with(&[field]), false);
    }
    check_fields(&with(&[("te", "trailers")]), true);
}

#[test]
fn a_length_is_a_number_and_all_say_the_same() {
    for values in [&["1a"][..], &["-1"], &["+0"], &[""], &["0, 0"], &["0", "1"]] {
        let more: Vec<_> = values
            .iter()
            .map(|value| ("content-length", *value))
            .collect();
        check_fields(&with(&more), false);
    }
    check_fields(&with(&[("content-length", "0")]), true);
    check_fields(
        &with(&[("content-length", "0"), ("content-length", "0")]),
        true,
    );
}

/// A body of these pieces where the head told five bytes: malformed, or served.
#[track_caller]
fn check_body(pieces: &[(&str, u8)], served: bool) {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        let head = block(&with(&[("content-length", "5")]));
        peer.send(frame(HEADERS, HEAD, 1, head)).await;
        for (data, flags) in pieces {
            peer.send(frame(DATA, *flags, 1, data)).await;
        }
        let seen = peer.quiet().await;
        let reset = seen.iter().find(|frame| frame.kind == RST_STREAM);
        let code = reset.map(|frame| (frame.stream, frame.number(0)));
        assert_eq!(code, (!served).then_some((1, PROTOCOL_ERROR)), "{pieces:?}");
    });
}

#[test]
fn a_body_is_as_long_as_its_head_told() {
    check_body(&[("12345", END_STREAM)], true);
    check_body(&[("123", 0), ("", 0), ("45", 0), ("", END_STREAM)], true);
    check_body(&[("1234", END_STREAM)], false);
    check_body(&[("", END_STREAM)], false);
    check_body(&[("123456", END_STREAM)], false);
    check_body(&[("123456", 0)], false);
    check_body(&[("123", 0), ("456", 0)], false);
    // Padding does not count.
    check_body(&[("\x0312345\0\0\0", END_STREAM | PADDED)], true);
    check_body(&[("\x0112345\0", PADDED), ("", END_STREAM)], true);
    check_body(&[("\x021234\0\0", END_STREAM | PADDED)], false);
}

#[test]
fn a_head_alone_is_as_long_as_it_told() {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        let head = block(&with(&[("content-length", "5")]));
        peer.send(frame(HEADERS, WHOLE, 1, head)).await;
        peer.resets(1, PROTOCOL_ERROR).await;
    });
}

#[test]
fn trailers_end_a_message_and_have_no_pseudo_fields() {
    for (flags, fields, served) in [
        (WHOLE, &[("checksum", "1")][..], true),
        (WHOLE, &[], true),
        (HEAD, &[("checksum", "1")], false),
        (WHOLE, &[(":path", "/")], false),
        (WHOLE, &[(":status", "200")], false),
        (WHOLE, &[("connection", "close")], false),
        (WHOLE, &[("Upper", "1")], false),
    ] {
        run(async {
            let mut peer = serving(Serve::Echo).await;
            peer.send([post(1), frame(DATA, 0, 1, "body")].concat())
                .await;
            let seen = peer.until(|frame| frame.kind == DATA).await;
            assert_eq!(seen.last().unwrap().payload, b"body");
            peer.send(frame(HEADERS, flags, 1, block(fields))).await;
            if served {
                peer.until(|frame| frame.stream == 1 && frame.ends()).await;
            } else {
                peer.resets(1, PROTOCOL_ERROR).await;
            }
        });
    }
}

#[test]
fn trailers_do_not_stand_for_missing_bytes() {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        let head = block(&with(&[("content-length", "5")]));
        peer.send(frame(HEADERS, HEAD, 1, head)).await;
        peer.send(frame(DATA, 0, 1, "1234")).await;
        peer.until(|frame| frame.kind == DATA).await;
        peer.send(frame(HEADERS, WHOLE, 1, block(&[("a", "b")])))
            .await;
        peer.resets(1, PROTOCOL_ERROR).await;
    });
}
