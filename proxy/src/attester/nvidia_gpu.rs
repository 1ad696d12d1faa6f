//! Reports of NVIDIA GPUs in confidential-computing mode, through NVIDIA's management library.
//!
//! The library is loaded when GPUs are asked for and not before, so that a sidecar without `nvidia_gpu` runs on machines
//! without any driver. Each report is checked to answer the nonce that was given before it goes anywhere: early
//! interfaces of this library gave reports without one, which anybody could have kept from before.
//!
//! NVSwitches are left out: they attest through a library whose interface NVIDIA does not publish. A machine in
//! protected-PCIe mode, whose GPUs rely on them, says so in its GPUs' reports, and the verifier judges that.
//!
//! Source: NVML API reference; DMTF DSP0274 §10.11 (the report's request).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use vouchsafe_config::proxy::NvidiaGpu;
use vouchsafe_device::nvml::{self, MultiGpu, Nvml, NvmlError};

use super::der::{INTEGER, element, to_be_signed};
use super::device_thread::{DeviceThread, DeviceThreadError};

/// The GPUs of this machine.
#[derive(Debug)]
pub struct GpuAttester {
    library: Option<PathBuf>,
    thread: DeviceThread,
    machine: Machine,
    /// Between two GPUs of one attestation.
    open: Arc<Mutex<Option<Nvml>>>,
}

/// What the machine says about its GPUs. Not evidence: their own reports are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Machine {
    /// How many there are.
    pub count: u32,
    /// Version of the driver.
    pub driver: String,
    /// Whether tools may look inside.
    pub devtools: bool,
    /// Whether GPUs and switches trust each other.
    pub protected_pcie: bool,
}

/// What one GPU says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GpuReport {
    /// SPDM request and response.
    pub report: Vec<u8>,
    /// PEM, leaf first.
    pub certificate_chain: Vec<u8>,
    /// `hopper`, `blackwell`, …
    pub architecture: &'static str,
    /// Its unique name.
    pub uuid: String,
    /// Whether the driver says that confidential computing is on.
    pub confidential_compute: bool,
    /// Whether the driver says that its mode for developers is on.
    pub devtools: bool,
}

impl GpuAttester {
    /// Loads the library and counts the GPUs, all of which must be ready to attest.
    ///
    /// # Errors
    /// [`GpuError`].
    pub async fn open(config: &NvidiaGpu) -> Result<Self, GpuError> {
        let thread = DeviceThread::new("nvidia_gpu", DEADLINE);
        let library = config.library.clone();
        let open = library.clone();
        let machine = thread
            .run(move || look(&Nvml::open(open.as_deref())?))
            .await?;
        Ok(Self {
            library,
            thread,
            machine,
            open: Arc::default(),
        })
    }

    /// What was found.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The report of one GPU, by its number from 0, over `nonce`.
    ///
    /// The library stays open from the first GPU to the last, because starting it takes seconds, and no longer, because
    /// an open one keeps the driver from being replaced.
    ///
    /// # Errors
    /// [`GpuError`].
    ///
    /// # Cancel safety
    /// The library finishes its calls even if nobody waits for the report.
    pub async fn report(&self, index: u32, nonce: &[u8; 32]) -> Result<GpuReport, GpuError> {
        let (library, nonce, count) = (self.library.clone(), *nonce, self.machine.count);
        let open = Arc::clone(&self.open);
        self.thread
            .run(move || {
                // One thread at a time works on a device, so that nobody waits here for a thread that hangs.
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                let nvml = match open.take() {
                    Some(nvml) if index > 0 => nvml,
                    _ => Nvml::open(library.as_deref())?,
                };
                match nvml.count()? {
                    found if found == count => {}
                    found => {
                        let expected = count;
                        return Err(GpuError::CountChanged { expected, found });
                    }
                }
                let report = collect(&nvml, index, &nonce)?;
                *open = Some(nvml).filter(|_| index + 1 < count);
                Ok(report)
            })
            .await
    }
}

fn look(nvml: &Nvml) -> Result<Machine, GpuError> {
    let count = nvml.count()?;
    if !(1..=MAX_GPUS).contains(&count) {
        return Err(GpuError::Count(count));
    }
    let mode = nvml.confidential_compute()?;
    let protected_pcie = mode.multi_gpu == MultiGpu::ProtectedPcie;
    // In protected-PCIe mode the GPUs attest although confidential computing itself is off.
    if !mode.is_on && !protected_pcie {
        return Err(GpuError::ModeOff);
    }
    Ok(Machine {
        count,
        driver: nvml.driver_version()?,
        devtools: mode.devtools,
        protected_pcie,
    })
}

fn collect(nvml: &Nvml, index: u32, nonce: &[u8; 32]) -> Result<GpuReport, GpuError> {
    let gpu = nvml.gpu(index)?;
    let report = gpu.attest(nonce)?.report;
    if nonce_of(&report) != Some(nonce) {
        return Err(GpuError::OtherNonce { index });
    }
    let mode = nvml.confidential_compute()?;
    Ok(GpuReport {
        confidential_compute: mode.is_on,
        devtools: mode.devtools,
        report,
        certificate_chain: gpu.attestation_chain()?,
        architecture: architecture(gpu.architecture()?),
        uuid: gpu.uuid()?,
    })
}

