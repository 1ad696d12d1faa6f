//! A thousand sidecars against one control plane: how long a change takes, and what it costs.
//!
//! The control plane is the real program in a process of its own. The sidecars are the real code of attestation and
//! mesh state (`vouchsafe_proxy::svid`, `vouchsafe_proxy::mesh_state`) in this process, each with its own key,
//! certificate, TLS connection and stream; only their data paths are left out. With `--connections`, real sidecars in
//! processes of their own carry live connections through real doors, and the time to the last closed socket is taken.
//!
//! A change is written into the policy folder as an operator does; its clock starts when the control plane says that it
//! is in force (the line `policy changed` of its log). How long a folder takes to be noticed, read and compiled before is
//! a figure of its own.
//!
//! # Why
//! In `benches` and not in `tests`: it measures, and a figure that a busy machine makes worse must fail no build. What
//! must hold on any machine (every sidecar applies every change, no renewal is lost) is checked all the same; with
//! `--goal-ms` it fails where a change is slower than that, for a machine on which nothing else runs.

mod control_plane;
mod doors;
mod fleet;
mod policy;
mod storm;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};

use self::control_plane::{ControlPlane, Cpu};
use self::doors::Doors;
use self::fleet::Fleet;
use self::policy::{Change, Policy};
use self::watch::Applied;

/// Measures how mesh state reaches many sidecars.
#[derive(Debug, Parser)]
#[command(name = "vouchsafe-simulation", version)]
struct Cli {
    /// Sidecars in this process, each a workload of its own.
    #[arg(long, default_value_t = 1000)]
    sidecars: usize,
    /// Live connections through real doors; 0 leaves them out.
    #[arg(long, default_value_t = 0)]
    connections: usize,
    /// Real sidecars that accept these connections; one more opens them.
    #[arg(long, default_value_t = 10)]
    proxies: usize,
    /// Rules of the policy beside those that connect neighbours; nobody's concern.
    #[arg(long, default_value_t = 0)]
    more_rules: usize,
    /// Rules of a big policy: all at one door, and spread over all; 0 leaves these changes out.
    #[arg(long, default_value_t = 0)]
    rules: usize,
    /// Times that each change is made.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Fail where more than a hundredth of those whom a change concerns apply it later than this, or of the connections
    /// that it ends.
    #[arg(long)]
    goal_ms: Option<u32>,
    /// Folder of the programs `vouchsafe` and `vouchsafe-proxy`; by default that of this one.
    #[arg(long)]
    programs: Option<PathBuf>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let programs = match &cli.programs {
        Some(folder) => folder.clone(),
        None => {
            let own = std::env::current_exe().context("this program has no path")?;
            own.parent().context("it has no folder")?.to_owned()
        }
    };
    let applied = Applied::install()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(&cli, &programs, &applied))
}

async fn run(cli: &Cli, programs: &std::path::Path, applied: &Applied) -> Result<()> {
    let mut policy = Policy::new(cli.sidecars, cli.proxies, cli.more_rules);
    let control_plane = ControlPlane::start(programs, &policy.text()).await?;
    let empty_kib = control_plane.resident_kib()?;
    let fleet = Fleet::start(&control_plane, cli.sidecars).await?;
    control_plane.settled(cli.sidecars).await?;
    // A few heartbeats, so that what attesting left behind is given back.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let idle_kib = control_plane.resident_kib()?.saturating_sub(empty_kib);
    let idle = control_plane.cpu_over(IDLE).await?;
    let mut report = json!({
        "sidecars": cli.sidecars,
        "rules": policy.rules(),
        "load_average": load_average(),
        "control_plane": {
            "resident_kib_empty": empty_kib,
            "resident_kib_per_stream": per(idle_kib, cli.sidecars),
            "idle_cpu_ms_per_second": idle.control_plane.as_secs_f64() * 1_000.0 / IDLE.as_secs_f64(),
        },
    });
    let mut add = |name: &str, value: Value| {
        say(&format!("{name}: {value}"))?;
        if let Some(report) = report.as_object_mut() {
            report.insert(name.to_owned(), value);
        }
        anyhow::Ok(())
    };
    for change in Change::all(cli.rules) {
        let mut rounds = Vec::new();
        // More than three authorities beside the first are not prepared at once.
        let times = if change == Change::TrustBundle {
            cli.rounds.min(3)
        } else {
            cli.rounds
        };
        for round in 0..times {
            rounds.push(
                one_change(&control_plane, applied, &mut policy, (change, round), idle).await?,
            );
        }
        add(change.as_str(), watch::summary(&mut rounds))?;
    }
    if cli.connections > 0 {
        let mut doors = Doors::start(programs, &control_plane, cli.proxies).await?;
        for is_revoked in [true, false] {
            let mut delays = Vec::new();
            for round in 0..cli.rounds {
                let open = policy.plain();
                let shut = match is_revoked {
                    true => policy.revoke_caller(),
                    false => policy.shut_doors(round),
                };
                doors.open(cli.connections).await?;
                control_plane
                    .settled(cli.sidecars + cli.proxies + 1)
                    .await?;
                delays.push(doors.time_to_close(&control_plane, &shut).await?);
                control_plane.write_policy(&open).await?;
            }
            let name = match is_revoked {
                true => "sockets_closed",
                false => "sockets_closed_by_policy_for_all",
            };
            add(name, doors::summary(delays))?;
        }
    }
    let judged = storm::appraisals(&control_plane, &mut policy, cli.sidecars).await?;
    add("judged_again", judged)?;
    add(
        "renewed_at_once",
        storm::renewals(&control_plane, &fleet).await?,
    )?;
    drop(fleet);
    say(&serde_json::to_string_pretty(&report)?)?;
    let missed = cli
        .goal_ms
        .map_or_else(Vec::new, |goal| missed(&report, goal));
    ensure!(missed.is_empty(), "goal missed: {}", missed.join(", "));
    Ok(())
}

