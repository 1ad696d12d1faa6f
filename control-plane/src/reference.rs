//! From an `AttestationProfile` to what the verifier compares with, and what of a profile the verifier does not judge.
//! Pure.

pub mod hardware;
mod ima;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use vouchsafe_api::convert::attest::reattest::Proof;
use vouchsafe_attestation::claims::{ClaimValue, Class, EvidenceKind};
use vouchsafe_config::profile::{
    Alternative as Configured, AttestationProfile, EventLog, PcrHash, TpmReference as ConfiguredTpm,
};
use vouchsafe_verifier::appraise::{Appraised, Expected, appraise};
use vouchsafe_verifier::dossier::Rules;
use vouchsafe_verifier::evidence::EvidenceItem;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::ima::policy::Policy;
use vouchsafe_verifier::evidence::tpm::pcr::{PcrSelection, PcrSet, PcrValues};
use vouchsafe_verifier::evidence::tpm::rules as tpm_rules;
use vouchsafe_verifier::reference_value::{
    Alternative, ReferenceValues, SimulatedReference, TpmImage, TpmReference,
};

use crate::refusal::Refused;

/// The kinds of evidence that each alternative of a profile asks for, in its order.
pub fn kinds(profile: &AttestationProfile) -> impl Iterator<Item = Vec<EvidenceKind>> {
    profile.any_of.iter().map(Configured::kinds)
}

/// What a quote must cover so that every TPM alternative can be judged.
pub fn pcr_selection(profile: &AttestationProfile) -> PcrSelection {
    let tpms = profile.any_of.iter().filter_map(|one| one.tpm.as_ref());
    let mut selection = PcrSelection::default();
    for tpm in tpms {
        for (hash, pcrs) in selected(tpm.selection()).banks() {
            selection.add(hash, pcrs);
        }
        let alternative = Alternative {
            tpm: Some(tpm_reference(tpm)),
            ..Alternative::default()
        };
        let reference = ReferenceValues {
            any_of: vec![alternative],
        };
        for (hash, pcrs) in reference.pcr_selection().banks() {
            selection.add(hash, pcrs);
        }
    }
    selection
}

/// Name of a signer of measured files whose certificate can't be used, if the profile has one.
pub fn unusable_signer(profile: &AttestationProfile) -> Option<&str> {
    let mut alternatives = profile.any_of.iter();
    alternatives.find_map(|one| ima::unusable(one.tpm.as_ref()?.ima.as_ref()?))
}

/// What each TPM alternative demands of the kernel's measurement list, where it demands something.
pub fn ima_rules(profile: &AttestationProfile) -> Vec<Policy> {
    let tpms = { profile.any_of.iter() }.filter_map(|one| one.tpm.as_ref());
    tpms.filter_map(|tpm| tpm.ima.as_ref().map(ima::policy))
        .collect()
}

/// The kinds that prove a part of a machine which proved `kinds`: what the part is about, and the device that signs over
/// it. Empty where the machine has no such part.
///
/// A vTPM of Azure is its machine's binding root: it quotes again what was booted, with a fresh report of the hardware
/// below it.
pub fn part(proof: Proof, kinds: &[EvidenceKind]) -> Vec<EvidenceKind> {
    let has = |kind: &EvidenceKind| kinds.contains(kind);
    match proof {
        Proof::TpmLog => TPMS.into_iter().find(has).into_iter().collect(),
        Proof::Gpu if has(&EvidenceKind::NvidiaGpu) => {
            let root = EvidenceKind::binding_root(kinds.iter().copied());
            [EvidenceKind::NvidiaGpu].into_iter().chain(root).collect()
        }
        Proof::Gpu => Vec::new(),
    }
}

/// What keeps PCRs and a log of the boot. A machine has one of them.
const TPMS: [EvidenceKind; 3] = [
    EvidenceKind::Tpm,
    EvidenceKind::AzSnpVtpm,
    EvidenceKind::AzTdxVtpm,
];

/// What a profile demands of a part of a machine: of each alternative for all the machine's kinds, what it says of those
/// of the part. No other alternative counts, or a machine could prove its parts by different ones.
pub fn narrowed(
    profile: &AttestationProfile,
    whole: &[EvidenceKind],
    part: &[EvidenceKind],
) -> AttestationProfile {
    let whole: BTreeSet<EvidenceKind> = whole.iter().copied().collect();
    let is_of_it = |alternative: &&Configured| {
        let kinds: BTreeSet<EvidenceKind> = alternative.kinds().into_iter().collect();
        kinds == whole
    };
    let has = |kind: EvidenceKind| part.contains(&kind);
    let narrow = |alternative: &Configured| {
        let mut narrow = alternative.clone();
        narrow.tpm = narrow.tpm.filter(|_| has(EvidenceKind::Tpm));
        narrow.simulated = { narrow.simulated }.filter(|_| has(EvidenceKind::Simulated));
        narrow.hardware.retain(|kind, _| has(*kind));
        narrow
    };
    AttestationProfile {
        any_of: { profile.any_of.iter() }
            .filter(is_of_it)
            .map(narrow)
            .collect(),
        ..profile.clone()
    }
}

/// Evidence that fits an alternative, with the name of the image that it matched.
#[derive(Debug)]
pub struct Fitting {
    /// What the verifier concluded.
    pub appraised: Appraised,
    /// Name of the image.
    pub image: String,
    /// Most instances that may run this image at once.
    pub max_instances: Option<u32>,
    /// First instant at which the image no longer counts: no certificate outlives it.
    pub until: Option<SystemTime>,
}

