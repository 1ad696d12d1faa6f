//! A TLS connection as a byte stream, read and written in large pieces and without a copy of our own.
//!
//! # Why
//! The handshake is rustls' ([`handshake`](super::handshake)), the records after it are ours ([`record`](super::record)).
//! One call fills a buffer of the worker, and records are opened from there into the reader's memory; what is written is
//! sealed into another buffer of the worker, and leaves from there. An idle connection holds no buffer at all: only the
//! beginning of a record, plaintext that found no room, and what the socket would not take are kept, while they are.
//!
//! An end without `close_notify` is an error: a cut is never taken for an end (RFC 8446 §6.1).

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::memory::Pages;
use crate::tls::outgoing::{Outgoing, Pieces, Unsent};
use crate::tls::record::{
    CLOSE_NOTIFY, Content, Fault, HEADER_BYTES, MAX_CONTENT_BYTES, MAX_RECORD_BYTES,
    OVERHEAD_BYTES, Opened, Opener, Sealer, record_length, room_for,
};

/// An established connection.
#[derive(Debug)]
pub(crate) struct TlsIo {
    tcp: TcpStream,
    protection: Protection,
    /// The beginning of a record whose rest is still to come.
    partial: Vec<u8>,
    /// Plaintext that had no room where it was wanted.
    pending: Vec<u8>,
    /// How much of it was read.
    taken: usize,
    /// Sealed, and not yet taken by the socket.
    unsent: Unsent,
    /// What the peer sends has ended.
    end: Option<End>,
    /// `close_notify` was sealed.
    closing: bool,
}

/// What a handshake leaves for the records after it.
#[derive(Debug)]
pub(crate) struct Protection {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// It said so.
    Closed,
    /// The connection below ended first.
    Cut,
    /// It broke the protocol, or said that we did.
    Broken(Fault),
}

impl TlsIo {
    /// Goes on after a finished handshake, of which `received` was read too much.
    pub(crate) fn new(tcp: TcpStream, protection: Protection, received: Vec<u8>) -> Self {
        Self {
            tcp,
            protection,
            partial: received,
            pending: Vec::new(),
            taken: 0,
            unsent: Unsent::default(),
            end: None,
            closing: false,
        }
    }

