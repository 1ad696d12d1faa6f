//! Downloads without end: the shape of weights and checkpoints.
//!
//! With `cheap`, client and backend cost as little as the kernel allows: the backend sends pages of a file, and the client
//! has what came dropped. For measures in which they share the cores of the proxies.

use std::rc::Rc;

use anyhow::bail;
use tokio::task::JoinSet;

use crate::Load;
use crate::http1::{Body, Connection};
use crate::measure::{Tally, window};

/// 1 PiB: never reached in an hour.
const ENDLESS: u64 = 1 << 50;

pub(crate) async fn run(load: &Load, cheap: bool) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let mut tasks = JoinSet::new();
    let connections = u64::from(load.connections);
    let share = load
        .count
        .map_or(ENDLESS, |count| count.div_ceil(connections));
    for _ in 0..load.connections {
        let mut connection = Connection::open(load.target).await?;
        connection.widen();
        let tally = Rc::clone(&tally);
        tasks.spawn_local(async move {
            let download = async {
                let share = tally.borrow_mut().claim_up_to(share);
                let route = if cheap { "pages" } else { "bytes" };
                let request =
                    format!("GET /{route}/{share} HTTP/1.1\r\nhost: backend.test\r\n\r\n");
                let Body::Length(length) = connection.request(request.as_bytes()).await? else {
                    bail!("expected a content length");
                };
                let count = |step: usize| {
                    let mut tally = tally.borrow_mut();
                    let step = u64::try_from(step).unwrap_or_default();
                    tally.bytes += step;
                    tally.settle(step);
                };
                if cheap {
                    connection.discard(length, count).await
                } else {
                    connection.skip(length, count).await
                }
            };
            if let Err(error) = download.await {
                tally.borrow_mut().fail(&error);
            }
        });
    }
    window(load, &tally).await
}
