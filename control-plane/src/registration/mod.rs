//! Registration entries: the instances that hold certificates, and the join tokens that were spent.
//!
//! Kept in memory, because every renewal reads them, and in the store, because a restart must know them. What admits
//! an instance (an enrolment, a spent token) is in the store before the certificate is; what a renewal changes follows
//! within two seconds in one transaction for all of them.
//!
//! Several write: enrolments, revocations, the flush. What each writes is taken from memory and queued at the store in one
//! step (`Registry::queue`), so that nothing older is ever written over something newer.

mod borne;
pub mod outrun;
pub mod places;
mod steady;
mod stored;
pub(crate) mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{broadcast, watch};
use vouchsafe_api::convert::attest::Endpoint;
use vouchsafe_api::convert::mesh_state::report::Report;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::standing::{Action, Withdrawal, Withdrawn};
use vouchsafe_verifier::evidence::tpm::TpmState;

pub use self::borne::Certificate;
use self::steady::Steady;
use self::stored::StoredInstance;
pub(crate) use self::stored::StoredTpm;
use crate::canary::Facts;
use crate::issuance::{revoked, token_spent};
use crate::reappraisal::Editions;
use crate::refusal::{Refused, unavailable};
use crate::standing::{Duties, Duty, Vigil};
use crate::store::redb::{Queued, RedbStore};
use crate::store::{Expect, Store, StoreError, Write};

/// An instance with its newest certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Instance {
    /// Which.
    pub id: InstanceId,
    /// Whose name it bears.
    pub workload: WorkloadName,
    /// Its machine.
    pub hardware: String,
    /// Its TPM at the newest attestation; `None` for simulated evidence.
    pub tpm: Option<TpmState>,
    /// `TPMT_PUBLIC` of the key of its vTPM at Azure; empty elsewhere.
    pub vtpm_key: Vec<u8>,
    /// Class of its evidence.
    pub class: String,
    /// Kinds of its evidence.
    pub kinds: Vec<String>,
    /// Image that its evidence matched.
    pub image: String,
    /// Why it may bear the name.
    pub member: String,
    /// When its evidence was verified.
    pub evidence_time: SystemTime,
    /// End of its newest certificate.
    pub not_after: SystemTime,
    /// End of the last to end of all its certificates: a successor may end before the one that it follows.
    pub trusted_until: SystemTime,
    /// Its certificates that have not ended, the newest last: an operator may name any of them. None where they are of before
    /// this was kept.
    pub certificates: Vec<Certificate>,
    /// Where peers reach it.
    pub endpoints: Vec<Endpoint>,
    /// Version of its sidecar.
    pub software_version: String,
    /// The full attestation result.
    pub ear: String,
    /// Identities of all its devices, sorted.
    pub identities: Vec<String>,
    /// What it owes, and when each was last good.
    pub owed: BTreeMap<Duty, Owed>,
    /// Why nobody may talk to it now; `None` while it is live.
    pub withdrawn: Option<Withdrawal>,
    /// SHA-256 of the evidence that its certificate rests on, as it is archived; zeros where none is.
    pub certificate_evidence: [u8; 32],
    /// The same of the newest evidence that was good, of whichever duty.
    pub good_evidence: [u8; 32],
    /// Digest of the terms that it was judged by last ([`crate::reappraisal::terms`]).
    pub judged_by: [u8; 32],
    /// Editions of vendors' statements that it was judged with last.
    pub rests_on: Editions,
}

/// A proof that an instance owes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owed {
    /// How often.
    pub interval: Duration,
    /// When it was last good.
    pub good: SystemTime,
}

impl Instance {
    /// Its duties, as a [`Vigil`] takes them.
    fn duties(&self) -> Duties {
        let owed = self.owed.iter();
        owed.map(|(duty, owed)| (*duty, owed.interval)).collect()
    }

    fn is_trusted(&self, now: SystemTime) -> bool {
        self.not_after > now && self.withdrawn.is_none()
    }

