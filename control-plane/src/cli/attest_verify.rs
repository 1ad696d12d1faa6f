//! `vouchsafe attest verify`: judges evidence from files, offline.
//!
//! Exit codes: 0 only for an affirming judgement · 1 a judged no · 2 what could not be judged (wrong usage, unreadable
//! files, endorsements that are missing). The judging is [`vouchsafe_verifier::dossier`]'s; here files are read.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_config::load;
use vouchsafe_config::profile::{Alternative, AttestationProfile};
use vouchsafe_config::set::Options;
use vouchsafe_verifier::dossier::{self, Dossier, Expected, File, Kind, Rules};
use vouchsafe_verifier::endorsement::age::{self, Dated};
use vouchsafe_verifier::judgement::{Finding, Judgement, Outcome as CheckOutcome, Status};

use super::attest_explain::endorsements_json;
use super::{Format, Outcome, table};
use crate::reference;

/// What to judge, by what, and what it must be bound to.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("binding").required(true))]
pub(super) struct Arguments {
    /// Kind of evidence: sev_snp, tdx, sgx, az_snp_vtpm, az_tdx_vtpm, nvidia_gpu, nitro or tpm.
    #[arg(long)]
    kind: Kind,
    /// When to judge, as in 2026-06-01T00:00:00Z; now, unless given.
    #[arg(long, value_name = "RFC3339")]
    at: Option<jiff::Timestamp>,
    /// Folder of endorsements, used as a cache: what is old in it is ignored.
    #[arg(long, value_name = "DIR")]
    endorsements: Option<PathBuf>,
    /// What the report data must be: exactly 64 bytes in hex.
    #[arg(long, group = "binding", value_name = "HEX", value_parser = parse_report_data)]
    expect_report_data: Option<Expected>,
    /// What the nonce must be, in hex.
    #[arg(long, group = "binding", value_name = "HEX", value_parser = parse_nonce)]
    expect_nonce: Option<Expected>,
    /// File of an AttestationProfile, whose alternatives of this kind are tried in order; the first that accepts counts.
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    profile_file: Option<PathBuf>,
    /// Profile of a policy, as `namespace/name`.
    #[arg(long, value_name = "NAME", requires = "policy")]
    profile: Option<WorkloadName>,
    /// Files and folders of the policy that has the profile.
    #[arg(long, value_name = "DIR", requires = "profile")]
    policy: Vec<PathBuf>,
    /// Looks without asking when and for whom the evidence was made; the judgement says so.
    #[arg(long, group = "binding")]
    no_binding: bool,
    /// For people or for programs.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(super) output: Format,
    /// Evidence, and endorsements that came with it; a folder stands for its files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// A judgement with what explains it.
pub(super) struct Judged {
    pub(super) kind: Kind,
    pub(super) at: SystemTime,
    /// By which profile, if any.
    pub(super) profile: Option<String>,
    pub(super) judgement: Judgement,
    /// For each check the profile's line that decides it, or nothing.
    lines: Vec<String>,
    /// What the judgement rests on.
    pub(super) used: Vec<Dated>,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let is_json = arguments.output == Format::Json;
    let judged = match judged(arguments, is_json) {
        Ok(judged) => judged,
        Err(outcome) => return outcome,
    };
    let output = match is_json {
        true => match to_json(&judged) {
            Ok(json) => super::json(&json),
            Err(error) => return Outcome::misused(format!("error: {error}\n")),
        },
        false => show(&judged),
    };
    Outcome {
        status: exit_status(&judged.judgement),
        output,
        error: String::new(),
    }
}

/// Reads what is asked about and judges it; the outcome says what was wrong with the question.
pub(super) fn judged(arguments: &Arguments, wants_used: bool) -> Result<Judged, Outcome> {
    let misused = |error: String| Outcome::misused(format!("error: {error}\n"));
    let files = read_all(&arguments.files).map_err(misused)?;
    let endorsements = read_all(arguments.endorsements.as_slice()).map_err(misused)?;
    let at = arguments.at.map_or_else(now, SystemTime::from);
    let profile = read_profile(arguments, at).map_err(Outcome::misused)?;
    let (files, endorsements) = (borrowed(&files), borrowed(&endorsements));
    let dossier = Dossier {
        files: &files,
        endorsements: &endorsements,
    };
    let judge_all = |dossier: Dossier<'_>| match &profile {
        None => Some((judge(arguments, dossier, at), None)),
        Some(profile) => { judge_by(arguments, profile, dossier, at) }
            .map(|(judgement, alternative)| (judgement, Some((profile, alternative)))),
    };
    let name = profile.as_ref().map(|profile| profile.name.to_string());
    let Some((judgement, by)) = judge_all(dossier) else {
        let (name, kind) = (name.unwrap_or_default(), arguments.kind.as_str());
        let error = format!("profile `{name}` has no alternative with `{kind}`");
        return Err(misused(error));
    };
    let lines = by.map(|(profile, alternative)| {
        policy_lines(arguments.kind, profile, alternative, &judgement)
    });
    let used = match wants_used {
        true => age::used(dossier, |dossier| {
            judge_all(dossier).map(|(judgement, _)| judgement)
        }),
        false => Vec::new(),
    };
    Ok(Judged {
        kind: arguments.kind,
        at,
        profile: name,
        judgement,
        lines: lines.unwrap_or_default(),
        used,
    })
}

