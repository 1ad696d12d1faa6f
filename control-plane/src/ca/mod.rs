//! The certificate authority: the only module that sees a private key of the mesh.
//!
//! ```text
//! root (P-384, 10 years, on disk)
//!  ├─ issuing (P-256, 7 days, on disk; the next one is in every bundle for days before it signs)
//!  │   └─ X.509-SVIDs of workloads
//!  ├─ control-plane leaf (P-256, a day, in memory: new with each start)
//!  └─ mesh-state leaf (P-256, a day, in memory)
//! ```
//! The root certifies the two roles of the mesh itself; an issuing authority never does, so its key can't make a control
//! plane. Sidecars pin the root and carry issuing authorities as anchors.
//!
//! Source: DESIGN §8; RFC 5280 §4.2.

mod request;
mod rotation;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, SanType, SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use vouchsafe_api::convert::attest::AuthorityCertificate;
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::svid::{ATTESTATION_RESULT_OID, MeshRole, ROLE_OID, sha256};
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};
use vouchsafe_attestation::trust_domain::TrustDomain;
use zeroize::Zeroizing;

use crate::files::{self, FileError};
use crate::svid_template::{BACKDATE, SvidTemplate, serial};

pub use request::{CertifiedRequest, RequestError};

/// The authorities of one trust domain.
pub struct CertificateAuthority {
    folder: PathBuf,
    trust_domain: TrustDomain,
    root: Signer,
    issuing: RwLock<Arc<[Arc<Signer>]>>,
    /// Keys of authorities that an operator revoked: in bundles until they end, so that peers say why, and never to sign.
    revoked: RwLock<Arc<[[u8; 32]]>>,
}

/// A key with its certificate.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    facts: AuthorityFacts,
}

/// What is public of an authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorityFacts {
    /// `root` or `issuing`.
    pub role: &'static str,
    /// SHA-256 of the DER of its public key.
    pub spki_sha256: [u8; 32],
    /// Start of its certificate.
    pub not_before: SystemTime,
    /// End of its certificate.
    pub not_after: SystemTime,
}

/// Holder of a role of the mesh itself: key in memory, certificate from the root.
pub struct RoleKey {
    key: KeyPair,
    /// DER, leaf first, ends in the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the DER of its public key.
    pub spki_sha256: [u8; 32],
    /// When to replace it: half of its life.
    pub renew_at: SystemTime,
    /// End of its certificate.
    pub not_after: SystemTime,
}

/// A signed X.509-SVID.
#[derive(Clone, Debug)]
pub struct SignedSvid {
    /// DER, leaf first; the issuing authority follows for peers that only know the root.
    pub chain: Vec<Vec<u8>>,
    /// SHA-256 of the issuing authority's public key.
    pub authority_spki_sha256: [u8; 32],
}

/// Why the certificate authority can't work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The data folder can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or certificate on disk can't be read.
    #[error("`{path}` is damaged: restore it from a backup, or start with an empty data folder")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// Signing or encoding failed.
    #[error("failed to make a certificate")]
    Make(#[source] rcgen::Error),
    /// The system has no randomness.
    #[error("the system gave no randomness")]
    Random,
    /// No issuing authority is valid now.
    #[error("no issuing authority is valid now: check the clock")]
    NoIssuer,
    /// There are as many issuing authorities as there may be.
    #[error("there are {0} issuing authorities already: wait until the oldest has ended")]
    TooMany(usize),
}

impl CertificateAuthority {
    /// Opens the authorities of the folder, or makes them. Returns those that were made.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn open(
        folder: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(Self, Vec<AuthorityFacts>), CaError> {
        files::private_folder(folder)?;
        let mut made = Vec::new();
        let root_file = folder.join("root.key");
        let root = if root_file.exists() {
            Signer::load(folder, "root", "root")?
        } else {
            let root = Signer::new_root(trust_domain, now)?;
            root.store(folder, "root")?;
            made.push(root.facts.clone());
            root
        };
        let authority = Self {
            folder: folder.to_owned(),
            trust_domain: trust_domain.clone(),
            root,
            issuing: RwLock::new(load_issuing(folder, now)?.into()),
            revoked: RwLock::default(),
        };
        made.extend(authority.rotate(now)?);
        Ok((authority, made))
    }

    /// SHA-256 of the root's public key: what sidecars pin.
    pub fn root_pin(&self) -> [u8; 32] {
        self.root.facts.spki_sha256
    }

