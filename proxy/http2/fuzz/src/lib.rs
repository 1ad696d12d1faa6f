//! What each fuzz target does with its bytes. An ordinary test replays the corpora through the same functions
//! (`tests/corpus.rs` of the crate), so that a crash that was found once stays fixed on stable.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use vouchsafe_http2::hpack::decoder::{Decoded, Decoder};
use vouchsafe_http2::hpack::encoder::Encoder;
use vouchsafe_http2::hpack::field::Field;
use vouchsafe_http2::{RecvStream, SendStream, client, server};

/// Header blocks of one connection, each after 16 bits of its length. No list passes its limit, and what was read is
/// written so that it is read as the same.
pub fn header_blocks(mut data: &[u8]) {
    const LIMIT: usize = 4096;
    let (mut decoder, mut encoder) = (Decoder::default(), Encoder::default());
    let mut other_end = Decoder::default();
    while let Some((length, rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (block, rest) = rest.split_at(length);
        data = rest;
        let (mut size, mut fields) = (0, HeaderMap::new());
        let decoded = decoder.decode(block, LIMIT, |field| {
            size += 32;
            if let Field::Regular(name, value) = field {
                size += name.as_str().len() + value.len();
                fields.append(name, value);
            }
        });
        assert!(size <= LIMIT);
        if decoded.is_err() {
            return;
        }
        let (mut written, mut read) = (Vec::new(), HeaderMap::new());
        encoder.fields(&fields, &mut written);
        let decoded = other_end.decode(&written, LIMIT, |field| match field {
            Field::Regular(name, value) => drop(read.append(name, value)),
            other => panic!("{other:?} was not written"),
        });
        assert_eq!(decoded, Ok(Decoded::Complete));
        assert_eq!(read, fields);
    }
}

/// What a client sends behind its preface, after a byte that says how it is cut. The server answers each request with what
/// came. Whatever comes: it ends, what it says is frames, and nobody waits for more.
pub fn server_connection(data: &[u8]) {
    let Some((shape, data)) = data.split_first() else {
        return;
    };
    let mut io = Script::new(*shape, &[PREFACE, data].concat());
    let cx = &mut Context::from_waker(Waker::noop());
    let mut bodies: Vec<(RecvStream, SendStream)> = Vec::new();
    let mut read = 0;
    {
        let builder = server::Builder::new().max_concurrent_streams(5);
        let begun = Box::pin(builder.handshake(&mut io)).as_mut().poll(cx);
        let Poll::Ready(begun) = begun else {
            panic!("the preface is all there");
        };
        // What came with it may have been wrong.
        let Ok(mut connection) = begun else {
            return;
        };
        while let Poll::Ready(Some(Ok((request, mut respond)))) = connection.poll_accept(cx) {
            if let Ok(answer) = respond.send_response(Response::new(()), false) {
                bodies.push((request.into_body(), answer));
            }
            bodies.retain_mut(|(body, answer)| echo(body, answer, &mut read, cx));
        }
    }
    for (body, _) in &mut bodies {
        while let Poll::Ready(Some(Ok(data))) = body.poll_data(cx) {
            read += data.len();
        }
        assert!(body.poll_data(cx).is_ready() && body.poll_trailers(cx).is_ready());
    }
    assert!(read <= data.len());
    io.check();
}

/// Sends back what came; whether more may come.
fn echo(
    body: &mut RecvStream,
    answer: &mut SendStream,
    read: &mut usize,
    cx: &mut Context<'_>,
) -> bool {
    loop {
        match body.poll_data(cx) {
            Poll::Pending => return true,
            Poll::Ready(Some(Ok(data))) => {
                *read += data.len();
                // Refused where the stream is over, or holds as much as it may.
                let _ = body.release_capacity(data.len());
                let _ = answer.send_data(data, false);
            }
            Poll::Ready(Some(Err(_))) => return false,
            Poll::Ready(None) => {
                let _ = answer.send_trailers(HeaderMap::new());
                return false;
            }
        }
    }
}

/// What a server sends, after a byte that says how it is cut, to a client with three requests on their way.
pub fn client_connection(data: &[u8]) {
    let Some((shape, data)) = data.split_first() else {
        return;
    };
    let mut io = Script::new(*shape, data);
    let cx = &mut Context::from_waker(Waker::noop());
    let (mut send, connection) = client::Builder::new().handshake(&mut io);
    let mut connection = Box::pin(connection);
    let mut calls = Vec::new();
    for method in ["GET", "HEAD", "POST"] {
        let request = Request::builder().method(method);
        let request = request.uri("http://llm.example/").body(());
        let opened = send.send_request(request.expect("a request"), method != "POST");
        let (response, mut body) = opened.expect("nothing was said against it yet");
        let _ = body.send_data(Bytes::from_static(b"question"), true);
        calls.push((response, body));
    }
    drop(send);
    for _ in 0..=data.len() {
        if connection.as_mut().poll(cx).is_ready() {
            break;
        }
    }
    drop(connection);
    let mut read = 0;
    for (mut response, _body) in calls {
        while let Poll::Ready(Some(Ok(_))) = response.poll_informational(cx) {}
        match Pin::new(&mut response).poll(cx) {
            Poll::Ready(Ok(response)) => {
                let mut body = response.into_body();
                while let Poll::Ready(Some(Ok(data))) = body.poll_data(cx) {
                    read += data.len();
                }
                assert!(body.poll_data(cx).is_ready() && body.poll_trailers(cx).is_ready());
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => panic!("waits for what will not come"),
        }
    }
    assert!(read <= data.len());
    io.check();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The other end: it says what it has to say in pieces, and hears all or, after a while, nothing.
struct Script {
    says: Vec<u8>,
    said: usize,
    piece: usize,
    hears: usize,
    heard: Vec<u8>,
}

impl Script {
    /// The upper two bits of `shape` say how much is heard, the others how much is said at a time.
    fn new(shape: u8, says: &[u8]) -> Self {
        Self {
            says: says.to_vec(),
            said: 0,
            piece: match shape & 0x3f {
                0x3f => usize::MAX,
                piece => usize::from(piece) * 8 + 1,
            },
            hears: [usize::MAX, usize::MAX, 100, 20_000][usize::from(shape >> 6)],
            heard: Vec::new(),
        }
    }

    /// Checks that what was heard is frames.
    fn check(&self) {
        let begin = if self.heard.starts_with(b"PRI") {
            PREFACE.len()
        } else {
            0
        };
        let mut rest = self.heard.get(begin..).unwrap_or_default();
        while let Some(([l0, l1, l2, _, _, s0, ..], after)) = rest.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]);
            assert!(length <= 1 << 24 && *s0 < 0x80);
            let Some(after) = after.get(length as usize..) else {
                assert!(self.heard.len() >= self.hears, "half a frame");
                return;
            };
            rest = after;
        }
        assert!(rest.is_empty() || self.heard.len() >= self.hears);
    }
}

impl AsyncRead for Script {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.says.get(this.said..).unwrap_or_default();
        let now = left.len().min(this.piece).min(buf.remaining());
        buf.put_slice(left.get(..now).unwrap_or_default());
        this.said += now;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let now = buf.len().min(this.hears - this.heard.len());
        if now == 0 {
            return Poll::Pending;
        }
        this.heard.extend(buf.get(..now).unwrap_or_default());
        Poll::Ready(Ok(now))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