fn judge(arguments: &Arguments, dossier: Dossier<'_>, at: SystemTime) -> Judgement {
    judge_rules(arguments, dossier, &Rules::default(), at)
}

fn judge_rules(
    arguments: &Arguments,
    dossier: Dossier<'_>,
    rules: &Rules,
    at: SystemTime,
) -> Judgement {
    match arguments.expected() {
        Some(expected) => dossier::verify(arguments.kind, dossier, expected, rules, at),
        None => dossier::inspect(arguments.kind, dossier, rules, at)
            .judgement()
            .clone(),
    }
}

impl Arguments {
    fn expected(&self) -> Option<&Expected> {
        let report_data = self.expect_report_data.as_ref();
        report_data.or(self.expect_nonce.as_ref())
    }
}

/// The profile that is asked for; the message says why there is none.
fn read_profile(
    arguments: &Arguments,
    at: SystemTime,
) -> Result<Option<AttestationProfile>, String> {
    let options = Options { now: Some(at) };
    if let Some(file) = &arguments.profile_file {
        let set = load::policy(std::slice::from_ref(file), options);
        let set = set.map_err(|problems| problems.to_string())?;
        let mut profiles = set.profiles();
        return match (profiles.next(), profiles.next()) {
            (Some(profile), None) => Ok(Some(profile.clone())),
            (found, _) => {
                let found = if found.is_some() { "several" } else { "none" };
                let file = file.display();
                Err(format!(
                    "error: `{file}` must have one AttestationProfile, found {found}\n"
                ))
            }
        };
    }
    let Some(name) = &arguments.profile else {
        return Ok(None);
    };
    let set = load::policy(&arguments.policy, options).map_err(|problems| problems.to_string())?;
    let found = set.profile(name).cloned();
    found
        .map(Some)
        .ok_or_else(|| format!("error: the policy has no profile `{name}`\n"))
}

/// Judges by each alternative that asks for the kind; the first that accepts counts, else the last.
///
/// Only the kind's own section is judged: what else the alternative demands needs the evidence of the other kinds.
fn judge_by<'p>(
    arguments: &Arguments,
    profile: &'p AttestationProfile,
    dossier: Dossier<'_>,
    at: SystemTime,
) -> Option<(Judgement, &'p Alternative)> {
    let kind = arguments.kind.evidence_kind()?;
    let mut last = None;
    for alternative in &profile.any_of {
        let wanted = reference::reference_of(alternative);
        let judgement = match (&alternative.tpm, wanted.hardware.get(&kind)) {
            (_, Some(wanted)) => match arguments.expected() {
                Some(expected) => {
                    dossier::verify_against(arguments.kind, dossier, expected, wanted, at)
                }
                None => dossier::inspect_against(arguments.kind, dossier, wanted, at)
                    .judgement()
                    .clone(),
            },
            (Some(tpm), None) if kind == EvidenceKind::Tpm => {
                judge_rules(arguments, dossier, &reference::tpm_rules(tpm), at)
            }
            (_, None) => continue,
        };
        let is_accepted = judgement.status == Status::Affirming;
        last = Some((judgement, alternative));
        if is_accepted {
            break;
        }
    }
    last
}

/// For each check the place of the profile's key that decides it, as `file:line`; empty where a default does.
fn policy_lines(
    kind: Kind,
    profile: &AttestationProfile,
    alternative: &Alternative,
    judgement: &Judgement,
) -> Vec<String> {
    let line = |check: &str| {
        let key = DECIDED_BY.iter().find(|(name, _)| *name == check);
        let key = key.map(|(_, key)| *key);
        // A claim may have the name of a check that another key decides: `debug` beside `danger_accept_debug`.
        let line = { key.into_iter().chain([check]) }
            .find_map(|key| alternative.lines.get(&format!("{}.{key}", kind.as_str())))?;
        Some(format!("{}:{line}", profile.file))
    };
    let checks = judgement.checks.iter();
    checks
        .map(|check| line(check.name).unwrap_or_default())
        .collect()
}

