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
pub(crate) mod operator_key;
mod pace;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};
use vouchsafe_config::control_plane::EndorsementSources;
use vouchsafe_verifier::dossier::File;
use vouchsafe_verifier::endorsement::answer::AnswerError;
use vouchsafe_verifier::endorsement::need::{Need, Source};
use vouchsafe_verifier::endorsement::needs::{MAX_NEEDS, of_endorsement};
use vouchsafe_verifier::endorsement::object::{Endorsement, EndorsementError};

use self::cache::{Cache, Failure, Folder, Held, Index, Kept, Stamp, lock, to_ms};
use self::client::{Deadlines, FetchError, HttpClient};
use self::pace::{Admission, Limits, Pace};
use crate::files::FileError;
use crate::state::stopped;
use crate::telemetry::{Chain, EndorsementMetrics};

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

/// What a flight came to; `None` while it is under way.
type Flight = watch::Receiver<Option<Result<Held, GatherError>>>;

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

/// Why an endorsement could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GatherError {
    /// The service was asked in vain.
    #[error("failed to fetch it")]
    Fetch(#[source] Arc<FetchError>),
    /// What it answered can't be read.
    #[error("the answer can't be used")]
    Answer(#[source] AnswerError),
    /// What it answered is not what it should be.
    #[error("the answer is not what was asked for")]
    Refused(#[source] EndorsementError),
    /// The operator wants nobody to be asked.
    #[error("this control plane is offline: import it from a bundle")]
    Offline,
    /// The service is down.
    #[error("the service is down and is left alone for a while")]
    CircuitOpen,
    /// Others come first, and it would take too long.
    #[error("the service admits no more requests for now")]
    Paced,
    /// Too much is asked for at once.
    #[error("too many endorsements are asked for at once")]
    Busy,
    /// It takes longer than an attestation waits. It goes on in the background.
    #[error("the service has not answered yet")]
    Slow,
    /// It failed a moment ago.
    #[error("it failed a moment ago: {0}")]
    Recent(String, &'static str),
    /// It is not waited for.
    #[error("it is not needed before the next attestation")]
    Later,
}

impl GatherError {
    /// A bounded word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.reason(),
            Self::Answer(AnswerError::TooLarge(_)) => "answer_too_large",
            Self::Answer(_) => "malformed",
            Self::Refused(error) => error.reason(),
            Self::Offline => "offline",
            Self::CircuitOpen => "circuit_open",
            Self::Paced => "paced",
            Self::Busy => "busy",
            Self::Slow => "slow",
            Self::Recent(_, reason) => reason,
            Self::Later => "later",
        }
    }
}

/// An endorsement for a judgement.
#[derive(Clone, Debug)]
pub struct GatheredFile {
    /// Its name: what a dossier and the record call it.
    pub name: String,
    /// The verified file.
    pub endorsement: Arc<Endorsement>,
    /// When it was fetched or imported.
    pub fetched: SystemTime,
}

/// An endorsement that could not be had.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Which.
    pub need: Need,
    /// `endorsement_expired` if one was held whose time is over, else `endorsement_missing`.
    pub reason: &'static str,
    /// Why no (newer) one could be had.
    pub error: GatherError,
    /// When another attempt makes sense.
    pub retry_after: Duration,
}

/// What could be had.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// What is valid now.
    pub files: Vec<GatheredFile>,
    /// What is not there.
    pub missing: Vec<Missing>,
}

impl Gathered {
    /// The files as a dossier takes them.
    pub fn as_files(&self) -> Vec<File<'_>> {
        self.files
            .iter()
            .map(|file| File {
                name: &file.name,
                bytes: file.endorsement.bytes(),
            })
            .collect()
    }

    /// The bounded reason, what to tell the operator, and when to try again, if anything is missing: for a refusal of
    /// evidence that could not be judged for the lack of it.
    pub fn refusal(&self) -> Option<(&'static str, String, Duration)> {
        let first = self.missing.first()?;
        let details = self.missing.iter().map(|missing| {
            let (name, error) = (missing.need.name(), Chain(&missing.error));
            format!("{name} ({}): {error}", missing.error.reason())
        });
        let details: Vec<_> = details.collect();
        let wait = self.missing.iter().map(|missing| missing.retry_after).max();
        Some((
            first.reason,
            details.join("; "),
            wait.unwrap_or(first.retry_after),
        ))
    }
}

