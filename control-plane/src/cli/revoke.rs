//! `vouchsafe revoke`: ends trust by predicate, shows beforehand whom that means, and ends such an end again.

mod flags;
mod whom;

use std::time::SystemTime;

use serde_json::{Value, json};
use vouchsafe_api::v1::{ChangeRequest, PolicyFile, StatusRequest};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_config::revocation::EXPIRY_WARNING;

use self::flags::{ActionWord, Expiry, Predicates, Terms};
use self::whom::Known;
use super::change::{self, Limits, MaxDrop, Telling};
use super::client::{connect, failed};
use super::{Ask, Format, Outcome, json, now, show_time, table};
use crate::rpc::operator::REVOCATIONS_FOLDER;

/// What `revoke` is told.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    // Not an `Option`: clap never fills one whose fields are flattened again.
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Says whom a revocation would mean: workloads, instances, live connections, and who depends on them. With a name and
    /// no predicate: whom the revocation of that name means now.
    Explain(Box<Wanted>),
    /// Ends a revocation: whoever it means may be trusted again. The record keeps who did it, and why.
    End(End),
    /// Shows all revocations.
    List(Ask),
}

#[derive(Debug, clap::Args)]
struct End {
    /// `namespace/name` of the revocation.
    name: WorkloadName,
    /// Why.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    ask: Ask,
}

/// A revocation. All predicates that are given must hold; of one that is given several times one must.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// What it is called: `namespace/name`; what is only asked about needs no name.
    name: Option<WorkloadName>,
    #[command(flatten)]
    predicates: Predicates,
    /// What becomes of live connections. What is new is denied in any case.
    #[arg(long, value_enum, default_value = "cut")]
    action: ActionWord,
    /// Why: it stands in the document, in the record and in `explain`.
    #[arg(long, default_value = "")]
    reason: String,
    /// When it ends by itself, like `2026-12-24T00:00:00Z`, or how long from now, like `24h`; by default never.
    #[arg(long)]
    expires: Option<Expiry>,
    /// Names workloads that the policy does not have yet: whoever comes to bear the name is meant.
    #[arg(long)]
    allow_unknown: bool,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    ask: Ask,
}

impl Arguments {
    pub(super) async fn run(self) -> Outcome {
        match self.command {
            Some(Command::List(ask)) => list(&ask).await,
            Some(Command::End(end)) => end.run().await,
            Some(Command::Explain(mut wanted)) => {
                wanted.limits.dry_run = true;
                // A question is refused nothing.
                wanted.limits.replace = true;
                wanted.limits.max_drop = MaxDrop {
                    number: 100,
                    is_percent: true,
                };
                match &wanted.name {
                    Some(name) if wanted.predicates.is_empty() => explain(name, &wanted.ask).await,
                    _ => wanted.run(now()).await,
                }
            }
            None => self.wanted.run(now()).await,
        }
    }
}

/// What is written, where to, and what is to be said of it beforehand.
#[derive(Debug)]
struct Draft {
    called: WorkloadName,
    file: String,
    text: String,
    expires: Option<SystemTime>,
    warnings: Vec<String>,
}

impl Wanted {
    async fn run(&self, now: SystemTime) -> Outcome {
        let draft = match self.draft(now) {
            Ok(draft) => draft,
            Err(message) => return Outcome::misused(format!("error: {message}\n")),
        };
        let known = match Known::ask(&self.ask).await {
            Ok(known) => known,
            Err(outcome) => return outcome,
        };
        let mut warnings = draft.warnings.clone();
        match self.unknown(&known, &draft) {
            Ok(unknown) => warnings.extend(unknown),
            Err(message) => return Outcome::misused(message),
        }
        let mut request = self.limits.request("revoke", &self.reason);
        request.files.push(PolicyFile {
            name: draft.file.clone(),
            text: draft.text.clone(),
        });
        let response = match change::ask(request, &self.ask).await {
            Ok(response) => response,
            Err(outcome) => return outcome,
        };
        if response.not_writable {
            return self.not_writable(&draft, &response.refused);
        }
        warnings.extend(known.remarks(&self.predicates, &response, &self.ask.data));
        let called = &draft.called;
        let end = match draft.expires {
            Some(expires) => format!("at {}, or by", flags::show(expires)),
            None => "only by".to_owned(),
        };
        let headline = format!(
            "revoked by {called}, in {}; it ends {end} `vouchsafe revoke end {called} --reason …`",
            draft.file
        );
        let telling = Telling {
            is_dry_run: self.limits.dry_run,
            headline: &headline,
            warnings: &warnings,
        };
        change::show(&response, &telling, self.ask.output)
    }

