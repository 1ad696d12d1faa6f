//! The operator's door: a Unix socket of mode 0600.
//!
//! Reading is GET, acting is POST. Nothing secret is shown: keys and tokens are not even reachable from here.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::peer::{Peer, PeerRole, verify_peer};
use vouchsafe_attestation::result::AttestationResult;
use vouchsafe_config::policy::{Enforcement, Port, Protocol};

use crate::clock::MeshClock;
use crate::drain::DrainSignal;
use crate::health::Readiness;
use crate::plain_http::{Answer, Request, json as json_answer, text};
use crate::state::{IdentityEpoch, State};
use crate::telemetry::LogLevel;
use crate::telemetry::control::unix_seconds;
use crate::worker::Connections;

/// How an operator asks the sidecar to leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leave {
    /// Let what is open end.
    Drain,
    /// Cut what is open.
    Quit,
}

/// Answers operators.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Configuration without secrets, with the addresses that were really bound.
    pub config: Arc<Value>,
    /// Whose sidecar this is.
    pub workload: WorkloadName,
    /// Identity and policy in force.
    pub state: Arc<State>,
    /// Mesh time.
    pub clock: Arc<MeshClock>,
    /// Whether requests can pass.
    pub readiness: Arc<Readiness>,
    /// How far a drain is.
    pub drain: DrainSignal,
    /// Changed at run time.
    pub log_level: LogLevel,
    /// Asks `app` to leave. One place: a second request finds it taken, and the first is under way.
    pub leave: mpsc::Sender<Leave>,
    /// Live connections.
    pub connections: Connections,
}

impl Admin {
    /// Answers one request.
    pub async fn answer(&self, request: Request) -> Answer {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/config_dump") => json_answer(&self.config_dump()),
            (&Method::GET, "/certs") => json_answer(&self.certs()),
            (&Method::GET, "/connections") => json_answer(&json!(self.connections.list().await)),
            (&Method::GET, "/policy") => json_answer(&self.policy()),
            (&Method::POST, "/drain") => self.ask_to(Leave::Drain),
            (&Method::POST, "/quitquitquit") => self.ask_to(Leave::Quit),
            (&Method::POST, "/log_level") => self.set_log_level(request.uri().query()),
            (_, path) if READ.contains(&path) => text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n"),
            (_, path) if ACT.contains(&path) => text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"),
            _ => text(
                StatusCode::NOT_FOUND,
                format!("GET {}; POST {}\n", READ.join(" "), ACT.join(" ")),
            ),
        }
    }

    fn config_dump(&self) -> Value {
        let mut dump = Value::clone(&self.config);
        if let Value::Object(fields) = &mut dump {
            let missing = self.readiness.missing();
            fields.insert("ready".to_owned(), json!(missing.is_none()));
            fields.insert("not_ready_because".to_owned(), json!(missing));
            fields.insert("phase".to_owned(), json!(self.drain.phase().as_str()));
            fields.insert(
                "time".to_owned(),
                json!({
                    "now": unix_seconds(self.clock.now()),
                    "authenticated": self.clock.is_authenticated(),
                }),
            );
        }
        dump
    }

    fn certs(&self) -> Value {
        match self.state.identity.load_full() {
            Some(epoch) => certs(&epoch, &self.clock),
            None => json!({"identity": null}),
        }
    }

    fn policy(&self) -> Value {
        let epoch = self.state.policy.load();
        let endpoints: Vec<Value> = epoch
            .endpoints
            .iter()
            .map(|known| {
                let listeners: Vec<Value> = known
                    .listeners
                    .iter()
                    .map(|(listener, ports)| json!({"listener": listener, "ports": ports}))
                    .collect();
                json!({"workload": known.workload.to_string(), "listeners": listeners})
            })
            .collect();
        let ports: Vec<Value> = epoch.policy.ports(&self.workload).map(port).collect();
        json!({
            "revision": epoch.revision.to_string(),
            "workload": self.workload.to_string(),
            "is_known": epoch.policy.knows(&self.workload),
            "ports": ports,
            "rules": epoch.policy.rules(),
            "endpoints": endpoints,
        })
    }

    fn ask_to(&self, leave: Leave) -> Answer {
        match self.leave.try_send(leave) {
            Ok(()) => text(StatusCode::ACCEPTED, "leaving\n"),
            Err(_) => text(StatusCode::ACCEPTED, "already leaving\n"),
        }
    }

    fn set_log_level(&self, query: Option<&str>) -> Answer {
        let level = query.and_then(|query| query.strip_prefix("level="));
        match self.log_level.set(level.unwrap_or_default()) {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

fn port(port: &Port) -> Value {
    json!({
        "name": port.name.as_str(),
        "numbers": [port.numbers.0, port.numbers.1],
        "protocol": match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Http => "http",
        },
        "enforcement": match port.enforcement {
            Enforcement::Enforce => "enforce",
            Enforcement::Audit => "audit",
        },
        "probes": port.probes,
    })
}

fn certs(epoch: &IdentityEpoch, clock: &MeshClock) -> Value {
    let verified = verify_peer(
        &epoch.svid.chain,
        &epoch.bundle,
        PeerRole::Server,
        clock.now(),
    );
    let authorities: Vec<Value> = epoch
        .bundle
        .authorities()
        .iter()
        .map(|authority| {
            json!({
                "trust_domain": authority.trust_domain().as_str(),
                "spki_sha256": hex::encode(authority.spki_sha256()),
                "attested": authority.is_attested(),
            })
        })
        .collect();
    let identity = match verified {
        Ok(peer) => identity(&peer),
        Err(error) => json!({"error": error.reason()}),
    };
    json!({
        "epoch": epoch.number,
        "identity": identity,
        "not_after": unix_seconds(epoch.svid.not_after),
        "chain_der": epoch.svid.chain.iter().map(hex::encode).collect::<Vec<_>>(),
        "trust_bundle": authorities,
    })
}

fn identity(peer: &Peer) -> Value {
    json!({
        "id": peer.id().as_str(),
        "serial": peer.serial().to_string(),
        "spki_sha256": hex::encode(peer.spki_sha256()),
        "attestation_result": peer.result().map(attestation_result),
    })
}

fn attestation_result(result: &AttestationResult) -> Value {
    let devices: Vec<Value> = result
        .devices
        .iter()
        .map(|device| {
            let claims: serde_json::Map<String, Value> = device
                .claims
                .iter()
                .map(|(name, value)| (name.to_owned(), json!(value.to_string())))
                .collect();
            json!({"kind": device.kind.as_str(), "index": device.index, "claims": claims})
        })
        .collect();
    json!({
        "class": result.class.as_str(),
        "root": result.root.as_str(),
        "instance": result.instance.to_string(),
        "evidence_time": unix_seconds(result.evidence_time),
        "policy_revision": result.policy_revision.to_string(),
        "devices": devices,
    })
}

/// Makes the socket: mode 0600 from its first moment, because its name appears only when the mode is set.
///
/// A socket that a dead process left is replaced; a live one, or a file of another type, is not. Its folder is made, mode
/// 0700, where only that one is missing.
///
/// # Errors
/// [`io::Error`] when the path can't be used.
pub fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process answers there",
                ));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        std::fs::DirBuilder::new().mode(0o700).create(folder)?;
    }
    let hidden = hidden_name(path);
    // In a container every process has the number of the one that crashed here.
    match std::fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    let placed = std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&hidden, path));
    if let Err(error) = placed {
        let _best_effort = std::fs::remove_file(&hidden);
        return Err(error);
    }
    Ok((listener, SocketFile(path.to_owned())))
}

