//! `vouchsafe workload list` and `vouchsafe workload explain`.

use serde_json::json;
use vouchsafe_api::v1::{ExplainWorkloadRequest, ListWorkloadsRequest};

use super::client::{connect, failed};
use super::log::{record_json, record_line};
use super::{Ask, Format, Outcome, json, show_time, table};

pub(super) async fn list(ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let workloads = match client.list_workloads(ListWorkloadsRequest {}).await {
        Ok(response) => response.into_inner().workloads,
        Err(status) => return failed(&status),
    };
    if ask.output == Format::Json {
        let workloads: Vec<_> = workloads
            .iter()
            .map(|workload| {
                json!({
                    "workload": workload.workload,
                    "profile": workload.profile,
                    "instances": workload.instances,
                    "class": workload.class,
                    "last_refusal": workload.last_refusal,
                    "last_refusal_ms": workload.last_refusal_ms,
                })
            })
            .collect();
        return Outcome::good(json(&workloads.into()));
    }
    let rows = workloads.into_iter().map(|workload| {
        let refusal = match workload.last_refusal.as_str() {
            "" => "-".to_owned(),
            reason => format!("{reason} at {}", show_time(workload.last_refusal_ms)),
        };
        vec![
            workload.workload,
            workload.profile,
            workload.instances.to_string(),
            workload.class,
            refusal,
        ]
    });
    Outcome::good(table(
        &["WORKLOAD", "PROFILE", "INSTANCES", "CLASS", "LAST REFUSAL"],
        rows.collect(),
    ))
}

pub(super) async fn explain(workload: &str, ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let request = ExplainWorkloadRequest {
        workload: workload.to_owned(),
    };
    let records = match client.explain_workload(request).await {
        Ok(response) => response.into_inner().records,
        Err(status) => return failed(&status),
    };
    match ask.output {
        Format::Json => {
            let records: Vec<_> = records.iter().map(record_json).collect();
            Outcome::good(json(&records.into()))
        }
        Format::Table if records.is_empty() => Outcome::good(format!(
            "no certificate was ever asked for as `{workload}`\n"
        )),
        Format::Table => Outcome::good(records.iter().map(record_line).collect::<String>()),
    }
}
