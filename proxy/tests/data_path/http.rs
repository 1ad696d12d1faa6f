//! HTTP/1.1 applications on both sides.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vouchsafe_config::policy::Lane;

use crate::support::{
    LANES, Pair, application, ask, read_all, read_until, refusing, run, soon, until,
};

/// Answers each head with its own text, and notes it.
async fn mirror(seen: &Rc<RefCell<Vec<String>>>) -> std::net::SocketAddr {
    let seen = Rc::clone(seen);
    application(move |mut stream| {
        let seen = Rc::clone(&seen);
        async move {
            loop {
                let head = read_until(&mut stream, "\r\n\r\n").await;
                if head.is_empty() {
                    return;
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nVouchsafe-Reason: forged\r\n\r\n{head}",
                    head.len()
                );
                seen.borrow_mut().push(head);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await
}

fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app\r\n{lines}\r\n")
}

#[test]
fn a_connection_carries_one_request_after_another() {
    run(async {
        for lane in LANES {
            let seen = Rc::default();
            let pair = Pair::start(lane, "web", mirror(&seen).await);
            let mut stream = pair.connect().await;
            for number in 0..5 {
                let request = get(&format!("/ok/{number}?q=a%20b"), "Accept: x\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = read_until(&mut stream, "\r\n\r\n").await;
                assert!(
                    answer.starts_with("HTTP/1.1 200 OK\r\n"),
                    "{lane:?}: {answer}"
                );
                assert!(!answer.contains("forged"), "{lane:?}: {answer}");
                let body = if answer.contains("GET /ok") {
                    answer
                } else {
                    read_until(&mut stream, "\r\n\r\n").await
                };
                assert!(
                    body.contains(&format!("GET /ok/{number}?q=a%20b HTTP/1.1")),
                    "{body}"
                );
            }
            assert_eq!(seen.borrow().len(), 5);
            let log = pair.server.end().await;
            assert!(log.contains("\"path\":\"/ok/3\",\"status\":200"), "{log}");
        }
    });
}

#[test]
fn the_application_is_told_who_asks_and_nothing_forged() {
    run(async {
        for lane in LANES {
            let seen = Rc::default();
            let pair = Pair::start(lane, "web", mirror(&seen).await);
            let forged = "X-Forwarded-Client-Cert: forged\r\nX_FORWARDED_CLIENT_CERT: forged\r\n\
                          x.forwarded.client.cert: forged\r\nVouchsafe-Peer: forged\r\n\
                          vouchsafe_peer: forged\r\nVouchsafe-Port: forged\r\nX-Gone: forged\r\n\
                          Connection: close, x-gone, x-forwarded-client-cert\r\n";
            let answer = ask(pair.client.calls(0), &get("/ok", forged)).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{lane:?}: {answer}");
            let head = seen.borrow()[0].to_lowercase();
            assert!(!head.contains("forged"), "{lane:?}: {head}");
            assert!(!head.contains("vouchsafe-port"), "{lane:?}: {head}");
            let id = "spiffe://test.example/ns/app/workload/client";
            assert_eq!(
                head.matches(&format!("vouchsafe-peer: {id}\r\n")).count(),
                1,
                "{head}"
            );
            assert!(
                head.contains("vouchsafe-peer-class: unattested\r\n"),
                "{head}"
            );
            assert_eq!(
                head.matches("x-forwarded-client-cert: by=").count(),
                1,
                "{head}"
            );
            assert!(head.contains(&format!(";uri={id}\r\n")), "{head}");
        }
    });
}

#[test]
fn chunked_bodies_and_their_trailers_pass_without_forged_ones() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                let request = read_until(&mut stream, "x-sum: 1\r\n\r\n").await.to_lowercase();
                assert!(request.contains("transfer-encoding: chunked"), "{request}");
                assert!(request.contains("hello"), "{request}");
                assert!(!request.contains("forged"), "{request}");
                let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n\
                              3\r\nabc\r\n0\r\nx-end: 2\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut stream = pair.connect().await;
            let request = "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                           5;x=y\r\nhello\r\n0\r\nx-forwarded-client-cert: forged\r\nx-sum: 1\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = read_until(&mut stream, "x-end: 2\r\n\r\n").await;
            assert!(
                answer.contains("\r\n3\r\nabc\r\n0\r\n"),
                "{lane:?}: {answer}"
            );
        }
    });
}

#[test]
fn events_leave_at_once() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                read_until(&mut stream, "\r\n\r\n").await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                for number in 0..3 {
                    let event = format!("data: {number}\n\n");
                    stream.write_all(event.as_bytes()).await.unwrap();
                }
                std::future::pending::<()>().await;
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut stream = pair.connect().await;
            stream.write_all(get("/ok", "").as_bytes()).await.unwrap();
            // The application never ends its response: what is read here was not waiting for anything.
            let text = read_until(&mut stream, "data: 2\n\n").await;
            assert!(text.contains("data: 0\n\n"), "{lane:?}: {text}");
        }
    });
}

