//! Appraisal of an evidence set: a pure function from evidence, what was challenged, endorsements, reference values and
//! time to a [`Verdict`].
//!
//! A set is judged as a whole first: its order, its one binding root, the alternative of the profile that asks for
//! exactly its kinds. Then each piece over its own binding, which covers the digest of all that was collected before it,
//! so the root, which comes last, commits to all the rest.

mod hardware;
mod values;

use std::collections::BTreeMap;
use std::time::SystemTime;

use vouchsafe_attestation::binding::{Base, EvidenceDigest};
use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;

use crate::dossier::File;
use crate::evidence::{Evidence, EvidenceItem, simulated, tpm};
use crate::judgement::Value;
use crate::reference_value::{Alternative, ReferenceValues};
use crate::vendor_roots::VendorRoots;
use crate::verdict::{Check, Findings, Refusal, Verdict};

use self::values::{appraise_simulated, appraise_tpm};

/// What the verifier expects of this attestation, all of its own knowledge.
#[derive(Debug)]
pub struct Expected<'a> {
    /// Digest of the binding transcript, computed from the verifier's own end of the connection.
    pub base: &'a Base,
    /// Kinds that were challenged on this stream: the set has exactly these.
    pub required: &'a [EvidenceKind],
    /// The TPM that was challenged on this stream.
    pub tpm: Option<&'a tpm::Challenged>,
    /// What is known of this instance's TPM from its last attestation; `None` only for an enrolment.
    pub previous_tpm: Option<&'a tpm::TpmState>,
    /// `TPMT_PUBLIC` of the vTPM's key that was offered on this stream.
    pub vtpm_key: Option<&'a [u8]>,
    /// How many of NVIDIA's devices were offered on this stream, switches included.
    pub nvidia_devices: u32,
    /// The simulated machine that was offered on this stream.
    pub simulated_machine: Option<&'a str>,
    /// Whether the trust domain was created to accept simulated evidence.
    pub danger_accept_simulated: bool,
    /// What vendors say of the hardware: used where it helps, ignored where it is old.
    pub endorsements: &'a [File<'a>],
    /// Whom evidence of hardware must lead to.
    pub roots: &'a VendorRoots,
}

/// What a device's evidence says beyond its claims: for the full result only.
pub type Shown = BTreeMap<&'static str, Value>;

/// Evidence that was verified and fits a profile. Only [`appraise`] makes one.
#[derive(Clone, Debug)]
pub struct Appraised {
    class: Class,
    root: EvidenceKind,
    alternative: usize,
    devices: Vec<DeviceResult>,
    details: Vec<(Class, Shown)>,
    tpm: Option<tpm::TpmState>,
    evidence_time: SystemTime,
}

impl Appraised {
    /// The weakest class among the devices.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Kind of the binding root.
    pub fn root(&self) -> EvidenceKind {
        self.root
    }

    /// Place in [`ReferenceValues::any_of`] of the alternative that fitted.
    pub fn alternative(&self) -> usize {
        self.alternative
    }

    /// What each device proved.
    pub fn devices(&self) -> &[DeviceResult] {
        &self.devices
    }

    /// Each device with its own class and all that its verifier shows of it.
    pub fn details(&self) -> impl Iterator<Item = (&DeviceResult, Class, &Shown)> {
        let both = self.devices.iter().zip(&self.details);
        both.map(|(device, (class, shown))| (device, *class, shown))
    }

    /// What to keep of the TPM for the next attestation.
    pub fn tpm(&self) -> Option<&tpm::TpmState> {
        self.tpm.as_ref()
    }

    /// When the evidence was verified.
    pub fn evidence_time(&self) -> SystemTime {
        self.evidence_time
    }

    /// The attestation result: the only way to one from evidence.
    pub fn into_result(
        self,
        instance: InstanceId,
        policy_revision: Revision,
        ear_sha256: [u8; 32],
    ) -> AttestationResult {
        AttestationResult {
            class: self.class,
            root: self.root,
            instance,
            evidence_time: self.evidence_time,
            policy_revision,
            ear_sha256,
            devices: self.devices,
            inclusion_promise: None,
        }
    }
}

