//! `vouchsafe attest reference`: prints an `AttestationProfile` of what evidence, logs or manifests say.
//!
//! Here files are read; the draft is [`crate::profile_draft`]'s.

use std::path::PathBuf;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use vouchsafe_verifier::dossier::Kind;

use super::Outcome;
use super::attest_verify::read_all;
use crate::profile_draft::{Asked, DraftError, Group, draft};

/// What to draft a profile from, and what to call it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Name of the profile.
    #[arg(long, default_value = "new-profile")]
    name: String,
    /// Its namespace.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Name of the image that the values are of: becomes the claim `image`.
    #[arg(long, default_value = "image-1")]
    image: String,
    /// Kind of evidence, where its form does not say it.
    #[arg(long)]
    kind: Option<Kind>,
    /// Public key or certificate (PEM or DER) by which a CoRIM manifest must be signed.
    #[arg(long, value_name = "FILE")]
    corim_key: Option<PathBuf>,
    /// When evidence is judged, as in 2026-06-01T00:00:00Z; now, unless given.
    #[arg(long, value_name = "RFC3339")]
    at: Option<jiff::Timestamp>,
    /// A bundle of `vouchsafe attest collect`; or files: evidence, an event log, a GPU's manifest, a CoRIM manifest.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the command: 0 with a draft, 1 where evidence shows nothing to demand, 2 where files can't be read.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let groups = match groups(arguments) {
        Ok(groups) => groups,
        Err(error) => return Outcome::misused(format!("error: {error}\n")),
    };
    let corim_key = match arguments.corim_key.as_ref().map(read_key).transpose() {
        Ok(key) => key,
        Err(error) => return Outcome::misused(format!("error: {error}\n")),
    };
    let asked = Asked {
        name: arguments.name.clone(),
        namespace: arguments.namespace.clone(),
        image: arguments.image.clone(),
        corim_key,
    };
    let at = arguments
        .at
        .map_or_else(super::attest_verify::now, SystemTime::from);
    match draft(&groups, &asked, at) {
        Ok(text) => Outcome::good(text),
        Err(error) => Outcome {
            status: 1,
            output: String::new(),
            error: format!("error: {}\n", chain(&error)),
        },
    }
}

fn chain(error: &DraftError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// A bundle has a folder per kind; other files belong together.
fn groups(arguments: &Arguments) -> Result<Vec<Group>, String> {
    if let [bundle] = arguments.files.as_slice()
        && bundle.join(MANIFEST).is_file()
    {
        let mut groups = Vec::new();
        for kind in Kind::ALL {
            let folder = bundle.join(kind.as_str());
            if folder.is_dir() {
                groups.push(Group {
                    kind: Some(kind),
                    files: read_all(&[folder])?,
                });
            }
        }
        return Ok(groups);
    }
    Ok(vec![Group {
        kind: arguments.kind,
        files: read_all(&arguments.files)?,
    }])
}

fn read_key(path: &PathBuf) -> Result<Vec<u8>, String> {
    let files = read_all(std::slice::from_ref(path))?;
    let bytes = files
        .into_iter()
        .next()
        .map(|(_, bytes)| bytes)
        .unwrap_or_default();
    let certificate = CertificateDer::from_pem_slice(&bytes).map(|found| found.to_vec());
    let key = || SubjectPublicKeyInfoDer::from_pem_slice(&bytes).map(|found| found.to_vec());
    Ok(certificate.or_else(|_| key()).unwrap_or(bytes))
}

const MANIFEST: &str = "bundle.json";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn run_line(words: &[&str]) -> Outcome {
        let words = ["reference"].iter().chain(words);
        run(&Line::try_parse_from(words).unwrap().arguments)
    }

    fn vector(name: &str) -> String {
        format!("{}/verifier/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn a_bundle_is_read_by_its_folders() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path();
        std::fs::write(bundle.join(MANIFEST), "{}").unwrap();
        std::fs::create_dir(bundle.join("tpm")).unwrap();
        let path = bundle.to_str().unwrap();
        let empty = run_line(&[path]);
        assert_eq!(empty.status, 1, "{}", empty.error);
        let log = vector("testdata/tpm/eventlog-rhel8-uefi.bin");
        std::fs::copy(log, bundle.join("tpm/eventlog.bin")).unwrap();
        let found = run_line(&[path, "--name", "rhel", "--image", "rhel-8"]);
        assert_eq!(found.status, 0, "{}", found.error);
        assert!(
            found.output.contains("- name: \"rhel-8\""),
            "{}",
            found.output
        );
        assert_eq!(run_line(&["/does/not/exist"]).status, 2);
    }

    #[test]
    fn a_manifest_must_be_signed_by_the_key_that_is_named() {
        let signed = vector("fuzz/corpus/corim/signed");
        let shown = run_line(&[&signed]);
        assert!(
            shown.output.contains("signed, and not checked"),
            "{}",
            shown.output
        );
        let certificate = vector("testdata/tpm/pca_tpm_ecc_sign_cert.pem");
        let refused = run_line(&[&signed, "--corim-key", &certificate]);
        assert_eq!(refused.status, 1);
        assert!(
            refused.error.contains("not signed by the given key"),
            "{}",
            refused.error
        );
    }
}
