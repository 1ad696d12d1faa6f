//! Beginning and end of a connection, and frames that concern all of it (RFC 9113 §3.4, §4 and §6).

use vouchsafe_http2::server;

use super::frames::*;
use super::raw::*;

/// What ends a server's connection, with which code and cause.
#[track_caller]
fn check(bytes: impl AsRef<[u8]>, code: u32, cause: &str) {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        // Streams 1 and 3 are open, 5 was and is not.
        peer.send([post(1), post(3), post(5), reset(5, CANCEL)].concat())
            .await;
        assert_eq!(peer.quiet().await, []);
        peer.send(bytes).await;
        peer.ends(code, cause).await;
    });
}

/// What a server takes without a word.
#[track_caller]
fn check_taken(bytes: impl AsRef<[u8]>) {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        peer.send([post(1), post(3), post(5), reset(5, CANCEL)].concat())
            .await;
        peer.send(bytes).await;
        assert_eq!(peer.quiet().await, []);
    });
}

#[test]
fn a_server_begins_with_settings_and_acknowledges_ours() {
    run(async {
        let mut peer = silent(server::Builder::new(), Serve::Hold, 1 << 20);
        peer.send(PREFACE).await;
        peer.send(settings(&[])).await;
        let first = peer.next().await.unwrap();
        assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
        let second = peer.next().await.unwrap();
        assert_eq!(second.kind, SETTINGS);
        assert_eq!((second.flags, second.payload.len()), (ACK, 0));
    });
}

#[test]
fn what_is_not_http2_is_refused() {
    for first in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
    ] {
        run(async {
            let mut peer = silent(server::Builder::new(), Serve::Hold, 1 << 20);
            peer.send(first).await;
            peer.ends(PROTOCOL_ERROR, "preface").await;
        });
    }
}

#[test]
fn the_first_frame_is_settings() {
    for first in [
        frame(PING, 0, 0, [0; 8]),
        get(1),
        frame(SETTINGS, ACK, 0, ""),
        frame(0xbe, 0, 0, ""),
    ] {
        run(async {
            let mut peer = silent(server::Builder::new(), Serve::Hold, 1 << 20);
            peer.send([PREFACE, &first].concat()).await;
            peer.ends(PROTOCOL_ERROR, "preface").await;
        });
    }
}

#[test]
fn a_preface_that_comes_byte_by_byte_is_one() {
    run(async {
        let mut peer = silent(server::Builder::new(), Serve::Echo, 1 << 20);
        for byte in [PREFACE, &settings(&[]), &get(1)].concat() {
            peer.send([byte]).await;
            tokio::task::yield_now().await;
        }
        let seen = peer.until(|frame| frame.stream == 1 && frame.ends()).await;
        assert!(seen.iter().any(|frame| frame.kind == HEADERS));
    });
}

#[test]
fn settings_belong_to_the_connection_and_have_whole_entries() {
    check(frame(SETTINGS, 0, 1, ""), PROTOCOL_ERROR, "stream_id");
    check(
        frame(SETTINGS, 0, 0, [0; 5]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check(
        frame(SETTINGS, 0, 0, [0; 7]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check(
        frame(SETTINGS, ACK, 0, [0; 6]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
}

#[test]
fn settings_have_bounds() {
    check(settings(&[(2, 2)]), PROTOCOL_ERROR, "settings");
    check(settings(&[(4, 1 << 31)]), FLOW_CONTROL_ERROR, "settings");
    check(settings(&[(5, 16_383)]), PROTOCOL_ERROR, "settings");
    check(settings(&[(5, 1 << 24)]), PROTOCOL_ERROR, "settings");
}

#[test]
fn settings_are_acknowledged_each_and_unknown_ones_passed_over() {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        let known = [(1, 0), (2, 1), (3, 1), (4, 1), (5, 16_384), (6, 1)];
        peer.send(settings(&known)).await;
        peer.send(settings(&[(0xbeef, 1), (0, 7)])).await;
        let seen = peer.quiet().await;
        let ack = Frame {
            kind: SETTINGS,
            flags: ACK,
            stream: 0,
            payload: Vec::new(),
        };
        assert_eq!(seen, [ack.clone(), ack]);
    });
}

#[test]
fn a_ping_is_answered_with_its_payload_and_an_answer_is_not() {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        peer.send(frame(PING, ACK, 0, b"unasked.")).await;
        peer.send(frame(PING, 0, 0, b"question")).await;
        let seen = peer.quiet().await;
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].kind, seen[0].flags), (PING, ACK));
        assert_eq!(seen[0].payload, b"question");
    });
    check(frame(PING, 0, 0, [0; 7]), FRAME_SIZE_ERROR, "frame_size");
    check(frame(PING, 0, 0, [0; 9]), FRAME_SIZE_ERROR, "frame_size");
    check(frame(PING, 0, 1, [0; 8]), PROTOCOL_ERROR, "stream_id");
}

