//! Replays the fuzz targets' corpora, so that stable compilers check them too.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of a test, outside its functions"
)]

#[path = "../fuzz/src/lib.rs"]
#[expect(
    unreachable_pub,
    clippy::expect_used,
    reason = "a module of the fuzz crate, which exports and asserts"
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

use vouchsafe_attestation::connection_proof::ConnectionProof;
use vouchsafe_attestation::result::AttestationResult;
use vouchsafe_attestation::svid::Leaf;

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
fn the_corpus_of_attestation_result_is_handled() {
    replay("attestation_result", targets::attestation_result);
}

/// A seed of an older form is refused at its first byte that changed, and leads a fuzzer nowhere.
#[test]
fn seeds_are_of_the_form_that_is_read() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for seed in ["tpm", "with-promise", "set"] {
        let der = std::fs::read(corpus.join("attestation_result").join(seed)).unwrap();
        let result = AttestationResult::decode(&der).unwrap();
        assert_eq!(result.encode().unwrap(), der, "{seed}");
    }
    let proof = std::fs::read(corpus.join("connection_proof/ecdsa")).unwrap();
    assert!(ConnectionProof::parse(&proof).is_ok());
    let leaf = std::fs::read(corpus.join("leaf/workload")).unwrap();
    assert!(Leaf::parse(&leaf).is_ok());
}

#[test]
fn the_corpus_of_leaf_is_handled() {
    replay("leaf", targets::leaf);
}

#[test]
fn the_corpus_of_spiffe_id_is_handled() {
    replay("spiffe_id", targets::spiffe_id);
}

#[test]
fn the_corpus_of_connection_proof_is_handled() {
    replay("connection_proof", targets::connection_proof);
}

/// Changed inputs of each corpus: seconds for all of them.
const MUTANTS: u64 = 4_000;
