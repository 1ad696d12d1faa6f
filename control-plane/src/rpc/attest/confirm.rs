//! Proof of a part between renewals: what is to be shown, and what follows from good evidence. The certificate goes on.

use std::sync::Arc;

use vouchsafe_api::convert::attest::reattest::{Confirmed, Proof, Slot};
use vouchsafe_api::convert::attest::{Hello, Offer};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_config::node::NodeHardware;

use super::issue::identities;
use super::{Challenged, Conversation, enroll_again};
use crate::archive::bundle::Outcome;
use crate::case::Case;
use crate::issuance::hardware_name;
use crate::reference::{Fitting, part};
use crate::refusal::Refused;
use crate::registration::Instance;
use crate::registration::trust::Confirming;

impl Challenged {
    /// Kinds of the whole machine, where a part of it is proven.
    pub(super) fn part_of(&self) -> Option<Vec<EvidenceKind>> {
        self.hello.proof?;
        self.known.as_ref().map(whole)
    }
}

/// What a machine proved at its last renewal.
fn whole(instance: &Instance) -> Vec<EvidenceKind> {
    // Only words of kinds were ever written there.
    let kinds = instance.kinds.iter();
    kinds.filter_map(|word| word.parse().ok()).collect()
}

impl Conversation {
    /// The kinds that prove a part, all of them offered.
    pub(super) fn part(
        &self,
        proof: Proof,
        known: &Instance,
        hello: &Hello,
    ) -> Result<Vec<EvidenceKind>, Refused> {
        let kinds = part(proof, &whole(known));
        let offered =
            |kind: &EvidenceKind| hello.offers.iter().map(Offer::kind).any(|one| one == *kind);
        if kinds.is_empty() || !kinds.iter().all(offered) {
            return Err(Refused::new(
                "proof_not_owed",
                "renew: this machine has no such part to prove by itself, or offers other devices than before",
                format!("proof `{}` of {}", proof.as_str(), known.kinds.join(", ")),
            ));
        }
        Ok(kinds)
    }

    /// Archive, registration, and the next slot.
    pub(super) async fn confirm(
        &self,
        challenged: Challenged,
        case: &Arc<Case>,
        fitting: Fitting,
    ) -> Result<Confirmed, Refused> {
        let control_plane = &self.control_plane;
        let (Some(proof), Some(known)) = (challenged.hello.proof, &challenged.known) else {
            return Err(enroll_again("only a known instance proves a part"));
        };
        same_vtpm(known, case, &fitting)?;
        if proof == Proof::Gpu {
            same_devices(known, &fitting)?;
        }
        let outcome = Outcome::Confirmed {
            instance: known.id.to_string(),
            proof: proof.as_str().to_owned(),
        };
        let confirming = Confirming {
            proof,
            tpm: fitting.appraised.tpm().cloned(),
            evidence: self.keep(case, &challenged, outcome).await?,
            now: case.time,
        };
        let confirmed = control_plane.registry.confirm(&known.id, &confirming);
        let confirmed = confirmed.ok_or_else(|| {
            enroll_again(format!(
                "instance {} is revoked, or owes no such proof",
                known.id
            ))
        })?;
        if confirmed.restored {
            control_plane.restored(&known.id, confirming.evidence).await;
        }
        let count = &control_plane.metrics.standing.confirmed;
        count.with_label_values(&[proof.as_str()]).inc();
        tracing::debug!(
            workload = %known.workload,
            instance = %known.id,
            proof = proof.as_str(),
            "a part was proven afresh"
        );
        let now = control_plane.now();
        Ok(Confirmed {
            server_time: now,
            reattest: vec![Slot {
                proof,
                at: now + confirmed.interval,
            }],
        })
    }
}

/// A machine at Azure is known by its vTPM's key and by the processor below it, as when it enrolled (DESIGN §5.3).
fn same_vtpm(known: &Instance, case: &Case, fitting: &Fitting) -> Result<(), Refused> {
    let Some(key) = case.vtpm_key() else {
        return Ok(());
    };
    let machine = hardware_name(&NodeHardware::of(fitting.appraised.devices()));
    let is_same = key == known.vtpm_key && machine == provable(&known.hardware, &case.required);
    match is_same {
        true => Ok(()),
        false => Err(enroll_again(format!(
            "enrolled as {}, shown is {machine} or another vTPM",
            known.hardware
        ))),
    }
}

/// A GPU that was taken out, or exchanged for another genuine one, while the machine ran.
fn same_devices(known: &Instance, fitting: &Fitting) -> Result<(), Refused> {
    let devices = fitting.appraised.devices();
    let hardware = NodeHardware::of(devices);
    let found = identities(&hardware, hardware_name(&hardware));
    let kinds: Vec<EvidenceKind> = devices.iter().map(|device| device.kind).collect();
    let Some((machine, gpus)) = known.identities.split_first() else {
        // Written by an earlier version.
        return Ok(());
    };
    let expected = std::iter::once(provable(machine, &kinds)).chain(gpus.iter().cloned());
    if expected.eq(found.iter().cloned()) {
        return Ok(());
    }
    Err(Refused::new(
        "devices_changed",
        "enrol again: the machine has other devices than before",
        format!("was {}, is {}", known.identities.join(" "), found.join(" ")),
    )
    .of_evidence())
}

/// Of the word for a machine ([`hardware_name`]) that part which evidence of these kinds can prove: what another device
/// of the machine proved is not shown again.
fn provable(machine: &str, kinds: &[EvidenceKind]) -> String {
    let is_provable = |identity: &&str| {
        let of: &[EvidenceKind] = match identity.split_once(':').map(|(key, _)| key) {
            Some("snp_chip_id") => &[EvidenceKind::SevSnp, EvidenceKind::AzSnpVtpm],
            Some("tdx_ppid" | "tdx_platform_instance_id") => {
                &[EvidenceKind::Tdx, EvidenceKind::AzTdxVtpm]
            }
            Some("nitro_instance_id") => &[EvidenceKind::Nitro],
            Some("tpm_ek_sha256") => &[EvidenceKind::Tpm],
            // A made-up machine is alone, and one that hides is called the same by all.
            Some(_) | None => return true,
        };
        of.iter().any(|kind| kinds.contains(kind))
    };
    let identities: Vec<&str> = machine.split('+').filter(is_provable).collect();
    match identities.is_empty() {
        true => hardware_name(&NodeHardware::default()),
        false => identities.join("+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_shows_what_its_devices_prove_of_a_machine_and_nothing_else() {
        use EvidenceKind::{AzTdxVtpm, NvidiaGpu, SevSnp, Simulated, Tpm};
        let whole = "snp_chip_id:09+tpm_ek_sha256:07";
        for (machine, kinds, shown) in [
            (whole, &[NvidiaGpu, SevSnp][..], "snp_chip_id:09"),
            (whole, &[NvidiaGpu, Tpm], "tpm_ek_sha256:07"),
            (whole, &[Tpm, SevSnp], whole),
            (whole, &[NvidiaGpu], "unknown"),
            (
                "tdx_ppid:05+tdx_platform_instance_id:85",
                &[AzTdxVtpm],
                "tdx_ppid:05+tdx_platform_instance_id:85",
            ),
            (
                "simulated_machine:a+b",
                &[Simulated],
                "simulated_machine:a+b",
            ),
            ("unknown", &[NvidiaGpu, SevSnp], "unknown"),
        ] {
            assert_eq!(provable(machine, kinds), shown, "{kinds:?}");
        }
    }
}
