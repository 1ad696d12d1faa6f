//! The opaque copy between two byte streams.
//!
//! Both directions run in one task. A direction that ends is shut down on the other side (half-close); an error ends both
//! and is passed on as a reset. A direction holds memory only while its receiver is slower than its sender.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::io::{Io, SCRATCH_BYTES, poll_read_scratch};

/// Bytes that passed, seen from the one who opened the flow.
#[derive(Debug, Default)]
pub(crate) struct RelayBytes {
    /// From the opener.
    pub(crate) sent: Count,
    /// To the opener.
    pub(crate) received: Count,
}

/// Bytes of one flow in one direction, which also count for its connection: by them the registry sees that it is alive.
#[derive(Debug, Default)]
pub(crate) struct Count {
    own: Cell<u64>,
    connection: Rc<Cell<u64>>,
}

impl Count {
    /// A count that begins at zero.
    pub(crate) fn of(connection: &Rc<Cell<u64>>) -> Self {
        Self {
            own: Cell::new(0),
            connection: Rc::clone(connection),
        }
    }

    pub(crate) fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.own.set(self.own.get().wrapping_add(bytes));
        self.connection
            .set(self.connection.get().wrapping_add(bytes));
    }

    pub(crate) fn get(&self) -> u64 {
        self.own.get()
    }
}

/// Copies until both directions have ended.
///
/// # Errors
/// The first error of either side; the caller then aborts both.
pub(crate) async fn relay(
    opener: &mut Io,
    acceptor: &mut Io,
    bytes: &RelayBytes,
) -> io::Result<()> {
    relay_telling(opener, acceptor, bytes, &|_| ()).await
}

/// The same, telling how large each piece was that was passed on.
///
/// # Errors
/// As [`relay`].
pub(crate) async fn relay_telling(
    opener: &mut Io,
    acceptor: &mut Io,
    bytes: &RelayBytes,
    passed: &dyn Fn(usize),
) -> io::Result<()> {
    let mut forth = Way::default();
    let mut back = Way::default();
    std::future::poll_fn(|cx| {
        let forth = forth.poll(cx, opener, acceptor, &bytes.sent, passed)?;
        let back = back.poll(cx, acceptor, opener, &bytes.received, passed)?;
        match (forth, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// What the receiver would not take; freed when it has taken it.
    backlog: Vec<u8>,
    /// How much of the backlog was taken.
    taken: usize,
    /// Written since the last flush.
    dirty: bool,
    end: End,
}

#[derive(Debug, Default, Eq, PartialEq)]
enum End {
    #[default]
    Open,
    Ended,
    ShutDown,
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        bytes: &Count,
        passed: &dyn Fn(usize),
    ) -> Poll<io::Result<()>> {
        loop {
            match self.end {
                End::ShutDown => return Poll::Ready(Ok(())),
                End::Ended => {
                    ready!(self.poll_backlog(cx, to))?;
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.end = End::ShutDown;
                }
                End::Open => {
                    ready!(self.poll_backlog(cx, to))?;
                    match self.poll_pass(cx, from, to, bytes, passed)? {
                        Poll::Ready(()) => {}
                        Poll::Pending => {
                            if self.dirty {
                                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                                self.dirty = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    fn poll_backlog(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<io::Result<()>> {
        while let Some(rest) = self
            .backlog
            .get(self.taken..)
            .filter(|rest| !rest.is_empty())
        {
            self.taken += ready!(poll_write_some(cx, to, rest))?;
        }
        self.backlog = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what was read; what doesn't fit becomes the backlog.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        bytes: &Count,
        passed: &dyn Fn(usize),
    ) -> Poll<io::Result<()>> {
        let mut waker = Context::from_waker(cx.waker());
        let done = ready!(poll_read_scratch(from, cx, SCRATCH_BYTES, |mut rest| {
            if rest.is_empty() {
                self.end = End::Ended;
                return Ok(());
            }
            bytes.add(rest.len());
            passed(rest.len());
            self.dirty = true;
            while !rest.is_empty() {
                match poll_write_some(&mut waker, to, rest)? {
                    Poll::Ready(written) => rest = rest.get(written..).unwrap_or_default(),
                    Poll::Pending => {
                        self.backlog = rest.to_vec();
                        return Ok(());
                    }
                }
            }
            Ok(())
        }))?;
        Poll::Ready(done)
    }
}

fn poll_write_some(cx: &mut Context<'_>, to: &mut Io, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}
