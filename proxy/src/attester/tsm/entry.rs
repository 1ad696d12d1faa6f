//! One request to the kernel: a private directory of configfs, gone when dropped.
//!
//! Creating the directory makes the kernel create its attributes; removing it removes them, though it is not empty.
//!
//! Source: Linux `Documentation/ABI/testing/configfs-tsm-report`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::TsmError;

/// A request. Its name is random, so that nobody else writes into it by accident; who does so on purpose is noticed by
/// its `generation`.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
}

impl Entry {
    pub(super) fn create(root: &Path) -> Result<Self, TsmError> {
        let mut name = [0; 8];
        aws_lc_rs::rand::fill(&mut name).map_err(|_| TsmError::Random)?;
        let name = format!("vouchsafe-{}-{}", std::process::id(), hex::encode(name));
        let path = root.join(name);
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(match source.kind() {
                io::ErrorKind::NotFound => TsmError::NoInterface(root.to_owned()),
                io::ErrorKind::PermissionDenied => TsmError::NotPermitted(root.to_owned()),
                _ if is(&source, Errno::NXIO) => TsmError::NoProvider,
                _ => TsmError::failed("mkdir", source),
            }),
        }
    }

    /// Reads a whole attribute of at most `limit` bytes.
    pub(super) fn read(&self, attribute: &'static str, limit: u64) -> Result<Vec<u8>, TsmError> {
        let failed = |source| TsmError::failed(attribute, source);
        let file = File::open(self.path.join(attribute)).map_err(failed)?;
        let mut content = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut content)
            .map_err(failed)?;
        match u64::try_from(content.len()) {
            Ok(length) if length <= limit => Ok(content),
            _ => Err(TsmError::TooLong { attribute, limit }),
        }
    }

    /// Reads an attribute that this provider may not have.
    pub(super) fn read_if_present(
        &self,
        attribute: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, TsmError> {
        match self.read(attribute, limit) {
            Err(TsmError::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// A text of one line.
    pub(super) fn read_line(&self, attribute: &'static str) -> Result<String, TsmError> {
        let content = self.read(attribute, MAX_LINE)?;
        let line = content.strip_suffix(b"\n").unwrap_or(&content);
        match std::str::from_utf8(line) {
            Ok(line) => Ok(line.to_owned()),
            Err(_) => Err(TsmError::Unreadable(attribute)),
        }
    }

    /// Writes an attribute by one call: the kernel takes each call, or the whole at close, as one value.
    pub(super) fn write(&self, attribute: &'static str, value: &[u8]) -> Result<(), TsmError> {
        let failed = |source| TsmError::failed(attribute, source);
        // Never created: what the kernel did not make is not an attribute.
        let mut file = OpenOptions::new()
            .write(true)
            .open(self.path.join(attribute))
            .map_err(failed)?;
        match file.write(value) {
            Ok(length) if length == value.len() => Ok(()),
            Ok(_) => Err(failed(io::ErrorKind::WriteZero.into())),
            Err(source) => Err(failed(source)),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            let path = self.path.display().to_string();
            tracing::warn!(path, %error, "failed to remove a request for a report: remove it by hand");
        }
    }
}

/// Whether an error is this one of the system.
pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Longer than any name of a provider and any number.
const MAX_LINE: u64 = 64;
