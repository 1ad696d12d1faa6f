//! Who may connect: promises 1, 2 and 4 as the data path keeps them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vouchsafe_config::policy::Lane;

use crate::support::{
    LANES, Mesh, Pair, Sidecar, Wish, application, ask, read_all, read_until, run, soon, until,
};

const ASK: &str = "GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn without_an_identity_everything_is_denied() {
    run(async {
        for lane in LANES {
            let server = application(|_| async { panic!("reached") }).await;
            let pair = Pair::start(lane, "web", server);
            pair.client.state.identity.store(None);
            let answer = ask(pair.client.calls(0), ASK).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("vouchsafe-reason: no_identity"), "{answer}");
            pair.server.state.identity.store(None);
            let answer = ask(pair.server.door(), ASK).await;
            assert_eq!(answer, "");
            let label = &["reason=\"no_identity\""];
            pair.server.counts("vouchsafe_failures_total", label).await;
        }
    });
}

#[test]
fn plaintext_is_closed_and_counted() {
    run(async {
        let server = application(|_| async { panic!("reached") }).await;
        let pair = Pair::start(Lane::Shared, "web", server);
        let answer = ask(pair.server.door(), ASK).await;
        assert!(!answer.contains("HTTP"), "{answer}");
        let label = &["reason=\"plaintext\""];
        pair.server
            .counts("vouchsafe_handshake_failures_total", label)
            .await;
    });
}

#[test]
fn a_workload_that_no_rule_names_is_denied() {
    run(async {
        for lane in LANES {
            let server = application(|_| async { panic!("reached") }).await;
            let mesh = Mesh::new();
            let wish = Wish::new("app/server", lane).behind("web", server);
            let server = Sidecar::start(&mesh, wish);
            let wish = Wish::new("app/stranger", lane).calls("web", server.door());
            let stranger = Sidecar::start(&mesh, wish);
            let answer = ask(stranger.calls(0), ASK).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
            assert!(answer.contains("vouchsafe-reason: no_rule"), "{answer}");
            let log = stranger.end().await;
            assert!(log.contains("\"decision\":\"deny\""), "{log}");
        }
    });
}

#[test]
fn a_server_that_is_another_workload_is_not_called() {
    run(async {
        for lane in LANES {
            let server = application(|_| async { panic!("reached") }).await;
            let mesh = Mesh::new();
            let wish = Wish::new("app/stranger", lane).behind("web", server);
            let impostor = Sidecar::start(&mesh, wish);
            let wish = Wish::new("app/client", lane).calls("web", impostor.door());
            let client = Sidecar::start(&mesh, wish);
            let answer = ask(client.calls(0), ASK).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("vouchsafe-reason: wrong_peer"), "{answer}");
        }
    });
}

#[test]
fn a_peer_of_a_foreign_authority_is_refused_with_its_reason() {
    run(async {
        for lane in LANES {
            let server = application(|_| async { panic!("reached") }).await;
            let pair = Pair::start(lane, "web", server);
            let foreign = Mesh::new();
            let epoch = foreign.svid("app/client", Duration::from_secs(60));
            let identity = pair.mesh.identity(2, epoch);
            pair.client.state.identity.store(Some(identity));
            let answer = ask(pair.client.calls(0), ASK).await;
            assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
            let label = &["reason=\"untrusted_authority\""];
            pair.server
                .counts("vouchsafe_handshake_failures_total", label)
                .await;
        }
    });
}

