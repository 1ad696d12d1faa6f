//! `Node`: a machine, by hardware identities that evidence proves.

use std::collections::BTreeSet;

use vouchsafe_attestation::claims::{ClaimValue, EvidenceKind};
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::result::DeviceResult;

use crate::document::Head;
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, optional, required};
use crate::yaml::{Node as Yaml, Value};

/// A machine.
#[derive(Clone, Debug)]
pub struct Node {
    /// Namespace and name of the document.
    pub name: WorkloadName,
    /// What evidence must prove for it to be this machine.
    pub hardware: NodeHardware,
}

/// Identities of a machine: as a document demands them, or as evidence proved them.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct NodeHardware {
    /// SHA-256 of the TPM's endorsement key, as the claim `ek_sha256` has it.
    pub tpm_ek_sha256: Option<[u8; 32]>,
    /// The processor's name in reports of SEV-SNP.
    pub snp_chip_id: Option<[u8; 64]>,
    /// The processor's name in quotes of TDX.
    pub tdx_ppid: Option<[u8; 16]>,
    /// The machine's name in quotes of TDX, where it has several processors.
    pub tdx_platform_instance_id: Option<[u8; 16]>,
    /// The EC2 instance that runs the enclave.
    pub nitro_instance_id: Option<String>,
    /// NVIDIA's devices by their unique numbers: exactly these.
    pub gpu_ueids: BTreeSet<String>,
    /// Name of a made-up machine.
    pub simulated_machine: Option<String>,
}

impl NodeHardware {
    /// A machine known by its TPM.
    pub fn tpm(ek_sha256: [u8; 32]) -> Self {
        Self {
            tpm_ek_sha256: Some(ek_sha256),
            ..Self::default()
        }
    }

    /// A made-up machine.
    pub fn simulated(machine: impl Into<String>) -> Self {
        Self {
            simulated_machine: Some(machine.into()),
            ..Self::default()
        }
    }

    /// What devices proved of their machine. An identity that the host hides (zeros) is none.
    pub fn of(devices: &[DeviceResult]) -> Self {
        let mut found = Self::default();
        for device in devices {
            let text = |claim: &str| match device.claims.get(claim) {
                Some(ClaimValue::Text(text)) => Some(text.as_str()),
                Some(_) | None => None,
            };
            match device.kind {
                EvidenceKind::Tpm => {
                    found.tpm_ek_sha256 =
                        { text("ek_sha256") }.and_then(|text| scalar::digest(text).ok());
                }
                EvidenceKind::SevSnp | EvidenceKind::AzSnpVtpm => {
                    found.snp_chip_id = identity(text("chip_id"));
                }
                EvidenceKind::Tdx | EvidenceKind::AzTdxVtpm => {
                    found.tdx_ppid = identity(text("ppid"));
                    found.tdx_platform_instance_id = identity(text("platform_instance_id"));
                }
                EvidenceKind::NvidiaGpu => found.gpu_ueids.extend(text("ueid").map(str::to_owned)),
                EvidenceKind::Nitro => {
                    found.nitro_instance_id = text("instance_id").map(str::to_owned);
                }
                EvidenceKind::Simulated => {
                    found.simulated_machine = text("machine").map(str::to_owned);
                }
            }
        }
        found
    }

    /// Whether evidence that proved `found` is of this machine: every identity that is stated here must be proven, and
    /// where GPUs are stated the set must be exactly theirs. A machine without any stated identity is none.
    pub fn is_proven_by(&self, found: &Self) -> bool {
        fn holds<T: PartialEq>(stated: &Option<T>, found: &Option<T>) -> bool {
            stated.is_none() || stated == found
        }
        *self != Self::default()
            && holds(&self.tpm_ek_sha256, &found.tpm_ek_sha256)
            && holds(&self.snp_chip_id, &found.snp_chip_id)
            && holds(&self.tdx_ppid, &found.tdx_ppid)
            && holds(
                &self.tdx_platform_instance_id,
                &found.tdx_platform_instance_id,
            )
            && holds(&self.nitro_instance_id, &found.nitro_instance_id)
            && holds(&self.simulated_machine, &found.simulated_machine)
            && (self.gpu_ueids.is_empty() || self.gpu_ueids == found.gpu_ueids)
    }

    /// Everything that is stated, one by one, as claims show it. An identity that is hidden (zeros) is none.
    pub fn identities(&self) -> Vec<String> {
        let hexed = |bytes: Option<&[u8]>| bytes.map(hex::encode);
        let fixed = [
            hexed(self.tpm_ek_sha256.as_ref().map(|id| &id[..])),
            hexed(self.snp_chip_id.as_ref().map(|id| &id[..])),
            hexed(self.tdx_ppid.as_ref().map(|id| &id[..])),
            hexed(self.tdx_platform_instance_id.as_ref().map(|id| &id[..])),
            self.nitro_instance_id.clone(),
            self.simulated_machine.clone(),
        ];
        let all = fixed.into_iter().flatten();
        let all = all.chain(self.gpu_ueids.iter().cloned());
        all.filter(|one| one.bytes().any(|byte| byte != b'0'))
            .collect()
    }

