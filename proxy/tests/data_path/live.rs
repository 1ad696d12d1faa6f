//! Promise 5 for what is live: a stream ends with the rule, the authority or the age that it rests on, alone, and by its
//! true reason; each of both sidecars sees to it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vouchsafe_config::policy::Lane;
use vouchsafe_proxy::state::IdentityEpoch;

use crate::raw_peer::handshake;
use crate::support::{
    LANES, Mesh, POLICY, Pair, Sidecar, Wish, application, policy, read_all, read_until, run, soon,
    until,
};

/// Two rules for one port, by paths.
const TWO: &str = "\
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: more, namespace: app}
spec:
  to: {workload: server, port: web}
  from: [{workload: app/client}]
  client: {danger_unattested: true}
  server: {danger_unattested: true}
  allow:
    - methods: [GET]
      paths: [/more]
    - {grpc: {service: test.Echo, methods: [More]}}
";

fn two() -> String {
    format!("{POLICY}{TWO}")
}

/// The same without the rule of a name.
fn without(rule: &str) -> String {
    let text = two();
    let documents: Vec<&str> = text
        .split("---\n")
        .filter(|one| {
            !(one.contains("kind: AccessPolicy") && one.contains(&format!("name: {rule},")))
        })
        .collect();
    assert_eq!(documents.len() + 1, text.split("---\n").count());
    documents.join("---\n")
}

/// Which sidecar learns of the change: each must act alone.
const SIDES: [Side; 2] = [Side::Client, Side::Server];

#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Server,
}

impl Side {
    fn of(self, pair: &Pair) -> &Sidecar {
        match self {
            Self::Client => &pair.client,
            Self::Server => &pair.server,
        }
    }

    fn log_of(self, pair: Pair) -> impl Future<Output = String> {
        match self {
            Self::Client => pair.client.end(),
            Self::Server => pair.server.end(),
        }
    }
}

fn pair(lane: Lane, port: &'static str, application: SocketAddr) -> Pair {
    let pair = Pair::start(lane, port, application);
    for side in [&pair.client, &pair.server] {
        side.state.replace_policy(policy(&two()));
    }
    pair
}

