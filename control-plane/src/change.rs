//! A change to the policy folder that an operator asks for: named files, written or removed, all or none.
//!
//! A file is written beside its place, synced and moved into it, so that nobody who reads the folder sees half of one. A
//! change of several files is first written down in the data folder: where it breaks off in the middle it is finished
//! before anything is read from the folder again, by this process or at the next start. Files that the change does not
//! name are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use vouchsafe_config::load::Overlay;

use crate::files::{self, FileError};

/// Files to write and to remove, by their names below the policy folder.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FolderChange {
    written: BTreeMap<PathBuf, String>,
    removed: BTreeSet<PathBuf>,
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A name leads out of the folder, or to something that is not read as policy.
    #[error(
        "`{0}` is no name of a policy file: write `name.yaml` or `folder/name.yaml`, of letters, digits, `.`, `-` and `_`"
    )]
    Name(String),
    /// One file is both written and removed.
    #[error("`{0}` is both written and removed")]
    Both(String),
    /// The folder as it would be is no policy.
    #[error("{0}")]
    Policy(String),
    /// The folder can't be written; nothing was changed.
    #[error("the policy folder can't be written")]
    NotWritable(#[source] FileError),
    /// It broke off in the middle.
    #[error(
        "the change broke off in the middle: it is tried again until it is made, and nothing else is read from the policy folder before"
    )]
    Torn(#[source] FileError),
    /// Another policy is in force, or lies in the folder, than the change was judged by.
    #[error(
        "the policy was changed meanwhile: ask again, so that the change is judged by what it is now"
    )]
    Changed,
    /// It can't be recorded, so it must not happen.
    #[error("the act can't be recorded")]
    Record(#[source] crate::log::LogError),
    /// The folder has changed, but the state can't be published.
    #[error("the folder has changed, but its policy can't be put in force")]
    Publish(#[source] crate::keeper::publishing::PublishError),
    /// The act is recorded, but the state of the mesh can't be published.
    #[error("the act is recorded, but can't be put in force: it will be tried again")]
    Canary(#[source] crate::keeper::publishing::PublishError),
    /// Sidecars hold what was never made here; nothing was changed.
    #[error(transparent)]
    Outrun(crate::keeper::publishing::PublishError),
    /// The control plane is ending.
    #[error("the control plane is shutting down")]
    Ending,
}

impl FolderChange {
    /// Takes texts by file name, and names of files that go.
    ///
    /// # Errors
    /// [`ChangeError::Name`], [`ChangeError::Both`].
    pub fn new(
        written: impl IntoIterator<Item = (String, String)>,
        removed: impl IntoIterator<Item = String>,
    ) -> Result<Self, ChangeError> {
        let mut change = Self::default();
        for (name, text) in written {
            change.written.insert(file_name(&name)?, text);
        }
        for name in removed {
            let path = file_name(&name)?;
            if change.written.contains_key(&path) {
                return Err(ChangeError::Both(name));
            }
            change.removed.insert(path);
        }
        Ok(change)
    }

    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.removed.is_empty()
    }

    /// Names of all files that it touches.
    pub fn names(&self) -> Vec<String> {
        let names = self.written.keys().chain(&self.removed);
        names.map(|name| name.display().to_string()).collect()
    }

    /// Files as they would be with it.
    pub fn on(&self, files: &BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
        let mut files = files.clone();
        files.retain(|name, _| !self.removed.contains(name));
        files.extend(self.written.clone());
        files
    }

    /// What of it is not so already.
    #[must_use]
    pub fn left_on(&self, files: &BTreeMap<PathBuf, String>) -> Self {
        let mut left = self.clone();
        left.written
            .retain(|name, text| files.get(name) != Some(text));
        left.removed.retain(|name| files.contains_key(name));
        left
    }

    /// The folder as it would be.
    pub fn overlay(&self, folder: &Path) -> Overlay {
        let written = self.written.iter();
        Overlay {
            written: written
                .map(|(name, text)| (folder.join(name), text.clone()))
                .collect(),
            removed: self.removed.iter().map(|name| folder.join(name)).collect(),
        }
    }
}

/// As many names as a record has room for.
pub(crate) fn bounded(mut names: Vec<String>) -> Vec<String> {
    if names.len() > MAX_RECORDED_FILES {
        let more = names.len() - MAX_RECORDED_FILES;
        names.truncate(MAX_RECORDED_FILES);
        names.push(format!("and {more} more"));
    }
    names
}

/// A name that stays below the folder and is read as policy there.
fn file_name(name: &str) -> Result<PathBuf, ChangeError> {
    let path = Path::new(name);
    let is_part = |part: Component<'_>| match part {
        Component::Normal(part) => part.to_str().is_some_and(|part| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            !part.starts_with('.') && part.bytes().all(allowed)
        }),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            false
        }
    };
    let is_yaml = path
        .extension()
        .is_some_and(|end| end == "yaml" || end == "yml");
    let is_good = is_yaml
        && name.len() <= MAX_NAME_BYTES
        && path.components().count() <= MAX_DEPTH
        && path.components().all(is_part);
    // Built from its parts, so that `a//b.yaml` and `a/b.yaml` are one.
    is_good
        .then(|| path.components().collect())
        .ok_or_else(|| ChangeError::Name(name.to_owned()))
}

