//! Windows in both directions (RFC 9113 §5.2, §6.5.2 and §6.9).

use vouchsafe_http2::server;

use super::frames::*;
use super::raw::*;

/// A server whose connection's window is no hindrance.
async fn wide(serve: Serve) -> Peer {
    let builder = server::Builder::new().initial_connection_window_size(1 << 20);
    serving_with(builder, serve).await
}

fn data_of(frames: &[Frame]) -> usize {
    let data = frames.iter().filter(|frame| frame.kind == DATA);
    data.map(|frame| frame.payload.len()).sum()
}

/// Checks that so many bytes of data come and no more. The task that sends them may need some turns.
async fn sends(peer: &mut Peer, bytes: usize) {
    let mut came = 0;
    while came < bytes {
        came += data_of(&peer.quiet().await);
    }
    for _ in 0..3 {
        came += data_of(&peer.quiet().await);
    }
    assert_eq!(came, bytes);
}

#[test]
fn a_stream_gets_no_more_than_its_window() {
    run(async {
        let mut peer = wide(Serve::Hold).await;
        peer.send(post(1)).await;
        for _ in 0..3 {
            peer.send(frame(DATA, 0, 1, [0; 16_384])).await;
        }
        peer.send(frame(DATA, 0, 1, [0; 16_383])).await;
        assert_eq!(peer.quiet().await, []);
        peer.send(frame(DATA, 0, 1, "a")).await;
        peer.resets(1, FLOW_CONTROL_ERROR).await;
    });
}

#[test]
fn padding_counts_in_the_window() {
    run(async {
        let mut peer = wide(Serve::Hold).await;
        peer.send(post(1)).await;
        for _ in 0..3 {
            peer.send(frame(DATA, 0, 1, [0; 16_384])).await;
        }
        peer.send(frame(DATA, 0, 1, [0; 16_380])).await;
        peer.send(frame(DATA, PADDED, 1, [2, 0, 0, 0])).await;
        peer.resets(1, FLOW_CONTROL_ERROR).await;
    });
}

#[test]
fn a_connection_gets_no_more_than_its_window() {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        peer.send([post(1), post(3)].concat()).await;
        for stream in [1, 3, 1] {
            peer.send(frame(DATA, 0, stream, [0; 16_384])).await;
        }
        peer.send(frame(DATA, 0, 3, [0; 16_383])).await;
        assert_eq!(peer.quiet().await, []);
        peer.send(frame(DATA, 0, 3, "a")).await;
        peer.ends(FLOW_CONTROL_ERROR, "window").await;
    });
}

#[test]
fn what_nobody_consumes_is_not_given_back() {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        peer.send(post(1)).await;
        for _ in 0..3 {
            peer.send(frame(DATA, 0, 1, [0; 16_384])).await;
        }
        assert_eq!(peer.quiet().await, []);
    });
}

#[test]
fn padding_is_consumed_by_being_received() {
    run(async {
        let mut peer = serving(Serve::Hold).await;
        peer.send(post(1)).await;
        let mut given_back = [0, 0];
        for _ in 0..300 {
            let padded = [&[255][..], b"a", &[0; 255]].concat();
            peer.send(frame(DATA, PADDED, 1, padded)).await;
            for update in peer.quiet().await {
                assert_eq!(update.kind, WINDOW_UPDATE);
                given_back[update.stream as usize] += update.number(0);
            }
        }
        // 256 of each frame's 257 bytes.
        let most = 300 * 256;
        assert!(
            given_back
                .iter()
                .all(|bytes| (32_768..=most).contains(bytes))
        );
    });
}

#[test]
fn consumed_data_is_given_back_seldom_and_never_in_excess() {
    run(async {
        let mut peer = serving(Serve::Echo).await;
        peer.send([update(0, 1 << 20), post(1), update(1, 1 << 20)].concat())
            .await;
        let (mut updates, mut left) = (0, [65_535_u32; 2]);
        let mut sent = 0;
        while sent < 500_000 {
            let now = left[0].min(left[1]).min(1_000);
            assert!(now > 0, "the window comes back before it is spent");
            peer.send(frame(DATA, 0, 1, vec![0; now as usize])).await;
            sent += now;
            left = left.map(|left| left - now);
            for update in peer.quiet().await {
                if update.kind == WINDOW_UPDATE {
                    updates += 1;
                    left[update.stream as usize] += update.number(0);
                }
            }
            assert!(left.iter().all(|left| *left <= 65_535));
        }
        assert!(updates <= 2 * (500_000 / 32_767 + 1), "{updates}");
    });
}