    /// The root and all issuing authorities that are not over.
    pub fn facts(&self) -> Vec<AuthorityFacts> {
        let issuing = self.issuing();
        let issuing = issuing.iter().map(|signer| signer.facts.clone());
        std::iter::once(self.root.facts.clone())
            .chain(issuing)
            .collect()
    }

    /// The mesh's bundle: issuing authorities are its anchors (DESIGN §8).
    pub fn bundle(&self) -> Vec<AuthorityCertificate> {
        let certificate = |signer: &Arc<Signer>| AuthorityCertificate {
            trust_domain: self.trust_domain.as_str().to_owned(),
            certificate: signer.certificate.to_vec(),
            attested: true,
        };
        self.issuing().iter().map(certificate).collect()
    }

    /// The same bundle, for verifying clients.
    pub fn trust_bundle(&self) -> TrustBundle {
        let authority = |signer: &Arc<Signer>| {
            Authority::new(self.trust_domain.clone(), &signer.certificate, true).ok()
        };
        let authorities = self.issuing().iter().filter_map(authority).collect();
        // Authorities of our own have distinct keys, so nothing can conflict; an empty bundle trusts nobody.
        TrustBundle::new(authorities).unwrap_or_default()
    }

    /// End of the issuing authority that would sign at `now`.
    ///
    /// # Errors
    /// [`CaError::NoIssuer`].
    pub fn issuer_end(&self, now: SystemTime) -> Result<SystemTime, CaError> {
        Ok(self.issuer(now)?.facts.not_after)
    }

    /// SHA-256 of the public key of the issuing authority that would sign at `now`.
    ///
    /// # Errors
    /// [`CaError::NoIssuer`].
    pub fn issuer_spki(&self, now: SystemTime) -> Result<[u8; 32], CaError> {
        Ok(self.issuer(now)?.facts.spki_sha256)
    }

    /// Whether all issuing authorities begin after `now`: the clock went back.
    pub fn begins_after(&self, now: SystemTime) -> bool {
        let issuing = self.issuing();
        !issuing.is_empty() && issuing.iter().all(|signer| now < signer.facts.not_before)
    }

