//! Sections of an alternative for vendors' hardware: named images, comparisons with claims, and what else is demanded
//! or accepted. Every claim of the kind is a key, compared as in `require`; what is not a claim has a key of its own.
//!
//! # Why
//! Defaults refuse what lets the host look in or move the machine (debug, migration, service trust domains), keys that
//! name no chip, and any TCB status but `UpToDate`: accepting less is a decision that a reviewer must see, so it is
//! written. Lists of revoked keys count wherever they are there, and are not demanded by default, so that a vendor's
//! outage does not stop a mesh; `crl: required` demands them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use vouchsafe_attestation::claims::{ClaimValue, EvidenceKind};
use vouchsafe_attestation::condition::Condition;

use super::{EventLog, MAX_INSTANCES, NAME, UNTIL, read_max, read_pcrs, read_until};
use crate::claim;
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, optional, required};
use crate::yaml::{Node, Value};

/// What one kind of hardware must prove.
#[derive(Clone, Debug)]
pub struct HardwareReference {
    /// Reference images, one of which must match; empty for devices, which run none of ours.
    pub images: Vec<HardwareImage>,
    /// Claims and what they may be.
    pub conditions: Vec<Condition>,
    /// The rest.
    pub options: Options,
}

/// An image by what the hardware measured of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HardwareImage {
    /// Name, which becomes the claim `image`.
    pub name: String,
    /// What the verifier must find, by its own names: hex in lower case; PCRs as `pcrs` with `<number>:<hex>`.
    pub values: Vec<(&'static str, String)>,
    /// End of its validity; the instant itself is outside.
    pub until: Option<SystemTime>,
    /// Most instances that may run it at once.
    pub max_instances: Option<u32>,
}

/// What is no claim. Each is of the kinds whose section has its key; elsewhere it keeps its default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// Accept what the host may read.
    pub danger_accept_debug: bool,
    /// Accept what the host may move to another machine.
    pub danger_accept_migration: bool,
    /// Accept reserved fields that are not zero.
    pub danger_accept_reserved: bool,
    /// Accept a report that hides its chip.
    pub accept_masked_chip_id: bool,
    /// Refuse bits of guest policy and platform that this version does not know.
    pub refuse_unknown_bits: bool,
    /// Mitigations, as bits, that must have been there at launch and be there now.
    pub required_mitigations: u64,
    /// Whether a revocation list or a fresh OCSP answer must be there.
    pub revocation_required: bool,
    /// Advisories that are known and accepted; `None` leaves advisories to the status.
    pub accepted_advisories: Option<BTreeSet<String>>,
    /// Accept trust domains that the host may hurt by unmapping pages.
    pub danger_accept_sept_ve: bool,
    /// Accept service trust domains, which may migrate the trust domain.
    pub danger_accept_service_td: bool,
    /// Whether a boot event log must be there.
    pub event_log: EventLog,
    /// Accept certificates that OCSP calls on hold.
    pub accept_hold: bool,
}

impl HardwareReference {
    /// The condition on a claim.
    pub fn condition(&self, claim: &str) -> Option<&Condition> {
        { self.conditions.iter() }.find(|condition| condition.claim == claim)
    }

    /// Whether a claim may have this value, as far as the conditions say.
    pub fn admits(&self, claim: &str, value: &ClaimValue) -> bool {
        self.condition(claim)
            .is_none_or(|condition| condition.holds(Some(value)))
    }
}

/// Kinds that have a section, in the order of the documentation.
pub(crate) const KINDS: [EvidenceKind; 6] = [
    EvidenceKind::SevSnp,
    EvidenceKind::Tdx,
    EvidenceKind::AzSnpVtpm,
    EvidenceKind::AzTdxVtpm,
    EvidenceKind::NvidiaGpu,
    EvidenceKind::Nitro,
];

/// Claims that a profile can't compare: the first is given by `images`, the second by `accepted_advisories`.
pub(crate) const NOT_COMPARED: [&str; 2] = ["image", "advisories"];

const DEBUG: Field = optional(
    "danger_accept_debug",
    Shape::Bool,
    "false",
    "Accept what the host may read: nothing in it is confidential.",
);

const MIGRATION: Field = optional(
    "danger_accept_migration",
    Shape::Bool,
    "false",
    "Accept what the host may move to another machine by an agent that nobody measured here.",
);

const MASKED_CHIP: Field = optional(
    "accept_masked_chip_id",
    Shape::Bool,
    "false",
    "Accept a report that hides its chip: no `Node` can pin it, and no chip be revoked.",
);

