//! HTTP/2 and gRPC applications.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use crate::support::{LANES, Pair, application, refusing, run, soon, until};

type Client = h2::client::SendRequest<Bytes>;

async fn client(pair: &Pair) -> Client {
    let stream = TcpStream::connect(pair.client.calls(0)).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    client
}

fn request(method: &str, path: &str, content_type: &'static str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = format!("http://app{path}").parse().unwrap();
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(content_type));
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert(
        "x-forwarded-client-cert",
        HeaderValue::from_static("forged"),
    );
    request
}

/// A gRPC-shaped server: echoes each message as it comes, and ends with trailers.
async fn echo_server() -> std::net::SocketAddr {
    application(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::task::spawn_local(async move {
                let headers = request.headers();
                assert_eq!(headers["te"], "trailers");
                let id = "spiffe://test.example/ns/app/workload/client";
                assert_eq!(headers["vouchsafe-peer"], id);
                let certs: Vec<_> = headers.get_all("x-forwarded-client-cert").iter().collect();
                assert!(certs.len() == 1 && certs[0] != "forged", "{certs:?}");
                let mut body = request.into_body();
                let mut response = Response::new(());
                let grpc = HeaderValue::from_static("application/grpc");
                response.headers_mut().insert("content-type", grpc);
                let mut send = respond.send_response(response, false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    send.send_data(data, false).unwrap();
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let _ = send.send_trailers(trailers);
            });
        }
    })
    .await
}

#[test]
fn grpc_streams_both_ways_and_ends_with_trailers() {
    run(async {
        for lane in LANES {
            let pair = Pair::start(lane, "web", echo_server().await);
            let mut client = client(&pair).await.ready().await.unwrap();
            for _ in 0..3 {
                let call = request("POST", "/test.Echo/Both", "application/grpc");
                let (response, mut send) = client.send_request(call, false).unwrap();
                // The response's head comes before the request has ended, and each message before the next is sent.
                let response = soon("the head", response).await.unwrap();
                assert_eq!(response.status(), 200, "{lane:?}: {:?}", response.headers());
                let mut body = response.into_body();
                for message in ["one", "two", "three"] {
                    send.send_data(Bytes::from(message), false).unwrap();
                    let data = soon("an echo", body.data()).await.unwrap().unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    assert_eq!(data, message);
                }
                send.send_data(Bytes::new(), true).unwrap();
                assert!(soon("the end", body.data()).await.is_none());
                let trailers = soon("trailers", body.trailers()).await.unwrap().unwrap();
                assert_eq!(trailers["grpc-status"], "0");
            }
        }
    });
}

#[test]
fn a_denied_call_is_answered_as_grpc_expects() {
    run(async {
        for lane in LANES {
            let pair = Pair::start(lane, "web", echo_server().await);
            let mut client = client(&pair).await.ready().await.unwrap();
            let call = request("POST", "/test.Echo/Secret", "application/grpc+proto");
            let (response, _) = client.send_request(call, true).unwrap();
            let response = soon("an answer", response).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["grpc-status"], "7", "{lane:?}");
            assert_eq!(response.headers()["vouchsafe-reason"], "request");
        }
    });
}

#[test]
fn a_dead_application_is_unavailable_for_grpc() {
    run(async {
        for lane in LANES {
            let (_held, address) = refusing();
            let pair = Pair::start(lane, "web", address);
            let mut client = client(&pair).await.ready().await.unwrap();
            let call = request("POST", "/test.Echo/Both", "application/grpc");
            let (response, _) = client.send_request(call, true).unwrap();
            let response = soon("an answer", response).await.unwrap();
            assert_eq!(response.headers()["grpc-status"], "14", "{lane:?}");
            assert_eq!(response.headers()["vouchsafe-reason"], "unreachable");
        }
    });
}

#[test]
fn a_call_that_is_cancelled_is_cancelled_to_the_end() {
    run(async {
        for lane in LANES {
            let (begun, ended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
            let (started, told) = (Rc::clone(&begun), Rc::clone(&ended));
            let server = application(move |stream| {
                let (started, told) = (Rc::clone(&started), Rc::clone(&told));
                async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_request, mut respond))) = connection.accept().await {
                        let (started, told) = (Rc::clone(&started), Rc::clone(&told));
                        tokio::task::spawn_local(async move {
                            started.set(true);
                            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                            told.set(true);
                        });
                    }
                }
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut client = client(&pair).await.ready().await.unwrap();
            let call = request("POST", "/test.Echo/Both", "application/grpc");
            let (response, mut send) = client.send_request(call, false).unwrap();
            until("the call to arrive", || begun.get()).await;
            send.send_reset(h2::Reason::CANCEL);
            drop(response);
            until("the application to be told", || ended.get()).await;
        }
    });
}

#[test]
fn http2_reaches_an_http1_application() {
    use tokio::io::AsyncWriteExt;
    run(async {
        for lane in LANES {
            let server = application(|mut stream| async move {
                let request = crate::support::read_until(&mut stream, "hello").await;
                assert!(
                    request.starts_with("POST /ok?a=b HTTP/1.1\r\nhost: app\r\n"),
                    "{request}"
                );
                assert!(request.contains("cookie: a=1; b=2\r\n"), "{request}");
                let answer = "HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok";
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
            .await;
            let pair = Pair::start(lane, "web", server);
            let mut client = client(&pair).await.ready().await.unwrap();
            let mut call = request("POST", "/ok?a=b", "text/plain");
            let headers = call.headers_mut();
            headers.append("cookie", HeaderValue::from_static("a=1"));
            headers.append("cookie", HeaderValue::from_static("b=2"));
            let (response, mut send) = client.send_request(call, false).unwrap();
            send.send_data(Bytes::from_static(b"hello"), true).unwrap();
            let response = soon("an answer", response).await.unwrap();
            assert_eq!(response.status(), 201, "{lane:?}");
            assert_eq!(response.headers()["x-a"], "b");
            let mut body = response.into_body();
            assert_eq!(soon("a body", body.data()).await.unwrap().unwrap(), "ok");
        }
    });
}
