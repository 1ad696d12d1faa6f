//! Replays the corpora of the fuzz targets, so that stable compilers check them too.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of a test, outside its functions"
)]

#[path = "../fuzz/src/lib.rs"]
#[expect(
    unreachable_pub,
    clippy::expect_used,
    reason = "the fuzz crate exports and asserts"
)]
mod targets;

#[path = "../../tests/src/mutation.rs"]
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
fn reports_of_guests_are_handled_however_they_are_damaged() {
    replay("guest_report", targets::guest_report);
}

#[test]
fn reports_of_gpus_are_handled_however_they_are_damaged() {
    replay("gpu_report", targets::gpu_report);
}

#[test]
fn documents_of_enclaves_are_handled_however_they_are_damaged() {
    replay("enclave_document", targets::enclave_document);
}

#[test]
fn answers_of_the_metadata_service_are_handled_however_they_are_damaged() {
    replay("metadata_answer", targets::metadata_answer);
}

#[test]
fn reports_of_the_paravisor_are_handled_however_they_are_damaged() {
    replay("hcl_report", targets::hcl_report);
}

#[test]
fn messages_of_the_control_stream_are_handled_however_they_are_damaged() {
    replay("control_message", targets::control_message);
}

#[test]
fn changes_of_a_slice_lead_where_a_snapshot_of_it_leads() {
    replay("held_slice", targets::held_slice);
}

/// Changed inputs of each corpus: seconds for all of them.
const MUTANTS: u64 = 4_000;
