//! What a server may do to our client.

use std::future::poll_fn;
use std::task::{Context, Poll};

use vouchsafe_http2::client::SendRequest;

use super::frames::*;
use super::raw::*;

pub(crate) const OK: [(&str, &str); 1] = [(":status", "200")];

/// The request that the client sent on a stream, read to its head.
pub(crate) async fn sent(peer: &mut Peer, stream: u32) -> Frame {
    let is_head = |frame: &Frame| frame.kind == HEADERS && frame.stream == stream;
    peer.until(is_head).await.pop().unwrap()
}

#[test]
fn a_client_begins_with_settings_that_take_no_push() {
    run(async {
        let (_send, mut peer) = calling().await;
        let first = peer.next().await.unwrap();
        assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
        let mut all = first.payload.chunks(6);
        assert!(all.any(|setting| setting == [0, 2, 0, 0, 0, 0]));
    });
}

/// What ends a client's connection, with one request on its way.
#[track_caller]
fn check_connection(bytes: impl AsRef<[u8]>, code: u32, cause: &str) {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (response, _body) = send.send_request(request("POST"), false).unwrap();
        sent(&mut peer, 1).await;
        peer.send(bytes).await;
        peer.ends(code, cause).await;
        let error = response.await.unwrap_err();
        assert!(error.is_go_away() && !error.is_remote());
        assert_eq!(error.cause(), cause);
        assert!(send.send_request(request("GET"), true).is_err());
    });
}

#[test]
fn a_server_breaks_the_protocol_for_the_whole_connection() {
    let promise = [&[0, 0, 0, 2][..], &block(&GET)].concat();
    check_connection(
        frame(PUSH_PROMISE, HEAD, 1, promise),
        PROTOCOL_ERROR,
        "push",
    );
    check_connection(settings(&[(2, 1)]), PROTOCOL_ERROR, "settings");
    let head = |stream| frame(HEADERS, WHOLE, stream, block(&OK));
    check_connection(head(2), PROTOCOL_ERROR, "stream_id");
    check_connection(head(3), PROTOCOL_ERROR, "stream_id");
    check_connection(frame(DATA, 0, 3, "a"), PROTOCOL_ERROR, "stream_id");
    check_connection(reset(3, CANCEL), PROTOCOL_ERROR, "stream_id");
    check_connection(update(3, 1), PROTOCOL_ERROR, "stream_id");
    check_connection(head(0), PROTOCOL_ERROR, "stream_id");
    check_connection(
        frame(HEADERS, HEAD, 1, [0x80]),
        COMPRESSION_ERROR,
        "compression",
    );
    check_connection(
        frame(DATA, 0, 1, [0; 16_385]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check_connection(update(0, i32::MAX as u32), FLOW_CONTROL_ERROR, "window");
    check_connection(
        frame(PING, 0, 0, [0; 8]).repeat(20_000),
        ENHANCE_YOUR_CALM,
        "control_flood",
    );
    let begin = frame(HEADERS, 0, 1, block(&OK));
    let endless = frame(CONTINUATION, 0, 1, "").repeat(10_000);
    check_connection(
        [begin, endless].concat(),
        ENHANCE_YOUR_CALM,
        "continuation_flood",
    );
}

#[test]
fn a_server_that_does_not_begin_with_settings_is_none() {
    for first in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        frame(PING, 0, 0, [0; 8]),
    ] {
        run(async {
            let (mut send, mut peer) = calling().await;
            let (response, _body) = send.send_request(request("GET"), true).unwrap();
            peer.send(first).await;
            assert!(response.await.unwrap_err().is_go_away());
            let error = peer.ended().await.unwrap();
            assert!(["preface", "frame_size"].contains(&error.cause()));
        });
    }
}

#[test]
fn a_reset_by_the_server_is_told_with_its_code() {
    run(async {
        let (mut send, mut peer) = connected().await;
        for (stream, code) in [(1, REFUSED_STREAM), (3, CANCEL), (5, 0xbeef)] {
            let (response, mut body) = send.send_request(request("POST"), false).unwrap();
            sent(&mut peer, stream).await;
            peer.send(reset(stream, code)).await;
            let error = response.await.unwrap_err();
            assert!(error.is_reset() && error.is_remote());
            assert_eq!(error.reason(), Some(code.into()));
            assert!(body.send_data("a".into(), true).is_err());
            assert_eq!(peer.quiet().await, []);
        }
    });
}

#[test]
fn a_response_survives_the_reset_that_its_server_needs_no_more() {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (response, mut body) = send.send_request(request("POST"), false).unwrap();
        sent(&mut peer, 1).await;
        let whole = [
            frame(HEADERS, HEAD, 1, block(&OK)),
            frame(DATA, 0, 1, "answer"),
            frame(HEADERS, WHOLE, 1, block(&[("checksum", "1")])),
            reset(1, NO_ERROR),
        ];
        peer.send(whole.concat()).await;
        let told = poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(told, NO_ERROR.into());
        let mut body = response.await.unwrap().into_body();
        let (data, trailers) = read_all(&mut body).await.unwrap();
        assert_eq!(data, b"answer");
        assert_eq!(trailers.unwrap()["checksum"], "1");
    });
}

