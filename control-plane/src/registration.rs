//! Registration entries: the instances that hold certificates, and the join tokens that were spent.
//!
//! Kept in memory, because every renewal reads them, and in the store, because a restart must know them. What admits
//! an instance (an enrolment, a spent token) is in the store before the certificate is; what a renewal changes follows
//! within two seconds in one transaction for all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use vouchsafe_api::convert::attest::{Endpoint, endpoints};
use vouchsafe_api::convert::unix_ms;
use vouchsafe_api::v1;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_verifier::evidence::tpm::attest::ClockInfo;
use vouchsafe_verifier::evidence::tpm::ima::Checkpoint;
use vouchsafe_verifier::evidence::tpm::{JudgedList, TpmState};

use crate::issuance::token_spent;
use crate::refusal::{Refused, unavailable};
use crate::store::redb::RedbStore;
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
    /// End of its certificate.
    pub not_after: SystemTime,
    /// Where peers reach it.
    pub endpoints: Vec<Endpoint>,
    /// Version of its sidecar.
    pub software_version: String,
    /// The full attestation result.
    pub ear: String,
}

/// What a mesh-state stream says about an instance; not stored.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Session {
    /// Open streams.
    pub streams: u32,
    /// Newest revision that it applied.
    pub applied: Revision,
    /// Why it could not apply a newer one.
    pub error: Option<String>,
}

