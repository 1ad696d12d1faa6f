//! The store of mesh state: small, transactional, watched in order.
//!
//! What lives here is what replicas must agree on: the trust domain, the revision, registrations, spent join tokens.
//! Issued certificates do not: they are records ([`crate::log`]), because one durable transaction per certificate would
//! be the ceiling of issuance.
//!
//! A [`Store`] is a map of text to bytes. Every successful transaction gets the next revision; every key remembers the
//! revision that wrote it last, and conditions compare with that. [`Store::watch`] shows every change exactly once and
//! in order, or says that it can't.
//!
//! # Why
//! The trait is what an embedded store and etcd can both do without lying: conditional writes, transactions of a few
//! keys, prefix lists, and a watch that resumes from a revision. `store/conformance.rs` states the rules; a second
//! engine passes it or is no [`Store`].

pub mod redb;

use std::future::Future;

use tokio::sync::mpsc;

/// A revision of the store: grows by one with each transaction that changed something; 0 is the empty store.
pub type StoreRevision = u64;

/// A value with the revision that wrote it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// Revision of the transaction that wrote it.
    pub revision: StoreRevision,
}

/// What must hold of a key for a transaction to happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The key does not exist.
    Absent,
    /// The key was last written by this revision.
    Revision(StoreRevision),
}

/// One part of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Write {
    /// The key: at most [`MAX_KEY_BYTES`].
    pub key: String,
    /// What must hold.
    pub expect: Expect,
    /// The new value; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// A change that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Revision of the transaction; its changes share it.
    pub revision: StoreRevision,
    /// The key.
    pub key: String,
    /// The new value; `None`: deleted.
    pub value: Option<Vec<u8>>,
}

/// A small transactional map with an exact, ordered watch.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;

    /// All keys that start with `prefix`, in order, and the revision at which they are exactly so.
    fn list(
        &self,
        prefix: &str,
    ) -> impl Future<Output = Result<(Vec<(String, Entry)>, StoreRevision), StoreError>> + Send;

    /// All writes or none; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an expectation does not hold: nothing was changed.
    fn txn(
        &self,
        writes: Vec<Write>,
    ) -> impl Future<Output = Result<StoreRevision, StoreError>> + Send;

    /// Every change after revision `after`, once each and in order, for as long as the receiver lives.
    ///
    /// The stream ends with [`StoreError::Compacted`] when changes after `after` are no longer kept: list, then watch
    /// from the list's revision.
    fn watch(&self, after: StoreRevision) -> mpsc::Receiver<Result<Change, StoreError>>;

    /// Writes one key.
    ///
    /// # Errors
    /// As [`Self::txn`].
    fn put_if(
        &self,
        key: &str,
        value: Vec<u8>,
        expect: Expect,
    ) -> impl Future<Output = Result<StoreRevision, StoreError>> + Send {
        self.txn(vec![Write {
            key: key.to_owned(),
            expect,
            value: Some(value),
        }])
    }

    /// Deletes one key.
    ///
    /// # Errors
    /// As [`Self::txn`].
    fn delete_if(
        &self,
        key: &str,
        expect: Expect,
    ) -> impl Future<Output = Result<StoreRevision, StoreError>> + Send {
        self.txn(vec![Write {
            key: key.to_owned(),
            expect,
            value: None,
        }])
    }
}

/// Why the store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// An expectation does not hold.
    #[error("`{0}` is not as the transaction expected")]
    Conflict(String),
    /// A key or value passes its bound.
    #[error("`{0}` is too long for the store")]
    TooLong(String),
    /// Changes that a watch needs are no longer kept.
    #[error("changes before revision {0} are no longer kept")]
    Compacted(StoreRevision),
    /// The engine failed; the text is its own.
    #[error("the store failed: {0}")]
    Engine(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Longest key.
pub const MAX_KEY_BYTES: usize = 512;
/// Longest value: etcd's default request limit is 1.5 MiB, a transaction has several.
pub const MAX_VALUE_BYTES: usize = 256 * 1024;

#[cfg(test)]
pub(crate) mod conformance;