/// The nonce that a report answers: of the SPDM request at its head.
pub fn nonce_of(report: &[u8]) -> Option<&[u8; 32]> {
    let (head, rest) = report.split_first_chunk::<4>()?;
    let is_request = *head == GET_MEASUREMENTS;
    rest.first_chunk().filter(|_| is_request)
}

/// NVIDIA's unique number of the device whose chain this is (PEM, leaf first), as a `Node` names it: the serial number of
/// the leaf in decimal. `None` where it can't be read; nothing else of the chain is read here.
pub fn ueid_of(chain: &[u8]) -> Option<String> {
    let leaf = CertificateDer::from_pem_slice(chain).ok()?;
    let serial = match element(to_be_signed(&leaf)?)? {
        // The version stands before it in all but the oldest form (RFC 5280 §4.1).
        (VERSION, _, rest) => element(rest)?,
        first => first,
    };
    match serial {
        (INTEGER, number, _) if number.len() <= MAX_SERIAL => Some(decimal(number)),
        _ => None,
    }
}

/// A number of any length, most significant byte first.
fn decimal(bytes: &[u8]) -> String {
    let mut number = bytes.to_vec();
    let mut digits = Vec::new();
    while number.iter().any(|byte| *byte != 0) {
        let mut rest = 0_u32;
        for byte in &mut number {
            let part = rest * 256 + u32::from(*byte);
            *byte = u8::try_from(part / 10).unwrap_or_default();
            rest = part % 10;
        }
        digits.extend(char::from_digit(rest, 10));
    }
    match digits.is_empty() {
        true => "0".to_owned(),
        false => digits.into_iter().rev().collect(),
    }
}

fn architecture(number: u32) -> &'static str {
    match number {
        9 => "hopper",
        10 => "blackwell",
        13 => "rubin",
        _ => "unknown",
    }
}

/// Why there is no evidence of the GPUs.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The library gave no answer.
    #[error(transparent)]
    Nvml(#[from] NvmlError),
    /// There is no GPU, or there are more than an attestation takes.
    #[error("this machine has {0} GPUs, where `nvidia_gpu` needs 1 to {MAX_GPUS}")]
    Count(u32),
    /// GPUs came or went.
    #[error("this machine had {expected} GPUs and has {found} now: restart the sidecar")]
    CountChanged {
        /// At start.
        expected: u32,
        /// Now.
        found: u32,
    },
    /// The GPUs run without protection.
    #[error(
        "the GPUs are not in confidential-computing mode: have the host turn it on, and boot this machine again"
    )]
    ModeOff,
    /// The report is the answer to somebody else's request.
    #[error("the report of GPU {index} answers another nonce than was given")]
    OtherNonce {
        /// Which GPU.
        index: u32,
    },
    /// It takes too long.
    #[error(transparent)]
    Thread(#[from] DeviceThreadError),
}

/// Whose name the library has where none is configured.
pub const DEFAULT_LIBRARY: &str = nvml::LIBRARY;
/// SPDM 1.1, `GET_MEASUREMENTS`, with signature, all measurements.
const GET_MEASUREMENTS: [u8; 4] = [0x11, 0xe0, 0x01, 0xff];
const VERSION: u8 = 0xa0;
/// Twenty bytes, and the zero of a positive number (RFC 5280 §4.1.2.2).
const MAX_SERIAL: usize = 21;
/// As many as the control plane takes.
const MAX_GPUS: u32 = 16;
/// A report takes a GPU up to two seconds; starting the library without persistence mode as long for each GPU.
const DEADLINE: Duration = Duration::from_secs(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nonce_of_a_report_is_that_of_its_request() {
        let mut report = [GET_MEASUREMENTS.as_slice(), &[7; 32], &[0]].concat();
        assert_eq!(nonce_of(&report), Some(&[7; 32]));
        for length in 0..36 {
            assert_eq!(nonce_of(&report[..length]), None);
        }
        report[1] = 0x60;
        assert_eq!(nonce_of(&report), None, "a response is no request");
    }

    #[test]
    fn the_number_of_a_device_is_its_leafs_in_decimal() {
        let number = |serial: &[u8]| {
            let mut params = rcgen::CertificateParams::default();
            params.serial_number = Some(rcgen::SerialNumber::from_slice(serial));
            let key = rcgen::KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            for end in (0..pem.len()).step_by(17) {
                ueid_of(&pem.as_bytes()[..end]);
            }
            ueid_of(pem.as_bytes())
        };
        assert_eq!(number(&[7, 1]).as_deref(), Some("1793"));
        assert_eq!(number(&[0x80]).as_deref(), Some("128"));
        let largest = "1461501637330902918203684832716283019655932542975";
        assert_eq!(number(&[0xff; 20]).as_deref(), Some(largest));
        assert_eq!(ueid_of(b""), None);
    }

    #[tokio::test]
    async fn a_machine_without_a_driver_is_told_what_to_do() {
        let config = NvidiaGpu {
            library: Some("/nonexistent/libnvidia-ml.so.1".into()),
        };
        let error = GpuAttester::open(&config).await.unwrap_err();
        assert!(
            error.to_string().contains("install the NVIDIA driver"),
            "{error}"
        );
    }
}
