//! When to attest, how to bear refusal, and when to deny everything.
//!
//! The first start waits for a certificate as long as it takes. Each certificate is replaced at the slot that the
//! control plane gave with it, with new evidence and a new key. A renewal that fails leaves the certificate in use until
//! its end; then it is withdrawn, and everything is denied (promise 7).
//!
//! Times are mesh time; a sleep is cut into pieces, so that a machine that slept or a clock that was corrected is
//! noticed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::binding::Purpose;

use super::Identities;
use super::backoff::{Backoff, SaidOnce};
use super::client::{AttestClient, AttestError, Issuance};
use crate::attester::Attesters;
use crate::clock::MeshClock;
use crate::state::Svid;
use crate::telemetry::Chain;
use crate::telemetry::control::{ControlMetrics, unix_seconds};

/// Keeps the sidecar in possession of a valid certificate.
#[derive(Debug)]
pub struct Rotation {
    /// How to attest.
    pub client: AttestClient,
    /// What collects evidence here.
    pub attesters: Attesters,
    /// Where certificates are published.
    pub identities: Arc<Identities>,
    /// Counts outcomes.
    pub metrics: Arc<ControlMetrics>,
}

impl Rotation {
    /// Runs until it is dropped.
    ///
    /// # Cancel safety
    /// Safe: an attempt that is dropped published nothing.
    pub async fn run(mut self) {
        let mut said = SaidOnce::default();
        loop {
            let issuance = self.until_issued(&mut said).await;
            let clock = Arc::clone(&self.client.clock);
            let slot = renewal(clock.now(), issuance.renew_at, issuance.svid.not_after);
            self.publish(issuance);
            sleep_until(&clock, slot).await;
        }
    }

    async fn until_issued(&mut self, said: &mut SaidOnce) -> Issuance {
        let mut backoff = Backoff::default();
        let mut must_enroll = false;
        loop {
            let current = self.valid_svid();
            let purpose = match &current {
                Some(_) if !must_enroll => Purpose::Renew,
                _ => Purpose::Enroll,
            };
            // An enrolment presents nothing: a certificate that the control plane refuses must not keep us out.
            let presented = current.as_deref().filter(|_| purpose == Purpose::Renew);
            let attempt = self.client.attest(&self.attesters, purpose, presented);
            match attempt.await {
                Ok(issuance) => {
                    self.metrics
                        .attestations
                        .with_label_values(&["issued"])
                        .inc();
                    if said.recovered() {
                        tracing::info!("the control plane issues certificates again");
                    }
                    return issuance;
                }
                Err(error) => {
                    must_enroll |= error.asks_to_enroll();
                    self.report(&error, said, current.is_some());
                    tokio::time::sleep(backoff.delay(error.retry_after())).await;
                }
            }
        }
    }

    /// Says a failure once; the metric counts the rest.
    fn report(&self, error: &AttestError, said: &mut SaidOnce, still_valid: bool) {
        let reason = error.reason();
        self.metrics.attestations.with_label_values(&[reason]).inc();
        let chain = Chain(error).to_string();
        if !said.is_news(&chain) {
            return;
        }
        if still_valid {
            tracing::warn!(
                reason,
                error = chain,
                "no new certificate: the present one stays in use until its end, will keep trying"
            );
        } else {
            tracing::error!(
                reason,
                error = chain,
                "no certificate: everything is denied, will keep trying"
            );
        }
    }

    fn publish(&self, issuance: Issuance) {
        let Issuance {
            svid, bundle, peer, ..
        } = issuance;
        let class = peer.result().map_or("none", |result| result.class.as_str());
        tracing::info!(
            local_id = %peer.id(),
            class,
            serial = %peer.serial(),
            not_after = unix_seconds(svid.not_after),
            "certificate issued"
        );
        self.identities.replace_svid(svid, bundle);
    }

    fn valid_svid(&self) -> Option<Arc<Svid>> {
        let epoch = self.identities.current()?;
        (self.client.clock.now() < epoch.svid.not_after).then(|| Arc::clone(&epoch.svid))
    }
}

/// When to attest again: at the slot given, but never at once and never after two thirds of what is left.
fn renewal(now: SystemTime, slot: SystemTime, not_after: SystemTime) -> SystemTime {
    let left = not_after.duration_since(now).unwrap_or_default();
    let earliest = now + SHORTEST_INTERVAL;
    let latest = now + left * 2 / 3;
    slot.min(latest).max(earliest)
}

/// Withdraws the certificate at its end. Runs beside whatever replaces it, until it is dropped.
pub async fn withdraw_at_end(identities: Arc<Identities>, clock: Arc<MeshClock>) {
    loop {
        if identities.withdraw_ended(clock.now()) {
            tracing::error!("the certificate ended without a successor: everything is denied");
        }
        tokio::time::sleep(LONGEST_SLEEP).await;
    }
}

/// Sleeps until a mesh time.
async fn sleep_until(clock: &MeshClock, until: SystemTime) {
    while let Ok(left) = until.duration_since(clock.now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// Whatever slot is given: a control plane with a wrong clock must not make us spin.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// How late an end, a slot or a corrected clock may be noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_certificate_is_replaced_at_its_slot_and_never_at_its_end() {
        #[track_caller]
        fn check(slot: u64, expected: u64) {
            assert_eq!(renewal(at(1_000), at(slot), at(4_600)), at(expected));
        }
        check(1_600, 1_600);
        check(900, 1_001);
        check(1_000, 1_001);
        check(4_600, 3_400);
        check(u32::MAX.into(), 3_400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_follows_mesh_time() {
        let clock = MeshClock::authenticated();
        clock.observe_ms(1_800_000_000_000);
        // Already past: returns at once, however long ago.
        sleep_until(&clock, at(1_700_000_000)).await;
    }
}
