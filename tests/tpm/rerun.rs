//! Decisions about measured files, made by a running control plane and made again by `vouchsafe log rerun`, offline, from
//! what was kept: also those that went on where an earlier one had ended.

use std::path::Path;

use serde_json::Value;
use vouchsafe_tests::documents::{file, mesh, tpm_node, workload};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::{binaries, process, wait};

use crate::ima::{Kernel, named};

/// Every second, so that there are several decisions soon.
const REATTEST: &str = "trust_domain: mesh.example\n  reattest: {root: 1s}";

fn profile(content: &[u8]) -> String {
    let digest = named(content);
    let digest = digest.trim_start_matches("sha256:");
    let zeros = "0".repeat(64);
    format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\n\
         metadata: {{name: measured, namespace: app}}\nspec:\n  any_of:\n    - tpm:\n        \
         classes: [hardware, software]\n        \
         images: [{{name: good, pcrs: {{sha256: {{\"11\": \"{zeros}\"}}}}}}]\n        \
         ima: {{files: [{{path: \"/bin/**\", sha256: [{digest}]}}]}}\n"
    )
}

#[track_caller]
fn again(mesh: &Mesh, record: &Value) -> Value {
    let number = record["number"].to_string();
    let output = mesh.cli(&["log", "rerun", &number, "-o", "json"]);
    let judged = serde_json::from_str(&output.expect_success());
    judged.expect("the verdict is JSON")
}

#[test]
fn decisions_about_measured_files_are_made_again_from_the_archive() {
    let mut kernel = Kernel::boot();
    kernel.measure("/bin/sh", b"shell");
    let socket = kernel.swtpm.socket();
    let program = binaries::tree().join("deploy/local/tpm.py");
    let ek = process::run(program, [Path::new("endorsement-key"), &socket]).expect_success();
    let mut mesh = Mesh::start(&file([
        mesh().replace("trust_domain: mesh.example", REATTEST),
        profile(b"shell"),
        tpm_node("app/machine", ek.trim()),
        workload("app/one", "measured", "machine", &[]),
    ]));
    let attester = format!(
        "{{tpm: {{swtpm: 'unix:{}', ima_log: {}}}}}",
        socket.display(),
        kernel.list.path().display()
    );
    let mut sidecar = mesh.sidecar("one", "app/one", &attester).start(mesh.path());
    sidecar.wait_ready();
    // What follows is judged alone, after what was judged before.
    kernel.measure("/bin/ls", b"shell");
    let renewed = wait::until("a renewal", || {
        let mut records = mesh.records().into_iter();
        records.find(|one| one["kind"] == "issued" && one["purpose"] == "renew")
    });
    kernel.measure("/bin/evil", b"evil");
    let refused = wait::until("the file to be refused", || {
        let mut records = mesh.records().into_iter();
        records.find(|one| one["kind"] == "refused" && one["reason"] == "ima_file")
    });
    let records = mesh.records();
    let enrolled = records.iter().find(|one| one["kind"] == "issued");
    let enrolled = enrolled.expect("the sidecar was admitted").clone();
    drop(sidecar);
    // The auditor needs the folder, and nobody who answers.
    mesh.stop();
    for record in [enrolled, renewed] {
        let judged = again(&mesh, &record);
        assert_eq!(judged["judged"], "affirmed", "{judged}");
        assert_eq!(judged["agrees"], true, "{judged}");
        assert_eq!(judged["is_complete"], true, "{judged}");
        assert_eq!(judged["result"], record["result_sha256"]);
    }
    let judged = again(&mesh, &refused);
    assert_eq!(judged["judged"], "ima_file", "{judged}");
    let detail = judged["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("/bin/evil"), "{judged}");
    // A bundle that was changed is not believed.
    let name = refused["evidence_sha256"].as_str().expect("a digest");
    let path = mesh.data().join("archive/refused").join(name);
    let mut bundle = std::fs::read(&path).expect("it is kept");
    let at = bundle.len() / 2;
    bundle[at] ^= 1;
    std::fs::write(&path, bundle).expect("it can be written");
    let number = refused["number"].to_string();
    let outcome = mesh.cli(&["log", "rerun", &number]);
    assert!(
        !outcome.success && outcome.stderr.contains("was changed"),
        "{outcome:?}"
    );
}