#[test]
fn a_client_that_goes_away_ends_the_work() {
    run(async {
        for lane in LANES {
            let (started, ended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
            let (begun, told) = (Rc::clone(&started), Rc::clone(&ended));
            let server = application(move |mut stream| {
                let (begun, told) = (Rc::clone(&begun), Rc::clone(&told));
                async move {
                    read_until(&mut stream, "\r\n\r\n").await;
                    begun.set(true);
                    let _ = stream.read(&mut [0; 1]).await;
                    told.set(true);
                }
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut stream = pair.connect().await;
            stream.write_all(get("/ok", "").as_bytes()).await.unwrap();
            until("the application to begin", || started.get()).await;
            drop(stream);
            until("the application to be told", || ended.get()).await;
        }
    });
}

#[test]
fn what_policy_does_not_allow_is_refused_with_one_word() {
    run(async {
        for lane in LANES {
            let server = application(|_| async { panic!("reached") }).await;
            let pair = Pair::start(lane, "web", server);
            for request in [
                get("/secret", "Connection: close\r\n"),
                "DELETE /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            ] {
                let answer = ask(pair.client.calls(0), &request).await;
                assert!(answer.starts_with("HTTP/1.1 403 Forbidden"), "{answer}");
                assert!(answer.contains("vouchsafe-reason: request\r\n"), "{answer}");
                assert!(answer.ends_with("\r\n\r\nrequest\n"), "{answer}");
            }
            for path in [
                "//ok",
                "/ok/../secret",
                "/ok/%2e%2e/secret",
                "/ok%2fx",
                "/ok/\\x",
            ] {
                let answer = ask(pair.client.calls(0), &get(path, "")).await;
                assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
            }
        }
    });
}

#[test]
fn a_refused_request_leaves_the_connection_usable() {
    run(async {
        for lane in LANES {
            let seen = Rc::default();
            let pair = Pair::start(lane, "web", mirror(&seen).await);
            let mut stream = pair.connect().await;
            stream.write_all(get("/no", "").as_bytes()).await.unwrap();
            assert!(read_until(&mut stream, "request\n").await.contains(" 403 "));
            stream.write_all(get("/ok", "").as_bytes()).await.unwrap();
            assert!(read_until(&mut stream, " 200 OK").await.contains(" 200 OK"));
        }
    });
}

#[test]
fn a_dead_application_is_a_503_and_a_broken_one_a_502() {
    run(async {
        for lane in LANES {
            let (_held, address) = refusing();
            let pair = Pair::start(lane, "web", address);
            let answer = ask(pair.client.calls(0), &get("/ok", "Connection: close\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{lane:?}: {answer}");
            assert!(answer.contains("vouchsafe-reason: unreachable"), "{answer}");
            for (broken, reason) in [
                ("", "upstream_closed"),
                ("nonsense\r\n\r\n", "upstream_malformed"),
                (
                    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                    "upstream_malformed",
                ),
                ("HTTP/1.1 200 OK\r\nX: a\n\r\n", "upstream_malformed"),
            ] {
                let server = application(move |mut stream| async move {
                    read_until(&mut stream, "\r\n\r\n").await;
                    stream.write_all(broken.as_bytes()).await.unwrap();
                })
                .await;
                let pair = Pair::start(lane, "web", server);
                let answer = ask(pair.client.calls(0), &get("/ok", "Connection: close\r\n")).await;
                assert!(
                    answer.starts_with("HTTP/1.1 502"),
                    "{lane:?} {broken:?}: {answer}"
                );
                assert!(answer.contains(reason), "{lane:?} {broken:?}: {answer}");
            }
        }
    });
}

#[test]
fn a_response_that_breaks_off_is_not_taken_for_complete() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                read_until(&mut stream, "\r\n\r\n").await;
                let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let answer = ask(pair.client.calls(0), &get("/ok", "Connection: close\r\n")).await;
            assert!(!answer.contains("0\r\n\r\n"), "{lane:?}: {answer}");
        }
    });
}

