//! The record: an append-only, hash-chained file of what the control plane did.
//!
//! Each entry is a leaf in its final encoding ([`vouchsafe_api::convert::record`]), followed by the hash of the chain up
//! to and including it: `chain(n) = SHA-256("vouchsafe/v1/chain\0" ‖ chain(n-1) ‖ leaf hash(n))`. A flipped bit, a
//! dropped entry or two swapped ones break the chain at that place. What a chain alone can't show, a cut at its end,
//! shows against the head that the store keeps.
//!
//! One thread appends. It takes all entries that wait, writes them, syncs once and answers all (group commit): an
//! issuance is answered after its record is on the disk, and a thousand of them share a sync.
//!
//! Source: DESIGN §8, promise 9.

mod file;

use std::path::Path;
use std::sync::Arc;
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};
use vouchsafe_api::convert::record::RecordEntry;
use vouchsafe_attestation::merkle::Hash;

pub use file::{LogError, Opened, StoredRecord, read, scan, verify};

/// Where a chain ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Number of records.
    pub records: u64,
    /// Hash of the chain; zeros for the empty one.
    pub hash: Hash,
}

impl Head {
    /// The head of a chain without records.
    pub const EMPTY: Self = Self {
        records: 0,
        hash: [0; 32],
    };
}

/// The record, open for appending. Cheap to clone; the thread ends with the last clone.
#[derive(Clone, Debug)]
pub struct Log {
    queue: mpsc::Sender<Append>,
    head: watch::Receiver<Head>,
    path: Arc<Path>,
}

struct Append {
    entry: RecordEntry,
    answer: oneshot::Sender<Result<Head, LogError>>,
}

impl Log {
    /// Opens the file, or makes it, and checks the whole chain.
    ///
    /// An incomplete last record, as a crash leaves it, is cut off; [`Opened::torn_bytes`] says so.
    ///
    /// # Errors
    /// [`LogError`] when the chain is broken: the control plane does not start on a record that was changed.
    pub fn open(path: &Path) -> Result<(Self, Opened), LogError> {
        let (file, opened) = file::open(path)?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (publish, head) = watch::channel(opened.head);
        thread::Builder::new()
            .name("record".into())
            .spawn(move || append_all(file, waiting, &publish))
            .map_err(LogError::Io)?;
        let path = path.into();
        Ok((Self { queue, head, path }, opened))
    }

    /// Appends an entry; on the disk when it returns. Returns the head right after it.
    ///
    /// # Errors
    /// [`LogError::Io`] when the disk refuses; the entry is then not recorded, and what it records must not happen.
    pub async fn append(&self, entry: RecordEntry) -> Result<Head, LogError> {
        let (answer, answered) = oneshot::channel();
        self.queue
            .send(Append { entry, answer })
            .await
            .map_err(|_| LogError::Closed)?;
        answered.await.map_err(|_| LogError::Closed)?
    }

    /// The present head.
    pub fn head(&self) -> Head {
        *self.head.borrow()
    }

    /// A receiver that learns of every new head.
    pub fn heads(&self) -> watch::Receiver<Head> {
        self.head.clone()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn append_all(
    mut file: file::LogFile,
    mut queue: mpsc::Receiver<Append>,
    publish: &watch::Sender<Head>,
) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, QUEUE) > 0 {
        let leaves: Vec<Vec<u8>> = batch.iter().map(|append| append.entry.encode()).collect();
        match file.append(&leaves) {
            Ok(heads) => {
                if let Some(head) = heads.last() {
                    publish.send_replace(*head);
                }
                for (append, head) in batch.drain(..).zip(heads) {
                    // Whoever asked may have given up; the record stands all the same.
                    let _ = append.answer.send(Ok(head));
                }
            }
            Err(error) => {
                tracing::error!(error = %error, "failed to append to the record");
                for append in batch.drain(..) {
                    let _ = append.answer.send(Err(error.again()));
                }
            }
        }
    }
}

/// Entries that may wait for the disk: also the largest batch of one sync.
const QUEUE: usize = 1024;

#[cfg(test)]
mod tests;
