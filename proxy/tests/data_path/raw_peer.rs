//! A peer of our own making: speaks TLS, the shared lane and the control stream, and says there what a test wants.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vouchsafe_attestation::binding::Nonce;
use vouchsafe_attestation::connection_proof::{
    ConnectionBinding, ConnectionProof, ConnectionTranscript, EXPORTER_LABEL, ProofPurpose,
};
use vouchsafe_attestation::peer::PeerRole;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_proxy::lane::control::message::{Message, Parsed};
use vouchsafe_proxy::state::Svid;

use crate::support::soon;

/// A connection to a sidecar's door.
pub(crate) struct RawPeer {
    pub(crate) binding: ConnectionBinding,
    send: SendRequest<Bytes>,
}

/// A control stream on it.
pub(crate) struct Control {
    send: SendStream<Bytes>,
    receive: RecvStream,
    received: BytesMut,
}

/// Completes a handshake; believes any server.
pub(crate) async fn handshake(
    door: SocketAddr,
    svid: &Svid,
    alpn: &[u8],
) -> (TlsStream<TcpStream>, ConnectionBinding) {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_client_auth_cert(svid.chain.clone(), svid.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    let tcp = TcpStream::connect(door).await.unwrap();
    let name = ServerName::from(std::net::Ipv4Addr::LOCALHOST);
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let stream = soon("the handshake", stream).await.unwrap();
    let (_, session) = stream.get_ref();
    let exporter = session.export_keying_material([0; 32], EXPORTER_LABEL, None);
    let binding = ConnectionBinding {
        exporter: exporter.unwrap(),
        client_leaf_sha256: sha256(&svid.chain[0]),
        server_leaf_sha256: sha256(&session.peer_certificates().unwrap()[0]),
    };
    (stream, binding)
}

impl RawPeer {
    pub(crate) async fn connect(door: SocketAddr, svid: &Svid) -> Self {
        let (stream, binding) = handshake(door, svid, b"vouchsafe-shared/1").await;
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Self { binding, send }
    }

    /// Opens a control stream.
    pub(crate) async fn control(&self) -> Control {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = "_control:0".parse().unwrap();
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, send) = send.send_request(request, false).unwrap();
        let response = soon("an answer", response).await.unwrap();
        assert_eq!(response.status(), 200);
        Control {
            send,
            receive: response.into_body(),
            received: BytesMut::new(),
        }
    }
}

impl Control {
    pub(crate) fn say(&mut self, message: &Message) {
        let bytes = message.encode().unwrap();
        self.send.send_data(bytes.into(), false).unwrap();
    }

    /// The next message; `None` when the stream has ended.
    pub(crate) async fn hear(&mut self) -> Option<Message> {
        loop {
            if let Parsed::Complete(message, length) = Message::parse(&self.received).unwrap() {
                let _ = self.received.split_to(length);
                return Some(*message);
            }
            let data = soon("a message", self.receive.data()).await?.ok()?;
            let _ = self.receive.flow_control().release_capacity(data.len());
            self.received.extend_from_slice(&data);
        }
    }

    /// Says who succeeds, and hears over which nonce it is to be proven.
    pub(crate) async fn succeed(&mut self, svid: &Svid) -> Option<Nonce> {
        self.say(&Message::Successor(svid.chain.clone()));
        match self.hear().await? {
            Message::Challenge(ProofPurpose::Extend, nonce, _) => Some(nonce),
            _ => None,
        }
    }
}

/// A proof by the client's end, before a test breaks it.
pub(crate) fn transcript<'a>(
    binding: &'a ConnectionBinding,
    svid: &Svid,
    nonce: Nonce,
) -> ConnectionTranscript<'a> {
    ConnectionTranscript {
        purpose: ProofPurpose::Extend,
        prover: PeerRole::Client,
        connection: binding,
        leaf_sha256: sha256(&svid.chain[0]),
        nonce,
        counter: 1,
    }
}

/// Signs a proof with a certificate's key.
pub(crate) fn sign(svid: &Svid, transcript: &ConnectionTranscript<'_>) -> ConnectionProof {
    let PrivateKeyDer::Pkcs8(key) = &svid.key else {
        panic!("keys of these tests are PKCS#8");
    };
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_pkcs8_der()).unwrap();
    let signature = key
        .sign(&SystemRandom::new(), &transcript.message())
        .unwrap();
    ConnectionProof {
        scheme: SignatureScheme::ECDSA_NISTP256_SHA256.into(),
        counter: transcript.counter,
        signature: signature.as_ref().to_vec(),
    }
}

/// Believes any server.
#[derive(Debug)]
pub(crate) struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
