//! Appraisal of an evidence set: a pure function from evidence, what was challenged, reference values and time to a
//! [`Verdict`].

use std::time::SystemTime;

use vouchsafe_attestation::binding::{Base, EvidenceDigest};
use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;

use crate::evidence::{Evidence, EvidenceItem, simulated, tpm};
use crate::reference_value::{Alternative, ReferenceValues, SimulatedReference, TpmReference};
use crate::verdict::{Check, Findings, Refusal, Verdict};

/// What the verifier expects of this attestation, all of its own knowledge.
#[derive(Debug)]
pub struct Expected<'a> {
    /// Digest of the binding transcript, computed from the verifier's own end of the connection.
    pub base: &'a Base,
    /// The TPM that was challenged on this stream.
    pub tpm: Option<&'a tpm::Challenged>,
    /// What is known of this instance's TPM from its last attestation; `None` only for an enrolment.
    pub previous_tpm: Option<&'a tpm::TpmState>,
    /// The simulated machine that was offered on this stream.
    pub simulated_machine: Option<&'a str>,
    /// Whether the trust domain was created to accept simulated evidence.
    pub danger_accept_simulated: bool,
}

/// Evidence that was verified and fits a profile. Only [`appraise`] makes one.
#[derive(Clone, Debug)]
pub struct Appraised {
    class: Class,
    root: EvidenceKind,
    alternative: usize,
    devices: Vec<DeviceResult>,
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
    let verified = verify_all(items, expected, findings)?;
    let (alternative, fitting) = choose(&verified, reference, findings)?;
    let devices = verified
        .iter()
        .map(|device| device.appraise(fitting, now, findings))
        .collect::<Result<Vec<_>, _>>()?;
    let class = verified
        .iter()
        .map(|device| device.class())
        .min()
        .unwrap_or(Class::Simulated);
    let tpm = verified.into_iter().find_map(|device| match device.proof {
        Proof::Tpm(tpm) => Some(tpm.state),
        Proof::Simulated(_) => None,
    });
    Ok(Appraised {
        class,
        root,
        alternative,
        devices,
        tpm,
        evidence_time: now,
    })
}

/// The set is not empty, bounded, has each device once, and ends in its only binding root (DESIGN §5.3).
///
/// Of the kinds that are built, every one can be a root, so a set has exactly one piece as long as no device joins
/// that can't be one; a TPM beside a simulation has two roots and is refused.
fn check_set(items: &[EvidenceItem], findings: &mut Findings) -> Result<EvidenceKind, Refusal> {
    let check = Check::EvidenceSet;
    let Some((root, before)) = items.split_last() else {
        return Err(findings.refuse(check, "no evidence"));
    };
    let kind = root.evidence.kind();
    let early_root = before
        .iter()
        .any(|item| item.evidence.kind().is_binding_root());
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
    findings.require(
        check,
        kind.is_binding_root() && !early_root,
        format!("the last piece is of kind `{kind}` and must be the only binding root"),
    )?;
    Ok(kind)
}

struct Device {
    index: u32,
    proof: Proof,
}

enum Proof {
    Tpm(Box<tpm::Verified>),
    Simulated(simulated::Verified),
}

