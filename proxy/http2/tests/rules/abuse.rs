//! Known ways to keep a server busy for nothing, each ended with its reason.

use vouchsafe_http2::server;

use super::frames::*;
use super::raw::*;

/// What a server with a request at hand makes of a flood.
fn check(flood: Vec<u8>, cause: &str) {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        peer.send(post(1)).await;
        assert_eq!(peer.quiet().await, []);
        peer.send(flood).await;
        peer.ends(ENHANCE_YOUR_CALM, cause).await;
    });
}

#[test]
fn floods_of_frames_that_ask_for_nothing_are_ended() {
    for flood in [
        // CVE-2019-9512
        frame(PING, 0, 0, [0; 8]),
        frame(PING, ACK, 0, [0; 8]),
        // CVE-2019-9513
        frame(PRIORITY, 0, 9, [0, 0, 0, 1, 7]),
        // CVE-2019-9514, of a stream that is over
        reset(1, CANCEL),
        // CVE-2019-9515
        settings(&[]),
        frame(SETTINGS, ACK, 0, ""),
        // CVE-2019-9518
        frame(DATA, 0, 1, ""),
        frame(DATA, PADDED, 1, [0]),
        update(0, 1),
        update(1, 1),
        frame(GOAWAY, 0, 0, [0; 8]),
        frame(0xbe, 0, 0, ""),
    ] {
        check(flood.repeat(20_000), "control_flood");
    }
}

#[test]
fn a_connection_that_is_used_bears_as_many_control_frames_as_it_needs() {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        peer.send(settings(&[(4, 1 << 20)])).await;
        for stream in (1..6_000).step_by(2) {
            peer.send([post(stream), frame(DATA, END_STREAM, stream, "question")].concat())
                .await;
            peer.send([update(0, 8), update(stream, 8), frame(PING, 0, 0, [0; 8])].concat())
                .await;
            peer.until(|frame| frame.stream == stream && frame.ends())
                .await;
            peer.send(reset(stream, NO_ERROR)).await;
        }
        let _ = peer.quiet().await;
    });
}

#[test]
fn streams_that_are_reset_before_anybody_looked_are_ended() {
    let flood = (7..8_000).step_by(2);
    let flood = flood.flat_map(|stream| [get(stream), reset(stream, CANCEL)].concat());
    check(flood.collect(), "rapid_reset");
}

#[test]
fn a_few_streams_that_are_reset_at_once_are_nothing() {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        for stream in (1..4_000).step_by(2) {
            peer.send([get(stream), reset(stream, CANCEL)].concat())
                .await;
            // Each time somebody has looked.
            assert_eq!(peer.quiet().await, []);
        }
    });
}

#[test]
fn a_peer_that_makes_us_reset_is_ended() {
    // Of CVE-2025-8671: each is opened, and reset by us for a fault.
    for fault in [
        |stream| update(stream, 0),
        |stream| update(stream, i32::MAX as u32),
        |stream| frame(PRIORITY, 0, stream, [0; 4]),
        |stream| frame(HEADERS, WHOLE, stream, block(&[(":path", "/")])),
    ] {
        let flood = (7..8_000).step_by(2);
        let flood = flood.flat_map(|stream| [post(stream), fault(stream)].concat());
        check(flood.collect(), "reset_flood");
    }
    let malformed = |stream| frame(HEADERS, WHOLE, stream, block(&GET[1..]));
    check(
        (7..8_000).step_by(2).flat_map(malformed).collect(),
        "reset_flood",
    );
}

#[test]
fn a_head_in_endless_pieces_is_ended() {
    // Of CVE-2024-27316.
    let begin = frame(HEADERS, END_STREAM, 7, block(&GET));
    let empty = frame(CONTINUATION, 0, 7, "").repeat(10_000);
    check([begin.clone(), empty].concat(), "continuation_flood");
    let large = frame(CONTINUATION, 0, 7, [0x82; 16_384]).repeat(20);
    check([begin, large].concat(), "continuation_flood");
}

