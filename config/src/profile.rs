//! `AttestationProfile`: what must be proven before a name is given.

pub mod hardware;
pub mod ima;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::{Class, EvidenceKind};
use vouchsafe_attestation::name::WorkloadName;

use self::hardware::HardwareReference;
use crate::document::Head;
use crate::problem::{Reporter, list};
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, optional, required};
use crate::source::{Source, Span};
use crate::yaml::{Node, Value};

/// An appraisal policy: evidence must satisfy one of the alternatives.
#[derive(Clone, Debug)]
pub struct AttestationProfile {
    /// Namespace and name of the document.
    pub name: WorkloadName,
    /// File that it was written in.
    pub file: String,
    /// Alternatives, tried in order; never empty.
    pub any_of: Vec<Alternative>,
    /// Longest life of a certificate issued by this profile, where shorter than the mesh's.
    pub lifetime: Option<Duration>,
}

/// One way to satisfy a profile: evidence of exactly the kinds that are named, one of which is the binding root.
#[derive(Clone, Debug)]
pub struct Alternative {
    /// A TPM quote.
    pub tpm: Option<TpmReference>,
    /// Made-up evidence.
    pub simulated: Option<SimulatedReference>,
    /// Vendors' hardware.
    pub hardware: BTreeMap<EvidenceKind, HardwareReference>,
    /// Lines of the keys, by path (`sev_snp.tcb.snp`), for explanations.
    pub lines: BTreeMap<String, u32>,
}

impl Alternative {
    /// The kinds that it asks for, in the order of [`EvidenceKind::ALL`].
    pub fn kinds(&self) -> Vec<EvidenceKind> {
        EvidenceKind::ALL
            .into_iter()
            .filter(|kind| match kind {
                EvidenceKind::Tpm => self.tpm.is_some(),
                EvidenceKind::Simulated => self.simulated.is_some(),
                EvidenceKind::SevSnp
                | EvidenceKind::Tdx
                | EvidenceKind::AzSnpVtpm
                | EvidenceKind::AzTdxVtpm
                | EvidenceKind::NvidiaGpu
                | EvidenceKind::Nitro => self.hardware.contains_key(kind),
            })
            .collect()
    }

    /// The kind that commits to the rest.
    pub fn root(&self) -> Option<EvidenceKind> {
        EvidenceKind::binding_root(self.kinds())
    }

    /// The images of one kind: name, end, most instances.
    pub fn images(&self, kind: EvidenceKind) -> Vec<ImageTerms<'_>> {
        let terms = |name, until, max_instances| ImageTerms {
            name,
            until,
            max_instances,
        };
        match kind {
            EvidenceKind::Tpm => { self.tpm.iter() }
                .flat_map(|tpm| &tpm.images)
                .map(|image| terms(&image.name, image.until, image.max_instances))
                .collect(),
            EvidenceKind::Simulated => { self.simulated.iter() }
                .flat_map(|simulated| &simulated.images)
                .map(|image| terms(&image.name, image.until, image.max_instances))
                .collect(),
            EvidenceKind::SevSnp
            | EvidenceKind::Tdx
            | EvidenceKind::AzSnpVtpm
            | EvidenceKind::AzTdxVtpm
            | EvidenceKind::NvidiaGpu
            | EvidenceKind::Nitro => { self.hardware.get(&kind).into_iter() }
                .flat_map(|hardware| &hardware.images)
                .map(|image| terms(&image.name, image.until, image.max_instances))
                .collect(),
        }
    }

    /// Classes that evidence which satisfies it can have.
    pub fn classes(&self) -> BTreeSet<Class> {
        match (&self.simulated, &self.tpm) {
            (Some(_), _) => BTreeSet::from([Class::Simulated]),
            (None, Some(tpm)) => tpm.classes.clone(),
            (None, None) => BTreeSet::from([Class::Hardware]),
        }
    }
}

