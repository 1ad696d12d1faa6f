//! Former policies: kept so that one can be put in force again, and so that what one denied can be explained later.
//!
//! ```text
//! policy-sets/EPOCH.SEQUENCE-SHA256.json          the files of the policy folder that came in force with that revision
//! policy-sets/EPOCH.SEQUENCE-canary-SHA256.json   those that a canary's sidecars tried from that revision on
//! ```
//! While a canary runs its states have odd sequences and those of the policy in force even ones; its end is the next set
//! that is kept of the policy in force.
//!
//! The name has the digest of the content, so a file that was changed is not believed. The oldest go beyond [`MAX_SETS`]
//! and [`MAX_TOTAL_BYTES`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use vouchsafe_api::convert::unix_ms;
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::sha256;

use crate::files::{self, FileError};

/// A policy that was in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeptPolicy {
    /// From this revision on.
    pub revision: Revision,
    /// When it came in force, in Unix milliseconds.
    pub kept_ms: u64,
    /// SHA-256 over its files.
    pub digest: [u8; 32],
    /// Its files, by their names below the policy folder.
    pub files: BTreeMap<PathBuf, String>,
}

/// Who decided by a policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whose {
    /// All sidecars, or all but those of a canary.
    Everybody,
    /// Those of a canary.
    Canary,
}

#[derive(Debug, Deserialize, Serialize)]
struct Stored {
    kept_ms: u64,
    files: BTreeMap<PathBuf, String>,
}

/// Keeps the files of a policy that came in force.
///
/// # Errors
/// [`FileError`].
pub fn keep(
    data: &Path,
    revision: Revision,
    whose: Whose,
    files: &BTreeMap<PathBuf, String>,
    now: SystemTime,
) -> Result<(), FileError> {
    let folder = data.join(FOLDER);
    files::private_folder(&folder)?;
    let stored = Stored {
        kept_ms: unix_ms(now),
        files: files.clone(),
    };
    // Plain texts and numbers always have a JSON form.
    let text = serde_json::to_string(&stored).unwrap_or_default();
    let name = format!(
        "{}.{:020}-{}{}.json",
        revision.epoch,
        revision.sequence,
        match whose {
            Whose::Everybody => "",
            Whose::Canary => CANARY,
        },
        hex::encode(sha256(text.as_bytes()))
    );
    files::write_secret(&folder.join(name), &text)?;
    forget(&folder)
}

/// All kept policies that were everybody's, oldest first, without those that were changed since. One that came in force
/// again where a canary ended is listed once.
///
/// # Errors
/// [`FileError`]; a folder that is not there has none.
pub fn list(data: &Path) -> Result<Vec<KeptPolicy>, FileError> {
    let mut found = Vec::new();
    for (revision, whose, path) in names(&data.join(FOLDER))? {
        if whose == Whose::Everybody {
            found.extend(read(revision, &path)?);
        }
    }
    found.dedup_by(|next, held| next.digest == held.digest);
    Ok(found)
}

/// The policy by which sidecars at a revision decided.
///
/// # Errors
/// [`FileError`].
pub fn at(data: &Path, revision: Revision) -> Result<Option<KeptPolicy>, FileError> {
    let mut names = names(&data.join(FOLDER))?;
    names.retain(|(kept, ..)| kept.epoch == revision.epoch && *kept <= revision);
    let newest = names.last().map(|(_, whose, _)| *whose);
    // An odd sequence is a canary's as long as none of everybody's came after it, which each change of that keeps anew.
    let whose = match newest {
        Some(Whose::Canary) if revision.sequence % 2 == 1 => Whose::Canary,
        Some(_) | None => Whose::Everybody,
    };
    match names.into_iter().rfind(|(_, kept, _)| *kept == whose) {
        Some((kept, _, path)) => read(kept, &path),
        None => Ok(None),
    }
}

fn read(revision: Revision, path: &Path) -> Result<Option<KeptPolicy>, FileError> {
    let text = files::read_secret(path)?;
    let digest = hex::encode(sha256(text.as_bytes()));
    let is_own = path
        .file_stem()
        .is_some_and(|name| name.to_string_lossy().ends_with(&digest));
    let stored: Option<Stored> = serde_json::from_str(&text).ok().filter(|_| is_own);
    Ok(stored.map(|stored| KeptPolicy {
        revision,
        kept_ms: stored.kept_ms,
        digest: digest_of(&stored.files),
        files: stored.files,
    }))
}

/// SHA-256 over names and texts, each framed by its length.
fn digest_of(files: &BTreeMap<PathBuf, String>) -> [u8; 32] {
    let mut framed = Vec::new();
    for (name, text) in files {
        for part in [name.as_os_str().as_encoded_bytes(), text.as_bytes()] {
            framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
            framed.extend_from_slice(part);
        }
    }
    sha256(&framed)
}

