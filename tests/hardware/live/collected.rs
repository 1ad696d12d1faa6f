//! From a machine to its profile: what `collect` writes of a machine is drafted into a profile and a `Node`, and the same
//! machine is admitted by both.

use std::path::Path;
use std::process::Command;

use vouchsafe_tests::configfs::Configfs;
use vouchsafe_tests::factory::Factory;
use vouchsafe_tests::vendor::Vendors;
use vouchsafe_tests::vendor::amd::Guest;
use vouchsafe_tests::vendor::intel::{Processor, TrustDomain};
use vouchsafe_tests::{binaries, process};

use super::{Azure, CHIP, GOOD, GPUS, PPID, devices, snp, soon, tdx, with_gpus};

/// What was collected and drafted of a machine.
struct Drafted {
    node: String,
    profile: String,
}

/// Runs `collect` with these arguments, and drafts a profile from its bundle.
#[track_caller]
fn draft(arguments: &[&str]) -> Drafted {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bundle = folder.path().join("bundle");
    let bundle = bundle.to_str().expect("it is text");
    let node = ["--out", bundle, "--node", "machine", "--namespace", "dev"];
    let all = [&["collect"], arguments, &node].concat();
    let node = process::run(binaries::proxy(), all).expect_success();
    let reference = ["attest", "reference", bundle];
    let named = [
        "--name",
        "drafted",
        "--namespace",
        "dev",
        "--image",
        "llm-11",
    ];
    let profile = process::run(binaries::vouchsafe(), [&reference[..], &named].concat());
    Drafted {
        node,
        profile: profile.expect_success(),
    }
}

/// A policy whose workload `dev/one` has this profile and this machine.
fn policy(drafted: &Drafted) -> String {
    format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: factory}}\n\
         spec: {{trust_domain: factory.example}}\n---\n{}---\n{}---\n\
         apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {{name: one, namespace: dev}}\n\
         spec: {{profile: drafted, members: {{nodes: [machine]}}}}\n",
        drafted.profile, drafted.node
    )
}

/// The policy passes `check`, and admits the machine with this attester.
#[track_caller]
fn admits(vendors: &Vendors, drafted: &Drafted, attester: &str, root: &str, count: usize) {
    let policy = policy(drafted);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("all.yaml");
    std::fs::write(&file, &policy).expect("the folder can be written");
    let check = [Path::new("check"), &file];
    process::run(binaries::vouchsafe(), check).expect_success();
    let service = vendors.serve(soon(20 * 86_400));
    let factory = Factory::start(&policy, vendors.roots(), service.sources());
    let (_sidecar, identity) = factory.admitted("one", "dev/one", attester);
    assert_eq!(identity["attestation_result"]["root"], root, "{policy}");
    let devices = devices(&identity);
    assert_eq!(devices.len(), count);
    assert_eq!(devices[count - 1]["claims"]["image"], "llm-11");
}

#[test]
fn a_guest_with_gpus_is_admitted_by_what_was_collected_of_it() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let (guest, _) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let gpus = GPUS.map(|number| vendors.nvidia.gpu(number));
    let (nvml, attester) = with_gpus(&guest, gpus);
    let (tsm, library) = (guest.path(), nvml.library());
    let drafted = draft(&[
        "--tsm",
        tsm.to_str().expect("it is text"),
        "--nvidia-library",
        library.to_str().expect("it is text"),
    ]);
    // The whole machine, GPUs included.
    let chip = vendors.amd.chip(CHIP).id();
    let ueids = GPUS.map(|number| format!("\"{}\"", vendors.nvidia.gpu(number).ueid()));
    for pinned in [chip, format!("gpu_ueids: [{}]", ueids.join(", "))] {
        assert!(drafted.node.contains(&pinned), "{}", drafted.node);
    }
    // Floors of the processor would be there if anybody else believed its maker.
    for demanded in [
        "count: 2",
        "driver: \">=570.86.15\"",
        "vbios: \">=96.00.9F.00.01\"",
    ] {
        assert!(drafted.profile.contains(demanded), "{}", drafted.profile);
    }
    admits(&vendors, &drafted, &attester, "sev_snp", 3);
}

#[test]
fn a_trust_domain_is_admitted_by_what_was_collected_of_it() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let processor = vendors.intel.processor(PPID, soon(90 * 86_400));
    let (guest, attester) = tdx(&processor, TrustDomain::of(GOOD));
    let tsm = guest.configfs.path();
    let drafted = draft(&["--tsm", tsm.to_str().expect("it is text")]);
    assert!(drafted.node.contains(&pins(&processor)), "{}", drafted.node);
    admits(&vendors, &drafted, &attester, "tdx", 1);
}

/// What a `Node` says of a processor of Intel's and its machine.
fn pins(processor: &Processor) -> String {
    format!(
        "tdx_ppid: {}, tdx_platform_instance_id: {}",
        processor.ppid(),
        processor.platform_instance_id()
    )
}

#[test]
fn an_enclave_is_admitted_by_what_was_collected_of_it() {
    let vendors = Vendors::new();
    let module = vendors.aws.enclave(GOOD, soon(3 * 3600)).module();
    let device = module.path().to_str().expect("it is text");
    let drafted = draft(&["--nitro", device]);
    let attester = format!("{{nitro: {{device: {device}}}}}");
    admits(&vendors, &drafted, &attester, "nitro", 1);
}

#[test]
fn a_confidential_vm_of_azure_is_admitted_by_what_was_collected_of_it() {
    let vendors = Vendors::new();
    let azure = Azure::snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    azure.measure(4);
    let (tpm, imds) = (azure.socket(), azure.imds());
    let drafted = draft(&["--tpm", &tpm, "--imds", &imds]);
    assert!(drafted.node.contains("snp_chip_id"), "{}", drafted.node);
    admits(&vendors, &drafted, &azure.attester, "az_snp_vtpm", 1);

    let processor = vendors.intel.processor(PPID, soon(90 * 86_400));
    let azure = Azure::tdx(&processor, TrustDomain::of(GOOD));
    azure.measure(4);
    let (tpm, imds) = (azure.socket(), azure.imds());
    let drafted = draft(&["--tpm", &tpm, "--imds", &imds]);
    assert!(drafted.node.contains(&pins(&processor)), "{}", drafted.node);
    admits(&vendors, &drafted, &azure.attester, "az_tdx_vtpm", 1);
}

#[test]
fn what_was_named_and_is_not_there_is_an_error_and_what_was_looked_for_is_lacking() {
    let vendors = Vendors::new();
    let module = vendors.aws.enclave(GOOD, soon(3 * 3600)).module();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collect = |out: &str, more: &[&str]| {
        let out = folder.path().join(out);
        let output = Command::new(binaries::proxy())
            .args(["collect", "--nitro"])
            .arg(module.path())
            .arg("--out")
            .arg(&out)
            .args(more)
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (is_good, said, _) = collect("found", &[]);
    assert!(is_good && said.contains("nitro: document.cbor"), "{said}");
    let lacks_gpus = "nvidia_gpu: not collected: failed to load NVIDIA's library";
    assert!(said.contains(lacks_gpus), "{said}");
    let named = ["--nvidia-library", "/nonexistent/libnvidia-ml.so.1"];
    let (is_good, _, error) = collect("named", &named);
    assert!(
        !is_good && error.contains("failed to collect reports of the GPUs"),
        "{error}"
    );
    assert!(!folder.path().join("named").exists());
}