fn hidden_name(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

/// The socket's file, removed when the sidecar ends.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_file(&self.0);
    }
}

const READ: [&str; 4] = ["/config_dump", "/certs", "/connections", "/policy"];
const ACT: [&str; 3] = ["/drain", "/quitquitquit", "/log_level"];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use tokio::net::UnixStream;

    use super::*;
    use crate::drain::Drain;
    use crate::plain_http::client::fetch;
    use crate::plain_http::{Door, serve};
    use crate::telemetry::start_log;

    fn admin(leave: mpsc::Sender<Leave>) -> Admin {
        let state = Arc::new(State::default());
        let drain = Drain::new(Duration::ZERO);
        Admin {
            config: Arc::new(json!({"workload": "inference/llm"})),
            workload: "inference/llm".parse().unwrap(),
            readiness: Arc::new(Readiness::new(Arc::clone(&state), drain.signal())),
            state,
            clock: Arc::new(MeshClock::authenticated()),
            drain: drain.signal(),
            log_level: start_log(),
            leave,
            connections: Connections::none(),
        }
    }

    #[tokio::test]
    async fn operators_read_with_get_and_act_with_post() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let (listener, file) = bind(&path).unwrap();
        let (leave, mut left) = mpsc::channel(1);
        let admin = admin(leave);
        let server = tokio::spawn(serve(Door::Unix(listener), move |request| {
            let admin = admin.clone();
            async move { admin.answer(request).await }
        }));
        let ask = async |method: &str, path_of_url: &str| {
            let socket = UnixStream::connect(&path).await.unwrap();
            let answer = fetch(socket, method, path_of_url).await;
            (
                answer.status().as_u16(),
                String::from_utf8_lossy(answer.body()).into_owned(),
            )
        };
        let (status, dump) = ask("GET", "/config_dump").await;
        assert_eq!(status, 200);
        let dump: Value = serde_json::from_str(&dump).unwrap();
        assert_eq!(dump["ready"], json!(false));
        assert_eq!(dump["not_ready_because"], json!("no certificate"));
        for (method, path, status) in [
            ("GET", "/certs", 200),
            ("GET", "/connections", 200),
            ("GET", "/policy", 200),
            ("GET", "/drain", 405),
            ("GET", "/quitquitquit", 405),
            ("POST", "/config_dump", 405),
            ("GET", "/", 404),
            ("POST", "/log_level?level=debug", 200),
            ("POST", "/log_level?level=loud", 400),
            ("POST", "/log_level", 400),
        ] {
            assert_eq!(ask(method, path).await.0, status, "{method} {path}");
        }
        assert!(left.try_recv().is_err());
        assert_eq!(ask("POST", "/drain").await.0, 202);
        assert_eq!(left.recv().await, Some(Leave::Drain));
        assert_eq!(ask("POST", "/quitquitquit").await.0, 202);
        assert_eq!(left.recv().await, Some(Leave::Quit));
        server.abort();
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_folder_of_the_socket_is_made_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("llm");
        drop(bind(&own.join("admin.sock")).unwrap());
        assert_eq!(own.metadata().unwrap().mode() & 0o777, 0o700);
        // Only the last: a mistyped path makes no tree.
        let far = bind(&folder.path().join("a/b/admin.sock")).unwrap_err();
        assert_eq!(far.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_socket_is_the_owners_and_replaces_only_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let (listener, file) = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // A process that was killed leaves its socket behind.
        drop(listener);
        std::mem::forget(file);
        assert!(path.exists());
        // One that was killed a moment earlier leaves the hidden one.
        drop(std::os::unix::net::UnixListener::bind(hidden_name(&path)).unwrap());
        drop(bind(&path).unwrap());
        std::fs::write(&path, "a file").unwrap();
        assert_eq!(
            bind(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
