//! The kernel's measurement list, cut to what the control plane has not judged yet.
//!
//! Only entries' lengths are read here; what they say is the verifier's to read. The list is taken after the quote, so
//! that nothing of what the quote covers is missing; what was measured since stands behind and waits for the next quote.
//!
//! Source: Linux `security/integrity/ima/ima_fs.c` (`ima_measurements_show`).

use std::path::Path;

use vouchsafe_api::convert::attest::{ImaFrom, TpmEvidence};

use super::read_file;
use crate::attester::CollectError;

/// The list from an entry on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) log: Vec<u8>,
}

/// Reads what is wanted, in the boot that the quote states. Of another boot, or a list that is shorter than what was
/// judged, the whole is sent, and the verifier decides.
pub(super) fn collect(path: &Path, from: ImaFrom, quote: &[u8]) -> Result<Part, CollectError> {
    let most = u64::try_from(MOST).unwrap_or(u64::MAX);
    let whole = read_file(path, "the kernel's measurement list", super::MAX_IMA_LOG)?;
    let same_boot = reset_count(quote) == Some(from.reset_count);
    let skipped = same_boot.then(|| skip(&whole, from.entries)).flatten();
    let (offset, rest) = skipped.map_or((0, whole.as_slice()), |rest| (from.entries, rest));
    if rest.len() > MOST {
        return Err(CollectError::TooLong {
            path: path.display().to_string(),
            bytes: rest.len(),
            most,
        });
    }
    Ok(Part {
        offset,
        log: rest.to_vec(),
    })
}

/// What follows so many entries; `None` if there are fewer.
fn skip(mut list: &[u8], entries: u64) -> Option<&[u8]> {
    for _ in 0..entries {
        let rest = list.get(PCR_AND_HASH..)?;
        let rest = after_sized(rest)?;
        list = after_sized(rest)?;
    }
    Some(list)
}

/// What follows a 32-bit little-endian length and that many bytes.
fn after_sized(bytes: &[u8]) -> Option<&[u8]> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    rest.get(usize::try_from(u32::from_le_bytes(*size)).ok()?..)
}

/// Of a `TPMS_ATTEST`: magic, type, two sized fields, the clock, then the count.
fn reset_count(quote: &[u8]) -> Option<u32> {
    let sized = |bytes: &[u8]| -> Option<usize> {
        let size = bytes.first_chunk::<2>()?;
        Some(2 + usize::from(u16::from_be_bytes(*size)))
    };
    let rest = quote.get(6..)?;
    let rest = rest.get(sized(rest)?..)?;
    let rest = rest.get(sized(rest)?..)?;
    let count = rest.get(8..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*count))
}

const MOST: usize = TpmEvidence::MAX_IMA_LOG_BYTES;
/// A 32-bit number and a SHA-1 hash.
const PCR_AND_HASH: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], data: &[u8]) -> Vec<u8> {
        let sized = |bytes: &[u8]| {
            let size = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            [size.as_slice(), bytes].concat()
        };
        [vec![10, 0, 0, 0], vec![7; 20], sized(name), sized(data)].concat()
    }

    fn quote(reset_count: u32) -> Vec<u8> {
        let mut quote = vec![0xff, b'T', b'C', b'G', 0x80, 0x18, 0, 3, 1, 2, 3, 0, 1, 9];
        quote.extend([0; 8]);
        quote.extend(reset_count.to_be_bytes());
        quote
    }

    #[test]
    fn what_was_judged_in_this_boot_is_left_out() {
        let entries = [
            entry(b"ima-ng", b"one"),
            entry(b"ima-sig", b""),
            entry(b"ima-ng", b"three"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), entries.concat()).unwrap();
        let part = |entries, reset_count| {
            let from = ImaFrom {
                entries,
                reset_count,
            };
            collect(file.path(), from, &quote(7)).unwrap()
        };
        let whole = Part {
            offset: 0,
            log: entries.concat(),
        };
        assert_eq!(part(0, 7), whole);
        assert_eq!(
            part(2, 7),
            Part {
                offset: 2,
                log: entries[2].clone()
            }
        );
        assert_eq!(
            part(3, 7),
            Part {
                offset: 3,
                log: Vec::new()
            }
        );
        // More than there are, and another boot.
        assert_eq!(part(4, 7), whole);
        assert_eq!(part(2, 8), whole);
    }

    #[test]
    fn a_list_that_is_cut_or_lies_about_lengths_is_never_read_beyond_its_end() {
        let whole = entry(b"ima-ng", b"one");
        for end in 0..whole.len() {
            assert_eq!(skip(&whole[..end], 1), None, "{end}");
        }
        let mut huge = whole.clone();
        huge[24..28].copy_from_slice(&[0xff; 4]);
        assert_eq!(skip(&huge, 1), None);
        assert_eq!(reset_count(&quote(5)), Some(5));
        for end in 0..quote(5).len() {
            assert_eq!(reset_count(&quote(5)[..end]), None, "{end}");
        }
    }
}
