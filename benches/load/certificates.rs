//! The certificates of a run: one authority, a leaf for each side, P-256 throughout.

use std::fs;
use std::path::Path;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Writes `ca.pem` and for `client` and `server` a chain (`.pem`), a key (`.key`), and both in one file (`.both`), which
/// HAProxy and stunnel want.
pub(crate) fn make(folder: &Path, trust_domain: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority
        .distinguished_name
        .push(DnType::CommonName, "bench authority");
    authority
        .subject_alt_names
        .push(SanType::URI(format!("spiffe://{trust_domain}").try_into()?));
    write(
        folder,
        "ca.pem",
        &authority.self_signed(&authority_key)?.pem(),
    )?;
    let issuer = Issuer::new(authority, authority_key);
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
        let chain = leaf.signed_by(&key, &issuer)?.pem();
        let key = key.serialize_pem();
        write(folder, &format!("{name}.pem"), &chain)?;
        write(folder, &format!("{name}.key"), &key)?;
        write(folder, &format!("{name}.both"), &format!("{chain}{key}"))?;
    }
    Ok(())
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