const RESERVED: Field = optional(
    "danger_accept_reserved",
    Shape::Bool,
    "false",
    "Accept reserved fields that are not zero, whose meaning nobody here knows.",
);

const UNKNOWN_BITS: Field = optional(
    "refuse_unknown_bits",
    Shape::Bool,
    "false",
    "Refuse bits of guest policy and platform that this version does not know; later firmware adds some.",
);

const MITIGATIONS: Field = optional(
    "required_mitigations",
    Shape::Number(0, u64::MAX),
    "0",
    "Mitigations, as bits, at launch and now; reports before version 5 have none and fail.",
);

const CRL: Field = optional(
    "crl",
    Shape::Word(&["required", "if_present"]),
    "if_present",
    "Whether AMD's revocation list must be there; where it is, it counts.",
);

const ADVISORIES: Field = optional(
    "accepted_advisories",
    Shape::ListOrEmpty(&WORDS),
    "",
    "Intel's advisories that are known and accepted; without it the status decides alone.",
);

static WORDS: Shape = Shape::Text(&scalar::WORDS);

const SEPT_VE: Field = optional(
    "danger_accept_sept_ve",
    Shape::Bool,
    "false",
    "Accept trust domains that the host may hurt by unmapping pages.",
);

const SERVICE_TD: Field = optional(
    "danger_accept_service_td",
    Shape::Bool,
    "false",
    "Accept any service trust domain, which may migrate this one.",
);

const EVENT_LOG: Field = optional(
    "event_log",
    Shape::Word(&["required", "if_present"]),
    "if_present",
    "Whether a boot event log must be there; where it is, it must replay.",
);

static SEV_SNP: MapShape = MapShape {
    fields: &[
        images(&SNP_IMAGE),
        DEBUG,
        MIGRATION,
        RESERVED,
        MASKED_CHIP,
        UNKNOWN_BITS,
        MITIGATIONS,
        CRL,
    ],
    exactly_one: &[],
};

static TDX: MapShape = MapShape {
    fields: &[
        images(&TDX_IMAGE),
        ADVISORIES,
        EVENT_LOG,
        DEBUG,
        MIGRATION,
        RESERVED,
        SEPT_VE,
        SERVICE_TD,
    ],
    exactly_one: &[],
};

static AZ_SNP_VTPM: MapShape = MapShape {
    fields: &[
        images(&AZ_SNP_IMAGE),
        DEBUG,
        MIGRATION,
        RESERVED,
        MASKED_CHIP,
        UNKNOWN_BITS,
        MITIGATIONS,
        CRL,
    ],
    exactly_one: &[],
};

static AZ_TDX_VTPM: MapShape = MapShape {
    fields: &[
        images(&AZ_TDX_IMAGE),
        ADVISORIES,
        DEBUG,
        MIGRATION,
        RESERVED,
        SERVICE_TD,
    ],
    exactly_one: &[],
};

static NVIDIA_GPU: MapShape = MapShape {
    fields: &[
        optional(
            "ocsp",
            Shape::Word(&["required", "if_present"]),
            "if_present",
            "Whether fresh OCSP answers must be there; where they are, they count.",
        ),
        optional(
            "accept_hold",
            Shape::Bool,
            "false",
            "Accept certificates that OCSP calls on hold.",
        ),
    ],
    exactly_one: &[],
};

static NITRO: MapShape = MapShape {
    fields: &[images(&NITRO_IMAGE), DEBUG],
    exactly_one: &[],
};

static SNP_IMAGE: Shape = Shape::Map(&MapShape {
    fields: &[
        NAME,
        sha384("sha384", "Launch digest, `measurement` of the report."),
        optional(
            "host_data",
            Shape::Text(&scalar::SHA256),
            "",
            "32 bytes that the host gave at launch, in hex.",
        ),
        sha384(
            "id_key_digest",
            "SHA-384 of the key that signed the identity block.",
        ),
        sha384(
            "author_key_digest",
            "SHA-384 of the key that certified the identity key.",
        ),
        optional(
            "family_id",
            Shape::Text(&scalar::HEX_16),
            "",
            "Family of the guest, from its identity block, in hex.",
        ),
        optional(
            "image_id",
            Shape::Text(&scalar::HEX_16),
            "",
            "Image of the guest, from its identity block, in hex.",
        ),
        UNTIL,
        MAX_INSTANCES,
    ],
    exactly_one: &[],
});

