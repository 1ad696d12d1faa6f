//! The endorsements that are held, in memory: what is valid, what was used lately and by whom, what is wanted.
//!
//! An object never displaces a newer edition of itself. [`super::folder`] is where it outlives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use vouchsafe_verifier::endorsement::need::{Lasting, Need};
use vouchsafe_verifier::endorsement::object::Endorsement;

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

    /// What is held although its time is over, of those that still say something.
    pub(crate) fn take_over(&self, need: &Need) -> Option<Held> {
        let held = self.entries.get(&need.name())?.held.clone();
        held.filter(|_| need.outlives_its_end())
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
    pub(super) fn restore(
        &mut self,
        index: Index,
        held: Option<Held>,
        now: SystemTime,
    ) -> Option<Kept> {
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
    pub(super) object: Option<Arc<Endorsement>>,
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

/// A lock that a panic left behind still guards a whole map: every change of it is one assignment.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Machines of a large site, a few objects each.
pub(super) const MAX_ENTRIES: usize = 8192;
/// Workloads that are named as users of one object.
const MAX_USERS: usize = 16;
const USE_GRAIN: Duration = Duration::from_secs(3600);
/// What nobody used for so long is neither renewed nor missed.
const RECENT: Duration = Duration::from_secs(2 * 86_400);