/// New texts, synced, beside where they belong. Dropped without [`Self::commit`], they go away.
#[derive(Debug)]
pub(crate) struct Staged<'c> {
    change: &'c FolderChange,
    folder: PathBuf,
    journal: PathBuf,
    texts: Vec<(PathBuf, PathBuf)>,
}

impl<'c> Staged<'c> {
    /// Writes the new texts down. What the folder holds is as it was.
    ///
    /// # Errors
    /// [`ChangeError::NotWritable`].
    pub(crate) fn write(
        change: &'c FolderChange,
        folder: &Path,
        data: &Path,
    ) -> Result<Self, ChangeError> {
        let mut staged = Self {
            change,
            folder: folder.to_owned(),
            journal: data.join(JOURNAL),
            texts: Vec::new(),
        };
        for (name, text) in &change.written {
            let path = folder.join(name);
            let new = beside(&path);
            write_new(&new, text)
                .map_err(|source| ChangeError::NotWritable(failed("write", &new, source)))?;
            staged.texts.push((new, path));
        }
        for name in &change.removed {
            let path = folder.join(name);
            fs::metadata(&path)
                .map_err(|source| ChangeError::NotWritable(failed("find", &path, source)))?;
        }
        // A folder from which nothing can be removed is found here and not in the middle.
        let probe = folder.join(".writable");
        write_new(&probe, "")
            .and_then(|()| fs::remove_file(&probe))
            .map_err(|source| ChangeError::NotWritable(failed("write", folder, source)))?;
        Ok(staged)
    }

    /// Moves all of it into place.
    ///
    /// # Errors
    /// [`ChangeError::Torn`]: a part of it happened, the rest will at the next start.
    pub(crate) fn commit(mut self) -> Result<(), ChangeError> {
        let is_single = self.texts.len() + self.change.removed.len() == 1;
        if !is_single {
            // Plain texts always have a JSON form.
            let text = serde_json::to_string(self.change).unwrap_or_default();
            if let Err(error) = files::write_secret(&self.journal, &text) {
                // Nothing has happened, and nothing must by a later start: what it would bring back is old by then.
                remove(&self.journal).map_err(ChangeError::Torn)?;
                return Err(ChangeError::NotWritable(error));
            }
        }
        let broken = |error: FileError| match is_single {
            // One file is there or it is not.
            true => ChangeError::NotWritable(error),
            false => ChangeError::Torn(error),
        };
        for (new, path) in std::mem::take(&mut self.texts) {
            let moved = fs::rename(&new, &path);
            moved.map_err(|source| broken(failed("replace", &path, source)))?;
            sync_folder(&path).map_err(ChangeError::Torn)?;
        }
        for name in &self.change.removed {
            remove(&self.folder.join(name)).map_err(broken)?;
        }
        if is_single {
            return Ok(());
        }
        remove(&self.journal).map_err(ChangeError::Torn)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        for (new, _) in &self.texts {
            // Hidden files that stay behind are read by nobody.
            let _ = fs::remove_file(new);
        }
    }
}

