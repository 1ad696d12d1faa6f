//! Ours with the `h2` crate, at either end.

use std::future::poll_fn;

use http::StatusCode;

use super::*;
use crate::Reason;

/// Sends all of `data` by the `h2` crate.
async fn their_send(send: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
        let now = data.split_to(room.min(data.len()));
        send.send_data(now, false).unwrap();
    }
}

async fn their_read(receive: &mut h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = receive.data().await {
        let data = data.unwrap();
        all.extend_from_slice(&data);
        receive.flow_control().release_capacity(data.len()).unwrap();
    }
    (all, receive.trailers().await.unwrap())
}

async fn their_client() -> h2::client::SendRequest<Bytes> {
    let (near, far) = pipe();
    tokio::task::spawn_local(async move {
        let connection = server::Builder::new()
            .initial_window_size(20_000)
            .handshake(far)
            .await
            .unwrap();
        // The other end ends it as it likes.
        let _ = echo(connection).await;
    });
    let (send, connection) = h2::client::handshake(near).await.unwrap();
    tokio::task::spawn_local(connection);
    send
}

/// A server of theirs that echoes each request.
async fn their_server() -> client::SendRequest {
    let (near, far) = pipe();
    tokio::task::spawn_local(async move {
        let mut connection = h2::server::Builder::new()
            .initial_window_size(20_000)
            .max_concurrent_streams(5)
            .handshake::<_, Bytes>(far)
            .await
            .unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::task::spawn_local(async move {
                let mut body = request.into_body();
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    their_send(&mut send, data).await;
                }
                send.send_trailers(trailers()).unwrap();
            });
        }
    });
    let (send, connection) = client::Builder::new().handshake(near);
    tokio::task::spawn_local(connection);
    send
}

#[test]
fn their_client_is_served_side_by_side_through_small_windows() {
    run(async {
        let send = their_client().await;
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..20 {
            let mut send = send.clone();
            calls.spawn_local(async move {
                let expected = pattern(n * 10_000);
                let (response, mut body) = send.send_request(post("/a"), false).unwrap();
                let sent = expected.clone();
                let upload = async {
                    their_send(&mut body, sent).await;
                    body.send_data(Bytes::new(), true).unwrap();
                };
                let download = async {
                    let mut response = response.await.unwrap();
                    their_read(response.body_mut()).await
                };
                let ((), (data, last)) = tokio::join!(upload, download);
                assert!(data == expected);
                assert_eq!(last, Some(trailers()));
            });
        }
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
    });
}

#[test]
fn their_server_serves_side_by_side_through_small_windows() {
    run(async {
        let send = their_server().await;
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..20 {
            let send = send.clone();
            calls.spawn_local(async move {
                let expected = pattern(n * 10_000);
                let mut send = send.ready().await.unwrap();
                let (response, mut body) = send.send_request(post("/a"), false).unwrap();
                let sent = expected.clone();
                let upload = async {
                    send_all(&mut body, sent).await;
                    body.send_data(Bytes::new(), true).unwrap();
                };
                let download = async {
                    let mut response = response.await.unwrap();
                    read_all(response.body_mut()).await
                };
                let ((), (data, last)) = tokio::join!(upload, download);
                assert!(data == expected);
                assert_eq!(last, Some(trailers()));
            });
        }
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
    });
}

#[test]
fn resets_are_understood_in_both_directions() {
    run(async {
        let mut send = their_client().await;
        let (response, mut body) = send.send_request(post("/"), false).unwrap();
        let mut response = response.await.unwrap();
        body.send_reset(h2::Reason::CANCEL);
        assert!(response.body_mut().data().await.unwrap().is_err());
        // The connection goes on.
        let (response, _) = send.send_request(post("/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);

        let mut send = their_server().await;
        let (response, mut body) = send.send_request(post("/"), false).unwrap();
        let mut response = response.await.unwrap();
        body.send_reset(Reason::CANCEL);
        assert!(response.body_mut().data().await.unwrap().is_err());
        let (response, _) = send.send_request(post("/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn their_client_understands_our_farewell() {
    run(async {
        let (near, far) = pipe();
        let served = tokio::task::spawn_local(async move {
            let mut connection = server::Builder::new().handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            connection.graceful_shutdown();
            respond.send_response(Response::new(()), true).unwrap();
            drop(respond);
            connection.accept().await.is_none()
        });
        let (mut send, connection) = h2::client::handshake(near).await.unwrap();
        let ended = tokio::task::spawn_local(connection);
        let (response, _) = send.send_request(post("/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        ended.await.unwrap().unwrap();
        assert!(served.await.unwrap());
    });
}

#[test]
fn their_farewell_is_understood_by_our_client() {
    run(async {
        let (near, far) = pipe();
        tokio::task::spawn_local(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            connection.graceful_shutdown();
            let mut send: h2::SendStream<Bytes> =
                respond.send_response(Response::new(()), false).unwrap();
            send.send_data(Bytes::from_static(b"last"), true).unwrap();
            while connection.accept().await.is_some() {}
        });
        let (mut send, connection) = client::Builder::new().handshake(near);
        let ended = tokio::task::spawn_local(connection);
        let (response, _) = send.send_request(post("/"), true).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(read_all(response.body_mut()).await.0, b"last");
        ended.await.unwrap().unwrap();
        let error = send.ready().await.unwrap_err();
        assert!(error.is_go_away() || error.is_io());
    });
}
