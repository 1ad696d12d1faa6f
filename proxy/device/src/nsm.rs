//! The Nitro Security Module: one request, one response, both CBOR, through one ioctl.
//!
//! Source: `include/uapi/linux/nsm.h` of Linux 6.8 and later; the driver that Nitro images carried before has the same
//! layout and number.

use std::fs::File;
use std::io;

use rustix::ioctl::{self, Opcode, Updater};

/// Longest request in bytes (`NSM_REQUEST_MAX_SIZE`).
pub const MAX_REQUEST: usize = 0x1000;
/// Longest response in bytes (`NSM_RESPONSE_MAX_SIZE`).
pub const MAX_RESPONSE: usize = 0x3000;

/// Sends a request to an open `/dev/nsm` and returns its response. Blocks until the hypervisor answers.
///
/// # Errors
/// What the system said; [`io::ErrorKind::InvalidInput`] for a request longer than [`MAX_REQUEST`], and
/// [`io::ErrorKind::InvalidData`] where the driver says that it wrote more than it was given room for.
pub fn request(device: &File, request: &[u8]) -> io::Result<Vec<u8>> {
    if request.len() > MAX_REQUEST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut response = vec![0; MAX_RESPONSE];
    let mut message = Message {
        request: Buffer {
            address: request.as_ptr().expose_provenance() as u64,
            length: request.len() as u64,
        },
        response: Buffer {
            address: response.as_mut_ptr().expose_provenance() as u64,
            length: response.len() as u64,
        },
    };
    // SAFETY: `Message` is what this opcode takes and updates (`struct nsm_raw`), as `nsm.h` declares it.
    let exchange = unsafe { Updater::<RAW, Message>::new(&mut message) };
    // SAFETY: for this opcode the driver reads `request.length` bytes at `request.address`, and writes at most
    // `response.length` bytes at `response.address`; both buffers outlive the call, and nothing else refers to
    // `response` meanwhile. Another device behind the file refuses the opcode, which no other driver of Linux has.
    unsafe { ioctl::ioctl(device, exchange) }?;
    match usize::try_from(message.response.length) {
        Ok(length) if length <= response.len() => {
            response.truncate(length);
            Ok(response)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct nsm_iovec`.
#[repr(C)]
struct Buffer {
    address: u64,
    length: u64,
}

/// `struct nsm_raw`.
#[repr(C)]
struct Message {
    request: Buffer,
    response: Buffer,
}

/// `NSM_IOCTL_RAW`: `_IOWR(0x0A, 0, struct nsm_raw)`.
const RAW: Opcode = ioctl::opcode::read_write::<Message>(0x0a, 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_that_of_the_kernels_header() {
        assert_eq!(RAW, 0xc020_0a00);
        assert_eq!(size_of::<Message>(), 32);
    }

    #[test]
    fn a_file_that_is_no_such_device_is_refused() {
        let null = File::open("/dev/null").unwrap();
        let error = request(&null, b"x").unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::NOTTY.raw_os_error())
        );
    }

    #[test]
    fn a_request_that_the_module_would_not_take_is_not_sent() {
        let null = File::open("/dev/null").unwrap();
        let error = request(&null, &[0; MAX_REQUEST + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
