//! One request and its response, from head to trailers, with both bodies on their way at once.

use std::cell::Cell;
use std::pin::{Pin, pin};

use vouchsafe_http2::client::ResponseFuture;
use vouchsafe_http2::server::SendResponse;
use vouchsafe_http2::{RecvStream, SendStream};

use crate::http::Upstream;
use crate::http::answer::Refusal;
use crate::http::body::{Broken, Sink, Source, pump};
use crate::http::head::{Added, RequestHead, ResponseHead};
use crate::http::pool::{Http1Upstream, Http2Upstream};
use crate::http1::body::{BodyDecoder, Framing};
use crate::http1::wire::{ReadHeadError, Reader, Writer};
use crate::reason::{self, Reason};
use crate::record::Record;
use crate::relay::Count;

/// What is passed on.
#[derive(Debug)]
pub(crate) struct Forward<'a> {
    pub(crate) head: &'a RequestHead,
    /// Path, normalised, and query.
    pub(crate) target: &'a str,
    pub(crate) framing: Framing,
    pub(crate) add: &'a Added,
    pub(crate) trusted_response: bool,
    pub(crate) limit: usize,
    /// Whether there is no body, so that the request may be sent again on another connection.
    pub(crate) bodyless: bool,
}

/// Who asked.
#[derive(Debug)]
pub(crate) enum Downstream<'a> {
    Http1 {
        reader: &'a mut Reader,
        writer: &'a mut Writer,
        decoder: &'a mut BodyDecoder,
        is_http10: bool,
        keep_alive: bool,
    },
    Http2 {
        body: &'a mut Option<RecvStream>,
        respond: &'a mut SendResponse,
    },
}

/// How an exchange ended well.
#[derive(Debug)]
pub(crate) enum Done {
    /// Completely. `keep_alive`: whether an HTTP/1 client may send its next request.
    Complete { keep_alive: bool },
    /// Both ends now speak another protocol.
    Upgraded(Box<Http1Upstream>),
}

/// How an exchange ended badly.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nothing was sent: another connection may be tried.
    Unsent,
    /// It was sent on a connection that turned out to be gone, and not answered: it may be sent again where that does no
    /// harm.
    Stale,
    /// Nothing was answered: the sidecar still can.
    Unanswered(Refusal),
    /// The answer was under way; both sides must learn that it broke.
    Broken(Reason),
    /// Whoever asked has gone away.
    Gone,
}

/// The upstream's two halves.
enum Call<'a> {
    Http1 {
        reader: &'a mut Reader,
        sink: Sink<'a>,
        reused: bool,
    },
    Http2 {
        response: ResponseFuture,
        sink: Sink<'a>,
    },
}

/// Whom to answer.
enum Answer<'a> {
    Http1 {
        writer: &'a mut Writer,
        is_http10: bool,
        keep_alive: bool,
    },
    Http2(&'a mut SendResponse),
}

/// How the response's body ended.
struct Answered {
    /// The downstream connection may go on.
    keep_alive: bool,
    /// The upstream connection may go on.
    reusable: bool,
    upgraded: bool,
}

