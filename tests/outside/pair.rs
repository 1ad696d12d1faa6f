//! Two sidecars and nothing else between a client and a server: `app/client` calls `app/server`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use vouchsafe_tests::documents::{access, file, tpm_node, tpm_profile, workload};
use vouchsafe_tests::files::FileMesh;
use vouchsafe_tests::process::{self, Process};
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::{binaries, port, wait};

/// Both lanes of the connection between sidecars, forced by configuration.
pub(crate) const LANES: [&str; 2] = ["shared", "dedicated"];

/// A server of another maker behind one sidecar, and a door to it beside another.
pub(crate) struct Pair {
    // Dropped in this order: processes before their folder.
    client: Sidecar,
    server: Sidecar,
    _mesh: FileMesh,
}

impl Pair {
    /// The door is called `door`, speaks `protocol`, and opens by `allow`, further lines of the rule.
    #[track_caller]
    pub(crate) fn start(
        lane: &'static str,
        protocol: &str,
        allow: &str,
        upstream: SocketAddr,
    ) -> Self {
        let nobody = "0".repeat(64);
        let port = format!("{{name: door, port: 7000, protocol: {protocol}, lane: {lane}}}");
        let mesh = FileMesh::new(&file([
            tpm_profile("app/any", "any", 11, &nobody),
            tpm_node("app/node", &nobody),
            workload("app/server", "any", "node", &[&port]),
            workload("app/client", "any", "node", &[]),
            access(
                "app/server",
                "door",
                "app/client",
                &format!(
                    "client: {{danger_unattested: true}}\nserver: {{danger_unattested: true}}\n{allow}"
                ),
            ),
        ]));
        let mut server = mesh
            .sidecar("server", "app/server")
            .lane(lane)
            .inbound("door", upstream)
            .start(mesh.path());
        let mut client = mesh
            .sidecar("client", "app/client")
            .lane(lane)
            .outbound_to("app/server", "door", server.listener())
            .start(mesh.path());
        server.wait_ready();
        client.wait_ready();
        Self {
            client,
            server,
            _mesh: mesh,
        }
    }

    /// Where the client connects.
    pub(crate) fn door(&self) -> SocketAddr {
        self.client.outbound(0)
    }

    /// The traffic really took this lane.
    #[track_caller]
    pub(crate) fn assert_lane(&self, lane: &str) {
        let label = format!("lane=\"{lane}\"");
        let labels = ["direction=\"inbound\"", &label];
        assert!(
            self.server.metric("vouchsafe_connections_total", &labels) > 0.0,
            "no connection of the {lane} lane"
        );
    }
}

/// A Python with the clients, as `tests/run` prepares it.
#[track_caller]
fn python() -> PathBuf {
    let told = std::env::var_os("VOUCHSAFE_CLIENTS").map(PathBuf::from);
    let python = told.unwrap_or_else(|| binaries::tree().join("target/clients/bin/python"));
    assert!(
        python.exists(),
        "no Python clients at {}: `./tests/run` prepares them",
        python.display()
    );
    python
}

fn script() -> PathBuf {
    binaries::tree().join("tests/outside/clients.py")
}

/// Runs one of the clients to its end; it checks everything itself.
#[track_caller]
pub(crate) fn run_client(name: &str, target: &str) {
    let script = script();
    let arguments = [Path::new("-B"), &script, Path::new(name), Path::new(target)];
    process::run(python(), arguments).expect_success();
}

/// Starts one of the servers and waits until it listens.
#[track_caller]
pub(crate) fn start_server(name: &str, folder: &Path) -> (Process, SocketAddr) {
    let address = port::free();
    let script = script();
    let number = address.port().to_string();
    let arguments = [
        Path::new("-B"),
        &script,
        Path::new(name),
        Path::new(&number),
    ];
    let process = Process::spawn(name, folder, &python(), arguments);
    wait_listening(address);
    (process, address)
}

/// Waits until something accepts connections.
#[track_caller]
pub(crate) fn wait_listening(address: SocketAddr) {
    wait::until(&format!("something to listen on {address}"), || {
        std::net::TcpStream::connect(address).ok().map(drop)
    });
}