    /// Whether it holds a certificate, any of them, that has not ended.
    fn is_certified(&self, now: SystemTime) -> bool {
        self.not_after.max(self.trusted_until) > now
    }

    pub(crate) fn is_revoked(&self) -> bool {
        let withdrawn = self.withdrawn.as_ref();
        withdrawn.is_some_and(|withdrawal| withdrawal.state == Withdrawn::Revoked)
    }

    /// What nothing that comes later undoes: a revocation, and certificates that were issued.
    fn keep_of(&mut self, before: Option<&Self>) {
        let withdrawn = before.filter(|before| before.is_revoked());
        self.withdrawn = withdrawn.and_then(|before| before.withdrawn.clone());
        let until = before.map_or(self.not_after, |before| before.trusted_until);
        self.trusted_until = self.trusted_until.max(self.not_after).max(until);
        let before = before.map_or(&[][..], |before| &before.certificates);
        borne::keep(&mut self.certificates, before, self.evidence_time);
    }
}

/// What a mesh-state stream says about an instance; not stored.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Session {
    /// Open streams.
    pub streams: u32,
    /// Newest revision that it applied, by its own word.
    pub applied: Revision,
    /// Newest revision that says nothing else of it than what it has applied.
    pub unconcerned: Revision,
    /// Why it could not apply a newer one.
    pub error: Option<String>,
    /// Since when the newest revision is not applied; `None` while it is.
    pub behind_since: Option<SystemTime>,
    /// What it held when it subscribed, where this control plane never made it.
    pub foreign: Option<Revision>,
    /// Connections that it had open when it was asked last; `None` before that.
    pub had_open: Option<u64>,
    /// What it decided at its own doors since it started, as far as it said so.
    pub report: Arc<Report>,
    /// What it had denied and ended when the present canary, if any, began.
    before_canary: Option<(u64, u64)>,
}

impl Session {
    /// What it denied and ended since the canary began.
    pub fn since_canary(&self) -> (u64, u64) {
        let (denied, ended) = self.before_canary.unwrap_or_default();
        // One that counts less than before has started anew.
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        (
            since(self.report.denied, denied),
            since(self.report.ended, ended),
        )
    }
}

impl Session {
    /// Newest revision that is in force there as far as it concerns the instance.
    pub fn in_force(&self) -> Revision {
        self.applied.max(self.unconcerned)
    }
}

/// All registrations of this control plane.
#[derive(Debug)]
pub struct Registry {
    store: RedbStore,
    inner: Mutex<Inner>,
    admission: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
    revoked: watch::Sender<u64>,
    /// Whose session says something else than before of what is in force there.
    heard: broadcast::Sender<InstanceId>,
    /// Held from reading what is to be written until that is queued.
    queueing: tokio::sync::Mutex<()>,
    /// Silence is measured from here on.
    opened: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    instances: BTreeMap<InstanceId, Instance>,
    sessions: HashMap<InstanceId, Session>,
    pins: HashMap<[u8; 32], String>,
    refusals: HashMap<WorkloadName, (SystemTime, &'static str)>,
    dirty: BTreeSet<InstanceId>,
    vigil: Vigil,
    /// Revision in force.
    newest: Revision,
    /// The highest that was ever in force here.
    highest: Revision,
    /// That of a canary, and whose it is.
    canary: Option<(Revision, Arc<Facts>)>,
    /// Instances of which an operator's revocation names a certificate.
    named: BTreeMap<InstanceId, Withdrawal>,
    steady: Steady,
}

impl Inner {
    /// Why nobody may talk to an instance: of two reasons the sterner. Bad evidence and silence cut, and a revocation that
    /// is as stern as silence outlasts it.
    fn withdrawal(&self, instance: &Instance) -> Option<Withdrawal> {
        let named = self.named.get(&instance.id);
        let cuts = named.is_some_and(|one| one.state == Withdrawn::Named(Action::Cut));
        match &instance.withdrawn {
            Some(own) if own.state == Withdrawn::Revoked || !cuts => Some(own.clone()),
            _ => named.cloned(),
        }
    }

