//! A sidecar leaves without breaking anyone: what is open may end, outbound serves as long as inbound has something to
//! finish, and only a deadline or a second signal cuts.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use serde_json::json;
use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::files::FileMesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::{client, wait};

use crate::peers::documents;

/// A client's sidecar in front of a server's sidecar in front of an echo.
struct Pair {
    // Dropped in this order: processes before their folder.
    client: Sidecar,
    server: Sidecar,
    _application: Backend,
    _mesh: FileMesh,
}

impl Pair {
    fn start(lane: &'static str, drain: &str) -> Self {
        let mesh = FileMesh::new(&documents());
        let application = Backend::echo(b"", b"");
        let mut server = mesh
            .sidecar("server", "app/server")
            .inbound("raw", application.address())
            .lane(lane)
            .more(&format!("  drain: {drain}"))
            .start(mesh.path());
        let mut client = mesh
            .sidecar("client", "app/client")
            .outbound_to("app/server", "raw", server.listener())
            .lane(lane)
            .start(mesh.path());
        server.wait_ready();
        client.wait_ready();
        Self {
            client,
            server,
            _application: application,
            _mesh: mesh,
        }
    }

    fn flow(&self) -> TcpStream {
        let mut flow = open(self.client.outbound(0));
        assert!(echoes(&mut flow), "the pair carries a flow");
        flow
    }

    fn wait_draining(&self) {
        wait::until("the server to drain", || {
            let ready = client::get(self.server.metrics, "/readyz").ok()?;
            (ready.status == 503 && ready.body.contains("draining")).then_some(())
        });
    }
}

fn open(address: SocketAddr) -> TcpStream {
    let flow = TcpStream::connect(address).expect("the outbound door accepts");
    flow.set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout can be set");
    flow
}

fn echoes(flow: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    flow.write_all(b"ping").is_ok() && flow.read_exact(&mut back).is_ok() && back == *b"ping"
}

#[track_caller]
fn check_drain_lets_flows_end(lane: &'static str) {
    let mut pair = Pair::start(lane, "10m");
    let mut flow = pair.flow();
    pair.server.process.signal("TERM");
    pair.wait_draining();
    assert!(echoes(&mut flow), "an open flow goes on while draining");
    assert!(pair.server.process.is_running());
    // A lane hears of it by the next tick of its worker; what comes before is carried to its end.
    wait::until("the server to take on nothing new", || {
        (!echoes(&mut open(pair.client.outbound(0)))).then_some(())
    });
    assert!(echoes(&mut flow), "an open flow still goes on");
    drop(flow);
    let status = pair.server.process.wait();
    assert!(
        status.success(),
        "{status}: {}",
        pair.server.process.output()
    );
    assert!(
        !pair.server.admin.exists(),
        "the admin socket is left behind"
    );
}

#[test]
fn a_drain_lets_flows_of_the_dedicated_lane_end() {
    check_drain_lets_flows_end("dedicated");
}

#[test]
fn a_drain_lets_flows_of_the_shared_lane_end() {
    check_drain_lets_flows_end("shared");
}

#[test]
fn outbound_accepts_until_the_last_inbound_connection_has_ended() {
    let mesh = FileMesh::new(&documents());
    let application = Backend::echo(b"", b"");
    let mut server = mesh
        .sidecar("server", "app/server")
        .inbound("raw", application.address())
        .start(mesh.path());
    server.wait_ready();
    // A gateway: called at its own door, it calls the server's. Here both are doors of `app/server`'s policy.
    let mut gateway = mesh
        .sidecar("gateway", "app/server")
        .inbound("raw", application.address())
        .outbound_to("app/server", "raw", server.listener())
        .more("  drain: 10m")
        .start(mesh.path());
    let mut client = mesh
        .sidecar("client", "app/client")
        .outbound_to("app/server", "raw", gateway.listener())
        .start(mesh.path());
    gateway.wait_ready();
    client.wait_ready();
    let mut inbound = open(client.outbound(0));
    assert!(echoes(&mut inbound));
    gateway.process.signal("TERM");
    wait::until("the gateway to drain", || {
        (!gateway.is_ready()).then_some(())
    });
    assert!(
        TcpStream::connect(gateway.outbound(0)).is_ok(),
        "the application may still call out"
    );
    drop(inbound);
    assert!(gateway.process.wait().success());
}

#[test]
fn a_second_signal_cuts_at_once() {
    let mut pair = Pair::start("dedicated", "10m");
    let mut flow = pair.flow();
    pair.server.process.signal("TERM");
    pair.wait_draining();
    pair.server.process.signal("INT");
    assert!(pair.server.process.wait().success());
    assert!(!echoes(&mut flow));
}

#[test]
fn what_is_open_at_the_deadline_is_cut_for_a_reason() {
    let mut pair = Pair::start("dedicated", "1s");
    let mut flow = pair.flow();
    pair.server.process.signal("TERM");
    assert!(pair.server.process.wait().success());
    assert!(!echoes(&mut flow));
    let output = pair.server.process.output();
    assert!(output.contains("\"reason\":\"drain\""), "{output}");
}

#[test]
fn a_hang_up_changes_nothing() {
    let mut pair = Pair::start("dedicated", "10m");
    let mut flow = pair.flow();
    pair.server.process.signal("HUP");
    assert!(echoes(&mut flow));
    assert!(pair.server.is_ready());
    assert!(pair.server.process.is_running());
}

#[test]
fn operators_see_everything_but_secrets_and_may_ask_to_leave() {
    let mut pair = Pair::start("dedicated", "10m");
    let _flow = pair.flow();
    let mode = std::fs::metadata(&pair.server.admin)
        .expect("the socket exists")
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let dump = pair.server.admin("/config_dump");
    assert_eq!(dump["ready"], json!(true));
    assert_eq!(
        dump["inbound"][0]["listen"],
        json!(pair.server.listener().to_string())
    );
    assert_eq!(dump["time"]["authenticated"], json!(false));
    let certs = pair.server.admin("/certs");
    assert_eq!(
        certs["identity"]["id"],
        json!("spiffe://files.example/ns/app/workload/server")
    );
    assert_eq!(certs["trust_bundle"][0]["attested"], json!(false));
    let connections = pair.server.admin("/connections");
    let of_peer = |connection: &&serde_json::Value| {
        connection["peer"] == json!("spiffe://files.example/ns/app/workload/client")
    };
    let connections = connections.as_array().expect("a list");
    assert_eq!(
        connections.iter().filter(of_peer).count(),
        1,
        "{connections:?}"
    );
    assert_eq!(pair.server.admin("/policy")["is_known"], json!(true));
    for page in ["/config_dump", "/certs", "/connections", "/policy"] {
        let page = client::get_unix(&pair.server.admin, page).expect("the admin socket answers");
        assert!(!page.body.contains("PRIVATE"), "{}", page.body);
    }
    let answer = client::post_unix(&pair.server.admin, "/quitquitquit");
    assert_eq!(answer.expect("the admin socket answers").status, 202);
    assert!(pair.server.process.wait().success());
}
