//! `vouchsafe attest verify`: judges evidence from files, offline.
//!
//! Exit codes: 0 only for an affirming judgement · 1 a judged no · 2 what could not be judged (wrong usage, unreadable
//! files, endorsements that are missing). The judging is [`vouchsafe_verifier::dossier`]'s; here files are read.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vouchsafe_verifier::dossier::{self, Dossier, Expected, File, Kind, Rules};
use vouchsafe_verifier::judgement::{Judgement, Outcome as CheckOutcome, Status};

use super::{Format, Outcome, table};

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
    let judgement = judge(arguments, &borrowed(&files), &borrowed(&endorsements));
    let output = match arguments.output {
        Format::Json => match serde_json::to_string_pretty(&judgement) {
            Ok(json) => json + "\n",
            Err(error) => return Outcome::misused(format!("error: {error}\n")),
        },
        Format::Table => show(&judgement),
    };
    Outcome {
        status: exit_status(&judgement),
        output,
        error: String::new(),
    }
}

fn judge(arguments: &Arguments, files: &[File<'_>], endorsements: &[File<'_>]) -> Judgement {
    let dossier = Dossier {
        files,
        endorsements,
    };
    let at = arguments.at.map_or_else(now, SystemTime::from);
    let rules = Rules::default();
    let expected = arguments.expect_report_data.as_ref();
    match expected.or(arguments.expect_nonce.as_ref()) {
        Some(expected) => dossier::verify(arguments.kind, dossier, expected, &rules, at),
        None => dossier::inspect(arguments.kind, dossier, &rules, at)
            .judgement()
            .clone(),
    }
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

fn show(judgement: &Judgement) -> String {
    let rows = judgement.checks.iter().map(|check| {
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
        ]
    });
    let status = match judgement.status {
        Status::Affirming => "affirming",
        Status::Warning => "warning",
        Status::Contraindicated => "contraindicated",
    };
    let checks = table(&["CHECK", "OUTCOME", "DETAIL"], rows.collect());
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
