//! NVIDIA's management library (NVML), loaded at run time: which GPUs there are, and what they attest.
//!
//! Calls block, some for seconds, and a broken driver can block for ever: callers give them a thread and a deadline.
//!
//! NVSwitches have no function here: they are reached through another library (NSCQ), whose interface NVIDIA does not
//! publish.
//!
//! Source: NVML API reference, *Confidential Compute*; `nvml.h`.

mod layout;

use std::ffi::{OsStr, c_char, c_uint};
use std::fmt;
use std::path::{Path, PathBuf};

use layout::{Functions, GpuCertificate, GpuReport, Handle, Status, SystemSettings, SystemState};

/// The library's name, which the dynamic linker finds where a driver is installed.
pub const LIBRARY: &str = "libnvidia-ml.so.1";

/// The library, loaded and started.
pub struct Nvml {
    functions: Functions,
    /// Keeps `functions` valid; fields drop in order, and nothing calls them after [`Nvml::drop`].
    _library: libloading::Library,
}

/// What the machine says about confidential computing. The GPU's own report says it again, signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConfidentialCompute {
    /// Whether the mode is on.
    pub is_on: bool,
    /// Whether tools may look inside.
    pub devtools: bool,
    /// How several GPUs work together.
    pub multi_gpu: MultiGpu,
}

/// How several GPUs work together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MultiGpu {
    /// Each for itself.
    None,
    /// Protected PCIe: GPUs and NVSwitches trust each other, and NVLink is not encrypted.
    ProtectedPcie,
    /// NVLink is encrypted.
    EncryptedNvlink,
    /// This driver does not say, or says something that is not known.
    Unknown,
}

/// One GPU. Valid as long as the library that it came from.
#[derive(Debug)]
pub struct Gpu<'a> {
    nvml: &'a Nvml,
    handle: Handle,
}

/// What a GPU said about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// SPDM request and response, with the signature over both.
    pub report: Vec<u8>,
    /// The same of the board's controller (CEC), where it attests as well.
    pub controller_report: Option<Vec<u8>>,
}

/// Why the library gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NvmlError {
    /// There is no such library, or it can't be loaded.
    #[error("failed to load NVIDIA's library `{}`: install the NVIDIA driver, or remove `nvidia_gpu` from the attesters", path.display())]
    Library {
        /// What was looked for.
        path: PathBuf,
        /// What the dynamic linker said.
        #[source]
        source: libloading::Error,
    },
    /// The library is too old to attest.
    #[error("NVIDIA's library has no `{0}`: GPUs attest from driver 535 on, install a newer one")]
    TooOld(&'static str),
    /// A function refused.
    #[error("`{function}` failed: {status}")]
    Refused {
        /// Its name.
        function: &'static str,
        /// What it said.
        status: Refusal,
    },
    /// A function wrote something that can't be.
    #[error("the answer of `{0}` can't be read")]
    Malformed(&'static str),
}

/// What a function of the library says other than success (`nvmlReturn_t`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refusal(pub u32);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.0 {
            1 => "the library was not started",
            2 => "it refuses its arguments",
            3 => "not supported: the GPU is not in confidential-computing mode, or can't attest",
            4 => "no permission: the sidecar's user must be able to open /dev/nvidia*",
            6 => "no such device",
            9 => "the kernel's driver is not loaded: load the `nvidia` module",
            10 => "the GPU did not answer in time",
            15 => "the GPU has fallen off the bus: reset it",
            16 => "the GPU must be reset",
            17 => "the operating system refused",
            18 => "library and kernel driver are of different versions: reboot after an update",
            21 => "no data",
            25 => "it knows another version of its argument",
            27 => "the GPU is not ready",
            28 => "there is no GPU",
            999 => "unknown error",
            _ => "",
        };
        if meaning.is_empty() {
            return write!(f, "code {}", self.0);
        }
        write!(f, "{meaning} (code {})", self.0)
    }
}

impl Nvml {
    /// Loads the library and starts it. Without a path the dynamic linker looks for [`LIBRARY`].
    ///
    /// # Errors
    /// [`NvmlError`]; a machine without a driver gives [`NvmlError::Library`].
    pub fn open(path: Option<&Path>) -> Result<Self, NvmlError> {
        let name = path.map_or(OsStr::new(LIBRARY), Path::as_os_str);
        let failed = |source| NvmlError::Library {
            path: name.into(),
            source,
        };
        // SAFETY: loading runs the library's initialisers. It is NVIDIA's own, or the one that the operator named, and
        // is trusted as the program itself.
        let library = unsafe { libloading::Library::new(name) }.map_err(failed)?;
        let functions = resolve(&library)?;
        // SAFETY: the function takes nothing; the library is loaded.
        let status = unsafe { (functions.init)() };
        check("nvmlInit_v2", status)?;
        Ok(Self {
            functions,
            _library: library,
        })
    }

