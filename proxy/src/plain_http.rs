//! Small HTTP/1.1 servers for the sidecar's own doors: admin, health, metrics. Never on the request path.
//!
//! Bounded in connections, in time and in what is read: a body is never looked at.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A request to one of these servers.
pub type Request = http::Request<Incoming>;
/// What they answer.
pub type Answer = Response<Full<Bytes>>;

/// Where a server listens.
#[derive(Debug)]
pub enum Door {
    /// TCP, for probes and scrapers.
    Tcp(TcpListener),
    /// A Unix socket, for operators.
    Unix(UnixListener),
}

/// Serves until it is dropped; its connections end with it.
pub async fn serve<H, F>(door: Door, handler: H)
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Never closed: `permits` is ours.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let handler = handler.clone();
        let accepted = match &door {
            Door::Tcp(listener) => listener.accept().await.map(|(socket, _)| {
                connections.spawn(async move {
                    serve_connection(socket, handler).await;
                    drop(permit);
                });
            }),
            Door::Unix(listener) => listener.accept().await.map(|(socket, _)| {
                connections.spawn(async move {
                    serve_connection(socket, handler).await;
                    drop(permit);
                });
            }),
        };
        if accepted.is_err() {
            // Out of descriptors, most likely: waiting is all that helps.
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn serve_connection<S, H, F>(socket: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request) -> F,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service);
    // A client that breaks off or sends no HTTP concerns nobody else.
    let _ended = tokio::time::timeout(CONNECTION_DEADLINE, served).await;
}

/// An answer of text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// An answer of JSON.
pub fn json(value: &serde_json::Value) -> Answer {
    answer(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

/// An answer of a content type.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    answer
}

/// A kubelet, a scraper and a few operators at once.
const MAX_CONNECTIONS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 * 1024;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A keep-alive connection is renewed now and then, so that none holds its place forever.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client for tests.
#[cfg(test)]
pub(crate) mod client {
    use http_body_util::{BodyExt, Empty};

    use super::*;

    /// Sends one request and reads the whole answer.
    pub(crate) async fn fetch<S>(socket: S, method: &str, path: &str) -> Response<Bytes>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        driver.abort();
        Response::from_parts(head, body)
    }
}
