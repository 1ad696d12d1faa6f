//! The record's file: header, then `u32be length ‖ leaf ‖ chain hash` per record.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest;
use vouchsafe_api::convert::record::MAX_LEAF_BYTES;
use vouchsafe_attestation::merkle::{Hash, leaf_hash};

use super::Head;

/// What opening found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    /// Where the chain ends.
    pub head: Head,
    /// Bytes of an incomplete last record that were cut off.
    pub torn_bytes: u64,
}

/// A record as it stands in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredRecord {
    /// Its number, from 1.
    pub number: u64,
    /// The leaf.
    pub leaf: Vec<u8>,
    /// Hash of the chain up to and including it.
    pub hash: Hash,
}

/// Why the record can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("failed to read or write the record")]
    Io(#[source] io::Error),
    /// The file is no record.
    #[error("the file does not start as a record of version 1")]
    Header,
    /// A record does not follow from those before it.
    #[error(
        "record {number} does not follow from those before it: it or one before it was changed, dropped or moved"
    )]
    Broken {
        /// The first record that does not fit.
        number: u64,
    },
    /// The chain is shorter than a head that was kept.
    #[error("the record has {found} entries, but {kept} were once kept: its end was cut off")]
    CutOff {
        /// Entries found.
        found: u64,
        /// Entries of the head that was kept.
        kept: u64,
    },
    /// A leaf that could not be read again; nothing of its batch was written.
    #[error("a leaf of {bytes} bytes is none that the record could read again")]
    Leaf {
        /// Its length.
        bytes: usize,
    },
    /// The record is shutting down.
    #[error("the record is closed")]
    Closed,
}

impl LogError {
    /// The same error once more, for every entry of a batch that failed together.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Io(error) => Self::Io(error.kind().into()),
            Self::Header => Self::Header,
            Self::Broken { number } => Self::Broken { number: *number },
            Self::CutOff { found, kept } => Self::CutOff {
                found: *found,
                kept: *kept,
            },
            Self::Leaf { bytes } => Self::Leaf { bytes: *bytes },
            Self::Closed => Self::Closed,
        }
    }
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    head: Head,
    length: u64,
}

/// Opens and checks the file, cutting off an incomplete last record.
pub(super) fn open(path: &Path) -> Result<(LogFile, Opened), LogError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(LogError::Io)?;
    let size = file.metadata().map_err(LogError::Io)?.len();
    if size < HEADER.len() as u64 {
        // Nothing, or a header that a crash cut short: no record can have been acknowledged.
        file.set_len(0).map_err(LogError::Io)?;
        file.write_all(HEADER).map_err(LogError::Io)?;
        file.sync_all().map_err(LogError::Io)?;
    }
    let mut reader = Records::new(&file)?;
    reader.by_ref().try_for_each(|record| record.map(drop))?;
    let (head, length) = (reader.head, reader.length);
    let torn_bytes = size.saturating_sub(length);
    if torn_bytes > 0 {
        file.set_len(length).map_err(LogError::Io)?;
        file.sync_all().map_err(LogError::Io)?;
    }
    file.seek(SeekFrom::Start(length)).map_err(LogError::Io)?;
    let opened = Opened { head, torn_bytes };
    Ok((LogFile { file, head, length }, opened))
}

impl LogFile {
    /// Appends leaves in one write and one sync; on failure the file is cut back to where it was.
    pub(super) fn append(&mut self, leaves: &[Vec<u8>]) -> Result<Vec<Head>, LogError> {
        let (mut bytes, mut heads, mut head) = (Vec::new(), Vec::new(), self.head);
        for leaf in leaves {
            head = next(&head, leaf);
            let bad = LogError::Leaf { bytes: leaf.len() };
            // What is written here is read at every start: nothing may be that the reader does not take.
            let Some(length) = { u32::try_from(leaf.len()).ok() }.filter(|_| is_leaf(leaf.len()))
            else {
                return Err(bad);
            };
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(leaf);
            bytes.extend_from_slice(&head.hash);
            heads.push(head);
        }
        let written = self
            .file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.file.set_len(self.length).map_err(LogError::Io)?;
            let start = SeekFrom::Start(self.length);
            self.file.seek(start).map_err(LogError::Io)?;
            return Err(LogError::Io(error));
        }
        self.length += bytes.len() as u64;
        self.head = head;
        Ok(heads)
    }
}

