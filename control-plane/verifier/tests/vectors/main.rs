//! Evidence of real machines, and what must be said about it.
//!
//! `testdata/` holds the vectors; its README says where each comes from. One table per kind has a row per vector and
//! time; what is common to them is here.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod azure;
mod claims;
mod containers;
mod hostile;
mod nitro;
mod nvidia_gpu;
mod sev_snp;
mod sgx;
mod sweeps;
mod tdx;
mod tpm;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vouchsafe_verifier::dossier::{self, Dossier, File, Kind, Rules};
use vouchsafe_verifier::judgement::{Judgement, Status};

/// Case, files (all where empty), time, status, reason.
pub(crate) type Row = (
    &'static str,
    &'static [&'static str],
    &'static str,
    Status,
    &'static str,
);

pub(crate) fn check(kind: Kind, rows: &[Row]) {
    let mut wrong = Vec::new();
    for (case, files, now, status, reason) in rows {
        let files = load(case, files);
        let judgement = judge(kind, &borrowed(&files), at(now));
        if (judgement.status, judgement.reason) != (*status, *reason) {
            wrong.push(format!(
                "{case} at {now}: expected {status:?} {reason}, found {judgement:#?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

pub(crate) fn judge(kind: Kind, files: &[File<'_>], now: SystemTime) -> Judgement {
    let dossier = Dossier {
        files,
        endorsements: &[],
    };
    dossier::inspect(kind, dossier, &Rules::default(), now)
        .judgement()
        .clone()
}

/// Flips every `step`-th byte and cuts at every `step`-th length; each result must be a refusal.
#[track_caller]
pub(crate) fn sweep(kind: Kind, case: &str, name: &str, others: &[&str], now: &str, step: usize) {
    let names = [others, &[name]].concat();
    let whole = load(case, &names);
    let now = at(now);
    let with = |bytes: &[u8]| {
        let files: Vec<_> = whole
            .iter()
            .map(|(held, content)| File {
                name: held,
                bytes: if held == name { bytes } else { content },
            })
            .collect();
        judge(kind, &files, now)
    };
    let original = whole
        .iter()
        .find(|(held, _)| held == name)
        .unwrap()
        .1
        .clone();
    // Platforms pad quotes with zeros, which are no evidence; the quote itself may end with one.
    let padding = original
        .iter()
        .rev()
        .take_while(|byte| kind == Kind::Tdx && **byte == 0)
        .count();
    let original = original[..original.len() - padding.saturating_sub(1)].to_vec();
    assert_eq!(with(&original).status, Status::Affirming, "{case}");
    for index in (0..original.len()).step_by(step) {
        let mut flipped = original.clone();
        flipped[index] ^= 1 << (index % 8);
        assert_ne!(
            with(&flipped).status,
            Status::Affirming,
            "{case} {name}: byte {index} flipped"
        );
        assert_ne!(
            with(&original[..index]).status,
            Status::Affirming,
            "{case} {name}: cut at {index}"
        );
    }
    // Some collectors leave a byte after the report of a GPU.
    if kind == Kind::NvidiaGpu {
        return;
    }
    let longer = [original.as_slice(), &[1]].concat();
    assert_ne!(
        with(&longer).status,
        Status::Affirming,
        "{case} {name}: a byte appended"
    );
}

pub(crate) fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// The files of a case in order of name; all where none is named.
pub(crate) fn load(case: &str, names: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(testdata().join(case))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .filter(|(name, _)| names.is_empty() || names.contains(&name.as_str()))
        .collect();
    files.sort();
    files
}

pub(crate) fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<File<'_>> {
    files
        .iter()
        .map(|(name, bytes)| File { name, bytes })
        .collect()
}

pub(crate) fn at(time: &str) -> SystemTime {
    time.parse::<jiff::Timestamp>().unwrap().into()
}
