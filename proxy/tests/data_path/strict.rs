//! Strict routes: what a man in the middle can do who signs handshakes in both ends' names, where rules ask for
//! certificates alone and where they ask for proofs over the connection.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureAlgorithm,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use vouchsafe_attestation::connection_proof::{
    ConnectionBinding, ConnectionId, ConnectionTranscript, EXPORTER_LABEL, ProofPurpose,
};
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::policy::{Binding, Lane};
use vouchsafe_proxy::lane::control::message::{Message, Parsed};
use vouchsafe_proxy::state::Svid;

use crate::raw_peer::{Anyone, RawPeer, handshake, sign, transcript};
use crate::support::{
    Attested, LANES, Mesh, Pair, Sidecar, Wish, application, read_all, run, until,
};

const HOUR: Duration = Duration::from_secs(3600);
const PROOFS: &str = "vouchsafe_binding_proofs_total";

async fn echo() -> SocketAddr {
    application(|mut stream| async move {
        let mut byte = [0; 1];
        while stream.read_exact(&mut byte).await.is_ok() {
            if stream.write_all(&byte).await.is_err() {
                break;
            }
        }
    })
    .await
}

async fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 1];
    stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
}

#[track_caller]
fn check_proven_again(lane: Lane) {
    run(async {
        let pair = Pair::start_in(Mesh::attested(), lane, "strict", echo().await, HOUR);
        let mut stream = pair.connect().await;
        assert!(echoes(&mut stream).await);
        for sidecar in [&pair.client, &pair.server] {
            let proven = sidecar.metric(PROOFS, &["outcome=\"proven\""]);
            assert_eq!(proven, 1.0);
        }
        // Longer than a proof lasts: it is repeated while the flow goes on.
        let begun = Instant::now();
        while begun.elapsed() < Binding::LASTS + Duration::from_secs(5) {
            assert!(echoes(&mut stream).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for sidecar in [&pair.client, &pair.server] {
            let proven = sidecar.metric(PROOFS, &["outcome=\"proven\""]);
            assert!(proven >= 3.0, "{proven}");
        }
    });
}

#[test]
fn a_strict_route_is_proven_before_the_first_byte_and_again_on_the_shared_lane() {
    check_proven_again(Lane::Shared);
}

#[test]
fn a_strict_route_is_proven_before_the_first_byte_and_again_on_the_dedicated_lane() {
    check_proven_again(Lane::Dedicated);
}

#[test]
fn what_no_strict_rule_asks_for_is_not_proven() {
    run(async {
        for lane in LANES {
            let pair = Pair::start_in(Mesh::attested(), lane, "raw", echo().await, HOUR);
            let mut stream = pair.connect().await;
            assert!(echoes(&mut stream).await);
            for sidecar in [&pair.client, &pair.server] {
                assert_eq!(sidecar.metric(PROOFS, &[]), 0.0, "{lane:?}");
            }
        }
    });
}

#[test]
fn a_strict_route_goes_on_through_renewals() {
    run(async {
        for lane in LANES {
            let lifetime = Duration::from_secs(8);
            let pair = Pair::start_in(Mesh::attested(), lane, "strict", echo().await, lifetime);
            let mut stream = pair.connect().await;
            let begun = Instant::now();
            for round in 1..=8 {
                while begun.elapsed() < Duration::from_secs(2) * round {
                    if !echoes(&mut stream).await {
                        let metrics = [pair.client.metrics(), pair.server.metrics()].concat();
                        let logs = [pair.client.end().await, pair.server.end().await].concat();
                        panic!("{lane:?}, round {round}:\n{logs}{metrics}");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                for (sidecar, workload) in
                    [(&pair.client, "app/client"), (&pair.server, "app/server")]
                {
                    let number = sidecar.state.identity.load().as_ref().unwrap().number + 1;
                    let svid = pair.mesh.svid_of(workload, lifetime, Attested::default());
                    let identity = pair.mesh.identity(number, svid);
                    sidecar.state.identity.store(Some(identity));
                }
            }
        }
    });
}

#[test]
fn a_client_that_proves_nothing_is_denied_on_a_strict_route() {
    run(async {
        let mesh = Mesh::attested();
        let app = application(|_| async { panic!("reached") }).await;
        let wish = Wish::new("app/server", Lane::Dedicated).behind("strict", app);
        let server = Sidecar::start(&mesh, wish);
        let svid = mesh.svid("app/client", HOUR);
        let (mut stream, _) = handshake(server.door(), &svid, b"vouchsafe-flow/1").await;
        stream.write_all(&preamble("strict", 7003)).await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
        let label = &["decision=\"deny\"", "reason=\"binding_not_proven\""];
        server.counts("vouchsafe_decisions_total", label).await;
    });
}

#[test]
fn a_strict_flow_whose_client_stops_proving_is_cut_for_it() {
    run(async {
        let mesh = Mesh::attested();
        let wish = Wish::new("app/server", Lane::Dedicated).behind("strict", echo().await);
        let server = Sidecar::start(&mesh, wish);
        let svid = mesh.svid("app/client", HOUR);
        let (mut stream, binding) = handshake(server.door(), &svid, b"vouchsafe-flow/1").await;
        stream.write_all(&[2]).await.unwrap();
        let id = binding.id();
        say(&mut stream, &Message::Ask(STRICT, id)).await;
        let Some(Message::Challenge(STRICT, nonce, _)) = hear(&mut stream).await else {
            panic!("not challenged");
        };
        let proof = sign(
            &svid,
            &ConnectionTranscript {
                purpose: STRICT,
                ..transcript(&binding, &svid, nonce)
            },
        );
        let leaf = Some(svid.chain[0].clone());
        say(&mut stream, &Message::Proof(id, leaf, proof)).await;
        assert_eq!(hear(&mut stream).await, Some(Message::Accepted(id)));
        say(&mut stream, &Message::Done).await;
        stream.write_all(&preamble("strict", 7003)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        // Nobody repeats the proof.
        let begun = Instant::now();
        let ended = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut byte)).await;
        assert!(!matches!(ended, Err(_) | Ok(Ok(1..))), "the flow goes on");
        assert!(begun.elapsed() > Duration::from_secs(20));
        let log = server.end().await;
        assert!(log.contains("\"reason\":\"binding_not_proven\""), "{log}");
    });
}

const STRICT: ProofPurpose = ProofPurpose::StrictInitial;

fn preamble(port: &str, number: u16) -> Vec<u8> {
    let mut out = vec![1, 3 + u8::try_from(port.len()).unwrap(), 1];
    out.extend(number.to_be_bytes());
    out.extend(port.as_bytes());
    out
}

async fn say(stream: &mut (impl AsyncWriteExt + Unpin), message: &Message) {
    stream.write_all(&message.encode().unwrap()).await.unwrap();
}

/// One message, and not a byte more.
async fn hear(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Message> {
    let mut bytes = vec![0; 2];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    bytes.resize(2 + length, 0);
    stream.read_exact(&mut bytes[2..]).await.ok()?;
    match Message::parse(&bytes).unwrap() {
        Parsed::Complete(message, _) => Some(*message),
        Parsed::Incomplete => panic!("a whole frame"),
    }
}

/// Signs handshakes with somebody else's key, and nothing else: what an attacker has who reached a signing device, or a
/// TEE that terminates TLS for its host.
#[derive(Debug)]
struct HandshakeOracle(Arc<dyn SigningKey>);

impl SigningKey for HandshakeOracle {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(OracleSigner(self.0.choose_scheme(offered)?)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct OracleSigner(Box<dyn Signer>);

impl Signer for OracleSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        // RFC 8446 §4.4.3.
        assert!(message.starts_with(&[b' '; 64]), "not a handshake");
        self.0.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

fn stolen(svid: &Svid) -> Arc<CertifiedKey> {
    let key = any_supported_type(&svid.key).unwrap();
    Arc::new(CertifiedKey::new(
        svid.chain.clone(),
        Arc::new(HandshakeOracle(key)),
    ))
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Between a client's and a server's sidecar, with oracles for the keys of both.
struct Middle {
    address: SocketAddr,
    seen: Seen,
}

/// Plaintext that passed from the client.
type Seen = Rc<RefCell<Vec<u8>>>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Attack {
    /// Passes on what both say, under the names that each knows its connection by.
    Relay,
    /// Answers the client's challenge with the client's own proof.
    Reflect,
}

impl Middle {
    async fn start(client: &Svid, server: &Svid, door: SocketAddr, attack: Attack) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let (as_server, as_client) = (stolen(server), stolen(client));
        let leaves = (sha256(&client.chain[0]), sha256(&server.chain[0]));
        tokio::task::spawn_local({
            let seen = Rc::clone(&seen);
            async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let (as_server, as_client) = (Arc::clone(&as_server), Arc::clone(&as_client));
                    let seen = Rc::clone(&seen);
                    tokio::task::spawn_local(async move {
                        let _ =
                            between(tcp, door, as_server, as_client, leaves, attack, seen).await;
                    });
                }
            }
        });
        Self { address, seen }
    }
}

async fn between(
    tcp: TcpStream,
    door: SocketAddr,
    as_server: Arc<CertifiedKey>,
    as_client: Arc<CertifiedKey>,
    (client_leaf_sha256, server_leaf_sha256): ([u8; 32], [u8; 32]),
    attack: Attack,
    seen: Seen,
) -> std::io::Result<()> {
    let provider = Arc::new(default_provider());
    let versions = &[&rustls::version::TLS13];
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_cert_resolver(Arc::new(Shows(as_server)));
    config.alpn_protocols = vec![b"vouchsafe-flow/1".to_vec(), b"vouchsafe-shared/1".to_vec()];
    let mut near = TlsAcceptor::from(Arc::new(config)).accept(tcp).await?;
    let alpn = near.get_ref().1.alpn_protocol().unwrap().to_vec();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_client_cert_resolver(Arc::new(Shows(as_client)));
    config.alpn_protocols = vec![alpn.clone()];
    config.enable_sni = false;
    let tcp = TcpStream::connect(door).await?;
    let name = ServerName::from(Ipv4Addr::LOCALHOST);
    let connector = TlsConnector::from(Arc::new(config));
    let mut far = connector.connect(name, tcp).await?;
    let binding = |exporter| ConnectionBinding {
        exporter,
        client_leaf_sha256,
        server_leaf_sha256,
    };
    let near_exporter = near
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None);
    let far_exporter = far
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None);
    let ids = (
        binding(near_exporter.unwrap()).id(),
        binding(far_exporter.unwrap()).id(),
    );
    let mut first = [0];
    near.read_exact(&mut first).await?;
    if first == [2] && alpn == b"vouchsafe-flow/1" {
        far.write_all(&first).await?;
        translate(&mut near, &mut far, ids, attack).await;
        near.read_exact(&mut first).await?;
    }
    far.write_all(&first).await?;
    // What passes is plaintext to whoever is between.
    let mut buf = vec![0; 16_384];
    let mut back = vec![0; 16_384];
    loop {
        tokio::select! {
            count = near.read(&mut buf) => match count? {
                0 => return far.shutdown().await,
                count => {
                    seen.borrow_mut().extend(&buf[..count]);
                    far.write_all(&buf[..count]).await?;
                }
            },
            count = far.read(&mut back) => match count? {
                0 => return near.shutdown().await,
                count => near.write_all(&back[..count]).await?,
            },
        }
    }
}

/// Carries proofs between the two sessions, each under the name that the other end knows, until one end gives up.
async fn translate(
    near: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    far: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    (near_id, far_id): (ConnectionId, ConnectionId),
    attack: Attack,
) {
    let rename = |message: Message, id: ConnectionId| match message {
        Message::Ask(purpose, _) => Message::Ask(purpose, id),
        Message::Challenge(purpose, nonce, _) => Message::Challenge(purpose, nonce, vec![id]),
        Message::Proof(_, leaf, proof) => Message::Proof(id, leaf, proof),
        Message::Accepted(_) => Message::Accepted(id),
        Message::Refused(_) => Message::Refused(id),
        other => other,
    };
    let mut clients_proof = None;
    while let Some(asked) = hear(near).await {
        if let Message::Proof(_, leaf, proof) = &asked {
            clients_proof = Some((leaf.clone(), proof.clone()));
        }
        let is_challenge = matches!(asked, Message::Challenge(..));
        let is_last = asked == Message::Done;
        let is_verdict = matches!(asked, Message::Accepted(_) | Message::Refused(_));
        say(far, &rename(asked, far_id)).await;
        if is_last {
            return;
        }
        if is_verdict {
            continue;
        }
        let Some(answer) = hear(far).await else {
            return;
        };
        let answer = match (attack, is_challenge, clients_proof.take()) {
            (Attack::Reflect, true, Some((leaf, proof))) => Message::Proof(near_id, leaf, proof),
            (_, _, kept) => {
                clients_proof = kept;
                rename(answer, near_id)
            }
        };
        say(near, &answer).await;
    }
}

/// A client whose server is reached through the middle.
async fn mounted(lane: Lane, port: &'static str, attack: Attack) -> (Sidecar, Sidecar, Middle) {
    let mesh = Mesh::attested();
    let wish = Wish::new("app/server", lane).behind(port, echo().await);
    let server = Sidecar::start(&mesh, wish);
    let held = |sidecar: &Sidecar| {
        let identity = sidecar.state.identity.load_full().unwrap();
        Svid {
            chain: identity.svid.chain.clone(),
            key: identity.svid.key.clone_key(),
            not_after: identity.svid.not_after,
        }
    };
    let client_svid = mesh.svid("app/client", HOUR);
    let middle = Middle::start(&client_svid, &held(&server), server.door(), attack).await;
    let wish = Wish::new("app/client", lane).calls(port, middle.address);
    let client = Sidecar::start(&mesh, wish);
    client
        .state
        .identity
        .store(Some(mesh.identity(2, client_svid)));
    (client, server, middle)
}

/// What may be claimed for certificates alone: who signs handshakes in both names is between, and sees all.
#[test]
fn a_relay_with_oracles_for_handshakes_succeeds_where_a_rule_asks_for_certificates() {
    run(async {
        for lane in LANES {
            let (client, _server, middle) = mounted(lane, "raw", Attack::Relay).await;
            let mut stream = TcpStream::connect(client.calls(0)).await.unwrap();
            stream.write_all(b"secret").await.unwrap();
            let mut back = [0; 6];
            stream.read_exact(&mut back).await.unwrap();
            let seen = middle.seen.borrow();
            assert!(seen.windows(6).any(|seen| seen == b"secret"), "{lane:?}");
        }
    });
}

#[test]
fn a_relay_with_oracles_for_handshakes_fails_on_a_strict_route() {
    run(async {
        for lane in LANES {
            let (client, server, middle) = mounted(lane, "strict", Attack::Relay).await;
            let mut stream = TcpStream::connect(client.calls(0)).await.unwrap();
            let _ = stream.write_all(b"secret").await;
            assert_eq!(read_all(&mut stream).await, "", "{lane:?}");
            let seen = middle.seen.borrow().clone();
            assert!(!seen.windows(6).any(|seen| seen == b"secret"), "{lane:?}");
            assert_eq!(client.metric(PROOFS, &["proven"]), 0.0, "{lane:?}");
            assert_eq!(server.metric(PROOFS, &["proven"]), 0.0, "{lane:?}");
            let refused = ["direction=\"inbound\""];
            server.counts(PROOFS, &refused).await;
            if lane == Lane::Dedicated {
                // Proven by the right keys, over another session each.
                let refused = ["outcome=\"proof_signature\""];
                client.counts(PROOFS, &refused).await;
                server.counts(PROOFS, &refused).await;
            }
            let log = client.end().await;
            assert!(log.contains("binding_not_proven"), "{lane:?}: {log}");
        }
    });
}

#[test]
fn a_reflected_proof_is_refused_on_a_strict_route() {
    run(async {
        let (client, server, _middle) = mounted(Lane::Dedicated, "strict", Attack::Reflect).await;
        let mut stream = TcpStream::connect(client.calls(0)).await.unwrap();
        let _ = stream.write_all(b"secret").await;
        assert_eq!(read_all(&mut stream).await, "");
        client.counts(PROOFS, &["outcome=\"other_instance\""]).await;
        assert_eq!(client.metric(PROOFS, &["proven"]), 0.0);
        until("no flow", || {
            server.metric("vouchsafe_decisions_total", &["allow"]) == 0.0
        })
        .await;
    });
}

#[test]
fn a_key_that_only_somebody_else_holds_proves_nothing() {
    run(async {
        let mesh = Mesh::attested();
        let wish = Wish::new("app/server", Lane::Shared).behind("strict", echo().await);
        let server = Sidecar::start(&mesh, wish);
        let svid = mesh.svid("app/client", HOUR);
        let peer = RawPeer::connect(server.door(), &svid).await;
        let mut control = peer.control().await;
        let id = peer.binding.id();
        let other = mesh.svid("app/client", HOUR);
        for (leaf, signer, reason) in [
            // Of the same name: not the certificate of this connection.
            (&other, &other, "other_instance"),
            // The right certificate, and another key.
            (&svid, &other, "proof_signature"),
        ] {
            control.say(&Message::Ask(STRICT, id));
            let Some(Message::Challenge(STRICT, nonce, _)) = control.hear().await else {
                panic!("not challenged");
            };
            let made = ConnectionTranscript {
                purpose: STRICT,
                ..transcript(&peer.binding, leaf, nonce)
            };
            let proof = sign(signer, &made);
            control.say(&Message::Proof(
                id,
                Some(leaf.chain[0].clone()),
                proof.clone(),
            ));
            assert_eq!(control.hear().await, Some(Message::Refused(id)));
            let outcome = format!("outcome=\"{reason}\"");
            server.counts(PROOFS, &[&outcome]).await;
            // A nonce is consumed by the first proof.
            control.say(&Message::Proof(id, Some(leaf.chain[0].clone()), proof));
            assert_eq!(control.hear().await, Some(Message::Refused(id)));
        }
        assert_eq!(server.metric(PROOFS, &["proven"]), 0.0);
    });
}

#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
