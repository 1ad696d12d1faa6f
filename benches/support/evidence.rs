//! Judging evidence of real machines, each kind so many times.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use vouchsafe_verifier::dossier::{Dossier, File, Kind, Rules, inspect};
use vouchsafe_verifier::judgement::Status;

/// Name, kind, files or a folder of them, what a file's name must not begin with, time in seconds of Unix time.
const CASES: &[(&str, Kind, &str, &str, u64)] = &[
    (
        "evidence_sev_snp",
        Kind::SevSnp,
        "snp/milan-v2-vcek",
        "case",
        1_748_736_000,
    ),
    (
        "evidence_tdx",
        Kind::Tdx,
        "tdx/v4-uptodate-dstack",
        "case",
        1_751_328_000,
    ),
    (
        "evidence_tdx_event_log",
        Kind::Tdx,
        "tdx/v4-gcp-padded-8000",
        "case",
        1_752_105_600,
    ),
    (
        "evidence_az_snp_vtpm",
        Kind::AzSnpVtpm,
        "az-snp-vtpm/milan-v1",
        "case",
        1_748_736_000,
    ),
    (
        "evidence_nitro",
        Kind::Nitro,
        "nitro/prod-dstack-1",
        "case",
        1_766_669_400,
    ),
    (
        "evidence_nvidia_gpu",
        Kind::NvidiaGpu,
        "nvidia/hopper-550.90.07-full",
        "ocsp",
        1_761_307_200,
    ),
    (
        "evidence_nvidia_gpu_ocsp",
        Kind::NvidiaGpu,
        "nvidia/hopper-550.90.07-full",
        "case",
        1_761_307_200,
    ),
    (
        "evidence_tpm",
        Kind::Tpm,
        "tpm/gce-cos85-nonce9009.pb",
        "case",
        1_767_225_600,
    ),
];

/// Judges the case so many times; each time it must be affirmed, since a refusal may be cheaper.
pub(crate) fn judge(case: &str, times: u64) -> anyhow::Result<()> {
    let (_, kind, path, not, at) = { CASES.iter() }
        .find(|(name, ..)| *name == case)
        .with_context(|| format!("no evidence is called `{case}`"))?;
    let held = load(path, not)?;
    let files: Vec<_> = { held.iter() }
        .map(|(name, bytes)| File { name, bytes })
        .collect();
    let dossier = Dossier {
        files: &files,
        endorsements: &[],
    };
    let (rules, now) = (Rules::default(), UNIX_EPOCH + Duration::from_secs(*at));
    for _ in 0..times {
        let glance = inspect(*kind, black_box(dossier), &rules, now);
        let found = black_box(glance.judgement());
        ensure!(
            found.status == Status::Affirming,
            "{case}: {}",
            found.reason
        );
    }
    Ok(())
}

fn load(path: &str, not: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../control-plane/verifier/testdata")
        .join(path);
    let paths = match path.is_dir() {
        true => { std::fs::read_dir(&path)? }
            .map(|entry| Ok(entry?.path()))
            .collect::<anyhow::Result<Vec<_>>>()?,
        false => vec![path],
    };
    let mut files = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(not) {
            files.push((name.into_owned(), std::fs::read(&path)?));
        }
    }
    files.sort();
    Ok(files)
}
