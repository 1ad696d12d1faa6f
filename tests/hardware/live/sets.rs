//! A guest with GPUs: one machine, or devices of two.

use serde_json::Value;
use vouchsafe_api::convert::record::RecordEntry;
use vouchsafe_control_plane::archive::rerun::rerun;
use vouchsafe_control_plane::{app, log};
use vouchsafe_tests::configfs::Configfs;
use vouchsafe_tests::factory::{Factory, offline};
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_tests::vendor::Vendors;
use vouchsafe_tests::vendor::amd::Guest;
use vouchsafe_tests::vendor::nvidia::Gpu;
use vouchsafe_tests::vendor::service::Reply;

use super::{CHIP, GOOD, GPUS, devices, documents, hex48, kept, snp, soon, unix_ms, with_gpus};

fn co_location(factory: &Factory, workload: &str) -> Value {
    kept(factory, workload)["outcome"]["issued"]["co_location"].clone()
}

/// Makes the decision of a record again, from what was kept of it.
fn again(factory: &Factory, number: &Value) -> vouchsafe_control_plane::archive::rerun::Rerun {
    let (path, kept) = app::record(&factory.data()).expect("there is a record");
    log::verify(&path, &kept).expect("it is whole");
    let number = number.as_u64().expect("records are numbered");
    let record = log::read(&path, number, 1)
        .expect("it can be read")
        .remove(0);
    let entry = RecordEntry::decode(&record.leaf).expect("it is an entry");
    rerun(&factory.data(), &entry, factory.roots()).expect("all is kept")
}

fn gpus(vendors: &Vendors) -> [Gpu; 2] {
    GPUS.map(|number| vendors.nvidia.gpu(number))
}

#[test]
fn a_guest_with_its_gpus_is_admitted_as_one_machine_where_a_node_names_them() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * 86_400));
    let factory = Factory::start(&documents(), vendors.roots(), service.sources());
    let (guest, _) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let (_nvml, attester) = with_gpus(&guest, gpus(&vendors));
    let (_sidecar, identity) = factory.admitted("whole", "dev/whole", &attester);
    assert_eq!(identity["attestation_result"]["root"], "sev_snp");
    let [first, second, root] = devices(&identity) else {
        panic!("three devices: {identity}")
    };
    for (device, number) in [(first, GPUS[0]), (second, GPUS[1])] {
        assert_eq!(device["kind"], "nvidia_gpu", "{identity}");
        assert_eq!(device["claims"]["ueid"], vendors.nvidia.gpu(number).ueid());
        assert_eq!(device["claims"]["count"], "2");
    }
    assert_eq!(root["claims"]["image"], "llm-11");
    assert_eq!(co_location(&factory, "dev/whole"), "pinned");
    // Where the `Node` names the processor only, the GPUs may be anywhere.
    let (_sidecar, _) = factory.admitted("gpus", "dev/gpus", &attester);
    assert_eq!(co_location(&factory, "dev/gpus"), "not_proven");
    let issued = factory.last_issuance("dev/gpus");
    let judged = again(&factory, &issued["number"]);
    assert!(judged.agrees && judged.is_complete, "{judged:?}");
    assert!(judged.endorsements.len() >= 2, "{judged:?}");
}

#[test]
fn a_set_of_two_machines_is_refused_where_a_node_pins_it_and_marked_elsewhere() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * 86_400));
    let factory = Factory::start(&documents(), vendors.roots(), service.sources());
    let (guest, _) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    // Genuine, fresh, and of another machine.
    let relayed = [vendors.nvidia.gpu(GPUS[0]), vendors.nvidia.gpu(7)];
    let (_nvml, attester) = with_gpus(&guest, relayed);
    let (reason, detail) = factory.refused("whole", "dev/whole", &attester);
    assert_eq!(reason, "not_a_member", "{detail}");
    let (_sidecar, _) = factory.admitted("gpus", "dev/gpus", &attester);
    assert_eq!(co_location(&factory, "dev/gpus"), "not_proven");
}