static TDX_IMAGE: Shape = Shape::Map(&MapShape {
    fields: &[
        NAME,
        required(
            "mrtd",
            Shape::Text(&scalar::SHA384),
            "Launch digest of the trust domain: its firmware.",
        ),
        sha384(
            "rtmr0",
            "Runtime register 0: configuration of the firmware.",
        ),
        sha384("rtmr1", "Runtime register 1: kernel or boot loader."),
        sha384(
            "rtmr2",
            "Runtime register 2: command line and initial RAM disk.",
        ),
        sha384(
            "rtmr3",
            "Runtime register 3: what the running system extends.",
        ),
        sha384("mrconfigid", "Configuration that the host gave at launch."),
        sha384("mrowner", "Owner that the host named at launch."),
        UNTIL,
        MAX_INSTANCES,
    ],
    exactly_one: &[],
});

static AZ_SNP_IMAGE: Shape = Shape::Map(&MapShape {
    fields: &[
        NAME,
        VTPM_PCRS,
        sha384("sha384", "Launch digest of the paravisor."),
        UNTIL,
        MAX_INSTANCES,
    ],
    exactly_one: &[],
});

static AZ_TDX_IMAGE: Shape = Shape::Map(&MapShape {
    fields: &[
        NAME,
        VTPM_PCRS,
        sha384("mrtd", "Launch digest of the paravisor."),
        UNTIL,
        MAX_INSTANCES,
    ],
    exactly_one: &[],
});

static NITRO_IMAGE: Shape = Shape::Map(&MapShape {
    fields: &[
        NAME,
        required(
            "pcrs",
            Shape::Map(&MapShape {
                fields: &[required(
                    "sha384",
                    Shape::MapOf(&scalar::PCR, &Shape::Text(&scalar::SHA384)),
                    "Values by PCR, as `nitro-cli` prints them.",
                )],
                exactly_one: &[],
            }),
            "PCR values: 0 for the image, 8 for who signed it.",
        ),
        UNTIL,
        MAX_INSTANCES,
    ],
    exactly_one: &[],
});

const VTPM_PCRS: Field = required(
    "pcrs",
    Shape::Map(&VTPM_BANKS),
    "PCR values of the vTPM: what runs above the paravisor, which is everybody's.",
);

static VTPM_BANKS: MapShape = MapShape {
    fields: &[required(
        "sha256",
        Shape::MapOf(&scalar::PCR, &Shape::Text(&scalar::SHA256)),
        "Values of the SHA-256 bank, by PCR.",
    )],
    exactly_one: &[],
};

const fn images(image: &'static Shape) -> Field {
    required(
        "images",
        Shape::List(image),
        "Reference images, one of which must match.",
    )
}

const fn sha384(key: &'static str, doc: &'static str) -> Field {
    optional(key, Shape::Text(&scalar::SHA384), "", doc)
}

/// The section of a kind.
pub(crate) const fn section(kind: EvidenceKind, key: &'static str, doc: &'static str) -> Field {
    let shape = match kind {
        EvidenceKind::SevSnp => &SEV_SNP,
        EvidenceKind::Tdx => &TDX,
        EvidenceKind::AzSnpVtpm => &AZ_SNP_VTPM,
        EvidenceKind::AzTdxVtpm => &AZ_TDX_VTPM,
        EvidenceKind::NvidiaGpu => &NVIDIA_GPU,
        EvidenceKind::Nitro | EvidenceKind::Tpm | EvidenceKind::Simulated => &NITRO,
    };
    optional(key, Shape::Device(shape, kind), "", doc)
}

/// Reports what the shape can't say of a section.
pub(crate) fn check(
    kind: EvidenceKind,
    section: &Node,
    place: &Place,
    reporter: &mut Reporter<'_>,
) {
    let images = section.get("images").map_or(&[][..], Node::items);
    let place = place.key("images", place.owner);
    for (index, image) in images.iter().enumerate() {
        let place = place.index(index, image);
        match kind {
            EvidenceKind::SevSnp => check_snp_image(image, &place, reporter),
            EvidenceKind::Tdx => check_tdx_image(image, &place, reporter),
            EvidenceKind::AzSnpVtpm | EvidenceKind::AzTdxVtpm => {
                check_pcrs(image, "sha256", &place, reporter);
            }
            EvidenceKind::Nitro => check_pcrs(image, "sha384", &place, reporter),
            EvidenceKind::NvidiaGpu | EvidenceKind::Tpm | EvidenceKind::Simulated => {}
        }
    }
}

fn check_snp_image(image: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let named = ["sha384", "id_key_digest", "author_key_digest"];
    if is_map(image) && !named.iter().any(|key| image.entry(key).is_some()) {
        let problem = reporter
            .at(
                place.owner,
                "an image without measurement or signer matches every guest",
            )
            .path(place.path.clone())
            .allowed("`sha384`, `id_key_digest`, `author_key_digest`, at least one");
        reporter
            .report(problem.hint("`vouchsafe attest reference` prints the values of a machine"));
    }
}

