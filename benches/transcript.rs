//! The binding transcript: what both ends of an attestation hash before any device signs.

use std::hint::black_box;

use criterion::Criterion;
use vouchsafe_attestation::binding::{EvidenceDigest, Nonce, Purpose, Role, Transcript};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::revision::Revision;

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let (trust_domain, workload) = ("bench.test".parse()?, "bench/client".parse()?);
    let transcript = Transcript {
        purpose: Purpose::Enroll,
        role: Role::Attester,
        trust_domain: &trust_domain,
        workload: &workload,
        client_nonce: Nonce([1; 32]),
        server_nonce: Nonce([2; 32]),
        spki_sha256: [3; 32],
        server_leaf_sha256: [4; 32],
        exporter: [5; 32],
        ek_name: &[6; 34],
        ak_name: &[7; 34],
        policy_revision: Revision {
            epoch: 1,
            sequence: 42,
        },
    };
    criterion.bench_function("transcript/base", |bencher| {
        bencher.iter(|| black_box(&transcript).base());
    });
    let base = transcript.base();
    let prior = EvidenceDigest::empty();
    criterion.bench_function("transcript/device", |bencher| {
        bencher.iter(|| black_box(&base).device(EvidenceKind::Tpm, 0, &prior));
    });
    criterion.final_summary();
    Ok(())
}
