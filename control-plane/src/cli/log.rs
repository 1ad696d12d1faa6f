//! `vouchsafe log tail`, `vouchsafe log verify` and `vouchsafe log rerun`.

use std::io::Write;

use serde_json::{Value, json};
use vouchsafe_api::convert::record::RecordEntry;
use vouchsafe_api::v1::{Record, StatusRequest, TailRecordsRequest};
use vouchsafe_verifier::vendor_roots::VendorRoots;

use super::client::{connect, failed};
use super::{Ask, Format, Outcome, json, show_time, table};
use crate::app;
use crate::archive::rerun::{self, Rerun};
use crate::log::{self, Head};
use crate::telemetry::Chain;

/// One JSON object per line for programs, one line per record for people; goes on with `follow`.
pub(super) async fn tail(lines: u64, follow: bool, ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let records = match client.status(StatusRequest {}).await {
        Ok(response) => response.into_inner().records,
        Err(status) => return failed(&status),
    };
    let from = records.saturating_sub(lines) + 1;
    let mut stream = match client
        .tail_records(TailRecordsRequest { from, follow })
        .await
    {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    loop {
        match stream.message().await {
            Ok(Some(record)) => {
                let line = match ask.output {
                    Format::Json => format!("{}\n", record_json(&record)),
                    Format::Table => record_line(&record),
                };
                let mut out = std::io::stdout();
                if out
                    .write_all(line.as_bytes())
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    // Whoever read has enough.
                    return Outcome::default();
                }
            }
            Ok(None) => return Outcome::default(),
            Err(status) => return failed(&status),
        }
    }
}

/// Checks the chain on disk.
pub(super) fn verify(ask: &Ask) -> Outcome {
    let verified = app::record(&ask.data)
        .map_err(|error| Outcome::failed(Chain(&error).to_string()))
        .and_then(|(path, kept)| {
            log::verify(&path, &kept).map_err(|error| match error {
                log::LogError::Io(_) | log::LogError::Leaf { .. } | log::LogError::Closed => {
                    Outcome::failed(format!(
                        "`{}`: {}\nhint: is `--data` the control plane's folder?",
                        path.display(),
                        Chain(&error)
                    ))
                }
                log::LogError::Header
                | log::LogError::Broken { .. }
                | log::LogError::CutOff { .. } => Outcome::bad(match ask.output {
                    Format::Table => format!("BROKEN: {}\n", Chain(&error)),
                    Format::Json => json(&json!({"intact": false, "error": error.to_string()})),
                }),
            })
        });
    match verified {
        Ok(Head { records, hash }) => Outcome::good(match ask.output {
            Format::Table => format!("intact: {records} records, head {}\n", hex::encode(hash)),
            Format::Json => json(&json!({
                "intact": true,
                "records": records,
                "head": hex::encode(hash),
            })),
        }),
        Err(outcome) => outcome,
    }
}

/// Makes the decision of a record again, from what the archive kept of it. The record is verified first.
pub(super) fn rerun(number: u64, ask: &Ask) -> Outcome {
    let entry = match entry(number, ask) {
        Ok(entry) => entry,
        Err(outcome) => return outcome,
    };
    let rerun = match rerun::rerun(&ask.data, &entry, &VendorRoots::PINNED) {
        Ok(rerun) => rerun,
        Err(error) => return Outcome::failed(format!("record {number}: {}", Chain(&error))),
    };
    let text = match ask.output {
        Format::Json => json(&json!(rerun)),
        Format::Table => rerun_text(number, &rerun),
    };
    match rerun.agrees {
        true => Outcome::good(text),
        false => Outcome::bad(text),
    }
}

