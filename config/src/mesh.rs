//! `Mesh`: what holds for the whole trust domain.

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_attestation::claims::Class;
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::document::Head;
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, optional, required};
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
    /// How often an instance with a TPM proves its event log and the kernel's measurement list; default 1 min.
    pub reattest_tpm_log: Duration,
    /// How often an instance with GPUs proves them; default 10 min.
    pub reattest_gpu: Duration,
    /// How long a sidecar that does not follow the control plane goes on with what it has; then it denies everything
    /// until it follows it again. By default until the end of the certificate that it held when it was up to date.
    pub stale_after: Option<Duration>,
    /// Whether `simulated` evidence may be accepted at all; fixed when the trust domain is created.
    pub danger_accept_simulated: bool,
    /// Roots of TPM manufacturers that may vouch for endorsement keys.
    pub ek_roots: Vec<EkRoots>,
}

impl Mesh {
    /// How long the control plane can be gone before an instance that renewed on time loses its certificate, or its mesh
    /// state is too old.
    pub fn outage_budget(&self) -> Duration {
        let budget = self.certificate_lifetime.saturating_sub(self.reattest_root);
        self.stale_after.map_or(budget, |stale| stale.min(budget))
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
/// Default of `reattest.tpm_log`: a file that should not have run is noticed within a minute.
pub const DEFAULT_REATTEST_TPM_LOG: Duration = Duration::from_secs(60);
/// Default of `reattest.gpu`: with each renewal.
pub const DEFAULT_REATTEST_GPU: Duration = Duration::from_secs(600);
/// Shortest interval of `reattest`: a TPM quote takes up to half a second.
pub const MIN_REATTEST: Duration = Duration::from_secs(1);
/// Longest interval of `reattest`: no certificate lives longer, and each renewal proves everything.
pub const MAX_REATTEST: Duration = MAX_LIFETIME;

/// Shortest `stale_after`: several heartbeats, which are 2 s apart, so that a restart of the control plane cuts nobody.
pub const MIN_STALE_AFTER: Duration = Duration::from_secs(10);
/// Longest `stale_after`: no certificate lives longer.
pub const MAX_STALE_AFTER: Duration = MAX_LIFETIME;

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 6] = [
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
                    "How often an instance proves its binding root afresh, with all the rest, and gets a new certificate.",
                ),
                optional(
                    "tpm_log",
                    Shape::Text(&scalar::DURATION),
                    "1m",
                    "How often an instance with a TPM, its own or Azure's, proves what was booted and which files were measured, between renewals.",
                ),
                optional(
                    "gpu",
                    Shape::Text(&scalar::DURATION),
                    "10m",
                    "How often an instance with GPUs proves them, between renewals.",
                ),
            ],
            exactly_one: &[],
        }),
        "",
        "How often instances prove themselves afresh.",
    ),
    optional(
        "stale_after",
        Shape::Text(&scalar::DURATION),
        "",
        "How long a sidecar that does not follow the control plane goes on before it denies everything; without it, until the end of the certificate that it held when it was up to date.",
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
    check_intervals(spec, place, reporter);
    check_stale_after(spec, place, reporter);
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
        // One that is too short has been reported.
        Some(node) => match node.as_duration() {
            Some(found) if found < MIN_REATTEST => return,
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

/// Each interval within its bounds, and none without effect.
fn check_intervals(spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let root = match spec.find(&["reattest", "root"]) {
        Some(node) => node.as_duration(),
        None => Some(DEFAULT_REATTEST_ROOT),
    };
    for key in ["root", "tpm_log", "gpu"] {
        let node = spec.find(&["reattest", key]);
        let Some((node, found)) = node.and_then(|node| Some((node, node.as_duration()?))) else {
            continue;
        };
        let path = place.key(&format!("reattest.{key}"), Span::default()).path;
        let shown = scalar::show_duration(found);
        if found < MIN_REATTEST || found > MAX_REATTEST {
            let wrong = if found < MIN_REATTEST {
                "short"
            } else {
                "long"
            };
            let problem = reporter.at(node.span, format!("{shown} is too {wrong}"));
            reporter.report(problem.path(path).allowed("`1s` to `24h`"));
        } else if key != "root"
            && let Some(root) = root
            && found > root
        {
            let message = format!(
                "{shown} has no effect: each renewal proves it, every {} (`reattest.root`)",
                scalar::show_duration(root)
            );
            let problem = reporter.at(node.span, message);
            reporter.report(problem.path(path).warning());
        }
    }
}

/// Within its bounds, and not without effect.
fn check_stale_after(spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let node = spec.get("stale_after");
    let Some((node, found)) = node.and_then(|node| Some((node, node.as_duration()?))) else {
        return;
    };
    let path = place.key("stale_after", Span::default()).path;
    let shown = scalar::show_duration(found);
    let lifetime = spec.find(&["certificates", "lifetime"]);
    let lifetime = lifetime.map_or(Some(DEFAULT_LIFETIME), Node::as_duration);
    if found < MIN_STALE_AFTER || found > MAX_STALE_AFTER {
        let wrong = if found < MIN_STALE_AFTER {
            "short"
        } else {
            "long"
        };
        let problem = reporter.at(node.span, format!("{shown} is too {wrong}"));
        reporter.report(problem.path(path).allowed("`10s` to `24h`"));
    } else if let Some(lifetime) = lifetime.filter(|lifetime| found >= *lifetime) {
        let message = format!(
            "{shown} has no effect: a certificate ends before, after {}",
            scalar::show_duration(lifetime)
        );
        let problem = reporter.at(node.span, message);
        reporter.report(problem.path(path).warning());
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
        reattest_tpm_log: duration(&["reattest", "tpm_log"], DEFAULT_REATTEST_TPM_LOG)?,
        reattest_gpu: duration(&["reattest", "gpu"], DEFAULT_REATTEST_GPU)?,
        stale_after: match spec.get("stale_after") {
            Some(node) => Some(node.as_duration()?),
            None => None,
        },
        danger_accept_simulated: match spec.get("danger_accept_simulated") {
            Some(node) => node.as_bool()?,
            None => false,
        },
        ek_roots: ek_roots.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use crate::set::{Options, PolicySet};
    use crate::source::Source;

    fn read(reattest: &str) -> Result<PolicySet, String> {
        let text = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\n\
             spec: {{trust_domain: a.example, reattest: {reattest}}}\n"
        );
        let sources = vec![Source::new("mesh.yaml", text)];
        PolicySet::parse(sources, Options::default()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn intervals_have_defaults_and_are_read() {
        let seconds = |reattest: &str| {
            let set = read(reattest).unwrap();
            let mesh = set.mesh().unwrap();
            [mesh.reattest_root, mesh.reattest_tpm_log, mesh.reattest_gpu]
                .map(|interval| interval.as_secs())
        };
        assert_eq!(seconds("{root: 10m}"), [600, 60, 600]);
        let all = "{root: 5m, tpm_log: 30s, gpu: 2m}";
        assert_eq!(seconds(all), [300, 30, 120]);
    }

    #[test]
    fn each_interval_has_its_bounds() {
        for key in ["root", "tpm_log", "gpu"] {
            for (interval, wrong) in [("999ms", "too short"), ("25h", "too long")] {
                let said = read(&format!("{{{key}: {interval}}}")).unwrap_err();
                assert!(said.contains(wrong), "{key}: {said}");
                assert!(said.contains(&format!("reattest.{key}")), "{key}: {said}");
            }
        }
    }

    #[test]
    fn staleness_has_its_bounds_and_shortens_the_outage_budget() {
        let read = |stale_after: &str| read(&format!("{{root: 10m}}, stale_after: {stale_after}"));
        let budget = |set: &PolicySet| set.mesh().unwrap().outage_budget().as_secs();
        assert_eq!(budget(&read("20m").unwrap()), 1_200);
        assert_eq!(budget(&read("55m").unwrap()), 3_000);
        for (stale_after, wrong) in [("9s", "too short"), ("25h", "too long")] {
            let said = read(stale_after).unwrap_err();
            assert!(
                said.contains(wrong) && said.contains("stale_after"),
                "{said}"
            );
        }
        let warnings = |stale_after: &str| {
            let set = read(stale_after).unwrap();
            let said = set.warnings().iter().map(ToString::to_string);
            said.filter(|said| said.contains("has no effect")).count()
        };
        assert_eq!((warnings("59m"), warnings("1h")), (0, 1));
    }

    #[test]
    fn an_interval_that_has_no_effect_is_warned_of() {
        let set = read("{root: 1m, gpu: 2m}").unwrap();
        let said: Vec<String> = set.warnings().iter().map(ToString::to_string).collect();
        let expected = "2m has no effect: each renewal proves it, every 1m (`reattest.root`)";
        assert!(said.iter().any(|said| said.contains(expected)), "{said:?}");
        // A default that comes after the renewal is nobody's mistake.
        let set = read("{root: 1m}").unwrap();
        assert!(
            !set.warnings()
                .iter()
                .any(|said| said.to_string().contains("no effect"))
        );
    }
}
