//! Identity from files that something else renews (SPIRE, cert-manager), and policy from a folder.
//!
//! The authorities of such an identity are not attested (promise 2), and time is the host's, because nobody
//! authenticates another. Content decides, not file times: a Kubernetes volume swaps a link and an operator may copy
//! with old times. A set of files is used only when it is whole: the key is the leaf's, and the leaf passes the same
//! check that a peer will make. Otherwise the last good set stays (promise 6).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use vouchsafe_attestation::peer::{PeerRole, VerifyPeerError, verify_peer};
use vouchsafe_attestation::spiffe_id::SpiffeId;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_attestation::trust_bundle::{
    Authority, AuthorityError, TrustBundle, TrustBundleError,
};
use vouchsafe_config::proxy::{BundleFile, IdentityFiles};
use zeroize::Zeroizing;

use super::Identities;
use super::backoff::SaidOnce;
use crate::clock::MeshClock;
use crate::state::Svid;
use crate::telemetry::Chain;
use crate::telemetry::control::{ControlMetrics, unix_seconds};

/// Follows the files of an identity.
#[derive(Debug)]
pub struct FileIdentity {
    /// The files.
    pub files: IdentityFiles,
    /// Who we must be by them.
    pub id: SpiffeId,
    /// The host's.
    pub clock: Arc<MeshClock>,
    /// Where certificates are published.
    pub identities: Arc<Identities>,
    /// Counts reloads.
    pub metrics: Arc<ControlMetrics>,
}

