//! Two sidecars between a client and a server: `app/client` calls `app/server`; with nothing else, or with a control plane.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, tpm_node, tpm_profile,
    workload,
};
use vouchsafe_tests::files::FileMesh;
use vouchsafe_tests::mesh::Mesh;
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

/// The same with a control plane, whose certificates live for eight seconds and are replaced every two.
pub(crate) struct Renewed {
    // Dropped in this order: processes before their folder.
    client: Sidecar,
    server: Sidecar,
    _mesh: Mesh,
}

impl Renewed {
    #[track_caller]
    pub(crate) fn start(
        lane: &'static str,
        protocol: &str,
        allow: &str,
        upstream: SocketAddr,
    ) -> Self {
        let simulated = "danger_accept_simulated: true";
        let short = "certificates: {lifetime: 8s}\n  reattest: {root: 2s}";
        let port = format!("{{name: door, port: 7000, protocol: {protocol}}}");
        let mesh = Mesh::start(&file([
            simulated_mesh().replace(simulated, &format!("{simulated}\n  {short}")),
            simulated_profile("app/any", "any"),
            simulated_node("app/one"),
            simulated_node("app/two"),
            workload("app/server", "any", "one", &[&port]),
            workload("app/client", "any", "two", &[]),
            access("app/server", "door", "app/client", allow),
        ]));
        let mut server = mesh
            .simulated("server", "app/server", "one", "any")
            .lane(lane)
            .inbound("door", upstream)
            .start(mesh.path());
        let mut client = mesh
            .simulated("client", "app/client", "two", "any")
            .lane(lane)
            .outbound("app/server", "door")
            .start(mesh.path());
        server.wait_ready();
        client.wait_ready();
        // The endpoint may follow a moment after the policy.
        wait::until("the client to know where the server is", || {
            let endpoints = client.admin("/policy").to_string();
            (endpoints.contains(&server.listener().to_string())).then_some(())
        });
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

    /// Goes on with `exchange` until both ends have been renewed five times, and have proven it on what is open.
    #[track_caller]
    pub(crate) fn through_five_renewals(&self, mut exchange: impl FnMut(u32)) {
        let issued = ["outcome=\"issued\""];
        let extended = ["outcome=\"extended\""];
        let both = || {
            [&self.client, &self.server].map(|sidecar| {
                [
                    sidecar.metric("vouchsafe_attestations_total", &issued),
                    sidecar.metric("vouchsafe_lease_extensions_total", &extended),
                ]
            })
        };
        let before = both();
        let mut number = 0;
        loop {
            // Many times between two renewals.
            for _ in 0..10 {
                exchange(number);
                number += 1;
            }
            let now = both().into_iter().flatten();
            let grown = now.zip(before.into_iter().flatten());
            if grown.map(|(now, before)| now - before).all(|by| by >= 5.0) {
                return;
            }
        }
    }
}

/// A client that answers each line with one.
pub(crate) struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Session {
    #[track_caller]
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client is installed");
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = child.stdout.take().expect("a pipe");
        Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        }
    }

    /// One of the clients in Python.
    #[track_caller]
    pub(crate) fn python(name: &str, target: &str) -> Self {
        let mut command = Command::new(python());
        command.arg("-B").arg(script()).args([name, target]);
        Self::of(command)
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").expect("the session is open");
        let mut answer = String::new();
        let read = self.stdout.read_line(&mut answer);
        assert!(
            read.is_ok_and(|count| count > 0),
            "the session has ended, asked for {line}"
        );
        answer.trim_end().to_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
