//! Unary calls as gRPC sends them: HTTP/2, a length-prefixed message each way, status in trailers.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::SendRequest;

use crate::http2::drain;

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

/// One call whose answer must be whole.
pub(crate) async fn call(
    mut sender: SendRequest<Bytes>,
    target: SocketAddr,
) -> anyhow::Result<SendRequest<Bytes>> {
    let request = http::Request::post(format!("http://{target}/bench.Echo/Unary"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = sender.send_request(request, false)?;
    body.send_data(Bytes::from_static(MESSAGE), true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = response.into_body();
    let length = drain(&mut body).await?;
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
