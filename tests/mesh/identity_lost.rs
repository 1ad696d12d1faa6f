//! Promise 1 before there is an identity: a sidecar whose control plane is away, or is not the one that was pinned,
//! denies everything, keeps trying, and says why once.

use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    SIMULATED_DOMAIN, access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::pki::{Authority, Leaf};
use vouchsafe_tests::sidecar::{Sidecar, Spec};
use vouchsafe_tests::{client, port, tls, wait};

fn identity(address: std::net::SocketAddr, pin: &str) -> String {
    format!(
        "control_plane:\n  addresses: ['{address}']\n  root_pins: [\"{pin}\"]\n  \
         attester: {{simulated: {{machine: one, image: any}}}}"
    )
}

#[track_caller]
fn denies_everything(sidecar: &Sidecar, application: &Backend) {
    wait::until("the sidecar to serve", || {
        client::get(sidecar.metrics, "/livez").ok()
    });
    assert!(!sidecar.is_ready());
    let caller = Authority::new(SIMULATED_DOMAIN).issue(&Leaf::new(&format!(
        "spiffe://{SIMULATED_DOMAIN}/ns/app/workload/client"
    )));
    let answer = tls::exchange(sidecar.listener(), Some(&caller), &[], b"let me in");
    assert_eq!(answer, b"");
    let outbound = client::get(sidecar.outbound(0), "/a").unwrap_or_default();
    assert!([0, 502, 503].contains(&outbound.status), "{outbound:?}");
    assert_eq!(application.connections(), 0);
}

#[test]
fn without_a_control_plane_everything_is_denied() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let application = Backend::http("hello");
    let spec = Spec::new(
        "one",
        SIMULATED_DOMAIN,
        "app/server",
        &identity(port::free(), &"0".repeat(64)),
    )
    .inbound("web", application.address())
    .outbound("app/other", "web");
    let sidecar = spec.start(folder.path());
    denies_everything(&sidecar, &application);
    sidecar.wait_metric("vouchsafe_attestations_total", &[], 3.0);
    let complaints = sidecar
        .process
        .output()
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .count();
    assert!(
        (1..=2).contains(&complaints),
        "{}",
        sidecar.process.output()
    );
}

#[test]
fn a_control_plane_whose_root_is_not_pinned_is_not_believed() {
    let mesh = Mesh::start(&file([
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        workload(
            "app/server",
            "any",
            "one",
            &["{name: web, port: 8000, protocol: http}"],
        ),
        workload(
            "app/other",
            "any",
            "one",
            &["{name: web, port: 8000, protocol: http}"],
        ),
        access("app/other", "web", "app/server", "allow: any"),
    ]));
    let application = Backend::http("hello");
    let spec = Spec::new(
        "one",
        SIMULATED_DOMAIN,
        "app/server",
        &identity(mesh.listen(), &"0".repeat(64)),
    )
    .inbound("web", application.address())
    .outbound("app/other", "web");
    let sidecar = spec.start(mesh.path());
    sidecar.wait_metric("vouchsafe_attestations_total", &[], 2.0);
    denies_everything(&sidecar, &application);
    // It showed nothing of itself to a control plane that it does not believe.
    assert!(
        mesh.records()
            .iter()
            .all(|record| record["workload"] != "app/server")
    );
}
