//! Evidence, one module per kind of hardware.

pub mod az_vtpm;
pub mod cbor;
pub mod dcap;
pub mod nitro;
pub mod nvidia_gpu;
pub mod received;
pub mod sev_snp;
pub mod simulated;
pub mod tpm;
pub mod x509;

use vouchsafe_attestation::binding::framed;
use vouchsafe_attestation::claims::EvidenceKind;

use self::received::Files;
use self::tpm::pcr::PcrValues;
use crate::dossier::Kind;

/// One piece of evidence, as received.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// Of a TPM.
    Tpm(tpm::Evidence),
    /// Made up.
    Simulated(simulated::Evidence),
    /// Of AMD SEV-SNP.
    SevSnp(received::SevSnp),
    /// Of Intel TDX.
    Tdx(received::Tdx),
    /// Of Azure's vTPM above AMD SEV-SNP.
    AzSnpVtpm(received::AzVtpm),
    /// Of Azure's vTPM above Intel TDX.
    AzTdxVtpm(received::AzVtpm),
    /// Of one NVIDIA GPU or switch.
    NvidiaGpu(received::NvidiaGpu),
    /// Of AWS Nitro Enclaves.
    Nitro(received::Nitro),
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
            Self::SevSnp(_) => EvidenceKind::SevSnp,
            Self::Tdx(_) => EvidenceKind::Tdx,
            Self::AzSnpVtpm(_) => EvidenceKind::AzSnpVtpm,
            Self::AzTdxVtpm(_) => EvidenceKind::AzTdxVtpm,
            Self::NvidiaGpu(_) => EvidenceKind::NvidiaGpu,
            Self::Nitro(_) => EvidenceKind::Nitro,
        }
    }

    /// The files by which vendors' evidence is judged; `None` for a TPM and for simulations, which are judged as they
    /// are. Endorsements are found by these files as well.
    pub fn files(&self) -> Option<(Kind, Files)> {
        let files = match self {
            Self::Tpm(_) | Self::Simulated(_) => return None,
            Self::SevSnp(snp) => snp.files(),
            Self::Tdx(tdx) => tdx.files(),
            Self::AzSnpVtpm(vtpm) | Self::AzTdxVtpm(vtpm) => vtpm.files(),
            Self::NvidiaGpu(gpu) => gpu.files(),
            Self::Nitro(nitro) => nitro.files(),
        };
        Some((received::dossier_kind(self.kind())?, files))
    }

    /// What enters the digest of evidence that later devices sign over: every field, framed, in the order of the
    /// protocol file, as the attester frames it too.
    pub fn transcript(&self) -> Vec<u8> {
        match self {
            Self::Tpm(tpm) => {
                let mut fields = vec![tpm.quote.clone(), tpm.signature.clone()];
                fields.extend(pcr_fields(&tpm.pcrs));
                fields.extend([tpm.event_log.clone(), tpm.ima_log.clone()]);
                fields.push(tpm.ima_offset.to_be_bytes().to_vec());
                frame_all(&fields)
            }
            Self::Simulated(made_up) => framed(&[
                made_up.machine.as_bytes(),
                made_up.image.as_bytes(),
                &made_up.binding,
            ]),
            Self::SevSnp(snp) => framed(&[&snp.report, &snp.certificates]),
            Self::Tdx(tdx) => framed(&[&tdx.quote, &tdx.event_log]),
            Self::AzSnpVtpm(vtpm) | Self::AzTdxVtpm(vtpm) => {
                let mut fields = vec![
                    vtpm.hcl_report.clone(),
                    vtpm.quote.clone(),
                    vtpm.signature.clone(),
                ];
                fields.extend(pcr_fields(&vtpm.pcrs));
                fields.extend([vtpm.event_log.clone(), vtpm.hardware.clone()]);
                frame_all(&fields)
            }
            Self::NvidiaGpu(gpu) => framed(&[
                &gpu.report,
                &gpu.certificate_chain,
                gpu.architecture.as_bytes(),
                &[u8::from(gpu.is_switch)],
                &gpu.driver.map_or_else(Vec::new, |state| {
                    vec![state.confidential_compute.into(), state.devtools.into()]
                }),
            ]),
            Self::Nitro(nitro) => framed(&[&nitro.document]),
        }
    }
}

/// The name of each bank, then its values, each after its number.
fn pcr_fields(pcrs: &PcrValues) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    let mut bank = None;
    for (hash, pcr, value) in pcrs.iter() {
        if bank.replace(hash) != Some(hash) {
            fields.push(hash.as_str().into());
        }
        fields.extend([vec![pcr], value.to_vec()]);
    }
    fields
}

fn frame_all(fields: &[Vec<u8>]) -> Vec<u8> {
    let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
    framed(&fields)
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

/// Reads evidence without verifying anything. Evidence of hardware is looked at by [`crate::dossier::inspect`]: `None`.
///
/// # Errors
/// [`tpm::attest::ParseQuoteError`] when there is nothing to show.
pub fn inspect(evidence: &Evidence) -> Result<Option<Inspection>, tpm::attest::ParseQuoteError> {
    match evidence {
        Evidence::Tpm(tpm) => tpm::inspect(tpm).map(|seen| Some(Inspection::Tpm(seen))),
        Evidence::Simulated(made_up) => Ok(Some(Inspection::Simulated(made_up.clone()))),
        Evidence::SevSnp(_)
        | Evidence::Tdx(_)
        | Evidence::AzSnpVtpm(_)
        | Evidence::AzTdxVtpm(_)
        | Evidence::NvidiaGpu(_)
        | Evidence::Nitro(_) => Ok(None),
    }
}
