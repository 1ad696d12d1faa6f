//! A small control plane for tests: real TLS, real HTTP/2, real certificates, and whatever answer a test wants.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::aws_lc_rs::signature;
use futures_util::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost::Message;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_api::convert::attest::{
    AttestRequest, AttestResponse, AuthorityCertificate, Challenge, Evidence, EvidenceBody, Hello,
    Issued, Refusal,
};
use vouchsafe_api::convert::mesh_state::{
    Resource, SignedRevision, SliceName, SliceProof, Snapshot, slice_leaf, trust_bundle,
};
use vouchsafe_api::v1;
use vouchsafe_api::v1::attestation_server::{Attestation, AttestationServer};
use vouchsafe_api::v1::mesh_state_server::{MeshState, MeshStateServer};
use vouchsafe_attestation::binding::{EXPORTER_LABEL, EvidenceDigest, Nonce, Role, Transcript};
use vouchsafe_attestation::claims::{Claims, Class, EvidenceKind};
use vouchsafe_attestation::merkle::{leaf_hash, prove, root};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::svid::{ATTESTATION_RESULT_OID, MeshRole, ROLE_OID, sha256};
use vouchsafe_attestation::trust_domain::TrustDomain;

pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

/// A time of the test mesh: its control plane lives at [`NOW_MS`].
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(NOW_MS)
}

pub(crate) fn trust_domain() -> TrustDomain {
    "factory.example".parse().unwrap()
}

/// A root and what it certifies.
pub(crate) struct Pki {
    root: Issuer<'static, KeyPair>,
    root_certificate: Certificate,
    root_spki: Vec<u8>,
}

/// A certificate with its key and the rest of its chain.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl Identity {
    pub(crate) fn chain_pem(&self) -> String {
        let certificates = self.chain.iter().map(|der| {
            let body = base64(der);
            format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
        });
        certificates.collect()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let root_spki = key.subject_public_key_info();
        let mut params = params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test root");
        let root_certificate = params.self_signed(&key).unwrap();
        Self {
            root: Issuer::new(params, key),
            root_certificate,
            root_spki,
        }
    }

    pub(crate) fn pin(&self) -> [u8; 32] {
        sha256(&self.root_spki)
    }

    /// The holder of a mesh role, with a chain that ends in the root.
    pub(crate) fn role(&self, role: Option<MeshRole>) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = leaf(&SpiffeId::for_control_plane(&trust_domain()));
        if let Some(role) = role {
            let extension = CustomExtension::from_oid_content(&ROLE_OID, role.to_der());
            params.custom_extensions.push(extension);
        }
        self.identity(&params, key)
    }

    /// A workload's certificate, with a chain that ends in the root.
    pub(crate) fn workload(&self, workload: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = self.workload_params(workload, true);
        self.identity(&params, key)
    }

    /// A workload's certificate as an authority issues that does not attest.
    pub(crate) fn unattested(&self, workload: &str) -> Identity {
        let params = self.workload_params(workload, false);
        self.identity(&params, KeyPair::generate().unwrap())
    }

    pub(crate) fn root_pem(&self) -> String {
        self.root_certificate.pem()
    }

    fn identity(&self, params: &CertificateParams, key: KeyPair) -> Identity {
        let certificate = params.signed_by(&key, &self.root).unwrap();
        Identity {
            chain: vec![
                certificate.der().clone(),
                self.root_certificate.der().clone(),
            ],
            key,
        }
    }

    fn workload_params(&self, workload: &str, with_result: bool) -> CertificateParams {
        let workload = workload.parse().unwrap();
        let mut params = leaf(&SpiffeId::for_workload(&trust_domain(), &workload));
        if with_result {
            let content = result().encode().unwrap();
            let extension = CustomExtension::from_oid_content(&ATTESTATION_RESULT_OID, content);
            params.custom_extensions.push(extension);
        }
        params
    }

    fn issue(&self, workload: &str, with_result: bool, key: &impl PublicKeyData) -> Vec<Vec<u8>> {
        let params = self.workload_params(workload, with_result);
        vec![params.signed_by(key, &self.root).unwrap().der().to_vec()]
    }

    pub(crate) fn authorities(&self) -> Vec<AuthorityCertificate> {
        vec![AuthorityCertificate {
            trust_domain: trust_domain().to_string(),
            certificate: self.root_certificate.der().to_vec(),
            attested: true,
        }]
    }
}

