//! `attester` of a `proxy.yaml`: the devices that prove where a sidecar runs.
//!
//! A machine has one binding root (a confidential guest's report, an enclave's document, or a TPM), which signs over
//! what all others said, and any of the others beside it. What can't be together on one machine is refused here, where
//! the line can be named, and not when the first certificate fails.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::problem::Reporter;
use crate::proxy::{optional_value, path};
use crate::scalar;
use crate::shape::{MapShape, Place, Shape, optional, required};
use crate::yaml::{Entry, Node};

/// What collects evidence.
#[derive(Clone, Debug)]
pub enum Attester {
    /// NVIDIA GPUs in confidential-computing mode.
    NvidiaGpu(NvidiaGpu),
    /// A TPM.
    Tpm(Tpm),
    /// An AMD SEV-SNP guest.
    SevSnp(Tsm),
    /// An Intel TDX guest.
    Tdx(Tsm),
    /// A confidential VM of Azure, by its vTPM.
    AzVtpm(AzVtpm),
    /// An AWS Nitro Enclave.
    Nitro(Nitro),
    /// Nothing: made-up evidence of a made-up machine.
    Simulated {
        /// Name of the machine.
        machine: String,
        /// Name of the image.
        image: String,
    },
}

impl Attester {
    /// Its key in the file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NvidiaGpu(_) => "nvidia_gpu",
            Self::Tpm(_) => "tpm",
            Self::SevSnp(_) => "sev_snp",
            Self::Tdx(_) => "tdx",
            Self::AzVtpm(_) => "az_vtpm",
            Self::Nitro(_) => "nitro",
            Self::Simulated { .. } => "simulated",
        }
    }
}

/// Where the TPM is.
#[derive(Clone, Debug)]
pub struct Tpm {
    /// How it is reached.
    pub transport: TpmTransport,
    /// File with the endorsement key's certificate chain (PEM, leaf first), where it is not in the TPM.
    pub ek_chain: Option<PathBuf>,
    /// Boot event log, where the machine has one; default `/sys/kernel/security/tpm0/binary_bios_measurements`.
    pub event_log: Option<PathBuf>,
    /// The kernel's measurement list, read where a profile asks for it; default [`DEFAULT_IMA_LOG`] where it exists.
    pub ima_log: Option<PathBuf>,
}

/// How a TPM is reached.
#[derive(Clone, Debug)]
pub enum TpmTransport {
    /// A character device with a resource manager; default `/dev/tpmrm0`.
    Device(PathBuf),
    /// Unix socket of `swtpm socket --server type=unixio`.
    SwtpmUnix(PathBuf),
    /// TCP address of `swtpm socket --server type=tcp`.
    SwtpmTcp(SocketAddr),
}

/// A confidential guest's reports, through the kernel's configfs-tsm.
#[derive(Clone, Debug)]
pub struct Tsm {
    /// Where the kernel takes requests; default `/sys/kernel/config/tsm/report`.
    pub path: PathBuf,
    /// SEV-SNP only: the VMPL to speak for, 0 to 3; without it the kernel's choice.
    pub privilege_level: Option<u8>,
    /// TDX only: the firmware's event log; default `/sys/firmware/acpi/tables/data/CCEL`.
    pub event_log: Option<PathBuf>,
}

/// A confidential VM of Azure.
#[derive(Clone, Debug)]
pub struct AzVtpm {
    /// Its vTPM; it has no endorsement chain.
    pub tpm: Tpm,
    /// `host:port` of the metadata service; default `169.254.169.254:80`.
    pub imds: String,
}

/// NVIDIA GPUs.
#[derive(Clone, Debug)]
pub struct NvidiaGpu {
    /// NVIDIA's management library; without it `libnvidia-ml.so.1`, as the dynamic linker finds it.
    pub library: Option<PathBuf>,
}

/// An AWS Nitro Enclave.
#[derive(Clone, Debug)]
pub struct Nitro {
    /// Its security module, or a Unix socket that speaks for it; default `/dev/nsm`.
    pub device: PathBuf,
}

/// Default of `tpm.device`: the device behind the kernel's resource manager.
pub const DEFAULT_TPM_DEVICE: &str = "/dev/tpmrm0";
/// Default of `tpm.event_log`, where the device is a real one.
pub const DEFAULT_EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Default of `tpm.ima_log`, where the device is a real one.
pub const DEFAULT_IMA_LOG: &str = "/sys/kernel/security/ima/binary_runtime_measurements";
/// Default of `sev_snp.path` and `tdx.path`.
pub const DEFAULT_TSM: &str = "/sys/kernel/config/tsm/report";
/// Default of `tdx.event_log`.
pub const DEFAULT_CCEL: &str = "/sys/firmware/acpi/tables/data/CCEL";
/// Default of `az_vtpm.imds`.
pub const DEFAULT_IMDS: &str = "169.254.169.254:80";
/// Default of `nitro.device`.
pub const DEFAULT_NSM: &str = "/dev/nsm";

