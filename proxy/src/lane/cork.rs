//! Gathers what an HTTP/2 connection writes in one turn of its task, so that it leaves in few system calls and full records.
//!
//! The `h2` crate writes and flushes each frame of data of 256 bytes or more by itself. Here a write is held back until the
//! task has done all it can ([`Corked::poll_flush`]), or enough has come together.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::Io;

/// A byte stream and what waits to be written to it. Clones share both.
#[derive(Clone, Debug)]
pub(crate) struct Corked(Rc<RefCell<Held>>);

#[derive(Debug)]
struct Held {
    io: Io,
    /// Written and not yet sent; freed when it was.
    waiting: Vec<u8>,
    sent: usize,
    /// Sent and not yet flushed.
    dirty: bool,
}

impl Corked {
    pub(crate) fn new(io: Io) -> Self {
        Self(Rc::new(RefCell::new(Held {
            io,
            waiting: Vec::new(),
            sent: 0,
            dirty: false,
        })))
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }

    /// Takes bytes to be sent at the end of the turn; large ones are sent at once.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let held = &mut *self.0.borrow_mut();
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if held.waiting.len() + length > WAITING_BYTES {
            ready!(held.poll_send(cx))?;
            if length > WAITING_BYTES / 2 {
                held.dirty = true;
                return Pin::new(&mut held.io).poll_write_vectored(cx, bufs);
            }
        }
        bufs.iter()
            .for_each(|buf| held.waiting.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    /// Sends all that waits. For the end of each turn of the connection's task; where it is pending, the task is woken when
    /// there is room.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = &mut *self.0.borrow_mut();
        ready!(held.poll_send(cx))?;
        if held.dirty {
            ready!(Pin::new(&mut held.io).poll_flush(cx))?;
            held.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = &mut *self.0.borrow_mut();
        ready!(held.poll_send(cx))?;
        Pin::new(&mut held.io).poll_shutdown(cx)
    }
}

impl Held {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self
            .waiting
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            self.dirty = true;
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.waiting = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

/// Most bytes that wait: four full records.
const WAITING_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::io::Transport;

    async fn write(corked: &Corked, parts: &[&[u8]]) -> usize {
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        std::future::poll_fn(|cx| corked.poll_write(cx, &slices))
            .await
            .unwrap()
    }

    fn pair() -> (Corked, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Corked::new(Io::new(Transport::Unix(near))), far)
    }

    #[tokio::test]
    async fn small_writes_leave_together_at_the_end_of_the_turn() {
        let (corked, mut far) = pair();
        assert_eq!(write(&corked, &[b"head ", b"and "]).await, 9);
        assert_eq!(write(&corked, &[b"data"]).await, 4);
        let mut buf = [0; 64];
        let early = far.try_read(&mut buf);
        assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        std::future::poll_fn(|cx| corked.poll_flush(cx))
            .await
            .unwrap();
        let read = far.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..read], b"head and data");
    }

    #[tokio::test]
    async fn large_writes_pass_what_waits_and_stay_in_order() {
        let (corked, mut far) = pair();
        let large = vec![b'x'; 2 * WAITING_BYTES];
        let writer = async {
            write(&corked, &[b"first"]).await;
            let mut rest = large.as_slice();
            while !rest.is_empty() {
                rest = &rest[write(&corked, &[rest]).await..];
            }
            write(&corked, &[b"last"]).await;
            std::future::poll_fn(|cx| corked.poll_shutdown(cx))
                .await
                .unwrap();
        };
        let mut read = Vec::new();
        let (_, ended) = tokio::join!(writer, far.read_to_end(&mut read));
        ended.unwrap();
        assert!(read.starts_with(b"firstx") && read.ends_with(b"xlast"));
        assert_eq!(read.len(), 9 + large.len());
    }
}
