//! Downloads without end: the shape of weights and checkpoints.

use std::rc::Rc;

use anyhow::bail;
use tokio::task::JoinSet;

use crate::Load;
use crate::http1::{Body, Connection};
use crate::measure::{Tally, window};

/// 1 PiB: never reached in an hour.
const ENDLESS: &[u8] = b"GET /bytes/1125899906842624 HTTP/1.1\r\nhost: backend.test\r\n\r\n";

pub(crate) async fn run(load: &Load) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new();
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let mut connection = Connection::open(load.target).await?;
        connection.widen();
        let tally = Rc::clone(&tally);
        tasks.spawn_local(async move {
            let download = async {
                let Body::Length(length) = connection.request(ENDLESS).await? else {
                    bail!("expected a content length");
                };
                connection
                    .skip(length, |step| {
                        tally.borrow_mut().bytes += u64::try_from(step).unwrap_or_default();
                    })
                    .await
            };
            if let Err(error) = download.await {
                tally.borrow_mut().fail(&error);
            }
        });
    }
    window(load, &tally).await
}
