//! One connection to the control plane: TLS of our own under gRPC.
//!
//! A channel that reconnects by itself could move a call to a session whose exporter nobody took, and evidence bound to
//! the wrong session is worthless. So a [`Connection`] is exactly one TLS session with one HTTP/2 connection on it; the
//! exporter and the digest of the served leaf are taken once, right after the handshake, and when the session ends the
//! connection is over.
//!
//! TLS is 1.3 only, X25519MLKEM768 first, without tickets, resumption and early data: a resumed session would skip the
//! check of who serves it. There is one TLS configuration per connection, so no certificate ever swaps underneath.
//!
//! Source: DESIGN §5.1; RFC 8446 §7.5 for the exporter.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature,
};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower::Service;
use vouchsafe_api::convert::{MAX_ATTEST_MESSAGE_BYTES, MAX_WATCH_RESPONSE_BYTES};
use vouchsafe_api::v1::attestation_client::AttestationClient;
use vouchsafe_api::v1::mesh_state_client::MeshStateClient;
use vouchsafe_attestation::binding::EXPORTER_LABEL;
use vouchsafe_attestation::peer::{RoleHolder, VerifyPeerError, verify_role};
use vouchsafe_attestation::svid::MeshRole;
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::clock::MeshClock;
use crate::state::Svid;

/// Where the control plane is and how it is recognised.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    addresses: Vec<String>,
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
}

impl ControlPlane {
    /// A control plane of `trust_domain` at any of `addresses` (`host:port`, tried in order), whose root key is pinned.
    pub fn new(
        addresses: Vec<String>,
        root_pins: Vec<[u8; 32]>,
        trust_domain: TrustDomain,
        clock: Arc<MeshClock>,
    ) -> Self {
        let provider = Arc::new(provider());
        let verifier = Arc::new(Verifier {
            root_pins,
            trust_domain,
            clock,
            algorithms: provider.signature_verification_algorithms,
        });
        Self {
            addresses,
            verifier,
            provider,
        }
    }

    /// Checks a chain whose leaf must hold a role of the mesh, against the same pins as the connection.
    ///
    /// # Errors
    /// [`VerifyPeerError`].
    pub fn verify_role(
        &self,
        chain: &[CertificateDer<'_>],
        role: MeshRole,
    ) -> Result<RoleHolder, VerifyPeerError> {
        self.verifier.verify_role(chain, role)
    }

    /// Connects to the first address that answers and proves to be the control plane.
    ///
    /// `svid` is presented as client certificate where there is one.
    ///
    /// # Errors
    /// [`ConnectError`] of the last address tried; each gets at most [`CONNECT_DEADLINE`].
    pub async fn connect(&self, svid: Option<&Svid>) -> Result<Connection, ConnectError> {
        let config = Arc::new(self.tls_config(svid)?);
        let mut failure = ConnectError::NoAddress;
        for address in &self.addresses {
            let attempt = Self::connect_to(address, Arc::clone(&config), &self.verifier);
            match tokio::time::timeout(CONNECT_DEADLINE, attempt).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = ConnectError::Deadline(address.clone()),
            }
        }
        Err(failure)
    }

    /// A session that has not shaken hands yet.
    #[cfg(test)]
    pub(super) fn session_before_handshake(&self) -> rustls::ClientConnection {
        let config = Arc::new(self.tls_config(None).unwrap());
        let name = ServerName::try_from("control-plane").unwrap();
        rustls::ClientConnection::new(config, name).unwrap()
    }

    async fn connect_to(
        address: &str,
        config: Arc<ClientConfig>,
        verifier: &Verifier,
    ) -> Result<Connection, ConnectError> {
        let unreachable = |error| ConnectError::Unreachable(address.to_owned(), error);
        let socket = TcpStream::connect(address).await.map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        // The name is not sent (SNI is off) and not judged: the pinned root and the role are.
        let name = ServerName::try_from("control-plane").map_err(|_| ConnectError::NoAddress)?;
        let tls = TlsConnector::from(config)
            .connect(name, socket)
            .await
            .map_err(ConnectError::from_handshake)?;
        let (_, session) = tls.get_ref();
        if session.alpn_protocol() != Some(ALPN_H2) {
            return Err(ConnectError::Alpn);
        }
        let exporter = exporter(session)?;
        let chain = session.peer_certificates().unwrap_or_default();
        let server = verifier
            .verify_role(chain, MeshRole::ControlPlane)
            .map_err(|verdict| ConnectError::Untrusted(Arc::new(verdict)))?;
        let (requests, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .max_header_list_size(MAX_HEADER_BYTES)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(ConnectError::Http2)?;
        // The driver's own end is seen by whoever has a call open on it.
        let driver = tokio::spawn(async move {
            let _ended = driver.await;
        });
        Ok(Connection {
            channel: Channel { requests },
            exporter,
            server,
            _driver: Driver(driver),
        })
    }

    fn tls_config(&self, svid: Option<&Svid>) -> Result<ClientConfig, ConnectError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(ConnectError::Configuration)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier) as _);
        let mut config = match svid {
            Some(svid) => builder
                .with_client_auth_cert(svid.chain.clone(), svid.key.clone_key())
                .map_err(ConnectError::Configuration)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok(config)
    }
}