#[test]
fn a_flow_does_not_outlive_the_certificates() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                stream.write_all(b"x").await.unwrap();
                let _ = stream.read(&mut [0; 1]).await;
            })
            .await;
            let mesh = Mesh::new();
            let wish = Wish::new("app/server", lane).behind("raw", server);
            let server = Sidecar::start(&mesh, wish);
            let mut wish = Wish::new("app/client", lane).calls("raw", server.door());
            wish.lifetime = Duration::from_secs(6);
            let client = Sidecar::start(&mesh, wish);
            let mut stream = TcpStream::connect(client.calls(0)).await.unwrap();
            assert_eq!(read_until(&mut stream, "x").await, "x");
            assert_eq!(read_all(&mut stream).await, "");
            // Whichever end comes first to it tells the other by closing.
            let logs = [client.end().await, server.end().await];
            let cut = logs.iter().any(|log| log.contains("lease_ended"));
            assert!(cut, "{lane:?}: {logs:?}");
        }
    });
}

#[test]
fn a_new_certificate_opens_a_new_connection_and_breaks_nothing() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                let mut byte = [0; 1];
                while stream.read_exact(&mut byte).await.is_ok() {
                    stream.write_all(&byte).await.unwrap();
                }
            })
            .await;
            let pair = Pair::start(lane, "raw", server);
            let mut old = pair.connect().await;
            old.write_all(b"a").await.unwrap();
            assert_eq!(read_until(&mut old, "a").await, "a");
            let svid = pair.mesh.svid("app/client", Duration::from_secs(3600));
            let identity = pair.mesh.identity(2, svid);
            pair.client.state.identity.store(Some(identity));
            let mut new = pair.connect().await;
            new.write_all(b"b").await.unwrap();
            assert_eq!(read_until(&mut new, "b").await, "b");
            old.write_all(b"c").await.unwrap();
            assert_eq!(read_until(&mut old, "c").await, "c");
            let opened = &["direction=\"inbound\"", lane_label(lane)];
            let count = pair.server.metric("vouchsafe_connections_total", opened);
            assert!(count >= 2.0, "{lane:?}: {count}");
        }
    });
}

fn lane_label(lane: Lane) -> &'static str {
    match lane {
        Lane::Dedicated => "lane=\"dedicated\"",
        Lane::Shared | Lane::Auto => "lane=\"shared\"",
    }
}

#[test]
fn live_connections_are_listed_until_they_end() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                stream.write_all(b"x").await.unwrap();
                let _ = stream.read(&mut [0; 1]).await;
            })
            .await;
            let pair = Pair::start(lane, "raw", server);
            let mut stream = pair.connect().await;
            assert_eq!(read_until(&mut stream, "x").await, "x");
            let connections = pair.server.workers.as_ref().unwrap().connections();
            let listed = soon("an answer", connections.list()).await;
            let peer = "spiffe://test.example/ns/app/workload/client";
            assert_eq!(listed[0].peer.as_deref(), Some(peer));
            assert_eq!(listed[0].streams, 1);
            let open = &listed[0].open[0];
            assert_eq!((open.port.as_str(), &open.path), ("raw", &None));
            let rule = open.rule.as_deref().unwrap();
            assert!(rule.starts_with("AccessPolicy app/raw:"), "{rule}");
        }
    });
}

#[test]
fn half_open_handshakes_do_not_keep_an_honest_peer_out() {
    run(async {
        let server = application(|mut stream| async move {
            stream.write_all(b"x").await.unwrap();
        })
        .await;
        let mesh = Mesh::new();
        let mut wish = Wish::new("app/server", Lane::Shared).behind("raw", server);
        wish.limits.handshakes = 4;
        let server = Sidecar::start(&mesh, wish);
        let wish = Wish::new("app/client", Lane::Shared).calls("raw", server.door());
        let client = Sidecar::start(&mesh, wish);
        let mut idle = Vec::new();
        for _ in 0..50 {
            idle.push(TcpStream::connect(server.door()).await.unwrap());
        }
        let evicted = &["reason=\"handshake_limit\""];
        until("evictions", || {
            server.metric("vouchsafe_handshake_failures_total", evicted) >= 46.0
        })
        .await;
        let mut stream = TcpStream::connect(client.calls(0)).await.unwrap();
        assert_eq!(read_until(&mut stream, "x").await, "x");
    });
}