#[test]
fn a_window_is_raised_by_something_and_stays_within_31_bits() {
    #[track_caller]
    fn check(bytes: Vec<u8>, code: u32, cause: &str) {
        run(async {
            let mut peer = serving(Serve::Hold).await;
            peer.send(post(1)).await;
            peer.send(bytes).await;
            peer.ends(code, cause).await;
        });
    }
    check(update(0, 0), PROTOCOL_ERROR, "window");
    check(update(0, i32::MAX as u32), FLOW_CONTROL_ERROR, "window");
    check(
        frame(WINDOW_UPDATE, 0, 0, [0; 3]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    check(
        frame(WINDOW_UPDATE, 0, 1, [0; 5]),
        FRAME_SIZE_ERROR,
        "frame_size",
    );
    // The windows of live streams rise with the setting.
    let raised = [update(1, 1), settings(&[(4, i32::MAX as u32)])].concat();
    check(raised, FLOW_CONTROL_ERROR, "window");
    for (by, code) in [(0, PROTOCOL_ERROR), (i32::MAX as u32, FLOW_CONTROL_ERROR)] {
        run(async {
            let mut peer = serving(Serve::Hold).await;
            peer.send(post(1)).await;
            peer.send(update(1, by)).await;
            peer.resets(1, code).await;
        });
    }
    run(async {
        let mut peer = serving(Serve::Hold).await;
        let most = i32::MAX as u32 - 65_535;
        peer.send([post(1), update(0, most), update(1, most)].concat())
            .await;
        assert_eq!(peer.quiet().await, []);
    });
}

#[test]
fn we_send_what_the_streams_window_allows_even_below_nothing() {
    run(async {
        let mut peer = serving(Serve::Send(1_000)).await;
        peer.send([settings(&[(4, 10)]), get(1)].concat()).await;
        sends(&mut peer, 10).await;
        peer.send(update(1, 5)).await;
        sends(&mut peer, 5).await;
        // Ten less: nothing is left, and ten are owed.
        peer.send(settings(&[(4, 0)])).await;
        peer.send(update(1, 10)).await;
        sends(&mut peer, 0).await;
        peer.send(update(1, 1)).await;
        sends(&mut peer, 1).await;
        peer.send(settings(&[(4, 7)])).await;
        sends(&mut peer, 7).await;
        peer.send(settings(&[(4, 1 << 20)])).await;
        let seen = peer.until(|frame| frame.stream == 1 && frame.ends()).await;
        assert_eq!(data_of(&seen), 1_000 - 10 - 5 - 1 - 7);
    });
}

#[test]
fn we_send_what_the_connections_window_allows_and_all_streams_get_of_it() {
    run(async {
        let mut peer = serving(Serve::Send(200_000)).await;
        peer.send(settings(&[(4, 1 << 20)])).await;
        peer.send([get(1), get(3), get(5)].concat()).await;
        let mut seen = vec![0; 6];
        let mut taken = 0;
        let mut take = |frames: &[Frame]| {
            for frame in frames {
                if frame.kind == DATA {
                    seen[frame.stream as usize] += frame.payload.len();
                }
            }
            let now = data_of(frames);
            taken += now;
            (now, seen.clone())
        };
        let mut more = 65_535;
        loop {
            let mut now = 0;
            // The streams' tasks may need more than one turn to use the window up.
            while now < more {
                let (came, _) = take(&peer.quiet().await);
                now += came;
            }
            assert_eq!(now, more);
            let (_, seen) = take(&peer.quiet().await);
            let most = seen.iter().max().unwrap();
            let least = [seen[1], seen[3], seen[5]].into_iter().min().unwrap();
            if least > 100_000 {
                break;
            }
            // Whoever came first may be a window ahead; nobody starves.
            assert!(most - least <= 2 * 65_535, "{seen:?}");
            more = 49_152;
            peer.send(update(0, more as u32)).await;
        }
    });
}

#[test]
fn frames_that_we_send_are_as_large_as_the_peer_takes_them() {
    run(async {
        let mut peer = serving(Serve::Send(60_000)).await;
        peer.send(get(1)).await;
        let seen = peer.until(|frame| frame.stream == 1 && frame.ends()).await;
        assert!(seen.iter().all(|frame| frame.payload.len() <= 16_384));
        peer.send([settings(&[(5, 20_000), (4, 1 << 20)]), update(0, 1 << 20)].concat())
            .await;
        let _ = peer.quiet().await;
        peer.send(get(3)).await;
        let seen = peer.until(|frame| frame.stream == 3 && frame.ends()).await;
        assert_eq!(data_of(&seen), 60_000);
        assert!(seen.iter().all(|frame| frame.payload.len() <= 20_000));
    });
}
