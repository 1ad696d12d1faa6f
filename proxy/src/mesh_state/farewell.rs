//! The last word of a sidecar that has drained: so that the control plane does not take its silence for a failure.

use std::time::Duration;

use tokio::sync::watch;

/// The end of whoever decides that the sidecar leaves.
#[derive(Debug)]
pub struct Farewell {
    wanted: watch::Sender<bool>,
    said: watch::Receiver<bool>,
}

/// The end of the stream by which it is said.
#[derive(Debug)]
pub struct FarewellSpeaker {
    wanted: watch::Receiver<bool>,
    said: watch::Sender<bool>,
}

/// Makes both ends.
pub fn farewell() -> (Farewell, FarewellSpeaker) {
    let (wanted, is_wanted) = watch::channel(false);
    let (said, is_said) = watch::channel(false);
    let speaker = FarewellSpeaker {
        wanted: is_wanted,
        said,
    };
    (
        Farewell {
            wanted,
            said: is_said,
        },
        speaker,
    )
}

impl Farewell {
    /// Has it said, and waits for a moment until the control plane has taken it in. A control plane that is not reached
    /// notices by itself.
    pub async fn say(mut self) {
        self.wanted.send_replace(true);
        let said = self.said.wait_for(|said| *said);
        let _in_time = tokio::time::timeout(PATIENCE, said).await.is_ok();
    }
}

impl FarewellSpeaker {
    /// Waits until it is to be said.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub(super) async fn wanted(&self) {
        let mut wanted = self.wanted.clone();
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            // Nobody will ever want it.
            std::future::pending().await
        }
    }

    pub(super) fn said(&self) {
        self.said.send_replace(true);
    }
}

/// A round trip to the control plane and one sync of its record take milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
