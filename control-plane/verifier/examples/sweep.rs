//! Every truncation and every bit flip of every vector: none may be affirmed, and none may panic.
//!
//! The suite sweeps a part of this on each run (`tests/vectors/sweeps.rs`); this takes all of it, which takes hours of
//! one core, so a person runs it: `./tests/sweep` (its `--help` says how to take a part).
//!
//! Each file of each case is cut to every length, and each bit of each byte is flipped alone, the other files of the case
//! unchanged. What comes of it is one of:
//!
//! - *refused*: not affirmed. What must happen.
//! - *same*: affirmed, and the judgement is the unchanged file's to the last check and claim: the byte is read by nobody
//!   or means the same otherwise written. Such bytes are listed, with what stands there.
//! - *less*: affirmed, with fewer claims or passed checks than the unchanged file and none of another value, and
//!   [`EXPLAINED`] says why each that is gone may be gone: it was shown beside what is signed, or is counted only.
//! - *other*: affirmed, and claiming something else, or lacking what nobody explained. Never may happen; the exit status
//!   is then 1.
//!
//! A negative case that a change turns into the good one it was made from is that one.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program for developers, over files that are there"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use vouchsafe_verifier::dossier::{self, Dossier, File, Kind, Rules};
use vouchsafe_verifier::judgement::{Judgement, Outcome, Status};

/// Folder, kind, and files of other cases beside each case's own.
const FOLDERS: &[(&str, Kind, &[&str])] = &[
    ("snp", Kind::SevSnp, &[]),
    ("sgx", Kind::Sgx, &[]),
    ("nitro", Kind::Nitro, &[]),
    ("az-snp-vtpm", Kind::AzSnpVtpm, &[]),
    (
        "az-tdx-vtpm",
        Kind::AzTdxVtpm,
        &["tdx/v4-gcp-padded-8000/collateral.json"],
    ),
    ("tpm", Kind::Tpm, &[]),
    ("ccel", Kind::Tpm, &[]),
    ("nvidia", Kind::NvidiaGpu, &[]),
    ("tdx", Kind::Tdx, &[]),
];

/// What may change or go while a file is still affirmed, and why: claims, checks that are no longer made, and checks
/// that found something else to pass.
const EXPLAINED: &[(&str, &str)] = &[
    (
        "detail trailing",
        "zeros with which a platform pads a quote are counted, and may be fewer",
    ),
    (
        "claim ak_name",
        "what a key may do beside signing quotes is its maker's to say, and part of its name",
    ),
    (
        "detail ak_attributes",
        "what a key may do beside signing quotes is its maker's to say, and part of its name",
    ),
    (
        "detail ak_certified",
        "who certified a key is shown, and counts where an authority is pinned",
    ),
    (
        "no claim secure_boot",
        "what stands beside its digest in a log proves nothing once it was changed",
    ),
    (
        "no check event_log",
        "a log that is cut to almost nothing is none any more, and a profile that demands one refuses",
    ),
    (
        "no check event_log_replay",
        "a log that is cut to almost nothing is none any more, and a profile that demands one refuses",
    ),
    (
        "detail files",
        "a log that is cut to almost nothing is none any more, and a profile that demands one refuses",
    ),
    (
        "no claim pcrs",
        "names of JSON fields are signed by nobody: values under another name are not shown, and an image that names any refuses",
    ),
    (
        "detail pcrs",
        "names of JSON fields are signed by nobody: values under another name are not shown, and an image that names any refuses",
    ),
    (
        "no check pcr_values",
        "names of JSON fields are signed by nobody: values under another name are not shown, and an image that names any refuses",
    ),
    (
        "no check pcr_selection",
        "names of JSON fields are signed by nobody: values under another name are not shown, and an image that names any refuses",
    ),
    (
        "no check pcr_digest",
        "names of JSON fields are signed by nobody: values under another name are not shown, and an image that names any refuses",
    ),
    (
        "detail event_log",
        "names of JSON fields are signed by nobody: values under another name are not shown, and an image that names any refuses",
    ),
];

/// Vectors of TPMs lie as single files; they, and cases that say no time, are judged then.
const NOW: &str = "2026-01-01T00:00:00Z";

type Held = (String, Vec<u8>);

/// One file of one case.
struct Sweep {
    kind: Kind,
    name: String,
    files: Vec<Held>,
    swept: usize,
    now: SystemTime,
    original: Judgement,
    counts: [AtomicUsize; 4],
    /// Places where a change makes no difference, and differences that must not be.
    same: Mutex<Vec<(usize, bool)>>,
    less: Mutex<BTreeMap<String, usize>>,
    other: Mutex<Vec<String>>,
    /// The files of the same name of other cases, which may be those that this one was made from.
    good: Vec<Vec<u8>>,
}

