//! Replays the corpora of the fuzz targets, so that stable compilers check them too.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of a test, outside its functions"
)]

#[path = "../fuzz/src/lib.rs"]
#[expect(
    unreachable_pub,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the fuzz crate exports and asserts"
)]
mod targets;

#[path = "../../../tests/src/mutation.rs"]
#[expect(
    unreachable_pub,
    clippy::print_stderr,
    reason = "a module of the test harness, which exports and tells"
)]
mod mutation;

use std::path::Path;

#[track_caller]
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let paths = std::fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = paths.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs: Vec<_> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    for whole in &inputs {
        run(whole);
        // And what a cut or a flipped byte makes of it.
        for at in (0..whole.len()).step_by(1 + whole.len() / 512) {
            run(&whole[..at]);
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            run(&flipped);
        }
    }
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    mutation::mutate(&inputs, MUTANTS, run);
}

#[test]
fn header_blocks_are_handled_however_they_are_damaged() {
    replay("header_blocks", targets::header_blocks);
}

#[test]
fn a_clients_bytes_are_handled_however_they_are_damaged() {
    replay("server_connection", targets::server_connection);
}

#[test]
fn a_servers_bytes_are_handled_however_they_are_damaged() {
    replay("client_connection", targets::client_connection);
}

/// Changed inputs of each corpus: seconds for all of them.
const MUTANTS: u64 = 4_000;
