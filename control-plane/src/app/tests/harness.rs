//! The control plane under test, and a sidecar that can lie about everything.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, ProtocolVersion, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Status, Streaming};
use vouchsafe_api::convert::attest::reattest::Proof;
use vouchsafe_api::convert::attest::{
    AttestRequest, AttestResponse, Challenge, Endpoint, Evidence, EvidenceBody, EvidenceItem,
    Hello, Issued, JoinToken, Offer, Refusal, SimulatedEvidence,
};
use vouchsafe_api::convert::mesh_state::{
    Acknowledgement, Holding, Resource, SignedRevision, SliceProof, WatchRequest, WatchResponse,
};
use vouchsafe_api::convert::record::RecordEntry;
use vouchsafe_api::v1;
use vouchsafe_api::v1::attestation_client::AttestationClient;
use vouchsafe_api::v1::mesh_state_client::MeshStateClient;
use vouchsafe_api::v1::operator_server::Operator;
use vouchsafe_attestation::binding::{
    Base, EXPORTER_LABEL, EvidenceDigest, Nonce, Purpose, Role, Transcript,
};
use vouchsafe_attestation::claims::EvidenceKind;
use vouchsafe_attestation::merkle::{self, Hash};
use vouchsafe_attestation::peer::verify_role;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::{MeshRole, sha256};
use vouchsafe_config::control_plane::{ControlPlaneConfig, EndorsementSources};
use vouchsafe_verifier::vendor_roots::VendorRoots;

use crate::app::{App, StartError, record};
use crate::log::{self, Head};
use crate::rpc::operator::OperatorApi;
use crate::state::ControlPlane;

pub(super) const TOKEN: &str = "a-token-of-thirty-two-characters";

