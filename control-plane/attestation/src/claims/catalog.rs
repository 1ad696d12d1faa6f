//! The list of claims, by kind of evidence.
//!
//! Claims of one family have a dotted name (`tcb.microcode`); in documents they are written as a map in a map
//! (`tcb: {microcode: "<72"}`). What is here reaches policy and certificates; what a verifier shows besides (nonces,
//! report data, registers in bulk) is only in the full result.

use std::sync::LazyLock;

use super::ClaimType::{self, Bool, HexVersion, Number, Set, Text, Time, Version};
use super::EvidenceKind;
use super::texts::{self, Texts};

/// One claim that policy may read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClaimDefinition {
    /// The kind of evidence that produces it.
    pub kind: EvidenceKind,
    /// Its stable name, dotted where it belongs to a family.
    pub name: &'static str,
    /// How it compares.
    pub value: ClaimType,
    /// Which texts it can be, where it is one.
    pub texts: Texts,
    /// One sentence for documentation, schema and `explain`.
    pub doc: &'static str,
}

/// All claims that policy may read, by kind and name. Names are stable: they are written in policy and in certificates.
pub static CATALOG: LazyLock<Vec<ClaimDefinition>> = LazyLock::new(|| {
    let mut all: Vec<ClaimDefinition> = EvidenceKind::ALL
        .into_iter()
        .flat_map(|kind| {
            { tables(kind).iter().copied().flatten() }.map(move |(name, value, doc)| {
                ClaimDefinition {
                    kind,
                    name,
                    value: *value,
                    texts: texts::of(kind, name),
                    doc,
                }
            })
        })
        .collect();
    all.sort_unstable_by_key(|claim| (claim.kind, claim.name));
    all
});

/// The claims of one kind, by name.
pub fn claims_of(kind: EvidenceKind) -> &'static [ClaimDefinition] {
    let from = CATALOG.partition_point(|claim| claim.kind < kind);
    let to = CATALOG.partition_point(|claim| claim.kind <= kind);
    CATALOG.get(from..to).unwrap_or_default()
}

/// The definition of a claim, if there is such a claim.
pub fn definition(kind: EvidenceKind, name: &str) -> Option<&'static ClaimDefinition> {
    let at = CATALOG
        .binary_search_by(|claim| (claim.kind, claim.name).cmp(&(kind, name)))
        .ok()?;
    CATALOG.get(at)
}

type Row = (&'static str, ClaimType, &'static str);

fn tables(kind: EvidenceKind) -> &'static [&'static [Row]] {
    match kind {
        EvidenceKind::Tpm => &[TPM],
        EvidenceKind::SevSnp => &[SEV_SNP],
        EvidenceKind::Tdx => &[TDX],
        EvidenceKind::AzSnpVtpm => &[SEV_SNP, AZURE],
        EvidenceKind::AzTdxVtpm => &[TDX, AZURE],
        EvidenceKind::NvidiaGpu => &[NVIDIA_GPU],
        EvidenceKind::Nitro => &[NITRO],
        EvidenceKind::Simulated => &[SIMULATED],
    }
}

/// A TPM.
const TPM: &[Row] = &[
    (
        "image",
        Text,
        "Name of the reference image whose PCR values matched.",
    ),
    (
        "ek_sha256",
        Text,
        "SHA-256 of the endorsement key's public area, in hex: which TPM it is.",
    ),
    (
        "ek_certified",
        Bool,
        "Whether a pinned manufacturer vouches for the endorsement key.",
    ),
    (
        "firmware",
        Number,
        "Firmware version that the TPM signs into each quote.",
    ),
    (
        "reset_count",
        Number,
        "How often the TPM was reset: grows with each boot.",
    ),
    (
        "restart_count",
        Number,
        "How often the TPM resumed since its last reset.",
    ),
    (
        "event_log",
        Bool,
        "Whether a boot event log was replayed to the quoted PCR values.",
    ),
    (
        "secure_boot",
        Bool,
        "Whether UEFI Secure Boot was on, by the replayed event log.",
    ),
];

