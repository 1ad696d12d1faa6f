//! Ends HTTP/2 connections that keep us busy without asking for anything.
//!
//! The `h2` crate bounds CONTINUATION, header lists and resets of open streams, but answers PING and SETTINGS and reads
//! WINDOW_UPDATE, PRIORITY, unknown frames and resets of streams that are over without end (the floods of CVE-2019-9512,
//! -9513, -9515 and -9518). This wrapper reads the nine bytes of each frame header as they pass (RFC 9113 §4.1) and lets
//! such frames cost credit. Credit comes back with time, with useful frames and with what we send, because an honest
//! receiver answers our DATA with WINDOW_UPDATE.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::Io;
use crate::lane::cork::Corked;

/// A byte stream that carries HTTP/2 and has a budget.
#[derive(Debug)]
pub(crate) struct Budgeted {
    io: Corked,
    budget: Budget,
    flooded: Rc<Cell<bool>>,
}

impl Budgeted {
    /// `preface`: whether the other end is the client, whose first 24 bytes are not frames (RFC 9113 §3.4).
    pub(crate) fn new(io: Io, preface: bool) -> Self {
        Self {
            io: Corked::new(io),
            budget: Budget::new(preface, Instant::now()),
            flooded: Rc::default(),
        }
    }

    /// Whether the connection was ended for want of credit: `h2` keeps no more of an error than its text.
    pub(crate) fn flooded(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.flooded)
    }

    /// What sends the frames that were written; whoever polls the connection polls this afterwards.
    pub(crate) fn corked(&self) -> Corked {
        self.io.clone()
    }
}

impl AsyncRead for Budgeted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(this.io.poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if this.budget.read(fresh, Instant::now) {
            Poll::Ready(Ok(()))
        } else {
            this.flooded.set(true);
            Poll::Ready(Err(io::Error::other(FloodError)))
        }
    }
}

impl AsyncWrite for Budgeted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(this.io.poll_write(cx, bufs))?;
        this.budget.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // `h2` flushes after each frame of data; what it wrote in one turn leaves together at the end of the turn.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io.poll_shutdown(cx)
    }
}

/// The connection sent far more control frames than requests or data call for.
#[derive(Debug, thiserror::Error)]
#[error("the peer floods the HTTP/2 connection with control frames")]
struct FloodError;

/// The count itself; pure.
#[derive(Debug)]
struct Budget {
    credit: u32,
    /// Useful frames and sent bytes since the last refill.
    useful: u32,
    sent_bytes: usize,
    refilled: Instant,
    /// Bytes to pass over before the next frame header: the rest of a payload, or of the preface.
    skip: usize,
    header: [u8; FRAME_HEADER],
    header_len: usize,
}

impl Budget {
    fn new(preface: bool, now: Instant) -> Self {
        Self {
            credit: MAX_CREDIT,
            useful: 0,
            sent_bytes: 0,
            refilled: now,
            skip: if preface { PREFACE } else { 0 },
            header: [0; FRAME_HEADER],
            header_len: 0,
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
    }

    /// Passes over bytes; `false` when the budget is spent.
    fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        loop {
            let over = self.skip.min(bytes.len());
            self.skip -= over;
            bytes = bytes.get(over..).unwrap_or_default();
            let missing = FRAME_HEADER - self.header_len;
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            if head.is_empty() {
                return true;
            }
            if let Some(slot) = self
                .header
                .get_mut(self.header_len..self.header_len + head.len())
            {
                slot.copy_from_slice(head);
            }
            self.header_len += head.len();
            bytes = rest;
            if self.header_len == FRAME_HEADER {
                self.header_len = 0;
                if !self.frame() && !self.refill(now()) {
                    return false;
                }
            }
        }
    }

    /// Accounts for one frame; `false` when there is no credit left.
    fn frame(&mut self) -> bool {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let useful = match kind {
            // DATA that is empty and ends nothing is the flood of CVE-2019-9518.
            0 => self.skip > 0 || flags & END_STREAM != 0,
            // HEADERS and CONTINUATION: `h2` has limits of its own for them. RST_STREAM it bounds only where that ends a
            // stream, and a stream that is over can be reset again and again; an honest reset is paid for by the HEADERS
            // of its stream.
            1 | 9 => true,
            _ => false,
        };
        if useful {
            self.useful = self.useful.saturating_add(1);
            return true;
        }
        self.credit = self.credit.saturating_sub(1);
        self.credit > 0
    }

