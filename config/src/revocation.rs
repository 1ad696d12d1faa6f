//! `Revocation`: who must stop now, by predicate and not only by serial number.

pub(crate) mod document;
mod shown;

use std::time::SystemTime;

use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::peer::Peer;
use vouchsafe_attestation::result::{AttestationResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
pub use vouchsafe_attestation::standing::Action;
use vouchsafe_attestation::standing::{Withdrawal, Withdrawn};
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::claim::Requirement;
use crate::node::Node;
use crate::policy::{DenyReason, RuleSource};
use crate::problem::{Problem, Problems};

/// An act that ends trust: it holds until it expires or its document is removed, which the record shows.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Namespace and name of the document.
    pub name: WorkloadName,
    /// Whom it means.
    pub matches: Match,
    /// What becomes of what is live.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// When it stops to hold; the instant itself is outside. `None`: as long as the document is there.
    pub expires: Option<SystemTime>,
    /// Where it was written.
    pub source: RuleSource,
    /// Whose act it is.
    pub cause: Cause,
}

/// Whose act a revocation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// An operator's: a document.
    Act,
    /// The control plane's, by what became of an instance.
    Standing(Withdrawn),
}

/// Whom a revocation means: all that is written must hold; of a list one must.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Match {
    /// Serial numbers of certificates, without leading zeros.
    pub serials: Vec<Vec<u8>>,
    /// SHA-256 of public keys.
    pub spkis: Vec<[u8; 32]>,
    /// Patterns of SPIFFE IDs.
    pub spiffe_ids: Vec<IdPattern>,
    /// Workloads of this mesh.
    pub workloads: Vec<WorkloadName>,
    /// Machines, by their Node documents.
    pub nodes: Vec<WorkloadName>,
    /// What the documents of `nodes` say that evidence proves of those machines: one of it is enough.
    pub machines: Vec<String>,
    /// Hardware identities, as claims show them.
    pub hardware_ids: Vec<String>,
    /// Measurements in hex, or names of reference images.
    pub measurements: Vec<String>,
    /// Vendors' advisories that explain a device's level.
    pub advisories: Vec<String>,
    /// SHA-256 of the public keys of authorities: whoever they certified, directly or by others.
    pub authorities: Vec<[u8; 32]>,
    /// Classes of attestation results.
    pub classes: Vec<Class>,
    /// Results that were made under an older policy than this.
    pub policy_revision_below: Option<Revision>,
    /// Devices of a kind whose claims are so: one such device is enough, and a claim that it lacks counts as so.
    pub devices: Vec<Requirement>,
    /// Instances of this mesh. No document names any.
    pub instances: Vec<InstanceId>,
}

/// What a revocation looks at.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    /// Who it is.
    pub id: &'a SpiffeId,
    /// Serial number of its certificate.
    pub serial: Option<&'a [u8]>,
    /// SHA-256 of its public key.
    pub spki_sha256: Option<&'a [u8; 32]>,
    /// SHA-256 of the public key of the authority that its chain ended in.
    pub authority_spki_sha256: Option<&'a [u8; 32]>,
    /// The same of the authorities between its certificate and that one.
    pub intermediate_spki_sha256: &'a [[u8; 32]],
    /// What it proved.
    pub result: Option<&'a AttestationResult>,
}

impl<'a> From<&'a Peer> for Bearer<'a> {
    fn from(peer: &'a Peer) -> Self {
        Self {
            id: peer.id(),
            serial: Some(peer.serial().as_bytes()),
            spki_sha256: Some(peer.spki_sha256()),
            authority_spki_sha256: Some(peer.authority_spki_sha256()),
            intermediate_spki_sha256: peer.intermediate_spki_sha256(),
            result: peer.result(),
        }
    }
}

impl From<Withdrawal> for Revocation {
    fn from(withdrawal: Withdrawal) -> Self {
        let instance = withdrawal.instance;
        let (action, named) = match withdrawal.state {
            Withdrawn::Lapsed | Withdrawn::Revoked => (Action::Cut, None),
            Withdrawn::Named(action) => (action, withdrawal.reason.parse().ok()),
        };
        let document = match &named {
            None => format!("standing of instance {instance}"),
            Some(name) => format!("Revocation {name}"),
        };
        Self {
            name: named.unwrap_or_else(|| standing_name(instance)),
            matches: Match {
                instances: vec![instance],
                ..Match::default()
            },
            action,
            reason: withdrawal.reason,
            expires: None,
            source: RuleSource {
                document,
                file: "the control plane".to_owned(),
                line: 1,
            },
            cause: Cause::Standing(withdrawal.state),
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "32 hexadecimal digits are the name of a document"
)]
fn standing_name(instance: InstanceId) -> WorkloadName {
    format!("standing/{instance}").parse().expect("a name")
}

impl Revocation {
    /// The word for whom it denies.
    pub fn deny_reason(&self) -> DenyReason {
        match self.cause {
            Cause::Standing(Withdrawn::Lapsed) => DenyReason::Lapsed,
            Cause::Standing(Withdrawn::Revoked | Withdrawn::Named(_)) | Cause::Act => {
                DenyReason::Revoked
            }
        }
    }

