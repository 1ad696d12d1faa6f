//! What may come on a stream in which of its states, and what is done with the rest (RFC 9113 §5.1, §5.4 and §6).

use vouchsafe_http2::server;

use super::frames::*;
use super::raw::*;

/// Streams 1 (open), 3 (half closed by us, the peer), 5 (reset by the peer) and 7 (over) of a server that holds 1 and 3.
async fn states() -> Peer {
    let mut peer = serving(Serve::Hold).await;
    peer.send([post(1), get(3), post(5), reset(5, CANCEL)].concat())
        .await;
    assert_eq!(peer.quiet().await, []);
    peer
}

fn check_connection(bytes: impl AsRef<[u8]>, code: u32, cause: &str) {
    run(async {
        let mut peer = states().await;
        peer.send(bytes).await;
        peer.ends(code, cause).await;
    });
}

fn check_stream(bytes: impl AsRef<[u8]>, stream: u32, code: u32) {
    run(async {
        let mut peer = states().await;
        peer.send(bytes).await;
        peer.resets(stream, code).await;
        // Whatever else comes for it is not answered again.
        peer.send(reset(stream, CANCEL)).await;
        peer.send(update(stream, 1)).await;
        peer.send(frame(DATA, 0, stream, "late")).await;
        peer.send(frame(HEADERS, WHOLE, stream, block(&[("late", "1")])))
            .await;
        assert_eq!(peer.quiet().await, []);
    });
}

fn check_taken(bytes: impl AsRef<[u8]>) {
    run(async {
        let mut peer = states().await;
        peer.send(bytes).await;
        assert_eq!(peer.quiet().await, []);
    });
}

#[test]
fn on_an_idle_stream_only_a_request_or_a_priority_may_come() {
    for bytes in [
        frame(DATA, 0, 9, "a"),
        frame(DATA, END_STREAM, 9, ""),
        reset(9, CANCEL),
        update(9, 1),
    ] {
        check_connection(bytes, PROTOCOL_ERROR, "stream_id");
    }
    check_taken(frame(PRIORITY, 0, 9, [0, 0, 0, 1, 7]));
    check_taken(get(9));
}

#[test]
fn a_client_opens_odd_streams_with_rising_numbers() {
    check_connection(get(2), PROTOCOL_ERROR, "stream_id");
    check_connection(get(8), PROTOCOL_ERROR, "stream_id");
    check_connection([get(101), get(99)].concat(), STREAM_CLOSED, "closed_stream");
    check_taken([get(99), get(101)].concat());
    check_taken(get((1 << 31) - 1));
}

#[test]
fn what_follows_the_end_of_a_message_resets_its_stream() {
    check_stream(frame(DATA, 0, 3, "more"), 3, STREAM_CLOSED);
    check_stream(frame(DATA, END_STREAM, 3, ""), 3, STREAM_CLOSED);
    check_stream(
        frame(HEADERS, WHOLE, 3, block(&[("more", "1")])),
        3,
        STREAM_CLOSED,
    );
    // Windows and priorities go on.
    check_taken(update(3, 1));
    check_taken(frame(PRIORITY, 0, 3, [0, 0, 0, 1, 7]));
    check_taken(reset(3, CANCEL));
}

#[test]
fn on_a_stream_that_the_peer_reset_nothing_may_come() {
    check_connection(get(5), STREAM_CLOSED, "closed_stream");
    check_stream(frame(DATA, 0, 5, "a"), 5, STREAM_CLOSED);
    check_taken(reset(5, CANCEL));
    check_taken(update(5, 1));
    check_taken(frame(PRIORITY, 0, 5, [0, 0, 0, 1, 7]));
}

#[test]
fn on_a_stream_that_is_over_nothing_may_come() {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        peer.send(get(1)).await;
        peer.until(|frame| frame.stream == 1 && frame.ends()).await;
        peer.send(reset(1, NO_ERROR)).await;
        peer.send(update(1, 1)).await;
        assert_eq!(peer.quiet().await, []);
        peer.send(frame(DATA, 0, 1, "a")).await;
        peer.resets(1, STREAM_CLOSED).await;
        peer.send(get(3)).await;
        peer.until(|frame| frame.stream == 3 && frame.ends()).await;
        peer.send(get(3)).await;
        peer.ends(STREAM_CLOSED, "closed_stream").await;
    });
}

#[test]
fn what_is_late_for_a_stream_that_we_reset_is_passed_over_and_given_back() {
    run(async {
        let mut peer = serving(Serve::Reset).await;
        let mut window = 65_535;
        for stream in (1..80).step_by(2) {
            peer.send(post(stream)).await;
            let seen = peer.until(|frame| frame.kind == RST_STREAM).await;
            let last = seen.last().unwrap();
            assert_eq!((last.stream, last.number(0)), (stream, CANCEL));
            // Was under way when the reset was.
            assert!(window >= 16_384, "the connection's window comes back");
            peer.send(frame(DATA, 0, stream, [0; 16_384])).await;
            peer.send(update(stream, 1)).await;
            let trailers = block(&[("late", "1")]);
            peer.send(frame(HEADERS, WHOLE, stream, trailers)).await;
            window -= 16_384;
            for update in peer.quiet().await.iter().chain(&seen) {
                assert!(update.kind != GOAWAY);
                if update.kind == WINDOW_UPDATE {
                    assert_eq!(update.stream, 0);
                    window += update.number(0);
                }
            }
        }
    });
}