/// Base64 in lines of 64 (RFC 7468 §2).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (index, chunk) in bytes.chunks(3).enumerate() {
        if index % 16 == 0 && index > 0 {
            text.push('\n');
        }
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let six = (word >> (18 - 6 * place)) & 63;
            text.push(if place <= chunk.len() {
                ALPHABET[six as usize] as char
            } else {
                '='
            });
        }
    }
    text.push('\n');
    text
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

fn leaf(id: &SpiffeId) -> CertificateParams {
    let mut params = params();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

fn result() -> AttestationResult {
    AttestationResult {
        class: Class::Simulated,
        root: EvidenceKind::Simulated,
        instance: INSTANCE,
        evidence_time: now(),
        policy_revision: REVISION,
        ear_sha256: [0; 32],
        devices: vec![DeviceResult {
            kind: EvidenceKind::Simulated,
            index: 0,
            claims: Claims::default(),
        }],
        inclusion_promise: None,
    }
}

const INSTANCE: InstanceId = InstanceId([7; 16]);
const REVISION: Revision = Revision {
    epoch: 1,
    sequence: 3,
};

/// A revision whose slice for `inference/llm` has these resources (name, content), in the order of their names.
pub(crate) fn snapshot(
    signer: &Identity,
    revision: Revision,
    resources: &[(&str, Vec<u8>)],
) -> Snapshot {
    let resources: Vec<Resource> = resources
        .iter()
        .map(|(name, content)| Resource {
            name: name.parse().unwrap(),
            content: content.clone().into(),
        })
        .collect();
    let leaves: Vec<_> = resources.iter().map(Resource::leaf).collect();
    let slice = SliceName::Workload("inference/llm".parse().unwrap());
    let slices = [
        leaf_hash(b"everything"),
        leaf_hash(&slice_leaf(
            &slice.to_string(),
            &root(&leaves),
            leaves.len() as u64,
        )),
    ];
    let mut revision = SignedRevision {
        revision,
        root: root(&slices),
        slices: slices.len() as u64,
        time: now(),
        signature: Vec::new(),
        signer_chain: signer.chain.iter().map(|der| der.to_vec()).collect(),
    };
    sign(signer, &mut revision);
    Snapshot {
        revision,
        proof: SliceProof {
            slice,
            index: 1,
            siblings: prove(&slices, 1).unwrap(),
        },
        resources,
    }
}

pub(crate) fn sign(signer: &Identity, revision: &mut SignedRevision) {
    let key = signature::EcdsaKeyPair::from_pkcs8(
        &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        &signer.key.serialize_der(),
    )
    .unwrap();
    let random = ::aws_lc_rs::rand::SystemRandom::new();
    revision.signature = key
        .sign(&random, &revision.tbs())
        .unwrap()
        .as_ref()
        .to_vec();
}

impl Pki {
    /// The bundle as a resource.
    pub(crate) fn bundle_resource(&self) -> Vec<u8> {
        trust_bundle(self.authorities()).encode_to_vec()
    }
}

/// What an attestation is answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    Issue,
    Refuse(&'static str),
    IssueForAnotherKey,
    IssueForAnotherName,
    IssueWithoutResult,
    IssueWithAnotherInstance,
    NeverAnswer,
}

/// What a control plane saw of one attestation.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) hello: Hello,
    /// Whether the evidence is bound to what the server sees of this very connection.
    pub(crate) is_bound: Option<bool>,
    /// The client's certificate, where it presented one.
    pub(crate) presented: Option<CertificateDer<'static>>,
}

/// A running control plane; ends when dropped.
pub(crate) struct TestControlPlane {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    pki: Arc<Pki>,
    reply: Mutex<Reply>,
    seen: Mutex<Vec<Seen>>,
    /// Sent to each subscriber, in this order; kept open afterwards.
    state: Mutex<Vec<v1::WatchResponse>>,
    acknowledgements: mpsc::Sender<v1::WatchRequest>,
    /// Ends the mesh-state streams that are open.
    cut: tokio::sync::Notify,
}