#[test]
fn a_server_that_reads_nothing_gets_no_more_streams() {
    run(async {
        let (mut send, mut peer) = calling_over(1024).await;
        peer.send(settings(&[])).await;
        let is_ready = |cx: &mut Context<'_>, send: &mut SendRequest| {
            Poll::Ready(send.poll_ready(cx).is_ready())
        };
        let mut opened = 0;
        while poll_fn(|cx| is_ready(cx, &mut send)).await {
            // Given up at once, so that it takes no place among those that are open.
            drop(send.send_request(request("GET"), true).unwrap());
            tokio::task::yield_now().await;
            opened += 1;
            assert!(opened < 300_000, "it goes on");
        }
        let read = async {
            loop {
                peer.next().await.unwrap();
            }
        };
        tokio::select! {
            ready = poll_fn(|cx| send.poll_ready(cx)) => ready.unwrap(),
            () = read => {}
        }
    });
}

#[test]
fn a_farewell_spares_the_streams_that_it_names() {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (first, _body) = send.send_request(request("GET"), true).unwrap();
        let (second, _body) = send.send_request(request("GET"), true).unwrap();
        sent(&mut peer, 3).await;
        peer.send(frame(GOAWAY, 0, 0, [0, 0, 0, 1, 0, 0, 0, 0]))
            .await;
        let error = second.await.unwrap_err();
        assert!(error.is_go_away() && error.is_remote());
        assert_eq!(error.reason(), Some(NO_ERROR.into()));
        assert!(send.send_request(request("GET"), true).is_err());
        peer.send(frame(HEADERS, WHOLE, 1, block(&OK))).await;
        assert_eq!(first.await.unwrap().status(), 200);
    });
}

#[test]
fn a_client_waits_while_the_server_takes_no_streams() {
    run(async {
        let (mut send, mut peer) = connected().await;
        peer.send(settings(&[(3, 0)])).await;
        let _ = peer.quiet().await;
        let is_ready = |cx: &mut Context<'_>, send: &mut SendRequest| {
            Poll::Ready(send.poll_ready(cx).is_ready())
        };
        assert!(!poll_fn(|cx| is_ready(cx, &mut send)).await);
        assert!(send.send_request(request("GET"), true).is_err());
        peer.send(settings(&[(3, 1)])).await;
        poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
        let (_response, _body) = send.send_request(request("GET"), true).unwrap();
        assert!(!poll_fn(|cx| is_ready(cx, &mut send)).await);
        sent(&mut peer, 1).await;
        peer.send(reset(1, CANCEL)).await;
        poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
    });
}

#[test]
fn a_server_without_a_table_gets_none() {
    run(async {
        let (mut send, mut peer) = connected().await;
        peer.send(settings(&[(1, 0)])).await;
        let _ = peer.quiet().await;
        for stream in [1, 3, 5, 7] {
            let _call = send.send_request(request("GET"), true).unwrap();
            let head = sent(&mut peer, stream).await;
            assert_eq!(head.payload[0] == 0x20, stream == 1, "said once");
            let first = usize::from(stream == 1);
            // Literals without indexing, and the static table.
            let authority = b"\x01\x0bllm.example";
            assert!(
                head.payload[first..]
                    .windows(13)
                    .any(|part| part == authority)
            );
        }
    });
}

#[test]
fn a_connection_that_breaks_off_fails_what_was_on_its_way() {
    run(async {
        let (mut send, mut peer) = connected().await;
        let (response, _body) = send.send_request(request("GET"), true).unwrap();
        sent(&mut peer, 1).await;
        peer.send(&frame(HEADERS, WHOLE, 1, block(&OK))[..12]).await;
        assert!(peer.ended().await.unwrap().is_io());
        assert!(response.await.unwrap_err().is_io());
        assert!(send.send_request(request("GET"), true).is_err());
    });
}