/// Passes a request on and its response back.
pub(crate) async fn exchange(
    forward: &Forward<'_>,
    downstream: Downstream<'_>,
    upstream: Upstream,
    record: &mut Record,
) -> Result<Done, Failed> {
    match upstream {
        Upstream::Http1(mut upstream) => {
            let reused = upstream.reused;
            let head = &mut upstream.writer.buf;
            (forward.head).encode_http1(head, forward.target, forward.framing, forward.add);
            let bodyless = matches!(forward.framing, Framing::None | Framing::Length(0));
            // With a body the head travels with its first piece.
            if bodyless && upstream.writer.flush().await.is_err() {
                return Err(lost(reused));
            }
            let call = Call::Http1 {
                reader: &mut upstream.reader,
                sink: if bodyless {
                    Sink::None
                } else {
                    Sink::Http1 {
                        writer: &mut upstream.writer,
                        chunked: forward.framing == Framing::Chunked,
                    }
                },
                reused,
            };
            let (answered, sent_all) = run(forward, downstream, call, record).await?;
            if answered.upgraded {
                return Ok(Done::Upgraded(upstream));
            }
            if answered.reusable && sent_all && upstream.reader.buf.is_empty() {
                upstream.release();
            }
            Ok(Done::Complete {
                keep_alive: answered.keep_alive && sent_all,
            })
        }
        Upstream::Http2(upstream) => {
            let Http2Upstream { send, held } = upstream;
            let (lane, _stream) = &held;
            let ended = matches!(forward.framing, Framing::None | Framing::Length(0));
            let Ok(mut send) = send.ready().await else {
                lane.close();
                return Err(Failed::Unsent);
            };
            // A connection that was ready takes it, so that what has a body has found its server.
            let last = !forward.bodyless;
            let request = forward
                .head
                .to_http2(forward.target, forward.framing, forward.add, last)
                .map_err(|error| Failed::Unanswered(error.into()))?;
            let Ok((response, stream)) = send.send_request(request, ended) else {
                lane.close();
                return Err(if last {
                    Failed::Unanswered(Refusal::bad_gateway(reason::UPSTREAM_CLOSED))
                } else {
                    Failed::Unsent
                });
            };
            let call = Call::Http2 {
                response,
                sink: if ended {
                    Sink::None
                } else {
                    Sink::Http2(stream)
                },
            };
            let (answered, sent_all) = run(forward, downstream, call, record).await?;
            Ok(Done::Complete {
                keep_alive: answered.keep_alive && sent_all,
            })
        }
    }
}

fn lost(reused: bool) -> Failed {
    if reused {
        Failed::Stale
    } else {
        Failed::Unanswered(Refusal::bad_gateway(reason::UPSTREAM_CLOSED))
    }
}

/// Runs both directions; also whether the request's body was passed on completely.
async fn run(
    forward: &Forward<'_>,
    downstream: Downstream<'_>,
    call: Call<'_>,
    record: &mut Record,
) -> Result<(Answered, bool), Failed> {
    let (mut source, mut answer) = match downstream {
        Downstream::Http1 {
            reader,
            writer,
            decoder,
            is_http10,
            keep_alive,
        } => (
            Some(Source::Http1 { reader, decoder }),
            Answer::Http1 {
                writer,
                is_http10,
                keep_alive,
            },
        ),
        Downstream::Http2 { body, respond } => (
            body.take().map(|stream| Source::Http2 { stream, owed: 0 }),
            Answer::Http2(respond),
        ),
    };
    let (mut sink, from) = match call {
        Call::Http1 {
            reader,
            sink,
            reused,
        } => (sink, From::Http1 { reader, reused }),
        Call::Http2 { response, sink } => (sink, From::Http2(response)),
    };
    let sent_all = Cell::new(matches!(sink, Sink::None));
    let Record { status, bytes, .. } = record;
    let bytes = &*bytes;
    let upload = async {
        if let Some(source) = &mut source {
            if !sent_all.get() {
                match pump(source, &mut sink, &bytes.sent).await {
                    Ok(()) => sent_all.set(true),
                    // It may have answered before it stopped reading: the answer decides.
                    Err(Broken::Sink) => {}
                    Err(Broken::Source) => return Failed::Gone,
                    Err(Broken::Malformed) => {
                        sink.abort();
                        return Failed::Unanswered(Refusal::bad_request(reason::BODY));
                    }
                }
            }
            if let Source::Http1 { reader, .. } = source
                && sent_all.get()
            {
                reader.closed().await;
                return Failed::Gone;
            }
        }
        std::future::pending().await
    };
    let answered = Cell::new(false);
    let download = download(
        forward,
        from,
        &mut answer,
        status,
        &bytes.received,
        &answered,
    );
    let (mut upload, mut download) = (pin!(upload), pin!(download));
    let outcome = tokio::select! {
        biased;
        outcome = &mut download => outcome,
        failed = &mut upload => match failed {
            // An answer that is under way can't be replaced.
            Failed::Unanswered(refusal) if answered.get() => Err(Failed::Broken(refusal.reason)),
            failed => Err(failed),
        },
    };
    outcome.map(|outcome| (outcome, sent_all.get()))
}

/// Where the response comes from.
enum From<'a> {
    Http1 {
        reader: &'a mut Reader,
        reused: bool,
    },
    Http2(ResponseFuture),
}