pub(crate) static SPEC: MapShape = MapShape {
    fields: &[
        optional("tpm", Shape::Map(&TPM), "", "A TPM 2.0."),
        optional("sev_snp", Shape::Map(&SEV_SNP), "", "An AMD SEV-SNP guest."),
        optional("tdx", Shape::Map(&TDX), "", "An Intel TDX guest."),
        optional(
            "az_vtpm",
            Shape::Map(&AZ_VTPM),
            "",
            "A confidential VM of Azure, by its vTPM.",
        ),
        optional(
            "nvidia_gpu",
            Shape::Map(&NVIDIA_GPU),
            "",
            "NVIDIA GPUs in confidential-computing mode, all of the machine.",
        ),
        optional("nitro", Shape::Map(&NITRO), "", "An AWS Nitro Enclave."),
        optional(
            "simulated",
            Shape::Map(&MapShape {
                fields: &[
                    required(
                        "machine",
                        Shape::Text(&scalar::WORDS),
                        "Name of the made-up machine.",
                    ),
                    required(
                        "image",
                        Shape::Text(&scalar::WORDS),
                        "Name of the made-up image.",
                    ),
                ],
                exactly_one: &[],
            }),
            "",
            "Made-up evidence: proves nothing.",
        ),
    ],
    exactly_one: &[],
};

static TPM: MapShape = MapShape {
    fields: &[
        optional(
            "device",
            Shape::Text(&scalar::FILE),
            DEFAULT_TPM_DEVICE,
            "Character device with a resource manager.",
        ),
        optional(
            "swtpm",
            Shape::Text(&scalar::LISTEN),
            "",
            "Socket of a software TPM, instead of a device.",
        ),
        optional(
            "ek_chain",
            Shape::Text(&scalar::FILE),
            "",
            "PEM file with the endorsement key's certificates, leaf first, where the TPM does not hold them.",
        ),
        optional(
            "event_log",
            Shape::Text(&scalar::FILE),
            DEFAULT_EVENT_LOG,
            "Boot event log; none by default where the TPM is a program.",
        ),
        optional(
            "ima_log",
            Shape::Text(&scalar::FILE),
            DEFAULT_IMA_LOG,
            "The kernel's list of measured files, read where a profile has rules for it; none by default where the TPM is a program.",
        ),
    ],
    exactly_one: &[],
};

static SEV_SNP: MapShape = MapShape {
    fields: &[
        optional(
            "path",
            Shape::Text(&scalar::FILE),
            DEFAULT_TSM,
            "Where the kernel takes requests for reports.",
        ),
        optional(
            "vmpl",
            Shape::Number(0, 3),
            "",
            "Privilege level to speak for; without it the kernel's choice.",
        ),
    ],
    exactly_one: &[],
};

static TDX: MapShape = MapShape {
    fields: &[
        optional(
            "path",
            Shape::Text(&scalar::FILE),
            DEFAULT_TSM,
            "Where the kernel takes requests for quotes.",
        ),
        optional(
            "event_log",
            Shape::Text(&scalar::FILE),
            DEFAULT_CCEL,
            "The firmware's event log.",
        ),
    ],
    exactly_one: &[],
};

static AZ_VTPM: MapShape = MapShape {
    fields: &[
        optional(
            "device",
            Shape::Text(&scalar::FILE),
            DEFAULT_TPM_DEVICE,
            "Character device with a resource manager.",
        ),
        optional(
            "swtpm",
            Shape::Text(&scalar::LISTEN),
            "",
            "Socket of a software TPM, instead of a device.",
        ),
        optional(
            "event_log",
            Shape::Text(&scalar::FILE),
            DEFAULT_EVENT_LOG,
            "Boot event log; none by default where the TPM is a program.",
        ),
        optional(
            "imds",
            Shape::Text(&scalar::HOST_PORT),
            DEFAULT_IMDS,
            "Azure's metadata service.",
        ),
    ],
    exactly_one: &[],
};

static NVIDIA_GPU: MapShape = MapShape {
    fields: &[optional(
        "library",
        Shape::Text(&scalar::FILE),
        "",
        "NVIDIA's management library; without it `libnvidia-ml.so.1`, as the system finds it.",
    )],
    exactly_one: &[],
};

static NITRO: MapShape = MapShape {
    fields: &[optional(
        "device",
        Shape::Text(&scalar::FILE),
        DEFAULT_NSM,
        "The security module, or a Unix socket that speaks for it.",
    )],
    exactly_one: &[],
};

