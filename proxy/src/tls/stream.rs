//! A TLS connection as a byte stream, read and written in large pieces.
//!
//! # Why
//! `tokio-rustls` does the handshake, and no more: it lets rustls read from the socket, which asks for 4 KiB at a time, so
//! that one full record takes four or five system calls and grows a buffer as often. Here one call fills a buffer of the
//! worker, from which rustls is fed. What a connection holds while it is idle is what rustls holds.
//!
//! An end without `close_notify` is an error, as it is for whoever reads from rustls: a cut is never taken for an end
//! (RFC 8446 §6.1).

use std::cell::RefCell;
use std::io::{self, BufRead as _, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// An established connection.
#[derive(Debug)]
pub(crate) struct TlsIo {
    tcp: TcpStream,
    session: Connection,
    /// Plaintext that was decrypted and had no room where it was wanted.
    pending: Vec<u8>,
    /// How much of it was read.
    taken: usize,
    /// What the peer sends has ended.
    end: Option<End>,
    /// `close_notify` was queued.
    closing: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// It said so.
    Closed,
    /// The connection below ended first.
    Cut,
}

impl TlsIo {
    /// Goes on after a finished handshake.
    pub(crate) fn new(tcp: TcpStream, mut session: Connection) -> Self {
        session.set_buffer_limit(Some(SEND_BYTES));
        Self {
            tcp,
            session,
            pending: Vec::new(),
            taken: 0,
            end: None,
            closing: false,
        }
    }

    /// The connection below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The application protocol that both ends agreed on.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// Hands over plaintext that is there already.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = self.pending.get(self.taken..).unwrap_or_default();
        if !rest.is_empty() {
            let (now, _) = rest.split_at(rest.len().min(buf.remaining()));
            buf.put_slice(now);
            self.taken += now.len();
            if self.taken < self.pending.len() {
                return;
            }
            self.pending = Vec::new();
            self.taken = 0;
        }
        while buf.remaining() > 0 {
            // An error says that there is nothing more, whether for now or for good.
            let Ok(chunk) = self.session.reader().into_first_chunk() else {
                return;
            };
            if chunk.is_empty() {
                return;
            }
            let now = chunk.len().min(buf.remaining());
            buf.put_slice(chunk.get(..now).unwrap_or_default());
            self.session.reader().consume(now);
        }
    }

    /// Feeds what was received, and hands over what comes of it; what has no room is kept, for the bytes lie in memory
    /// that others use next.
    fn feed(&mut self, mut received: &[u8], buf: &mut ReadBuf<'_>) -> io::Result<()> {
        while !received.is_empty() {
            if self.session.read_tls(&mut received)? == 0 {
                // After `close_notify` nothing counts.
                break;
            }
            match self.session.process_new_packets() {
                Ok(state) if state.peer_has_closed() => self.end = Some(End::Closed),
                Ok(_) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            if self.pending.is_empty() {
                self.hand_over(buf);
            }
            if buf.remaining() == 0 {
                self.keep();
            }
        }
        Ok(())
    }

    /// Moves plaintext from rustls, which takes no more while it holds a record's worth.
    fn keep(&mut self) {
        while let Ok(chunk) = self.session.reader().into_first_chunk() {
            if chunk.is_empty() {
                return;
            }
            self.pending.extend_from_slice(chunk);
            let kept = chunk.len();
            self.session.reader().consume(kept);
        }
    }

    /// Sends what rustls has ready.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut socket = Socket {
                tcp: &mut self.tcp,
                cx,
            };
            match self.session.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts and sends. What was written before goes first, so that no more than one write is ever held here; what the
    /// socket doesn't take now leaves with the next write or flush.
    fn poll_seal(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut dyn Write) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let written = write(&mut self.session.writer())?;
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(written)),
        }
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
            match this.end {
                Some(End::Closed) => return Poll::Ready(Ok(())),
                Some(End::Cut) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                None => {}
            }
            ready!(RECEIVED.with(|memory| {
                // Nobody else receives inside of this call, which waits for nothing.
                let mut memory = memory.borrow_mut();
                // Not much more than there is room for: what has none is copied once more.
                let most = buf.remaining().max(LEAST_RECEIVED).min(memory.len());
                let (memory, _) = memory.split_at_mut(most);
                let mut received = ReadBuf::new(memory);
                ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut received))?;
                if received.filled().is_empty() {
                    this.end = Some(End::Cut);
                }
                let fed = this.feed(received.filled(), buf);
                if fed.is_err() {
                    // The alert says why, if it still gets through; the error that caused it comes first.
                    let _ = this.poll_send(cx);
                }
                Poll::Ready(fed)
            }))?;
        }
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, |writer| writer.write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_seal(cx, |writer| writer.write_vectored(bufs))
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
            this.session.send_close_notify();
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.tcp).poll_shutdown(cx)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

