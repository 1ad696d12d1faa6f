//! `vouchsafe apply`, `vouchsafe promote` and `vouchsafe rollback`: changes of policy that say beforehand what they would
//! end.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};
use vouchsafe_api::v1::{ChangeResponse, PolicyFile, Revision};
use vouchsafe_config::load;

use super::change::{self, Limits, Telling};
use super::{Ask, Format, Outcome, json, show_time, table};
use crate::policy_sets;
use crate::telemetry::Chain;

/// What `apply` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    /// A file, which comes to the policy folder or replaces the file of its name there; or a folder, whose files replace
    /// all others, but for those that `vouchsafe revoke` wrote.
    path: PathBuf,
    /// Lets a share of the sidecars that it concerns try it, 1% to 99% and at least one, while all others stay on the
    /// policy in force: `status` shows how they do, `promote` makes it everybody's, `rollback` ends it.
    #[arg(long, value_name = "PERCENT")]
    canary: Option<Percent>,
    /// Why: it stands in the record.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    ask: Ask,
}

/// A share, as `10%`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Percent(u32);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
        let number = number.filter(|number| (1..100).contains(number));
        number
            .map(Self)
            .ok_or_else(|| format!("`{text}`: expected a share from `1%` to `99%`"))
    }
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
        request.canary_percent = self.canary.map_or(0, |share| share.0);
        let headline = match self.canary {
            None => "the policy is applied",
            Some(_) => {
                "the canary has begun: its sidecars try the policy, and nothing changes for others"
            }
        };
        run(request, &self.limits, &self.ask, |_| headline).await
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

/// What `promote` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Promote {
    /// Although sidecars could not apply the canary, or have not yet.
    #[arg(long)]
    force: bool,
    /// Why: it stands in the record.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    ask: Ask,
}

impl Promote {
    pub(super) async fn run(&self) -> Outcome {
        let mut request = self.limits.request("promote", &self.reason);
        request.force = self.force;
        let headline = "the canary is everybody's policy";
        run(request, &self.limits, &self.ask, |_| headline).await
    }
}

/// What `rollback` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    /// A revision that was in force, as `1.41`; by default the policy before the present one. While a canary runs, without
    /// a revision it ends the canary, and nothing else.
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
            |response| match &response.canary {
                None => "the former policy is in force again",
                Some(_) => "the canary is ended: its sidecars are back on the policy in force",
            },
        )
        .await
    }
}

async fn run(
    request: vouchsafe_api::v1::ChangeRequest,
    limits: &Limits,
    ask: &Ask,
    headline: impl Fn(&ChangeResponse) -> &'static str,
) -> Outcome {
    if request.reason.trim().is_empty() && !limits.dry_run {
        return Outcome::misused("error: say why with `--reason`: it stands in the record\n");
    }
    match change::ask(request, ask).await {
        Ok(response) => {
            let telling = Telling {
                is_dry_run: limits.dry_run,
                headline: headline(&response),
                warnings: &[],
            };
            change::show(&response, &telling, ask.output)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_that_leaves_somebody_out() {
        assert_eq!("10%".parse(), Ok(Percent(10)));
        assert_eq!("99".parse(), Ok(Percent(99)));
        for text in ["", "%", "0%", "100%", "-1%", "1.5%", "some"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
