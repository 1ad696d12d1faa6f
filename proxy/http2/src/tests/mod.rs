//! Whole connections: ours with ours, and ours with the `h2` crate at either end.

mod interop;
mod pair;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::{RecvStream, SendStream, client, server};

/// Runs a test on one thread, and ends it when it hangs.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, test).await.expect("it hangs");
    }));
}

/// Both ends of a stream that holds little, so that everything blocks now and then.
fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(PIPE_BYTES)
}

const PIPE_BYTES: usize = 10_000;

fn post(path: &str) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://llm.inference{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

/// What says by itself where it belongs.
fn pattern(length: usize) -> Bytes {
    (0..=250).cycle().take(length).collect()
}

/// Sends all of `data`, as the windows allow.
async fn send_all(send: &mut SendStream, mut data: Bytes) {
    while !data.is_empty() {
        let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
        let room = room.unwrap().unwrap();
        let now = data.split_to(room.min(data.len()));
        send.send_data(now, false).unwrap();
    }
}

/// Reads to the end, and gives every piece back.
async fn read_all(receive: &mut RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = receive.data().await {
        let data = data.unwrap();
        all.extend_from_slice(&data);
        receive.release_capacity(data.len()).unwrap();
    }
    (all, receive.trailers().await.unwrap())
}

/// Answers each request with its own body, and trailers.
async fn echo(mut connection: server::Connection<DuplexStream>) -> Result<(), crate::Error> {
    while let Some(next) = connection.accept().await {
        let (request, mut respond) = next?;
        tokio::task::spawn_local(async move {
            let mut body = request.into_body();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.release_capacity(data.len()).unwrap();
                send_all(&mut send, data).await;
            }
            send.send_trailers(trailers()).unwrap();
        });
    }
    Ok(())
}

/// A client and an echoing server of ours.
async fn echoing() -> client::SendRequest {
    let (near, far) = pipe();
    let (send, connection) = client::Builder::new().handshake(near);
    tokio::task::spawn_local(connection);
    tokio::task::spawn_local(async move {
        let connection = server::Builder::new().handshake(far).await.unwrap();
        echo(connection).await.unwrap();
    });
    send
}

type Accepted = (Request<RecvStream>, server::SendResponse);

/// A client and the requests that its server gets, with the connections driven on the side.
async fn serving(
    client: client::Builder,
    server: server::Builder,
) -> (client::SendRequest, mpsc::Receiver<Accepted>) {
    let (near, far) = pipe();
    let (send, connection) = client.handshake(near);
    tokio::task::spawn_local(connection);
    let (give, take) = mpsc::channel(64);
    tokio::task::spawn_local(async move {
        let mut connection = server.handshake(far).await.unwrap();
        while let Some(Ok(next)) = connection.accept().await {
            // The test may have seen enough.
            let _ = give.send(next).await;
        }
    });
    (send, take)
}
