//! From a profile's section for a vendor's hardware to what its verifier demands.
//!
//! A condition on a claim is compared with the claim once the evidence is affirmed. Some decide earlier: a floor of
//! versions counts for all the versions of a report, not only for the one that is claimed, and a status that nobody
//! accepts has a reason of its own. Those become rules of the verifier here, and stay conditions too.
//!
//! # Why
//! Without a condition the rule is strict: keys that name no chip, privilege levels other than the highest, and any
//! status but `UpToDate` are refused until a profile names them.

use std::time::SystemTime;

use vouchsafe_attestation::claims::{ClaimValue, EvidenceKind, Time};
use vouchsafe_attestation::condition::{Condition, Operator};
use vouchsafe_config::profile::EventLog;
use vouchsafe_config::profile::hardware::HardwareReference as Configured;
use vouchsafe_verifier::dossier::Rules;
use vouchsafe_verifier::evidence::dcap::collateral::TcbStatus;
use vouchsafe_verifier::evidence::nvidia_gpu::OcspRules;
use vouchsafe_verifier::evidence::sev_snp::report::Tcb;
use vouchsafe_verifier::evidence::{az_vtpm, dcap, nitro, nvidia_gpu, sev_snp};
use vouchsafe_verifier::reference_value::{HardwareImage, HardwareReference};

/// What the verifier demands of one kind of hardware.
pub fn reference(kind: EvidenceKind, configured: &Configured) -> HardwareReference {
    HardwareReference {
        rules: rules(configured),
        images: configured
            .images
            .iter()
            .map(|image| HardwareImage {
                name: image.name.clone(),
                values: { image.values.iter() }
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect(),
                until: image.until,
            })
            .collect(),
        conditions: configured.conditions.clone(),
        gpus: match kind {
            EvidenceKind::NvidiaGpu => exactly(configured.condition("count")),
            EvidenceKind::Tpm
            | EvidenceKind::SevSnp
            | EvidenceKind::Tdx
            | EvidenceKind::AzSnpVtpm
            | EvidenceKind::AzTdxVtpm
            | EvidenceKind::Nitro
            | EvidenceKind::Simulated => None,
        },
    }
}

fn rules(configured: &Configured) -> Rules {
    Rules {
        sev_snp: sev_snp_rules(configured),
        dcap: dcap_rules(configured),
        nvidia_gpu: nvidia_gpu_rules(configured),
        az_vtpm: az_vtpm::Rules {
            // Images are told apart by them.
            require_pcrs: !configured.images.is_empty(),
            require_event_log: configured.options.event_log == EventLog::Required,
            ..az_vtpm::Rules::default()
        },
        nitro: nitro::Rules {
            danger_accept_debug: configured.options.danger_accept_debug,
            ..nitro::Rules::default()
        },
        ..Rules::default()
    }
}

fn sev_snp_rules(configured: &Configured) -> sev_snp::Rules {
    let options = &configured.options;
    let floor = |claim: &str| {
        let floor = floor(configured.condition(claim)).unwrap_or(0);
        u8::try_from(floor).unwrap_or(u8::MAX)
    };
    let is_named = |claim: &str, word: &str| {
        let word = ClaimValue::Text(word.to_owned());
        configured.condition(claim).is_some() && configured.admits(claim, &word)
    };
    let vmpl = configured.condition("vmpl");
    let highest = (0..=3).rev().find(|level| {
        vmpl.is_some_and(|vmpl| vmpl.holds(Some(&ClaimValue::Number(u64::from(*level)))))
    });
    sev_snp::Rules {
        tcb: Tcb {
            fmc: Some(floor("tcb.fmc")).filter(|fmc| *fmc > 0),
            bootloader: floor("tcb.bootloader"),
            tee: floor("tcb.tee"),
            snp: floor("tcb.snp"),
            microcode: floor("tcb.microcode"),
        },
        max_vmpl: highest.unwrap_or(0),
        required_mitigations: options.required_mitigations,
        accept_vlek: is_named("signing_key", "vlek"),
        accept_masked_chip_id: options.accept_masked_chip_id,
        danger_accept_debug: options.danger_accept_debug,
        danger_accept_migration: options.danger_accept_migration,
        danger_accept_reserved: options.danger_accept_reserved,
        refuse_unknown_bits: options.refuse_unknown_bits,
        require_crl: options.revocation_required,
        ..sev_snp::Rules::default()
    }
}

