//! A wall clock that can be moved under a running process: a library built here from C that is preloaded into it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The clock of one process.
#[derive(Debug)]
pub struct MovedClock {
    folder: TempDir,
}

impl MovedClock {
    /// A clock that shows the machine's time.
    ///
    /// # Panics
    /// When there is no C compiler.
    #[track_caller]
    pub fn build() -> Self {
        let clock = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        clock.shift(0);
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(clock.library())
            .arg(format!("-DFILE_OF_SECONDS=\"{}\"", clock.file().display()))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clock.c"))
            .output()
            .expect("`cc` runs: install a C compiler");
        assert!(
            built.status.success(),
            "the library can't be built: {}",
            String::from_utf8_lossy(&built.stderr)
        );
        clock
    }

    /// Moves the clock to so many seconds from the machine's.
    pub fn shift(&self, seconds: i64) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, seconds.to_string()).expect("the folder can be written");
        std::fs::rename(new, self.file()).expect("the folder can be written");
    }

    /// What must be preloaded.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("seconds")
    }
}
