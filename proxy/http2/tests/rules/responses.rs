//! What a server may answer to our client (RFC 9113 §8.1 and §8.3.2).

use std::future::poll_fn;
use std::task::Poll;

use super::client::{OK, sent};
use super::frames::*;
use super::raw::*;

/// A response that is malformed: its stream is reset, and others go on.
#[track_caller]
fn check_stream(method: &str, bytes: impl AsRef<[u8]>, code: u32, cause: &str) {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (response, _body) = send.send_request(request(method), true).unwrap();
        sent(&mut peer, 1).await;
        peer.send(bytes).await;
        peer.resets(1, code).await;
        let error = match response.await {
            Ok(response) => read_all(&mut response.into_body()).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.is_reset() && !error.is_remote());
        assert_eq!((error.reason(), error.cause()), (Some(code.into()), cause));
        let (response, _body) = send.send_request(request("GET"), true).unwrap();
        sent(&mut peer, 3).await;
        peer.send(frame(HEADERS, WHOLE, 3, block(&OK))).await;
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

fn ok_with(fields: &[(&str, &str)]) -> Vec<u8> {
    block(&[&OK, fields].concat())
}

#[test]
fn malformed_responses_reset_their_streams() {
    for head in [
        block(&[]),
        block(&[("server", "a")]),
        block(&[("server", "a"), OK[0]]),
        block(&[OK[0], OK[0]]),
        block(&[(":status", "101")]),
        block(&[(":status", "1000")]),
        block(&[(":status", "20")]),
        ok_with(&[(":path", "/")]),
        ok_with(&[("connection", "close")]),
        ok_with(&[("transfer-encoding", "chunked")]),
        ok_with(&[("Server", "a")]),
        ok_with(&[("server", "a\n")]),
        ok_with(&[("content-length", "x")]),
    ] {
        check_stream(
            "GET",
            frame(HEADERS, WHOLE, 1, head),
            PROTOCOL_ERROR,
            "malformed",
        );
    }
    let interim = frame(HEADERS, WHOLE, 1, block(&[(":status", "103")]));
    check_stream("GET", interim, PROTOCOL_ERROR, "malformed");
    check_stream("GET", frame(DATA, 0, 1, "a"), PROTOCOL_ERROR, "malformed");
    let head = frame(HEADERS, HEAD, 1, block(&OK));
    let trailers = frame(HEADERS, HEAD, 1, block(&[("a", "b")]));
    check_stream(
        "GET",
        [&head[..], &trailers].concat(),
        PROTOCOL_ERROR,
        "malformed",
    );
    let trailers = frame(HEADERS, WHOLE, 1, block(&OK));
    check_stream(
        "GET",
        [head, trailers].concat(),
        PROTOCOL_ERROR,
        "malformed",
    );
}

#[test]
fn a_response_is_as_long_as_its_head_told() {
    let head = |flags, length| frame(HEADERS, flags, 1, ok_with(&[("content-length", length)]));
    let data = |flags, data| frame(DATA, flags, 1, data);
    for bytes in [
        head(WHOLE, "5"),
        [head(HEAD, "5"), data(END_STREAM, "1234")].concat(),
        [head(HEAD, "5"), data(0, "123456")].concat(),
        [head(HEAD, "5"), frame(HEADERS, WHOLE, 1, block(&[]))].concat(),
    ] {
        check_stream("GET", bytes, PROTOCOL_ERROR, "content_length");
    }
    // The answer to HEAD tells a length and has none.
    let bytes = [head(HEAD, "5"), data(0, "12345")].concat();
    check_stream("HEAD", bytes, PROTOCOL_ERROR, "content_length");
    run(async {
        let (mut send, mut peer) = connected().await;
        let not_modified = block(&[(":status", "304"), ("content-length", "5")]);
        for (stream, method, head) in [
            (1, "HEAD", ok_with(&[("content-length", "5")])),
            (3, "GET", not_modified),
        ] {
            let (response, _body) = send.send_request(request(method), true).unwrap();
            sent(&mut peer, stream).await;
            peer.send(frame(HEADERS, WHOLE, stream, head)).await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(read_all(&mut body).await.unwrap(), (Vec::new(), None));
        }
        let (response, _body) = send.send_request(request("GET"), true).unwrap();
        sent(&mut peer, 5).await;
        let head = ok_with(&[("content-length", "5")]);
        peer.send(
            [
                frame(HEADERS, HEAD, 5, head),
                frame(DATA, END_STREAM, 5, "12345"),
            ]
            .concat(),
        )
        .await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(read_all(&mut body).await.unwrap().0, b"12345");
    });
}

#[test]
fn what_follows_the_end_of_a_response_is_a_fault() {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (response, mut body) = send.send_request(request("POST"), false).unwrap();
        sent(&mut peer, 1).await;
        peer.send(frame(HEADERS, WHOLE, 1, block(&OK))).await;
        assert_eq!(response.await.unwrap().status(), 200);
        peer.send(frame(DATA, 0, 1, "more")).await;
        peer.resets(1, STREAM_CLOSED).await;
        let error = poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(error, STREAM_CLOSED.into());
    });
}

