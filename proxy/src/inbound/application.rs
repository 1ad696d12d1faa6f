//! Connections to the local application.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use vouchsafe_config::proxy::Upstream;

use crate::http::pool::{Http1Pool, Http2Pool};
use crate::io::{Io, Transport};
use crate::reason::{CONNECT_TIMEOUT, Reason, UNREACHABLE};

/// One port of the local application.
#[derive(Debug)]
pub(crate) struct Application {
    upstream: Upstream,
    number: u16,
    deadline: Duration,
    pub(crate) http1: Rc<Http1Pool>,
    pub(crate) http2: Http2Pool,
}

impl Application {
    pub(crate) fn new(upstream: Upstream, number: u16, deadline: Duration) -> Self {
        Self {
            upstream,
            number,
            deadline,
            http1: Rc::default(),
            http2: Http2Pool::default(),
        }
    }

    /// Whether nothing is served by its connections.
    pub(crate) fn is_idle(&self) -> bool {
        self.http1.is_empty() && self.http2.is_idle()
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The bounded reason why there is none.
    pub(crate) async fn connect(&self) -> Result<Io, Reason> {
        let connect = async {
            Ok::<_, std::io::Error>(match &self.upstream {
                Upstream::Tcp(address) => connect_tcp(*address).await?,
                Upstream::SamePort(address) => {
                    connect_tcp(SocketAddr::new(*address, self.number)).await?
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