/// All registrations of this control plane.
#[derive(Debug)]
pub struct Registry {
    store: RedbStore,
    inner: Mutex<Inner>,
    admission: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    instances: BTreeMap<InstanceId, Instance>,
    sessions: HashMap<InstanceId, Session>,
    pins: HashMap<[u8; 32], String>,
    refusals: HashMap<WorkloadName, (SystemTime, &'static str)>,
    dirty: BTreeSet<InstanceId>,
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
            inner.instances.insert(instance.id, instance);
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
            (instance.clone(), session.cloned().unwrap_or_default())
        })
        .collect()
    }

    /// Where live instances are reached, by workload; sorted, so that equal states look equal.
    pub fn endpoints(&self, now: SystemTime) -> BTreeMap<WorkloadName, Vec<Endpoint>> {
        let inner = self.lock();
        let mut found: BTreeMap<WorkloadName, Vec<Endpoint>> = BTreeMap::new();
        for instance in inner.instances.values().filter(|one| one.not_after > now) {
            let held = found.entry(instance.workload.clone()).or_default();
            held.extend(instance.endpoints.iter().cloned());
        }
        for endpoints in found.values_mut() {
            endpoints.sort_by(|a, b| (&a.listener, &a.ports).cmp(&(&b.listener, &b.ports)));
            endpoints.dedup();
        }
        found.retain(|_, endpoints| !endpoints.is_empty());
        found
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
            .filter(|one| one.not_after > now && one.workload == *workload && one.image == image)
            .map(|one| one.hardware.as_str())
            .filter(|held| *held != hardware)
            .collect();
        machines.len()
    }

    /// Registers a new instance, spending a token where one admits it; in the store when it returns.
    ///
    /// # Errors
    /// [`Refused`]: `join_token_spent` when another machine was faster.
    pub async fn enroll(&self, instance: Instance, spend: Option<[u8; 32]>) -> Result<(), Refused> {
        let mut writes = vec![write_instance(&instance)];
        if let Some(token) = spend {
            writes.push(Write {
                key: format!("{JOIN_TOKENS}{}", hex::encode(token)),
                expect: Expect::Absent,
                value: Some(instance.hardware.clone().into_bytes()),
            });
        }
        match self.store.txn(writes).await {
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
            inner.instances.insert(instance.id, instance);
        }
        self.notify();
        Ok(())
    }

    /// Replaces an instance after a renewal; the store follows with [`Self::flush`].
    pub fn renew(&self, instance: Instance) {
        {
            let mut inner = self.lock();
            inner.dirty.insert(instance.id);
            inner.instances.insert(instance.id, instance);
        }
        self.notify();
    }

    /// A mesh-state stream of an instance opened.
    pub fn stream_opened(&self, id: InstanceId) {
        self.lock().sessions.entry(id).or_default().streams += 1;
    }

    /// A mesh-state stream of an instance ended.
    pub fn stream_closed(&self, id: &InstanceId) {
        if let Some(session) = self.lock().sessions.get_mut(id) {
            session.streams = session.streams.saturating_sub(1);
        }
    }

    /// An instance says what became of a revision.
    pub fn acknowledged(&self, id: &InstanceId, revision: Revision, error: Option<String>) {
        if let Some(session) = self.lock().sessions.get_mut(id) {
            if error.is_none() {
                session.applied = session.applied.max(revision);
            }
            session.error = error;
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
        let (writes, dirty, over) = {
            let mut inner = self.lock();
            let dirty = std::mem::take(&mut inner.dirty);
            let over: Vec<InstanceId> = inner
                .instances
                .values()
                .filter(|one| one.not_after + KEPT_AFTER_END <= now)
                .map(|one| one.id)
                .collect();
            let changed = dirty.iter().filter_map(|id| inner.instances.get(id));
            let mut writes: Vec<Write> = changed.map(write_instance).collect();
            writes.extend(over.iter().map(|id| Write {
                key: format!("{INSTANCES}{id}"),
                expect: Expect::Any,
                value: None,
            }));
            (writes, dirty, over)
        };
        if writes.is_empty() {
            return Ok(());
        }
        let result = self.store.txn(writes).await;
        let mut inner = self.lock();
        match result {
            Ok(_) => {
                for id in over {
                    if inner.dirty.contains(&id) {
                        // It renewed meanwhile; the next call writes it again.
                        continue;
                    }
                    inner.instances.remove(&id);
                    inner.sessions.remove(&id);
                }
                Ok(())
            }
            Err(error) => {
                inner.dirty.extend(dirty);
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single insertion or removal, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.send_modify(|number| *number += 1);
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

/// The stored form: texts and numbers only, so that it outlives changes of types.
#[derive(Debug, Deserialize, Serialize)]
struct StoredInstance {
    id: String,
    workload: String,
    hardware: String,
    tpm: Option<StoredTpm>,
    #[serde(default)]
    vtpm_key: String,
    class: String,
    kinds: Vec<String>,
    image: String,
    member: String,
    evidence_time_ms: u64,
    not_after_ms: u64,
    endpoints: Vec<(String, Vec<String>)>,
    software_version: String,
    ear: String,
}

/// What is kept of a TPM, as it is stored.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StoredTpm {
    ek_sha256: String,
    ak_name: String,
    clock: u64,
    reset_count: u32,
    restart_count: u32,
    safe: bool,
    #[serde(default)]
    ima: Option<StoredList>,
}

/// How far a measurement list was judged.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct StoredList {
    bank: String,
    count: u64,
    aggregate: String,
    policy_sha256: String,
}

impl From<&JudgedList> for StoredList {
    fn from(judged: &JudgedList) -> Self {
        Self {
            bank: judged.checkpoint.bank.as_str().to_owned(),
            count: judged.checkpoint.count,
            aggregate: hex::encode(&judged.checkpoint.aggregate),
            policy_sha256: hex::encode(judged.policy_sha256),
        }
    }
}

impl StoredList {
    fn into_judged(self) -> Option<JudgedList> {
        let mut policy_sha256 = [0; 32];
        hex::decode_to_slice(&self.policy_sha256, &mut policy_sha256).ok()?;
        Some(JudgedList {
            checkpoint: Checkpoint {
                bank: self.bank.parse().ok()?,
                count: self.count,
                aggregate: hex::decode(&self.aggregate).ok()?,
            },
            policy_sha256,
        })
    }
}

impl From<&Instance> for StoredInstance {
    fn from(instance: &Instance) -> Self {
        let endpoints = instance.endpoints.iter().map(|endpoint| {
            let ports = endpoint.ports.iter().map(ToString::to_string).collect();
            (endpoint.listener.clone(), ports)
        });
        Self {
            id: instance.id.to_string(),
            workload: instance.workload.to_string(),
            hardware: instance.hardware.clone(),
            tpm: instance.tpm.as_ref().map(StoredTpm::from),
            vtpm_key: hex::encode(&instance.vtpm_key),
            class: instance.class.clone(),
            kinds: instance.kinds.clone(),
            image: instance.image.clone(),
            member: instance.member.clone(),
            evidence_time_ms: unix_ms(instance.evidence_time),
            not_after_ms: unix_ms(instance.not_after),
            endpoints: endpoints.collect(),
            software_version: instance.software_version.clone(),
            ear: instance.ear.clone(),
        }
    }
}

impl StoredInstance {
    fn into_instance(self) -> Option<Instance> {
        let mut id = [0; 16];
        hex::decode_to_slice(&self.id, &mut id).ok()?;
        let time = |ms| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
        let wire = self.endpoints.into_iter();
        let wire = wire.map(|(listener, ports)| v1::Endpoint { listener, ports });
        Some(Instance {
            id: InstanceId(id),
            workload: self.workload.parse().ok()?,
            hardware: self.hardware,
            tpm: match self.tpm {
                Some(tpm) => Some(tpm.into_state()?),
                None => None,
            },
            vtpm_key: hex::decode(&self.vtpm_key).ok()?,
            class: self.class,
            kinds: self.kinds,
            image: self.image,
            member: self.member,
            evidence_time: time(self.evidence_time_ms)?,
            not_after: time(self.not_after_ms)?,
            endpoints: endpoints(wire.collect()).ok()?,
            software_version: self.software_version,
            ear: self.ear,
        })
    }
}

impl From<&TpmState> for StoredTpm {
    fn from(tpm: &TpmState) -> Self {
        Self {
            ek_sha256: hex::encode(tpm.ek_sha256),
            ak_name: hex::encode(&tpm.ak_name),
            clock: tpm.clock.clock,
            reset_count: tpm.clock.reset_count,
            restart_count: tpm.clock.restart_count,
            safe: tpm.clock.safe,
            ima: tpm.ima.as_ref().map(StoredList::from),
        }
    }
}

impl StoredTpm {
    pub(crate) fn into_state(self) -> Option<TpmState> {
        let mut ek_sha256 = [0; 32];
        hex::decode_to_slice(&self.ek_sha256, &mut ek_sha256).ok()?;
        Some(TpmState {
            ek_sha256,
            ak_name: hex::decode(&self.ak_name).ok()?,
            clock: ClockInfo {
                clock: self.clock,
                reset_count: self.reset_count,
                restart_count: self.restart_count,
                safe: self.safe,
            },
            ima: match self.ima {
                Some(list) => Some(list.into_judged()?),
                None => None,
            },
        })
    }
}

const INSTANCES: &str = "instances/";
const JOIN_TOKENS: &str = "join-tokens/";
/// An instance that ended is kept for a while, so that `status` can say what became of it.
const KEPT_AFTER_END: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn instance(number: u8) -> Instance {
        Instance {
            id: InstanceId([number; 16]),
            workload: "inference/llm".parse().unwrap(),
            hardware: format!("tpm_ek_sha256:{number}"),
            tpm: Some(TpmState {
                ek_sha256: [number; 32],
                ak_name: vec![0, 11, number],
                clock: ClockInfo {
                    clock: 1,
                    reset_count: 2,
                    restart_count: 3,
                    safe: true,
                },
                ima: Some(JudgedList {
                    checkpoint: Checkpoint {
                        bank: HashAlgorithm::Sha256,
                        count: 826,
                        aggregate: vec![4; 32],
                    },
                    policy_sha256: [5; 32],
                }),
            }),
            vtpm_key: vec![number],
            class: "software".into(),
            kinds: vec!["tpm".into()],
            image: "node".into(),
            member: "node inference/gpu-07".into(),
            evidence_time: now(),
            not_after: now() + Duration::from_secs(60),
            endpoints: vec![Endpoint {
                listener: format!("127.0.0.1:{}", 9000 + u16::from(number)),
                ports: vec!["openai".parse().unwrap()],
            }],
            software_version: "0.1.0".into(),
            ear: "{}".into(),
        }
    }

    async fn registry(folder: &std::path::Path) -> Registry {
        let store = RedbStore::open(&folder.join("store.redb")).unwrap();
        Registry::open(store).await.unwrap()
    }

    #[tokio::test]
    async fn a_token_wanted_by_many_machines_at_once_admits_exactly_one() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Arc::new(registry(folder.path()).await);
        let claims: Vec<_> = (0..16)
            .map(|number| {
                let registry = Arc::clone(&registry);
                tokio::spawn(async move { registry.enroll(instance(number), Some([1; 32])).await })
            })
            .collect();
        let mut admitted = 0;
        for claim in claims {
            match claim.await.unwrap() {
                Ok(()) => admitted += 1,
                Err(refused) => assert_eq!(refused.reason, "join_token_spent"),
            }
        }
        assert_eq!(admitted, 1);
        assert_eq!(registry.instances(now()).len(), 1);
    }

    #[tokio::test]
    async fn a_restart_knows_instances_renewals_and_spent_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let registry = registry(folder.path()).await;
        registry.enroll(instance(1), Some([1; 32])).await.unwrap();
        let mut renewed = instance(1);
        renewed.not_after += Duration::from_secs(600);
        registry.renew(renewed.clone());
        registry.flush(now()).await.unwrap();
        drop(registry);
        let store = loop {
            // The store's thread lets go of the file after the drop, not within it.
            match RedbStore::open(&folder.path().join("store.redb")) {
                Ok(store) => break store,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let registry = Registry::open(store).await.unwrap();
        assert_eq!(registry.instance(&renewed.id), Some(renewed));
        assert_eq!(
            registry.pinned(&[1; 32]).as_deref(),
            Some("tpm_ek_sha256:1")
        );
    }

    #[tokio::test]
    async fn an_instance_that_ended_has_no_endpoint_and_is_forgotten_later() {
        let folder = tempfile::tempdir().unwrap();
        let registry = registry(folder.path()).await;
        registry.enroll(instance(1), None).await.unwrap();
        assert_eq!(registry.endpoints(now()).len(), 1);
        let later = now() + Duration::from_secs(60);
        assert_eq!(registry.endpoints(later).len(), 0);
        registry.flush(later + KEPT_AFTER_END).await.unwrap();
        assert_eq!(registry.instance(&InstanceId([1; 16])), None);
    }
}
