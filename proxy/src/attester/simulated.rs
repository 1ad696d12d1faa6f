//! Made-up evidence of a made-up machine: for laptops and tests (promise 10).
//!
//! It follows the same protocol as real evidence, so that everything around it is exercised; it proves nothing.

use vouchsafe_api::convert::attest::{EvidenceBody, Offer, SimulatedEvidence};
use vouchsafe_attestation::binding::DeviceBinding;

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

    pub(super) fn collect(&self, binding: &DeviceBinding) -> EvidenceBody {
        EvidenceBody::Simulated(SimulatedEvidence {
            machine: self.machine.clone(),
            image: self.image.clone(),
            binding: *binding.as_bytes(),
        })
    }
}
