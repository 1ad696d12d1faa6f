//! Evidence of vendors' hardware in an attestation: judged by the verifier of its kind, over this attestation's binding.

use std::collections::BTreeSet;
use std::time::SystemTime;

use vouchsafe_attestation::binding::DeviceBinding;
use vouchsafe_attestation::claims::{ClaimValue, EvidenceKind, definition};
use vouchsafe_attestation::condition::Condition;
use vouchsafe_attestation::result::DeviceResult;

use super::{Device, Expected, Proof, Shown};
use crate::dossier::nvidia_gpu::of_cache;
use crate::dossier::{self, Dossier, File};
use crate::evidence::nvidia_gpu::Terms;
use crate::evidence::nvidia_gpu::set::{self, Member};
use crate::evidence::received::{AzVtpm, NvidiaGpu};
use crate::evidence::tpm::public::{Key, PublicArea};
use crate::evidence::{Evidence, EvidenceItem, az_vtpm};
use crate::fit;
use crate::judgement::{BindingState, Judgement, Ledger, Outcome as Judged, Status};
use crate::reference_value::{Alternative, HardwareReference};
use crate::verdict::{Check, Finding, Findings, HardwareCheck, Outcome, Refusal};

/// A device whose verifier affirms it: its claims are true, not yet those of an image that somebody named.
pub(super) struct Verified<'a> {
    pub(super) kind: EvidenceKind,
    pub(super) shown: Shown,
    /// What a set needs to know of one of NVIDIA's devices; `None` for other kinds.
    member: Option<Member<'a>>,
}

/// Judges one device.
pub(super) fn verify<'a>(
    item: &'a EvidenceItem,
    binding: &DeviceBinding,
    reference: &HardwareReference,
    expected: &Expected<'_>,
    now: SystemTime,
    findings: &mut Findings,
) -> Result<Verified<'a>, Refusal> {
    let kind = item.evidence.kind();
    if let Evidence::AzSnpVtpm(vtpm) | Evidence::AzTdxVtpm(vtpm) = &item.evidence {
        check_vtpm(vtpm, expected, findings)?;
    }
    let (judgement, member) = match &item.evidence {
        Evidence::NvidiaGpu(gpu) => judge_device(gpu, binding, reference, expected, now),
        other => {
            let Some((judged_as, files)) = other.files() else {
                let detail = format!("`{kind}` is no hardware's evidence");
                return Err(findings.refuse(Check::Solicited, detail));
            };
            let files: Vec<File<'_>> = files.iter().collect();
            let dossier = Dossier {
                files: &files,
                endorsements: expected.endorsements,
            };
            let bound = bound(kind, binding);
            let rules = &reference.rules;
            let judged =
                dossier::verify_below(expected.roots, judged_as, dossier, &bound, rules, now);
            (judged, None)
        }
    };
    note(kind, item.index, &judgement, findings);
    refuse(kind, item.index, &judgement, findings)?;
    Ok(Verified {
        kind,
        shown: judgement.claims,
        member,
    })
}

/// One of NVIDIA's devices: not as files, because the driver's own words and the links of a set are in none.
fn judge_device<'a>(
    gpu: &'a NvidiaGpu,
    binding: &DeviceBinding,
    reference: &HardwareReference,
    expected: &Expected<'_>,
    now: SystemTime,
) -> (Judgement, Option<Member<'a>>) {
    let mut ledger = Ledger::default();
    let terms = Terms {
        endorsements: &of_cache(expected.endorsements),
        expected: Some(binding.as_bytes()),
        rules: &reference.rules.nvidia_gpu,
        roots: expected.roots.nvidia(),
        now,
    };
    let member = gpu.device().judge(terms, &mut ledger);
    (ledger.conclude(BindingState::Checked), member)
}

