//! The two halves of an HTTP/1.1 connection, both used by one task.
//!
//! The halves share the stream by a cell that is borrowed only within a poll, so that a request's body can be read while
//! its response is written, without a lock.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use crate::http1::head::{HeadError, RequestHead, ResponseHead};
use crate::io::{Io, SCRATCH_BYTES, poll_read_scratch};

/// The reading half, with what was read and not yet used.
#[derive(Debug)]
pub(crate) struct Reader {
    io: Rc<RefCell<Io>>,
    pub(crate) buf: BytesMut,
    scanned: usize,
}

/// The writing half, with what was written and not yet flushed.
#[derive(Debug)]
pub(crate) struct Writer {
    io: Rc<RefCell<Io>>,
    pub(crate) buf: BytesMut,
}

/// Parts a stream into its halves.
pub(crate) fn split(io: Io) -> (Reader, Writer) {
    let io = Rc::new(RefCell::new(io));
    let reader = Reader {
        io: Rc::clone(&io),
        buf: BytesMut::new(),
        scanned: 0,
    };
    let writer = Writer {
        io,
        buf: BytesMut::new(),
    };
    (reader, writer)
}

/// Puts the halves of one stream together again; what was read too far comes first. `None` for halves of two streams.
pub(crate) fn join(reader: Reader, writer: Writer) -> Option<Io> {
    drop(writer);
    let mut io = Rc::into_inner(reader.io)?.into_inner();
    io.unread(reader.buf.freeze());
    Some(io)
}

/// Why no request was read.
#[derive(Debug)]
pub(crate) enum ReadHeadError {
    /// The connection ended, cleanly or not.
    Closed,
    /// The head took too long.
    Timeout,
    /// It is refused.
    Head(HeadError),
}

impl Reader {
    /// Reads more into the buffer; 0 at the end of the stream.
    ///
    /// # Cancel safety
    /// Safe: what was read is in the buffer.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Reads once, at most `limit` bytes and past the buffer, and hands over what came; nothing at the end of the stream.
    pub(crate) fn poll_read<R>(
        &mut self,
        cx: &mut Context<'_>,
        limit: u64,
        consume: impl FnOnce(&[u8]) -> R,
    ) -> Poll<io::Result<R>> {
        let limit = usize::try_from(limit).unwrap_or(SCRATCH_BYTES);
        poll_read_scratch(&mut self.io.borrow_mut(), cx, limit, consume)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buf = &mut self.buf;
        poll_read_scratch(&mut self.io.borrow_mut(), cx, SCRATCH_BYTES, |bytes| {
            buf.extend_from_slice(bytes);
            bytes.len()
        })
    }

    /// Reads a request's head. Waits for its first byte as long as it takes, and then no longer than `deadline`.
    pub(crate) async fn request(
        &mut self,
        limit: usize,
        deadline: Duration,
    ) -> Result<RequestHead, ReadHeadError> {
        if self.buf.is_empty() {
            // Nothing is held while nothing comes.
            self.buf = BytesMut::new();
            match self.fill().await {
                Ok(read) if read > 0 => {}
                _ => return Err(ReadHeadError::Closed),
            }
        }
        if let Some(head) = self.parse_request(limit)? {
            return Ok(head);
        }
        let rest = async {
            loop {
                match self.fill().await {
                    Ok(read) if read > 0 => {}
                    _ => return Err(ReadHeadError::Closed),
                }
                if let Some(head) = self.parse_request(limit)? {
                    return Ok(head);
                }
            }
        };
        tokio::time::timeout(deadline, rest)
            .await
            .unwrap_or(Err(ReadHeadError::Timeout))
    }

    fn parse_request(&mut self, limit: usize) -> Result<Option<RequestHead>, ReadHeadError> {
        RequestHead::parse(&mut self.buf, &mut self.scanned, limit).map_err(ReadHeadError::Head)
    }

    /// Reads a response's head.
    pub(crate) async fn response(
        &mut self,
        limit: usize,
        to_head: bool,
    ) -> Result<ResponseHead, ReadHeadError> {
        loop {
            let parsed = ResponseHead::parse(&mut self.buf, &mut self.scanned, limit, to_head);
            if let Some(head) = parsed.map_err(ReadHeadError::Head)? {
                return Ok(head);
            }
            match self.fill().await {
                Ok(read) if read > 0 => {}
                _ => return Err(ReadHeadError::Closed),
            }
        }
    }

    /// Waits until the other end goes away. What it sends meanwhile is kept for later, up to a bound.
    pub(crate) async fn closed(&mut self) {
        while self.buf.len() < MAX_AHEAD {
            match self.fill().await {
                Ok(read) if read > 0 => {}
                _ => return,
            }
        }
        std::future::pending().await
    }

    /// Whether an idle connection is still good: open, and silent.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.buf.is_empty() && self.poll_fill(&mut cx).is_pending()
    }

    /// Gives memory back while the connection is idle.
    pub(crate) fn rest(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
    }
}

impl Writer {
    /// Sends all that is in the buffer.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends bytes behind those in the buffer; what the receiver doesn't take, and what is less than `worth_it`, stays in
    /// the buffer.
    pub(crate) fn pass(
        &mut self,
        cx: &mut Context<'_>,
        mut bytes: &[u8],
        worth_it: usize,
    ) -> io::Result<()> {
        if self.buf.is_empty() && bytes.len() >= worth_it {
            let mut io = self.io.borrow_mut();
            while !bytes.is_empty() {
                match Pin::new(&mut *io).poll_write(cx, bytes)? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(written) => bytes = bytes.get(written..).unwrap_or_default(),
                    Poll::Pending => break,
                }
            }
        }
        self.buf.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = self.io.borrow_mut();
        while self.buf.has_remaining() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.buf))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.buf.advance(written),
            }
        }
        ready!(Pin::new(&mut *io).poll_flush(cx))?;
        self.buf.clear();
        Poll::Ready(Ok(()))
    }

    /// Gives memory back while the connection is idle.
    pub(crate) fn rest(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn shut_down(&mut self) -> io::Result<()> {
        self.flush().await?;
        std::future::poll_fn(|cx| Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(cx)).await
    }
}

/// Closes a connection whose client may still be sending: a close with unread bytes is a reset, and a reset can overtake
/// the answer (RFC 9112 §9.6).
pub(crate) async fn linger(mut reader: Reader, mut writer: Writer) {
    let drain = async {
        writer.shut_down().await?;
        let mut left = LINGER_BYTES;
        loop {
            reader.buf.clear();
            match reader.fill().await? {
                0 => return Ok::<_, io::Error>(()),
                read if read >= left => return Ok(()),
                read => left -= read,
            }
        }
    };
    // Whatever comes of it, the connection is closed now.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Requests that a client may send ahead of its answers.
const MAX_AHEAD: usize = 64 * 1024;
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);
