//! Evidence: what each device said, and what of it later devices sign over.

use vouchsafe_attestation::binding::framed;
use vouchsafe_attestation::claims::EvidenceKind;

use super::{
    AzVtpmEvidence, Evidence, EvidenceBody, EvidenceItem, MAX_BANKS, NitroEvidence,
    NvidiaDriverState, NvidiaGpuEvidence, PCRS, PcrBank, PcrHash, SevSnpEvidence,
    SimulatedEvidence, TdxEvidence, TpmEvidence, ascending, pcr, some_word,
};
use crate::convert::{ConvertError, array, bytes, each, some_bytes};
use crate::v1;

impl EvidenceItem {
    /// The kind of the device.
    pub fn kind(&self) -> EvidenceKind {
        match self.body {
            EvidenceBody::Tpm(_) => EvidenceKind::Tpm,
            EvidenceBody::Simulated(_) => EvidenceKind::Simulated,
            EvidenceBody::SevSnp(_) => EvidenceKind::SevSnp,
            EvidenceBody::Tdx(_) => EvidenceKind::Tdx,
            EvidenceBody::AzSnpVtpm(_) => EvidenceKind::AzSnpVtpm,
            EvidenceBody::AzTdxVtpm(_) => EvidenceKind::AzTdxVtpm,
            EvidenceBody::NvidiaGpu(_) => EvidenceKind::NvidiaGpu,
            EvidenceBody::Nitro(_) => EvidenceKind::Nitro,
        }
    }

    /// Canonical bytes: what [`vouchsafe_attestation::binding::EvidenceDigest::after`] covers of this item.
    ///
    /// Every field in the order of the protocol file, framed by its length, whether the device signed it or not: so
    /// the binding root commits to all that was sent before it. Both ends compute it from the item itself. The activated
    /// credential alone is left out: both ends know it and compare it, and a record of the rest holds no secret.
    pub fn canonical(&self) -> Vec<u8> {
        match &self.body {
            EvidenceBody::Tpm(tpm) => {
                let mut fields: Vec<&[u8]> = vec![&tpm.quote, &tpm.signature];
                fields.extend(pcr_fields(&tpm.pcrs));
                let offset = tpm.ima_offset.to_be_bytes();
                fields.extend([tpm.event_log.as_slice(), &tpm.ima_log, &offset]);
                framed(&fields)
            }
            EvidenceBody::Simulated(simulated) => framed(&[
                simulated.machine.as_bytes(),
                simulated.image.as_bytes(),
                &simulated.binding,
            ]),
            EvidenceBody::SevSnp(snp) => framed(&[&snp.report, &snp.certificates]),
            EvidenceBody::Tdx(tdx) => framed(&[&tdx.quote, &tdx.event_log]),
            EvidenceBody::AzSnpVtpm(vtpm) | EvidenceBody::AzTdxVtpm(vtpm) => {
                let mut fields: Vec<&[u8]> = vec![&vtpm.hcl_report, &vtpm.quote, &vtpm.signature];
                fields.extend(pcr_fields(&vtpm.pcrs));
                fields.extend([vtpm.event_log.as_slice(), &vtpm.hardware]);
                framed(&fields)
            }
            EvidenceBody::NvidiaGpu(gpu) => framed(&[
                &gpu.report,
                &gpu.certificate_chain,
                gpu.architecture.as_bytes(),
                &[u8::from(gpu.is_switch)],
                &driver_field(gpu.driver),
            ]),
            EvidenceBody::Nitro(nitro) => framed(&[&nitro.document]),
        }
    }
}

/// Empty without a statement, else one byte for each.
fn driver_field(driver: Option<NvidiaDriverState>) -> Vec<u8> {
    let bytes =
        |state: NvidiaDriverState| vec![state.confidential_compute.into(), state.devtools.into()];
    driver.map(bytes).unwrap_or_default()
}

/// The name of each bank, then its values, each after its number.
fn pcr_fields(banks: &[PcrBank]) -> impl Iterator<Item = &[u8]> {
    banks.iter().flat_map(|bank| {
        let values = bank.values.iter();
        let values = values.flat_map(|(pcr, value)| [std::slice::from_ref(pcr), value.as_slice()]);
        std::iter::once(bank.hash.as_str().as_bytes()).chain(values)
    })
}

impl TryFrom<v1::Evidence> for Evidence {
    type Error = ConvertError;

    fn try_from(wire: v1::Evidence) -> Result<Self, ConvertError> {
        if wire.items.is_empty() {
            return Err(ConvertError::Missing("items"));
        }
        Ok(Self {
            csr: bytes("csr", MAX_CSR_BYTES, wire.csr)?,
            items: each("items", MAX_ITEMS, wire.items, EvidenceItem::try_from)?,
        })
    }
}