async fn download(
    forward: &Forward<'_>,
    mut from: From<'_>,
    answer: &mut Answer<'_>,
    status: &mut u16,
    bytes: &Count,
    answered: &Cell<bool>,
) -> Result<Answered, Failed> {
    let to_head = forward.head.is_head();
    let mut interims = 0;
    let (head, body) = loop {
        let next = tokio::select! {
            biased;
            () = answer.gone() => return Err(Failed::Gone),
            next = from.head(forward.limit, to_head, interims > 0) => next?,
        };
        match next {
            Next::Interim(head) => {
                interims += 1;
                // An upstream that never comes to an answer is broken (RFC 9110 §15.2 has no bound of its own).
                if interims > MAX_INTERIMS {
                    let refusal = Refusal::bad_gateway(reason::UPSTREAM_MALFORMED);
                    return Err(Failed::Unanswered(refusal));
                }
                // We said 100 ourselves when we took the request on.
                if head.status() != 100 {
                    answer.interim(head, forward.trusted_response).await?;
                }
            }
            Next::Final(head, body) => break (head, body),
        }
    };
    *status = head.status();
    if head.status() == 101 {
        return upgrade(forward, answer, &head, answered).await;
    }
    let (framing, keep_alive_upstream) = match (&head, &body) {
        (ResponseHead::Http1(head), _) => (head.framing, head.keep_alive),
        (ResponseHead::Http2(_), Some(body)) if body.is_end_stream() => (Framing::None, true),
        (ResponseHead::Http2(_), _) => match head.told_length() {
            Some(length) => (Framing::Length(length), true),
            None => (Framing::Chunked, true),
        },
    };
    answered.set(true);
    let (mut sink, keep_alive) = answer
        .head(head, framing, forward.trusted_response, to_head)
        .await?;
    let mut decoder = BodyDecoder::new(framing);
    let mut source = match (from, body) {
        (From::Http1 { reader, .. }, _) => Source::Http1 {
            reader,
            decoder: &mut decoder,
        },
        (From::Http2(_), Some(stream)) => Source::Http2 { stream, owed: 0 },
        (From::Http2(_), None) => return Err(Failed::Broken(reason::UPSTREAM_CLOSED)),
    };
    match pump(&mut source, &mut sink, bytes).await {
        Ok(()) => Ok(Answered {
            keep_alive,
            reusable: keep_alive_upstream,
            upgraded: false,
        }),
        Err(Broken::Sink) => Err(Failed::Gone),
        Err(broken) => {
            sink.abort();
            Err(Failed::Broken(match broken {
                Broken::Malformed => reason::UPSTREAM_MALFORMED,
                Broken::Source | Broken::Sink => reason::UPSTREAM_CLOSED,
            }))
        }
    }
}

async fn upgrade(
    forward: &Forward<'_>,
    answer: &mut Answer<'_>,
    head: &ResponseHead,
    answered: &Cell<bool>,
) -> Result<Answered, Failed> {
    let Answer::Http1 { writer, .. } = answer else {
        return Err(Failed::Unanswered(Refusal::bad_gateway(reason::UPGRADE)));
    };
    // A switch that nobody asked for is an attack or a mistake.
    if !forward.head.upgrade() {
        let refusal = Refusal::bad_gateway(reason::UPSTREAM_MALFORMED);
        return Err(Failed::Unanswered(refusal));
    }
    answered.set(true);
    head.encode_http1(
        &mut writer.buf,
        Framing::None,
        true,
        forward.trusted_response,
    );
    writer.flush().await.map_err(|_| Failed::Gone)?;
    Ok(Answered {
        keep_alive: false,
        reusable: false,
        upgraded: true,
    })
}

/// What an upstream says next.
enum Next {
    Interim(ResponseHead),
    Final(ResponseHead, Option<RecvStream>),
}

