//! A TLS client of another make than the sidecar's: any certificate or none, any protocol names, no opinion of the server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::pki::Issued;

/// Silence after which a read gives up.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An open TLS connection.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects and completes the handshake as far as the client can see it. With TLS 1.3 a server's refusal of the client
/// certificate arrives afterwards: the first read says.
///
/// # Errors
/// When the connection or the client's part of the handshake fails.
pub fn connect(
    address: SocketAddr,
    identity: Option<&Issued>,
    protocols: &[&str],
) -> std::io::Result<Stream> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match identity {
        Some(issued) => builder
            .with_client_auth_cert(issued.chain.clone(), issued.key.clone_key())
            .expect("key and certificate belong together"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut connection =
        ClientConnection::new(Arc::new(config), name).expect("the configuration is whole");
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Sends bytes over a new TLS connection and returns all that comes back until the other end closes or refuses.
pub fn exchange(
    address: SocketAddr,
    identity: Option<&Issued>,
    protocols: &[&str],
    request: &[u8],
) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Ok(mut stream) = connect(address, identity, protocols) {
        // The other end may close before it reads; what came back is what counts.
        let _ = stream.write_all(request).and_then(|()| stream.flush());
        let _ = stream.read_to_end(&mut answer);
    }
    answer
}

/// A server that sends back what it reads, asks nobody for a certificate and knows no protocol names.
///
/// Its threads end with the process.
pub fn echo(identity: &Issued) -> SocketAddr {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .expect("key and certificate belong together");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let connection = ServerConnection::new(config).expect("the configuration is whole");
                let mut stream = StreamOwned::new(connection, socket);
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let sent = stream.write_all(&buffer[..count]);
                    if sent.and_then(|()| stream.flush()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address.expect("a bound listener has an address")
}

/// Believes every server: these tests ask whom the server believes.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

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
        Err(rustls::Error::General("TLS 1.2 was not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
