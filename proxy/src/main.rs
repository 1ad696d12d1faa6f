//! `vouchsafe-proxy`: the sidecar's command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use vouchsafe_config::load;
use vouchsafe_config::problem::Problem;
use vouchsafe_proxy::{app, collect, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Vouchsafe sidecar: attested mutual TLS and policy in front of one workload.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Option<Configuration>,
}

#[derive(Subcommand)]
enum Command {
    /// Reports every mistake of a configuration and starts nothing.
    Check(Configuration),
    /// Writes what this machine can prove into a folder, and prints a `Node` for it.
    Collect(Box<collect::Arguments>),
}

#[derive(Args)]
struct Configuration {
    /// The sidecar's bootstrap file.
    #[arg(long, value_name = "proxy.yaml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    // Huge pages make a sidecar that needs 2 MiB of heap hold 16; where the kernel can't be asked, it only costs memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let arguments = Arguments::parse();
    let (configuration, only_check) = match (arguments.command, arguments.run) {
        (Some(Command::Check(configuration)), _) => (configuration, true),
        (Some(Command::Collect(wanted)), _) => {
            let collected = collect::run(&wanted);
            return collected.map_or_else(
                |error| say(format_args!("error: {}", telemetry::Chain(&error)), 1),
                |()| ExitCode::SUCCESS,
            );
        }
        (None, Some(configuration)) => (configuration, false),
        (None, None) => return say("nothing to do: give `--config proxy.yaml`", CONFIGURATION),
    };
    let (config, warnings) = match load::proxy(&configuration.config) {
        Ok(loaded) => loaded,
        Err(problems) => return say(problems, CONFIGURATION),
    };
    warnings.iter().for_each(warn);
    if only_check {
        return say(
            format_args!("{} is right", configuration.config.display()),
            0,
        );
    }
    match app::run(config, telemetry::start_log()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = telemetry::Chain(&error).to_string();
            tracing::error!(error, "the sidecar ended");
            ExitCode::FAILURE
        }
    }
}

fn warn(warning: &Problem) {
    say(warning, 0);
}

/// Speaks to the person at the terminal; the log begins only when the sidecar does.
fn say(message: impl std::fmt::Display, code: u8) -> ExitCode {
    // Nobody is left to tell when standard error is closed.
    let _closed = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(code)
}

/// The configuration can't be used: another code than a sidecar that failed to run.
const CONFIGURATION: u8 = 2;
