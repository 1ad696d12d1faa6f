//! Promise 5, for what is live: what a rule, evidence or time admitted ends with it, while its neighbours go on.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::wait;

const LANES: [&str; 2] = ["dedicated", "shared"];
const EVENTS: &str = "allow: [{methods: [GET], paths: [/events]}]";

/// A server with two ports and its client; `raw` and `web` are what the rules of these ports say more, `None` without one.
fn documents(raw: Option<&str>, web: Option<&str>) -> String {
    let mesh = simulated_mesh() + "  reattest: {root: 2s}\n";
    let mut documents = vec![
        mesh,
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        simulated_node("app/two"),
        workload(
            "app/server",
            "any",
            "one",
            &[
                "{name: raw, port: 7000, protocol: tcp}",
                "{name: web, port: 7001, protocol: http}",
            ],
        ),
        workload("app/client", "any", "two", &[]),
    ];
    documents.extend(raw.map(|more| access("app/server", "raw", "app/client", more)));
    documents.extend(web.map(|more| access("app/server", "web", "app/client", more)));
    documents.join("---\n")
}

struct Factory {
    // Dropped in this order: processes before their folder.
    client: Sidecar,
    server: Sidecar,
    mesh: Mesh,
}

impl Factory {
    #[track_caller]
    fn start(lane: &'static str, documents: &str) -> Self {
        let mesh = Mesh::start(documents);
        let echo = Backend::echo(b"", b"");
        // An application that never comes to the end of its events.
        let events = Backend::answering(|_| {
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n".to_vec()
        });
        let mut server = mesh
            .simulated("server", "app/server", "one", "any")
            .inbound("raw", echo.address())
            .inbound("web", events.address())
            .lane(lane)
            .start(mesh.path());
        let mut client = mesh
            .simulated("client", "app/client", "two", "any")
            .outbound("app/server", "raw")
            .outbound("app/server", "web")
            .lane(lane)
            .start(mesh.path());
        server.wait_ready();
        client.wait_ready();
        Self {
            client,
            server,
            mesh,
        }
    }

    /// A session of bytes, that has passed some.
    #[track_caller]
    fn session(&self) -> TcpStream {
        wait::until("a session to be let in", || {
            let mut flow = TcpStream::connect(self.client.outbound(0)).ok()?;
            flow.set_read_timeout(Some(PATIENCE)).ok()?;
            echoes(&mut flow).then_some(flow)
        })
    }

    /// A response of events that goes on and on.
    #[track_caller]
    fn events(&self) -> TcpStream {
        wait::until("events to come", || {
            let mut stream = TcpStream::connect(self.client.outbound(1)).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream
                .write_all(b"GET /events HTTP/1.1\r\nhost: server\r\n\r\n")
                .ok()?;
            let mut text = Vec::new();
            let mut bytes = [0; 1024];
            while !String::from_utf8_lossy(&text).contains("data: 1\n\n") {
                match stream.read(&mut bytes) {
                    Ok(count @ 1..) => text.extend_from_slice(&bytes[..count]),
                    Ok(0) | Err(_) => return None,
                }
            }
            text.starts_with(b"HTTP/1.1 200").then_some(stream)
        })
    }

    /// Waits until one of both sidecars, whichever came first, has logged that it ended something for one of these reasons.
    #[track_caller]
    fn wait_for_reason(&self, reasons: &[&str]) {
        wait::until("a log to say why", || {
            let logs = [&self.client, &self.server].map(|sidecar| sidecar.process.output());
            let said = |reason: &&str| {
                let field = format!("\"reason\":\"{reason}\"");
                let lines = logs.iter().flat_map(|log| log.lines());
                let mut lines = lines.filter(|line| line.contains("\"decision\":\"allow\""));
                lines.any(|line| line.contains(&field))
            };
            reasons.iter().any(said).then_some(())
        });
    }
}

fn echoes(flow: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    flow.write_all(b"ping").is_ok() && flow.read_exact(&mut back).is_ok() && back == *b"ping"
}

