//! Unary calls as gRPC sends them: HTTP/2, a length-prefixed message each way, status in trailers.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Load;
use crate::measure::{Tally, window};

/// A message of 64 bytes behind its prefix: one byte of flags, four of length (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(crate) const MESSAGE: &[u8; 69] = &{
    let mut message = [b'm'; 69];
    message[0] = 0;
    message[1] = 0;
    message[2] = 0;
    message[3] = 0;
    message[4] = 64;
    message
};

pub(crate) async fn run(load: &Load, streams: usize) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let stream = TcpStream::connect(load.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream)
            .await
            .context("the HTTP/2 preface failed")?;
        let failed = Rc::clone(&tally);
        tasks.spawn_local(async move {
            if let Err(error) = connection.await {
                failed.borrow_mut().fail(&error.into());
            }
        });
        for _ in 0..streams {
            let (mut sender, tally) = (sender.clone(), Rc::clone(&tally));
            let target = load.target;
            tasks.spawn_local(async move {
                while tally.borrow_mut().claim() {
                    let started = Instant::now();
                    sender = match call(sender, target).await {
                        Ok(sender) => sender,
                        Err(error) => {
                            tally.borrow_mut().fail(&error);
                            return;
                        }
                    };
                    tally.borrow_mut().record(started);
                }
            });
        }
    }
    window(load, &tally).await
}

async fn call(
    sender: SendRequest<Bytes>,
    target: SocketAddr,
) -> anyhow::Result<SendRequest<Bytes>> {
    let mut sender = sender.ready().await?;
    let request = http::Request::post(format!("http://{target}/bench.Echo/Unary"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = sender.send_request(request, false)?;
    body.send_data(Bytes::from_static(MESSAGE), true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    ensure!(
        length == MESSAGE.len(),
        "expected {} bytes, found {length}",
        MESSAGE.len()
    );
    let trailers = body.trailers().await?.context("the trailers are missing")?;
    ensure!(
        trailers
            .get("grpc-status")
            .is_some_and(|status| status == "0"),
        "the gRPC status is missing or not 0"
    );
    Ok(sender)
}
