//! Evidence of real machines, and what the verifier says of it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vouchsafe_verifier::dossier::{Dossier, Expected, File, Kind, Rules, verify};
use vouchsafe_verifier::judgement::{Judgement, Outcome};

/// A file of the verifier's test data.
#[track_caller]
pub fn vector(path: &str) -> Vec<u8> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../control-plane/verifier/testdata"
    );
    let path = PathBuf::from(folder).join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Judges files that were collected beside endorsements of the test data.
pub fn judge(
    kind: Kind,
    files: &[(&str, &[u8])],
    expected: Expected,
    unix_seconds: u64,
) -> Judgement {
    let files: Vec<File<'_>> = files
        .iter()
        .map(|(name, bytes)| File { name, bytes })
        .collect();
    let dossier = Dossier {
        files: &files,
        endorsements: &[],
    };
    let now: SystemTime = UNIX_EPOCH + Duration::from_secs(unix_seconds);
    verify(kind, dossier, &expected, &Rules::default(), now)
}

/// The outcome of one check.
#[track_caller]
pub fn outcome(judgement: &Judgement, check: &str) -> Outcome {
    let mut checks = judgement.checks.iter();
    let found = checks.find(|finding| finding.name == check);
    found
        .unwrap_or_else(|| panic!("no check `{check}` in {judgement:#?}"))
        .outcome
}
