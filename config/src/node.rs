//! `Node`: a machine, by a hardware identity that evidence proves.

use vouchsafe_attestation::name::WorkloadName;

use crate::document::Head;
use crate::scalar;
use crate::shape::{Field, MapShape, Shape, not_built, optional, required};
use crate::yaml::Node as Yaml;

/// A machine.
#[derive(Clone, Debug)]
pub struct Node {
    /// Namespace and name of the document.
    pub name: WorkloadName,
    /// What evidence must prove for it to be this machine.
    pub hardware: NodeHardware,
}

/// Identity of a machine.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum NodeHardware {
    /// SHA-256 of the TPM's endorsement key, as the claim `ek_sha256` has it.
    TpmEk([u8; 32]),
    /// Name of a made-up machine.
    Simulated(String),
}

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 1] = [required(
    "hardware",
    Shape::Map(&MapShape {
        fields: &[
            optional(
                "tpm_ek_sha256",
                Shape::Text(&scalar::SHA256),
                "",
                "SHA-256 of the TPM's endorsement key.",
            ),
            optional(
                "simulated_machine",
                Shape::Text(&scalar::WORDS),
                "",
                "Name of a made-up machine.",
            ),
            not_built("snp_chip_id"),
            not_built("gpu_ueids"),
        ],
        exactly_one: &[&["tpm_ek_sha256", "simulated_machine"]],
    }),
    "Hardware identities that evidence must prove.",
)];

pub(crate) fn read(head: &Head, spec: &Yaml) -> Option<Node> {
    let hardware = spec.get("hardware")?;
    let ek = hardware.get("tpm_ek_sha256").and_then(Yaml::text);
    let machine = hardware.get("simulated_machine").and_then(Yaml::text);
    Some(Node {
        name: head.full_name()?,
        hardware: match (ek, machine) {
            (Some(ek), None) => NodeHardware::TpmEk(scalar::digest(ek).ok()?),
            (None, Some(machine)) => NodeHardware::Simulated(machine.to_owned()),
            _ => return None,
        },
    })
}