/// Waits for the end of a stream on which nothing is sent: it must come by itself.
fn ends(stream: &mut TcpStream) -> bool {
    loop {
        match stream.read(&mut [0; 64]) {
            Ok(0) => return true,
            // What was still under way.
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Whether a stream on which nothing is sent goes on.
fn is_open(mut stream: TcpStream) -> bool {
    let asked = stream.set_nonblocking(true);
    asked.expect("a socket can be asked without waiting");
    !ends(&mut stream)
}

/// Longest silence of a stream that must end.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_stream_ends_with_its_rule_and_the_streams_of_other_rules_go_on() {
    for lane in LANES {
        let factory = Factory::start(lane, &documents(Some(""), Some(EVENTS)));
        let (mut session, mut events) = (factory.session(), factory.events());
        let admitted = |sidecar: &Sidecar| sidecar.admin("/connections").to_string();
        assert!(
            admitted(&factory.server).contains("AccessPolicy app/client-to-server-web:"),
            "{}",
            admitted(&factory.server)
        );
        factory.mesh.write_policy(&documents(Some(""), None));
        assert!(ends(&mut events), "{lane}: events go on without their rule");
        factory.wait_for_reason(&["rule_removed", "unknown_door"]);
        assert!(echoes(&mut session), "{lane}: a neighbour was cut");

        factory.mesh.write_policy(&documents(None, Some(EVENTS)));
        assert!(
            ends(&mut session),
            "{lane}: a session goes on without its rule"
        );
    }
}

/// A server with a range of ports up to `last`, and its client.
fn ranged(last: u16) -> String {
    let range = format!("{{name: raw, ports: {BELOW_ALL}-{last}, protocol: tcp}}");
    file([
        simulated_mesh(),
        simulated_profile("app/any", "any"),
        simulated_node("app/one"),
        simulated_node("app/two"),
        workload("app/server", "any", "one", &[range.as_str()]),
        workload("app/client", "any", "two", &[]),
        access("app/server", "raw", "app/client", ""),
    ])
}

/// Below and above what listeners of tests get.
const BELOW_ALL: u16 = 15_000;
const ABOVE_ALL: u16 = 31_000;

#[test]
fn a_flow_ends_when_its_port_leaves_the_range_and_the_flows_of_other_ports_go_on() {
    for lane in LANES {
        let mesh = Mesh::start(&ranged(ABOVE_ALL));
        let echo = Backend::echo(b"", b"");
        let mut server = mesh
            .simulated("server", "app/server", "one", "any")
            .inbound("raw", echo.address())
            .lane(lane)
            .start(mesh.path());
        let mut client = mesh
            .simulated("client", "app/client", "two", "any")
            .outbound("app/server", "raw")
            .outbound("app/server", "raw")
            .lane(lane)
            .start(mesh.path());
        server.wait_ready();
        client.wait_ready();
        // In a range the listener's own number is the one that is called.
        let mut addresses = [client.outbound(0), client.outbound(1)];
        addresses.sort_by_key(|address| address.port());
        let [kept, lost] = addresses;
        let open = |address| {
            wait::until("a flow to be let in", || {
                let mut flow = TcpStream::connect(address).ok()?;
                flow.set_read_timeout(Some(PATIENCE)).ok()?;
                echoes(&mut flow).then_some(flow)
            })
        };
        let (mut stays, mut goes) = (open(kept), open(lost));
        mesh.write_policy(&ranged(lost.port() - 1));
        assert!(ends(&mut goes), "{lane}: a flow outlives its port");
        let why = [
            "\"decision\":\"allow\"".to_owned(),
            "\"reason\":\"unknown_door\"".to_owned(),
            format!("\"port_number\":{}", lost.port()),
        ];
        wait::until("a log to say why", || {
            let logs = [&client, &server].map(|sidecar| sidecar.process.output());
            let mut lines = logs.iter().flat_map(|log| log.lines());
            let says = |line: &str| why.iter().all(|field| line.contains(field));
            lines.any(says).then_some(())
        });
        assert!(echoes(&mut stays), "{lane}: a port of the range was cut");
        drop((client, server));
    }
}

#[test]
fn a_session_ends_when_its_evidence_grows_too_old_and_none_is_asked_for_elsewhere() {
    for lane in LANES {
        let aged = documents(Some("client: {attested_within: 6s}"), Some(EVENTS));
        let mut factory = Factory::start(lane, &aged);
        let (mut session, events) = (factory.session(), factory.events());
        // From now on nobody gives fresh evidence.
        factory.mesh.stop();
        assert!(
            ends(&mut session),
            "{lane}: a session outlives the age of its evidence"
        );
        factory.wait_for_reason(&["evidence_too_old"]);
        assert!(is_open(events), "{lane}: a neighbour was cut");
    }
}

#[test]
fn a_session_ends_when_its_rule_expires() {
    for lane in LANES {
        let factory = Factory::start(lane, &documents(None, Some(EVENTS)));
        let events = factory.events();
        let expiring = format!("expires: {}\nreason: drill", in_seconds(12));
        factory
            .mesh
            .write_policy(&documents(Some(&expiring), Some(EVENTS)));
        let mut session = factory.session();
        assert!(ends(&mut session), "{lane}: a session outlives its rule");
        factory.wait_for_reason(&["rule_expired"]);
        assert!(is_open(events), "{lane}: a neighbour was cut");
    }
}

/// A time of the near future, as documents have it.
fn in_seconds(seconds: u32) -> String {
    let date = Command::new("date")
        .args(["-u", "-d", &format!("+{seconds} seconds"), "+%FT%TZ"])
        .output()
        .expect("`date` runs");
    let text = String::from_utf8(date.stdout).expect("a time is text");
    text.trim().to_owned()
}

fn revocation(action: &str) -> String {
    format!(
        "---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: incident-7, namespace: app}}\nspec:\n  match: {{workload: [client]}}\n  action: {action}\n  reason: incident 7\n"
    )
}

#[test]
fn a_revocation_that_drains_lets_a_session_finish_and_nothing_new_in() {
    for lane in LANES {
        let open = documents(Some(""), Some(EVENTS));
        let factory = Factory::start(lane, &open);
        let mut session = factory.session();
        factory.mesh.write_policy(&(open + &revocation("drain")));
        wait::until("the connection to be drained", || {
            let listed = factory.server.admin("/connections");
            let listed = listed.as_array()?;
            (!listed.is_empty() && listed.iter().all(|one| one["draining"] == true)).then_some(())
        });
        assert!(echoes(&mut session), "{lane}: a drained session was cut");
        let mut new = TcpStream::connect(factory.client.outbound(0)).expect("the door accepts");
        new.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert!(!echoes(&mut new), "{lane}: a revoked client is let in");
        assert!(echoes(&mut session), "{lane}: a drained session was cut");
        session
            .shutdown(std::net::Shutdown::Write)
            .expect("a session can be ended");
        assert!(ends(&mut session), "{lane}");
    }
}

#[test]
fn a_revoked_workload_can_t_renew() {
    let open = documents(Some(""), Some(EVENTS));
    let factory = Factory::start("shared", &open);
    factory.mesh.write_policy(&(open + &revocation("deny_new")));
    wait::until("the refusal to be recorded", || {
        let records = factory.mesh.records();
        let is_refusal = |record: &serde_json::Value| record.to_string().contains("\"revoked\"");
        records.iter().any(is_refusal).then_some(())
    });
    // What it holds is the last that it gets.
    let held = factory.client.admin("/certs")["identity"]["serial"].clone();
    let refused = factory.mesh.metric("vouchsafe_refused_total", &[]);
    wait::until("another refusal", || {
        (factory.mesh.metric("vouchsafe_refused_total", &[]) > refused).then_some(())
    });
    assert_eq!(factory.client.admin("/certs")["identity"]["serial"], held);
}