/// Reports what the shape can't say.
pub(crate) fn check(node: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let entries: Vec<&Entry> = node
        .entries()
        .iter()
        .filter(|entry| SPEC.fields.iter().any(|field| field.key == entry.key))
        .collect();
    if node.entries().is_empty() {
        let problem = reporter
            .at(place.owner, "no attester")
            .path(place.path.clone())
            .hint(
                "name what proves where this runs: `tpm`, `sev_snp`, `tdx`, `az_vtpm` or `nitro`",
            );
        return reporter.report(problem);
    }
    let mut roots = entries.iter().filter(|entry| is_root(&entry.key));
    if let Some(first) = roots.next() {
        for more in roots {
            clash(first, more, "a machine is one of them", place, reporter);
        }
    }
    let find = |key: &str| entries.iter().find(|entry| entry.key == key);
    if let (Some(azure), Some(tpm)) = (find("az_vtpm"), find("tpm")) {
        let why = "they are the same TPM: keep `az_vtpm`";
        clash(azure, tpm, why, place, reporter);
    }
    if let Some(simulated) = find("simulated") {
        for real in entries.iter().filter(|entry| entry.key != "simulated") {
            let why = "made-up evidence proves nothing beside real one";
            clash(simulated, real, why, place, reporter);
        }
    }
    if let ([only], true) = (entries.as_slice(), node.entries().len() == 1)
        && only.key == "nvidia_gpu"
    {
        let problem = reporter
            .at(
                only.key_span,
                "GPUs alone don't say which machine they are in",
            )
            .path(place.key(&only.key, only.key_span).path)
            .hint(
                "name the machine's own attester beside them: `sev_snp`, `tdx`, `az_vtpm` or `tpm`",
            );
        reporter.report(problem);
    }
    for key in ["tpm", "az_vtpm"] {
        if let Some(tpm) = find(key)
            && let (Some(_), Some(swtpm)) = (tpm.value.entry("device"), tpm.value.entry("swtpm"))
        {
            let place = place.key(key, tpm.key_span);
            let problem = reporter
                .at(swtpm.key_span, "`swtpm` can't stand beside `device`")
                .path(place.key("swtpm", swtpm.key_span).path);
            reporter.report(problem);
        }
    }
}

/// What a machine is, apart from its TPM.
fn is_root(key: &str) -> bool {
    ["sev_snp", "tdx", "az_vtpm", "nitro"].contains(&key)
}

fn clash(first: &Entry, more: &Entry, why: &str, place: &Place, reporter: &mut Reporter<'_>) {
    let message = format!("`{}` can't stand beside `{}`", more.key, first.key);
    let problem = reporter
        .at(more.key_span, message)
        .path(place.key(&more.key, more.key_span).path)
        .hint(why);
    reporter.report(problem);
}

/// In the order of collection: what roots sign over first, then the TPM, then the root.
pub(crate) fn read(node: &Node, folder: &Path) -> Option<Vec<Attester>> {
    let mut attesters = Vec::new();
    if let Some(node) = node.get("simulated") {
        attesters.push(Attester::Simulated {
            machine: node.get("machine")?.text()?.to_owned(),
            image: node.get("image")?.text()?.to_owned(),
        });
    }
    if let Some(node) = node.get("nvidia_gpu") {
        let library = path(node, "library", folder)?;
        attesters.push(Attester::NvidiaGpu(NvidiaGpu { library }));
    }
    if let Some(node) = node.get("tpm") {
        attesters.push(Attester::Tpm(read_tpm(node, folder)?));
    }
    if let Some(node) = node.get("sev_snp") {
        let level = optional_value(node, "vmpl", Node::as_number)?;
        attesters.push(Attester::SevSnp(Tsm {
            path: path_or(node, "path", DEFAULT_TSM, folder)?,
            privilege_level: level.map(u8::try_from).transpose().ok()?,
            event_log: None,
        }));
    }
    if let Some(node) = node.get("tdx") {
        attesters.push(Attester::Tdx(Tsm {
            path: path_or(node, "path", DEFAULT_TSM, folder)?,
            privilege_level: None,
            event_log: Some(path_or(node, "event_log", DEFAULT_CCEL, folder)?),
        }));
    }
    if let Some(node) = node.get("az_vtpm") {
        attesters.push(Attester::AzVtpm(AzVtpm {
            tpm: read_tpm(node, folder)?,
            imds: optional_value(node, "imds", Node::text)?
                .unwrap_or(DEFAULT_IMDS)
                .to_owned(),
        }));
    }
    if let Some(node) = node.get("nitro") {
        let device = path_or(node, "device", DEFAULT_NSM, folder)?;
        attesters.push(Attester::Nitro(Nitro { device }));
    }
    Some(attesters)
}