    /// Version of the kernel's driver, such as `550.90.07`.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn driver_version(&self) -> Result<String, NvmlError> {
        text("nvmlSystemGetDriverVersion", |buffer, length| {
            // SAFETY: the library writes at most `length` bytes at `buffer`, which has as many.
            unsafe { (self.functions.driver_version)(buffer, length) }
        })
    }

    /// What the machine says about confidential computing.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn confidential_compute(&self) -> Result<ConfidentialCompute, NvmlError> {
        if let Some(function) = self.functions.settings {
            let mut settings = SystemSettings {
                version: SystemSettings::VERSION,
                ..SystemSettings::default()
            };
            // SAFETY: the version says which structure this is; the library writes no further than its size.
            let status = unsafe { function(&raw mut settings) };
            // A driver that knows the function and not this version of its argument still knows the older one.
            if status != ARGUMENT_VERSION_MISMATCH && status != NOT_SUPPORTED {
                check("nvmlSystemGetConfComputeSettings", status)?;
                return Ok(ConfidentialCompute {
                    is_on: settings.cc_feature != 0,
                    devtools: settings.dev_tools_mode != 0,
                    multi_gpu: match settings.multi_gpu_mode {
                        0 => MultiGpu::None,
                        1 => MultiGpu::ProtectedPcie,
                        2 => MultiGpu::EncryptedNvlink,
                        _ => MultiGpu::Unknown,
                    },
                });
            }
        }
        let mut state = SystemState::default();
        // SAFETY: the library writes one `nvmlConfComputeSystemState_t`.
        let status = unsafe { (self.functions.state)(&raw mut state) };
        check("nvmlSystemGetConfComputeState", status)?;
        Ok(ConfidentialCompute {
            is_on: state.cc_feature != 0,
            devtools: state.dev_tools_mode != 0,
            multi_gpu: MultiGpu::Unknown,
        })
    }

    /// How many GPUs there are.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn count(&self) -> Result<u32, NvmlError> {
        let mut count: c_uint = 0;
        // SAFETY: the library writes one unsigned integer.
        let status = unsafe { (self.functions.device_count)(&raw mut count) };
        check("nvmlDeviceGetCount_v2", status)?;
        Ok(count)
    }

    /// One GPU by its number, from 0.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn gpu(&self, index: u32) -> Result<Gpu<'_>, NvmlError> {
        let mut handle = Handle(std::ptr::null_mut());
        // SAFETY: the library writes one pointer.
        let status = unsafe { (self.functions.device_by_index)(index, &raw mut handle) };
        check("nvmlDeviceGetHandleByIndex_v2", status)?;
        Ok(Gpu { nvml: self, handle })
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: the function takes nothing; the library is still loaded, and no `Gpu` outlives `self`.
        let _status = unsafe { (self.functions.shutdown)() };
    }
}

impl fmt::Debug for Nvml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nvml(..)")
    }
}

impl Gpu<'_> {
    /// Its unique name, such as `GPU-2f…`.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn uuid(&self) -> Result<String, NvmlError> {
        text("nvmlDeviceGetUUID", |buffer, length| {
            // SAFETY: the handle is of this library; it writes at most `length` bytes at `buffer`.
            unsafe { (self.nvml.functions.uuid)(self.handle, buffer, length) }
        })
    }

    /// Version of its firmware, such as `96.00.9F.00.01`.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn vbios_version(&self) -> Result<String, NvmlError> {
        text("nvmlDeviceGetVbiosVersion", |buffer, length| {
            // SAFETY: the handle is of this library; it writes at most `length` bytes at `buffer`.
            unsafe { (self.nvml.functions.vbios_version)(self.handle, buffer, length) }
        })
    }

    /// Its architecture (`nvmlDeviceArchitecture_t`): 9 is Hopper, 10 is Blackwell.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn architecture(&self) -> Result<u32, NvmlError> {
        let mut architecture: c_uint = 0;
        // SAFETY: the handle is of this library, which writes one unsigned integer.
        let status =
            unsafe { (self.nvml.functions.architecture)(self.handle, &raw mut architecture) };
        check("nvmlDeviceGetArchitecture", status)?;
        Ok(architecture)
    }

    /// PEM chain of the key that signs its reports, leaf first; at most 5 KiB.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn attestation_chain(&self) -> Result<Vec<u8>, NvmlError> {
        const FUNCTION: &str = "nvmlDeviceGetConfComputeGpuCertificate";
        let mut certificate = GpuCertificate::new();
        // SAFETY: the handle is of this library, which writes one `nvmlConfComputeGpuCertificate_t`.
        let status =
            unsafe { (self.nvml.functions.certificate)(self.handle, &raw mut *certificate) };
        check(FUNCTION, status)?;
        let length = certificate.attestation_cert_chain_size;
        some_head(FUNCTION, &certificate.attestation_cert_chain, length)
    }

    /// A fresh report that is bound to a nonce; at most 8 KiB. Takes the GPU up to seconds.
    ///
    /// # Errors
    /// [`NvmlError`].
    pub fn attest(&self, nonce: &[u8; 32]) -> Result<Report, NvmlError> {
        const FUNCTION: &str = "nvmlDeviceGetConfComputeGpuAttestationReport";
        let mut report = GpuReport::new(*nonce);
        // SAFETY: the handle is of this library, which reads and writes one `nvmlConfComputeGpuAttestationReport_t`.
        let status = unsafe { (self.nvml.functions.report)(self.handle, &raw mut *report) };
        check(FUNCTION, status)?;
        let controller_report = match report.is_cec_report_present {
            0 => None,
            _ => Some(some_head(
                FUNCTION,
                &report.cec_report,
                report.cec_report_size,
            )?),
        };
        Ok(Report {
            report: some_head(FUNCTION, &report.report, report.report_size)?,
            controller_report,
        })
    }
}