/// Where each kind carries the binding: 64 bytes of report data, or a nonce of 32.
fn bound(kind: EvidenceKind, binding: &DeviceBinding) -> dossier::Expected {
    match kind {
        EvidenceKind::SevSnp | EvidenceKind::Tdx => {
            dossier::Expected::ReportData(binding.report_data())
        }
        EvidenceKind::AzSnpVtpm
        | EvidenceKind::AzTdxVtpm
        | EvidenceKind::NvidiaGpu
        | EvidenceKind::Nitro
        | EvidenceKind::Tpm
        | EvidenceKind::Simulated => dossier::Expected::Nonce(binding.as_bytes().to_vec()),
    }
}

/// The key that was offered, whose name is in the transcript, is the one that the hardware vouches for.
fn check_vtpm(
    vtpm: &AzVtpm,
    expected: &Expected<'_>,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let Some(offered) = expected.vtpm_key else {
        return Err(findings.refuse(Check::Solicited, "no vTPM was challenged"));
    };
    let offered = findings.succeed(Check::AkPublic, PublicArea::parse(offered))?;
    let vouched = az_vtpm::attestation_key(&vtpm.hcl_report);
    let same = match (&offered.key, vouched) {
        (Key::Rsa { modulus, exponent }, Some((n, e))) => {
            trim(modulus) == trim(&n) && trim(&exponent.to_be_bytes()) == trim(&e)
        }
        (Key::Rsa { .. } | Key::Ecc { .. }, _) => false,
    };
    findings.require(
        Check::VtpmKey,
        same,
        "`HCLAkPub` is the key that was offered",
    )?;
    findings.require(
        Check::PcrValues,
        vtpm.has_plain_pcrs(),
        "values of SHA-256 PCRs from 0 on",
    )
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Every check of the device's verifier, by its own words.
fn note(kind: EvidenceKind, index: u32, judgement: &Judgement, findings: &mut Findings) {
    for found in &judgement.checks {
        let outcome = match found.outcome {
            Judged::Passed => Outcome::Passed,
            Judged::Failed | Judged::Missing => Outcome::Failed,
            Judged::Warning | Judged::NotChecked => Outcome::Noted,
        };
        let check = HardwareCheck {
            kind,
            index,
            name: found.name,
            reason: found.name,
        };
        findings.0.push(Finding {
            check: Check::Hardware(check),
            outcome,
            detail: found.detail.clone(),
        });
    }
}

/// Only what is affirmed counts. What a vendor must say and did not is a reason of its own: the evidence may be good.
fn refuse(
    kind: EvidenceKind,
    index: u32,
    judgement: &Judgement,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    if judgement.status == Status::Affirming {
        return Ok(());
    }
    let reason = judgement.reason;
    let first = { judgement.checks.iter() }.find(|found| {
        matches!(
            found.outcome,
            Judged::Failed | Judged::Missing | Judged::Warning
        )
    });
    let (name, detail) = first.map_or((reason, ""), |found| (found.name, found.detail.as_str()));
    let check = if judgement.is_incomplete && !ATTESTERS_PART.contains(&reason) {
        Check::EndorsementMissing
    } else if ENDORSEMENTS_DATES.contains(&reason) {
        Check::EndorsementExpired
    } else {
        Check::Hardware(HardwareCheck {
            kind,
            index,
            name,
            reason,
        })
    };
    Err(findings.refuse(check, format!("{kind} {index}: {reason}: {detail}")))
}

/// How many GPUs have shown themselves, switches not counted.
pub(super) fn gpus(devices: &[Device<'_>]) -> u32 {
    let gpus = members(devices).filter(|(_, member)| !member.identity.architecture.is_switch());
    u32::try_from(gpus.count()).unwrap_or(u32::MAX)
}

fn members<'d, 'a>(devices: &'d [Device<'a>]) -> impl Iterator<Item = (u32, &'d Member<'a>)> {
    devices.iter().filter_map(|device| match &device.proof {
        Proof::Hardware(found) => Some((device.index, found.member.as_ref()?)),
        Proof::Tpm(_) | Proof::Simulated(_) => None,
    })
}