/// A socket as rustls writes to it.
struct Socket<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.tcp).poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(match bufs {
            [one] => Pin::new(&mut *self.tcp).poll_write(self.cx, one),
            many => Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, many),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn or_would_block(polled: Poll<io::Result<usize>>) -> io::Result<usize> {
    match polled {
        Poll::Ready(written) => written,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Most bytes of one read from a socket: eight full records.
pub(crate) const RECEIVED_BYTES: usize = 128 * 1024;
/// Room for one full record, however small the buffer that it is read for.
const LEAST_RECEIVED: usize = 17 * 1024;
/// Most plaintext that waits for the socket; one write of the relay's.
const SEND_BYTES: usize = 256 * 1024;

thread_local! {
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVED_BYTES].into_boxed_slice());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};

    use super::*;
    use crate::clock::MeshClock;
    use crate::state::{IdentityEpoch, Svid};
    use crate::svid::test_control_plane::{Pki, now, trust_domain};
    use crate::tls::{Offer, TlsEpoch, acceptor, connector};

    /// Both ends of a connection between two workloads of one mesh.
    async fn pair() -> (Box<TlsIo>, Box<TlsIo>) {
        let own = Pki::new().unattested("inference/llm");
        let root = Authority::new(trust_domain(), own.chain.last().unwrap(), false).unwrap();
        let identity = Arc::new(IdentityEpoch {
            number: 1,
            svid: Arc::new(Svid {
                chain: own.chain.clone(),
                key: own.private_key(),
                not_after: now() + Duration::from_secs(3600),
            }),
            bundle: Arc::new(TrustBundle::new(vec![root]).unwrap()),
        });
        let epoch = TlsEpoch::new(identity, &Arc::new(MeshClock::host())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            connector::connect(tcp, &epoch, Offer::DedicatedTcp).await
        };
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            acceptor::accept(tcp, &epoch).await
        };
        let (client, server) = tokio::join!(client, server);
        (client.unwrap().stream, server.unwrap().stream)
    }

    #[tokio::test]
    async fn what_is_written_arrives_whole_and_in_order_however_it_is_read() {
        let sent: Vec<u8> = (0..=255).cycle().take(1_000_003).collect();
        // Smaller than a record, larger than one read from the socket, and in between.
        for room in [100, 9_000, 70_000, 400_000] {
            let (mut near, mut far) = pair().await;
            let writer = async {
                for piece in sent.chunks(77_777) {
                    near.write_all(piece).await.unwrap();
                }
                near.shutdown().await.unwrap();
            };
            let reader = async {
                let (mut received, mut buf) = (Vec::new(), vec![0; room]);
                loop {
                    match far.read(&mut buf).await.unwrap() {
                        0 => return received,
                        read => received.extend_from_slice(&buf[..read]),
                    }
                }
            };
            let ((), received) = tokio::join!(writer, reader);
            assert!(received == sent, "with room for {room}");
        }
    }

    #[tokio::test]
    async fn a_cut_is_not_taken_for_an_end() {
        let (mut near, mut far) = pair().await;
        near.write_all(b"half").await.unwrap();
        drop(near);
        let mut received = Vec::new();
        let ended = far.read_to_end(&mut received).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(received, b"half");
        let again = far.read(&mut [0; 8]).await;
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn one_direction_ends_and_the_other_goes_on() {
        let (mut near, mut far) = pair().await;
        near.shutdown().await.unwrap();
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
        far.write_all(b"still here").await.unwrap();
        far.shutdown().await.unwrap();
        let mut received = Vec::new();
        near.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"still here");
    }

    #[tokio::test]
    async fn bytes_that_are_no_record_end_the_connection() {
        let (mut near, mut far) = pair().await;
        near.tcp.write_all(&[0x17, 3, 3, 0, 20]).await.unwrap();
        near.tcp.write_all(&[7; 20]).await.unwrap();
        let refused = far.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        // The peer learns it by an alert.
        assert!(near.read(&mut [0; 8]).await.is_err());
    }
}
