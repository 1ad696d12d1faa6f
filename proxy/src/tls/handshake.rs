//! Drives a handshake of rustls over a socket, and takes the connection over from it.
//!
//! rustls is fed record by record, so that it never holds anything of what comes after: that is ours.

use std::io;

use rustls::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vouchsafe_attestation::connection_proof::EXPORTER_LABEL;

use crate::tls::record::{Fault, HEADER_BYTES, MAX_RECORD_BYTES, Opener, Sealer};
use crate::tls::secrets::{ConnectionSecrets, Suite, tapped};
use crate::tls::stream::{Protection, TlsIo};

/// What a handshake came to.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) stream: TlsIo,
    /// The application protocol that both ends agreed on.
    pub(crate) alpn: Option<Vec<u8>>,
    /// Keying material that only the two ends of this connection have (RFC 8446 §7.5).
    pub(crate) exporter: [u8; 32],
}

/// Completes a handshake. Nothing is owed to a socket on which it fails.
///
/// # Errors
/// Those of the socket, and of rustls as `InvalidData`.
pub(crate) async fn complete(
    mut tcp: TcpStream,
    mut session: Connection,
) -> io::Result<Established> {
    let mut received = Vec::new();
    let mut secrets = None;
    loop {
        let flight = flight(&mut session)?;
        if !flight.is_empty() {
            tcp.write_all(&flight).await?;
        }
        if !session.is_handshaking() {
            break;
        }
        let length = loop {
            match next(&received) {
                Some(length) => break length,
                None => {
                    received.reserve(READ_BYTES);
                    if tcp.read_buf(&mut received).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        };
        let (fed, made) = tapped(|| feed(&mut session, received.get(..length)));
        secrets = made.or(secrets);
        if let Err(error) = fed {
            if let Ok(alert) = self::flight(&mut session) {
                // It says why, if it still gets through; the error that caused it comes first.
                let _ = tcp.try_write(&alert);
            }
            return Err(error);
        }
        received.drain(..length);
    }
    let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
    let protection = take_over(&session, secrets)?;
    // Now, for the secret behind it is not kept.
    let exporter = session
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    received.shrink_to_fit();
    Ok(Established {
        stream: TlsIo::new(tcp, protection, received),
        alpn,
        exporter,
    })
}

/// What rustls wants to send now.
fn flight(session: &mut Connection) -> io::Result<Vec<u8>> {
    let mut flight = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut flight)?;
    }
    Ok(flight)
}

/// The length of the first record, once it is whole. What can't be one is given to rustls as it is, which says what is
/// wrong with it.
fn next(received: &[u8]) -> Option<usize> {
    let &[kind, _, _, high, low] = received.first_chunk()?;
    let length = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if !RECORD_TYPES.contains(&kind) || length > MAX_RECORD_BYTES {
        return Some(received.len());
    }
    (received.len() >= length).then_some(length)
}

fn feed(session: &mut Connection, record: Option<&[u8]>) -> io::Result<()> {
    let mut record = record.unwrap_or_default();
    while !record.is_empty() {
        session.read_tls(&mut record)?;
        session
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    Ok(())
}

fn take_over(
    session: &Connection,
    secrets: Option<ConnectionSecrets>,
) -> Result<Protection, Fault> {
    let suite = session
        .negotiated_cipher_suite()
        .and_then(|suite| Suite::of(suite.suite()));
    let (Some(suite), Some(secrets)) = (suite, secrets) else {
        return Err(Fault::Keys);
    };
    let ConnectionSecrets { client, server } = secrets;
    let is_client = matches!(session, Connection::Client(_));
    let (own, peers) = if is_client {
        (client, server)
    } else {
        (server, client)
    };
    Ok(Protection {
        sealer: Sealer::new(suite, own)?,
        opener: Opener::new(suite, peers, is_client)?,
    })
}

/// Most flights are smaller.
const READ_BYTES: usize = 4 * 1024;
/// Change cipher spec, alert, handshake, application data: all that TLS has.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=23;
