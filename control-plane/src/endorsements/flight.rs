//! One object on its way: joined by all who need it, paced, repeated where that helps, verified before it is kept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{SemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use vouchsafe_verifier::endorsement::need::{AmdSigner, Need, Source};
use vouchsafe_verifier::endorsement::object::{Endorsement, EndorsementError};

use super::cache::{Failure, Held, Kept, lock, to_ms};
use super::client::{self, FetchError};
use super::gathered::GatherError;
use super::pace::Admission;
use super::{Inner, address};
use crate::telemetry::Chain;

/// What a flight came to; `None` while it is under way.
pub(super) type Flight = watch::Receiver<Option<Result<Held, GatherError>>>;

impl Inner {
    pub(super) async fn get(
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

    pub(super) fn held(&self, need: &Need) -> Option<Held> {
        lock(&self.cache).take(need, "", (self.clock)())
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

    /// Whether it failed so lately that nobody should be asked while no evidence needs it.
    pub(super) fn is_resting(&self, need: &Need, now: SystemTime) -> bool {
        let cache = lock(&self.cache);
        let age = { cache.failure(need) }.and_then(|failure| to_ms(now).checked_sub(failure.at_ms));
        age.is_some_and(|age| u128::from(age) < REST.as_millis())
    }

    /// Joins the flight for an object, or starts one.
    pub(super) fn start(self: &Arc<Self>, need: &Need) -> Result<Flight, GatherError> {
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
        Endorsement::verify_below(&self.roots, need, file, &authorities, (self.clock)())
    }

    /// Gets the authority of a chip's key, if that could help.
    async fn fetch_authority(self: &Arc<Self>, need: &Need, deadline: Instant) {
        let Need::AmdVcek { product, .. } = need else {
            return;
        };
        let chain = Need::AmdChain {
            product: *product,
            signer: AmdSigner::Vcek,
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
const ATTEMPTS: u32 = 3;
/// A fleet that starts at once with no cache: everybody else is told to try again.
const MAX_FLIGHTS: usize = 1024;
/// How long the background leaves alone what failed: a manifest that NVIDIA does not have is not asked for all day.
const REST: Duration = Duration::from_secs(600);
