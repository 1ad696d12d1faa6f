//! A control plane that believes test vendors, on a thread of this process: what [`crate::mesh::Mesh`] is as a process.
//!
//! # Why
//! The program has no option by which it would believe other roots than those that are compiled in, and must have none.
//! So the control plane of a test that makes its own hardware is the library, started through the one function that takes
//! roots; all else is as in production: files of policy, TLS, sockets, sidecars as processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;
use vouchsafe_config::control_plane::{ControlPlaneConfig, EndorsementSources};
use vouchsafe_control_plane::app::App;
use vouchsafe_verifier::vendor_roots::VendorRoots;

use crate::process::{self, Outcome};
use crate::sidecar::{Sidecar, Spec};
use crate::{binaries, wait};

/// A running control plane and the policy folder that it follows.
#[derive(Debug)]
pub struct Factory {
    /// `None` only while it is dropped.
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    address: SocketAddr,
    root_pin: String,
    roots: VendorRoots,
    /// Numbers sidecars, whose names may be the same.
    started: AtomicU32,
    folder: TempDir,
}

/// Trust domain of every factory.
pub const DOMAIN: &str = "factory.example";

/// Endorsements of nobody: what evidence brings along must do.
pub fn offline() -> EndorsementSources {
    EndorsementSources {
        offline: true,
        ..EndorsementSources::default()
    }
}

impl Factory {
    /// Starts with these documents below these roots; `endorsements` says whom to ask about hardware.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(documents: &str, roots: VendorRoots, endorsements: EndorsementSources) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::start_in(folder, documents, roots, endorsements)
    }

    /// The same with a data folder in which something lies already (`data` below `folder`).
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start_in(
        folder: TempDir,
        documents: &str,
        roots: VendorRoots,
        endorsements: EndorsementSources,
    ) -> Self {
        let policy = folder.path().join("policy");
        std::fs::create_dir(&policy).expect("the folder can be made");
        write_policy(folder.path(), documents);
        let any = "127.0.0.1:0".parse().expect("it is an address");
        let config = ControlPlaneConfig {
            listen: any,
            metrics: None,
            policy,
            endorsements,
            ..ControlPlaneConfig::new(folder.path().join("data"))
        };
        let (started, starting) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let below = roots.clone();
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let app = App::danger_start_below(config, below).await;
                let app = app.unwrap_or_else(|error| panic!("the control plane: {error}"));
                let facts = (app.address(), hex::encode(app.root_pin()));
                started.send(facts).expect("the test waits");
                app.serve(async { drop(stopped.await) }).await;
            });
        });
        let (address, root_pin) = starting.recv().expect("the control plane starts");
        Self {
            stop: Some(stop),
            serving: Some(serving),
            address,
            root_pin,
            roots,
            started: AtomicU32::new(0),
            folder,
        }
    }

    /// Folder with everything that the factory writes.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Data folder of the control plane.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Roots that it believes.
    pub fn roots(&self) -> &VendorRoots {
        &self.roots
    }

    /// Replaces the policy documents.
    pub fn write_policy(&self, documents: &str) {
        write_policy(self.path(), documents);
    }

    /// A sidecar with this attester, in YAML.
    pub fn sidecar(&self, name: &str, workload: &str, attester: &str) -> Spec {
        let identity = format!(
            "control_plane:\n  addresses: ['{}']\n  root_pins: [\"{}\"]\n  attester: {attester}",
            self.address, self.root_pin
        );
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Spec::new(&format!("{name}-{number}"), DOMAIN, workload, &identity)
    }

    /// Starts such a sidecar and waits until it has an identity, which is returned: its certificate as `/certs` shows it.
    ///
    /// # Panics
    /// When it gets none.
    #[track_caller]
    pub fn admitted(&self, name: &str, workload: &str, attester: &str) -> (Sidecar, Value) {
        let mut sidecar = self.sidecar(name, workload, attester).start(self.path());
        wait::until("the sidecar to be ready", || {
            assert!(sidecar.process.is_running(), "{}", sidecar.process.output());
            let refused = self.last_refusal(workload);
            assert!(refused.is_none(), "{name} is refused: {refused:?}");
            sidecar.is_ready().then_some(())
        });
        let identity = sidecar.admin("/certs")["identity"].clone();
        (sidecar, identity)
    }

    /// Starts such a sidecar, which must be refused, and returns the reason of its first refusal and the detail.
    ///
    /// # Panics
    /// When it is not refused.
    #[track_caller]
    pub fn refused(&self, name: &str, workload: &str, attester: &str) -> (String, String) {
        let before = self.records().len();
        let sidecar = self.sidecar(name, workload, attester).start(self.path());
        let refused = wait::until("a refusal to be recorded", || {
            let records = self.records().split_off(before);
            let mut refused = records.into_iter();
            refused.find(|one| one["kind"] == "refused" && one["workload"] == workload)
        });
        assert!(!sidecar.is_ready(), "a refused sidecar is ready");
        let text = |name: &str| refused[name].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("detail"))
    }

    fn last_refusal(&self, workload: &str) -> Option<Value> {
        let mut records = self.records().into_iter();
        records.rfind(|one| one["kind"] == "refused" && one["workload"] == workload)
    }

    /// Runs the operator's command line against this control plane.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Outcome {
        let data = self.data();
        let mut all: Vec<_> = arguments.iter().map(std::ffi::OsStr::new).collect();
        all.extend([std::ffi::OsStr::new("--data"), data.as_os_str()]);
        process::run(binaries::vouchsafe(), all)
    }

    /// All records, oldest first.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        let text = self
            .cli(&["log", "tail", "-n", "100000", "-o", "json"])
            .expect_success();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a record is JSON"))
            .collect()
    }

    /// The last issuance to a workload.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn last_issuance(&self, workload: &str) -> Value {
        let (namespace, name) = workload.split_once('/').expect("`namespace/name`");
        let id = format!("spiffe://{DOMAIN}/ns/{namespace}/workload/{name}");
        let mut records = self.records().into_iter();
        let found = records.rfind(|one| one["kind"] == "issued" && one["spiffe_id"] == id.as_str());
        found.expect("a certificate was issued")
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            // A control plane that panicked has said so.
            let _said = serving.join();
        }
    }
}

/// Writes the documents as a tool would: whole, under another name, then into place.
fn write_policy(folder: &Path, documents: &str) {
    let (new, file) = (folder.join("all.new"), folder.join("policy/all.yaml"));
    std::fs::write(&new, documents).expect("the folder can be written");
    std::fs::rename(&new, &file).expect("the folder can be written");
}
