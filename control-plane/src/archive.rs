//! What decisions were made from, kept so that an auditor can make each of them again, offline.
//!
//! ```text
//! archive/issued/HEX     one attestation each, as JSON ([`Bundle`]), by the SHA-256 of the file: the record's `evidence_sha256`
//! archive/confirmed/HEX  the same of parts that were good between renewals: what bad evidence is compared with
//! archive/refused/HEX    the same of refusals, apart, so that a flood of them displaces nothing else
//! archive/objects/HEX    what many share: endorsements, profiles, roots of TPMs' makers
//! ```
//! Everything is addressed by its digest, so the record, which is append-only, says what a file must hold, and a file
//! that was changed is not believed. Join tokens and TPMs' credentials are not in it.
//!
//! The folder is bounded: beyond [`LIMITS`] and [`MAX_AGE`] the oldest files go (an object counts as used when it is
//! referred to again). A decision whose files are gone can be proven by the record alone, and not made again.
//!
//! # Why
//! Files, not the store: evidence is large, written once and read by auditors only. They are not synced to the disk one
//! by one: what a power cut takes is missing, never wrong, and the record itself is synced.

pub mod bundle;
pub mod rerun;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use vouchsafe_api::convert::attest::Evidence;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_config::profile::AttestationProfile;
use vouchsafe_verifier::vendor_roots::VendorRoots;

use self::bundle::{Bundle, Outcome, PolicyTexts};
use self::rerun::RerunError;
use crate::case::Case;
use crate::files::{self, FileError};
use crate::refusal::Refused;

/// The archive of a data folder.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
    /// Bytes since it was last tidied.
    written: AtomicU64,
    /// Numbers temporary files.
    next: AtomicU64,
}

/// Parts of the archive, each with a limit of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Issued,
    Confirmed,
    Refused,
    Objects,
}

impl Part {
    const ALL: [Self; 4] = [Self::Issued, Self::Confirmed, Self::Refused, Self::Objects];

    fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Confirmed => "confirmed",
            Self::Refused => "refused",
            Self::Objects => "objects",
        }
    }

    fn limit(self) -> u64 {
        let [issued, refused, objects] = LIMITS;
        match self {
            Self::Issued => issued,
            Self::Confirmed => CONFIRMED_LIMIT,
            Self::Refused => refused,
            Self::Objects => objects,
        }
    }
}

impl Archive {
    /// Makes or opens the archive of a data folder.
    ///
    /// # Errors
    /// [`FileError`] when the folder can't be used.
    pub fn open(data: &Path) -> Result<Self, FileError> {
        let folder = data.join(FOLDER);
        files::private_folder(&folder)?;
        for part in Part::ALL {
            files::private_folder(&folder.join(part.name()))?;
        }
        Ok(Self {
            folder,
            // What an earlier process left is tidied soon.
            written: AtomicU64::new(TIDY_AFTER),
            next: AtomicU64::new(0),
        })
    }

    /// Keeps what a decision was made from; its digest is for the record.
    ///
    /// # Errors
    /// What the disk said: the decision must not be acted on as if it could be made again.
    ///
    /// # Cancel safety
    /// What was begun is finished on its thread.
    pub async fn keep(
        self: &Arc<Self>,
        case: &Arc<Case>,
        policy: PolicyTexts,
        outcome: Outcome,
    ) -> io::Result<[u8; 32]> {
        let (archive, case) = (Arc::clone(self), Arc::clone(case));
        let kept = tokio::task::spawn_blocking(move || {
            let part = match outcome {
                Outcome::Issued { .. } => Part::Issued,
                Outcome::Confirmed { .. } => Part::Confirmed,
                Outcome::Refused { .. } => Part::Refused,
            };
            let (bundle, objects) = Bundle::of(&case, policy, outcome);
            for object in objects {
                archive.put(Part::Objects, &object, case.time)?;
            }
            let digest = archive.put(part, &bundle.to_bytes()?, case.time)?;
            archive.tidy_at_times(case.time);
            Ok(digest)
        });
        kept.await.map_err(io::Error::other)?
    }

