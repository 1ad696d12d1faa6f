use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use vouchsafe_attestation::connection_proof::EXPORTER_LABEL;
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};

use super::*;
use crate::clock::MeshClock;
use crate::state::{IdentityEpoch, Svid};
use crate::svid::test_control_plane::{Pki, now, trust_domain};
use crate::tls::acceptor::Secured;
use crate::tls::{Offer, TlsEpoch, acceptor, connector};

fn epoch() -> TlsEpoch {
    let own = Pki::new().unattested("inference/llm");
    let root = Authority::new(trust_domain(), own.chain.last().unwrap(), false).unwrap();
    let identity = Arc::new(IdentityEpoch {
        number: 1,
        svid: Arc::new(Svid {
            chain: own.chain.clone(),
            key: own.private_key(),
            not_after: now() + Duration::from_secs(3600),
        }),
        bundle: Arc::new(TrustBundle::new(vec![root]).unwrap()),
    });
    TlsEpoch::new(identity, &Arc::new(MeshClock::host())).unwrap()
}

/// Two ends of a TCP connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Both ends of a connection between two workloads of one mesh.
async fn pair() -> (Box<TlsIo>, Box<TlsIo>) {
    let (client, server) = secured_pair().await;
    (client.stream, server.stream)
}

/// The same, with what else their handshakes came to.
async fn secured_pair() -> (Secured, Secured) {
    let (epoch, (near, far)) = (epoch(), sockets().await);
    let client = connector::connect(near, &epoch, Offer::DedicatedTcp);
    let server = acceptor::accept(far, &epoch);
    let (client, server) = tokio::join!(client, server);
    (client.unwrap(), server.unwrap())
}

#[tokio::test]
async fn what_is_written_arrives_whole_and_in_order_however_it_is_read() {
    let sent: Vec<u8> = (0..=255).cycle().take(1_000_003).collect();
    // Smaller than a record, larger than one read from the socket, and in between.
    for room in [100, 9_000, 70_000, 400_000] {
        let (mut near, mut far) = pair().await;
        let writer = async {
            for piece in sent.chunks(77_777) {
                near.write_all(piece).await.unwrap();
            }
            near.shutdown().await.unwrap();
        };
        let reader = async {
            let (mut received, mut buf) = (Vec::new(), vec![0; room]);
            loop {
                match far.read(&mut buf).await.unwrap() {
                    0 => return received,
                    read => received.extend_from_slice(&buf[..read]),
                }
            }
        };
        let ((), received) = tokio::join!(writer, reader);
        assert!(received == sent, "with room for {room}");
    }
}

#[tokio::test]
async fn a_cut_is_not_taken_for_an_end() {
    let (mut near, mut far) = pair().await;
    near.write_all(b"half").await.unwrap();
    drop(near);
    let mut received = Vec::new();
    let ended = far.read_to_end(&mut received).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(received, b"half");
    let again = far.read(&mut [0; 8]).await;
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let (mut near, mut far) = pair().await;
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    far.write_all(b"still here").await.unwrap();
    far.shutdown().await.unwrap();
    let mut received = Vec::new();
    near.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"still here");
}

#[tokio::test]
async fn bytes_that_are_no_record_end_the_connection() {
    let (mut near, mut far) = pair().await;
    near.tcp.write_all(&[0x17, 3, 3, 0, 20]).await.unwrap();
    near.tcp.write_all(&[7; 20]).await.unwrap();
    let refused = far.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    // The peer learns it by an alert.
    let told = near.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(fault(&told), Fault::Alert(20));
}

fn fault(error: &io::Error) -> Fault {
    *error.get_ref().unwrap().downcast_ref().unwrap()
}

/// A client of rustls alone, and our server.
async fn rustls_client() -> (tokio_rustls::client::TlsStream<TcpStream>, Box<TlsIo>) {
    let (client, server) = secured_by_rustls().await;
    (client, server.stream)
}

async fn secured_by_rustls() -> (tokio_rustls::client::TlsStream<TcpStream>, Secured) {
    let (epoch, (near, far)) = (epoch(), sockets().await);
    let config = Arc::clone(epoch.client(Offer::DedicatedTcp).unwrap());
    let name = ServerName::from(std::net::Ipv4Addr::UNSPECIFIED);
    let connector = TlsConnector::from(config);
    let client = connector.connect(name, near);
    let (client, server) = tokio::join!(client, acceptor::accept(far, &epoch));
    (client.unwrap(), server.unwrap())
}

