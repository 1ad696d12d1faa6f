//! The two kinds of server: HTTP/1.1 connections, and streams of HTTP/2 connections.

use std::borrow::Cow;
use std::rc::Rc;

use http::Request;
use vouchsafe_config::policy::{self, normalize_path};
use vouchsafe_http2::server::SendResponse;
use vouchsafe_http2::{Reason as H2Reason, RecvStream};

use crate::http::answer::{AMBIGUOUS_PATH, HEAD_TIMEOUT, Refusal};
use crate::http::exchange::{Done, Downstream, Failed, Forward, exchange};
use crate::http::head::RequestHead;
use crate::http::pool::Http1Upstream;
use crate::http::{Doorway, Route, Upstream, Wanted};
use crate::http1::body::{BodyDecoder, Framing};
use crate::http1::head::split_query;
use crate::http1::wire::{ReadHeadError, Reader, Writer, join, linger, split};
use crate::http2;
use crate::io::Io;
use crate::reason::{self, Why};
use crate::record::Record;
use crate::relay::relay;

/// Serves an HTTP/1.1 connection until it ends.
pub(crate) async fn serve_http1<D: Doorway>(io: Io, doorway: &Rc<D>) {
    let (mut reader, mut writer) = split(io);
    loop {
        let limits = &doorway.worker().parts.config.limits;
        let live = Rc::clone(doorway.live());
        if live.is_draining() && reader.buf.is_empty() {
            return;
        }
        let idle = reader.buf.is_empty();
        let read = tokio::select! {
            read = reader.request(limits.head_bytes, limits.handshake) => read,
            // Only between requests: one that has begun is served.
            () = live.drained(), if idle => return,
        };
        let head = match read {
            Ok(head) => RequestHead::Http1(head),
            Err(ReadHeadError::Closed) => return,
            Err(ReadHeadError::Timeout) => {
                return refuse_head(doorway, reader, writer, HEAD_TIMEOUT).await;
            }
            Err(ReadHeadError::Head(error)) => {
                return refuse_head(doorway, reader, writer, error.into()).await;
            }
        };
        match serve_one(doorway, head, &mut reader, &mut writer).await {
            After::Next => {
                reader.rest();
                writer.rest();
            }
            After::Linger => return linger(reader, writer).await,
            After::Cut => {
                if let Some(io) = join(reader, writer) {
                    io.abort();
                }
                return;
            }
            After::Upgraded(upgraded) => {
                let (upstream, record) = *upgraded;
                return tunnel(reader, writer, upstream, record).await;
            }
        }
    }
}

/// What becomes of an HTTP/1 connection after a request.
enum After {
    Next,
    Linger,
    /// The client must see that its response broke off.
    Cut,
    Upgraded(Box<(Http1Upstream, Record)>),
}

async fn serve_one<D: Doorway>(
    doorway: &Rc<D>,
    head: RequestHead,
    reader: &mut Reader,
    writer: &mut Writer,
) -> After {
    let RequestHead::Http1(raw) = &head else {
        return After::Cut;
    };
    let (framing, is_http10) = (raw.framing, raw.is_http10);
    let mut keep_alive = raw.keep_alive && !is_http10 && !doorway.live().is_draining();
    let bodyless = matches!(framing, Framing::None | Framing::Length(0));
    let mut decoder = BodyDecoder::new(framing);
    let mut say_continue = head.expects_continue() && !bodyless;
    let mut call = Call::new(doorway, &head, framing, false);
    let failed = loop {
        let route = match call.route().await {
            Ok(route) => route,
            Err(refusal) => break Failed::Unanswered(refusal),
        };
        if std::mem::take(&mut say_continue) {
            // Policy has allowed it and somebody will serve it: the body may come.
            writer
                .buf
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            if writer.flush().await.is_err() {
                break Failed::Gone;
            }
        }
        let downstream = Downstream::Http1 {
            reader: &mut *reader,
            writer: &mut *writer,
            decoder: &mut decoder,
            is_http10,
            keep_alive,
        };
        match call.exchange(route, downstream, bodyless).await {
            Ok(Done::Complete { keep_alive }) => {
                call.record.finish();
                return if keep_alive {
                    After::Next
                } else {
                    After::Linger
                };
            }
            Ok(Done::Upgraded(upstream)) => {
                return After::Upgraded(Box::new((*upstream, call.record)));
            }
            Err(Failed::Stale | Failed::Unsent) => {}
            Err(failed) => break failed,
        }
    };
    match failed {
        Failed::Unanswered(refusal) => {
            keep_alive &= bodyless && refusal.status != 400;
            call.fail(refusal);
            refusal.encode_http1(call.record.id, &mut writer.buf, keep_alive, head.is_head());
            match writer.flush().await {
                Ok(()) if keep_alive => After::Next,
                Ok(()) => After::Linger,
                Err(_) => After::Cut,
            }
        }
        Failed::Broken(reason) => {
            call.record.failed(reason);
            After::Cut
        }
        Failed::Gone | Failed::Stale | Failed::Unsent => After::Cut,
    }
}