    /// What the flags make, without asking anybody.
    fn draft(&self, now: SystemTime) -> Result<Draft, String> {
        let is_asked_about = self.limits.dry_run;
        let called = match &self.name {
            Some(called) => called.clone(),
            None if is_asked_about => hypothetical()?,
            None => return Err(UNNAMED.to_owned()),
        };
        let reason = match self.reason.trim() {
            "" if is_asked_about => "asked about",
            "" => return Err("say why with `--reason`: it stands in the record".to_owned()),
            _ => &self.reason,
        };
        let expires = self.expires.map(|expires| expires.at(now)).transpose()?;
        let text = self.predicates.document(&Terms {
            name: &called,
            action: self.action,
            reason,
            expires,
        })?;
        let soon = expires.filter(|end| *end <= now + EXPIRY_WARNING);
        let warnings = soon.map(|end| {
            format!(
                "it ends within a day, at {}: whoever it means is trusted again then",
                flags::show(end)
            )
        });
        Ok(Draft {
            file: format!(
                "{REVOCATIONS_FOLDER}/{}.{}.yaml",
                called.namespace, called.name
            ),
            called,
            text,
            expires,
            warnings: warnings.into_iter().collect(),
        })
    }

    /// What is to be said of names that the policy lacks. `Err`: they are a slip, as far as anybody can tell.
    fn unknown(&self, known: &Known, draft: &Draft) -> Result<Vec<String>, String> {
        let unknown = known.unknown_names(&self.predicates, &draft.called.namespace);
        let is_refused = |may_come: bool| !(may_come && self.allow_unknown);
        if !unknown.iter().any(|one| is_refused(one.may_come)) {
            let told = unknown.into_iter().map(|one| one.what);
            return Ok(told.collect());
        }
        let mut message = String::new();
        for one in unknown.iter().filter(|one| is_refused(one.may_come)) {
            message.push_str(&format!("error: {}\n", one.what));
        }
        if unknown.iter().all(|one| one.may_come) {
            message.push_str(
                "hint: say `--allow-unknown` if it is yet to come; `vouchsafe workload list` shows which there are\n",
            );
        }
        Err(message)
    }

    /// The folder is somebody else's to write.
    fn not_writable(&self, draft: &Draft, refused: &str) -> Outcome {
        let output = match self.ask.output {
            Format::Table => draft.text.clone(),
            Format::Json => json(&json!({
                "made": false,
                "refused": refused,
                "not_writable": true,
                "file": draft.file,
                "document": draft.text,
            })),
        };
        Outcome {
            status: 3,
            output,
            error: format!(
                "error: {refused}; put the document above where the folder comes from, as {}\n",
                draft.file
            ),
        }
    }
}

/// The name of what is only asked about.
fn hypothetical() -> Result<WorkloadName, String> {
    let name = "hypothetical/revocation".parse();
    name.map_err(|error| format!("{error}"))
}

impl End {
    async fn run(&self) -> Outcome {
        // Nothing that lives rests on a revocation, so nothing can end with it.
        let limits = Limits {
            max_drop: MaxDrop {
                number: 100,
                is_percent: true,
            },
            allow_unanswered: true,
            replace: false,
            dry_run: false,
        };
        let mut request = limits.request("end_revocation", &self.reason);
        request.end_revocation = self.name.to_string();
        let response = match change::ask(request, &self.ask).await {
            Ok(response) => response,
            Err(outcome) => return outcome,
        };
        let headline = format!("revocation {} is ended", self.name);
        let telling = Telling {
            is_dry_run: false,
            headline: &headline,
            warnings: &[],
        };
        change::show(&response, &telling, self.ask.output)
    }
}