#[test]
fn small_pieces_that_nobody_reads_are_ended() {
    check(frame(DATA, 0, 1, "a").repeat(60_000), "small_data");
}

#[test]
fn small_pieces_that_are_read_are_taken() {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        peer.send([settings(&[(4, 1 << 20)]), update(0, 1 << 20), post(1)].concat())
            .await;
        for _ in 0..600 {
            peer.send(frame(DATA, 0, 1, "a").repeat(100)).await;
            let _ = peer.quiet().await;
        }
    });
}

#[test]
fn answers_that_the_peer_does_not_read_are_ended() {
    run(async {
        // The pipe is full after a few answers.
        let mut peer = silent(server::Builder::new(), Serve::Hold, 1024);
        peer.send(PREFACE).await;
        peer.send([settings(&[]), post(1)].concat()).await;
        // Data makes up for the pings.
        let ping = frame(PING, 0, 0, [0; 8]);
        let round = [&frame(DATA, 0, 1, "a")[..], &ping, &ping, &ping].concat();
        peer.send(round.repeat(3_000)).await;
        let error = peer.ended().await.unwrap();
        assert_eq!(error.cause(), "unread_replies");
        assert_eq!(error.reason(), Some(ENHANCE_YOUR_CALM.into()));
    });
}

#[test]
fn heads_that_the_peer_does_not_read_are_ended() {
    // Of CVE-2019-9517: heads have no windows.
    run(async {
        let mut peer = silent(server::Builder::new(), Serve::Head(1_000), 1024);
        peer.send([PREFACE, &settings(&[])].concat()).await;
        for stream in (1..40_000).step_by(2) {
            peer.send(get(stream)).await;
        }
        assert_unread(peer).await;
    });
}

#[test]
fn trailers_that_the_peer_does_not_read_are_ended() {
    run(async {
        let mut peer = silent(server::Builder::new(), Serve::Trailers(1_000), 1024);
        peer.send([PREFACE, &settings(&[])].concat()).await;
        for stream in (1..40_000).step_by(2) {
            peer.send(get(stream)).await;
        }
        assert_unread(peer).await;
    });
}

#[test]
fn refusals_of_large_heads_that_the_peer_does_not_read_are_ended() {
    run(async {
        let mut peer = silent(server::Builder::new(), Serve::Hold, 1024);
        peer.send([PREFACE, &settings(&[])].concat()).await;
        let entry = [&[0x40, 1, b'x', 0x7f, 0x91, 0x1b][..], &[b'a'; 3_600]].concat();
        peer.send(frame(
            HEADERS,
            WHOLE,
            1,
            [&block(&GET)[..], &entry].concat(),
        ))
        .await;
        let named = [&[0x82, 0x86, 0x84][..], &[0xbe; 10]].concat();
        for stream in (3..400_000).step_by(2) {
            peer.send(frame(HEADERS, WHOLE, stream, &named)).await;
        }
        assert_unread(peer).await;
    });
}

/// Checks that a connection ended because too much of what it said was not read: streams are refused then, and refusals
/// are counted in two ways.
async fn assert_unread(peer: Peer) {
    let error = peer.ended().await.unwrap();
    assert!(["unread_replies", "reset_flood"].contains(&error.cause()));
    assert_eq!(error.reason(), Some(ENHANCE_YOUR_CALM.into()));
}

#[test]
fn answers_between_much_data_are_read_with_it() {
    run(async {
        // The server always has something to write that the pipe does not hold.
        let mut peer = silent(server::Builder::new(), Serve::Send(20_000_000), 20_000);
        peer.send([PREFACE, &settings(&[(4, 1 << 30)])].concat())
            .await;
        peer.send([update(0, 1 << 30), get(1)].concat()).await;
        let pings = frame(PING, 0, 0, [0; 8]).repeat(6);
        let mut answers = 0;
        while let Some(frame) = peer.next().await {
            match frame.kind {
                DATA if frame.ends() => break,
                DATA => peer.send(&pings).await,
                PING => answers += 17,
                GOAWAY => panic!("ended after {answers} bytes of answers"),
                _ => {}
            }
        }
        assert!(answers > 100_000);
    });
}

