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

/// A GPU that was taken out, or exchanged for another genuine one, while the machine ran.
fn same_devices(known: &Instance, fitting: &Fitting) -> Result<(), Refused> {
    let hardware = NodeHardware::of(fitting.appraised.devices());
    let found = identities(&hardware, hardware_name(&hardware));
    if known.identities.is_empty() || found == known.identities {
        return Ok(());
    }
    Err(Refused::new(
        "devices_changed",
        "enrol again: the machine has other devices than before",
        format!("was {}, is {}", known.identities.join(" "), found.join(" ")),
    )
    .of_evidence())
}