fn check_tdx_image(image: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let beyond = ["rtmr1", "rtmr2"];
    if is_map(image) && !beyond.iter().any(|key| image.entry(key).is_some()) {
        let message =
            "without `rtmr1` and `rtmr2` the image names firmware only: any kernel matches";
        let problem = reporter.at(place.owner, message).path(place.path.clone());
        reporter.report(problem.warning());
    }
}

fn check_pcrs(image: &Node, bank: &str, place: &Place, reporter: &mut Reporter<'_>) {
    let Some(entry) = image.entry("pcrs") else {
        return;
    };
    let empty = entry
        .value
        .get(bank)
        .is_some_and(|bank| is_map(bank) && bank.entries().is_empty());
    if empty {
        let problem = reporter
            .at(
                entry.key_span,
                "an image without PCR values matches every machine",
            )
            .path(place.key("pcrs", entry.key_span).path);
        reporter
            .report(problem.hint("`vouchsafe attest reference` prints the values of a machine"));
    }
}

fn is_map(node: &Node) -> bool {
    matches!(node.value, Value::Map(_))
}

pub(crate) fn read(kind: EvidenceKind, node: &Node) -> Option<HardwareReference> {
    let images = node.get("images").map_or(&[][..], Node::items);
    let images = images.iter().map(|image| {
        Some(HardwareImage {
            name: image.get("name")?.text()?.to_owned(),
            values: read_values(image)?,
            until: read_until(image)?,
            max_instances: read_max(image)?,
        })
    });
    let mut conditions = Vec::new();
    claim::read_family(node, kind, "", &mut conditions);
    conditions.retain(|condition| !NOT_COMPARED.contains(&condition.claim));
    Some(HardwareReference {
        images: images.collect::<Option<_>>()?,
        conditions,
        options: read_options(node)?,
    })
}

/// By the verifier's names: what documents call `sha384` it calls `measurement`.
fn read_values(image: &Node) -> Option<Vec<(&'static str, String)>> {
    let mut values = Vec::new();
    for (key, name) in [
        ("sha384", "measurement"),
        ("host_data", "host_data"),
        ("id_key_digest", "id_key_digest"),
        ("author_key_digest", "author_key_digest"),
        ("family_id", "family_id"),
        ("image_id", "image_id"),
        ("mrtd", "mrtd"),
        ("rtmr0", "rtmr0"),
        ("rtmr1", "rtmr1"),
        ("rtmr2", "rtmr2"),
        ("rtmr3", "rtmr3"),
        ("mrconfigid", "mrconfigid"),
        ("mrowner", "mrowner"),
    ] {
        if let Some(node) = image.get(key) {
            values.push((name, node.text()?.to_ascii_lowercase()));
        }
    }
    if let Some(pcrs) = image.get("pcrs") {
        for (_, bank) in read_pcrs(pcrs)? {
            values.extend(
                bank.iter()
                    .map(|(pcr, value)| ("pcrs", format!("{pcr}:{}", hex::encode(value)))),
            );
        }
    }
    Some(values)
}

fn read_options(node: &Node) -> Option<Options> {
    let flag = |key: &str| node.get(key).map_or(Some(false), Node::as_bool);
    let is_required = |key: &str| match node.get(key).map(Node::text) {
        None | Some(Some("if_present")) => Some(false),
        Some(Some("required")) => Some(true),
        Some(_) => None,
    };
    Some(Options {
        danger_accept_debug: flag("danger_accept_debug")?,
        danger_accept_migration: flag("danger_accept_migration")?,
        danger_accept_reserved: flag("danger_accept_reserved")?,
        accept_masked_chip_id: flag("accept_masked_chip_id")?,
        refuse_unknown_bits: flag("refuse_unknown_bits")?,
        required_mitigations: node
            .get("required_mitigations")
            .map_or(Some(0), Node::as_number)?,
        revocation_required: is_required("crl")? || is_required("ocsp")?,
        accepted_advisories: match node.get("accepted_advisories") {
            Some(list) => Some(
                list.items()
                    .iter()
                    .map(|item| item.text().map(str::to_owned))
                    .collect::<Option<_>>()?,
            ),
            None => None,
        },
        danger_accept_sept_ve: flag("danger_accept_sept_ve")?,
        danger_accept_service_td: flag("danger_accept_service_td")?,
        event_log: match is_required("event_log")? {
            true => EventLog::Required,
            false => EventLog::IfPresent,
        },
        accept_hold: flag("accept_hold")?,
    })
}
