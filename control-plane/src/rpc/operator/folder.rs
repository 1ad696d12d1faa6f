//! The files that an act writes and removes, and which revocations it must leave.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tonic::Status;
use vouchsafe_api::v1;
use vouchsafe_config::load;
use vouchsafe_config::set::PolicySet;

use crate::change::FolderChange;
use crate::keeper::revocations;

/// Files of a policy but for those that `vouchsafe revoke` wrote.
pub(super) fn without_revocations(
    files: &BTreeMap<PathBuf, String>,
) -> impl Iterator<Item = (&PathBuf, &String)> {
    let files = files.iter();
    files.filter(|(name, _)| !name.starts_with(REVOCATIONS_FOLDER))
}

/// No change brings back whom a revocation means now, unless it says that it does.
pub(super) fn keeps_revocations(
    asked: &v1::ChangeRequest,
    before: &PolicySet,
    after: &PolicySet,
    now: SystemTime,
) -> Result<(), Status> {
    let (held, kept) = (
        revocations::in_force(before, now),
        revocations::in_force(after, now),
    );
    let lost = held.iter().find(|(name, one)| {
        let is_ended = **name == asked.end_revocation && !kept.contains_key(*name);
        !is_ended && kept.get(*name) != Some(*one)
    });
    match lost {
        None => Ok(()),
        Some((name, _)) => Err(Status::failed_precondition(format!(
            "the policy as it would be lacks revocation `{name}` as it is in force: choose another name, end that one first, with `vouchsafe revoke end {name}` or in its file, or say `--replace`"
        ))),
    }
}

/// The files that an act writes and removes.
pub(super) fn folder_change(
    asked: &v1::ChangeRequest,
    set: &PolicySet,
    folder: &Path,
) -> Result<FolderChange, Status> {
    let mut removed = asked.removed.clone();
    if !asked.end_revocation.is_empty() {
        removed.push(file_of_revocation(&asked.end_revocation, set, folder)?);
    }
    if asked.replace_all {
        let present = load::policy_files(folder)
            .map_err(|problems| Status::failed_precondition(problems.to_string()))?;
        let named: BTreeSet<&str> = asked.files.iter().map(|file| file.name.as_str()).collect();
        let is_kept = |name: &PathBuf| {
            // What `vouchsafe revoke` wrote ends by itself or by an act that says so.
            name.starts_with(REVOCATIONS_FOLDER)
                || name.to_str().is_some_and(|name| named.contains(name))
        };
        let gone = present.keys().filter(|name| !is_kept(name));
        removed.extend(gone.map(|name| name.display().to_string()));
    }
    let written = asked.files.iter();
    let written = written.map(|file| (file.name.clone(), file.text.clone()));
    let change = FolderChange::new(written, removed)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if change.is_empty() {
        return Err(Status::invalid_argument("the change names no file"));
    }
    Ok(change)
}

/// The file that holds a revocation and nothing else, by its name below the folder.
fn file_of_revocation(name: &str, set: &PolicySet, folder: &Path) -> Result<String, Status> {
    let found = set
        .revocations()
        .find(|one| one.name.to_string() == name)
        .ok_or_else(|| Status::not_found(format!("there is no Revocation `{name}`")))?;
    let file = &found.source.file;
    if set
        .documents()
        .iter()
        .filter(|one| one.file == *file)
        .count()
        > 1
    {
        return Err(Status::failed_precondition(format!(
            "`{name}` stands among other documents at {file}:{}: take it out there, which is recorded as well",
            found.source.line
        )));
    }
    let below = Path::new(file).strip_prefix(folder);
    let below = below.map_err(|_| Status::internal("the file is not below the policy folder"))?;
    Ok(below.display().to_string())
}

/// Below the policy folder: where `vouchsafe revoke` writes, and what a replaced folder keeps.
pub(crate) const REVOCATIONS_FOLDER: &str = "revocations";
