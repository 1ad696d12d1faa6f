//! Evidence from the wire, in the form that the verifier takes.

use vouchsafe_api::convert::attest::{
    AzVtpmEvidence, EvidenceBody, EvidenceItem as WireItem, PcrBank, PcrHash,
    PcrSelection as WireSelection,
};
use vouchsafe_verifier::evidence::nvidia_gpu::DriverState;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::pcr::{PcrSelection, PcrSet, PcrValues};
use vouchsafe_verifier::evidence::{Evidence, EvidenceItem, received, simulated, tpm};

use crate::refusal::Refused;

/// The items of a set, in their order.
pub(crate) fn items(wire: &[WireItem]) -> Result<Vec<EvidenceItem>, Refused> {
    wire.iter().map(item).collect()
}

fn item(item: &WireItem) -> Result<EvidenceItem, Refused> {
    let evidence = match item.body.clone() {
        EvidenceBody::Tpm(tpm) => Evidence::Tpm(tpm::Evidence {
            quote: tpm.quote,
            signature: tpm.signature,
            pcrs: pcr_values(tpm.pcrs)?,
            event_log: tpm.event_log,
            activated_credential: tpm.activated_credential,
            ima_log: tpm.ima_log,
            ima_offset: tpm.ima_offset,
        }),
        EvidenceBody::Simulated(made_up) => Evidence::Simulated(simulated::Evidence {
            machine: made_up.machine,
            image: made_up.image,
            binding: made_up.binding.to_vec(),
        }),
        EvidenceBody::SevSnp(snp) => Evidence::SevSnp(received::SevSnp {
            report: snp.report,
            certificates: snp.certificates,
        }),
        EvidenceBody::Tdx(tdx) => Evidence::Tdx(received::Tdx {
            quote: tdx.quote,
            event_log: tdx.event_log,
        }),
        EvidenceBody::AzSnpVtpm(vtpm) => Evidence::AzSnpVtpm(az_vtpm(vtpm)?),
        EvidenceBody::AzTdxVtpm(vtpm) => Evidence::AzTdxVtpm(az_vtpm(vtpm)?),
        EvidenceBody::NvidiaGpu(gpu) => Evidence::NvidiaGpu(received::NvidiaGpu {
            report: gpu.report,
            certificate_chain: gpu.certificate_chain,
            architecture: gpu.architecture,
            is_switch: gpu.is_switch,
            driver: gpu.driver.map(|state| DriverState {
                confidential_compute: state.confidential_compute,
                devtools: state.devtools,
            }),
        }),
        EvidenceBody::Nitro(nitro) => Evidence::Nitro(received::Nitro {
            document: nitro.document,
        }),
    };
    Ok(EvidenceItem {
        index: item.index,
        evidence,
    })
}

fn az_vtpm(vtpm: AzVtpmEvidence) -> Result<received::AzVtpm, Refused> {
    Ok(received::AzVtpm {
        hcl_report: vtpm.hcl_report,
        quote: vtpm.quote,
        signature: vtpm.signature,
        pcrs: pcr_values(vtpm.pcrs)?,
        event_log: vtpm.event_log,
        hardware: vtpm.hardware,
    })
}

fn pcr_values(banks: Vec<PcrBank>) -> Result<PcrValues, Refused> {
    let mut pcrs = PcrValues::default();
    for bank in banks {
        for (pcr, value) in bank.values {
            pcrs.insert(algorithm(bank.hash), pcr, value)
                .map_err(|error| {
                    Refused::new(
                        "malformed_message",
                        "update the sidecar: its PCR values are not acceptable",
                        error.to_string(),
                    )
                })?;
        }
    }
    Ok(pcrs)
}

/// What a quote must cover, for the wire.
pub(crate) fn wire_selection(selection: &PcrSelection) -> Vec<WireSelection> {
    let bank = |(hash, pcrs): (HashAlgorithm, PcrSet)| WireSelection {
        hash: match hash {
            HashAlgorithm::Sha256 => PcrHash::Sha256,
            HashAlgorithm::Sha384 => PcrHash::Sha384,
        },
        pcrs: pcrs.iter().collect(),
    };
    selection.banks().map(bank).collect()
}

fn algorithm(hash: PcrHash) -> HashAlgorithm {
    match hash {
        PcrHash::Sha256 => HashAlgorithm::Sha256,
        PcrHash::Sha384 => HashAlgorithm::Sha384,
    }
}
