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
use tonic::body::Body;
use tonic::{Code, Status};
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
    let said = match status.message() {
        "" => status.code().description(),
        said => said,
    };
    match status.code() {
        Code::InvalidArgument | Code::NotFound => Outcome::misused(format!("error: {said}\n")),
        Code::FailedPrecondition | Code::Aborted => Outcome::refused(said),
        Code::Unavailable | Code::Cancelled => Outcome::failed(format!(
            "the control plane could not do it: {said}\nhint: ask again; `vouchsafe status` shows how it fares"
        )),
        Code::Unimplemented => Outcome::failed(
            "the control plane is of an earlier version and does not know this: update it",
        ),
        _ => Outcome::failed(format!("the control plane could not do it: {said}")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_control_plane_refuses_has_one_exit_code_and_no_word_of_the_protocol() {
        for (code, exit, words) in [
            (Code::InvalidArgument, 2, "error: why\n"),
            (Code::NotFound, 2, "error: why\n"),
            (
                Code::FailedPrecondition,
                1,
                "refused, nothing was changed: why",
            ),
            (Code::Aborted, 1, "refused, nothing was changed: why"),
            (Code::Unavailable, 3, "could not do it: why"),
            (Code::Internal, 3, "could not do it: why"),
            (Code::DataLoss, 3, "could not do it: why"),
            (Code::Unimplemented, 3, "earlier version"),
        ] {
            let outcome = failed(&Status::new(code, "why"));
            assert_eq!(outcome.status, exit, "{code:?}");
            assert!(outcome.error.contains(words), "{}", outcome.error);
            assert!(
                !outcome.error.contains(&format!("{code:?}")),
                "{}",
                outcome.error
            );
        }
        let silent = failed(&Status::new(Code::Internal, ""));
        assert!(silent.error.contains("Internal error"), "{}", silent.error);
    }
}
