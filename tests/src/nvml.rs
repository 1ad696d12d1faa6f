//! Machines with NVIDIA GPUs that are none: a library like NVIDIA's, built here from C, that serves reports of real GPUs,
//! or asks GPUs of a test's own maker.
//!
//! Each machine has a library of its own, whose folder of reports is compiled in: so two in one process don't meet.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::vendor::nvidia::Gpu;

/// A machine's library and what it serves.
#[derive(Debug)]
pub struct FakeNvml {
    folder: TempDir,
}

/// How new the library is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Driver {
    /// Knows every function.
    Current,
    /// Does not know `nvmlSystemGetConfComputeSettings`.
    Of535,
    /// Knows no attestation.
    Of525,
}

impl FakeNvml {
    /// Builds a library of a machine in confidential-computing mode, without GPUs.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn build(driver: Driver) -> anyhow::Result<Self> {
        let machine = Self {
            folder: tempfile::tempdir()?,
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nvml.c");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(machine.library())
            .arg(format!("-DFOLDER=\"{}\"", machine.folder.path().display()))
            .arg(source);
        match driver {
            Driver::Current => {}
            Driver::Of535 => drop(compiler.arg("-DDRIVER_535")),
            Driver::Of525 => drop(compiler.args(["-DDRIVER_535", "-DDRIVER_525"])),
        }
        let built = compiler
            .output()
            .context("failed to run `cc`: install a C compiler")?;
        ensure!(
            built.status.success(),
            "the library can't be built: {}",
            String::from_utf8_lossy(&built.stderr)
        );
        machine.set("count", "0");
        machine.set("driver", "550.90.07");
        machine.set("mode", "1 0 0");
        Ok(machine)
    }

    /// What `nvidia_gpu.library` names.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// Puts in one more GPU, with what a real one said.
    ///
    /// # Panics
    /// When the folder can't be written.
    pub fn add(&self, report: &[u8], chain: &[u8], architecture: u32) {
        let number = self.place(chain, architecture);
        self.set(&format!("{number}.report"), report);
    }

    /// Puts in one more GPU, which signs for every nonce until this process ends.
    ///
    /// # Panics
    /// When the folder can't be written.
    pub fn add_live(&self, gpu: Gpu) {
        let number = self.place(gpu.chain().as_bytes(), 9);
        let path = self.folder.path().join(format!("{number}.gpu"));
        let listener = UnixListener::bind(path).expect("the socket can be made");
        std::thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let mut nonce = [0; 32];
                // A client that breaks off concerns nobody else.
                if client.read_exact(&mut nonce).is_ok() {
                    let _gone = client.write_all(&gpu.report(&nonce));
                }
            }
        });
    }

    /// The next number.
    fn place(&self, chain: &[u8], architecture: u32) -> u32 {
        let folder = self.folder.path();
        let number = (0..)
            .find(|index| !folder.join(format!("{index}.chain")).exists())
            .expect("there is a next number");
        self.set(&format!("{number}.chain"), chain);
        self.set(&format!("{number}.architecture"), architecture.to_string());
        self.set("count", (number + 1).to_string());
        number
    }

    /// Writes one of the files that the library follows.
    ///
    /// # Panics
    /// When the folder can't be written.
    pub fn set(&self, file: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join(file), content).expect("the folder can be written");
    }

    /// Removes such a file.
    ///
    /// # Panics
    /// When it is not there.
    pub fn unset(&self, file: &str) {
        std::fs::remove_file(self.folder.path().join(file)).expect("the file is there");
    }
}

impl Drop for FakeNvml {
    fn drop(&mut self) {
        // Lets a report go that hangs.
        let _was_not_there = std::fs::remove_file(self.folder.path().join("hang"));
    }
}