/// Changes that took longer than they may.
fn missed(report: &Value, goal_ms: u32) -> Vec<String> {
    let rows = report.as_object().into_iter().flatten();
    let slow = rows.filter_map(|(name, row)| {
        let p99 = row.get("p99_ms").and_then(Value::as_f64)?;
        (p99 > f64::from(goal_ms)).then(|| format!("{name} took {p99} ms of {goal_ms}"))
    });
    slow.collect()
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("nobody reads")
}

/// Makes a change, and waits until all have applied it.
async fn one_change(
    control_plane: &ControlPlane,
    applied: &Applied,
    policy: &mut Policy,
    (change, round): (Change, usize),
    idle: Cpu,
) -> Result<watch::Round> {
    applied.forget();
    let before = control_plane.cpu()?;
    let started = std::time::Instant::now();
    let commit = match change {
        Change::TrustBundle => control_plane.prepare_authority().await?,
        Change::RevocationOfOne => {
            let revoked = policy::sidecar(policy.revoked(round));
            let text = policy.revoke_serial(&control_plane.serial_of(&revoked)?);
            control_plane.write_policy(&text).await?
        }
        _ => {
            let text = policy.change(change, round);
            control_plane.write_policy(&text).await?
        }
    };
    let but = (change == Change::RevocationOfOne).then(|| policy.revoked(round));
    let times = applied.of(commit.sequence, policy.sidecars(), but).await?;
    let used = control_plane.cpu()?.since(before);
    let rest = idle.scaled(started.elapsed().as_secs_f64() / IDLE.as_secs_f64());
    let beyond = used.since(rest);
    let delay = |time: &SystemTime| time.duration_since(commit.time).unwrap_or_default();
    if but.is_some() {
        // It is trusted again before the next round.
        control_plane.write_policy(&policy.plain()).await?;
        control_plane.settled(policy.sidecars()).await?;
    }
    let concerned = match policy.concerned(change, round) {
        None => times.values().map(delay).collect(),
        Some(whom) => { whom.iter() }
            .filter_map(|number| times.get(number))
            .map(delay)
            .collect(),
    };
    let noticed = commit.written;
    Ok(watch::Round {
        concerned,
        noticed: noticed.map(|written| commit.time.duration_since(written).unwrap_or_default()),
        control_plane: beyond.control_plane,
        sidecars: beyond.sidecars,
    })
}

fn per(whole: u64, sidecars: usize) -> f64 {
    let sidecars = u32::try_from(sidecars).unwrap_or(u32::MAX);
    let whole = u32::try_from(whole).unwrap_or(u32::MAX);
    f64::from(whole) / f64::from(sidecars.max(1))
}

/// Who else was at work meanwhile.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// How long the control plane is watched at rest: two heartbeats.
const IDLE: Duration = Duration::from_secs(4);
