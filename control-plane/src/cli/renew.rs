//! `vouchsafe renew`: new certificates ahead of time, at a pace.

use serde_json::json;
use vouchsafe_api::v1::ForceRenewalRequest;
use vouchsafe_config::parse_duration;

use super::client::{connect, failed};
use super::{Ask, Format, Outcome, json, show_time};

/// Whose certificates, how fast, and why.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// All instances of the mesh.
    #[arg(
        long,
        required_unless_present = "workload",
        conflicts_with = "workload"
    )]
    all: bool,
    /// Instances of one workload: `namespace/name`.
    #[arg(long)]
    workload: Option<String>,
    /// How long all of them together take: `10m`.
    #[arg(long, default_value = "10m", value_parser = duration)]
    over: std::time::Duration,
    /// Why: it stands in the record.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    ask: Ask,
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    parse_duration(text).ok_or_else(|| "write a duration with its unit: `10m`".to_owned())
}

pub(super) async fn run(arguments: &Arguments) -> Outcome {
    let ask = &arguments.ask;
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let workload = arguments.workload.clone().filter(|_| !arguments.all);
    let request = ForceRenewalRequest {
        workload: workload.clone().unwrap_or_default(),
        over_ms: u64::try_from(arguments.over.as_millis()).unwrap_or(u64::MAX),
        reason: arguments.reason.clone(),
    };
    let announced = match client.force_renewal(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    let whose = workload.as_deref().unwrap_or("the mesh");
    Outcome::good(match ask.output {
        Format::Json => json(&json!({
            "instances": announced.instances,
            "end_ms": announced.end_ms,
        })),
        Format::Table => format!(
            "{} instance(s) of {whose} renew by {}, each at its own place\n",
            announced.instances,
            show_time(announced.end_ms)
        ),
    })
}
