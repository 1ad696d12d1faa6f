//! The other end of a connection, written by hand.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use vouchsafe_http2::{Error, RecvStream, SendStream, client, server};

use super::frames::*;

/// What a server does with its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Serve {
    /// Answers with what came, and with trailers.
    Echo,
    /// Keeps all, and neither reads nor answers.
    Hold,
    /// Answers with so many bytes, and does not look at the request.
    Send(usize),
    /// Answers with a head alone, of more than so many bytes.
    Head(usize),
    /// Answers with a head and with trailers of more than so many bytes, and nothing between.
    Trailers(usize),
    /// Resets each request.
    Reset,
}

/// The other end.
#[derive(Debug)]
pub(crate) struct Peer {
    io: DuplexStream,
    /// How the connection under test ended.
    ended: JoinHandle<Option<Error>>,
    /// Has a server say its farewell.
    pub(crate) leave: Rc<Notify>,
}

/// Runs a test on one thread.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// A server without anything said yet, whose pipe holds so many bytes.
pub(crate) fn silent(builder: server::Builder, serve: Serve, pipe: usize) -> Peer {
    let (io, theirs) = tokio::io::duplex(pipe);
    let leave = Rc::new(Notify::new());
    let ended = spawn_local(serve_all(builder, theirs, serve, leave.clone()));
    Peer { io, ended, leave }
}

/// A server that is ready for streams.
pub(crate) async fn serving_with(builder: server::Builder, serve: Serve) -> Peer {
    let mut peer = silent(builder, serve, 1 << 20);
    peer.send(PREFACE).await;
    peer.send(settings(&[])).await;
    peer.until(|frame| frame.kind == SETTINGS && frame.flags == ACK)
        .await;
    peer.send(frame(SETTINGS, ACK, 0, "")).await;
    peer
}

/// A server with default options that is ready for streams.
pub(crate) async fn serving(serve: Serve) -> Peer {
    serving_with(server::Builder::new(), serve).await
}

async fn serve_all(
    builder: server::Builder,
    io: DuplexStream,
    serve: Serve,
    leave: Rc<Notify>,
) -> Option<Error> {
    let mut connection = match builder.handshake(io).await {
        Ok(connection) => connection,
        Err(error) => return Some(error),
    };
    let held = Rc::new(RefCell::new(Vec::new()));
    loop {
        let next = tokio::select! {
            biased;
            () = leave.notified() => {
                connection.graceful_shutdown();
                continue;
            }
            next = connection.accept() => next,
        };
        let (request, mut respond) = match next? {
            Ok(call) => call,
            Err(error) => return Some(error),
        };
        match serve {
            Serve::Hold => held.borrow_mut().push((request, respond)),
            Serve::Reset => respond.send_reset(CANCEL.into()),
            Serve::Head(bytes) => {
                let head = Response::builder().header("x-long", "a".repeat(bytes));
                // Fails where the client was faster with its reset.
                let _ = respond.send_response(head.body(()).unwrap(), true);
            }
            Serve::Trailers(bytes) => {
                if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-long", "a".repeat(bytes).parse().unwrap());
                    // As above.
                    let _ = stream.send_trailers(trailers);
                }
            }
            Serve::Send(bytes) => {
                spawn_local(async move {
                    let mut stream = respond.send_response(Response::new(()), false)?;
                    send_all(&mut stream, vec![b'a'; bytes].into()).await?;
                    stream.send_data(Bytes::new(), true)?;
                    drop(request);
                    Ok::<_, Error>(())
                });
            }
            Serve::Echo => {
                spawn_local(async move {
                    let mut body = request.into_body();
                    let mut stream = respond.send_response(Response::new(()), false)?;
                    while let Some(data) = body.data().await {
                        let data = data?;
                        body.release_capacity(data.len())?;
                        send_all(&mut stream, data).await?;
                    }
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    stream.send_trailers(trailers)
                });
            }
        }
    }
}

/// Sends data as room is given.
async fn send_all(stream: &mut SendStream, mut data: Bytes) -> Result<(), Error> {
    while !data.is_empty() {
        let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Ok(());
        };
        let now = data.split_to(room?.min(data.len()));
        stream.send_data(now, false)?;
    }
    Ok(())
}

