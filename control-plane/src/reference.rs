//! From an `AttestationProfile` to what the verifier compares with, and what of a profile the verifier does not judge.
//! Pure.

use std::time::SystemTime;

use vouchsafe_attestation::claims::{ClaimValue, Class, EvidenceKind};
use vouchsafe_config::profile::{
    Alternative as Configured, AttestationProfile, EventLog, PcrHash, TpmReference as ConfiguredTpm,
};
use vouchsafe_verifier::appraise::{Appraised, Expected, appraise};
use vouchsafe_verifier::evidence::EvidenceItem;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm;
use vouchsafe_verifier::evidence::tpm::pcr::{PcrSelection, PcrSet, PcrValues};
use vouchsafe_verifier::reference_value::{
    Alternative, ReferenceValues, SimulatedReference, TpmImage, TpmReference,
};

use crate::refusal::Refused;

/// The kinds of evidence that each alternative of a profile asks for, in its order.
pub fn kinds(profile: &AttestationProfile) -> impl Iterator<Item = EvidenceKind> {
    profile.any_of.iter().map(kind)
}

fn kind(alternative: &Configured) -> EvidenceKind {
    match alternative {
        Configured::Tpm(_) => EvidenceKind::Tpm,
        Configured::Simulated(_) => EvidenceKind::Simulated,
    }
}

/// What a quote must cover so that every TPM alternative can be judged.
pub fn pcr_selection(profile: &AttestationProfile) -> PcrSelection {
    let tpms = profile.any_of.iter().filter_map(|one| match one {
        Configured::Tpm(tpm) => Some(tpm),
        Configured::Simulated(_) => None,
    });
    let mut selection = PcrSelection::default();
    for tpm in tpms {
        for (hash, pcrs) in tpm.selection() {
            if let Some(pcrs) = PcrSet::new(pcrs) {
                selection.add(algorithm(hash), pcrs);
            }
        }
        for (hash, pcrs) in reference(&Configured::Tpm(tpm.clone()))
            .pcr_selection()
            .banks()
        {
            selection.add(hash, pcrs);
        }
    }
    selection
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
}

/// Appraises against each alternative in turn; the first that fits wholly is taken.
///
/// # Errors
/// The refusal of the last alternative of the evidence's kind: the one that the operator most likely means.
pub fn appraise_profile(
    items: &[EvidenceItem],
    profile: &AttestationProfile,
    expected: &Expected<'_>,
    now: SystemTime,
) -> Result<Fitting, Refused> {
    let offered = items.last().map(|item| item.evidence.kind());
    let mut refused = None;
    for alternative in &profile.any_of {
        if Some(kind(alternative)) != offered {
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
    }))
}

fn fit(
    items: &[EvidenceItem],
    alternative: &Configured,
    expected: &Expected<'_>,
    now: SystemTime,
) -> Result<Fitting, Refused> {
    let verdict = appraise(items, &reference(alternative), expected, now);
    let appraised = verdict.into_outcome()?;
    let image = match appraised
        .devices()
        .last()
        .and_then(|one| one.claims.get("image"))
    {
        Some(ClaimValue::Text(image)) => image.clone(),
        _ => String::new(),
    };
    let max_instances = match alternative {
        Configured::Tpm(tpm) => {
            check_tpm(tpm, &appraised)?;
            let held = tpm.images.iter().find(|held| held.name == image);
            // Without its image nobody could say how many may run.
            let held = held.ok_or_else(|| {
                Refused::new(
                    "image",
                    "run an image that the workload's profile names",
                    format!("the profile has no image `{image}`"),
                )
            })?;
            held.max_instances
        }
        Configured::Simulated(simulated) => {
            let held = simulated.images.iter().find(|held| held.name == image);
            if held.is_none_or(|held| held.until.is_some_and(|until| until <= now)) {
                return Err(Refused::new(
                    "image",
                    "run an image that the workload's profile names",
                    format!("simulated image `{image}` has ended"),
                ));
            }
            held.and_then(|held| held.max_instances)
        }
    };
    Ok(Fitting {
        appraised,
        image,
        max_instances,
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
        ));
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
        ));
    }
    Ok(())
}

fn reference(alternative: &Configured) -> ReferenceValues {
    let alternative = match alternative {
        Configured::Tpm(tpm) => Alternative {
            tpm: Some(tpm_reference(tpm)),
            ..Alternative::default()
        },
        Configured::Simulated(simulated) => Alternative {
            simulated: Some(SimulatedReference {
                images: simulated
                    .images
                    .iter()
                    .map(|image| image.name.clone())
                    .collect(),
            }),
            ..Alternative::default()
        },
    };
    ReferenceValues {
        any_of: vec![alternative],
    }
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
    }
}

fn algorithm(hash: PcrHash) -> HashAlgorithm {
    match hash {
        PcrHash::Sha256 => HashAlgorithm::Sha256,
        PcrHash::Sha384 => HashAlgorithm::Sha384,
    }
}