    /// The machine in one word for records and pins of join tokens: `<kind>:<identity>`, several joined by `+`. GPUs are
    /// not in it: they are exchanged, and a `Node` pins them where that matters. `None` where nothing is proven.
    pub fn name(&self) -> Option<String> {
        let hexed = |key: &str, bytes: Option<&[u8]>| {
            bytes.map(|bytes| format!("{key}:{}", hex::encode(bytes)))
        };
        let worded =
            |key: &str, text: &Option<String>| text.as_ref().map(|text| format!("{key}:{text}"));
        let parts = [
            hexed("snp_chip_id", self.snp_chip_id.as_ref().map(|id| &id[..])),
            hexed("tdx_ppid", self.tdx_ppid.as_ref().map(|id| &id[..])),
            hexed(
                "tdx_platform_instance_id",
                self.tdx_platform_instance_id.as_ref().map(|id| &id[..]),
            ),
            worded("nitro_instance_id", &self.nitro_instance_id),
            hexed(
                "tpm_ek_sha256",
                self.tpm_ek_sha256.as_ref().map(|id| &id[..]),
            ),
            worded("simulated_machine", &self.simulated_machine),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("+"))
    }

    /// Whether evidence of these kinds can prove every stated identity.
    pub fn is_provable_by(&self, kinds: &[EvidenceKind]) -> bool {
        let any = |wanted: &[EvidenceKind]| wanted.iter().any(|kind| kinds.contains(kind));
        let snp = any(&[EvidenceKind::SevSnp, EvidenceKind::AzSnpVtpm]);
        let tdx = any(&[EvidenceKind::Tdx, EvidenceKind::AzTdxVtpm]);
        (self.tpm_ek_sha256.is_none() || any(&[EvidenceKind::Tpm]))
            && (self.snp_chip_id.is_none() || snp)
            && (self.tdx_ppid.is_none() && self.tdx_platform_instance_id.is_none() || tdx)
            && (self.nitro_instance_id.is_none() || any(&[EvidenceKind::Nitro]))
            && (self.gpu_ueids.is_empty() || any(&[EvidenceKind::NvidiaGpu]))
            && (self.simulated_machine.is_none() || any(&[EvidenceKind::Simulated]))
    }
}

/// Bytes of an identity, unless the host hides it.
fn identity<const N: usize>(text: Option<&str>) -> Option<[u8; N]> {
    let bytes = scalar::digest::<N>(text?).ok()?;
    (bytes != [0; N]).then_some(bytes)
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
                "snp_chip_id",
                Shape::Text(&scalar::HEX_64),
                "",
                "The AMD processor's id, as reports of SEV-SNP state it.",
            ),
            optional(
                "tdx_ppid",
                Shape::Text(&scalar::HEX_16),
                "",
                "The Intel processor's id, as quotes of TDX certify it.",
            ),
            optional(
                "tdx_platform_instance_id",
                Shape::Text(&scalar::HEX_16),
                "",
                "The machine's id in quotes of TDX, where it has several processors.",
            ),
            optional(
                "nitro_instance_id",
                Shape::Text(&scalar::WORDS),
                "",
                "The EC2 instance that runs the enclave.",
            ),
            optional(
                "gpu_ueids",
                Shape::List(&Shape::Text(&scalar::WORDS)),
                "",
                "NVIDIA's devices by their unique numbers: exactly these.",
            ),
            optional(
                "simulated_machine",
                Shape::Text(&scalar::WORDS),
                "",
                "Name of a made-up machine; beside no other identity.",
            ),
        ],
        exactly_one: &[],
    }),
    "Hardware identities that evidence must prove, all of them.",
)];

/// Reports what the shape can't say.
pub(crate) fn check(spec: &Yaml, place: &Place, reporter: &mut Reporter<'_>) {
    let Some(entry) = spec.entry("hardware") else {
        return;
    };
    let hardware = &entry.value;
    let place = place.key("hardware", entry.key_span);
    if matches!(hardware.value, Value::Map(_)) && hardware.entries().is_empty() {
        let problem = reporter.at(
            entry.key_span,
            "no identity is stated: any machine could be it",
        );
        reporter.report(
            problem
                .path(place.path.clone())
                .hint("`vouchsafe attest collect` prints the identities of a machine"),
        );
    }
    for key in ["snp_chip_id", "tdx_ppid", "tdx_platform_instance_id"] {
        let Some(entry) = hardware.entry(key) else {
            continue;
        };
        if let Some(text) = entry.value.text()
            && !text.is_empty()
            && text.bytes().all(|byte| byte == b'0')
        {
            let message = format!("zeros are no identity: they are how a host hides `{key}`");
            let problem = reporter.at(entry.value.span, message);
            reporter.report(problem.path(place.key(key, entry.key_span).path));
        }
    }
    if let Some(made_up) = hardware.entry("simulated_machine")
        && let Some(other) = { hardware.entries().iter() }.find(|one| one.key != made_up.key)
    {
        let message = format!("`simulated_machine` can't stand beside `{}`", other.key);
        let problem = reporter.at(made_up.key_span, message);
        reporter.report(problem.path(place.key("simulated_machine", made_up.key_span).path));
    }
}

