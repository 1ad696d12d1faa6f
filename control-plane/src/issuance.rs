//! The decision to issue: who an instance is, and what its certificate says. Pure; nothing here signs, stores or asks.
//!
//! Source: DESIGN §5.4.

use std::time::{Duration, SystemTime};

use vouchsafe_api::convert::attest::reattest::Proof;
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::{AttestationResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::mesh::Mesh;
use vouchsafe_config::node::{Node, NodeHardware};
use vouchsafe_config::revocation::{Bearer, Revocation};
use vouchsafe_config::set::PolicySet;
use vouchsafe_config::workload::{Members, Workload};
use vouchsafe_verifier::appraise::Appraised;

use crate::ca::CertifiedRequest;
use crate::ear::{self, CoLocation, Subject};
use crate::reference;
use crate::refusal::{Refused, unavailable};
use crate::standing::{Duties, Duty};
use crate::svid_template::{SvidTemplate, serial, validity};

/// Why an instance may bear a workload's name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Membership {
    /// Its machine is listed.
    Node(WorkloadName),
    /// A token of this digest has pinned its machine before.
    Pinned([u8; 32]),
    /// The token of this digest is to be spent now, pinning its machine.
    Spend([u8; 32]),
}

impl Membership {
    /// The words of the record.
    pub fn describe(&self) -> String {
        match self {
            Self::Node(node) => format!("node {node}"),
            Self::Pinned(token) | Self::Spend(token) => {
                format!("join_token {}", hex::encode(token))
            }
        }
    }
}

/// The word for a machine in records and registrations; a machine that proved no identity has none.
pub fn hardware_name(hardware: &NodeHardware) -> String {
    hardware
        .name()
        .unwrap_or_else(|| UNKNOWN_MACHINE.to_owned())
}

/// Stands for a machine whose host hides who it is. No token can pin it.
pub(crate) const UNKNOWN_MACHINE: &str = "unknown";

/// No certificate for whom a revocation means.
///
/// # Errors
/// [`Refused`]: `revoked`.
pub fn refuse_revoked(
    set: &PolicySet,
    trust_domain: &TrustDomain,
    bearer: &Bearer<'_>,
    now: SystemTime,
) -> Result<(), Refused> {
    refuse_by(set.revocations(), trust_domain, bearer, now)
}

/// The same, by these revocations.
///
/// # Errors
/// [`Refused`]: `revoked`.
pub fn refuse_by<'r>(
    mut revocations: impl Iterator<Item = &'r Revocation>,
    trust_domain: &TrustDomain,
    bearer: &Bearer<'_>,
    now: SystemTime,
) -> Result<(), Refused> {
    match revocations.find(|one| one.means(bearer, trust_domain, now)) {
        None => Ok(()),
        Some(revocation) => Err(revoked(&format!(
            "{}: {}",
            revocation.source, revocation.reason
        ))),
    }
}

/// What whoever is revoked is told.
pub(crate) fn revoked(detail: &str) -> Refused {
    Refused::new(
        "revoked",
        "ask the operator: a revocation ends only by its own expiry or by an act of his",
        detail.to_owned(),
    )
}

/// Decides whether a machine, as evidence proved it, may bear a workload's name.
///
/// `node` finds a Node document; `pinned` says which machine a token has pinned.
///
/// # Errors
/// [`Refused`]: `not_a_member` for a machine that is not listed; for tokens, the word for what is wrong with this one.
pub fn membership<'n>(
    workload: &Workload,
    hardware: &NodeHardware,
    token: Option<[u8; 32]>,
    node: impl Fn(&WorkloadName) -> Option<&'n Node>,
    pinned: impl Fn(&[u8; 32]) -> Option<String>,
    now: SystemTime,
) -> Result<Membership, Refused> {
    let name = hardware_name(hardware);
    match &workload.members {
        Members::Nodes(nodes) => nodes
            .iter()
            .find(|listed| node(listed).is_some_and(|node| node.hardware.is_proven_by(hardware)))
            .map(|listed| Membership::Node(listed.clone()))
            .ok_or_else(|| {
                Refused::new(
                    "not_a_member",
                    "list this machine as a Node among the workload's members, if it may bear the name",
                    format!("{name} is none of the {} listed nodes", nodes.len()),
                )
            }),
        Members::JoinTokens(_) if hardware.name().is_none() => Err(Refused::new(
            "hardware_hidden",
            "list the machine as a Node by an identity that it proves, or let its host show one",
            "the evidence proves no identity of the machine, so no join token can pin it",
        )),
        Members::JoinTokens(tokens) => {
            // A machine that a token of this workload has pinned stays a member without showing it again.
            let held = tokens
                .iter()
                .find(|one| pinned(&one.sha256).as_deref() == Some(name.as_str()));
            if let Some(held) = held {
                return Ok(Membership::Pinned(held.sha256));
            }
            let Some(shown) = token else {
                return Err(Refused::new(
                    "join_token_missing",
                    "give the sidecar a join token of this workload",
                    format!("{name} is not pinned by any token and shows none"),
                ));
            };
            let Some(listed) = tokens.iter().find(|one| one.sha256 == shown) else {
                return Err(Refused::new(
                    "join_token_unknown",
                    "give the sidecar a join token of this workload",
                    format!("token {} is not listed", hex::encode(shown)),
                ));
            };
            if let Some(other) = pinned(&shown) {
                return Err(token_spent(&shown, &other));
            }
            if listed.expires <= now {
                return Err(Refused::new(
                    "join_token_expired",
                    "make a new join token: `vouchsafe workload init` writes one",
                    format!("token {} has expired", hex::encode(shown)),
                ));
            }
            Ok(Membership::Spend(shown))
        }
    }
}