    /// Whether it means this bearer now. Allocates nothing.
    pub fn means(&self, bearer: &Bearer<'_>, trust_domain: &TrustDomain, now: SystemTime) -> bool {
        self.is_in_force(now) && self.matches.holds(bearer, trust_domain)
    }

    /// Whether it is in force and names certificates or keys. Those live for minutes, so it means whoever bore one: the
    /// instance, with what it bears since.
    pub fn names_certificates(&self, now: SystemTime) -> bool {
        let names_one = !self.matches.serials.is_empty() || !self.matches.spkis.is_empty();
        names_one && self.is_in_force(now)
    }

    /// Whether it names the bearer of a certificate, by what a certificate shows: what it says besides of evidence is not
    /// known of one that has gone by, and errs on the side of ending trust.
    pub fn names(&self, borne: &Bearer<'_>, trust_domain: &TrustDomain, now: SystemTime) -> bool {
        let of_certificate = Match {
            serials: self.matches.serials.clone(),
            spkis: self.matches.spkis.clone(),
            spiffe_ids: self.matches.spiffe_ids.clone(),
            workloads: self.matches.workloads.clone(),
            authorities: self.matches.authorities.clone(),
            ..Match::default()
        };
        self.names_certificates(now) && of_certificate.holds(borne, trust_domain)
    }

    /// Authorities that nobody is to be certified by any more, whoever it is.
    pub fn revokes_authorities(&self, now: SystemTime) -> &[[u8; 32]] {
        let alone = Match {
            authorities: self.matches.authorities.clone(),
            ..Match::default()
        };
        match self.is_in_force(now) && self.matches == alone {
            true => &self.matches.authorities,
            false => &[],
        }
    }

    /// Whether a new certificate is what it wants: of another authority, or under a newer policy.
    pub fn is_cured_by_renewal(&self) -> bool {
        !self.matches.authorities.is_empty() || self.matches.policy_revision_below.is_some()
    }

    /// Takes in what the documents of its nodes state. Without one of them nobody could tell whom it means, so a part of a
    /// policy that lacks it is refused like a whole one.
    pub(crate) fn resolve<'n>(
        &mut self,
        node: impl Fn(&WorkloadName) -> Option<&'n Node>,
    ) -> Result<(), Problems> {
        let mut machines = Vec::new();
        for name in &self.matches.nodes {
            let Some(node) = node(name) else {
                let message = format!("there is no Node `{name}`");
                let problem = Problem::of_file(&self.source.file, message);
                return Err(Problems::one(problem.path("spec.match.node")));
            };
            machines.extend(node.hardware.identities());
        }
        self.matches.machines = machines;
        Ok(())
    }

    /// Whether it has not expired.
    pub fn is_in_force(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether it is in force and will not be for long: whoever it means is trusted again then.
    pub fn ends_soon(&self, now: SystemTime) -> bool {
        self.is_in_force(now)
            && self
                .expires
                .is_some_and(|expires| expires <= now + EXPIRY_WARNING)
    }

    /// How many of those who bear a name it means now, as far as the name tells.
    pub fn means_of(&self, id: &SpiffeId, trust_domain: &TrustDomain, now: SystemTime) -> Meant {
        if self.is_in_force(now) {
            self.matches.of_name(id, trust_domain)
        } else {
            Meant::Nobody
        }
    }

    /// Whether it names anybody: if not, it means whoever shows what it says of certificates and evidence.
    pub fn names_somebody(&self) -> bool {
        !self.matches.workloads.is_empty() || !self.matches.spiffe_ids.is_empty()
    }
}

impl Revocation {
    /// Whether another one means the same bearers, with the same consequence, for the same time.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.matches == other.matches
            && self.action == other.action
            && self.expires == other.expires
    }
}