impl From<Evidence> for v1::Evidence {
    fn from(evidence: Evidence) -> Self {
        Self {
            csr: evidence.csr,
            items: evidence.items.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::EvidenceItem> for EvidenceItem {
    type Error = ConvertError;

    fn try_from(wire: v1::EvidenceItem) -> Result<Self, ConvertError> {
        use v1::evidence_item::Kind;
        let body = match wire.kind.ok_or(ConvertError::Missing("items.kind"))? {
            Kind::Tpm(tpm) => EvidenceBody::Tpm(tpm.try_into()?),
            Kind::Simulated(simulated) => EvidenceBody::Simulated(SimulatedEvidence {
                machine: some_word("machine", simulated.machine)?,
                image: some_word("image", simulated.image)?,
                binding: array("binding", &simulated.binding)?,
            }),
            Kind::SevSnp(snp) => EvidenceBody::SevSnp(SevSnpEvidence {
                report: some_bytes("report", MAX_SNP_REPORT_BYTES, snp.report)?,
                certificates: bytes("certificates", MAX_CERTIFICATES_BYTES, snp.certificates)?,
            }),
            Kind::Tdx(tdx) => EvidenceBody::Tdx(TdxEvidence {
                quote: some_bytes("quote", MAX_TD_QUOTE_BYTES, tdx.quote)?,
                event_log: bytes("event_log", MAX_EVENT_LOG_BYTES, tdx.event_log)?,
            }),
            Kind::AzSnpVtpm(vtpm) => EvidenceBody::AzSnpVtpm(vtpm.try_into()?),
            Kind::AzTdxVtpm(vtpm) => EvidenceBody::AzTdxVtpm(vtpm.try_into()?),
            Kind::NvidiaGpu(gpu) => EvidenceBody::NvidiaGpu(NvidiaGpuEvidence {
                report: some_bytes("report", MAX_GPU_REPORT_BYTES, gpu.report)?,
                certificate_chain: some_bytes(
                    "certificate_chain",
                    MAX_CERTIFICATES_BYTES,
                    gpu.certificate_chain,
                )?,
                architecture: some_word("architecture", gpu.architecture)?,
                is_switch: gpu.is_switch,
                driver: gpu.driver.map(|state| NvidiaDriverState {
                    confidential_compute: state.confidential_compute,
                    devtools: state.devtools,
                }),
            }),
            Kind::Nitro(nitro) => EvidenceBody::Nitro(NitroEvidence {
                document: some_bytes("document", MAX_DOCUMENT_BYTES, nitro.document)?,
            }),
        };
        let index = wire.index;
        if usize::try_from(index).map_or(true, |index| index >= MAX_ITEMS) {
            let expected = "below 32";
            return Err(ConvertError::Malformed {
                field: "index",
                expected,
            });
        }
        Ok(Self { index, body })
    }
}

impl From<EvidenceItem> for v1::EvidenceItem {
    fn from(item: EvidenceItem) -> Self {
        use v1::evidence_item::Kind;
        let kind = match item.body {
            EvidenceBody::Tpm(tpm) => Kind::Tpm(tpm.into()),
            EvidenceBody::Simulated(simulated) => Kind::Simulated(v1::SimulatedEvidence {
                machine: simulated.machine,
                image: simulated.image,
                binding: simulated.binding.to_vec(),
            }),
            EvidenceBody::SevSnp(snp) => Kind::SevSnp(v1::SevSnpEvidence {
                report: snp.report,
                certificates: snp.certificates,
            }),
            EvidenceBody::Tdx(tdx) => Kind::Tdx(v1::TdxEvidence {
                quote: tdx.quote,
                event_log: tdx.event_log,
            }),
            EvidenceBody::AzSnpVtpm(vtpm) => Kind::AzSnpVtpm(vtpm.into()),
            EvidenceBody::AzTdxVtpm(vtpm) => Kind::AzTdxVtpm(vtpm.into()),
            EvidenceBody::NvidiaGpu(gpu) => Kind::NvidiaGpu(v1::NvidiaGpuEvidence {
                report: gpu.report,
                certificate_chain: gpu.certificate_chain,
                architecture: gpu.architecture,
                is_switch: gpu.is_switch,
                driver: gpu.driver.map(|state| v1::NvidiaDriverState {
                    confidential_compute: state.confidential_compute,
                    devtools: state.devtools,
                }),
            }),
            EvidenceBody::Nitro(nitro) => Kind::Nitro(v1::NitroEvidence {
                document: nitro.document,
            }),
        };
        Self {
            index: item.index,
            kind: Some(kind),
        }
    }
}

impl TryFrom<v1::TpmEvidence> for TpmEvidence {
    type Error = ConvertError;

    fn try_from(wire: v1::TpmEvidence) -> Result<Self, ConvertError> {
        Ok(Self {
            quote: some_bytes("quote", MAX_QUOTE_BYTES, wire.quote)?,
            signature: some_bytes("signature", MAX_QUOTE_BYTES, wire.signature)?,
            pcrs: banks(wire.pcrs)?,
            event_log: bytes("event_log", MAX_EVENT_LOG_BYTES, wire.event_log)?,
            activated_credential: some_bytes(
                "activated_credential",
                MAX_CREDENTIAL_BYTES,
                wire.activated_credential,
            )?,
            ima_log: bytes("ima_log", MAX_IMA_LOG_BYTES, wire.ima_log)?,
            ima_offset: wire.ima_offset,
        })
    }
}

impl From<TpmEvidence> for v1::TpmEvidence {
    fn from(tpm: TpmEvidence) -> Self {
        Self {
            quote: tpm.quote,
            signature: tpm.signature,
            pcrs: tpm.pcrs.into_iter().map(Into::into).collect(),
            event_log: tpm.event_log,
            activated_credential: tpm.activated_credential,
            ima_log: tpm.ima_log,
            ima_offset: tpm.ima_offset,
        }
    }
}

impl TryFrom<v1::AzVtpmEvidence> for AzVtpmEvidence {
    type Error = ConvertError;

    fn try_from(wire: v1::AzVtpmEvidence) -> Result<Self, ConvertError> {
        Ok(Self {
            hcl_report: some_bytes("hcl_report", MAX_HCL_BYTES, wire.hcl_report)?,
            quote: some_bytes("quote", MAX_QUOTE_BYTES, wire.quote)?,
            signature: some_bytes("signature", MAX_QUOTE_BYTES, wire.signature)?,
            pcrs: banks(wire.pcrs)?,
            event_log: bytes("event_log", MAX_EVENT_LOG_BYTES, wire.event_log)?,
            hardware: bytes("hardware", MAX_CERTIFICATES_BYTES, wire.hardware)?,
        })
    }
}

impl From<AzVtpmEvidence> for v1::AzVtpmEvidence {
    fn from(vtpm: AzVtpmEvidence) -> Self {
        Self {
            hcl_report: vtpm.hcl_report,
            quote: vtpm.quote,
            signature: vtpm.signature,
            pcrs: vtpm.pcrs.into_iter().map(Into::into).collect(),
            event_log: vtpm.event_log,
            hardware: vtpm.hardware,
        }
    }
}

/// Banks in ascending order, so that one set of values has one form.
fn banks(wire: Vec<v1::PcrBank>) -> Result<Vec<PcrBank>, ConvertError> {
    let banks = each("pcrs", MAX_BANKS, wire, PcrBank::try_from)?;
    ascending("pcrs", banks.iter().map(|bank| &bank.hash))?;
    Ok(banks)
}

impl TryFrom<v1::PcrBank> for PcrBank {
    type Error = ConvertError;

    fn try_from(wire: v1::PcrBank) -> Result<Self, ConvertError> {
        let hash = PcrHash::parse(&wire.hash)?;
        let value = |wire: v1::PcrValue| {
            let number = pcr(wire.pcr)?;
            if wire.digest.len() != hash.digest_bytes() {
                let expected = "as long as its hash";
                return Err(ConvertError::Malformed {
                    field: "digest",
                    expected,
                });
            }
            Ok((number, wire.digest))
        };
        let values = each("values", PCRS, wire.values, value)?;
        ascending("values", values.iter().map(|(pcr, _)| pcr))?;
        Ok(Self { hash, values })
    }
}

impl From<PcrBank> for v1::PcrBank {
    fn from(bank: PcrBank) -> Self {
        let value = |(pcr, digest): (u8, Vec<u8>)| v1::PcrValue {
            pcr: pcr.into(),
            digest,
        };
        Self {
            hash: bank.hash.as_str().to_owned(),
            values: bank.values.into_iter().map(value).collect(),
        }
    }
}

const MAX_CSR_BYTES: usize = 8 * 1024;
/// As many as a result may have devices.
const MAX_ITEMS: usize = 32;
const MAX_QUOTE_BYTES: usize = 4 * 1024;
/// Firmware logs have 20 to 100 KiB; the rest is room for shim and boot loaders that log a lot.
const MAX_EVENT_LOG_BYTES: usize = 768 * 1024;
/// About 15,000 files: what a system measures until its first attestation, which has them all.
pub(super) const MAX_IMA_LOG_BYTES: usize = 2 * 1024 * 1024;
const MAX_CREDENTIAL_BYTES: usize = 128;
/// 1184 bytes in every version so far.
const MAX_SNP_REPORT_BYTES: usize = 4 * 1024;
/// The host's table has at most 16 KiB, a GPU's chain 5 KiB; a quote of a trust domain fits as well.
const MAX_CERTIFICATES_BYTES: usize = 32 * 1024;
/// What configfs-tsm hands out at most.
const MAX_TD_QUOTE_BYTES: usize = 32 * 1024;
/// The vTPM's space for the report has 2600 bytes.
const MAX_HCL_BYTES: usize = 16 * 1024;
/// What the driver hands out at most.
const MAX_GPU_REPORT_BYTES: usize = 16 * 1024;
/// What the Nitro Security Module hands out at most.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024;
