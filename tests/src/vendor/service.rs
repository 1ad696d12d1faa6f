//! A vendor's service: HTTP on loopback that answers paths as it is told, and says what it was asked.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// How a path is answered.
#[derive(Clone)]
pub enum Reply {
    /// Status, headers and body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// What this makes of the request's body.
    Made(Answerer),
    /// Not before [`Service::release`].
    Hang,
}

/// Makes an answer of a request's body.
pub type Answerer = Arc<dyn Fn(&[u8]) -> String + Send + Sync>;

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Answer(..) => "Answer(..)",
            Self::Made(_) => "Made(..)",
            Self::Hang => "Hang",
        })
    }
}

impl Reply {
    /// Success.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(200, Vec::new(), body.into())
    }

    /// A manifest as NVIDIA's service sends it.
    pub fn manifest(id: &str, document: &str) -> Self {
        let answer = json!({
            "id": id,
            "rim": STANDARD.encode(document),
            "sha256": hex::encode(digest(&SHA256, document.as_bytes())),
        });
        Self::ok(answer.to_string())
    }
}

/// A running service; it ends with the process.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    script: Mutex<Script>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Script {
    replies: BTreeMap<String, Reply>,
    asked: Vec<String>,
    is_released: bool,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Starts one that knows no path.
    ///
    /// # Panics
    /// When there is no port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&serving);
                // A client that breaks off concerns nobody else.
                std::thread::spawn(move || drop(shared.talk(client)));
            }
        });
        Self { address, shared }
    }

    /// Its address for URLs.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, paths that begin so are answered so; the longest beginning counts.
    pub fn set(&self, path: &str, reply: Reply) {
        self.shared.script().replies.insert(path.to_owned(), reply);
    }

    /// How often a path that begins so was asked for.
    pub fn count(&self, path: &str) -> usize {
        let script = self.shared.script();
        let asked = script.asked.iter();
        asked.filter(|asked| asked.starts_with(path)).count()
    }

    /// Lets those that hang go on, with an error.
    pub fn release(&self) {
        self.shared.script().is_released = true;
        self.shared.released.notify_all();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.release();
    }
}

impl Shared {
    fn talk(&self, mut client: TcpStream) -> io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
            client.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = head.lines().find_map(|line| {
            let line = line.to_ascii_lowercase();
            line.strip_prefix("content-length: ")?.parse().ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        client.read_exact(&mut body)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let reply = {
            let mut script = self.script();
            let fitting = script.replies.iter();
            let fitting = fitting.filter(|(beginning, _)| path.starts_with(beginning.as_str()));
            let reply = fitting.max_by_key(|(beginning, _)| beginning.len());
            let reply = reply.map(|(_, reply)| reply.clone());
            script.asked.push(path);
            reply
        };
        let (status, headers, body) = match reply {
            None => (404, Vec::new(), Vec::new()),
            Some(Reply::Answer(status, headers, body)) => (status, headers, body),
            Some(Reply::Made(make)) => (200, Vec::new(), make(&body).into_bytes()),
            Some(Reply::Hang) => {
                let script = self.script();
                let held = self
                    .released
                    .wait_while(script, |script| !script.is_released);
                drop(held.unwrap_or_else(PoisonError::into_inner));
                (500, Vec::new(), Vec::new())
            }
        };
        let mut answer = format!(
            "HTTP/1.1 {status} Some\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            answer += &format!("{name}: {value}\r\n");
        }
        client.write_all(answer.as_bytes())?;
        client.write_all(b"connection: close\r\n\r\n")?;
        client.write_all(&body)
    }
}

const MAX_HEAD: usize = 64 * 1024;
