//! Promises 1 and 2 at an inbound door: whoever is not a verified peer is closed with a bounded reason that is counted,
//! and no byte reaches the application.
//!
//! The door is one of a trust domain whose authority attests nothing, so that the test can be its issuer and make every
//! kind of wrong certificate. What an attesting authority's leaf must carry besides is tested in `identity`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use vouchsafe_tests::backend::Backend;
use vouchsafe_tests::documents::{access, file, tpm_node, tpm_profile, workload};
use vouchsafe_tests::files::FileMesh;
use vouchsafe_tests::pki::{Authority, Issued, Leaf};
use vouchsafe_tests::sidecar::Sidecar;
use vouchsafe_tests::{tls, wait};

/// Documents of a TCP door that `app/client` may open.
pub(crate) fn documents() -> String {
    let nobody = "0".repeat(64);
    file([
        tpm_profile("app/any", "any", 11, &nobody),
        tpm_node("app/node", &nobody),
        workload(
            "app/server",
            "any",
            "node",
            &["{name: raw, port: 7000, protocol: tcp}"],
        ),
        workload("app/client", "any", "node", &[]),
        workload("app/stranger", "any", "node", &[]),
        access(
            "app/server",
            "raw",
            "app/client",
            "client: {danger_unattested: true}\nserver: {danger_unattested: true}",
        ),
    ])
}

struct Door {
    // Dropped in this order: the process before its folder.
    sidecar: Sidecar,
    application: Backend,
    mesh: FileMesh,
}

impl Door {
    fn open() -> Self {
        let mesh = FileMesh::new(&documents());
        let application = Backend::echo(b"", b"");
        let mut sidecar = mesh
            .sidecar("server", "app/server")
            .inbound("raw", application.address())
            .start(mesh.path());
        sidecar.wait_ready();
        Self {
            sidecar,
            application,
            mesh,
        }
    }

    /// A client with this certificate sends application data; the door must refuse it for `reason`.
    #[track_caller]
    fn refuses(&self, identity: Option<&Issued>, reason: &str) {
        let label = format!("reason=\"{reason}\"");
        let before = self.refusals(&label);
        let answer = tls::exchange(self.sidecar.listener(), identity, &[], SECRET);
        assert_eq!(answer, b"", "{reason}: the client got an answer");
        wait::until(
            &format!("{reason} to be counted; so far:\n{}", self.all_refusals()),
            || (self.refusals(&label) > before).then_some(()),
        );
        assert_eq!(
            self.application.connections(),
            0,
            "{reason}: the application was reached"
        );
    }

    fn refusals(&self, label: &str) -> f64 {
        [
            "vouchsafe_handshake_failures_total",
            "vouchsafe_decisions_total",
            "vouchsafe_failures_total",
        ]
        .iter()
        .map(|metric| self.sidecar.metric(metric, &[label]))
        .sum()
    }

    fn all_refusals(&self) -> String {
        let text =
            vouchsafe_tests::client::get(self.sidecar.metrics, "/metrics").map(|page| page.body);
        let text = text.unwrap_or_default();
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains("reason="))
            .collect();
        lines.join("\n")
    }

    fn leaf(&self, change: impl FnOnce(&mut Leaf)) -> Issued {
        let mut leaf = Leaf::new(&FileMesh::id("app/client"));
        change(&mut leaf);
        self.mesh.authority.issue(&leaf)
    }
}

