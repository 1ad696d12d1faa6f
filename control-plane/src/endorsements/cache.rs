//! The endorsements that are held: in memory, and in a folder that outlives the process.
//!
//! ```text
//! endorsements/objects/NAME    the file, as `attest verify --endorsements` takes it
//! endorsements/index/NAME.json what it is, whence, when it was used and by whom; also of what is wanted and not held
//! ```
//! A file is written whole or not at all, and verified again whenever it is read: the folder is no root of trust, and
//! whoever writes into it can at most withhold. An object never displaces a newer edition of itself.
//!
//! # Why
//! A folder of plain files, because that is what the offline judgement takes and what a person can look at. The index is
//! apart from it, so that every file beside the objects is an endorsement.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use vouchsafe_verifier::endorsement::need::{Lasting, Need};
use vouchsafe_verifier::endorsement::object::{Endorsement, EndorsementError};

use crate::files::{self, FileError};

/// An endorsement that is held. It may be over: then it is only known to have been there.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) endorsement: Arc<Endorsement>,
    /// The service that it came from, or `import`.
    pub(crate) origin: String,
    pub(crate) fetched: SystemTime,
}

/// Why a wanted endorsement is not there.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// A bounded word.
    pub(crate) reason: String,
    /// For the operator.
    pub(crate) detail: String,
    /// When, in milliseconds of Unix time.
    pub(crate) at_ms: u64,
}

/// Who uses what.
#[derive(Clone, Debug, Default)]
struct Usage {
    used: Option<SystemTime>,
    users: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    need: Need,
    held: Option<Held>,
    usage: Usage,
    failure: Option<Failure>,
    /// The index on disk says less than this.
    is_dirty: bool,
}

/// What becomes of an object that is offered to the cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kept {
    /// It is new, or newer than the one held.
    New,
    /// The same edition is held already.
    Same,
    /// A newer edition is held, which stays.
    Older,
}

