//! Which measured files are allowed: by path together with what their content must be.
//!
//! A path alone says nothing about content, so a rule names digests or a signer besides; one that takes any content says
//! so. The first rule whose path fits and whose demand holds allows a file; no rule, no permission.
//!
//! Source: Linux `security/integrity/integrity.h` (`signature_v2_hdr`) and `digsig_asymmetric.c`.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Digest, SHA256, SHA384, SHA512};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use vouchsafe_attestation::svid::sha256;
use x509_parser::public_key::PublicKey;

use super::{Entry, FileHash};
use crate::evidence::x509;

/// What a list may hold.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Rules, in order.
    pub files: Vec<FileRule>,
    /// Keys by which files may be signed.
    pub signers: Vec<Signer>,
    /// Whether files of whose content nothing is known are let pass.
    pub danger_accept_violations: bool,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct FileRule {
    /// Which files.
    pub path: PathPattern,
    /// What they must hold.
    pub content: Content,
}

/// What a file must hold.
#[derive(Clone, Debug)]
pub enum Content {
    /// One of these digests, in lower-case hex with the hash before it (`sha256:…`).
    Digests(BTreeSet<String>),
    /// A signature by one of these signers.
    SignedBy(Vec<String>),
    /// Anything: for logs and caches that a system reads and writes.
    DangerAny,
}

/// A key by which files are signed.
#[derive(Clone, Debug)]
pub struct Signer {
    /// Its name in rules.
    name: String,
    /// Last four bytes of the certificate's subject key identifier, by which signatures name it.
    key_id: [u8; 4],
    key: SignerKey,
}

#[derive(Clone, Debug)]
enum SignerKey {
    Rsa(Vec<u8>),
    Ecc(Vec<u8>),
}

impl Signer {
    /// A signer by its certificate in DER, as it is loaded into the kernel's `.ima` keyring.
    ///
    /// # Errors
    /// [`SignerError`] unless it has an RSA or NIST key and a subject key identifier.
    pub fn new(name: &str, certificate: &[u8]) -> Result<Self, SignerError> {
        let parsed = x509::parse(certificate).map_err(|_| SignerError::Certificate)?;
        let identifier =
            x509::extension(&parsed, SUBJECT_KEY_IDENTIFIER).ok_or(SignerError::NoKeyIdentifier)?;
        let key_id = identifier
            .last_chunk::<4>()
            .ok_or(SignerError::NoKeyIdentifier)?;
        let bits = parsed.public_key().subject_public_key.data.to_vec();
        let key = match parsed.public_key().parsed() {
            Ok(PublicKey::RSA(_)) => SignerKey::Rsa(bits),
            Ok(PublicKey::EC(_)) => SignerKey::Ecc(bits),
            _ => return Err(SignerError::Key),
        };
        Ok(Self {
            name: name.to_owned(),
            key_id: *key_id,
            key,
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this key signed the digest of the entry's content (`signature_v2_hdr`).
    fn signed(&self, entry: &Entry) -> bool {
        let Some(([kind, version, hash, key_id @ .., high, low], signature)) =
            entry.signature.split_first_chunk::<SIGNATURE_HEADER>()
        else {
            return false;
        };
        let (hash, algorithm) = match *hash {
            4 => (FileHash::Sha256, &SHA256),
            5 => (FileHash::Sha384, &SHA384),
            6 => (FileHash::Sha512, &SHA512),
            _ => return false,
        };
        let verification: &'static dyn VerificationAlgorithm = match (&self.key, hash) {
            (SignerKey::Rsa(_), FileHash::Sha256) => &RSA_PKCS1_2048_8192_SHA256,
            (SignerKey::Rsa(_), FileHash::Sha384) => &RSA_PKCS1_2048_8192_SHA384,
            (SignerKey::Rsa(_), FileHash::Sha512) => &RSA_PKCS1_2048_8192_SHA512,
            (SignerKey::Ecc(_), FileHash::Sha256) => &ECDSA_P256_SHA256_ASN1,
            (SignerKey::Ecc(_), FileHash::Sha384) => &ECDSA_P384_SHA384_ASN1,
            (SignerKey::Ecc(_), FileHash::Sha512) | (_, FileHash::Sha1) => return false,
        };
        let (SignerKey::Rsa(key) | SignerKey::Ecc(key)) = &self.key;
        let Ok(digest) = Digest::import_less_safe(&entry.digest, algorithm) else {
            return false;
        };
        [*kind, *version] == DIGSIG_V2
            && *key_id == self.key_id
            && usize::from(u16::from_be_bytes([*high, *low])) == signature.len()
            && entry.hash == hash
            && entry.is_content
            && UnparsedPublicKey::new(verification, key)
                .verify_digest(&digest, signature)
                .is_ok()
    }
}

/// Why a certificate makes no signer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignerError {
    /// Not one certificate in DER.
    #[error("failed to parse the signer's certificate")]
    Certificate,
    /// Signatures could not name it.
    #[error("the signer's certificate has no subject key identifier")]
    NoKeyIdentifier,
    /// Neither RSA nor a NIST curve.
    #[error("the signer's key is neither RSA nor of a NIST curve")]
    Key,
}

/// Paths: `*` is one segment, `**` last is any number of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PathPattern(String);

impl PathPattern {
    /// A pattern; `None` unless it begins with `/` and has `*` and `**` only as whole segments, `**` last. Names without
    /// a slash (`kexec-cmdline`) stand for themselves.
    pub fn new(text: &str) -> Option<Self> {
        let segments: Vec<_> = text.split('/').collect();
        let last = segments.len() - 1;
        let fine = segments.iter().enumerate().all(|(at, segment)| {
            let wild = *segment == "*" || (*segment == "**" && at == last);
            wild || (!segment.contains('*') && *segment != "." && *segment != "..")
        });
        let rooted = text.starts_with('/') || (segments.len() == 1 && !text.is_empty());
        (fine && rooted && text != "*" && text != "**").then(|| Self(text.to_owned()))
    }

