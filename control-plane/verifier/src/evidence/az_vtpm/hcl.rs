//! What Azure's paravisor writes into the vTPM: the hardware's report, and the runtime data that it vouches for.
//!
//! Source: Microsoft, *Guest attestation for confidential VMs: attestation report format*.

use aws_lc_rs::digest;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::evidence::sev_snp;

/// What Azure's firmware writes: a report of the hardware, and the runtime data that it vouches for.
#[derive(Clone, Copy, Debug)]
pub struct HclReport<'a> {
    /// The hardware's report, as long as one of SEV-SNP.
    pub report: &'a [u8],
    /// What attests.
    pub hardware: Hardware,
    /// JSON, whose digest is the report data.
    pub runtime_data: &'a [u8],
}

/// What attests below a vTPM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hardware {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX: the report is for the local quoting enclave only, and a quote says the same remotely.
    Tdx,
}

/// Why bytes are not what Azure's firmware writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HclError {
    /// The bytes end inside a field.
    #[error("the report is cut short")]
    Truncated,
    /// A field has a value that is not known.
    #[error("`{0}` has a value that is not known")]
    Unknown(&'static str),
    /// Something other than zeros follows.
    #[error("something follows the runtime data")]
    Trailing,
}

impl<'a> HclReport<'a> {
    /// Reads a report.
    ///
    /// # Errors
    /// [`HclError`] unless the bytes are exactly one report over SHA-256 of its runtime data.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HclError> {
        if bytes.len() > MAX_BYTES {
            return Err(HclError::Trailing);
        }
        let (header, rest) = bytes.split_at_checked(32).ok_or(HclError::Truncated)?;
        let (magic, header) = header.split_at_checked(4).ok_or(HclError::Truncated)?;
        let [1 | 2, 0, 0, 0, _, _, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, ..] = header else {
            return Err(HclError::Unknown("header"));
        };
        if magic != b"HCLA" {
            return Err(HclError::Unknown("magic"));
        }
        let (report, rest) = rest
            .split_at_checked(sev_snp::report::Report::BYTES)
            .ok_or(HclError::Truncated)?;
        let (fields, rest) = rest.split_first_chunk::<20>().ok_or(HclError::Truncated)?;
        let field = |at: usize| -> u32 {
            let bytes = fields
                .get(at..at + 4)
                .and_then(|field| field.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let hardware = match field(8) {
            2 => Hardware::SevSnp,
            4 => Hardware::Tdx,
            _ => return Err(HclError::Unknown("report type")),
        };
        if field(4) != 1 || field(12) != SHA256 || field(0) != field(16).saturating_add(20) {
            return Err(HclError::Unknown("runtime data header"));
        }
        let length = usize::try_from(field(16)).map_err(|_| HclError::Truncated)?;
        let (runtime_data, padding) = rest.split_at_checked(length).ok_or(HclError::Truncated)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(HclError::Trailing);
        }
        Ok(Self {
            report,
            hardware,
            runtime_data,
        })
    }

    /// What the report data must be.
    pub(super) fn report_data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        let (head, _) = data.split_at_mut(32);
        head.copy_from_slice(digest::digest(&digest::SHA256, self.runtime_data).as_ref());
        data
    }

    /// What the runtime data says; `None` if it is not what Azure's firmware writes.
    pub(super) fn claims(&self) -> Option<RuntimeData> {
        serde_json::from_slice(self.runtime_data).ok()
    }
}

impl RuntimeData {
    /// The vTPM's attestation key, if exactly one is named.
    pub(super) fn key(&self) -> Option<RsaPublicKeyComponents<Vec<u8>>> {
        let mut keys = self
            .keys
            .iter()
            .filter(|key| key.kid == "HCLAkPub" && key.kty == "RSA");
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return None;
        };
        Some(RsaPublicKeyComponents {
            n: URL_SAFE_NO_PAD.decode(&key.n).ok()?,
            e: URL_SAFE_NO_PAD.decode(&key.e).ok()?,
        })
    }
}

/// Runtime data, as far as it is read.
#[derive(Deserialize)]
pub(super) struct RuntimeData {
    keys: Vec<Key>,
    #[serde(default, rename = "vm-configuration")]
    pub(super) configuration: Configuration,
    #[serde(default, rename = "user-data")]
    pub(super) user_data: Option<String>,
}

/// How Azure started the machine.
#[derive(Default, Deserialize)]
pub(super) struct Configuration {
    #[serde(default, rename = "secure-boot")]
    pub(super) secure_boot: Option<bool>,
    #[serde(default, rename = "console-enabled")]
    pub(super) console: Option<bool>,
    #[serde(default, rename = "vmUniqueId")]
    pub(super) vm_unique_id: Option<String>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    kty: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

/// The vTPM's space for the report has 2600 bytes.
const MAX_BYTES: usize = 16 * 1024;
const SHA256: u32 = 1;
