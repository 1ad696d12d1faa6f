//! What is due when: the renewal of everything, and the proofs of parts before it. Pure.
//!
//! The control plane says each slot; nothing here is ever earlier than that, and no traffic changes it. A machine that
//! slept finds every slot in the past and catches up once: what was missed is not repeated.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use vouchsafe_api::convert::attest::reattest::{Proof, Slot};
use vouchsafe_api::convert::mesh_state::renewal::PacedRenewal;
use vouchsafe_attestation::result::InstanceId;

/// What is to be done next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Due {
    /// Prove everything, for a new certificate.
    Renewal,
    /// Prove a part.
    Proof(Proof),
}

/// Slots of one certificate.
#[derive(Debug)]
pub(crate) struct Agenda {
    /// Whose certificate.
    pub(crate) instance: InstanceId,
    /// When it was issued.
    pub(crate) issued: SystemTime,
    renewal: SystemTime,
    proofs: BTreeMap<Proof, SystemTime>,
}

impl Agenda {
    /// The slots that came with a certificate.
    pub(crate) fn new(
        instance: InstanceId,
        issued: SystemTime,
        not_after: SystemTime,
        renewal: SystemTime,
        proofs: &[Slot],
    ) -> Self {
        // Never after two thirds of what is left, whatever slot is given.
        let left = not_after.duration_since(issued).unwrap_or_default();
        let latest = issued + left * 2 / 3;
        let proofs = proofs.iter();
        Self {
            instance,
            issued,
            renewal: not_at_once(renewal.min(latest), issued),
            proofs: proofs
                .map(|slot| (slot.proof, not_at_once(slot.at, issued)))
                .collect(),
        }
    }

    /// What comes next, and when. A renewal proves the parts too, so it goes first where both are due.
    pub(crate) fn next(&self, paced: &[PacedRenewal]) -> (SystemTime, Due) {
        let means_us = |paced: &&PacedRenewal| self.issued < paced.start;
        let forced = paced.iter().filter(means_us);
        let forced = forced.map(|paced| paced.place(self.instance));
        let renewal = forced.fold(self.renewal, SystemTime::min);
        let renewal = not_at_once(renewal, self.issued);
        let first = self.proofs.iter().min_by_key(|(_, at)| **at);
        match first {
            Some((proof, at)) if *at < renewal => (*at, Due::Proof(*proof)),
            Some(_) | None => (renewal, Due::Renewal),
        }
    }

    /// A part was proven: it is due again when the control plane says, or not before the renewal.
    pub(crate) fn proven(&mut self, proof: Proof, slots: &[Slot], now: SystemTime) {
        self.proofs.remove(&proof);
        for slot in slots {
            self.proofs.insert(slot.proof, not_at_once(slot.at, now));
        }
    }

    /// A part could not be proven: it is tried again then.
    pub(crate) fn put_off(&mut self, proof: Proof, until: SystemTime) {
        self.proofs.insert(proof, until);
    }
}

fn not_at_once(slot: SystemTime, now: SystemTime) -> SystemTime {
    slot.max(now + SHORTEST_INTERVAL)
}

/// Whatever slot is given: a control plane with a wrong clock must not make us spin.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn slot(proof: Proof, seconds: u64) -> Slot {
        let at = at(seconds);
        Slot { proof, at }
    }

    /// Issued at 1000 for an hour.
    fn agenda(renewal: u64, proofs: &[Slot]) -> Agenda {
        Agenda::new(
            InstanceId([0x80; 16]),
            at(1_000),
            at(4_600),
            at(renewal),
            proofs,
        )
    }

    #[test]
    fn a_certificate_is_replaced_at_its_slot_and_never_at_its_end() {
        #[track_caller]
        fn check(slot: u64, expected: SystemTime) {
            assert_eq!(agenda(slot, &[]).next(&[]), (expected, Due::Renewal));
        }
        check(1_600, at(1_600));
        check(900, at(1_000) + SHORTEST_INTERVAL);
        check(4_600, at(3_400));
        check(u32::MAX.into(), at(3_400));
    }

    #[test]
    fn parts_are_proven_at_their_slots_and_the_renewal_proves_them_all() {
        let log = Due::Proof(Proof::TpmLog);
        let mut agenda = agenda(
            1_590,
            &[slot(Proof::TpmLog, 1_060), slot(Proof::Gpu, 1_300)],
        );
        assert_eq!(agenda.next(&[]), (at(1_060), log));
        agenda.proven(Proof::TpmLog, &[slot(Proof::TpmLog, 1_120)], at(1_061));
        assert_eq!(agenda.next(&[]), (at(1_120), log));
        agenda.put_off(Proof::TpmLog, at(1_125));
        assert_eq!(agenda.next(&[]), (at(1_125), log));
        agenda.proven(Proof::TpmLog, &[], at(1_126));
        assert_eq!(agenda.next(&[]), (at(1_300), Due::Proof(Proof::Gpu)));
        agenda.proven(Proof::Gpu, &[slot(Proof::Gpu, 1_600)], at(1_301));
        assert_eq!(agenda.next(&[]), (at(1_590), Due::Renewal));
    }

    #[test]
    fn no_slot_makes_us_spin() {
        let mut agenda = agenda(1_590, &[slot(Proof::TpmLog, 10)]);
        assert_eq!(agenda.next(&[]).0, at(1_000) + SHORTEST_INTERVAL);
        agenda.proven(Proof::TpmLog, &[slot(Proof::TpmLog, 10)], at(1_200));
        assert_eq!(agenda.next(&[]).0, at(1_200) + SHORTEST_INTERVAL);
    }

    #[test]
    fn a_forced_renewal_means_older_certificates_and_gives_each_its_place() {
        let paced = |start| PacedRenewal {
            start: at(start),
            over: Duration::from_secs(200),
        };
        let agenda = agenda(1_590, &[]);
        // Half of the instances have a lower number than 0x8080….
        let (place, _) = agenda.next(&[paced(1_100)]);
        assert!(place > at(1_200) && place < at(1_201), "{place:?}");
        assert_eq!(agenda.next(&[paced(1_000)]).0, at(1_590));
        assert_eq!(agenda.next(&[paced(2_000)]).0, at(1_590));
        let (place, _) = agenda.next(&[paced(2_000), paced(1_100)]);
        assert!(place < at(1_201));
    }
}