/// Finishes a change that broke off, in this process or in an earlier one; says which files it was.
///
/// # Errors
/// [`FileError`]: the folder may hold half of it, so nothing must be read from there.
pub(crate) fn finish(folder: &Path, data: &Path) -> Result<Option<Vec<String>>, FileError> {
    let journal = data.join(JOURNAL);
    if !journal.exists() {
        return Ok(None);
    }
    let text = files::read_secret(&journal)?;
    // Moved into place whole, so it is either right or somebody else's: then nothing is known of the folder.
    let change: FolderChange = serde_json::from_str(&text).map_err(|error| {
        failed(
            "read",
            &journal,
            io::Error::new(io::ErrorKind::InvalidData, error),
        )
    })?;
    for (name, text) in &change.written {
        let path = folder.join(name);
        let new = beside(&path);
        write_new(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| failed("write", &path, source))?;
        sync_folder(&path)?;
    }
    for name in &change.removed {
        remove(&folder.join(name))?;
    }
    remove(&journal)?;
    Ok(Some(change.names()))
}

/// Where a new text lies until it is moved to its place: hidden, so that no reader of the folder takes it for a policy,
/// and of the whole name, so that no two files share it.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Removes a file; one that is gone already is as good.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        Ok(()) | Err(_) => sync_folder(path),
    }
}

fn sync_folder(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| failed("sync", folder, source))
}

fn failed(act: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io {
        act,
        path: path.to_owned(),
        source,
    }
}