fn dcap_rules(configured: &Configured) -> dcap::Rules {
    let options = &configured.options;
    let statuses = TcbStatus::ALL.into_iter().filter(|status| {
        let word = ClaimValue::Text(status.as_str().to_owned());
        configured.admits("tcb_status", &word)
    });
    let defaults = dcap::Rules::default();
    let number = floor(configured.condition("tcb_evaluation_data_number")).unwrap_or(0);
    dcap::Rules {
        accepted_statuses: match configured.condition("tcb_status") {
            Some(_) => statuses.collect(),
            None => defaults.accepted_statuses,
        },
        accepted_advisories: { options.accepted_advisories.as_ref() }
            .map(|accepted| accepted.iter().cloned().collect()),
        min_tcb_evaluation_data_number: u32::try_from(number).unwrap_or(u32::MAX),
        min_tcb_date: earliest(configured.condition("tcb_date")),
        danger_accept_debug: options.danger_accept_debug,
        danger_accept_migration: options.danger_accept_migration,
        danger_accept_reserved: options.danger_accept_reserved,
        danger_accept_sept_ve: options.danger_accept_sept_ve,
        danger_accept_service_td: options.danger_accept_service_td,
        require_event_log: options.event_log == EventLog::Required,
        ..dcap::Rules::default()
    }
}

/// How many there must be is a question to the set, not to one of its devices.
fn nvidia_gpu_rules(configured: &Configured) -> nvidia_gpu::Rules {
    let only = |claim: &str| {
        let admits = |value: bool| configured.admits(claim, &ClaimValue::Bool(value));
        match (admits(true), admits(false)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            (true, true) | (false, false) => None,
        }
    };
    nvidia_gpu::Rules {
        confidential_compute: match configured.condition("confidential_compute") {
            Some(_) => only("confidential_compute"),
            None => Some(true),
        },
        devtools: only("devtools"),
        ocsp: OcspRules {
            is_required: configured.options.revocation_required,
            allow_hold: configured.options.accept_hold,
        },
        ..nvidia_gpu::Rules::default()
    }
}

/// The number below which no alternative of a condition lies; `None` without such a number.
fn floor(condition: Option<&Condition>) -> Option<u64> {
    let floors = condition?
        .any_of
        .iter()
        .map(|one| match (one.operator, &one.value) {
            (Operator::Equal | Operator::AtLeast, ClaimValue::Number(number)) => Some(*number),
            (Operator::MoreThan, ClaimValue::Number(number)) => number.checked_add(1),
            _ => None,
        });
    floors.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// The one number that a condition names.
fn exactly(condition: Option<&Condition>) -> Option<u32> {
    match condition?.any_of.as_slice() {
        [one] if one.operator == Operator::Equal => match one.value {
            ClaimValue::Number(number) => Some(u32::try_from(number).unwrap_or(u32::MAX)),
            _ => None,
        },
        _ => None,
    }
}

/// The time before which no alternative of a condition lies.
fn earliest(condition: Option<&Condition>) -> Option<SystemTime> {
    let times = condition?
        .any_of
        .iter()
        .map(|one| match (one.operator, &one.value) {
            (Operator::Equal | Operator::AtLeast | Operator::MoreThan, ClaimValue::Time(time)) => {
                Some(*time)
            }
            _ => None,
        });
    let times: Option<Vec<Time>> = times.collect();
    times?.into_iter().min().map(SystemTime::from)
}

#[cfg(test)]
mod tests;
