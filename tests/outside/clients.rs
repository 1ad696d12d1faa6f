//! curl, httpx, grpcio, the OpenAI client and websockets, each with a server that knows nothing of the mesh.

use std::path::Path;
use std::process::Command;

use vouchsafe_tests::backend::{self, Backend};
use vouchsafe_tests::process::Process;
use vouchsafe_tests::{binaries, port};

use crate::pair::{LANES, Pair, Renewed, Session, run_client, start_server, wait_listening};

#[test]
fn curl_speaks_both_versions_of_http() {
    for lane in LANES {
        let application = echo();
        let pair = Pair::start(lane, "http", ECHO, application.address());
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            // A body larger than every buffer on the way, up and down again.
            let body = "vouchsafe ".repeat(300_000);
            let answer = curl(&pair, &[version, "--data-binary", "@-"], "/echo", &body);
            assert!(
                answer == body,
                "{lane} {version}: {} bytes came back",
                answer.len()
            );

            let denied = curl(
                &pair,
                &[version, "-o", "/dev/null", "-w", "%{http_code}"],
                "/other",
                "",
            );
            assert_eq!(denied, "403", "{lane} {version}");
        }
        // Two requests on one kept connection, the second with `Expect: 100-continue`.
        let url = format!("http://{}/echo", pair.door());
        let output = Command::new("curl")
            .args([
                "-sS",
                "--http1.1",
                "-d",
                "one",
                &url,
                "-w",
                "%{num_connects}",
                "--next",
            ])
            .args([
                "-sS",
                "--http1.1",
                "-H",
                "expect: 100-continue",
                "-d",
                "two",
                &url,
                "-w",
                "%{num_connects}",
            ])
            .output()
            .expect("curl is installed");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "one1two0",
            "{lane}"
        );
        pair.assert_lane(lane);
    }
}

#[test]
fn httpx_keeps_connections_of_both_versions() {
    for lane in LANES {
        let application = echo();
        let pair = Pair::start(lane, "http", ECHO, application.address());
        run_client("httpx-client", &format!("http://{}", pair.door()));
        pair.assert_lane(lane);
    }
}

#[test]
fn grpc_streams_both_ways_with_trailers() {
    let allow = "allow:\n  - {grpc: {service: test.v1.Echo, methods: [Unary, Refuse, Count, Both, Hang]}}\n  \
                 - {grpc: {service: grpc.health.v1.Health, methods: any}}";
    for lane in LANES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (server, address) = start_server("grpc-server", folder.path());
        let pair = Pair::start(lane, "http", allow, address);
        run_client("grpc-client", &pair.door().to_string());
        // The client's cancellation and its deadline have both reached the server.
        vouchsafe_tests::wait::until("the server to see both calls end", || {
            let cancelled = server
                .output()
                .lines()
                .filter(|line| *line == "cancelled")
                .count();
            (cancelled == 2).then_some(())
        });
        pair.assert_lane(lane);
    }
}

#[test]
fn the_openai_client_streams() {
    let allow = "allow:\n  - {methods: [POST], paths: [/v1/chat/completions]}\n  \
                 - {methods: [GET], paths: [/v1/models]}";
    for lane in LANES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = port::free();
        let program = binaries::tree().join("deploy/local/components/model_server.py");
        let number = address.port().to_string();
        let arguments = [
            Path::new("-B"),
            &program,
            Path::new("--port"),
            Path::new(&number),
        ];
        let _server = Process::spawn(
            "model-server",
            folder.path(),
            Path::new("python3"),
            arguments,
        );
        wait_listening(address);
        let pair = Pair::start(lane, "http", allow, address);
        run_client("openai-client", &format!("http://{}/v1", pair.door()));
        pair.assert_lane(lane);
    }
}

#[test]
fn websockets_pass() {
    for lane in LANES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_server, address) = start_server("websocket-server", folder.path());
        let pair = Pair::start(
            lane,
            "http",
            "allow:\n  - {methods: [GET], paths: [/socket]}",
            address,
        );
        run_client("websocket-client", &format!("ws://{}/socket", pair.door()));
    }
}

#[test]
fn a_websocket_lives_through_five_renewals() {
    for lane in LANES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_server, address) = start_server("websocket-server", folder.path());
        let allow = "allow:\n  - {methods: [GET], paths: [/socket]}";
        let pair = Renewed::start(lane, "http", allow, address);
        let url = format!("ws://{}/socket", pair.door());
        let mut session = Session::python("websocket-session", &url);
        pair.through_five_renewals(|number| {
            let message = format!("message {number}");
            assert_eq!(session.ask(&message), message, "{lane}");
        });
    }
}

const ECHO: &str = "allow:\n  - {methods: [GET, POST], paths: [/echo]}";

/// Answers with the body of the request.
fn echo() -> Backend {
    Backend::answering(|request| {
        let mut answer = backend::response(200, "");
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            request.body.len()
        );
        answer.clear();
        answer.extend(head.as_bytes());
        answer.extend(&request.body);
        answer
    })
}

#[track_caller]
fn curl(pair: &Pair, options: &[&str], path: &str, body: &str) -> String {
    use std::io::Write as _;
    let mut child = Command::new("curl")
        .args(["-sS", "--max-time", "60"])
        .args(options)
        .arg(format!("http://{}{path}", pair.door()))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("curl is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    let body = body.to_owned();
    // Written aside, so that curl can answer while it still reads; it may also stop reading when it was denied.
    let writer = std::thread::spawn(move || stdin.write_all(body.as_bytes()));
    let output = child.wait_with_output().expect("curl runs");
    let _ = writer.join();
    assert!(
        output.status.success(),
        "curl {options:?} {path}: {:?}",
        output.status
    );
    String::from_utf8(output.stdout).expect("the answer is text")
}