impl TestControlPlane {
    /// Starts one that serves with `identity`.
    pub(crate) async fn start(
        pki: Arc<Pki>,
        identity: &Identity,
    ) -> (Self, mpsc::Receiver<v1::WatchRequest>) {
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(AnyClient))
            .with_single_cert(identity.chain.clone(), identity.private_key())
            .unwrap();
        let leaf_sha256 = sha256(&identity.chain[0]);
        let (acknowledgements, acknowledged) = mpsc::channel(64);
        let shared = Arc::new(Shared {
            pki,
            reply: Mutex::new(Reply::Issue),
            seen: Mutex::default(),
            state: Mutex::default(),
            acknowledgements,
            cut: tokio::sync::Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(accept(listener, config, leaf_sha256, Arc::clone(&shared)));
        (
            Self {
                address,
                shared,
                task,
            },
            acknowledged,
        )
    }

    pub(crate) fn reply_with(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Ends the mesh-state streams that are open.
    pub(crate) fn cut(&self) {
        self.shared.cut.notify_waiters();
    }

    pub(crate) fn publish(&self, state: Vec<v1::WatchResponse>) {
        *self.shared.state.lock().unwrap() = state;
    }
}

impl Drop for TestControlPlane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    mut config: ServerConfig,
    leaf_sha256: [u8; 32],
    shared: Arc<Shared>,
) {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(serve(
            acceptor.clone(),
            socket,
            leaf_sha256,
            Arc::clone(&shared),
        ));
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    server_leaf_sha256: [u8; 32],
    shared: Arc<Shared>,
) {
    let Ok(tls) = acceptor.accept(socket).await else {
        return;
    };
    let session = tls.get_ref().1;
    let exporter = session
        .export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]))
        .unwrap();
    let presented = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| leaf.clone().into_owned());
    let service = Service {
        shared,
        exporter,
        server_leaf_sha256,
        presented,
    };
    let attestation = AttestationServer::new(service.clone());
    let mesh_state = MeshStateServer::new(service);
    let routes = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (mut attestation, mut mesh_state) = (attestation.clone(), mesh_state.clone());
        async move {
            if request
                .uri()
                .path()
                .starts_with("/vouchsafe.v1.Attestation/")
            {
                tower::Service::call(&mut attestation, request).await
            } else {
                tower::Service::call(&mut mesh_state, request).await
            }
        }
    });
    let _ended = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), TowerToHyperService::new(routes))
        .await;
}

#[derive(Clone)]
struct Service {
    shared: Arc<Shared>,
    exporter: [u8; 32],
    server_leaf_sha256: [u8; 32],
    presented: Option<CertificateDer<'static>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stream<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> Responses<T> {
    Box::pin(futures_util::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|item| (Ok(item), receiver)) },
    ))
}

#[tonic::async_trait]
impl Attestation for Service {
    type AttestStream = Responses<v1::AttestResponse>;

    async fn attest(
        &self,
        request: Request<Streaming<v1::AttestRequest>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        let (responses, receiver) = mpsc::channel(4);
        let service = self.clone();
        tokio::spawn(async move { service.converse(request.into_inner(), responses).await });
        Ok(Response::new(stream(receiver)))
    }
}

