//! `vouchsafe explain --log FILE --id ID`: why something was denied, or ended, from what the access log kept of it.
//!
//! A line says who asked for what, by which certificate and under which policy revision; a denial also keeps what the
//! peer had proven. That is all that the decision was made from, so it is made again here, by the policy that was in
//! force where the control plane kept it, and shown rule by rule. Of what was admitted the log does not keep what the peer
//! had proven: its line names the rule itself, and why it ended ([`ended`]), so nothing is judged again.

mod ended;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::IgnoredAny;
use vouchsafe_config::load::{self, Overlay};
use vouchsafe_config::policy::{Binding, Decision, DenyReason, Direction, Question, Request};
use vouchsafe_config::reason::who_can::{Door, who_can};
use vouchsafe_config::revocation::Bearer;
use vouchsafe_config::set::{Options, PolicySet};

use self::ended::Ended;
use super::Outcome;
use super::log_line::{Line, read_line};
use crate::policy_sets;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct ExplainLog {
    /// The access log; `-` for standard input.
    pub(super) log: PathBuf,
    /// Of the request, as the answer's header or the log has it; without it the first line is explained.
    pub(super) id: Option<String>,
    /// Files and folders of policy, for where the policy of that time was not kept.
    pub(super) policy: Vec<PathBuf>,
    /// Data folder of the control plane, which keeps former policies.
    pub(super) data: Option<PathBuf>,
}

pub(super) fn explain_log(asked: &ExplainLog) -> Outcome {
    match answer(asked) {
        Ok(outcome) => outcome,
        Err(message) => Outcome::misused(format!("error: {message}\n")),
    }
}

fn answer(asked: &ExplainLog) -> Result<Outcome, String> {
    let line = read_line(&find(&asked.log, asked.id.as_deref())?)?;
    match story(&line) {
        Some(told) => Ok(told),
        None => judge_again(asked, &line),
    }
}

/// What became of something that policy had admitted, or was not asked about; `None` for what policy denied, at once or in
/// an audit.
fn story(line: &Line) -> Option<Outcome> {
    let ended = Ended::parse(&line.reason);
    let audited_alone = || {
        let is_ended = ended.is_some_and(Ended::ends_what_is_audited);
        line.ended_by.is_none() && !is_ended
    };
    match line.decision.as_str() {
        "deny" => return None,
        "audit" if audited_alone() => return None,
        _ => {}
    }
    let mut out = format!("{}\n", headline(line));
    let since = show_instant(line.time);
    let _ = match (line.decision.as_str(), &line.rule) {
        ("none", _) => writeln!(
            out,
            "NOT JUDGED: refused before policy was asked, at {since}"
        ),
        ("audit", _) => writeln!(
            out,
            "ALLOWED at {since}, though by no rule: the port is in `audit`"
        ),
        (_, Some(rule)) => writeln!(out, "ALLOWED at {since} by {rule}"),
        (_, None) => writeln!(out, "ALLOWED at {since}"),
    };
    if line.reason.is_empty() {
        let _ = writeln!(out, "it ended by itself{}", after(line));
        return Some(Outcome::good(out));
    }
    let by = line.ended_by.as_ref();
    let by = by.map_or_else(String::new, |by| format!(", by {by}"));
    let is_cut = !by.is_empty() || ended.is_some_and(Ended::is_cut);
    let verb = match is_cut {
        true => "ENDED while it was live",
        false => "FAILED",
    };
    let _ = writeln!(out, "{verb}{}: {}{by}", after(line), line.reason);
    match ended.map(Ended::explain) {
        Some((what, remedy)) => {
            let _ = writeln!(out, "  what: {what}\n  do:   {remedy}");
        }
        None => out.push_str(
            "  this version does not know the word: the sidecar is newer, ask its own version\n",
        ),
    }
    Some(Outcome::bad(out))
}

/// When something ended, and how long it was live.
fn after(line: &Line) -> String {
    line.elapsed.map_or_else(String::new, |elapsed| {
        format!(
            " at {}, after {:.3} s",
            show_instant(line.time + elapsed),
            elapsed.as_secs_f64()
        )
    })
}