/// Sends an event each few milliseconds for as long as somebody listens.
async fn events() -> SocketAddr {
    application(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.write_all(b"data: x\n\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

async fn listen(pair: &Pair, path: &str) -> TcpStream {
    let mut stream = pair.connect().await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: app\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let text = read_until(&mut stream, "data: x\n\n").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    stream
}

fn line<'a>(log: &'a str, part: &str) -> &'a str {
    log.lines()
        .find(|line| line.contains(part))
        .unwrap_or_else(|| panic!("no {part} in {log}"))
}

#[test]
fn events_end_with_their_rule_and_a_neighbour_on_the_same_connection_goes_on() {
    run(async {
        for (lane, side) in LANES
            .into_iter()
            .flat_map(|lane| SIDES.map(|side| (lane, side)))
        {
            let pair = pair(lane, "web", events().await);
            let mut falls = listen(&pair, "/ok").await;
            let mut stays = listen(&pair, "/more").await;
            side.of(&pair).state.replace_policy(policy(&without("web")));
            let rest = read_all(&mut falls).await;
            assert!(
                !rest.contains("\r\n0\r\n\r\n"),
                "{lane:?} {side:?}: taken for complete"
            );
            for _ in 0..20 {
                let text = read_until(&mut stays, "data: x\n\n").await;
                assert!(text.contains("data: x"), "{lane:?} {side:?}: {text}");
            }
            let labels = &["reason=\"rule_removed\""];
            side.of(&pair)
                .counts("vouchsafe_stream_cuts_total", labels)
                .await;
            if lane == Lane::Shared {
                let opened = &["direction=\"inbound\"", "lane=\"shared\""];
                assert!(pair.server.metric("vouchsafe_connections_total", opened) < 2.0);
            }
            let log = side.log_of(pair).await;
            let fell = line(&log, "\"path\":\"/ok\"");
            assert!(fell.contains("\"decision\":\"allow\""), "{fell}");
            assert!(fell.contains("\"rule\":\"AccessPolicy app/web:"), "{fell}");
            assert!(fell.contains("\"reason\":\"rule_removed\""), "{fell}");
        }
    });
}

#[test]
fn an_upgraded_connection_ends_with_its_rule() {
    run(async {
        for (lane, side) in LANES
            .into_iter()
            .flat_map(|lane| SIDES.map(|side| (lane, side)))
        {
            let server = application(|mut stream| async move {
                read_until(&mut stream, "\r\n\r\n").await;
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                              Upgrade: websocket\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            })
            .await;
            let pair = pair(lane, "web", server);
            let open = async |path: &str| {
                let mut stream = pair.connect().await;
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping|"
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                assert!(
                    read_until(&mut stream, "ping|")
                        .await
                        .starts_with("HTTP/1.1 101")
                );
                stream
            };
            let (mut falls, mut stays) = (open("/ok").await, open("/more").await);
            side.of(&pair).state.replace_policy(policy(&without("web")));
            assert_eq!(read_all(&mut falls).await, "");
            stays.write_all(b"later|").await.unwrap();
            assert_eq!(
                read_until(&mut stays, "later|").await,
                "later|",
                "{lane:?} {side:?}"
            );
            let log = side.log_of(pair).await;
            let fell = line(&log, "\"path\":\"/ok\"");
            assert!(fell.contains("\"reason\":\"rule_removed\""), "{fell}");
        }
    });
}

#[test]
fn a_call_is_reset_as_permission_denied_and_its_neighbour_goes_on() {
    run(async {
        for lane in LANES {
            let server = application(|stream| async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::task::spawn_local(async move {
                        let mut body = request.into_body();
                        let mut send = respond.send_response(Response::new(()), false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            let _ = send.send_data(data, false);
                        }
                    });
                }
            })
            .await;
            let pair = pair(lane, "web", server);
            let stream = TcpStream::connect(pair.client.calls(0)).await.unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::task::spawn_local(async move {
                let _ = connection.await;
            });
            let call = |method: &str| {
                let mut client = client.clone();
                let request = Request::post(format!("http://app/test.Echo/{method}"))
                    .header("content-type", "application/grpc")
                    .body(())
                    .unwrap();
                let (response, mut send) = client.send_request(request, false).unwrap();
                send.send_data(Bytes::from_static(b"ping"), false).unwrap();
                async move {
                    let mut body = soon("the head", response).await.unwrap().into_body();
                    assert_eq!(soon("an echo", body.data()).await.unwrap().unwrap(), "ping");
                    (send, body)
                }
            };
            let (falls, stays) = (call("Both"), call("More"));
            let ((_send, mut falls), (mut send, mut stays)) = (falls.await, stays.await);
            pair.client.state.replace_policy(policy(&without("web")));
            let error = soon("the reset", falls.data()).await.unwrap().unwrap_err();
            // What gRPC turns into PERMISSION_DENIED.
            assert_eq!(
                error.reason(),
                Some(h2::Reason::INADEQUATE_SECURITY),
                "{lane:?}"
            );
            send.send_data(Bytes::from_static(b"later"), false).unwrap();
            assert_eq!(
                soon("an echo", stays.data()).await.unwrap().unwrap(),
                "later"
            );
            let log = pair.client.end().await;
            let fell = line(&log, "\"path\":\"/test.Echo/Both\"");
            assert!(fell.contains("\"reason\":\"rule_removed\""), "{fell}");
        }
    });
}

