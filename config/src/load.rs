//! Files and folders: the only place of this crate that does IO.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::control_plane::ControlPlaneConfig;
use crate::document::Kind;
use crate::mesh::EkRootCertificates;
use crate::policy_test::PolicyTest;
use crate::problem::{Problem, Problems};
use crate::proxy::ProxyConfig;
use crate::set::{Options, PolicySet};
use crate::source::Source;
use crate::yaml::MAX_BYTES;

/// Reads policy documents from files and folders.
///
/// Of a folder and its folders, files named `*.yaml` and `*.yml` are read in the order of their names; names that begin
/// with a dot are left out, which keeps the moves of editors and of Kubernetes' volumes unseen. Bootstrap files that lie
/// among them (`Proxy`, `ControlPlane`) and tests (`PolicyTest`) are no policy and are left out too; [`check`] reads them.
///
/// # Errors
/// All mistakes of all files at once.
pub fn policy(paths: &[PathBuf], options: Options) -> Result<PolicySet, Problems> {
    policy_with(paths, &Overlay::default(), options)
}

/// Files as they would be: what is judged before it is written.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// Texts that stand in for files, or come to them.
    pub written: BTreeMap<PathBuf, String>,
    /// Files that would be gone.
    pub removed: BTreeSet<PathBuf>,
}

/// Reads policy documents as [`policy`] does, with some files as they would be.
///
/// # Errors
/// All mistakes of all files at once.
pub fn policy_with(
    paths: &[PathBuf],
    overlay: &Overlay,
    options: Options,
) -> Result<PolicySet, Problems> {
    let (files, problems) = files_with(paths, overlay);
    let (mut sources, problems) = sources(&files, &overlay.written, problems);
    sources.retain(|source| kind_apart(source).is_none());
    policy_of(sources, problems, options)
}

/// The policy files of a folder with their texts, by their names below it, as [`policy`] finds them; bootstrap files and
/// tests are none.
///
/// # Errors
/// All files that can't be read.
pub fn policy_files(folder: &Path) -> Result<BTreeMap<PathBuf, String>, Problems> {
    policy_files_with(folder, &Overlay::default())
}

/// The policy files of a folder as they would be.
///
/// # Errors
/// All files that can't be read.
pub fn policy_files_with(
    folder: &Path,
    overlay: &Overlay,
) -> Result<BTreeMap<PathBuf, String>, Problems> {
    let (files, problems) = files_with(&[folder.to_owned()], overlay);
    let (sources, problems) = sources(&files, &overlay.written, problems);
    if !problems.is_empty() {
        return Err(Problems::from_errors(problems));
    }
    // Without a problem every file has its source, in the same order.
    let all = files.into_iter().zip(sources);
    let policy = all.filter(|(_, source)| kind_apart(source).is_none());
    let named = policy.filter_map(|(file, source)| {
        let below = file.strip_prefix(folder).ok()?.to_owned();
        Some((below, source.text().to_owned()))
    });
    Ok(named.collect())
}

/// Files of folders, with those that an overlay brings and without those that it takes.
fn files_with(paths: &[PathBuf], overlay: &Overlay) -> (Vec<PathBuf>, Vec<Problem>) {
    let (mut files, problems) = files(paths);
    files.retain(|file| !overlay.removed.contains(file));
    let held: BTreeSet<&PathBuf> = files.iter().collect();
    let come = overlay.written.keys().filter(|file| !held.contains(file));
    let come: Vec<PathBuf> = come.cloned().collect();
    if !come.is_empty() {
        // Where they would be found, so that a set does not depend on how its files came to be.
        files.extend(come);
        files.sort();
    }
    (files, problems)
}

/// The kind of a file that is a bootstrap file or a test and nothing else. One that also has policy documents is none: it
/// is read as policy, which refuses the other document in it.
fn kind_apart(source: &Source) -> Option<Kind> {
    let mut kinds = source.text().lines().filter_map(|line| {
        let word = line.strip_prefix("kind:")?.split('#').next()?;
        Some(Kind::parse(word.trim()))
    });
    let first = kinds.next()?.filter(|kind| kind.stands_apart())?;
    kinds
        .all(|kind| kind.is_some_and(Kind::stands_apart))
        .then_some(first)
}

