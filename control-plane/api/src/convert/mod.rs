//! Conversion between wire and meaning, with the bounds of every field.
//!
//! What came over the wire is a message of [`crate::v1`]; nothing of ours reads one beyond turning it into a type of
//! this module. The conversion is where sizes, counts and texts are checked, once, and where a field that security
//! needs stops being optional. The other direction cannot fail: a value of meaning is always within its bounds or is
//! refused by the receiver.
//!
//! | Module | Holds |
//! |---|---|
//! | [`attest`] | hello, challenge, evidence, outcome |
//! | [`mesh_state`] | signed revisions, resources, snapshots |
//! | [`record`] | the leaf encoding of the record |
//!
//! Source: DESIGN §5, §7, §8.

pub mod attest;
pub mod mesh_state;
pub mod record;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Why a message has no meaning.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be there is absent.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// More bytes or entries than the field may have.
    #[error("`{field}` has at most {max} bytes or entries, found {found}")]
    TooLong {
        /// Name in the protocol file.
        field: &'static str,
        /// Its bound.
        max: usize,
        /// What came.
        found: usize,
    },
    /// A value that no sender of ours writes.
    #[error("`{field}` is not {expected}")]
    Malformed {
        /// Name in the protocol file.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

impl ConvertError {
    /// The bounded word for logs, metrics and refusals.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::Malformed { .. } => "malformed_message",
            Self::TooLong { .. } => "oversize_message",
        }
    }
}

/// Largest message of an attestation, either way: one evidence set with its event log and measurement list.
pub const MAX_ATTEST_MESSAGE_BYTES: usize = 3 * 1024 * 1024;

/// Largest message of a mesh-state stream: a snapshot of ten thousand documents that all concern one sidecar.
pub const MAX_WATCH_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// Largest message that a sidecar sends on a mesh-state stream: the answer to a probe.
pub const MAX_WATCH_REQUEST_BYTES: usize = 64 * 1024;

/// Unix milliseconds of a time; before 1970 counts as 0 and far futures are capped: both are refused by every check.
pub fn unix_ms(time: SystemTime) -> u64 {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// The time of Unix milliseconds on the wire: after 1970, before the year 10000.
///
/// # Errors
/// [`ConvertError::Malformed`] outside that range.
pub fn time(field: &'static str, ms: u64) -> Result<SystemTime, ConvertError> {
    let expected = "a time between 1970 and 9999";
    if ms == 0 || ms > LAST_MS {
        return Err(ConvertError::Malformed { field, expected });
    }
    UNIX_EPOCH
        .checked_add(Duration::from_millis(ms))
        .ok_or(ConvertError::Malformed { field, expected })
}

fn bounded(field: &'static str, max: usize, found: usize) -> Result<(), ConvertError> {
    if found > max {
        return Err(ConvertError::TooLong { field, max, found });
    }
    Ok(())
}

fn bytes(field: &'static str, max: usize, value: Vec<u8>) -> Result<Vec<u8>, ConvertError> {
    bounded(field, max, value.len())?;
    Ok(value)
}

fn some_bytes(field: &'static str, max: usize, value: Vec<u8>) -> Result<Vec<u8>, ConvertError> {
    if value.is_empty() {
        return Err(ConvertError::Missing(field));
    }
    bytes(field, max, value)
}

fn array<const N: usize>(field: &'static str, value: &[u8]) -> Result<[u8; N], ConvertError> {
    bounded(field, N, value.len())?;
    let expected = "of its fixed length";
    value
        .try_into()
        .map_err(|_| ConvertError::Malformed { field, expected })
}

/// Printable ASCII without spaces at most `max` long; may be empty.
fn word(field: &'static str, max: usize, value: String) -> Result<String, ConvertError> {
    bounded(field, max, value.len())?;
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let expected = "printable ASCII without spaces";
        return Err(ConvertError::Malformed { field, expected });
    }
    Ok(value)
}

/// Text for people: no control characters, so that it can be shown on a terminal and in a log line.
fn text(field: &'static str, max: usize, value: String) -> Result<String, ConvertError> {
    bounded(field, max, value.len())?;
    if value.chars().any(char::is_control) {
        let expected = "text without control characters";
        return Err(ConvertError::Malformed { field, expected });
    }
    Ok(value)
}

fn each<T, U>(
    field: &'static str,
    max: usize,
    values: Vec<T>,
    convert: impl FnMut(T) -> Result<U, ConvertError>,
) -> Result<Vec<U>, ConvertError> {
    bounded(field, max, values.len())?;
    values.into_iter().map(convert).collect()
}

/// Appends `u64be(len) || value`, the framing of every signed or hashed encoding of ours.
fn frame(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u64).to_be_bytes());
    out.extend_from_slice(value);
}

/// The last millisecond of the year 9999, the last that X.509 can write.
const LAST_MS: u64 = 253_402_300_799_999;
