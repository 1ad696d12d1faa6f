//! HTTP/2 connections, both ends: bounded windows, bounded abuse, one task per stream.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::Request;
use tokio::task::JoinSet;
use vouchsafe_config::proxy::Limits;

use crate::io::Io;
use crate::lane::budget::Budgeted;
use crate::lane::cork::Corked;
use crate::lane::{CONNECTION_WINDOW, FRAME_BYTES, SEND_BUFFER, STREAM_WINDOW};
use crate::reason;
use crate::registry::live::Live;
use crate::telemetry::metrics::DataMetrics;

/// The connection's own task, to be polled as long as streams live.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    connection: client::Connection<Budgeted, Bytes>,
    corked: Corked,
}

impl Future for ClientConnection {
    type Output = Result<(), h2::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.connection).poll(cx);
        flush(&this.corked, cx);
        polled
    }
}

/// Sends what a connection wrote in this turn.
fn flush(corked: &Corked, cx: &mut Context<'_>) {
    // Pending: the task is woken when there is room. An error: the connection meets it when it reads next, which it does
    // as soon as the other end is gone.
    let _ = corked.poll_flush(cx);
}

/// Opens the client side of a connection.
///
/// # Errors
/// The connection broke.
pub(crate) async fn connect(
    io: Io,
    limits: &Limits,
) -> Result<(client::SendRequest<Bytes>, ClientConnection), h2::Error> {
    let io = Budgeted::new(io, false);
    let corked = io.corked();
    let (send, connection) = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(head_bytes(limits))
        .data_frame_budget(SMALL_FRAMES)
        .max_frame_size(FRAME_BYTES)
        .enable_push(false)
        .handshake(io)
        .await?;
    Ok((send, ClientConnection { connection, corked }))
}

/// Serves a connection until it ends; `serve` begins a task for each stream, which ends with the connection.
///
/// A live connection that is told to drain says GOAWAY, finishes its streams and ends.
pub(crate) async fn serve(
    io: Io,
    live: &Rc<Live>,
    limits: &Limits,
    metrics: &DataMetrics,
    mut serve: impl FnMut(&mut JoinSet<()>, Request<RecvStream>, SendResponse<Bytes>),
) {
    let io = Budgeted::new(io, true);
    let (flooded, corked) = (io.flooded(), io.corked());
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(head_bytes(limits))
        .data_frame_budget(SMALL_FRAMES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(limits.streams)
        // Streams that were reset and not yet looked at (CVE-2023-44487), and that we had to reset (CVE-2025-8671).
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .handshake(io);
    let Ok(Ok(mut connection)) = tokio::time::timeout(limits.handshake, handshake).await else {
        metrics.failed(live.direction, reason::HTTP2);
        return;
    };
    let mut streams = JoinSet::new();
    let drained = live.drained();
    tokio::pin!(drained);
    let mut leaving = false;
    loop {
        let accept = std::future::poll_fn(|cx| {
            let polled = connection.poll_accept(cx);
            // After a request comes another look, and only the last one of a turn finds nothing more.
            if !matches!(polled, Poll::Ready(Some(Ok(_)))) {
                flush(&corked, cx);
            }
            polled
        });
        tokio::select! {
            accepted = accept => match accepted {
                Some(Ok((request, respond))) => {
                    serve(&mut streams, request, respond);
                }
                Some(Err(error)) => {
                    if !error.is_io() || flooded.get() {
                        metrics.failed(live.direction, reason::HTTP2);
                    }
                    return;
                }
                None => break,
            },
            // Tasks report for themselves; here they are only collected.
            Some(_) = streams.join_next() => {}
            () = &mut drained, if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
        }
    }
    // All streams have ended for the peer; what they still have to say to others is said.
    while streams.join_next().await.is_some() {}
}

fn head_bytes(limits: &Limits) -> u32 {
    u32::try_from(limits.head_bytes).unwrap_or(u32::MAX)
}

/// What small DATA frames that nobody has read yet may cost one connection, in bytes; each counts for 256 less its length.
///
/// A stream of tokens is made of such frames, and the library's own bound, half the connection window, would let one
/// reader that pauses for 2,048 tokens end the connection for all its neighbours. This admits 32,768 of them, about
/// 4 MiB of memory for the worst peer.
const SMALL_FRAMES: usize = 8 * 1024 * 1024;
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 256;