/// A token that another machine has used.
pub fn token_spent(token: &[u8; 32], by: &str) -> Refused {
    Refused::new(
        "join_token_spent",
        "make a new join token: each admits one machine",
        format!("token {} has pinned {by}", hex::encode(token)),
    )
}

/// Everything that a certificate is made of.
#[derive(Debug)]
pub struct Decision<'a> {
    /// Settings of the mesh.
    pub mesh: &'a Mesh,
    /// Who it is to be.
    pub workload: &'a WorkloadName,
    /// Name of the profile that the evidence fits.
    pub profile: &'a WorkloadName,
    /// Longest life by the profile.
    pub profile_lifetime: Option<Duration>,
    /// What else the certificate must not outlive: the issuing authority, endorsements, the image.
    pub ends: &'a [SystemTime],
    /// The proven key.
    pub request: &'a CertifiedRequest,
    /// Which instance.
    pub instance: InstanceId,
    /// Policy that the evidence was appraised by.
    pub revision: Revision,
    /// The nonce that the evidence answered.
    pub nonce: Nonce,
    /// Whether the devices are in one machine.
    pub co_location: CoLocation,
    /// 16 bytes for the serial, 2 for the renewal slot.
    pub random: [u8; 18],
    /// When.
    pub now: SystemTime,
}

/// A certificate to be signed, and what goes with it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the certificate says.
    pub template: SvidTemplate,
    /// The attestation result that it carries.
    pub result: AttestationResult,
    /// The full result: EAR claims as JSON.
    pub ear: Vec<u8>,
    /// What the instance owes from now on.
    pub duties: Duties,
    /// Drawn once for the slots of this certificate.
    pub jitter: u16,
}

/// Plans a certificate for evidence that was verified.
///
/// # Errors
/// [`Refused`] when there is no time left in which the certificate could be valid.
pub fn plan(decision: &Decision<'_>, appraised: Appraised) -> Result<Plan, Refused> {
    let now = decision.now;
    let lifetime = decision
        .profile_lifetime
        .map_or(decision.mesh.certificate_lifetime, |profile| {
            profile.min(decision.mesh.certificate_lifetime)
        });
    let (not_before, not_after) = validity(now, lifetime, decision.ends).ok_or_else(|| {
        unavailable("the issuing authority, what vendors said or the image is about to end")
    })?;
    let id = SpiffeId::for_workload(&decision.mesh.trust_domain, decision.workload);
    let profile = decision.profile.to_string();
    let subject = Subject {
        spiffe_id: id.as_str(),
        trust_domain: decision.mesh.trust_domain.as_str(),
        instance: decision.instance,
        spki_sha256: decision.request.spki_sha256(),
        nonce: decision.nonce,
        profile: &profile,
        revision: decision.revision,
        co_location: decision.co_location,
        now,
        not_after,
    };
    let ear = ear::compose(&subject, &appraised);
    let devices = appraised.devices().iter();
    let kinds: Vec<EvidenceKind> = devices.map(|device| device.kind).collect();
    let result = appraised.into_result(decision.instance, decision.revision, sha256(&ear));
    let encoded = result
        .encode()
        .map_err(|error| unavailable(format!("the attestation result is too large: {error}")))?;
    let [random @ .., slot_high, slot_low] = decision.random;
    let lifetime = not_after.duration_since(now).unwrap_or_default();
    Ok(Plan {
        duties: duties(decision.mesh, &kinds, lifetime),
        jitter: u16::from_be_bytes([slot_high, slot_low]),
        template: SvidTemplate {
            id,
            spki: decision.request.spki().to_vec(),
            serial: serial(random),
            not_before,
            not_after,
            result: encoded,
        },
        result,
        ear,
    })
}

