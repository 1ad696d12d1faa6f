//! Revocations by what they can be found by: there may be thousands, and every request asks.

use std::collections::HashMap;
use std::time::SystemTime;

use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::{Action, Withdrawal};
use vouchsafe_attestation::trust_domain::TrustDomain;

use super::compile::path_of;
use crate::revocation::{Bearer, Revocation, without_zeros};

/// All revocations of a policy: of documents, the sternest first, then of instances.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    all: Vec<Revocation>,
    /// How many are of documents.
    acts: usize,
    /// Place of the revocation of an instance.
    of_instances: HashMap<InstanceId, usize>,
    /// Places of those that name certificates, in ascending order.
    of_serials: HashMap<Box<[u8]>, Vec<usize>>,
    /// Of those that name no certificate, but keys.
    of_spkis: HashMap<[u8; 32], Vec<usize>>,
    /// Of those that name neither, but workloads: by the path of the SPIFFE ID.
    of_workloads: HashMap<Box<str>, Vec<usize>>,
    /// Of all others.
    of_anybody: Vec<usize>,
}

impl Revocations {
    /// Those of documents.
    pub(super) fn new<'d>(documents: impl Iterator<Item = &'d Revocation>) -> Self {
        let mut all: Vec<Revocation> = documents.cloned().collect();
        // Of several that mean one bearer the sternest counts.
        all.sort_by_key(|one| std::cmp::Reverse(one.action));
        let mut found = Self {
            acts: all.len(),
            ..Self::default()
        };
        for (place, one) in all.iter().enumerate() {
            // All that is written must hold, so one sort of names finds it; the rarest comes first.
            let named = &one.matches;
            if !named.serials.is_empty() {
                for serial in &named.serials {
                    let serial = serial.clone().into_boxed_slice();
                    found.of_serials.entry(serial).or_default().push(place);
                }
            } else if !named.spkis.is_empty() {
                for spki in &named.spkis {
                    found.of_spkis.entry(*spki).or_default().push(place);
                }
            } else if !named.workloads.is_empty() {
                for workload in &named.workloads {
                    let path = path_of(workload);
                    found.of_workloads.entry(path).or_default().push(place);
                }
            } else {
                found.of_anybody.push(place);
            }
        }
        found.all = all;
        found
    }

    /// Adds those of instances.
    pub(super) fn withdraw(&mut self, withdrawals: impl IntoIterator<Item = Withdrawal>) {
        for withdrawal in withdrawals {
            self.of_instances
                .insert(withdrawal.instance, self.all.len());
            self.all.push(Revocation::from(withdrawal));
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Revocation] {
        &self.all
    }

    /// Those of documents.
    pub(super) fn acts(&self) -> &[Revocation] {
        self.all.get(..self.acts).unwrap_or_default()
    }

    /// That of an instance.
    pub(super) fn of_instance(&self, instance: &InstanceId) -> Option<&Revocation> {
        self.all.get(*self.of_instances.get(instance)?)
    }

    /// The one that means a bearer now; of several the sternest. Allocates nothing.
    pub(super) fn of(
        &self,
        bearer: &Bearer<'_>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Option<&Revocation> {
        if self.all.is_empty() {
            return None;
        }
        let means = |one: &&Revocation| one.means(bearer, trust_domain, now);
        let instance = bearer.result.map(|result| &result.instance);
        let instance = instance.and_then(|instance| self.of_instance(instance));
        let instance = instance.filter(means);
        if instance.is_some_and(|one| one.action == Action::Cut) {
            return instance;
        }
        let serial = bearer.serial.filter(|_| !self.of_serials.is_empty());
        let serial = serial.and_then(|serial| self.of_serials.get(without_zeros(serial)));
        let spki = bearer.spki_sha256.filter(|_| !self.of_spkis.is_empty());
        let spki = spki.and_then(|spki| self.of_spkis.get(spki));
        let path = Some(bearer.id.path()).filter(|_| !self.of_workloads.is_empty());
        let path = path.and_then(|path| self.of_workloads.get(path));
        // Each list has the sternest first.
        let first = |places: &[usize]| {
            let mut places = places.iter().copied();
            places.find(|place| self.all.get(*place).as_ref().is_some_and(means))
        };
        let lists = [serial, spki, path, Some(&self.of_anybody)];
        let found = lists.into_iter().flatten();
        let act = found.filter_map(|places| first(places)).min();
        let act = act.and_then(|place| self.all.get(place));
        match (instance, act) {
            (Some(own), Some(act)) if own.action >= act.action => Some(own),
            (own, act) => act.or(own),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;
    use vouchsafe_attestation::result::AttestationResult;
    use vouchsafe_attestation::spiffe_id::SpiffeId;
    use vouchsafe_attestation::standing::Withdrawn;

    use super::*;
    use crate::policy::RuleSource;
    use crate::revocation::{Cause, IdPattern, Match};
    use crate::testing::attested;

    /// Which of a few serials, keys, workloads and patterns it names.
    type Wish = (Vec<u8>, Vec<u8>, Vec<u8>, bool, u8);

    fn revocation((serials, spkis, workloads, everybody, action): Wish) -> Revocation {
        let pattern = IdPattern::parse("spiffe://mesh.example/**").unwrap();
        Revocation {
            name: "platform/x".parse().unwrap(),
            matches: Match {
                serials: serials.into_iter().map(|one| vec![one + 1]).collect(),
                spkis: spkis.into_iter().map(|one| [one; 32]).collect(),
                workloads: { workloads.into_iter() }
                    .map(|one| format!("app/w{one}").parse().unwrap())
                    .collect(),
                spiffe_ids: Some(pattern).filter(|_| everybody).into_iter().collect(),
                ..Match::default()
            },
            action: Action::ALL[usize::from(action)],
            reason: "test".to_owned(),
            expires: None,
            source: RuleSource {
                document: "Revocation platform/x".to_owned(),
                file: "x.yaml".to_owned(),
                line: 1,
            },
            cause: Cause::Act,
        }
    }

    proptest! {
        #[test]
        fn what_is_found_by_index_is_as_stern_as_what_a_walk_over_all_finds(
            wishes in proptest::collection::vec((
                proptest::collection::vec(0u8..3, 0..3),
                proptest::collection::vec(0u8..3, 0..3),
                proptest::collection::vec(0u8..3, 0..3),
                any::<bool>(),
                0u8..3,
            ), 0..6),
            serial in 0u8..3,
            spki in 0u8..3,
            workload in 0u8..3,
            zeros in 0usize..2,
        ) {
            let all: Vec<Revocation> = wishes.into_iter().map(revocation).collect();
            let domain = "mesh.example".parse().unwrap();
            let id = SpiffeId::for_workload(&domain, &format!("app/w{workload}").parse().unwrap());
            let mut bytes = vec![0; zeros];
            bytes.push(serial + 1);
            let spki = [spki; 32];
            let bearer = Bearer {
                id: &id,
                serial: Some(&bytes),
                spki_sha256: Some(&spki),
                authority_spki_sha256: None,
                intermediate_spki_sha256: &[],
                result: None,
            };
            let found = Revocations::new(all.iter());
            let found = found.of(&bearer, &domain, UNIX_EPOCH).map(|one| one.action);
            let meaning = all.iter().filter(|one| one.means(&bearer, &domain, UNIX_EPOCH));
            prop_assert_eq!(found, meaning.map(|one| one.action).max());
        }
    }

    #[test]
    fn an_act_that_is_sterner_than_what_is_said_of_the_instance_counts() {
        let mut found = Revocations::new([revocation((vec![], vec![], vec![], true, 2))].iter());
        let instance = InstanceId([7; 16]);
        found.withdraw([Withdrawal {
            instance,
            state: Withdrawn::Named(Action::DenyNew),
            reason: "platform/x".to_owned(),
            since: UNIX_EPOCH,
        }]);
        let result = AttestationResult {
            instance,
            ..attested()
        };
        let domain = "mesh.example".parse().unwrap();
        let id = SpiffeId::for_workload(&domain, &"app/w0".parse().unwrap());
        let bearer = Bearer {
            id: &id,
            serial: None,
            spki_sha256: None,
            authority_spki_sha256: None,
            intermediate_spki_sha256: &[],
            result: Some(&result),
        };
        let found = found.of(&bearer, &domain, UNIX_EPOCH).unwrap();
        assert_eq!(found.action, Action::Cut);
    }
}
