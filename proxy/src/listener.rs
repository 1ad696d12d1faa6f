//! Listening sockets, one of each per worker, and the loop that accepts from one.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tracing::{error, warn};
use vouchsafe_config::proxy::{ListenAddr, ProxyConfig};

use crate::drain::{DrainSignal, Phase};
use crate::spread::{Home, Spread};
use crate::telemetry::Chain;
use crate::worker::SpawnError;

/// Listeners of one worker, in the order of the configuration. Not yet part of a runtime.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) inbound: Vec<Listening>,
    pub(crate) outbound: Vec<Listening>,
}

/// Where listeners really are.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) inbound: Vec<SocketAddr>,
    pub(crate) outbound: Vec<ListenAddr>,
}

/// A listener, as one worker has it.
#[derive(Debug)]
pub(crate) struct Listening {
    socket: ListeningSocket,
    spread: Spread,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Binds every listener once per worker.
pub(crate) fn bind_all(
    config: &ProxyConfig,
    workers: usize,
) -> Result<(Vec<Bound>, Addresses), SpawnError> {
    let mut bound: Vec<Bound> = (0..workers)
        .map(|_| Bound {
            inbound: Vec::new(),
            outbound: Vec::new(),
        })
        .collect();
    let mut addresses = Addresses {
        inbound: Vec::new(),
        outbound: Vec::new(),
    };
    for listener in &config.inbound {
        let (sockets, address) = bind_tcp(listener.listen, workers)?;
        addresses.inbound.push(address);
        let sockets = sockets.into_iter().map(ListeningSocket::Tcp).collect();
        for (bound, listening) in bound.iter_mut().zip(for_each_worker(sockets)) {
            bound.inbound.push(listening);
        }
    }
    for listener in &config.outbound {
        let sockets = match &listener.listen {
            ListenAddr::Tcp(address) => {
                let (sockets, address) = bind_tcp(*address, workers)?;
                addresses.outbound.push(ListenAddr::Tcp(address));
                sockets.into_iter().map(ListeningSocket::Tcp).collect()
            }
            ListenAddr::Unix(path) => {
                addresses.outbound.push(ListenAddr::Unix(path.clone()));
                let open_to_others = !listener.allow_uids.is_empty();
                bind_unix(path, open_to_others, workers)?
            }
        };
        for (bound, listening) in bound.iter_mut().zip(for_each_worker(sockets)) {
            bound.outbound.push(listening);
        }
    }
    Ok((bound, addresses))
}

fn for_each_worker(sockets: Vec<ListeningSocket>) -> impl Iterator<Item = Listening> {
    let spread = Spread::over(sockets.len());
    let both = sockets.into_iter().zip(spread);
    both.map(|(socket, spread)| Listening { socket, spread })
}

fn bind_tcp(
    address: SocketAddr,
    workers: usize,
) -> Result<(Vec<std::net::TcpListener>, SocketAddr), SpawnError> {
    let failed = |source| SpawnError::Bind {
        address: address.to_string(),
        source,
    };
    // SO_REUSEPORT would let a second sidecar share the port in silence; without it, a taken port says so.
    let probe = tcp_socket(address, false).map_err(failed)?;
    let address = probe
        .local_addr()
        .map_err(failed)?
        .as_socket()
        .unwrap_or(address);
    drop(probe);
    let sockets = (0..workers)
        .map(|_| tcp_socket(address, true).map(std::net::TcpListener::from))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    Ok((sockets, address))
}

fn tcp_socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if reuse_port {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn bind_unix(
    path: &Path,
    open_to_others: bool,
    workers: usize,
) -> Result<Vec<ListeningSocket>, SpawnError> {
    let failed = |source| SpawnError::Bind {
        address: path.display().to_string(),
        source,
    };
    remove_dead_socket(path).map_err(failed)?;
    let first = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
    // Whoever may open it is checked by `allow_uids` where that is set; without it only our own user may.
    let mode = if open_to_others { 0o666 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    first.set_nonblocking(true).map_err(failed)?;
    (0..workers)
        .map(|_| first.try_clone().map(ListeningSocket::Unix))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)
}

/// Removes what a sidecar that is gone has left, and nothing else.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Accepts until the drain reaches `until`, then waits for the connections to end. Owns their tasks. `home` says which
/// workers may have the next connection.
pub(crate) async fn accept<F>(
    listener: Listening,
    mut drain: DrainSignal,
    until: Phase,
    home: impl Fn() -> Home,
    mut serve: impl FnMut(Accepted) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let Listening { socket, mut spread } = listener;
    let listener = match Registered::new(socket) {
        Ok(listener) => Rc::new(listener),
        Err(error) => {
            error!(error = %Chain(&error), "failed to register a listener");
            return;
        }
    };
    let mut connections = JoinSet::new();
    let mut ends = drain.clone();
    let ended = ends.reached(until);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            Some(end) = connections.join_next() => {
                report(end);
                spread.left();
            }
            accepted = listener.accept() => {
                match accepted.and_then(|accepted| spread.take(accepted, home())) {
                    Ok(Some(accepted)) => {
                        connections.spawn_local(serve(accepted));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        warn!(error = %Chain(&error), "failed to accept a connection");
                        // Out of descriptors: the connection stays in the queue, so asking again at once would spin.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            handed = spread.next() => match handed {
                Ok(accepted) => {
                    connections.spawn_local(serve(accepted));
                }
                Err(error) => {
                    warn!(error = %Chain(&error), "failed to take over a connection");
                    spread.left();
                }
            },
        }
    }
    drop(listener);
    for accepted in spread.last().flatten() {
        connections.spawn_local(serve(accepted));
    }
    let cut = async {
        drain.reached(Phase::Cut).await;
        tokio::time::sleep(CUT_GRACE).await;
    };
    let ended = async {
        while let Some(end) = connections.join_next().await {
            report(end);
        }
    };
    tokio::select! {
        () = cut => {}
        () = ended => {}
    }
}

fn report(end: Result<(), tokio::task::JoinError>) {
    if let Err(error) = end {
        error!(error = %Chain(&error), "a connection's task broke");
    }
}

enum Registered {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Registered {
    fn new(listening: ListeningSocket) -> io::Result<Self> {
        Ok(match listening {
            ListeningSocket::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            ListeningSocket::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, _) = listener.accept().await?;
                // Small writes leave at once: Nagle with delayed acknowledgements costs 40 ms per event.
                tcp.set_nodelay(true)?;
                Ok(Accepted::Tcp(tcp))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

/// Connections that wait to be accepted, per worker; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long connections have to write their last log line once they are cut.
const CUT_GRACE: Duration = Duration::from_secs(1);
