//! TLS of the API: 1.3 only, no resumption, one configuration per certificate epoch.
//!
//! A client certificate is optional, because an instance has none when it enrols; one that is presented is verified by
//! the same function that sidecars use. What evidence is bound to, the exporter of the session and the digest of the
//! leaf that was served on it, is taken here, once, right after the handshake.
//!
//! Source: DESIGN §5.1; RFC 8446 §7.5.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use vouchsafe_attestation::binding::EXPORTER_LABEL;
use vouchsafe_attestation::peer::{Peer, PeerRole, VerifyPeerError, verify_peer};
use vouchsafe_attestation::svid::sha256;
use vouchsafe_attestation::trust_bundle::TrustBundle;

use crate::ca::RoleKey;

/// What handshakes use from now on.
#[derive(Clone, Debug)]
pub struct TlsEpoch {
    config: Arc<ServerConfig>,
    leaf_sha256: [u8; 32],
}

/// A connection as the API knows it: nothing here was said by the peer.
#[derive(Clone, Debug)]
pub struct Connection {
    /// TLS exporter of the session.
    pub exporter: [u8; 32],
    /// SHA-256 of the leaf that was served on it.
    pub leaf_sha256: [u8; 32],
    /// Who presented a certificate of ours, if anyone did.
    pub peer: Option<Peer>,
    /// Address of the other end.
    pub address: SocketAddr,
}

impl Connection {
    /// How long it may live: as long as the certificate that it presented, so that nobody who was let go stays by
    /// keeping a connection; a stranger's, as long as one enrolment takes.
    pub fn lease(&self, now: SystemTime) -> Duration {
        match &self.peer {
            Some(peer) => peer.not_after().duration_since(now).unwrap_or_default(),
            None => STRANGERS_LEASE,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("the handshake did not end in time")]
    Deadline,
    /// TLS failed.
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
    /// The client speaks something else than HTTP/2.
    #[error("the client did not agree on `h2`")]
    Alpn,
    /// The session gives no exporter.
    #[error("the session gives no exporter")]
    Exporter(#[source] rustls::Error),
    /// The presented certificate is not good any more.
    #[error("the client's certificate does not verify")]
    Peer(#[source] VerifyPeerError),
}

impl HandshakeError {
    /// The bounded word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Tls(_) => "tls",
            Self::Alpn => "alpn",
            Self::Exporter(_) => "exporter",
            Self::Peer(error) => error.reason(),
        }
    }
}

impl TlsEpoch {
    /// Builds the configuration for a leaf; the bundle may change below it.
    ///
    /// # Errors
    /// [`rustls::Error`] when the certificate can't be served.
    pub fn new(key: &RoleKey, bundle: &Arc<ArcSwap<TrustBundle>>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = ClientVerifier {
            provider: Arc::clone(&provider),
            bundle: Arc::clone(bundle),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(key.chain.clone(), key.tls_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the verification of its peer, and shares secrets with another session.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        let leaf = key
            .chain
            .first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        Ok(Self {
            config: Arc::new(config),
            leaf_sha256: sha256(leaf),
        })
    }

    /// Shakes hands within the deadline.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub async fn accept(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<(Connection, TlsStream<TcpStream>), HandshakeError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(socket))
            .await
            .map_err(|_| HandshakeError::Deadline)?
            .map_err(HandshakeError::Tls)?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(ALPN) {
            return Err(HandshakeError::Alpn);
        }
        let exporter = session
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(b""))
            .map_err(HandshakeError::Exporter)?;
        let peer = session
            .peer_certificates()
            .filter(|chain| !chain.is_empty())
            .map(|chain| verify_peer(chain, bundle, PeerRole::Client, now))
            .transpose()
            .map_err(HandshakeError::Peer)?;
        let connection = Connection {
            exporter,
            leaf_sha256: self.leaf_sha256,
            peer,
            address,
        };
        Ok((connection, stream))
    }
}

/// Asks for a certificate, takes none, and verifies one that comes.
struct ClientVerifier {
    provider: Arc<CryptoProvider>,
    bundle: Arc<ArcSwap<TrustBundle>>,
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend(intermediates.iter().cloned());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match verify_peer(&chain, &self.bundle.load(), PeerRole::Client, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(VerifyPeerError::Expired) => Err(CertificateError::Expired.into()),
            Err(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
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
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const ALPN: &[u8] = b"h2";
/// An enrolment may take 90 seconds.
const STRANGERS_LEASE: Duration = Duration::from_secs(120);
/// Slower than any honest handshake over a continent, short enough to shed idlers.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
