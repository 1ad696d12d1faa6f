//! From a hello to a challenge: which alternative of the profile, and the answer to each offer.

use std::sync::Arc;

use vouchsafe_api::convert::attest::{
    Answer, Hello, ImaFrom, Offer, PcrHash, PcrSelection, TpmAnswer,
};
use vouchsafe_attestation::binding::Purpose;
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_config::profile::{Alternative, AttestationProfile};
use vouchsafe_config::revocation::Bearer;
use vouchsafe_verifier::evidence::tpm;

use super::received::wire_selection;
use super::{Conversation, enroll_again, not_revoked};
use crate::case::tpm_offer;
use crate::issuance::refuse_by;
use crate::mesh::MeshState;
use crate::reference::{self, ima_rules, pcr_selection};
use crate::refusal::Refused;
use crate::registration::Instance;
use crate::standing::Duty;

impl Conversation {
    /// The kinds of the first alternative of the profile for which everything is offered.
    pub(super) fn choose(
        &self,
        profile: &AttestationProfile,
        hello: &Hello,
    ) -> Result<Vec<EvidenceKind>, Refused> {
        let accepts_simulated = self.control_plane.fixed.accepts_simulated;
        let offers = |kind: EvidenceKind| hello.offers.iter().any(|offer| offer.kind() == kind);
        let acceptable = |alternative: &&Alternative| {
            let kinds = alternative.kinds();
            let all = kinds.iter().all(|kind| {
                offers(*kind) && (accepts_simulated || *kind != EvidenceKind::Simulated)
            });
            all && has_gpus(alternative, hello)
        };
        if let Some(alternative) = profile.any_of.iter().find(acceptable) {
            return Ok(alternative.kinds());
        }
        if offers(EvidenceKind::Simulated) && !accepts_simulated {
            return Err(Refused::new(
                "simulated_not_accepted",
                "this trust domain does not accept simulated evidence: offer that of a machine",
                "the trust domain was made without `danger_accept_simulated`",
            ));
        }
        let words = |kinds: Vec<EvidenceKind>| {
            let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            words.join(" with ")
        };
        let wanted: Vec<String> = reference::kinds(profile).map(words).collect();
        let offered = words(hello.offers.iter().map(Offer::kind).collect());
        Err(Refused::new(
            "required_evidence",
            "offer the evidence that the workload's profile names, of as many devices",
            format!(
                "profile {} wants {}, offered is {offered}",
                profile.name,
                wanted.join(" or ")
            ),
        ))
    }

    /// The instance that goes on: who the connection says it is, and nothing that the hello claims.
    pub(super) fn known(&mut self, hello: &Hello) -> Result<Option<Instance>, Refused> {
        match hello.purpose {
            Purpose::Enroll => return Ok(None),
            Purpose::Renew | Purpose::Reattest => {}
        }
        let peer = self.connection.peer.as_ref();
        let result = peer.and_then(|peer| peer.result());
        let (Some(peer), Some(result)) = (peer, result) else {
            return Err(enroll_again("the connection presents no certificate"));
        };
        if peer.not_after() <= self.control_plane.now() {
            return Err(enroll_again("the certificate of the connection has ended"));
        }
        let policy = Arc::clone(&self.control_plane.mesh.borrow().state.policy);
        let (domain, now) = (&policy.mesh.trust_domain, self.control_plane.now());
        // Of what a new certificate cures, only the new one is asked.
        let lasting = policy
            .set
            .revocations()
            .filter(|one| !one.is_cured_by_renewal());
        refuse_by(lasting, domain, &Bearer::from(peer), now)?;
        if peer.id().workload().as_ref() != Some(&hello.workload) {
            return Err(enroll_again(format!("the connection is of {}", peer.id())));
        }
        if hello.proof.is_some() && *peer.spki_sha256() != hello.spki_sha256 {
            return Err(Refused::new(
                "certificate_request_key",
                "prove parts for the key that the certificate bears",
                "the hello names another key than the connection's certificate",
            ));
        }
        let instance = self.control_plane.registry.instance(&result.instance);
        match instance {
            Some(instance) if instance.workload == hello.workload => {
                not_revoked(&instance)?;
                let duty = hello.proof.map_or(Duty::Root, Duty::Part);
                self.known = Some((instance.id, duty));
                Ok(Some(instance))
            }
            Some(_) | None => Err(enroll_again(format!(
                "instance {} is not registered",
                result.instance
            ))),
        }
    }

