//! What a decision costs: with the rules of its door, with the rules of the mesh, and where nothing matches.

mod support;

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use criterion::Criterion;
use vouchsafe_attestation::peer::{PeerRole, verify_peer};
use vouchsafe_config::policy::{Context, Decision, Direction, Policy, Request, authorize};
use vouchsafe_config::set::PolicySet;

/// Rules of the measured door and of all others together.
const SIZES: [(usize, usize); 4] = [(10, 0), (10, 1_000), (10, 10_000), (1_000, 0)];

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let made = support::certified(true)?;
    let peer = verify_peer(&made.chain, &made.bundle, PeerRole::Client, support::now())?;
    let (local, port) = ("bench/server".parse()?, "api".parse()?);
    let mut group = criterion.benchmark_group("authorize");
    // Compiling the largest policy is not what is measured.
    group.warm_up_time(Duration::from_millis(500));
    for (door, others) in SIZES {
        let policy = compile(door, others)?;
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
                port: &port,
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
            group.bench_function(format!("{what}/{door}_of_{}", door + others), |bencher| {
                bencher.iter(|| authorize(black_box(&policy), black_box(&context)));
            });
        }
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// A door of `door` rules that demand claims, of which the last allows `/last`, among `others` rules of other doors.
fn compile(door: usize, others: usize) -> anyhow::Result<Policy> {
    let mut text = workload("client")?;
    text.push_str(&workload("server")?);
    for rule in 0..door - 1 {
        access(&mut text, "server", rule, &format!("/v{rule}/items/*"))?;
    }
    access(&mut text, "server", door - 1, "/last")?;
    for other in 0..others / 10 {
        let name = format!("other-{other}");
        text.push_str(&workload(&name)?);
        for rule in 0..10 {
            access(&mut text, &name, rule, &format!("/v{rule}/items/*"))?;
        }
    }
    let documents = text.split_inclusive("---\n").map(|text| ("bench", text));
    let trust_domain = "bench.test".parse()?;
    PolicySet::compile_slice(&trust_domain, documents)
        .map_err(|problems| anyhow::anyhow!("{problems}"))
        .context("the policy of the bench has mistakes")
}

fn workload(name: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    write!(
        text,
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n  \
         profile: any\n  members: {{nodes: [node]}}\n  ports: [{{name: api, port: 8000, protocol: http}}]\n---\n"
    )?;
    Ok(text)
}

fn access(text: &mut String, workload: &str, rule: usize, path: &str) -> anyhow::Result<()> {
    write!(
        text,
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {workload}-{rule}, namespace: bench}}\n\
         spec:\n  to: {{workload: {workload}, port: api}}\n  from: [{{workload: client}}]\n  \
         client: {{attested_within: 20m, require: {{tpm: {{image: [llm-11, llm-12]}}}}}}\n  \
         allow: [{{methods: [GET], paths: [\"{path}\"]}}]\n---\n"
    )?;
    Ok(())
}
