//! The stored form of registrations: texts and numbers only, so that it outlives changes of types.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use vouchsafe_api::convert::attest::endpoints;
use vouchsafe_api::convert::unix_ms;
use vouchsafe_api::v1;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_attestation::standing::Withdrawal;
use vouchsafe_verifier::evidence::tpm::attest::ClockInfo;
use vouchsafe_verifier::evidence::tpm::ima::Checkpoint;
use vouchsafe_verifier::evidence::tpm::{JudgedList, TpmState};

use super::{Certificate, Instance, Owed};
use crate::standing::Duty;

/// An instance, as it is stored.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct StoredInstance {
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
    #[serde(default)]
    trusted_until_ms: u64,
    #[serde(default)]
    certificates: Vec<StoredCertificate>,
    endpoints: Vec<(String, Vec<String>)>,
    software_version: String,
    ear: String,
    #[serde(default)]
    identities: Vec<String>,
    #[serde(default)]
    owed: Vec<StoredDuty>,
    #[serde(default)]
    withdrawn: Option<StoredWithdrawal>,
    #[serde(default)]
    certificate_evidence: String,
    #[serde(default)]
    good_evidence: String,
    #[serde(default)]
    judged_by: String,
    #[serde(default)]
    rests_on: Vec<(String, String)>,
}

/// A certificate that an instance bears.
#[derive(Debug, Deserialize, Serialize)]
struct StoredCertificate {
    serial: String,
    spki_sha256: String,
    authority_spki_sha256: String,
    not_after_ms: u64,
}

impl From<&Certificate> for StoredCertificate {
    fn from(borne: &Certificate) -> Self {
        Self {
            serial: hex::encode(&borne.serial),
            spki_sha256: hex::encode(borne.spki_sha256),
            authority_spki_sha256: hex::encode(borne.authority_spki_sha256),
            not_after_ms: unix_ms(borne.not_after),
        }
    }
}

impl StoredCertificate {
    fn into_certificate(self) -> Option<Certificate> {
        Some(Certificate {
            serial: hex::decode(&self.serial).ok()?,
            spki_sha256: digest(&self.spki_sha256)?,
            authority_spki_sha256: digest(&self.authority_spki_sha256)?,
            not_after: time(self.not_after_ms)?,
        })
    }
}

/// What an instance owes, and when it was last good.
#[derive(Debug, Deserialize, Serialize)]
struct StoredDuty {
    duty: String,
    interval_ms: u64,
    good_ms: u64,
}

/// Why an instance is not to be trusted.
#[derive(Debug, Deserialize, Serialize)]
struct StoredWithdrawal {
    state: String,
    reason: String,
    since_ms: u64,
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
            trusted_until_ms: unix_ms(instance.trusted_until),
            certificates: { instance.certificates.iter() }
                .map(StoredCertificate::from)
                .collect(),
            endpoints: endpoints.collect(),
            software_version: instance.software_version.clone(),
            ear: instance.ear.clone(),
            identities: instance.identities.clone(),
            owed: { instance.owed.iter() }
                .map(|(duty, owed)| StoredDuty {
                    duty: duty.as_str().to_owned(),
                    interval_ms: u64::try_from(owed.interval.as_millis()).unwrap_or(u64::MAX),
                    good_ms: unix_ms(owed.good),
                })
                .collect(),
            withdrawn: { instance.withdrawn.as_ref() }.map(|withdrawal| StoredWithdrawal {
                state: withdrawal.state.as_str().to_owned(),
                reason: withdrawal.reason.clone(),
                since_ms: unix_ms(withdrawal.since),
            }),
            certificate_evidence: hex::encode(instance.certificate_evidence),
            good_evidence: hex::encode(instance.good_evidence),
            judged_by: hex::encode(instance.judged_by),
            rests_on: { instance.rests_on.iter() }
                .map(|(name, edition)| (name.clone(), hex::encode(edition)))
                .collect(),
        }
    }
}

impl StoredInstance {
    pub(super) fn into_instance(self) -> Option<Instance> {
        let id = InstanceId::parse(&self.id)?;
        let owed = { self.owed.iter() }
            .map(|owed| {
                let duty = Duty::ALL
                    .into_iter()
                    .find(|one| one.as_str() == owed.duty)?;
                let interval = Duration::from_millis(owed.interval_ms);
                let good = time(owed.good_ms)?;
                Some((duty, Owed { interval, good }))
            })
            .collect::<Option<_>>()?;
        let withdrawn = match &self.withdrawn {
            None => None,
            Some(stored) => Some(Withdrawal {
                instance: id,
                state: stored.state.parse().ok()?,
                reason: stored.reason.clone(),
                since: time(stored.since_ms)?,
            }),
        };
        let wire = self.endpoints.into_iter();
        let wire = wire.map(|(listener, ports)| v1::Endpoint { listener, ports });
        Some(Instance {
            id,
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
            trusted_until: time(self.trusted_until_ms.max(self.not_after_ms))?,
            certificates: { self.certificates.into_iter() }
                .map(StoredCertificate::into_certificate)
                .collect::<Option<_>>()?,
            endpoints: endpoints(wire.collect()).ok()?,
            software_version: self.software_version,
            ear: self.ear,
            identities: self.identities,
            owed,
            withdrawn,
            certificate_evidence: digest(&self.certificate_evidence)?,
            good_evidence: digest(&self.good_evidence)?,
            judged_by: digest(&self.judged_by)?,
            rests_on: { self.rests_on.into_iter() }
                .map(|(name, edition)| Some((name, digest(&edition)?)))
                .collect::<Option<_>>()?,
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

fn time(ms: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms))
}

/// Zeros for none.
fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if !text.is_empty() {
        hex::decode_to_slice(text, &mut digest).ok()?;
    }
    Some(digest)
}
