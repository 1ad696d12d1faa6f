//! Peers without our sidecar: any TLS client or server with an X.509-SVID.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use vouchsafe_config::policy::Lane;

use crate::support::{
    DEADLINE, LANES, Mesh, Pair, Sidecar, Wish, application, ask, read_until, run, soon,
};

const DAY: Duration = Duration::from_secs(86_400);
const ASK: &[u8] =
    b"GET /ok HTTP/1.1\r\nHost: a\r\nVouchsafe-Port: raw:7000\r\nConnection: close\r\n\r\n";

/// Takes any server for the right one: the test looks at what the server does.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

async fn connect(pair: &Pair, alpn: &[&str]) -> TlsStream<TcpStream> {
    let svid = pair.mesh.svid("app/client", DAY);
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(svid.chain, svid.key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(pair.server.door()).await.unwrap();
    let name = ServerName::try_from("server.example").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.unwrap()
}

async fn web_server() -> std::net::SocketAddr {
    application(|mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await.to_lowercase();
        assert!(head.contains("vouchsafe-peer: spiffe://test.example/ns/app/workload/client"));
        assert!(!head.contains("vouchsafe-port"), "{head}");
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await
}

#[test]
fn a_client_without_a_sidecar_reaches_the_only_port() {
    run(async {
        let pair = Pair::start(Lane::Auto, "web", web_server().await);
        for alpn in [&["http/1.1"][..], &[]] {
            let mut stream = connect(&pair, alpn).await;
            stream.write_all(ASK).await.unwrap();
            let mut answer = String::new();
            soon("an answer", stream.read_to_string(&mut answer))
                .await
                .unwrap();
            assert!(answer.ends_with("\r\n\r\nok"), "{alpn:?}: {answer}");
        }
        let stream = connect(&pair, &["h2", "http/1.1"]).await;
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let request = http::Request::get("https://a/ok").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(soon("an answer", response).await.unwrap().status(), 200);
    });
}

#[test]
fn a_client_without_a_sidecar_speaks_bytes_to_a_tcp_port() {
    run(async {
        let server = application(|mut stream| async move {
            stream.write_all(b"hello").await.unwrap();
        })
        .await;
        let pair = Pair::start(Lane::Auto, "raw", server);
        let mut stream = connect(&pair, &[]).await;
        let mut text = String::new();
        soon("the end", stream.read_to_string(&mut text))
            .await
            .unwrap();
        assert_eq!(text, "hello");
    });
}

#[test]
fn tickets_are_never_sent() {
    run(async {
        let pair = Pair::start(Lane::Auto, "web", web_server().await);
        let mut stream = connect(&pair, &["http/1.1"]).await;
        stream.write_all(ASK).await.unwrap();
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
        assert!(stream.get_ref().1.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3));
    });
}

/// A server of another maker: mutual TLS by webpki, and one protocol or none.
async fn foreign_server(mesh: &Mesh, alpn: &[&str], answer: &'static str) -> std::net::SocketAddr {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    let bundle = mesh.bundle();
    roots
        .add(bundle.authorities()[0].certificate().clone())
        .unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let svid = mesh.svid("app/server", DAY);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(svid.chain, svid.key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(tcp).await.unwrap();
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                tokio::task::spawn_local(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        assert!(!request.headers().contains_key("vouchsafe-port"));
                        let mut send = respond
                            .send_response(http::Response::new(()), false)
                            .unwrap();
                        send.send_data(Bytes::from_static(b"ok"), true).unwrap();
                    }
                });
            } else {
                let mut head = vec![0; 1024];
                let _ = stream.read(&mut head).await.unwrap();
                assert!(!String::from_utf8_lossy(&head).contains("vouchsafe-port"));
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }
    });
    address
}

#[test]
fn a_server_without_a_sidecar_is_called_in_what_it_speaks() {
    run(async {
        let request = "GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        for lane in LANES {
            for alpn in [&["h2"][..], &["http/1.1"], &[]] {
                let mesh = Mesh::new();
                let server = foreign_server(&mesh, alpn, answer).await;
                let wish = Wish::new("app/client", lane).calls("web", server);
                let client = Sidecar::start(&mesh, wish);
                let answer = ask(client.calls(0), request).await;
                assert!(
                    answer.starts_with("HTTP/1.1 200"),
                    "{lane:?} {alpn:?}: {answer}"
                );
                assert!(answer.contains("ok"), "{lane:?} {alpn:?}: {answer}");
            }
            let mesh = Mesh::new();
            let server = foreign_server(&mesh, &[], "raw bytes").await;
            let wish = Wish::new("app/client", lane).calls("raw", server);
            let client = Sidecar::start(&mesh, wish);
            assert_eq!(
                ask(client.calls(0), "anything").await,
                "raw bytes",
                "{lane:?}"
            );
        }
    });
}

#[test]
fn control_frame_floods_end_and_keep_nobody_else_waiting() {
    run(async {
        let pair = Pair::start(Lane::Auto, "web", web_server().await);
        let floods: [(&str, &[u8]); 4] = [
            ("PING", b"\0\0\x08\x06\0\0\0\0\0abcdefgh"),
            ("SETTINGS", b"\0\0\0\x04\0\0\0\0\0"),
            ("PRIORITY", b"\0\0\x05\x02\0\0\0\0\x01\0\0\0\0\x10"),
            ("unknown", b"\0\0\x03\xbe\0\0\0\0\0abc"),
        ];
        for (name, frame) in floods {
            let stream = connect(&pair, &["h2"]).await;
            let (mut read, mut write) = tokio::io::split(stream);
            let attack = async {
                write
                    .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                    .await?;
                let batch = frame.repeat(100);
                for _ in 0..200 {
                    write.write_all(&batch).await?;
                }
                write.flush().await
            };
            let listen = async {
                let mut bytes = [0; 4096];
                while read.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
            };
            // The door hangs up on us, whatever is still to be sent.
            let ended = tokio::time::timeout(DEADLINE, async {
                let _ = tokio::join!(attack, listen);
            });
            assert!(ended.await.is_ok(), "{name} goes on");
            let mut innocent = connect(&pair, &["http/1.1"]).await;
            innocent.write_all(ASK).await.unwrap();
            let mut answer = String::new();
            soon("an answer", innocent.read_to_string(&mut answer))
                .await
                .unwrap();
            assert!(answer.ends_with("ok"), "{name}: {answer}");
        }
        let flood = &["direction=\"inbound\"", "reason=\"http2\""];
        assert!(pair.server.metric("vouchsafe_failures_total", flood) >= 4.0);
    });
}