/// How long and how often an image may run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ImageTerms<'a> {
    /// Its name.
    pub name: &'a str,
    /// End of its validity; the instant itself is outside.
    pub until: Option<SystemTime>,
    /// Most instances that may run it at once.
    pub max_instances: Option<u32>,
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
    /// What the kernel's list of measured files may hold; without it the list is not asked for.
    pub ima: Option<ima::Ima>,
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
        hardware::section(EvidenceKind::SevSnp, "sev_snp", "A report of AMD SEV-SNP."),
        hardware::section(EvidenceKind::Tdx, "tdx", "A quote of Intel TDX."),
        hardware::section(
            EvidenceKind::AzSnpVtpm,
            "az_snp_vtpm",
            "A quote of Azure's vTPM above AMD SEV-SNP.",
        ),
        hardware::section(
            EvidenceKind::AzTdxVtpm,
            "az_tdx_vtpm",
            "A quote of Azure's vTPM above Intel TDX.",
        ),
        hardware::section(
            EvidenceKind::NvidiaGpu,
            "nvidia_gpu",
            "Reports of NVIDIA GPUs, each of which must satisfy all; beside a kind that can be the binding root.",
        ),
        hardware::section(
            EvidenceKind::Nitro,
            "nitro",
            "A document of AWS Nitro Enclaves.",
        ),
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
        optional(
            "ima",
            Shape::Map(&ima::SPEC),
            "",
            "What the kernel's list of measured files may hold; with it a list must be there.",
        ),
    ],
    exactly_one: &[],
};

static TPM_IMAGE: MapShape = MapShape {
    fields: &[
        NAME,
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
        UNTIL,
        MAX_INSTANCES,
    ],
    exactly_one: &[],
};

static SIMULATED: MapShape = MapShape {
    fields: &[required(
        "images",
        Shape::List(&Shape::Map(&MapShape {
            fields: &[NAME, UNTIL, MAX_INSTANCES],
            exactly_one: &[],
        })),
        "Accepted images.",
    )],
    exactly_one: &[],
};

const NAME: Field = required(
    "name",
    Shape::Text(&scalar::WORDS),
    "Name of the image: becomes the claim `image`.",
);

const UNTIL: Field = optional(
    "until",
    Shape::Text(&scalar::TIMESTAMP),
    "",
    "End of the image's validity.",
);

const MAX_INSTANCES: Field = optional(
    "max_instances",
    Shape::Number(1, 1_000_000),
    "",
    "Most instances that may run it at once.",
);

/// Reports what the shape can't say.
pub(crate) fn check(spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let alternatives = spec.get("any_of").map_or(&[][..], Node::items);
    let any_of = place.key("any_of", place.owner);
    for (index, node) in alternatives.iter().enumerate() {
        let place = any_of.index(index, node);
        check_roots(node, &place, reporter);
        if let Some(node) = node.find(&["tpm", "ima"]) {
            let place = place.key("tpm", place.owner).key("ima", place.owner);
            ima::check(node, &place, reporter);
        }
        for kind in EvidenceKind::ALL {
            let Some(section) = node.get(kind.as_str()) else {
                continue;
            };
            let place = place.key(kind.as_str(), place.owner);
            if let Some(images) = section.get("images") {
                let place = place.key("images", place.owner);
                check_names(images, &place, reporter);
                if kind == EvidenceKind::Tpm {
                    check_images(images, &place, reporter);
                }
            }
            hardware::check(kind, section, &place, reporter);
        }
    }
}

