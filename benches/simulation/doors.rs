//! Live connections through real sidecars: how long until the last one is closed.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::control_plane::ControlPlane;
use crate::policy;
use crate::watch::{ms, quantile};

/// Sidecars with connections between them.
#[derive(Debug)]
pub(crate) struct Doors {
    sockets: Vec<TcpStream>,
    listeners: Vec<SocketAddr>,
    _sidecars: Vec<Running>,
    _backend: JoinSet<()>,
    _folder: TempDir,
}

#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Doors {
    /// Starts `doors` sidecars and one that calls them.
    pub(crate) async fn start(
        programs: &Path,
        control_plane: &ControlPlane,
        doors: usize,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut backend = JoinSet::new();
        let application = echo(&mut backend).await?;
        let mut sidecars = Vec::new();
        let mut outbound = String::new();
        let mut listeners = Vec::new();
        for number in 0..doors {
            let name = policy::door(number);
            let inbound = format!(
                "  inbound: [{{listen: '{}', ports: [{{name: p, upstream: '{application}'}}]}}]\n",
                free()?
            );
            sidecars.push(start(
                programs,
                folder.path(),
                control_plane,
                &name,
                &inbound,
            )?);
            let listen = free()?;
            listeners.push(listen);
            outbound.push_str(&format!(
                "    - {{listen: '{listen}', to: fleet/{name}, port: p}}\n"
            ));
        }
        let outbound = format!("  outbound:\n{outbound}");
        sidecars.push(start(
            programs,
            folder.path(),
            control_plane,
            "caller",
            &outbound,
        )?);
        Ok(Self {
            sockets: Vec::new(),
            listeners,
            _sidecars: sidecars,
            _backend: backend,
            _folder: folder,
        })
    }

    /// Opens connections through all doors in turn.
    pub(crate) async fn open(&mut self, connections: usize) -> Result<()> {
        for listener in self.listeners.iter().cycle().take(connections) {
            self.sockets.push(through(*listener).await?);
        }
        ensure!(self.sockets.len() == connections, "there is no door");
        Ok(())
    }

    /// Puts a policy in force that admits none of them, and waits until all are closed.
    #[expect(
        clippy::disallowed_methods,
        reason = "the same clock as the control plane's log, on the same machine"
    )]
    pub(crate) async fn time_to_close(
        &mut self,
        control_plane: &ControlPlane,
        policy: &str,
    ) -> Result<Vec<Duration>> {
        let mut closing = JoinSet::new();
        for mut socket in std::mem::take(&mut self.sockets) {
            closing.spawn(async move {
                let mut byte = [0];
                // Closed and reset are the same here: nothing more comes.
                let ended = socket.read(&mut byte).await;
                (SystemTime::now(), matches!(ended, Ok(0) | Err(_)))
            });
        }
        let count = closing.len();
        let commit = control_plane.write_policy(policy).await?;
        let mut delays = Vec::new();
        let all = async {
            while let Some(Ok((time, is_closed))) = closing.join_next().await {
                if is_closed {
                    delays.push(time.duration_since(commit.time).unwrap_or_default());
                }
            }
        };
        let _over = tokio::time::timeout(DEADLINE, all).await;
        ensure!(
            delays.len() == count,
            "{} of {count} connections were closed",
            delays.len()
        );
        delays.sort_unstable();
        Ok(delays)
    }
}

/// The figures of some rounds, each sorted: the median of each figure, and the worst of the last.
pub(crate) fn summary(rounds: Vec<Vec<Duration>>) -> Value {
    let median = |percent: usize| {
        let mut all: Vec<_> = { rounds.iter() }
            .map(|round| quantile(round, percent))
            .collect();
        all.sort_unstable();
        quantile(&all, 50)
    };
    let last = rounds.iter().map(|round| quantile(round, 100)).max();
    json!({
        "rounds": rounds.len(),
        "connections": rounds.first().map_or(0, Vec::len),
        "p50_ms": ms(median(50)),
        "p99_ms": ms(median(99)),
        "last_ms": ms(median(100)),
        "worst_round_last_ms": ms(last.unwrap_or_default()),
    })
}

/// A connection that has carried a byte there and back; tried until the door is open.
async fn through(listener: SocketAddr) -> Result<TcpStream> {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        if let Ok(mut socket) = TcpStream::connect(listener).await
            && socket.write_all(b"x").await.is_ok()
            && socket.read_exact(&mut [0]).await.is_ok()
        {
            return Ok(socket);
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "nothing passes through {listener}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn echo(tasks: &mut JoinSet<()>) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut from, mut to) = socket.split();
                let _ended = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Ok(address)
}

fn start(
    programs: &Path,
    folder: &Path,
    control_plane: &ControlPlane,
    name: &str,
    doors: &str,
) -> Result<Running> {
    let folder = folder.join(name);
    std::fs::create_dir(&folder)?;
    let pin: String = control_plane
        .root_pin()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let config = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: Proxy\nspec:\n  trust_domain: simulation.example\n  \
         workload: fleet/{name}\n  identity:\n    control_plane:\n      addresses: ['{}']\n      \
         root_pins: [\"{pin}\"]\n      attester: {{simulated: {{machine: {name}, image: sim}}}}\n  \
         admin: {}\n  workers: 1\n{doors}",
        control_plane.address(),
        folder.join("admin.sock").display(),
    );
    std::fs::write(folder.join("proxy.yaml"), config)?;
    let log = std::fs::File::create(folder.join("log"))?;
    let program = programs.join("vouchsafe-proxy");
    let child = Command::new(&program)
        .arg("--config")
        .arg(folder.join("proxy.yaml"))
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} does not start: build it first", program.display()))?;
    Ok(Running(child))
}

/// A port that nobody has now.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

const DEADLINE: Duration = Duration::from_secs(60);