/// What [`check`] found.
#[derive(Debug)]
pub struct Checked {
    /// The policy documents.
    pub policy: Result<PolicySet, Problems>,
    /// Mistakes and warnings of bootstrap files, by themselves and against the policy; empty: all are right.
    pub bootstrap: Vec<Problem>,
    /// How many files were read.
    pub files: usize,
}

/// Reads policy documents as [`policy`] does, and bootstrap files that lie among them.
pub fn check(paths: &[PathBuf], options: Options) -> Checked {
    let (files, problems) = files(paths);
    let (sources, problems) = sources(&files, &BTreeMap::new(), problems);
    let files = sources.len();
    let (bootstrap, documents): (Vec<_>, Vec<_>) = sources
        .into_iter()
        .map(|source| (kind_apart(&source), source))
        .partition(|(kind, _)| kind.is_some());
    let documents = documents.into_iter().map(|(_, source)| source).collect();
    let policy = policy_of(documents, problems, options);
    let mut found = Vec::new();
    for (kind, source) in bootstrap {
        let file = PathBuf::from(source.name());
        let checked = if kind == Some(Kind::PolicyTest) {
            PolicyTest::parse(source).map(|(_, warnings)| found.extend(warnings))
        } else if kind == Some(Kind::Proxy) {
            let proxy = ProxyConfig::parse(source, folder(&file));
            proxy.map(|(proxy, warnings)| {
                found.extend(warnings);
                if let Ok(set) = &policy {
                    found.extend(set.check_proxy(&proxy, &file.display().to_string()));
                }
            })
        } else {
            let parsed = ControlPlaneConfig::parse(source, folder(&file));
            parsed.map(|(_, warnings)| found.extend(warnings))
        };
        if let Err(problems) = checked {
            found.extend(problems.iter().cloned());
        }
    }
    Checked {
        policy,
        bootstrap: found,
        files,
    }
}

fn files(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<Problem>) {
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        if path.is_dir() {
            list(path, 0, &mut files, &mut problems);
        } else {
            files.push(path.clone());
        }
    }
    (files, problems)
}

/// Reads files, of which some have a text that stands in for theirs.
fn sources(
    files: &[PathBuf],
    instead: &BTreeMap<PathBuf, String>,
    mut problems: Vec<Problem>,
) -> (Vec<Source>, Vec<Problem>) {
    let mut sources = Vec::new();
    let mut total = 0;
    for file in files {
        let text = match instead.get(file) {
            Some(text) => Ok(text.clone()),
            None => read(file, MAX_BYTES),
        };
        match text {
            Ok(text) => {
                total += text.len();
                sources.push(Source::new(file.display().to_string(), text));
            }
            Err(problem) => problems.push(*problem),
        }
        if total > MAX_TOTAL_BYTES {
            let message =
                format!("the files have more than the {MAX_TOTAL_BYTES} bytes that are read");
            problems.push(Problem::of_file(file.display().to_string(), message));
            break;
        }
    }
    (sources, problems)
}

fn policy_of(
    sources: Vec<Source>,
    mut problems: Vec<Problem>,
    options: Options,
) -> Result<PolicySet, Problems> {
    let parsed = PolicySet::parse(sources, options);
    if !problems.is_empty() {
        if let Err(more) = parsed {
            problems.extend(more.iter().cloned());
        }
        return Err(Problems::from_errors(problems));
    }
    let mut set = parsed?;
    read_ek_roots(&mut set)?;
    Ok(set)
}

