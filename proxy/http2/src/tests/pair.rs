//! Our client with our server.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::Reason;

#[test]
fn a_call_passes_with_head_data_and_trailers() {
    run(async {
        let mut send = echoing().await;
        let (response, mut body) = send.send_request(post("/a"), false).unwrap();
        body.send_data(Bytes::from_static(b"question"), true)
            .unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let (data, last) = read_all(response.body_mut()).await;
        assert_eq!(data, b"question");
        assert_eq!(last, Some(trailers()));
        assert!(response.body().is_end_stream());
    });
}

#[test]
fn large_bodies_pass_through_small_windows_side_by_side() {
    run(async {
        let send = echoing().await;
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..20 {
            let mut send = send.clone();
            calls.spawn_local(async move {
                let expected = pattern(300_000 + n);
                let (response, mut body) = send.send_request(post("/a"), false).unwrap();
                let sent = expected.clone();
                let upload = async {
                    send_all(&mut body, sent).await;
                    body.send_data(Bytes::new(), true).unwrap();
                };
                let download = async {
                    let mut response = response.await.unwrap();
                    read_all(response.body_mut()).await.0
                };
                let ((), data) = tokio::join!(upload, download);
                assert!(data == expected);
            });
        }
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
    });
}

#[test]
fn a_client_waits_until_the_server_takes_another_stream() {
    run(async {
        let builder = server::Builder::new().max_concurrent_streams(1);
        let (send, mut requests) = serving(client::Builder::new(), builder).await;
        let mut first = send.clone();
        let (first_response, _) = first.send_request(post("/first"), true).unwrap();
        let (_, mut respond) = requests.recv().await.unwrap();
        assert_eq!(first.current_max_send_streams(), 1);
        let mut second = Box::pin(send.ready());
        assert!(futures_ready(&mut second).await.is_none());
        respond.send_response(Response::new(()), true).unwrap();
        first_response.await.unwrap();
        let mut send = second.await.unwrap();
        let (response, _) = send.send_request(post("/second"), true).unwrap();
        let (request, mut respond) = requests.recv().await.unwrap();
        assert_eq!(request.uri().path(), "/second");
        respond.send_response(Response::new(()), true).unwrap();
        response.await.unwrap();
    });
}

