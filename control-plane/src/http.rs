//! `/metrics`, `/livez` and `/readyz` in plain HTTP, on the address that the operator configured.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::state::{ControlPlane, stopped};

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    control_plane: Arc<ControlPlane>,
    mut shutdown: watch::Receiver<bool>,
) {
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut shutdown) => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&limit).try_acquire_owned() else {
            continue;
        };
        let control_plane = Arc::clone(&control_plane);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&control_plane, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            // A scraper that goes away is no event.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .serve_connection(TokioIo::new(socket), service)
                .await;
            drop(permit);
        });
    }
}

fn answer(control_plane: &ControlPlane, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "live\n"),
        // The listeners are open and a policy is in force before this is served at all; a control plane that can't
        // issue is not ready.
        "/readyz" => match control_plane.ca.issuer_end(control_plane.now()) {
            Ok(_) if !*control_plane.shutdown.borrow() => text(StatusCode::OK, "ready\n"),
            Ok(_) => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "no issuing authority\n"),
        },
        "/metrics" => match control_plane.metrics.expose() {
            Ok(body) => text(StatusCode::OK, body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "metrics failed\n"),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "here are /metrics, /livez and /readyz\n",
        ),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, plain);
    response
}

/// A scraper or two, and probes.
const MAX_CONNECTIONS: usize = 64;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
