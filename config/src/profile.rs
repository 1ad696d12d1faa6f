//! `AttestationProfile`: what must be proven before a name is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::Class;
use vouchsafe_attestation::name::WorkloadName;

use crate::document::Head;
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, not_built, optional, required};
use crate::yaml::Node;

/// An appraisal policy: evidence must satisfy one of the alternatives.
#[derive(Clone, Debug)]
pub struct AttestationProfile {
    /// Namespace and name of the document.
    pub name: WorkloadName,
    /// Alternatives, tried in order; never empty.
    pub any_of: Vec<Alternative>,
    /// Longest life of a certificate issued by this profile, where shorter than the mesh's.
    pub lifetime: Option<Duration>,
}

/// One way to satisfy a profile. A closed set: each has exactly one binding root.
#[derive(Clone, Debug)]
pub enum Alternative {
    /// A TPM quote.
    Tpm(TpmReference),
    /// Made-up evidence.
    Simulated(SimulatedReference),
}

/// What a TPM must prove.
#[derive(Clone, Debug)]
pub struct TpmReference {
    /// Classes that are accepted; default `hardware` alone.
    pub classes: BTreeSet<Class>,
    /// Reference images: the quoted PCRs must equal those of one of them.
    pub images: Vec<TpmImage>,
    /// PCRs that must be quoted beside those that images name.
    pub pcrs: BTreeMap<PcrHash, BTreeSet<u8>>,
    /// Where set, Secure Boot must have been on (`true`) or off (`false`) by the replayed event log.
    pub secure_boot: Option<bool>,
    /// Whether a boot event log must be there and replay to the quoted values.
    pub event_log: EventLog,
}

impl TpmReference {
    /// All PCRs that a quote must cover, by hash.
    pub fn selection(&self) -> BTreeMap<PcrHash, BTreeSet<u8>> {
        let mut selection = self.pcrs.clone();
        for image in &self.images {
            for (hash, values) in &image.pcrs {
                selection.entry(*hash).or_default().extend(values.keys());
            }
        }
        selection
    }
}

/// A named set of PCR values; several live during a roll-out.
#[derive(Clone, Debug)]
pub struct TpmImage {
    /// Name, which becomes the claim `image`.
    pub name: String,
    /// Values by hash and PCR; never empty.
    pub pcrs: BTreeMap<PcrHash, BTreeMap<u8, Vec<u8>>>,
    /// End of its validity; the instant itself is outside.
    pub until: Option<SystemTime>,
    /// Most instances that may run it at once.
    pub max_instances: Option<u32>,
}

/// Bank of PCRs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PcrHash {
    /// SHA-256: 32 bytes.
    Sha256,
    /// SHA-384: 48 bytes.
    Sha384,
}

impl PcrHash {
    /// The word in documents and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
        }
    }

    /// All banks that can be named.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha384];
}

/// Whether a boot event log must be there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum EventLog {
    /// It must.
    Required,
    /// Where it is there it must replay; the default, because software TPMs have none.
    #[default]
    IfPresent,
}

/// What simulated evidence must say.
#[derive(Clone, Debug)]
pub struct SimulatedReference {
    /// Accepted images.
    pub images: Vec<SimulatedImage>,
}

/// A made-up image.
#[derive(Clone, Debug)]
pub struct SimulatedImage {
    /// Name, which becomes the claim `image`.
    pub name: String,
    /// End of its validity; the instant itself is outside.
    pub until: Option<SystemTime>,
    /// Most instances that may run it at once.
    pub max_instances: Option<u32>,
}

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 2] = [
    required(
        "any_of",
        Shape::List(&Shape::Map(&ALTERNATIVE)),
        "Alternatives: evidence must satisfy one of them.",
    ),
    optional(
        "lifetime",
        Shape::Text(&scalar::DURATION),
        "",
        "Longest life of a certificate under this profile, where shorter than the mesh's.",
    ),
];

static ALTERNATIVE: MapShape = MapShape {
    fields: &[
        optional("tpm", Shape::Map(&TPM), "", "A TPM 2.0 quote."),
        optional(
            "simulated",
            Shape::Map(&SIMULATED),
            "",
            "Made-up evidence; needs `danger_accept_simulated` in the Mesh.",
        ),
        not_built("sev_snp"),
        not_built("tdx"),
        not_built("nvidia_gpu"),
        not_built("nitro"),
    ],
    exactly_one: &[],
};

