//! `Mesh`: what holds for the whole trust domain.

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_attestation::claims::Class;
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::document::Head;
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, not_built, optional, required};
use crate::source::Span;
use crate::yaml::Node;

/// Settings of a mesh.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Longest life of a workload's certificate; default 1 h, at most 24 h.
    pub certificate_lifetime: Duration,
    /// How often an instance proves its binding root afresh and gets a new certificate; default 10 min.
    pub reattest_root: Duration,
    /// Whether `simulated` evidence may be accepted at all; fixed when the trust domain is created.
    pub danger_accept_simulated: bool,
    /// Roots of TPM manufacturers that may vouch for endorsement keys.
    pub ek_roots: Vec<EkRoots>,
}

impl Mesh {
    /// How long the control plane can be gone before an instance that renewed on time loses its certificate.
    pub fn outage_budget(&self) -> Duration {
        self.certificate_lifetime.saturating_sub(self.reattest_root)
    }
}

/// Roots that may vouch for endorsement keys, and how much that is worth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EkRoots {
    /// `hardware` for a maker of TPMs, the default; `software` for the authority of software TPMs, so that a pinned one
    /// never passes for hardware.
    pub class: Class,
    /// The certificates.
    pub certificates: EkRootCertificates,
}

/// Where certificates of roots are written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EkRootCertificates {
    /// Certificates in PEM, written in the document or read from the file that it names.
    Pem(String),
    /// A file that has not been read: in texts that did not come from a folder.
    File(PathBuf),
}

/// Default of `certificates.lifetime`: long enough for a control plane to be repaired, short enough that a stolen key
/// is soon worthless.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);
/// Longest `certificates.lifetime`.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Default of `reattest.root`: six tries before a certificate of the default lifetime ends.
pub const DEFAULT_REATTEST_ROOT: Duration = Duration::from_secs(600);
/// Shortest `reattest.root`: a TPM quote takes up to half a second.
pub const MIN_REATTEST_ROOT: Duration = Duration::from_secs(1);

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 5] = [
    required(
        "trust_domain",
        Shape::Text(&scalar::TRUST_DOMAIN),
        "The trust domain of all SPIFFE IDs of the mesh.",
    ),
    optional(
        "certificates",
        Shape::Map(&MapShape {
            fields: &[optional(
                "lifetime",
                Shape::Text(&scalar::DURATION),
                "1h",
                "Longest life of a workload's certificate; at most 24h, at least twice `reattest.root`.",
            )],
            exactly_one: &[],
        }),
        "",
        "Certificates of workloads.",
    ),
    optional(
        "reattest",
        Shape::Map(&MapShape {
            fields: &[
                optional(
                    "root",
                    Shape::Text(&scalar::DURATION),
                    "10m",
                    "How often an instance proves its binding root afresh.",
                ),
                not_built("tpm_log"),
                not_built("gpu"),
            ],
            exactly_one: &[],
        }),
        "",
        "How often instances prove themselves afresh.",
    ),
    optional(
        "danger_accept_simulated",
        Shape::Bool,
        "false",
        "Whether made-up evidence may be accepted by profiles that name it. Fixed when the trust domain is created.",
    ),
    optional(
        "ek_roots",
        Shape::List(&Shape::Map(&MapShape {
            fields: &[
                optional("pem", Shape::Text(&scalar::PEM), "", "Certificates in PEM."),
                optional(
                    "file",
                    Shape::Text(&scalar::FILE),
                    "",
                    "File of certificates in PEM, relative to the document's folder.",
                ),
                optional(
                    "class",
                    Shape::Word(&["hardware", "software"]),
                    "hardware",
                    "Class of the TPMs that they vouch for: `software` for the authority of software TPMs.",
                ),
            ],
            exactly_one: &[&["pem", "file"]],
        })),
        "",
        "Roots of TPM manufacturers that may vouch for endorsement keys; without them a TPM is of class `software`.",
    ),
];

/// Reports what the shape can't say.
pub(crate) fn check(spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let lifetime = spec.find(&["certificates", "lifetime"]);
    let root = spec.find(&["reattest", "root"]);
    let mut bad = |node: &Node, path: &str, message: String, allowed: String| {
        let problem = reporter.at(node.span, message);
        let path = place.key(path, Span::default()).path;
        reporter.report(problem.path(path).allowed(allowed));
    };
    let length = lifetime.map(|node| (node, node.as_duration()));
    if let Some((node, Some(found))) = length
        && found > MAX_LIFETIME
    {
        bad(
            node,
            "certificates.lifetime",
            format!("a lifetime of {} is too long", scalar::show_duration(found)),
            "at most `24h`".to_owned(),
        );
    }
    let interval = match root {
        Some(node) => match node.as_duration() {
            Some(found) if found < MIN_REATTEST_ROOT => {
                let message = format!("{} is too short", scalar::show_duration(found));
                return bad(node, "reattest.root", message, "at least `1s`".to_owned());
            }
            found => found,
        },
        None => Some(DEFAULT_REATTEST_ROOT),
    };
    let lifetime_is_broken = matches!(length, Some((_, None)));
    let found = length
        .and_then(|(_, found)| found)
        .unwrap_or(DEFAULT_LIFETIME);
    // Blamed is what was written: the lifetime, or the interval where the lifetime is the default.
    let blamed = lifetime
        .map(|node| (node, "certificates.lifetime"))
        .or(root.map(|node| (node, "reattest.root")));
    if let (Some(interval), Some((node, path)), false) = (interval, blamed, lifetime_is_broken)
        && interval.saturating_mul(2) > found
    {
        let message = format!(
            "a lifetime of {} is below twice `reattest.root` of {}: one missed renewal would end the certificate",
            scalar::show_duration(found),
            scalar::show_duration(interval)
        );
        bad(
            node,
            path,
            message,
            "a lifetime of at least twice `reattest.root`".to_owned(),
        );
    }
}

pub(crate) fn read(_head: &Head, spec: &Node) -> Option<Mesh> {
    let duration = |keys: &[&str], default| match spec.find(keys) {
        Some(node) => node.as_duration(),
        None => Some(default),
    };
    let ek_roots = spec.get("ek_roots").map_or(&[][..], Node::items);
    let ek_roots = ek_roots.iter().map(|node| {
        let pem = node.get("pem").and_then(Node::text);
        let file = node.get("file").and_then(Node::text);
        let pem = pem.map(|pem| EkRootCertificates::Pem(pem.to_owned()));
        Some(EkRoots {
            class: match node.get("class") {
                Some(class) => class.parse()?,
                None => Class::Hardware,
            },
            certificates: pem.or_else(|| file.map(|file| EkRootCertificates::File(file.into())))?,
        })
    });
    Some(Mesh {
        trust_domain: spec.get("trust_domain")?.parse()?,
        certificate_lifetime: duration(&["certificates", "lifetime"], DEFAULT_LIFETIME)?,
        reattest_root: duration(&["reattest", "root"], DEFAULT_REATTEST_ROOT)?,
        danger_accept_simulated: match spec.get("danger_accept_simulated") {
            Some(node) => node.as_bool()?,
            None => false,
        },
        ek_roots: ek_roots.collect::<Option<_>>()?,
    })
}
