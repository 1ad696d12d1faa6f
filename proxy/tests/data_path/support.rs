//! A pair of sidecars in one process: real workers, real sockets, real certificates.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::{Registry, TextEncoder};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use vouchsafe_attestation::claims::{ClaimValue, Claims, Class, EvidenceKind};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;
use vouchsafe_attestation::svid::ATTESTATION_RESULT_OID;
use vouchsafe_attestation::trust_bundle::{Authority, TrustBundle};
use vouchsafe_config::policy::Lane;
use vouchsafe_config::proxy::{
    AccessLog, IdentityFiles, IdentitySource, InboundListener, InboundPort, Limits, ListenAddr,
    OutboundListener, ProxyConfig, Upstream, UpstreamHttp,
};
use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;
use vouchsafe_proxy::clock::MeshClock;
use vouchsafe_proxy::drain::Drain;
use vouchsafe_proxy::state::{IdentityEpoch, PolicyEpoch, State, Svid};
use vouchsafe_proxy::telemetry::access_log::AccessLogWriter;
use vouchsafe_proxy::telemetry::metrics::DataMetrics;
use vouchsafe_proxy::worker::{Parts, Workers, spawn_all};

/// Both lanes, forced.
pub(crate) const LANES: [Lane; 2] = [Lane::Shared, Lane::Dedicated];
/// Longest wait for anything that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

const DOMAIN: &str = "test.example";
pub(crate) const POLICY: &str = r#"
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: any, namespace: app}
spec:
  any_of: [{tpm: {classes: [software], images: [{name: any, pcrs: {sha256: {11: "0000000000000000000000000000000000000000000000000000000000000000"}}}]}}]
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: node, namespace: app}
spec:
  hardware: {tpm_ek_sha256: "0000000000000000000000000000000000000000000000000000000000000000"}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: server, namespace: app}
spec:
  profile: any
  members: {nodes: [node]}
  ports: [{name: raw, port: 7000, protocol: tcp}, {name: web, port: 7001, protocol: http}, {name: sealed, port: 7002, protocol: tcp}, {name: strict, port: 7003, protocol: tcp}]
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: client, namespace: app}
spec: {profile: any, members: {nodes: [node]}, ports: []}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: stranger, namespace: app}
spec: {profile: any, members: {nodes: [node]}, ports: []}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: raw, namespace: app}
spec:
  to: {workload: server, port: raw}
  from: [{workload: app/client}]
  client: {danger_unattested: true}
  server: {danger_unattested: true}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: sealed, namespace: app}
spec:
  to: {workload: server, port: sealed}
  from: [{workload: app/client}]
  client: {require: {tpm: {image: [any]}}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: strict, namespace: app}
spec:
  to: {workload: server, port: strict}
  from: [{workload: app/client}]
  client: {binding: exporter}
  server: {binding: exporter}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: web, namespace: app}
spec:
  to: {workload: server, port: web}
  from: [{workload: app/client}]
  client: {danger_unattested: true}
  server: {danger_unattested: true}
  allow:
    - methods: [GET, HEAD, POST, PUT]
      paths: ["/ok/**", /ok]
    - {grpc: {service: test.Echo, methods: [Both]}}
"#;

/// Issues for a trust domain that nobody attests, unless [`Mesh::attested`].
pub(crate) struct Mesh {
    issuer: CertifiedIssuer<'static, KeyPair>,
    is_attested: bool,
}

/// What a leaf of an attesting authority says.
#[derive(Clone, Copy)]
pub(crate) struct Attested {
    pub(crate) instance: u8,
    pub(crate) image: &'static str,
}

impl Default for Attested {
    fn default() -> Self {
        Self {
            instance: 1,
            image: "any",
        }
    }
}

