//! The inbound handshake: from a TCP connection to a verified peer, or a bounded reason.

use std::io;
use std::sync::Arc;

use rustls::{Error, InvalidMessage, PeerIncompatible, ServerConnection};
use tokio::net::TcpStream;
use vouchsafe_attestation::peer::VerifyPeerError;

use crate::reason::Reason;
use crate::tls::TlsEpoch;
use crate::tls::handshake::{self, Established};
use crate::tls::peer_verifier::{Captured, Verified};
use crate::tls::stream::TlsIo;

/// A connection with a verified peer at its other end.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) stream: Box<TlsIo>,
    pub(crate) peer: Arc<Verified>,
    /// TLS exporter of the connection.
    pub(crate) exporter: [u8; 32],
    /// The application protocol that both ends agreed on.
    pub(crate) alpn: Option<Vec<u8>>,
}

/// Completes a server-side handshake. The deadline is the caller's.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn accept(tcp: TcpStream, epoch: &TlsEpoch) -> Result<Secured, HandshakeError> {
    // A connection that never says anything must cost no TLS state.
    tcp.readable().await.map_err(HandshakeError::Io)?;
    let session = ServerConnection::new(Arc::clone(&epoch.server)).map_err(HandshakeError::Tls)?;
    let (result, outcome) = Captured::new(Box::pin(handshake::complete(tcp, session.into()))).await;
    secured(result, outcome)
}

/// What both directions make of a finished handshake.
pub(crate) fn secured(
    result: io::Result<Established>,
    outcome: Option<Result<Arc<Verified>, VerifyPeerError>>,
) -> Result<Secured, HandshakeError> {
    match (result, outcome) {
        (Ok(established), Some(Ok(verified))) => Ok(Secured {
            exporter: established.exporter,
            alpn: established.alpn,
            stream: Box::new(established.stream),
            peer: verified,
        }),
        (_, Some(Err(error))) => Err(HandshakeError::Peer(error)),
        (Err(error), _) => Err(HandshakeError::from_io(error)),
        // A handshake can't succeed without our verifier; were it so, nobody would have vouched for the peer.
        (Ok(_), None) => Err(HandshakeError::Peer(VerifyPeerError::NoCertificate)),
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// Not complete within `limits.handshake`.
    #[error("the handshake took too long")]
    Timeout,
    /// Given up for a newer one: more handshakes than `limits.handshakes` are under way.
    #[error("too many handshakes are under way")]
    Evicted,
    /// The peer's chain is no good.
    #[error("the peer's certificate was refused")]
    Peer(#[source] VerifyPeerError),
    /// The peer broke or ended the protocol.
    #[error("the TLS handshake failed")]
    Tls(#[source] Error),
    /// The connection broke.
    #[error("the connection broke during the handshake")]
    Io(#[source] io::Error),
}

impl HandshakeError {
    pub(crate) fn from_io(error: io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>())
            .cloned();
        match tls {
            Some(tls) => Self::Tls(tls),
            None => Self::Io(error),
        }
    }

    /// The bounded word.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Timeout => Reason::new("handshake_timeout"),
            Self::Evicted => Reason::new("handshake_limit"),
            Self::Peer(error) => error.into(),
            Self::Tls(error) => Reason::new(tls_reason(error)),
            Self::Io(_) => Reason::new("handshake_io"),
        }
    }
}

fn tls_reason(error: &Error) -> &'static str {
    match error {
        Error::NoCertificatesPresented => "no_certificate",
        // The first byte of a TLS record is its type; plaintext protocols begin with others.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "plaintext",
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => "tls_version",
        Error::PeerIncompatible(_) => "tls_incompatible",
        Error::NoApplicationProtocol => "tls_application_protocol",
        Error::AlertReceived(_) => "tls_alert",
        _ => "tls_protocol",
    }
}
