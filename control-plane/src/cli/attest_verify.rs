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
use vouchsafe_verifier::judgement::{Judgement, Outcome as CheckOutcome, Status};

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
    output: Format,
    /// Evidence, and endorsements that came with it; a folder stands for its files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let files = match read_all(&arguments.files) {
        Ok(files) => files,
        Err(error) => return Outcome::misused(format!("error: {error}\n")),
    };
    let endorsements = match read_all(arguments.endorsements.as_slice()) {
        Ok(files) => files,
        Err(error) => return Outcome::misused(format!("error: {error}\n")),
    };
    let at = arguments.at.map_or_else(now, SystemTime::from);
    let profile = match read_profile(arguments, at) {
        Ok(profile) => profile,
        Err(error) => return Outcome::misused(error),
    };
    let (files, endorsements) = (borrowed(&files), borrowed(&endorsements));
    let dossier = Dossier {
        files: &files,
        endorsements: &endorsements,
    };
    let (judgement, lines) = match &profile {
        None => (judge(arguments, dossier, at), Vec::new()),
        Some(profile) => match judge_by(arguments, profile, dossier, at) {
            Some((judgement, alternative)) => {
                let lines = policy_lines(arguments.kind, profile, alternative, &judgement);
                (judgement, lines)
            }
            None => {
                let kind = arguments.kind.as_str();
                let message = format!(
                    "error: profile `{}` has no alternative with `{kind}`\n",
                    profile.name
                );
                return Outcome::misused(message);
            }
        },
    };
    let output = match arguments.output {
        Format::Json => match to_json(&judgement, &lines) {
            Ok(json) => json + "\n",
            Err(error) => return Outcome::misused(format!("error: {error}\n")),
        },
        Format::Table => show(&judgement, &lines),
    };
    Outcome {
        status: exit_status(&judgement),
        output,
        error: String::new(),
    }
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
        let key = key.map_or(check, |(_, key)| key);
        let line = alternative.lines.get(&format!("{}.{key}", kind.as_str()))?;
        Some(format!("{}:{line}", profile.file))
    };
    let checks = judgement.checks.iter();
    checks
        .map(|check| line(check.name).unwrap_or_default())
        .collect()
}

/// Keys of profiles that have another name than the check that they decide.
const DECIDED_BY: [(&str, &str); 13] = [
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
];

/// The judgement, with the deciding line beside each check that has one.
fn to_json(judgement: &Judgement, lines: &[String]) -> serde_json::Result<String> {
    let mut json = serde_json::to_value(judgement)?;
    let checks = json
        .get_mut("checks")
        .and_then(|checks| checks.as_array_mut());
    for (check, line) in checks.into_iter().flatten().zip(lines) {
        if let Some(check) = check.as_object_mut().filter(|_| !line.is_empty()) {
            check.insert("policy".to_owned(), line.as_str().into());
        }
    }
    serde_json::to_string_pretty(&json)
}

#[expect(
    clippy::disallowed_methods,
    reason = "without `--at`, evidence is judged by this machine's clock"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn exit_status(judgement: &Judgement) -> u8 {
    match judgement.status {
        Status::Affirming => 0,
        _ if judgement.is_incomplete => 2,
        Status::Warning | Status::Contraindicated => 1,
    }
}