/// Verifies every piece of a set and appraises the whole against a profile.
///
/// `items` are in the order of collection. Every check is in the verdict; the first that fails ends it.
pub fn appraise(
    items: &[EvidenceItem],
    reference: &ReferenceValues,
    expected: &Expected<'_>,
    now: SystemTime,
) -> Verdict {
    let mut findings = expected
        .tpm
        .map_or_else(Findings::default, |tpm| tpm.findings().clone());
    let outcome = run(items, reference, expected, now, &mut findings);
    Verdict::new(findings, outcome)
}

fn run(
    items: &[EvidenceItem],
    reference: &ReferenceValues,
    expected: &Expected<'_>,
    now: SystemTime,
    findings: &mut Findings,
) -> Result<Appraised, Refusal> {
    let root = check_set(items, findings)?;
    check_solicited(items, expected, findings)?;
    let (alternative, fitting) = choose(items, reference, findings)?;
    let verified = verify_all(items, fitting, expected, now, findings)?;
    hardware::check_together(&verified, fitting, findings)?;
    let gpus = hardware::gpus(&verified);
    let devices = verified
        .iter()
        .map(|device| device.appraise(fitting, gpus, now, findings))
        .collect::<Result<Vec<_>, _>>()?;
    let details: Vec<(Class, Shown)> = { verified.iter() }
        .map(|device| (device.class(), device.shown()))
        .collect();
    let class = details.iter().map(|(class, _)| *class).min();
    let tpm = verified.into_iter().find_map(|device| match device.proof {
        Proof::Tpm(tpm) => Some(tpm.judged_by(fitting.tpm.as_ref()?.ima.as_ref())),
        Proof::Simulated(_) | Proof::Hardware(_) => None,
    });
    Ok(Appraised {
        class: class.unwrap_or(Class::Simulated),
        root,
        alternative,
        devices,
        details,
        tpm,
        evidence_time: now,
    })
}

/// The set is not empty, bounded, has each device once, and ends in its only binding root (DESIGN §5.3).
fn check_set(items: &[EvidenceItem], findings: &mut Findings) -> Result<EvidenceKind, Refusal> {
    let check = Check::EvidenceSet;
    let Some(last) = items.last() else {
        return Err(findings.refuse(check, "no evidence"));
    };
    let last = last.evidence.kind();
    let root = EvidenceKind::binding_root(items.iter().map(|item| item.evidence.kind()));
    let numbered = items.iter().enumerate().all(|(at, item)| {
        let same_kind_before = items
            .iter()
            .take(at)
            .filter(|other| other.evidence.kind() == item.evidence.kind())
            .count();
        u32::try_from(same_kind_before) == Ok(item.index)
    });
    findings.require(
        check,
        items.len() <= AttestationResult::MAX_DEVICES,
        format!("{} pieces", items.len()),
    )?;
    findings.require(check, numbered, "pieces of a kind are numbered from 0")?;
    match root {
        Some(root) => findings.require(
            check,
            last == root,
            format!("the last piece is of kind `{last}`, the binding root `{root}`"),
        )?,
        None => {
            return Err(findings.refuse(check, "not exactly one piece could be the binding root"));
        }
    }
    Ok(last)
}

/// What came is what was asked for on this stream.
fn check_solicited(
    items: &[EvidenceItem],
    expected: &Expected<'_>,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let found = kinds(items);
    let mut required = expected.required.to_vec();
    required.sort_unstable();
    required.dedup();
    findings.require(
        Check::Solicited,
        found == required,
        format!("asked for {}, found {}", words(&required), words(&found)),
    )?;
    let devices = items
        .iter()
        .filter(|item| item.evidence.kind() == EvidenceKind::NvidiaGpu)
        .count();
    if devices > 0 {
        findings.require(
            Check::DeviceCount,
            u32::try_from(devices) == Ok(expected.nvidia_devices),
            format!("offered {}, found {devices}", expected.nvidia_devices),
        )?;
    }
    Ok(())
}

