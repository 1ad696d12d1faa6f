//! The head of the record, kept beside it, so that a cut at its end shows.

use super::Keeper;
use crate::files::{self, FileError};
use crate::log::Head;
use crate::telemetry::Chain;

impl Keeper {
    /// Keeps the head of the record beside it, so that a cut at its end shows.
    pub(super) fn keep_head(&mut self) {
        let head = self.control_plane.log.head();
        if head == self.kept_head {
            return;
        }
        match write_head(&self.head_file, &head) {
            Ok(()) => self.kept_head = head,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "failed to keep the record's head");
            }
        }
    }
}

/// Writes a head down: number and hash on one line.
///
/// # Errors
/// [`FileError`].
pub(crate) fn write_head(path: &std::path::Path, head: &Head) -> Result<(), FileError> {
    let line = format!("{} {}\n", head.records, hex::encode(head.hash));
    files::write_secret(path, &line)
}

/// Reads a head that was kept; the empty one where none was.
///
/// # Errors
/// [`FileError`]; a damaged file counts as none kept, and the chain itself is checked all the same.
pub(crate) fn read_head(path: &std::path::Path) -> Result<Head, FileError> {
    if !path.exists() {
        return Ok(Head::EMPTY);
    }
    let text = files::read_secret(path)?;
    let parsed = text.trim().split_once(' ').and_then(|(records, hash)| {
        let mut head = Head {
            records: records.parse().ok()?,
            hash: [0; 32],
        };
        hex::decode_to_slice(hash, &mut head.hash).ok()?;
        Some(head)
    });
    Ok(parsed.unwrap_or(Head::EMPTY))
}