fn entry(number: u64, ask: &Ask) -> Result<RecordEntry, Outcome> {
    let broken = |error: &log::LogError| Outcome::failed(Chain(error).to_string());
    let (path, kept) =
        app::record(&ask.data).map_err(|error| Outcome::failed(Chain(&error).to_string()))?;
    log::verify(&path, &kept).map_err(|error| broken(&error))?;
    let records = log::read(&path, number, 1).map_err(|error| broken(&error))?;
    let held = records.first().filter(|_| number > 0);
    let held =
        held.ok_or_else(|| Outcome::misused(format!("error: the record has no entry {number}\n")))?;
    RecordEntry::decode(&held.leaf)
        .map_err(|error| Outcome::failed(format!("record {number}: {error}")))
}

fn rerun_text(number: u64, rerun: &Rerun) -> String {
    let verdict = match (rerun.agrees, rerun.is_complete) {
        (true, true) => "AGREES: the evidence leads to the recorded decision",
        (true, false) => {
            "AGREES as far as evidence goes: it is good, and membership or an earlier step refused"
        }
        (false, _) => "DIFFERS: the evidence does not lead to the recorded decision",
    };
    let mut rows = vec![
        vec!["record".to_owned(), number.to_string()],
        vec!["recorded".to_owned(), rerun.recorded.clone()],
        vec!["judged again".to_owned(), rerun.judged.clone()],
    ];
    for (name, value) in [
        ("detail", &rerun.detail),
        ("recorded result", &rerun.recorded_result),
        ("result again", &rerun.result),
    ] {
        if !value.is_empty() {
            rows.push(vec![name.to_owned(), value.clone()]);
        }
    }
    for (name, sha256) in &rerun.endorsements {
        rows.push(vec!["endorsement".to_owned(), format!("{name} {sha256}")]);
    }
    format!("{}{verdict}\n", table(&["", ""], rows))
}

/// A record as an object: its number, its fields, and for a refusal `refused: true`.
pub(super) fn record_json(record: &Record) -> Value {
    let mut value: Value = serde_json::from_str(&record.json).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        let refused = fields.get("kind").and_then(Value::as_str) == Some("refused");
        fields.insert("number".to_owned(), record.number.into());
        fields.insert("hash".to_owned(), hex::encode(&record.hash).into());
        fields.insert("refused".to_owned(), refused.into());
    }
    value
}

