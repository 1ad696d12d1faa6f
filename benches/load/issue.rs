//! Certificates of a control plane: whole attestations, made by the code that sidecars run.
//!
//! Each slot is an instance of its own: it enrols, and then renews over and over, with a new connection, a new key and new
//! evidence each time, as it would once in half a lifetime. What counts is the control plane's processor time; how many
//! there are in a second is bounded by what collects evidence too, and a software TPM takes its time.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use tokio::task::JoinSet;
use vouchsafe_attestation::binding::Purpose;
use vouchsafe_attestation::name::WorkloadName;
use vouchsafe_attestation::trust_domain::TrustDomain;
use vouchsafe_config::attester::{Tpm, TpmTransport};
use vouchsafe_config::proxy;
use vouchsafe_proxy::attester::Attesters;
use vouchsafe_proxy::clock::MeshClock;
use vouchsafe_proxy::svid::client::{AttestClient, Issuance};
use vouchsafe_proxy::svid::connection::ControlPlane;

use crate::Load;
use crate::measure::{Tally, window};

/// Whom to ask, and what to prove.
#[derive(Debug, Args)]
pub(crate) struct Instances {
    /// SHA-256 of the key of the control plane's root, in hex.
    #[arg(long)]
    root_pin: String,
    /// Trust domain of the mesh.
    #[arg(long, default_value = "bench.test")]
    trust_domain: TrustDomain,
    /// Workload of a slot, whose number follows: `bench/sidecar-` asks for `bench/sidecar-0` and so on.
    #[arg(long, default_value = "bench/sidecar-")]
    workloads: String,
    /// Unix sockets of software TPMs, one for each slot; without them the evidence is simulated, of machines that are
    /// called as their workloads are.
    #[arg(long, value_delimiter = ',')]
    swtpm: Vec<PathBuf>,
    /// Folder to which the first certificate of the first slot is written as `client.pem`, with `client.key` and `ca.pem`.
    #[arg(long)]
    save: Option<PathBuf>,
}

pub(crate) async fn run(load: &Load, instances: &Instances) -> anyhow::Result<serde_json::Value> {
    let tally = Tally::new(load);
    let mut tasks = JoinSet::new();
    for slot in 0..load.connections {
        let (client, attesters) = sidecar(load, instances, slot).await?;
        let enrolled = client.attest(&attesters, Purpose::Enroll, None).await;
        let enrolled = enrolled.with_context(|| format!("slot {slot} could not enrol"))?;
        if slot == 0 {
            save(instances, &enrolled)?;
        }
        let mut current = enrolled.svid;
        let tally = Rc::clone(&tally);
        tasks.spawn_local(async move {
            while tally.borrow_mut().claim() {
                let started = Instant::now();
                let renewed = client.attest(&attesters, Purpose::Renew, Some(&current));
                let renewed = renewed.await;
                match renewed {
                    Ok(issuance) => {
                        current = issuance.svid;
                        tally.borrow_mut().record(started);
                    }
                    Err(error) => {
                        tally.borrow_mut().fail(&error.into());
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }
    window(load, &tally).await
}

async fn sidecar(
    load: &Load,
    instances: &Instances,
    slot: u16,
) -> anyhow::Result<(AttestClient, Attesters)> {
    let workload: WorkloadName = format!("{}{slot}", instances.workloads).parse()?;
    let attester = match instances.swtpm.get(usize::from(slot)) {
        Some(socket) => proxy::Attester::Tpm(Tpm {
            transport: TpmTransport::SwtpmUnix(socket.clone()),
            ek_chain: None,
            event_log: None,
            ima_log: None,
        }),
        None => {
            ensure!(
                instances.swtpm.is_empty(),
                "there are fewer software TPMs than slots"
            );
            let (_, machine) = instances
                .workloads
                .split_once('/')
                .context("no namespace")?;
            proxy::Attester::Simulated {
                machine: format!("{machine}{slot}"),
                image: "bench".to_owned(),
            }
        }
    };
    let clock = Arc::new(MeshClock::authenticated());
    let client = AttestClient {
        control_plane: Arc::new(ControlPlane::new(
            vec![load.target.to_string()],
            vec![pin(&instances.root_pin)?],
            instances.trust_domain.clone(),
            Arc::clone(&clock),
        )),
        clock,
        trust_domain: instances.trust_domain.clone(),
        workload,
        join_token: None,
        endpoints: Vec::new(),
    };
    Ok((client, Attesters::open(&[attester]).await?))
}

/// Writes what a handshake with this identity needs.
fn save(instances: &Instances, issuance: &Issuance) -> anyhow::Result<()> {
    let Some(folder) = &instances.save else {
        return Ok(());
    };
    fs::create_dir_all(folder)?;
    let chain = issuance.svid.chain.iter();
    let chain: String = chain.map(|one| pem("CERTIFICATE", one)).collect();
    write(folder, "client.pem", &chain)?;
    let key = pem("PRIVATE KEY", issuance.svid.key.secret_der());
    write(folder, "client.key", &key)?;
    let authorities = issuance.bundle.authorities().iter();
    let authorities: String = authorities
        .map(|one| pem("CERTIFICATE", one.certificate()))
        .collect();
    write(folder, "ca.pem", &authorities)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64);
    let lines: Vec<_> = lines.map(String::from_utf8_lossy).collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    crate::certificates::write(folder, name, text)
}

fn pin(text: &str) -> anyhow::Result<[u8; 32]> {
    let mut pin = [0; 32];
    hex::decode_to_slice(text, &mut pin).context("the pin is not 32 bytes in hex")?;
    Ok(pin)
}