impl FileIdentity {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let (mut seen, mut said) = (None, SaidOnce::default());
        // What is in use, and until when its check holds.
        let mut applied: Option<([u8; 32], SystemTime)> = None;
        loop {
            let holds = applied.filter(|(_, end)| self.clock.now() < *end);
            let known = holds.map(|(digest, _)| digest);
            match self.load_unless(known).await {
                Ok(None) => {}
                Ok(Some(loaded)) => {
                    applied = Some((loaded.digest, loaded.svid.not_after));
                    said.recovered();
                    self.publish(loaded);
                }
                // While files are being replaced one by one they don't fit together; what stays so is worth saying.
                Err(error) => {
                    let message = Chain(&error).to_string();
                    let settled = seen.replace(message.clone()) == Some(message.clone());
                    if settled && said.is_news(&message) {
                        self.report(&message);
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads the files and checks that they make an identity.
    ///
    /// # Errors
    /// [`LoadIdentityError`].
    pub async fn load(&self) -> Result<LoadedIdentity, LoadIdentityError> {
        self.check(self.read().await?)
    }

    /// The same, but nothing where the files are those that are in use: a check costs three signatures, and they are read
    /// every few hundred milliseconds.
    async fn load_unless(
        &self,
        known: Option<[u8; 32]>,
    ) -> Result<Option<LoadedIdentity>, LoadIdentityError> {
        let content = self.read().await?;
        if known == Some(content.digest()) {
            return Ok(None);
        }
        self.check(content).map(Some)
    }

    async fn read(&self) -> Result<Content, LoadIdentityError> {
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || Content::read(&files))
            .await
            .map_err(|_| LoadIdentityError::Interrupted)?
    }

    fn check(&self, content: Content) -> Result<LoadedIdentity, LoadIdentityError> {
        let digest = content.digest();
        let chain = certificates(&self.files.chain, &content.chain)?;
        let key = PrivateKeyDer::from_pem_slice(&content.key)
            .map_err(|_| LoadIdentityError::Key(self.files.key.clone()))?;
        let mut authorities = Vec::new();
        for (file, pem) in self.files.bundle.iter().zip(&content.bundles) {
            for certificate in certificates(&file.file, pem)? {
                let authority = Authority::new(file.trust_domain.clone(), &certificate, false)
                    .map_err(|error| LoadIdentityError::Authority(file.file.clone(), error))?;
                authorities.push(authority);
            }
        }
        let bundle = TrustBundle::new(authorities)?;
        CertifiedKey::from_der(
            chain.clone(),
            key.clone_key(),
            &aws_lc_rs::default_provider(),
        )
        .map_err(LoadIdentityError::KeyMismatch)?;
        let now = self.clock.now();
        let peer = verify_peer(&chain, &bundle, PeerRole::Server, now)?;
        // Both, because the same certificate is presented at both ends of connections.
        verify_peer(&chain, &bundle, PeerRole::Client, now)?;
        if *peer.id() != self.id {
            return Err(LoadIdentityError::WrongName {
                found: peer.id().to_string(),
                expected: self.id.to_string(),
            });
        }
        Ok(LoadedIdentity {
            digest,
            svid: Svid {
                chain,
                key,
                not_after: peer.not_after(),
            },
            bundle,
        })
    }

    fn publish(&self, loaded: LoadedIdentity) {
        tracing::info!(
            local_id = %self.id,
            not_after = unix_seconds(loaded.svid.not_after),
            "identity loaded from files: not attested, judged by the host's clock"
        );
        self.count("applied", false);
        self.identities.replace_svid(loaded.svid, loaded.bundle);
    }

    fn report(&self, error: &str) {
        self.count("refused", true);
        if self.identities.current().is_some() {
            tracing::warn!(
                error,
                "identity files can't be used: the last good ones stay"
            );
        } else {
            tracing::error!(error, "identity files can't be used: everything is denied");
        }
    }

    fn count(&self, outcome: &str, broken: bool) {
        let labels = ["identity", outcome];
        self.metrics.file_reloads.with_label_values(&labels).inc();
        self.metrics
            .files_broken
            .with_label_values(&["identity"])
            .set(broken.into());
    }
}

/// A set of files that makes an identity.
#[derive(Debug)]
pub struct LoadedIdentity {
    /// SHA-256 over all contents.
    pub digest: [u8; 32],
    /// Certificate and key.
    pub svid: Svid,
    /// Whom to believe; none attests.
    pub bundle: TrustBundle,
}

/// What the files held at one reading.
struct Content {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    bundles: Vec<Vec<u8>>,
}

impl Content {
    fn read(files: &IdentityFiles) -> Result<Self, LoadIdentityError> {
        let bundle = |file: &BundleFile| read(&file.file);
        Ok(Self {
            chain: read(&files.chain)?,
            key: Zeroizing::new(read(&files.key)?),
            bundles: files.bundle.iter().map(bundle).collect::<Result<_, _>>()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digests = vec![sha256(&self.chain), sha256(&self.key)];
        digests.extend(self.bundles.iter().map(|bundle| sha256(bundle)));
        sha256(digests.as_flattened())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadIdentityError> {
    let failed = |error| LoadIdentityError::Read(path.to_owned(), error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(LoadIdentityError::TooLarge(path.to_owned()));
    }
    Ok(content)
}

fn certificates(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, LoadIdentityError> {
    let unreadable = || LoadIdentityError::Certificates(path.to_owned());
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| unreadable())?;
    if certificates.is_empty() {
        return Err(unreadable());
    }
    Ok(certificates)
}

/// Why files don't make an identity.
#[derive(Debug, thiserror::Error)]
pub enum LoadIdentityError {
    /// A file can't be read.
    #[error("failed to read `{0}`")]
    Read(PathBuf, #[source] std::io::Error),
    /// More than a megabyte.
    #[error("`{0}` is larger than 1 MiB")]
    TooLarge(PathBuf),
    /// The reading was cut short, because the process ends.
    #[error("reading was interrupted")]
    Interrupted,
    /// No PEM certificates.
    #[error("`{0}` holds no PEM certificates")]
    Certificates(PathBuf),
    /// No PEM private key.
    #[error("`{0}` holds no PEM private key")]
    Key(PathBuf),
    /// A certificate of the bundle is no authority's.
    #[error("`{0}` holds a certificate that is no authority's")]
    Authority(PathBuf, #[source] AuthorityError),
    /// The authorities contradict each other.
    #[error("the bundle files contradict each other")]
    Bundle(#[from] TrustBundleError),
    /// The key is not the leaf's.
    #[error("certificate and key don't belong together")]
    KeyMismatch(#[source] rustls::Error),
    /// A peer would refuse the chain.
    #[error("a peer would refuse the certificate")]
    Chain(#[from] VerifyPeerError),
    /// The certificate names someone else.
    #[error("the certificate names `{found}`, the workload of `proxy.yaml` is `{expected}`")]
    WrongName {
        /// What it names.
        found: String,
        /// What it must name.
        expected: String,
    },
}

/// How soon a change is noticed; a file that doesn't settle is judged at the next look.
const POLL: Duration = Duration::from_millis(400);
/// A bundle of a thousand authorities fits.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tempfile::TempDir;

    use super::*;
    use crate::state::State;
    use crate::svid::test_control_plane::{Identity, Pki, trust_domain};
    use crate::telemetry::capture;

    struct Files {
        folder: TempDir,
        pki: Pki,
        metrics: Arc<ControlMetrics>,
        identities: Arc<Identities>,
    }

    impl Files {
        fn new() -> Self {
            let metrics = Arc::new(ControlMetrics::register(&Registry::new()).unwrap());
            let files = Self {
                folder: tempfile::tempdir().unwrap(),
                pki: Pki::new(),
                identities: Arc::new(Identities::new(
                    Arc::new(State::default()),
                    Arc::clone(&metrics),
                )),
                metrics,
            };
            files.write(&files.pki.unattested("inference/llm"));
            files.put("bundle.pem", &files.pki.root_pem());
            files
        }

        fn put(&self, name: &str, content: &str) {
            std::fs::write(self.folder.path().join(name), content).unwrap();
        }

        fn write(&self, identity: &Identity) {
            self.put("chain.pem", &identity.chain_pem());
            self.put("key.pem", &identity.key.serialize_pem());
        }

        fn following(&self) -> FileIdentity {
            let path = |name| self.folder.path().join(name);
            FileIdentity {
                files: IdentityFiles {
                    chain: path("chain.pem"),
                    key: path("key.pem"),
                    bundle: vec![BundleFile {
                        trust_domain: trust_domain(),
                        file: path("bundle.pem"),
                    }],
                    policy: path("policy"),
                },
                id: SpiffeId::for_workload(&trust_domain(), &"inference/llm".parse().unwrap()),
                clock: Arc::new(MeshClock::host()),
                identities: Arc::clone(&self.identities),
                metrics: Arc::clone(&self.metrics),
            }
        }

        async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
            for _ in 0..1_000 {
                if holds() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("never: {what}");
        }

        fn epoch(&self) -> u64 {
            self.identities.current().map_or(0, |epoch| epoch.number)
        }
    }

    #[tokio::test]
    async fn files_make_an_unattested_identity() {
        let loaded = Files::new().following().load().await.unwrap();
        assert!(
            loaded
                .bundle
                .authorities()
                .iter()
                .all(|held| !held.is_attested())
        );
    }

    #[tokio::test]
    async fn a_set_that_a_peer_would_refuse_is_refused() {
        async fn check(expected: &str, spoil: impl FnOnce(&Files)) {
            let files = Files::new();
            spoil(&files);
            let error = files.following().load().await.unwrap_err();
            let chain = Chain(&error).to_string();
            assert!(chain.contains(expected), "{chain}");
        }
        check("don't belong together", |files| {
            files.put(
                "key.pem",
                &files.pki.unattested("inference/llm").key.serialize_pem(),
            );
        })
        .await;
        check("workload/other", |files| {
            files.write(&files.pki.unattested("inference/other"))
        })
        .await;
        check("ends in no known authority", |files| {
            files.put("bundle.pem", &Pki::new().root_pem());
        })
        .await;
        // A result that an authority may not vouch for: one that does not attest.
        check("may not vouch for", |files| {
            files.write(&files.pki.workload("inference/llm"))
        })
        .await;
        check("no PEM certificates", |files| files.put("chain.pem", "")).await;
        check("no PEM private key", |files| {
            files.put("key.pem", "nothing")
        })
        .await;
        check("failed to read", |files| {
            std::fs::remove_file(files.folder.path().join("key.pem")).unwrap();
        })
        .await;
        check("larger than 1 MiB", |files| {
            files.put("chain.pem", &"x".repeat(1 << 21))
        })
        .await;
    }

    #[tokio::test]
    async fn a_broken_set_never_replaces_a_good_one_and_is_said_once() {
        let log = capture::start();
        let files = Files::new();
        let task = tokio::spawn(files.following().run());
        files
            .until("the first identity", || files.epoch() == 1)
            .await;
        files.put("key.pem", "nothing");
        let broken = files.metrics.files_broken.with_label_values(&["identity"]);
        files.until("it is said", || broken.get() == 1).await;
        tokio::time::sleep(3 * POLL).await;
        assert_eq!(files.epoch(), 1);
        assert_eq!(
            log.count("identity files can't be used: the last good ones stay"),
            1
        );
        files.write(&files.pki.unattested("inference/llm"));
        files
            .until("the second identity", || files.epoch() == 2)
            .await;
        assert_eq!(broken.get(), 0);
        task.abort();
    }
}
