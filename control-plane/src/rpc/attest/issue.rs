//! From fitting evidence to a certificate: who may bear the name, the registration, the record, and the answer last, so
//! that nothing is handed out unrecorded.

use std::sync::Arc;
use std::time::SystemTime;

use vouchsafe_api::convert::attest::Issued;
use vouchsafe_api::convert::record::Event;
use vouchsafe_api::convert::record::attestation::Issuance;
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::result::InstanceId;
use vouchsafe_config::node::NodeHardware;
use vouchsafe_config::revocation::Bearer;

use super::{Challenged, Conversation, enroll_again, not_revoked};
use crate::archive::bundle::Outcome;
use crate::ca::{CertifiedRequest, random};
use crate::case::Case;
use crate::ear::CoLocation;
use crate::issuance::{
    Decision, Membership, Plan, UNKNOWN_MACHINE, hardware_name, membership, plan, refuse_revoked,
    revoked,
};
use crate::reappraisal::{editions, terms};
use crate::reference::Fitting;
use crate::refusal::{Refused, unavailable};
use crate::registration::places::too_many;
use crate::registration::{Certificate, Instance, Owed};
use crate::telemetry::Chain;

impl Conversation {
    /// Membership, certificate, registration, archive, record.
    pub(super) async fn issue(
        &self,
        challenged: Challenged,
        case: &Arc<Case>,
        request: &CertifiedRequest,
        fitting: Fitting,
    ) -> Result<Issued, Refused> {
        let control_plane = &self.control_plane;
        let now = case.time;
        let mut hardware = NodeHardware::of(fitting.appraised.devices());
        hardware.simulated_machine = case.simulated_machine().map(str::to_owned);
        let machine = hardware_name(&hardware);
        let vtpm_key = case.vtpm_key().map(<[u8]>::to_vec).unwrap_or_default();
        if let Some(known) = &challenged.known
            && (known.hardware != machine || known.vtpm_key != vtpm_key)
        {
            // What an instance is known by has changed: its history starts anew (DESIGN §5.3).
            return Err(enroll_again(format!(
                "enrolled as {}, shown is {machine}",
                known.hardware
            )));
        }
        // Counting and registering are one step where there is a limit, or two machines at once would both be the last.
        let _turn = match fitting.max_instances {
            Some(_) => Some(control_plane.registry.turn().await),
            None => None,
        };
        let member = self.member(&challenged, &hardware, &fitting, now)?;
        if challenged.known.is_none() {
            let registry = &control_plane.registry;
            let crowd = registry.crowd(&case.hello.workload, &machine, now);
            too_many(crowd).map_or(Ok(()), Err)?;
        }
        let co_location = self.co_location(&challenged, &member, &fitting);
        let failed = |error: crate::ca::CaError| unavailable(Chain(&error).to_string());
        let instance = match &challenged.known {
            Some(known) => known.id,
            None => InstanceId(random().map_err(failed)?),
        };
        let state_of_tpm = fitting.appraised.tpm().cloned();
        let kinds = kinds(&fitting);
        let issuer_end = control_plane.ca.issuer_end(now).map_err(failed)?;
        let ends: Vec<SystemTime> = [issuer_end, challenged.endorsements_end]
            .into_iter()
            .chain(fitting.until)
            .chain(case.evidence_end())
            .collect();
        let plan = plan(
            &Decision {
                mesh: &challenged.state.policy.mesh,
                workload: &case.hello.workload,
                profile: &challenged.profile.name,
                profile_lifetime: challenged.profile.lifetime,
                ends: &ends,
                request,
                instance,
                revision: case.revision,
                nonce: case.connection.nonce,
                co_location,
                random: random().map_err(failed)?,
                now,
            },
            fitting.appraised,
        )?;
        let issuer = control_plane.ca.issuer_spki(now).map_err(failed)?;
        let bearer = Bearer {
            id: &plan.template.id,
            serial: Some(&plan.template.serial),
            spki_sha256: Some(&case.hello.spki_sha256),
            authority_spki_sha256: Some(&issuer),
            intermediate_spki_sha256: &[],
            result: Some(&plan.result),
        };
        // By the newest policy, not by that of the challenge: a revocation acts at once.
        let policy = Arc::clone(&control_plane.mesh.borrow().state.policy);
        let domain = &policy.mesh.trust_domain;
        refuse_revoked(&policy.set, domain, &bearer, now)?;
        // Whoever is named by a certificate is named with what follows it on that machine. Which of those that hide their
        // machine begins anew nobody knows, so none of them does.
        let borne = match &challenged.known {
            Some(known) if machine == UNKNOWN_MACHINE => known.certificates.clone(),
            Some(_) | None => { &control_plane.registry }.borne(&case.hello.workload, &machine),
        };
        for certificate in &borne {
            let bearer = certificate.bearer(&plan.template.id);
            let naming = { policy.set.revocations() }.filter(|one| one.names(&bearer, domain, now));
            if let Some(one) = { naming }.next() {
                return Err(revoked(&format!("{}: {}", one.source, one.reason)));
            }
        }
        let signed = control_plane
            .ca
            .sign_svid(&plan.template, now)
            .map_err(failed)?;
        self.refuse_withdrawn(&challenged)?;
        let outcome = Outcome::issued(&plan, co_location);
        let evidence_sha256 = self.keep(case, &challenged, outcome).await?;
        let identities = identities(&hardware, machine.clone());
        let registered = Instance {
            id: instance,
            workload: case.hello.workload.clone(),
            hardware: machine.clone(),
            tpm: state_of_tpm,
            vtpm_key,
            class: plan.result.class.as_str().to_owned(),
            kinds: kinds.clone(),
            image: fitting.image,
            member: member.describe(),
            evidence_time: plan.result.evidence_time,
            not_after: plan.template.not_after,
            trusted_until: plan.template.not_after,
            certificates: vec![Certificate {
                serial: plan.template.serial.to_vec(),
                spki_sha256: case.hello.spki_sha256,
                authority_spki_sha256: signed.authority_spki_sha256,
                not_after: plan.template.not_after,
            }],
            endpoints: case.hello.endpoints.clone(),
            software_version: case.hello.software_version.clone(),
            ear: String::from_utf8_lossy(&plan.ear).into_owned(),
            identities: identities.clone(),
            owed: { plan.duties.iter() }
                .map(|(duty, interval)| {
                    (
                        *duty,
                        Owed {
                            interval: *interval,
                            good: now,
                        },
                    )
                })
                .collect(),
            withdrawn: None,
            certificate_evidence: evidence_sha256,
            good_evidence: evidence_sha256,
            judged_by: terms(&challenged.state, &case.hello.workload).unwrap_or_default(),
            rests_on: editions(case),
        };
        let restored = self.register(registered, &challenged, &member).await?;
        let record = Event::Issued(Box::new(Issuance {
            purpose: case.hello.purpose.as_str().to_owned(),
            spiffe_id: plan.template.id.as_str().to_owned(),
            instance: plan.result.instance.0,
            serial: plan.template.serial.to_vec(),
            spki_sha256: case.hello.spki_sha256,
            authority_spki_sha256: signed.authority_spki_sha256,
            not_before: plan.template.not_before,
            not_after: plan.template.not_after,
            class: plan.result.class.as_str().to_owned(),
            kinds,
            hardware: identities,
            member: member.describe(),
            policy_revision: case.revision,
            evidence_sha256,
            result_sha256: plan.result.ear_sha256,
        }));
        if let Err(error) = control_plane.record(record).await {
            return Err(unavailable(Chain(&error).to_string()));
        }
        self.say_issued(&plan);
        if restored {
            control_plane.restored(&instance, evidence_sha256).await;
        }
        if challenged.known.is_none() {
            for superseded in control_plane.registry.supersede(&instance, now) {
                control_plane.superseded(&superseded).await;
            }
        }
        let slots = control_plane.assign(&plan.duties, now, plan.jitter);
        Ok(Issued {
            certificate_chain: signed.chain,
            attestation_result: plan.ear,
            trust_bundle: control_plane.ca.bundle(),
            renew_at: slots.renewal,
            server_time: control_plane.now(),
            instance,
            reattest: slots.parts,
        })
    }

