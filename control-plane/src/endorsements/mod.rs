//! Endorsements: what hardware vendors say, fetched when evidence needs it, kept, and renewed in time.
//!
//! # What is guaranteed
//! - [`Endorsements::gather`] answers within the configured wait, whatever a vendor does; one vendor that hangs delays
//!   nobody who needs another, and an attestation whose endorsements are held waits for nothing.
//! - What several attestations need at once is asked for once.
//! - Nothing enters the cache that is not what was asked for, signed by its vendor and valid; nothing in it is replaced
//!   by an older edition.
//! - A vendor that is down does not matter while what is held is valid: it is renewed ahead of its end, and used until
//!   its end.
//! - What is missing is no bad evidence: it has reasons of its own, and another attempt later may succeed.
//!
//! # Why
//! Fetching is driven by evidence that is not verified yet, since verifying it needs the endorsements. So everything is
//! bounded: needs per attestation, requests at once and per time, flights, entries. An attester that names chips that do
//! not exist can use up AMD's patience (one request in ten seconds) for machines that come for the first time; those
//! known are held in the cache.
//!
//! Source: DESIGN §5; AMD 57230; Intel PCS API v4; NVIDIA RIM service; RFC 6960.

mod address;
pub(crate) mod cache;
pub mod client;
mod flight;
pub(crate) mod folder;
pub mod gathered;
pub(crate) mod operator_key;
mod pace;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::control_plane::EndorsementSources;
use vouchsafe_verifier::endorsement::need::{Need, Source};
use vouchsafe_verifier::endorsement::needs::{MAX_NEEDS, of_endorsement};
use vouchsafe_verifier::endorsement::object::{Endorsement, EndorsementError};
use vouchsafe_verifier::vendor_roots::VendorRoots;

use self::cache::{Cache, Held, Index, Kept, lock};
use self::client::{Deadlines, HttpClient};
use self::flight::Flight;
use self::folder::{Folder, Stamp};
use self::gathered::{GatherError, Gathered, GatheredFile, Missing};
use self::pace::{Limits, Pace};
use crate::files::FileError;
use crate::state::stopped;
use crate::telemetry::EndorsementMetrics;

/// Reads the time. The control plane's own, or a fixed one of a test over real endorsements.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The endorsements of a control plane; clones share them.
#[derive(Clone)]
pub struct Endorsements(Arc<Inner>);

struct Inner {
    sources: EndorsementSources,
    client: HttpClient,
    clock: Clock,
    tempo: Tempo,
    folder: Option<Folder>,
    roots: VendorRoots,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<String, Flight>>,
    tasks: Mutex<JoinSet<()>>,
    gates: BTreeMap<Source, Gate>,
    metrics: EndorsementMetrics,
    /// Files of the folder as they were read or written last.
    seen: Mutex<BTreeMap<String, Stamp>>,
}

impl std::fmt::Debug for Endorsements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endorsements").finish_non_exhaustive()
    }
}

/// How patient the parts are. Tests are not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tempo {
    /// All attempts for one object, waiting for its turn included.
    pub(crate) flight: Duration,
    /// Before the second attempt; doubled before each further one.
    pub(crate) backoff: Duration,
    /// How long a failure answers for the next who ask.
    pub(crate) negative: Duration,
    /// What the services admit.
    pub(crate) limits: fn(Source) -> Limits,
}

impl Default for Tempo {
    fn default() -> Self {
        Self {
            flight: Duration::from_secs(60),
            backoff: Duration::from_millis(500),
            negative: Duration::from_secs(30),
            limits,
        }
    }
}

/// A service's door.
struct Gate {
    places: Semaphore,
    pace: Mutex<Pace>,
}

impl Endorsements {
    /// Opens the cache of a data folder (`endorsements` in it) and verifies what it holds, below roots that only tests
    /// replace.
    ///
    /// # Errors
    /// [`FileError`] when the folder can't be used.
    pub fn open(
        sources: EndorsementSources,
        data: &Path,
        metrics: EndorsementMetrics,
        clock: Clock,
        roots: VendorRoots,
    ) -> Result<Self, FileError> {
        let folder = Folder::open(&data.join(FOLDER))?;
        let client = HttpClient::new(sources.ca_file.as_deref(), Deadlines::default());
        let opened = Self::with(
            sources,
            Some(folder),
            metrics,
            clock,
            Tempo::default(),
            client,
            roots,
        );
        opened.0.read_folder();
        Ok(opened)
    }

    fn with(
        sources: EndorsementSources,
        folder: Option<Folder>,
        metrics: EndorsementMetrics,
        clock: Clock,
        tempo: Tempo,
        client: HttpClient,
        roots: VendorRoots,
    ) -> Self {
        let now = Instant::now();
        let gates = Source::ALL.map(|source| {
            let limits = (tempo.limits)(source);
            let gate = Gate {
                places: Semaphore::new(limits.concurrent),
                pace: Mutex::new(Pace::new(limits, now)),
            };
            (source, gate)
        });
        Self(Arc::new(Inner {
            sources,
            client,
            clock,
            tempo,
            folder,
            roots,
            cache: Mutex::new(Cache::new()),
            flights: Mutex::new(HashMap::new()),
            tasks: Mutex::new(JoinSet::new()),
            gates: gates.into_iter().collect(),
            metrics,
            seen: Mutex::new(BTreeMap::new()),
        }))
    }