/// All that is held and wanted.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: BTreeMap<String, Entry>,
    /// Names that made room, and are still on disk.
    evicted: Vec<String>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            evicted: Vec::new(),
        }
    }

    pub(crate) fn take_evicted(&mut self) -> Vec<String> {
        std::mem::take(&mut self.evicted)
    }

    /// What is held and valid at `now`; notes who asks.
    pub(crate) fn take(&mut self, need: &Need, user: &str, now: SystemTime) -> Option<Held> {
        let entry = self.entry(need)?;
        entry.usage.note(user, now, &mut entry.is_dirty);
        let held = entry.held.as_ref()?;
        (now <= held.endorsement.until()).then(|| held.clone())
    }

    /// Whether one was held whose time is over.
    pub(crate) fn is_over(&self, need: &Need, now: SystemTime) -> bool {
        self.entries
            .get(&need.name())
            .and_then(|entry| entry.held.as_ref())
            .is_some_and(|held| now > held.endorsement.until())
    }

    pub(crate) fn failure(&self, need: &Need) -> Option<&Failure> {
        self.entries.get(&need.name())?.failure.as_ref()
    }

    /// Keeps an object unless a newer edition is held.
    pub(crate) fn keep(&mut self, held: Held, now: SystemTime) -> Kept {
        let need = held.endorsement.need().clone();
        let Some(entry) = self.entry(&need) else {
            return Kept::Older;
        };
        entry.failure = None;
        entry.is_dirty = true;
        match &entry.held {
            Some(present) if present.endorsement.bytes() == held.endorsement.bytes() => {
                entry.held = Some(held);
                Kept::Same
            }
            Some(present)
                if held.endorsement.is_older_than(&present.endorsement)
                    && now <= present.endorsement.until() =>
            {
                Kept::Older
            }
            _ => {
                entry.held = Some(held);
                Kept::New
            }
        }
    }

    pub(crate) fn fail(&mut self, need: &Need, failure: Failure) {
        if let Some(entry) = self.entry(need) {
            entry.failure = Some(failure);
            entry.is_dirty = true;
        }
    }

    /// Files of AMD's authorities, by which certificates of chips are verified.
    pub(crate) fn authorities(&self) -> Vec<Arc<Endorsement>> {
        self.held()
            .filter(|held| matches!(held.endorsement.need(), Need::AmdChain { .. }))
            .map(|held| Arc::clone(&held.endorsement))
            .collect()
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = &Held> {
        self.entries
            .values()
            .filter_map(|entry| entry.held.as_ref())
    }

    /// Those of the last days that should be asked for anew.
    pub(crate) fn due(&self, now: SystemTime) -> Vec<Need> {
        self.entries
            .values()
            .filter(|entry| entry.usage.is_recent(now))
            .filter(|entry| entry.held.as_ref().is_some_and(|held| is_due(held, now)))
            .map(|entry| entry.need.clone())
            .collect()
    }

    /// What was used lately and is not held, or over.
    pub(crate) fn wanted(&self, now: SystemTime) -> Vec<Need> {
        self.entries
            .values()
            .filter(|entry| entry.usage.is_recent(now))
            .filter(|entry| match &entry.held {
                Some(held) => now > held.endorsement.until(),
                None => true,
            })
            .map(|entry| entry.need.clone())
            .collect()
    }

    /// Seconds until the first of those used lately ends, by the word of its source.
    pub(crate) fn first_end(&self, source: &str, now: SystemTime) -> Option<Duration> {
        self.entries
            .values()
            .filter(|entry| entry.need.source().as_str() == source && entry.usage.is_recent(now))
            .filter_map(|entry| entry.held.as_ref())
            .map(|held| {
                held.endorsement
                    .until()
                    .duration_since(now)
                    .unwrap_or_default()
            })
            .min()
    }

    /// The entry of a need, made if there is room. The one that was used longest ago makes room.
    fn entry(&mut self, need: &Need) -> Option<&mut Entry> {
        let name = need.name();
        if !self.entries.contains_key(&name) && self.entries.len() >= MAX_ENTRIES {
            let oldest = self
                .entries
                .iter()
                .min_by_key(|(_, entry)| (entry.held.is_some(), entry.usage.used))
                .map(|(name, _)| name.clone())?;
            self.entries.remove(&oldest);
            self.evicted.push(oldest);
        }
        Some(self.entries.entry(name).or_insert_with(|| Entry {
            need: need.clone(),
            held: None,
            usage: Usage::default(),
            failure: None,
            is_dirty: true,
        }))
    }

    /// What must be written, as of now.
    pub(crate) fn take_dirty(&mut self) -> Vec<Index> {
        self.entries
            .values_mut()
            .filter_map(|entry| std::mem::take(&mut entry.is_dirty).then(|| Index::of(entry)))
            .collect()
    }

    /// Everything, for people.
    pub(crate) fn list(&self) -> Vec<Index> {
        self.entries.values().map(Index::of).collect()
    }

    /// Takes an index that was read, with its object if that verified.
    fn restore(&mut self, index: Index, held: Option<Held>, now: SystemTime) -> Option<Kept> {
        let is_new = !self.entries.contains_key(&index.need.name());
        let entry = self.entry(&index.need)?;
        if is_new {
            entry.usage.used = (index.used_ms > 0).then(|| from_ms(index.used_ms));
            entry.usage.users = index.users.into_iter().take(MAX_USERS).collect();
            entry.failure = index.failure;
            entry.is_dirty = false;
        }
        held.map(|held| self.keep(held, now))
    }
}

impl Usage {
    fn note(&mut self, user: &str, now: SystemTime, is_dirty: &mut bool) {
        // Once an hour is enough for telling what is used, and spares the disk.
        let is_old = self
            .used
            .is_none_or(|used| now.duration_since(used).is_ok_and(|age| age >= USE_GRAIN));
        let is_known = user.is_empty() || self.users.contains(user);
        if is_old || !is_known {
            *is_dirty = true;
            self.used = Some(now);
        }
        if !is_known && self.users.len() < MAX_USERS {
            self.users.insert(user.to_owned());
        }
    }

    fn is_recent(&self, now: SystemTime) -> bool {
        self.used
            .is_some_and(|used| now.duration_since(used).unwrap_or_default() < RECENT)
    }
}

