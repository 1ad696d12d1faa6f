//! Evidence of hardware as it was received in an attestation, and as the files that its verifiers take.
//!
//! What vendors' verifiers judge is a [dossier](crate::dossier): the same files that an auditor has. So one piece of
//! evidence becomes files here, under names that say what they are, and a live attestation is judged by the very code
//! that judges files.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use vouchsafe_attestation::claims::EvidenceKind;

use crate::dossier::{File, Kind};
use crate::evidence::nvidia_gpu::{Device, DriverState, Stated};
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::pcr::PcrValues;
use crate::evidence::x509;

/// A report of AMD SEV-SNP.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SevSnp {
    /// The report.
    pub report: Vec<u8>,
    /// The table of GUIDs and certificates as the host gave it; empty where it gave none.
    pub certificates: Vec<u8>,
}

/// A quote of Intel TDX.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tdx {
    /// The quote.
    pub quote: Vec<u8>,
    /// CCEL; empty where the machine has none.
    pub event_log: Vec<u8>,
}

/// A quote of Azure's vTPM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AzVtpm {
    /// The hardware's report and the runtime data.
    pub hcl_report: Vec<u8>,
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// Values of the quoted PCRs.
    pub pcrs: PcrValues,
    /// TCG2 log; empty where the machine has none.
    pub event_log: Vec<u8>,
    /// TDX: the quote of the trust domain. SEV-SNP: certificates in PEM, or empty.
    pub hardware: Vec<u8>,
}

/// A report of an NVIDIA GPU or switch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NvidiaGpu {
    /// SPDM request and response.
    pub report: Vec<u8>,
    /// PEM, leaf first.
    pub certificate_chain: Vec<u8>,
    /// The driver's word for the generation; proves nothing.
    pub architecture: String,
    /// The attester's word that it is a switch; proves nothing.
    pub is_switch: bool,
    /// What the driver says of the GPU's mode.
    pub driver: Option<DriverState>,
}

/// A document of AWS Nitro Enclaves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Nitro {
    /// COSE_Sign1.
    pub document: Vec<u8>,
}

/// A piece of evidence as files.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Files(Vec<(&'static str, Vec<u8>)>);

impl Files {
    /// The files, by name.
    pub fn iter(&self) -> impl Iterator<Item = File<'_>> {
        { self.0.iter() }.map(|(name, bytes)| File { name, bytes })
    }

    fn push(&mut self, name: &'static str, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.0.push((name, bytes));
        }
    }
}

impl SevSnp {
    pub(crate) fn files(&self) -> Files {
        let mut files = Files::default();
        files.push("report.bin", self.report.clone());
        for certificate in table(&self.certificates) {
            files.push("certificate.der", certificate.to_vec());
        }
        files
    }
}

impl Tdx {
    pub(crate) fn files(&self) -> Files {
        let mut files = Files::default();
        files.push("quote.bin", self.quote.clone());
        files.push("ccel.bin", self.event_log.clone());
        files
    }
}

impl AzVtpm {
    /// The form of Trustee. A signature of another scheme than the vTPM's stays as it is, and fails.
    pub(crate) fn files(&self) -> Files {
        let bare = self.signature.strip_prefix(RSASSA_SHA256);
        let bare = bare.and_then(|rest| rest.split_first_chunk::<2>());
        let bare =
            bare.filter(|(size, rest)| usize::from(u16::from_be_bytes(**size)) == rest.len());
        let signature = bare.map_or(self.signature.as_slice(), |(_, bare)| bare);
        let pcrs: Vec<String> = self
            .pcrs
            .iter()
            .map(|(_, _, value)| hex::encode(value))
            .collect();
        let written = json!({
            "hcl_report": URL_SAFE_NO_PAD.encode(&self.hcl_report),
            "tpm_quote": {
                "message": hex::encode(&self.quote),
                "signature": hex::encode(signature),
                "pcrs": pcrs,
            },
        });
        let mut files = Files::default();
        files.push("evidence.json", written.to_string().into_bytes());
        files.push("hardware.bin", self.hardware.clone());
        files.push("event_log.bin", self.event_log.clone());
        files
    }