fn main() -> ExitCode {
    let mut only = Vec::new();
    let (mut step, mut bits, mut threads) = (1, 8, 0);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(1);
        match word.as_str() {
            "--step" => step = number(),
            "--bits" => bits = number(),
            "--threads" => threads = number(),
            _ => only.push(word),
        }
    }
    if threads == 0 {
        threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    }
    let mut failed = false;
    let (started, mut total) = (Instant::now(), [0; 4]);
    for (folder, kind, beside) in FOLDERS {
        for sweep in sweeps(folder, *kind, beside) {
            if only.is_empty() || only.iter().any(|part| sweep.name.contains(part)) {
                sweep.run(step, bits, threads);
                failed |= sweep.report();
                for (sum, count) in total.iter_mut().zip(&sweep.counts) {
                    *sum += count.load(Ordering::Relaxed);
                }
            }
        }
    }
    let [refused, same, less, other] = total;
    let seconds = started.elapsed().as_secs();
    println!("total: {refused} refused, {same} same, {less} less, {other} other, in {seconds} s");
    ExitCode::from(u8::from(failed))
}

fn sweeps(folder: &str, kind: Kind, beside: &[&str]) -> Vec<Sweep> {
    let beside: Vec<Held> = beside
        .iter()
        .map(|path| read(&testdata().join(path)))
        .collect();
    let inside = paths(&testdata().join(folder));
    let cases = inside.iter().map(|path| {
        let files: Vec<Held> = match path.is_dir() {
            true => paths(path).iter().map(|path| read(path)).collect(),
            false => vec![read(path)],
        };
        let name = path.file_name().unwrap().to_string_lossy();
        (format!("{folder}/{name}"), files)
    });
    let mut sweeps = Vec::new();
    for (case, mut files) in cases {
        let now = verify_at(&files).parse::<jiff::Timestamp>().unwrap().into();
        files.retain(|(name, _)| name != "case.json");
        files.extend(beside.iter().cloned());
        for swept in 0..files.len() {
            let name = match folder {
                "tpm" => case.clone(),
                _ => format!("{case}/{}", files[swept].0),
            };
            sweeps.push(Sweep {
                kind,
                name,
                original: judge(kind, &files, now),
                files: files.clone(),
                swept,
                now,
                counts: Default::default(),
                same: Mutex::default(),
                less: Mutex::default(),
                other: Mutex::default(),
                good: Vec::new(),
            });
        }
    }
    for at in 0..sweeps.len() {
        let name = sweeps[at].files[sweeps[at].swept].0.clone();
        let others = sweeps
            .iter()
            .enumerate()
            .filter(|(number, _)| *number != at);
        let others = others.map(|(_, other)| &other.files[other.swept]);
        let others = others.filter(|(other, _)| *other == name);
        sweeps[at].good = others.map(|(_, bytes)| bytes.clone()).collect();
    }
    sweeps
}