/// Whether a newer copy should be asked for, though this one is valid: at the latest after two thirds of what was left
/// of its life, so that a service may be down for the last third.
fn is_due(held: &Held, now: SystemTime) -> bool {
    let need = held.endorsement.need();
    let left = held.endorsement.until().duration_since(held.fetched);
    let left = left.unwrap_or_default();
    let wait = match need.lasting().refresh_after() {
        Some(wait) => wait.min(left / 3 * 2),
        None => left.saturating_sub(Duration::from_secs(30 * 86_400).min(left / 10)),
    };
    // What was fetched together is not due together.
    let spread = need.name().bytes().map(u32::from).sum::<u32>() % 10;
    let wait = wait - wait / 100 * spread;
    now >= held.fetched + wait
}

/// What the index says of one need: its form on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    pub(crate) need: Need,
    /// The service that the object came from, `import`, or empty where none is held.
    #[serde(default)]
    pub(crate) origin: String,
    #[serde(default)]
    pub(crate) fetched_ms: u64,
    #[serde(default)]
    pub(crate) issued_ms: u64,
    #[serde(default)]
    pub(crate) until_ms: u64,
    #[serde(default)]
    pub(crate) used_ms: u64,
    #[serde(default)]
    pub(crate) users: Vec<String>,
    #[serde(default)]
    pub(crate) failure: Option<Failure>,
    /// The object, if this process holds it.
    #[serde(skip)]
    object: Option<Arc<Endorsement>>,
}

impl Index {
    fn of(entry: &Entry) -> Self {
        let held = entry.held.as_ref();
        Self {
            need: entry.need.clone(),
            origin: held.map_or_else(String::new, |held| held.origin.clone()),
            fetched_ms: held.map_or(0, |held| to_ms(held.fetched)),
            issued_ms: held.map_or(0, |held| to_ms(held.endorsement.issued())),
            until_ms: held.map_or(0, |held| to_ms(held.endorsement.until())),
            used_ms: entry.usage.used.map_or(0, to_ms),
            users: entry.usage.users.iter().cloned().collect(),
            failure: entry.failure.clone(),
            object: held.map(|held| Arc::clone(&held.endorsement)),
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self, now: SystemTime) -> State {
        match (self.is_held(), self.until_ms >= to_ms(now)) {
            (true, true) => State::Valid,
            (true, false) => State::Expired,
            (false, _) => State::Missing,
        }
    }

    /// Whether an object is held.
    pub(crate) fn is_held(&self) -> bool {
        self.fetched_ms > 0
    }

    /// How long the object lasts, for people.
    pub(crate) fn lasting(&self) -> &'static str {
        match self.need.lasting() {
            Lasting::Immutable => "immutable",
            Lasting::Replaced => "replaced",
            Lasting::Momentary => "momentary",
        }
    }
}

/// Where an endorsement stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Held and valid.
    Valid,
    /// Held, and its time is over.
    Expired,
    /// Wanted, not held.
    Missing,
}

impl State {
    /// The word for people and programs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Missing => "missing",
        }
    }
}

pub(crate) fn to_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn from_ms(ms: u64) -> SystemTime {
    // Year 9999 at most: the index may say anything.
    UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_000))
}

/// The folder of a cache.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    objects: PathBuf,
    index: PathBuf,
}

/// When and how large a file was, to see that another process wrote it.
pub(crate) type Stamp = (i64, i64, u64);

/// What reading a folder found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Objects that were taken, or were there already.
    pub(crate) kept: usize,
    /// Files that are not what their index says, with the reason.
    pub(crate) refused: Vec<(String, EndorsementError)>,
}