/// RFC 3339 in UTC, with the milliseconds of an access log.
fn show_instant(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time);
    time.map_or_else(|_| "-".to_owned(), |time| format!("{time:.3}"))
}

/// Makes a denial again, by what the log kept of it.
fn judge_again(asked: &ExplainLog, line: &Line) -> Result<Outcome, String> {
    let (set, from) = policy_of(asked, line)?;
    let mesh = set
        .mesh()
        .ok_or("the policy has no Mesh document, so the trust domain is unknown")?;
    let policy = set.policy(&mesh.trust_domain);
    let request = line.request.as_ref().map(|(method, path, grpc)| Request {
        method,
        path,
        grpc: *grpc,
    });
    let explanation = policy.explain(&Question {
        direction: line.direction,
        local: &line.local,
        peer: Bearer {
            id: &line.peer,
            serial: Some(&line.serial),
            spki_sha256: line.spki_sha256.as_ref(),
            authority_spki_sha256: line.authority_spki_sha256.as_ref(),
            intermediate_spki_sha256: &line.intermediate_spki_sha256,
            result: line.result.as_ref(),
        },
        // A log says it only of whom nothing else kept out.
        binding: if line.decision != "allow" && line.reason == NOT_PROVEN.as_str() {
            Binding::Certificate
        } else {
            Binding::Exporter(line.time)
        },
        port: &line.port,
        number: line.port_number,
        request: request.as_ref(),
        now: line.time,
    });
    let mut output = format!("{}\n{from}\n{explanation}", headline(line));
    for grant in grants(&set, line, &explanation) {
        let _ = writeln!(output, "{grant}");
    }
    let (found, reason) = match explanation.decision {
        Decision::Allow(_) => ("allow", ""),
        Decision::Audit(reason) => ("audit", reason.as_str()),
        Decision::Deny(reason) => ("deny", reason.as_str()),
    };
    let agrees = found == line.decision && (reason.is_empty() || reason == line.reason);
    if line.is_attested && line.result.is_none() {
        output.push_str("the log keeps what a peer proved of denials only, so what rules demand of evidence is not judged here\n");
    } else if let (false, Some((what, remedy))) = (agrees, beyond_policy(&line.reason)) {
        let _ = writeln!(
            output,
            "DENIED: {}, whatever rules say\n  what: {what}\n  do:   {remedy}",
            line.reason
        );
        return Ok(Outcome::bad(output));
    } else if !agrees {
        let _ = writeln!(
            output,
            "the sidecar decided otherwise ({}{}{}): this is not the policy that was in force there",
            line.decision,
            if line.reason.is_empty() { "" } else { ": " },
            line.reason
        );
        return Ok(Outcome::bad(output));
    }
    Ok(match explanation.decision {
        Decision::Allow(_) | Decision::Audit(_) => Outcome::good(output),
        Decision::Deny(_) => Outcome::bad(output),
    })
}

/// What no document of a policy decides, but the control plane or the sidecar by itself.
fn beyond_policy(reason: &str) -> Option<(&'static str, &'static str)> {
    match Ended::parse(reason)? {
        ended @ Ended::Denied(DenyReason::Stale | DenyReason::Lapsed | DenyReason::Revoked) => {
            Some(ended.explain())
        }
        _ => None,
    }
}

const NOT_PROVEN: DenyReason = DenyReason::BindingNotProven;

fn headline(line: &Line) -> String {
    let class = match (&line.result, line.is_attested) {
        (Some(result), _) => result.class.as_str(),
        (None, true) => "attested",
        (None, false) => "unattested",
    };
    let asked = match &line.request {
        Some((method, path, _)) => format!(" {method} {path}"),
        None => String::new(),
    };
    let arrow = match line.direction {
        Direction::Inbound => format!("{} ({class}) -> {}:{}", line.peer, line.local, line.port),
        Direction::Outbound => format!("{} -> {} ({class}):{}", line.local, line.peer, line.port),
    };
    format!("{}: {arrow}{asked}", line.id)
}

