//! Attestation documents of AWS Nitro Enclaves, through their security module.
//!
//! The device takes one CBOR request and gives one CBOR response, whose document must hold our nonce before it goes
//! anywhere. `device` may also be a Unix socket that takes the same bytes: an enclave that gives its device to one
//! process only serves the others so, and tests serve documents of real enclaves.
//!
//! Source: AWS `aws-nitro-enclaves-nsm-api`, `docs/attestation_process.md`.

mod cbor;

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vouchsafe_config::proxy::Nitro;
use vouchsafe_device::nsm;

use super::device_thread::{DeviceThread, DeviceThreadError};
use cbor::{Malformed, Reader};

/// An enclave.
#[derive(Debug)]
pub struct NitroAttester {
    device: PathBuf,
    thread: DeviceThread,
}

impl NitroAttester {
    /// Finds the module.
    ///
    /// # Errors
    /// [`NitroError::Device`] when it is not there.
    pub fn open(config: &Nitro) -> Result<Self, NitroError> {
        std::fs::metadata(&config.device).map_err(|source| NitroError::Device {
            path: config.device.clone(),
            source,
        })?;
        Ok(Self {
            device: config.device.clone(),
            thread: DeviceThread::new("nitro", DEADLINE),
        })
    }

    /// A document over `nonce`: one `COSE_Sign1`.
    ///
    /// # Errors
    /// [`NitroError`].
    pub async fn document(&self, nonce: &[u8; 32]) -> Result<Vec<u8>, NitroError> {
        let (device, nonce) = (self.device.clone(), *nonce);
        self.thread.run(move || request(&device, &nonce)).await
    }
}

fn request(device: &Path, nonce: &[u8; 32]) -> Result<Vec<u8>, NitroError> {
    let request = cbor::attestation_request(nonce);
    let response = exchange(device, &request).map_err(|source| NitroError::Device {
        path: device.to_owned(),
        source,
    })?;
    let document = document_of(&response)?;
    match nonce_of(document) {
        Some(found) if found == nonce => Ok(document.to_vec()),
        Some(_) => Err(NitroError::OtherNonce),
        None => Err(NitroError::Malformed),
    }
}

fn exchange(device: &Path, request: &[u8]) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(device)?.file_type().is_socket() {
        let device = OpenOptions::new().read(true).write(true).open(device)?;
        return nsm::request(&device, request);
    }
    let mut socket = UnixStream::connect(device)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    socket.write_all(request)?;
    socket.shutdown(Shutdown::Write)?;
    let mut response = Vec::new();
    let most = u64::try_from(nsm::MAX_RESPONSE).unwrap_or(u64::MAX);
    socket.take(most + 1).read_to_end(&mut response)?;
    match response.len() {
        0..=nsm::MAX_RESPONSE => Ok(response),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// The document in a response: `{"Attestation": {"document": …}}`, or `{"Error": …}`.
///
/// # Errors
/// [`NitroError::Refused`] or [`NitroError::Malformed`].
pub fn document_of(response: &[u8]) -> Result<&[u8], NitroError> {
    let mut reader = Reader::new(response);
    if reader.map()? != 1 {
        return Err(NitroError::Malformed);
    }
    let document = match reader.text()? {
        "Error" => {
            let word = reader.text()?;
            let is_word = word.len() <= MAX_WORD && word.bytes().all(|b| b.is_ascii_alphabetic());
            return Err(if is_word {
                NitroError::Refused(word.to_owned())
            } else {
                NitroError::Malformed
            });
        }
        "Attestation" if reader.map()? == 1 && reader.text()? == "document" => reader.bytes()?,
        _ => return Err(NitroError::Malformed),
    };
    if reader.is_at_end() {
        Ok(document)
    } else {
        Err(NitroError::Malformed)
    }
}

/// The nonce that a document says it answers; `None` where it is not of a document's shape or says none.
///
/// Nothing else of it is read here: judging is the verifier's.
pub fn nonce_of(document: &[u8]) -> Option<&[u8]> {
    field_of(document, "nonce")?.bytes().ok()
}

/// The instance that a document says its enclave runs on: what a `Node` pins, once it is reviewed.
pub fn instance_of(document: &[u8]) -> Option<&str> {
    let module = field_of(document, "module_id")?.text().ok()?;
    let (instance, _) = module.split_once("-enc")?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (instance.len() <= MAX_WORD && instance.bytes().all(is_plain)).then_some(instance)
}

/// Stands before the value of a field of the payload.
fn field_of<'a>(document: &'a [u8], name: &str) -> Option<Reader<'a>> {
    let mut sign1 = Reader::new(document);
    sign1.skip_tag().ok()?;
    if sign1.array().ok()? != 4 {
        return None;
    }
    sign1.bytes().ok()?; // protected header
    sign1.skip().ok()?; // unprotected header
    let mut payload = Reader::new(sign1.bytes().ok()?);
    for _ in 0..payload.map().ok()? {
        if payload.text().ok()? == name {
            return Some(payload);
        }
        payload.skip().ok()?;
    }
    None
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum NitroError {
    /// The module can't be reached.
    #[error(
        "failed to ask the security module at `{}`: only an enclave has one, and only root may open it",
        path.display()
    )]
    Device {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The module refused.
    #[error("the security module refused: {0}")]
    Refused(String),
    /// The answer is not of the module's shape.
    #[error("the security module's answer can't be read")]
    Malformed,
    /// The document answers another request.
    #[error("the document holds another nonce than was given")]
    OtherNonce,
    /// It takes too long.
    #[error(transparent)]
    Thread(#[from] DeviceThreadError),
}

impl From<Malformed> for NitroError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The module answers in milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);
/// Its longest word is `BufferTooSmall`.
const MAX_WORD: usize = 32;

#[cfg(test)]
mod tests;
