//! A mesh with its control plane: what an operator would start, on loopback, below one temporary folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{self, Outcome, Process};
use crate::sidecar::Spec;
use crate::{binaries, client, metrics, port, wait};

/// A running control plane and the policy folder that it follows.
#[derive(Debug)]
pub struct Mesh {
    // Fields are dropped in this order: the process before its folder.
    /// The control plane.
    pub process: Process,
    /// Where metrics and readiness are served.
    pub metrics: SocketAddr,
    listen: SocketAddr,
    root_pin: String,
    trust_domain: String,
    preload: Option<PathBuf>,
    folder: TempDir,
}

impl Mesh {
    /// Starts a control plane with these documents; the first that sets a `trust_domain` names it.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn start(documents: &str) -> Self {
        Self::start_with(documents, None)
    }

    /// The same with a library that is loaded before all others, now and at each restart.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn start_with(documents: &str, preload: Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (listen, control_metrics) = prepare(folder.path(), documents);
        let mut mesh = Self {
            process: serve(folder.path(), preload.as_deref()),
            metrics: control_metrics,
            listen,
            root_pin: String::new(),
            trust_domain: trust_domain(documents),
            preload,
            folder,
        };
        mesh.wait_ready();
        let status = mesh.status();
        mesh.root_pin = authority(&status, "root")["spki_sha256"]
            .as_str()
            .expect("a pin")
            .to_owned();
        mesh
    }

    /// Starts a control plane that must refuse these documents and end; returns what it said.
    ///
    /// # Panics
    /// When it goes on, or ends as if all were well.
    #[track_caller]
    pub fn refuse(documents: &str) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        prepare(folder.path(), documents);
        let mut process = serve(folder.path(), None);
        let status = process.wait();
        assert!(
            !status.success(),
            "the control plane is content with {documents}"
        );
        process.output()
    }

    /// Ends the control plane, as at a shutdown of its machine.
    pub fn stop(&mut self) {
        self.process.signal("TERM");
        self.process.wait();
    }

    /// Ends the control plane as a loss of power would, without a chance to write anything down.
    pub fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.wait();
    }

    /// Starts the control plane after [`Mesh::stop`] or [`Mesh::kill`].
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = serve(self.folder.path(), self.preload.as_deref());
        self.wait_ready();
    }

    #[track_caller]
    fn wait_ready(&mut self) {
        wait::until("the control plane to be ready", || {
            assert!(
                self.process.is_running(),
                "the control plane has ended:\n{}",
                self.process.output()
            );
            let response = client::get(self.metrics, "/readyz");
            response
                .is_ok_and(|response| response.status == 200)
                .then_some(())
        });
    }

    /// Folder with everything that the mesh writes.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Data folder of the control plane.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where sidecars connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Pin of the root.
    pub fn root_pin(&self) -> &str {
        &self.root_pin
    }

    /// Replaces the policy documents.
    pub fn write_policy(&self, documents: &str) {
        write_policy(self.folder.path(), documents);
    }

    /// The description of a sidecar whose identity comes from this control plane, by the YAML of its attester.
    pub fn sidecar(&self, name: &str, workload: &str, attester: &str) -> Spec {
        self.sidecar_at(self.listen, name, workload, attester)
    }

    /// The same for a sidecar that finds the control plane elsewhere.
    pub fn sidecar_at(
        &self,
        address: SocketAddr,
        name: &str,
        workload: &str,
        attester: &str,
    ) -> Spec {
        let identity = format!(
            "control_plane:\n  addresses: ['{address}']\n  root_pins: [\"{}\"]\n  attester: {attester}",
            self.root_pin
        );
        Spec::new(name, &self.trust_domain, workload, &identity)
    }

    /// A sidecar with simulated evidence.
    pub fn simulated(&self, name: &str, workload: &str, machine: &str, image: &str) -> Spec {
        self.sidecar(
            name,
            workload,
            &format!("{{simulated: {{machine: {machine}, image: {image}}}}}"),
        )
    }

    /// Runs the operator's command line against this control plane.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Outcome {
        let data = self.data();
        let mut all: Vec<_> = arguments.iter().map(std::ffi::OsStr::new).collect();
        all.extend([std::ffi::OsStr::new("--data"), data.as_os_str()]);
        process::run(binaries::vouchsafe(), all)
    }

    /// `vouchsafe status` as JSON, also where it ends with status 1 because something is not as it should be.
    #[track_caller]
    pub fn status(&self) -> Value {
        json(&self.cli(&["status", "-o", "json"]).stdout)
    }

    /// All records, oldest first.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        let text = self
            .cli(&["log", "tail", "-n", "100000", "-o", "json"])
            .expect_success();
        text.lines().map(json).collect()
    }

    /// Sum of all series of a metric of the control plane that bear all these labels.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metrics::value(self.metrics, name, labels)
    }
}

/// The authority of a role in a status.
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn authority<'a>(status: &'a Value, role: &str) -> &'a Value {
    let authorities = status["authorities"].as_array().expect("a list");
    authorities
        .iter()
        .find(|authority| authority["role"] == role)
        .expect("the role has an authority")
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Writes the policy folder and `control-plane.yaml`; returns where it will listen and serve metrics.
fn prepare(folder: &Path, documents: &str) -> (SocketAddr, SocketAddr) {
    std::fs::create_dir(folder.join("policy")).expect("the folder can be made");
    write_policy(folder, documents);
    let (listen, metrics) = (port::free(), port::free());
    let config = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: ControlPlane\nspec:\n  listen: {listen}\n  \
         metrics: {metrics}\n  data: data\n  policy: policy\n"
    );
    std::fs::write(folder.join("control-plane.yaml"), config).expect("the folder can be written");
    (listen, metrics)
}

fn serve(folder: &Path, preload: Option<&Path>) -> Process {
    let config = folder.join("control-plane.yaml");
    let arguments = [Path::new("serve"), Path::new("--config"), &config];
    let program = binaries::vouchsafe();
    Process::spawn_with("control-plane", folder, program, arguments, preload)
}

/// Writes the documents as a tool would: whole, under another name, then into place.
fn write_policy(folder: &Path, documents: &str) {
    let (new, file) = (folder.join("all.new"), folder.join("policy/all.yaml"));
    std::fs::write(&new, documents).expect("the folder can be written");
    std::fs::rename(&new, &file).expect("the folder can be written");
}

fn trust_domain(documents: &str) -> String {
    let (_, rest) = documents
        .split_once("trust_domain: ")
        .expect("a Mesh names its trust domain");
    rest.split(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)))
        .next()
        .unwrap_or_default()
        .to_owned()
}
