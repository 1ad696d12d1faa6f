//! Carrying commands to a TPM: a character device with a resource manager, or the data socket of `swtpm`.
//!
//! A connection is opened for one operation and closed after it, because a software TPM serves one client at a time.
//! Sockets have a deadline for the whole operation; a device has the kernel's deadline for each command.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vouchsafe_config::proxy::TpmTransport;

/// An open TPM.
#[derive(Debug)]
pub(in crate::attester) struct Transport {
    stream: Stream,
    deadline: Instant,
}

#[derive(Debug)]
enum Stream {
    Device(File),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Transport {
    pub(in crate::attester) fn open(config: &TpmTransport) -> io::Result<Self> {
        let stream = match config {
            TpmTransport::Device(path) => {
                Stream::Device(OpenOptions::new().read(true).write(true).open(path)?)
            }
            TpmTransport::SwtpmUnix(path) => Stream::Unix(UnixStream::connect(path)?),
            TpmTransport::SwtpmTcp(address) => {
                Stream::Tcp(TcpStream::connect_timeout(address, DEADLINE)?)
            }
        };
        Ok(Self {
            stream,
            deadline: Instant::now() + DEADLINE,
        })
    }

    /// Whether we are alone with the TPM and must keep its few object slots free ourselves.
    pub(in crate::attester) fn is_unmanaged(&self) -> bool {
        match self.stream {
            Stream::Device(_) => false,
            Stream::Unix(_) | Stream::Tcp(_) => true,
        }
    }

    /// Sends a command and reads the whole response.
    pub(in crate::attester) fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match &mut self.stream {
            Stream::Device(device) => {
                device.write_all(command)?;
                // The driver hands out a response by one read, and drops what does not fit.
                let mut response = vec![0; MAX_RESPONSE];
                let length = device.read(&mut response)?;
                response.truncate(length);
                Ok(response)
            }
            Stream::Unix(socket) => {
                socket.set_read_timeout(Some(left))?;
                socket.set_write_timeout(Some(left))?;
                exchange(socket, command)
            }
            Stream::Tcp(socket) => {
                socket.set_read_timeout(Some(left))?;
                socket.set_write_timeout(Some(left))?;
                exchange(socket, command)
            }
        }
    }
}

/// A response says its own length, in bytes 2 to 5 of its header.
fn exchange(socket: &mut (impl Read + Write), command: &[u8]) -> io::Result<Vec<u8>> {
    socket.write_all(command)?;
    let mut header = [0; HEADER];
    socket.read_exact(&mut header)?;
    let [_, _, size @ .., _, _, _, _] = header;
    let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if !(HEADER..=MAX_RESPONSE).contains(&size) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut response = header.to_vec();
    response.resize(size, 0);
    let body = response.get_mut(HEADER..).unwrap_or_default();
    socket.read_exact(body)?;
    Ok(response)
}

const HEADER: usize = 10;
/// `TPM_PT_MAX_RESPONSE_SIZE` of PC-client TPMs.
const MAX_RESPONSE: usize = 4096;
/// Making an RSA key takes chips up to half a minute; a whole attestation has at most one.
const DEADLINE: Duration = Duration::from_secs(60);
