//! What `revoke` and `apply` share: asking the control plane for a change of policy, and showing what it means.

use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::{Value, json};
use vouchsafe_api::v1::{
    CanaryStatus, ChangeRequest, ChangeResponse, Fallen, Revision, RevocationStatus, SidecarChange,
    WorkloadLoss,
};

use super::client::{connect, failed};
use super::{Ask, Format, Outcome, json, table};

/// How many live connections may end: a number, or a part of those that live.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct MaxDrop {
    pub(super) number: u64,
    pub(super) is_percent: bool,
}

impl FromStr for MaxDrop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, is_percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let shape = || format!("`{text}`: expected a number (`50`) or a percentage (`25%`)");
        let number: u64 = number.parse().map_err(|_| shape())?;
        if is_percent && number > 100 {
            return Err(shape());
        }
        Ok(Self { number, is_percent })
    }
}

/// What bounds a change.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Limits {
    /// Most live connections and streams that may end: `50`, or `25%` of those that live (20 are then always allowed). A
    /// connection with a peer, a request and a flow each count for one, at both ends. `100%` forces; the record keeps what
    /// was allowed.
    #[arg(long, default_value = "25%")]
    pub(super) max_drop: MaxDrop,
    /// Makes the change though connected sidecars do not say what would end there. A revocation needs that only where more
    /// than half are silent.
    #[arg(long)]
    pub(super) allow_unanswered: bool,
    /// Lets the change replace, or take away, revocations that are in force: whom they mean may be trusted again.
    #[arg(long)]
    pub(super) replace: bool,
    /// Says what would happen, and changes nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Limits {
    pub(super) fn request(&self, act: &str, reason: &str) -> ChangeRequest {
        ChangeRequest {
            act: act.to_owned(),
            reason: reason.to_owned(),
            dry_run: self.dry_run,
            max_drop: self.max_drop.number,
            max_drop_is_percent: self.max_drop.is_percent,
            allow_unanswered: self.allow_unanswered,
            replace: self.replace,
            ..ChangeRequest::default()
        }
    }
}

/// Asks the control plane.
pub(super) async fn ask(request: ChangeRequest, ask: &Ask) -> Result<ChangeResponse, Outcome> {
    let mut client = connect(&ask.data).await?;
    match client.change(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(failed(&status)),
    }
}

/// How a change is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Telling<'t> {
    /// It was only asked about.
    pub(super) is_dry_run: bool,
    /// The first line where it was made.
    pub(super) headline: &'t str,
    /// What the operator should know besides.
    pub(super) warnings: &'t [String],
}

/// What came of it.
pub(super) fn show(response: &ChangeResponse, telling: &Telling<'_>, format: Format) -> Outcome {
    let is_good = match telling.is_dry_run {
        true => response.refused.is_empty(),
        false => response.made && response.sidecars.iter().all(|one| one.error.is_empty()),
    };
    let output = match format {
        Format::Json => {
            let mut value = as_json(response);
            if let Some(value) = value.as_object_mut() {
                value.insert("warnings".to_owned(), json!(telling.warnings));
            }
            json(&value)
        }
        Format::Table => in_words(response, telling),
    };
    match is_good {
        true => Outcome::good(output),
        false => Outcome::bad(output),
    }
}

