//! A stream of an HTTP/2 connection as a byte stream: a CONNECT stream of the shared lane (RFC 9113 §8.5).
//!
//! END_STREAM is the half-close. A stream that is dropped unfinished is reset, so the other end never takes a cut for an
//! end. Windows are given back only for what was consumed: a slow reader slows its writer down.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use vouchsafe_http2::{Reason, RecvStream, SendStream};

/// Both directions of a stream.
#[derive(Debug)]
pub(crate) struct LaneFlow {
    send: SendStream,
    receive: RecvStream,
    /// Received and not yet read; its window is not given back.
    pending: Bytes,
    finished: bool,
}

impl LaneFlow {
    pub(crate) fn new(send: SendStream, receive: RecvStream) -> Self {
        Self {
            send,
            receive,
            pending: Bytes::new(),
            finished: false,
        }
    }
}

impl LaneFlow {
    /// Resets the stream, with all that still waits to be sent on it.
    pub(crate) fn abort(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    /// Takes what was received, at most `limit` bytes; nothing at the end of the stream.
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<Bytes>> {
        while !self.pending.has_remaining() {
            match ready!(self.receive.poll_data(cx)) {
                Some(data) => self.pending = data?,
                None => return Poll::Ready(Ok(Bytes::new())),
            }
        }
        let taken = self.pending.split_to(self.pending.len().min(limit));
        // Fails only where the stream is gone, and then the next read says so.
        let _ = self.receive.release_capacity(taken.len());
        Poll::Ready(Ok(taken))
    }
}

impl AsyncRead for LaneFlow {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let taken = ready!(self.get_mut().poll_take(cx, buf.remaining()))?;
        buf.put_slice(&taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LaneFlow {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let granted = ready!(poll_capacity(&mut this.send, cx, buf.len()))?;
        let now = buf.get(..granted).unwrap_or(buf);
        this.send.send_data(Bytes::copy_from_slice(now), false)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes; it was woken by `send_data`.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.finished {
            this.finished = true;
            this.send.send_data(Bytes::new(), true)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Waits until at least one byte may be sent, and says how many of `wanted`.
pub(crate) fn poll_capacity(
    send: &mut SendStream,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<io::Result<usize>> {
    match ready!(send.poll_capacity(cx)) {
        Some(capacity) => Poll::Ready(Ok(capacity?.min(wanted))),
        None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
    }
}