/// A mesh with listed machines, a token, and a profile that no simulation satisfies. The token's digest is filled in.
pub(super) const POLICY: &str = "\
apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {name: test}
spec:
  trust_domain: test.example
  danger_accept_simulated: true
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: hard, namespace: dev}
spec:
  any_of:
    - tpm: {classes: [hardware, software], images: [{name: node, pcrs: {sha256: {7: \"0000000000000000000000000000000000000000000000000000000000000000\"}}}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: soft, namespace: dev}
spec:
  any_of:
    - simulated: {images: [{name: dev}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: laptop, namespace: dev}
spec: {hardware: {simulated_machine: laptop}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: other, namespace: dev}
spec: {hardware: {simulated_machine: other}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: rack, namespace: dev}
spec: {hardware: {tpm_ek_sha256: \"0000000000000000000000000000000000000000000000000000000000000001\"}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: dev}
spec:
  profile: soft
  members: {nodes: [laptop]}
  ports: [{name: http, port: 8000, protocol: http}]
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: dev}
spec:
  profile: soft
  members: {nodes: [other]}
  ports: [{name: http, port: 8000, protocol: http}]
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: batch, namespace: dev}
spec:
  profile: soft
  members: {join_tokens: [{sha256: \"TOKEN_SHA256\", expires: 2099-01-01T00:00:00Z}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: hard, namespace: dev}
spec:
  profile: hard
  members: {nodes: [rack]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: api-calls-web, namespace: dev}
spec:
  to: {workload: web, port: http}
  from: [{workload: api}]
  allow: any
";

pub(super) const ANOTHER_RULE: &str = "\
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: batch-calls-api, namespace: dev}
spec:
  to: {workload: api, port: http}
  from: [{workload: batch}]
  allow: any
";

/// The documents that stay right where simulated evidence is not accepted.
pub(super) fn without_simulated_profile(policy: &str) -> String {
    let keeps = |document: &&str| {
        !document.contains("simulated:") && !document.contains("profile: soft")
            || document.contains("kind: Mesh")
    };
    let kept: Vec<&str> = policy.split("---\n").filter(keeps).collect();
    let kept: Vec<&str> = kept
        .into_iter()
        .filter(|document| {
            !document.contains("kind: AccessPolicy") && !document.contains("simulated_machine")
        })
        .collect();
    kept.join("---\n")
}

#[expect(clippy::disallowed_methods, reason = "tests of a whole control plane")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// Polls with a deadline.
pub(super) async fn eventually<F, R>(what: &str, mut holds: F)
where
    F: FnMut() -> R,
    R: Future<Output = bool>,
{
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited too long for {what}");
}

/// A running control plane in a folder of its own.
#[derive(Debug)]
pub(super) struct Factory {
    folder: tempfile::TempDir,
    control_plane: Arc<ControlPlane>,
    address: std::net::SocketAddr,
    metrics: std::net::SocketAddr,
    pin: [u8; 32],
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Factory {
    pub(super) async fn start(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policy")).unwrap();
        write_policy(&folder, policy);
        Self::start_in(folder).await.unwrap()
    }

    /// With roots of hardware's vendors that a test made.
    pub(super) async fn start_below(policy: &str, roots: VendorRoots) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policy")).unwrap();
        write_policy(&folder, policy);
        Self::start_with(folder, roots).await.unwrap()
    }

    async fn start_in(folder: tempfile::TempDir) -> Result<Self, StartError> {
        Self::start_with(folder, VendorRoots::PINNED).await
    }

    async fn start_with(folder: tempfile::TempDir, roots: VendorRoots) -> Result<Self, StartError> {
        let any = "127.0.0.1:0".parse().unwrap();
        let config = ControlPlaneConfig {
            listen: any,
            metrics: Some(any),
            policy: folder.path().join("policy"),
            endorsements: EndorsementSources {
                offline: true,
                ..EndorsementSources::default()
            },
            ..ControlPlaneConfig::new(folder.path().join("data"))
        };
        let app = App::danger_start_below(config, roots).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (address, metrics) = (app.address(), app.metrics_address().unwrap());
        let (pin, control_plane) = (app.root_pin(), Arc::clone(&app.control_plane));
        let served = tokio::spawn(app.serve(async move {
            let _ = stopped.await;
        }));
        Ok(Self {
            folder,
            control_plane,
            address,
            metrics,
            pin,
            stop,
            served,
        })
    }

    pub(super) async fn stop(self) -> tempfile::TempDir {
        let _ = self.stop.send(());
        self.served.await.unwrap();
        self.folder
    }

    /// Stops and starts on the same folder, once the old one has let go of its store.
    pub(super) async fn restart(self) -> Result<Self, StartError> {
        self.restart_after(|| ()).await
    }

    /// Stops, lets something happen to the folder, and starts on it.
    pub(super) async fn restart_after(self, happens: impl FnOnce()) -> Result<Self, StartError> {
        let Self {
            folder,
            control_plane,
            stop,
            served,
            ..
        } = self;
        let _ = stop.send(());
        served.await.unwrap();
        let store = folder.path().join("data/store.redb");
        drop(control_plane);
        eventually("the store to be free", || async {
            redb::Database::open(&store).is_ok()
        })
        .await;
        happens();
        Self::start_in(folder).await
    }

    pub(super) fn control_plane(&self) -> &Arc<ControlPlane> {
        &self.control_plane
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn write_policy(&self, policy: &str) {
        write_policy(&self.folder, policy);
    }

    pub(super) fn records(&self) -> Vec<RecordEntry> {
        let (path, _) = record(&self.data()).unwrap();
        log::read(&path, 1, usize::MAX)
            .unwrap()
            .iter()
            .map(|record| RecordEntry::decode(&record.leaf).unwrap())
            .collect()
    }

    pub(super) fn verify_record(&self) -> Head {
        let (path, kept) = record(&self.data()).unwrap();
        log::verify(&path, &kept).unwrap()
    }

    pub(super) async fn status(&self) -> v1::StatusResponse {
        let api = OperatorApi::new(Arc::clone(&self.control_plane));
        let request = tonic::Request::new(v1::StatusRequest {});
        api.status(request).await.unwrap().into_inner()
    }

    pub(super) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = TcpStream::connect(self.metrics).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        socket.write_all(request).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Whether the mesh-state key, certified by the pinned root, signed it.
    #[track_caller]
    pub(super) fn verify(&self, signed: &SignedRevision) {
        let chain: Vec<CertificateDer<'_>> = signed
            .signer_chain
            .iter()
            .map(|der| der.as_slice().into())
            .collect();
        let trust_domain = "test.example".parse().unwrap();
        let holder = verify_role(
            &chain,
            &[self.pin],
            &trust_domain,
            MeshRole::MeshState,
            now(),
        )
        .unwrap();
        let (_, spki) = <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(&holder.spki).unwrap();
        ::aws_lc_rs::signature::UnparsedPublicKey::new(
            &::aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            &spki.subject_public_key.data,
        )
        .verify(&signed.tbs(), &signed.signature)
        .unwrap();
    }

    pub(super) async fn attest(&self, sidecar: &Sidecar) -> Result<Issued, String> {
        self.attest_with_key(sidecar, None)
            .await
            .map(|(issued, _)| issued)
    }

    pub(super) async fn attest_with_key(
        &self,
        sidecar: &Sidecar,
        svid: Option<&(Vec<Vec<u8>>, Vec<u8>)>,
    ) -> Result<(Issued, Vec<u8>), String> {
        let connection = self.connect(svid).await;
        let (mut stream, first) = connection.start(sidecar).await;
        let challenge = match first {
            AttestResponse::Challenge(challenge) => *challenge,
            AttestResponse::Refusal(refusal) => return Err(refusal.reason),
            other => panic!("no evidence was shown: {other:?}"),
        };
        let evidence = connection.evidence(sidecar, &stream, &challenge);
        stream.send(evidence).await;
        match stream.answer().await {
            Some(AttestResponse::Issued(issued)) => Ok((*issued, stream.key.serialize_der())),
            Some(AttestResponse::Refusal(refusal)) => Err(refusal.reason),
            other => panic!("no outcome: {other:?}"),
        }
    }

    /// One attestation of hardware on a connection of its own: `collect` is the machine.
    pub(super) async fn attest_set(
        &self,
        hello: &SetHello<'_>,
        collect: impl FnOnce(&Base, &Challenge) -> Vec<EvidenceItem>,
    ) -> Result<(Issued, Vec<u8>), String> {
        let connection = self.connect(hello.svid).await;
        let key = KeyPair::generate().unwrap();
        let (mut stream, first) = connection.begin(hello, key).await;
        let challenge = match first {
            AttestResponse::Challenge(challenge) => *challenge,
            AttestResponse::Refusal(refusal) => return Err(refusal.reason),
            other => panic!("no evidence was shown: {other:?}"),
        };
        let base = connection.base(hello, &stream, &challenge);
        let items = collect(&base, &challenge);
        let params = CertificateParams::default();
        let csr = params.serialize_request(&stream.key).unwrap();
        let evidence = AttestRequest::Evidence(Box::new(Evidence {
            csr: csr.der().to_vec(),
            items,
        }));
        stream.send(evidence.into()).await;
        match stream.answer().await {
            Some(AttestResponse::Issued(issued)) => Ok((*issued, stream.key.serialize_der())),
            Some(AttestResponse::Refusal(refusal)) => Err(refusal.reason),
            other => panic!("no outcome: {other:?}"),
        }
    }

    pub(super) async fn connect(&self, svid: Option<&(Vec<Vec<u8>>, Vec<u8>)>) -> Client {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let mut config = match svid {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(
                    chain.iter().map(|der| der.clone().into()).collect(),
                    PrivatePkcs8KeyDer::from(key.clone()).into(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpStream::connect(self.address).await.unwrap();
        let tls = TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("control-plane").unwrap(), socket)
            .await
            .unwrap();
        let session = tls.get_ref().1;
        let exporter = session
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .unwrap();
        let chain = session.peer_certificates().unwrap();
        let holder = verify_role(
            chain,
            &[self.pin],
            &"test.example".parse().unwrap(),
            MeshRole::ControlPlane,
            now(),
        );
        let holder = match holder {
            Ok(holder) => holder,
            // One test runs a trust domain of another kind; who serves is judged elsewhere.
            Err(error) => panic!("not the control plane: {error}"),
        };
        let group = session.negotiated_key_exchange_group().unwrap().name();
        let version = session.protocol_version().unwrap();
        let (requests, driver) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(tls))
            .await
            .unwrap();
        tokio::spawn(driver);
        Client {
            requests: Channel(requests),
            exporter,
            leaf_sha256: holder.leaf_sha256,
            role: holder.role,
            version,
            group,
        }
    }
}

fn write_policy(folder: &tempfile::TempDir, policy: &str) {
    let policy = policy.replace("TOKEN_SHA256", &hex::encode(sha256(TOKEN.as_bytes())));
    // Renamed into place, as editors and configuration tools do.
    let new = folder.path().join("new.yaml");
    std::fs::write(&new, policy).unwrap();
    std::fs::rename(&new, folder.path().join("policy/policy.yaml")).unwrap();
}

/// What a sidecar says; each flag is one lie.
pub(super) struct Sidecar {
    pub(super) workload: &'static str,
    pub(super) machine: &'static str,
    pub(super) image: &'static str,
    pub(super) purpose: Purpose,
    pub(super) token: Option<JoinToken>,
    pub(super) wrong_nonce: bool,
    pub(super) wrong_exporter: bool,
    pub(super) wrong_leaf: bool,
    pub(super) claims_workload: Option<&'static str>,
    pub(super) evidence_machine: Option<&'static str>,
    pub(super) other_key_in_request: bool,
    pub(super) broken_request: bool,
    pub(super) padding: usize,
    pub(super) no_items: bool,
    pub(super) evidence_first: bool,
}

impl Sidecar {
    pub(super) fn new(workload: &'static str, machine: &'static str) -> Self {
        Self {
            workload,
            machine,
            image: "dev",
            purpose: Purpose::Enroll,
            token: None,
            wrong_nonce: false,
            wrong_exporter: false,
            wrong_leaf: false,
            claims_workload: None,
            evidence_machine: None,
            other_key_in_request: false,
            broken_request: false,
            padding: 0,
            no_items: false,
            evidence_first: false,
        }
    }

    fn hello(&self, key: &KeyPair) -> AttestRequest {
        AttestRequest::Hello(Box::new(Hello {
            purpose: self.purpose,
            workload: self.workload.parse().unwrap(),
            spki_sha256: sha256(&key.subject_public_key_info()),
            client_nonce: CLIENT_NONCE,
            offers: vec![Offer::Simulated {
                machine: self.machine.to_owned(),
            }],
            join_token: self.token.clone(),
            endpoints: vec![Endpoint {
                listener: "127.0.0.1:9000".to_owned(),
                ports: vec!["http".parse().unwrap()],
            }],
            software_version: "0.1.0".to_owned(),
            proof: (self.purpose == Purpose::Reattest).then_some(Proof::TpmLog),
        }))
    }
}

/// What a sidecar of hardware asks for.
pub(super) struct SetHello<'a> {
    pub(super) workload: &'a str,
    pub(super) purpose: Purpose,
    pub(super) offers: Vec<Offer>,
    pub(super) svid: Option<&'a (Vec<Vec<u8>>, Vec<u8>)>,
}

const CLIENT_NONCE: Nonce = Nonce([7; 32]);

/// One TLS session with the control plane.
pub(super) struct Client {
    requests: Channel,
    pub(super) exporter: [u8; 32],
    leaf_sha256: [u8; 32],
    pub(super) role: MeshRole,
    pub(super) version: ProtocolVersion,
    pub(super) group: NamedGroup,
}

/// One Attest stream.
pub(super) struct Stream {
    requests: mpsc::Sender<v1::AttestRequest>,
    responses: Streaming<v1::AttestResponse>,
    key: KeyPair,
}

impl Client {
    /// Opens a stream that gets a challenge.
    pub(super) async fn open(&self, sidecar: &Sidecar) -> (Stream, Challenge) {
        match self.start(sidecar).await {
            (stream, AttestResponse::Challenge(challenge)) => (stream, *challenge),
            (_, other) => panic!("no challenge: {other:?}"),
        }
    }

    pub(super) async fn start(&self, sidecar: &Sidecar) -> (Stream, AttestResponse) {
        let key = KeyPair::generate().unwrap();
        let first = match sidecar.evidence_first {
            true => AttestRequest::Evidence(Box::new(Evidence {
                csr: vec![1],
                items: vec![simulated(sidecar, [0; 32])],
            })),
            false => sidecar.hello(&key),
        };
        let (requests, receiver) = mpsc::channel(4);
        requests.send(first.into()).await.unwrap();
        let responses = self
            .attestation()
            .attest(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        let mut stream = Stream {
            requests,
            responses,
            key,
        };
        let answer = stream.answer().await.unwrap();
        (stream, answer)
    }

    /// Opens a stream with a hello of hardware.
    pub(super) async fn begin(
        &self,
        hello: &SetHello<'_>,
        key: KeyPair,
    ) -> (Stream, AttestResponse) {
        let first = AttestRequest::Hello(Box::new(Hello {
            purpose: hello.purpose,
            workload: hello.workload.parse().unwrap(),
            spki_sha256: sha256(&key.subject_public_key_info()),
            client_nonce: CLIENT_NONCE,
            offers: hello.offers.clone(),
            join_token: None,
            endpoints: vec![],
            software_version: "0.1.0".to_owned(),
            proof: None,
        }));
        let (requests, receiver) = mpsc::channel(4);
        requests.send(first.into()).await.unwrap();
        let responses = self
            .attestation()
            .attest(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        let mut stream = Stream {
            requests,
            responses,
            key,
        };
        let answer = stream.answer().await.unwrap();
        (stream, answer)
    }

    /// What devices sign over, from this end of the connection.
    pub(super) fn base(
        &self,
        hello: &SetHello<'_>,
        stream: &Stream,
        challenge: &Challenge,
    ) -> Base {
        Transcript {
            purpose: hello.purpose,
            role: Role::Attester,
            trust_domain: &"test.example".parse().unwrap(),
            workload: &hello.workload.parse().unwrap(),
            client_nonce: CLIENT_NONCE,
            server_nonce: challenge.nonce,
            spki_sha256: sha256(&stream.key.subject_public_key_info()),
            server_leaf_sha256: self.leaf_sha256,
            exporter: self.exporter,
            ek_name: &[],
            ak_name: &[],
            policy_revision: challenge.policy_revision,
        }
        .base()
    }

    pub(super) async fn silent_attestation(&self) -> Refusal {
        let mut responses = self
            .attestation()
            .attest(tokio_stream::empty())
            .await
            .unwrap()
            .into_inner();
        let answer = responses.message().await.unwrap().unwrap();
        match AttestResponse::try_from(answer).unwrap() {
            AttestResponse::Refusal(refusal) => refusal,
            other => panic!("no refusal: {other:?}"),
        }
    }

    /// A stream that is opened and kept, without a word.
    pub(super) async fn say_nothing(&self) -> Streaming<v1::AttestResponse> {
        let answer = self.attestation().attest(tokio_stream::pending()).await;
        answer.unwrap().into_inner()
    }

    fn attestation(&self) -> AttestationClient<Channel> {
        AttestationClient::with_origin(self.requests.clone(), Uri::from_static("http://cp"))
    }

    /// Evidence as this connection's sidecar would collect it for a challenge.
    pub(super) fn evidence(
        &self,
        sidecar: &Sidecar,
        stream: &Stream,
        challenge: &Challenge,
    ) -> v1::AttestRequest {
        let flip = |mut bytes: [u8; 32], lies: bool| {
            bytes[31] ^= u8::from(lies);
            bytes
        };
        let workload = sidecar.claims_workload.unwrap_or(sidecar.workload);
        let base = Transcript {
            purpose: sidecar.purpose,
            role: Role::Attester,
            trust_domain: &"test.example".parse().unwrap(),
            workload: &workload.parse().unwrap(),
            client_nonce: CLIENT_NONCE,
            server_nonce: Nonce(flip(challenge.nonce.0, sidecar.wrong_nonce)),
            spki_sha256: sha256(&stream.key.subject_public_key_info()),
            server_leaf_sha256: flip(self.leaf_sha256, sidecar.wrong_leaf),
            exporter: flip(self.exporter, sidecar.wrong_exporter),
            ek_name: &[],
            ak_name: &[],
            policy_revision: challenge.policy_revision,
        }
        .base();
        let binding = base.device(EvidenceKind::Simulated, 0, &EvidenceDigest::empty());
        let other = KeyPair::generate().unwrap();
        let key = match sidecar.other_key_in_request {
            true => &other,
            false => &stream.key,
        };
        // Names that a request asks for are ignored; this one asks for the control plane's.
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(
            "spiffe://test.example/vouchsafe/control-plane"
                .try_into()
                .unwrap(),
        ));
        let mut csr = params.serialize_request(key).unwrap().der().to_vec();
        if sidecar.broken_request {
            // Within the last byte of the signature.
            *csr.last_mut().unwrap() ^= 1;
        }
        let mut wire: v1::AttestRequest = AttestRequest::Evidence(Box::new(Evidence {
            csr,
            items: vec![simulated(sidecar, *binding.as_bytes())],
        }))
        .into();
        let Some(v1::attest_request::Step::Evidence(evidence)) = &mut wire.step else {
            panic!("evidence is evidence");
        };
        if sidecar.no_items {
            evidence.items.clear();
        }
        evidence.csr.extend(vec![0; sidecar.padding]);
        wire
    }

    pub(super) async fn try_watch(&self) -> Result<Watch, Status> {
        self.subscribe(Holding::default()).await
    }

    pub(super) async fn subscribe(&self, holding: Holding) -> Result<Watch, Status> {
        let (requests, receiver) = mpsc::channel(4);
        let subscribe = WatchRequest::Subscribe(holding);
        requests.send(subscribe.into()).await.unwrap();
        let origin = Uri::from_static("http://cp");
        let responses = MeshStateClient::with_origin(self.requests.clone(), origin)
            .max_decoding_message_size(vouchsafe_api::convert::MAX_WATCH_RESPONSE_BYTES)
            .watch(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Watch {
            requests,
            responses,
            held: BTreeMap::new(),
        })
    }

    pub(super) async fn watch(&self) -> Watch {
        self.try_watch().await.unwrap()
    }
}

impl Stream {
    /// A stream that the control plane has ended takes nothing more; what it said is still to be read.
    pub(super) async fn send(&mut self, message: v1::AttestRequest) {
        let _ = self.requests.send(message).await;
    }

    /// Waits until the connection has taken all that was sent.
    pub(super) async fn is_sent(&self) {
        while self.requests.capacity() < self.requests.max_capacity() {
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn answer(&mut self) -> Option<AttestResponse> {
        let message = self.responses.message().await.ok()??;
        Some(AttestResponse::try_from(message).unwrap())
    }
}

fn simulated(sidecar: &Sidecar, binding: [u8; 32]) -> EvidenceItem {
    let machine = sidecar.evidence_machine.unwrap_or(sidecar.machine);
    EvidenceItem {
        index: 0,
        body: EvidenceBody::Simulated(SimulatedEvidence {
            machine: machine.to_owned(),
            image: sidecar.image.to_owned(),
            binding,
        }),
    }
}

/// One mesh-state stream.
#[derive(Debug)]
pub(super) struct Watch {
    requests: mpsc::Sender<v1::WatchRequest>,
    responses: Streaming<v1::WatchResponse>,
    held: BTreeMap<String, Resource>,
}

impl Watch {
    pub(super) async fn send(&self, request: WatchRequest) {
        self.requests.send(request.into()).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> WatchResponse {
        let next = tokio::time::timeout(Duration::from_secs(60), self.responses.message());
        let message = next.await.unwrap().unwrap().unwrap();
        WatchResponse::try_from(message).unwrap()
    }

    /// The next message that is no heartbeat.
    pub(super) async fn next_change(&mut self) -> WatchResponse {
        loop {
            let next = self.next().await;
            if !matches!(next, WatchResponse::Heartbeat(_)) {
                return next;
            }
        }
    }

    /// Takes changes in until a heartbeat says that there are no more, and says what is held.
    pub(super) async fn settled(&mut self) -> Holding {
        loop {
            let message = self.next().await;
            if let WatchResponse::Heartbeat(signed) = message {
                let root = self.root();
                self.acknowledge(signed.revision, Ok(root)).await;
                return Holding {
                    revision: signed.revision,
                    slice_root: Some(root),
                };
            }
            self.take(message);
        }
    }

    /// Takes the next change in, proves what is held then, and acknowledges it.
    pub(super) async fn change(&mut self) -> SignedRevision {
        loop {
            let message = self.next().await;
            if let Some(revision) = self.take_in(message).await {
                return revision;
            }
        }
    }

    /// Takes a change in, proves what is held then, and acknowledges it. `None` for what is no change.
    pub(super) async fn take_in(&mut self, message: WatchResponse) -> Option<SignedRevision> {
        let (revision, proof) = self.take(message)?;
        let root = self.root();
        assert!(proof.proves(&root, self.held.len() as u64, &revision));
        self.acknowledge(revision.revision, Ok(root)).await;
        Some(revision)
    }

    pub(super) fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.held.values()
    }

    pub(super) async fn acknowledge(&self, revision: Revision, outcome: Result<Hash, String>) {
        let ack = Acknowledgement { revision, outcome };
        self.send(WatchRequest::Acknowledgement(ack)).await;
    }

    pub(super) fn root(&self) -> Hash {
        let leaves: Vec<Hash> = self.held.values().map(Resource::leaf).collect();
        merkle::root(&leaves)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.held.contains_key(name)
    }

    fn take(&mut self, message: WatchResponse) -> Option<(SignedRevision, SliceProof)> {
        match message {
            WatchResponse::Snapshot(snapshot) => {
                self.held.clear();
                self.put(snapshot.resources);
                Some((snapshot.revision, snapshot.proof))
            }
            WatchResponse::Delta(delta) => {
                for name in delta.removed {
                    self.held.remove(&name.to_string()).unwrap();
                }
                self.put(delta.changed);
                Some((delta.revision, delta.proof))
            }
            WatchResponse::Heartbeat(_) | WatchResponse::Probe(_) => None,
        }
    }

    fn put(&mut self, resources: Vec<Resource>) {
        for resource in resources {
            self.held.insert(resource.name.to_string(), resource);
        }
    }

    pub(super) async fn heartbeat(&mut self) -> SignedRevision {
        loop {
            if let WatchResponse::Heartbeat(signed) = self.next().await {
                return signed;
            }
        }
    }
}

/// Accepts any server at the handshake; the test judges it afterwards.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = aws_lc_rs::default_provider();
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[derive(Clone)]
struct Channel(http2::SendRequest<Body>);

impl tonic::codegen::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
