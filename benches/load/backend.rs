//! The application behind the inbound proxy: HTTP/1.1 or HTTP/2 on one port, told apart by the connection preface.
//!
//! `/small` answers 128 bytes, `/bytes/N` answers N, `/pages/N` the same from a file without copying it, `/sse/MS` sends an
//! event with the time each MS milliseconds. Over HTTP/2 `/small` is the same, and every other request is answered as a
//! unary gRPC call.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use crate::grpc::MESSAGE;
use crate::http2::SMALL_BYTES;
use crate::sse::{DIGITS, MARK};
use crate::timer::monotonic_nanoseconds;

/// Most connections at once: above what any measure opens through a pair that multiplies them.
const MAX_CONNECTIONS: usize = 40_000;

/// By default `h2` closes a connection on which some 170 unread messages of this size wait, and a proxy that multiplexes
/// brings 256 at once.
const SMALL_FRAMES: usize = 1 << 20;

/// How HTTP/2 with prior knowledge begins (RFC 9113 §3.4); no HTTP/1.1 method is `PRI`.
const PREFACE: &[u8] = b"PRI ";

const SMALL_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 128\r\n\r\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// nginx buffers answers unless they say otherwise.
const SSE_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
    x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n";

const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// Serves until standard input ends, so that the backend never outlives what started it.
pub(crate) async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("failed to listen on {listen}"))?;
    writeln!(
        std::io::stdout(),
        "{}",
        serde_json::json!({"listen": listener.local_addr()?.to_string()})
    )?;
    std::io::stdout().flush()?;
    let accept = async {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            spawn_local(async move {
                // Clients end connections whenever they like; what matters they count themselves.
                let _ended = connection(stream).await;
                drop(slot);
            });
        }
        #[expect(unreachable_code, reason = "gives the endless block its error type")]
        anyhow::Ok(())
    };
    let mut rest = Vec::new();
    tokio::select! {
        ended = accept => ended,
        _ = async { tokio::io::stdin().read_to_end(&mut rest).await } => Ok(()),
    }
}

async fn connection(stream: TcpStream) -> anyhow::Result<()> {
    let mut start = [0; PREFACE.len()];
    // Each test client sends its first bytes in one segment.
    let peeked = stream.peek(&mut start).await?;
    if start.get(..peeked) == Some(PREFACE) {
        http2(stream).await
    } else {
        http1(stream).await
    }
}