/// One TLS session with the control plane. Ends when it is dropped.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    exporter: [u8; 32],
    server: RoleHolder,
    _driver: Driver,
}

impl Connection {
    /// TLS exporter of this session: what evidence is bound to.
    pub fn exporter(&self) -> [u8; 32] {
        self.exporter
    }

    /// Who serves this session.
    pub fn server(&self) -> &RoleHolder {
        &self.server
    }

    /// Calls of the attestation service.
    pub fn attestation(&self) -> AttestationClient<Channel> {
        AttestationClient::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MAX_ATTEST_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_ATTEST_MESSAGE_BYTES)
    }

    /// Calls of the mesh-state service.
    pub fn mesh_state(&self) -> MeshStateClient<Channel> {
        MeshStateClient::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MAX_WATCH_RESPONSE_BYTES)
    }
}

/// The task that moves the session's bytes, ended with its connection.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What gRPC sends requests through: one HTTP/2 connection, never a second one.
#[derive(Clone, Debug)]
pub struct Channel {
    requests: SendRequest<Body>,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}

fn origin() -> Uri {
    Uri::from_static("https://control-plane")
}

/// Takes the exporter of an established session.
pub(super) fn exporter(session: &rustls::ClientConnection) -> Result<[u8; 32], ConnectError> {
    session
        .export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]))
        .map_err(ConnectError::Exporter)
}

/// The key exchanges and suites of a session with the control plane: TLS 1.3, post-quantum first.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Judges who serves: a full chain to a pinned root, whose leaf has the control plane's ID and role.
#[derive(Debug)]
struct Verifier {
    root_pins: Vec<[u8; 32]>,
    trust_domain: TrustDomain,
    clock: Arc<MeshClock>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn verify_role(
        &self,
        chain: &[CertificateDer<'_>],
        role: MeshRole,
    ) -> Result<RoleHolder, VerifyPeerError> {
        verify_role(
            chain,
            &self.root_pins,
            &self.trust_domain,
            role,
            self.clock.now(),
        )
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _host_now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        match self.verify_role(&chain, MeshRole::ControlPlane) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(rustls::Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(error)),
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(
            "TLS 1.2 is never negotiated".to_owned(),
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Why there is no connection to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration names no address.
    #[error("no address of the control plane is configured")]
    NoAddress,
    /// No TCP connection.
    #[error("failed to connect to the control plane at `{0}`")]
    Unreachable(String, #[source] std::io::Error),
    /// Connecting and the TLS handshake took too long.
    #[error("the control plane at `{0}` did not answer in time")]
    Deadline(String),
    /// The presented chain is not the control plane's: a wrong pin, or an impostor.
    #[error("what answered is not the control plane of this trust domain")]
    Untrusted(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Any other failure of the handshake, such as an end that has no TLS 1.3.
    #[error("the TLS handshake with the control plane failed")]
    Handshake(#[source] std::io::Error),
    /// The other end does not speak HTTP/2.
    #[error("the control plane did not agree to HTTP/2")]
    Alpn,
    /// The session gives no exporter, so nothing could be bound to it.
    #[error("the TLS session gives no exporter")]
    Exporter(#[source] rustls::Error),
    /// HTTP/2 did not start.
    #[error("failed to start HTTP/2 with the control plane")]
    Http2(#[source] hyper::Error),
    /// Our own certificate can't be used.
    #[error("failed to prepare the TLS session")]
    Configuration(#[source] rustls::Error),
}

impl ConnectError {
    /// Finds our verifier's verdict in what the handshake returns.
    fn from_handshake(error: std::io::Error) -> Self {
        let verdict = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .and_then(|error| match error {
                rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(verdict))) => {
                    Some(verdict)
                }
                _ => None,
            });
        match verdict {
            Some(verdict) => Self::Untrusted(Arc::clone(verdict)),
            None => Self::Handshake(error),
        }
    }

    /// The bounded word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAddress | Self::Unreachable(..) | Self::Deadline(_) => "unreachable",
            Self::Untrusted(_) => "untrusted",
            Self::Handshake(_) | Self::Alpn => "handshake",
            Self::Exporter(_) => "exporter",
            Self::Http2(_) => "transport",
            Self::Configuration(_) => "own_certificate",
        }
    }
}

/// Longest time for one address: name, TCP and TLS. Two handshake retransmissions fit (RFC 6298: 1 s, then 2 s).
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

const ALPN_H2: &[u8] = b"h2";
/// How soon a silent control plane is noticed: a ping after this long, and as long for its answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// gRPC metadata that we read is a status and a short message.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
