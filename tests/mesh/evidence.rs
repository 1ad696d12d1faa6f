//! Promises 3 and 10: a certificate exists only because evidence was checked, and made-up evidence is worth nothing
//! where it was not asked for.

use std::path::Path;

use vouchsafe_tests::documents::{
    file, mesh, simulated_mesh, simulated_node, simulated_profile, tpm_node, tpm_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_tests::{binaries, process, wait};

/// Value of a PCR into which nothing was measured.
const UNTOUCHED: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn start_tpm() -> Swtpm {
    Swtpm::start().expect("swtpm starts; `./tests/run` installs it")
}

#[track_caller]
fn endorsement_key(tpm: &Swtpm) -> String {
    let program = binaries::tree().join("deploy/local/tpm.py");
    let arguments = [Path::new("endorsement-key"), &tpm.socket()];
    process::run(program, arguments)
        .expect_success()
        .trim()
        .to_owned()
}

fn attester(tpm: &Swtpm) -> String {
    format!("{{tpm: {{swtpm: 'unix:{}'}}}}", tpm.socket().display())
}

/// Waits until the control plane has refused the sidecar, which must not be ready; returns the reason.
#[track_caller]
fn refusal(mesh: &Mesh, sidecar: &Sidecar, workload: &str) -> String {
    let reason = wait::until("a refusal to be recorded", || {
        let records = mesh.records();
        let refused = records
            .iter()
            .rev()
            .find(|record| record["kind"] == "refused" && record["workload"] == workload)?;
        refused["reason"].as_str().map(str::to_owned)
    });
    assert!(
        !sidecar.is_ready(),
        "a refused sidecar says that it is ready"
    );
    assert!(sidecar.admin("/certs")["identity"].is_null());
    reason
}

#[test]
fn a_tpm_with_the_expected_pcrs_gets_an_identity_of_class_software() {
    let tpm = start_tpm();
    let mesh = Mesh::start(&file([
        mesh(),
        tpm_profile("app/boot", "good", 11, UNTOUCHED),
        tpm_node("app/machine", &endorsement_key(&tpm)),
        workload("app/one", "boot", "machine", &[]),
    ]));
    let mut sidecar = mesh
        .sidecar("one", "app/one", &attester(&tpm))
        .start(mesh.path());
    sidecar.wait_ready();
    let certs = sidecar.admin("/certs");
    let identity = &certs["identity"];
    assert_eq!(identity["id"], "spiffe://mesh.example/ns/app/workload/one");
    let result = &identity["attestation_result"];
    assert_eq!(result["class"], "software", "{certs}");
    assert_eq!(result["root"], "tpm");
    assert_eq!(result["devices"][0]["claims"]["image"], "good");
    assert_eq!(
        result["devices"][0]["claims"]["ek_sha256"],
        endorsement_key(&tpm).as_str()
    );
    // Everybody sees what the identity is worth.
    let status = mesh.status();
    assert_eq!(status["sidecars"][0]["class"], "software", "{status}");
}

#[test]
fn changed_pcrs_are_refused() {
    let tpm = start_tpm();
    tpm.extend(11, [7; 16]).expect("the TPM extends");
    let mesh = Mesh::start(&file([
        mesh(),
        tpm_profile("app/boot", "good", 11, UNTOUCHED),
        tpm_node("app/machine", &endorsement_key(&tpm)),
        workload("app/one", "boot", "machine", &[]),
    ]));
    let sidecar = mesh
        .sidecar("one", "app/one", &attester(&tpm))
        .start(mesh.path());
    assert_eq!(refusal(&mesh, &sidecar, "app/one"), "image");
    // The expected value is the operator's to know, not the refused peer's.
    assert!(!sidecar.process.output().contains(UNTOUCHED));
}

#[test]
fn a_tpm_that_is_not_a_member_is_refused() {
    let (listed, other) = (start_tpm(), start_tpm());
    let mesh = Mesh::start(&file([
        mesh(),
        tpm_profile("app/boot", "good", 11, UNTOUCHED),
        tpm_node("app/machine", &endorsement_key(&listed)),
        tpm_node("app/other-machine", &endorsement_key(&other)),
        workload("app/one", "boot", "machine", &[]),
        workload("app/two", "boot", "other-machine", &[]),
    ]));
    // The machine is known and its evidence is good; only the name is another's.
    let sidecar = mesh
        .sidecar("thief", "app/one", &attester(&other))
        .start(mesh.path());
    assert_eq!(refusal(&mesh, &sidecar, "app/one"), "not_a_member");
}

#[test]
fn simulated_evidence_satisfies_no_other_profile() {
    let mesh = Mesh::start(&file([
        simulated_mesh(),
        tpm_profile("app/boot", "good", 11, UNTOUCHED),
        tpm_node("app/machine", UNTOUCHED),
        workload("app/one", "boot", "machine", &[]),
    ]));
    let sidecar = mesh
        .simulated("one", "app/one", "machine", "good")
        .start(mesh.path());
    let reason = refusal(&mesh, &sidecar, "app/one");
    assert!(
        ["required_evidence", "evidence_set"].contains(&reason.as_str()),
        "{reason}"
    );
}

#[test]
fn a_production_domain_has_no_place_for_simulated_evidence() {
    // A profile that names it is refused at the start ...
    let documents = file([
        mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/machine"),
        workload("app/one", "any", "machine", &[]),
    ]);
    let said = Mesh::refuse(&documents);
    assert!(said.contains("danger_accept_simulated"), "{said}");

    // ... and a sidecar that sends it all the same is refused.
    let mesh = Mesh::start(&file([
        mesh(),
        tpm_profile("app/boot", "good", 11, UNTOUCHED),
        tpm_node("app/machine", UNTOUCHED),
        workload("app/one", "boot", "machine", &[]),
    ]));
    let sidecar = mesh
        .simulated("one", "app/one", "machine", "good")
        .start(mesh.path());
    let reason = refusal(&mesh, &sidecar, "app/one");
    assert!(
        [
            "simulated_not_accepted",
            "required_evidence",
            "evidence_set"
        ]
        .contains(&reason.as_str()),
        "{reason}"
    );
}

#[test]
fn whether_simulated_evidence_is_accepted_is_fixed_when_the_trust_domain_is_created() {
    let strict = file([
        mesh(),
        tpm_profile("app/boot", "good", 11, UNTOUCHED),
        tpm_node("app/machine", UNTOUCHED),
        workload("app/one", "boot", "machine", &[]),
    ]);
    let running = Mesh::start(&strict);
    let loose = strict.replace(
        "trust_domain: mesh.example",
        "trust_domain: mesh.example\n  danger_accept_simulated: true",
    );
    assert_ne!(strict, loose);
    running.write_policy(&loose);
    wait::until("the change to be refused", || {
        let error = running.status()["policy_error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        error.contains("danger_accept_simulated").then_some(())
    });
    assert_eq!(running.status()["accepts_simulated"], false);
}
