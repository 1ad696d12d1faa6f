//! Bodies on their way, piece by piece, from either version to either version.
//!
//! A piece is read only when the one before was taken: back-pressure reaches from the slower end to the faster.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use vouchsafe_http2::{Reason as H2Reason, RecvStream, SendStream};

use crate::http::fields::clean_trailers;
use crate::http1::body::{BodyDecoder, BodyError, Decoded, encode_chunk, encode_last_chunk};
use crate::http1::wire::{Reader, Writer};
use crate::lane::flow::poll_capacity;
use crate::relay::Count;

/// Where a body comes from.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    Http1 {
        reader: &'a mut Reader,
        decoder: &'a mut BodyDecoder,
    },
    Http2 {
        stream: RecvStream,
        /// Bytes that were handed on, and whose window is given back once they are taken.
        owed: usize,
    },
}

/// Where a body goes.
#[derive(Debug)]
pub(crate) enum Sink<'a> {
    Http1 {
        writer: &'a mut Writer,
        chunked: bool,
    },
    Http2(SendStream),
    /// Nowhere: the head said it all.
    None,
}

/// A piece of a body.
#[derive(Debug)]
enum Piece {
    Data(Bytes),
    /// The last one: nothing follows, not even trailers.
    Last(Bytes),
    End(Option<HeaderMap>),
}

/// Which side a body broke at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Broken {
    Source,
    /// The source is not HTTP.
    Malformed,
    Sink,
}

/// Passes a whole body on.
pub(crate) async fn pump(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    bytes: &Count,
) -> Result<(), Broken> {
    loop {
        if let Source::Http1 { reader, decoder } = source
            && let Sink::Http1 {
                writer,
                chunked: false,
            } = sink
            && reader.buf.is_empty()
            && decoder.plain_left() > 0
        {
            std::future::poll_fn(|cx| poll_copy(cx, reader, decoder, writer, bytes)).await?;
        }
        let piece = tokio::select! {
            // The source first: what is there already travels with what was held back.
            biased;
            piece = source.next() => piece?,
            () = sink.gone() => return Err(Broken::Sink),
        };
        match piece {
            Piece::Data(data) => {
                bytes.add(data.len());
                sink.data(data).await?;
            }
            Piece::Last(data) => {
                bytes.add(data.len());
                let sent = sink.last(data).await;
                // Now, and not with the source, which may live as long as a response that never ends.
                source.give_back();
                return sent;
            }
            Piece::End(trailers) => {
                return sink.end(trailers.map(clean_trailers)).await;
            }
        }
    }
}

impl Source<'_> {
    async fn next(&mut self) -> Result<Piece, Broken> {
        match self {
            Self::Http1 { reader, decoder } => loop {
                match decoder.decode(&mut reader.buf) {
                    Ok(Decoded::Data(data)) if decoder.is_done() => return Ok(Piece::Last(data)),
                    Ok(Decoded::Data(data)) => return Ok(Piece::Data(data)),
                    Ok(Decoded::End(trailers)) => return Ok(Piece::End(trailers)),
                    Ok(Decoded::NeedMore) => {}
                    Err(_) => return Err(Broken::Malformed),
                }
                match reader.fill().await {
                    Ok(0) => match decoder.end_of_stream() {
                        Ok(()) => return Ok(Piece::End(None)),
                        Err(BodyError::Truncated) => return Err(Broken::Source),
                        Err(_) => return Err(Broken::Malformed),
                    },
                    Ok(_) => {}
                    Err(_) => return Err(Broken::Source),
                }
            },
            Self::Http2 { stream, owed } => {
                give_back(stream, owed);
                match stream.data().await {
                    Some(Ok(data)) => {
                        *owed = data.len();
                        Ok(if stream.is_end_stream() {
                            Piece::Last(data)
                        } else {
                            Piece::Data(data)
                        })
                    }
                    Some(Err(_)) => Err(Broken::Source),
                    None => match stream.trailers().await {
                        Ok(trailers) => Ok(Piece::End(trailers)),
                        Err(_) => Err(Broken::Source),
                    },
                }
            }
        }
    }
}

impl Source<'_> {
    /// Gives back the window of what was handed on last.
    fn give_back(&mut self) {
        if let Self::Http2 { stream, owed } = self {
            give_back(stream, owed);
        }
    }
}

fn give_back(stream: &mut RecvStream, owed: &mut usize) {
    if *owed > 0 {
        // Fails only where the stream is gone, and then the next read says so.
        let _ = stream.release_capacity(*owed);
        *owed = 0;
    }
}