/// A report of SEV-SNP, bare or below a vTPM of Azure.
const SEV_SNP: &[Row] = &[
    (
        "image",
        Text,
        "Name of the reference image whose measurements matched.",
    ),
    (
        "product",
        Text,
        "Family of the processor: `Milan`, `Genoa` or `Turin`.",
    ),
    ("report_version", Number, "Version of the report's layout."),
    (
        "measurement",
        Text,
        "SHA-384 launch digest of the guest, in hex.",
    ),
    (
        "host_data",
        Text,
        "32 bytes that the host gave at launch, in hex.",
    ),
    (
        "id_key_digest",
        Text,
        "SHA-384 of the key that signed the guest's identity block; zeros without one.",
    ),
    (
        "author_key_digest",
        Text,
        "SHA-384 of the key that certified the identity key; zeros without one.",
    ),
    (
        "family_id",
        Text,
        "Family of the guest, from its identity block, in hex.",
    ),
    (
        "image_id",
        Text,
        "Image of the guest, from its identity block, in hex.",
    ),
    (
        "guest_svn",
        Number,
        "Security version of the guest, from its identity block.",
    ),
    (
        "chip_id",
        Text,
        "Which processor it is, in hex; zeros where the host masks it.",
    ),
    (
        "signing_key",
        Text,
        "What signed: `vcek`, a key of the chip, or `vlek`, one that AMD gave to a cloud provider.",
    ),
    (
        "csp_id",
        Text,
        "The cloud provider to whom AMD gave the VLEK; absent with a VCEK.",
    ),
    (
        "vmpl",
        Number,
        "Privilege level that asked for the report; 0 is the highest.",
    ),
    (
        "policy",
        Text,
        "The guest's policy as a hexadecimal number.",
    ),
    (
        "debug",
        Bool,
        "Whether the host may read the guest's memory for debugging.",
    ),
    (
        "migration",
        Bool,
        "Whether a migration agent may move the guest.",
    ),
    (
        "smt_allowed",
        Bool,
        "Whether the guest's policy allows simultaneous multithreading.",
    ),
    ("smt", Bool, "Whether simultaneous multithreading is on."),
    (
        "single_socket",
        Bool,
        "Whether the guest's policy demands a single socket.",
    ),
    (
        "alias_check",
        Bool,
        "Whether the platform checked memory for aliases (BadRAM, CVE-2024-21944) since its reset.",
    ),
    (
        "launch_mitigations",
        Number,
        "Mitigations in force when the guest was launched, as bits; from report version 5 on.",
    ),
    (
        "current_mitigations",
        Number,
        "Mitigations in force now, as bits; from report version 5 on.",
    ),
    (
        "tcb.fmc",
        Number,
        "Reported security version of the FMC firmware; Turin only.",
    ),
    (
        "tcb.bootloader",
        Number,
        "Reported security version of the secure processor's boot loader.",
    ),
    (
        "tcb.tee",
        Number,
        "Reported security version of the secure processor's operating system.",
    ),
    (
        "tcb.snp",
        Number,
        "Reported security version of the SNP firmware.",
    ),
    (
        "tcb.microcode",
        Number,
        "Reported security version of the microcode.",
    ),
    (
        "abi",
        Version,
        "Oldest firmware interface that the guest's policy accepts.",
    ),
    (
        "firmware",
        Version,
        "Version of the SNP firmware that runs.",
    ),
    (
        "committed_firmware",
        Version,
        "Version of the SNP firmware below which the host can no longer go.",
    ),
    (
        "cxl_allowed",
        Bool,
        "Whether the guest's policy allows memory behind CXL.",
    ),
    (
        "ciphertext_hiding",
        Bool,
        "Whether the host can no longer read ciphertext of the guest.",
    ),
    ("tsme", Bool, "Whether all memory of the host is encrypted."),
    ("ecc", Bool, "Whether memory corrects errors."),
    (
        "power_meter_disabled",
        Bool,
        "Whether the host has no power meter, a side channel.",
    ),
];