    /// The revision that an instance is to hold.
    fn newest_of(&self, id: &InstanceId) -> Revision {
        wanted(&self.instances, self.newest, self.canary.as_ref(), id)
    }

    /// Takes an instance in, with what its proof of everything means. Says whether that restored it.
    fn take(&mut self, mut instance: Instance, elapsed: Duration) -> bool {
        let duties = instance.duties();
        let before = self.instances.get(&instance.id);
        if before.is_some() {
            self.dirty.insert(instance.id);
        }
        instance.keep_of(before);
        let workload = &instance.workload;
        let machine = &instance.hardware;
        let restored = (self.vigil).proven(instance.id, workload, machine, &duties, elapsed);
        self.instances.insert(instance.id, instance);
        restored
    }
}

impl Registry {
    /// Reads all registrations.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't be read or an entry in it is damaged.
    pub async fn open(store: RedbStore) -> Result<Self, StoreError> {
        let damaged = |key: &str| StoreError::Engine(format!("entry `{key}` is damaged"));
        let mut inner = Inner::default();
        for (key, entry) in store.list(INSTANCES).await?.0 {
            let stored: StoredInstance =
                serde_json::from_slice(&entry.value).map_err(|_| damaged(&key))?;
            let instance = stored.into_instance().ok_or_else(|| damaged(&key))?;
            inner.recall(instance);
        }
        for (key, entry) in store.list(JOIN_TOKENS).await?.0 {
            let digest = key.strip_prefix(JOIN_TOKENS).unwrap_or_default();
            let mut token = [0; 32];
            hex::decode_to_slice(digest, &mut token).map_err(|_| damaged(&key))?;
            let hardware = String::from_utf8(entry.value).map_err(|_| damaged(&key))?;
            inner.pins.insert(token, hardware);
        }
        Ok(Self {
            store,
            inner: Mutex::new(inner),
            admission: tokio::sync::Mutex::new(()),
            changed: watch::Sender::new(0),
            revoked: watch::Sender::new(0),
            heard: broadcast::Sender::new(HEARD),
            queueing: tokio::sync::Mutex::default(),
            opened: Instant::now(),
        })
    }

    /// The store below, for what is not a registration.
    pub fn store(&self) -> &RedbStore {
        &self.store
    }

    /// Learns when endpoints may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// An instance.
    pub fn instance(&self, id: &InstanceId) -> Option<Instance> {
        self.lock().instances.get(id).cloned()
    }

    /// All instances with a certificate that is not over, with what their streams say.
    pub fn instances(&self, now: SystemTime) -> Vec<(Instance, Session)> {
        let inner = self.lock();
        let live = inner.instances.values().filter(|one| one.not_after > now);
        live.map(|instance| {
            let session = inner.sessions.get(&instance.id);
            let mut instance = instance.clone();
            instance.withdrawn = inner.withdrawal(&instance);
            (instance, session.cloned().unwrap_or_default())
        })
        .collect()
    }

    /// The same instances, by name alone.
    pub fn living(&self, now: SystemTime) -> Vec<(InstanceId, WorkloadName)> {
        let inner = self.lock();
        let live = inner.instances.values().filter(|one| one.not_after > now);
        live.map(|one| (one.id, one.workload.clone())).collect()
    }

    /// Learns whose session changed in what it says of a revision; whoever falls behind looks at all.
    pub fn heard(&self) -> broadcast::Receiver<InstanceId> {
        self.heard.subscribe()
    }

    /// What the streams of an instance say, unless its certificate is over.
    pub fn session(&self, id: &InstanceId, now: SystemTime) -> Option<Session> {
        let inner = self.lock();
        let instance = inner.instances.get(id);
        instance.filter(|one| one.not_after > now)?;
        Some(inner.sessions.get(id).cloned().unwrap_or_default())
    }