impl Sink<'_> {
    async fn data(&mut self, mut data: Bytes) -> Result<(), Broken> {
        match self {
            Self::None => Ok(()),
            Self::Http1 {
                writer,
                chunked: false,
            } if data.len() >= COALESCED => {
                // Large pieces are sent from where they lie, and the receiver's refusal is all that is copied.
                writer.flush().await.map_err(|_| Broken::Sink)?;
                let passed =
                    std::future::poll_fn(|cx| Poll::Ready(writer.pass(cx, &data, COALESCED)));
                passed.await.map_err(|_| Broken::Sink)?;
                drop(data);
                writer.flush().await.map_err(|_| Broken::Sink)
            }
            Self::Http1 { writer, chunked } => {
                if *chunked {
                    encode_chunk(&mut writer.buf, &data);
                } else {
                    writer.buf.extend_from_slice(&data);
                }
                drop(data);
                if writer.buf.len() < COALESCED {
                    return Ok(());
                }
                writer.flush().await.map_err(|_| Broken::Sink)
            }
            Self::Http2(stream) => {
                while !data.is_empty() {
                    let now = granted(stream, &mut data).await?;
                    stream.send_data(now, false).map_err(|_| Broken::Sink)?;
                }
                Ok(())
            }
        }
    }

    async fn last(&mut self, mut data: Bytes) -> Result<(), Broken> {
        match self {
            Self::None => Ok(()),
            Self::Http1 { .. } => {
                self.data(data).await?;
                self.end(None).await
            }
            Self::Http2(stream) => {
                // A small end may wait for its window with the engine: nothing follows that would add to it.
                while data.len() > SMALL_END {
                    let now = granted(stream, &mut data).await?;
                    let ended = data.is_empty();
                    stream.send_data(now, ended).map_err(|_| Broken::Sink)?;
                    if ended {
                        return Ok(());
                    }
                }
                stream.send_data(data, true).map_err(|_| Broken::Sink)
            }
        }
    }

    async fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Self::None => Ok(()),
            Self::Http1 { writer, chunked } => {
                if *chunked {
                    encode_last_chunk(&mut writer.buf, trailers.as_ref());
                }
                writer.flush().await.map_err(|_| Broken::Sink)
            }
            Self::Http2(stream) => match trailers {
                Some(trailers) => stream.send_trailers(trailers).map_err(|_| Broken::Sink),
                None => stream
                    .send_data(Bytes::new(), true)
                    .map_err(|_| Broken::Sink),
            },
        }
    }

    /// To be polled while there is nothing to pass on: sends what was held back to travel together, then waits until the
    /// receiver gives up, where it can say so while nothing is sent.
    async fn gone(&mut self) {
        match self {
            Self::Http2(stream) => {
                // However it ended, nothing can be sent any more.
                let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            }
            Self::Http1 { writer, .. } => {
                if writer.flush().await.is_ok() {
                    std::future::pending::<()>().await;
                }
            }
            Self::None => std::future::pending().await,
        }
    }

    /// Lets the receiver know that the body is not complete.
    pub(crate) fn abort(&mut self) {
        if let Self::Http2(stream) = self {
            stream.send_reset(H2Reason::INTERNAL_ERROR);
        }
    }
}

/// Takes from `data` what the receiver's window has room for, once it has room.
async fn granted(stream: &mut SendStream, data: &mut Bytes) -> Result<Bytes, Broken> {
    let wanted = data.len();
    let granted = std::future::poll_fn(|cx| poll_capacity(stream, cx, wanted)).await;
    Ok(data.split_to(granted.map_err(|_| Broken::Sink)?.min(wanted)))
}

/// Copies a body that both sides frame by its length alone, through the worker's scratch buffer and without holding more
/// of it than the receiver refuses to take. Ready when the decoder must look again: at the end, or where the sender ended
/// early.
fn poll_copy(
    cx: &mut Context<'_>,
    reader: &mut Reader,
    decoder: &mut BodyDecoder,
    writer: &mut Writer,
    bytes: &Count,
) -> Poll<Result<(), Broken>> {
    loop {
        let left = decoder.plain_left();
        if left == 0 {
            return Poll::Ready(Ok(()));
        }
        // What the receiver would not take before goes first.
        if writer.buf.len() >= COALESCED {
            ready!(writer.poll_flush(cx)).map_err(|_| Broken::Sink)?;
        }
        let mut inner = Context::from_waker(cx.waker());
        let read = reader.poll_read(cx, left, |read| {
            bytes.add(read.len());
            decoder.passed(read.len());
            writer
                .pass(&mut inner, read, COALESCED)
                .map(|()| read.len())
        });
        match read {
            Poll::Ready(Ok(Ok(0))) => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(Ok(_))) => {}
            Poll::Ready(Ok(Err(_))) => return Poll::Ready(Err(Broken::Sink)),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Source)),
            Poll::Pending => {
                ready!(writer.poll_flush(cx)).map_err(|_| Broken::Sink)?;
                return Poll::Pending;
            }
        }
    }
}

/// Bytes that are held back as long as more is there already.
const COALESCED: usize = 32 * 1024;
/// The end of a body that is sent without waiting for the receiver's window.
const SMALL_END: usize = 4 * 1024;
