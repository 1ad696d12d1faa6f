//! From evidence to identity, with a real control plane: an instance that proves what its profile asks gets a
//! certificate and traffic passes; one that does not is denied everything, is told why, and is let in when the operator
//! changes what is asked. The evidence is simulated here; `tests/tpm` has that of software TPMs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::{Sidecar, Spec};
use vouchsafe_tests::{client, wait};

/// Two machines, a server and a client on one each, and the rule that joins them.
fn documents() -> String {
    file([
        simulated_mesh(),
        simulated_profile("app/image", "image-1"),
        simulated_node("app/machine-1"),
        simulated_node("app/machine-2"),
        workload(
            "app/server",
            "image",
            "machine-1",
            &["{name: raw, port: 7000, protocol: tcp}"],
        ),
        workload("app/client", "image", "machine-2", &[]),
        access("app/server", "raw", "app/client", ""),
    ])
}

struct Factory {
    // Dropped in this order: processes before their folder.
    client: Sidecar,
    server: Sidecar,
    application: Backend,
    mesh: Mesh,
}

impl Factory {
    fn start() -> Self {
        Self::start_with(&documents())
    }

    fn start_with(documents: &str) -> Self {
        let mesh = Mesh::start(documents);
        let application = Backend::echo(b"", b"");
        let server = mesh
            .simulated("server", "app/server", "machine-1", "image-1")
            .inbound("raw", application.address())
            .start(mesh.path());
        let client = mesh
            .simulated("client", "app/client", "machine-2", "image-1")
            .outbound("app/server", "raw")
            .start(mesh.path());
        let mut factory = Self {
            client,
            server,
            application,
            mesh,
        };
        factory.server.wait_ready();
        factory.client.wait_ready();
        // Where the server is reached comes by a later revision than the client's first.
        wait::until("a flow to pass", || factory.flows().then_some(()));
        factory
    }

    fn flows(&self) -> bool {
        flows(self.client.outbound(0))
    }
}

/// Starts a sidecar that can't be ready yet, and waits until its doors are open.
fn listening(spec: &Spec, mesh: &Mesh) -> Sidecar {
    let sidecar = spec.start(mesh.path());
    sidecar
        .process
        .wait_for_output("listening: everything is denied");
    sidecar
}

fn flows(address: SocketAddr) -> bool {
    let mut flow = TcpStream::connect(address).expect("the outbound door accepts");
    flow.set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout can be set");
    let mut back = [0; 4];
    flow.write_all(b"ping").is_ok() && flow.read_exact(&mut back).is_ok() && back == *b"ping"
}

#[test]
fn evidence_becomes_an_identity_that_shows_its_class_everywhere() {
    let factory = Factory::start();
    let certs = factory.server.admin("/certs");
    let identity = &certs["identity"];
    assert_eq!(
        identity["id"],
        json!("spiffe://simulated.example/ns/app/workload/server")
    );
    let result = &identity["attestation_result"];
    assert_eq!(result["class"], json!("simulated"));
    assert_eq!(result["devices"][0]["claims"]["image"], json!("image-1"));
    assert_eq!(certs["trust_bundle"][0]["attested"], json!(true));
    let dump = factory.server.admin("/config_dump");
    assert_eq!(dump["time"]["authenticated"], json!(true));
    let connections = factory.server.admin("/connections");
    assert_eq!(connections[0]["class"], json!("simulated"), "{connections}");
}

#[test]
fn a_change_of_policy_reaches_running_sidecars_for_new_flows() {
    let factory = Factory::start();
    let reached = factory.application.connections();
    let (without_rule, _) = documents()
        .rsplit_once("---")
        .map(|(before, rule)| (before.to_owned(), rule.to_owned()))
        .expect("the rule is the last document");
    factory.mesh.write_policy(&without_rule);
    wait::until("the rule to be gone", || (!factory.flows()).then_some(()));
    let before = factory.application.connections();
    assert!(before >= reached);
    assert!(!factory.flows());
    assert_eq!(factory.application.connections(), before);
    factory.mesh.write_policy(&documents());
    wait::until("the rule to be back", || factory.flows().then_some(()));
}

