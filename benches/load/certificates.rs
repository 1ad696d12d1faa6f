//! The certificates of a run without a control plane: a root, an authority below it, a leaf for each side, P-256 throughout.
//!
//! Chains are as long as those that a control plane issues, so that no pair has less to send and to verify than another.

use std::fs;
use std::path::Path;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Writes the root as `ca.pem`, both authorities as `bundle.pem`, as the bundle of a mesh has them, and for `client` and
/// `server` a chain (`.pem`), a key (`.key`), and both in one file (`.both`), which HAProxy and stunnel want.
pub(crate) fn make(folder: &Path, trust_domain: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let root_key = KeyPair::generate()?;
    let root = authority("bench root", 1, trust_domain)?;
    let anchor = root.self_signed(&root_key)?.pem();
    write(folder, "ca.pem", &anchor)?;
    let root = Issuer::new(root, root_key);
    let issuing_key = KeyPair::generate()?;
    let issuing = authority("bench authority", 0, trust_domain)?;
    let between = issuing.signed_by(&issuing_key, &root)?.pem();
    write(folder, "bundle.pem", &format!("{anchor}{between}"))?;
    let issuer = Issuer::new(issuing, issuing_key);
    for name in ["client", "server"] {
        let key = KeyPair::generate()?;
        // The DNS name is for peers that can check nothing else.
        let mut leaf = CertificateParams::new(vec![format!("{name}.{trust_domain}")])?;
        leaf.subject_alt_names.push(SanType::URI(
            format!("spiffe://{trust_domain}/ns/bench/workload/{name}").try_into()?,
        ));
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&key, &issuer)?.pem();
        let chain = format!("{leaf}{between}");
        let key = key.serialize_pem();
        write(folder, &format!("{name}.pem"), &chain)?;
        write(folder, &format!("{name}.key"), &key)?;
        write(folder, &format!("{name}.both"), &format!("{chain}{key}"))?;
    }
    Ok(())
}

fn authority(name: &str, below: u8, trust_domain: &str) -> anyhow::Result<CertificateParams> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, name);
    authority
        .subject_alt_names
        .push(SanType::URI(format!("spiffe://{trust_domain}").try_into()?));
    authority.use_authority_key_identifier_extension = true;
    Ok(authority)
}

/// Writes a file that nobody else may read.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join(name);
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("failed to write {}", path.display()))
}