/// Records from number `from` on, at most `limit`; an incomplete last one is left out. The chain is checked on the way.
///
/// # Errors
/// [`LogError`] at the first record that does not fit.
pub fn read(path: &Path, from: u64, limit: usize) -> Result<Vec<StoredRecord>, LogError> {
    let mut found = Vec::new();
    scan(path, from, |record| {
        found.push(record);
        found.len() < limit
    })?;
    Ok(found)
}

/// Shows records from number `from` on, one after the other, for as long as `wants` says so.
///
/// # Errors
/// [`LogError`] at the first record that does not fit.
pub fn scan(
    path: &Path,
    from: u64,
    mut wants: impl FnMut(StoredRecord) -> bool,
) -> Result<(), LogError> {
    let file = File::open(path).map_err(LogError::Io)?;
    for record in Records::new(&file)? {
        let record = record?;
        if record.number >= from && !wants(record) {
            break;
        }
    }
    Ok(())
}

/// Checks the whole chain, and that it still reaches a head that was kept elsewhere.
///
/// # Errors
/// [`LogError::Broken`] names the first record that does not fit, [`LogError::CutOff`] a missing end.
pub fn verify(path: &Path, kept: &Head) -> Result<Head, LogError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && kept.records > 0 => {
            let kept = kept.records;
            return Err(LogError::CutOff { found: 0, kept });
        }
        Err(error) => return Err(LogError::Io(error)),
    };
    let mut records = Records::new(&file)?;
    for record in records.by_ref() {
        let record = record?;
        if record.number == kept.records && record.hash != kept.hash {
            return Err(LogError::Broken {
                number: record.number,
            });
        }
    }
    if records.head.records < kept.records {
        return Err(LogError::CutOff {
            found: records.head.records,
            kept: kept.records,
        });
    }
    Ok(records.head)
}

/// Reads a file's records one after the other, checking the chain. Ends before an incomplete last record.
struct Records<'a> {
    reader: BufReader<&'a File>,
    head: Head,
    length: u64,
}

impl<'a> Records<'a> {
    fn new(mut file: &'a File) -> Result<Self, LogError> {
        file.seek(SeekFrom::Start(0)).map_err(LogError::Io)?;
        let mut reader = BufReader::new(file);
        let mut header = [0; HEADER.len()];
        reader
            .read_exact(&mut header)
            .map_err(|_| LogError::Header)?;
        if header != *HEADER {
            return Err(LogError::Header);
        }
        Ok(Self {
            reader,
            head: Head::EMPTY,
            length: HEADER.len() as u64,
        })
    }

    fn one(&mut self) -> Result<Option<StoredRecord>, LogError> {
        let number = self.head.records + 1;
        let Some(length) = self.exact::<4>()? else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if !is_leaf(length) {
            return Err(LogError::Broken { number });
        }
        let mut leaf = vec![0; length];
        if !self.fill(&mut leaf)? {
            return Ok(None);
        }
        let Some(hash) = self.exact::<32>()? else {
            return Ok(None);
        };
        let head = next(&self.head, &leaf);
        if head.hash != hash {
            return Err(LogError::Broken { number });
        }
        self.head = head;
        self.length += (4 + length + 32) as u64;
        Ok(Some(StoredRecord { number, leaf, hash }))
    }

    fn exact<const N: usize>(&mut self) -> Result<Option<[u8; N]>, LogError> {
        let mut bytes = [0; N];
        Ok(self.fill(&mut bytes)?.then_some(bytes))
    }

    /// Whether there were enough bytes left.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<bool, LogError> {
        match self.reader.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(LogError::Io(error)),
        }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<StoredRecord, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.one().transpose()
    }
}

/// Whether a leaf may have so many bytes.
fn is_leaf(bytes: usize) -> bool {
    (1..=MAX_LEAF_BYTES).contains(&bytes)
}

fn next(head: &Head, leaf: &[u8]) -> Head {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(CHAIN_LABEL);
    context.update(&head.hash);
    context.update(&leaf_hash(leaf));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Head {
        records: head.records + 1,
        hash,
    }
}

const HEADER: &[u8; 24] = b"vouchsafe/v1/records\0\0\0\0";
const CHAIN_LABEL: &[u8] = b"vouchsafe/v1/chain\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_that_could_not_be_read_again_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let (mut file, _) = open(&path).unwrap();
        for bad in [vec![], vec![1; MAX_LEAF_BYTES + 1]] {
            let refused = file.append(&[vec![1], bad]);
            assert!(matches!(refused, Err(LogError::Leaf { .. })), "{refused:?}");
        }
        file.append(&[vec![1; MAX_LEAF_BYTES]]).unwrap();
        assert_eq!(open(&path).unwrap().1.head.records, 1);
    }
}