/// A record on one line.
pub(super) fn record_line(record: &Record) -> String {
    let value = record_json(record);
    let text = |name: &str| match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let time = value
        .get("time")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let what = match text("kind").as_str() {
        "issued" => format!(
            "issued {} to {} ({}, {}) as {}, ends {}",
            text("serial"),
            text("spiffe_id"),
            text("class"),
            text("purpose"),
            text("member"),
            show_time(
                value
                    .get("not_after")
                    .and_then(Value::as_u64)
                    .unwrap_or_default()
            ),
        ),
        "refused" => format!(
            "REFUSED {}: {}: {}",
            text("workload"),
            text("reason"),
            text("detail")
        ),
        "policy_changed" => format!(
            "policy {}.{} in force, {} documents",
            text("policy_epoch"),
            text("policy_sequence"),
            text("documents")
        ),
        "standing_changed" => standing_line(&value, &text),
        "brake_changed" => format!(
            "brake {} for {}: {} of {} instances silent",
            text("state"),
            text("scope"),
            text("silent"),
            text("of")
        ),
        "renewal_forced" => format!(
            "renewal of {} forced until {}: {}",
            text("scope"),
            show_time(value.get("end").and_then(Value::as_u64).unwrap_or_default()),
            text("reason")
        ),
        "operator_act" => act_line(&value, &text),
        "revoked" => {
            let until = match number(&value, "expires") {
                0 => "until an act ends it".to_owned(),
                expires => format!("until {}", show_time(expires)),
            };
            format!(
                "REVOKED by {} ({}, {}) {until}, by {}: {}{}",
                text("name"),
                text("action"),
                text("how"),
                text("actor"),
                text("reason"),
                in_his_words(&text("why"), &text("reason"))
            )
        }
        "revocation_ended" => format!(
            "revocation {} ended ({}), by {}{}",
            text("name"),
            text("how"),
            text("actor"),
            in_his_words(&text("why"), "")
        ),
        "authority_created" => format!("{} made, key {}", text("role"), text("spki_sha256")),
        _ => record.json.clone(),
    };
    format!("{:>6}  {}  {what}\n", record.number, show_time(time))
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// Why somebody did something, where that says more than what is said already.
fn in_his_words(why: &str, said: &str) -> String {
    match why {
        "" => String::new(),
        why if why == said => String::new(),
        why => format!(": {why}"),
    }
}

/// What an operator asked for: the change itself follows in records of its own.
fn act_line(value: &Value, text: &impl Fn(&str) -> String) -> String {
    let mut line = format!("{} by {}: {}", text("act"), text("actor"), text("reason"));
    let (drop, live) = (number(value, "would_drop"), number(value, "live"));
    if drop + live > 0 {
        line.push_str(&format!("; would end {drop} of {live} live connections"));
    }
    match number(value, "unanswered") {
        0 => {}
        silent => line.push_str(&format!("; {silent} sidecars did not say")),
    }
    if !text("max_drop").is_empty() {
        line.push_str(&format!("; allowed {}", text("max_drop")));
    }
    let files = value.get("files").and_then(Value::as_array);
    let files: Vec<&str> = files
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !files.is_empty() {
        line.push_str(&format!("; files {}", files.join(", ")));
    }
    line
}

/// What became of an instance, and below it what changed in its evidence.
fn standing_line(value: &Value, text: &impl Fn(&str) -> String) -> String {
    let mut line = format!(
        "{} instance {} of {}: {}",
        text("standing").to_uppercase(),
        text("instance"),
        text("workload"),
        text("reason")
    );
    if !text("detail").is_empty() {
        line.push_str(&format!(": {}", text("detail")));
    }
    let changes = value.get("difference").and_then(Value::as_array);
    for change in changes.into_iter().flatten().filter_map(Value::as_str) {
        line.push_str(&format!("\n        {change}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &Value, expected: &str) {
        let line = record_line(&Record {
            number: 7,
            json: json.to_string(),
            ..Record::default()
        });
        assert_eq!(line, format!("     7  2027-01-15T08:00:00Z  {expected}\n"));
    }

    #[test]
    fn acts_and_revocations_are_told_in_words_with_times_as_times() {
        let time = 1_800_000_000_000_u64;
        let act = json!({"kind": "operator_act", "time": time, "act": "apply", "actor": "uid 0", "reason": "narrower", "files": ["a.yaml", "b.yaml"], "would_drop": 3, "live": 9, "unanswered": 1, "max_drop": "25%"});
        check(
            &act,
            "apply by uid 0: narrower; would end 3 of 9 live connections; 1 sidecars did not say; allowed 25%; files a.yaml, b.yaml",
        );
        let quiet = json!({"kind": "operator_act", "time": time, "act": "prepare_authority", "actor": "uid 0", "reason": "ceremony", "would_drop": 0, "live": 0, "unanswered": 0, "max_drop": ""});
        check(&quiet, "prepare_authority by uid 0: ceremony");
        let revoked = json!({"kind": "revoked", "time": time, "name": "platform/x", "action": "cut", "reason": "stolen", "expires": time + 60_000, "how": "new", "actor": "uid 0", "why": "stolen"});
        check(
            &revoked,
            "REVOKED by platform/x (cut, new) until 2027-01-15T08:01:00Z, by uid 0: stolen",
        );
        let for_ever = json!({"kind": "revoked", "time": time, "name": "platform/x", "action": "drain", "reason": "stolen", "expires": 0, "how": "changed", "actor": "the policy folder", "why": ""});
        check(
            &for_ever,
            "REVOKED by platform/x (drain, changed) until an act ends it, by the policy folder: stolen",
        );
        let ended = json!({"kind": "revocation_ended", "time": time, "name": "platform/x", "action": "", "reason": "", "expires": 0, "how": "removed", "actor": "uid 0", "why": "found it"});
        check(
            &ended,
            "revocation platform/x ended (removed), by uid 0: found it",
        );
    }
}