    /// The answer to each offer that wants one.
    pub(super) fn answers(
        &self,
        hello: &Hello,
        required: &[EvidenceKind],
        state: &MeshState,
        profile: &AttestationProfile,
        known: Option<&Instance>,
    ) -> Result<(Option<tpm::Challenged>, Vec<Answer>), Refused> {
        let mut answers = Vec::new();
        for kind in required {
            match kind {
                EvidenceKind::AzSnpVtpm => answers.push(Answer::AzSnpVtpm(all_pcrs())),
                EvidenceKind::AzTdxVtpm => answers.push(Answer::AzTdxVtpm(all_pcrs())),
                EvidenceKind::Tpm
                | EvidenceKind::SevSnp
                | EvidenceKind::Tdx
                | EvidenceKind::NvidiaGpu
                | EvidenceKind::Nitro
                | EvidenceKind::Simulated => {}
            }
        }
        let offer = tpm_offer(hello).filter(|_| required.contains(&EvidenceKind::Tpm));
        let Some(offer) = offer else {
            if hello.proof.is_none() && known.is_some_and(|known| known.tpm.is_some()) {
                return Err(enroll_again("the instance enrolled with a TPM"));
            }
            return Ok((None, answers));
        };
        let now = self.control_plane.now();
        let checked = tpm::CheckedOffer::check(&offer, &state.policy.ek_roots, now)?;
        if let Some(known) = known {
            let same = known
                .tpm
                .as_ref()
                .is_some_and(|tpm| tpm.ak_name == checked.ak_name());
            if !same {
                // Another key may be another TPM: its history starts anew (DESIGN §5.3).
                return Err(enroll_again("the attestation key is not the one enrolled"));
            }
        }
        let (credential, challenged) = checked.challenge(pcr_selection(profile))?;
        answers.push(Answer::Tpm(TpmAnswer {
            credential_blob: credential.blob,
            encrypted_secret: credential.encrypted_secret,
            selection: wire_selection(challenged.selection()),
            ima: ima_from(profile, known),
        }));
        Ok((Some(challenged), answers))
    }
}

/// Whether as many GPUs are offered as the alternative demands.
fn has_gpus(alternative: &Alternative, hello: &Hello) -> bool {
    let demanded = reference::reference_of(alternative);
    let demanded = demanded.hardware.get(&EvidenceKind::NvidiaGpu);
    let Some(demanded) = demanded.and_then(|gpus| gpus.gpus) else {
        return true;
    };
    hello.offers.iter().any(|offer| match offer {
        Offer::NvidiaGpu(offered) => offered.gpus == demanded,
        _ => false,
    })
}

/// From where on the measurement list is wanted: where some alternative has rules for it, after what was judged by the
/// same rules.
fn ima_from(profile: &AttestationProfile, known: Option<&Instance>) -> Option<ImaFrom> {
    let rules = ima_rules(profile);
    let first = rules.first()?.sha256();
    let same = rules.iter().all(|other| other.sha256() == first);
    let known = known.and_then(|known| known.tpm.as_ref());
    let judged = known.and_then(|tpm| Some((tpm.clock.reset_count, tpm.ima.as_ref()?)));
    let judged = judged.filter(|(_, judged)| same && judged.policy_sha256 == first);
    Some(match judged {
        Some((reset_count, judged)) => ImaFrom {
            entries: judged.checkpoint.count,
            reset_count,
        },
        None => ImaFrom {
            entries: 0,
            reset_count: 0,
        },
    })
}

/// A vTPM of Azure quotes all its SHA-256 PCRs: what images name is among them.
fn all_pcrs() -> Vec<PcrSelection> {
    vec![PcrSelection {
        hash: PcrHash::Sha256,
        pcrs: (0..24).collect(),
    }]
}
