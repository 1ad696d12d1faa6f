//! The client's side of HTTP/1.1, as small as the measurement allows: it must cost little beside the proxies.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

/// The request of all small-request measures.
pub(crate) const SMALL: &[u8] =
    b"GET /small HTTP/1.1\r\nhost: backend.test\r\nuser-agent: vouchsafe-load\r\naccept: */*\r\n\r\n";

/// The same, on a connection that ends with its answer.
pub(crate) const SMALL_CLOSE: &[u8] =
    b"GET /small HTTP/1.1\r\nhost: backend.test\r\nuser-agent: vouchsafe-load\r\naccept: */*\r\nconnection: close\r\n\r\n";

/// Longest wait for one answer: a proxy that hangs is an error, not a slow one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How a body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    pub(crate) async fn open(target: SocketAddr) -> anyhow::Result<Self> {
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(target))
            .await
            .context("connecting took too long")?
            .context("failed to connect")?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::with_capacity(16 * 1024),
        })
    }

    /// Sends a request and reads its whole answer, which must be 200 with a length.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<()> {
        match self.request(request).await? {
            Body::Length(length) => self.skip(length, |_| {}).await,
            body => bail!("expected a content length, found {body:?}"),
        }
    }

    /// Sends a request and reads the head of its answer, which must be 200.
    pub(crate) async fn request(&mut self, request: &[u8]) -> anyhow::Result<Body> {
        self.stream
            .write_all(request)
            .await
            .context("failed to send")?;
        loop {
            if let Some((head, body)) = parse(&self.buffer)? {
                self.buffer.advance(head);
                return Ok(body);
            }
            self.fill().await?;
        }
    }

    /// Reads `length` bytes of body and throws them away, saying how many came at a time.
    pub(crate) async fn skip(
        &mut self,
        mut length: u64,
        mut progress: impl FnMut(usize),
    ) -> anyhow::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.fill().await?;
            }
            let step = self
                .buffer
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            self.buffer.advance(step);
            length -= u64::try_from(step)?;
            progress(step);
        }
        Ok(())
    }

    /// The same without copying: the kernel drops what came (tcp(7), `MSG_TRUNC`). For when the client shares the cores
    /// of what is measured.
    pub(crate) async fn discard(
        &mut self,
        length: u64,
        mut progress: impl FnMut(usize),
    ) -> anyhow::Result<()> {
        let held = self.buffer.len().min(usize::try_from(length)?);
        self.buffer.advance(held);
        progress(held);
        let mut left = length - u64::try_from(held)?;
        // Never written to; its length says how much may be dropped at once.
        let mut room = vec![0; 1 << 20];
        while left > 0 {
            let most = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let room = room.get_mut(..most).unwrap_or_default();
            let dropped = self.stream.async_io(Interest::READABLE, || {
                Ok(recv(&self.stream, &mut *room, RecvFlags::TRUNC)?.1)
            });
            let dropped = dropped.await.context("failed to read")?;
            ensure!(dropped > 0, "the proxy closed the connection");
            left -= u64::try_from(dropped)?;
            progress(dropped);
        }
        Ok(())
    }

    /// Reads the next bytes of the body as they come, framing included.
    pub(crate) async fn next_bytes(&mut self) -> anyhow::Result<BytesMut> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.buffer.split())
    }

    /// Makes reads large: for bulk, where the client's own cost would otherwise bound the figures.
    pub(crate) fn widen(&mut self) {
        self.buffer.reserve(512 * 1024);
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(16 * 1024);
        }
        let read = self
            .stream
            .read_buf(&mut self.buffer)
            .await
            .context("failed to read")?;
        ensure!(read > 0, "the proxy closed the connection");
        Ok(())
    }
}

/// Length of a whole head, and how the body after it ends; `None` while the head is incomplete.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(usize, Body)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else {
        ensure!(bytes.len() < 64 * 1024, "the head passes 64 KiB");
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    if status != 200 {
        bail!(
            "status {status}: {}",
            String::from_utf8_lossy(bytes.get(..bytes.len().min(400)).unwrap_or_default())
        );
    }
    let mut body = Body::UntilClose;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            body = Body::Length(std::str::from_utf8(header.value)?.parse()?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunked;
        }
    }
    Ok(Some((head, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_awaited_whole_and_says_how_the_body_ends() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let head = whole.len() - 5;
        for length in 0..head {
            assert_eq!(parse(whole.get(..length).unwrap()).unwrap(), None);
        }
        assert_eq!(parse(whole).unwrap(), Some((head, Body::Length(5))));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(
            parse(chunked).unwrap(),
            Some((chunked.len(), Body::Chunked))
        );
    }

    #[test]
    fn any_status_but_200_is_an_error_that_shows_the_answer() {
        let error = parse(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").unwrap_err();
        assert!(format!("{error}").contains("403 Forbidden"), "{error}");
    }
}
