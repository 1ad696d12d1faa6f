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
//! - *less*: affirmed, with fewer claims or passed checks than the unchanged file and none of another value: what a log
//!   says beside its digests, or a field that holds something else and is left out, proves nothing any more.
//! - *other*: affirmed, and claiming something else. Never may happen; the exit status is then 1.
//!
//! What a TPM's key may do beside signing quotes is its maker's to say, and the certificate of a machine is of its key
//! alone: the claim `ak_name`, which such bits change, is not compared. Nor is `trailing`, which counts the zeros with
//! which a platform padded a quote.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program for developers, over files that are there"
)]

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
    other: Mutex<Vec<String>>,
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
                other: Mutex::default(),
            });
        }
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
        } else if says_less(&judgement, &self.original) {
            2
        } else {
            let what = format!("{}: {}", what(), judgement.reason);
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
        for other in self.other.lock().unwrap().iter() {
            println!("  OTHER {other}");
        }
        other > 0
    }
}

/// Whether all that a judgement claims and passed, the other does too.
fn says_less(judgement: &Judgement, whole: &Judgement) -> bool {
    let is_passed = |judgement: &Judgement, name: &str| {
        let checks = judgement.checks.iter();
        checks
            .filter(|check| check.name == name)
            .all(|check| check.outcome == Outcome::Passed)
    };
    let passed = judgement
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Passed);
    let mut claims = judgement
        .claims
        .iter()
        .filter(|(name, _)| **name != "ak_name");
    claims.all(|(name, value)| whole.claims.get(name) == Some(value))
        && passed.into_iter().all(|check| is_passed(whole, check.name))
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