/// Keys of profiles that have another name than the check that they decide.
const DECIDED_BY: [(&str, &str); 19] = [
    ("image", "images"),
    ("tcb_reported", "tcb"),
    ("tcb_committed", "tcb"),
    ("tcb_current", "tcb"),
    ("tcb_launch", "tcb"),
    ("tcb_evaluation", "tcb_evaluation_data_number"),
    ("advisories", "accepted_advisories"),
    ("debug", "danger_accept_debug"),
    ("migration", "danger_accept_migration"),
    ("sept_ve_disable", "danger_accept_sept_ve"),
    ("service_td", "danger_accept_service_td"),
    ("vlek", "signing_key"),
    ("mitigations", "required_mitigations"),
    ("class", "classes"),
    ("pcr_coverage", "pcrs"),
    ("ima_format", "ima"),
    ("ima_replay", "ima"),
    ("ima_measures", "ima"),
    ("ima_files", "ima"),
];

/// The judgement, with the deciding line beside each check that has one, and with what it rests on.
pub(super) fn to_json(judged: &Judged) -> serde_json::Result<serde_json::Value> {
    let mut json = serde_json::to_value(&judged.judgement)?;
    let checks = json
        .get_mut("checks")
        .and_then(|checks| checks.as_array_mut());
    for (check, line) in checks.into_iter().flatten().zip(&judged.lines) {
        if let Some(check) = check.as_object_mut().filter(|_| !line.is_empty()) {
            check.insert("policy".to_owned(), line.as_str().into());
        }
    }
    if let Some(object) = json.as_object_mut() {
        let used = endorsements_json(&judged.used, judged.at);
        object.insert("endorsements".to_owned(), used);
    }
    Ok(json)
}

#[expect(
    clippy::disallowed_methods,
    reason = "without `--at`, evidence is judged by this machine's clock"
)]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

pub(super) fn exit_status(judgement: &Judgement) -> u8 {
    match judgement.status {
        Status::Affirming => 0,
        _ if judgement.is_incomplete => 2,
        Status::Warning | Status::Contraindicated => 1,
    }
}

fn show(judged: &Judged) -> String {
    let rows = checks(judged).map(|(check, outcome, line)| {
        vec![
            check.name.to_owned(),
            outcome.to_owned(),
            check.detail.clone(),
            line.to_owned(),
        ]
    });
    let checks = table(&["CHECK", "OUTCOME", "DETAIL", "POLICY"], rows.collect());
    let status = status(&judged.judgement);
    format!("{checks}\n{status}: {}\n", judged.judgement.reason)
}

/// Each check with its outcome and the line that decides it, as people read them.
pub(super) fn checks(judged: &Judged) -> impl Iterator<Item = (&Finding, &'static str, &str)> {
    let lines = judged.lines.iter().map(String::as_str);
    let lines = lines.chain(std::iter::repeat(""));
    judged
        .judgement
        .checks
        .iter()
        .zip(lines)
        .map(|(check, line)| {
            let outcome = match check.outcome {
                CheckOutcome::Passed => "passed",
                CheckOutcome::Failed => "FAILED",
                CheckOutcome::Warning => "warning",
                CheckOutcome::Missing => "missing",
                CheckOutcome::NotChecked => "not checked",
            };
            (check, outcome, line)
        })
}

pub(super) fn status(judgement: &Judgement) -> &'static str {
    match judgement.status {
        Status::Affirming => "affirming",
        Status::Warning => "warning",
        Status::Contraindicated => "contraindicated",
    }
}

fn parse_report_data(text: &str) -> Result<Expected, String> {
    let bytes = hex::decode(text).map_err(|error| error.to_string())?;
    let bytes: [u8; 64] = bytes
        .try_into()
        .map_err(|bytes: Vec<u8>| format!("report data has 64 bytes, found {}", bytes.len()))?;
    Ok(Expected::ReportData(bytes))
}

fn parse_nonce(text: &str) -> Result<Expected, String> {
    let bytes = hex::decode(text).map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        return Err("an empty nonce proves nothing".into());
    }
    Ok(Expected::Nonce(bytes))
}

/// A file's name without folders, and its content.
pub(super) type Held = (String, Vec<u8>);

pub(super) fn read_all(paths: &[PathBuf]) -> Result<Vec<Held>, String> {
    let mut held = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut inside: Vec<_> = std::fs::read_dir(path)
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                .map_err(|error| unreadable(path, &error))?;
            inside.sort();
            for file in inside.iter().filter(|inside| inside.is_file()) {
                held.push(read(file)?);
            }
        } else {
            held.push(read(path)?);
        }
    }
    Ok(held)
}

fn read(path: &Path) -> Result<Held, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| unreadable(path, &error))?
        .len();
    if size > MAX_FILE_BYTES {
        let path = path.display();
        return Err(format!("`{path}` has {size} bytes, more than any evidence"));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    let name = path.file_name().unwrap_or_default();
    Ok((name.to_string_lossy().into_owned(), bytes))
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("failed to read `{}`: {error}", path.display())
}

pub(super) fn borrowed(held: &[Held]) -> Vec<File<'_>> {
    held.iter()
        .map(|(name, bytes)| File { name, bytes })
        .collect()
}

/// Event logs are the largest evidence: up to 16 MiB where IMA logs everything.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;

#[cfg(test)]
pub(super) mod tests;
