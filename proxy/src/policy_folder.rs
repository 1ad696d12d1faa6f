//! Policy from a folder, for sidecars whose identity comes from files.
//!
//! A changed folder is read as a whole; one that has a mistake leaves the last good policy in force and is named in log
//! and metric until it is repaired (promise 6).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::sha256;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::load;
use vouchsafe_config::problem::Problems;
use vouchsafe_config::set::{Options, PolicySet};

use crate::clock::MeshClock;
use crate::health::Readiness;
use crate::state::{PolicyEpoch, State};
use crate::telemetry::control::ControlMetrics;

/// Follows a folder of policy documents.
#[derive(Debug)]
pub struct PolicyFolder {
    /// The folder.
    pub folder: PathBuf,
    /// Where it has no Mesh document.
    pub trust_domain: TrustDomain,
    /// For break-glass rules.
    pub clock: Arc<MeshClock>,
    /// The policy is published here.
    pub state: Arc<State>,
    /// Told of the first policy.
    pub readiness: Arc<Readiness>,
    /// Counts reloads.
    pub metrics: Arc<ControlMetrics>,
}

impl PolicyFolder {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let (mut seen, mut look_again) = (None, false);
        // What the files held when they were loaded.
        let mut loaded = None;
        loop {
            let folder = self.folder.clone();
            let print = tokio::task::spawn_blocking(move || fingerprint(&folder)).await;
            let changed = print.ok().filter(|print| seen != Some(*print));
            if changed.is_some() || look_again {
                // A file that is written twice within one tick of the file system looks unchanged the second time.
                look_again = changed.is_some();
                seen = changed.or(seen);
                loaded = self.reload(look_again, loaded).await;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Loads the folder, unless nothing is known to have changed and it still holds what it held. Returns what it holds.
    async fn reload(&self, is_news: bool, held: Option<[u8; 32]>) -> Option<[u8; 32]> {
        let (folder, options) = (
            self.folder.clone(),
            Options {
                now: Some(self.clock.now()),
            },
        );
        let load = move || {
            // Before they are loaded: what is written meanwhile differs at the next look.
            let holds = content(&folder);
            if !is_news && holds.is_some() && holds == held {
                return (holds, None);
            }
            (holds, Some(load::policy(&[folder], options)))
        };
        // An error: the process ends.
        let (holds, loaded) = tokio::task::spawn_blocking(load).await.ok()?;
        match loaded {
            Some(Ok(set)) => self.publish(&set, is_news),
            Some(Err(problems)) if is_news => self.report(&problems),
            // Said already, or nothing new.
            Some(Err(_)) | None => {}
        }
        holds
    }

    fn publish(&self, set: &PolicySet, is_news: bool) {
        self.state.replace_policy(PolicyEpoch {
            revision: Revision::default(),
            policy: Arc::new(set.policy(&self.trust_domain)),
            ..PolicyEpoch::default()
        });
        self.readiness.policy_is_there();
        self.count("applied", false);
        if is_news {
            tracing::info!(documents = set.documents().len(), "policy folder applied");
        }
    }

    fn report(&self, problems: &Problems) {
        self.count("refused", true);
        let (errors, error) = (problems.errors(), problems.to_string());
        tracing::error!(
            errors,
            error,
            "policy folder can't be used: the last good policy stays"
        );
    }

    fn count(&self, outcome: &str, broken: bool) {
        let labels = ["policy", outcome];
        self.metrics.file_reloads.with_label_values(&labels).inc();
        self.metrics
            .files_broken
            .with_label_values(&["policy"])
            .set(broken.into());
    }
}

/// A digest of what the files hold; `None` where that is not known, and then they must be loaded.
fn content(folder: &Path) -> Option<[u8; 32]> {
    let mut digests = Vec::new();
    read(folder, 0, &mut digests)?;
    Some(sha256(&digests))
}

fn read(folder: &Path, depth: usize, digests: &mut Vec<u8>) -> Option<()> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        digests.extend_from_slice(&sha256(path.as_os_str().as_encoded_bytes()));
        let metadata = std::fs::metadata(&path).ok()?;
        if metadata.is_dir() {
            if depth < MAX_DEPTH {
                read(&path, depth + 1, digests)?;
            }
        } else if metadata.is_file() && metadata.size() <= MAX_DIGESTED {
            digests.extend_from_slice(&sha256(&std::fs::read(&path).ok()?));
        } else {
            return None;
        }
    }
    Some(())
}

