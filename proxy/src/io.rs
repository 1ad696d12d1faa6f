//! Byte streams of the data path: one concrete type for every transport, and the worker's scratch buffer.
//!
//! # Why
//! One enum instead of generics or boxed traits: relays and codecs are compiled once, and a call is a predictable branch.
//! An idle connection must hold no buffer, so reads go into one scratch buffer per worker, and only what can't be passed
//! on at once is copied into memory of its own.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::lane::flow::LaneFlow;
use crate::memory::Pages;
use crate::tls::stream::{RECEIVED_BYTES, TlsIo};

/// A byte stream, with bytes that were read too early put back in front.
#[derive(Debug)]
pub(crate) struct Io {
    prefix: Bytes,
    transport: Transport,
}

/// What carries a byte stream.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Plain TCP: the local application.
    Tcp(TcpStream),
    /// A Unix socket: the local application.
    Unix(UnixStream),
    /// Mutual TLS: a peer.
    Tls(Box<TlsIo>),
    /// One stream of a shared lane.
    Flow(Box<LaneFlow>),
}

impl Io {
    /// A stream from its beginning.
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            prefix: Bytes::new(),
            transport,
        }
    }

    /// Puts bytes back in front.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.prefix = if self.prefix.is_empty() {
            bytes
        } else {
            [bytes, std::mem::take(&mut self.prefix)].concat().into()
        };
    }

    /// Ends the connection abruptly, so that the other end never takes a broken stream for a complete one.
    pub(crate) fn abort(mut self) {
        let tcp = match &mut self.transport {
            Transport::Tcp(tcp) => tcp,
            Transport::Tls(tls) => tls.tcp(),
            Transport::Flow(flow) => {
                flow.abort();
                return;
            }
            // It has no reset.
            Transport::Unix(_) => return,
        };
        // Best effort: where it fails the connection is closed all the same.
        let _ = SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.has_remaining() {
            let taken = this.prefix.split_to(this.prefix.len().min(buf.remaining()));
            buf.put_slice(&taken);
            return Poll::Ready(Ok(()));
        }
        match &mut this.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Transport::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Transport::Flow(flow) => Pin::new(flow).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Transport::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Transport::Flow(flow) => Pin::new(flow).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Transport::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
            Transport::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Transport::Flow(flow) => {
                let first = bufs.iter().find(|buf| !buf.is_empty());
                Pin::new(flow).poll_write(cx, first.map_or(&[][..], |buf| &**buf))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(_) | Transport::Unix(_) | Transport::Tls(_) => true,
            Transport::Flow(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Unix(unix) => Pin::new(unix).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Transport::Flow(flow) => Pin::new(flow).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Transport::Flow(flow) => Pin::new(flow).poll_shutdown(cx),
        }
    }
}

/// Reads once through the worker's scratch buffer and hands over what came; empty at the end of the stream.
pub(crate) fn poll_read_scratch<R>(
    io: &mut Io,
    cx: &mut Context<'_>,
    limit: usize,
    consume: impl FnOnce(&[u8]) -> R,
) -> Poll<io::Result<R>> {
    if io.prefix.is_empty()
        && let Transport::Flow(flow) = &mut io.transport
    {
        // Its data lies in memory of its own already.
        return flow.poll_take(cx, limit).map_ok(|data| consume(&data));
    }
    SCRATCH.with(|scratch| {
        // Nobody reads while they consume, but if they did, memory of their own is slower and just as right.
        let mut own = Vec::new();
        let mut borrowed = scratch.try_borrow_mut().ok();
        let memory: &mut [u8] = match borrowed.as_deref_mut() {
            Some(memory) => memory.get_mut(),
            None => {
                own.resize(SCRATCH_BYTES, 0);
                &mut own
            }
        };
        let limit = limit.min(memory.len());
        let (memory, _) = memory.split_at_mut(limit);
        let mut buf = ReadBuf::new(memory);
        ready!(Pin::new(io).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(consume(buf.filled())))
    })
}

/// Most bytes of one read: what one read from a socket and the record that began in the one before decrypt to. Small enough
/// to stay in the second-level cache.
pub(crate) const SCRATCH_BYTES: usize = RECEIVED_BYTES + 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Pages> = RefCell::new(Pages::new(SCRATCH_BYTES));
}
