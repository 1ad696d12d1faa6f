//! Evidence of Azure confidential VMs: a vTPM, whose key the hardware's report names.
//!
//! Azure's paravisor owns the hardware's report, and shows it in the vTPM: together with *runtime data*, whose digest is
//! the report's data and which names the vTPM's attestation key. That key quotes over our binding. Where the paravisor
//! takes user data, the binding is written there as well, so that the hardware itself signs afresh for this attestation.
//!
//! The report of TDX is for the local machine only; Azure's metadata service has it quoted.
//!
//! Source: Microsoft, *Guest attestation for confidential VMs: attestation report format*; TPM 2.0 Part 3 §31.

pub mod imds;

use std::time::{Duration, Instant};

use serde::Deserialize;
use vouchsafe_api::convert::attest::{PcrBank, PcrSelection};
use vouchsafe_config::proxy::{self, AzVtpm};

use super::CollectError;
use super::device_thread::DeviceThread;
use super::tpm::command::{Handle, Tpm};
use super::tpm::{connect, event_log, stable_quote};
use imds::Imds;

/// An Azure confidential VM.
#[derive(Debug)]
pub struct AzVtpmAttester {
    hardware: Hardware,
    ak_public: Vec<u8>,
    config: AzVtpm,
    imds: Imds,
    thread: DeviceThread,
}

/// What attests below the vTPM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hardware {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
}

/// What the vTPM and Azure gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Collected {
    /// The hardware's report with its runtime data, as the paravisor writes it.
    pub hcl_report: Vec<u8>,
    /// `TPMS_ATTEST`.
    pub quote: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The values that were quoted.
    pub pcrs: Vec<PcrBank>,
    /// TCG2 log; empty where the machine shows none.
    pub event_log: Vec<u8>,
    /// For TDX the quote of the trust domain; for SEV-SNP certificates in PEM, empty where Azure gave none.
    pub hardware: Vec<u8>,
}

impl AzVtpmAttester {
    /// Reads the vTPM's key, and what attests below it.
    ///
    /// # Errors
    /// [`CollectError`]; [`AzVtpmError`] on a machine that is no confidential VM of Azure.
    pub async fn open(config: &AzVtpm) -> Result<Self, CollectError> {
        let thread = DeviceThread::new("az_vtpm", DEADLINE);
        let tpm = config.tpm.clone();
        let (hardware, ak_public) = thread
            .run(move || {
                let mut tpm = connect(&tpm)?;
                let report = read_report(&mut tpm)?;
                let hardware = HclParts::of(&report).ok_or(AzVtpmError::Report)?.hardware;
                let public = tpm.read_public(AK)?.ok_or(AzVtpmError::NoKey)?;
                // The transcript names the key so; Azure's are.
                if public.get(2..4) != Some(&NAMED_BY_SHA256) {
                    return Err(AzVtpmError::KeyName.into());
                }
                Ok::<_, CollectError>((hardware, public))
            })
            .await?;
        Ok(Self {
            hardware,
            ak_public,
            config: config.clone(),
            imds: Imds::new(config.imds.clone()),
            thread,
        })
    }

    /// What attests below the vTPM.
    pub fn hardware(&self) -> Hardware {
        self.hardware
    }

    /// `TPMT_PUBLIC` of the key that quotes.
    pub fn ak_public(&self) -> &[u8] {
        &self.ak_public
    }

    /// Quotes `selection` over `nonce`, with a report over `user_data` where the paravisor takes such.
    ///
    /// # Errors
    /// [`CollectError`].
    ///
    /// # Cancel safety
    /// The vTPM finishes its commands even if nobody waits for the evidence.
    pub async fn collect(
        &self,
        nonce: &[u8; 32],
        user_data: &[u8; 64],
        selection: &[PcrSelection],
    ) -> Result<Collected, CollectError> {
        let (tpm, hardware) = (self.config.tpm.clone(), self.hardware);
        let (nonce, user_data, selection) = (*nonce, *user_data, selection.to_vec());
        let mut collected = self
            .thread
            .run(move || quote(&tpm, hardware, &nonce, &user_data, &selection))
            .await?;
        collected.hardware = match self.hardware {
            Hardware::Tdx => {
                let parts = HclParts::of(&collected.hcl_report).ok_or(AzVtpmError::Report)?;
                let report = parts.td_report.ok_or(AzVtpmError::Report)?;
                self.imds
                    .td_quote(report)
                    .await
                    .map_err(AzVtpmError::Imds)?
            }
            Hardware::SevSnp => match self.imds.amd_certificates().await {
                Ok(certificates) => certificates,
                Err(error) => {
                    // They only save the control plane a look into its own store.
                    tracing::warn!(%error, "no certificates of the processor from Azure: attesting without");
                    Vec::new()
                }
            },
        };
        Ok(collected)
    }
}

fn quote(
    config: &proxy::Tpm,
    hardware: Hardware,
    nonce: &[u8; 32],
    user_data: &[u8; 64],
    selection: &[PcrSelection],
) -> Result<Collected, CollectError> {
    let mut tpm = connect(config)?;
    let hcl_report = fresh_report(&mut tpm, user_data, Instant::now() + USER_DATA_WAIT)?;
    let parts = HclParts::of(&hcl_report).ok_or(AzVtpmError::Report)?;
    if parts.hardware != hardware {
        return Err(CollectError::KeysChanged);
    }
    let (quote, pcrs) = stable_quote(&mut tpm, AK, nonce, selection)?;
    Ok(Collected {
        hcl_report,
        quote: quote.attest,
        signature: quote.signature,
        pcrs,
        event_log: event_log(config)?,
        hardware: Vec::new(),
    })
}

