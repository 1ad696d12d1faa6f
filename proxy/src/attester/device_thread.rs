//! Work on a device that may never come back: a thread of its own, and a deadline for who waits.
//!
//! A read from a driver can hang in the kernel, where nothing can stop it. So the work runs on a plain thread that
//! nobody joins: when the deadline passes, the waiter gets [`DeviceThreadError::Hung`] and goes on, and the thread stays
//! behind until the kernel lets it go or the process ends. There is at most one such thread per device: until it
//! returns, further work is refused with [`DeviceThreadError::Busy`]. What it returns late is dropped.
//!
//! # Why
//! The runtime's own blocking threads are waited for when it shuts down, and there are many of them: a broken driver
//! would eat one with each attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

/// Does the work of one device, one piece at a time.
#[derive(Clone, Debug)]
pub struct DeviceThread {
    device: &'static str,
    deadline: Duration,
    is_busy: Arc<AtomicBool>,
}

/// Why a device's work has no outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DeviceThreadError {
    /// The deadline passed.
    #[error("`{device}` did not answer within {} s", deadline.as_secs_f32())]
    Hung {
        /// Which device.
        device: &'static str,
        /// How long was waited.
        deadline: Duration,
    },
    /// An earlier piece of work has not come back.
    #[error("`{0}` still owes the answer to an earlier request")]
    Busy(&'static str),
    /// The thread could not be started, or ended by a panic.
    #[error("the thread that talks to `{0}` ended early")]
    Stopped(&'static str),
}

impl DeviceThread {
    /// A device that was never asked yet. `deadline` is for each piece of work.
    pub fn new(device: &'static str, deadline: Duration) -> Self {
        Self {
            device,
            deadline,
            is_busy: Arc::default(),
        }
    }

    /// Runs `work` on a thread and waits for it until the deadline.
    ///
    /// # Errors
    /// [`DeviceThreadError`], converted to the error of the work.
    ///
    /// # Cancel safety
    /// Work that nobody waits for goes on to its end; the device stays busy so long.
    pub async fn run<T, E>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DeviceThreadError> + Send + 'static,
    {
        let outcome = self.start(work)?;
        match tokio::time::timeout(self.deadline, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(DeviceThreadError::Stopped(self.device).into()),
            Err(_) => Err(DeviceThreadError::Hung {
                device: self.device,
                deadline: self.deadline,
            }
            .into()),
        }
    }

    fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, DeviceThreadError> {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return Err(DeviceThreadError::Busy(self.device));
        }
        let busy = BusyUntilDropped(Arc::clone(&self.is_busy));
        let (sender, outcome) = oneshot::channel();
        let body = move || {
            let result = work();
            // Before the outcome, so that whoever has it may ask again at once.
            drop(busy);
            // Nobody may be waiting any more.
            let _late = sender.send(result);
        };
        std::thread::Builder::new()
            .name(self.device.to_owned())
            .spawn(body)
            .map(|_never_joined| outcome)
            .map_err(|_| DeviceThreadError::Stopped(self.device))
    }
}

/// Frees the device even if the work panics.
struct BusyUntilDropped(Arc<AtomicBool>);

impl Drop for BusyUntilDropped {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    type Outcome = Result<u8, DeviceThreadError>;

    #[tokio::test]
    async fn work_that_comes_back_gives_its_outcome_again_and_again() {
        let device = DeviceThread::new("gpu", Duration::from_secs(60));
        for number in 0..3 {
            assert_eq!(device.run(move || Outcome::Ok(number)).await, Ok(number));
        }
    }

    #[tokio::test]
    async fn a_device_that_hangs_is_left_alone_until_it_comes_back() {
        let device = DeviceThread::new("gpu", Duration::from_millis(20));
        let (let_go, held) = mpsc::channel::<()>();
        let hung = device.run(move || {
            // Returns when the sender is gone.
            let _gone = held.recv();
            Outcome::Ok(1)
        });
        assert!(matches!(hung.await, Err(DeviceThreadError::Hung { .. })));
        assert_eq!(
            device.run(|| Outcome::Ok(2)).await,
            Err(DeviceThreadError::Busy("gpu"))
        );
        drop(let_go);
        let patient = async {
            while device.run(|| Outcome::Ok(3)).await != Ok(3) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), patient)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn work_that_panics_stops_and_frees_its_device() {
        let device = DeviceThread::new("gpu", Duration::from_secs(60));
        let panicked = device.run(|| -> Outcome { panic!("as a broken driver might") });
        assert_eq!(panicked.await, Err(DeviceThreadError::Stopped("gpu")));
        assert_eq!(device.run(|| Outcome::Ok(4)).await, Ok(4));
    }
}