impl Match {
    fn holds(&self, bearer: &Bearer<'_>, trust_domain: &TrustDomain) -> bool {
        let listed = |list: &[[u8; 32]], found: Option<&[u8; 32]>| {
            list.is_empty() || found.is_some_and(|found| list.contains(found))
        };
        let serial = self.serials.is_empty()
            || bearer.serial.is_some_and(|found| {
                let found = without_zeros(found);
                self.serials.iter().any(|one| one == found)
            });
        let id =
            self.spiffe_ids.is_empty() || self.spiffe_ids.iter().any(|one| one.matches(bearer.id));
        let workload = self.workloads.is_empty()
            || self
                .workloads
                .iter()
                .any(|name| is_workload(bearer.id, trust_domain, name));
        let shows = |list: &[String], sort: shown::Sort| {
            list.is_empty()
                || bearer
                    .result
                    .is_some_and(|result| sort.is_shown(result, list))
        };
        let hardware = (self.nodes.is_empty()
            || bearer
                .result
                .is_some_and(|result| shown::Sort::Identity.is_shown(result, &self.machines)))
            && shows(&self.hardware_ids, shown::Sort::Identity)
            && shows(&self.measurements, shown::Sort::Measurement)
            && shows(&self.advisories, shown::Sort::Advisory);
        let class = self.classes.is_empty()
            || bearer
                .result
                .is_some_and(|result| self.classes.contains(&result.class));
        let revision = self.policy_revision_below.is_none_or(|below| {
            bearer
                .result
                .is_some_and(|result| result.policy_revision < below)
        });
        let devices = self.devices.iter().all(|wanted| {
            bearer
                .result
                .is_some_and(|result| has_device(result, wanted))
        });
        // Another trust domain numbers its instances as it likes.
        let instance = self.instances.is_empty()
            || bearer.id.trust_domain() == trust_domain
                && bearer
                    .result
                    .is_some_and(|result| self.instances.contains(&result.instance));
        // Whoever was certified below a revoked authority is, however far below.
        let authority = listed(&self.authorities, bearer.authority_spki_sha256)
            || (bearer.intermediate_spki_sha256.iter()).any(|one| self.authorities.contains(one));
        serial
            && instance
            && listed(&self.spkis, bearer.spki_sha256)
            && id
            && workload
            && hardware
            && authority
            && class
            && revision
            && devices
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whom of those who bear a name it means, as far as the name tells.
    fn of_name(&self, id: &SpiffeId, trust_domain: &TrustDomain) -> Meant {
        let by_name = Self {
            spiffe_ids: self.spiffe_ids.clone(),
            workloads: self.workloads.clone(),
            ..Self::default()
        };
        let bearer = Bearer {
            id,
            serial: None,
            spki_sha256: None,
            authority_spki_sha256: None,
            intermediate_spki_sha256: &[],
            result: None,
        };
        if !by_name.holds(&bearer, trust_domain) {
            Meant::Nobody
        } else if by_name == *self {
            Meant::Everybody
        } else {
            Meant::Some
        }
    }
}

/// How many of those who bear a name a revocation means.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Meant {
    /// None of them.
    Nobody,
    /// Those of whom the rest of it holds as well: what their certificates and evidence show.
    Some,
    /// All of them.
    Everybody,
}

/// A revocation errs on the side of ending trust: a claim that the device lacks counts as the one that was revoked.
fn has_device(result: &AttestationResult, wanted: &Requirement) -> bool {
    result.devices_of(wanted.kind).any(|device| {
        wanted.conditions.iter().all(|condition| {
            let found = device.claims.get(condition.claim);
            let is_lacking = found.is_none() && condition.concerns(&device.claims);
            is_lacking || condition.holds(found)
        })
    })
}

fn is_workload(id: &SpiffeId, trust_domain: &TrustDomain, name: &WorkloadName) -> bool {
    let mut parts = id.path().split('/');
    id.trust_domain() == trust_domain
        && parts.next() == Some("")
        && parts.next() == Some("ns")
        && parts.next() == Some(name.namespace.as_str())
        && parts.next() == Some("workload")
        && parts.next() == Some(name.name.as_str())
        && parts.next().is_none()
}

/// A serial number as it is compared: leading zeros say nothing.
pub fn without_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

/// A pattern of SPIFFE IDs: `*` is one segment of the path, `**` at the end all the rest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdPattern {
    trust_domain: TrustDomain,
    segments: Vec<String>,
    is_open: bool,
}

impl IdPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("spiffe://")?;
        let (domain, path) = rest.split_once('/')?;
        let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        let is_open = segments.last().is_some_and(|last| last == "**");
        if is_open {
            segments.pop();
        }
        let is_good = |segment: &String| {
            segment == "*"
                || (!segment.is_empty()
                    && segment != "."
                    && segment != ".."
                    && segment
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)))
        };
        (segments.iter().all(is_good) && (is_open || !segments.is_empty())).then_some(Self {
            trust_domain: domain.parse().ok()?,
            segments,
            is_open,
        })
    }

    /// Whose IDs it means.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether it means this one.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if *id.trust_domain() != self.trust_domain {
            return false;
        }
        let mut found = id.path().split('/').skip(1);
        let begins = self.segments.iter().all(|wanted| {
            let segment = found.next();
            segment.is_some_and(|segment| wanted == "*" || wanted == segment)
        });
        begins && found.next().is_some() == self.is_open
    }
}

/// Claims of a kind of evidence that `hardware_id` looks for.
pub fn identity_claims(kind: EvidenceKind) -> &'static [&'static str] {
    shown::Sort::Identity.claims(kind)
}

/// Claims of a kind of evidence that `measurement` looks for.
pub fn measurement_claims(kind: EvidenceKind) -> &'static [&'static str] {
    shown::Sort::Measurement.claims(kind)
}

/// How long before its end a revocation warns.
pub const EXPIRY_WARNING: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests;
