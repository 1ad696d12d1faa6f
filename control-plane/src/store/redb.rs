//! The embedded engine: `redb`, one file, no server.
//!
//! One thread writes. It takes all transactions that wait, applies them one after the other inside one transaction of
//! the engine, syncs once and answers all: a storm of enrolments costs a few syncs, not one each (a durable transaction
//! takes milliseconds on a disk).

use std::path::Path;
use std::sync::Arc;
use std::thread;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Change, Entry, Expect, MAX_KEY_BYTES, MAX_VALUE_BYTES, Store, StoreError, StoreRevision, Write,
};

/// The embedded store. Dropping it closes the file once the last transaction is answered.
#[derive(Debug)]
pub struct RedbStore {
    database: Arc<Database>,
    writer: mpsc::Sender<Transaction>,
    committed: watch::Receiver<StoreRevision>,
    /// Key of which the next write fails, as if the disk were full.
    #[cfg(test)]
    fails: std::sync::Mutex<Option<&'static str>>,
}

/// A place in the queue, taken before what is to be written is known.
#[derive(Debug)]
pub struct QueuePlace<'s>(Option<mpsc::Permit<'s, Transaction>>);

/// A transaction that is queued: it happens whether anybody waits for it or not, after all that were queued before.
#[derive(Debug)]
pub struct Queued(Answer);

#[derive(Debug)]
enum Answer {
    /// There was nothing to write.
    Nothing,
    Refused(StoreError),
    Waits(oneshot::Receiver<Result<StoreRevision, StoreError>>),
}

impl QueuePlace<'_> {
    /// Queues a transaction, unless it has no writes.
    pub fn queue(self, writes: Vec<Write>) -> Queued {
        match writes.is_empty() {
            true => Queued(Answer::Nothing),
            false => self.send(writes),
        }
    }

    fn send(self, writes: Vec<Write>) -> Queued {
        let too_long = |write: &&Write| {
            let value = write.value.as_ref();
            write.key.len() > MAX_KEY_BYTES
                || value.is_some_and(|value| value.len() > MAX_VALUE_BYTES)
        };
        if let Some(write) = writes.iter().find(too_long) {
            return Queued(Answer::Refused(StoreError::TooLong(write.key.clone())));
        }
        let Some(place) = self.0 else {
            return Queued(Answer::Refused(StoreError::Closed));
        };
        let (answer, answered) = oneshot::channel();
        place.send(Transaction { writes, answer });
        Queued(Answer::Waits(answered))
    }
}

impl Queued {
    /// Waits until it is durable; `None` where there was nothing to write.
    ///
    /// # Errors
    /// As [`Store::txn`].
    pub async fn done(self) -> Result<Option<StoreRevision>, StoreError> {
        match self.0 {
            Answer::Nothing => Ok(None),
            Answer::Refused(error) => Err(error),
            Answer::Waits(answered) => answered.await.map_err(|_| StoreError::Closed)?.map(Some),
        }
    }
}

#[derive(Debug)]
struct Transaction {
    writes: Vec<Write>,
    answer: oneshot::Sender<Result<StoreRevision, StoreError>>,
}

impl RedbStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the file is held by another process or is damaged beyond repair.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(CACHE_BYTES).create(path);
        let database = Arc::new(database.map_err(engine)?);
        let transaction = database.begin_write().map_err(engine)?;
        {
            transaction.open_table(VALUES).map_err(engine)?;
            transaction.open_table(CHANGES).map_err(engine)?;
        }
        let revision = {
            let changes = transaction.open_table(CHANGES).map_err(engine)?;
            last_revision(&changes)?
        };
        transaction.commit().map_err(engine)?;
        let (writer, queue) = mpsc::channel(QUEUE);
        let (publish, committed) = watch::channel(revision);
        let for_writer = Arc::clone(&database);
        thread::Builder::new()
            .name("store".into())
            .spawn(move || write_all(&for_writer, queue, revision, &publish))
            .map_err(engine)?;
        Ok(Self {
            database,
            writer,
            committed,
            #[cfg(test)]
            fails: std::sync::Mutex::default(),
        })
    }

    /// Waits for a place in the queue, for a transaction whose writes are to be read no earlier than it is queued.
    pub async fn place(&self) -> QueuePlace<'_> {
        // The writer's thread ends with this store; where it has ended before, the place says so.
        QueuePlace(self.writer.reserve().await.ok())
    }

    /// The next transaction that writes this key fails.
    #[cfg(test)]
    pub(crate) fn fail_once(&self, key: &'static str) {
        *self.fails.lock().unwrap() = Some(key);
    }

    fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let transaction = self.database.begin_read().map_err(engine)?;
        let table = transaction.open_table(VALUES).map_err(engine)?;
        let found = table.get(key).map_err(engine)?;
        Ok(found.map(|value| entry(value.value())))
    }

    fn read_all(&self, prefix: &str) -> Result<(Vec<(String, Entry)>, StoreRevision), StoreError> {
        let transaction = self.database.begin_read().map_err(engine)?;
        let table = transaction.open_table(VALUES).map_err(engine)?;
        let revision = last_revision(&transaction.open_table(CHANGES).map_err(engine)?)?;
        let mut found = Vec::new();
        for item in table.range(prefix..).map_err(engine)? {
            let (key, value) = item.map_err(engine)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_owned(), entry(value.value())));
        }
        Ok((found, revision))
    }
}