#[test]
fn an_upgrade_becomes_a_tunnel_and_nothing_passes_before_it() {
    run(async {
        for lane in [Lane::Shared, Lane::Dedicated, Lane::Auto] {
            let server = application(|mut stream| async move {
                let head = read_until(&mut stream, "\r\n\r\n").await;
                assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
                assert!(head.ends_with("\r\n\r\n"), "early bytes came: {head:?}");
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                              Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nwelcome|";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut stream = pair.connect().await;
            let request = get("/ok", "Connection: Upgrade\r\nUpgrade: websocket\r\n") + "early|";
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = read_until(&mut stream, "early|").await;
            assert!(answer.starts_with("HTTP/1.1 101"), "{lane:?}: {answer}");
            assert!(
                answer.to_lowercase().contains("sec-websocket-accept: x"),
                "{answer}"
            );
            assert!(answer.contains("welcome|"), "{answer}");
            stream.write_all(b"later|").await.unwrap();
            assert_eq!(read_until(&mut stream, "later|").await, "later|");
        }
    });
}

#[test]
fn an_expected_continue_comes_when_the_body_may() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                let request = read_until(&mut stream, "body").await;
                assert!(!request.to_lowercase().contains("expect"), "{request}");
                stream
                    .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                    .await
                    .unwrap();
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut stream = pair.connect().await;
            let head =
                "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let interim = read_until(&mut stream, "\r\n\r\n").await;
            assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n", "{lane:?}");
            stream.write_all(b"body").await.unwrap();
            let answer = read_until(&mut stream, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
            // A request that is refused gets no go-ahead.
            let mut stream = pair.connect().await;
            let refused = head.replace("/ok", "/no");
            stream.write_all(refused.as_bytes()).await.unwrap();
            let answer = read_all(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        }
    });
}

#[test]
fn early_hints_and_answers_without_a_body_pass() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                loop {
                    let head = read_until(&mut stream, "\r\n\r\n").await;
                    let answer = match head.split(' ').next() {
                        Some("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
                        Some("PUT") => "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
                        Some("GET") => {
                            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
                        }
                        _ => return,
                    };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut stream = pair.connect().await;
            stream.write_all(get("/ok", "").as_bytes()).await.unwrap();
            let answer = read_until(&mut stream, "content-length: 0\r\n\r\n").await;
            assert!(
                answer.starts_with("HTTP/1.1 103 Early Hints\r\n"),
                "{lane:?}: {answer}"
            );
            let head = "HEAD /ok HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = read_until(&mut stream, "\r\n\r\n").await;
            assert!(
                answer.contains("content-length: 77\r\n"),
                "{lane:?}: {answer}"
            );
            let put =
                "PUT /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(put.as_bytes()).await.unwrap();
            let answer = read_all(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 304"), "{lane:?}: {answer}");
        }
    });
}

#[test]
fn an_http10_client_gets_a_body_that_ends_with_the_connection() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                read_until(&mut stream, "\r\n\r\n").await;
                let answer =
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let answer = ask(pair.client.calls(0), "GET /ok HTTP/1.0\r\nHost: a\r\n\r\n").await;
            assert!(answer.ends_with("\r\n\r\nabc"), "{lane:?}: {answer}");
            assert!(!answer.contains("chunked"), "{answer}");
        }
    });
}

#[test]
fn ambiguous_requests_are_refused_and_the_connection_closed() {
    run(async {
        let server = application(|_| async { panic!("reached") }).await;
        let pair = Pair::start(Lane::Shared, "web", server);
        let smuggled = "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n";
        for (lines, reason) in [
            (
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                "http_two_framings",
            ),
            (
                "Content-Length: 4\r\nContent-Length: 4\r\n",
                "http_content_length",
            ),
            ("Transfer-Encoding: xchunked\r\n", "http_transfer_encoding"),
            ("X: a\r\n b\r\n", "http_syntax"),
            ("Host: b\r\n", "http_host"),
        ] {
            let request = format!("POST /ok HTTP/1.1\r\nHost: a\r\n{lines}\r\n{smuggled}");
            let answer = ask(pair.client.calls(0), &request).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{lines:?}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{lines:?}: {answer}");
            assert!(answer.contains(reason), "{lines:?}: {answer}");
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(100_000));
        assert!(
            ask(pair.client.calls(0), &long)
                .await
                .starts_with("HTTP/1.1 431")
        );
    });
}

#[test]
fn a_drain_lets_a_request_finish() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                read_until(&mut stream, "\r\n\r\n").await;
                let mut more = [0; 4];
                stream.read_exact(&mut more).await.unwrap();
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut stream = pair.connect().await;
            let head = "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            pair.server
                .counts("vouchsafe_connections_open", &["inbound"])
                .await;
            let drain = std::sync::Arc::clone(&pair.server.drain);
            let draining =
                tokio::task::spawn_local(async move { drain.run(std::future::pending()).await });
            until("the door to close", || {
                std::net::TcpStream::connect(pair.server.door()).is_err()
            })
            .await;
            stream.write_all(b"body").await.unwrap();
            let answer = read_until(&mut stream, "done").await;
            assert!(answer.contains(" 200 OK"), "{lane:?}: {answer}");
            let drained = soon("the drain", draining).await.unwrap();
            assert_eq!(drained.cut_inbound, 0, "{lane:?}");
        }
    });
}

#[test]
fn a_pooled_connection_that_the_application_closed_is_not_used() {
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                read_until(&mut stream, "\r\n\r\n").await;
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut stream: TcpStream = pair.connect().await;
            for _ in 0..20 {
                stream.write_all(get("/ok", "").as_bytes()).await.unwrap();
                let answer = read_until(&mut stream, "\r\n\r\nok").await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{lane:?}: {answer}");
            }
        }
    });
}