/// What the rules that came near ask for.
fn grants(
    set: &PolicySet,
    line: &Line,
    explanation: &vouchsafe_config::policy::Explanation,
) -> Vec<String> {
    let workload = match line.direction {
        Direction::Inbound => Some(line.local.clone()),
        Direction::Outbound => line.peer.workload(),
    };
    let near: Vec<String> = explanation
        .rules
        .iter()
        .filter(|rule| {
            use vouchsafe_config::policy::Failure;
            !matches!(&rule.verdict, Ok(()) | Err(Failure::From))
        })
        .map(|rule| rule.source.to_string())
        .collect();
    let door = workload.map(|workload| Door {
        workload,
        port: line.port.clone(),
    });
    let found = door.and_then(|door| who_can(set, &door, false, line.time).ok());
    let reach = found.into_iter().flat_map(|found| found.direct);
    let grants = reach.flat_map(|reach| reach.grants);
    let mut lines: Vec<String> = grants
        .filter(|grant| near.contains(&grant.rule))
        .map(|grant| {
            let until = grant.until.map(|until| format!(", until {until}"));
            // Where it stands is said above.
            let rule = grant.rule.split(" (").next().unwrap_or_default();
            format!(
                "    {rule} allows {} of a client that is {}{}",
                grant.ask,
                grant.client,
                until.unwrap_or_default()
            )
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

/// The policy that was in force, or the one that the operator names.
fn policy_of(asked: &ExplainLog, line: &Line) -> Result<(PolicySet, String), String> {
    let options = Options {
        now: Some(line.time),
    };
    if let Some(data) = &asked.data {
        let kept = policy_sets::at(data, line.revision).map_err(|error| error.to_string())?;
        if let Some(kept) = kept {
            // Read as if they lay in a folder of their own, so that nothing of today's comes between.
            let folder = Path::new("");
            let overlay = Overlay {
                written: { kept.files.into_iter() }
                    .map(|(name, text)| (folder.join(name), text))
                    .collect(),
                ..Overlay::default()
            };
            let set = load::policy_with(&[], &overlay, options);
            let set = set.map_err(|problems| problems.to_string())?;
            let from = format!(
                "by the policy of revision {}, as it was kept",
                kept.revision
            );
            return Ok((set, from));
        }
    }
    let set = load::policy(&asked.policy, options).map_err(|problems| problems.to_string())?;
    let from = format!(
        "by the policy as it lies there; the one of revision {} is not kept here",
        line.revision
    );
    Ok((set, from))
}

/// What finds a line.
#[derive(Deserialize)]
struct Marks<'l> {
    #[serde(borrow)]
    id: Option<Cow<'l, str>>,
    decision: Option<IgnoredAny>,
}

/// The line of a request.
fn find(log: &Path, id: Option<&str>) -> Result<String, String> {
    let is_wanted = |line: &str| {
        let Ok(marks) = serde_json::from_str::<Marks<'_>>(line) else {
            return false;
        };
        match id {
            Some(id) => marks.id.is_some_and(|found| found == id),
            None => marks.decision.is_some(),
        }
    };
    let mut found = None;
    lines(log, |line| {
        if is_wanted(line) {
            found = Some(line.to_owned());
        }
        found.is_none()
    })?;
    found.ok_or_else(|| match id {
        Some(id) => format!("{} has no line with id `{id}`", log.display()),
        None => format!("{} has no decision", log.display()),
    })
}

/// Shows the JSON lines of a log one by one, for as long as `see` wants more. What else a sidecar says to the same place
/// is left out, and so is the rest of a line that is longer than any of a sidecar.
pub(super) fn lines(log: &Path, mut see: impl FnMut(&str) -> bool) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", log.display());
    let reader: Box<dyn Read> = match log == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(log).map_err(failed)?),
    };
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line);
        if read.map_err(failed)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        if line.starts_with('{') && !see(&line) {
            return Ok(());
        }
    }
}

/// Several times the longest line that a sidecar writes.
const MAX_LINE_BYTES: u64 = 256 * 1024;

#[cfg(test)]
pub(super) mod tests;
