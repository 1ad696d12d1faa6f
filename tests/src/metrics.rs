//! What a process counts, as a scraper sees it.

use std::net::SocketAddr;

use crate::client;

/// Sum of all series of a metric whose labels contain each of `labels` (`reason="no_rule"`); 0 where there is none.
///
/// # Panics
/// When the endpoint does not answer.
#[track_caller]
pub fn value(address: SocketAddr, metric: &str, labels: &[&str]) -> f64 {
    let text = client::get(address, "/metrics")
        .expect("the metrics are served")
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