impl Store for RedbStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.read(key)
    }

    async fn list(
        &self,
        prefix: &str,
    ) -> Result<(Vec<(String, Entry)>, StoreRevision), StoreError> {
        self.read_all(prefix)
    }

    async fn txn(&self, writes: Vec<Write>) -> Result<StoreRevision, StoreError> {
        #[cfg(test)]
        if { self.fails.lock() }
            .unwrap()
            .take_if(|key| writes.iter().any(|write| write.key == *key))
            .is_some()
        {
            return Err(engine("no space left"));
        }
        // One without writes is a revision as well.
        let queued = self.place().await.send(writes);
        Ok(queued.done().await?.unwrap_or_default())
    }

    fn watch(&self, after: StoreRevision) -> mpsc::Receiver<Result<Change, StoreError>> {
        let (send, receive) = mpsc::channel(WATCH_QUEUE);
        let database = Arc::clone(&self.database);
        tokio::spawn(follow(database, self.committed.clone(), after, send));
        receive
    }
}

/// Ends when the receiver does, when the store closes, or when changes are missing.
async fn follow(
    database: Arc<Database>,
    mut committed: watch::Receiver<StoreRevision>,
    mut after: StoreRevision,
    send: mpsc::Sender<Result<Change, StoreError>>,
) {
    loop {
        let upto = *committed.borrow_and_update();
        if after < upto {
            match changes_between(&database, after, upto) {
                Ok(changes) => {
                    for change in changes {
                        if send.send(Ok(change)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    // The receiver may be gone; then nobody needs to know.
                    let _ = send.send(Err(error)).await;
                    return;
                }
            }
            after = upto;
        }
        tokio::select! {
            changed = committed.changed() => if changed.is_err() { return },
            () = send.closed() => return,
        }
    }
}

fn changes_between(
    database: &Database,
    after: StoreRevision,
    upto: StoreRevision,
) -> Result<Vec<Change>, StoreError> {
    let transaction = database.begin_read().map_err(engine)?;
    let table = transaction.open_table(CHANGES).map_err(engine)?;
    let oldest = table.first().map_err(engine)?;
    let oldest = oldest.map_or(0, |(key, _)| key.value().0);
    if after + 1 < oldest {
        return Err(StoreError::Compacted(oldest));
    }
    let mut changes = Vec::new();
    for item in table
        .range((after + 1, 0)..=(upto, u32::MAX))
        .map_err(engine)?
    {
        let (position, change) = item.map_err(engine)?;
        let (key, value) = change.value();
        changes.push(Change {
            revision: position.value().0,
            key: key.to_owned(),
            value: value.map(<[u8]>::to_vec),
        });
    }
    Ok(changes)
}

fn write_all(
    database: &Database,
    mut queue: mpsc::Receiver<Transaction>,
    mut revision: StoreRevision,
    publish: &watch::Sender<StoreRevision>,
) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, QUEUE) > 0 {
        match write_batch(database, &batch, revision) {
            Ok(results) => {
                revision = results
                    .iter()
                    .filter_map(|result| result.as_ref().ok())
                    .fold(revision, |newest, result| newest.max(*result));
                publish.send_replace(revision);
                for (transaction, result) in batch.drain(..).zip(results) {
                    // Whoever asked may have given up; the change stands all the same.
                    let _ = transaction.answer.send(result);
                }
            }
            Err(error) => {
                for transaction in batch.drain(..) {
                    let _ = transaction.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

type Answers = Vec<Result<StoreRevision, StoreError>>;

fn write_batch(
    database: &Database,
    batch: &[Transaction],
    mut revision: StoreRevision,
) -> Result<Answers, StoreError> {
    let engine_transaction = database.begin_write().map_err(engine)?;
    let mut results = Vec::with_capacity(batch.len());
    {
        let mut values = engine_transaction.open_table(VALUES).map_err(engine)?;
        let mut changes = engine_transaction.open_table(CHANGES).map_err(engine)?;
        for transaction in batch {
            if let Some(key) = unmet(&values, &transaction.writes)? {
                results.push(Err(StoreError::Conflict(key)));
                continue;
            }
            revision += 1;
            for (number, write) in (0u32..).zip(&transaction.writes) {
                match &write.value {
                    Some(value) => values
                        .insert(write.key.as_str(), (revision, value.as_slice()))
                        .map(drop),
                    None => values.remove(write.key.as_str()).map(drop),
                }
                .map_err(engine)?;
                changes
                    .insert(
                        (revision, number),
                        (write.key.as_str(), write.value.as_deref()),
                    )
                    .map_err(engine)?;
            }
            results.push(Ok(revision));
        }
        compact(&mut changes)?;
    }
    engine_transaction.commit().map_err(engine)?;
    Ok(results)
}

/// The first key of which an expectation does not hold.
fn unmet(
    values: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    writes: &[Write],
) -> Result<Option<String>, StoreError> {
    for write in writes {
        let held = values.get(write.key.as_str()).map_err(engine)?;
        let held = held.map(|value| value.value().0);
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => held.is_none(),
            Expect::Revision(expected) => held == Some(expected),
        };
        if !holds {
            return Ok(Some(write.key.clone()));
        }
    }
    Ok(None)
}

/// Forgets the oldest changes; whole revisions only, so that a watch never sees half a transaction.
fn compact(changes: &mut redb::Table<'_, Position, Written>) -> Result<(), StoreError> {
    let held = changes.len().map_err(engine)?;
    if held <= MAX_CHANGES + MAX_CHANGES / 4 {
        return Ok(());
    }
    let cut = {
        let excess = usize::try_from(held - MAX_CHANGES).unwrap_or(usize::MAX);
        let at = changes.iter().map_err(engine)?.nth(excess);
        let Some(at) = at.transpose().map_err(engine)? else {
            return Ok(());
        };
        at.0.value().0
    };
    changes
        .retain(|position, _| position.0 >= cut)
        .map_err(engine)
}

fn last_revision(
    changes: &impl ReadableTable<Position, Written>,
) -> Result<StoreRevision, StoreError> {
    let last = changes.last().map_err(engine)?;
    Ok(last.map_or(0, |(position, _)| position.value().0))
}

fn entry((revision, value): (u64, &[u8])) -> Entry {
    Entry {
        value: value.to_vec(),
        revision,
    }
}

fn engine(error: impl std::fmt::Display) -> StoreError {
    StoreError::Engine(error.to_string())
}

/// Key → (revision that wrote it, value).
const VALUES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("values");
/// (revision, number within it) → (key, new value). Never empty once something was written: it holds the revision.
const CHANGES: TableDefinition<'_, Position, Written> = TableDefinition::new("changes");
/// (revision, number within it).
type Position = (u64, u32);
/// (key, new value).
type Written = (&'static str, Option<&'static [u8]>);
/// Transactions that may wait for the writer: also the largest batch of one sync.
const QUEUE: usize = 1024;
/// All that is asked for often is held in memory besides (registrations, renewals); the engine's default is a gigabyte.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// Changes that a slow watcher may leave unread before the follower waits; the store itself never waits.
const WATCH_QUEUE: usize = 256;
/// Changes that are kept for watchers that resume.
const MAX_CHANGES: u64 = 100_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::conformance;

    fn open() -> (tempfile::TempDir, RedbStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store.redb")).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn the_embedded_store_conforms() {
        let (_folder, store) = open();
        conformance::run(Arc::new(store)).await;
    }

    #[tokio::test]
    async fn a_second_opening_finds_values_and_revision() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = RedbStore::open(&path).unwrap();
        let revision = store
            .put_if("a", b"1".to_vec(), Expect::Absent)
            .await
            .unwrap();
        drop(store);
        let store = reopen(&path).await;
        assert_eq!(store.get("a").await.unwrap().unwrap().revision, revision);
        let next = store.put_if("a", b"2".to_vec(), Expect::Revision(revision));
        assert_eq!(next.await.unwrap(), revision + 1);
    }

    /// The writer's thread lets go of the file after the store is dropped, not within the drop.
    async fn reopen(path: &Path) -> RedbStore {
        let opening = async {
            loop {
                match RedbStore::open(path) {
                    Ok(store) => return store,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let opened = tokio::time::timeout(Duration::from_secs(60), opening).await;
        opened.unwrap()
    }

    #[tokio::test]
    async fn a_key_too_long_is_refused() {
        let (_folder, store) = open();
        let key = "k".repeat(MAX_KEY_BYTES + 1);
        let result = store.put_if(&key, vec![], Expect::Any).await;
        assert!(matches!(result, Err(StoreError::TooLong(_))));
    }
}