impl Folder {
    /// Opens or makes the folder.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let folder = Self {
            objects: path.join("objects"),
            index: path.join("index"),
        };
        for path in [path, &folder.objects, &folder.index] {
            files::private_folder(path)?;
        }
        Ok(folder)
    }

    /// Reads what is new or changed since `seen`, and verifies it.
    pub(crate) fn read(
        &self,
        seen: &mut BTreeMap<String, Stamp>,
        cache: &std::sync::Mutex<Cache>,
        now: SystemTime,
    ) -> io::Result<Found> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.index)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = name.strip_suffix(".json") else {
                continue;
            };
            let metadata = entry.metadata()?;
            let stamp = (metadata.mtime(), metadata.mtime_nsec(), metadata.len());
            if seen.insert(name.to_owned(), stamp) != Some(stamp) {
                names.push(name.to_owned());
            }
            if names.len() >= MAX_ENTRIES {
                break;
            }
        }
        // In order of names, AMD's authorities come before the certificates that they sign.
        names.sort();
        let mut found = Found::default();
        for name in names {
            let Some(index) = self.read_index(&name) else {
                continue;
            };
            let held = match self.read_object(&index, cache, now) {
                None => None,
                Some(Ok(held)) => Some(held),
                Some(Err(error)) => {
                    found.refused.push((name, error));
                    None
                }
            };
            found.kept += usize::from(held.is_some());
            lock(cache).restore(index, held, now);
        }
        Ok(found)
    }

    fn read_index(&self, name: &str) -> Option<Index> {
        let bytes = read_bounded(&self.index.join(format!("{name}.json")), MAX_INDEX)?;
        let index: Index = serde_json::from_slice(&bytes).ok()?;
        (index.need.name() == name).then_some(index)
    }

    fn read_object(
        &self,
        index: &Index,
        cache: &std::sync::Mutex<Cache>,
        now: SystemTime,
    ) -> Option<Result<Held, EndorsementError>> {
        if !index.is_held() {
            return None;
        }
        let bytes = read_bounded(&self.objects.join(index.need.name()), MAX_OBJECT)?;
        let authorities = lock(cache).authorities();
        let authorities: Vec<&[u8]> = authorities.iter().map(|held| held.bytes()).collect();
        let verified = Endorsement::verify(&index.need, &bytes, &authorities, now);
        Some(verified.map(|endorsement| Held {
            endorsement: Arc::new(endorsement),
            origin: index.origin.chars().take(MAX_ORIGIN).collect(),
            fetched: from_ms(index.fetched_ms).min(now),
        }))
    }

    /// Writes an entry: the object first, so that an index never promises one that is not there.
    pub(crate) fn write(&self, index: &Index) -> io::Result<Stamp> {
        let name = index.need.name();
        if let Some(object) = &index.object {
            let path = self.objects.join(&name);
            // Most writes only note who used it.
            if read_bounded(&path, MAX_OBJECT).as_deref() != Some(object.bytes()) {
                write_whole(&path, object.bytes())?;
            }
        }
        let path = self.index.join(format!("{name}.json"));
        let text = serde_json::to_vec_pretty(index).map_err(io::Error::other)?;
        write_whole(&path, &text)?;
        let metadata = fs::metadata(&path)?;
        Ok((metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
    }

    /// Removes what the cache had no room for.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        for path in [
            self.index.join(format!("{name}.json")),
            self.objects.join(name),
        ] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Valid, expired and missing ones by the index of a data folder's cache, unverified; `None` where there is none.
pub(crate) fn count(data: &Path, now: SystemTime) -> Option<[usize; 3]> {
    let folder = data.join(super::FOLDER).join("index");
    let mut counts = [0; 3];
    for entry in fs::read_dir(folder).ok()?.take(MAX_ENTRIES) {
        let path = entry.ok()?.path();
        let bytes = read_bounded(&path, MAX_INDEX).unwrap_or_default();
        let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
            continue;
        };
        let [valid, expired, missing] = &mut counts;
        match index.state(now) {
            State::Valid => *valid += 1,
            State::Expired => *expired += 1,
            State::Missing => *missing += 1,
        }
    }
    Some(counts)
}

fn read_bounded(path: &Path, max: u64) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?;
    // A pipe or a device would never end.
    if !size.is_file() || size.len() > max {
        return None;
    }
    fs::read(path).ok()
}

/// Whole or not at all, also after a crash.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let random: [u8; 8] = crate::ca::random().map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", hex::encode(random)));
    let new = path.with_file_name(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(files::SECRET_MODE)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // What could not be written must not fill the disk either.
        let _ = fs::remove_file(&new);
    }
    written
}

/// A lock that a panic left behind still guards a whole map: every change of it is one assignment.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Machines of a large site, a few objects each.
const MAX_ENTRIES: usize = 8192;
const MAX_INDEX: u64 = 128 * 1024;
const MAX_OBJECT: u64 = 4 * 1024 * 1024;
const MAX_ORIGIN: usize = 256;
/// Workloads that are named as users of one object.
const MAX_USERS: usize = 16;
const USE_GRAIN: Duration = Duration::from_secs(3600);
/// What nobody used for so long is neither renewed nor missed.
const RECENT: Duration = Duration::from_secs(2 * 86_400);
