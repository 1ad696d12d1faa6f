//! The standing of instances: what proofs, silence and bad evidence change in their registrations.
//!
//! A revocation is one step in memory, which nothing interrupts, and is written down at once. It is in the store before it
//! is published ([`Registry::settle`]), unless that one write fails: then it is published all the same, and written by the next
//! flush. Where the store takes nothing at all, no revision is made either, and the log and a metric say so each time. What a proof or silence changes follows with the next flush: a restart begins its
//! watch anew anyway.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use vouchsafe_api::convert::attest::reattest::Proof;
use vouchsafe_api::convert::mesh_state::trust::InstanceTrust;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::{Withdrawal, Withdrawn};
use vouchsafe_verifier::evidence::tpm::TpmState;

use super::{Inner, Instance, Registry, Unwritten, write_instance};
use crate::reappraisal::Editions;
use crate::standing::brake::Grip;
use crate::standing::{Change, Duty};
use crate::store::StoreError;
use crate::telemetry::Chain;

/// A part that was proven between renewals.
#[derive(Clone, Debug)]
pub(crate) struct Confirming {
    /// Which.
    pub(crate) proof: Proof,
    /// What is known of the TPM now, where it was shown.
    pub(crate) tpm: Option<TpmState>,
    /// SHA-256 of the evidence, as it is archived.
    pub(crate) evidence: [u8; 32],
    /// When.
    pub(crate) now: SystemTime,
}

#[cfg(test)]
impl Confirming {
    pub(super) fn of(proof: Proof, now: SystemTime) -> Self {
        Self {
            proof,
            tpm: None,
            evidence: [0; 32],
            now,
        }
    }
}

/// What a confirmation led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Confirmation {
    /// How often that part is owed.
    pub(crate) interval: Duration,
    /// Whether it restored an instance that had lapsed.
    pub(crate) restored: bool,
}

impl Inner {
    /// Takes an instance in from the store.
    pub(super) fn recall(&mut self, instance: Instance) {
        let (id, duties) = (instance.id, instance.duties());
        let machine = &instance.hardware;
        (self.vigil).proven(id, &instance.workload, machine, &duties, Duration::ZERO);
        match instance.withdrawn.as_ref().map(|one| one.state) {
            // Named is nobody by what is stored, but by the policy in force.
            None | Some(Withdrawn::Named(_)) => {}
            Some(Withdrawn::Lapsed) => {
                self.vigil.set_aside(&id);
            }
            Some(Withdrawn::Revoked) => {
                self.vigil.revoke(&id);
            }
        }
        self.instances.insert(id, instance);
    }
}

impl Registry {
    /// From now on instances can be heard, and silence counts.
    pub fn ready(&self) {
        let elapsed = self.elapsed();
        self.lock().vigil.ready(elapsed);
    }