    /// Signs a leaf.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn sign_svid(
        &self,
        template: &SvidTemplate,
        now: SystemTime,
    ) -> Result<SignedSvid, CaError> {
        let issuer = self.issuer(now)?;
        let mut params = leaf_params(&template.id, template.serial)?;
        params.not_before = template.not_before.into();
        params.not_after = template.not_after.into();
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &ATTESTATION_RESULT_OID,
            template.result.clone(),
        )];
        let key = SubjectPublicKeyInfo::from_der(&template.spki).map_err(CaError::Make)?;
        let leaf = params
            .signed_by(&key, &issuer.issuer)
            .map_err(CaError::Make)?;
        Ok(SignedSvid {
            chain: vec![leaf.der().to_vec(), issuer.certificate.to_vec()],
            authority_spki_sha256: issuer.facts.spki_sha256,
        })
    }

    /// Makes a key for a role of the mesh itself and certifies it with the root.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn certify_role(&self, role: MeshRole, now: SystemTime) -> Result<RoleKey, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
        let id = SpiffeId::for_control_plane(&self.trust_domain);
        let mut params = leaf_params(&id, random_serial()?)?;
        let not_after = (now + ROLE_LIFETIME).min(self.root.facts.not_after);
        params.not_before = (now - BACKDATE).into();
        params.not_after = not_after.into();
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&ROLE_OID, role.to_der())];
        let leaf = params
            .signed_by(&key, &self.root.issuer)
            .map_err(CaError::Make)?;
        Ok(RoleKey {
            spki_sha256: sha256(&rcgen::PublicKeyData::subject_public_key_info(&key)),
            key,
            chain: vec![leaf.der().clone(), self.root.certificate.clone()],
            renew_at: now + ROLE_LIFETIME / 2,
            not_after,
        })
    }

    fn issuing(&self) -> Arc<[Arc<Signer>]> {
        // A poisoned lock still holds a whole list: it is only ever replaced.
        Arc::clone(&self.issuing.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn issuer(&self, now: SystemTime) -> Result<Arc<Signer>, CaError> {
        let signing = self.signing();
        let facts: Vec<&AuthorityFacts> = signing.iter().map(|signer| &signer.facts).collect();
        let chosen = rotation::active(&facts, now).ok_or(CaError::NoIssuer)?;
        signing.get(chosen).cloned().ok_or(CaError::NoIssuer)
    }

    /// Issuing authorities that may sign.
    fn signing(&self) -> Vec<Arc<Signer>> {
        let revoked = self.revoked();
        let issuing = self.issuing();
        let may = |signer: &&Arc<Signer>| !revoked.contains(&signer.facts.spki_sha256);
        issuing.iter().filter(may).cloned().collect()
    }

    fn revoked(&self) -> Arc<[[u8; 32]]> {
        Arc::clone(&self.revoked.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether an operator revoked an authority.
    pub fn is_revoked(&self, spki_sha256: &[u8; 32]) -> bool {
        self.revoked().contains(spki_sha256)
    }

    /// Has none of these sign any more, and those sign again that are not among them.
    pub fn revoke(&self, spkis: Vec<[u8; 32]>) {
        if *self.revoked() != *spkis {
            *self.revoked.write().unwrap_or_else(PoisonError::into_inner) = spkis.into();
        }
    }

    /// Whether [`Self::rotate`] would make an authority.
    pub fn wants_next(&self, now: SystemTime) -> bool {
        let signing = self.signing();
        let facts: Vec<&AuthorityFacts> = signing.iter().map(|signer| &signer.facts).collect();
        rotation::needs_next(&facts, now) && self.issuing().len() < MAX_ISSUING
    }

    /// Makes an issuing authority ahead of its time. It is in every bundle from then on, and signs when its turn comes.
    ///
    /// # Errors
    /// [`CaError::TooMany`], so that a script in a loop fills no bundle; others when it can't be made.
    pub fn prepare(&self, now: SystemTime) -> Result<AuthorityFacts, CaError> {
        let held = self.issuing();
        if held.len() >= MAX_PREPARED {
            return Err(CaError::TooMany(held.len()));
        }
        let next = self.new_issuing(now)?;
        next.store(&self.folder, &issuing_name(&next.facts))?;
        let facts = next.facts.clone();
        let all: Vec<Arc<Signer>> = held.iter().cloned().chain([Arc::new(next)]).collect();
        *self.issuing.write().unwrap_or_else(PoisonError::into_inner) = all.into();
        Ok(facts)
    }

    /// Makes the next issuing authority when it is time, or when none is valid because the clock went back, and forgets
    /// those that are over.
    ///
    /// # Errors
    /// [`CaError`]; what was there stays.
    pub fn rotate(&self, now: SystemTime) -> Result<Vec<AuthorityFacts>, CaError> {
        let held = self.issuing();
        let (over, mut live): (Vec<_>, Vec<_>) = held
            .iter()
            .cloned()
            .partition(|signer| signer.facts.not_after <= now);
        let revoked = self.revoked();
        let facts: Vec<&AuthorityFacts> = { live.iter() }
            .map(|signer| &signer.facts)
            .filter(|facts| !revoked.contains(&facts.spki_sha256))
            .collect();
        let mut made = Vec::new();
        if rotation::needs_next(&facts, now) && live.len() < MAX_ISSUING {
            let next = self.new_issuing(now)?;
            next.store(&self.folder, &issuing_name(&next.facts))?;
            made.push(next.facts.clone());
            live.push(Arc::new(next));
        }
        if !made.is_empty() || !over.is_empty() {
            *self.issuing.write().unwrap_or_else(PoisonError::into_inner) = live.into();
        }
        for signer in over {
            let name = issuing_name(&signer.facts);
            for extension in ["key", "crt"] {
                // A file that stays is skipped at the next start, because its certificate is over.
                let _ = fs::remove_file(self.folder.join(&name).with_extension(extension));
            }
        }
        Ok(made)
    }

    fn new_issuing(&self, now: SystemTime) -> Result<Signer, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Make)?;
        let not_after = (now + ISSUING_LIFETIME).min(self.root.facts.not_after);
        let params = authority_params(&self.trust_domain, "issuing", 0, now, not_after)?;
        let certificate = params
            .signed_by(&key, &self.root.issuer)
            .map_err(CaError::Make)?;
        Signer::new(key, certificate.der().clone(), "issuing")
    }
}

impl Signer {
    fn new_root(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(CaError::Make)?;
        let params = authority_params(trust_domain, "root", 1, now, now + ROOT_LIFETIME)?;
        let certificate = params.self_signed(&key).map_err(CaError::Make)?;
        Self::new(key, certificate.der().clone(), "root")
    }

    fn new(
        key: KeyPair,
        certificate: CertificateDer<'static>,
        role: &'static str,
    ) -> Result<Self, CaError> {
        let facts = facts(&certificate, role).ok_or(CaError::NoIssuer)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(CaError::Make)?;
        Ok(Self {
            issuer,
            certificate,
            facts,
        })
    }

    fn load(folder: &Path, name: &str, role: &'static str) -> Result<Self, CaError> {
        let (key_file, certificate_file) = (
            folder.join(name).with_extension("key"),
            folder.join(name).with_extension("crt"),
        );
        let damaged = |path: &Path| CaError::Damaged {
            path: path.to_owned(),
        };
        let pem = files::read_secret(&key_file)?;
        let key = KeyPair::from_pem(&pem).map_err(|_| damaged(&key_file))?;
        let certificate = files::read_secret(&certificate_file)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| damaged(&certificate_file))?;
        let signer = Self::new(key, certificate, role).map_err(|_| damaged(&certificate_file))?;
        let held = rcgen::PublicKeyData::subject_public_key_info(signer.issuer.key());
        if sha256(&held) != signer.facts.spki_sha256 {
            return Err(damaged(&key_file));
        }
        Ok(signer)
    }

    /// The key last: a certificate without a key is noticed, a key without a certificate would be used.
    fn store(&self, folder: &Path, name: &str) -> Result<(), CaError> {
        let file = folder.join(name);
        let certificate = pem("CERTIFICATE", &self.certificate);
        files::write_secret(&file.with_extension("crt"), &certificate)?;
        let key = Zeroizing::new(self.issuer.key().serialize_pem());
        files::write_secret(&file.with_extension("key"), &key)?;
        Ok(())
    }
}