/// Appraises against each alternative in turn; the first that fits wholly is taken.
///
/// # Errors
/// The refusal of the last alternative of the evidence's kinds: the one that the operator most likely means.
pub fn appraise_profile(
    items: &[EvidenceItem],
    profile: &AttestationProfile,
    expected: &Expected<'_>,
    now: SystemTime,
) -> Result<Fitting, Refused> {
    let offered: BTreeSet<EvidenceKind> = items.iter().map(|item| item.evidence.kind()).collect();
    let offered: Vec<EvidenceKind> = offered.into_iter().collect();
    let mut refused = None;
    for alternative in &profile.any_of {
        if alternative.kinds() != offered {
            continue;
        }
        match fit(items, alternative, expected, now) {
            Ok(fitting) => return Ok(fitting),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| {
        Refused::new(
            "required_evidence",
            "offer the evidence that the workload's profile names",
            format!("profile {} has no such alternative", profile.name),
        )
        .of_evidence()
    }))
}

fn fit(
    items: &[EvidenceItem],
    alternative: &Configured,
    expected: &Expected<'_>,
    now: SystemTime,
) -> Result<Fitting, Refused> {
    let reference = ReferenceValues {
        any_of: vec![reference_of(alternative)],
    };
    let verdict = appraise(items, &reference, expected, now);
    let appraised = verdict.into_outcome()?;
    if let Some(tpm) = &alternative.tpm {
        check_tpm(tpm, &appraised)?;
    }
    // The image that counts is that of the binding root, which runs the workload and comes last.
    let image = match appraised
        .devices()
        .last()
        .and_then(|one| one.claims.get("image"))
    {
        Some(ClaimValue::Text(image)) => image.clone(),
        _ => String::new(),
    };
    let images = alternative.images(appraised.root());
    // Without its image nobody could say how many may run, nor until when.
    let held = images.iter().find(|held| held.name == image);
    let held = held.filter(|held| held.until.is_none_or(|until| now < until));
    let held = held.ok_or_else(|| {
        Refused::new(
            "image",
            "run an image that the workload's profile names",
            format!("the profile has no image `{image}`, or it has ended"),
        )
        .of_evidence()
    })?;
    let (max_instances, until) = (held.max_instances, held.until);
    Ok(Fitting {
        appraised,
        image,
        max_instances,
        until,
    })
}

/// What the profile says beyond the verifier's reference values.
fn check_tpm(tpm: &ConfiguredTpm, appraised: &Appraised) -> Result<(), Refused> {
    if !tpm.classes.contains(&appraised.class()) {
        let names: Vec<&str> = tpm.classes.iter().map(|class| class.as_str()).collect();
        return Err(Refused::new(
            "class",
            "this workload needs a TPM whose maker the operator trusts",
            format!(
                "found class `{}`, the profile accepts {}",
                appraised.class(),
                names.join(", ")
            ),
        )
        .of_evidence());
    }
    let replayed = appraised
        .devices()
        .iter()
        .any(|device| device.claims.get("event_log") == Some(&ClaimValue::Bool(true)));
    if tpm.event_log == EventLog::Required && !replayed {
        return Err(Refused::new(
            "event_log",
            "the machine must provide its boot event log",
            "the profile requires an event log that replays to the quoted values",
        )
        .of_evidence());
    }
    Ok(())
}

/// What the verifier compares with, for one alternative.
pub fn reference_of(alternative: &Configured) -> Alternative {
    let simulated = alternative.simulated.as_ref();
    let hardware = alternative.hardware.iter();
    Alternative {
        tpm: alternative.tpm.as_ref().map(tpm_reference),
        simulated: simulated.map(|simulated| SimulatedReference {
            images: simulated
                .images
                .iter()
                .map(|image| image.name.clone())
                .collect(),
        }),
        hardware: hardware
            .map(|(kind, reference)| (*kind, hardware::reference(*kind, reference)))
            .collect(),
    }
}

/// What a TPM's evidence must prove where it is judged from files.
pub fn tpm_rules(tpm: &ConfiguredTpm) -> Rules {
    let reference = tpm_reference(tpm);
    Rules {
        tpm: tpm_rules::Rules {
            images: reference.images,
            classes: tpm.classes.iter().copied().collect(),
            pcrs: selected(tpm.pcrs.clone()),
            secure_boot: reference.secure_boot,
            require_event_log: tpm.event_log == EventLog::Required,
            ima: reference.ima,
            ..tpm_rules::Rules::default()
        },
        ..Rules::default()
    }
}

fn selected(named: BTreeMap<PcrHash, BTreeSet<u8>>) -> PcrSelection {
    let mut selection = PcrSelection::default();
    for (hash, pcrs) in named {
        if let Some(pcrs) = PcrSet::new(pcrs) {
            selection.add(algorithm(hash), pcrs);
        }
    }
    selection
}

fn tpm_reference(tpm: &ConfiguredTpm) -> TpmReference {
    let images = tpm.images.iter().map(|image| {
        let mut pcrs = PcrValues::default();
        for (hash, values) in &image.pcrs {
            for (pcr, value) in values {
                // The loader has checked numbers and lengths; a value that were refused here would be missing, and an
                // image without its values matches nothing.
                if pcrs.insert(algorithm(*hash), *pcr, value.clone()).is_err() {
                    pcrs = PcrValues::default();
                }
            }
        }
        TpmImage {
            name: image.name.clone(),
            pcrs,
            until: image.until,
        }
    });
    TpmReference {
        images: images.collect(),
        class: tpm.classes.iter().copied().min().unwrap_or(Class::Hardware),
        ek_certified: None,
        secure_boot: tpm.secure_boot,
        ima: tpm.ima.as_ref().map(ima::policy),
    }
}

fn algorithm(hash: PcrHash) -> HashAlgorithm {
    match hash {
        PcrHash::Sha256 => HashAlgorithm::Sha256,
        PcrHash::Sha384 => HashAlgorithm::Sha384,
    }
}
