//! `Revocation`: who must stop now, by predicate and not only by serial number.

use std::time::SystemTime;

use vouchsafe_attestation::claims::Class;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::peer::Peer;
use vouchsafe_attestation::result::AttestationResult;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::claim::{self, Requirement};
use crate::document::Head;
use crate::policy::RuleSource;
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, optional, required};
use crate::yaml::Node;

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
}

/// What becomes of connections and streams that rest on what was revoked. New ones are denied whatever it says.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Action {
    /// They stay until they end by themselves or their lease does.
    DenyNew,
    /// They may finish what they have, and take on nothing new.
    Drain,
    /// They end at once.
    Cut,
}

impl Action {
    /// All actions, mildest first.
    pub const ALL: [Self; 3] = [Self::DenyNew, Self::Drain, Self::Cut];

    /// The word in documents, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DenyNew => "deny_new",
            Self::Drain => "drain",
            Self::Cut => "cut",
        }
    }
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
    /// SHA-256 of the public keys of issuing authorities.
    pub authorities: Vec<[u8; 32]>,
    /// Classes of attestation results.
    pub classes: Vec<Class>,
    /// Results that were made under an older policy than this.
    pub policy_revision_below: Option<Revision>,
    /// Devices of a kind whose claims are so: one such device is enough, and a claim that it lacks counts as so.
    pub devices: Vec<Requirement>,
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
    /// SHA-256 of the public key of the authority that issued its certificate.
    pub authority_spki_sha256: Option<&'a [u8; 32]>,
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
            result: peer.result(),
        }
    }
}

