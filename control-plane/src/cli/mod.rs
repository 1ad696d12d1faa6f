//! The operator's command line.
//!
//! Exit codes are stable, and the same for all commands (`EXIT_CODES`). Output goes to standard output, what is wrong to
//! standard error; `-o json` is for programs.

pub mod check;
pub mod explain;
pub mod log_line;
pub mod schema;
pub mod workload_init;

mod apply;
mod attest_collect;
mod attest_explain;
mod attest_reference;
mod attest_verify;
mod authority;
mod change;
mod client;
mod documents;
mod endorsements;
mod explain_log;
mod log;
mod reason;
mod renew;
mod restored;
mod revoke;
mod serve;
mod status;
mod suggest;
mod workload;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Parser, Subcommand, ValueEnum};

/// What a command leaves behind.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Exit code.
    pub status: u8,
    /// For standard output.
    pub output: String,
    /// For standard error.
    pub error: String,
}

impl Outcome {
    /// As it should be.
    pub fn good(output: impl Into<String>) -> Self {
        Self {
            output: output.into(),
            ..Self::default()
        }
    }

    /// Looked at, and not as it should be.
    pub fn bad(output: impl Into<String>) -> Self {
        Self {
            status: 1,
            output: output.into(),
            ..Self::default()
        }
    }

    /// Refused, so nothing was changed.
    pub fn refused(error: impl Into<String>) -> Self {
        Self {
            status: 1,
            error: format!("refused, nothing was changed: {}\n", error.into()),
            ..Self::default()
        }
    }

    /// The question makes no sense.
    pub fn misused(error: impl Into<String>) -> Self {
        Self {
            status: 2,
            error: error.into(),
            ..Self::default()
        }
    }

    /// It could not be done.
    pub fn failed(error: impl Into<String>) -> Self {
        Self {
            status: 3,
            error: format!("error: {}\n", error.into()),
            ..Self::default()
        }
    }

    fn exit(self) -> ExitCode {
        // A closed pipe (`| head`) is no failure of the command.
        let _ = std::io::stdout().write_all(self.output.as_bytes());
        let _ = std::io::stderr().write_all(self.error.as_bytes());
        ExitCode::from(self.status)
    }
}

/// Zero-trust service mesh for confidential AI factories: control plane and operator's command line.
#[derive(Debug, Parser)]
#[command(name = "vouchsafe", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the control plane until SIGTERM.
    Serve(serve::Arguments),
    /// Makes what a first start makes (keys, store, record) and prints the root pin for proxy.yaml.
    Init(serve::Arguments),
    /// Shows the control plane, its authorities and its sidecars.
    Status(status::Arguments),
    /// Checks policy documents and bootstrap files: all mistakes at once, and what follows from what is right.
    Check(documents::Check),
    /// Prints the JSON Schema of a kind, for editors.
    Schema(documents::Schema),
    /// Says why a request would be allowed or denied, rule by rule, as the sidecar decides it.
    Explain(documents::ExplainRequest),
    /// Says who can come through a door, directly or through others.
    WhoCan(reason::WhoCanRequest),
    /// Says which doors a new policy opens, widens, narrows or closes, and for whom; exit code 1 where it may admit more.
    Diff(reason::DiffRequest),
    /// Checks the expectations that lie beside a policy (`kind: PolicyTest`).
    Test(reason::TestRequest),
    /// Ends trust by predicate: denies what is new and cuts or drains what is live, on every sidecar.
    Revoke(Box<revoke::Arguments>),
    /// Puts files or a folder in force as policy, once it has shown what differs and which live connections would end.
    Apply(apply::Apply),
    /// Makes the policy that a canary's sidecars try everybody's.
    Promote(apply::Promote),
    /// Puts a former policy in force again, as a new revision; while a canary runs, ends the canary.
    Rollback(apply::Rollback),
    /// Proposes the rules that a port in `audit` lacks, from what sidecars told or from access logs, and tries whether they
    /// are enough.
    Suggest(suggest::Arguments),
    /// Begins another epoch of the mesh state, after the data folder was brought back from a copy.
    Restored(restored::Arguments),
    /// Has instances renew their certificates ahead of time, at a pace.
    Renew(renew::Arguments),
    /// Authorities that sign certificates.
    #[command(subcommand)]
    Authority(authority::Command),
    /// Workloads and their instances.
    #[command(subcommand)]
    Workload(WorkloadCommand),
    /// The record of issuances, refusals and changes.
    #[command(subcommand)]
    Log(LogCommand),
    /// Evidence of hardware.
    #[command(subcommand)]
    Attest(AttestCommand),
    /// What hardware vendors say: fetched, shown, and carried to sites that reach no vendor.
    #[command(subcommand)]
    Endorsements(endorsements::Command),
}