impl RoleKey {
    /// The key for a TLS configuration.
    pub fn tls_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// Signs: ECDSA P-256 with SHA-256, DER.
    ///
    /// # Errors
    /// [`CaError::Make`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CaError> {
        self.key.sign(message).map_err(CaError::Make)
    }
}

impl fmt::Debug for RoleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleKey")
            .field("spki_sha256", &hex::encode(self.spki_sha256))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.trust_domain)
            .field("authorities", &self.facts())
            .finish_non_exhaustive()
    }
}

fn load_issuing(folder: &Path, now: SystemTime) -> Result<Vec<Arc<Signer>>, CaError> {
    let entries = fs::read_dir(folder).map_err(|source| FileError::Io {
        act: "list",
        path: folder.to_owned(),
        source,
    })?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".key").map(ToOwned::to_owned))
        .filter(|name| name.starts_with("issuing-"))
        .collect();
    names.sort_unstable();
    let mut found = Vec::new();
    for name in names {
        let signer = Signer::load(folder, &name, "issuing")?;
        if signer.facts.not_after > now {
            found.push(Arc::new(signer));
        }
    }
    Ok(found)
}

fn issuing_name(facts: &AuthorityFacts) -> String {
    let [a, b, c, d, ..] = facts.spki_sha256;
    format!("issuing-{}", hex::encode([a, b, c, d]))
}

fn authority_params(
    trust_domain: &TrustDomain,
    role: &str,
    below: u8,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, CaError> {
    let serial = random_serial()?;
    let mut params = CertificateParams::default();
    // Names of authorities differ, because path builders find issuers by name.
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Vouchsafe");
    name.push(
        DnType::CommonName,
        format!("{role} {}", hex::encode(serial)),
    );
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.not_before = (now - AUTHORITY_BACKDATE).into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn leaf_params(id: &SpiffeId, serial: [u8; 16]) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Vouchsafe");
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.subject_alt_names = vec![uri(id.as_str())?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, CaError> {
    text.try_into().map(SanType::URI).map_err(CaError::Make)
}

/// 16 random bytes.
///
/// # Errors
/// [`CaError::Random`].
pub fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| CaError::Random)?;
    Ok(bytes)
}

fn random_serial() -> Result<[u8; 16], CaError> {
    random().map(serial)
}

fn facts(certificate: &CertificateDer<'_>, role: &'static str) -> Option<AuthorityFacts> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    Some(AuthorityFacts {
        role,
        spki_sha256: sha256(parsed.public_key().raw),
        not_before: time(parsed.validity().not_before.timestamp())?,
        not_after: time(parsed.validity().not_after.timestamp())?,
    })
}

/// PEM (RFC 7468) with lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Ten years: a root is replaced by an act, not by a timer.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A week with an online root: short enough that a lost key is soon worthless (DESIGN §8).
const ISSUING_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Two that overlap, and two that operators prepare.
const MAX_PREPARED: usize = 4;
/// A clock that leaps back again and again makes no more.
const MAX_ISSUING: usize = 16;
/// A day: these keys live in memory and are replaced at half of it.
const ROLE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Authorities are made before anyone relies on them; a minute covers hosts whose clocks are behind.
const AUTHORITY_BACKDATE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
