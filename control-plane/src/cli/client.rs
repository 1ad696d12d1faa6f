//! A connection to the operator socket.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::Status;
use tonic::body::Body;
use vouchsafe_api::v1::operator_client::OperatorClient;

use super::Outcome;
use crate::app;
use crate::telemetry::Chain;

/// Connects to the control plane of a data folder.
pub(super) async fn connect(data: &Path) -> Result<OperatorClient<Channel>, Outcome> {
    let socket = app::operator_socket(data);
    let failed = |why: String| {
        Outcome::failed(format!(
            "no control plane answers on `{}`: {why}\nhint: is `vouchsafe serve` running, with this `--data`?",
            socket.display()
        ))
    };
    let stream = UnixStream::connect(&socket)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(Chain(&error).to_string()))?;
    // Ends with the runtime of this one command.
    tokio::spawn(connection);
    let origin = Uri::from_static("http://operator");
    Ok(OperatorClient::with_origin(Channel(requests), origin))
}

/// What a failed call leaves behind.
pub(super) fn failed(status: &Status) -> Outcome {
    Outcome::failed(format!(
        "the control plane says: {} ({:?})",
        status.message(),
        status.code()
    ))
}

/// One HTTP/2 connection as a gRPC channel.
#[derive(Clone, Debug)]
pub(super) struct Channel(http2::SendRequest<Body>);

impl tonic::codegen::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
