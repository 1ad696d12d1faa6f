//! The control plane's process: started, written to, and looked at from outside.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// A running control plane; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    child: Mutex<Child>,
    id: u32,
    address: SocketAddr,
    root_pin: [u8; 32],
    program: PathBuf,
    folder: TempDir,
}

/// A change that came in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    pub(crate) sequence: u64,
    pub(crate) time: SystemTime,
    /// When its file was written.
    pub(crate) written: Option<SystemTime>,
}

impl ControlPlane {
    pub(crate) async fn start(programs: &Path, policy: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        std::fs::create_dir(path.join("policy"))?;
        std::fs::write(path.join("policy/all.yaml"), policy)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: ControlPlane\nspec: {{listen: '{address}', data: data, policy: policy}}\n"
        );
        std::fs::write(path.join("control-plane.yaml"), config)?;
        let log = File::create(path.join("log"))?;
        let program = programs.join("vouchsafe");
        let child = Command::new(&program)
            .args(["serve", "--config"])
            .arg(path.join("control-plane.yaml"))
            .current_dir(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start: build it first", program.display()))?;
        let mut control_plane = Self {
            id: child.id(),
            child: Mutex::new(child),
            address,
            root_pin: [0; 32],
            program,
            folder,
        };
        let ready = control_plane
            .line("control plane ready", 0)
            .await
            .context("the control plane does not get ready")?;
        let pin = text(&ready, "root_pin");
        control_plane.root_pin = unhex(pin).context("it says no pin")?;
        Ok(control_plane)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn root_pin(&self) -> [u8; 32] {
        self.root_pin
    }

    /// Replaces the policy, and says when it came in force.
    #[expect(
        clippy::disallowed_methods,
        reason = "the same clock as the control plane's log, on the same machine"
    )]
    pub(crate) async fn write_policy(&self, text: &str) -> Result<Commit> {
        let folder = self.folder.path();
        let from = std::fs::metadata(folder.join("log"))?.len();
        std::fs::write(folder.join("new"), text)?;
        let written = SystemTime::now();
        std::fs::rename(folder.join("new"), folder.join("policy/all.yaml"))?;
        let commit = self.commit("policy changed", from).await?;
        Ok(Commit {
            written: Some(written),
            ..commit
        })
    }

    /// Has an operator prepare an issuing authority, and says when the trust bundle with it came in force.
    pub(crate) async fn prepare_authority(&self) -> Result<Commit> {
        let from = std::fs::metadata(self.folder.path().join("log"))?.len();
        let output = Command::new(&self.program)
            .args(["authority", "prepare", "--reason", "simulation", "--data"])
            .arg(self.folder.path().join("data"))
            .stdin(Stdio::null())
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no authority: {error}");
        self.commit("trust bundle changed", from).await
    }

    /// Replaces the policy by one under which all live results are judged again. Says how many were, and how long it took
    /// from the moment in which the policy came in force.
    pub(crate) async fn judge_again(&self, text: &str) -> Result<(u64, u64, Duration)> {
        let from = std::fs::metadata(self.folder.path().join("log"))?.len();
        let commit = self.write_policy(text).await?;
        let line = self.line("live results were judged again", from).await?;
        let time: jiff::Timestamp = self::text(&line, "timestamp").parse()?;
        let time: SystemTime = time.into();
        let count = |name| line.get(name).and_then(Value::as_u64).unwrap_or_default();
        let took = time.duration_since(commit.time).unwrap_or_default();
        Ok((count("judged"), count("revoked"), took))
    }

    /// Serial number of the last certificate that a workload of the fleet got.
    pub(crate) fn serial_of(&self, workload: &str) -> Result<String> {
        let output = Command::new(&self.program)
            .args(["log", "tail", "-n", "1000000", "-o", "json", "--data"])
            .arg(self.folder.path().join("data"))
            .stdin(Stdio::null())
            .output()?;
        let id = format!("spiffe://simulation.example/ns/fleet/workload/{workload}");
        let records = String::from_utf8(output.stdout)?;
        let mut records =
            { records.lines().rev() }.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let issued = records.find(|record| text(record, "spiffe_id") == id);
        let issued = issued.context("it never got a certificate")?;
        Ok(text(&issued, "serial").to_owned())
    }

    /// The change that a line of the log speaks of.
    async fn commit(&self, message: &str, from: u64) -> Result<Commit> {
        let line = self.line(message, from).await?;
        let revision = text(&line, "revision");
        let (_, sequence) = revision.split_once('.').context("it says no revision")?;
        let time: jiff::Timestamp = text(&line, "timestamp").parse()?;
        Ok(Commit {
            sequence: sequence.parse()?,
            time: time.into(),
            written: None,
        })
    }

    /// Waits until no more registrations make revisions, and all sidecars have applied the last, with their own proof.
    pub(crate) async fn settled(&self, sidecars: usize) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.status()?;
            let listed = status.get("sidecars").and_then(Value::as_array);
            let listed = listed.context("no sidecars")?;
            let revision = text(&status, "revision");
            let behind = { listed.iter() }.filter(|one| text(one, "applied") != revision);
            let behind = behind.count();
            if listed.len() >= sidecars && behind == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{behind} of {} sidecars are behind",
                listed.len()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn status(&self) -> Result<Value> {
        let output = Command::new(&self.program)
            .args(["status", "-o", "json", "--data"])
            .arg(self.folder.path().join("data"))
            .stdin(Stdio::null())
            .output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The first line of its log from an offset on that says `message`.
    async fn line(&self, message: &str, from: u64) -> Result<Value> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut log = File::open(self.folder.path().join("log"))?;
            log.seek(SeekFrom::Start(from))?;
            let mut text = String::new();
            log.read_to_string(&mut text)?;
            let found = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| self::text(line, "message") == message);
            if let Some(line) = found {
                return Ok(line);
            }
            if Instant::now() > deadline {
                bail!("it never says `{message}`:\n{text}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Memory that it has resident.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        self.kib("VmRSS:")
    }

    /// The most that it had resident since [`Self::forget_peak`].
    pub(crate) fn peak_kib(&self) -> Result<u64> {
        self.kib("VmHWM:")
    }

    pub(crate) fn forget_peak(&self) -> Result<()> {
        let references = format!("/proc/{}/clear_refs", self.id);
        std::fs::write(references, "5").context("the kernel keeps the peak")
    }

    fn kib(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("no such line")?.parse()?)
    }

    /// Processor time that it and the sidecars have used.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu {
            control_plane: cpu_of(&self.id.to_string())?,
            sidecars: cpu_of("self")?,
        })
    }

    /// The same within some time from now on.
    pub(crate) async fn cpu_over(&self, time: Duration) -> Result<Cpu> {
        let before = self.cpu()?;
        tokio::time::sleep(time).await;
        Ok(self.cpu()?.since(before))
    }
}

/// Processor time of the control plane's process, and of this one, in which the sidecars live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) control_plane: Duration,
    pub(crate) sidecars: Duration,
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            control_plane: self.control_plane.saturating_sub(before.control_plane),
            sidecars: self.sidecars.saturating_sub(before.sidecars),
        }
    }

    pub(crate) fn scaled(self, by: f64) -> Self {
        Self {
            control_plane: self.control_plane.mul_f64(by),
            sidecars: self.sidecars.mul_f64(by),
        }
    }
}

/// Processor time that a process has used.
fn cpu_of(process: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold anything; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap_or_default())
        .sum();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis(ticks * 1_000 / per_second))
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A text in an object; empty where there is none.
fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

const DEADLINE: Duration = Duration::from_secs(120);