fn kinds(items: &[EvidenceItem]) -> Vec<EvidenceKind> {
    let mut kinds: Vec<_> = items.iter().map(|item| item.evidence.kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn words(kinds: &[EvidenceKind]) -> String {
    let words: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    words.join(", ")
}

struct Device<'a> {
    index: u32,
    proof: Proof<'a>,
}

enum Proof<'a> {
    Tpm(Box<tpm::Verified>),
    Simulated(simulated::Verified),
    Hardware(Box<hardware::Verified<'a>>),
}

/// Each piece over its own binding, which covers the digest of all that was collected before it.
fn verify_all<'a>(
    items: &'a [EvidenceItem],
    alternative: &Alternative,
    expected: &Expected<'_>,
    now: SystemTime,
    findings: &mut Findings,
) -> Result<Vec<Device<'a>>, Refusal> {
    let mut prior = EvidenceDigest::empty();
    let mut devices = Vec::new();
    for item in items {
        let kind = item.evidence.kind();
        let binding = expected.base.device(kind, item.index, &prior);
        let proof = match &item.evidence {
            Evidence::Tpm(evidence) => {
                let Some(challenged) = expected.tpm else {
                    return Err(findings.refuse(Check::Solicited, "no TPM was challenged"));
                };
                let previous = expected.previous_tpm;
                tpm::verify(evidence, &binding, challenged, previous, findings)
                    .map(|verified| Proof::Tpm(Box::new(verified)))?
            }
            Evidence::Simulated(evidence) => {
                simulated::verify(evidence, &binding, expected, findings).map(Proof::Simulated)?
            }
            Evidence::SevSnp(_)
            | Evidence::Tdx(_)
            | Evidence::AzSnpVtpm(_)
            | Evidence::AzTdxVtpm(_)
            | Evidence::NvidiaGpu(_)
            | Evidence::Nitro(_) => {
                let Some(reference) = alternative.hardware.get(&kind) else {
                    return Err(findings.refuse(Check::RequiredEvidence, "not asked for"));
                };
                hardware::verify(item, &binding, reference, expected, now, findings)
                    .map(|verified| Proof::Hardware(Box::new(verified)))?
            }
        };
        prior = prior.after(kind, item.index, &item.evidence.transcript());
        devices.push(Device {
            index: item.index,
            proof,
        });
    }
    Ok(devices)
}

/// The first alternative with exactly the kinds of the set: more evidence than asked for is a mistake somewhere.
fn choose<'r>(
    items: &[EvidenceItem],
    reference: &'r ReferenceValues,
    findings: &mut Findings,
) -> Result<(usize, &'r Alternative), Refusal> {
    let kinds = kinds(items);
    let fitting = reference
        .any_of
        .iter()
        .enumerate()
        .find(|(_, alternative)| alternative.kinds() == kinds);
    match fitting {
        Some(found) => {
            findings.require(Check::RequiredEvidence, true, words(&kinds))?;
            Ok(found)
        }
        None => Err(findings.refuse(
            Check::RequiredEvidence,
            format!("no alternative asks for exactly {}", words(&kinds)),
        )),
    }
}

impl Device<'_> {
    fn class(&self) -> Class {
        match &self.proof {
            Proof::Tpm(tpm) => tpm.class,
            Proof::Simulated(_) => simulated::Verified::CLASS,
            Proof::Hardware(_) => Class::Hardware,
        }
    }

    fn shown(&self) -> Shown {
        match &self.proof {
            Proof::Tpm(_) | Proof::Simulated(_) => Shown::new(),
            Proof::Hardware(hardware) => hardware.shown.clone(),
        }
    }

    fn appraise(
        &self,
        alternative: &Alternative,
        gpus: u32,
        now: SystemTime,
        findings: &mut Findings,
    ) -> Result<DeviceResult, Refusal> {
        let missing = match &self.proof {
            Proof::Tpm(tpm) => match &alternative.tpm {
                Some(reference) => return appraise_tpm(tpm, self.index, reference, now, findings),
                None => EvidenceKind::Tpm,
            },
            Proof::Simulated(made_up) => match &alternative.simulated {
                Some(reference) => {
                    return appraise_simulated(made_up, self.index, reference, findings);
                }
                None => EvidenceKind::Simulated,
            },
            Proof::Hardware(found) => match alternative.hardware.get(&found.kind) {
                Some(reference) => {
                    return found.appraise(self.index, reference, gpus, now, findings);
                }
                None => found.kind,
            },
        };
        Err(findings.refuse(
            Check::RequiredEvidence,
            format!("`{missing}` is not asked for"),
        ))
    }
}

#[cfg(test)]
mod tests;