/// What an instance with this evidence owes, and how often: everything by half of its certificate's life at the latest,
/// and those parts that the Mesh wants more often than that.
pub fn duties(mesh: &Mesh, kinds: &[EvidenceKind], lifetime: Duration) -> Duties {
    let root = mesh.reattest_root.min(lifetime / 2);
    let parts = Proof::ALL.into_iter().map(|proof| {
        let interval = match proof {
            Proof::TpmLog => mesh.reattest_tpm_log,
            Proof::Gpu => mesh.reattest_gpu,
        };
        (proof, interval)
    });
    let wanted = parts
        .filter(|(proof, interval)| *interval < root && !reference::part(*proof, kinds).is_empty());
    wanted
        .map(|(proof, interval)| (Duty::Part(proof), interval))
        .chain([(Duty::Root, root)])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vouchsafe_config::workload::JoinToken;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn workload(members: Members) -> Workload {
        Workload {
            name: "inference/llm".parse().unwrap(),
            labels: BTreeMap::new(),
            profile: "inference/dev".parse().unwrap(),
            members,
            ports: vec![],
        }
    }

    fn machine(name: &str) -> NodeHardware {
        NodeHardware::simulated(name)
    }

    #[track_caller]
    fn check(
        members: Members,
        hardware: &str,
        token: Option<[u8; 32]>,
        pin: Option<([u8; 32], &str)>,
        expected: Result<Membership, &str>,
    ) {
        let node = Node {
            name: "inference/gpu-07".parse().unwrap(),
            hardware: machine("gpu-07"),
        };
        let found = membership(
            &workload(members),
            &machine(hardware),
            token,
            |name| (*name == node.name).then_some(&node),
            |token| pin.and_then(|(held, by)| (held == *token).then(|| by.to_owned())),
            now(),
        );
        assert_eq!(found.map_err(|refused| refused.reason), expected);
    }

    #[test]
    fn listed_machines_are_members_and_others_are_not() {
        let nodes = || Members::Nodes(vec!["inference/gpu-07".parse().unwrap()]);
        let node = Membership::Node("inference/gpu-07".parse().unwrap());
        check(nodes(), "gpu-07", None, None, Ok(node));
        check(nodes(), "gpu-08", None, None, Err("not_a_member"));
        check(nodes(), "gpu-08", Some([1; 32]), None, Err("not_a_member"));
        let unknown = Members::Nodes(vec!["inference/gpu-99".parse().unwrap()]);
        check(unknown, "gpu-07", None, None, Err("not_a_member"));
    }

    #[test]
    fn a_token_admits_one_machine_once_and_that_machine_again() {
        let tokens = |after: i64| {
            let distance = Duration::from_secs(after.unsigned_abs());
            let expires = if after < 0 {
                now() - distance
            } else {
                now() + distance
            };
            Members::JoinTokens(vec![JoinToken {
                sha256: [1; 32],
                expires,
            }])
        };
        let spend = Ok(Membership::Spend([1; 32]));
        let pinned = Ok(Membership::Pinned([1; 32]));
        let by = |name| Some(([1; 32], name));
        let shown = Some([1; 32]);
        check(tokens(60), "a", shown, None, spend);
        check(tokens(60), "a", None, None, Err("join_token_missing"));
        check(
            tokens(60),
            "a",
            Some([2; 32]),
            None,
            Err("join_token_unknown"),
        );
        check(tokens(0), "a", shown, None, Err("join_token_expired"));
        check(
            tokens(60),
            "b",
            shown,
            by("simulated_machine:a"),
            Err("join_token_spent"),
        );
        check(tokens(-60), "a", None, by("simulated_machine:a"), pinned);
    }

    fn mesh(root: u64, tpm_log: u64, gpu: u64) -> Mesh {
        Mesh {
            trust_domain: "factory.example".parse().unwrap(),
            certificate_lifetime: Duration::from_secs(3600),
            reattest_root: Duration::from_secs(root),
            reattest_tpm_log: Duration::from_secs(tpm_log),
            reattest_gpu: Duration::from_secs(gpu),
            stale_after: None,
            danger_accept_simulated: false,
            ek_roots: vec![],
        }
    }

    #[track_caller]
    fn owes(mesh: &Mesh, kinds: &[EvidenceKind], lifetime: u64, expected: &[(&str, u64)]) {
        let found = duties(mesh, kinds, Duration::from_secs(lifetime));
        let found: Vec<_> = { found.iter() }
            .map(|(duty, interval)| (duty.as_str(), interval.as_secs()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn parts_are_owed_where_the_machine_has_them_and_more_often_than_everything() {
        use EvidenceKind::{AzSnpVtpm, AzTdxVtpm, NvidiaGpu, SevSnp, Simulated, Tpm};
        let mesh = mesh(600, 60, 300);
        owes(&mesh, &[Simulated], 3600, &[("root", 600)]);
        owes(&mesh, &[Tpm], 3600, &[("root", 600), ("tpm_log", 60)]);
        let all = [NvidiaGpu, NvidiaGpu, Tpm, SevSnp];
        let each = [("root", 600), ("tpm_log", 60), ("gpu", 300)];
        owes(&mesh, &all, 3600, &each);
        // A vTPM of Azure keeps what was booted, as a TPM does.
        for vtpm in [AzSnpVtpm, AzTdxVtpm] {
            owes(&mesh, &[NvidiaGpu, vtpm], 3600, &each);
        }
        // A short certificate is renewed at half of its life, which is before the GPUs would be due.
        owes(&mesh, &all, 400, &[("root", 200), ("tpm_log", 60)]);
        owes(&mesh, &all, 100, &[("root", 50)]);
    }
}
