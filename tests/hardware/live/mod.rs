//! Sidecars and a control plane together: the sidecar's own program, with emulated devices that sign afresh, gets its
//! certificate from a real control plane that believes the devices' makers, which a test made.

mod collected;
mod guests;
mod operating;
mod predicates;
mod sets;
mod standing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;
use vouchsafe_attestation::claims::Time;
use vouchsafe_tests::configfs::{Configfs, Made};
use vouchsafe_tests::factory::Factory;
use vouchsafe_tests::nvml::{Driver, FakeNvml};
use vouchsafe_tests::paravisor::{self, Paravisor};
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_tests::vendor::amd::{Chip, Guest};
use vouchsafe_tests::vendor::aws::INSTANCE;
use vouchsafe_tests::vendor::intel::{Processor, TrustDomain, azure_quote};
use vouchsafe_tests::vendor::nvidia::Gpu;
use vouchsafe_tests::vendor::service::{Reply, Service};

/// What every machine of these tests runs: launch digests of this byte.
pub const GOOD: u8 = 0xaa;
/// The chip and the GPUs of the machine `gpu-07`.
pub const CHIP: u8 = 9;
pub const GPUS: [u8; 2] = [1, 2];
/// PPID of the machine `tdx-01`.
pub const PPID: u8 = 5;

const DOCUMENTS: &str = r#"
kind: Mesh
metadata: {name: factory}
spec: {trust_domain: factory.example, reattest: {root: REATTEST}}
---
kind: AttestationProfile
metadata: {name: snp, namespace: dev}
spec: {any_of: [{sev_snp: {images: [IMAGES], tcb: {microcode: ">=200"}}}]}
---
kind: AttestationProfile
metadata: {name: gpus, namespace: dev}
spec:
  any_of:
    - sev_snp: {images: [{name: llm-11, sha384: GOOD48}]}
      nvidia_gpu: {count: 2, driver: ">=570.86", devtools: false}
---
kind: AttestationProfile
metadata: {name: tdx, namespace: dev}
spec: {any_of: [{tdx: {images: [{name: llm-11, mrtd: GOOD48, rtmr1: ZERO48}]}}]}
---
kind: AttestationProfile
metadata: {name: azure, namespace: dev}
spec:
  any_of:
    - az_snp_vtpm: {images: [{name: llm-11, sha384: GOOD48, pcrs: {sha256: {"4": ZERO32}}}]}
    - az_tdx_vtpm: {images: [{name: llm-11, mrtd: GOOD48, pcrs: {sha256: {"4": ZERO32}}}]}
---
kind: AttestationProfile
metadata: {name: nitro, namespace: dev}
spec: {any_of: [{nitro: {images: [{name: enclave, pcrs: {sha384: {"0": GOOD48}}}]}}]}
---
kind: Node
metadata: {name: gpu-07, namespace: dev}
spec: {hardware: {snp_chip_id: CHIP}}
---
kind: Node
metadata: {name: gpu-07-whole, namespace: dev}
spec: {hardware: {snp_chip_id: CHIP, gpu_ueids: [UEIDS]}}
---
kind: Node
metadata: {name: tdx-01, namespace: dev}
spec: {hardware: {tdx_ppid: PPID}}
---
kind: Node
metadata: {name: ec2, namespace: dev}
spec: {hardware: {nitro_instance_id: INSTANCE}}
---
kind: Workload
metadata: {name: snp, namespace: dev}
spec: {profile: snp, members: {nodes: [gpu-07]}}
---
kind: Workload
metadata: {name: gpus, namespace: dev}
spec: {profile: gpus, members: {nodes: [gpu-07]}}
---
kind: Workload
metadata: {name: whole, namespace: dev}
spec: {profile: gpus, members: {nodes: [gpu-07-whole]}}
---
kind: Workload
metadata: {name: tdx, namespace: dev}
spec: {profile: tdx, members: {nodes: [tdx-01]}}
---
kind: Workload
metadata: {name: azure, namespace: dev}
spec: {profile: azure, members: {nodes: [gpu-07, tdx-01]}}
---
kind: Workload
metadata: {name: enclave, namespace: dev}
spec: {profile: nitro, members: {nodes: [ec2]}}
"#;

/// A mesh with a workload for each kind of machine.
pub fn documents() -> String {
    documents_with(&format!("{{name: llm-11, sha384: {}}}", hex48(GOOD)), "10m")
}

/// With these images of SEV-SNP, and this long from one attestation to the next.
pub fn documents_with(images: &str, reattest: &str) -> String {
    let ueids: Vec<_> = GPUS
        .map(|gpu| format!("\"{}\"", 0x0700 + u32::from(gpu)))
        .into();
    let text = DOCUMENTS
        .replace("IMAGES", images)
        .replace("REATTEST", reattest)
        .replace("GOOD48", &hex48(GOOD))
        .replace("ZERO48", &hex48(0))
        .replace("ZERO32", &"00".repeat(32))
        .replace("CHIP", &format!("\"{}\"", format!("{CHIP:02x}").repeat(64)))
        .replace("UEIDS", &ueids.join(", "))
        .replace("PPID", &format!("\"{}\"", format!("{PPID:02x}").repeat(16)))
        .replace("INSTANCE", INSTANCE);
    text.replace("\nkind: ", "\napiVersion: vouchsafe.dev/v1alpha1\nkind: ")
}

/// 48 bytes in hex, quoted.
pub fn hex48(byte: u8) -> String {
    format!("\"{}\"", format!("{byte:02x}").repeat(48))
}

