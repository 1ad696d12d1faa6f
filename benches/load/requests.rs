//! Small HTTP/1.1 requests: saturation, fixed rates, and a connection for each.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::Load;
use crate::http1::{Connection, PATIENCE, SMALL, SMALL_CLOSE};
use crate::measure::{Tally, window};
use crate::schedule::Schedule;

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

/// Requests are due at fixed instants ([`Schedule`]).
pub(crate) async fn open_loop(load: &Load, rate: u64) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let schedule = Rc::<Schedule>::default();
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let mut connection = Connection::open(load.target).await?;
        // The first request on each connection pays for what the proxies open lazily.
        connection.exchange(SMALL).await?;
        let (tally, schedule) = (Rc::clone(&tally), Rc::clone(&schedule));
        tasks.spawn_local(async move {
            loop {
                let due_at = schedule.next().await;
                if let Err(error) = connection.exchange(SMALL).await {
                    tally.borrow_mut().fail(&error);
                    return;
                }
                tally.borrow_mut().record(due_at);
            }
        });
    }
    let clock = schedule.start(rate)?;
    let report = window(load, &tally).await;
    clock.abort();
    report
}