fn read_tpm(node: &Node, folder: &Path) -> Option<Tpm> {
    let transport = match optional_value(node, "swtpm", Node::text)? {
        Some(text) => match text.strip_prefix("unix:") {
            Some(socket) => TpmTransport::SwtpmUnix(folder.join(socket)),
            None => TpmTransport::SwtpmTcp(text.parse().ok()?),
        },
        None => TpmTransport::Device(path_or(node, "device", DEFAULT_TPM_DEVICE, folder)?),
    };
    let default_log =
        matches!(transport, TpmTransport::Device(_)).then(|| DEFAULT_EVENT_LOG.into());
    Some(Tpm {
        ek_chain: path(node, "ek_chain", folder)?,
        event_log: path(node, "event_log", folder)?.or(default_log),
        ima_log: path(node, "ima_log", folder)?,
        transport,
    })
}

fn path_or(node: &Node, key: &str, default: &str, folder: &Path) -> Option<PathBuf> {
    Some(path(node, key, folder)?.unwrap_or_else(|| default.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{IdentitySource, ProxyConfig};
    use crate::source::Source;

    fn proxy(attester: &str) -> Result<Vec<Attester>, String> {
        let text = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Proxy\nspec:\n  trust_domain: factory.example\n  \
             workload: inference/llm\n  identity:\n    control_plane:\n      addresses: ['[::1]:1']\n      \
             root_pins: [{}]\n      attester: {attester}\n",
            "0".repeat(64)
        );
        match ProxyConfig::parse(Source::new("proxy.yaml", &text), Path::new("/etc/mesh")) {
            Ok((config, _)) => match config.identity {
                IdentitySource::ControlPlane(client) => Ok(client.attesters),
                IdentitySource::Files(_) => panic!("it has no files"),
            },
            Err(problems) => Err(problems.to_string()),
        }
    }

    #[track_caller]
    fn kinds(attester: &str) -> Vec<&'static str> {
        let attesters = proxy(attester).unwrap_or_else(|problems| panic!("{problems}"));
        attesters.iter().map(Attester::as_str).collect()
    }

    #[track_caller]
    fn refused(attester: &str, words: &str) {
        let problems = proxy(attester).expect_err("it must be refused");
        assert!(problems.contains(words), "{problems}");
        assert!(problems.contains("proxy.yaml:"), "{problems}");
    }

    #[test]
    fn the_binding_root_is_collected_last_however_it_is_written() {
        assert_eq!(
            kinds("{sev_snp: {}, tpm: {}, nvidia_gpu: {}}"),
            ["nvidia_gpu", "tpm", "sev_snp"]
        );
        assert_eq!(kinds("{tpm: {}, nvidia_gpu: {}}"), ["nvidia_gpu", "tpm"]);
        assert_eq!(
            kinds("{az_vtpm: {}, nvidia_gpu: {}}"),
            ["nvidia_gpu", "az_vtpm"]
        );
        for one in ["tpm", "sev_snp", "tdx", "az_vtpm", "nitro"] {
            assert_eq!(kinds(&format!("{{{one}: {{}}}}")), [one]);
        }
    }

    #[test]
    fn what_is_not_written_has_the_defaults_of_linux() {
        let found = format!("{:?}", proxy("{tdx: {}, nvidia_gpu: {}}").unwrap());
        for default in [DEFAULT_TSM, DEFAULT_CCEL, "library: None"] {
            assert!(found.contains(default), "{found}");
        }
        let found = format!(
            "{:?}",
            proxy("{sev_snp: {vmpl: 2, path: reports}}").unwrap()
        );
        for written in ["privilege_level: Some(2)", "/etc/mesh/reports"] {
            assert!(found.contains(written), "{found}");
        }
        let found = format!("{:?}", proxy("{az_vtpm: {}}").unwrap());
        assert!(
            found.contains(DEFAULT_IMDS) && found.contains(DEFAULT_TPM_DEVICE),
            "{found}"
        );
    }

    #[test]
    fn what_no_machine_has_together_is_refused_with_its_line() {
        refused("{}", "no attester");
        refused(
            "{sev_snp: {}, tdx: {}}",
            "`tdx` can't stand beside `sev_snp`",
        );
        refused("{nitro: {}, az_vtpm: {}}", "can't stand beside");
        refused("{az_vtpm: {}, tpm: {}}", "the same TPM");
        refused(
            "{simulated: {machine: a, image: b}, tpm: {}}",
            "`tpm` can't stand beside `simulated`",
        );
        refused("{nvidia_gpu: {}}", "GPUs alone");
        refused("{sev_snp: {vmpl: 4}}", "from 0 to 3");
        for key in ["tpm", "az_vtpm"] {
            let both = format!("{{{key}: {{device: /dev/tpm0, swtpm: '127.0.0.1:1'}}}}");
            refused(&both, "`swtpm` can't stand beside `device`");
        }
        refused("{sev_snpp: {}}", "did you mean `sev_snp`");
    }
}
