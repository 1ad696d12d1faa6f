//! Renewals ahead of time, at a pace: after a key ceremony, before a maintenance of the control plane, on suspicion.
//!
//! An operator says whose certificates and over how long; the mesh state announces it to all sidecars, and each that
//! holds an older certificate finds its own place within that time by its instance's number. So ten thousand renewals in
//! ten minutes are seventeen in a second, without a message to each, and a sidecar that was away catches up when it hears
//! of it. An announcement is kept in the store until no certificate from before it can be valid.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::standing::ForcedRenewal;
use vouchsafe_api::convert::unix_ms;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_config::mesh::MAX_LIFETIME;

use crate::log::LogError;
use crate::state::ControlPlane;
use crate::store::redb::RedbStore;
use crate::store::{Expect, Store, StoreError};

/// Whose certificates: a workload's, or everybody's.
pub type Scope = Option<WorkloadName>;

/// The announcements in force.
#[derive(Debug)]
pub struct Renewals {
    held: Mutex<BTreeMap<Scope, PacedRenewal>>,
    changed: watch::Sender<u64>,
}

impl Renewals {
    /// Reads what was announced before.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read or an entry in it is damaged.
    pub async fn open(store: &RedbStore) -> Result<Self, StoreError> {
        let damaged = |key: &str| StoreError::Engine(format!("entry `{key}` is damaged"));
        let mut held = BTreeMap::new();
        for (key, entry) in store.list(RENEWALS).await?.0 {
            let stored: Stored = serde_json::from_slice(&entry.value).map_err(|_| damaged(&key))?;
            let scope = match key.strip_prefix(RENEWALS) {
                Some(ALL) => None,
                scope => Some(
                    scope
                        .unwrap_or_default()
                        .parse()
                        .map_err(|_| damaged(&key))?,
                ),
            };
            held.insert(scope, stored.into_paced());
        }
        Ok(Self {
            held: Mutex::new(held),
            changed: watch::Sender::new(0),
        })
    }

    /// Announces a renewal; in the store when it returns. A newer one of the same scope takes the place of an older one.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is announced.
    pub async fn announce(
        &self,
        store: &RedbStore,
        scope: Scope,
        paced: PacedRenewal,
    ) -> Result<(), StoreError> {
        let stored = Stored {
            start_ms: unix_ms(paced.start),
            over_ms: u64::try_from(paced.over.as_millis()).unwrap_or(u64::MAX),
        };
        // Two numbers always have a JSON form.
        let value = serde_json::to_vec(&stored).unwrap_or_default();
        store.put_if(&key(&scope), value, Expect::Any).await?;
        self.lock().insert(scope, paced);
        self.changed.send_modify(|number| *number += 1);
        Ok(())
    }

    /// The announcements that still mean somebody.
    pub fn current(&self, now: SystemTime) -> Vec<(Scope, PacedRenewal)> {
        let held = self.lock();
        let current = held
            .iter()
            .filter(|(_, paced)| now < paced.start + MAX_LIFETIME);
        current
            .map(|(scope, paced)| (scope.clone(), *paced))
            .collect()
    }

    /// Learns of announcements.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Scope, PacedRenewal>> {
        // Every change is a single insertion, so a panic elsewhere leaves nothing half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a renewal could not be announced.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// More would come back at once than attest in time.
    #[error(
        "{instances} instances in {} s are too many: take at least {} s",
        over.as_secs(),
        least.as_secs()
    )]
    TooFast {
        /// Whose certificates are meant.
        instances: usize,
        /// What was asked for.
        over: Duration,
        /// What is allowed.
        least: Duration,
    },
    /// It can't be recorded.
    #[error("failed to record the renewal")]
    Record(#[source] LogError),
    /// It can't be written down.
    #[error("failed to write the renewal down")]
    Store(#[source] StoreError),
}

impl ControlPlane {
    /// Has instances renew over a time, from now on. Returns how many hold certificates that are meant, and the end.
    ///
    /// # Errors
    /// [`AnnounceError`]; then nothing is announced.
    pub async fn renew(
        &self,
        scope: Scope,
        over: Duration,
        actor: String,
        reason: String,
    ) -> Result<(usize, SystemTime), AnnounceError> {
        let start = self.now();
        let end = start + over;
        let words = { scope.as_ref() }.map_or_else(|| "mesh".to_owned(), ToString::to_string);
        let instances = self.registry.instances(start).into_iter();
        let meant = instances
            .filter(|(instance, _)| scope.as_ref().is_none_or(|name| *name == instance.workload))
            .count();
        let least = least_time(meant);
        if over < least {
            let instances = meant;
            return Err(AnnounceError::TooFast {
                instances,
                over,
                least,
            });
        }
        let event = Event::RenewalForced(Box::new(ForcedRenewal {
            scope: words.clone(),
            actor,
            reason: reason.clone(),
            start,
            end,
        }));
        self.record(event).await.map_err(AnnounceError::Record)?;
        let paced = PacedRenewal { start, over };
        let announced = self
            .forced
            .announce(self.registry.store(), scope, paced)
            .await;
        announced.map_err(AnnounceError::Store)?;
        tracing::info!(
            scope = words,
            instances = meant,
            over_seconds = over.as_secs(),
            reason,
            "certificates are renewed ahead of time"
        );
        Ok((meant, end))
    }
}

/// In which so many instances may renew.
fn least_time(instances: usize) -> Duration {
    let seconds = instances.div_ceil(MOST_A_SECOND).max(1);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))
}

fn key(scope: &Scope) -> String {
    let scope = { scope.as_ref() }.map_or_else(|| ALL.to_owned(), ToString::to_string);
    format!("{RENEWALS}{scope}")
}

#[derive(Debug, Deserialize, Serialize)]
struct Stored {
    start_ms: u64,
    over_ms: u64,
}

impl Stored {
    fn into_paced(self) -> PacedRenewal {
        PacedRenewal {
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(self.start_ms),
            over: Duration::from_millis(self.over_ms).min(PacedRenewal::MAX_OVER),
        }
    }
}

/// Of renewals: what one control plane does beside everything else.
const MOST_A_SECOND: usize = 100;
const RENEWALS: &str = "renewals/";
const ALL: &str = "-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_no_faster_than_the_control_plane() {
        let seconds = Duration::from_secs;
        assert_eq!(least_time(0), seconds(1));
        assert_eq!(least_time(100), seconds(1));
        assert_eq!(least_time(101), seconds(2));
        assert_eq!(least_time(10_000), seconds(100));
    }

    #[tokio::test]
    async fn an_announcement_outlives_a_restart_and_ends_with_the_last_certificate_that_it_means() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store.redb")).unwrap();
        let renewals = Renewals::open(&store).await.unwrap();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let over = Duration::from_secs(600);
        let paced = PacedRenewal { start, over };
        let scope: Scope = Some("a/b".parse().unwrap());
        for scope in [None, scope.clone()] {
            renewals.announce(&store, scope, paced).await.unwrap();
        }
        let later = PacedRenewal {
            start: start + over,
            over,
        };
        renewals.announce(&store, None, later).await.unwrap();
        let expected = vec![(None, later), (scope, paced)];
        assert_eq!(renewals.current(start), expected);
        let again = Renewals::open(&store).await.unwrap();
        assert_eq!(again.current(start), expected);
        assert_eq!(again.current(start + MAX_LIFETIME), [(None, later)]);
        assert_eq!(again.current(start + over + MAX_LIFETIME), []);
    }
}
