//! `vouchsafe`: the control plane and the operator's command line.

use std::process::ExitCode;

/// A connection's buffers are mostly empty. This one keeps sizes apart, so that what was never written to is no memory;
/// the C library's gives them what larger things left behind.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    vouchsafe_control_plane::cli::main()
}