#[test]
fn a_session_of_bytes_ends_with_its_rule() {
    run(async {
        for (lane, side) in LANES
            .into_iter()
            .flat_map(|lane| SIDES.map(|side| (lane, side)))
        {
            let server = application(|mut stream| async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            })
            .await;
            let pair = pair(lane, "raw", server);
            let mut flow = pair.connect().await;
            flow.write_all(b"select 1;").await.unwrap();
            assert_eq!(read_until(&mut flow, ";").await, "select 1;");
            // A change that does not touch it is not even felt.
            side.of(&pair).state.replace_policy(policy(&without("web")));
            flow.write_all(b"select 2;").await.unwrap();
            assert_eq!(read_until(&mut flow, ";").await, "select 2;");
            side.of(&pair).state.replace_policy(policy(&without("raw")));
            assert_eq!(read_all(&mut flow).await, "");
            let log = side.log_of(pair).await;
            let fell = line(&log, "\"port\":\"raw\"");
            assert!(
                fell.contains("\"reason\":\"rule_removed\""),
                "{lane:?} {side:?}: {fell}"
            );
        }
    });
}

#[test]
fn a_request_that_has_no_answer_yet_is_answered_with_the_reason() {
    run(async {
        for (lane, side) in LANES
            .into_iter()
            .flat_map(|lane| SIDES.map(|side| (lane, side)))
        {
            let asked = Rc::new(Cell::new(false));
            let begun = Rc::clone(&asked);
            let server = application(move |mut stream| {
                let begun = Rc::clone(&begun);
                async move {
                    read_until(&mut stream, "\r\n\r\n").await;
                    begun.set(true);
                    let _ = stream.read(&mut [0; 1]).await;
                }
            })
            .await;
            let pair = pair(lane, "web", server);
            let mut stream = pair.connect().await;
            let request = "GET /ok HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            until("the application to be asked", || asked.get()).await;
            side.of(&pair).state.replace_policy(policy(&without("web")));
            let answer = read_all(&mut stream).await;
            assert!(
                answer.starts_with("HTTP/1.1 403"),
                "{lane:?} {side:?}: {answer}"
            );
            assert!(
                answer.contains("vouchsafe-reason: rule_removed"),
                "{answer}"
            );
        }
    });
}

