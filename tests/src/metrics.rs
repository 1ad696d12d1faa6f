//! What a process counts, as a scraper sees it.

use std::net::SocketAddr;

use crate::{client, wait};

/// Sum of all series of a metric whose labels contain each of `labels` (`reason="no_rule"`); 0 where there is none.
///
/// # Panics
/// When the endpoint does not answer before the deadline.
#[track_caller]
pub fn value(address: SocketAddr, metric: &str, labels: &[&str]) -> f64 {
    // A process that has just been started may not listen yet.
    let text = wait::until("metrics to be served", || {
        client::get(address, "/metrics").ok()
    })
    .body;
    text.lines()
        .filter(|line| {
            line.strip_prefix(metric)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
