//! Full mutual handshakes, to learn what one costs the inbound proxy.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::Load;
use crate::http1::PATIENCE;
use crate::measure::{Tally, window};

pub(crate) async fn run(
    load: &Load,
    folder: &Path,
    alpn: Option<String>,
    post_quantum: bool,
) -> anyhow::Result<serde_json::Value> {
    let connector = TlsConnector::from(Arc::new(config(folder, alpn, post_quantum)?));
    let server = ServerName::try_from("server.bench.test")?;
    let tally = Tally::new(load);
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let (connector, server, tally) = (connector.clone(), server.clone(), Rc::clone(&tally));
        let target = load.target;
        tasks.spawn_local(async move {
            while tally.borrow_mut().claim() {
                let started = Instant::now();
                let one = tokio::time::timeout(PATIENCE, one(&connector, &server, target));
                match one.await.context("a handshake took too long").flatten() {
                    Ok(()) => tally.borrow_mut().record(started),
                    Err(error) => {
                        tally.borrow_mut().fail(&error);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
    window(load, &tally).await
}

/// One handshake. The client is done before the server has judged its certificate, so the connection is closed politely
/// and the server's end awaited: by then it has judged.
async fn one(
    connector: &TlsConnector,
    server: &ServerName<'static>,
    target: std::net::SocketAddr,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector
        .connect(server.clone(), stream)
        .await
        .context("the handshake failed")?;
    stream.shutdown().await?;
    // Servers differ in how they end a connection that said nothing; each way proves that they got this far.
    let _end = stream.read(&mut [0; 256]).await;
    Ok(())
}

fn config(folder: &Path, alpn: Option<String>, post_quantum: bool) -> anyhow::Result<ClientConfig> {
    let x25519 = aws_lc_rs::kx_group::X25519;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = if post_quantum {
        vec![aws_lc_rs::kx_group::X25519MLKEM768, x25519]
    } else {
        vec![x25519]
    };
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(folder.join("ca.pem"))? {
        roots.add(root?)?;
    }
    let chain =
        CertificateDer::pem_file_iter(folder.join("client.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("client.key"))?;
    let provider = Arc::new(provider);
    let chains =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ChainOnly(chains.build()?)))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.into_iter().map(String::into_bytes).collect();
    Ok(config)
}

/// Judges the chain and the signature, and no name: certificates of a mesh bear SPIFFE IDs, which TLS clients don't know.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self
            .0
            .verify_server_cert(leaf, intermediates, name, ocsp, now);
        match verdict {
            // The name is looked at when the chain was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
