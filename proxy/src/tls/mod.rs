//! Mutual TLS between sidecars: TLS 1.3 only, X25519MLKEM768 first, no resumption, no early data.
//!
//! # Why
//! Resumption skips certificate presentation, so a resumed connection would live on an old attestation result; it is off
//! on both sides. Configurations are built once per identity epoch and worker, and chosen before a handshake starts:
//! nothing is swapped underneath one.

pub(crate) mod acceptor;
pub(crate) mod connector;
mod handshake;
mod outgoing;
pub(crate) mod peer_verifier;
mod record;
mod secrets;
pub(crate) mod stream;

use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use vouchsafe_attestation::peer::PeerRole;
use vouchsafe_attestation::svid::sha256;

use crate::clock::MeshClock;
use crate::lane::control::bond::OwnCertificate;
use crate::lane::{ALPN_FLOW, ALPN_H2, ALPN_HTTP1, ALPN_SHARED};
use crate::state::IdentityEpoch;
use crate::tls::peer_verifier::PeerVerifier;
use crate::tls::secrets::Tap;

/// What handshakes of one identity epoch need.
#[derive(Debug)]
pub(crate) struct TlsEpoch {
    pub(crate) identity: Arc<IdentityEpoch>,
    /// Our certificate, as it is proven again over live connections.
    pub(crate) own: Arc<OwnCertificate>,
    server: Arc<ServerConfig>,
    clients: [(Offer, Arc<ClientConfig>); 4],
}

/// What a client offers to speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Offer {
    /// HTTP over the shared lane, or what a server without our sidecar chooses.
    SharedHttp,
    /// HTTP over a dedicated connection, or what a server without our sidecar chooses.
    DedicatedHttp,
    /// Bytes over the shared lane.
    SharedTcp,
    /// Bytes over a dedicated connection.
    DedicatedTcp,
}

impl Offer {
    fn protocols(self) -> Vec<Vec<u8>> {
        let offered: &[&[u8]] = match self {
            Self::SharedHttp => &[ALPN_SHARED, ALPN_H2, ALPN_HTTP1],
            Self::DedicatedHttp => &[ALPN_FLOW, ALPN_H2, ALPN_HTTP1],
            // A server that knows none of ours may choose none, and then gets the bytes as they are.
            Self::SharedTcp => &[ALPN_SHARED],
            Self::DedicatedTcp => &[ALPN_FLOW],
        };
        offered.iter().map(|protocol| protocol.to_vec()).collect()
    }
}

impl TlsEpoch {
    /// Builds the configurations of an epoch.
    ///
    /// # Errors
    /// The key is of no kind that TLS 1.3 can use, or does not fit the certificate.
    pub(crate) fn new(
        identity: Arc<IdentityEpoch>,
        clock: &Arc<MeshClock>,
    ) -> Result<Self, rustls::Error> {
        let key = CertifiedKey::from_der(
            identity.svid.chain.clone(),
            identity.svid.key.clone_key(),
            provider(),
        )?;
        let leaf = key
            .cert
            .first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let own = Arc::new(OwnCertificate {
            leaf_sha256: sha256(leaf),
            chain: key.cert.clone(),
            not_after: identity.svid.not_after,
            key: Arc::clone(&key.key),
        });
        let resolver = Arc::new(SingleCertAndKey::from(key));
        let verifier = |role| Arc::new(PeerVerifier::new(&identity, clock, role));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier(PeerRole::Client))
            .with_cert_resolver(Arc::<SingleCertAndKey>::clone(&resolver));
        server.alpn_protocols = [ALPN_SHARED, ALPN_FLOW, ALPN_H2, ALPN_HTTP1]
            .map(<[u8]>::to_vec)
            .to_vec();
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        // Secrets go from rustls to our own record protection, and nowhere else.
        server.key_log = Arc::new(Tap);
        let mut client = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier(PeerRole::Server))
            .with_client_cert_resolver(resolver);
        client.resumption = Resumption::disabled();
        // Peers are recognised by SPIFFE ID; a server name would only tell the network whom we call.
        client.enable_sni = false;
        client.key_log = Arc::new(Tap);
        let clients = [
            Offer::SharedHttp,
            Offer::DedicatedHttp,
            Offer::SharedTcp,
            Offer::DedicatedTcp,
        ]
        .map(|offer| {
            let mut client = client.clone();
            client.alpn_protocols = offer.protocols();
            (offer, Arc::new(client))
        });
        Ok(Self {
            identity,
            own,
            server: Arc::new(server),
            clients,
        })
    }

    fn client(&self, offer: Offer) -> Option<&Arc<ClientConfig>> {
        self.clients
            .iter()
            .find(|(held, _)| *held == offer)
            .map(|(_, client)| client)
    }
}

/// One provider for the process: aws-lc-rs, the post-quantum hybrid first, AES-128-GCM before the rest because it is as
/// safe here and cheaper.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    })
}
