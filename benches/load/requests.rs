//! Small HTTP/1.1 requests: saturation, fixed rates, and a connection for each.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_local};

use crate::Load;
use crate::http1::{Connection, PATIENCE, SMALL, SMALL_CLOSE};
use crate::measure::{Tally, window};
use crate::timer::Ticker;

/// Each connection sends its next request as soon as it has its answer.
pub(crate) async fn closed_loop(load: &Load) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let mut connection = Connection::open(load.target).await?;
        let tally = Rc::clone(&tally);
        tasks.spawn_local(async move {
            while tally.borrow_mut().claim() {
                let started = Instant::now();
                if let Err(error) = connection.exchange(SMALL).await {
                    tally.borrow_mut().fail(&error);
                    return;
                }
                tally.borrow_mut().record(started);
            }
        });
    }
    window(load, &tally).await
}

/// Each slot opens a connection, sends one request, reads the answer, and starts again.
pub(crate) async fn connection_per_request(load: &Load) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let tally = Rc::clone(&tally);
        let target = load.target;
        tasks.spawn_local(async move {
            while tally.borrow_mut().claim() {
                let started = Instant::now();
                let one = async {
                    let mut connection = Connection::open(target).await?;
                    tokio::time::timeout(PATIENCE, connection.exchange(SMALL_CLOSE))
                        .await
                        .context("an answer took too long")?
                };
                match one.await {
                    Ok(()) => tally.borrow_mut().record(started),
                    Err(error) => {
                        tally.borrow_mut().fail(&error);
                        // A proxy that refuses connections would otherwise be asked as fast as the core allows.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
    window(load, &tally).await
}

/// Requests are due at fixed instants, whatever the answers do, and latency counts from when a request was due: a stall
/// delays all that were due during it (corrected for coordinated omission).
pub(crate) async fn open_loop(load: &Load, rate: u64) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let due: Rc<RefCell<VecDeque<Instant>>> = Rc::default();
    let wake = Rc::new(Notify::new());
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let mut connection = Connection::open(load.target).await?;
        // The first request on each connection pays for what the proxies open lazily.
        connection.exchange(SMALL).await?;
        let (tally, due, wake) = (Rc::clone(&tally), Rc::clone(&due), Rc::clone(&wake));
        tasks.spawn_local(async move {
            loop {
                let next = due.borrow_mut().pop_front();
                let Some(due_at) = next else {
                    wake.notified().await;
                    continue;
                };
                if let Err(error) = connection.exchange(SMALL).await {
                    tally.borrow_mut().fail(&error);
                    return;
                }
                tally.borrow_mut().record(due_at);
            }
        });
    }
    let period = Duration::from_nanos(1_000_000_000 / rate.max(1));
    let started = Instant::now();
    let mut ticker = Ticker::start(period)?;
    let clock = spawn_local(async move {
        let mut sent: u32 = 0;
        loop {
            for _ in 0..ticker.ticks().await? {
                sent += 1;
                due.borrow_mut().push_back(started + period * sent);
                wake.notify_one();
            }
        }
        #[expect(unreachable_code, reason = "gives the endless task its error type")]
        anyhow::Ok(())
    });
    let report = window(load, &tally).await;
    clock.abort();
    report
}