impl Attested {
    fn extension(self) -> CustomExtension {
        let mut claims = Claims::default();
        let image = ClaimValue::Text(self.image.into());
        claims.set(EvidenceKind::Tpm, "image", image).unwrap();
        let result = AttestationResult {
            class: Class::Software,
            root: EvidenceKind::Tpm,
            instance: InstanceId([self.instance; 16]),
            evidence_time: now(),
            policy_revision: Revision {
                epoch: 1,
                sequence: 1,
            },
            ear_sha256: [0; 32],
            devices: vec![DeviceResult {
                kind: EvidenceKind::Tpm,
                index: 0,
                claims,
            }],
            inclusion_promise: None,
        };
        CustomExtension::from_oid_content(&ATTESTATION_RESULT_OID, result.encode().unwrap())
    }
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            is_attested: false,
        }
    }

    /// Whose authority attests.
    pub(crate) fn attested() -> Self {
        Self {
            is_attested: true,
            ..Self::new()
        }
    }

    pub(crate) fn svid(&self, workload: &str, lifetime: Duration) -> Svid {
        self.svid_of(workload, lifetime, Attested::default())
    }

    pub(crate) fn svid_of(&self, workload: &str, lifetime: Duration, attested: Attested) -> Svid {
        let (namespace, name) = workload.split_once('/').unwrap();
        let id = format!("spiffe://{DOMAIN}/ns/{namespace}/workload/{name}");
        let now = now();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_before = (now - Duration::from_secs(3600)).into();
        params.not_after = (now + lifetime).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if self.is_attested {
            params.custom_extensions = vec![attested.extension()];
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Svid {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            not_after: now + lifetime,
        }
    }

    fn authority(&self) -> Authority {
        let domain = DOMAIN.parse().unwrap();
        Authority::new(domain, self.issuer.der(), self.is_attested).unwrap()
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.authority()]).unwrap()
    }

    /// With another authority of the same trust domain.
    pub(crate) fn bundle_with(&self, other: &Self) -> TrustBundle {
        TrustBundle::new(vec![self.authority(), other.authority()]).unwrap()
    }

    pub(crate) fn identity(&self, number: u64, svid: Svid) -> Arc<IdentityEpoch> {
        Arc::new(IdentityEpoch {
            number,
            svid: Arc::new(svid),
            bundle: Arc::new(self.bundle()),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is a shell")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// What a test may change of a sidecar.
pub(crate) struct Wish {
    pub(crate) workload: &'static str,
    pub(crate) lane: Lane,
    pub(crate) inbound: Vec<InboundPort>,
    /// (port, endpoint)
    pub(crate) outbound: Vec<(&'static str, SocketAddr)>,
    pub(crate) lifetime: Duration,
    pub(crate) limits: Limits,
    pub(crate) workers: usize,
}

impl Wish {
    pub(crate) fn new(workload: &'static str, lane: Lane) -> Self {
        Self {
            workload,
            lane,
            inbound: Vec::new(),
            outbound: Vec::new(),
            lifetime: Duration::from_secs(3600),
            limits: Limits::default(),
            workers: 1,
        }
    }

    pub(crate) fn behind(mut self, port: &str, upstream: SocketAddr) -> Self {
        self.inbound.push(InboundPort {
            name: port.parse().unwrap(),
            upstream: Upstream::Tcp(upstream),
            upstream_http: UpstreamHttp::Auto,
        });
        self
    }

    pub(crate) fn calls(mut self, port: &'static str, endpoint: SocketAddr) -> Self {
        self.outbound.push((port, endpoint));
        self
    }
}

/// A running sidecar.
pub(crate) struct Sidecar {
    pub(crate) state: Arc<State>,
    pub(crate) workers: Option<Workers>,
    pub(crate) drain: Arc<Drain>,
    registry: Registry,
    log: Option<AccessLogWriter>,
    folder: TempDir,
}

impl Sidecar {
    pub(crate) fn start(mesh: &Mesh, wish: Wish) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Arc::new(ProxyConfig {
            trust_domain: DOMAIN.parse().unwrap(),
            workload: wish.workload.parse().unwrap(),
            identity: IdentitySource::Files(IdentityFiles {
                chain: PathBuf::new(),
                key: PathBuf::new(),
                bundle: Vec::new(),
                policy: PathBuf::new(),
            }),
            inbound: if wish.inbound.is_empty() {
                Vec::new()
            } else {
                vec![InboundListener {
                    listen: loopback,
                    advertise: None,
                    ports: wish.inbound,
                }]
            },
            outbound: wish
                .outbound
                .iter()
                .map(|(port, endpoint)| OutboundListener {
                    listen: ListenAddr::Tcp(loopback),
                    allow_uids: Vec::new(),
                    to: "app/server".parse().unwrap(),
                    port: port.parse().unwrap(),
                    endpoints: vec![endpoint.to_string()],
                })
                .collect(),
            health: None,
            metrics: None,
            admin: PathBuf::new(),
            workers: NonZeroUsize::new(wish.workers),
            access_log: AccessLog::File(folder.path().join("access.log")),
            lane: wish.lane,
            drain: Duration::from_secs(5),
            limits: wish.limits,
        });
        let state = Arc::new(State::default());
        state.replace_policy(policy(POLICY));
        let svid = mesh.svid(wish.workload, wish.lifetime);
        state.identity.store(Some(mesh.identity(1, svid)));
        let registry = Registry::new();
        let drain = Arc::new(Drain::new(Duration::from_secs(5)));
        let log = AccessLogWriter::start(&config.access_log).unwrap();
        let parts = Parts {
            config,
            state: Arc::clone(&state),
            clock: Arc::new(MeshClock::host()),
            metrics: Arc::new(DataMetrics::new(&registry).unwrap()),
            drain: drain.signal(),
        };
        let workers = spawn_all(&parts, &log).unwrap();
        Self {
            state,
            workers: Some(workers),
            drain,
            registry,
            log: Some(log),
            folder,
        }
    }

    pub(crate) fn door(&self) -> SocketAddr {
        self.workers.as_ref().unwrap().inbound[0]
    }

    pub(crate) fn calls(&self, index: usize) -> SocketAddr {
        match &self.workers.as_ref().unwrap().outbound[index] {
            ListenAddr::Tcp(address) => *address,
            ListenAddr::Unix(path) => panic!("{}", path.display()),
        }
    }

    /// Sum of a metric over the series whose text has all these parts.
    pub(crate) fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        self.metrics()
            .lines()
            .filter(|line| line.starts_with(name) && parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Changes whom it believes, and nothing else.
    pub(crate) fn believe(&self, bundle: TrustBundle) {
        let held = self.state.identity.load_full().unwrap();
        self.state.replace_identity(Some(Arc::new(IdentityEpoch {
            number: held.number + 1,
            svid: Arc::clone(&held.svid),
            bundle: Arc::new(bundle),
        })));
    }

    /// All metrics, as they are scraped.
    pub(crate) fn metrics(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap()
    }

    /// Waits until a metric counts.
    pub(crate) async fn counts(&self, name: &str, parts: &[&str]) {
        until(&format!("{name} {parts:?}"), || {
            self.metric(name, parts) > 0.0
        })
        .await;
    }

    /// Ends the sidecar and returns its access log.
    pub(crate) async fn end(mut self) -> String {
        self.stop().await;
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }

    async fn stop(&mut self) {
        self.drain.run(std::future::ready(())).await;
        let (workers, log) = (self.workers.take().unwrap(), self.log.take().unwrap());
        tokio::task::spawn_blocking(move || {
            workers.join().unwrap();
            log.finish();
        })
        .await
        .unwrap();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let (Some(workers), Some(log)) = (self.workers.take(), self.log.take()) {
            let drain = Arc::clone(&self.drain);
            // Threads of a test that failed must not outlive it.
            let _ = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.unwrap().block_on(drain.run(std::future::ready(())));
                let _ = workers.join();
                log.finish();
            })
            .join();
        }
    }
}

/// A policy, compiled.
pub(crate) fn policy(text: &str) -> PolicyEpoch {
    let source = Source::new("policy.yaml", text);
    let set = PolicySet::parse(vec![source], Options { now: None }).unwrap();
    PolicyEpoch {
        policy: Arc::new(set.policy(&DOMAIN.parse().unwrap())),
        ..PolicyEpoch::default()
    }
}

/// A client's and a server's sidecar.
pub(crate) struct Pair {
    pub(crate) client: Sidecar,
    pub(crate) server: Sidecar,
    pub(crate) mesh: Mesh,
}

impl Pair {
    pub(crate) fn start(lane: Lane, port: &'static str, application: SocketAddr) -> Self {
        let lifetime = Duration::from_secs(3600);
        Self::start_in(Mesh::new(), lane, port, application, lifetime)
    }

    pub(crate) fn start_in(
        mesh: Mesh,
        lane: Lane,
        port: &'static str,
        application: SocketAddr,
        lifetime: Duration,
    ) -> Self {
        let mut server = Wish::new("app/server", lane).behind(port, application);
        server.lifetime = lifetime;
        let server = Sidecar::start(&mesh, server);
        let mut client = Wish::new("app/client", lane).calls(port, server.door());
        client.lifetime = lifetime;
        let client = Sidecar::start(&mesh, client);
        Self {
            client,
            server,
            mesh,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.client.calls(0)).await.unwrap()
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bounds anything by the deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("waited for {what}"))
}

/// An address that refuses connections for as long as the socket is held: nobody else gets the port.
pub(crate) fn refusing() -> (tokio::net::TcpSocket, SocketAddr) {
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = held.local_addr().unwrap();
    (held, address)
}

/// An application that does `serve` with each connection.
pub(crate) async fn application<F>(serve: impl Fn(TcpStream) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(serve(stream));
        }
    });
    address
}

/// Reads until `end` has come, and returns all that was read.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while !text
            .windows(end.len())
            .any(|window| window == end.as_bytes())
        {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.unwrap_or(0);
            if count == 0 {
                break;
            }
            text.extend_from_slice(&bytes[..count]);
        }
    };
    if tokio::time::timeout(DEADLINE, read).await.is_err() {
        panic!("no {end:?} in {:?}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

/// Reads to the end of the stream; a reset counts as the end.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Sends a whole request and reads to the end of the connection.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A door that is closed may be so before all is written.
    let _ = stream.write_all(request.as_bytes()).await;
    read_all(&mut stream).await
}

/// Runs a test with local tasks.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    tokio::task::LocalSet::new().block_on(&runtime.unwrap(), test);
}
