//! What a decision costs: with the rules of its door, with the rules of the mesh, and where nothing matches.

#[path = "support/policy.rs"]
mod policy;
mod support;

use std::hint::black_box;
use std::time::Duration;

use anyhow::ensure;
use criterion::Criterion;
use policy::{Demands, Size};
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_config::policy::{Binding, Context, Decision, Direction, Request, authorize};

/// Rules of the measured door, of all others together, and revocations.
const SIZES: [(usize, usize, usize); 5] = [
    (10, 0, 0),
    (10, 1_000, 0),
    (10, 10_000, 0),
    (1_000, 0, 0),
    (10, 0, 1_000),
];

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let made = support::certified(true)?;
    let peer = verify_peer(&made.chain, &made.bundle, PeerRole::Client, support::now())?;
    let (local, port) = ("bench/server".parse()?, "api".parse()?);
    let mut group = criterion.benchmark_group("authorize");
    // Compiling the largest policy is not what is measured.
    group.warm_up_time(Duration::from_millis(500));
    let sizes = SIZES.map(|(door, others, revoked)| Size {
        door,
        others,
        revoked,
        demands: Demands::Claims,
    });
    let by_name = Size {
        demands: Demands::Name,
        ..Size::default()
    };
    for size in sizes.into_iter().chain([by_name]) {
        let policy = policy::compile(size)?;
        let of = match size.demands {
            Demands::Claims => format!("{}_of_{}", size.door, size.door + size.others),
            Demands::Name => format!("{}_by_name", size.door),
        };
        let of = match size.revoked {
            0 => of,
            revoked => format!("{of}_revoked_{revoked}"),
        };
        for (what, path, allowed) in [
            ("first", "/v0/items/7", true),
            ("last", "/last", true),
            ("denied", "/nowhere", false),
        ] {
            let request = Request {
                method: "GET",
                path,
                grpc: false,
            };
            let context = Context {
                direction: Direction::Inbound,
                local: &local,
                peer: &peer,
                binding: Binding::Certificate,
                port: &port,
                number: None,
                request: Some(&request),
                user: None,
                on_behalf_of: None,
                now: support::now(),
            };
            let decision = authorize(&policy, &context);
            ensure!(
                matches!(decision, Decision::Allow(_)) == allowed,
                "`{path}` was decided {decision:?}"
            );
            group.bench_function(format!("{what}/{of}"), |bencher| {
                bencher.iter(|| authorize(black_box(&policy), black_box(&context)));
            });
        }
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