/// Whom a revocation means now.
pub(super) fn explained(
    held: &RevocationStatus,
    response: &ChangeResponse,
    format: Format,
) -> String {
    if format == Format::Json {
        let mut value = as_json(response);
        if let Some(value) = value.as_object_mut() {
            value.insert(
                "revocation".to_owned(),
                super::status::revocation_json(held),
            );
        }
        return json(&value);
    }
    let meant = response.sidecars.iter().filter(|one| one.is_revoked);
    let unknown = response
        .sidecars
        .iter()
        .filter(|one| !one.unanswered.is_empty());
    let state = match (held.in_force, held.expires_ms) {
        (false, _) => "has expired".to_owned(),
        (true, 0) => "in force until an act ends it".to_owned(),
        (true, expires) => format!("in force until {}", super::show_time(expires)),
    };
    let mut out = format!(
        "{} ({}): {}\n{state}; {}:{}\nmeans {} of the {} connected sidecars",
        held.name,
        held.action,
        held.reason,
        held.file,
        held.line,
        meant.count(),
        response.sidecars.len(),
    );
    match unknown.count() {
        0 => out.push('\n'),
        unknown => {
            let _ = writeln!(out, ", and {unknown} have not said");
        }
    }
    for loss in &response.losses {
        out.push_str(&loss_in_words(loss));
    }
    if !response.sidecars.is_empty() {
        out.push('\n');
        out.push_str(&sidecars(response, "rests on it"));
        out.push_str(&connections(response));
    }
    out
}

/// Live connections and streams by name, and how many are not shown.
fn connections(response: &ChangeResponse) -> String {
    let rows = fallen(response);
    let mut out = String::new();
    let told = || response.sidecars.iter().flat_map(|one| &one.fallen);
    let sum = |most: usize| {
        let weights = told().take(most).map(|fallen| fallen.weight);
        weights.fold(0, u64::saturating_add)
    };
    let (shown, listed) = (sum(MAX_LISTED), sum(usize::MAX));
    if !rows.is_empty() {
        out.push('\n');
        let head = [
            "AT",
            "DIRECTION",
            "PEER",
            "SERIAL",
            "PORT",
            "WHAT",
            "REASON",
        ];
        out.push_str(&table(&head, rows));
    }
    let total = response.would_drop;
    if shown < listed {
        let _ = writeln!(out, "and {} more, which `-o json` lists", listed - shown);
    }
    if listed < total {
        let _ = writeln!(
            out,
            "and {} more, which sidecars counted and did not list: each lists 512 at most",
            total - listed
        );
    }
    out
}

fn in_words(response: &ChangeResponse, telling: &Telling<'_>) -> String {
    let mut out = String::new();
    let would = match response.made {
        true => "ended",
        false => "would end",
    };
    if response.made {
        let _ = writeln!(
            out,
            "{}\n{} revision {}, {} after it was asked for",
            telling.headline,
            match began(response) {
                true => "they are told by",
                false => "in force at",
            },
            revision(response),
            milliseconds(response.in_force_us)
        );
    } else if telling.is_dry_run {
        let _ = writeln!(out, "nothing was changed: this only says what would happen");
        if !response.refused.is_empty() {
            let _ = writeln!(out, "it would be REFUSED: {}", response.refused);
        }
    } else {
        let _ = writeln!(out, "REFUSED, nothing was changed: {}", response.refused);
    }
    for warning in telling.warnings {
        let _ = writeln!(out, "WARNING: {warning}");
    }
    if let Some(canary) = &response.canary {
        let _ = match began(response) {
            true => writeln!(out, "{}", canary_in_words(canary)),
            false => writeln!(out, "{}", tried(canary)),
        };
    }
    for change in response.difference.iter().flat_map(|one| &one.changes) {
        let _ = writeln!(out, "  {change}");
    }
    let _ = writeln!(
        out,
        "{would} {} connections and streams, of {} that live",
        response.would_drop, response.live
    );
    for loss in &response.losses {
        out.push_str(&loss_in_words(loss));
    }
    if response.sidecars.is_empty() {
        out.push_str("no sidecar is connected\n");
        return out;
    }
    out.push('\n');
    out.push_str(&sidecars(response, would));
    out.push_str(&connections(response));
    out
}

/// Whether the change is a canary that begins: nobody had tried it when it was judged.
fn began(response: &ChangeResponse) -> bool {
    let canary = response.canary.as_ref();
    canary.is_some_and(|canary| canary.revision.unwrap_or_default() == Revision::default())
}