    /// Gets what is needed, from the cache or from its vendors, and what that needs in its turn. `user` is shown to
    /// operators: the workload whose evidence needs it.
    ///
    /// Takes at most the configured wait, for all that is needed together.
    ///
    /// # Cancel safety
    /// What was asked for is fetched all the same, for the next who needs it.
    pub async fn gather(&self, needs: &[Need], user: &str) -> Gathered {
        let deadline = Instant::now() + self.0.sources.wait;
        let mut gathered = Gathered::default();
        let mut names: Vec<String> = Vec::new();
        let mut round: Vec<Need> = needs.to_vec();
        for _ in 0..ROUNDS {
            round.retain(|need| {
                let is_new = !names.contains(&need.name()) && names.len() < MAX_NEEDS;
                if is_new {
                    names.push(need.name());
                }
                is_new
            });
            // What can be done without comes last, so that it does not use up a service's patience.
            round.sort_by_key(Need::is_optional);
            let found =
                join_all({ round.iter() }.map(|need| self.0.get(need, user, deadline))).await;
            let asked = std::mem::take(&mut round);
            for (need, result) in asked.into_iter().zip(found) {
                // What is not waited for may have come meanwhile, where another flight needed it.
                let result = match need.is_optional() {
                    true => result.or_else(|error| self.0.held(&need).ok_or(error)),
                    false => result,
                };
                match result {
                    Ok(held) => {
                        round.extend(of_endorsement(&held.endorsement));
                        gathered.files.push(held.into());
                    }
                    Err(_) if need.is_optional() => {}
                    Err(error) => {
                        let over = lock(&self.0.cache).take_over(&need);
                        gathered.files.extend(over.map(GatheredFile::from));
                        gathered.missing.push(self.0.missing(need, error));
                    }
                }
            }
        }
        gathered
    }

    /// Renews what was used lately, reads what was imported, and writes down who uses what, until `shutdown`.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let (mut look, mut tend) = (interval(LOOK_INTERVAL), interval(TEND_INTERVAL));
        for ticks in [&mut look, &mut tend] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                () = stopped(&mut shutdown) => break,
                _ = look.tick() => self.in_background(Inner::read_folder).await,
                _ = tend.tick() => {
                    self.renew();
                    self.in_background(Inner::write_folder).await;
                    self.0.measure();
                }
            }
        }
        lock(&self.0.tasks).abort_all();
        self.in_background(Inner::write_folder).await;
    }

    /// Disks may be slow.
    async fn in_background(&self, work: fn(&Inner)) {
        let inner = Arc::clone(&self.0);
        // A panic in it was reported by its hook; the next tick tries again.
        drop(tokio::task::spawn_blocking(move || work(&inner)).await);
    }

    /// Asks for what will end, without waiting.
    fn renew(&self) {
        let now = (self.0.clock)();
        for need in self.wanted_or_due().into_iter().take(MAX_RENEWALS) {
            if !self.0.is_resting(&need, now) {
                drop(self.0.start(&need));
            }
        }
    }

    /// What was used lately and is not held, or ends soon.
    pub(crate) fn wanted_or_due(&self) -> Vec<Need> {
        let now = (self.0.clock)();
        let cache = lock(&self.0.cache);
        let mut needs = cache.wanted(now);
        needs.extend(cache.due(now));
        needs
    }

    /// What is held and valid.
    pub(crate) fn valid(&self) -> Vec<Arc<Endorsement>> {
        let now = (self.0.clock)();
        let cache = lock(&self.0.cache);
        let valid = cache.held().filter(|held| now <= held.endorsement.until());
        valid.map(|held| Arc::clone(&held.endorsement)).collect()
    }

    /// Digest of each edition that is held and valid, by name.
    pub(crate) fn editions(&self) -> HashMap<String, [u8; 32]> {
        let valid = self.valid().into_iter();
        valid
            .map(|held| (held.need().name(), sha256(held.bytes())))
            .collect()
    }

    /// The edition of a name that is held and valid.
    pub(crate) fn newest(&self, name: &str) -> Option<Vec<u8>> {
        let mut valid = self.valid().into_iter();
        let held = valid.find(|held| held.need().name() == name)?;
        Some(held.bytes().to_vec())
    }

    /// What is held and wanted, for operators.
    pub(crate) fn list(&self) -> Vec<Index> {
        lock(&self.0.cache).list()
    }

    /// Takes an object from elsewhere, after verifying it, and writes it down.
    ///
    /// # Errors
    /// [`EndorsementError`] if it is not what it should be; then nothing changes.
    pub(crate) fn import(
        &self,
        need: &Need,
        bytes: &[u8],
        origin: &str,
    ) -> Result<Kept, EndorsementError> {
        let now = (self.0.clock)();
        let authorities = lock(&self.0.cache).authorities();
        let authorities: Vec<&[u8]> = authorities.iter().map(|held| held.bytes()).collect();
        let endorsement = Endorsement::verify_below(&self.0.roots, need, bytes, &authorities, now)?;
        let held = Held {
            endorsement: Arc::new(endorsement),
            origin: origin.to_owned(),
            fetched: now,
        };
        Ok(lock(&self.0.cache).keep(held, now))
    }

    /// Writes down what is only in memory; a command's last act.
    pub(crate) fn write(&self) {
        self.0.write_folder();
    }
}

