//! Replays the fuzz targets' corpora, so that stable compilers check them too.

#[path = "../fuzz/src/lib.rs"]
#[expect(
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "a module of the fuzz crate, which exports and asserts"
)]
mod targets;

#[path = "../../tests/src/mutation.rs"]
#[expect(
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a module of the test harness, which exports and tells"
)]
mod mutation;

use std::path::Path;

#[test]
fn the_corpus_of_log_line_is_handled() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/log_line");
    let paths = std::fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = paths.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs: Vec<_> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    for whole in &inputs {
        let text = std::str::from_utf8(whole).unwrap();
        let read = vouchsafe_control_plane::cli::log_line::read_line(text);
        assert!(
            read.is_ok(),
            "a seed that is not read leads nowhere: {read:?}"
        );
        targets::log_line(whole);
        // And what a cut or a flipped byte makes of it.
        for at in 0..whole.len() {
            targets::log_line(&whole[..at]);
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            targets::log_line(&flipped);
            flipped[at] = b'*';
            targets::log_line(&flipped);
        }
    }
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    mutation::mutate(&inputs, MUTANTS, targets::log_line);
}

/// Changed inputs: a second for all of them.
const MUTANTS: u64 = 20_000;