impl Endorsements {
    /// Opens the cache of a data folder (`endorsements` in it) and verifies what it holds.
    ///
    /// # Errors
    /// [`FileError`] when the folder can't be used.
    pub fn open(
        sources: EndorsementSources,
        data: &Path,
        metrics: EndorsementMetrics,
        clock: Clock,
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
    /// Takes at most the configured wait per step of the chain of needs, of which there are two.
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
                match result {
                    Ok(held) => {
                        round.extend(of_endorsement(&held.endorsement));
                        gathered.files.push(GatheredFile {
                            name: need.name(),
                            endorsement: held.endorsement,
                            fetched: held.fetched,
                        });
                    }
                    Err(_) if need.is_optional() => {}
                    Err(error) => gathered.missing.push(self.0.missing(need, error)),
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
            if !self.0.is_refused(&need, now) {
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
        let endorsement = Endorsement::verify(need, bytes, &authorities, now)?;
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
    async fn get(
        self: &Arc<Self>,
        need: &Need,
        user: &str,
        deadline: Instant,
    ) -> Result<Held, GatherError> {
        let now = (self.clock)();
        let taken = lock(&self.cache).take(need, user, now);
        if let Some(held) = taken {
            return Ok(held);
        }
        if let Some(error) = self.refused(need, now) {
            return Err(error);
        }
        let mut flight = self.start(need)?;
        if need.is_optional() {
            return Err(GatherError::Later);
        }
        match timeout_at(deadline, flight.wait_for(Option::is_some)).await {
            Err(_) => Err(GatherError::Slow),
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Err(GatherError::Slow)),
            // The flight was aborted: the control plane stops.
            Ok(Err(_)) => Err(GatherError::Busy),
        }
    }

    /// Whether it failed so lately that asking again makes no sense.
    fn refused(&self, need: &Need, now: SystemTime) -> Option<GatherError> {
        let cache = lock(&self.cache);
        let failure = cache.failure(need)?;
        let age = to_ms(now).checked_sub(failure.at_ms)?;
        let reason = REASONS.iter().find(|reason| **reason == failure.reason)?;
        let is_recent = u128::from(age) < self.tempo.negative.as_millis();
        is_recent.then(|| GatherError::Recent(failure.detail.clone(), reason))
    }

    fn is_refused(&self, need: &Need, now: SystemTime) -> bool {
        self.refused(need, now).is_some()
    }

    /// Joins the flight for an object, or starts one.
    fn start(self: &Arc<Self>, need: &Need) -> Result<Flight, GatherError> {
        if self.sources.offline {
            return Err(GatherError::Offline);
        }
        let name = need.name();
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&name) {
            return Ok(flight.clone());
        }
        if flights.len() >= MAX_FLIGHTS {
            return Err(GatherError::Busy);
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(name.clone(), receiver.clone());
        drop(flights);
        let (inner, need) = (Arc::clone(self), need.clone());
        let mut tasks = lock(&self.tasks);
        // Those that ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let landing = Landing(Arc::clone(&inner), name);
            let outcome = inner.fly(&need).await;
            let outcome = inner.land(&need, outcome);
            drop(landing);
            sender.send_replace(Some(outcome));
        });
        Ok(receiver)
    }

    /// All attempts for one object.
    async fn fly(self: &Arc<Self>, need: &Need) -> Result<Endorsement, GatherError> {
        let deadline = Instant::now() + self.tempo.flight;
        let mut backoff = self.tempo.backoff;
        for attempt in 1.. {
            let error = match self.attempt(need, deadline).await {
                Ok(endorsement) => return Ok(endorsement),
                Err(error) => error,
            };
            let may_pass = matches!(&error, GatherError::Fetch(error) if error.may_pass());
            let wait = jittered(backoff);
            if !may_pass || attempt >= ATTEMPTS || Instant::now() + wait >= deadline {
                return Err(error);
            }
            sleep(wait).await;
            backoff *= 2;
        }
        Err(GatherError::Paced)
    }

    async fn attempt(
        self: &Arc<Self>,
        need: &Need,
        deadline: Instant,
    ) -> Result<Endorsement, GatherError> {
        let Some(ask) = address::ask(need, &self.sources) else {
            let error = FetchError::Address(need.name());
            return Err(GatherError::Fetch(Arc::new(error)));
        };
        let place = self.admit(need.source(), deadline).await?;
        let result = self.client.fetch(&ask, need.max_bytes()).await;
        self.note(need.source(), &result);
        drop(place);
        let answer = result.map_err(|error| GatherError::Fetch(Arc::new(error)))?;
        let issuers = need
            .issuer_chain_headers()
            .iter()
            .find_map(|name| answer.headers.get(*name)?.to_str().ok());
        let file = need
            .read_answer(&answer.body, issuers)
            .map_err(GatherError::Answer)?;
        match self.verify(need, &file) {
            // AMD may have replaced the authority that is compiled in.
            Err(EndorsementError::Signature(_)) => {
                self.fetch_authority(need, deadline).await;
                self.verify(need, &file)
            }
            verified => verified,
        }
        .map_err(GatherError::Refused)
    }

    fn verify(&self, need: &Need, file: &[u8]) -> Result<Endorsement, EndorsementError> {
        let authorities = lock(&self.cache).authorities();
        let authorities: Vec<&[u8]> = authorities.iter().map(|held| held.bytes()).collect();
        Endorsement::verify(need, file, &authorities, (self.clock)())
    }

    /// Gets the authority of a chip's key, if that could help.
    async fn fetch_authority(self: &Arc<Self>, need: &Need, deadline: Instant) {
        let Need::AmdVcek { product, .. } = need else {
            return;
        };
        let chain = Need::AmdChain {
            product: *product,
            signer: vouchsafe_verifier::endorsement::need::AmdSigner::Vcek,
        };
        let now = (self.clock)();
        let is_held = lock(&self.cache).take(&chain, "", now).is_some();
        if let (false, Ok(mut flight)) = (is_held, self.start(&chain)) {
            // Whatever it comes to, the certificate is verified once more.
            drop(timeout_at(deadline, flight.wait_for(Option::is_some)).await);
        }
    }

