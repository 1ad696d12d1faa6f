//! What a connection has to send: frames one behind the other, in one buffer, so that all of a turn leaves together.
//!
//! Small payloads are copied in; large ones keep their memory and are sent from there between parts of the buffer. The
//! buffer is lent: an idle connection has none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::frame::{self, Header};

/// Frames on their way out.
#[derive(Debug, Default)]
pub(crate) struct Output {
    buf: Vec<u8>,
    /// How much of `buf` was sent.
    sent: usize,
    /// Payloads that stand behind that many bytes of `buf`.
    large: VecDeque<(usize, Bytes)>,
    large_bytes: usize,
    /// Written to the stream below and not yet flushed.
    dirty: bool,
}

impl Output {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.buf.len() - self.sent + self.large_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is nothing to write, nor to flush.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_empty() && !self.dirty
    }

    /// Where frames without a large payload are appended.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        if self.buf.capacity() == 0 {
            self.buf = SPARE.with(|spare| spare.borrow_mut().pop().unwrap_or_default());
        }
        &mut self.buf
    }

    /// Appends a DATA frame.
    pub(crate) fn data(&mut self, stream: u32, data: Bytes, end: bool) {
        let flags = if end { frame::END_STREAM } else { 0 };
        let header = Header::bytes(data.len(), frame::DATA, flags, stream);
        let tail = self.tail();
        tail.extend_from_slice(&header);
        if data.len() < LARGE {
            tail.extend_from_slice(&data);
        } else {
            let at = tail.len();
            self.large_bytes += data.len();
            self.large.push_back((at, data));
        }
    }

    /// Sends all that waits, and says how much was sent before it stopped.
    pub(crate) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let io = Pin::new(&mut *io);
            let polled = if self.large.is_empty() {
                let rest = self.buf.get(self.sent..).unwrap_or_default();
                io.poll_write(cx, rest)
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = self.slices(&mut slices);
                io.poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
            };
            match ready!(polled)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => {
                    self.dirty = true;
                    *written += sent;
                    self.advance(sent);
                }
            }
        }
        if self.dirty {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Lays out what comes first.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut from = self.sent;
        let mut count = 0;
        let mut add = |piece: &'a [u8]| {
            if let Some(slot) = slices.get_mut(count)
                && !piece.is_empty()
            {
                *slot = IoSlice::new(piece);
                count += 1;
            }
        };
        // Each large payload has at most one piece of the buffer before it.
        for (at, payload) in self.large.iter().take(SLICES / 2) {
            add(self.buf.get(from..*at).unwrap_or_default());
            add(payload);
            from = *at;
        }
        if self.large.len() < SLICES / 2 {
            add(self.buf.get(from..).unwrap_or_default());
        }
        count
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let until = self.large.front().map_or(self.buf.len(), |(at, _)| *at);
            let small = bytes.min(until.saturating_sub(self.sent));
            self.sent += small;
            bytes -= small;
            let Some((_, payload)) = self.large.front_mut().filter(|_| bytes > 0) else {
                break;
            };
            let now = bytes.min(payload.len());
            payload.advance(now);
            self.large_bytes -= now;
            bytes -= now;
            if payload.is_empty() {
                self.large.pop_front();
            }
        }
        if self.is_empty() {
            self.rest();
        } else if self.sent >= COMPACTED && self.sent > self.buf.len() / 2 {
            self.buf.drain(..self.sent);
            self.large.iter_mut().for_each(|(at, _)| *at -= self.sent);
            self.sent = 0;
        }
    }

    /// Gives the buffer back.
    fn rest(&mut self) {
        self.sent = 0;
        let mut buf = std::mem::take(&mut self.buf);
        if buf.capacity() <= SPARE_BYTES {
            buf.clear();
            SPARE.with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < SPARES {
                    spare.push(buf);
                }
            });
        }
        if self.large.capacity() > SLICES {
            self.large = VecDeque::new();
        }
    }
}

/// From here on a payload is sent from where it lies; below, a copy costs less than the bookkeeping.
const LARGE: usize = 2 * 1024;
/// Pieces that are sent at once.
const SLICES: usize = 32;
/// From here on what was sent is taken out of the buffer, once it is the larger part.
const COMPACTED: usize = 32 * 1024;
/// Buffers that a thread keeps for those who have something to send, and the largest of them.
const SPARES: usize = 8;
const SPARE_BYTES: usize = 64 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at most so many bytes of each write, and vectored ones as they come.
    #[derive(Default)]
    struct Narrow {
        width: usize,
        got: Vec<u8>,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let mut room = self.width;
            for buf in bufs {
                let now = room.min(buf.len());
                self.got.extend_from_slice(&buf[..now]);
                room -= now;
            }
            Poll::Ready(Ok(self.width - room))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn frames_leave_in_order_however_little_is_taken_at_once() {
        for width in [1, 7, 4096, 1 << 20] {
            let mut output = Output::default();
            let mut expected = Vec::new();
            for n in 0..100_u8 {
                let length = usize::from(n) * 97;
                let data = Bytes::from(vec![n; length]);
                expected.extend(Header::bytes(length, frame::DATA, 0, 1));
                expected.extend(&data);
                output.data(1, data, false);
                frame::ping(output.tail(), 0, [n; 8]);
                frame::ping(&mut expected, 0, [n; 8]);
            }
            assert_eq!(output.len(), expected.len());
            let mut io = Narrow {
                width,
                got: Vec::new(),
            };
            let mut written = 0;
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let polled = output.poll_write(&mut io, &mut cx, &mut written);
            assert!(matches!(polled, Poll::Ready(Ok(()))));
            assert!(io.got == expected, "width {width}");
            assert_eq!((written, output.len()), (expected.len(), 0));
            assert_eq!(output.buf.capacity(), 0);
        }
    }
}