    /// Whether the values are those of SHA-256 PCRs from 0 on, which is all that the form of files can say.
    pub(crate) fn has_plain_pcrs(&self) -> bool {
        let mut expected = 0_u8..;
        !self
            .pcrs
            .iter()
            .any(|(hash, pcr, _)| hash != HashAlgorithm::Sha256 || expected.next() != Some(pcr))
    }
}

impl NvidiaGpu {
    pub(crate) fn files(&self) -> Files {
        let mut files = Files::default();
        files.push("report.bin", self.report.clone());
        files.push("chain.pem", self.certificate_chain.clone());
        files
    }
}

impl NvidiaGpu {
    /// The device as its verifier takes it. What the attester says beside the report must not contradict it.
    pub(crate) fn device(&self) -> Device<'_> {
        Device {
            report: &self.report,
            chain: x509::certificates(&self.certificate_chain).unwrap_or_default(),
            stated: Stated {
                driver: self.driver,
                ..Stated::default()
            },
        }
    }
}

impl Nitro {
    pub(crate) fn files(&self) -> Files {
        let mut files = Files::default();
        files.push("document.cbor", self.document.clone());
        files
    }
}

/// Certificates of the table that SNP's host hands out: entries of GUID, offset and length until one of zeros
/// (AMD 56421 §4.1.8.1). What is no certificate is left out: the judgement says what it lacks.
pub(crate) fn table(bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let entries = bytes.chunks_exact(ENTRY_BYTES).take(MAX_ENTRIES);
    for entry in entries.take_while(|entry| entry.iter().any(|byte| *byte != 0)) {
        let field = |at: usize| {
            let bytes = entry.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(bytes)).ok()
        };
        let held = field(16)
            .zip(field(20))
            .and_then(|(offset, length)| bytes.get(offset..offset.checked_add(length)?));
        found.extend(held.filter(|held| x509::parse(held).is_ok()));
    }
    found
}

/// What verifiers of files call a kind; `None` for kinds that files can't be judged as.
pub(crate) fn dossier_kind(kind: EvidenceKind) -> Option<Kind> {
    match kind {
        EvidenceKind::SevSnp => Some(Kind::SevSnp),
        EvidenceKind::Tdx => Some(Kind::Tdx),
        EvidenceKind::AzSnpVtpm => Some(Kind::AzSnpVtpm),
        EvidenceKind::AzTdxVtpm => Some(Kind::AzTdxVtpm),
        EvidenceKind::NvidiaGpu => Some(Kind::NvidiaGpu),
        EvidenceKind::Nitro => Some(Kind::Nitro),
        EvidenceKind::Tpm | EvidenceKind::Simulated => None,
    }
}

const ENTRY_BYTES: usize = 24;
/// The table has five kinds of entries.
const MAX_ENTRIES: usize = 16;
/// `TPM_ALG_RSASSA`, `TPM_ALG_SHA256`.
const RSASSA_SHA256: &[u8] = &[0, 0x14, 0, 0x0b];

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::default();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn entry(offset: usize, length: usize) -> Vec<u8> {
        let mut entry = vec![7; 16];
        entry.extend(u32::try_from(offset).unwrap().to_le_bytes());
        entry.extend(u32::try_from(length).unwrap().to_le_bytes());
        entry
    }

    #[test]
    fn the_hosts_table_yields_its_certificates() {
        let der = certificate();
        let head = [entry(72, der.len()), entry(72, 4), vec![0; 24]].concat();
        let whole = [head, der.clone()].concat();
        assert_eq!(table(&whole), [der.as_slice()]);
        for end in 0..whole.len() {
            assert!(table(&whole[..end]).is_empty(), "{end}");
        }
        let wild = entry(usize::try_from(u32::MAX).unwrap(), 0xffff_ffff);
        assert!(table(&wild).is_empty());
    }

    #[test]
    fn values_of_a_vtpm_are_plain_only_from_register_0_on() {
        let with = |numbers: &[u8]| {
            let mut pcrs = PcrValues::default();
            for number in numbers {
                pcrs.insert(HashAlgorithm::Sha256, *number, vec![1; 32])
                    .unwrap();
            }
            AzVtpm {
                pcrs,
                ..AzVtpm::default()
            }
        };
        assert!(with(&[0, 1, 2]).has_plain_pcrs());
        assert!(!with(&[1, 2]).has_plain_pcrs());
        assert!(!with(&[0, 2]).has_plain_pcrs());
    }
}