    fn member(
        &self,
        challenged: &Challenged,
        hardware: &NodeHardware,
        fitting: &Fitting,
        now: SystemTime,
    ) -> Result<Membership, Refused> {
        let registry = &self.control_plane.registry;
        let set = &challenged.state.policy.set;
        let member = membership(
            &challenged.workload,
            hardware,
            challenged.token_sha256,
            |name| set.node(name),
            |token| registry.pinned(token),
            now,
        )?;
        if let Some(most) = fitting.max_instances {
            let words = hardware_name(hardware);
            let others =
                registry.others_running(&challenged.workload.name, &fitting.image, &words, now);
            if others >= usize::try_from(most).unwrap_or(usize::MAX) {
                return Err(Refused::new(
                    "max_instances",
                    "wait until another instance of this image has ended, or raise `max_instances`",
                    format!(
                        "{others} other machines run image `{}`, at most {most} may",
                        fitting.image
                    ),
                ));
            }
        }
        Ok(member)
    }

    /// Whether a `Node` names every device of the set.
    fn co_location(
        &self,
        challenged: &Challenged,
        member: &Membership,
        fitting: &Fitting,
    ) -> CoLocation {
        let devices = fitting.appraised.devices();
        if devices.len() < 2 {
            return CoLocation::Single;
        }
        let node = match member {
            Membership::Node(name) => challenged.state.policy.set.node(name),
            Membership::Pinned(_) | Membership::Spend(_) => None,
        };
        let pins = |kind: EvidenceKind| {
            let Some(hardware) = node.map(|node| &node.hardware) else {
                return false;
            };
            match kind {
                EvidenceKind::Tpm => hardware.tpm_ek_sha256.is_some(),
                EvidenceKind::SevSnp | EvidenceKind::AzSnpVtpm => hardware.snp_chip_id.is_some(),
                EvidenceKind::Tdx | EvidenceKind::AzTdxVtpm => {
                    hardware.tdx_ppid.is_some() || hardware.tdx_platform_instance_id.is_some()
                }
                EvidenceKind::NvidiaGpu => !hardware.gpu_ueids.is_empty(),
                EvidenceKind::Nitro => hardware.nitro_instance_id.is_some(),
                EvidenceKind::Simulated => hardware.simulated_machine.is_some(),
            }
        };
        match devices.iter().all(|device| pins(device.kind)) {
            true => CoLocation::Pinned,
            false => CoLocation::NotProven,
        }
    }

