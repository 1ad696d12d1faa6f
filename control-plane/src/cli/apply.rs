//! `vouchsafe apply` and `vouchsafe rollback`: changes of policy that say beforehand what they would end.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vouchsafe_api::v1::{PolicyFile, Revision};
use vouchsafe_config::load;

use super::change::{self, Limits};
use super::{Ask, Format, Outcome, json, show_time, table};
use crate::policy_sets;
use crate::telemetry::Chain;

/// What `apply` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    /// A file, which comes to the policy folder or replaces the file of its name there; or a folder, whose files replace
    /// all others, but for those that `vouchsafe revoke` wrote.
    path: PathBuf,
    /// Why: it stands in the record.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    ask: Ask,
}

impl Apply {
    pub(super) async fn run(&self) -> Outcome {
        let files = match self.files() {
            Ok(files) => files,
            Err(message) => return Outcome::misused(message),
        };
        let mut request = self.limits.request("apply", &self.reason);
        request.replace_all = self.path.is_dir();
        request.files = files;
        run(request, &self.limits, &self.ask, "the policy is applied").await
    }

    fn files(&self) -> Result<Vec<PolicyFile>, String> {
        if self.path.is_dir() {
            let files = load::policy_files(&self.path).map_err(|problems| problems.to_string())?;
            if files.is_empty() {
                return Err(format!(
                    "error: {} has no policy file\n",
                    self.path.display()
                ));
            }
            let files = files.into_iter().map(|(name, text)| PolicyFile {
                name: name.display().to_string(),
                text,
            });
            return Ok(files.collect());
        }
        let failed =
            |why: &dyn std::fmt::Display| format!("error: {}: {why}\n", self.path.display());
        let text = std::fs::read_to_string(&self.path).map_err(|error| failed(&error))?;
        let name = self.path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| failed(&"this is no name of a file"))?;
        Ok(vec![PolicyFile {
            name: name.to_owned(),
            text,
        }])
    }
}

/// What `rollback` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    /// A revision that was in force, as `1.41`; by default the policy before the present one.
    revision: Option<String>,
    /// Shows which policies are kept, and changes nothing.
    #[arg(long)]
    list: bool,
    /// Why: it stands in the record.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    ask: Ask,
}

impl Rollback {
    pub(super) async fn run(&self) -> Outcome {
        if self.list {
            return list(&self.ask.data, self.ask.output);
        }
        let mut request = self.limits.request("rollback", &self.reason);
        if let Some(text) = &self.revision {
            let Some(revision) = revision(text) else {
                return Outcome::misused(format!(
                    "error: `{text}` is no revision: expected `<epoch>.<sequence>`, like `1.41`\n"
                ));
            };
            request.rollback_to = Some(revision);
        }
        run(
            request,
            &self.limits,
            &self.ask,
            "the former policy is in force again",
        )
        .await
    }
}

async fn run(
    request: vouchsafe_api::v1::ChangeRequest,
    limits: &Limits,
    ask: &Ask,
    headline: &str,
) -> Outcome {
    if request.reason.trim().is_empty() && !limits.dry_run {
        return Outcome::misused("error: say why with `--reason`: it stands in the record\n");
    }
    match change::ask(request, ask).await {
        Ok(response) => change::show(&response, limits.dry_run, headline, ask.output),
        Err(outcome) => outcome,
    }
}

fn revision(text: &str) -> Option<Revision> {
    let (epoch, sequence) = text.split_once('.')?;
    Some(Revision {
        epoch: epoch.parse().ok()?,
        sequence: sequence.parse().ok()?,
    })
}

fn list(data: &Path, format: Format) -> Outcome {
    let kept = match policy_sets::list(data) {
        Ok(kept) => kept,
        Err(error) => return Outcome::failed(Chain(&error).to_string()),
    };
    let newest_first = kept.iter().rev();
    if format == Format::Json {
        let sets: Vec<Value> = newest_first
            .map(|one| {
                json!({
                    "revision": one.revision.to_string(),
                    "kept_ms": one.kept_ms,
                    "sha256": hex::encode(one.digest),
                    "files": one.files.keys().map(|name| name.display().to_string()).collect::<Vec<_>>(),
                })
            })
            .collect();
        return Outcome::good(json(&json!(sets)));
    }
    let rows = newest_first.map(|one| {
        vec![
            one.revision.to_string(),
            show_time(one.kept_ms),
            one.files.len().to_string(),
            hex::encode(one.digest),
        ]
    });
    Outcome::good(table(
        &["SINCE REVISION", "IN FORCE FROM", "FILES", "SHA-256"],
        rows.collect(),
    ))
}