/// Who tried a canary that a change makes everybody's, or ends.
fn tried(canary: &CanaryStatus) -> String {
    format!(
        "the canary of {}% was tried by {} of the {} connected sidecars of {}; they denied {} and ended {} since it began",
        canary.percent,
        canary.sidecars,
        canary.of,
        canary.workloads.join(", "),
        canary.denied,
        canary.ended
    )
}

/// Who tries a canary.
pub(super) fn canary_in_words(canary: &CanaryStatus) -> String {
    format!(
        "canary of {}%: {} of the {} connected sidecars of {}; all others stay on the policy in force",
        canary.percent,
        canary.sidecars,
        canary.of,
        canary.workloads.join(", ")
    )
}

fn loss_in_words(loss: &WorkloadLoss) -> String {
    let mut out = format!(
        "{} loses all of its {} instances",
        loss.workload, loss.instances
    );
    if !loss.doors.is_empty() {
        let _ = write!(out, ": nobody is left behind {}", loss.doors.join(", "));
    }
    out.push('\n');
    for (names, words) in [
        (&loss.clients, "called by"),
        (&loss.reached_from, "which are called by"),
        (&loss.last_client_of, "the last client of"),
    ] {
        if !names.is_empty() {
            let _ = writeln!(out, "  {words} {}", names.join(", "));
        }
    }
    out
}

fn sidecars(response: &ChangeResponse, would: &str) -> String {
    let ends = would.to_uppercase();
    let rows = response.sidecars.iter().map(|one| {
        vec![
            one.workload.clone(),
            hex::encode(&one.instance),
            match one.is_revoked {
                true => "yes".to_owned(),
                false => "-".to_owned(),
            },
            match one.unanswered.is_empty() {
                true => format!("{} of {}", one.total, one.live),
                false => format!("unknown: {}", one.unanswered),
            },
            applied(one, response.made),
        ]
    });
    let head = [
        "SIDECAR",
        "INSTANCE",
        "REVOKED",
        ends.as_str(),
        "APPLIED AFTER",
    ];
    table(&head, rows.collect())
}

fn applied(sidecar: &SidecarChange, is_made: bool) -> String {
    match (is_made, sidecar.applied_us) {
        (false, _) => "-".to_owned(),
        (true, 0) => format!("NOT: {}", sidecar.error),
        (true, time) => milliseconds(time),
    }
}

fn fallen(response: &ChangeResponse) -> Vec<Vec<String>> {
    let all = response.sidecars.iter();
    let all = all.flat_map(|one| one.fallen.iter().map(|fallen| (&one.workload, fallen)));
    all.take(MAX_LISTED)
        .map(|(at, one)| {
            vec![
                at.clone(),
                one.direction.clone(),
                one.peer.clone(),
                one.serial.clone(),
                one.port.clone(),
                match one.is_stream {
                    true => "stream".to_owned(),
                    false if one.weight > 1 => format!("connection with {}", one.weight - 1),
                    false => "connection".to_owned(),
                },
                one.reason.clone(),
            ]
        })
        .collect()
}

fn as_json(response: &ChangeResponse) -> Value {
    let sidecars = response.sidecars.iter().map(|one| {
        json!({
            "workload": one.workload,
            "instance": hex::encode(&one.instance),
            "revoked": one.is_revoked,
            "unanswered": one.unanswered,
            "live": one.live,
            "would_drop": one.total,
            "applied_us": (one.applied_us > 0).then_some(one.applied_us),
            "error": one.error,
            "fallen": one.fallen.iter().map(fallen_json).collect::<Vec<_>>(),
        })
    });
    let losses = response.losses.iter().map(|loss| {
        json!({
            "workload": loss.workload,
            "instances": loss.instances,
            "doors": loss.doors,
            "clients": loss.clients,
            "reached_from": loss.reached_from,
            "last_client_of": loss.last_client_of,
        })
    });
    let difference = response.difference.clone().unwrap_or_default();
    json!({
           "made": response.made,
           "refused": response.refused,
           "revision": revision(response),
           "in_force_us": response.in_force_us,
           "live": response.live,
           "would_drop": response.would_drop,
           "changes": difference.changes,
           "may_widen": difference.may_widen,
    "losses": losses.collect::<Vec<_>>(),
           "canary": response.canary.as_ref().map(canary_json),
           "sidecars": sidecars.collect::<Vec<_>>(),
       })
}

