//! One measured window: what is counted between its start and its end, and the CPU time that others spent meanwhile.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tokio::sync::Notify;

use crate::Load;
use crate::histogram::Histogram;

/// What the tasks of a run share. Nothing is held over an await.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Nanoseconds per unit of work; its total is the number of units.
    pub(crate) latency: Histogram,
    /// Bytes of payload, for bulk.
    pub(crate) bytes: u64,
    /// Units that failed.
    pub(crate) errors: u64,
    /// The first failure, for people.
    pub(crate) first_error: Option<String>,
    /// Units that nobody has begun, where their number is fixed.
    left: Option<u64>,
    /// Units under way that were claimed.
    pending: u64,
    finished: Rc<Notify>,
}

pub(crate) type SharedTally = Rc<RefCell<Tally>>;

impl Tally {
    pub(crate) fn new(load: &Load) -> SharedTally {
        Rc::new(RefCell::new(Self {
            latency: Histogram::new(),
            bytes: 0,
            errors: 0,
            first_error: None,
            left: load.count,
            pending: 0,
            finished: Rc::default(),
        }))
    }

    /// Begins a unit of work; `false` when there is none left.
    pub(crate) fn claim(&mut self) -> bool {
        self.claim_up_to(1) == 1
    }

    /// Begins up to `units` of work.
    pub(crate) fn claim_up_to(&mut self, units: u64) -> u64 {
        let taken = match &mut self.left {
            None => units,
            Some(left) => {
                let taken = units.min(*left);
                *left -= taken;
                taken
            }
        };
        self.pending += taken;
        taken
    }

    /// Notes that units ended, well or not.
    pub(crate) fn settle(&mut self, units: u64) {
        self.pending = self.pending.saturating_sub(units);
        if self.pending == 0 && self.left == Some(0) {
            self.finished.notify_one();
        }
    }

    /// Notes that a unit that was begun at `started` ended well.
    pub(crate) fn record(&mut self, started: Instant) {
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latency.record(nanoseconds);
        self.settle(1);
    }

    pub(crate) fn fail(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
        self.settle(1);
    }
}

/// Waits for the warm-up, then counts for the load's seconds, and reports. The tasks that fill `tally` run already.
pub(crate) async fn window(load: &Load, tally: &SharedTally) -> anyhow::Result<serde_json::Value> {
    let counts = load.count.is_some();
    if !counts {
        tokio::time::sleep(load.warmup).await;
        let mut tally = tally.borrow_mut();
        tally.latency.clear();
        tally.bytes = 0;
    }
    let cpu_before = cpu_times(&load.pids)?;
    let started = Instant::now();
    if counts {
        let finished = Rc::clone(&tally.borrow().finished);
        tokio::time::timeout(LONGEST_COUNT, finished.notified())
            .await
            .context("counting took too long")?;
    } else {
        tokio::time::sleep(load.seconds).await;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let cpu_after = cpu_times(&load.pids)?;
    let tally = tally.borrow();
    let cpu: Vec<f64> = cpu_before
        .iter()
        .zip(&cpu_after)
        .map(|(before, after)| after.saturating_sub(*before).as_secs_f64())
        .collect();
    let count = tally.latency.total();
    #[expect(clippy::cast_precision_loss, reason = "a report needs no 53 bits")]
    let rate = count as f64 / elapsed;
    Ok(json!({
        "count": count,
        "bytes": tally.bytes,
        "errors": tally.errors,
        "first_error": tally.first_error,
        "seconds": elapsed,
        "rate": rate,
        "cpu_seconds": cpu,
        "latency_us": tally.latency.to_json(),
    }))
}

/// User and system time of each process, all threads together, ended ones too.
fn cpu_times(pids: &[u32]) -> anyhow::Result<Vec<Duration>> {
    pids.iter().map(|pid| cpu_time(*pid)).collect()
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)), in ticks of 10 ms. The kernel scales them to the exact
/// run time of the scheduler, so they don't sample; only the last tick is rounded.
fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("process {pid} has ended"))?;
    // The second field is the command in parentheses, which may itself hold spaces and parentheses.
    let (_, rest) = text.rsplit_once(')').context("malformed stat")?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = 0;
    for _ in 0..2 {
        ticks += fields.next().context("short stat")?.parse::<u64>()?;
    }
    Ok(Duration::from_millis(
        ticks * 1000 / rustix::param::clock_ticks_per_second(),
    ))
}

/// Under an instrument that makes everything fifty times slower a count still ends long before.
const LONGEST_COUNT: Duration = Duration::from_secs(300);
