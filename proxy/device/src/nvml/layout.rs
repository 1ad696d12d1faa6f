//! Structures and functions of `nvml.h`, as the library has them.
//!
//! Only what an attester needs. The order, sizes and types of fields are the interface; the tests pin them.
//!
//! Source: `nvml.h` of the CUDA toolkit, 12.2 and later (driver 535 and later).

use std::ffi::{c_char, c_uint};

/// `nvmlReturn_t`.
pub(super) type Status = c_uint;
/// `nvmlDevice_t`: an opaque pointer, which is never followed here.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle(pub(super) *mut std::ffi::c_void);

/// `nvmlConfComputeSystemState_t`.
#[repr(C)]
#[derive(Default)]
pub(super) struct SystemState {
    pub(super) environment: c_uint,
    pub(super) cc_feature: c_uint,
    pub(super) dev_tools_mode: c_uint,
}

/// `nvmlSystemConfComputeSettings_v1_t`.
#[repr(C)]
#[derive(Default)]
pub(super) struct SystemSettings {
    pub(super) version: c_uint,
    pub(super) environment: c_uint,
    pub(super) cc_feature: c_uint,
    pub(super) dev_tools_mode: c_uint,
    pub(super) multi_gpu_mode: c_uint,
}

impl SystemSettings {
    /// `NVML_STRUCT_VERSION(SystemConfComputeSettings, 1)`: size, and version in the highest byte.
    pub(super) const VERSION: c_uint = 0x0100_0014;
}

/// `nvmlConfComputeGpuCertificate_t`.
#[repr(C)]
pub(super) struct GpuCertificate {
    pub(super) cert_chain_size: c_uint,
    pub(super) attestation_cert_chain_size: c_uint,
    pub(super) cert_chain: [u8; 0x1000],
    pub(super) attestation_cert_chain: [u8; 0x1400],
}

impl GpuCertificate {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            cert_chain_size: 0,
            attestation_cert_chain_size: 0,
            cert_chain: [0; 0x1000],
            attestation_cert_chain: [0; 0x1400],
        })
    }
}

/// `nvmlConfComputeGpuAttestationReport_t`.
#[repr(C)]
pub(super) struct GpuReport {
    pub(super) is_cec_report_present: c_uint,
    pub(super) report_size: c_uint,
    pub(super) cec_report_size: c_uint,
    pub(super) nonce: [u8; 0x20],
    pub(super) report: [u8; 0x2000],
    pub(super) cec_report: [u8; 0x1000],
}

impl GpuReport {
    pub(super) fn new(nonce: [u8; 0x20]) -> Box<Self> {
        Box::new(Self {
            is_cec_report_present: 0,
            report_size: 0,
            cec_report_size: 0,
            nonce,
            report: [0; 0x2000],
            cec_report: [0; 0x1000],
        })
    }
}

/// The functions, resolved. A pointer is valid as long as the library that it came from is loaded.
pub(super) struct Functions {
    pub(super) init: unsafe extern "C" fn() -> Status,
    pub(super) shutdown: unsafe extern "C" fn() -> Status,
    pub(super) driver_version: unsafe extern "C" fn(*mut c_char, c_uint) -> Status,
    pub(super) device_count: unsafe extern "C" fn(*mut c_uint) -> Status,
    pub(super) device_by_index: unsafe extern "C" fn(c_uint, *mut Handle) -> Status,
    pub(super) uuid: unsafe extern "C" fn(Handle, *mut c_char, c_uint) -> Status,
    pub(super) vbios_version: unsafe extern "C" fn(Handle, *mut c_char, c_uint) -> Status,
    pub(super) architecture: unsafe extern "C" fn(Handle, *mut c_uint) -> Status,
    pub(super) certificate: unsafe extern "C" fn(Handle, *mut GpuCertificate) -> Status,
    pub(super) report: unsafe extern "C" fn(Handle, *mut GpuReport) -> Status,
    pub(super) state: unsafe extern "C" fn(*mut SystemState) -> Status,
    /// Since driver 550; its answer says more than [`Functions::state`]'s.
    pub(super) settings: Option<unsafe extern "C" fn(*mut SystemSettings) -> Status>,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn structures_lie_in_memory_as_the_header_says() {
        assert_eq!(size_of::<SystemState>(), 12);
        assert_eq!(size_of::<SystemSettings>(), 20);
        assert_eq!(SystemSettings::VERSION & 0x00ff_ffff, 20);
        assert_eq!(offset_of!(GpuCertificate, cert_chain), 8);
        assert_eq!(offset_of!(GpuCertificate, attestation_cert_chain), 0x1008);
        assert_eq!(size_of::<GpuCertificate>(), 0x2408);
        assert_eq!(offset_of!(GpuReport, nonce), 12);
        assert_eq!(offset_of!(GpuReport, report), 44);
        assert_eq!(offset_of!(GpuReport, cec_report), 44 + 0x2000);
        assert_eq!(size_of::<GpuReport>(), 44 + 0x3000);
        assert_eq!(size_of::<Handle>(), size_of::<usize>());
    }
}