const SECRET: &[u8] = b"application data that must not pass";
const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn only_a_verified_peer_that_a_rule_names_reaches_the_application() {
    let door = Door::open();

    door.refuses(None, "no_certificate");
    door.refuses(
        Some(&Authority::new("files.example").issue(&Leaf::new(&FileMesh::id("app/client")))),
        "untrusted_authority",
    );
    door.refuses(
        Some(
            &Authority::new("evil.example")
                .issue(&Leaf::new("spiffe://evil.example/ns/app/workload/client")),
        ),
        "foreign_trust_domain",
    );
    door.refuses(
        Some(&door.leaf(|leaf| {
            leaf.uris = vec!["spiffe://evil.example/ns/app/workload/client".to_owned()]
        })),
        "foreign_trust_domain",
    );
    door.refuses(
        Some(&door.leaf(|leaf| {
            leaf.not_before = SystemTime::now() - 2 * DAY;
            leaf.not_after = SystemTime::now() - DAY;
        })),
        "certificate_expired",
    );
    door.refuses(
        Some(&door.leaf(|leaf| {
            leaf.not_before = SystemTime::now() + DAY;
            leaf.not_after = SystemTime::now() + 2 * DAY;
        })),
        "certificate_not_yet_valid",
    );
    door.refuses(
        Some(&door.leaf(|leaf| leaf.uris.push(FileMesh::id("app/server")))),
        "certificate_profile",
    );
    door.refuses(
        Some(&door.leaf(|leaf| leaf.uris.clear())),
        "certificate_profile",
    );
    door.refuses(
        Some(&door.leaf(|leaf| leaf.uris = vec!["https://files.example/app/client".to_owned()])),
        "certificate_profile",
    );
    door.refuses(
        Some(&door.leaf(|leaf| leaf.key_cert_sign = true)),
        "certificate_profile",
    );
    door.refuses(
        Some(&door.leaf(|leaf| leaf.authority = true)),
        "certificate_profile",
    );
    door.refuses(Some(&door.mesh.issue("app/stranger")), "no_rule");
    assert_eq!(door.application.bytes(), b"");

    // The same door does open: what stood before was refused for its reason, not because nothing works.
    let mut stream = tls::connect(
        door.sidecar.listener(),
        Some(&door.mesh.issue("app/client")),
        &[],
    )
    .expect("a verified peer connects");
    stream.write_all(SECRET).expect("the connection is open");
    let mut echo = vec![0; SECRET.len()];
    stream
        .read_exact(&mut echo)
        .expect("the application answers");
    assert_eq!(echo, SECRET);
}

#[test]
fn plaintext_never_reaches_the_application() {
    let door = Door::open();
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0x16; 64],
    ] {
        let mut stream = TcpStream::connect(door.sidecar.listener()).expect("the listener accepts");
        stream
            .set_read_timeout(Some(wait::DEADLINE))
            .expect("a socket option");
        stream.write_all(bytes).expect("the connection is open");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("the connection is open");
        let mut answer = Vec::new();
        // A reset is an answer too; what matters is that nothing of the application is in it.
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.len() < 16,
            "more than a TLS alert came back: {answer:?}"
        );
    }
    door.sidecar
        .wait_metric("vouchsafe_handshake_failures_total", &[], 4.0);
    assert_eq!(door.application.connections(), 0);
}

#[test]
fn tls_1_2_is_refused() {
    let door = Door::open();
    let (chain, key) = door
        .mesh
        .issue("app/client")
        .write(door.mesh.path(), "client");
    let handshake = |version: &str| {
        let output = Command::new("openssl")
            .args([
                "s_client",
                version,
                "-connect",
                &door.sidecar.listener().to_string(),
            ])
            .arg("-cert")
            .arg(&chain)
            .arg("-key")
            .arg(&key)
            .stdin(Stdio::null())
            .output()
            .expect("openssl is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    let refused = handshake("-tls1_2");
    assert!(refused.contains("alert protocol version"), "{refused}");
    door.sidecar
        .wait_metric("vouchsafe_handshake_failures_total", &[], 1.0);
    assert_eq!(door.application.connections(), 0);
    // With the same key and certificate TLS 1.3 is spoken.
    let accepted = handshake("-tls1_3");
    assert!(accepted.contains("TLSv1.3"), "{accepted}");
    assert!(
        !accepted.contains("Reused, TLSv1.3")
            && !accepted.contains("Post-Handshake New Session Ticket")
    );
}