/// Whom a revocation that exists means.
async fn explain(name: &WorkloadName, ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let status = match client.status(StatusRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    let name = name.to_string();
    let Some(held) = status.revocations.iter().find(|one| one.name == name) else {
        return Outcome::misused(format!(
            "error: there is no revocation `{name}` (`vouchsafe revoke list`); whom a new one would mean is asked with its predicates\n"
        ));
    };
    let request = ChangeRequest {
        explain_revocation: name,
        dry_run: true,
        ..ChangeRequest::default()
    };
    let response = match client.change(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    Outcome::good(change::explained(held, &response, ask.output))
}

/// All revocations, as `status` has them.
async fn list(ask: &Ask) -> Outcome {
    let mut client = match connect(&ask.data).await {
        Ok(client) => client,
        Err(outcome) => return outcome,
    };
    let status = match client.status(StatusRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(&status),
    };
    let rows = status.revocations.iter();
    if ask.output == Format::Json {
        let rows: Vec<Value> = rows.map(super::status::revocation_json).collect();
        return Outcome::good(json(&json!(rows)));
    }
    let rows: Vec<Vec<String>> = rows
        .map(|one| {
            vec![
                one.name.clone(),
                one.action.clone(),
                match (one.in_force, one.ends_soon) {
                    (false, _) => "has ended".to_owned(),
                    (true, true) => format!("{}, SOON", show_time(one.expires_ms)),
                    (true, false) if one.expires_ms == 0 => "never".to_owned(),
                    (true, false) => show_time(one.expires_ms),
                },
                format!("{}:{}", one.file, one.line),
                one.reason.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Outcome::good("no revocation\n");
    }
    Outcome::good(table(
        &["REVOCATION", "ACTION", "ENDS", "WRITTEN IN", "REASON"],
        rows,
    ))
}

/// What to do without a name.
const UNNAMED: &str = "say what it is called and whom it means, as in `vouchsafe revoke platform/incident-7 --workload edge/gateway --reason stolen`";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        wanted: Wanted,
    }

    fn wanted(options: &[&str]) -> Wanted {
        let line = Line::try_parse_from(["revoke"].iter().chain(options));
        line.unwrap_or_else(|error| panic!("{error}")).wanted
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn what_is_only_asked_about_needs_neither_name_nor_reason() {
        let asked = wanted(&["--serial", "ab", "--dry-run"])
            .draft(now())
            .unwrap();
        assert_eq!(asked.file, "revocations/hypothetical.revocation.yaml");
        for (options, words) in [
            (&["--serial", "ab"][..], "say what it is called"),
            (&["platform/r", "--serial", "ab"], "--reason"),
            (&["platform/r", "--dry-run"], "say whom it means"),
            (
                &[
                    "platform/r",
                    "--serial",
                    "ab",
                    "--reason",
                    "x",
                    "--expires",
                    "2020-01-01T00:00:00Z",
                ],
                "would mean nobody",
            ),
        ] {
            let error = wanted(options).draft(now()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_end_within_a_day_is_warned_of() {
        let warned = |expires| {
            let line = [
                "platform/r",
                "--serial",
                "ab",
                "--reason",
                "x",
                "--expires",
                expires,
            ];
            wanted(&line).draft(now()).unwrap().warnings
        };
        assert_eq!(
            warned("24h"),
            [
                "it ends within a day, at 2027-01-16T08:00:00Z: whoever it means is trusted again then"
            ]
        );
        assert_eq!(warned("25h"), Vec::<String>::new());
    }

    #[test]
    fn a_name_that_is_not_there_is_refused_unless_it_is_meant() {
        let known = Known {
            workloads: vec!["edge/gateway".to_owned()],
            ..Known::default()
        };
        let unknown = |options: &[&str]| {
            let mut line = vec!["platform/r", "--reason", "x"];
            line.extend(options);
            let wanted = wanted(&line);
            wanted.unknown(&known, &wanted.draft(now()).unwrap())
        };
        let slip = unknown(&["--workload", "edge/gatewy"]).unwrap_err();
        assert!(
            slip.contains("did you mean `edge/gateway`?") && slip.contains("--allow-unknown"),
            "{slip}"
        );
        let meant = unknown(&["--workload", "edge/gatewy", "--allow-unknown"]).unwrap();
        assert_eq!(meant.len(), 1, "{meant:?}");
        let machine = unknown(&["--node", "platform/gpu-07", "--allow-unknown"]).unwrap_err();
        assert!(
            machine.contains("there is no Node") && !machine.contains("hint"),
            "{machine}"
        );
        assert_eq!(unknown(&["--workload", "edge/gateway"]), Ok(vec![]));
    }

    #[test]
    fn a_folder_that_can_t_be_written_leaves_the_document_in_the_form_that_was_asked_for() {
        let line = ["platform/r", "--serial", "ab", "--reason", "x"];
        let mut wanted = wanted(&line);
        let draft = wanted.draft(now()).unwrap();
        let shown = wanted.not_writable(&draft, "it is read-only");
        assert_eq!(
            (shown.status, shown.output.as_str()),
            (3, draft.text.as_str())
        );
        wanted.ask.output = Format::Json;
        let shown = wanted.not_writable(&draft, "it is read-only");
        let value: Value = serde_json::from_str(&shown.output).unwrap();
        assert_eq!(value["document"], draft.text);
        assert_eq!(value["not_writable"], true);
    }
}
