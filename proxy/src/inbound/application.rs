//! Connections to the local application.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use vouchsafe_config::proxy::{Limits, Upstream};

use crate::inbound::Door;
use crate::io::{Io, Transport};
use crate::reason::{CONNECT_TIMEOUT, Reason, UNREACHABLE};

/// The applications behind one listener.
#[derive(Debug)]
pub(crate) struct Applications {
    deadline: Duration,
}

impl Applications {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            deadline: limits.connect,
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The bounded reason why there is none.
    pub(crate) async fn connect(&self, door: &Door) -> Result<Io, Reason> {
        let connect = async {
            Ok::<_, std::io::Error>(match &door.port.upstream {
                Upstream::Tcp(address) => connect_tcp(*address).await?,
                Upstream::SamePort(address) => {
                    connect_tcp(SocketAddr::new(*address, door.number)).await?
                }
                Upstream::Unix(path) => Transport::Unix(UnixStream::connect(path).await?),
            })
        };
        match tokio::time::timeout(self.deadline, connect).await {
            Ok(Ok(transport)) => Ok(Io::new(transport)),
            Ok(Err(_)) => Err(UNREACHABLE),
            Err(_) => Err(CONNECT_TIMEOUT),
        }
    }
}

async fn connect_tcp(address: SocketAddr) -> std::io::Result<Transport> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(Transport::Tcp(tcp))
}
