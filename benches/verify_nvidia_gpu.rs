//! What judging an NVIDIA device costs: files of real ones, from bytes to judgement, on one core.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use criterion::Criterion;
use vouchsafe_verifier::dossier::{Dossier, File, Kind, Rules, inspect};
use vouchsafe_verifier::judgement::Status;

const DEVICE: [&str; 2] = ["chain.pem", "report.bin"];
const MANIFESTS: [&str; 2] = ["driver-rim.xml", "vbios-rim.xml"];
const ANSWERS: [&str; 7] = [
    "ocsp-gpu_certificate_l2.b64",
    "ocsp-gpu_certificate_l3.b64",
    "ocsp-gpu_certificate_l4.b64",
    "ocsp-gpu_driver_rim_l3.b64",
    "ocsp-gpu_driver_rim_l4.b64",
    "ocsp-gpu_rim_l2.b64",
    "ocsp-gpu_vbios_l4.b64",
];

/// Case, folder, files, time, and the status that it must have.
type Row<'a> = (&'a str, &'a str, Vec<&'a str>, u64, Status);

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let hopper = "hopper-550.90.07-full";
    let whole = [DEVICE, MANIFESTS].concat();
    let with_answers = [whole.as_slice(), &ANSWERS].concat();
    let switch = [DEVICE.as_slice(), &MANIFESTS[1..]].concat();
    let (october, june) = (1_761_307_200, 1_780_272_000);
    let rows: [Row<'_>; 4] = [
        // Structure, chain and signature, without anything to compare with.
        ("report", hopper, DEVICE.to_vec(), october, Status::Warning),
        ("gpu", hopper, whole, october, Status::Affirming),
        ("gpu_ocsp", hopper, with_answers, october, Status::Affirming),
        ("switch", "switch-ls10", switch, june, Status::Affirming),
    ];
    for (name, folder, files, seconds, status) in rows {
        let held = load(folder, &files)?;
        let files: Vec<_> = held
            .iter()
            .map(|(name, bytes)| File { name, bytes })
            .collect();
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        let found = judge(&files, now);
        ensure!(found == status, "{name} is {found:?}");
        criterion.bench_function(&format!("verify_nvidia_gpu/{name}"), |bencher| {
            bencher.iter(|| judge(black_box(&files), now));
        });
    }
    criterion.final_summary();
    Ok(())
}

fn judge(files: &[File<'_>], now: SystemTime) -> Status {
    let dossier = Dossier {
        files,
        endorsements: &[],
    };
    let glance = inspect(Kind::NvidiaGpu, dossier, &Rules::default(), now);
    glance.judgement().status
}

fn load(folder: &str, names: &[&str]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../control-plane/verifier/testdata/nvidia")
        .join(folder);
    names
        .iter()
        .map(|name| {
            let bytes = std::fs::read(vectors.join(name)).with_context(|| format!("`{name}`"))?;
            Ok(((*name).to_owned(), bytes))
        })
        .collect()
}