    /// An instance proved a part. `None` for one that owes no such part, is unknown or revoked.
    pub(crate) fn confirm(&self, id: &InstanceId, confirming: &Confirming) -> Option<Confirmation> {
        let elapsed = self.elapsed();
        let confirmation = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            let instance = inner.instances.get_mut(id)?;
            if instance.is_revoked() {
                return None;
            }
            let owed = instance.owed.get_mut(&Duty::Part(confirming.proof))?;
            owed.good = owed.good.max(confirming.now);
            let interval = owed.interval;
            // Of two that came at once the later one counts.
            let is_newer = |tpm: &TpmState| {
                { instance.tpm.as_ref() }.is_none_or(|held| held.clock.clock <= tpm.clock.clock)
            };
            if let Some(tpm) = confirming.tpm.as_ref().filter(|tpm| is_newer(tpm)) {
                instance.tpm = Some(tpm.clone());
            }
            instance.good_evidence = confirming.evidence;
            let restored = inner.vigil.confirmed(id, confirming.proof, elapsed);
            if restored {
                instance.withdrawn = None;
            }
            inner.dirty.insert(*id);
            Confirmation { interval, restored }
        };
        if confirmation.restored {
            self.notify();
        }
        Some(confirmation)
    }

    /// An instance wanted to prove something, and we could not listen.
    pub(crate) fn excuse(&self, id: &InstanceId, duty: Duty) {
        let elapsed = self.elapsed();
        self.lock().vigil.excused(id, duty, elapsed);
    }

    /// Withdraws the trust in an instance for good, unless `still` says that it is another one by now. Returns it where
    /// that is news; in the store when it returns.
    ///
    /// # Cancel safety
    /// It is withdrawn before anything is waited for; dropped then, the next flush writes it.
    pub(crate) async fn revoke(
        &self,
        id: &InstanceId,
        reason: &str,
        now: SystemTime,
        still: impl FnOnce(&Instance) -> bool,
    ) -> Option<Instance> {
        let revoked = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            let held = inner.instances.get_mut(id)?;
            if held.is_revoked() || !still(held) {
                return None;
            }
            held.withdrawn = Some(Withdrawal {
                instance: *id,
                state: Withdrawn::Revoked,
                reason: reason.to_owned(),
                since: now,
            });
            inner.vigil.revoke(id);
            inner.dirty.insert(*id);
            held.clone()
        };
        self.notify();
        self.revoked.send_modify(|number| *number += 1);
        if let Err(error) = self.flush(now).await {
            // It is cut all the same; the next flush writes it.
            tracing::error!(error = %Chain(&error), "failed to write a revocation down, will try again");
        }
        Some(revoked)
    }

    /// Writes down what instances were revoked for, where that is in memory only; in the store when it returns. What the
    /// store writes after this call was made, it writes after that.
    ///
    /// # Errors
    /// [`StoreError`]; the same is tried again at the next call, and by the next flush.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        let mut unwritten = Unwritten {
            registry: self,
            dirty: BTreeSet::new(),
        };
        // In turn with all that writes, also where nothing is left to write: it may be on its way to the store.
        let queued = self.queue(|inner| {
            let instances = &inner.instances;
            let revoked = { inner.dirty.iter() }.filter_map(|id| instances.get(id));
            let revoked: Vec<&Instance> = revoked.filter(|one| one.is_revoked()).collect();
            unwritten.dirty = revoked.iter().map(|one| one.id).collect();
            let writes = revoked.into_iter().map(write_instance).collect();
            inner.dirty.retain(|id| !unwritten.dirty.contains(id));
            writes
        });
        queued.await.done().await?;
        unwritten.dirty.clear();
        Ok(())
    }

    /// Learns that instances were revoked.
    pub(crate) fn revocations(&self) -> watch::Receiver<u64> {
        self.revoked.subscribe()
    }

    /// Whether an instance is revoked.
    pub(crate) fn is_revoked(&self, id: &InstanceId) -> bool {
        let inner = self.lock();
        inner.instances.get(id).is_some_and(Instance::is_revoked)
    }

    /// Instances with a certificate that is not over, of those that are wanted.
    pub(crate) fn select(
        &self,
        now: SystemTime,
        mut is_wanted: impl FnMut(&Instance) -> bool,
    ) -> Vec<InstanceId> {
        let inner = self.lock();
        let live = inner.instances.values().filter(|one| one.is_certified(now));
        live.filter(|one| is_wanted(one))
            .map(|one| one.id)
            .collect()
    }

    /// An instance was judged again, by the evidence of this certificate.
    pub(crate) fn judged(
        &self,
        id: &InstanceId,
        certificate_evidence: &[u8; 32],
        terms: [u8; 32],
        rests_on: Editions,
    ) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let held = inner.instances.get_mut(id);
        let held = held.filter(|one| one.certificate_evidence == *certificate_evidence);
        if let Some(held) = held {
            held.judged_by = terms;
            held.rests_on = rests_on;
            inner.dirty.insert(*id);
        }
    }

    /// Sets aside those whose place a new instance took: of the same workload, on the same machine, behind the same doors,
    /// and without an open stream. That is a sidecar that was started again; one that lives after all is told so by the
    /// mesh state, and proves itself.
    pub(crate) fn supersede(&self, new: &InstanceId, now: SystemTime) -> Vec<Instance> {
        let mut superseded = Vec::new();
        {
            let mut inner = self.lock();
            let inner = &mut *inner;
            let Some(new) = inner.instances.get(new).cloned() else {
                return superseded;
            };
            let (sessions, vigil) = (&inner.sessions, &mut inner.vigil);
            let others = inner.instances.values_mut().filter(|one| {
                let is_open = sessions
                    .get(&one.id)
                    .is_some_and(|session| session.streams > 0);
                one.id != new.id
                    && one.is_trusted(now)
                    && !is_open
                    && one.workload == new.workload
                    && one.hardware == new.hardware
                    && one.endpoints == new.endpoints
            });
            for one in others {
                if vigil.set_aside(&one.id) {
                    one.withdrawn = Some(Withdrawal {
                        instance: one.id,
                        state: Withdrawn::Lapsed,
                        reason: SUPERSEDED.to_owned(),
                        since: now,
                    });
                    inner.dirty.insert(one.id);
                    superseded.push(one.clone());
                }
            }
        }
        if !superseded.is_empty() {
            self.notify();
        }
        superseded
    }

    /// An instance says that it ends: nobody waits for its proofs, and nobody believes its certificate any more. Returns it
    /// where that is news. Fresh evidence would restore it, as it does any that lapsed.
    pub(crate) fn left(&self, id: &InstanceId, now: SystemTime) -> Option<Instance> {
        let left = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            let held = inner.instances.get_mut(id)?;
            if !inner.vigil.set_aside(id) {
                return None;
            }
            held.withdrawn = Some(Withdrawal {
                instance: *id,
                state: Withdrawn::Lapsed,
                reason: LEFT.to_owned(),
                since: now,
            });
            inner.dirty.insert(*id);
            held.clone()
        };
        self.notify();
        Some(left)
    }

    /// Looks who has been silent for too long. Returns those that lapsed, with the duty that each neglected and for how
    /// long, and what became of the brake.
    pub(crate) fn look(&self, now: SystemTime) -> (Vec<(Instance, Duty, Duration)>, Vec<Grip>) {
        let elapsed = self.elapsed();
        let (mut lapsed, mut grips) = (Vec::new(), Vec::new());
        {
            let mut inner = self.lock();
            let inner = &mut *inner;
            let steady = inner.steady.at(now, elapsed);
            let ended = { inner.instances.values() }
                .filter(|one| !one.is_certified(steady))
                .map(|one| one.id);
            for id in ended {
                inner.vigil.forget(&id);
            }
            for change in inner.vigil.look(elapsed) {
                match change {
                    Change::Brake(grip) => grips.push(grip),
                    Change::Lapsed {
                        instance,
                        duty,
                        silent,
                    } => {
                        let Some(held) = inner.instances.get_mut(&instance) else {
                            continue;
                        };
                        held.withdrawn = Some(Withdrawal {
                            instance,
                            state: Withdrawn::Lapsed,
                            reason: duty.as_str().to_owned(),
                            since: now,
                        });
                        inner.dirty.insert(instance);
                        lapsed.push((held.clone(), duty, silent));
                    }
                }
            }
        }
        if !lapsed.is_empty() {
            self.notify();
        }
        (lapsed, grips)
    }

    /// Scopes in which the brake holds.
    pub fn held(&self) -> Vec<Grip> {
        self.lock().vigil.held().cloned().collect()
    }

    /// The same as [`Self::withdrawals`], as the mesh state carries it.
    pub fn distrusted(&self, now: SystemTime) -> Vec<InstanceTrust> {
        let withdrawals = self.withdrawals(now).into_iter();
        withdrawals.map(InstanceTrust::from).collect()
    }

    /// Instances that nobody may talk to now, and whose certificates have not ended.
    pub fn withdrawals(&self, now: SystemTime) -> Vec<Withdrawal> {
        let mut inner = self.lock();
        // A clock that was set forward gives nobody trust back.
        let steady = inner.steady.at(now, self.elapsed());
        let inner = &*inner;
        let live = { inner.instances.values() }.filter(|one| one.is_certified(steady));
        live.filter_map(|one| inner.withdrawal(one)).collect()
    }
}

/// The word for an instance that said that it ends.
pub(crate) const LEFT: &str = "left";
/// The word for an instance whose place another one took.
pub(crate) const SUPERSEDED: &str = "superseded";
