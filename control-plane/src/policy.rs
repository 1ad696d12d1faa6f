//! The policy folder: watched, read as a whole, and never replaced by something worse (promise 6).
//!
//! The folder's state is known by the metadata of its files (length, inode, change time). A change is read once two
//! looks in a row agree, so that a file that is being written is not judged half; a folder that breaks is reported once
//! and the last good policy stays.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::load::{self, Overlay};
use vouchsafe_config::mesh::{EkRootCertificates, Mesh};
use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_verifier::endorsement::{EkRoot, EkRoots};

use crate::reference::unusable_signer;

/// A policy that is right as a whole and fits this trust domain.
#[derive(Debug)]
pub struct LoadedPolicy {
    /// The documents.
    pub set: PolicySet,
    /// Settings of the mesh.
    pub mesh: Mesh,
    /// Manufacturers of TPMs that the mesh believes.
    pub ek_roots: EkRoots,
    /// SHA-256 over all documents, in their order: whether two policies are the same.
    pub digest: [u8; 32],
    /// The files that it was read from, by their names below the folder.
    pub files: BTreeMap<PathBuf, String>,
}

/// Why a folder is no policy for this control plane.
#[derive(Debug, thiserror::Error)]
pub enum LoadPolicyError {
    /// Mistakes in documents; the text has all of them with file, line and column.
    #[error("the policy folder `{folder}` has mistakes\n{problems}")]
    Problems {
        /// The folder.
        folder: PathBuf,
        /// Code frames.
        problems: vouchsafe_config::problem::Problems,
    },
    /// Nothing names the trust domain.
    #[error(
        "the policy folder `{0}` has no `Mesh` document: write one with `spec: {{trust_domain: …}}`"
    )]
    NoMesh(PathBuf),
    /// The trust domain is fixed when the data folder is made.
    #[error(
        "the Mesh document names trust domain `{found}`, this data folder belongs to `{fixed}`: use another data folder"
    )]
    TrustDomain {
        /// In the document.
        found: TrustDomain,
        /// Of the data folder.
        fixed: TrustDomain,
    },
    /// Whether simulated evidence is accepted is fixed when the data folder is made.
    #[error(
        "the Mesh document says `danger_accept_simulated: {found}`, this data folder was made with `{fixed}`: use another data folder"
    )]
    Simulated {
        /// In the document.
        found: bool,
        /// Of the data folder.
        fixed: bool,
    },
    /// A manufacturer's root can't be read.
    #[error("`ek_roots` of the Mesh document has a certificate that is no authority's")]
    EkRoot,
    /// A signer of measured files can't be used.
    #[error(
        "the signer `{signer}` of profile {profile} is no certificate with an RSA or NIST key and a key identifier"
    )]
    ImaSigner {
        /// The profile.
        profile: String,
        /// The signer.
        signer: String,
    },
}

impl LoadedPolicy {
    /// Reads a folder.
    ///
    /// # Errors
    /// [`LoadPolicyError`].
    pub fn load(folder: &Path, now: SystemTime) -> Result<Self, LoadPolicyError> {
        Self::load_with(folder, &Overlay::default(), now)
    }

    /// Reads a folder as it would be after a change.
    ///
    /// # Errors
    /// [`LoadPolicyError`].
    pub fn load_with(
        folder: &Path,
        change: &Overlay,
        now: SystemTime,
    ) -> Result<Self, LoadPolicyError> {
        // Read once, so that what is kept of the policy is what it was made from.
        let files = load::policy_files_with(folder, change);
        let files = files.map_err(|problems| LoadPolicyError::Problems {
            folder: folder.to_owned(),
            problems,
        })?;
        Self::of(folder, files, now)
    }

    /// What these files mean as all policy files of a folder.
    ///
    /// # Errors
    /// [`LoadPolicyError`].
    pub fn of(
        folder: &Path,
        files: BTreeMap<PathBuf, String>,
        now: SystemTime,
    ) -> Result<Self, LoadPolicyError> {
        let options = Options { now: Some(now) };
        let failed = |problems| LoadPolicyError::Problems {
            folder: folder.to_owned(),
            problems,
        };
        let read = Overlay {
            written: { files.iter() }
                .map(|(name, text)| (folder.join(name), text.clone()))
                .collect(),
            ..Overlay::default()
        };
        let set = load::policy_with(&[], &read, options).map_err(failed)?;
        let mesh = set
            .mesh()
            .cloned()
            .ok_or_else(|| LoadPolicyError::NoMesh(folder.to_owned()))?;
        let mut context = digest::Context::new(&digest::SHA256);
        for document in set.documents() {
            for part in [document.resource_name(), document.distributable()] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part.as_bytes());
            }
        }
        for profile in set.profiles() {
            if let Some(signer) = unusable_signer(profile) {
                return Err(LoadPolicyError::ImaSigner {
                    profile: profile.name.to_string(),
                    signer: signer.to_owned(),
                });
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Ok(Self {
            ek_roots: ek_roots(&mesh)?,
            set,
            mesh,
            digest,
            files,
        })
    }

    /// SHA-256 over all that it was read from: whether a folder is still the one that was judged.
    pub fn identity(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.digest);
        for (name, text) in &self.files {
            for part in [name.as_os_str().as_encoded_bytes(), text.as_bytes()] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
        }
        let mut identity = [0; 32];
        identity.copy_from_slice(context.finish().as_ref());
        identity
    }

    /// Checks what was fixed when the data folder was made.
    ///
    /// # Errors
    /// [`LoadPolicyError::TrustDomain`], [`LoadPolicyError::Simulated`].
    pub fn fits(&self, fixed: &Fixed) -> Result<(), LoadPolicyError> {
        if self.mesh.trust_domain != fixed.trust_domain {
            return Err(LoadPolicyError::TrustDomain {
                found: self.mesh.trust_domain.clone(),
                fixed: fixed.trust_domain.clone(),
            });
        }
        if self.mesh.danger_accept_simulated != fixed.accepts_simulated {
            return Err(LoadPolicyError::Simulated {
                found: self.mesh.danger_accept_simulated,
                fixed: fixed.accepts_simulated,
            });
        }
        Ok(())
    }
}