/// Reads the tests that lie among files and folders, as [`policy`] finds them.
///
/// # Errors
/// All mistakes of all tests at once.
pub fn policy_tests(paths: &[PathBuf]) -> Result<Vec<PolicyTest>, Problems> {
    let (files, problems) = files(paths);
    let (sources, mut problems) = sources(&files, &BTreeMap::new(), problems);
    let mut tests = Vec::new();
    for source in sources {
        if kind_apart(&source) != Some(Kind::PolicyTest) {
            continue;
        }
        match PolicyTest::parse(source) {
            Ok((test, _)) => tests.push(test),
            Err(more) => problems.extend(more.iter().cloned()),
        }
    }
    if problems.is_empty() {
        Ok(tests)
    } else {
        Err(Problems::from_errors(problems))
    }
}

/// Reads a `proxy.yaml`; warnings come beside it.
///
/// # Errors
/// All mistakes at once.
pub fn proxy(file: &Path) -> Result<(ProxyConfig, Vec<Problem>), Problems> {
    let text = read(file, MAX_BYTES).map_err(|problem| Problems::one(*problem))?;
    ProxyConfig::parse(Source::new(file.display().to_string(), text), folder(file))
}

/// Reads a `control-plane.yaml`; warnings come beside it.
///
/// # Errors
/// All mistakes at once.
pub fn control_plane(file: &Path) -> Result<(ControlPlaneConfig, Vec<Problem>), Problems> {
    let text = read(file, MAX_BYTES).map_err(|problem| Problems::one(*problem))?;
    ControlPlaneConfig::parse(Source::new(file.display().to_string(), text), folder(file))
}

fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    let failed = |error: &std::io::Error| {
        Problem::of_file(
            folder.display().to_string(),
            format!("the folder can't be read: {error}"),
        )
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return problems.push(failed(&error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(error) => problems.push(failed(&error)),
        }
    }
    paths.sort();
    for path in paths {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_yaml = path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml");
        if hidden {
            continue;
        }
        if path.is_dir() && depth < MAX_DEPTH {
            list(&path, depth + 1, files, problems);
        } else if is_yaml && files.len() < MAX_FILES {
            files.push(path);
        } else if is_yaml {
            let message = format!("the folder has more than the {MAX_FILES} files that are read");
            return problems.push(Problem::of_file(folder.display().to_string(), message));
        }
    }
}

fn read(file: &Path, most: usize) -> Result<String, Box<Problem>> {
    let name = file.display().to_string();
    let failed = |error: std::io::Error| {
        Box::new(Problem::of_file(
            name.clone(),
            format!("the file can't be read: {error}"),
        ))
    };
    let opened = fs::File::open(file).map_err(failed)?;
    if opened.metadata().map_err(failed)?.is_dir() {
        return Err(Box::new(Problem::of_file(
            name,
            "this is a folder, not a file",
        )));
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed tells a file at the limit from one beyond it; a growing file stays bounded.
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    opened.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        let message = format!("the file has more than the {most} bytes that are read");
        let problem = Problem::of_file(name, message);
        return Err(Box::new(
            problem.hint("spread the documents over several files"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..at).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("byte {at} on line {line} is not UTF-8");
        Box::new(Problem::of_file(name, message).hint("save the file as UTF-8"))
    })
}

fn read_ek_roots(set: &mut PolicySet) -> Result<(), Problems> {
    let document = set.documents().iter().find(|d| d.kind == Kind::Mesh);
    let base = document.map(|d| folder(Path::new(&d.file)).to_owned());
    let (Some(mesh), Some(base)) = (set.mesh_mut(), base) else {
        return Ok(());
    };
    for roots in &mut mesh.ek_roots {
        if let EkRootCertificates::File(file) = &roots.certificates {
            let pem =
                read(&base.join(file), MAX_PEM_BYTES).map_err(|problem| Problems::one(*problem))?;
            roots.certificates = EkRootCertificates::Pem(pem);
        }
    }
    Ok(())
}

/// Most files of all folders together.
const MAX_FILES: usize = 10_000;
/// Deepest folder below the one that is named.
const MAX_DEPTH: usize = 8;
/// Most bytes of all files together.
const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;
/// Largest file of certificates: all manufacturers' roots take about 200 KiB.
const MAX_PEM_BYTES: usize = 4 * 1024 * 1024;
