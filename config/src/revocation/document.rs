//! The document of a revocation: what may be written, and how it is read.

use std::time::SystemTime;

use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::name::{Name, WorkloadName};

use super::{Action, Cause, IdPattern, Match, Revocation, without_zeros};
use crate::claim;
use crate::document::Head;
use crate::policy::RuleSource;
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, optional, required};
use crate::yaml::{Entry, Node};

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
            "node",
            Shape::List(&Shape::Text(&scalar::REFERENCE)),
            "",
            "Machines, by their `Node` documents: one of the identities that stand there is enough.",
        ),
        optional(
            "hardware_id",
            Shape::List(&Shape::Text(&scalar::HARDWARE_ID)),
            "",
            "Hardware identities that evidence proves: `ek_sha256`, `chip_id`, `ppid`, `platform_instance_id`, `ueid`, `vm_unique_id`, `instance_id`, `module_id`, `machine`.",
        ),
        optional(
            "measurement",
            Shape::List(&Shape::Text(&scalar::WORDS)),
            "",
            "Measurements in hex (`measurement`, `mrtd`, `mrseam`, `rtmr0` to `rtmr3`, `pcr0` to `pcr8`, `pcr_digest`, `firmware_id`), or names of reference images (`image`).",
        ),
        optional(
            "advisory",
            Shape::List(&Shape::Text(&scalar::WORDS)),
            "",
            "Advisories that explain why a device is not at its newest level, as Intel lists them; AMD and NVIDIA list none: name the level under `device`.",
        ),
        optional(
            "authority_sha256",
            Shape::List(&Shape::Text(&scalar::SHA256)),
            "",
            "SHA-256 of the public keys of authorities: the mesh's own, as `vouchsafe status` shows them, and any on the chain of a foreign certificate, as the access log shows them (`authority_sha256`, `intermediates_sha256`).",
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
    let claims = |entry: &&Entry| {
        EvidenceKind::ALL
            .iter()
            .any(|kind| kind.as_str() == entry.key)
    };
    let found = spec.get("match").map_or(&[][..], Node::entries);
    for entry in found.iter().filter(claims) {
        let kind = &entry.key;
        reporter.hint(
            entry.key_span,
            &format!("claims of devices stand under `device`: `device: {{{kind}: ...}}`"),
        );
    }
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
    } else if expires <= now + super::EXPIRY_WARNING {
        let problem = reporter.at(node.span, "the revocation ends within a day");
        let problem = problem
            .path(path)
            .hint("whoever it means is trusted again then");
        reporter.report(problem.warning());
    }
}

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
        workloads: references(found, "workload", &name.namespace)?,
        nodes: references(found, "node", &name.namespace)?,
        machines: Vec::new(),
        hardware_ids: list(found, "hardware_id", |text| Some(text.to_owned()))?,
        measurements: list(found, "measurement", |text| Some(text.to_owned()))?,
        advisories: list(found, "advisory", |text| Some(text.to_owned()))?,
        authorities: digests("authority_sha256")?,
        classes: list(found, "class", |text| text.parse().ok())?,
        policy_revision_below: match found.get("policy_revision_below") {
            None => None,
            Some(node) => Some(scalar::revision(node.text()?)?),
        },
        devices: claim::read(found.get("device")),
        instances: Vec::new(),
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
        cause: Cause::Act,
        name,
    })
}

fn references(node: &Node, key: &str, namespace: &Name) -> Option<Vec<WorkloadName>> {
    let items = node.get(key).map_or(&[][..], Node::items).iter();
    items
        .map(|node| scalar::reference(node, namespace))
        .collect()
}

fn list<T>(node: &Node, key: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let items = node.get(key).map_or(&[][..], Node::items).iter();
    items.map(|node| read(node.text()?)).collect()
}