static TPM: MapShape = MapShape {
    fields: &[
        optional(
            "classes",
            Shape::List(&Shape::Word(&["hardware", "software"])),
            "[hardware]",
            "Accepted classes: `hardware` needs a certified endorsement key, `software` also takes a program.",
        ),
        required(
            "images",
            Shape::List(&Shape::Map(&TPM_IMAGE)),
            "Reference values: what the quoted PCRs must equal.",
        ),
        optional(
            "pcrs",
            Shape::Map(&MapShape {
                fields: &[
                    optional(
                        "sha256",
                        Shape::List(&Shape::Number(0, 23)),
                        "",
                        "PCRs of the SHA-256 bank.",
                    ),
                    optional(
                        "sha384",
                        Shape::List(&Shape::Number(0, 23)),
                        "",
                        "PCRs of the SHA-384 bank.",
                    ),
                ],
                exactly_one: &[],
            }),
            "",
            "PCRs to quote beside those that images name.",
        ),
        optional(
            "secure_boot",
            Shape::Bool,
            "",
            "Whether Secure Boot must have been on, by the replayed event log.",
        ),
        optional(
            "event_log",
            Shape::Word(&["required", "if_present"]),
            "if_present",
            "Whether a boot event log must be there; where it is, it must replay.",
        ),
    ],
    exactly_one: &[],
};

static TPM_IMAGE: MapShape = MapShape {
    fields: &[
        required(
            "name",
            Shape::Text(&scalar::WORDS),
            "Name of the image: becomes the claim `image`.",
        ),
        required(
            "pcrs",
            Shape::Map(&MapShape {
                fields: &[
                    optional(
                        "sha256",
                        Shape::MapOf(&scalar::PCR, &Shape::Text(&scalar::SHA256)),
                        "",
                        "Values of the SHA-256 bank, by PCR.",
                    ),
                    optional(
                        "sha384",
                        Shape::MapOf(&scalar::PCR, &Shape::Text(&scalar::SHA384)),
                        "",
                        "Values of the SHA-384 bank, by PCR.",
                    ),
                ],
                exactly_one: &[],
            }),
            "PCR values by bank.",
        ),
        optional(
            "until",
            Shape::Text(&scalar::TIMESTAMP),
            "",
            "End of the image's validity.",
        ),
        optional(
            "max_instances",
            Shape::Number(1, 1_000_000),
            "",
            "Most instances that may run it at once.",
        ),
    ],
    exactly_one: &[],
};

static SIMULATED: MapShape = MapShape {
    fields: &[required(
        "images",
        Shape::List(&Shape::Map(&MapShape {
            fields: &[
                required(
                    "name",
                    Shape::Text(&scalar::WORDS),
                    "Name of the image: becomes the claim `image`.",
                ),
                optional(
                    "until",
                    Shape::Text(&scalar::TIMESTAMP),
                    "",
                    "End of the image's validity.",
                ),
                optional(
                    "max_instances",
                    Shape::Number(1, 1_000_000),
                    "",
                    "Most instances that may run it at once.",
                ),
            ],
            exactly_one: &[],
        })),
        "Accepted images.",
    )],
    exactly_one: &[],
};

/// Reports what the shape can't say.
pub(crate) fn check(spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let alternatives = spec.get("any_of").map_or(&[][..], Node::items);
    let any_of = place.key("any_of", place.owner);
    for (index, node) in alternatives.iter().enumerate() {
        let place = any_of.index(index, node);
        check_roots(node, &place, reporter);
        for kind in ["tpm", "simulated"] {
            let Some(images) = node.find(&[kind, "images"]) else {
                continue;
            };
            let place = place.key(kind, place.owner).key("images", place.owner);
            check_images(images, &place, reporter);
        }
    }
}

fn check_roots(node: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    if node.entries().is_empty() && matches!(node.value, crate::yaml::Value::Map(_)) {
        let problem = reporter.at(node.span, "the alternative demands nothing");
        return reporter.report(
            problem
                .path(place.path.clone())
                .allowed("`tpm`, `simulated`"),
        );
    }
    if let (Some(_), Some(second)) = (node.entry("tpm"), node.entry("simulated")) {
        let problem = reporter
            .at(second.key_span, "`simulated` can't stand beside `tpm`")
            .path(place.key("simulated", second.key_span).path)
            .hint("an alternative has one binding root: make two alternatives of it");
        reporter.report(problem);
    }
}