/// Each piece over its own binding, which covers the digest of all that was collected before it.
fn verify_all(
    items: &[EvidenceItem],
    expected: &Expected<'_>,
    findings: &mut Findings,
) -> Result<Vec<Device>, Refusal> {
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
    devices: &[Device],
    reference: &'r ReferenceValues,
    findings: &mut Findings,
) -> Result<(usize, &'r Alternative), Refusal> {
    let mut kinds: Vec<EvidenceKind> = devices.iter().map(Device::kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let names: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
    let fitting = reference
        .any_of
        .iter()
        .enumerate()
        .find(|(_, alternative)| alternative.kinds() == kinds);
    match fitting {
        Some(found) => {
            findings.require(Check::RequiredEvidence, true, names.join(", "))?;
            Ok(found)
        }
        None => Err(findings.refuse(
            Check::RequiredEvidence,
            format!("no alternative asks for exactly {}", names.join(", ")),
        )),
    }
}

impl Device {
    fn kind(&self) -> EvidenceKind {
        match self.proof {
            Proof::Tpm(_) => EvidenceKind::Tpm,
            Proof::Simulated(_) => EvidenceKind::Simulated,
        }
    }

    fn class(&self) -> Class {
        match &self.proof {
            Proof::Tpm(tpm) => tpm.class,
            Proof::Simulated(_) => simulated::Verified::CLASS,
        }
    }

    fn appraise(
        &self,
        alternative: &Alternative,
        now: SystemTime,
        findings: &mut Findings,
    ) -> Result<DeviceResult, Refusal> {
        match (&self.proof, &alternative.tpm, &alternative.simulated) {
            (Proof::Tpm(tpm), Some(reference), _) => {
                appraise_tpm(tpm, self.index, reference, now, findings)
            }
            (Proof::Simulated(made_up), _, Some(reference)) => {
                appraise_simulated(made_up, self.index, reference, findings)
            }
            (Proof::Tpm(_), None, _) | (Proof::Simulated(_), _, None) => {
                Err(findings.refuse(Check::RequiredEvidence, "not asked for"))
            }
        }
    }
}

fn appraise_tpm(
    tpm: &tpm::Verified,
    index: u32,
    reference: &TpmReference,
    now: SystemTime,
    findings: &mut Findings,
) -> Result<DeviceResult, Refusal> {
    let image = match_image(tpm, reference, now, findings)?;
    findings.require(
        Check::Class,
        tpm.class >= reference.class,
        format!("found `{}`, demanded `{}`", tpm.class, reference.class),
    )?;
    if let Some(demanded) = reference.ek_certified {
        findings.require(
            Check::EkCertified,
            tpm.certified == demanded,
            format!("found {}, demanded {demanded}", tpm.certified),
        )?;
    }
    if let Some(demanded) = reference.secure_boot {
        use tpm::event_log::SecureBoot;
        let wanted = if demanded {
            SecureBoot::Enabled
        } else {
            SecureBoot::Disabled
        };
        findings.require(
            Check::SecureBoot,
            tpm.secure_boot == Some(wanted),
            format!("found {:?}, demanded {wanted:?}", tpm.secure_boot),
        )?;
    }
    tpm.device(index, image)
        .map_err(|error| findings.refuse(Check::Image, error.to_string()))
}

/// The first image, in the operator's order, whose every value was quoted.
fn match_image<'r>(
    tpm: &tpm::Verified,
    reference: &'r TpmReference,
    now: SystemTime,
    findings: &mut Findings,
) -> Result<&'r str, Refusal> {
    let mut misses = Vec::new();
    for image in &reference.images {
        if image.until.is_some_and(|until| until <= now) {
            misses.push(format!("`{}` has ended", image.name));
            continue;
        }
        if image.pcrs.iter().next().is_none() {
            misses.push(format!("`{}` names no value", image.name));
            continue;
        }
        let different = image
            .pcrs
            .iter()
            .find(|(hash, pcr, value)| tpm.pcrs.get(*hash, *pcr) != Some(*value));
        match different {
            None => {
                findings.require(Check::Image, true, image.name.clone())?;
                return Ok(&image.name);
            }
            Some((hash, pcr, value)) => {
                let found = tpm
                    .pcrs
                    .get(hash, pcr)
                    .map_or_else(|| "nothing".into(), hex::encode);
                misses.push(format!(
                    "`{}` wants {hash} PCR {pcr} = {}, found {found}",
                    image.name,
                    hex::encode(value)
                ));
            }
        }
    }
    if misses.is_empty() {
        misses.push("the profile names no image".to_owned());
    }
    Err(findings.refuse(Check::Image, misses.join("; ")))
}

fn appraise_simulated(
    made_up: &simulated::Verified,
    index: u32,
    reference: &SimulatedReference,
    findings: &mut Findings,
) -> Result<DeviceResult, Refusal> {
    findings.require(
        Check::Image,
        reference.images.contains(&made_up.image),
        format!("found `{}`", made_up.image),
    )?;
    Ok(made_up.device(index))
}

#[cfg(test)]
mod tests;
