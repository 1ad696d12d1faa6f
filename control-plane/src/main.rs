//! `vouchsafe`: the control plane and the operator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    vouchsafe_control_plane::cli::main()
}
