//! `proxy.yaml`: what one sidecar is told before it knows any policy.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::policy::Lane;

/// A sidecar's bootstrap.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The trust domain that it belongs to.
    pub trust_domain: TrustDomain,
    /// The workload that it serves.
    pub workload: WorkloadName,
    /// Where its identity and policy come from.
    pub identity: IdentitySource,
    /// Doors of its workload.
    pub inbound: Vec<InboundListener>,
    /// Doors of others that its workload may call.
    pub outbound: Vec<OutboundListener>,
    /// Where probes are answered; plain HTTP.
    pub health: Option<SocketAddr>,
    /// Where `/metrics`, `/livez` and `/readyz` are served over TCP; plain HTTP.
    pub metrics: Option<SocketAddr>,
    /// Unix socket for operators, made with mode 0600.
    pub admin: PathBuf,
    /// Threads that carry traffic; default: as many as the machine has cores.
    pub workers: Option<NonZeroUsize>,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// Forces a lane for all ports; `Auto` follows each port.
    pub lane: Lane,
    /// How long a drain waits for open connections; default 30 s.
    pub drain: Duration,
    /// Bounds.
    pub limits: Limits,
}

/// Where an identity comes from.
#[derive(Clone, Debug)]
pub enum IdentitySource {
    /// Attested: from a Vouchsafe control plane.
    ControlPlane(ControlPlaneClient),
    /// Not attested: from files that something else renews (SPIRE, cert-manager).
    Files(IdentityFiles),
}

/// How to reach and recognise the control plane.
#[derive(Clone, Debug)]
pub struct ControlPlaneClient {
    /// `host:port`, tried in order.
    pub addresses: Vec<String>,
    /// SHA-256 of root public keys (SubjectPublicKeyInfo DER).
    pub root_pins: Vec<[u8; 32]>,
    /// File with the join token, where the workload's members join by token.
    pub join_token: Option<PathBuf>,
    /// What collects evidence here.
    pub attester: Attester,
}

/// What collects evidence.
#[derive(Clone, Debug)]
pub enum Attester {
    /// A TPM.
    Tpm(Tpm),
    /// Nothing: made-up evidence of a made-up machine.
    Simulated {
        /// Name of the machine.
        machine: String,
        /// Name of the image.
        image: String,
    },
}

/// Where the TPM is.
#[derive(Clone, Debug)]
pub struct Tpm {
    /// How it is reached.
    pub transport: TpmTransport,
    /// File with the endorsement key's certificate chain (PEM, leaf first), where it is not in the TPM.
    pub ek_chain: Option<PathBuf>,
    /// Boot event log, where the machine has one; default `/sys/kernel/security/tpm0/binary_bios_measurements`.
    pub event_log: Option<PathBuf>,
}

/// How a TPM is reached.
#[derive(Clone, Debug)]
pub enum TpmTransport {
    /// A character device with a resource manager; default `/dev/tpmrm0`.
    Device(PathBuf),
    /// Unix socket of `swtpm socket --server type=unixio`.
    SwtpmUnix(PathBuf),
    /// TCP address of `swtpm socket --server type=tcp`.
    SwtpmTcp(SocketAddr),
}

/// An identity from files.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// PEM chain, leaf first.
    pub chain: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// Authorities that vouch for peers, each with its trust domain; all are `attested: false`.
    pub bundle: Vec<BundleFile>,
    /// Folder of policy documents.
    pub policy: PathBuf,
}

/// PEM file of authorities of one trust domain.
#[derive(Clone, Debug)]
pub struct BundleFile {
    /// The trust domain that they speak for; default the sidecar's own.
    pub trust_domain: TrustDomain,
    /// The file.
    pub file: PathBuf,
}

/// A TLS listener for peers.
#[derive(Clone, Debug)]
pub struct InboundListener {
    /// Where it listens.
    pub listen: SocketAddr,
    /// `host:port` by which peers reach it; default: `listen`.
    pub advertise: Option<String>,
    /// Ports behind it; a peer without our sidecar reaches the only one.
    pub ports: Vec<InboundPort>,
}

/// A local application's port.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// Name in the Workload document.
    pub name: Name,
    /// Where the application listens.
    pub upstream: Upstream,
    /// HTTP version that the application speaks.
    pub upstream_http: UpstreamHttp,
}

/// Where a local application listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Upstream {
    /// One TCP address.
    Tcp(SocketAddr),
    /// The port number that was called, on this address: for ranges.
    SamePort(IpAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// HTTP version that an application speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UpstreamHttp {
    /// HTTP/2 (h2c with prior knowledge) for gRPC, HTTP/1.1 for everything else. The default.
    #[default]
    Auto,
    /// HTTP/1.1 always; gRPC is refused.
    Http1,
    /// HTTP/2 always.
    Http2,
}

/// A plaintext listener for the local application.
#[derive(Clone, Debug)]
pub struct OutboundListener {
    /// Where the application connects.
    pub listen: ListenAddr,
    /// User IDs that may connect over a Unix socket; empty: anyone who can open it.
    pub allow_uids: Vec<u32>,
    /// The workload that is called.
    pub to: WorkloadName,
    /// Its port.
    pub port: Name,
    /// `host:port` of its inbound listeners; empty: as the control plane says.
    pub endpoints: Vec<String>,
}

/// Where a plaintext listener is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ListenAddr {
    /// A loopback port.
    Tcp(SocketAddr),
    /// A Unix socket, made with mode 0600 unless `allow_uids` says otherwise.
    Unix(PathBuf),
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum AccessLog {
    /// Standard output, the default.
    #[default]
    Stdout,
    /// Appended to a file.
    File(PathBuf),
    /// Denials only, to standard output: they are never dropped.
    DenialsOnly,
}

/// Bounds of one sidecar, with safe defaults.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of all listeners; default 20,000.
    pub connections: usize,
    /// TLS handshakes at once; default 1,024.
    pub handshakes: usize,
    /// Deadline of a handshake and of a request head; default 10 s.
    pub handshake: Duration,
    /// Deadline of connecting to the application; default 1 s.
    pub connect: Duration,
    /// Longest silence of a request or stream; default none (`None`), because sessions may live for days.
    pub idle: Option<Duration>,
    /// Largest request head in bytes; default 65,536.
    pub head_bytes: usize,
    /// Streams of one shared connection; default 256.
    pub streams: u32,
}