/// An application that reads to the end; whether it has read a byte, and what the end was.
async fn reading() -> (SocketAddr, Rc<Cell<bool>>, Rc<Cell<Option<Ending>>>) {
    let (begun, ended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
    let seen = (Rc::clone(&begun), Rc::clone(&ended));
    let address = application(move |mut stream| {
        let (begun, ended) = (Rc::clone(&seen.0), Rc::clone(&seen.1));
        async move {
            stream.read_u8().await.unwrap();
            begun.set(true);
            let mut rest = Vec::new();
            let outcome = stream.read_to_end(&mut rest).await;
            ended.set(Some(outcome.map_err(|error| error.kind()).err()));
        }
    });
    (address.await, begun, ended)
}

/// Why reading failed; `None` where it came to a good end.
type Ending = Option<std::io::ErrorKind>;

const RESET: Option<Ending> = Some(Some(std::io::ErrorKind::ConnectionReset));

#[test]
fn an_upload_whose_connection_is_cut_does_not_look_whole_to_the_application() {
    run(async {
        for (lane, side) in LANES
            .into_iter()
            .flat_map(|lane| SIDES.map(|side| (lane, side)))
        {
            let (server, begun, ended) = reading().await;
            let pair = pair(lane, "raw", server);
            let mut flow = pair.connect().await;
            flow.write_all(b"half of it").await.unwrap();
            until("the first byte", || begun.get()).await;
            side.of(&pair).believe(Mesh::new().bundle());
            until("the end", || ended.get().is_some()).await;
            assert_eq!(ended.get(), RESET, "{lane:?} {side:?}");
        }
    });
}

#[test]
fn an_upload_whose_peer_closes_the_lane_does_not_look_whole_to_the_application() {
    run(async {
        let (server, begun, ended) = reading().await;
        let mesh = Mesh::new();
        let wish = Wish::new("app/server", Lane::Shared).behind("raw", server);
        let sidecar = Sidecar::start(&mesh, wish);
        let svid = mesh.svid("app/client", Duration::from_secs(3600));
        let (mut lane, _) = handshake(sidecar.door(), &svid, b"vouchsafe-shared/1").await;
        // SETTINGS, a CONNECT stream for a flow, and some of what flows, without its end.
        let head =
            b"\0\x07:method\x07CONNECT\0\x0a:authority\x08raw:7000\0\x0evouchsafe-flow\x03tcp";
        let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        said.extend([0, 0, u8::try_from(head.len()).unwrap(), 1, 4, 0, 0, 0, 1]);
        said.extend(head);
        said.extend(b"\0\0\x0a\0\0\0\0\0\x01half of it");
        lane.write_all(&said).await.unwrap();
        until("the first byte", || begun.get()).await;
        // In order, as far as TLS and TCP go.
        lane.shutdown().await.unwrap();
        until("the end", || ended.get().is_some()).await;
        assert_eq!(ended.get(), RESET);
    });
}

#[test]
fn a_peer_whose_authority_leaves_the_bundle_is_cut() {
    run(async {
        for (lane, side) in LANES
            .into_iter()
            .flat_map(|lane| SIDES.map(|side| (lane, side)))
        {
            let server = application(|mut stream| async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            })
            .await;
            let pair = pair(lane, "raw", server);
            let mut flow = pair.connect().await;
            flow.write_all(b"x").await.unwrap();
            assert_eq!(read_until(&mut flow, "x").await, "x");
            let state = &side.of(&pair).state;
            let held = state.identity.load_full().unwrap();
            // A bundle that only gains an authority cuts nobody.
            let another = Mesh::new();
            for (number, authorities, falls) in [
                (2, vec![pair.mesh.bundle(), another.bundle()], false),
                (3, vec![another.bundle()], true),
            ] {
                let authorities = authorities.iter().flat_map(|bundle| bundle.authorities());
                let authorities = authorities.cloned().collect();
                let bundle = vouchsafe_attestation::trust_bundle::TrustBundle::new(authorities);
                state.replace_identity(Some(Arc::new(IdentityEpoch {
                    number,
                    svid: Arc::clone(&held.svid),
                    bundle: Arc::new(bundle.unwrap()),
                })));
                if falls {
                    assert_eq!(read_all(&mut flow).await, "");
                } else {
                    flow.write_all(b"y").await.unwrap();
                    assert_eq!(read_until(&mut flow, "y").await, "y", "{lane:?} {side:?}");
                }
            }
            let log = side.log_of(pair).await;
            assert!(
                log.contains("\"reason\":\"authority_removed\""),
                "{lane:?} {side:?}: {log}"
            );
        }
    });
}

#[test]
fn who_asks_what_a_policy_would_end_is_told_and_nothing_ends() {
    run(async {
        for lane in LANES {
            let pair = pair(lane, "web", events().await);
            let mut falls = listen(&pair, "/ok").await;
            let _stays = listen(&pair, "/more").await;
            for side in SIDES {
                let connections = side.of(&pair).workers.as_ref().unwrap().connections();
                let would = connections.would_fall(Arc::new(policy(&without("web"))));
                let told = soon("an answer", would).await.unwrap();
                assert_eq!(told.len(), 1, "{lane:?} {side:?}: {told:?}");
                assert_eq!(told[0].reason, "rule_removed");
                let stream = told[0].stream.as_ref().unwrap();
                assert_eq!(stream.path.as_deref(), Some("/ok"));
                let would = connections.would_fall(Arc::new(policy(&two())));
                assert!(soon("an answer", would).await.unwrap().is_empty());
            }
            let text = read_until(&mut falls, "data: x\n\n").await;
            assert!(text.contains("data: x"), "{lane:?}: {text}");
        }
    });
}
