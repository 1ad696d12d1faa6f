//! Authorities and leaves of every kind, good and bad: what a foreign, sloppy or hostile issuer could make.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A root that issues leaves directly.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a leaf shall say. The default of [`Leaf::new`] is a good X.509-SVID.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// URI names, in order.
    pub uris: Vec<String>,
    /// Begin of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
    /// Whether its key may sign certificates.
    pub key_cert_sign: bool,
    /// Whether it says that it is an authority.
    pub authority: bool,
}

/// A leaf with its key and chain.
#[derive(Debug)]
pub struct Issued {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    chain_pem: String,
    key_pem: String,
    spki: Vec<u8>,
}

impl Leaf {
    /// A good leaf for one SPIFFE ID, valid from an hour ago for a day.
    pub fn new(spiffe_id: &str) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![spiffe_id.to_owned()],
            not_before: now - Duration::from_secs(3600),
            not_after: now + Duration::from_secs(24 * 3600),
            key_cert_sign: false,
            authority: false,
        }
    }
}

impl Authority {
    /// A new root for a trust domain.
    pub fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("test root of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        let key = KeyPair::generate().expect("the generator works");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("the root is well formed"),
        }
    }

    /// Issues a leaf as asked, sensible or not.
    pub fn issue(&self, leaf: &Leaf) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("leaf");
        params.subject_alt_names = leaf.uris.iter().map(|text| uri(text)).collect();
        params.not_before = leaf.not_before.into();
        params.not_after = leaf.not_after.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        if leaf.key_cert_sign {
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        if leaf.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("the generator works");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the leaf is well formed");
        Issued {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            spki: key.subject_public_key_info(),
        }
    }

    /// The root's public key as its certificate has it.
    pub fn spki(&self) -> Vec<u8> {
        self.issuer.key().subject_public_key_info()
    }

    /// The root in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes the root to `folder/name.pem`.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, self.pem()).expect("the folder can be written");
        file
    }
}

impl Issued {
    /// The leaf's public key as its certificate has it.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Writes `folder/name.pem` (the chain) and `folder/name.key`, and returns both paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        use std::os::unix::fs::PermissionsExt as _;
        let (chain, key) = (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        );
        std::fs::write(&chain, &self.chain_pem).expect("the folder can be written");
        std::fs::write(&key, &self.key_pem).expect("the folder can be written");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))
            .expect("the file is ours");
        (chain, key)
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("the URI is ASCII"))
}
