//! Software TPMs: a real `swtpm` process each, on a Unix socket in a folder of its own, gone when dropped.
//!
//! The state stays in the folder as long as the value lives, so a reboot can be staged ([`Swtpm::reboot`]).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

/// A running software TPM.
#[derive(Debug)]
pub struct Swtpm {
    process: Option<Child>,
    folder: TempDir,
}

/// A certificate authority that signs endorsement keys of software TPMs: what a maker of chips does.
#[derive(Debug)]
pub struct TpmMaker {
    folder: TempDir,
}

/// Whether `swtpm` can be started here.
pub fn is_installed() -> bool {
    let version = Command::new("swtpm")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

impl Swtpm {
    /// Starts a fresh TPM without any certificate.
    ///
    /// # Errors
    /// When `swtpm` is not installed or does not answer within ten seconds.
    pub fn start() -> anyhow::Result<Self> {
        Self::run(tempfile::tempdir()?)
    }

    /// Starts a fresh TPM whose endorsement keys `maker` certified.
    ///
    /// # Errors
    /// When `swtpm_setup` fails, or as [`Swtpm::start`].
    pub fn start_certified(maker: &TpmMaker) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--pcr-banks", "sha256,sha384"])
            .args(["--overwrite", "--tpmstate"])
            .arg(folder.path())
            .arg("--config")
            .arg(maker.configuration()?)
            .output()
            .context("failed to run `swtpm_setup`: install `swtpm-tools`")?;
        ensure!(
            made.status.success(),
            "`swtpm_setup` failed: {}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
        Self::run(folder)
    }

    fn run(folder: TempDir) -> anyhow::Result<Self> {
        let mut tpm = Self {
            process: None,
            folder,
        };
        tpm.launch()?;
        Ok(tpm)
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let socket = self.socket();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", self.folder.path().display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .args(["--flags", "not-need-init,startup-clear"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start `swtpm`: install it with `apt-get install swtpm`")?;
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.transact(READ_CLOCK).is_err() {
            if Instant::now() > deadline {
                bail!("`swtpm` does not answer at {}", socket.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The data socket: what `swtpm_unix` in `proxy.yaml` names.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("tpm.sock")
    }

    /// Extends a PCR of both accepted banks, as booting something else would: `digest` is repeated to each bank's length.
    ///
    /// # Errors
    /// When the TPM does not do it.
    pub fn extend(&self, pcr: u8, digest: [u8; 16]) -> anyhow::Result<()> {
        self.measure(pcr, &digest.repeat(2), &digest.repeat(3))
    }

    /// Extends a PCR with the digests that firmware measured.
    ///
    /// # Errors
    /// When the TPM does not do it.
    pub fn measure(&self, pcr: u8, sha256: &[u8], sha384: &[u8]) -> anyhow::Result<()> {
        ensure!(
            (sha256.len(), sha384.len()) == (32, 48),
            "digests of the wrong length"
        );
        let mut body = vec![0, 0, 0, pcr];
        body.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]); // empty password
        body.extend([0, 0, 0, 2]);
        for (algorithm, digest) in [(0x0b, sha256), (0x0c, sha384)] {
            body.extend([0, algorithm]);
            body.extend(digest);
        }
        let size = u32::try_from(body.len() + 10)?;
        let mut command = vec![0x80, 0x02];
        command.extend(size.to_be_bytes());
        command.extend([0, 0, 0x01, 0x82]);
        command.extend(body);
        self.transact(&command).map(drop)
    }

    /// Sends a command and checks that it succeeded.
    ///
    /// # Errors
    /// When the TPM can't be reached or refuses.
    pub fn transact(&self, command: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut socket = UnixStream::connect(self.socket())?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        socket.write_all(command)?;
        let mut response = vec![0; 10];
        socket.read_exact(&mut response)?;
        let size = u32::from_be_bytes([response[2], response[3], response[4], response[5]]);
        response.resize(usize::try_from(size)?, 0);
        socket.read_exact(&mut response[10..])?;
        ensure!(
            response[6..10] == [0; 4],
            "the TPM refused: {:02x?}",
            &response[6..10]
        );
        Ok(response)
    }

    /// Shuts the TPM down in order and starts it again on its state: PCRs begin afresh, the reset counter grows.
    ///
    /// # Errors
    /// As [`Swtpm::start`].
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        self.transact(SHUTDOWN_CLEAR)?;
        self.stop();
        self.launch()
    }

    /// A copy of the TPM's state of now, to be put back by [`Swtpm::restore`]: what a host can do to a software TPM.
    ///
    /// # Errors
    /// When the state can't be read.
    pub fn snapshot(&self) -> anyhow::Result<Vec<u8>> {
        Ok(std::fs::read(self.state())?)
    }

    /// Puts an earlier state back and starts the TPM from it.
    ///
    /// # Errors
    /// As [`Swtpm::start`].
    pub fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()> {
        self.stop();
        std::fs::write(self.state(), snapshot)?;
        self.launch()
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("tpm2-00.permall")
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only if the process is gone already.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_file(self.socket());
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

impl TpmMaker {
    /// A maker with a folder for its keys; its certificates exist once it made a TPM.
    ///
    /// # Errors
    /// When there is no room for a folder.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir()?,
        })
    }

    /// The maker's root certificate (PEM).
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("swtpm-localca-rootca-cert.pem")
    }

    /// The intermediate certificate (PEM) that signs endorsement keys: what `ek_chain` in `proxy.yaml` names.
    pub fn issuer(&self) -> PathBuf {
        self.folder.path().join("issuercert.pem")
    }

    fn configuration(&self) -> anyhow::Result<PathBuf> {
        let folder = self.folder.path();
        let file = |name: &str| folder.join(name);
        let tool = ["/usr/bin/swtpm_localca", "/usr/share/swtpm/swtpm-localca"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("`swtpm_localca` is missing: install `swtpm-tools`")?;
        std::fs::write(
            file("localca.conf"),
            format!(
                "statedir = {0}\nsigningkey = {0}/signkey.pem\nissuercert = {0}/issuercert.pem\n\
                 certserial = {0}/certserial\n",
                folder.display()
            ),
        )?;
        std::fs::write(file("localca.options"), "")?;
        std::fs::write(
            file("setup.conf"),
            format!(
                "create_certs_tool = {tool}\ncreate_certs_tool_config = {}\n\
                 create_certs_tool_options = {}\n",
                file("localca.conf").display(),
                file("localca.options").display()
            ),
        )?;
        Ok(file("setup.conf"))
    }
}

/// `TPM2_ReadClock`.
const READ_CLOCK: &[u8] = &[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x81];
/// `TPM2_Shutdown(TPM_SU_CLEAR)`.
const SHUTDOWN_CLEAR: &[u8] = &[0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0];