fn show(judgement: &Judgement, lines: &[String]) -> String {
    let lines = lines
        .iter()
        .map(String::as_str)
        .chain(std::iter::repeat(""));
    let rows = judgement.checks.iter().zip(lines).map(|(check, line)| {
        let outcome = match check.outcome {
            CheckOutcome::Passed => "passed",
            CheckOutcome::Failed => "FAILED",
            CheckOutcome::Warning => "warning",
            CheckOutcome::Missing => "missing",
            CheckOutcome::NotChecked => "not checked",
        };
        vec![
            check.name.to_owned(),
            outcome.to_owned(),
            check.detail.clone(),
            line.to_owned(),
        ]
    });
    let status = match judgement.status {
        Status::Affirming => "affirming",
        Status::Warning => "warning",
        Status::Contraindicated => "contraindicated",
    };
    let checks = table(&["CHECK", "OUTCOME", "DETAIL", "POLICY"], rows.collect());
    format!("{checks}\n{status}: {}\n", judgement.reason)
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
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn line(rest: &str) -> Result<Arguments, clap::Error> {
        let words = format!("verify {rest}");
        Line::try_parse_from(words.split_whitespace()).map(|line| line.arguments)
    }

    fn case(name: &str) -> String {
        format!("{}/verifier/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    #[track_caller]
    fn check(rest: &str, status: u8, reason: &str) {
        let outcome = run(&line(&format!("{rest} -o json")).unwrap());
        let found: serde_json::Value = serde_json::from_str(&outcome.output).unwrap();
        assert_eq!(
            (outcome.status, found["reason"].as_str()),
            (status, Some(reason)),
            "{found:#}"
        );
    }

    #[test]
    fn exit_status_says_yes_no_or_cannot_be_judged() {
        let good = case("snp/milan-v2-vcek");
        let at = "--kind sev_snp --at 2025-06-01T00:00:00Z";
        check(&format!("{at} --no-binding {good}"), 0, "verified");
        check(
            &format!("{at} --no-binding {}", case("snp/milan-v2-debug")),
            1,
            "debug_enabled",
        );
        check(
            &format!("{at} --no-binding {good}/report.bin"),
            2,
            "endorsement_missing",
        );
        let other = "00".repeat(64);
        check(
            &format!("{at} --expect-report-data {other} {good}"),
            1,
            "report_data_mismatch",
        );
        let endorsed = format!("{at} --no-binding --endorsements {good} {good}/report.bin");
        check(&endorsed, 0, "verified");
        let missing = run(&line(&format!("{at} --no-binding {good}/none.bin")).unwrap());
        assert_eq!(missing.status, 2);
    }

    /// Judges a good report by a profile with this section.
    #[track_caller]
    fn check_profile(section: &str, status: u8, reason: &str) -> serde_json::Value {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profile.yaml");
        let text = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\n\
             metadata: {{name: one, namespace: test}}\nspec:\n  any_of:\n    - sev_snp:\n{section}\n"
        );
        std::fs::write(&file, text).unwrap();
        let at = "--kind sev_snp --at 2025-06-01T00:00:00Z --no-binding -o json";
        let (file, good) = (file.display(), case("snp/milan-v2-vcek"));
        let outcome = run(&line(&format!("{at} --profile-file {file} {good}")).unwrap());
        let error = &outcome.error;
        assert!(!outcome.output.is_empty(), "{error}");
        let found: serde_json::Value = serde_json::from_str(&outcome.output).unwrap();
        assert_eq!(
            (outcome.status, found["reason"].as_str()),
            (status, Some(reason)),
            "{found:#}"
        );
        found
    }

    #[test]
    fn a_profile_decides_each_key_by_itself() {
        let good = run(&line(&format!(
            "--kind sev_snp --at 2025-06-01T00:00:00Z --no-binding -o json {}",
            case("snp/milan-v2-vcek")
        ))
        .unwrap());
        let good: serde_json::Value = serde_json::from_str(&good.output).unwrap();
        let claims = &good["claims"];
        let measured = claims["measurement"].as_str().unwrap();
        let images = format!("        images: [{{name: a, sha384: \"{measured}\"}}]");
        let with = |more: &str| format!("{images}\n        {more}");
        let found = check_profile(&images, 0, "verified");
        assert_eq!(found["claims"]["image"], "a");

        let until = "2025-06-01T00:00:00Z";
        let ended =
            format!("        images: [{{name: a, sha384: \"{measured}\", until: {until}}}]");
        check_profile(&ended, 1, "image");
        let other = format!(
            "        images: [{{name: a, sha384: \"{}\"}}]",
            "00".repeat(48)
        );
        let found = check_profile(&other, 1, "image");
        let checks = found["checks"].as_array().unwrap();
        let image = checks
            .iter()
            .find(|check| check["name"] == "image")
            .unwrap();
        let place = image["policy"].as_str().unwrap();
        assert!(place.ends_with("profile.yaml:7"), "{place}");

        let snp = claims["tcb.snp"].as_u64().unwrap();
        check_profile(&with(&format!("tcb: {{snp: \">={snp}\"}}")), 0, "verified");
        check_profile(&with("tcb: {snp: \">=255\"}"), 1, "reported_tcb_too_old");
        check_profile(&with("product: Milan"), 0, "verified");
        check_profile(&with("product: [Genoa, Turin]"), 1, "claim_not_accepted");
        check_profile(&with("debug: true"), 1, "claim_not_accepted");
        check_profile(&with("csp_id: nobody"), 1, "claim_not_accepted");
    }

    #[test]
    fn a_profile_must_be_there_and_speak_of_the_kind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profile.yaml");
        let at = "--kind nitro --no-binding";
        let missing = run(&line(&format!("{at} --profile-file {} x", file.display())).unwrap());
        assert_eq!(missing.status, 2);
        std::fs::write(
            &file,
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {name: one, namespace: test}\n\
             spec: {any_of: [{simulated: {images: [{name: a}]}}]}\n",
        )
        .unwrap();
        let good = case("snp/milan-v2-vcek");
        let other = run(&line(&format!("{at} --profile-file {} {good}", file.display())).unwrap());
        assert_eq!(other.status, 2);
        assert!(
            other.error.contains("no alternative with `nitro`"),
            "{}",
            other.error
        );
        assert!(line(&format!("{at} --profile test/one {good}")).is_err());
    }

    #[test]
    fn judgement_without_binding_says_so() {
        let good = case("snp/milan-v2-vcek");
        let outcome = run(&line(&format!(
            "--kind sev_snp --at 2025-06-01T00:00:00Z --no-binding -o json {good}"
        ))
        .unwrap());
        let found: serde_json::Value = serde_json::from_str(&outcome.output).unwrap();
        assert_eq!(found["binding"], "not_checked");
        assert_eq!(found["status"], "affirming");
    }

    #[test]
    fn exactly_one_binding_must_be_said() {
        assert!(line("--kind sev_snp file").is_err());
        assert!(line("--kind sev_snp --no-binding --expect-nonce 00 file").is_err());
        assert!(line("--kind sev_snp --expect-report-data 00 file").is_err());
        assert!(line("--kind sev_snp --expect-nonce= file").is_err());
        assert!(line("--kind unheard_of --no-binding file").is_err());
        assert!(line("--kind nitro --expect-nonce 00 file").is_ok());
    }
}
