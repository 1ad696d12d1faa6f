//! The connection's task: reads what comes, and at the end of each turn writes all that came together.
//!
//! Reads go into one buffer per thread; only a frame whose end is still to come is kept, so that an idle connection has no
//! memory of its own here.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Core, Shared};
use crate::error::{Error, Reason};
use crate::frame;
use crate::stream::keep;

/// A connection and the stream below it.
#[derive(Debug)]
pub(crate) struct Driver<T> {
    io: T,
    core: Shared,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// Our side said all it had to say.
    closing: bool,
}

impl<T> Driver<T> {
    pub(crate) fn new(io: T, core: Shared) -> Self {
        Self {
            io,
            core,
            partial: Vec::new(),
            closing: false,
        }
    }

    pub(crate) fn core(&self) -> &Shared {
        &self.core
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Has the task woken from now on.
    pub(crate) fn begin(&mut self, cx: &Context<'_>) {
        let mut core = self.core.borrow_mut();
        core.awake = false;
        keep(&mut core.task, cx);
    }

    /// Reads once and takes in what came. `false`: there will be no more.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        // Taken and put back: nobody else reads inside of this call, and if somebody did it would only allocate.
        let mut memory = SCRATCH.take();
        let polled = self.poll_read_into(cx, &mut memory);
        SCRATCH.set(memory);
        polled
    }

    fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        memory: &mut Vec<u8>,
    ) -> Poll<Result<bool, Error>> {
        let held = self.partial.len();
        if memory.len() < held + READ_BYTES {
            memory.resize(held + READ_BYTES, 0);
        }
        let (front, room) = memory.split_at_mut(held);
        let mut buf = ReadBuf::new(room);
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf));
        let read = read.map(|()| buf.filled().len());
        let read = read.map_err(|error| self.broke(&error))?;
        if read == 0 {
            return Poll::Ready(Ok(false));
        }
        if self.core.borrow().lacks(&self.partial, read) {
            self.partial.extend_from_slice(buf.filled());
            return Poll::Ready(Ok(true));
        }
        front.copy_from_slice(&self.partial);
        let received = memory.get(..held + read).unwrap_or_default();
        let taken = self.core.borrow_mut().receive(received)?;
        let rest = received.get(taken..).unwrap_or_default();
        if rest.is_empty() {
            if held > 0 {
                self.partial = Vec::new();
            }
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
        Poll::Ready(Ok(true))
    }

    /// Writes all that waits.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let core = &mut *self.core.borrow_mut();
            core.put_ready();
            if core.out.is_idle() {
                return Poll::Ready(Ok(()));
            }
            let mut written = 0;
            let polled = core.out.poll_write(&mut self.io, cx, &mut written);
            core.wrote(written);
            if let Err(error) = ready!(polled) {
                let error = Error::io(error.kind());
                core.end(error.clone());
                return Poll::Ready(Err(error));
            }
        }
    }

    fn broke(&self, error: &io::Error) -> Error {
        let error = Error::io(error.kind());
        self.core.borrow_mut().end(error.clone());
        error
    }

    /// Ends the connection after the stream below has, at an error only where that was in the middle of something: streams
    /// that were open fail by themselves.
    pub(crate) fn ended(&mut self) -> Result<(), Error> {
        let core = &mut *self.core.borrow_mut();
        let error = Error::io(io::ErrorKind::UnexpectedEof);
        let clean = core.may_end() && self.partial.is_empty();
        let told = core.told.filter(|told| *told != Reason::NO_ERROR);
        core.end(error.clone());
        match told {
            Some(reason) => Err(Error::go_away(reason, crate::error::Cause::Peer)),
            None if clean => Ok(()),
            None => Err(error),
        }
    }

    /// Says why the connection ended, as far as the other end takes it at once: it is not waited for.
    pub(crate) fn cut(&mut self, cx: &mut Context<'_>) {
        let mut core = self.core.borrow_mut();
        let polled = core.out.poll_write(&mut self.io, cx, &mut 0);
        if matches!(polled, Poll::Ready(Ok(()))) {
            // Best effort, too.
            let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        }
    }

    /// Whether all is said and done on this side.
    pub(crate) fn is_finished(&mut self) -> bool {
        if !self.closing && self.core.borrow().is_finished() {
            self.closing = true;
        }
        self.closing
    }

    /// Ends a connection that has nothing left to do.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        {
            let core = &mut *self.core.borrow_mut();
            if core.over.is_none() {
                if core.leaving == super::Leaving::No {
                    let last = core.last_taken();
                    frame::go_away(core.out.tail(), last, Reason::NO_ERROR, "");
                }
                core.end(Error::go_away(
                    Reason::NO_ERROR,
                    crate::error::Cause::Wanted,
                ));
            }
            let polled = core.out.poll_write(&mut self.io, cx, &mut 0);
            ready!(polled).map_err(|error| Error::io(error.kind()))?;
        }
        // The other end may have been faster.
        let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        Poll::Ready(Ok(()))
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        // Whoever still has a stream must learn that nothing more comes.
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.task = None;
            core.end(Error::io(io::ErrorKind::BrokenPipe));
        }
    }
}

/// Reads of one turn, half a megabyte, after which answers go out and other tasks run.
pub(crate) const READS_PER_TURN: usize = 4;

/// A new state, shared.
pub(crate) fn share(core: Core) -> Shared {
    Rc::new(std::cell::RefCell::new(core))
}

/// Most bytes of one read: eight full TLS records.
const READ_BYTES: usize = 128 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}
