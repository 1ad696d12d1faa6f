//! A stream of an HTTP/2 connection as a byte stream: a CONNECT stream of the shared lane (RFC 9113 §8.5).
//!
//! END_STREAM is the half-close. A stream that is dropped unfinished is reset, so the other end never takes a cut for an
//! end. Windows are given back only for what was consumed: a slow reader slows its writer down.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of a stream.
#[derive(Debug)]
pub(crate) struct LaneFlow {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received and not yet read; its window is not given back.
    pending: Bytes,
    finished: bool,
}

impl LaneFlow {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self {
            send,
            receive,
            pending: Bytes::new(),
            finished: false,
        }
    }
}

impl LaneFlow {
    /// Takes what was received, at most `limit` bytes; nothing at the end of the stream.
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<Bytes>> {
        while !self.pending.has_remaining() {
            match ready!(self.receive.poll_data(cx)) {
                Some(data) => self.pending = data.map_err(to_io)?,
                None => return Poll::Ready(Ok(Bytes::new())),
            }
        }
        let taken = self.pending.split_to(self.pending.len().min(limit));
        // Fails only where the stream is gone, and then the next read says so.
        let _ = self.receive.flow_control().release_capacity(taken.len());
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
        this.send
            .send_data(Bytes::copy_from_slice(now), false)
            .map_err(to_io)?;
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
            this.send.send_data(Bytes::new(), true).map_err(to_io)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Waits until at least one byte may be sent, and says how many of `wanted`.
pub(crate) fn poll_capacity(
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<io::Result<usize>> {
    if send.capacity() == 0 {
        send.reserve_capacity(wanted);
    }
    while send.capacity() == 0 {
        match ready!(send.poll_capacity(cx)) {
            Some(capacity) => {
                capacity.map_err(to_io)?;
            }
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
    Poll::Ready(Ok(send.capacity().min(wanted)))
}

/// An HTTP/2 error as one of a byte stream; a reset stays recognisable.
pub(crate) fn to_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::Other.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