    /// Waits for a place and for the service's pace.
    async fn admit(
        &self,
        source: Source,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>, GatherError> {
        let gate = self.gates.get(&source).ok_or(GatherError::Busy)?;
        let place = timeout_at(deadline, gate.places.acquire())
            .await
            .map_err(|_| GatherError::Paced)?
            .map_err(|_| GatherError::Busy)?;
        loop {
            let admission = lock(&gate.pace).admit(Instant::now());
            match admission {
                Admission::Now => return Ok(place),
                Admission::Open(_) => return Err(GatherError::CircuitOpen),
                Admission::At(when) if when >= deadline => return Err(GatherError::Paced),
                Admission::At(when) => sleep_until(when).await,
            }
        }
    }

    /// What an answer says about the service.
    fn note(&self, source: Source, result: &Result<client::Answer, FetchError>) {
        let Some(gate) = self.gates.get(&source) else {
            return;
        };
        let now = Instant::now();
        let mut pace = lock(&gate.pace);
        match result {
            Err(FetchError::RateLimited(wanted)) => pace.pause(now, *wanted),
            Err(FetchError::Status(status)) if status.is_server_error() => pace.failed(now),
            Err(
                FetchError::Connect { .. }
                | FetchError::Timeout(_)
                | FetchError::Broken { .. }
                | FetchError::Tls { .. },
            ) => pace.failed(now),
            Ok(_) | Err(_) => pace.answered(),
        }
        let is_open = i64::from(pace.is_open(now));
        let labels = [source.as_str()];
        self.metrics.open.with_label_values(&labels).set(is_open);
    }

    /// Keeps what a flight brought, or why it brought nothing.
    fn land(
        &self,
        need: &Need,
        outcome: Result<Endorsement, GatherError>,
    ) -> Result<Held, GatherError> {
        let now = (self.clock)();
        let source = need.source().as_str();
        let word = match &outcome {
            Ok(_) => "fetched",
            Err(error) => error.reason(),
        };
        self.metrics
            .fetches
            .with_label_values(&[source, word])
            .inc();
        let endorsement = match outcome {
            Ok(endorsement) => endorsement,
            Err(error) => {
                let failure = Failure {
                    reason: error.reason().to_owned(),
                    detail: Chain(&error).to_string(),
                    at_ms: to_ms(now),
                };
                tracing::warn!(
                    endorsement = need.name(),
                    reason = failure.reason,
                    error = failure.detail,
                    "endorsement not fetched"
                );
                lock(&self.cache).fail(need, failure);
                return Err(error);
            }
        };
        let held = Held {
            endorsement: Arc::new(endorsement),
            origin: source.to_owned(),
            fetched: now,
        };
        let mut cache = lock(&self.cache);
        match cache.keep(held.clone(), now) {
            Kept::New | Kept::Same => Ok(held),
            Kept::Older => {
                let newer = cache.take(need, "", now).unwrap_or(held);
                drop(cache);
                tracing::warn!(
                    endorsement = need.name(),
                    "a service answered with an older edition, the newer one stays"
                );
                Ok(newer)
            }
        }
    }

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
        match folder.read(&mut seen, &self.cache, (self.clock)()) {
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
            let first = cache.first_end(word, now).unwrap_or_default();
            let first = usize::try_from(first.as_secs()).unwrap_or(usize::MAX);
            set(&self.metrics.expiry, first);
        }
    }
}

/// Takes a flight off the list, also when it panics.
struct Landing(Arc<Inner>, String);

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.0.flights).remove(&self.1);
    }
}

/// From three quarters to five quarters, so that those who failed together do not come back together.
fn jittered(wait: Duration) -> Duration {
    // Without randomness they do.
    let [random] = crate::ca::random::<1>().unwrap_or([128]);
    wait * 3 / 4 + wait / 2 * u32::from(random) / 255
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

/// Reasons of failures that another question a moment later would meet again. Being too fast is none: who asks anew gets
/// in line.
const REASONS: [&str; 15] = [
    "address",
    "answer_too_large",
    "broken_off",
    "connect",
    "expired",
    "malformed",
    "not_found",
    "not_yet_valid",
    "rate_limited",
    "signature",
    "status",
    "timeout",
    "tls",
    "too_large",
    "wrong_subject",
];
/// In the data folder.
pub(crate) const FOLDER: &str = "endorsements";
/// Needs of evidence, and needs of those.
const ROUNDS: usize = 2;
const ATTEMPTS: u32 = 3;
/// A fleet that starts at once with no cache: everybody else is told to try again.
const MAX_FLIGHTS: usize = 1024;
/// Renewals that are started at once; the rest have their turn at the next tick.
const MAX_RENEWALS: usize = 64;
/// An import is noticed so soon.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const TEND_INTERVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
pub(crate) mod tests;
