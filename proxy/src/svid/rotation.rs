//! When to attest, how to bear refusal, and when to deny everything.
//!
//! The first start waits for a certificate as long as it takes. Each certificate is replaced at the slot that the
//! control plane gave with it, with new evidence and a new key; parts are proven afresh before that, each at its slot
//! (`super::agenda`), and leave the certificate as it is. A renewal that fails leaves the certificate in use until
//! its end; then it is withdrawn, and everything is denied (promise 7).
//!
//! Times are mesh time; a sleep is cut into pieces, so that a machine that slept or a clock that was corrected is
//! noticed.

use std::sync::Arc;
use std::time::Duration;

use vouchsafe_api::convert::attest::reattest::Proof;
use vouchsafe_attestation::binding::Purpose;
use vouchsafe_attestation::standing::Withdrawn;

use super::Identities;
use super::agenda::{Agenda, Due};
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
        let mut must_enroll = false;
        loop {
            let issuance = self.until_issued(must_enroll, &mut said).await;
            let agenda = Agenda::new(
                issuance.instance,
                self.client.clock.now(),
                issuance.svid.not_after,
                issuance.renew_at,
                &issuance.reattest,
            );
            self.publish(issuance);
            must_enroll = self.until_renewal(agenda).await;
        }
    }

    /// Proves parts until everything is due. Says whether the instance must start anew.
    async fn until_renewal(&self, mut agenda: Agenda) -> bool {
        let clock = Arc::clone(&self.client.clock);
        let mut said = SaidOnce::default();
        let mut backoff = Backoff::default();
        loop {
            // Peers have been told not to believe us since: what would be proven later is proven now.
            let distrusted = self.identities.distrusted(agenda.instance);
            if let Some(trust) = distrusted.filter(|trust| trust.since >= agenda.issued) {
                tracing::warn!(
                    standing = trust.state.as_str(),
                    reason = trust.reason,
                    "the control plane withdrew its trust in this instance: proving everything afresh"
                );
                return trust.state == Withdrawn::Revoked;
            }
            let renewals = self.identities.renewals(&self.client.workload);
            let (at, due) = agenda.next(&renewals);
            match at.duration_since(clock.now()) {
                // In pieces, so that a machine that slept, a corrected clock or an announcement is noticed.
                Ok(left) if !left.is_zero() => {
                    tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
                    continue;
                }
                Ok(_) | Err(_) => {}
            }
            let proof = match due {
                Due::Renewal => return false,
                Due::Proof(proof) => proof,
            };
            let Some(svid) = self.valid_svid() else {
                return false;
            };
            match self.client.prove(&self.attesters, proof, &svid).await {
                Ok(slots) => {
                    self.count("confirmed");
                    backoff.reset();
                    if said.recovered() {
                        tracing::info!(proof = proof.as_str(), "the control plane confirms again");
                    }
                    agenda.proven(proof, &slots, clock.now());
                }
                Err(error) => {
                    self.report_proof(proof, &error, &mut said);
                    if error.asks_to_enroll() {
                        return true;
                    }
                    let delay = backoff.delay(error.retry_after());
                    agenda.put_off(proof, clock.now() + delay);
                }
            }
        }
    }

    async fn until_issued(&mut self, mut must_enroll: bool, said: &mut SaidOnce) -> Issuance {
        let mut backoff = Backoff::default();
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
                    self.count("issued");
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
        self.count(reason);
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

    fn report_proof(&self, proof: Proof, error: &AttestError, said: &mut SaidOnce) {
        let reason = error.reason();
        self.count(reason);
        let chain = Chain(error).to_string();
        if said.is_news(&chain) {
            tracing::warn!(
                proof = proof.as_str(),
                reason,
                error = chain,
                "a part was not confirmed: peers cut this instance if that goes on, will keep trying"
            );
        }
    }

    fn count(&self, outcome: &str) {
        let attestations = &self.metrics.attestations;
        attestations.with_label_values(&[outcome]).inc();
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

/// Withdraws the certificate at its end. Runs beside whatever replaces it, until it is dropped.
pub async fn withdraw_at_end(identities: Arc<Identities>, clock: Arc<MeshClock>) {
    loop {
        if identities.withdraw_ended(clock.now()) {
            tracing::error!("the certificate ended without a successor: everything is denied");
        }
        tokio::time::sleep(LONGEST_SLEEP).await;
    }
}

/// How late an end, a slot or a corrected clock may be noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