#[test]
fn a_response_gets_no_more_than_its_windows() {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (response, _body) = send.send_request(request("GET"), true).unwrap();
        sent(&mut peer, 1).await;
        peer.send(frame(HEADERS, HEAD, 1, block(&OK))).await;
        let response = response.await.unwrap();
        for _ in 0..4 {
            peer.send(frame(DATA, 0, 1, [0; 16_384])).await;
        }
        // Both windows end here; the connection's weighs more.
        peer.ends(FLOW_CONTROL_ERROR, "window").await;
        drop(response);
    });
}

#[test]
fn interim_responses_without_end_are_ended() {
    let interim = frame(HEADERS, HEAD, 1, block(&[(":status", "103")]));
    check_stream(
        "GET",
        interim.repeat(17),
        ENHANCE_YOUR_CALM,
        "too_many_interims",
    );
}

#[test]
fn a_head_beyond_the_limit_resets_its_stream() {
    let mut head = block(&OK);
    for _ in 0..500 {
        head.extend(block(&[("x-name", "value")]));
    }
    check_stream(
        "GET",
        frame(HEADERS, WHOLE, 1, head),
        PROTOCOL_ERROR,
        "head_too_large",
    );
}

#[test]
fn a_body_that_is_cut_by_a_fault_is_not_taken_for_whole() {
    for fault in [
        update(1, 0),
        update(1, i32::MAX as u32),
        frame(DATA, 0, 1, "b"),
    ] {
        run(async {
            let (mut send, mut peer) = connected().await;
            let (response, _body) = send.send_request(request("POST"), false).unwrap();
            sent(&mut peer, 1).await;
            let head = frame(HEADERS, HEAD, 1, block(&OK));
            let end = frame(HEADERS, WHOLE, 1, block(&[("grpc-status", "0")]));
            peer.send([head, frame(DATA, 0, 1, "answer"), end].concat())
                .await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(peer.quiet().await, []);
            // All is there and nobody has read it.
            peer.send(fault).await;
            let _ = peer.quiet().await;
            if let Ok((data, trailers)) = read_all(&mut body).await {
                assert_eq!(data, b"answer");
                assert!(trailers.is_some());
            }
        });
    }
}

#[test]
fn a_body_that_we_cut_is_not_taken_for_whole() {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (response, mut upload) = send.send_request(request("POST"), false).unwrap();
        sent(&mut peer, 1).await;
        let head = frame(HEADERS, HEAD, 1, block(&OK));
        peer.send([head, frame(DATA, END_STREAM, 1, "answer")].concat())
            .await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(peer.quiet().await, []);
        upload.send_reset(CANCEL.into());
        let read = read_all(&mut body).await;
        assert!(read.is_err() || read.unwrap().0 == b"answer");
    });
}

#[test]
fn interim_responses_that_nobody_asks_for_are_dropped() {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (mut response, _body) = send.send_request(request("GET"), true).unwrap();
        sent(&mut peer, 1).await;
        let mut polled = async || {
            poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut response).poll(cx).map(drop))).await
        };
        for _ in 0..40 {
            peer.send(frame(HEADERS, HEAD, 1, block(&[(":status", "103")])))
                .await;
            assert_eq!(peer.quiet().await, []);
            assert!(polled().await.is_pending());
        }
        peer.send(frame(HEADERS, WHOLE, 1, block(&OK))).await;
        let _ = peer.quiet().await;
        assert!(polled().await.is_ready());
    });
}

#[test]
fn lengths_that_mean_nothing_are_passed_over() {
    run(async {
        let (mut send, mut peer) = connected().await;
        // The answer that opens a tunnel (RFC 9110 §9.3.6).
        let connect = http::Request::builder().method("CONNECT");
        let connect = connect.uri("llm.example:443").body(()).unwrap();
        let (response, _body) = send.send_request(connect, false).unwrap();
        sent(&mut peer, 1).await;
        let head = ok_with(&[("content-length", "0")]);
        peer.send(
            [
                frame(HEADERS, HEAD, 1, head),
                frame(DATA, END_STREAM, 1, "tunnel"),
            ]
            .concat(),
        )
        .await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(read_all(&mut body).await.unwrap().0, b"tunnel");
        // And one that has no content (RFC 9110 §15.3.5).
        let (response, _body) = send.send_request(request("GET"), true).unwrap();
        sent(&mut peer, 3).await;
        let head = block(&[(":status", "204"), ("content-length", "5")]);
        peer.send(frame(HEADERS, WHOLE, 3, head)).await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(read_all(&mut body).await.unwrap().0, b"");
    });
}

#[test]
fn answers_to_what_was_given_up_long_ago_are_passed_over() {
    run(async {
        let (mut send, mut peer) = connected().await;
        for _ in 0..3_000 {
            poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
            drop(send.send_request(request("GET"), true).unwrap());
            tokio::task::yield_now().await;
        }
        let _ = peer.quiet().await;
        for stream in (1..2_000).step_by(2) {
            peer.send(frame(HEADERS, HEAD, stream, block(&OK))).await;
            peer.send(frame(DATA, END_STREAM, stream, [0; 1_000])).await;
            let seen = peer.quiet().await;
            // The connection's window comes back, and that is all.
            assert!(
                seen.iter()
                    .all(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0)
            );
        }
    });
}
