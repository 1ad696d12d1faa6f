//! From a profile's rules for measured files to the verifier's. Pure.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use vouchsafe_config::profile::ima::{Ima, ImaContent, ImaSigner};
use vouchsafe_verifier::evidence::tpm::ima::policy::{
    Content, FileRule, PathPattern, Policy, Signer,
};

/// The rules. What can't be used allows nothing: a signer without a usable certificate has signed no file. [`unusable`]
/// tells the operator before the policy acts.
pub(super) fn policy(ima: &Ima) -> Policy {
    let files = ima.files.iter().filter_map(|file| {
        Some(FileRule {
            path: PathPattern::new(&file.path)?,
            content: match &file.content {
                ImaContent::Digests(digests) => Content::Digests(digests.clone()),
                ImaContent::SignedBy(names) => Content::SignedBy(names.clone()),
                ImaContent::DangerAny => Content::DangerAny,
            },
        })
    });
    Policy {
        files: files.collect(),
        signers: ima.signers.iter().filter_map(signer).collect(),
        danger_accept_violations: ima.danger_accept_violations,
    }
}

/// Name of the first signer whose certificate can't be used.
pub(super) fn unusable(ima: &Ima) -> Option<&str> {
    let unusable = ima.signers.iter().find(|one| signer(one).is_none());
    unusable.map(|signer| signer.name.as_str())
}

fn signer(configured: &ImaSigner) -> Option<Signer> {
    let certificate = CertificateDer::from_pem_slice(configured.pem.as_bytes()).ok()?;
    Signer::new(&configured.name, &certificate).ok()
}