/// Polls a future once.
async fn futures_ready<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[test]
fn an_interim_response_comes_before_the_final_one() {
    run(async {
        let (mut send, mut requests) =
            serving(client::Builder::new(), server::Builder::new()).await;
        let (mut response, _) = send.send_request(post("/"), true).unwrap();
        let (_, mut respond) = requests.recv().await.unwrap();
        let mut hints = Response::new(());
        *hints.status_mut() = StatusCode::EARLY_HINTS;
        respond.send_informational(hints).unwrap();
        let interim = poll_fn(|cx| response.poll_informational(cx)).await;
        assert_eq!(interim.unwrap().unwrap().status(), StatusCode::EARLY_HINTS);
        respond.send_response(Response::new(()), true).unwrap();
        assert!(
            poll_fn(|cx| response.poll_informational(cx))
                .await
                .is_none()
        );
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn a_reset_reaches_both_directions_of_the_other_end() {
    run(async {
        let (mut send, mut requests) =
            serving(client::Builder::new(), server::Builder::new()).await;
        let (response, mut body) = send.send_request(post("/"), false).unwrap();
        body.send_data(Bytes::from_static(b"begin"), false).unwrap();
        let (request, mut respond) = requests.recv().await.unwrap();
        let mut received = request.into_body();
        assert_eq!(received.data().await.unwrap().unwrap(), "begin");
        body.send_reset(Reason::INADEQUATE_SECURITY);
        let told = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
        assert_eq!(told, Reason::INADEQUATE_SECURITY);
        let error = received.data().await.unwrap().unwrap_err();
        assert!(error.is_reset() && error.is_remote());
        assert!(respond.send_response(Response::new(()), true).is_err());
        assert!(response.await.unwrap_err().is_reset());
    });
}

#[test]
fn what_is_dropped_unfinished_is_reset() {
    run(async {
        let (mut send, mut requests) =
            serving(client::Builder::new(), server::Builder::new()).await;
        let call = send.send_request(post("/"), false).unwrap();
        let (_request, mut respond) = requests.recv().await.unwrap();
        drop(call);
        let told = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
        assert_eq!(told, Reason::CANCEL);

        let (response, _body) = send.send_request(post("/"), false).unwrap();
        drop(requests.recv().await.unwrap());
        assert_eq!(response.await.unwrap_err().reason(), Some(Reason::CANCEL));

        // Whoever answers without reading on says that this was no fault.
        let (response, mut body) = send.send_request(post("/"), false).unwrap();
        let (request, mut respond) = requests.recv().await.unwrap();
        respond.send_response(Response::new(()), true).unwrap();
        drop((request, respond));
        let told = poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(told, Reason::NO_ERROR);
        let mut response = response.await.unwrap();
        assert!(response.body_mut().data().await.is_none());
    });
}

#[test]
fn unread_data_of_a_dropped_stream_gives_the_connection_its_window_back() {
    run(async {
        let (mut send, mut requests) =
            serving(client::Builder::new(), server::Builder::new()).await;
        // Each leaves a whole window unread, and the connection has room for one.
        for _ in 0..5 {
            let (_response, mut body) = send.send_request(post("/"), false).unwrap();
            body.send_data(pattern(60_000), false).unwrap();
            let (request, respond) = requests.recv().await.unwrap();
            let mut received = request.into_body();
            let mut left = 60_000;
            while left > 0 {
                left -= received.data().await.unwrap().unwrap().len();
            }
            drop((received, respond));
        }
    });
}

#[test]
fn a_slow_reader_slows_its_writer_down_and_not_its_neighbours() {
    run(async {
        let client = client::Builder::new().initial_connection_window_size(1 << 20);
        let server = server::Builder::new().initial_connection_window_size(1 << 20);
        let (mut send, mut requests) = serving(client, server).await;
        let (_slow, mut slow) = send.send_request(post("/slow"), false).unwrap();
        let (unread, _respond) = requests.recv().await.unwrap();
        let mut sent = 0;
        while let Some(Some(Ok(room))) =
            futures_ready(&mut Box::pin(poll_fn(|cx| slow.poll_capacity(cx)))).await
        {
            slow.send_data(pattern(room), false).unwrap();
            sent += room;
        }
        assert_eq!(sent, 65_535, "one window");
        let (_quick, mut quick) = send.send_request(post("/quick"), false).unwrap();
        let (request, _respond) = requests.recv().await.unwrap();
        let upload = async {
            send_all(&mut quick, pattern(500_000)).await;
            quick.send_data(Bytes::new(), true).unwrap();
        };
        let mut body = request.into_body();
        let ((), (data, _)) = tokio::join!(upload, read_all(&mut body));
        assert_eq!(data.len(), 500_000);
        drop(unread);
    });
}

#[test]
fn a_server_that_leaves_finishes_what_it_has_and_takes_no_more() {
    run(async {
        let (near, far) = pipe();
        let (mut send, connection) = client::Builder::new().handshake(near);
        let ended = tokio::task::spawn_local(connection);
        let (response, _) = send.send_request(post("/"), true).unwrap();
        let mut server = server::Builder::new().handshake(far).await.unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        server.graceful_shutdown();
        let serve = tokio::task::spawn_local(async move { server.accept().await.is_none() });
        let error = loop {
            tokio::task::yield_now().await;
            match send.send_request(post("/late"), true) {
                // It was on its way before the farewell came.
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(error.is_go_away() && error.is_remote());
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        drop(send);
        drop(respond);
        // The late ones were looked at by nobody, and end with the connection.
        let _ = ended.await.unwrap();
        let _ = serve.await.unwrap();
    });
}

#[test]
fn a_client_connection_ends_with_its_last_handle() {
    run(async {
        let (near, far) = pipe();
        let (send, connection) = client::Builder::new().handshake(near);
        let ended = tokio::task::spawn_local(connection);
        let server = server::Builder::new().handshake(far).await.unwrap();
        let served = tokio::task::spawn_local(echo(server));
        let mut again = send.clone();
        let (response, _) = again.send_request(post("/"), true).unwrap();
        drop(send);
        drop(again);
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        ended.await.unwrap().unwrap();
        served.await.unwrap().unwrap();
    });
}

#[test]
fn a_broken_connection_is_an_error_of_its_streams() {
    run(async {
        let (near, far) = pipe();
        let (mut send, connection) = client::Builder::new().handshake(near);
        let ended = tokio::task::spawn_local(connection);
        let (response, _body) = send.send_request(post("/"), false).unwrap();
        let mut server = server::Builder::new().handshake(far).await.unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        drop(server);
        assert!(response.await.unwrap_err().is_io());
        ended.await.unwrap().unwrap();
        assert!(send.ready().await.is_err());
        assert!(
            poll_fn(|cx| respond.poll_reset(cx))
                .await
                .unwrap_err()
                .is_io()
        );
        drop(request);
    });
}

#[test]
fn a_head_larger_than_a_frame_passes_and_one_above_the_limit_is_refused() {
    run(async {
        let server = server::Builder::new().max_header_list_size(100_000);
        let (mut send, mut requests) = serving(client::Builder::new(), server).await;
        let large = |length: usize| {
            let mut request = post("/");
            let value = HeaderValue::from_str(&"a".repeat(length)).unwrap();
            request.headers_mut().insert("large", value);
            request
        };
        let (response, _) = send.send_request(large(70_000), true).unwrap();
        let (request, mut respond) = requests.recv().await.unwrap();
        assert_eq!(request.headers()["large"].len(), 70_000);
        respond.send_response(Response::new(()), true).unwrap();
        response.await.unwrap();
        let (response, _) = send.send_request(large(120_000), true).unwrap();
        let status = response.await.unwrap().status();
        assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    });
}

#[test]
fn what_is_sent_in_one_turn_leaves_in_one_write() {
    run(async {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let writes = Rc::new(Cell::new(0));
        let counted = Counted {
            io: near,
            writes: Rc::clone(&writes),
        };
        let (mut send, connection) = client::Builder::new().handshake(counted);
        tokio::task::spawn_local(connection);
        let mut calls = Vec::new();
        for _ in 0..10 {
            let (response, mut body) = send.send_request(post("/"), false).unwrap();
            body.send_data(pattern(100), false).unwrap();
            body.send_trailers(trailers()).unwrap();
            calls.push((response, body));
        }
        let mut first = [0; 24];
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut first)
            .await
            .unwrap();
        assert_eq!(writes.get(), 1);
    });
}

/// Counts how often it is written to.
struct Counted {
    io: DuplexStream,
    writes: Rc<Cell<u32>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes.set(self.writes.get() + 1);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