fn check_images(images: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let mut names = BTreeSet::new();
    for (index, image) in images.items().iter().enumerate() {
        let place = place.index(index, image);
        if let Some(name) = image.get("name")
            && let Some(text) = name.text()
            && !names.insert(text)
        {
            let problem = reporter.at(name.span, format!("two images are called `{text}`"));
            reporter.report(problem.path(place.key("name", name.span).path));
        }
        let Some(pcrs) = image.entry("pcrs") else {
            continue;
        };
        let banks = pcrs.value.entries();
        let empty = banks.iter().all(|bank| bank.value.entries().is_empty());
        let is_map = matches!(
            pcrs.value.value,
            crate::yaml::Value::Map(_) | crate::yaml::Value::Null
        );
        if empty
            && is_map
            && banks
                .iter()
                .all(|bank| matches!(bank.value.value, crate::yaml::Value::Map(_)))
        {
            let problem = reporter
                .at(
                    pcrs.key_span,
                    "an image without PCR values matches every machine",
                )
                .path(place.key("pcrs", pcrs.key_span).path)
                .hint("`vouchsafe attest collect` prints the values of a machine");
            reporter.report(problem);
        }
    }
}

pub(crate) fn read(head: &Head, spec: &Node) -> Option<AttestationProfile> {
    let any_of = spec.get("any_of")?.items().iter().map(read_alternative);
    Some(AttestationProfile {
        name: head.full_name()?,
        any_of: any_of.collect::<Option<_>>()?,
        lifetime: match spec.get("lifetime") {
            Some(node) => Some(node.as_duration()?),
            None => None,
        },
    })
}

fn read_alternative(node: &Node) -> Option<Alternative> {
    match (node.get("tpm"), node.get("simulated")) {
        (Some(tpm), None) => read_tpm(tpm).map(Alternative::Tpm),
        (None, Some(simulated)) => {
            let images = simulated.get("images")?.items().iter().map(|image| {
                Some(SimulatedImage {
                    name: image.get("name")?.text()?.to_owned(),
                    until: read_until(image)?,
                    max_instances: read_max(image)?,
                })
            });
            let images = images.collect::<Option<_>>()?;
            Some(Alternative::Simulated(SimulatedReference { images }))
        }
        _ => None,
    }
}

fn read_tpm(node: &Node) -> Option<TpmReference> {
    let classes = match node.get("classes") {
        Some(list) => list
            .items()
            .iter()
            .map(Node::parse)
            .collect::<Option<_>>()?,
        None => BTreeSet::from([Class::Hardware]),
    };
    let images = node.get("images")?.items().iter().map(|image| {
        Some(TpmImage {
            name: image.get("name")?.text()?.to_owned(),
            pcrs: read_pcrs(image.get("pcrs")?)?,
            until: read_until(image)?,
            max_instances: read_max(image)?,
        })
    });
    let mut pcrs = BTreeMap::new();
    for hash in PcrHash::ALL {
        if let Some(list) = node.find(&["pcrs", hash.as_str()]) {
            let numbers = list
                .items()
                .iter()
                .map(|n| u8::try_from(n.as_number()?).ok());
            pcrs.insert(hash, numbers.collect::<Option<_>>()?);
        }
    }
    Some(TpmReference {
        classes,
        images: images.collect::<Option<_>>()?,
        pcrs,
        secure_boot: match node.get("secure_boot") {
            Some(node) => Some(node.as_bool()?),
            None => None,
        },
        event_log: match node.get("event_log").map(Node::text) {
            None | Some(Some("if_present")) => EventLog::IfPresent,
            Some(Some("required")) => EventLog::Required,
            Some(_) => return None,
        },
    })
}

fn read_pcrs(node: &Node) -> Option<BTreeMap<PcrHash, BTreeMap<u8, Vec<u8>>>> {
    let mut banks = BTreeMap::new();
    for hash in PcrHash::ALL {
        let Some(bank) = node.get(hash.as_str()) else {
            continue;
        };
        let values = bank.entries().iter().map(|entry| {
            let digest = hex::decode(entry.value.text()?).ok()?;
            Some((scalar::pcr(&entry.key)?, digest))
        });
        banks.insert(hash, values.collect::<Option<_>>()?);
    }
    Some(banks)
}

fn read_until(image: &Node) -> Option<Option<SystemTime>> {
    match image.get("until") {
        Some(node) => node.as_time().map(Some),
        None => Some(None),
    }
}

fn read_max(image: &Node) -> Option<Option<u32>> {
    match image.get("max_instances") {
        Some(node) => u32::try_from(node.as_number()?).ok().map(Some),
        None => Some(None),
    }
}