    fn fits(&self, path: &[u8]) -> bool {
        let mut path = path.split(|byte| *byte == b'/');
        for segment in self.0.split('/') {
            match (segment, path.next()) {
                ("**", Some(_)) => return true,
                ("*", Some(found)) if !found.is_empty() => {}
                (wanted, Some(found)) if wanted.as_bytes() == found => {}
                _ => return false,
            }
        }
        path.next().is_none()
    }
}

/// Why a measured file is not allowed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("file `{path}`: {why}")]
pub struct FileError {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub why: FileProblem,
}

/// What is wrong with a measured file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FileProblem {
    /// Written while it was measured, or measured while it was open for writing.
    #[error("its content was not measured: it was open for writing")]
    Violation,
    /// No rule has its path.
    #[error("no rule names it")]
    NotListed,
    /// Rules have its path, and demand another content or signer.
    #[error("its content is not what the rules for it demand")]
    Content,
}

impl Policy {
    /// A digest of the rules, to see whether a list was judged by them before.
    pub fn sha256(&self) -> [u8; 32] {
        // Rules hold no addresses and no order that varies, so they always write themselves alike.
        sha256(format!("{self:?}").as_bytes())
    }

    /// Judges all entries, of which the first is number `first` of its boot; names the first file that is not allowed.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn check(&self, first: u64, entries: &[Entry]) -> Result<(), FileError> {
        for (number, entry) in (first..).zip(entries) {
            // The first entry digests PCRs 0 to 9, which are judged by themselves.
            if number == 0 && entry.is_boot_aggregate() {
                continue;
            }
            self.check_one(entry).map_err(|why| FileError {
                path: entry.shown_path(),
                why,
            })?;
        }
        Ok(())
    }

    fn check_one(&self, entry: &Entry) -> Result<(), FileProblem> {
        if entry.is_violation {
            return if self.danger_accept_violations {
                Ok(())
            } else {
                Err(FileProblem::Violation)
            };
        }
        let mut listed = false;
        for rule in self.files.iter().filter(|rule| rule.path.fits(&entry.path)) {
            listed = true;
            let holds = match &rule.content {
                Content::DangerAny => true,
                Content::Digests(digests) => {
                    entry.is_content
                        && entry.hash != FileHash::Sha1
                        && digests.contains(&named_digest(entry))
                }
                Content::SignedBy(names) => self
                    .signers
                    .iter()
                    .filter(|signer| names.contains(&signer.name))
                    .any(|signer| signer.signed(entry)),
            };
            if holds {
                return Ok(());
            }
        }
        Err(if listed {
            FileProblem::Content
        } else {
            FileProblem::NotListed
        })
    }
}

/// As rules write it.
pub fn named_digest(entry: &Entry) -> String {
    format!("{}:{}", entry.hash.as_str(), hex::encode(&entry.digest))
}

/// `EVM_IMA_XATTR_DIGSIG`, then version 2 of the header.
const DIGSIG_V2: [u8; 2] = [3, 2];
/// Type, version, hash, key identifier, size.
const SIGNATURE_HEADER: usize = 9;
const SUBJECT_KEY_IDENTIFIER: &str = "2.5.29.14";
