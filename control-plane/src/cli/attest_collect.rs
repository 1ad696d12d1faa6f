//! `vouchsafe attest collect`: runs the sidecar's `collect`, which speaks to devices and which this crate can't import.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Outcome;

/// Handed on to `vouchsafe-proxy collect`, whose `--help` says what there is.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Arguments {
    /// As `vouchsafe-proxy collect` takes them: `--out DIR`, `--nonce`, `--tpm`, `--nvidia-library`, `--node NAME`, …
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENTS"
    )]
    rest: Vec<OsString>,
}

/// Runs the sidecar's command with our standard streams.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let sidecar = sidecar();
    let mut command = Command::new(&sidecar);
    match command.arg("collect").args(&arguments.rest).status() {
        Ok(status) => Outcome {
            status: status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(FAILED),
            ..Outcome::default()
        },
        Err(error) => Outcome::failed(format!(
            "failed to run `{}`: {error}; evidence is collected by the sidecar, which must be installed where the \
             hardware is",
            sidecar.display()
        )),
    }
}

/// The sidecar beside this program, as both are installed together; else the one on the path.
fn sidecar() -> PathBuf {
    let here = std::env::current_exe().ok();
    let beside = here
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| folder.join(SIDECAR));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| SIDECAR.into())
}

const SIDECAR: &str = "vouchsafe-proxy";
/// Ended by a signal.
const FAILED: u8 = 3;