/// In so many seconds, without fractions.
pub fn soon(seconds: u64) -> SystemTime {
    let time = SystemTime::now() + Duration::from_secs(seconds);
    Time::new(time).expect("it is of this age").into()
}

pub fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_millis()).expect("it is small")
}

/// A guest of SEV-SNP as the kernel shows it, and the attester that asks it.
pub fn snp(chip: &Chip, guest: Guest) -> (Configfs, String) {
    let chip = chip.clone();
    let answer = move |data: &[u8]| chip.answer(&guest, data);
    let configfs = Configfs::mount("sev_guest", move |asked| Ok(answer(&asked.inblob)));
    let configfs = configfs.expect("this process may mount");
    let attester = format!("{{sev_snp: {{path: {}}}}}", configfs.path().display());
    (configfs, attester)
}

/// A guest of TDX.
pub struct TdxGuest {
    pub configfs: Configfs,
    _firmware: TempDir,
}

/// A guest of TDX as kernel and firmware show it, likewise.
pub fn tdx(processor: &Processor, domain: TrustDomain) -> (TdxGuest, String) {
    let processor = processor.clone();
    let configfs = Configfs::mount("tdx_guest", move |asked| {
        Ok(Made {
            outblob: processor.quote(&domain, &asked.inblob),
            auxblob: Vec::new(),
        })
    });
    let configfs = configfs.expect("this process may mount");
    let firmware = tempfile::tempdir().expect("a temporary folder");
    let log = firmware.path().join("CCEL");
    std::fs::write(&log, EMPTY_LOG).expect("the folder can be written");
    let attester = format!(
        "{{tdx: {{path: {}, event_log: {}}}}}",
        configfs.path().display(),
        log.display()
    );
    let guest = TdxGuest {
        configfs,
        _firmware: firmware,
    };
    (guest, attester)
}

/// Of firmware that measured nothing: only the event that says that digests are of SHA-384, then what fills the table.
const EMPTY_LOG: &[u8] = b"\0\0\0\0\x03\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x21\0\0\0Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0c\0\x30\0\0\
    \xff\xff\xff\xff\xff\xff\xff\xff";

/// GPUs behind NVIDIA's library, and the attester of a guest of SEV-SNP that has them.
pub fn with_gpus(guest: &Configfs, gpus: impl IntoIterator<Item = Gpu>) -> (FakeNvml, String) {
    let nvml = FakeNvml::build(Driver::Current).expect("there is a C compiler");
    nvml.set("driver", vouchsafe_tests::vendor::nvidia::DRIVER);
    gpus.into_iter().for_each(|gpu| nvml.add_live(gpu));
    let attester = format!(
        "{{sev_snp: {{path: {}}}, nvidia_gpu: {{library: {}}}}}",
        guest.path().display(),
        nvml.library().display()
    );
    (nvml, attester)
}

/// A confidential VM of Azure.
pub struct Azure {
    tpm: Swtpm,
    paravisor: Paravisor,
    metadata: Service,
    pub attester: String,
}

impl Azure {
    pub fn snp(chip: &Chip, guest: Guest) -> Self {
        let [vcek, chain] = chip.certificates();
        let body = serde_json::json!({"vcekCert": vcek, "certificateChain": chain});
        let metadata = Service::start();
        metadata.set(
            "/metadata/THIM/amd/certification",
            Reply::ok(body.to_string()),
        );
        let chip = chip.clone();
        let sign = move |data: &[u8; 64]| chip.report(&guest, data);
        Self::start(paravisor::Hardware::SigningSevSnp(Arc::new(sign)), metadata)
    }

    pub fn tdx(processor: &Processor, domain: TrustDomain) -> Self {
        let metadata = Service::start();
        let processor = processor.clone();
        let quote = move |request: &[u8]| azure_quote(&processor, &domain, request);
        metadata.set("/acc/tdquote", Reply::Made(Arc::new(quote)));
        Self::start(paravisor::Hardware::Tdx, metadata)
    }

    fn start(hardware: paravisor::Hardware, metadata: Service) -> Self {
        let tpm = Swtpm::start().expect("swtpm starts; `./tests/run` installs it");
        let paravisor = Paravisor::start(&tpm, hardware, true).expect("the TPM makes a key");
        let attester = format!(
            "{{az_vtpm: {{swtpm: 'unix:{}', imds: '{}'}}}}",
            paravisor.socket().display(),
            metadata.address()
        );
        Self {
            tpm,
            paravisor,
            metadata,
            attester,
        }
    }

    /// Measures something into a PCR, as firmware would.
    pub fn measure(&self, pcr: u8) {
        let measured = self.tpm.measure(pcr, &[7; 32], &[7; 48]);
        measured.expect("the TPM extends");
    }

    pub fn socket(&self) -> String {
        self.paravisor.socket().display().to_string()
    }

    pub fn imds(&self) -> String {
        self.metadata.address().to_string()
    }
}

/// The devices of an identity, each with its claims.
pub fn devices(identity: &Value) -> &[Value] {
    let devices = identity["attestation_result"]["devices"].as_array();
    devices.expect("an identity has devices")
}

/// What the archive keeps of the last issuance to a workload.
pub fn kept(factory: &Factory, workload: &str) -> Value {
    let issued = factory.last_issuance(workload);
    let name = issued["evidence_sha256"].as_str().expect("a digest");
    let path = factory.data().join("archive/issued").join(name);
    let bundle = std::fs::read(path).expect("the archive keeps it");
    serde_json::from_slice(&bundle).expect("a bundle is JSON")
}
