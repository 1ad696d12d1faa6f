//! Evidence, one module per kind of hardware.

pub mod az_vtpm;
pub mod cbor;
pub mod dcap;
pub mod nitro;
pub mod nvidia_gpu;
pub mod sev_snp;
pub mod simulated;
pub mod tpm;
pub mod x509;

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

    /// What enters the digest of evidence that later devices sign over: every field, framed, in the order of the
    /// protocol file, as the attester frames it too.
    pub(crate) fn transcript(&self) -> Vec<u8> {
        match self {
            Self::Tpm(tpm) => {
                let mut fields: Vec<Vec<u8>> = vec![tpm.quote.clone(), tpm.signature.clone()];
                let mut bank = None;
                for (hash, pcr, value) in tpm.pcrs.iter() {
                    if bank.replace(hash) != Some(hash) {
                        fields.push(hash.as_str().into());
                    }
                    fields.extend([vec![pcr], value.to_vec()]);
                }
                fields.push(tpm.event_log.clone());
                fields.push(tpm.activated_credential.clone());
                let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
                framed(&fields)
            }
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