    /// The machine that a token has pinned.
    pub fn pinned(&self, token: &[u8; 32]) -> Option<String> {
        self.lock().pins.get(token).cloned()
    }

    /// A turn to count and then register, for images with a limit: one at a time, until the guard is dropped.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.admission.lock().await
    }

    /// Machines other than `hardware` that run an image of a workload now.
    pub fn others_running(
        &self,
        workload: &WorkloadName,
        image: &str,
        hardware: &str,
        now: SystemTime,
    ) -> usize {
        let inner = self.lock();
        let machines: BTreeSet<&str> = inner
            .instances
            .values()
            .filter(|one| one.is_certified(now) && one.workload == *workload && one.image == image)
            .map(|one| one.hardware.as_str())
            .filter(|held| *held != hardware)
            .collect();
        machines.len()
    }

    /// Whether a workload has an instance that peers may talk to.
    pub fn has_instances(&self, workload: &WorkloadName, now: SystemTime) -> bool {
        let inner = self.lock();
        let mut instances = inner.instances.values();
        instances.any(|one| {
            let is_trusted = one.is_trusted(now) && inner.withdrawal(one).is_none();
            one.workload == *workload && is_trusted
        })
    }

    /// Registers a new instance, spending a token where one admits it; in the store when it returns.
    ///
    /// # Errors
    /// [`Refused`]: `join_token_spent` when another machine was faster.
    pub async fn enroll(&self, instance: Instance, spend: Option<[u8; 32]>) -> Result<(), Refused> {
        let id = instance.id;
        let spent = spend.map(|token| Write {
            key: format!("{JOIN_TOKENS}{}", hex::encode(token)),
            expect: Expect::Absent,
            value: Some(instance.hardware.clone().into_bytes()),
        });
        let queued = self.queue(|inner| {
            let mut instance = instance.clone();
            instance.keep_of(inner.instances.get(&id));
            let own = std::iter::once(write_instance(&instance));
            own.chain(spent).collect()
        });
        match queued.await.done().await {
            Ok(_) => {}
            Err(StoreError::Conflict(_)) => {
                let token = spend.unwrap_or_default();
                let by = self.pinned(&token).unwrap_or_default();
                return Err(token_spent(&token, &by));
            }
            Err(error) => return Err(unavailable(error.to_string())),
        }
        {
            let mut inner = self.lock();
            if let Some(token) = spend {
                inner.pins.insert(token, instance.hardware.clone());
            }
            let (workload, hardware) = (instance.workload.clone(), instance.hardware.clone());
            inner.take(instance, self.elapsed());
            // It came in force while this one was judged.
            if inner.names_place(&workload, &hardware) {
                return Err(revoked("a certificate of this workload on this machine"));
            }
        }
        self.notify();
        Ok(())
    }

    /// Replaces an instance after a renewal; the store follows with [`Self::flush`]. Says whether this restored one that
    /// had lapsed.
    pub fn renew(&self, instance: Instance) -> bool {
        let restored = {
            let mut inner = self.lock();
            inner.dirty.insert(instance.id);
            inner.take(instance, self.elapsed())
        };
        self.notify();
        restored
    }

