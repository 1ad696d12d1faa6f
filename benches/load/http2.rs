//! Requests over HTTP/2 with prior knowledge: small GETs, and what gRPC makes of them ([`crate::grpc`]).

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::measure::{SharedTally, Tally, window};
use crate::schedule::Schedule;
use crate::{Load, grpc};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    /// The GET of the HTTP/1.1 measures.
    Small,
    /// A unary call.
    Call,
}

/// Keeps `streams` requests in flight on each connection; with a `rate`, as many as are due.
pub(crate) async fn run(
    load: &Load,
    streams: usize,
    rate: Option<u64>,
    unit: Unit,
) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let schedule = rate.map(|_| Rc::<Schedule>::default());
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let mut sender = open(load, &tally, &mut tasks).await?;
        if schedule.is_some() {
            // The first request on each connection pays for what the proxies open lazily.
            sender = one(unit, sender, load).await?;
        }
        for _ in 0..streams {
            let (mut sender, tally) = (sender.clone(), Rc::clone(&tally));
            let (schedule, load) = (schedule.clone(), load.clone());
            tasks.spawn_local(async move {
                loop {
                    let started = match &schedule {
                        Some(schedule) => schedule.next().await,
                        None if tally.borrow_mut().claim() => Instant::now(),
                        None => return,
                    };
                    sender = match one(unit, sender, &load).await {
                        Ok(sender) => sender,
                        Err(error) => {
                            tally.borrow_mut().fail(&error);
                            return;
                        }
                    };
                    tally.borrow_mut().record(started);
                }
            });
        }
    }
    let clock = match (&schedule, rate) {
        (Some(schedule), Some(rate)) => Some(schedule.start(rate)?),
        _ => None,
    };
    let report = window(load, &tally).await;
    if let Some(clock) = clock {
        clock.abort();
    }
    report
}

async fn open(
    load: &Load,
    tally: &SharedTally,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(load.target).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::handshake(stream)
        .await
        .context("the HTTP/2 preface failed")?;
    let failed = Rc::clone(tally);
    tasks.spawn_local(async move {
        if let Err(error) = connection.await {
            failed.borrow_mut().fail(&error.into());
        }
    });
    Ok(sender)
}

async fn one(
    unit: Unit,
    sender: SendRequest<Bytes>,
    load: &Load,
) -> anyhow::Result<SendRequest<Bytes>> {
    let sender = sender.ready().await?;
    match unit {
        Unit::Small => small(sender).await,
        Unit::Call => grpc::call(sender, load.target).await,
    }
}

/// The same request and answer as over HTTP/1.1.
async fn small(mut sender: SendRequest<Bytes>) -> anyhow::Result<SendRequest<Bytes>> {
    let request = http::Request::get("http://backend.test/small")
        .header("user-agent", "vouchsafe-load")
        .header("accept", "*/*")
        .body(())?;
    let (response, _) = sender.send_request(request, true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let length = drain(&mut response.into_body()).await?;
    ensure!(
        length == SMALL_BYTES,
        "expected {SMALL_BYTES} bytes, found {length}"
    );
    Ok(sender)
}

/// Reads a body to its end and says how long it was.
pub(crate) async fn drain(body: &mut h2::RecvStream) -> anyhow::Result<usize> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(length)
}

/// What the backend answers to `/small`, over HTTP/1.1 too.
pub(crate) const SMALL_BYTES: usize = 128;
