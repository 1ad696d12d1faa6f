//! Opaque flows.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    LANES, Mesh, Pair, Sidecar, Wish, application, read_all, read_until, refusing, run, soon,
};

#[test]
fn both_halves_of_a_flow_close_by_themselves() {
    run(async {
        for lane in LANES {
            // Reads everything first, and answers only after the end.
            let server = application(|mut stream| async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                all.reverse();
                stream.write_all(&all).await.unwrap();
            })
            .await;
            let pair = Pair::start(lane, "raw", server);
            let mut stream = pair.connect().await;
            stream.write_all(b"abc").await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(read_all(&mut stream).await, "cba", "{lane:?}");
            let log = pair.server.end().await;
            assert!(log.contains("\"decision\":\"allow\""), "{log}");
            assert!(
                log.contains("\"received_bytes\":3,\"sent_bytes\":3"),
                "{log}"
            );
        }
    });
}

#[test]
fn a_server_may_speak_first_and_end_first() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                stream.write_all(b"hello\n").await.unwrap();
                stream.shutdown().await.unwrap();
                let mut rest = String::new();
                stream.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, "still heard");
            })
            .await;
            let pair = Pair::start(lane, "raw", server);
            let mut stream = pair.connect().await;
            assert_eq!(read_until(&mut stream, "\n").await, "hello\n");
            assert_eq!(soon("the end", stream.read(&mut [0; 9])).await.unwrap(), 0);
            stream.write_all(b"still heard").await.unwrap();
            stream.shutdown().await.unwrap();
            let log = pair.client.end().await;
            assert!(log.contains("\"reason\":null"), "{lane:?}: {log}");
        }
    });
}

#[test]
fn much_passes_unchanged_through_a_slow_reader() {
    run(async {
        for lane in LANES {
            const BYTES: usize = 8 * 1024 * 1024;
            let server = application(|mut stream| async move {
                let mut left = BYTES;
                let mut at = 0_usize;
                while left > 0 {
                    let chunk: Vec<u8> = (at..at + left.min(70_001)).map(|n| n as u8).collect();
                    stream.write_all(&chunk).await.unwrap();
                    at += chunk.len();
                    left -= chunk.len();
                }
            })
            .await;
            let pair = Pair::start(lane, "raw", server);
            let mut stream = pair.connect().await;
            let mut seen = 0_usize;
            let mut bytes = vec![0; 3_001];
            loop {
                let count = soon("bytes", stream.read(&mut bytes)).await.unwrap();
                if count == 0 {
                    break;
                }
                assert!(
                    (seen..)
                        .zip(&bytes[..count])
                        .all(|(n, byte)| n as u8 == *byte)
                );
                seen += count;
            }
            assert_eq!(seen, BYTES, "{lane:?}");
        }
    });
}

#[test]
fn a_client_that_goes_away_ends_the_application_s_connection() {
    run(async {
        for lane in LANES {
            let ended = Rc::new(Cell::new(false));
            let seen = Rc::clone(&ended);
            let server = application(move |mut stream| {
                let seen = Rc::clone(&seen);
                async move {
                    stream.write_all(b"x").await.unwrap();
                    // A reset or an end, either way.
                    let _ = stream.read(&mut [0; 1]).await;
                    seen.set(true);
                }
            })
            .await;
            let pair = Pair::start(lane, "raw", server);
            let mut stream = pair.connect().await;
            assert_eq!(read_until(&mut stream, "x").await, "x");
            stream.set_zero_linger().unwrap();
            drop(stream);
            crate::support::until("the application to be told", || ended.get()).await;
        }
    });
}

#[test]
fn a_dead_application_closes_the_flow_with_a_reason() {
    run(async {
        for lane in LANES {
            let (_held, address) = refusing();
            let pair = Pair::start(lane, "raw", address);
            let mut stream = pair.connect().await;
            assert_eq!(read_all(&mut stream).await, "");
            let failed = &["direction=\"inbound\"", "reason=\"unreachable\""];
            pair.server.counts("vouchsafe_failures_total", failed).await;
        }
    });
}

#[test]
fn silence_ends_a_flow_only_where_it_was_forbidden() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            })
            .await;
            let mesh = Mesh::new();
            let mut wish = Wish::new("app/server", lane).behind("raw", server);
            wish.limits.idle = Some(Duration::from_secs(3));
            let server = Sidecar::start(&mesh, wish);
            let wish = Wish::new("app/client", lane).calls("raw", server.door());
            let client = Sidecar::start(&mesh, wish);
            let mut stream = TcpStream::connect(client.calls(0)).await.unwrap();
            // As long as something passes it lives, for longer than the bound.
            for _ in 0..40 {
                stream.write_all(b"x").await.unwrap();
                assert_eq!(read_until(&mut stream, "x").await, "x", "{lane:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(read_all(&mut stream).await, "");
            let cut = &["reason=\"idle\""];
            server.counts("vouchsafe_connection_cuts_total", cut).await;
        }
    });
}
