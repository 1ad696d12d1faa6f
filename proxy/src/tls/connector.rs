//! The outbound handshake.

use std::sync::Arc;

use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use crate::tls::acceptor::{HandshakeError, Secured, secured};
use crate::tls::peer_verifier::Captured;
use crate::tls::{Offer, TlsEpoch, handshake};

/// Completes a client-side handshake. Who the server is is for the caller to compare; the deadline is the caller's.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn connect(
    tcp: TcpStream,
    epoch: &TlsEpoch,
    offer: Offer,
) -> Result<Secured, HandshakeError> {
    let config = epoch
        .client(offer)
        .ok_or(HandshakeError::Tls(rustls::Error::HandshakeNotComplete))?;
    // rustls wants a name; none is sent (`enable_sni` is off) and none is compared (the verifier reads SPIFFE IDs).
    let name = ServerName::from(std::net::Ipv4Addr::UNSPECIFIED);
    let session = ClientConnection::new(Arc::clone(config), name).map_err(HandshakeError::Tls)?;
    let (result, outcome) = Captured::new(Box::pin(handshake::complete(tcp, session.into()))).await;
    secured(result, outcome)
}