impl Revocation {
    /// Whether it means this bearer now. Allocates nothing.
    pub fn means(&self, bearer: &Bearer<'_>, trust_domain: &TrustDomain, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires) && self.matches.holds(bearer, trust_domain)
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
        serial
            && listed(&self.spkis, bearer.spki_sha256)
            && id
            && workload
            && listed(&self.authorities, bearer.authority_spki_sha256)
            && class
            && revision
            && devices
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A revocation errs on the side of ending trust: a claim that the device lacks counts as the one that was revoked.
fn has_device(result: &AttestationResult, wanted: &Requirement) -> bool {
    result.devices_of(wanted.kind).any(|device| {
        wanted.conditions.iter().all(|condition| {
            let found = device.claims.get(condition.claim);
            found.is_none() || condition.holds(found)
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

fn without_zeros(serial: &[u8]) -> &[u8] {
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

    fn matches(&self, id: &SpiffeId) -> bool {
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

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 4] = [
    required(
        "match",
        Shape::Map(&MATCH),
        "Whom it means: all that is written here must hold; of a list one item must.",
    ),
    required(
        "action",
        Shape::Word(&["deny_new", "drain", "cut"]),
        "What becomes of what is live; new connections, requests and certificates are refused in any case.",
    ),
    required(
        "reason",
        Shape::Text(&scalar::WORDS),
        "Why: it stands in the record and in `explain`.",
    ),
    optional(
        "expires",
        Shape::Text(&scalar::TIMESTAMP),
        "",
        "When it stops to hold; by default never, as long as the document is there.",
    ),
];

static MATCH: MapShape = MapShape {
    fields: &[
        optional(
            "serial",
            Shape::List(&Shape::Text(&scalar::SERIAL)),
            "",
            "Serial numbers of certificates, in hex.",
        ),
        optional(
            "spki_sha256",
            Shape::List(&Shape::Text(&scalar::SHA256)),
            "",
            "SHA-256 of public keys.",
        ),
        optional(
            "spiffe_id",
            Shape::List(&Shape::Text(&scalar::ID_PATTERN)),
            "",
            "SPIFFE IDs; `*` is one segment of the path, `**` at the end all the rest.",
        ),
        optional(
            "workload",
            Shape::List(&Shape::Text(&scalar::REFERENCE)),
            "",
            "Workloads of this mesh.",
        ),
        optional(
            "authority_sha256",
            Shape::List(&Shape::Text(&scalar::SHA256)),
            "",
            "SHA-256 of the public keys of issuing authorities, as `vouchsafe status` shows them.",
        ),
        optional(
            "class",
            Shape::List(&Shape::Word(&["hardware", "software", "simulated"])),
            "",
            "Classes of attestation results.",
        ),
        optional(
            "policy_revision_below",
            Shape::Text(&scalar::REVISION),
            "",
            "Results that were made under an older policy than this revision.",
        ),
        optional(
            "device",
            Shape::Map(&claim::REQUIRE),
            "",
            "Devices by their claims: one such device is enough, and a claim that it lacks counts as so.",
        ),
    ],
    exactly_one: &[],
};

/// Reports what the shape can't say.
pub(crate) fn check(
    spec: &Node,
    place: &Place,
    now: Option<SystemTime>,
    reporter: &mut Reporter<'_>,
) {
    if let Some(entry) = spec.entry("match")
        && entry.value.entries().is_empty()
    {
        let problem = reporter
            .at(
                entry.key_span,
                "the revocation says of nobody that it means him",
            )
            .path(place.key("match", entry.key_span).path)
            .hint("to stop everybody write `spiffe_id: [\"spiffe://<trust domain>/**\"]`");
        reporter.report(problem);
    }
    let (Some(node), Some(now)) = (spec.get("expires"), now) else {
        return;
    };
    let Some(expires) = node.as_time() else {
        return;
    };
    let path = place.key("expires", node.span).path;
    if expires <= now {
        let problem = reporter.at(node.span, "the revocation has expired and means nobody");
        let problem = problem.path(path).hint("delete the document, or extend it");
        reporter.report(problem.warning());
    } else if expires <= now + EXPIRY_WARNING {
        let problem = reporter.at(node.span, "the revocation ends within a day");
        let problem = problem
            .path(path)
            .hint("whoever it means is trusted again then");
        reporter.report(problem.warning());
    }
}

/// How long before its end a revocation warns.
const EXPIRY_WARNING: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub(crate) fn read(head: &Head, spec: &Node, source: RuleSource) -> Option<Revocation> {
    let name = head.full_name()?;
    let found = spec.get("match")?;
    let digests = |key: &str| list(found, key, |text| scalar::digest(text).ok());
    let matches = Match {
        serials: list(found, "serial", |text| {
            let bytes = scalar::serial(text)?;
            Some(without_zeros(&bytes).to_vec())
        })?,
        spkis: digests("spki_sha256")?,
        spiffe_ids: list(found, "spiffe_id", IdPattern::parse)?,
        workloads: match found.get("workload") {
            None => Vec::new(),
            Some(node) => {
                let items = node.items().iter();
                let items = items.map(|node| scalar::reference(node, &name.namespace));
                items.collect::<Option<_>>()?
            }
        },
        authorities: digests("authority_sha256")?,
        classes: list(found, "class", |text| text.parse().ok())?,
        policy_revision_below: match found.get("policy_revision_below") {
            None => None,
            Some(node) => Some(scalar::revision(node.text()?)?),
        },
        devices: claim::read(found.get("device")),
    };
    // A match that lost all its parts would mean everybody.
    (!matches.is_empty()).then_some(())?;
    let action = spec.get("action")?.text()?;
    Some(Revocation {
        matches,
        action: Action::ALL.into_iter().find(|one| one.as_str() == action)?,
        reason: spec.get("reason")?.text()?.to_owned(),
        expires: match spec.get("expires") {
            None => None,
            Some(node) => Some(node.as_time()?),
        },
        source,
        name,
    })
}

fn list<T>(node: &Node, key: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let items = node.get(key).map_or(&[][..], Node::items).iter();
    items.map(|node| read(node.text()?)).collect()
}

#[cfg(test)]
mod tests;