/// A digest of which files there are and when each changed, links followed: cheap enough to take twice a second.
fn fingerprint(folder: &Path) -> [u8; 32] {
    let mut seen = Vec::new();
    walk(folder, 0, &mut seen);
    sha256(&seen)
}

fn walk(folder: &Path, depth: usize, seen: &mut Vec<u8>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return seen.extend_from_slice(b"unreadable");
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        seen.extend_from_slice(path.as_os_str().as_encoded_bytes());
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        for number in [
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.ctime().cast_unsigned(),
            metadata.ctime_nsec().cast_unsigned(),
        ] {
            seen.extend_from_slice(&number.to_be_bytes());
        }
        if metadata.is_dir() && depth < MAX_DEPTH {
            walk(&path, depth + 1, seen);
        }
    }
}

/// How soon a change is noticed.
const POLL: Duration = Duration::from_millis(400);
/// Larger files are loaded rather than compared.
const MAX_DIGESTED: u64 = 64 * 1024 * 1024;
/// As deep as the loader reads.
const MAX_DEPTH: usize = 8;

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tempfile::TempDir;

    use super::*;
    use crate::drain::Drain;
    use crate::telemetry::capture;

    const WORKLOAD: &str = "\
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: llm, namespace: inference}
spec:
  profile: any
  members: {nodes: [one]}
  ports: [{name: openai, port: 8000, protocol: tcp}]
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: any, namespace: inference}
spec: {any_of: [{tpm: {images: [{name: llm-1, pcrs: {sha256: {0: \"0000000000000000000000000000000000000000000000000000000000000000\"}}}]}}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: one, namespace: inference}
spec: {hardware: {tpm_ek_sha256: \"0000000000000000000000000000000000000000000000000000000000000000\"}}
";

    fn following(folder: &TempDir) -> (PolicyFolder, Arc<State>, Arc<ControlMetrics>) {
        let state = Arc::new(State::default());
        let metrics = Arc::new(ControlMetrics::register(&Registry::new()).unwrap());
        let drain = Drain::new(Duration::ZERO);
        let following = PolicyFolder {
            folder: folder.path().to_owned(),
            trust_domain: "factory.example".parse().unwrap(),
            clock: Arc::new(MeshClock::host()),
            readiness: Arc::new(Readiness::new(Arc::clone(&state), drain.signal())),
            state: Arc::clone(&state),
            metrics: Arc::clone(&metrics),
        };
        (following, state, metrics)
    }

    fn knows(state: &State, port: &str) -> bool {
        let workload = "inference/llm".parse().unwrap();
        let epoch = state.policy.load();
        epoch
            .policy
            .port(&workload, &port.parse().unwrap())
            .is_some()
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never: {what}");
    }

    #[tokio::test]
    async fn a_folder_that_breaks_leaves_the_last_good_policy_until_it_is_mended() {
        let log = capture::start();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, WORKLOAD).unwrap();
        let (following, state, metrics) = following(&folder);
        let task = tokio::spawn(following.run());
        until("the first policy", || knows(&state, "openai")).await;
        let broken = metrics.files_broken.with_label_values(&["policy"]);
        std::fs::write(&file, WORKLOAD.replace("protocol: tcp", "protocol: smoke")).unwrap();
        until("it is said", || broken.get() == 1).await;
        assert!(knows(&state, "openai"));
        tokio::time::sleep(3 * POLL).await;
        assert_eq!(
            log.count("policy folder can't be used: the last good policy stays"),
            1
        );
        std::fs::write(&file, WORKLOAD.replace("openai", "grpc")).unwrap();
        until("the mended policy", || knows(&state, "grpc")).await;
        assert!(!knows(&state, "openai"));
        assert_eq!(broken.get(), 0);
        task.abort();
    }
}