#[test]
fn a_reset_names_a_stream_and_a_code() {
    check_connection(
        frame(RST_STREAM, 0, 1, [0; 3]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check_connection(
        frame(RST_STREAM, 0, 1, [0; 5]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check_taken(reset(1, 0xdead_beef));
}

#[test]
fn a_continuation_follows_its_head_at_once() {
    check_connection(
        frame(CONTINUATION, END_HEADERS, 1, ""),
        PROTOCOL_ERROR,
        "continuation",
    );
    check_connection(
        [get(7), frame(CONTINUATION, END_HEADERS, 7, "")].concat(),
        PROTOCOL_ERROR,
        "continuation",
    );
    let open = frame(HEADERS, END_STREAM, 7, &block(&GET)[..9]);
    for between in [
        frame(DATA, 0, 1, "a"),
        frame(PING, 0, 0, [0; 8]),
        update(0, 1),
        get(9),
        frame(0xbe, 0, 0, ""),
        frame(CONTINUATION, END_HEADERS, 1, &block(&GET)[9..]),
    ] {
        check_connection(
            [open.clone(), between].concat(),
            PROTOCOL_ERROR,
            "continuation",
        );
    }
}

#[test]
fn a_head_in_any_pieces_is_one() {
    let whole = block(&GET);
    for pieces in 1..=9 {
        run(async {
            let mut peer = serving(Serve::Echo).await;
            let mut pieces = whole.chunks(whole.len().div_ceil(pieces)).peekable();
            let (mut kind, mut flags) = (HEADERS, END_STREAM);
            while let Some(piece) = pieces.next() {
                flags |= [0, END_HEADERS][usize::from(pieces.peek().is_none())];
                peer.send(frame(kind, flags, 1, piece)).await;
                (kind, flags) = (CONTINUATION, 0);
            }
            peer.until(|frame| frame.stream == 1 && frame.ends()).await;
        });
    }
}

#[test]
fn padding_fits_its_frame() {
    for padding in [&[1][..], &[5, 1, 2, 3, 4], &[255]] {
        check_connection(frame(DATA, PADDED, 1, padding), PROTOCOL_ERROR, "padding");
        check_connection(
            frame(HEADERS, WHOLE | PADDED, 7, padding),
            PROTOCOL_ERROR,
            "padding",
        );
    }
    check_connection(frame(DATA, PADDED, 1, ""), FRAME_SIZE_ERROR, "frame_size");
    check_taken(frame(DATA, PADDED, 1, [4, 1, 0, 0, 0, 0]));
    check_taken(frame(DATA, PADDED, 1, [3, 0, 0, 0]));
    let head = [&[2][..], &block(&GET), &[0, 0]].concat();
    check_taken(frame(HEADERS, WHOLE | PADDED, 7, head));
    let head = [&[2, 0, 0, 0, 1, 7][..], &block(&GET), &[0, 0]].concat();
    check_taken(frame(HEADERS, WHOLE | PADDED | PRIORITIZED, 7, head));
}

#[test]
fn a_stream_does_not_depend_on_itself() {
    let head = [&[0, 0, 0, 7, 7][..], &block(&GET)].concat();
    check_connection(
        frame(HEADERS, WHOLE | PRIORITIZED, 7, head),
        PROTOCOL_ERROR,
        "priority",
    );
    check_connection(
        frame(HEADERS, WHOLE | PRIORITIZED, 7, [0; 4]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
}

#[test]
fn more_streams_than_were_offered_are_refused() {
    run(async {
        let builder = server::Builder::new().max_concurrent_streams(2);
        let mut peer = serving_with(builder, Serve::Hold).await;
        peer.send([get(1), post(3)].concat()).await;
        assert_eq!(peer.quiet().await, []);
        peer.send(get(5)).await;
        peer.resets(5, REFUSED_STREAM).await;
        // Its fields entered the table like others'.
        let indexed = [&block(&GET)[..], &[0x40, 1, b'a', 1, b'b']].concat();
        peer.send(frame(HEADERS, WHOLE, 7, indexed)).await;
        peer.resets(7, REFUSED_STREAM).await;
        peer.send(reset(1, CANCEL)).await;
        let named = [&block(&GET)[..], &[0xbe]].concat();
        peer.send(frame(HEADERS, WHOLE, 9, named)).await;
        assert_eq!(peer.quiet().await, []);
    });
}

#[test]
fn an_answer_that_needs_no_more_of_the_request_is_no_fault() {
    run(async {
        let mut peer = serving(Serve::Send(10)).await;
        peer.send(post(1)).await;
        let seen = peer.until(|frame| frame.kind == RST_STREAM).await;
        let [.., end, last] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert!(end.kind == DATA && end.ends());
        assert_eq!((last.stream, last.number(0)), (1, NO_ERROR));
    });
}