    /// Says whether this restored an instance that had lapsed.
    async fn register(
        &self,
        instance: Instance,
        challenged: &Challenged,
        member: &Membership,
    ) -> Result<bool, Refused> {
        let spend = match member {
            Membership::Spend(token) => Some(*token),
            Membership::Node(_) | Membership::Pinned(_) => None,
        };
        if challenged.known.is_some() && spend.is_none() {
            return Ok(self.control_plane.registry.renew(instance));
        }
        self.control_plane.registry.enroll(instance, spend).await?;
        Ok(false)
    }

    /// No certificate for an instance that was revoked while it renewed.
    fn refuse_withdrawn(&self, challenged: &Challenged) -> Result<(), Refused> {
        let Some(known) = &challenged.known else {
            return Ok(());
        };
        match self.control_plane.registry.instance(&known.id) {
            Some(instance) => not_revoked(&instance),
            None => Ok(()),
        }
    }

    fn say_issued(&self, plan: &Plan) {
        let class = plan.result.class.as_str();
        let issued = &self.control_plane.metrics.issued;
        issued.with_label_values(&[class]).inc();
        tracing::info!(
            peer_id = %plan.template.id,
            instance = %plan.result.instance,
            serial = hex::encode(plan.template.serial),
            class,
            not_after = vouchsafe_api::convert::unix_ms(plan.template.not_after),
            "certificate issued"
        );
    }
}

/// Kinds of the set in the order of collection, each once, the binding root last.
fn kinds(fitting: &Fitting) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for device in fitting.appraised.devices() {
        let word = device.kind.as_str().to_owned();
        if kinds.last() != Some(&word) {
            kinds.push(word);
        }
    }
    kinds
}

/// The machine, and the GPUs that its word does not name, in an order of their own.
pub(super) fn identities(hardware: &NodeHardware, machine: String) -> Vec<String> {
    let gpus = hardware.gpu_ueids.iter();
    let mut gpus: Vec<String> = gpus.map(|ueid| format!("gpu_ueid:{ueid}")).collect();
    gpus.sort_unstable();
    std::iter::once(machine).chain(gpus).collect()
}
