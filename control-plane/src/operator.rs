//! The operator socket: `operator.sock` in the data folder, mode 0600, for the user who runs the control plane and root.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use vouchsafe_api::v1::operator_server::OperatorServer;

use crate::files::SECRET_MODE;
use crate::rpc::operator::OperatorApi;
use crate::state::{ControlPlane, stopped};

/// The bound socket; the file goes away with it.
#[derive(Debug)]
pub struct OperatorSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl OperatorSocket {
    /// Binds. A file that a crash left is replaced: the store's lock says that no other control plane is running here.
    ///
    /// # Errors
    /// [`io::Error`], such as a path too long for a socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        // The folder is 0700, so nobody could come in before this either.
        fs::set_permissions(path, fs::Permissions::from_mode(SECRET_MODE))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves until `shutdown`.
    pub async fn serve(
        self,
        control_plane: Arc<ControlPlane>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stopped(&mut shutdown) => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let Ok((socket, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Some(uid) = operator(&socket).filter(|_| connections.len() < MAX_CONNECTIONS)
            else {
                continue;
            };
            let api = OperatorApi::new(Arc::clone(&control_plane)).acting_for(uid);
            let service = TowerToHyperService::new(OperatorServer::new(api));
            connections.spawn(async move {
                // An operator who hangs up is no event.
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    }
}

impl Drop for OperatorSocket {
    fn drop(&mut self) {
        // Left behind, it only makes the next call of an operator fail with another word.
        let _ = fs::remove_file(&self.path);
    }
}

/// The user at the other end, where he may come in. File permissions say the same; asking the kernel as well survives a
/// file whose mode was changed.
fn operator(socket: &UnixStream) -> Option<u32> {
    let own = rustix::process::geteuid().as_raw();
    let uid = socket.peer_cred().ok()?.uid();
    (uid == own || uid == 0).then_some(uid)
}

const MAX_CONNECTIONS: usize = 32;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