#[test]
fn to_open_more_streams_than_are_taken_is_no_abuse_before_that_is_known() {
    run(async {
        let builder = server::Builder::new().max_concurrent_streams(1);
        let mut peer = silent(builder, Serve::Hold, 1 << 20);
        peer.send([PREFACE, &settings(&[]), &post(1)].concat())
            .await;
        peer.until(|frame| frame.flags == ACK).await;
        for stream in (3..1_000).step_by(2) {
            peer.send(get(stream)).await;
            peer.resets(stream, REFUSED_STREAM).await;
        }
    });
}

#[test]
fn to_open_more_streams_than_are_known_to_be_taken_is_abuse() {
    check((7..8_000).step_by(2).flat_map(get).collect(), "reset_flood");
}

#[test]
fn settings_that_let_all_streams_send_a_byte_are_ended() {
    // Of CVE-2019-9511: each costs more work than it looks like, and what it makes us send does not pay for it.
    run(async {
        let mut peer = serving(Serve::Send(100_000)).await;
        peer.send([settings(&[(4, 0)]), update(0, 1 << 30)].concat())
            .await;
        peer.send((1..60).step_by(2).flat_map(get).collect::<Vec<_>>())
            .await;
        let _ = peer.quiet().await;
        for window in 1..20_000 {
            peer.send(settings(&[(4, window)])).await;
            let is_answer = |frame: &Frame| frame.kind == GOAWAY || frame.flags == ACK;
            let seen = peer.until(is_answer).await;
            if let Some(end) = seen.iter().find(|frame| frame.kind == GOAWAY) {
                assert_eq!(end.number(4), ENHANCE_YOUR_CALM);
                let error = peer.ended().await.unwrap();
                assert_eq!(error.cause(), "control_flood");
                return;
            }
        }
        panic!("it goes on");
    });
}

#[test]
fn a_head_beyond_the_limit_is_answered_and_the_connection_goes_on() {
    // One entry of 4,000 bytes, named again and again.
    let mut bomb = block(&GET);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'a'; 4_000]);
    bomb.extend([0xbe; 10_000]);
    let mut plain = block(&GET);
    for _ in 0..500 {
        plain.extend(block(&[("x-name", "value")]));
    }
    for head in [bomb, plain] {
        run(async {
            let mut peer = serving(Serve::Echo).await;
            for (stream, flags) in [(1, WHOLE), (3, HEAD)] {
                peer.send(frame(HEADERS, flags, stream, &head)).await;
                let seen = peer
                    .until(|frame| frame.stream == stream && frame.ends())
                    .await;
                let answer = seen.last().unwrap();
                assert_eq!(answer.kind, HEADERS);
                // Name 8 of the static table, `:status`.
                assert!(
                    answer.payload.windows(5).any(|part| part == b"\x08\x03431")
                        || answer.payload.windows(5).any(|part| part == b"\x48\x03431")
                        || answer.payload == [0xbe]
                );
            }
            peer.send(get(5)).await;
            peer.until(|frame| frame.stream == 5 && frame.ends()).await;
        });
    }
}

#[test]
fn large_heads_beyond_the_limit_are_ended_when_they_come_without_end() {
    let mut head = block(&GET);
    for _ in 0..500 {
        head.extend(block(&[("x-name", "value")]));
    }
    let flood = (7..2_000).step_by(2);
    let flood = flood.flat_map(|stream| frame(HEADERS, HEAD, stream, &head));
    check(flood.collect(), "reset_flood");
}
