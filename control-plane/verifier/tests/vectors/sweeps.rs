//! Every vector of SEV-SNP, TDX, SGX, Nitro and Azure, with each file cut and flipped.
//!
//! A changed file must never be affirmed unless the judgement is the very one of the unchanged file, claims and checks
//! and all: letters of hex may change case, and members of JSON that nobody reads may say anything. Of bare evidence
//! (reports, quotes, documents, certificates) that a judgement needs, no byte may change at all.
//!
//! # What is swept
//! Bare files of cases that are affirmed: every length they can be cut to, and one bit of every byte, another in each
//! (of quotes of trust domains, every fifth).
//! Of texts (JSON, PEM), of what is larger than [`DENSE_BYTES`], and of cases that are refused unchanged, the same at
//! every n-th place, so that a file has about [`PLACES`] of them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use vouchsafe_verifier::dossier::Kind;
use vouchsafe_verifier::judgement::{Judgement, Status};

use crate::{at, load, testdata};

/// Folder, kind, and files of other cases beside each case's own.
type Folder = (&'static str, Kind, &'static [Beside]);
type Beside = (&'static str, &'static str);

const FOLDERS: &[Folder] = &[
    ("snp", Kind::SevSnp, &[]),
    ("tdx", Kind::Tdx, &[]),
    ("sgx", Kind::Sgx, &[]),
    ("nitro", Kind::Nitro, &[]),
    ("az-snp-vtpm", Kind::AzSnpVtpm, &[]),
    (
        "az-tdx-vtpm",
        Kind::AzTdxVtpm,
        &[("tdx/v4-gcp-padded-8000", "collateral.json")],
    ),
];

#[test]
fn no_cut_and_no_flip_of_a_sev_snp_vector_is_affirmed() {
    sweep_folder("snp");
}

#[test]
fn no_cut_and_no_flip_of_a_tdx_vector_is_affirmed() {
    sweep_folder("tdx");
}

#[test]
fn no_cut_and_no_flip_of_an_sgx_vector_is_affirmed() {
    sweep_folder("sgx");
}

#[test]
fn no_cut_and_no_flip_of_a_nitro_vector_is_affirmed() {
    sweep_folder("nitro");
}

#[test]
fn no_cut_and_no_flip_of_an_azure_vector_is_affirmed() {
    sweep_folder("az-snp-vtpm");
    sweep_folder("az-tdx-vtpm");
}

fn sweep_folder(folder: &str) {
    let (_, kind, beside) = *{ FOLDERS.iter() }
        .find(|(name, ..)| *name == folder)
        .unwrap();
    let mut cases: Vec<String> = std::fs::read_dir(testdata().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    cases.sort();
    // Some cases share files, which are swept once with each set of files beside them.
    let mut seen = BTreeSet::new();
    let mut sweeps = Vec::new();
    for case in cases {
        let case = format!("{folder}/{case}");
        let mut files = load(&case, &[]);
        let now = verify_at(&files);
        files.retain(|(name, _)| name != "case.json");
        for (other, name) in beside {
            files.extend(load(other, &[name]));
        }
        for swept in 0..files.len() {
            if seen.insert((swept, files.clone(), now.clone())) {
                sweeps.push(Sweep::new(kind, &case, files.clone(), swept, &now));
            }
        }
    }
    run(&sweeps);
}

/// When a case says that it is to be judged.
fn verify_at(files: &[(String, Vec<u8>)]) -> String {
    let (_, case) = files.iter().find(|(name, _)| name == "case.json").unwrap();
    let case: serde_json::Value = serde_json::from_slice(case).unwrap();
    case["verify_at"].as_str().unwrap().to_owned()
}

struct Sweep {
    kind: Kind,
    name: String,
    files: Vec<(String, Vec<u8>)>,
    swept: usize,
    now: SystemTime,
    original: Judgement,
    is_rigid: bool,
    places: Vec<usize>,
}

impl Sweep {
    fn new(kind: Kind, case: &str, files: Vec<(String, Vec<u8>)>, swept: usize, now: &str) -> Self {
        let name = format!("{case}/{}", files[swept].0);
        let whole = files[swept].1.clone();
        let original = judge(kind, &files, at(now));
        let rest: Vec<_> = [&files[..swept], &files[swept + 1..]].concat();
        let is_needed = judge(kind, &rest, at(now)).status != Status::Affirming;
        // Platforms pad quotes with zeros, which are no evidence.
        let zeros = whole.iter().rev().take_while(|byte| **byte == 0).count();
        let padding = if name.ends_with("quote.bin") {
            zeros
        } else {
            0
        };
        let end = whole.len() - padding;
        let is_bare = std::str::from_utf8(&whole).is_err();
        let is_affirmed = original.status == Status::Affirming;
        let step = match (is_bare && is_needed && is_affirmed, kind) {
            // Each quote takes ten signatures, and both that are affirmed have one layout.
            (true, Kind::Tdx) => 5,
            (true, _) if end <= DENSE_BYTES => 1,
            _ => end.div_ceil(PLACES),
        };
        Self {
            kind,
            name,
            swept,
            now: at(now),
            original,
            // An event log may go on after what its digests cover; the ACPI table beside one says nothing.
            is_rigid: is_bare && is_needed,
            places: (0..end).step_by(step).collect(),
            files,
        }
    }

    fn judge(&self, bytes: &[u8]) -> Judgement {
        let mut files = self.files.clone();
        files[self.swept].1 = bytes.to_vec();
        judge(self.kind, &files, self.now)
    }

    /// Cuts and flips at one place.
    fn check(&self, place: usize) {
        let whole = &self.files[self.swept].1;
        self.check_one(&whole[..place], &format!("cut to {place} bytes"));
        let mut flipped = whole.clone();
        let bit = (place * 5 + place / 8) % 8;
        flipped[place] ^= 1 << bit;
        self.check_one(&flipped, &format!("bit {bit} of byte {place} flipped"));
    }

    fn check_one(&self, bytes: &[u8], what: &str) {
        let judgement = self.judge(bytes);
        assert!(!judgement.checks.is_empty(), "{}: {what}", self.name);
        if judgement.status != Status::Affirming {
            return;
        }
        let is_same = judgement == self.original && !self.is_rigid;
        // That document is good without what follows it.
        let is_whole = self.name.starts_with("nitro/neg-trailing") && bytes.len() == 4527;
        assert!(
            is_same || is_whole,
            "{}: affirmed with {what}: {judgement:#?}",
            self.name
        );
    }
}

fn judge(kind: Kind, files: &[(String, Vec<u8>)], now: SystemTime) -> Judgement {
    crate::judge(kind, &crate::borrowed(files), now)
}

/// Shares all places of all sweeps between the cores.
fn run(sweeps: &[Sweep]) {
    let places: Vec<_> = { sweeps.iter() }
        .flat_map(|sweep| sweep.places.iter().map(move |place| (sweep, *place)))
        .collect();
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((sweep, place)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                    sweep.check(*place);
                }
            });
        }
    });
    assert!(next.load(Ordering::Relaxed) > places.len());
}

/// A report has 1184 bytes, quotes and documents about 5000.
const DENSE_BYTES: usize = 8 * 1024;
const PLACES: usize = 60;
