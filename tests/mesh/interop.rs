//! Promises 4 and 9 for peers without our sidecar: one whose certificate ends is drained in the last tenth of its
//! connection and cut at the end; one who is revoked to be drained finishes its call. Plain TLS clients and servers, and
//! HTTP/2 frame by frame.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{access, file, tpm_node, tpm_profile, workload};
use vouchsafe_tests::files::FileMesh;
use vouchsafe_tests::flow::Flow;
use vouchsafe_tests::http2::{DATA, GOAWAY, Http2};
use vouchsafe_tests::pki::{Authority, Issued, Leaf};
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::{tls, wait};

/// A door for requests and one for bytes, at workloads of their own: who has no sidecar can't say which port it means.
fn documents() -> String {
    let nobody = "0".repeat(64);
    let unattested = "client: {danger_unattested: true}\nserver: {danger_unattested: true}\n";
    file([
        tpm_profile("app/any", "any", 11, &nobody),
        tpm_node("app/node", &nobody),
        workload(
            "app/web",
            "any",
            "node",
            &["{name: web, port: 7001, protocol: http}"],
        ),
        workload(
            "app/raw",
            "any",
            "node",
            &["{name: raw, port: 7000, protocol: tcp}"],
        ),
        workload("app/client", "any", "node", &[]),
        access(
            "app/web",
            "web",
            "app/client",
            &format!("{unattested}allow: any"),
        ),
        access("app/raw", "raw", "app/client", unattested),
    ])
}

/// An application that begins answers which it ends when it is told to (`/held`), or never (any other path): these are
/// the milliseconds of its clock, again and again.
#[derive(Clone, Default)]
struct Application {
    may_finish: Arc<AtomicBool>,
}

