//! A periodic timer with the kernel's resolution. Tokio's own rounds up to milliseconds, a multiple of what is measured.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Fires once per period.
#[derive(Debug)]
pub(crate) struct Ticker {
    timer: AsyncFd<OwnedFd>,
}

impl Ticker {
    /// Starts now; the first tick is one period ahead.
    pub(crate) fn start(period: Duration) -> anyhow::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .context("failed to make a timer")?;
        let period = Timespec {
            tv_sec: i64::try_from(period.as_secs())?,
            tv_nsec: i64::from(period.subsec_nanos()),
        };
        let spec = Itimerspec {
            it_interval: period,
            it_value: period,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec)
            .context("failed to start a timer")?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for descriptors that others may close; this one is owned"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer })
    }

    /// Waits for at least one tick and says how many passed since the last call.
    pub(crate) async fn ticks(&mut self) -> anyhow::Result<u64> {
        loop {
            let mut ready = self.timer.readable().await?;
            let mut count = [0; 8];
            match ready.try_io(|timer| Ok(rustix::io::read(timer, &mut count)?)) {
                Ok(read) => {
                    read?;
                    return Ok(u64::from_ne_bytes(count));
                }
                Err(_would_block) => {}
            }
        }
    }
}

/// Nanoseconds of the monotonic clock, which all processes of a machine share.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // The monotonic clock starts near zero at boot and is never negative.
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default()
}