/// A quote of TDX, bare or below a vTPM of Azure.
const TDX: &[Row] = &[
    (
        "image",
        Text,
        "Name of the reference image whose measurements matched.",
    ),
    (
        "quote_version",
        Number,
        "Version of the quote's layout: 4 or 5.",
    ),
    (
        "fmspc",
        Text,
        "Family, model and stepping of the platform, in hex: which TCB info is its own.",
    ),
    ("ppid", Text, "Which processor it is, in hex."),
    (
        "platform_instance_id",
        Text,
        "Which platform it is, in hex; for platforms of several sockets only.",
    ),
    (
        "debug",
        Bool,
        "Whether the host may read the trust domain's memory for debugging.",
    ),
    (
        "mrtd",
        Text,
        "SHA-384 launch digest of the trust domain, in hex.",
    ),
    ("mrseam", Text, "SHA-384 digest of the TDX module, in hex."),
    (
        "mrconfigid",
        Text,
        "Configuration that the host gave at launch, in hex.",
    ),
    (
        "mrowner",
        Text,
        "Owner that the host named at launch, in hex.",
    ),
    (
        "rtmr0",
        Text,
        "Runtime register 0 in hex: configuration of the virtual firmware.",
    ),
    (
        "rtmr1",
        Text,
        "Runtime register 1 in hex: kernel or boot loader.",
    ),
    (
        "rtmr2",
        Text,
        "Runtime register 2 in hex: command line, initial RAM disk.",
    ),
    (
        "rtmr3",
        Text,
        "Runtime register 3 in hex: whatever the running system extends.",
    ),
    (
        "xfam",
        Text,
        "Extended processor features of the trust domain, as a hexadecimal number.",
    ),
    (
        "td_attributes",
        Text,
        "Attributes of the trust domain, as a hexadecimal number.",
    ),
    (
        "tee_tcb_svn",
        Text,
        "Security versions of the TDX module, in hex.",
    ),
    (
        "tcb_status",
        Text,
        "Intel's word for the platform's security version, such as `UpToDate` or `SWHardeningNeeded`.",
    ),
    (
        "advisories",
        Set,
        "Intel's advisories that explain a status other than `UpToDate`.",
    ),
    (
        "tcb_date",
        Time,
        "Date of the level that the platform reaches: what was known then is mended.",
    ),
    (
        "tcb_evaluation_data_number",
        Number,
        "Number of Intel's evaluation that the status comes from; grows with each recovery.",
    ),
    (
        "mrownerconfig",
        Text,
        "Configuration that the owner gave at launch, in hex.",
    ),
    (
        "mrservicetd",
        Text,
        "SHA-384 of the service trust domains that are bound, in hex; zeros without one.",
    ),
    ("smt", Bool, "Whether simultaneous multithreading is on."),
    (
        "dynamic_platform",
        Bool,
        "Whether processors can be added to the platform.",
    ),
    ("cached_keys", Bool, "Whether the platform caches its keys."),
];

/// What Azure's vTPM adds to the hardware's claims.
const AZURE: &[Row] = &[
    (
        "reset_count",
        Number,
        "How often the vTPM was reset: grows with each boot.",
    ),
    ("pcr_digest", Text, "Digest of the quoted PCRs, in hex."),
    (
        "restart_count",
        Number,
        "How often the vTPM resumed since its last reset.",
    ),
    (
        "vm_unique_id",
        Text,
        "Azure's number of the virtual machine, which the paravisor states.",
    ),
    (
        "secure_boot",
        Bool,
        "Whether Azure started the machine with Secure Boot.",
    ),
    ("console", Bool, "Whether Azure gave the machine a console."),
];

