//! The folder of the endorsements that are held, which outlives the process.
//!
//! ```text
//! endorsements/objects/NAME    the file, as `attest verify --endorsements` takes it
//! endorsements/index/NAME.json what it is, whence, when it was used and by whom; also of what is wanted and not held
//! ```
//! A file is written whole or not at all, and verified again whenever it is read: the folder is no root of trust, and
//! whoever writes into it can at most withhold.
//!
//! # Why
//! A folder of plain files, because that is what the offline judgement takes and what a person can look at. The index is
//! apart from it, so that every file beside the objects is an endorsement.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use vouchsafe_verifier::endorsement::object::{Endorsement, EndorsementError};
use vouchsafe_verifier::vendor_roots::VendorRoots;

use super::cache::{Cache, Held, Index, MAX_ENTRIES, State, from_ms, lock};
use crate::files::{self, FileError};

/// The folder of a cache.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    objects: PathBuf,
    index: PathBuf,
}

/// When and how large a file was, to see that another process wrote it.
pub(crate) type Stamp = (i64, i64, u64);

/// What reading a folder found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Objects that were taken, or were there already.
    pub(crate) kept: usize,
    /// Files that are not what their index says, with the reason.
    pub(crate) refused: Vec<(String, EndorsementError)>,
}

impl Folder {
    /// Opens or makes the folder.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let folder = Self {
            objects: path.join("objects"),
            index: path.join("index"),
        };
        for path in [path, &folder.objects, &folder.index] {
            files::private_folder(path)?;
        }
        Ok(folder)
    }

    /// Reads what is new or changed since `seen`, and verifies it.
    pub(crate) fn read(
        &self,
        seen: &mut BTreeMap<String, Stamp>,
        cache: &Mutex<Cache>,
        roots: &VendorRoots,
        now: SystemTime,
    ) -> io::Result<Found> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.index)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = name.strip_suffix(".json") else {
                continue;
            };
            let metadata = entry.metadata()?;
            let stamp = (metadata.mtime(), metadata.mtime_nsec(), metadata.len());
            if seen.insert(name.to_owned(), stamp) != Some(stamp) {
                names.push(name.to_owned());
            }
            if names.len() >= MAX_ENTRIES {
                break;
            }
        }
        // In order of names, AMD's authorities come before the certificates that they sign.
        names.sort();
        let mut found = Found::default();
        for name in names {
            let Some(index) = self.read_index(&name) else {
                continue;
            };
            let held = match self.read_object(&index, cache, roots, now) {
                None => None,
                Some(Ok(held)) => Some(held),
                Some(Err(error)) => {
                    found.refused.push((name, error));
                    None
                }
            };
            found.kept += usize::from(held.is_some());
            lock(cache).restore(index, held, now);
        }
        Ok(found)
    }

    fn read_index(&self, name: &str) -> Option<Index> {
        let bytes = read_bounded(&self.index.join(format!("{name}.json")), MAX_INDEX)?;
        let index: Index = serde_json::from_slice(&bytes).ok()?;
        (index.need.name() == name).then_some(index)
    }

    fn read_object(
        &self,
        index: &Index,
        cache: &Mutex<Cache>,
        roots: &VendorRoots,
        now: SystemTime,
    ) -> Option<Result<Held, EndorsementError>> {
        if !index.is_held() {
            return None;
        }
        let bytes = read_bounded(&self.objects.join(index.need.name()), MAX_OBJECT)?;
        let authorities = lock(cache).authorities();
        let authorities: Vec<&[u8]> = authorities.iter().map(|held| held.bytes()).collect();
        // What is over is known to have been there; its own dates say so again, whatever the index says.
        let at = now.min(from_ms(index.until_ms));
        let verified = Endorsement::verify_below(roots, &index.need, &bytes, &authorities, at);
        Some(verified.map(|endorsement| Held {
            endorsement: Arc::new(endorsement),
            origin: index.origin.chars().take(MAX_ORIGIN).collect(),
            fetched: from_ms(index.fetched_ms).min(now),
        }))
    }

    /// Writes an entry: the object first, so that an index never promises one that is not there.
    pub(crate) fn write(&self, index: &Index) -> io::Result<Stamp> {
        let name = index.need.name();
        if let Some(object) = &index.object {
            let path = self.objects.join(&name);
            // Most writes only note who used it.
            if read_bounded(&path, MAX_OBJECT).as_deref() != Some(object.bytes()) {
                write_whole(&path, object.bytes())?;
            }
        }
        let path = self.index.join(format!("{name}.json"));
        let text = serde_json::to_vec_pretty(index).map_err(io::Error::other)?;
        write_whole(&path, &text)?;
        let metadata = fs::metadata(&path)?;
        Ok((metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
    }

    /// Removes what the cache had no room for.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        for path in [
            self.index.join(format!("{name}.json")),
            self.objects.join(name),
        ] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Valid, expired and missing ones by the index of a data folder's cache, unverified; `None` where there is none.
pub(crate) fn count(data: &Path, now: SystemTime) -> Option<[usize; 3]> {
    let folder = data.join(super::FOLDER).join("index");
    let mut counts = [0; 3];
    for entry in fs::read_dir(folder).ok()?.take(MAX_ENTRIES) {
        let path = entry.ok()?.path();
        let bytes = read_bounded(&path, MAX_INDEX).unwrap_or_default();
        let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
            continue;
        };
        let [valid, expired, missing] = &mut counts;
        match index.state(now) {
            State::Valid => *valid += 1,
            State::Expired => *expired += 1,
            State::Missing => *missing += 1,
        }
    }
    Some(counts)
}

fn read_bounded(path: &Path, max: u64) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?;
    // A pipe or a device would never end.
    if !size.is_file() || size.len() > max {
        return None;
    }
    fs::read(path).ok()
}

/// Whole or not at all, also after a crash.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let random: [u8; 8] = crate::ca::random().map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", hex::encode(random)));
    let new = path.with_file_name(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(files::SECRET_MODE)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // What could not be written must not fill the disk either.
        let _ = fs::remove_file(&new);
    }
    written
}

const MAX_INDEX: u64 = 128 * 1024;
const MAX_OBJECT: u64 = 4 * 1024 * 1024;
const MAX_ORIGIN: usize = 256;