/// What is fixed for a data folder's life.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fixed {
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Whether simulated evidence may be accepted at all (promise 10).
    pub accepts_simulated: bool,
}

fn ek_roots(mesh: &Mesh) -> Result<EkRoots, LoadPolicyError> {
    let mut roots = Vec::new();
    for configured in &mesh.ek_roots {
        // Read by the loader, so a file here is one that was not.
        let EkRootCertificates::Pem(pem) = &configured.certificates else {
            return Err(LoadPolicyError::EkRoot);
        };
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| LoadPolicyError::EkRoot)?;
            let root = EkRoot::new(&certificate, configured.class);
            roots.push(root.map_err(|_| LoadPolicyError::EkRoot)?);
        }
    }
    Ok(EkRoots::new(roots))
}

/// Watches a folder. Pure of time and threads: whoever owns it calls [`Self::poll`].
#[derive(Debug)]
pub struct FolderWatch {
    folder: PathBuf,
    seen: [u8; 32],
    read: Option<[u8; 32]>,
}

impl FolderWatch {
    /// Starts with nothing read.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            seen: [0; 32],
            read: None,
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says that the present state is the one in force.
    pub fn mark_read(&mut self) {
        self.seen = fingerprint(&self.folder);
        self.read = Some(self.seen);
    }

    /// Reads the folder if it changed since it was last read and has been still since the last call.
    pub fn poll(&mut self, now: SystemTime) -> Option<Result<LoadedPolicy, LoadPolicyError>> {
        let found = fingerprint(&self.folder);
        let still = found == self.seen;
        self.seen = found;
        if !still || self.read == Some(found) {
            return None;
        }
        self.read = Some(found);
        #[cfg(test)]
        if self.folder.join(PANICS).exists() {
            panic!("the test wants the loader to panic");
        }
        Some(LoadedPolicy::load(&self.folder, now))
    }
}

/// A file on which the loader panics, so that a test sees what becomes of the keeper.
#[cfg(test)]
pub(crate) const PANICS: &str = ".panics";

/// Digest over path, length, inode and change time of everything below a folder; the change time can't be set back.
fn fingerprint(folder: &Path) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    add_folder(&mut context, folder, 0);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn add_folder(context: &mut digest::Context, folder: &Path, depth: u8) {
    let Ok(entries) = fs::read_dir(folder) else {
        context.update(b"unreadable");
        return;
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort_unstable();
    for path in paths {
        context.update(path.as_os_str().as_encoded_bytes());
        // Follows links: Kubernetes swaps them.
        if let Ok(metadata) = fs::metadata(&path) {
            for number in [
                metadata.len(),
                metadata.ino(),
                metadata.ctime().unsigned_abs(),
                metadata.ctime_nsec().unsigned_abs(),
            ] {
                context.update(&number.to_be_bytes());
            }
            if metadata.is_dir() && depth < MAX_DEPTH {
                add_folder(context, &path, depth + 1);
            }
        }
    }
}

/// As deep as the loader reads.
const MAX_DEPTH: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: factory}\nspec: {trust_domain: factory.example}\n";

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_change_is_read_once_and_only_when_the_folder_is_still() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        fs::write(&file, MESH).unwrap();
        let mut watch = FolderWatch::new(folder.path().to_owned());
        watch.mark_read();
        assert!(watch.poll(now()).is_none(), "nothing changed");
        fs::write(&file, format!("# more\n{MESH}")).unwrap();
        assert!(watch.poll(now()).is_none(), "it may still be changing");
        assert!(watch.poll(now()).unwrap().is_ok());
        assert!(watch.poll(now()).is_none(), "read once");
        fs::write(&file, "kind: [").unwrap();
        assert!(watch.poll(now()).is_none());
        assert!(watch.poll(now()).unwrap().is_err());
        assert!(watch.poll(now()).is_none(), "said once");
    }

    #[test]
    fn another_trust_domain_and_another_danger_flag_do_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mesh.yaml"), MESH).unwrap();
        let policy = LoadedPolicy::load(folder.path(), now()).unwrap();
        let fixed = Fixed {
            trust_domain: "factory.example".parse().unwrap(),
            accepts_simulated: false,
        };
        assert!(policy.fits(&fixed).is_ok());
        let other = Fixed {
            trust_domain: "other.example".parse().unwrap(),
            ..fixed.clone()
        };
        assert!(matches!(
            policy.fits(&other),
            Err(LoadPolicyError::TrustDomain { .. })
        ));
        let other = Fixed {
            accepts_simulated: true,
            ..fixed
        };
        assert!(matches!(
            policy.fits(&other),
            Err(LoadPolicyError::Simulated { .. })
        ));
    }

    #[test]
    fn a_folder_without_a_mesh_document_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = LoadedPolicy::load(folder.path(), now()).unwrap_err();
        assert!(matches!(error, LoadPolicyError::NoMesh(_)), "{error}");
    }
}