    /// The evidence of a decision, without its credentials; `None` where the archive does not hold it any more.
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn evidence(self: &Arc<Self>, digest: [u8; 32]) -> Option<Evidence> {
        let archive = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let data = archive.folder.parent()?;
            rerun::evidence(data, &digest).ok()
        });
        read.await.ok()?
    }

    /// The case of a decision, to be judged by a profile; the inner error is that of keys that are refused by themselves.
    ///
    /// # Errors
    /// [`RerunError`] where the archive does not hold all of it any more.
    pub(crate) fn recall(
        &self,
        digest: &[u8; 32],
        profile: &AttestationProfile,
        roots: &VendorRoots,
    ) -> Result<Result<Case, Refused>, RerunError> {
        let data = self.folder.parent().unwrap_or(&self.folder);
        rerun::recall(data, digest, profile, roots)
    }

    fn put(&self, part: Part, bytes: &[u8], now: SystemTime) -> io::Result<[u8; 32]> {
        let digest = sha256(bytes);
        let folder = self.folder.join(part.name());
        let path = folder.join(hex::encode(digest));
        if let Ok(held) = File::open(&path) {
            // Used again: young again.
            held.set_modified(now)?;
            return Ok(digest);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let new = folder.join(format!(".new-{}-{number}", std::process::id()));
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(files::SECRET_MODE)
            .open(&new)?;
        file.write_all(bytes)?;
        drop(file);
        fs::rename(&new, &path)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.written.fetch_add(length, Ordering::Relaxed);
        Ok(digest)
    }

    fn tidy_at_times(&self, now: SystemTime) {
        if self.written.load(Ordering::Relaxed) < TIDY_AFTER {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        for part in Part::ALL {
            if let Err(error) = tidy(&self.folder.join(part.name()), part.limit(), now) {
                tracing::warn!(part = part.name(), %error, "failed to tidy the archive");
            }
        }
    }
}

/// Reads what has this digest, from any part.
///
/// # Errors
/// [`ReadError`] when it is not there, or not what its name says.
pub fn read(data: &Path, digest: &[u8; 32]) -> Result<Vec<u8>, ReadError> {
    let name = hex::encode(digest);
    for part in Part::ALL {
        let path = data.join(FOLDER).join(part.name()).join(&name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(ReadError::Io(path, error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| ReadError::Io(path.clone(), error))?;
        if sha256(&bytes) != *digest {
            return Err(ReadError::Changed(path));
        }
        return Ok(bytes);
    }
    Err(ReadError::Gone(name))
}

/// Why something can't be read from the archive.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was never there, or has made room for newer things.
    #[error("the archive does not hold {0}: it was displaced by newer files, or never kept")]
    Gone(String),
    /// It does not have the digest that its name says.
    #[error("`{0}` was changed: it does not have the digest of its name")]
    Changed(PathBuf),
    /// The disk says no.
    #[error("failed to read `{0}`")]
    Io(PathBuf, #[source] io::Error),
}

/// Takes away what is too old, and the oldest of what is too much.
fn tidy(folder: &Path, limit: u64, now: SystemTime) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, length, _)| *length).sum();
    for (modified, length, path) in files {
        let age = now.duration_since(modified).unwrap_or_default();
        if total <= limit && age <= MAX_AGE {
            break;
        }
        fs::remove_file(path)?;
        total = total.saturating_sub(length);
    }
    Ok(())
}

const FOLDER: &str = "archive";
/// Most bytes of issuances, refusals and objects: 2 GiB, 256 MiB, 512 MiB. An issuance of one confidential VM takes about
/// 30 KiB, so a thousand of them that attest every ten minutes fill it in half a day; copy the folder for longer.
pub const LIMITS: [u64; 3] = [2 << 30, 256 << 20, 512 << 20];
/// Most bytes of confirmed parts: only the newest of each instance is ever looked at, 30 KiB of a TPM with a boot log.
const CONFIRMED_LIMIT: u64 = 256 << 20;
/// Ninety days.
pub const MAX_AGE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How much is written between two looks at the limits: a look lists the folder.
const TIDY_AFTER: u64 = 32 << 20;
/// No more than one message of evidence in base64, with what goes with it.
const MAX_FILE_BYTES: u64 = 8 << 20;