impl Service {
    async fn converse(
        self,
        mut requests: Streaming<v1::AttestRequest>,
        responses: mpsc::Sender<v1::AttestResponse>,
    ) {
        let Ok(Some(message)) = requests.message().await else {
            return;
        };
        let Ok(AttestRequest::Hello(hello)) = message.try_into() else {
            return;
        };
        let mut seen = Seen {
            hello: *hello.clone(),
            is_bound: None,
            presented: self.presented.clone(),
        };
        let reply = *self.shared.reply.lock().unwrap();
        if let Reply::Refuse(reason) = reply {
            self.shared.seen.lock().unwrap().push(seen);
            let refusal = AttestResponse::Refusal(Refusal {
                reason: reason.to_owned(),
                remedy: "ask the operator".to_owned(),
                retry_after: Duration::ZERO,
            });
            let _gone = responses.send(refusal.into()).await;
            return;
        }
        if reply == Reply::NeverAnswer {
            self.shared.seen.lock().unwrap().push(seen);
            return std::future::pending().await;
        }
        let challenge = Challenge {
            nonce: Nonce([9; 32]),
            server_time: now(),
            required: vec![EvidenceKind::Simulated],
            policy_revision: REVISION,
            answers: Vec::new(),
        };
        let challenge = AttestResponse::Challenge(Box::new(challenge));
        let _gone = responses.send(challenge.into()).await;
        let Ok(Some(message)) = requests.message().await else {
            return;
        };
        let Ok(AttestRequest::Evidence(evidence)) = message.try_into() else {
            return;
        };
        seen.is_bound = Some(self.is_bound(&hello, &evidence));
        self.shared.seen.lock().unwrap().push(seen);
        let issued = AttestResponse::Issued(Box::new(self.issue(reply, &hello, &evidence)));
        let _gone = responses.send(issued.into()).await;
    }

    fn is_bound(&self, hello: &Hello, evidence: &Evidence) -> bool {
        let transcript = Transcript {
            purpose: hello.purpose,
            role: Role::Attester,
            trust_domain: &trust_domain(),
            workload: &hello.workload,
            client_nonce: hello.client_nonce,
            server_nonce: Nonce([9; 32]),
            spki_sha256: hello.spki_sha256,
            server_leaf_sha256: self.server_leaf_sha256,
            exporter: self.exporter,
            ek_name: &[],
            ak_name: &[],
            policy_revision: REVISION,
        };
        let binding =
            transcript
                .base()
                .device(EvidenceKind::Simulated, 0, &EvidenceDigest::empty());
        match &evidence.items[0].body {
            EvidenceBody::Simulated(simulated) => binding.matches(&simulated.binding),
            _ => false,
        }
    }

    fn issue(&self, reply: Reply, hello: &Hello, evidence: &Evidence) -> Issued {
        let csr =
            CertificateSigningRequestParams::from_der(&evidence.csr.as_slice().into()).unwrap();
        assert_eq!(
            sha256(&csr.public_key.subject_public_key_info()),
            hello.spki_sha256
        );
        let workload = hello.workload.to_string();
        let pki = &self.shared.pki;
        let certificate_chain = match reply {
            Reply::IssueForAnotherKey => pki.issue(&workload, true, &KeyPair::generate().unwrap()),
            Reply::IssueForAnotherName => pki.issue("inference/other", true, &csr.public_key),
            Reply::IssueWithoutResult => pki.issue(&workload, false, &csr.public_key),
            _ => pki.issue(&workload, true, &csr.public_key),
        };
        let instance = match reply {
            Reply::IssueWithAnotherInstance => InstanceId([8; 16]),
            _ => INSTANCE,
        };
        Issued {
            certificate_chain,
            attestation_result: b"{}".to_vec(),
            trust_bundle: pki.authorities(),
            renew_at: now() + Duration::from_millis(10),
            server_time: now(),
            instance,
            reattest: vec![],
        }
    }
}

#[tonic::async_trait]
impl MeshState for Service {
    type WatchStream = Responses<v1::WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (responses, receiver) = mpsc::channel(4);
        let shared = Arc::clone(&self.shared);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            let Ok(Some(subscribe)) = requests.message().await else {
                return;
            };
            let _gone = shared.acknowledgements.send(subscribe).await;
            let messages = shared.state.lock().unwrap().clone();
            for message in messages {
                let _gone = responses.send(message).await;
            }
            loop {
                let message = tokio::select! {
                    message = requests.message() => message,
                    () = shared.cut.notified() => return,
                };
                let Ok(Some(message)) = message else {
                    return;
                };
                let _gone = shared.acknowledgements.send(message).await;
            }
        });
        Ok(Response::new(stream(receiver)))
    }
}

/// Takes any client certificate or none, as a control plane does at first contact.
#[derive(Debug)]
struct AnyClient;

impl rustls::server::danger::ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