impl Application {
    fn start(&self) -> Backend {
        let application = self.clone();
        Backend::serving(move |mut stream| {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte)?;
                head.extend(byte);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            if head.starts_with(b"GET /held ") {
                stream.write_all(b"6\r\nbegun \r\n")?;
                wait::until("the test to let the answer end", || {
                    application.may_finish.load(Ordering::Relaxed).then_some(())
                });
                stream.write_all(b"4\r\ndone\r\n0\r\n\r\n")?;
                // The connection is kept for whoever comes next; nobody does.
                return stream.read_exact(&mut byte);
            }
            loop {
                let event = format!("{} ", unix_ms(SystemTime::now()));
                write!(stream, "{:x}\r\n{event}\r\n", event.len())?;
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    }
}

fn unix_ms(time: SystemTime) -> u128 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.expect("it is after 1970").as_millis()
}

fn connect(sidecar: &Sidecar, identity: &Issued, protocols: &[&str]) -> tls::Stream {
    let stream = tls::connect(sidecar.listener(), Some(identity), protocols);
    let stream = stream.expect("the client is let in");
    let patience = stream.sock.set_read_timeout(Some(wait::DEADLINE));
    patience.expect("a socket option");
    stream
}

/// Begins a call of HTTP/2 and waits until its answer has begun.
fn call(sidecar: &Sidecar, identity: &Issued, path: &str) -> Http2<tls::Stream> {
    let stream = connect(sidecar, identity, &["h2"]);
    let mut connection = Http2::over(stream).expect("the connection is open");
    connection.get(path).expect("the connection is open");
    connection.until(DATA);
    connection
}

/// Reads a held answer to its end, and then the end of the connection.
#[track_caller]
fn finishes(mut connection: Http2<tls::Stream>) {
    let mut rest = Vec::new();
    loop {
        let frame = connection.frame().expect("the open call is cut off");
        if frame.kind == DATA {
            rest.extend(&frame.payload);
        }
        if frame.ends_stream() {
            break;
        }
    }
    assert_eq!(String::from_utf8_lossy(&rest), "done");
    // Nothing is left on it: it need not wait for its end.
    while connection.frame().is_some() {}
}

fn start(mesh: &FileMesh, name: &str, port: &str, application: &Backend) -> Sidecar {
    let spec = mesh.sidecar(name, &format!("app/{name}"));
    let mut sidecar = spec.inbound(port, application.address()).start(mesh.path());
    sidecar.wait_ready();
    sidecar
}

/// A certificate that ends on a whole second, as all do, after so many more or less.
fn ending(mesh: &FileMesh, workload: &str, seconds: u64) -> (Issued, SystemTime) {
    let now = unix_ms(SystemTime::now()) / 1000;
    let now = u64::try_from(now).expect("it is small");
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(now + seconds);
    let mut leaf = Leaf::new(&FileMesh::id(workload));
    leaf.not_after = end;
    (mesh.authority.issue(&leaf), end)
}

#[test]
fn a_client_without_our_sidecar_is_drained_and_cut_at_the_end_of_its_certificate() {
    let mesh = FileMesh::new(&documents());
    let application = Application::default();
    let (web, echo) = (application.start(), Backend::echo(b"", b""));
    let web_sidecar = start(&mesh, "web", "web", &web);
    let raw_sidecar = start(&mesh, "raw", "raw", &echo);
    let (identity, end) = ending(&mesh, "app/client", LIFETIME.as_secs());
    let opened = SystemTime::now();
    let mut finishing = call(&web_sidecar, &identity, "/held");
    let mut lasting = call(&web_sidecar, &identity, "/events");
    let mut idle = connect(&web_sidecar, &identity, &["http/1.1"]);
    let mut bytes = connect(&raw_sidecar, &identity, &[]);
    let mut echoes = |what: &str| {
        let mut back = [0; 4];
        bytes.write_all(b"ping").expect(what);
        bytes.read_exact(&mut back).expect(what);
    };
    echoes("bytes pass");

    // Drained: nothing new is taken on, and what is open goes on and may end.
    finishing.until(GOAWAY);
    let tenth = end.duration_since(opened).unwrap_or_default() / 10;
    assert!(
        SystemTime::now() >= end - tenth,
        "drained before the last tenth"
    );
    echoes("a flow is cut at the end and not before");
    application.may_finish.store(true, Ordering::Relaxed);
    finishes(finishing);
    let silent = idle.read(&mut [0]);
    assert!(
        !silent.is_ok_and(|count| count > 0),
        "a connection that asks nothing is told something"
    );

    // Cut: what is still open ends with the certificate, and is not taken for complete.
    let mut last = None;
    let mut events_after_goaway = 0;
    let mut is_drained = false;
    while let Some(frame) = lasting.frame() {
        is_drained |= frame.kind == GOAWAY;
        assert!(!frame.ends_stream(), "taken for complete");
        if frame.kind == DATA {
            events_after_goaway += u32::from(is_drained);
            last = Some(frame.payload);
        }
    }
    assert!(is_drained && events_after_goaway > 0);
    let last = String::from_utf8(last.expect("an event")).expect("it is text");
    let last: u128 = { last.split_whitespace().last() }
        .and_then(|number| number.parse().ok())
        .expect("an event is a time");
    // A worker that the machine forgets to run for a while passes on what came meanwhile before it looks at the clock.
    let slack = 1_000;
    assert!(
        last <= unix_ms(end) + slack,
        "a stream outlives its certificate"
    );
    let rest = bytes.read(&mut [0]);
    assert!(!rest.is_ok_and(|count| count > 0), "a flow goes on");
    for sidecar in [&web_sidecar, &raw_sidecar] {
        wait::until("the log to say why", || {
            let log = sidecar.process.output();
            log.contains("\"reason\":\"lease_ended\"").then_some(())
        });
    }
    wait::until("the certificate to end", || {
        (SystemTime::now() > end + WHOLE_SECOND).then_some(())
    });
    let answer = tls::exchange(raw_sidecar.listener(), Some(&identity), &[], b"ping");
    assert_eq!(answer, b"", "an expired certificate is let in");
    let expired = ["reason=\"certificate_expired\""];
    raw_sidecar.wait_metric("vouchsafe_handshake_failures_total", &expired, 1.0);
}

#[test]
fn a_server_without_our_sidecar_is_left_at_the_end_of_its_certificate() {
    let mesh = FileMesh::new(&documents());
    let (identity, end) = ending(&mesh, "app/raw", LIFETIME.as_secs());
    let server = tls::echo(&identity);
    let mut client = mesh
        .sidecar("client", "app/client")
        .outbound_to("app/raw", "raw", server)
        .start(mesh.path());
    client.wait_ready();
    let mut flow = wait::until("a flow to pass", || Flow::open(&client));
    // Nothing is sent from here on: no byte of ours tells when the end comes.
    assert!(flow.ends(), "a flow outlives the certificate of its server");
    wait::until("the log to say why", || {
        let log = client.process.output();
        log.contains("\"reason\":\"lease_ended\"").then_some(())
    });
    wait::until("the certificate to end", || {
        (SystemTime::now() > end + WHOLE_SECOND).then_some(())
    });
    assert!(Flow::open(&client).is_none(), "an expired server is called");
    let expired = ["reason=\"certificate_expired\""];
    client.wait_metric("vouchsafe_handshake_failures_total", &expired, 1.0);
}

#[test]
fn a_call_finishes_when_its_client_is_revoked_to_be_drained_and_a_new_one_is_denied() {
    let mesh = FileMesh::new(&documents());
    let application = Application::default();
    let web = application.start();
    let sidecar = start(&mesh, "web", "web", &web);
    let (revoked, kept) = (mesh.issue("app/client"), mesh.issue("app/client"));
    let mut draining = call(&sidecar, &revoked, "/held");
    let mut other = call(&sidecar, &kept, "/events");
    let spki = vouchsafe_attestation::svid::sha256(revoked.spki());
    mesh.write_policy(&revoking(&format!(
        "{{spki_sha256: [\"{}\"]}}, action: drain",
        hex::encode(spki)
    )));
    draining.until(GOAWAY);
    let ask = b"GET /held HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    let answer = tls::exchange(sidecar.listener(), Some(&revoked), &["http/1.1"], ask);
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        !answer.contains("begun"),
        "who is revoked is served: {answer}"
    );
    wait::until("the refusal to be counted", || {
        let revoked = ["direction=\"inbound\"", "reason=\"revoked\""];
        let counted = REFUSALS.map(|metric| sidecar.metric(metric, &revoked));
        (counted.iter().sum::<f64>() >= 1.0).then_some(())
    });
    application.may_finish.store(true, Ordering::Relaxed);
    finishes(draining);
    for _ in 0..20 {
        assert_eq!(
            other.frame().expect("somebody else was cut").kind,
            DATA,
            "somebody else was drained"
        );
    }
}