pub(crate) fn read(head: &Head, spec: &Yaml) -> Option<Node> {
    let hardware = spec.get("hardware")?;
    let text = |key: &str| hardware.get(key).and_then(Yaml::text);
    let word = |key: &str| text(key).map(str::to_owned);
    let ueids = hardware.get("gpu_ueids").map_or(&[][..], Yaml::items);
    let hardware = NodeHardware {
        tpm_ek_sha256: bytes(text("tpm_ek_sha256"))?,
        snp_chip_id: bytes(text("snp_chip_id"))?,
        tdx_ppid: bytes(text("tdx_ppid"))?,
        tdx_platform_instance_id: bytes(text("tdx_platform_instance_id"))?,
        nitro_instance_id: word("nitro_instance_id"),
        gpu_ueids: { ueids.iter() }
            .map(|ueid| ueid.text().map(str::to_owned))
            .collect::<Option<_>>()?,
        simulated_machine: word("simulated_machine"),
    };
    (hardware != NodeHardware::default()).then_some(Node {
        name: head.full_name()?,
        hardware,
    })
}

/// `None` for what is there and can't be read.
fn bytes<const N: usize>(text: Option<&str>) -> Option<Option<[u8; N]>> {
    match text {
        None => Some(None),
        Some(text) => scalar::digest(text).ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use vouchsafe_attestation::claims::Claims;

    use super::*;

    fn device(kind: EvidenceKind, claims: &[(&str, String)]) -> DeviceResult {
        let mut held = Claims::default();
        for (name, value) in claims {
            held.set(kind, name, ClaimValue::Text(value.clone()))
                .unwrap();
        }
        DeviceResult {
            kind,
            index: 0,
            claims: held,
        }
    }

    fn machine() -> NodeHardware {
        NodeHardware::of(&[
            device(EvidenceKind::NvidiaGpu, &[("ueid", "1".into())]),
            device(EvidenceKind::NvidiaGpu, &[("ueid", "2".into())]),
            device(EvidenceKind::Tpm, &[("ek_sha256", "07".repeat(32))]),
            device(EvidenceKind::SevSnp, &[("chip_id", "09".repeat(64))]),
        ])
    }

    #[test]
    fn a_machine_must_prove_every_identity_that_its_document_states() {
        let found = machine();
        let stated = |change: fn(&mut NodeHardware)| {
            let mut stated = machine();
            change(&mut stated);
            stated
        };
        assert!(found.is_proven_by(&found));
        assert!(stated(|node| node.gpu_ueids.clear()).is_proven_by(&found));
        assert!(stated(|node| node.tpm_ek_sha256 = None).is_proven_by(&found));
        for other in [
            stated(|node| node.snp_chip_id = Some([8; 64])),
            stated(|node| node.tpm_ek_sha256 = Some([8; 32])),
            stated(|node| node.tdx_ppid = Some([8; 16])),
            stated(|node| node.tdx_platform_instance_id = Some([8; 16])),
            stated(|node| node.nitro_instance_id = Some("i-1".into())),
            stated(|node| node.simulated_machine = Some("a".into())),
            stated(|node| drop(node.gpu_ueids.pop_last())),
            stated(|node| node.gpu_ueids.extend(["3".to_owned()])),
            NodeHardware::default(),
        ] {
            assert!(!other.is_proven_by(&found), "{other:?}");
        }
    }

    #[test]
    fn a_hidden_chip_is_no_identity() {
        let found = NodeHardware::of(&[device(
            EvidenceKind::SevSnp,
            &[("chip_id", "00".repeat(64))],
        )]);
        assert_eq!(found, NodeHardware::default());
        assert_eq!(found.name(), None);
    }

    #[test]
    fn a_machine_has_one_name_that_its_gpus_do_not_change() {
        let chip = format!("snp_chip_id:{}", "09".repeat(64));
        let name = format!("{chip}+tpm_ek_sha256:{}", "07".repeat(32));
        assert_eq!(machine().name(), Some(name.clone()));
        let mut other = machine();
        other.gpu_ueids.clear();
        assert_eq!(other.name(), Some(name));
    }
}
