//! Identity from files: denied without one, replaced without a restart, and never replaced by a broken one (promises 1
//! and 6).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::files::FileMesh;
use vouchsafe_tests::{binaries, client, tls, wait};

use crate::peers::documents;

#[test]
fn a_sidecar_without_an_identity_lives_denies_everything_and_starts_when_it_gets_one() {
    let mesh = FileMesh::new(&documents());
    let application = Backend::echo(b"", b"");
    let spec = mesh
        .sidecar("server", "app/server")
        .inbound("raw", application.address());
    let (key, hidden) = (mesh.path().join("server.key"), mesh.path().join("hidden"));
    std::fs::rename(&key, &hidden).expect("the key can be moved");
    let mut server = spec.start(mesh.path());
    server
        .process
        .wait_for_output("identity files can't be used: everything is denied");
    let get = |path| {
        client::get(server.metrics, path)
            .expect("the metrics door answers")
            .status
    };
    assert_eq!((get("/livez"), get("/readyz")), (200, 503));
    let caller = mesh.issue("app/client");
    assert_eq!(
        tls::exchange(server.listener(), Some(&caller), &[], b"secret"),
        b""
    );
    assert_eq!(application.connections(), 0);
    std::fs::rename(&hidden, &key).expect("the key can be moved");
    server.wait_ready();
    assert!(server.process.is_running());
}

#[test]
fn a_new_certificate_and_a_new_policy_act_without_a_restart() {
    let mesh = FileMesh::new(&documents());
    let application = Backend::echo(b"", b"");
    let mut server = mesh
        .sidecar("server", "app/server")
        .inbound("raw", application.address())
        .start(mesh.path());
    let mut caller = mesh
        .sidecar("client", "app/client")
        .outbound_to("app/server", "raw", server.listener())
        .start(mesh.path());
    server.wait_ready();
    caller.wait_ready();
    let flows = || {
        let mut flow = TcpStream::connect(caller.outbound(0)).expect("the door accepts");
        flow.set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout can be set");
        let mut back = [0; 4];
        flow.write_all(b"ping").is_ok() && flow.read_exact(&mut back).is_ok()
    };
    assert!(flows());
    let serial = |sidecar: &vouchsafe_tests::sidecar::Sidecar| {
        sidecar.admin("/certs")["identity"]["serial"].to_string()
    };
    let before = serial(&server);
    mesh.issue("app/server").write(mesh.path(), "server");
    wait::until("the new certificate to be used", || {
        (serial(&server) != before).then_some(())
    });
    assert!(flows());
    let good = documents();
    mesh.write_policy(&good.replace("kind: AccessPolicy", "kind: AcessPolicy"));
    for sidecar in [&server, &caller] {
        sidecar.wait_metric("vouchsafe_files_broken", &["what=\"policy\""], 1.0);
    }
    assert!(flows(), "the last good policy stays");
    let (without_rule, _) = good
        .rsplit_once("---")
        .expect("the rule is the last document");
    mesh.write_policy(without_rule);
    wait::until("the rule to be gone", || (!flows()).then_some(()));
    mesh.write_policy(&good);
    wait::until("the rule to be back", || flows().then_some(()));
}

#[test]
fn a_configuration_with_mistakes_starts_nothing_and_names_each() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("proxy.yaml");
    std::fs::write(
        &file,
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Proxy\nspec:\n  trust_domain: UPPER\n  workload: llm\n  \
         identty: {}\n",
    )
    .expect("the folder can be written");
    for arguments in [vec!["check"], vec![]] {
        let output = Command::new(binaries::proxy())
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        for line in ["proxy.yaml:4:17", "proxy.yaml:5:13", "proxy.yaml:6:3"] {
            assert!(said.contains(line), "{line} is not in:\n{said}");
        }
    }
}
