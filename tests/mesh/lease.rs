//! Promise 4: sessions live for as long as both ends are renewed. A TCP session, an event stream and a websocket go on
//! through five renewals of both ends without a hiccup, on both lanes, and end with their lease when renewals end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{
    access, file, simulated_mesh, simulated_node, simulated_profile, workload,
};
use vouchsafe_tests::mesh::Mesh;
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::wait;

/// Certificates that live for eight seconds and are replaced every two.
fn documents() -> String {
    let mesh = simulated_mesh().replace(
        "danger_accept_simulated: true",
        "danger_accept_simulated: true\n  certificates: {lifetime: 8s}\n  reattest: {root: 2s}",
    );
    file([
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
        access("app/server", "raw", "app/client", ""),
        access("app/server", "web", "app/client", "allow: any"),
    ])
}

/// Streams events to whoever asks for them, and echoes to whoever asks for a websocket.
fn web() -> Backend {
    Backend::serving(|mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        if head.contains("upgrade: websocket") {
            stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            )?;
            loop {
                stream.read_exact(&mut byte)?;
                stream.write_all(&byte)?;
            }
        }
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        for number in 0_u64.. {
            let event = format!("data: {number}\n\n");
            write!(stream, "{:x}\r\n{event}\r\n", event.len())?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })
}

/// One byte there and back.
fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the sidecar listens");
    let timeout = Some(Duration::from_secs(5));
    stream.set_read_timeout(timeout).expect("a timeout is set");
    stream
}

/// A stream of events: each must be the one after the last.
struct Events {
    reader: BufReader<TcpStream>,
    /// What chunks have brought and no event has used.
    text: String,
    next: u64,
}

impl Events {
    fn open(address: SocketAddr) -> Self {
        let mut stream = connect(address);
        stream
            .write_all(b"GET /events HTTP/1.1\r\nhost: web\r\n\r\n")
            .expect("the sidecar reads");
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let count = reader.read_line(&mut head).expect("a head");
            assert!(count > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        Self {
            reader,
            text: String::new(),
            next: 0,
        }
    }

    /// Reads one event; `false` when the stream has ended.
    #[track_caller]
    fn advances(&mut self) -> bool {
        while !self.text.contains("\n\n") {
            let Some(chunk) = self.chunk() else {
                return false;
            };
            self.text.push_str(&chunk);
        }
        let (event, rest) = self.text.split_once("\n\n").expect("it has an end");
        assert_eq!(event, format!("data: {}", self.next), "an event is lost");
        self.text = rest.to_owned();
        self.next += 1;
        true
    }

    fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).ok()?;
        chunk.truncate(size);
        String::from_utf8(chunk)
            .ok()
            .filter(|chunk| !chunk.is_empty())
    }
}

fn websocket(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream
        .write_all(b"GET /socket HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .expect("the sidecar reads");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    stream
}

/// How often a sidecar's certificate has been replaced.
fn renewals(sidecar: &Sidecar) -> f64 {
    sidecar.metric("vouchsafe_attestations_total", &["outcome=\"issued\""])
}

#[track_caller]
fn check(lane: &'static str) {
    let mut mesh = Mesh::start(&documents());
    let (raw, web) = (Backend::echo(b"", b""), web());
    let mut server = mesh
        .simulated("server", "app/server", "one", "any")
        .inbound("raw", raw.address())
        .inbound("web", web.address())
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
    wait::until("a flow to pass", || {
        echoes(&mut connect(client.outbound(0))).then_some(())
    });
    let mut session = connect(client.outbound(0));
    assert!(echoes(&mut session));
    let mut events = Events::open(client.outbound(1));
    assert!(events.advances());
    let mut socket = websocket(client.outbound(1));
    assert!(echoes(&mut socket));

    let before = [renewals(&server), renewals(&client)];
    let renewed = || renewals(&server) - before[0] >= 5.0 && renewals(&client) - before[1] >= 5.0;
    while !renewed() {
        // Both sides of the session are looked at between two renewals many times over.
        for _ in 0..10 {
            assert!(
                echoes(&mut session),
                "{lane}: the session ended:\n{}",
                client.process.output()
            );
            assert!(
                events.advances(),
                "{lane}: the events ended:\n{}",
                client.process.output()
            );
            assert!(
                echoes(&mut socket),
                "{lane}: the websocket ended:\n{}",
                client.process.output()
            );
        }
    }
    for sidecar in [&server, &client] {
        let extended = ["outcome=\"extended\""];
        // The last renewal may not have been proven yet.
        sidecar.wait_metric("vouchsafe_lease_extensions_total", &extended, 5.0);
    }

    // Without renewals no lease is extended.
    mesh.stop();
    let ends = |stream: &mut TcpStream| {
        let mut rest = Vec::new();
        let timeout = Some(Duration::from_secs(20));
        stream.set_read_timeout(timeout).expect("a timeout is set");
        !stream.read_to_end(&mut rest).is_err_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            )
        })
    };
    assert!(ends(&mut session), "{lane}: the session outlives its lease");
    assert!(
        ends(&mut socket),
        "{lane}: the websocket outlives its lease"
    );
    while events.advances() {}
}

#[test]
fn sessions_live_through_five_renewals_on_the_shared_lane() {
    check("shared");
}

#[test]
fn sessions_live_through_five_renewals_on_the_dedicated_lane() {
    check("dedicated");
}
