//! Vendors' services as they are and as they should not be: a server on loopback that serves real answers, and
//! misbehaves on demand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What a path is answered with.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A body that ends before its length.
    CutOff(Vec<u8>),
    /// Nothing, until released.
    Hang,
    /// The connection is closed.
    Close,
    /// One after the other; the last stays.
    Turns(Vec<Self>),
}

pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Reply {
    Reply::Answer(200, vec![], body.into())
}

pub(crate) fn status(code: u16) -> Reply {
    Reply::Answer(code, vec![], b"no".to_vec())
}

#[derive(Debug, Default)]
struct Script {
    replies: BTreeMap<String, Reply>,
    asked: Vec<String>,
}

/// A running server. It ends with this value.
#[derive(Debug)]
pub(crate) struct Vendor {
    pub(crate) base: String,
    script: Arc<Mutex<Script>>,
    release: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Vendor {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    pub(crate) async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::serve(Some(acceptor)).await
    }

    async fn serve(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(Script::default()));
        let (release, released) = watch::channel(false);
        let base = match acceptor {
            None => format!("http://127.0.0.1:{port}"),
            Some(_) => format!("https://localhost:{port}"),
        };
        let shared = Arc::clone(&script);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (script, released) = (Arc::clone(&shared), released.clone());
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor {
                        None => talk(socket, script, released).await,
                        Some(acceptor) => match acceptor.accept(socket).await {
                            Ok(socket) => talk(socket, script, released).await,
                            Err(_) => Some(()),
                        },
                    }
                });
            }
        });
        Self {
            base,
            script,
            release,
            task,
        }
    }

    /// From now on, paths that begin with `path` are answered so.
    pub(crate) fn set(&self, path: &str, reply: Reply) {
        let mut script = self.script.lock().unwrap();
        script.replies.insert(path.to_owned(), reply);
    }

    /// Paths that were asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.clone()
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        let asked = self.asked();
        asked.iter().filter(|asked| asked.starts_with(path)).count()
    }

    /// Lets those that hang go on, with an error.
    pub(crate) fn release(&self) {
        self.release.send_replace(true);
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    script: Arc<Mutex<Script>>,
    mut released: watch::Receiver<bool>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let path = match head.starts_with("POST ") {
        // What is asked about is in the body.
        true => format!("{path}{}", hex::encode(&body)),
        false => path,
    };
    let reply = {
        let mut script = script.lock().unwrap();
        let found = script
            .replies
            .iter_mut()
            .filter(|(prefix, _)| path.starts_with(prefix.as_str()))
            .max_by_key(|(prefix, _)| prefix.len());
        let reply = found.map_or_else(|| status(404), |(_, reply)| turn(reply));
        script.asked.push(path);
        reply
    };
    let (code, headers, body, length) = match reply {
        Reply::Answer(code, headers, body) => {
            let length = body.len();
            (code, headers, body, length)
        }
        Reply::CutOff(body) => {
            let length = body.len() + 10;
            (200, vec![], body, length)
        }
        Reply::Close | Reply::Turns(_) => return None,
        Reply::Hang => {
            let _ = released.wait_for(|released| *released).await;
            (500, vec![], vec![], 0)
        }
    };
    let mut text = format!("HTTP/1.1 {code} Some\r\ncontent-length: {length}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    socket.write_all(text.as_bytes()).await.ok()?;
    socket.write_all(&body).await.ok()?;
    socket.shutdown().await.ok()
}

fn turn(reply: &mut Reply) -> Reply {
    match reply {
        Reply::Turns(turns) if turns.len() > 1 => turns.remove(0),
        Reply::Turns(turns) => turns[0].clone(),
        reply => reply.clone(),
    }
}

/// Real endorsements and evidence, with their provenance beside them.
pub(crate) fn data(path: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("verifier");
    std::fs::read(folder.join(path)).unwrap()
}

/// Intel's answers about the platform of a case, as Intel's service sends them.
pub(crate) struct Intel {
    whole: Value,
}

impl Intel {
    pub(crate) fn of(case: &str) -> Self {
        let whole = data(&format!("testdata/{case}/collateral.json"));
        Self {
            whole: serde_json::from_slice(&whole).unwrap(),
        }
    }

    fn text(&self, name: &str) -> &str {
        self.whole[name].as_str().unwrap()
    }

    fn chain(&self, name: &str) -> String {
        let escape = |byte: u8| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        self.text(name).bytes().map(escape).collect()
    }

    pub(crate) fn tcb_info(&self) -> Reply {
        let (info, signature) = (self.text("tcb_info"), self.text("tcb_info_signature"));
        let body = format!(r#"{{"tcbInfo":{info},"signature":"{signature}"}}"#);
        let chain = self.chain("tcb_info_issuer_chain");
        Reply::Answer(200, vec![("TCB-Info-Issuer-Chain", chain)], body.into())
    }

    pub(crate) fn qe_identity(&self) -> Reply {
        let (identity, signature) = (self.text("qe_identity"), self.text("qe_identity_signature"));
        let body = format!(r#"{{"enclaveIdentity":{identity},"signature":"{signature}"}}"#);
        let chain = self.chain("qe_identity_issuer_chain");
        Reply::Answer(
            200,
            vec![("SGX-Enclave-Identity-Issuer-Chain", chain)],
            body.into(),
        )
    }

    pub(crate) fn pck_crl(&self) -> Reply {
        let body = hex::decode(self.text("pck_crl")).unwrap();
        let chain = self.chain("pck_crl_issuer_chain");
        Reply::Answer(200, vec![("SGX-PCK-CRL-Issuer-Chain", chain)], body)
    }

    /// In hex, as a caching service sends it.
    pub(crate) fn root_crl(&self) -> Reply {
        ok(self.text("root_ca_crl"))
    }

    /// All of them, at their paths.
    pub(crate) fn serve(&self, vendor: &Vendor) {
        vendor.set(TCB, self.tcb_info());
        vendor.set(QE, self.qe_identity());
        vendor.set(PCK_CRL, self.pck_crl());
        vendor.set(ROOT_CRL, self.root_crl());
    }
}

pub(crate) const TCB: &str = "/tdx/certification/v4/tcb?fmspc=";
pub(crate) const QE: &str = "/tdx/certification/v4/qe/identity";
pub(crate) const PCK_CRL: &str = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der";
pub(crate) const ROOT_CRL: &str = "/sgx/certification/v4/rootcacrl";

/// The certificate in a PEM file of one.
pub(crate) fn der(pem: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(pem.to_vec()).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).unwrap()
}

/// A manifest as NVIDIA's service sends it.
pub(crate) fn rim(id: &str, document: &[u8]) -> Reply {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, document);
    let answer = serde_json::json!({
        "id": id,
        "rim": STANDARD.encode(document),
        "sha256": hex::encode(digest.as_ref()),
        "rim_format": "TCG",
    });
    ok(answer.to_string())
}