    /// The connection below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Hands over plaintext that is there already.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = self.pending.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        let (now, _) = rest.split_at(rest.len().min(buf.remaining()));
        buf.put_slice(now);
        self.taken += now.len();
        if self.taken == self.pending.len() {
            self.pending = Vec::new();
            self.taken = 0;
        }
    }

    /// Receives once, behind the part of a record that is there already, and opens what is whole.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        memory: &mut [u8],
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let held = self.partial.len();
        if held > 0 && record_is_whole(&self.partial) {
            // Read along with the end of the handshake.
            let received = std::mem::take(&mut self.partial);
            self.open_all(&received, buf);
            return Poll::Ready(Ok(()));
        }
        // Not much more than there is room for: what has none is copied once more.
        let most = buf
            .remaining()
            .clamp(MAX_RECORD_BYTES, memory.len().saturating_sub(held));
        let (memory, _) = memory.split_at_mut(held + most);
        let mut received = ReadBuf::new(memory);
        if held > 0 {
            // Asked first, so that a wait costs no copy.
            ready!(self.tcp.poll_read_ready(cx))?;
            received.put_slice(&self.partial);
        }
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut received))?;
        if received.filled().len() == held {
            self.end = Some(End::Cut);
            return Poll::Ready(Ok(()));
        }
        self.partial = Vec::new();
        self.open_all(received.filled(), buf);
        Poll::Ready(Ok(()))
    }

    /// Opens all whole records, and keeps the rest, for it lies in memory that others use next. A fault is met after what
    /// came before it.
    fn open_all(&mut self, received: &[u8], buf: &mut ReadBuf<'_>) {
        let mut rest = received;
        while self.end.is_none() {
            match self.open_next(rest, buf) {
                Ok(Some(after)) => rest = after,
                Ok(None) => {
                    self.partial.extend_from_slice(rest);
                    return;
                }
                Err(fault) => self.end = Some(End::Broken(fault)),
            }
        }
    }

    /// Opens the first record, if it is whole, and returns what follows it.
    fn open_next<'a>(
        &mut self,
        received: &'a [u8],
        buf: &mut ReadBuf<'_>,
    ) -> Result<Option<&'a [u8]>, Fault> {
        let Some(length) = record_length(received)? else {
            return Ok(None);
        };
        let Some((record, after)) = received.split_at_checked(length) else {
            return Ok(None);
        };
        let opener = &mut self.protection.opener;
        let room = room_for(length);
        let opened = if self.pending.is_empty() && buf.remaining() >= room {
            let opened = opener.open(record, buf.initialize_unfilled_to(room))?;
            if let Opened::Data(length) = opened {
                buf.advance(length);
            }
            opened
        } else {
            let held = self.pending.len();
            self.pending.resize(held + room, 0);
            let place = self.pending.get_mut(held..).unwrap_or_default();
            let opened = opener.open(record, place);
            let data = match opened {
                Ok(Opened::Data(length)) => length,
                Ok(Opened::Nothing | Opened::Closed) | Err(_) => 0,
            };
            self.pending.truncate(held + data);
            let opened = opened?;
            self.hand_over(buf);
            opened
        };
        if opened == Opened::Closed {
            // After it nothing counts.
            self.end = Some(End::Closed);
        }
        Ok(Some(after))
    }

    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.unsent.rest() {
            match Pin::new(&mut self.tcp).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => self.unsent.sent(sent),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.unsent.settle();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Seals and sends. What was sealed before goes first, so that no more than one write is ever held here; what the
    /// socket doesn't take now leaves with the next write or flush.
    fn poll_seal(
        &mut self,
        cx: &mut Context<'_>,
        mut pieces: Pieces<'_, '_>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pieces.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut written = 0;
        let mut out = Outgoing::take();
        while !pieces.is_empty() && out.room().len() >= MAX_CONTENT_BYTES + OVERHEAD_BYTES {
            if self.protection.opener.take_asked() || self.protection.sealer.is_worn() {
                let length = self.protection.sealer.update(out.room())?;
                out.fill(length);
                continue;
            }
            let room = out.room();
            let (length, content) = match pieces.next_in_one() {
                Some(content) => (content.len(), Content::At(content)),
                None => {
                    let place = room.get_mut(HEADER_BYTES..).unwrap_or_default();
                    let length = pieces.gather(place);
                    (length, Content::InPlace(length))
                }
            };
            let length_sealed = self.protection.sealer.seal(content, room)?;
            out.fill(length_sealed);
            written += length;
        }
        self.unsent = Unsent::Outgoing(out);
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(written)),
        }
    }

    /// Seals an alert behind what is not sent yet.
    fn seal_alert(&mut self, description: u8) -> Result<(), Fault> {
        let mut record = [0; OVERHEAD_BYTES + 2];
        let length = self.protection.sealer.alert(description, &mut record)?;
        let record = record.get(..length).unwrap_or_default();
        let mut all = self.unsent.rest().unwrap_or_default().to_vec();
        all.extend_from_slice(record);
        self.unsent = Unsent::Kept {
            sealed: all,
            sent: 0,
        };
        Ok(())
    }

    /// What a reader is told when all that came before the end has been read.
    fn ended(&mut self, cx: &mut Context<'_>, end: End) -> io::Result<()> {
        match end {
            End::Closed => Ok(()),
            End::Cut => Err(io::ErrorKind::UnexpectedEof.into()),
            End::Broken(fault) => {
                if let Some(description) = fault.alert()
                    && !self.closing
                    && self.seal_alert(description).is_ok()
                {
                    // It says why, if it still gets through. Nothing may follow it.
                    self.closing = true;
                    let _ = self.poll_send(cx);
                }
                Err(fault.into())
            }
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

fn record_is_whole(received: &[u8]) -> bool {
    match record_length(received) {
        Ok(length) => length.is_some_and(|length| received.len() >= length),
        // The fault is found when it is opened.
        Err(_) => true,
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            this.hand_over(buf);
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = this.end {
                return Poll::Ready(this.ended(cx, end));
            }
            // Nobody else receives inside of this call, which waits for nothing.
            ready!(
                RECEIVED
                    .with(|memory| { this.poll_receive(cx, memory.borrow_mut().get_mut(), buf) })
            )?;
        }
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, Pieces::new(buf, &[]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, Pieces::new(&[], bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TCP has nothing to flush.
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closing {
            this.closing = true;
            this.seal_alert(CLOSE_NOTIFY)?;
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.tcp).poll_shutdown(cx)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

/// Most bytes of one read from a socket: eight full records.
pub(crate) const RECEIVED_BYTES: usize = 128 * 1024;

thread_local! {
    static RECEIVED: RefCell<Pages> = RefCell::new(Pages::new(RECEIVED_BYTES + MAX_RECORD_BYTES));
}

#[cfg(test)]
mod tests;