/// Files with their revisions, oldest first.
fn names(folder: &Path) -> Result<Vec<(Revision, Whose, PathBuf)>, FileError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let failed = |source| FileError::Io {
        act: "list",
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let revision = path.file_name().and_then(|name| {
            let (revision, rest) = name.to_str()?.strip_suffix(".json")?.split_once('-')?;
            let (epoch, sequence) = revision.split_once('.')?;
            let whose = match rest.starts_with(CANARY) {
                true => Whose::Canary,
                false => Whose::Everybody,
            };
            let revision = Revision {
                epoch: epoch.parse().ok()?,
                sequence: sequence.parse().ok()?,
            };
            Some((revision, whose))
        });
        found.extend(revision.map(|(revision, whose)| (revision, whose, path)));
    }
    found.sort_by(|(one, _, left), (other, _, right)| (one, left).cmp(&(other, right)));
    Ok(found)
}

fn forget(folder: &Path) -> Result<(), FileError> {
    let (mut sets, mut bytes) = (0, 0);
    for (.., path) in names(folder)?.into_iter().rev() {
        sets += 1;
        bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
        // The newest stays however large it is.
        if sets > 1 && (sets > MAX_SETS || bytes > MAX_TOTAL_BYTES) {
            // One that stays is forgotten the next time.
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

const FOLDER: &str = "policy-sets";
/// In the names of what a canary's sidecars tried.
const CANARY: &str = "canary-";
/// A month of a policy that changes several times on each working day.
pub const MAX_SETS: usize = 128;
/// Of all sets: a policy of 10,000 rules has a few MiB.
pub const MAX_TOTAL_BYTES: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> BTreeMap<PathBuf, String> {
        BTreeMap::from([(PathBuf::from("a.yaml"), text.to_owned())])
    }

    fn revision(sequence: u64) -> Revision {
        Revision { epoch: 1, sequence }
    }

    fn keep_one(data: &Path, sequence: u64) {
        keep_whose(data, sequence, Whose::Everybody);
    }

    fn keep_whose(data: &Path, sequence: u64, whose: Whose) {
        let (files, now) = (files(&sequence.to_string()), SystemTime::UNIX_EPOCH);
        keep(data, revision(sequence), whose, &files, now).unwrap();
    }

    #[test]
    fn what_a_canary_s_sidecars_decided_by_is_told_from_what_was_everybody_s() {
        let data = tempfile::tempdir().unwrap();
        keep_one(data.path(), 5);
        keep_whose(data.path(), 9, Whose::Canary);
        // Everybody's changes, and with it the canary; then it ends.
        keep_one(data.path(), 12);
        keep_whose(data.path(), 13, Whose::Canary);
        keep_one(data.path(), 20);
        for (asked, expected) in [
            (7, 5),
            (8, 5),
            (9, 9),
            (10, 5),
            (11, 9),
            (12, 12),
            (14, 12),
            (19, 13),
            (20, 20),
            (21, 20),
        ] {
            let found = at(data.path(), revision(asked)).unwrap().unwrap();
            assert_eq!(found.revision.sequence, expected, "{asked}");
        }
        let listed = list(data.path()).unwrap();
        let listed: Vec<u64> = listed.iter().map(|one| one.revision.sequence).collect();
        assert_eq!(listed, [5, 12, 20]);
    }

    #[test]
    fn what_was_in_force_at_a_revision_is_found_and_others_are_not() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(at(data.path(), revision(5)).unwrap(), None);
        for sequence in [2, 9, 10] {
            keep_one(data.path(), sequence);
        }
        for (asked, expected) in [
            (1, None),
            (2, Some(2)),
            (8, Some(2)),
            (9, Some(9)),
            (99, Some(10)),
        ] {
            let found = at(data.path(), revision(asked)).unwrap();
            let found = found.map(|found| found.files[Path::new("a.yaml")].parse().unwrap());
            assert_eq!(found, expected, "{asked}");
        }
        let elsewhere = Revision {
            epoch: 2,
            sequence: 3,
        };
        assert_eq!(at(data.path(), elsewhere).unwrap(), None);
    }

    #[test]
    fn a_set_that_was_changed_is_not_believed() {
        let data = tempfile::tempdir().unwrap();
        keep_one(data.path(), 3);
        let (.., path) = names(&data.path().join(FOLDER)).unwrap().remove(0);
        let text = fs::read_to_string(&path).unwrap().replace("\"3\"", "\"4\"");
        files::write_secret(&path, &text).unwrap();
        assert_eq!(at(data.path(), revision(3)).unwrap(), None);
        assert!(list(data.path()).unwrap().is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let data = tempfile::tempdir().unwrap();
        let all = MAX_SETS as u64 + 3;
        for sequence in 1..=all {
            keep_one(data.path(), sequence);
        }
        let kept = list(data.path()).unwrap();
        assert_eq!(kept.len(), MAX_SETS);
        assert_eq!(kept[0].revision, revision(4));
        assert_eq!(kept.last().unwrap().revision, revision(all));
    }
}
