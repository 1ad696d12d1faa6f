//! Certificates that instances bear, and revocations that name one.
//!
//! A certificate lives for an hour and is followed by the next within minutes, so whoever names one, by its serial number
//! or its key, means whoever bears that workload's name on that machine: with what it bears since, and with what it asks
//! for afresh. On machines that hide who they are it means the instance, and nobody new is let in.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::standing::{Withdrawal, Withdrawn};
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::revocation::{Bearer, Revocation, without_zeros};

use super::{Inner, Registry};
use crate::issuance::UNKNOWN_MACHINE;

/// A certificate that an instance bears, or bore last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// Its serial number.
    pub serial: Vec<u8>,
    /// SHA-256 of its public key.
    pub spki_sha256: [u8; 32],
    /// SHA-256 of the public key of the authority that signed it.
    pub authority_spki_sha256: [u8; 32],
    /// Its end.
    pub not_after: SystemTime,
}

impl Registry {
    /// Looks which instances these revocations name by a certificate, for [`Registry::withdrawals`]. An instance that is
    /// named is not forgotten, or its machine could come back before the revocation ends.
    pub fn name_by<'r>(
        &self,
        revocations: impl Iterator<Item = &'r Revocation>,
        domain: &TrustDomain,
        now: SystemTime,
    ) {
        let naming: Vec<&Revocation> = { revocations }
            .filter(|one| one.names_certificates(now))
            .collect();
        let mut inner = self.lock();
        let inner = &mut *inner;
        if naming.is_empty() {
            inner.named.clear();
            return;
        }
        // There may be thousands of revocations and of instances, and all wait for this.
        let serials = { naming.iter() }.flat_map(|one| &one.matches.serials);
        let serials: HashSet<&[u8]> = serials.map(Vec::as_slice).collect();
        let spkis = { naming.iter() }.flat_map(|one| &one.matches.spkis);
        let spkis: HashSet<&[u8; 32]> = spkis.collect();
        let is_named = |borne: &&Certificate| {
            serials.contains(without_zeros(&borne.serial)) || spkis.contains(&borne.spki_sha256)
        };
        let mut found: BTreeMap<(&WorkloadName, &str), &Revocation> = BTreeMap::new();
        let mut named = BTreeMap::new();
        for instance in inner.instances.values() {
            let mut certificates = instance.certificates.iter().filter(is_named).peekable();
            if certificates.peek().is_none() {
                continue;
            }
            let id = SpiffeId::for_workload(domain, &instance.workload);
            let certificates: Vec<&Certificate> = certificates.collect();
            let means = |one: &&&Revocation| {
                let mut certificates = certificates.iter();
                certificates.any(|borne| one.names(&borne.bearer(&id), domain, now))
            };
            let meaning = naming.iter().filter(means).copied();
            let Some(one) = meaning.max_by_key(|one| one.action) else {
                continue;
            };
            if instance.hardware == UNKNOWN_MACHINE {
                named.insert(instance.id, inner.naming(instance.id, one, now));
            } else {
                let place = (&instance.workload, instance.hardware.as_str());
                let sternest = found.entry(place).or_insert(one);
                if sternest.action < one.action {
                    *sternest = one;
                }
            }
        }
        for instance in inner.instances.values() {
            let place = (&instance.workload, instance.hardware.as_str());
            if let Some(one) = found.get(&place) {
                named.insert(instance.id, inner.naming(instance.id, one, now));
            }
        }
        inner.named = named;
    }

    /// The certificates of those that bear, or bore, a workload's name on a machine.
    pub fn borne(&self, workload: &WorkloadName, hardware: &str) -> Vec<Certificate> {
        let inner = self.lock();
        let those = { inner.instances.values() }
            .filter(|one| one.workload == *workload && one.hardware == hardware);
        those.flat_map(|one| one.certificates.clone()).collect()
    }
}

impl Inner {
    /// That a revocation names an instance; since when, where it did so before.
    fn naming(&self, instance: InstanceId, one: &Revocation, now: SystemTime) -> Withdrawal {
        let named = Withdrawal {
            instance,
            state: Withdrawn::Named(one.action),
            reason: one.name.to_string(),
            since: now,
        };
        let before = self.named.get(&instance);
        let is_same =
            |before: &&Withdrawal| (before.state, &before.reason) == (named.state, &named.reason);
        let since = before.filter(is_same).map(|before| before.since);
        Withdrawal {
            since: since.unwrap_or(now),
            ..named
        }
    }

    /// Whether a revocation names whoever bears a workload's name on a machine.
    pub(super) fn names_place(&self, workload: &WorkloadName, hardware: &str) -> bool {
        let named = self.named.keys();
        let mut named = named.filter_map(|id| self.instances.get(id));
        hardware != UNKNOWN_MACHINE
            && named.any(|one| one.workload == *workload && one.hardware == hardware)
    }
}

impl Certificate {
    /// Whoever bears it, as far as it tells.
    pub(crate) fn bearer<'a>(&'a self, id: &'a SpiffeId) -> Bearer<'a> {
        Bearer {
            id,
            serial: Some(&self.serial),
            spki_sha256: Some(&self.spki_sha256),
            authority_spki_sha256: Some(&self.authority_spki_sha256),
            intermediate_spki_sha256: &[],
            result: None,
        }
    }
}

/// Adds those that were borne before and have not ended.
pub(super) fn keep(held: &mut Vec<Certificate>, before: &[Certificate], now: SystemTime) {
    let is_new = |one: &Certificate| held.iter().all(|new| new.serial != one.serial);
    let older = before.iter().rev();
    let older = older.filter(|one| one.not_after > now && is_new(one));
    let older: Vec<Certificate> = older.take(MAX_CERTIFICATES).cloned().collect();
    held.splice(..0, older.into_iter().rev());
}

/// A new one each half minute for an hour. Whoever renews more often than that has his oldest forgotten.
const MAX_CERTIFICATES: usize = 128;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn certificate(serial: u8, end: u64) -> Certificate {
        Certificate {
            serial: vec![serial],
            spki_sha256: [serial; 32],
            authority_spki_sha256: [0; 32],
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(end),
        }
    }

    #[test]
    fn what_was_borne_is_kept_until_it_ends_the_newest_last_and_within_bounds() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let mut held = vec![certificate(3, 300)];
        let before = [
            certificate(1, 100),
            certificate(2, 101),
            certificate(3, 300),
        ];
        keep(&mut held, &before, now);
        assert_eq!(held, [certificate(2, 101), certificate(3, 300)]);
        let many: Vec<Certificate> = (0..200).map(|serial| certificate(serial, 101)).collect();
        let mut held = vec![certificate(250, 300)];
        keep(&mut held, &many, now);
        assert_eq!(held.len(), MAX_CERTIFICATES + 1);
        assert_eq!(held.first(), Some(&certificate(72, 101)), "the newest stay");
        assert_eq!(held.last(), Some(&certificate(250, 300)));
    }
}