fn resolve(library: &libloading::Library) -> Result<Functions, NvmlError> {
    macro_rules! symbol {
        ($name:literal) => {
            // SAFETY: the type is that of the function in `nvml.h`; versioned names never change their type.
            unsafe { library.get($name.as_bytes()) }
                .map(|symbol| *symbol)
                .map_err(|_| NvmlError::TooOld($name))
        };
    }
    Ok(Functions {
        init: symbol!("nvmlInit_v2")?,
        shutdown: symbol!("nvmlShutdown")?,
        driver_version: symbol!("nvmlSystemGetDriverVersion")?,
        device_count: symbol!("nvmlDeviceGetCount_v2")?,
        device_by_index: symbol!("nvmlDeviceGetHandleByIndex_v2")?,
        uuid: symbol!("nvmlDeviceGetUUID")?,
        vbios_version: symbol!("nvmlDeviceGetVbiosVersion")?,
        architecture: symbol!("nvmlDeviceGetArchitecture")?,
        certificate: symbol!("nvmlDeviceGetConfComputeGpuCertificate")?,
        report: symbol!("nvmlDeviceGetConfComputeGpuAttestationReport")?,
        state: symbol!("nvmlSystemGetConfComputeState")?,
        settings: symbol!("nvmlSystemGetConfComputeSettings").ok(),
    })
}

fn check(function: &'static str, status: Status) -> Result<(), NvmlError> {
    match status {
        0 => Ok(()),
        code => Err(NvmlError::Refused {
            function,
            status: Refusal(code),
        }),
    }
}

/// What a function wrote as text: up to the first NUL, which must be there.
fn text(
    function: &'static str,
    write: impl FnOnce(*mut c_char, c_uint) -> Status,
) -> Result<String, NvmlError> {
    let mut buffer = [0_u8; TEXT];
    check(function, write(buffer.as_mut_ptr().cast(), TEXT_LENGTH))?;
    let text = buffer.split(|byte| *byte == 0).next().unwrap_or_default();
    match std::str::from_utf8(text) {
        Ok(text) if text.len() < TEXT => Ok(text.to_owned()),
        _ => Err(NvmlError::Malformed(function)),
    }
}

/// The first `length` bytes of an array; some, and no more than it has.
fn some_head(function: &'static str, array: &[u8], length: c_uint) -> Result<Vec<u8>, NvmlError> {
    usize::try_from(length)
        .ok()
        .filter(|length| *length > 0)
        .and_then(|length| array.get(..length))
        .map(<[u8]>::to_vec)
        .ok_or(NvmlError::Malformed(function))
}

/// `NVML_DEVICE_UUID_V2_BUFFER_SIZE`, the longest text that is asked for.
const TEXT: usize = 96;
const TEXT_LENGTH: c_uint = 96;
const NOT_SUPPORTED: Status = 3;
const ARGUMENT_VERSION_MISMATCH: Status = 25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_driver_is_told_what_to_do() {
        let error = Nvml::open(Some(Path::new("/nonexistent/libnvidia-ml.so.1"))).unwrap_err();
        assert!(
            error.to_string().contains("install the NVIDIA driver"),
            "{error}"
        );
    }

    #[test]
    fn a_library_without_attestation_is_too_old() {
        // Any library will do that has none of the functions.
        let error = Nvml::open(Some(Path::new("libc.so.6"))).unwrap_err();
        assert!(matches!(error, NvmlError::TooOld("nvmlInit_v2")), "{error}");
    }

    #[test]
    fn lengths_that_the_library_writes_are_checked_against_the_memory_it_was_given() {
        let array = [7; 8];
        assert_eq!(some_head("f", &array, 8).unwrap(), array);
        for wrong in [0, 9, u32::MAX] {
            assert!(some_head("f", &array, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_text_ends_at_its_nul_and_must_have_one() {
        let fill = |byte: u8, count: usize| {
            text("f", move |buffer, length| {
                assert_eq!(length, TEXT_LENGTH);
                // SAFETY: `text` gives room for `TEXT` bytes, and no case has more.
                unsafe { buffer.cast::<u8>().write_bytes(byte, count) };
                0
            })
        };
        assert_eq!(fill(b'a', 3).unwrap(), "aaa");
        assert_eq!(fill(b'a', 0).unwrap(), "");
        assert!(fill(b'a', TEXT).is_err());
        assert!(fill(0xff, 3).is_err());
    }
}