#[test]
fn a_frame_has_at_most_the_size_that_was_announced() {
    check(
        frame(DATA, 0, 1, [0; 16_385]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check(
        frame(HEADERS, HEAD, 7, [0; 16_385]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check(
        frame(0xbe, 0, 0, [0; 16_385]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    // The header alone says so; nobody waits for the rest.
    check(
        &frame(DATA, 0, 1, vec![0; 1 << 20])[..9],
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check_taken(frame(DATA, 0, 1, [0; 16_384]));
    check_taken(frame(0xbe, 0, 0, [0; 16_384]));
}

#[test]
fn what_is_unknown_means_nothing() {
    check_taken(frame(0xbe, 0xff, 0, "whatever"));
    check_taken(frame(0xbe, 0xff, 1, "whatever"));
    check_taken(frame(0xbe, 0xff, 99, "whatever"));
    // Flags that a frame does not have.
    check_taken(frame(DATA, 0xf6 & !PADDED, 1, "a"));
    // The reserved bit.
    check_taken(frame(DATA, 0, 1 | 1 << 31, "a"));
    check_taken(frame(WINDOW_UPDATE, 0, 1, (1_u32 | 1 << 31).to_be_bytes()));
}

#[test]
fn frames_of_a_stream_name_one() {
    for kind in [DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION] {
        check(frame(kind, 0, 0, [0; 5]), PROTOCOL_ERROR, "stream_id");
    }
}

#[test]
fn a_farewell_has_a_last_stream_and_a_reason() {
    check(frame(GOAWAY, 0, 0, [0; 7]), FRAME_SIZE_ERROR, "frame_size");
    check(frame(GOAWAY, 0, 1, [0; 8]), PROTOCOL_ERROR, "stream_id");
    check_taken(frame(GOAWAY, 0, 0, [0; 8]));
    check_taken(frame(GOAWAY, 0, 0, [0; 90]));
}

#[test]
fn nothing_is_pushed_to_a_server() {
    let promise = [&[0, 0, 0, 2][..], &block(&GET)].concat();
    check(
        frame(PUSH_PROMISE, HEAD, 1, promise),
        PROTOCOL_ERROR,
        "push",
    );
}

#[test]
fn a_priority_has_five_bytes_and_another_stream_to_depend_on() {
    check_taken(frame(PRIORITY, 0, 1, [0, 0, 0, 3, 7]));
    check_taken(frame(PRIORITY, 0, 99, [0, 0, 0, 3, 7]));
    run(async {
        for (payload, code) in [
            (&[0, 0, 0, 3][..], FRAME_SIZE_ERROR),
            (&[0, 0, 0, 3, 7, 7], FRAME_SIZE_ERROR),
            (&[0, 0, 0, 1, 7], PROTOCOL_ERROR),
        ] {
            let mut peer = serving(Serve::Hold).await;
            peer.send(post(1)).await;
            peer.send(frame(PRIORITY, 0, 1, payload)).await;
            peer.resets(1, code).await;
        }
    });
}

#[test]
fn header_blocks_that_do_not_decode_end_the_connection() {
    for block in [
        &[0x80][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x40],
        &[0x82, 0x20],
    ] {
        check(
            frame(HEADERS, WHOLE, 7, block),
            COMPRESSION_ERROR,
            "compression",
        );
        check(
            frame(HEADERS, WHOLE, 1, block),
            COMPRESSION_ERROR,
            "compression",
        );
        // For a stream that is over, too: the table would be out of step.
        check(
            frame(HEADERS, WHOLE, 5, block),
            COMPRESSION_ERROR,
            "compression",
        );
    }
}

#[test]
fn a_graceful_end_comes_in_two_steps() {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        peer.send(post(1)).await;
        let _ = peer.quiet().await;
        peer.leave.notify_one();
        let seen = peer.until(|frame| frame.kind == PING).await;
        let [.., farewell, ping] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(farewell.kind, GOAWAY);
        assert_eq!(
            (farewell.number(0), farewell.number(4)),
            (u32::MAX >> 1, NO_ERROR)
        );
        // What was on its way is still served.
        peer.send(get(3)).await;
        let seen = peer.until(|frame| frame.stream == 3 && frame.ends()).await;
        assert!(seen.iter().all(|frame| frame.kind != RST_STREAM));
        peer.send(frame(PING, ACK, 0, &ping.payload)).await;
        let seen = peer.until(|frame| frame.kind == GOAWAY).await;
        let last = seen.last().unwrap();
        assert_eq!((last.number(0), last.number(4)), (3, NO_ERROR));
        // What comes now is not, and the table stays in step.
        peer.send(get(5)).await;
        peer.send(frame(DATA, END_STREAM, 1, "last")).await;
        let seen = peer.until(|frame| frame.stream == 1 && frame.ends()).await;
        assert!(seen.iter().all(|frame| frame.stream != 5));
        assert_eq!(peer.next().await, None);
        assert!(peer.ended().await.is_none());
    });
}

#[test]
fn the_last_stream_that_a_farewell_names_rises_no_more() {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        peer.send(post(1)).await;
        let _ = peer.quiet().await;
        peer.leave.notify_one();
        let seen = peer.until(|frame| frame.kind == PING).await;
        peer.send(frame(PING, ACK, 0, &seen.last().unwrap().payload))
            .await;
        let seen = peer.until(|frame| frame.kind == GOAWAY).await;
        assert_eq!(seen.last().unwrap().number(0), 1);
        peer.send([get(3), get(5), frame(PING, 0, 1, [0; 8])].concat())
            .await;
        let seen = peer.until(|frame| frame.kind == GOAWAY).await;
        let last = seen.last().unwrap();
        assert_eq!((last.number(0), last.number(4)), (1, PROTOCOL_ERROR));
    });
}

#[test]
fn a_connection_that_ends_within_a_frame_or_a_head_says_so() {
    for (bytes, clean) in [
        (get(1), true),
        (get(1)[..7].to_vec(), false),
        (frame(HEADERS, END_STREAM, 1, &block(&GET)[..7]), false),
        (
            [post(1), frame(DATA, 0, 1, [0; 9_000])].concat()[..8_000].to_vec(),
            false,
        ),
        (Vec::new(), true),
    ] {
        run(async {
            let mut peer = serving(Serve::Hold).await;
            peer.send(bytes).await;
            let ended = peer.ended().await;
            assert_eq!(ended.is_none(), clean);
            assert!(ended.is_none_or(|error| error.is_io()));
        });
    }
}