    /// A revision is in force, perhaps beside that of a canary: who has not applied his is behind from now on,
    /// until it does or its stream finds that it is not concerned.
    pub fn published(
        &self,
        revision: Revision,
        canary: Option<(Revision, Arc<Facts>)>,
        now: SystemTime,
    ) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let facts = |canary: &Option<(Revision, Arc<Facts>)>| {
            let held = canary.as_ref();
            held.map(|(_, facts)| Arc::as_ptr(facts))
        };
        if facts(&inner.canary) != facts(&canary) {
            for session in inner.sessions.values_mut() {
                session.before_canary = Some((session.report.denied, session.report.ended));
            }
        }
        inner.made(revision);
        if let Some((tried, _)) = &canary {
            inner.made(*tried);
        }
        (inner.newest, inner.canary) = (revision, canary);
        for (id, session) in &mut inner.sessions {
            if session.in_force() < wanted(&inner.instances, revision, inner.canary.as_ref(), id) {
                session.behind_since.get_or_insert(now);
            }
        }
    }

    /// A revision says nothing else of an instance than what it has applied.
    pub fn unconcerned(&self, id: &InstanceId, revision: Revision) {
        let mut inner = self.lock();
        let newest = inner.newest_of(id);
        if let Some(session) = inner.sessions.get_mut(id) {
            session.unconcerned = session.unconcerned.max(revision);
            if session.in_force() >= newest {
                session.behind_since = None;
            }
            self.tell(id);
        }
    }

    /// How many connected instances have not applied the newest revision, and for how long the longest.
    pub fn lag(&self, now: SystemTime) -> (usize, Duration) {
        let inner = self.lock();
        let connected = inner.sessions.values().filter(|one| one.streams > 0);
        let since = connected.filter_map(|session| session.behind_since);
        let lag = since.map(|since| now.duration_since(since).unwrap_or_default());
        lag.fold((0, Duration::ZERO), |(count, longest), one| {
            (count + 1, longest.max(one))
        })
    }

    /// A mesh-state stream of an instance opened.
    pub fn stream_opened(&self, id: InstanceId, now: SystemTime) {
        let mut inner = self.lock();
        let newest = inner.newest_of(&id);
        let session = inner.sessions.entry(id).or_default();
        session.streams += 1;
        if session.in_force() < newest {
            session.behind_since.get_or_insert(now);
        }
    }

    /// A mesh-state stream of an instance ended.
    pub fn stream_closed(&self, id: &InstanceId) {
        if let Some(session) = self.lock().sessions.get_mut(id) {
            session.streams = session.streams.saturating_sub(1);
            self.tell(id);
        }
    }

    /// An instance says what became of a revision. Whether it had not said so before.
    pub fn acknowledged(&self, id: &InstanceId, revision: Revision, error: Option<String>) -> bool {
        let mut inner = self.lock();
        let newest = inner.newest_of(id);
        let Some(session) = inner.sessions.get_mut(id) else {
            return false;
        };
        let is_news = error.is_none() && session.in_force() < revision;
        if error.is_none() {
            session.applied = session.applied.max(revision);
            session.foreign = None;
        }
        if session.in_force() >= newest {
            session.behind_since = None;
        }
        session.error = error;
        self.tell(id);
        is_news
    }

    /// An instance says how many connections it has open.
    pub fn has_open(&self, id: &InstanceId, live: u64) {
        if let Some(session) = self.lock().sessions.get_mut(id) {
            session.had_open = Some(live);
        }
    }

    /// How many connections an instance had open when it was asked last.
    pub fn had_open(&self, id: &InstanceId) -> Option<u64> {
        self.lock().sessions.get(id)?.had_open
    }

    /// An instance says what it decided at its own doors.
    pub fn reported(&self, id: &InstanceId, report: Report) {
        if let Some(session) = self.lock().sessions.get_mut(id) {
            let counts = (report.denied, report.ended);
            session.before_canary.get_or_insert(counts);
            session.report = Arc::new(report);
        }
    }

    /// Remembers the newest refusal of a workload that policy knows, for `workload list`.
    pub fn refused(&self, workload: WorkloadName, when: SystemTime, reason: &'static str) {
        self.lock().refusals.insert(workload, (when, reason));
    }

    /// The newest refusal of a workload since this process started.
    pub fn last_refusal(&self, workload: &WorkloadName) -> Option<(SystemTime, &'static str)> {
        self.lock().refusals.get(workload).copied()
    }

    /// Writes what renewals changed and forgets instances that are long over, in one transaction.
    ///
    /// # Errors
    /// [`StoreError`]; the same is tried again at the next call.
    pub async fn flush(&self, now: SystemTime) -> Result<(), StoreError> {
        let mut unwritten = Unwritten {
            registry: self,
            dirty: BTreeSet::new(),
        };
        let mut over = Vec::new();
        let queued = self.queue(|inner| {
            let steady = inner.steady.at(now, self.elapsed());
            let long_ago = steady.checked_sub(KEPT_AFTER_END).unwrap_or(steady);
            unwritten.dirty = std::mem::take(&mut inner.dirty);
            over = { inner.instances.values() }
                .filter(|one| !one.is_certified(long_ago) && !inner.named.contains_key(&one.id))
                .map(|one| one.id)
                .collect();
            let changed = unwritten.dirty.iter();
            let changed = changed.filter_map(|id| inner.instances.get(id));
            let mut writes: Vec<Write> = changed.map(write_instance).collect();
            writes.extend(over.iter().map(|id| Write {
                key: format!("{INSTANCES}{id}"),
                expect: Expect::Any,
                value: None,
            }));
            writes
        });
        queued.await.done().await?;
        unwritten.dirty.clear();
        let mut inner = self.lock();
        for id in over {
            if inner.dirty.contains(&id) {
                // It renewed meanwhile; the next call writes it again.
                continue;
            }
            inner.instances.remove(&id);
            inner.sessions.remove(&id);
            inner.vigil.forget(&id);
        }
        Ok(())
    }

    /// Queues what is to be written of what is in memory; nothing that was read later is queued before it.
    ///
    /// # Cancel safety
    /// Nothing is read before it is this one's turn, and what was read is queued: dropping the future undoes nothing.
    async fn queue(&self, read: impl FnOnce(&mut Inner) -> Vec<Write>) -> Queued {
        let place = self.store.place().await;
        let _turn = self.queueing.lock().await;
        let writes = read(&mut self.lock());
        place.queue(writes)
    }

    /// Keeps everything from being queued.
    #[cfg(test)]
    pub(crate) async fn hold_queue(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.queueing.lock().await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single insertion or removal, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since it was opened.
    pub(crate) fn elapsed(&self) -> Duration {
        self.opened.elapsed()
    }

    fn tell(&self, id: &InstanceId) {
        // Mostly nobody listens.
        let _nobody = self.heard.send(*id);
    }

    fn notify(&self) {
        self.changed.send_modify(|number| *number += 1);
    }
}