pub(super) fn canary_json(canary: &CanaryStatus) -> Value {
    let revision = canary.revision.unwrap_or_default();
    json!({
        "revision": format!("{}.{}", revision.epoch, revision.sequence),
        "percent": canary.percent,
        "sidecars": canary.sidecars,
        "of": canary.of,
        "started_ms": canary.started_ms,
        "actor": canary.actor,
        "reason": canary.reason,
        "files": canary.files,
        "workloads": canary.workloads,
        "would_drop": canary.would_drop,
        "live": canary.live,
        "applied": canary.applied,
        "refused": canary.refused,
        "denied": canary.denied,
        "ended": canary.ended,
    })
}

fn fallen_json(one: &Fallen) -> Value {
    json!({
        "direction": one.direction,
        "peer": one.peer,
        "instance": hex::encode(&one.instance),
        "serial": one.serial,
        "port": one.port,
        "rule": one.rule,
        "reason": one.reason,
        "is_stream": one.is_stream,
        "opened_ms": one.opened_ms,
    })
}

fn revision(response: &ChangeResponse) -> String {
    let revision = response.revision.unwrap_or_default();
    format!("{}.{}", revision.epoch, revision.sequence)
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

/// More rows than anyone reads; `-o json` has all that were told.
const MAX_LISTED: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_percentage() {
        let read = |text: &str| {
            text.parse::<MaxDrop>()
                .map(|one| (one.number, one.is_percent))
        };
        assert_eq!(read("50"), Ok((50, false)));
        assert_eq!(read("25%"), Ok((25, true)));
        assert_eq!(read("100%"), Ok((100, true)));
        for text in ["", "%", "101%", "-1", "1.5%", "all"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    fn told(response: &ChangeResponse, is_dry_run: bool, headline: &str) -> Outcome {
        let telling = Telling {
            is_dry_run,
            headline,
            warnings: &["look out".to_owned()],
        };
        show(response, &telling, Format::Table)
    }

    fn response() -> ChangeResponse {
        ChangeResponse {
            revision: Some(Revision {
                epoch: 1,
                sequence: 7,
            }),
            live: 9,
            would_drop: 3,
            losses: vec![WorkloadLoss {
                workload: "inference/llm".to_owned(),
                instances: 2,
                doors: vec!["inference/llm:openai".to_owned()],
                clients: vec!["edge/gateway".to_owned()],
                reached_from: vec!["edge/browser".to_owned()],
                last_client_of: vec!["data/store:web".to_owned()],
            }],
            sidecars: vec![
                SidecarChange {
                    workload: "edge/gateway".to_owned(),
                    instance: vec![1; 16],
                    fallen: vec![Fallen {
                        direction: "outbound".to_owned(),
                        peer: "spiffe://f/x".to_owned(),
                        reason: "revoked".to_owned(),
                        weight: 1,
                        ..Fallen::default()
                    }],
                    total: 3,
                    live: 9,
                    applied_us: 4_250,
                    ..SidecarChange::default()
                },
                SidecarChange {
                    workload: "inference/llm".to_owned(),
                    instance: vec![2; 16],
                    unanswered: "it did not answer in time".to_owned(),
                    applied_us: 1,
                    ..SidecarChange::default()
                },
            ],
            ..ChangeResponse::default()
        }
    }

    #[test]
    fn what_would_drop_is_named_with_dependants_and_with_who_did_not_answer() {
        let outcome = told(&response(), true, "");
        assert_eq!(outcome.status, 0);
        for words in [
            "nothing was changed",
            "would end 3 connections and streams, of 9 that live",
            "inference/llm loses all of its 2 instances: nobody is left behind inference/llm:openai",
            "called by edge/gateway",
            "which are called by edge/browser",
            "the last client of data/store:web",
            "unknown: it did not answer in time",
            "spiffe://f/x",
            "and 2 more, which sidecars counted and did not list",
        ] {
            assert!(
                outcome.output.contains(words),
                "{words}: {}",
                outcome.output
            );
        }
    }

    #[test]
    fn a_refused_change_and_one_that_a_sidecar_could_not_apply_are_not_as_they_should_be() {
        let refused = ChangeResponse {
            refused: "it would end too much".to_owned(),
            ..response()
        };
        assert_eq!(told(&refused, true, "done").status, 1);
        let outcome = told(&refused, false, "done");
        assert_eq!(outcome.status, 1);
        assert!(outcome.output.contains("REFUSED"), "{}", outcome.output);
        let mut made = ChangeResponse {
            made: true,
            in_force_us: 3_900,
            ..response()
        };
        let outcome = told(&made, false, "done");
        assert_eq!(outcome.status, 0, "{}", outcome.output);
        assert!(
            outcome
                .output
                .contains("done\nin force at revision 1.7, 3.9 ms")
        );
        assert!(outcome.output.contains("4.2 ms"), "{}", outcome.output);
        made.sidecars[0].applied_us = 0;
        made.sidecars[0].error = "it does not compile".to_owned();
        let outcome = told(&made, false, "done");
        assert_eq!(outcome.status, 1);
        assert!(outcome.output.contains("NOT: it does not compile"));
    }

    #[test]
    fn a_canary_that_begins_puts_nothing_in_force_and_its_end_is_told_as_one() {
        let mut made = ChangeResponse {
            made: true,
            canary: Some(CanaryStatus {
                percent: 20,
                sidecars: 1,
                of: 5,
                workloads: vec!["edge/gateway".to_owned()],
                ..CanaryStatus::default()
            }),
            ..response()
        };
        let begun = told(&made, false, "the canary has begun").output;
        assert!(
            begun.starts_with("the canary has begun\nthey are told by revision 1.7"),
            "{begun}"
        );
        assert!(
            begun.contains("all others stay on the policy in force")
                && !begun.contains("in force at"),
            "{begun}"
        );
        if let Some(canary) = &mut made.canary {
            canary.revision = made.revision;
        }
        let ended = told(&made, false, "the canary is ended").output;
        assert!(
            ended.contains("in force at revision 1.7") && !ended.contains("all others stay"),
            "{ended}"
        );
        assert!(
            ended.contains("the canary of 20% was tried by 1 of the 5 connected sidecars"),
            "{ended}"
        );
    }

    #[test]
    fn a_list_that_is_cut_off_says_so_and_what_is_to_be_known_besides_is_said() {
        let mut response = response();
        let one = response.sidecars[0].fallen[0].clone();
        response.sidecars[0].fallen = vec![one; 130];
        response.sidecars[0].total = 200;
        response.would_drop = 200;
        let shown = told(&response, true, "").output;
        for words in [
            "WARNING: look out\n",
            "and 30 more, which `-o json` lists\n",
            "and 70 more, which sidecars counted and did not list",
        ] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        assert_eq!(shown.matches("spiffe://f/x").count(), MAX_LISTED);
    }

    #[test]
    fn whom_a_revocation_means_now_is_told_with_the_connections() {
        let held = RevocationStatus {
            name: "platform/x".to_owned(),
            in_force: true,
            ..RevocationStatus::default()
        };
        let shown = explained(&held, &response(), Format::Table);
        assert!(shown.contains("spiffe://f/x"), "{shown}");
        assert!(shown.contains("and 2 more"), "{shown}");
    }
}