impl From<'_> {
    async fn head(&mut self, limit: usize, to_head: bool, spoke: bool) -> Result<Next, Failed> {
        match self {
            Self::Http1 { reader, reused } => match reader.response(limit, to_head).await {
                Ok(head) if head.status < 200 && head.status != 101 => {
                    Ok(Next::Interim(ResponseHead::Http1(head)))
                }
                Ok(head) => Ok(Next::Final(ResponseHead::Http1(head), None)),
                Err(ReadHeadError::Closed) => Err(lost(*reused && !spoke && reader.buf.is_empty())),
                Err(ReadHeadError::Head(_) | ReadHeadError::Timeout) => {
                    let refusal = Refusal::bad_gateway(reason::UPSTREAM_MALFORMED);
                    Err(Failed::Unanswered(refusal))
                }
            },
            Self::Http2(response) => {
                let next = std::future::poll_fn(|cx| {
                    if let std::task::Poll::Ready(Some(interim)) = response.poll_informational(cx) {
                        return std::task::Poll::Ready(
                            interim.map(|head| (Box::new(head.into_parts().0), None)),
                        );
                    }
                    Pin::new(&mut *response).poll(cx).map_ok(|response| {
                        let (parts, body) = response.into_parts();
                        (Box::new(parts), Some(body))
                    })
                })
                .await;
                match next {
                    Ok((parts, body)) => {
                        let head = ResponseHead::Http2(parts);
                        Ok(match body {
                            None => Next::Interim(head),
                            Some(body) => Next::Final(head, Some(body)),
                        })
                    }
                    // It says that it has not looked at the request (RFC 9113 §8.7).
                    Err(error) if error.is_refused() => Err(Failed::Stale),
                    Err(_) => {
                        let refusal = Refusal::bad_gateway(reason::UPSTREAM_CLOSED);
                        Err(Failed::Unanswered(refusal))
                    }
                }
            }
        }
    }
}

impl Answer<'_> {
    /// Waits until the client gives up, where it can say so before it was answered. An HTTP/1 client is watched by the
    /// side that reads.
    async fn gone(&mut self) {
        match self {
            Self::Http1 { .. } => std::future::pending().await,
            Self::Http2(respond) => {
                // However it ended, nobody waits any more.
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            }
        }
    }

    async fn interim(&mut self, head: ResponseHead, trusted: bool) -> Result<(), Failed> {
        match self {
            // HTTP/1.0 knows no interim responses (RFC 9110 §15.2).
            Self::Http1 {
                is_http10: true, ..
            } => Ok(()),
            Self::Http1 { writer, .. } => {
                head.encode_http1(&mut writer.buf, Framing::None, true, trusted);
                writer.flush().await.map_err(|_| Failed::Gone)
            }
            Self::Http2(respond) => {
                if let Ok(response) = head.into_http2(trusted) {
                    // An interim response may be left out.
                    let _ = respond.send_informational(response);
                }
                Ok(())
            }
        }
    }

    /// Sends the head of the response, and says where its body goes and whether the connection may go on after it.
    async fn head(
        &mut self,
        head: ResponseHead,
        framing: Framing,
        trusted: bool,
        to_head: bool,
    ) -> Result<(Sink<'_>, bool), Failed> {
        match self {
            Self::Http1 {
                writer,
                is_http10,
                keep_alive,
            } => {
                let framing = match framing {
                    Framing::None if is_plainly_empty(&head, to_head) => Framing::Length(0),
                    Framing::Chunked | Framing::UntilClose if *is_http10 => Framing::UntilClose,
                    Framing::UntilClose => Framing::Chunked,
                    other => other,
                };
                let keep_alive = *keep_alive && framing != Framing::UntilClose;
                head.encode_http1(&mut writer.buf, framing, keep_alive, trusted);
                let chunked = framing == Framing::Chunked;
                Ok((Sink::Http1 { writer, chunked }, keep_alive))
            }
            Self::Http2(respond) => {
                let response = head.into_http2(trusted).map_err(|_| {
                    Failed::Unanswered(Refusal::bad_gateway(reason::UPSTREAM_MALFORMED))
                })?;
                let ended = matches!(framing, Framing::None | Framing::Length(0));
                let stream: SendStream = respond
                    .send_response(response, ended)
                    .map_err(|_| Failed::Gone)?;
                let sink = if ended {
                    Sink::None
                } else {
                    Sink::Http2(stream)
                };
                Ok((sink, true))
            }
        }
    }
}

/// Whether a response without a body must say so to an HTTP/1 client: it came over HTTP/2, where the end of the stream
/// said it.
fn is_plainly_empty(head: &ResponseHead, to_head: bool) -> bool {
    let may_have_body = !to_head && !matches!(head.status(), 204 | 304);
    matches!(head, ResponseHead::Http2(_)) && may_have_body
}

/// Early hints come once or twice; a hundred are an attack.
const MAX_INTERIMS: u32 = 32;