fn wanted(
    instances: &BTreeMap<InstanceId, Instance>,
    newest: Revision,
    canary: Option<&(Revision, Arc<Facts>)>,
    id: &InstanceId,
) -> Revision {
    let tries = |facts: &Facts| {
        let instance = instances.get(id);
        instance.is_some_and(|one| facts.members.includes(&one.workload, id))
    };
    match canary {
        Some((revision, facts)) if tries(facts) => *revision,
        Some(_) | None => newest,
    }
}

/// What was taken to be written, and is to be written again unless it is known that it was.
struct Unwritten<'r> {
    registry: &'r Registry,
    dirty: BTreeSet<InstanceId>,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if !self.dirty.is_empty() {
            self.registry.lock().dirty.append(&mut self.dirty);
        }
    }
}

fn write_instance(instance: &Instance) -> Write {
    // Plain structures of texts and numbers always have a JSON form.
    let value = serde_json::to_vec(&StoredInstance::from(instance)).unwrap_or_default();
    Write {
        key: format!("{INSTANCES}{}", instance.id),
        expect: Expect::Any,
        value: Some(value),
    }
}

const INSTANCES: &str = "instances/";
/// Sessions that change between two looks of whoever listens.
const HEARD: usize = 1024;
const JOIN_TOKENS: &str = "join-tokens/";
/// An instance that ended is kept for a while, so that `status` can say what became of it.
const KEPT_AFTER_END: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
