//! HTTP/2 connections, both ends: bounded windows, bounded abuse, one task per stream.

use std::rc::Rc;
use std::time::Duration;

use http::Request;
use tokio::task::JoinSet;
use vouchsafe_config::proxy::Limits;
use vouchsafe_http2::server::SendResponse;
use vouchsafe_http2::{RecvStream, client, server};

use crate::io::Io;
use crate::lane::{CONNECTION_WINDOW, FRAME_BYTES, SEND_BUFFER, STREAM_WINDOW};
use crate::reason;
use crate::registry::live::Live;
use crate::telemetry::metrics::DataMetrics;

/// Opens the client side of a connection, whose own task is to be polled as long as streams live.
pub(crate) fn connect(io: Io, limits: &Limits) -> (client::SendRequest, client::Connection<Io>) {
    client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(head_bytes(limits))
        .data_frame_budget(SMALL_FRAMES)
        .max_frame_size(FRAME_BYTES)
        .handshake(io)
}

/// Serves a connection until it ends; `serve` begins a task for each stream, which ends with the connection.
///
/// A live connection that is told to drain says GOAWAY, finishes its streams and ends.
pub(crate) async fn serve(
    io: Io,
    live: &Rc<Live>,
    limits: &Limits,
    metrics: &DataMetrics,
    mut serve: impl FnMut(&mut JoinSet<()>, Request<RecvStream>, SendResponse),
) {
    let builder = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(head_bytes(limits))
        .data_frame_budget(SMALL_FRAMES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(limits.streams)
        // Streams that were reset and not yet looked at (CVE-2023-44487), and that we had to reset (CVE-2025-8671).
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS);
    let handshake = tokio::time::timeout(limits.handshake, builder.handshake(io));
    let Ok(Ok(mut connection)) = handshake.await else {
        metrics.failed(live.direction, reason::HTTP2);
        return;
    };
    let mut streams = JoinSet::new();
    let drained = live.drained();
    tokio::pin!(drained);
    let mut leaving = false;
    let ended_well = loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    serve(&mut streams, request, respond);
                }
                Some(Err(error)) => {
                    if !error.is_io() {
                        metrics.failed(live.direction, reason::HTTP2);
                    }
                    break false;
                }
                None => break true,
            },
            // Tasks report for themselves; here they are only collected.
            Some(_) = streams.join_next() => {}
            () = &mut drained, if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
        }
    };
    // What the peer can't use is not held for it.
    drop(connection);
    // All streams have ended for the peer, well or badly; what they still have to say to others is said.
    let rest = async { while streams.join_next().await.is_some() {} };
    if ended_well {
        rest.await;
    } else {
        // Dropped without this, an application would take what broke for a good end. Whoever waits for an application that
        // is silent is not waited for.
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    }
}

fn head_bytes(limits: &Limits) -> u32 {
    u32::try_from(limits.head_bytes).unwrap_or(u32::MAX)
}

/// What small DATA frames that nobody has read yet may cost one connection, in bytes; each counts for 256 less its length.
///
/// A stream of tokens is made of such frames, and a bound as large as the connection's window would let one
/// reader that pauses for 4,096 tokens end the connection for all its neighbours. This admits 32,768 of them, about
/// 4 MiB of memory for the worst peer.
const SMALL_FRAMES: usize = 8 * 1024 * 1024;
/// In which streams of a connection that broke pass that on.
const LAST_WORDS: Duration = Duration::from_secs(1);
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 256;
