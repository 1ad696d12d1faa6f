//! The two directions of a stream, as the user has them.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use crate::connection::Shared;
use crate::error::{Cause, Error, Reason};
use crate::stream::{Sending, keep};

/// One holder of a stream. When the last is gone, an unfinished stream is reset.
pub(crate) struct Handle {
    pub(crate) core: Shared,
    pub(crate) key: usize,
    /// What comes is read by this one.
    is_reader: bool,
}

impl Handle {
    pub(crate) fn new(core: &Shared, key: usize, is_reader: bool) -> Self {
        if let Some(stream) = core.borrow_mut().stream_mut(key) {
            stream.handles += 1;
        }
        Self {
            core: core.clone(),
            key,
            is_reader,
        }
    }

    pub(crate) fn reset(&self, reason: Reason) {
        let mut core = self.core.borrow_mut();
        core.reset(self.key, reason, Cause::Wanted);
        core.wake();
    }

    pub(crate) fn poll_reset(&self, cx: &Context<'_>) -> Poll<Result<Reason, Error>> {
        let mut core = self.core.borrow_mut();
        let Some(stream) = core.stream_mut(self.key) else {
            return Poll::Ready(Err(Error::misuse("the stream is gone")));
        };
        match &stream.failed {
            Some(error) => Poll::Ready(error.reason().ok_or_else(|| error.clone())),
            None => {
                keep(&mut stream.writer, cx);
                Poll::Pending
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.borrow_mut().drop_handle(self.key, self.is_reader);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)
    }
}

/// Our direction of a stream, after its head.
#[derive(Debug)]
pub struct SendStream(pub(crate) Handle);

impl SendStream {
    /// Bytes that may be sent now: as many as the stream's window lets pass, and as may wait where others are before it.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.core.borrow().room(self.0.key)
    }

    /// Waits until something may be sent, and says how many bytes. `None`: nothing may be sent any more.
    ///
    /// # Errors
    /// The stream was reset, or the connection is over.
    pub fn poll_capacity(&mut self, cx: &Context<'_>) -> Poll<Option<Result<usize, Error>>> {
        let mut core = self.0.core.borrow_mut();
        let room = core.room(self.0.key);
        if room > 0 {
            return Poll::Ready(Some(Ok(room)));
        }
        let Some(stream) = core.stream_mut(self.0.key) else {
            return Poll::Ready(None);
        };
        if let Some(error) = &stream.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        if stream.sending != Sending::Body {
            return Poll::Ready(None);
        }
        stream.wants_room = true;
        keep(&mut stream.writer, cx);
        Poll::Pending
    }

    /// Sends data; what the windows forbid waits, up to the send buffer. `end`: nothing follows.
    ///
    /// # Errors
    /// The stream was reset, the connection is over, or data has no place or no room here.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), Error> {
        let mut core = self.0.core.borrow_mut();
        core.send_data(self.0.key, data, end)
    }

    /// Sends trailers behind the data; nothing follows.
    ///
    /// # Errors
    /// The stream was reset, the connection is over, or trailers have no place here.
    pub fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Error> {
        let mut core = self.0.core.borrow_mut();
        core.send_trailers(self.0.key, trailers)
    }

    /// Ends the stream in both directions, and drops what waits.
    pub fn send_reset(&mut self, reason: Reason) {
        self.0.reset(reason);
    }

    /// Waits until the other end resets the stream.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<Result<Reason, Error>> {
        self.0.poll_reset(cx)
    }
}

/// The other end's direction of a stream, after its head.
#[derive(Debug)]
pub struct RecvStream(pub(crate) Handle);

impl RecvStream {
    /// Waits for the next piece of data. Its window must be given back by [`Self::release_capacity`]. `None`: there is no
    /// more, though there may be trailers.
    ///
    /// # Errors
    /// The stream was reset, or the connection is over; what had come before is handed out first.
    pub fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let mut core = self.0.core.borrow_mut();
        if let Some(data) = core.pop_data(self.0.key) {
            return Poll::Ready(Some(Ok(data)));
        }
        let Some(stream) = core.stream_mut(self.0.key) else {
            return Poll::Ready(None);
        };
        match &stream.failed {
            _ if stream.complete => Poll::Ready(None),
            Some(error) => Poll::Ready(Some(Err(error.clone()))),
            None => {
                keep(&mut stream.reader, cx);
                Poll::Pending
            }
        }
    }

    /// [`Self::poll_data`] as a future.
    ///
    /// # Cancel safety
    /// Safe: a piece is taken only when it is returned.
    pub async fn data(&mut self) -> Option<Result<Bytes, Error>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Waits for the end, and hands out the trailers where there are some.
    ///
    /// # Errors
    /// The stream was reset, or the connection is over.
    pub fn poll_trailers(&mut self, cx: &Context<'_>) -> Poll<Result<Option<HeaderMap>, Error>> {
        let mut core = self.0.core.borrow_mut();
        let Some(stream) = core.stream_mut(self.0.key) else {
            return Poll::Ready(Ok(None));
        };
        match &stream.failed {
            _ if stream.complete => Poll::Ready(Ok(stream.trailers.take().map(|map| *map))),
            Some(error) => Poll::Ready(Err(error.clone())),
            None => {
                keep(&mut stream.reader, cx);
                Poll::Pending
            }
        }
    }

    /// [`Self::poll_trailers`] as a future.
    ///
    /// # Errors
    /// The stream was reset, or the connection is over.
    ///
    /// # Cancel safety
    /// Safe: trailers are taken only when they are returned.
    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>, Error> {
        std::future::poll_fn(|cx| self.poll_trailers(cx)).await
    }

    /// Whether nothing more comes, not even trailers.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        let core = self.0.core.borrow();
        core.stream(self.0.key).is_none_or(|stream| {
            stream.complete && stream.data.is_empty() && stream.trailers.is_none()
        })
    }

    /// Gives the window of consumed data back, so that as much more may come.
    ///
    /// # Errors
    /// The stream was reset, or that much was not received.
    pub fn release_capacity(&mut self, bytes: usize) -> Result<(), Error> {
        self.0.core.borrow_mut().release(self.0.key, bytes)
    }
}