#[test]
fn a_refused_instance_says_why_once_denies_everything_and_gets_in_when_policy_changes() {
    let mesh = Mesh::start(&documents());
    let application = Backend::echo(b"", b"");
    let spec = mesh
        .simulated("server", "app/server", "machine-1", "image-2")
        .inbound("raw", application.address());
    let mut server = listening(&spec, &mesh);
    server.wait_metric(
        "vouchsafe_attestations_total",
        &["outcome=\"refused\""],
        2.0,
    );
    assert!(!server.is_ready());
    let live = client::get(server.metrics, "/livez").expect("the metrics door answers");
    assert_eq!(live.status, 200);
    let said = server.process.output();
    let lines = said.matches("no certificate: everything is denied").count();
    assert_eq!(lines, 1, "{said}");
    mesh.write_policy(&documents().replace("image-1", "image-2"));
    server.wait_ready();
}

#[test]
fn a_listed_machine_is_refused_the_name_of_another_workload() {
    let mesh = Mesh::start(&documents());
    let spec = mesh
        .simulated("thief", "app/server", "machine-2", "image-1")
        .inbound("raw", Backend::echo(b"", b"").address());
    let thief = listening(&spec, &mesh);
    thief.wait_metric(
        "vouchsafe_attestations_total",
        &["outcome=\"refused\""],
        1.0,
    );
    assert!(!thief.is_ready());
    assert_eq!(thief.admin("/certs")["identity"], json!(null));
}

#[test]
fn a_control_plane_whose_root_is_not_pinned_gives_nothing() {
    let (mesh, other) = (Mesh::start(&documents()), Mesh::start(&documents()));
    let identity = format!(
        "control_plane:\n  addresses: ['{}']\n  root_pins: [\"{}\"]\n  attester: {{simulated: {{machine: \
         machine-1, image: image-1}}}}",
        mesh.listen(),
        other.root_pin()
    );
    let spec = Spec::new("server", "simulated.example", "app/server", &identity);
    let server = listening(&spec, &mesh);
    server.wait_metric(
        "vouchsafe_attestations_total",
        &["outcome=\"untrusted\""],
        2.0,
    );
    assert!(!server.is_ready());
    let said = server.process.output();
    assert_eq!(
        said.matches("what answered is not the control plane")
            .count(),
        1,
        "{said}"
    );
}

#[test]
fn without_a_control_plane_what_runs_goes_on_and_what_starts_waits() {
    let mut factory = Factory::start();
    factory.mesh.stop();
    assert!(factory.flows());
    let spec = factory
        .mesh
        .simulated("late", "app/client", "machine-2", "image-1")
        .outbound("app/server", "raw");
    let mut late = listening(&spec, &factory.mesh);
    late.wait_metric(
        "vouchsafe_attestations_total",
        &["outcome=\"unreachable\""],
        2.0,
    );
    assert!(
        !flows(late.outbound(0)),
        "without an identity everything is denied"
    );
    assert!(factory.flows());
    factory.mesh.restart();
    late.wait_ready();
    wait::until("the late one's flow", || {
        flows(late.outbound(0)).then_some(())
    });
    assert!(factory.flows());
}

/// The same documents with certificates that live as shortly as an operator may say.
fn short_lived(lifetime: &str, root: &str) -> String {
    let simulated = "danger_accept_simulated: true";
    documents().replace(
        simulated,
        &format!(
            "{simulated}\n  certificates: {{lifetime: {lifetime}}}\n  reattest: {{root: {root}}}"
        ),
    )
}

#[test]
fn a_certificate_is_replaced_with_new_evidence_while_flows_pass() {
    let factory = Factory::start_with(&short_lived("30s", "2s"));
    let identity = || factory.server.admin("/certs")["identity"].clone();
    let before = identity();
    let after = wait::until("a new certificate", || {
        let now = identity();
        (now["serial"] != before["serial"]).then_some(now)
    });
    assert_ne!(
        before["spki_sha256"], after["spki_sha256"],
        "a key of its own"
    );
    let (old, new) = (&before["attestation_result"], &after["attestation_result"]);
    assert_eq!(old["instance"], new["instance"], "still the same instance");
    assert!(old["evidence_time"].as_u64() < new["evidence_time"].as_u64());
    assert!(factory.flows());
}

#[test]
fn a_certificate_that_ends_without_a_successor_denies_everything() {
    let mut factory = Factory::start_with(&short_lived("8s", "3s"));
    factory.mesh.stop();
    wait::until("the certificates to end", || {
        let has_ended = |sidecar: &Sidecar| {
            !sidecar.is_ready() && sidecar.admin("/certs")["identity"] == json!(null)
        };
        (has_ended(&factory.server) && has_ended(&factory.client)).then_some(())
    });
    assert!(!factory.flows());
    factory.mesh.restart();
    factory.server.wait_ready();
    factory.client.wait_ready();
    wait::until("flows to pass again", || factory.flows().then_some(()));
}