/// Our client, and a server of rustls alone that gives out tickets.
async fn rustls_server() -> (Box<TlsIo>, tokio_rustls::server::TlsStream<TcpStream>) {
    let (epoch, (near, far)) = (epoch(), sockets().await);
    let mut config = ServerConfig::clone(&epoch.server);
    config.send_tls13_tickets = 3;
    config.session_storage = ServerSessionMemoryCache::new(8);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let client = connector::connect(near, &epoch, Offer::DedicatedTcp);
    let (client, server) = tokio::join!(client, acceptor.accept(far));
    (client.unwrap().stream, server.unwrap())
}

async fn both_ways(
    near: &mut (impl AsyncRead + AsyncWrite + Unpin),
    far: &mut (impl AsyncRead + AsyncWrite + Unpin),
) {
    let mut read = [0; 5];
    near.write_all(b"hello").await.unwrap();
    near.flush().await.unwrap();
    far.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello");
    far.write_all(b"world").await.unwrap();
    far.flush().await.unwrap();
    near.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"world");
}

#[tokio::test]
async fn a_client_that_renews_its_keys_is_followed_and_answered() {
    let (mut near, mut far) = rustls_client().await;
    for _ in 0..3 {
        both_ways(&mut near, &mut far).await;
        near.get_mut().1.refresh_traffic_keys().unwrap();
    }
    both_ways(&mut near, &mut far).await;
}

#[tokio::test]
async fn a_server_that_gives_tickets_and_renews_its_keys_is_followed() {
    let (mut near, mut far) = rustls_server().await;
    for _ in 0..3 {
        both_ways(&mut near, &mut far).await;
        far.get_mut().1.refresh_traffic_keys().unwrap();
    }
    both_ways(&mut near, &mut far).await;
}

#[tokio::test]
async fn keys_are_renewed_before_they_are_worn() {
    let (mut near, mut far) = rustls_client().await;
    far.protection.sealer.set_limit(2);
    let (mut ours, mut others) = pair().await;
    ours.protection.sealer.set_limit(2);
    for _ in 0..7 {
        both_ways(&mut near, &mut far).await;
        both_ways(&mut ours, &mut others).await;
    }
}

#[tokio::test]
async fn an_end_is_told_to_rustls_and_by_it() {
    let (mut near, mut far) = rustls_client().await;
    both_ways(&mut near, &mut far).await;
    far.shutdown().await.unwrap();
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    near.write_all(b"last").await.unwrap();
    near.shutdown().await.unwrap();
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"last");
}

#[tokio::test]
async fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    let (epoch, (mut near, far)) = (epoch(), sockets().await);
    let config = Arc::clone(epoch.client(Offer::DedicatedTcp).unwrap());
    let name = ServerName::from(std::net::Ipv4Addr::UNSPECIFIED);
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let client = async {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        near.write_all(&flight).await.unwrap();
        let mut received = [0; 4096];
        while client.is_handshaking() {
            let read = near.read(&mut received).await.unwrap();
            client.read_tls(&mut &received[..read]).unwrap();
            client.process_new_packets().unwrap();
        }
        // Certificate, proof, end and two records of data in one piece, with the beginning of a third.
        let mut flight = Vec::new();
        for data in [&b"early "[..], b"bird ", b"worm"] {
            io::Write::write_all(&mut client.writer(), data).unwrap();
            while client.wants_write() {
                client.write_tls(&mut flight).unwrap();
            }
        }
        let (now, later) = flight.split_at(flight.len() - 9);
        near.write_all(now).await.unwrap();
        (near, later.to_vec())
    };
    let (server, (mut near, later)) = tokio::join!(acceptor::accept(far, &epoch), client);
    let mut far = server.unwrap().stream;
    let mut read = [0; 15];
    far.read_exact(&mut read[..11]).await.unwrap();
    near.write_all(&later).await.unwrap();
    far.read_exact(&mut read[11..]).await.unwrap();
    assert_eq!(&read, b"early bird worm");
}