/// Answers a request whose head is no good, and closes.
async fn refuse_head<D: Doorway>(
    doorway: &Rc<D>,
    reader: Reader,
    mut writer: Writer,
    refusal: Refusal,
) {
    let worker = doorway.worker();
    let mut record = Record::unread(worker, doorway.live());
    record.status = refusal.status;
    record.failed(refusal.reason);
    let id = record.id;
    drop(record);
    refusal.encode_http1(id, &mut writer.buf, false, false);
    if writer.flush().await.is_ok() {
        linger(reader, writer).await;
    }
}

/// Copies between both ends of an upgraded connection.
async fn tunnel(reader: Reader, writer: Writer, upstream: Http1Upstream, mut record: Record) {
    let Http1Upstream {
        reader: from,
        writer: to,
        held: _held,
        ..
    } = upstream;
    let (Some(mut downstream), Some(mut upstream)) = (join(reader, writer), join(from, to)) else {
        return;
    };
    let cut = record.cut();
    let ended = tokio::select! {
        biased;
        why = cut => Err(why.reason),
        ended = relay(&mut downstream, &mut upstream, &record.bytes) => {
            ended.map_err(|_| reason::DOWNSTREAM_CLOSED)
        }
    };
    match ended {
        Ok(()) => record.finish(),
        Err(reason) => {
            record.failed(reason);
            downstream.abort();
            upstream.abort();
        }
    }
}

/// Serves an HTTP/2 connection, all of whose streams are requests, until it ends.
pub(crate) async fn serve_http2<D: Doorway>(io: Io, doorway: &Rc<D>) {
    let parts = &doorway.worker().parts;
    http2::serve(
        io,
        doorway.live(),
        &parts.config.limits,
        &parts.metrics,
        |streams, request, respond| {
            let doorway = Rc::clone(doorway);
            // Boxed: a task's future is moved eight times from its birth to its end, and this one has kilobytes.
            streams.spawn_local(Box::pin(async move {
                serve_stream(&doorway, request, respond).await;
            }));
        },
    )
    .await;
}

/// Serves one request of an HTTP/2 connection.
pub(crate) async fn serve_stream<D: Doorway>(
    doorway: &Rc<D>,
    request: Request<RecvStream>,
    mut respond: SendResponse,
) {
    let (parts, body) = request.into_parts();
    let head = match RequestHead::from_http2(parts) {
        Ok(head) => head,
        Err(error) => {
            let refusal = Refusal::from(error);
            let mut record = Record::unread(doorway.worker(), doorway.live());
            record.status = refusal.status;
            record.failed(refusal.reason);
            refusal.send_http2(record.id, &mut respond, false, false);
            return;
        }
    };
    let told = match &head {
        RequestHead::Http1(_) => None,
        RequestHead::Http2(head) => head.told_length(),
    };
    let framing = match (body.is_end_stream(), told) {
        (true, _) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Chunked,
    };
    let bodyless = matches!(framing, Framing::None);
    let mut body = Some(body);
    let mut say_continue = head.expects_continue() && !bodyless;
    let mut call = Call::new(doorway, &head, framing, true);
    let failed = loop {
        let route = match call.route().await {
            Ok(route) => route,
            Err(refusal) => break Failed::Unanswered(refusal),
        };
        if std::mem::take(&mut say_continue) {
            let mut response = http::Response::new(());
            *response.status_mut() = http::StatusCode::CONTINUE;
            // The client goes on without it, only later.
            let _ = respond.send_informational(response);
        }
        let downstream = Downstream::Http2 {
            body: &mut body,
            respond: &mut respond,
        };
        match call.exchange(route, downstream, bodyless).await {
            Ok(Done::Complete { .. }) => {
                call.record.finish();
                return;
            }
            Ok(Done::Upgraded(_)) => break Failed::Broken(reason::UPGRADE),
            Err(Failed::Stale | Failed::Unsent) => {}
            Err(failed) => break failed,
        }
    };
    match failed {
        Failed::Unanswered(refusal) => {
            call.fail(refusal);
            refusal.send_http2(call.record.id, &mut respond, head.is_grpc(), head.is_head());
        }
        Failed::Broken(reason) => {
            call.record.failed(reason);
            respond.send_reset(if call.record.is_cut() {
                CUT
            } else {
                H2Reason::INTERNAL_ERROR
            });
        }
        Failed::Gone | Failed::Stale | Failed::Unsent => respond.send_reset(H2Reason::CANCEL),
    }
}

