//! The data folder: what is secret in it is readable by its owner only, or the control plane does not start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a file of the data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The disk or the permissions of a parent say no.
    #[error("failed to {act} `{path}`")]
    Io {
        /// What was tried.
        act: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Others could read or write it.
    #[error("`{path}` has mode {mode:04o}, which lets others in: run `chmod {wanted:04o} {path}`")]
    TooWide {
        /// Which.
        path: PathBuf,
        /// As found.
        mode: u32,
        /// As it must be.
        wanted: u32,
    },
}

/// Makes the folder with mode 0700, or checks that an existing one is no wider.
///
/// # Errors
/// [`FileError`].
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    if !path.exists() {
        return DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(path)
            .map_err(|source| io_error("make folder", path, source));
    }
    check_mode(path, FOLDER_MODE)
}

/// Reads a secret file, refusing one that others can read.
///
/// # Errors
/// [`FileError`].
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, FileError> {
    check_mode(path, SECRET_MODE)?;
    fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|source| io_error("read", path, source))
}

/// Writes a file whole or not at all, with mode 0600, and syncs it and its folder.
///
/// # Errors
/// [`FileError`].
pub fn write_secret(path: &Path, content: &str) -> Result<(), FileError> {
    let new = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(SECRET_MODE)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|source| io_error("write", path, source))?;
    let folder = path.parent().unwrap_or(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| io_error("sync", folder, source))
}

/// Checks that nobody but the owner may do anything with it.
///
/// # Errors
/// [`FileError::TooWide`] naming the command that mends it.
pub fn check_mode(path: &Path, wanted: u32) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(|source| io_error("look at", path, source))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(FileError::TooWide {
        path: path.to_owned(),
        mode,
        wanted,
    })
}

fn io_error(act: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io {
        act,
        path: path.to_owned(),
        source,
    }
}

/// Mode of the data folder.
pub const FOLDER_MODE: u32 = 0o700;
/// Mode of every secret file and of the operator socket.
pub const SECRET_MODE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_can_enter_is_refused_with_the_command_that_mends_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        private_folder(&folder).unwrap();
        private_folder(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        let error = private_folder(&folder).unwrap_err();
        assert!(error.to_string().contains("run `chmod 0700"), "{error}");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_secret(&path, "secret").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            read_secret(&path),
            Err(FileError::TooWide { mode: 0o640, .. })
        ));
    }
}
