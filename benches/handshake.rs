//! What verifying a peer adds to a handshake, with an attestation result in its certificate and without.

mod support;

use std::hint::black_box;

use criterion::Criterion;
use vouchsafe_attestation::peer::{PeerRole, verify_peer};

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("verify_peer");
    for (name, with_result) in [("unattested", false), ("attested", true)] {
        let made = support::certified(with_result)?;
        let verify = || {
            verify_peer(
                black_box(&made.chain),
                &made.bundle,
                PeerRole::Client,
                support::now(),
            )
        };
        // A refusal may be cheaper than what is measured, so it must not pass for a figure.
        verify()?;
        group.bench_function(name, |bencher| bencher.iter(verify));
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