impl Sweep {
    fn run(&self, step: usize, bits: usize, threads: usize) {
        let length = self.files[self.swept].1.len();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut files = self.files.clone();
                    loop {
                        let place = next.fetch_add(step, Ordering::Relaxed);
                        if place >= length {
                            break;
                        }
                        self.cut(place, &mut files);
                        for bit in 0..bits {
                            // Fewer than eight: others at each place, so that all are met.
                            self.flip(place, (place + place / 8 + bit) % 8, &mut files);
                        }
                    }
                });
            }
        });
    }

    fn cut(&self, place: usize, files: &mut [Held]) {
        let whole = std::mem::take(&mut files[self.swept].1);
        files[self.swept].1 = whole[..place].to_vec();
        self.judge(files, place, true, || format!("cut to {place} bytes"));
        files[self.swept].1 = whole;
    }

    fn flip(&self, place: usize, bit: usize, files: &mut [Held]) {
        files[self.swept].1[place] ^= 1 << bit;
        self.judge(files, place, false, || {
            format!("bit {bit} of byte {place} flipped")
        });
        files[self.swept].1[place] ^= 1 << bit;
    }

    fn judge(&self, files: &[Held], place: usize, is_cut: bool, what: impl Fn() -> String) {
        let judgement = judge(self.kind, files, self.now);
        let sort = if judgement.status != Status::Affirming {
            0
        } else if judgement == self.original {
            self.same.lock().unwrap().push((place, is_cut));
            1
        } else if self.good.contains(&files[self.swept].1) {
            *self
                .less
                .lock()
                .unwrap()
                .entry("restored".to_owned())
                .or_default() += 1;
            2
        } else if let Some(lost) = explained(&judgement, &self.original) {
            *self.less.lock().unwrap().entry(lost).or_default() += 1;
            2
        } else {
            let found = differences(&judgement, &self.original).join(", ");
            let what = format!("{}: {}: {found}", what(), judgement.reason);
            self.other.lock().unwrap().push(what);
            3
        };
        self.counts[sort].fetch_add(1, Ordering::Relaxed);
    }

    /// Prints what came of it; whether something was affirmed that must not be.
    fn report(&self) -> bool {
        let [refused, same, less, other] = self
            .counts
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        let bytes = &self.files[self.swept].1;
        println!(
            "{}: {} bytes, unchanged {}; {refused} refused, {same} same, {less} less, {other} other",
            self.name,
            bytes.len(),
            self.original.reason
        );
        let mut places = self.same.lock().unwrap().clone();
        places.sort_unstable();
        for is_cut in [false, true] {
            let places = places
                .iter()
                .filter(|(_, cut)| *cut == is_cut)
                .map(|(place, _)| *place);
            let ranges = ranges(places);
            let what = if is_cut { "cuts" } else { "bytes" };
            for (from, to) in ranges.iter().take(SHOWN) {
                let around = &bytes[from.saturating_sub(12)..bytes.len().min(to + 13)];
                println!("  same {what} {from}..={to}: …{}…", around.escape_ascii());
            }
            if ranges.len() > SHOWN {
                println!("  and {} more ranges of such {what}", ranges.len() - SHOWN);
            }
        }
        for (lost, count) in self.less.lock().unwrap().iter() {
            println!("  less {count}: {lost}");
        }
        for other in self.other.lock().unwrap().iter() {
            println!("  OTHER {other}");
        }
        other > 0
    }
}

/// What is gone or another, if all of that is explained.
fn explained(judgement: &Judgement, whole: &Judgement) -> Option<String> {
    let found = differences(judgement, whole);
    let is_explained = |one: &String| EXPLAINED.iter().any(|(what, _)| what == one);
    (whole.status == Status::Affirming && found.iter().all(is_explained)).then(|| found.join(", "))
}

/// Claims that are gone or another, checks that were passed and are not, and those that found something else.
fn differences(judgement: &Judgement, whole: &Judgement) -> Vec<String> {
    let mut found = BTreeSet::new();
    let claims = judgement.claims.keys().chain(whole.claims.keys());
    for name in claims {
        match (judgement.claims.get(name), whole.claims.get(name)) {
            (Some(is), Some(was)) if is == was => {}
            (None, _) => drop(found.insert(format!("no claim {name}"))),
            (Some(_), _) => drop(found.insert(format!("claim {name}"))),
        }
    }
    let seen = |judgement: &Judgement, name: &str| -> Vec<(bool, String)> {
        let checks = judgement.checks.iter().filter(|check| check.name == name);
        checks
            .map(|check| (check.outcome == Outcome::Passed, check.detail.clone()))
            .collect()
    };
    for check in judgement.checks.iter().chain(&whole.checks) {
        let (is, was) = (seen(judgement, check.name), seen(whole, check.name));
        let passed = |seen: &[(bool, String)]| seen.iter().filter(|(passed, _)| *passed).count();
        if passed(&is) < passed(&was) {
            found.insert(format!("no check {}", check.name));
        } else if passed(&is) > passed(&was) {
            found.insert(format!("check {}", check.name));
        } else if is != was {
            found.insert(format!("detail {}", check.name));
        }
    }
    found.into_iter().collect()
}

fn ranges(places: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for place in places {
        match ranges.last_mut() {
            // A gap of a few bytes is of those flips that a text shows as something else.
            Some((_, to)) if place <= *to + 4 => *to = place,
            _ => ranges.push((place, place)),
        }
    }
    ranges
}

fn judge(kind: Kind, files: &[Held], now: SystemTime) -> Judgement {
    let files: Vec<_> = { files.iter() }
        .map(|(name, bytes)| File { name, bytes })
        .collect();
    let dossier = Dossier {
        files: &files,
        endorsements: &[],
    };
    let glance = dossier::inspect(kind, dossier, &Rules::default(), now);
    glance.judgement().clone()
}

fn verify_at(files: &[Held]) -> String {
    let case = files.iter().find(|(name, _)| name == "case.json");
    let case = case.map(|(_, bytes)| serde_json::from_slice::<serde_json::Value>(bytes).unwrap());
    case.and_then(|case| Some(case["verify_at"].as_str()?.to_owned()))
        .unwrap_or_else(|| NOW.to_owned())
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Held {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    (name, std::fs::read(path).unwrap())
}

/// Ranges that are printed of each file.
const SHOWN: usize = 12;
