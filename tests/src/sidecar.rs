//! A running sidecar, described as an operator would describe it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::Process;
use crate::{binaries, client, metrics, port, wait};

/// What goes into a `proxy.yaml`.
#[derive(Clone, Debug)]
pub struct Spec {
    name: String,
    workload: String,
    identity: String,
    trust_domain: String,
    inbound: Vec<(String, String)>,
    outbound: Vec<(String, String, Option<SocketAddr>)>,
    lane: &'static str,
    more: String,
    preload: Option<PathBuf>,
}

impl Spec {
    /// A sidecar called `name` in logs, for a workload, with the YAML of its `identity`.
    pub fn new(name: &str, trust_domain: &str, workload: &str, identity: &str) -> Self {
        Self {
            name: name.to_owned(),
            workload: workload.to_owned(),
            identity: identity.to_owned(),
            trust_domain: trust_domain.to_owned(),
            inbound: Vec::new(),
            outbound: Vec::new(),
            lane: "auto",
            more: String::new(),
            preload: None,
        }
    }

    /// A port of the workload and the address of its application. All ports share one listener.
    #[must_use]
    pub fn inbound(mut self, port: &str, upstream: SocketAddr) -> Self {
        self.inbound.push((port.to_owned(), upstream.to_string()));
        self
    }

    /// A door of another workload that the local application may call, found by the control plane.
    #[must_use]
    pub fn outbound(mut self, to: &str, port: &str) -> Self {
        self.outbound.push((to.to_owned(), port.to_owned(), None));
        self
    }

    /// A door of another workload whose listener is known.
    #[must_use]
    pub fn outbound_to(mut self, to: &str, port: &str, endpoint: SocketAddr) -> Self {
        self.outbound
            .push((to.to_owned(), port.to_owned(), Some(endpoint)));
        self
    }

    /// Forces a lane: `shared` or `dedicated`.
    #[must_use]
    pub fn lane(mut self, lane: &'static str) -> Self {
        self.lane = lane;
        self
    }

    /// More lines of `spec`, indented by two.
    #[must_use]
    pub fn more(mut self, lines: &str) -> Self {
        self.more.push_str(lines);
        self.more.push('\n');
        self
    }

    /// A library that is loaded before all others.
    #[must_use]
    pub fn preload(mut self, library: PathBuf) -> Self {
        self.preload = Some(library);
        self
    }

    /// Starts it, with its files below `folder`. It is running, but perhaps not ready.
    ///
    /// # Panics
    /// When it can't be started.
    #[track_caller]
    pub fn start(&self, folder: &Path) -> Sidecar {
        let folder = folder.join(format!("sidecar-{}", self.name));
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let sidecar_metrics = port::free();
        let health = port::free();
        let admin = folder.join("admin.sock");
        let listener = (!self.inbound.is_empty()).then(port::free);
        let outbound: Vec<_> = self.outbound.iter().map(|_| port::free()).collect();

        let mut yaml = format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Proxy\nspec:\n  trust_domain: {}\n  workload: {}\n  \
             identity:\n{}\n  admin: {}\n  metrics: {sidecar_metrics}\n  health: {health}\n  workers: 2\n  \
             lane: {}\n{}",
            self.trust_domain,
            self.workload,
            indent(&self.identity, 4),
            admin.display(),
            self.lane,
            self.more,
        );
        if let Some(listener) = listener {
            writeln!(yaml, "  inbound:\n    - listen: {listener}\n      ports:")
                .expect("a string grows");
            for (port, upstream) in &self.inbound {
                writeln!(yaml, "        - {{name: {port}, upstream: '{upstream}'}}")
                    .expect("a string grows");
            }
        }
        if !outbound.is_empty() {
            yaml.push_str("  outbound:\n");
            for (listen, (to, port, endpoint)) in outbound.iter().zip(&self.outbound) {
                let endpoints = endpoint
                    .map(|address| format!(", endpoints: ['{address}']"))
                    .unwrap_or_default();
                writeln!(
                    yaml,
                    "    - {{listen: '{listen}', to: {to}, port: {port}{endpoints}}}"
                )
                .expect("a string grows");
            }
        }
        let config = folder.join("proxy.yaml");
        std::fs::write(&config, yaml).expect("the folder can be written");
        let arguments = [Path::new("--config"), &config];
        let process = Process::spawn_with(
            &format!("sidecar-{}", self.name),
            &folder,
            binaries::proxy(),
            arguments,
            self.preload.as_deref(),
        );
        Sidecar {
            process,
            folder,
            metrics: sidecar_metrics,
            health,
            admin,
            listener,
            outbound,
        }
    }
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// The process.
    pub process: Process,
    /// Where its files are.
    pub folder: PathBuf,
    /// Where metrics and readiness are served.
    pub metrics: SocketAddr,
    /// Where probes are answered.
    pub health: SocketAddr,
    /// Its admin socket.
    pub admin: PathBuf,
    listener: Option<SocketAddr>,
    outbound: Vec<SocketAddr>,
}

impl Sidecar {
    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// After the deadline.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        wait::until("the sidecar to be ready", || {
            assert!(
                self.process.is_running(),
                "the sidecar has ended:\n{}",
                self.process.output()
            );
            self.is_ready().then_some(())
        });
    }

    /// Whether it says that it is ready.
    pub fn is_ready(&self) -> bool {
        client::get(self.metrics, "/readyz").is_ok_and(|response| response.status == 200)
    }

    /// Where peers connect.
    ///
    /// # Panics
    /// When it has no inbound port.
    pub fn listener(&self) -> SocketAddr {
        self.listener
            .expect("the sidecar was given an inbound port")
    }

    /// Where the local application connects for its outbound door of this number.
    pub fn outbound(&self, index: usize) -> SocketAddr {
        self.outbound[index]
    }

    /// Sum of all series of a metric that bear all these labels.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metrics::value(self.metrics, name, labels)
    }

    /// Waits until a metric has reached a value.
    ///
    /// # Panics
    /// After the deadline.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[&str], at_least: f64) {
        wait::until(&format!("{name}{labels:?} to reach {at_least}"), || {
            (self.metric(name, labels) >= at_least).then_some(())
        });
    }

    /// A page of its admin socket.
    ///
    /// # Panics
    /// When it does not answer with JSON.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Value {
        let response = client::get_unix(&self.admin, path).expect("the admin socket answers");
        serde_json::from_str(&response.body)
            .unwrap_or_else(|error| panic!("{path}: {error}: {:?}", response.body))
    }
}

fn indent(text: &str, by: usize) -> String {
    let lines: Vec<_> = text
        .trim_end()
        .lines()
        .map(|line| format!("{:by$}{line}", ""))
        .collect();
    lines.join("\n")
}
