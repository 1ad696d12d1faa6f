//! `collect` of a software TPM, and what the operator's command line makes of the bundle: judged, drafted, checked.

use std::path::Path;
use std::process::{Command, Output};

use vouchsafe_tests::binaries;
use vouchsafe_tests::swtpm::Swtpm;
use vouchsafe_verifier::evidence::tpm::event_log::EventLog;
use vouchsafe_verifier::evidence::tpm::hash::HashAlgorithm::{Sha256, Sha384};

const LOG: &str = "control-plane/verifier/testdata/tpm/eventlog-rhel8-uefi.bin";

/// A TPM that booted as the log says.
fn boot(log: &[u8]) -> Swtpm {
    let swtpm = Swtpm::start().unwrap();
    for event in EventLog::parse(log).unwrap().events() {
        const EV_NO_ACTION: u32 = 3;
        if event.kind != EV_NO_ACTION {
            let pcr = u8::try_from(event.pcr).unwrap();
            let (sha256, sha384) = (event.digest(Sha256).unwrap(), event.digest(Sha384).unwrap());
            swtpm.measure(pcr, sha256, sha384).unwrap();
        }
    }
    swtpm
}

fn vouchsafe(words: &[&str]) -> Output {
    Command::new(binaries::vouchsafe())
        .args(words)
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{text}{error}");
    text
}

#[test]
fn a_bundle_is_judged_drafted_into_a_profile_and_pinned_by_a_node() {
    let log = binaries::tree().join(LOG);
    let swtpm = boot(&std::fs::read(&log).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (bundle_path, socket) = (path(&bundle), path(&swtpm.socket()));
    let nonce = "5a".repeat(32);
    // The operator's command runs the sidecar beside it, or the one on the path.
    let beside = binaries::proxy().parent().unwrap();
    let collected = Command::new(binaries::vouchsafe())
        .args(["attest", "collect", "--out", &bundle_path, "--tpm", &socket])
        .args(["--event-log", &path(&log), "--nonce", &nonce])
        .args(["--node", "gpu-07", "--namespace", "inference"])
        .env("PATH", beside)
        .output()
        .unwrap();
    let node = succeeds(&collected);
    assert!(
        node.contains("kind: Node") && node.contains("tpm_ek_sha256: "),
        "{node}"
    );

    // The attestation key counts once the operator enrolled it.
    let (tpm, enrolled) = (path(&bundle.join("tpm")), folder.path().join("enrolled"));
    let verify = |nonce: &str, enrolled: &str| {
        let output = vouchsafe(&[
            "attest",
            "verify",
            "--kind",
            "tpm",
            "--expect-nonce",
            nonce,
            "--endorsements",
            enrolled,
            "-o",
            "json",
            &tpm,
        ]);
        let judged: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (
            output.status.code(),
            judged["reason"].as_str().unwrap().to_owned(),
        )
    };
    std::fs::create_dir(&enrolled).unwrap();
    let enrolled_path = path(&enrolled);
    assert_eq!(
        verify(&nonce, &enrolled_path),
        (Some(1), "ak_not_certified".into())
    );
    std::fs::copy(bundle.join("tpm/ak.pub"), enrolled.join("gpu-07.pub")).unwrap();
    assert_eq!(verify(&nonce, &enrolled_path), (Some(0), "verified".into()));
    assert_eq!(
        verify(&"5b".repeat(32), &enrolled_path),
        (Some(1), "nonce_mismatch".into())
    );

    // The draft, with the node and a mesh, is a policy.
    let profile = succeeds(&vouchsafe(&[
        "attest",
        "reference",
        &bundle_path,
        "--name",
        "rhel",
        "--namespace",
        "inference",
        "--image",
        "rhel-8",
    ]));
    assert!(profile.contains("secure_boot: true"), "{profile}");
    // No manufacturer vouches for a software TPM, which the operator must accept by name.
    let profile = profile.replace("classes: [hardware]", "classes: [hardware, software]");
    let policy = folder.path().join("policy");
    std::fs::create_dir(&policy).unwrap();
    let mesh = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: demo}\n\
                spec: {trust_domain: demo.example, certificates: {lifetime: 1h}}\n";
    for (name, text) in [("mesh", mesh), ("node", &node), ("profile", &profile)] {
        std::fs::write(policy.join(format!("{name}.yaml")), text).unwrap();
    }
    succeeds(&vouchsafe(&["check", &path(&policy)]));

    // A folder that exists is left alone, and a TPM that is not there is named.
    let again = Command::new(binaries::proxy())
        .args(["collect", "--out", &bundle_path, "--tpm", &socket])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(1));
    let nowhere = Command::new(binaries::proxy())
        .args([
            "collect",
            "--out",
            &path(&folder.path().join("other")),
            "--tpm",
            "/dev/tpmrm9",
        ])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(error.contains("/dev/tpmrm9"), "{error}");
}