fn check_roots(node: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let kinds: Vec<(EvidenceKind, Span)> = { node.entries().iter() }
        .filter_map(|entry| Some((entry.key.parse().ok()?, entry.key_span)))
        .collect();
    if node.entries().is_empty() && matches!(node.value, Value::Map(_)) {
        let problem = reporter.at(node.span, "the alternative demands nothing");
        let all = list(EvidenceKind::ALL.map(EvidenceKind::as_str));
        return reporter.report(problem.path(place.path.clone()).allowed(all));
    }
    if kinds.is_empty() || EvidenceKind::binding_root(kinds.iter().map(|(kind, _)| *kind)).is_some()
    {
        return;
    }
    let roots: Vec<_> = { kinds.iter() }
        .filter(|(kind, _)| kind.is_binding_root())
        .collect();
    let problem = match (roots.as_slice(), kinds.as_slice()) {
        ([(first, _), (second, span), ..], _) => reporter
            .at(*span, format!("`{second}` can't stand beside `{first}`"))
            .path(place.key(second.as_str(), *span).path)
            .hint("an alternative has one binding root: make two alternatives of it"),
        ([(root, _)], [(one, span), (other, at), ..]) => {
            let (other, span) = if root == one { (other, at) } else { (one, span) };
            reporter
                .at(*span, format!("`{other}` can't stand beside `{root}`"))
                .path(place.key(other.as_str(), *span).path)
                .hint("a simulation stands alone: it proves nothing of other devices")
        }
        ([], [(kind, span), ..]) => reporter
            .at(*span, format!("`{kind}` can't be the binding root"))
            .path(place.key(kind.as_str(), *span).path)
            .hint(
                "name beside it what runs the workload: `sev_snp`, `tdx`, `az_snp_vtpm`, `az_tdx_vtpm`, `nitro` or \
                 `tpm`",
            ),
        ([_], _) | ([], []) => return,
    };
    reporter.report(problem);
}

fn check_names(images: &Node, place: &Place, reporter: &mut Reporter<'_>) {
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
    }
}

fn check_images(images: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    for (index, image) in images.items().iter().enumerate() {
        let place = place.index(index, image);
        let Some(pcrs) = image.entry("pcrs") else {
            continue;
        };
        let banks = pcrs.value.entries();
        let empty = banks.iter().all(|bank| bank.value.entries().is_empty());
        let is_map = matches!(pcrs.value.value, Value::Map(_) | Value::Null);
        if empty
            && is_map
            && banks
                .iter()
                .all(|bank| matches!(bank.value.value, Value::Map(_)))
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

pub(crate) fn read(head: &Head, spec: &Node, source: &Source) -> Option<AttestationProfile> {
    let alternatives = spec.get("any_of")?.items();
    let any_of = alternatives
        .iter()
        .map(|node| read_alternative(node, source));
    Some(AttestationProfile {
        name: head.full_name()?,
        file: source.name().to_owned(),
        any_of: any_of.collect::<Option<_>>()?,
        lifetime: match spec.get("lifetime") {
            Some(node) => Some(node.as_duration()?),
            None => None,
        },
    })
}

fn read_alternative(node: &Node, source: &Source) -> Option<Alternative> {
    let tpm = match node.get("tpm") {
        Some(tpm) => Some(read_tpm(tpm)?),
        None => None,
    };
    let simulated = match node.get("simulated") {
        Some(simulated) => Some(read_simulated(simulated)?),
        None => None,
    };
    let mut hardware = BTreeMap::new();
    for kind in hardware::KINDS {
        if let Some(section) = node.get(kind.as_str()) {
            hardware.insert(kind, hardware::read(kind, section)?);
        }
    }
    let mut lines = BTreeMap::new();
    read_lines(node, "", source, &mut lines);
    let alternative = Alternative {
        tpm,
        simulated,
        hardware,
        lines,
    };
    alternative.root().map(|_| alternative)
}

fn read_simulated(node: &Node) -> Option<SimulatedReference> {
    let images = node.get("images")?.items().iter().map(|image| {
        Some(SimulatedImage {
            name: image.get("name")?.text()?.to_owned(),
            until: read_until(image)?,
            max_instances: read_max(image)?,
        })
    });
    let images = images.collect::<Option<_>>()?;
    Some(SimulatedReference { images })
}

fn read_lines(node: &Node, prefix: &str, source: &Source, lines: &mut BTreeMap<String, u32>) {
    for entry in node.entries() {
        let path = format!("{prefix}{}", entry.key);
        read_lines(&entry.value, &format!("{path}."), source, lines);
        lines.insert(path, source.line(entry.key_span.start));
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
        ima: match node.get("ima") {
            Some(node) => Some(ima::read(node)?),
            None => None,
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
