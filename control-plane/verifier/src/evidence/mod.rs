//! Evidence, one module per kind of hardware.

pub mod simulated;
pub mod tpm;

use vouchsafe_attestation::binding::framed;
use vouchsafe_attestation::claims::EvidenceKind;

/// One piece of evidence, as received.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// Of a TPM.
    Tpm(tpm::Evidence),
    /// Made up.
    Simulated(simulated::Evidence),
}

/// A piece of evidence with its number among those of its kind, from 0.
#[derive(Clone, Debug)]
pub struct EvidenceItem {
    /// The number.
    pub index: u32,
    /// The evidence.
    pub evidence: Evidence,
}

impl Evidence {
    /// Its kind.
    pub fn kind(&self) -> EvidenceKind {
        match self {
            Self::Tpm(_) => EvidenceKind::Tpm,
            Self::Simulated(_) => EvidenceKind::Simulated,
        }
    }

    /// What enters the digest of evidence that later devices sign over: the same fields that the attester frames.
    pub(crate) fn transcript(&self) -> Vec<u8> {
        match self {
            Self::Tpm(tpm) => framed(&[&tpm.quote, &tpm.signature]),
            Self::Simulated(made_up) => framed(&[
                made_up.machine.as_bytes(),
                made_up.image.as_bytes(),
                &made_up.binding,
            ]),
        }
    }
}

/// What evidence *says*, unverified and bound to nothing: for people who look at a file. No function turns it into an
/// attestation result.
#[derive(Clone, Debug)]
pub enum Inspection {
    /// Of a TPM.
    Tpm(tpm::Inspection),
    /// Made up.
    Simulated(simulated::Evidence),
}

/// Reads evidence without verifying anything.
///
/// # Errors
/// [`tpm::attest::ParseQuoteError`] when there is nothing to show.
pub fn inspect(evidence: &Evidence) -> Result<Inspection, tpm::attest::ParseQuoteError> {
    match evidence {
        Evidence::Tpm(tpm) => tpm::inspect(tpm).map(Inspection::Tpm),
        Evidence::Simulated(made_up) => Ok(Inspection::Simulated(made_up.clone())),
    }
}