    fn refill(&mut self, now: Instant) -> bool {
        let elapsed = now.duration_since(self.refilled).as_millis();
        let by_time = u32::try_from(elapsed).unwrap_or(u32::MAX) / MS_PER_CREDIT;
        let by_sending = u32::try_from(self.sent_bytes / SENT_BYTES_PER_CREDIT).unwrap_or(u32::MAX);
        self.credit = by_time
            .saturating_add(by_sending)
            .saturating_add(self.useful.saturating_mul(CREDIT_PER_USEFUL))
            .min(MAX_CREDIT);
        self.useful = 0;
        self.sent_bytes = 0;
        self.refilled = now;
        self.credit > 0
    }
}

const FRAME_HEADER: usize = 9;
const PREFACE: usize = 24;
const END_STREAM: u8 = 1;
/// A burst that no honest peer reaches at once: 256 streams, each with settings, window updates and priorities.
const MAX_CREDIT: u32 = 1_000;
/// 500 frames a second cost nothing worth defending.
const MS_PER_CREDIT: u32 = 2;
/// The most talkative clients send two window updates and a PING per DATA frame that they receive or send.
const CREDIT_PER_USEFUL: u32 = 4;
/// More than the 17 bytes of a PING's answer, so that a flood does not pay for itself.
const SENT_BYTES_PER_CREDIT: usize = 24;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut out = length[1..].to_vec();
        out.extend([kind, flags, 0, 0, 0, 0]);
        out.extend(payload);
        out
    }

    /// How many of `count` frames pass at one instant, fed in pieces of `piece` bytes.
    fn passed(kind: u8, payload: &[u8], count: usize, piece: usize) -> usize {
        let start = Instant::now();
        let mut budget = Budget::new(true, start);
        assert!(budget.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", || start));
        (0..count)
            .take_while(|_| {
                frame(kind, 0, payload)
                    .chunks(piece)
                    .all(|piece| budget.read(piece, || start))
            })
            .count()
    }

    #[test]
    fn floods_end() {
        for (name, kind, payload) in [
            ("PING", 6, &[0; 8][..]),
            ("SETTINGS", 4, &[]),
            ("WINDOW_UPDATE", 8, &[0, 0, 0, 1]),
            ("PRIORITY", 2, &[0; 5]),
            ("RST_STREAM", 3, &[0, 0, 0, 8]),
            ("unknown", 0xbe, &[0; 3]),
            ("empty DATA", 0, &[]),
        ] {
            for piece in [1, 5, 9, 64] {
                let passed = passed(kind, payload, 20_000, piece);
                assert!(passed <= 1_000, "{name}: {passed} frames passed");
            }
        }
    }

    #[test]
    fn data_and_headers_cost_nothing() {
        assert_eq!(passed(0, b"token", 20_000, 7), 20_000);
        assert_eq!(passed(1, b"head", 20_000, 7), 20_000);
    }

    #[test]
    fn a_reset_of_every_stream_lives() {
        let start = Instant::now();
        let mut budget = Budget::new(false, start);
        for _ in 0..20_000 {
            assert!(budget.read(&frame(1, 0, b"head"), || start));
            assert!(budget.read(&frame(3, 0, &[0, 0, 0, 8]), || start));
        }
    }

    #[test]
    fn a_receiver_that_updates_its_window_for_all_we_send_lives() {
        let start = Instant::now();
        let mut budget = Budget::new(false, start);
        for _ in 0..100_000 {
            budget.sent(9 + 64);
            assert!(budget.read(&frame(8, 0, &[0, 0, 0, 64]), || start));
            assert!(budget.read(&frame(8, 0, &[0, 0, 0, 64]), || start));
        }
    }

    #[test]
    fn a_slow_stream_of_pings_lives() {
        let start = Instant::now();
        let mut budget = Budget::new(false, start);
        for second in 0..100_u64 {
            for _ in 0..400 {
                let now = start + Duration::from_secs(second);
                assert!(budget.read(&frame(6, 0, &[0; 8]), || now), "{second}");
            }
        }
    }

    #[test]
    fn answers_to_a_ping_flood_do_not_pay_for_it() {
        let start = Instant::now();
        let mut budget = Budget::new(false, start);
        let survived = (0..20_000).all(|_| {
            budget.sent(17);
            budget.read(&frame(6, 0, &[0; 8]), || start)
        });
        assert!(!survived);
    }
}