/// One device of NVIDIA.
const NVIDIA_GPU: &[Row] = &[
    (
        "count",
        Number,
        "How many GPUs the machine has shown, switches not counted.",
    ),
    ("device", Text, "What it is: `gpu` or `switch`."),
    (
        "architecture",
        Text,
        "Generation: `hopper`, `blackwell`, `ls10`.",
    ),
    (
        "ueid",
        Text,
        "Which device it is: NVIDIA's unique number, from the certificate of its firmware; another firmware has another.",
    ),
    (
        "chip_id",
        Text,
        "Which chip it is, whatever its firmware: number of the certificate that NVIDIA made for it, in hex.",
    ),
    (
        "hardware_model",
        Text,
        "Model and revision of the chip, as in `GH100 A01 GSP BROM`.",
    ),
    (
        "driver",
        Version,
        "Version of the driver, proven by measurements that match the manifest of that version.",
    ),
    (
        "vbios",
        HexVersion,
        "Version of the VBIOS, proven by measurements that match the manifest of that version.",
    ),
    ("board", Text, "Identification of the board."),
    (
        "firmware_id",
        Text,
        "SHA-384 of the firmware that holds the key, in hex.",
    ),
    (
        "confidential_compute",
        Bool,
        "Whether confidential computing is on, so that memory and bus are protected.",
    ),
    (
        "mode",
        Text,
        "How it protects what it computes: `single_gpu`, `multi_gpu`, `protected_pcie`.",
    ),
    (
        "devtools",
        Bool,
        "Whether confidential computing is in the mode for developers, which protects nothing.",
    ),
    (
        "protected_pcie",
        Bool,
        "Whether GPUs and switches form a protected PCIe set.",
    ),
    (
        "secure_boot",
        Bool,
        "Whether the firmware was booted from a verified image.",
    ),
    ("debug", Bool, "Whether debugging of the firmware is open."),
    (
        "revocation_checked",
        Bool,
        "Whether fresh OCSP answers say that no certificate of device and manifests is revoked.",
    ),
];

/// An enclave of Nitro.
const NITRO: &[Row] = &[
    (
        "image",
        Text,
        "Name of the reference image whose PCRs matched.",
    ),
    (
        "module_id",
        Text,
        "The security module and its enclave: `i-<instance>-enc<enclave>`.",
    ),
    (
        "instance_id",
        Text,
        "The EC2 instance, from the module's name.",
    ),
    (
        "debug",
        Bool,
        "Whether the enclave was started in debug mode, open to the host.",
    ),
    ("pcr0", Text, "SHA-384 of the enclave's image, in hex."),
    ("pcr1", Text, "SHA-384 of kernel and boot RAM disk, in hex."),
    ("pcr2", Text, "SHA-384 of the application, in hex."),
    (
        "pcr3",
        Text,
        "SHA-384 of the IAM role of the parent instance, in hex; absent without one.",
    ),
    ("pcr4", Text, "SHA-384 of the parent instance's id, in hex."),
    (
        "pcr8",
        Text,
        "SHA-384 of the certificate that signed the enclave's image, in hex; absent without one.",
    ),
];

/// A simulation.
const SIMULATED: &[Row] = &[
    (
        "image",
        Text,
        "The image name that the simulation was told to claim.",
    ),
    (
        "machine",
        Text,
        "The machine name that the simulation was told to claim.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_names_each_claim_once_and_by_one_shape() {
        for pair in CATALOG.windows(2) {
            assert_ne!((pair[0].kind, pair[0].name), (pair[1].kind, pair[1].name));
        }
        for claim in CATALOG.iter() {
            assert_eq!(definition(claim.kind, claim.name), Some(claim));
            let good =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(
                claim
                    .name
                    .split('.')
                    .all(|part| !part.is_empty() && part.bytes().all(good)),
                "{}",
                claim.name
            );
            assert!(claim.doc.ends_with('.'), "{}", claim.doc);
            // A name is a claim or a family, never both.
            let family = format!("{}.", claim.name);
            assert!(
                claims_of(claim.kind)
                    .iter()
                    .all(|other| !other.name.starts_with(&family))
            );
        }
        assert_eq!(definition(EvidenceKind::Tpm, "tcb.snp"), None);
    }

    #[test]
    fn a_kind_has_no_more_claims_than_a_result_carries() {
        use crate::result::AttestationResult;
        for kind in EvidenceKind::ALL {
            let found = claims_of(kind).len();
            assert!(
                (1..=AttestationResult::MAX_CLAIMS).contains(&found),
                "{kind} {found}"
            );
        }
    }
}
