//! Simulated evidence: a kind of its own that proves nothing (promise 10).
//!
//! It goes through the same protocol and is bound like a device's, so that everything around it can be tried on a
//! laptop; but anyone can make it, so it counts only where a trust domain was created to accept it.

use vouchsafe_attestation::binding::DeviceBinding;
use vouchsafe_attestation::claims::{ClaimValue, Claims, Class, EvidenceKind};
use vouchsafe_attestation::result::DeviceResult;

use crate::appraise::Expected;
use crate::verdict::{Check, Findings, Refusal};

/// What a simulation claims.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// Name of the made-up machine.
    pub machine: String,
    /// Name of the made-up image.
    pub image: String,
    /// What a device would have signed.
    pub binding: Vec<u8>,
}

/// A simulation that passed its checks.
pub(crate) struct Verified {
    pub(crate) image: String,
    machine: String,
}

impl Verified {
    pub(crate) const CLASS: Class = Class::Simulated;

    /// The claims, once the image is known to be one that the profile names.
    pub(crate) fn device(&self, index: u32) -> DeviceResult {
        let mut claims = Claims::default();
        for (claim, value) in [("image", &self.image), ("machine", &self.machine)] {
            let value = ClaimValue::Text(value.clone());
            let set = claims.set(EvidenceKind::Simulated, claim, value);
            debug_assert!(set.is_ok(), "the catalog has this claim");
        }
        DeviceResult {
            kind: EvidenceKind::Simulated,
            index,
            claims,
        }
    }
}

/// Verifies what can be verified: that this trust domain accepts it, and that it is bound to this attestation.
pub(crate) fn verify(
    evidence: &Evidence,
    binding: &DeviceBinding,
    expected: &Expected<'_>,
    findings: &mut Findings,
) -> Result<Verified, Refusal> {
    findings.require(
        Check::SimulatedAccepted,
        expected.danger_accept_simulated,
        "the trust domain must have been created with `danger_accept_simulated`",
    )?;
    let Some(machine) = expected.simulated_machine else {
        return Err(findings.refuse(Check::Solicited, "no simulated machine was offered"));
    };
    findings.require(
        Check::SimulatedMachine,
        evidence.machine == machine,
        format!("offered `{machine}`, found `{}`", evidence.machine),
    )?;
    findings.require(
        Check::Binding,
        binding.matches(&evidence.binding),
        "the binding of this attestation",
    )?;
    Ok(Verified {
        image: evidence.image.clone(),
        machine: evidence.machine.clone(),
    })
}
