//! The sidecar's own program, with devices of confidential machines.

use rustix::io::Errno;
use vouchsafe_tests::configfs::{Asked, Configfs, Made};
use vouchsafe_tests::documents::{file, mesh, tpm_profile, workload};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::nvml::{Driver, FakeNvml};

use crate::support::vector;

fn mesh_of_one() -> Mesh {
    Mesh::start(&file([
        mesh(),
        tpm_profile("app/boot", "good", 11, &"0".repeat(64)),
        vouchsafe_tests::documents::tpm_node("app/machine", &"0".repeat(64)),
        workload("app/one", "boot", "machine", &[]),
    ]))
}

fn snp(asked: &Asked) -> Result<Made, Errno> {
    let mut outblob = vector("snp/milan-v2-vcek/report.bin");
    outblob[0x50..0x90].copy_from_slice(&asked.inblob);
    Ok(Made {
        outblob,
        auxblob: Vec::new(),
    })
}

fn gpus() -> FakeNvml {
    let nvml = FakeNvml::build(Driver::Current).unwrap();
    for _ in 0..2 {
        let hopper = "nvidia/hopper-550.90.07-full";
        let report = vector(&format!("{hopper}/report.bin"));
        nvml.add(&report, &vector(&format!("{hopper}/chain.pem")), 9);
    }
    nvml.set("any-nonce", "");
    nvml
}

#[test]
fn a_sidecar_that_can_not_prove_what_it_was_told_to_ends_and_says_why() {
    let mesh = mesh_of_one();
    for (attester, words) in [
        (
            "{sev_snp: {path: /nonexistent/report}}",
            ["attester.sev_snp` of proxy.yaml", "Linux 6.7"],
        ),
        (
            "{tdx: {path: /nonexistent/report}}",
            ["attester.tdx` of proxy.yaml", "CONFIG_TSM_REPORTS"],
        ),
        (
            "{nitro: {device: /nonexistent/nsm}}",
            ["attester.nitro` of proxy.yaml", "only an enclave"],
        ),
        (
            "{tpm: {device: /nonexistent/tpm}, nvidia_gpu: {library: /nonexistent/libnvidia-ml.so.1}}",
            [
                "attester.nvidia_gpu` of proxy.yaml",
                "install the NVIDIA driver",
            ],
        ),
        (
            "{az_vtpm: {device: /nonexistent/tpm}}",
            ["attester.az_vtpm` of proxy.yaml", "/nonexistent/tpm"],
        ),
    ] {
        let spec = mesh.sidecar("one", "app/one", attester);
        let mut sidecar = spec.start(mesh.path());
        assert!(!sidecar.process.wait().success(), "{attester}");
        let output = sidecar.process.output();
        for word in words {
            assert!(output.contains(word), "{output}");
        }
    }
}

#[test]
fn a_sidecar_finds_its_devices_and_says_what_they_are() {
    if !Configfs::is_possible() {
        return;
    }
    let (mesh, nvml) = (mesh_of_one(), gpus());
    let configfs = Configfs::mount("sev_guest", snp).unwrap();
    let attester = format!(
        "{{sev_snp: {{path: {}}}, nvidia_gpu: {{library: {}}}}}",
        configfs.path().display(),
        nvml.library().display()
    );
    let spec = mesh.sidecar("one", "app/one", &attester);
    let sidecar = spec.start(mesh.path());
    sidecar.process.wait_for_output("attesters are ready");
    let output = sidecar.process.output();
    for found in ["sev_snp", "nvidia_gpu", "550.90.07"] {
        assert!(output.contains(found), "{output}");
    }
    let dump = sidecar.admin("/config_dump");
    let attesters = dump.to_string();
    assert!(
        attesters.contains(r#""attesters":["nvidia_gpu","sev_snp"]"#),
        "{dump}"
    );
}
