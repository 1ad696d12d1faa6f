//! What one turn of a connection's task does: it writes all at once, and leaves others their turns.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use vouchsafe_http2::server;

use super::frames::*;
use super::raw::*;

#[test]
fn what_a_turn_brings_together_leaves_in_one_write() {
    run(async {
        let requests = (1..20).step_by(2).flat_map(get);
        let begin = [PREFACE.to_vec(), settings(&[]), requests.collect()].concat();
        let (io, counts) = Talker::new(begin, Vec::new());
        let mut connection = server::Builder::new().handshake(io).await.unwrap();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut calls = Vec::new();
        while let Poll::Ready(Some(call)) = connection.poll_accept(cx) {
            let (_request, mut respond) = call.unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data("small".into(), false).unwrap();
            stream
                .send_data(Bytes::from(vec![0; 5_000]), false)
                .unwrap();
            stream.send_trailers(HeaderMap::new()).unwrap();
            calls.push(respond);
        }
        assert_eq!(calls.len(), 10);
        // The first write was the server's SETTINGS.
        assert_eq!(counts.writes.get(), 2);
        assert!(counts.written.get() > 50_000);
    });
}

#[test]
fn whoever_never_stops_sending_is_left_for_others_now_and_then() {
    run(async {
        // Data for a stream that we have reset may come; the connection's window is given back for it.
        let begin = [PREFACE, &settings(&[]), &post(1), &update(1, 0)].concat();
        let (io, counts) = Talker::new(begin, frame(DATA, 0, 1, [0; 1_000]).repeat(30));
        let mut connection = server::Builder::new().handshake(io).await.unwrap();
        let cx = &mut Context::from_waker(Waker::noop());
        for turn in 1..=10 {
            assert!(connection.poll_accept(cx).is_pending());
            assert!(counts.reads.get() <= 1 + 64 * turn);
            // What was given back was said meanwhile.
            assert!(counts.writes.get() > turn);
        }
    });
}

/// An end that says something and then something else as often as it is asked, or nothing more.
struct Talker {
    begin: Vec<u8>,
    more: Vec<u8>,
    counts: Rc<Counts>,
}

#[derive(Default)]
struct Counts {
    reads: Cell<usize>,
    writes: Cell<usize>,
    written: Cell<usize>,
}

impl Talker {
    fn new(begin: Vec<u8>, more: Vec<u8>) -> (Self, Rc<Counts>) {
        let counts = Rc::<Counts>::default();
        let talker = Self {
            begin,
            more,
            counts: counts.clone(),
        };
        (talker, counts)
    }
}

impl AsyncRead for Talker {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let reads = &self.counts.reads;
        reads.set(reads.get() + 1);
        match reads.get() {
            1 => buf.put_slice(&self.begin),
            // Ends what would go on for ever.
            10_000.. => {}
            _ if self.more.is_empty() => return Poll::Pending,
            _ => buf.put_slice(&self.more),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Talker {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Counts {
            writes, written, ..
        } = &*self.counts;
        let length = bufs.iter().map(|buf| buf.len()).sum();
        writes.set(writes.get() + 1);
        written.set(written.get() + length);
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