#[test]
fn a_guest_with_one_wrong_gpu_is_refused_for_it() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * 86_400));
    let factory = Factory::start(&documents(), vendors.roots(), service.sources());
    let (guest, _) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let [one, two] = gpus(&vendors);
    let nobodys = Vendors::new().nvidia.gpu(GPUS[1]);
    let mut changed = two.clone();
    changed.firmware = 3;
    for (reason, set) in [
        ("duplicate_device", vec![one.clone(), one.clone()]),
        ("root_not_pinned", vec![one.clone(), nobodys]),
        ("measurement_mismatch", vec![one.clone(), changed]),
        // The sidecar offers as many as there are.
        ("required_evidence", vec![one.clone()]),
        (
            "required_evidence",
            vec![one.clone(), two.clone(), vendors.nvidia.gpu(7)],
        ),
    ] {
        let (_nvml, attester) = with_gpus(&guest, set);
        let (found, detail) = factory.refused(reason, "dev/gpus", &attester);
        assert_eq!(found, reason, "{detail}");
    }
    let (nvml, attester) = with_gpus(&guest, [one, two]);
    nvml.set("mode", "1 1 0");
    let (found, detail) = factory.refused("devtools", "dev/gpus", &attester);
    assert_eq!(found, "devtools", "{detail}");
    // What was refused can be judged again as well.
    let refused = factory.records().pop().expect("a refusal");
    assert_eq!(refused["reason"], "devtools", "{refused}");
    let judged = again(&factory, &refused["number"]);
    assert!(judged.agrees && judged.is_complete, "{judged:?}");
}

#[test]
fn no_certificate_of_a_set_outlives_its_gpus_or_their_manifests() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let service = vendors.serve(soon(20 * 86_400));
    let (guest, _) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let ends = |until, gpus: [Gpu; 2]| {
        let factory = Factory::start(&documents(), vendors.roots(), service.sources());
        let (_nvml, attester) = with_gpus(&guest, gpus);
        let _gpus = factory.admitted("gpus", "dev/gpus", &attester);
        let issued = factory.last_issuance("dev/gpus");
        assert_eq!(issued["not_after"].as_u64(), Some(unix_ms(until)));
    };
    // The second GPU's firmware.
    let until = soon(900);
    let second = vendors.nvidia.gpu_until(GPUS[1], until);
    ends(until, [vendors.nvidia.gpu(GPUS[0]), second]);
    // The manifests.
    let until = soon(1200);
    for (id, manifest) in vendors.nvidia.manifests(until) {
        service.set(&format!("/v1/rim/{id}"), Reply::manifest(&id, &manifest));
    }
    ends(until, gpus(&vendors));
}

/// A guest's report signs over what its TPM quoted.
#[test]
fn a_guest_with_a_tpm_is_admitted_by_both() {
    if !Configfs::is_possible() {
        return;
    }
    let vendors = Vendors::new();
    let tpm = Swtpm::start().expect("swtpm starts; `./tests/run` installs it");
    let zeros = "00".repeat(32);
    let both = format!(
        "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\n\
         metadata: {{name: both, namespace: dev}}\nspec:\n  any_of:\n    - sev_snp: {{images: [{{name: llm-11, \
         sha384: {}}}]}}\n      tpm: {{classes: [hardware, software], images: [{{name: boot, pcrs: {{sha256: \
         {{\"4\": \"{zeros}\"}}}}}}]}}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\n\
         metadata: {{name: both, namespace: dev}}\nspec: {{profile: both, members: {{nodes: [gpu-07]}}}}\n",
        hex48(GOOD)
    );
    let factory = Factory::start(&(documents() + &both), vendors.roots(), offline());
    let (guest, _) = snp(&vendors.amd.chip(CHIP), Guest::of(GOOD));
    let attester = |tpm: &Swtpm| {
        format!(
            "{{sev_snp: {{path: {}}}, tpm: {{swtpm: 'unix:{}'}}}}",
            guest.path().display(),
            tpm.socket().display()
        )
    };
    let (_sidecar, identity) = factory.admitted("both", "dev/both", &attester(&tpm));
    let result = &identity["attestation_result"];
    assert_eq!(result["root"], "sev_snp", "{identity}");
    // The whole is worth what its weakest device is.
    assert_eq!(result["class"], "software", "{identity}");
    let [first, root] = devices(&identity) else {
        panic!("two devices: {identity}")
    };
    assert_eq!(first["claims"]["image"], "boot");
    assert_eq!(root["claims"]["image"], "llm-11");
    assert_eq!(co_location(&factory, "dev/both"), "not_proven");
    tpm.measure(4, &[7; 32], &[7; 48]).expect("the TPM extends");
    let (reason, detail) = factory.refused("changed", "dev/both", &attester(&tpm));
    assert_eq!(reason, "image", "{detail}");
}
