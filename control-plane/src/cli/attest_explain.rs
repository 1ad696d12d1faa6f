//! `vouchsafe attest explain`: why evidence from files is judged as it is.
//!
//! Takes what `attest verify` takes, judges by the same function and ends with the same exit code. It shows more: for
//! each check what is compared with what, what was found, how that ended and which line of the profile decided it; and
//! the age of each endorsement that the judgement rests on, at the time by which it is judged.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use vouchsafe_verifier::endorsement::age::{Dated, State};

use super::attest_verify::{Arguments, Judged, checks, exit_status, judged, status, to_json};
use super::{Format, Outcome, show_time, table};
use crate::endorsements::cache::to_ms;

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let judged = match judged(arguments, true) {
        Ok(judged) => judged,
        Err(outcome) => return outcome,
    };
    let output = match arguments.output {
        Format::Json => match explained(&judged) {
            Ok(json) => super::json(&json),
            Err(error) => return Outcome::misused(format!("error: {error}\n")),
        },
        Format::Table => show(&judged),
    };
    Outcome {
        status: exit_status(&judged.judgement),
        output,
        error: String::new(),
    }
}

/// What `verify` prints, with what each check is about, and when and by which profile evidence was judged.
fn explained(judged: &Judged) -> serde_json::Result<Value> {
    let mut json = to_json(judged)?;
    let checks = json.get_mut("checks").and_then(Value::as_array_mut);
    for (check, finding) in { checks.into_iter().flatten() }.zip(&judged.judgement.checks) {
        if let Some(check) = check.as_object_mut() {
            let about = judged.kind.about(finding.name);
            check.insert("about".to_owned(), about.into());
        }
    }
    if let Some(object) = json.as_object_mut() {
        object.insert("kind".to_owned(), judged.kind.as_str().into());
        object.insert("at".to_owned(), show_time(to_ms(judged.at)).into());
        object.insert("profile".to_owned(), judged.profile.clone().into());
    }
    Ok(json)
}

/// Endorsements as JSON: times in RFC 3339, ages in whole seconds.
pub(super) fn endorsements_json(used: &[Dated], at: SystemTime) -> Value {
    used.iter()
        .map(|one| {
            let until = one.until().map(|until| show_time(to_ms(until)));
            json!({
                "file": one.file,
                "what": one.what,
                "issued": show_time(to_ms(one.issued())),
                "until": until,
                "age_seconds": one.age(at).as_secs(),
                "state": one.state(at).as_str(),
                "expired": one.state(at) == State::Expired,
            })
        })
        .collect()
}

fn show(judged: &Judged) -> String {
    let rows = checks(judged).map(|(check, outcome, policy)| {
        vec![
            check.name.to_owned(),
            outcome.to_owned(),
            check.detail.clone(),
            policy.to_owned(),
            judged.kind.about(check.name).to_owned(),
        ]
    });
    let checks = table(
        &["CHECK", "OUTCOME", "FOUND", "POLICY", "COMPARES"],
        rows.collect(),
    );
    let rows = judged.used.iter().map(|one| {
        let until = one.until();
        vec![
            one.file.clone(),
            one.what.clone(),
            show_time(to_ms(one.issued())),
            until.map_or_else(|| "-".to_owned(), |until| show_time(to_ms(until))),
            show_age(one.age(judged.at)),
            one.state(judged.at).as_str().replace('_', " "),
        ]
    });
    let endorsements = match judged.used.is_empty() {
        true => "no endorsement decided this\n".to_owned(),
        false => table(
            &["FILE", "ENDORSEMENT", "ISSUED", "UNTIL", "AGE", "STATE"],
            rows.collect(),
        ),
    };
    let profile = match &judged.profile {
        Some(profile) => format!("by profile `{profile}`"),
        None => "without a profile, so no image and no claim was demanded".to_owned(),
    };
    format!(
        "{checks}\n{endorsements}\n{} as of {}, {profile}\n{}: {}\n",
        judged.kind.as_str(),
        show_time(to_ms(judged.at)),
        status(&judged.judgement),
        judged.judgement.reason
    )
}

/// An age for people: whole days, or the largest smaller unit.
fn show_age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
