//! Attestations under way: tasks of their own, which no peer ends by leaving.
//!
//! What is done with evidence that came (a judgement, a revocation, its record) must not depend on whether the one who
//! showed it still listens. So the stream's body only carries answers, and the control plane owns the task.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

/// Those that run. Streams bound how many there are.
#[derive(Debug, Default)]
pub struct Conversations(Mutex<JoinSet<()>>);

impl Conversations {
    /// Runs one to its end, whoever leaves meanwhile.
    pub(crate) fn spawn(&self, conversation: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.lock();
        while running.try_join_next().is_some() {}
        running.spawn(conversation);
    }

    /// Waits until all have ended, no longer than that; then cuts what is left.
    pub(crate) async fn end(&self, within: Duration) {
        let mut running = std::mem::take(&mut *self.lock());
        let ended = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::warn!("attestations did not end in time and are cut");
        }
        running.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        // A set of tasks is whole between any two calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
