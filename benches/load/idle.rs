//! Connections that do nothing: what memory they cost.

use std::io::Write;

use anyhow::Context;
use tokio::io::AsyncReadExt;

use crate::Load;
use crate::http1::{Connection, SMALL};

/// Opens the connections, sends one request on each so that nothing lazy is left, says so in one line of JSON, and holds
/// them until standard input ends.
pub(crate) async fn hold(load: &Load) -> anyhow::Result<()> {
    let mut held = Vec::new();
    for number in 0..load.connections {
        let mut connection = Connection::open(load.target).await?;
        connection
            .exchange(SMALL)
            .await
            .with_context(|| format!("connection {number} failed"))?;
        held.push(connection);
    }
    writeln!(std::io::stdout(), "{{\"held\": {}}}", held.len())?;
    std::io::stdout().flush()?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