/// The report, over `user_data` where its runtime data has such a field.
fn fresh_report(
    tpm: &mut Tpm,
    user_data: &[u8; 64],
    until: Instant,
) -> Result<Vec<u8>, CollectError> {
    let first = read_report(tpm)?;
    let takes_user_data = HclParts::of(&first).is_some_and(|parts| parts.user_data().is_some());
    if !takes_user_data {
        return Ok(first);
    }
    tpm.write_nv(USER_DATA, user_data)?;
    let wanted = hex::encode(user_data);
    loop {
        let report = read_report(tpm)?;
        let found = HclParts::of(&report).and_then(|parts| parts.user_data());
        if found.is_some_and(|found| found.eq_ignore_ascii_case(&wanted)) {
            return Ok(report);
        }
        if Instant::now() >= until {
            return Err(AzVtpmError::UserData.into());
        }
        // The paravisor makes the report behind our back, within a second or two.
        std::thread::sleep(USER_DATA_PAUSE);
    }
}

fn read_report(tpm: &mut Tpm) -> Result<Vec<u8>, CollectError> {
    let report = tpm.read_nv(HCL_REPORT)?.ok_or(AzVtpmError::NoReport)?;
    match report.len() {
        0..=MAX_REPORT => Ok(report),
        _ => Err(AzVtpmError::Report.into()),
    }
}

/// What is read here of the paravisor's report; judging is the verifier's.
#[derive(Clone, Copy, Debug)]
pub struct HclParts<'a> {
    /// What attests.
    pub hardware: Hardware,
    /// Of TDX: the local report.
    pub td_report: Option<&'a [u8]>,
    runtime_data: &'a [u8],
}

#[derive(Deserialize)]
struct RuntimeData {
    #[serde(rename = "user-data")]
    user_data: Option<String>,
}

impl<'a> HclParts<'a> {
    /// Finds the parts; `None` where it is no such report.
    pub fn of(report: &'a [u8]) -> Option<Self> {
        let rest = report.strip_prefix(b"HCLA")?.get(HEADER - 4..)?;
        let (hardware_report, rest) = rest.split_at_checked(HARDWARE_REPORT)?;
        let (fields, rest) = rest.split_first_chunk::<20>()?;
        let [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            kind @ ..,
            _,
            _,
            _,
            _,
            l0,
            l1,
            l2,
            l3,
        ] = fields;
        let (hardware, td_report) = match kind {
            [2, 0, 0, 0] => (Hardware::SevSnp, None),
            [4, 0, 0, 0] => (Hardware::Tdx, Some(hardware_report.get(..TD_REPORT)?)),
            _ => return None,
        };
        let length = usize::try_from(u32::from_le_bytes([*l0, *l1, *l2, *l3])).ok()?;
        Some(Self {
            hardware,
            td_report,
            runtime_data: rest.get(..length)?,
        })
    }

    /// What the guest wrote, in hexadecimal; `None` where this paravisor takes none.
    pub fn user_data(&self) -> Option<String> {
        serde_json::from_slice::<RuntimeData>(self.runtime_data)
            .ok()?
            .user_data
    }
}

/// Why there is no evidence of an Azure confidential VM.
#[derive(Debug, thiserror::Error)]
pub enum AzVtpmError {
    /// The TPM is another one.
    #[error(
        "the TPM has no report at NV index 0x01400001: this is no confidential VM of Azure, use `tpm`, `sev_snp` or \
         `tdx` as its attester"
    )]
    NoReport,
    /// The TPM is another one.
    #[error("the TPM has no key at handle 0x81000003: this is no confidential VM of Azure")]
    NoKey,
    /// The key is of another sort than Azure's.
    #[error("the TPM's key at handle 0x81000003 is not named by SHA-256, as Azure's are")]
    KeyName,
    /// The report is of another shape.
    #[error("the paravisor's report can't be read")]
    Report,
    /// The report does not follow.
    #[error("the paravisor's report does not take up the user data that was written")]
    UserData,
    /// There is no quote of the trust domain.
    #[error("no quote of the trust domain")]
    Imds(#[source] imds::ImdsError),
}

const HCL_REPORT: Handle = Handle(0x0140_0001);
const USER_DATA: Handle = Handle(0x0140_0002);
const AK: Handle = Handle(0x8100_0003);
const NAMED_BY_SHA256: [u8; 2] = [0x00, 0x0b];
const HEADER: usize = 32;
const HARDWARE_REPORT: usize = 1184;
const TD_REPORT: usize = 1024;
/// The paravisor's has 2600 bytes.
const MAX_REPORT: usize = 16 * 1024;
const USER_DATA_WAIT: Duration = Duration::from_secs(10);
const USER_DATA_PAUSE: Duration = Duration::from_millis(250);
/// The vTPM's own deadline is 60 s for all commands of a connection.
const DEADLINE: Duration = Duration::from_secs(75);

#[cfg(test)]
mod tests;
