//! What it costs to judge a TPM's evidence: a cloud machine's attestation with three quotes and its log, the log alone, and
//! a measurement list.

use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use criterion::{Criterion, Throughput};
use vouchsafe_verifier::dossier::{self, Dossier, File, Kind, Rules};
use vouchsafe_verifier::evidence::tpm::event_log::EventLog;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::ima::{self, Checkpoint};

const ATTESTATION: &[u8] =
    include_bytes!("../control-plane/verifier/testdata/tpm/gce-cos85-nonce9009.pb");
const LOG: &[u8] = include_bytes!("../control-plane/verifier/testdata/tpm/eventlog-rhel8-uefi.bin");
const LIST: &str = include_str!("../control-plane/verifier/testdata/tpm/ima-ascii-big.log");

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let files = [File {
        name: "attestation.pb",
        bytes: ATTESTATION,
    }];
    let dossier = Dossier {
        files: &files,
        endorsements: &[],
    };
    let (rules, now) = (
        Rules::default(),
        UNIX_EPOCH + Duration::from_secs(1_767_225_600),
    );
    criterion.bench_function("tpm/attestation", |bencher| {
        bencher.iter(|| dossier::inspect(Kind::Tpm, black_box(dossier), &rules, now));
    });
    criterion.bench_function("tpm/event_log", |bencher| {
        bencher.iter(|| {
            let log = EventLog::parse(black_box(LOG));
            log.map(|log| {
                (0..8).for_each(|pcr| drop(black_box(log.replay(HashAlgorithm::Sha256, pcr))))
            })
        });
    });
    let entries = ima::parse_text(LIST)?;
    let mut group = criterion.benchmark_group("tpm");
    group.throughput(Throughput::Elements(u64::try_from(entries.len())?));
    group.bench_function("ima_entries", |bencher| {
        bencher.iter(|| Checkpoint::start(HashAlgorithm::Sha256).replay(black_box(&entries)));
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}