async fn http1(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut buffer = BytesMut::with_capacity(4 * 1024);
    loop {
        let request = loop {
            if let Some(request) = parse(&mut buffer)? {
                break request;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        match request.route {
            Route::Small => stream.write_all(SMALL_ANSWER).await?,
            Route::Unknown => stream.write_all(NOT_FOUND).await?,
            Route::Bytes(length) => bytes(&mut stream, length).await?,
            Route::Pages(length) => pages(&mut stream, length).await?,
            Route::Events(interval) => events(&mut stream, interval).await?,
        }
        if request.close {
            stream.shutdown().await?;
            return Ok(());
        }
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Route {
    Small,
    Bytes(u64),
    Pages(u64),
    Events(Duration),
    Unknown,
}

#[derive(Debug, Eq, PartialEq)]
struct Request {
    route: Route,
    close: bool,
}

/// Takes one whole head out of the buffer. Requests have no body here.
fn parse(buffer: &mut BytesMut) -> anyhow::Result<Option<Request>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(buffer)? else {
        ensure!(buffer.len() < 64 * 1024, "the head passes 64 KiB");
        buffer.reserve(1024);
        return Ok(None);
    };
    let path = request.path.unwrap_or_default();
    let route = if path == "/small" {
        Route::Small
    } else if let Some(length) = path.strip_prefix("/bytes/") {
        Route::Bytes(length.parse()?)
    } else if let Some(length) = path.strip_prefix("/pages/") {
        Route::Pages(length.parse()?)
    } else if let Some(interval) = path.strip_prefix("/sse/") {
        Route::Events(Duration::from_millis(interval.parse::<u64>()?.max(1)))
    } else {
        Route::Unknown
    };
    let mut close = request.version == Some(0);
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("connection") {
            close = header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("content-length") && header.value != b"0" {
            bail!("requests have no body here");
        }
    }
    buffer.advance(head);
    Ok(Some(Request { route, close }))
}

async fn head(stream: &mut TcpStream, length: u64) -> anyhow::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    Ok(stream.write_all(head.as_bytes()).await?)
}

async fn bytes(stream: &mut TcpStream, mut length: u64) -> anyhow::Result<()> {
    head(stream, length).await?;
    let block = vec![0; 256 * 1024];
    while length > 0 {
        let step = block
            .len()
            .min(usize::try_from(length).unwrap_or(usize::MAX));
        stream
            .write_all(block.get(..step).unwrap_or_default())
            .await?;
        length -= u64::try_from(step)?;
    }
    Ok(())
}

/// Sends pages of a file over and over, without a copy on this side.
async fn pages(stream: &mut TcpStream, mut length: u64) -> anyhow::Result<()> {
    head(stream, length).await?;
    let file = file()?;
    let mut offset = 0;
    while length > 0 {
        let step = length.min(PAGES_BYTES - offset).min(PAGES_STEP);
        let step = usize::try_from(step)?;
        let sent = stream.async_io(Interest::WRITABLE, || {
            Ok(sendfile(&*stream, file, Some(&mut offset), step)?)
        });
        let sent = sent.await?;
        ensure!(sent > 0, "the file is shorter than it was");
        length -= u64::try_from(sent)?;
        offset %= PAGES_BYTES;
    }
    Ok(())
}

/// A file in memory whose pages are there: holes would all be the same page, and stay in the cache of whoever reads them.
fn file() -> anyhow::Result<&'static File> {
    static FILE: OnceLock<File> = OnceLock::new();
    if FILE.get().is_none() {
        let mut file = File::from(memfd_create("pages", MemfdFlags::CLOEXEC)?);
        let block = vec![b'p'; 1 << 20];
        for _ in 0..PAGES_BYTES >> 20 {
            file.write_all(&block)?;
        }
        // All run on one thread, so nobody was faster.
        let _same = FILE.set(file);
    }
    FILE.get().context("the file was just made")
}

/// More than the caches hold, as weights are.
const PAGES_BYTES: u64 = 64 << 20;

/// So much at once that calls don't count, and so little that others have their turn.
const PAGES_STEP: u64 = 1 << 20;

async fn events(stream: &mut TcpStream, interval: Duration) -> anyhow::Result<()> {
    stream.write_all(SSE_HEAD).await?;
    let mut interval = tokio::time::interval(interval);
    let length = MARK.len() + DIGITS + 2;
    let mark = std::str::from_utf8(MARK)?;
    loop {
        interval.tick().await;
        let now = monotonic_nanoseconds();
        let event = format!("{length:x}\r\n{mark}{now:0DIGITS$}\n\n\r\n");
        stream.write_all(event.as_bytes()).await?;
    }
}

async fn http2(stream: TcpStream) -> anyhow::Result<()> {
    let mut connection = h2::server::Builder::new()
        .data_frame_budget(SMALL_FRAMES)
        .handshake(stream)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        if request.uri().path() == "/small" {
            // In a task of its own as every other, so that answers of one turn leave together.
            spawn_local(async move { small(respond) });
        } else {
            spawn_local(unary(request.into_body(), respond));
        }
    }
    Ok(())
}

fn small(mut respond: h2::server::SendResponse<Bytes>) -> anyhow::Result<()> {
    let body = SMALL_ANSWER.len() - SMALL_BYTES;
    let body = SMALL_ANSWER.get(body..).unwrap_or_default();
    let head = Response::builder()
        .header("content-type", "text/plain")
        .header("content-length", body.len())
        .body(())?;
    let mut answer = respond.send_response(head, false)?;
    Ok(answer.send_data(Bytes::from_static(body), true)?)
}

async fn unary(
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> anyhow::Result<()> {
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .body(())?;
    let mut answer = respond.send_response(head, false)?;
    answer.send_data(Bytes::from_static(MESSAGE), false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    answer.send_trailers(trailers)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_one_segment_are_answered_one_by_one() {
        let mut buffer = BytesMut::from(
            &b"GET /small HTTP/1.1\r\n\r\nGET /bytes/7 HTTP/1.1\r\nConnection: close\r\n\r\nGET"[..],
        );
        let first = parse(&mut buffer).unwrap().unwrap();
        assert_eq!((first.route, first.close), (Route::Small, false));
        let second = parse(&mut buffer).unwrap().unwrap();
        assert_eq!((second.route, second.close), (Route::Bytes(7), true));
        assert_eq!(parse(&mut buffer).unwrap(), None);
    }
}