impl Inner {
    fn missing(&self, need: Need, error: GatherError) -> Missing {
        let is_over = lock(&self.cache).is_over(&need, (self.clock)());
        let retry_after = match &error {
            // It arrives in the background.
            GatherError::Slow | GatherError::Busy => Duration::from_secs(5),
            GatherError::Offline => Duration::from_secs(60),
            _ => self.tempo.negative,
        };
        Missing {
            need,
            reason: match is_over {
                true => "endorsement_expired",
                false => "endorsement_missing",
            },
            error,
            retry_after,
        }
    }

    /// Reads what was written into the folder since.
    fn read_folder(&self) {
        let Some(folder) = &self.folder else { return };
        let mut seen = lock(&self.seen);
        match folder.read(&mut seen, &self.cache, &self.roots, (self.clock)()) {
            Ok(found) => {
                for (name, error) in found.refused {
                    tracing::warn!(
                        endorsement = name,
                        reason = error.reason(),
                        "a kept endorsement is not used"
                    );
                }
            }
            Err(error) => {
                tracing::error!(error = %error, "failed to read the folder of endorsements");
            }
        }
    }

    fn write_folder(&self) {
        let Some(folder) = &self.folder else { return };
        let (dirty, evicted) = {
            let mut cache = lock(&self.cache);
            (cache.take_dirty(), cache.take_evicted())
        };
        let mut seen = lock(&self.seen);
        for index in dirty {
            match folder.write(&index) {
                Ok(stamp) => drop(seen.insert(index.need.name(), stamp)),
                Err(error) => {
                    // It is fetched again after a restart; nothing is lost but time.
                    tracing::warn!(
                        endorsement = index.need.name(),
                        error = %error,
                        "failed to write an endorsement down"
                    );
                }
            }
        }
        for name in evicted {
            seen.remove(&name);
            if let Err(error) = folder.remove(&name) {
                tracing::warn!(endorsement = name, error = %error, "failed to remove an endorsement");
            }
        }
    }

    fn measure(&self) {
        let now = (self.clock)();
        let cache = lock(&self.cache);
        let wanted = cache.wanted(now);
        for source in Source::ALL {
            let word = source.as_str();
            let held = cache.held().filter(|held| {
                held.endorsement.need().source() == source && now <= held.endorsement.until()
            });
            let set = |gauge: &prometheus::IntGaugeVec, value: usize| {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                gauge.with_label_values(&[word]).set(value);
            };
            set(&self.metrics.held, held.count());
            let missing = wanted.iter().filter(|need| need.source() == source);
            set(&self.metrics.missing, missing.count());
            if let Some(gate) = self.gates.get(&source) {
                let is_open = lock(&gate.pace).is_open(Instant::now());
                set(&self.metrics.open, usize::from(is_open));
            }
            let first = cache.first_end(word, now).unwrap_or_default();
            let first = usize::try_from(first.as_secs()).unwrap_or(usize::MAX);
            set(&self.metrics.expiry, first);
        }
    }
}

/// What the services are known to admit. AMD documents no number; it has been seen to refuse more than one request in
/// ten seconds. The others are paced so that a control plane that starts with a thousand machines is no flood.
fn limits(source: Source) -> Limits {
    match source {
        Source::AmdKds => Limits {
            concurrent: 2,
            interval: Duration::from_secs(10),
            burst: 4,
        },
        Source::IntelPcs => Limits {
            concurrent: 4,
            interval: Duration::from_millis(100),
            burst: 20,
        },
        Source::NvidiaRim => Limits {
            concurrent: 4,
            interval: Duration::from_millis(200),
            burst: 20,
        },
        Source::NvidiaOcsp => Limits {
            concurrent: 8,
            interval: Duration::from_millis(50),
            burst: 64,
        },
    }
}

/// In the data folder.
pub(crate) const FOLDER: &str = "endorsements";
/// Needs of evidence, and needs of those.
const ROUNDS: usize = 2;
/// Renewals that are started at once; the rest have their turn at the next tick.
const MAX_RENEWALS: usize = 64;
/// An import is noticed so soon.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const TEND_INTERVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
pub(crate) mod tests;
