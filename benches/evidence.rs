//! What verifying evidence of each kind but NVIDIA's costs: vectors of real machines, with their endorsements, from files to judgement.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criterion::{Criterion, Throughput};
use vouchsafe_verifier::dossier::{Dossier, File, Kind, Rules, inspect};
use vouchsafe_verifier::judgement::Status;

/// Name, kind, case, time in seconds of Unix time.
const CASES: &[(&str, Kind, &str, u64)] = &[
    (
        "sev_snp_milan",
        Kind::SevSnp,
        "snp/milan-v2-vcek",
        1_748_736_000,
    ),
    (
        "sev_snp_turin",
        Kind::SevSnp,
        "snp/turin-v5-azure-aci",
        1_780_272_000,
    ),
    ("tdx", Kind::Tdx, "tdx/v4-uptodate-dstack", 1_751_328_000),
    (
        "tdx_event_log",
        Kind::Tdx,
        "tdx/v4-gcp-padded-8000",
        1_752_105_600,
    ),
    (
        "az_snp_vtpm",
        Kind::AzSnpVtpm,
        "az-snp-vtpm/milan-v1",
        1_748_736_000,
    ),
    ("nitro", Kind::Nitro, "nitro/prod-dstack-1", 1_766_669_400),
];

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("verify_evidence");
    group.throughput(Throughput::Elements(1));
    let rules = Rules::default();
    for (name, kind, case, at) in CASES {
        let held = load(case)?;
        let files: Vec<_> = { held.iter() }
            .map(|(name, bytes)| File { name, bytes })
            .collect();
        let dossier = Dossier {
            files: &files,
            endorsements: &[],
        };
        let now: SystemTime = UNIX_EPOCH + Duration::from_secs(*at);
        let judge = || inspect(*kind, black_box(dossier), &rules, now);
        // A refusal may be cheaper than what is measured, so it must not pass for a figure.
        let found = judge().judgement().clone();
        anyhow::ensure!(
            found.status == Status::Affirming,
            "{name}: {}",
            found.reason
        );
        group.bench_function(*name, |bencher| bencher.iter(judge));
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

fn load(case: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../control-plane/verifier/testdata")
        .join(case);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((name, std::fs::read(entry.path())?));
    }
    files.sort();
    Ok(files)
}