#[derive(Debug, Subcommand)]
enum AttestCommand {
    /// Judges evidence from files, offline: exit code 0 only if it affirms, 2 if it can't be judged.
    Verify(attest_verify::Arguments),
    /// Judges as `verify` does and says why: what each check compares, what it found, and how old each endorsement is.
    Explain(attest_verify::Arguments),
    /// Drafts an `AttestationProfile` from a machine's evidence, an event log, a GPU's manifest or a CoRIM manifest.
    Reference(attest_reference::Arguments),
    /// Collects what this machine can prove into a folder, by the sidecar, which must be installed.
    Collect(attest_collect::Arguments),
}

#[derive(Debug, Subcommand)]
enum WorkloadCommand {
    /// Writes what a new service needs: documents, `proxy.yaml`, a join token; ready to edit.
    Init(documents::Init),
    /// Shows all workloads of the policy, with instances and the newest refusal.
    List(Ask),
    /// Shows why a workload got its certificates, or did not: newest first.
    #[command(alias = "show")]
    Explain {
        /// `namespace/name`.
        workload: String,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Shows the newest records.
    Tail {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: u64,
        /// Goes on with each new record.
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Checks the whole chain of the record, on disk; the control plane need not run.
    Verify(Ask),
    /// Makes the decision of a record again, offline, from what the archive kept: exit code 0 only if it is the same.
    Rerun {
        /// Number of the record, as `log tail` shows it.
        number: u64,
        #[command(flatten)]
        ask: Ask,
    },
}

/// Where to ask, and how to answer.
#[derive(Clone, Debug, clap::Args)]
struct Ask {
    /// Data folder of the control plane.
    #[arg(long, default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// For people or for programs.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::failed(format!("no runtime: {error}")).exit(),
    };
    runtime.block_on(run(arguments.command)).exit()
}

async fn run(command: Command) -> Outcome {
    match command {
        Command::Serve(arguments) => serve::serve(arguments).await,
        Command::Init(arguments) => serve::init(arguments).await,
        Command::Status(ask) => status::show(&ask).await,
        Command::Check(asked) => asked.run(),
        Command::Schema(asked) => asked.run(),
        Command::Explain(asked) => asked.run(),
        Command::WhoCan(asked) => asked.run(),
        Command::Diff(asked) => asked.run(),
        Command::Test(asked) => asked.run(),
        Command::Revoke(arguments) => arguments.run().await,
        Command::Apply(arguments) => arguments.run().await,
        Command::Promote(arguments) => arguments.run().await,
        Command::Rollback(arguments) => arguments.run().await,
        Command::Suggest(arguments) => arguments.run().await,
        Command::Restored(arguments) => arguments.run().await,
        Command::Renew(arguments) => renew::run(&arguments).await,
        Command::Authority(command) => command.run().await,
        Command::Workload(WorkloadCommand::Init(wanted)) => wanted.run(),
        Command::Workload(WorkloadCommand::List(ask)) => workload::list(&ask).await,
        Command::Workload(WorkloadCommand::Explain { workload, ask }) => {
            workload::explain(&workload, &ask).await
        }
        Command::Log(LogCommand::Tail { lines, follow, ask }) => {
            log::tail(lines, follow, &ask).await
        }
        Command::Log(LogCommand::Verify(ask)) => log::verify(&ask),
        Command::Log(LogCommand::Rerun { number, ask }) => log::rerun(number, &ask),
        Command::Attest(AttestCommand::Verify(arguments)) => attest_verify::run(&arguments),
        Command::Attest(AttestCommand::Explain(arguments)) => attest_explain::run(&arguments),
        Command::Endorsements(command) => endorsements::run(command).await,
        Command::Attest(AttestCommand::Reference(arguments)) => attest_reference::run(&arguments),
        Command::Attest(AttestCommand::Collect(arguments)) => attest_collect::run(&arguments),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the command line is the edge: here the present is read"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// A table for people: no borders, so that columns can be cut and copied.
fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    let lines: Vec<String> = table
        .to_string()
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    format!("{}\n", lines.join("\n"))
}

/// A time for people: RFC 3339 in UTC, whole seconds; `-` for none.
fn show_time(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "-".to_owned(), |time| time.to_string())
}

/// JSON for programs, on several lines with a line end.
fn json(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

const DEFAULT_DATA: &str = "/var/lib/vouchsafe";

/// What exit codes mean, below the list of commands; `deploy/README.md` has the same table.
const EXIT_CODES: &str = "\
Exit codes:
  0  it is as it should be, or it is done
  1  it was looked at and is not as it should be, or it was refused and nothing was changed
  2  the question has no answer: a wrong flag, a name that is not there, documents that can't be read
  3  it could not be done: no control plane answers, or a file can't be read or written";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_its_exit_codes_are_documented() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/README.md");
        let page = std::fs::read_to_string(page).unwrap();
        let codes = EXIT_CODES.lines().skip(1);
        for line in codes {
            let (code, meaning) = line.trim().split_once("  ").unwrap();
            let row = format!("| {code} | {meaning} |");
            assert!(page.contains(&row), "{row}");
        }
    }
}