#[tokio::test]
async fn both_ends_and_rustls_export_the_same_material() {
    let (near, far) = secured_by_rustls().await;
    let export = |label: &[u8]| {
        let (_, session) = near.get_ref();
        session
            .export_keying_material([0; 32], label, None)
            .unwrap()
    };
    assert_eq!(far.exporter, export(EXPORTER_LABEL));
    assert_ne!(far.exporter, export(b"EXPORTER-test"));
    let (ours, others) = secured_pair().await;
    assert_eq!(ours.exporter, others.exporter);
    assert_ne!(ours.exporter, far.exporter);
}

/// What the peer of rustls sees when it gets bytes that we must refuse.
#[track_caller]
fn assert_alert(error: &io::Error, description: rustls::AlertDescription) {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    assert_eq!(error, Some(&rustls::Error::AlertReceived(description)));
}

#[tokio::test]
async fn what_must_not_come_is_answered_with_the_alert_that_says_why() {
    use rustls::AlertDescription as Alert;
    let refused: [(&[u8], Fault, Alert); 5] = [
        (
            &[20, 3, 3, 0, 1, 1],
            Fault::Type(20),
            Alert::UnexpectedMessage,
        ),
        (
            &[22, 3, 3, 0, 4, 0],
            Fault::Type(22),
            Alert::UnexpectedMessage,
        ),
        (&[23, 3, 3, 0x41, 1], Fault::TooLong, Alert::RecordOverflow),
        (&[23, 3, 3, 0, 16], Fault::Malformed, Alert::DecodeError),
        (
            &[
                23, 3, 3, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
            Fault::Undecryptable,
            Alert::BadRecordMac,
        ),
    ];
    for (bytes, expected, alert) in refused {
        let (mut near, mut far) = rustls_client().await;
        near.write_all(b"before").await.unwrap();
        near.get_mut().0.write_all(bytes).await.unwrap();
        let mut before = [0; 6];
        far.read_exact(&mut before).await.unwrap();
        for _ in 0..2 {
            let error = far.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(fault(&error), expected);
        }
        let told = near.read(&mut [0; 8]).await.unwrap_err();
        assert_alert(&told, alert);
        let after = far.write(b"no more").await.unwrap_err();
        assert_eq!(after.kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn every_flipped_bit_of_a_record_is_found() {
    let (mut near, mut far) = pair().await;
    let mut record = [0; 64];
    let length = near
        .protection
        .sealer
        .seal(Content::At(b"payload"), &mut record)
        .unwrap();
    // Behind the length, which says how much to wait for, and the version, which is ignored but authenticated.
    for place in (1..3).chain(HEADER_BYTES..length) {
        let mut flipped = record[..length].to_vec();
        flipped[place] ^= 1 << (place % 8);
        let mut out = [0; 64];
        let room = room_for(length);
        let mut opener = far.protection.opener.again();
        assert_eq!(
            opener.open(&flipped, &mut out[..room]),
            Err(Fault::Undecryptable)
        );
    }
    near.tcp.write_all(&record[..length]).await.unwrap();
    let mut read = [0; 7];
    far.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"payload");
}

#[tokio::test]
async fn pieces_are_gathered_into_full_records() {
    let (mut near, mut far) = pair().await;
    let pieces = [
        vec![1; 10],
        vec![],
        vec![2; 40_000],
        vec![3; 7],
        vec![4; 20_000],
    ];
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let written = near.write_vectored(&slices).await.unwrap();
    assert_eq!(written, 60_017);
    near.shutdown().await.unwrap();
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.unwrap();
    assert!(received == pieces.concat());
}

#[tokio::test]
async fn a_slow_reader_slows_its_writer_down_and_gets_all() {
    let (mut near, mut far) = pair().await;
    let sent = vec![7; 32 * 1024 * 1024];
    let mut accepted = 0;
    // Until the sockets are full, and one write is held.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(50), near.write(&sent[accepted..])).await
    {
        accepted += written.unwrap();
    }
    assert!(accepted < sent.len());
    let writer = async {
        near.write_all(&sent[accepted..]).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let ((), ended) = tokio::join!(writer, far.read_to_end(&mut received));
    ended.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut near, mut far) = pair().await;
    both_ways(&mut *near, &mut *far).await;
    let mut read = vec![0; 100_000];
    near.write_all(&read).await.unwrap();
    far.read_exact(&mut read).await.unwrap();
    for end in [near, far] {
        assert_eq!(end.partial.capacity() + end.pending.capacity(), 0);
        assert!(matches!(end.unsent, Unsent::Nothing));
    }
}
