//! Command lines of what works on documents alone: `check`, `schema`, `explain`, `workload init`.

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_attestation::name::Name;
use vouchsafe_attestation::trust_domain::TrustDomain;

use super::check::check;
use super::explain::{Explain, explain};
use super::explain_log::{ExplainLog, explain_log};
use super::schema;
use super::workload_init::{WorkloadInit, init};
use super::{Outcome, now};

/// What `check` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Files and folders of policy; bootstrap files among them are checked too.
    #[arg(default_value = ".")]
    paths: Vec<PathBuf>,
}

impl Check {
    pub(super) fn run(&self) -> Outcome {
        check(&self.paths, now())
    }
}

/// What `schema` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Schema {
    /// A kind, such as `Workload`; without it the kinds are listed.
    kind: Option<String>,
    /// Writes the schemas of all kinds, and the page of claims, into this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "kind")]
    write: Option<PathBuf>,
}

impl Schema {
    pub(super) fn run(&self) -> Outcome {
        match &self.write {
            Some(folder) => schema::write(folder),
            None => schema::show(self.kind.as_deref()),
        }
    }
}

/// What `explain` is told.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainRequest {
    /// Files and folders of policy.
    #[arg(long, default_value = ".")]
    policy: Vec<PathBuf>,
    /// An access log (`-`: standard input) that holds a past denial, which is explained.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "port", "method", "peer", "class", "claim", "evidence_age", "unattested"])]
    log: Option<PathBuf>,
    /// Which line of the log: the `vouchsafe-request-id` of the answer; without it the first.
    #[arg(long, requires = "log")]
    id: Option<String>,
    /// Data folder of the control plane, which keeps former policies, so that the one of that time explains.
    #[arg(long, value_name = "FOLDER", requires = "log")]
    data: Option<PathBuf>,
    /// The client: `namespace/name` or a SPIFFE ID.
    #[arg(long, required_unless_present_any = ["peer", "log"])]
    from: Option<String>,
    /// The workload that is called: `namespace/name`.
    #[arg(long, required_unless_present = "log")]
    to: Option<String>,
    /// Name of its port.
    #[arg(long, required_unless_present = "log")]
    port: Option<String>,
    /// HTTP method; without it the connection alone is asked about.
    #[arg(long)]
    method: Option<String>,
    /// Path of the request.
    #[arg(long, requires = "method")]
    path: Option<String>,
    /// The request is gRPC.
    #[arg(long, requires = "method")]
    grpc: bool,
    /// Certificate of the client in PEM, whose attestation result is read (it is not verified).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "class", "claim", "evidence_age", "unattested"])]
    peer: Option<PathBuf>,
    /// Class of the client's attestation result.
    #[arg(long)]
    class: Option<String>,
    /// A claim that the client has proven, such as `tpm.image=llm-1`; may be repeated.
    #[arg(long)]
    claim: Vec<String>,
    /// Age of the client's evidence in seconds.
    #[arg(long, default_value_t = 0)]
    evidence_age: u64,
    /// The client has no attestation result.
    #[arg(long, conflicts_with_all = ["class", "claim"])]
    unattested: bool,
}

impl ExplainRequest {
    pub(super) fn run(self) -> Outcome {
        if let Some(log) = self.log {
            return explain_log(&ExplainLog {
                log,
                id: self.id,
                policy: self.policy,
                data: self.data,
            });
        }
        let (Some(to), Some(port)) = (self.to, self.port) else {
            return Outcome::misused("error: say which door: --to and --port\n");
        };
        let asked = Explain {
            policy: self.policy,
            from: self.from,
            to,
            port,
            method: self.method,
            path: self.path,
            grpc: self.grpc,
            peer: self.peer,
            class: self.class,
            claims: self.claim,
            evidence_age: Duration::from_secs(self.evidence_age),
            unattested: self.unattested,
        };
        explain(&asked, now())
    }
}

/// What `workload init` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// Name of the workload.
    name: Name,
    /// Port where the service listens on loopback.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Namespace of the workload: a team's own.
    #[arg(long, default_value = "default")]
    namespace: Name,
    /// Policy folder; made where it is not there.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Trust domain, where the folder has no Mesh.
    #[arg(long, default_value = "factory.example")]
    trust_domain: TrustDomain,
    /// SHA-256 of the control plane's root key, as `vouchsafe status` prints it.
    #[arg(long, value_name = "SHA256")]
    root_pin: Option<String>,
}

impl Init {
    pub(super) fn run(self) -> Outcome {
        let root_pin = match self.root_pin {
            None => None,
            Some(text) => {
                let mut pin = [0; 32];
                if hex::decode_to_slice(&text, &mut pin).is_err() {
                    let message =
                        format!("error: `{text}` is not a SHA-256 digest: 64 hexadecimal digits\n");
                    return Outcome::misused(message);
                }
                Some(pin)
            }
        };
        let wanted = WorkloadInit {
            name: self.name,
            namespace: self.namespace,
            port: self.port,
            folder: self.dir,
            trust_domain: self.trust_domain,
            root_pin,
        };
        init(&wanted, now())
    }
}