/// A client and the server's side of its connection; the client's beginning was read.
pub(crate) async fn calling() -> (client::SendRequest, Peer) {
    calling_over(1 << 20).await
}

/// The same with a pipe that holds so many bytes.
pub(crate) async fn calling_over(pipe: usize) -> (client::SendRequest, Peer) {
    let (io, theirs) = tokio::io::duplex(pipe);
    let (send, connection) = client::Builder::new().handshake(theirs);
    let mut peer = Peer {
        io,
        ended: spawn_local(async { connection.await.err() }),
        leave: Rc::default(),
    };
    let mut preface = [0; PREFACE.len()];
    peer.io.read_exact(&mut preface).await.unwrap();
    assert_eq!(preface, PREFACE);
    (send, peer)
}

/// A client whose server has begun, too.
pub(crate) async fn connected() -> (client::SendRequest, Peer) {
    let (send, mut peer) = calling().await;
    peer.send(settings(&[])).await;
    peer.until(|frame| frame.kind == SETTINGS && frame.flags == ACK)
        .await;
    (send, peer)
}

/// A request to send.
pub(crate) fn request(method: &str) -> Request<()> {
    let request = Request::builder().method(method);
    request.uri("http://llm.example/").body(()).unwrap()
}

/// All data and the trailers of a message.
pub(crate) async fn read_all(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.release_capacity(data.len())?;
        all.extend(data);
    }
    Ok((all, body.trailers().await?))
}

impl Peer {
    /// Sends bytes. A connection that ended meanwhile is found by what is read next.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = tokio::time::timeout(DEADLINE, self.io.write_all(bytes.as_ref())).await;
        let _ = sent.expect("the connection takes nothing and does not end");
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.ok()?;
            let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
            self.io.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([s0, s1, s2, s3]);
            Some(Frame {
                kind,
                flags,
                stream,
                payload,
            })
        };
        let read = tokio::time::timeout(DEADLINE, read).await;
        read.expect("nothing came")
    }

    /// All frames up to one, and that one last.
    pub(crate) async fn until(&mut self, mut is_last: impl FnMut(&Frame) -> bool) -> Vec<Frame> {
        let mut seen = Vec::new();
        loop {
            let Some(frame) = self.next().await else {
                panic!("the connection ended after {seen:?}");
            };
            let last = is_last(&frame);
            seen.push(frame);
            if last {
                return seen;
            }
        }
    }

    /// Checks that the connection lives and has nothing more to say; what it had said until then.
    #[must_use]
    pub(crate) async fn quiet(&mut self) -> Vec<Frame> {
        self.send(frame(PING, 0, 0, b"is quiet")).await;
        let answer = |frame: &Frame| frame.kind == PING && frame.payload == b"is quiet";
        let mut seen = self.until(answer).await;
        seen.pop();
        assert!(seen.iter().all(|frame| frame.kind != GOAWAY), "{seen:?}");
        seen
    }

    /// Checks that the connection ends with a code and a cause, and says both.
    pub(crate) async fn ends(mut self, code: u32, cause: &str) {
        let seen = self.until(|frame| frame.kind == GOAWAY).await;
        let last = seen.last().unwrap();
        let said = String::from_utf8_lossy(&last.payload[8..]);
        assert_eq!((last.number(4), &*said), (code, cause));
        assert_eq!(self.next().await, None, "and nothing after it");
        let error = self.ended.await.unwrap().expect("an error");
        assert_eq!(error.cause(), cause);
        assert_eq!(error.reason(), Some(code.into()));
        assert!(!error.is_remote());
    }

    /// How the connection ended.
    pub(crate) async fn ended(self) -> Option<Error> {
        drop(self.io);
        let ended = tokio::time::timeout(DEADLINE, self.ended).await;
        ended.expect("the connection goes on").unwrap()
    }

    /// Checks that a stream is reset with a code, and that the connection goes on.
    pub(crate) async fn resets(&mut self, stream: u32, code: u32) {
        let seen = self.quiet().await;
        let resets = seen.iter().filter(|frame| frame.kind == RST_STREAM);
        let resets: Vec<_> = resets
            .map(|frame| (frame.stream, frame.number(0)))
            .collect();
        assert_eq!(resets, [(stream, code)], "{seen:?}");
    }
}

/// How long a test waits for what must come. Far above what is needed: whoever waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(20);