/// Where a change of several files is written down while it is made.
const JOURNAL: &str = "policy-change.json";
/// Of files that an act names in the record; their names have 255 bytes at most.
const MAX_RECORDED_FILES: usize = 64;
/// As long as a file name may be, with what is put around it until it is in its place.
const MAX_NAME_BYTES: usize = 255 - ".".len() - ".new".len();
/// As deep as the loader reads.
const MAX_DEPTH: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn change(written: &[(&str, &str)], removed: &[&str]) -> Result<FolderChange, ChangeError> {
        FolderChange::new(
            written
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned())),
            removed.iter().map(|name| (*name).to_owned()),
        )
    }

    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (policy, data) = (root.path().join("policy"), root.path().join("data"));
        fs::create_dir(&policy).unwrap();
        files::private_folder(&data).unwrap();
        fs::write(policy.join("kept.yaml"), "kept").unwrap();
        fs::write(policy.join("old.yaml"), "old").unwrap();
        (root, policy, data)
    }

    /// Everything in a folder, hidden files as well.
    fn content(folder: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                let below = content(&path).into_iter();
                found.extend(below.map(|(file, text)| (format!("{name}/{file}"), text)));
            } else {
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
        found.sort();
        found
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn names_stay_below_the_folder_and_are_read_as_policy() {
        for name in ["a.yaml", "b/c.yml", "revocations/app.incident-7.yaml"] {
            assert!(change(&[(name, "")], &[]).is_ok(), "{name}");
        }
        for name in [
            "",
            "a",
            "a.txt",
            "../a.yaml",
            "/a.yaml",
            "b/../a.yaml",
            ".a.yaml",
            "b/.a.yaml",
            "a b.yaml",
            "a\n.yaml",
            "./a.yaml",
        ] {
            assert!(change(&[(name, "")], &[]).is_err(), "{name:?}");
            assert!(change(&[], &[name]).is_err(), "{name:?}");
        }
        assert!(matches!(
            change(&[("a.yaml", "")], &["a.yaml"]),
            Err(ChangeError::Both(_))
        ));
    }

    #[test]
    fn a_change_touches_what_it_names_and_leaves_nothing_beside() {
        let (_root, policy, data) = folders();
        let change = change(
            &[("revocations/a.yaml", "new"), ("b.yaml", "b")],
            &["old.yaml"],
        );
        let change = change.unwrap();
        Staged::write(&change, &policy, &data)
            .unwrap()
            .commit()
            .unwrap();
        let expected = [
            ("b.yaml", "b"),
            ("kept.yaml", "kept"),
            ("revocations/a.yaml", "new"),
        ];
        assert_eq!(content(&policy), pairs(&expected));
        assert!(content(&data).is_empty());
    }

    #[test]
    fn what_is_not_committed_never_was() {
        let (_root, policy, data) = folders();
        let change = change(&[("kept.yaml", "other")], &["old.yaml"]).unwrap();
        drop(Staged::write(&change, &policy, &data).unwrap());
        assert_eq!(
            content(&policy),
            pairs(&[("kept.yaml", "kept"), ("old.yaml", "old")])
        );
    }

    #[test]
    fn what_broke_off_is_finished_at_the_next_start() {
        let (_root, policy, data) = folders();
        let change = change(&[("a.yaml", "a"), ("b.yaml", "b")], &["old.yaml"]).unwrap();
        // As a crash leaves it: written down, the first file moved, the rest not.
        files::write_secret(
            &data.join(JOURNAL),
            &serde_json::to_string(&change).unwrap(),
        )
        .unwrap();
        fs::write(policy.join("a.yaml"), "a").unwrap();
        let finished = finish(&policy, &data).unwrap().unwrap();
        assert_eq!(finished, ["a.yaml", "b.yaml", "old.yaml"]);
        let expected = [("a.yaml", "a"), ("b.yaml", "b"), ("kept.yaml", "kept")];
        assert_eq!(content(&policy), pairs(&expected));
        assert_eq!(finish(&policy, &data).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_not_there_can_t_be_removed() {
        let (_root, policy, data) = folders();
        let change = change(&[("a.yaml", "a")], &["gone.yaml"]).unwrap();
        let refused = Staged::write(&change, &policy, &data);
        assert!(matches!(refused, Err(ChangeError::NotWritable(_))));
        assert_eq!(content(&policy).len(), 2);
    }

    #[test]
    fn files_whose_names_differ_in_their_ending_only_keep_their_own_texts() {
        let (_root, policy, data) = folders();
        let change = change(&[("a.yaml", "one"), ("a.yml", "other")], &[]).unwrap();
        Staged::write(&change, &policy, &data)
            .unwrap()
            .commit()
            .unwrap();
        let held = content(&policy);
        for (name, text) in [("a.yaml", "one"), ("a.yml", "other")] {
            assert!(
                held.contains(&(name.to_owned(), text.to_owned())),
                "{held:?}"
            );
        }
    }

    #[test]
    fn what_breaks_off_in_the_middle_is_torn_and_can_be_finished_later() {
        let (_root, policy, data) = folders();
        let change = change(&[("a.yaml", "a"), ("b.yaml", "b")], &[]).unwrap();
        let staged = Staged::write(&change, &policy, &data).unwrap();
        // The second file can't be moved to its place.
        fs::create_dir(policy.join("b.yaml")).unwrap();
        fs::write(policy.join("b.yaml/x"), "").unwrap();
        assert!(matches!(staged.commit(), Err(ChangeError::Torn(_))));
        assert!(finish(&policy, &data).is_err());
        fs::remove_dir_all(policy.join("b.yaml")).unwrap();
        finish(&policy, &data).unwrap().unwrap();
        let held = content(&policy);
        assert!(
            held.contains(&("b.yaml".to_owned(), "b".to_owned())),
            "{held:?}"
        );
        assert_eq!(finish(&policy, &data).unwrap(), None);
    }
}
