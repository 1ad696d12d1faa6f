//! Appraisal of a TPM's and a simulation's verified evidence against reference values.

use std::time::SystemTime;

use vouchsafe_attestation::result::DeviceResult;

use crate::evidence::tpm::ima::policy::Policy;
use crate::evidence::{simulated, tpm};
use crate::reference_value::{SimulatedReference, TpmReference};
use crate::verdict::{Check, Findings, Refusal};

pub(super) fn appraise_tpm(
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
    if let Some(policy) = &reference.ima {
        appraise_list(tpm, policy, findings)?;
    }
    tpm.device(index, image)
        .map_err(|error| findings.refuse(Check::Image, error.to_string()))
}

/// Every file that the kernel measured since it was judged last is allowed; the first that is not is named.
fn appraise_list(
    tpm: &tpm::Verified,
    policy: &Policy,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let Some(list) = &tpm.ima else {
        return Err(findings.refuse(Check::ImaLog, "no measurement list was sent"));
    };
    findings.require(
        Check::ImaCheckpoint,
        list.before.is_none_or(|before| before == policy.sha256()),
        "what came before was judged by these rules",
    )?;
    findings.require(
        Check::ImaLog,
        list.checkpoint.count > 0,
        format!("{} entries since the boot", list.checkpoint.count),
    )?;
    findings.succeed(Check::ImaFile, policy.check(list.first, &list.entries))
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

pub(super) fn appraise_simulated(
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