#[test]
fn a_revoked_authority_cuts_whom_it_vouched_for_and_nobody_else() {
    let mesh = FileMesh::new(&documents());
    let other = Authority::new(vouchsafe_tests::files::TRUST_DOMAIN);
    mesh.trust(&other);
    let echo = Backend::echo(b"", b"");
    let sidecar = start(&mesh, "raw", "raw", &echo);
    let client = Leaf::new(&FileMesh::id("app/client"));
    let mut meant = connect(&sidecar, &other.issue(&client), &[]);
    let mut kept = connect(&sidecar, &mesh.authority.issue(&client), &[]);
    let mut back = [0; 4];
    for stream in [&mut meant, &mut kept] {
        stream.write_all(b"ping").expect("the connection is open");
        stream.read_exact(&mut back).expect("bytes pass");
    }
    let spki = vouchsafe_attestation::svid::sha256(&other.spki());
    mesh.write_policy(&revoking(&format!(
        "{{authority_sha256: [\"{}\"]}}, action: cut",
        hex::encode(spki)
    )));
    let rest = meant.read(&mut back);
    assert!(
        !rest.is_ok_and(|count| count > 0),
        "what a revoked authority vouched for goes on"
    );
    kept.write_all(b"ping").expect("somebody else was cut");
    kept.read_exact(&mut back).expect("somebody else was cut");
    let answer = tls::exchange(
        sidecar.listener(),
        Some(&other.issue(&client)),
        &[],
        b"ping",
    );
    assert_eq!(
        answer, b"",
        "what a revoked authority vouches for is let in"
    );
    mesh.write_policy(&documents());
    wait::until("it to be believed again", || {
        let issued = other.issue(&client);
        let mut stream = tls::connect(sidecar.listener(), Some(&issued), &[]).ok()?;
        stream.write_all(b"ping").ok()?;
        stream.read_exact(&mut back).ok()
    });
}

/// The documents with a revocation: its match, and its action.
fn revoking(found: &str) -> String {
    format!(
        "{}---\napiVersion: vouchsafe.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: gone, namespace: app}}\nspec: {{match: {found}, reason: gone}}\n",
        documents()
    )
}

/// Where one who is turned away is counted, early or late.
const REFUSALS: [&str; 3] = [
    "vouchsafe_decisions_total",
    "vouchsafe_connection_cuts_total",
    "vouchsafe_failures_total",
];
/// Certificates are good for the whole of the second in which they end.
const WHOLE_SECOND: Duration = Duration::from_secs(1);
/// Long enough that a tenth of it is more than a busy machine needs between two lines of a test.
const LIFETIME: Duration = Duration::from_secs(30);