/// One request on its way.
struct Call<'a, D: Doorway> {
    doorway: &'a Rc<D>,
    head: &'a RequestHead,
    framing: Framing,
    is_http2: bool,
    record: Record,
    tried: u32,
    /// The target with its path normalised, where that differs from the one that came.
    normalized: Option<String>,
}

impl<'a, D: Doorway> Call<'a, D> {
    fn new(doorway: &'a Rc<D>, head: &'a RequestHead, framing: Framing, is_http2: bool) -> Self {
        let record = Record::unread(doorway.worker(), doorway.live());
        Self {
            doorway,
            head,
            framing,
            is_http2,
            record,
            tried: 0,
            normalized: None,
        }
    }

    /// Normalises the path: what policy judges and the application gets.
    fn normalize(&mut self) -> Result<(), Refusal> {
        let path = normalize_path(self.head.path()).map_err(|_| AMBIGUOUS_PATH)?;
        if let Cow::Owned(path) = path {
            let (_, query) = split_query(self.head.target());
            self.normalized = Some(match query {
                Some(query) => format!("{path}?{query}"),
                None => path,
            });
        }
        Ok(())
    }

    /// Judges the request and finds who serves it.
    async fn route(&mut self) -> Result<Route, Refusal> {
        if self.tried == 0 {
            self.record.request(self.head.asked());
            self.normalize()?;
        }
        let path = match &self.normalized {
            Some(target) => split_query(target).0,
            None => self.head.path(),
        };
        let door = self.doorway.door(self.head)?;
        let number = self.doorway.number(&door);
        self.record.port(self.doorway.name(&door), number);
        let wanted = Wanted {
            request: policy::Request {
                method: self.head.method().as_str(),
                path,
                grpc: self.head.is_grpc(),
            },
            is_http2: self.is_http2,
            upgrade: self.head.upgrade(),
            fresh: self.tried > 0,
        };
        self.tried += 1;
        self.doorway.route(&door, wanted, &mut self.record).await
    }

    async fn exchange(
        &mut self,
        route: Route,
        downstream: Downstream<'_>,
        bodyless: bool,
    ) -> Result<Done, Failed> {
        let target = self.normalized.as_deref();
        let forward = Forward {
            head: self.head,
            target: target.unwrap_or_else(|| self.head.target()),
            framing: self.framing,
            add: &route.add,
            trusted_response: route.trusted_response,
            limit: self.doorway.worker().parts.config.limits.head_bytes,
            bodyless,
        };
        let resendable = match &route.upstream {
            // It may have been served before it was lost.
            Upstream::Http1(_) => bodyless && self.head.is_idempotent(),
            // The server said that it has not looked at it.
            Upstream::Http2(_) => bodyless,
        };
        let cut = self.record.cut();
        let result = tokio::select! {
            // First: not a byte passes once policy has taken back what it allowed.
            biased;
            why = cut => Err(self.cut(&why)),
            result = exchange(&forward, downstream, route.upstream, &mut self.record) => result,
        };
        match result {
            Err(Failed::Unsent) if self.tried <= ATTEMPTS => Err(Failed::Unsent),
            Err(Failed::Stale) if resendable && self.tried <= ATTEMPTS => Err(Failed::Stale),
            Err(Failed::Stale | Failed::Unsent) => Err(Failed::Unanswered(Refusal::bad_gateway(
                reason::UPSTREAM_CLOSED,
            ))),
            other => other,
        }
    }

    /// How a request ends that the sidecar must end: with an answer where there was none yet.
    fn cut(&self, why: &Why) -> Failed {
        if self.record.status == 0 {
            Failed::Unanswered(Refusal::cut(why))
        } else {
            Failed::Broken(why.reason)
        }
    }

    /// Notes that the sidecar answers itself.
    fn fail(&mut self, refusal: Refusal) {
        self.record.status = refusal.status;
        self.record.failed(refusal.reason);
    }
}

/// What a stream is reset with whose rule or peer has lost its trust: to gRPC it means `PERMISSION_DENIED`
/// (gRPC PROTOCOL-HTTP2, HTTP2 error codes).
const CUT: H2Reason = H2Reason::INADEQUATE_SECURITY;
/// Further tries after a connection that turned out to be gone.
const ATTEMPTS: u32 = 2;
