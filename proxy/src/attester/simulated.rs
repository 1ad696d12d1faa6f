//! Made-up evidence of a made-up machine: for laptops and tests (promise 10).
//!
//! It follows the same protocol as real evidence, so that everything around it is exercised; it proves nothing.

use vouchsafe_api::convert::attest::{
    Challenge, EvidenceBody, EvidenceItem, Offer, SimulatedEvidence,
};
use vouchsafe_attestation::binding::{Base, EvidenceDigest};
use vouchsafe_attestation::claims::EvidenceKind;

use super::CollectError;

/// A made-up machine.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// Its name.
    pub machine: String,
    /// Name of the image that it claims to run.
    pub image: String,
}

impl Simulated {
    pub(super) fn offer(&self) -> Offer {
        Offer::Simulated {
            machine: self.machine.clone(),
        }
    }

    pub(super) fn collect(
        &self,
        base: &Base,
        challenge: &Challenge,
    ) -> Result<Vec<EvidenceItem>, CollectError> {
        let other = |kind: &&EvidenceKind| **kind != EvidenceKind::Simulated;
        if let Some(kind) = challenge.required.iter().find(other) {
            return Err(CollectError::NotOffered(*kind));
        }
        let binding = base.device(EvidenceKind::Simulated, 0, &EvidenceDigest::empty());
        Ok(vec![EvidenceItem {
            index: 0,
            body: EvidenceBody::Simulated(SimulatedEvidence {
                machine: self.machine.clone(),
                image: self.image.clone(),
                binding: *binding.as_bytes(),
            }),
        }])
    }
}