/// What only the set as a whole shows: no device of NVIDIA's twice, as many GPUs as the profile demands, and links that
/// lead to one another.
pub(super) fn check_together(
    devices: &[Device<'_>],
    alternative: &Alternative,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let Some(reference) = alternative.hardware.get(&EvidenceKind::NvidiaGpu) else {
        return Ok(());
    };
    let mut seen = BTreeSet::new();
    for (index, member) in members(devices) {
        let is_new = seen.insert(member.identity.chip_id.as_str());
        let detail = format!("device {index} is chip {}", member.identity.chip_id);
        findings.require(Check::DistinctDevices, is_new, detail)?;
    }
    if let Some(demanded) = reference.gpus {
        let found = gpus(devices);
        let detail = format!("demanded {demanded} GPUs, found {found}");
        findings.require(Check::DeviceCount, found == demanded, detail)?;
    }
    let members: Vec<Member<'_>> = members(devices).map(|(_, member)| member.clone()).collect();
    let mut ledger = Ledger::default();
    set::check(&members, &reference.rules.nvidia_gpu, &mut ledger);
    let judgement = ledger.conclude(BindingState::Checked);
    note(EvidenceKind::NvidiaGpu, 0, &judgement, findings);
    refuse(EvidenceKind::NvidiaGpu, 0, &judgement, findings)
}

impl Verified<'_> {
    /// The claims of the catalog, once an image matches for kinds that have one.
    pub(super) fn appraise(
        &self,
        index: u32,
        reference: &HardwareReference,
        gpus: u32,
        now: SystemTime,
        findings: &mut Findings,
    ) -> Result<DeviceResult, Refusal> {
        let mut claims = fit::claims(self.kind, &self.shown);
        let mut set = |name: &str, value: ClaimValue| claims.set(self.kind, name, value);
        let mut done = Ok(());
        if definition(self.kind, "image").is_some() {
            let image = match fit::image(&reference.images, &self.shown, now) {
                Ok(image) => image,
                Err(misses) => return Err(findings.refuse(Check::Image, misses)),
            };
            findings.require(Check::Image, true, image)?;
            done = set("image", ClaimValue::Text(image.to_owned()));
        }
        if self.kind == EvidenceKind::NvidiaGpu {
            done = done.and(set("count", ClaimValue::Number(gpus.into())));
        }
        done.map_err(|error| findings.refuse(Check::Image, error.to_string()))?;
        // That a device is a switch is NVIDIA's word, from the certificate of its chip; a set of switches alone is bound by
        // what they can't prove, and so refused.
        let is_concerned = |one: &&Condition| gpus == 0 || one.concerns(&claims);
        let binding = reference.conditions.iter().filter(is_concerned);
        if let Some((condition, found)) = fit::unmet(binding, &claims) {
            let check = HardwareCheck {
                kind: self.kind,
                index,
                name: condition.claim,
                reason: fit::UNMET,
            };
            let detail = format!(
                "{} {index}: {}; found {found}",
                self.kind,
                condition.describe()
            );
            return Err(findings.refuse(Check::Hardware(check), detail));
        }
        Ok(DeviceResult {
            kind: self.kind,
            index,
            claims,
        })
    }
}

/// What the attester has to give, so that its absence is no vendor's fault.
const ATTESTERS_PART: [&str; 4] = [
    "evidence_missing",
    "event_log_missing",
    "firmware_id_missing",
    "chain_incomplete",
];

/// Dates of what vendors publish anew, and the control plane fetches.
const ENDORSEMENTS_DATES: [&str; 13] = [
    "crl_expired",
    "crl_not_yet_valid",
    "pck_crl_expired",
    "pck_crl_not_yet_valid",
    "root_crl_expired",
    "root_crl_not_yet_valid",
    "tcb_info_expired",
    "tcb_info_not_yet_valid",
    "qe_identity_expired",
    "qe_identity_not_yet_valid",
    "ocsp_expired",
    "ocsp_not_yet_valid",
    "rim_certificate_expired",
];
