//! `proxy.yaml`: what one sidecar is told before it knows any policy.
//!
//! Paths that are not absolute are relative to the file's folder, so that a folder of files can be moved as a whole.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::trust_domain::TrustDomain;

use crate::attester;
pub use crate::attester::{Attester, AzVtpm, Nitro, NvidiaGpu, Tpm, TpmTransport, Tsm};
use crate::document::Kind;
use crate::policy::Lane;
use crate::problem::{Problem, Problems, Reporter};
use crate::scalar;
use crate::set;
use crate::shape::{Field, MapShape, Place, Shape, optional, required};
use crate::source::Source;
use crate::workload::read_lane;
use crate::yaml::Node;

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
    /// What collects evidence here, in the order of collection: the binding root last. Never empty.
    pub attesters: Vec<Attester>,
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
    /// Workers that keep shared connections to one workload; default 8, so that a machine of 64 cores does not open 64.
    pub lanes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            handshakes: 1024,
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(1),
            idle: None,
            head_bytes: 65_536,
            streams: 256,
            lanes: 8,
        }
    }
}

/// Default of `admin`.
pub const DEFAULT_ADMIN: &str = "/run/vouchsafe-proxy/admin.sock";
/// Default of `drain`.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

impl ProxyConfig {
    /// Reads the text of a `proxy.yaml`; `folder` is what its relative paths are relative to.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn parse(source: Source, folder: &Path) -> Result<(Self, Vec<Problem>), Problems> {
        set::parse_single(source, Kind::Proxy, |spec| read(spec, folder))
    }
}

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 13] = [
    required(
        "trust_domain",
        Shape::Text(&scalar::TRUST_DOMAIN),
        "The trust domain that the sidecar belongs to.",
    ),
    required(
        "workload",
        Shape::Text(&scalar::WORKLOAD),
        "The workload that it serves.",
    ),
    required(
        "identity",
        Shape::Map(&IDENTITY),
        "Where its identity and its policy come from.",
    ),
    optional(
        "inbound",
        Shape::ListOrEmpty(&Shape::Map(&INBOUND)),
        "[]",
        "TLS listeners: doors of its workload.",
    ),
    optional(
        "outbound",
        Shape::ListOrEmpty(&Shape::Map(&OUTBOUND)),
        "[]",
        "Plaintext listeners for the local application: doors of others.",
    ),
    optional(
        "health",
        Shape::Text(&scalar::SOCKET_ADDRESS),
        "",
        "Where probes are answered, in plain HTTP.",
    ),
    optional(
        "metrics",
        Shape::Text(&scalar::SOCKET_ADDRESS),
        "",
        "Where `/metrics`, `/livez` and `/readyz` are served, in plain HTTP.",
    ),
    optional(
        "admin",
        Shape::Text(&scalar::FILE),
        DEFAULT_ADMIN,
        "Unix socket for operators, made with mode 0600.",
    ),
    optional(
        "workers",
        Shape::Number(1, 1024),
        "",
        "Threads that carry traffic; without it as many as the machine has cores.",
    ),
    optional(
        "access_log",
        Shape::Text(&ACCESS_LOG),
        "stdout",
        "Where the access log goes; denials are always written.",
    ),
    optional(
        "lane",
        Shape::Word(&["auto", "shared", "dedicated"]),
        "auto",
        "Forces a lane for all ports; `auto` follows each port.",
    ),
    optional(
        "drain",
        Shape::Text(&scalar::DURATION),
        "30s",
        "How long a drain waits for open connections.",
    ),
    optional("limits", Shape::Map(&LIMITS), "", "Bounds."),
];

static ACCESS_LOG: crate::shape::Text = crate::shape::Text {
    what: "where to log",
    allowed: "`stdout`, `denials_only`, or `file:/path`",
    pattern: "^(stdout|denials_only|file:.+)$",
    check: |text| match text {
        "stdout" | "denials_only" => Ok(()),
        _ if text
            .strip_prefix("file:")
            .is_some_and(|path| !path.is_empty()) =>
        {
            Ok(())
        }
        _ => Err(format!(
            "`{}` is no place to log to",
            crate::shape::shorten(text)
        )),
    },
};

static IDENTITY: MapShape = MapShape {
    fields: &[
        optional(
            "control_plane",
            Shape::Map(&CONTROL_PLANE),
            "",
            "Attested: from a Vouchsafe control plane.",
        ),
        optional(
            "files",
            Shape::Map(&FILES),
            "",
            "Not attested: from files that something else renews, such as SPIRE or cert-manager.",
        ),
    ],
    exactly_one: &[&["control_plane", "files"]],
};

static CONTROL_PLANE: MapShape = MapShape {
    fields: &[
        required(
            "addresses",
            Shape::List(&Shape::Text(&scalar::HOST_PORT)),
            "Where it listens; tried in order.",
        ),
        required(
            "root_pins",
            Shape::List(&Shape::Text(&scalar::SHA256)),
            "SHA-256 of its root's public key, as `vouchsafe status` prints it.",
        ),
        optional(
            "join_token",
            Shape::Text(&scalar::FILE),
            "",
            "File with the join token, where members join by token.",
        ),
        required(
            "attester",
            Shape::Map(&attester::SPEC),
            "What collects evidence here.",
        ),
    ],
    exactly_one: &[],
};

static FILES: MapShape = MapShape {
    fields: &[
        required(
            "chain",
            Shape::Text(&scalar::FILE),
            "PEM chain, leaf first.",
        ),
        required("key", Shape::Text(&scalar::FILE), "PEM private key."),
        required(
            "bundle",
            Shape::List(&Shape::Map(&MapShape {
                fields: &[
                    optional(
                        "trust_domain",
                        Shape::Text(&scalar::TRUST_DOMAIN),
                        "",
                        "Trust domain that the authorities speak for; without it the sidecar's own.",
                    ),
                    required(
                        "file",
                        Shape::Text(&scalar::FILE),
                        "PEM file of authorities.",
                    ),
                ],
                exactly_one: &[],
            })),
            "Authorities that vouch for peers.",
        ),
        required(
            "policy",
            Shape::Text(&scalar::FILE),
            "Folder of policy documents.",
        ),
    ],
    exactly_one: &[],
};

static INBOUND: MapShape = MapShape {
    fields: &[
        required(
            "listen",
            Shape::Text(&scalar::SOCKET_ADDRESS),
            "Where it listens.",
        ),
        optional(
            "advertise",
            Shape::Text(&scalar::HOST_PORT),
            "",
            "How peers reach it, where that is not the `listen` address.",
        ),
        required(
            "ports",
            Shape::List(&Shape::Map(&MapShape {
                fields: &[
                    required(
                        "name",
                        Shape::Text(&scalar::NAME),
                        "Name of the port in the Workload document.",
                    ),
                    required(
                        "upstream",
                        Shape::Text(&scalar::UPSTREAM),
                        "Where the application listens.",
                    ),
                    optional(
                        "upstream_http",
                        Shape::Word(&["auto", "http1", "http2"]),
                        "auto",
                        "HTTP version of the application; `auto`: HTTP/2 for gRPC, HTTP/1.1 for the rest.",
                    ),
                ],
                exactly_one: &[],
            })),
            "Ports behind it.",
        ),
    ],
    exactly_one: &[],
};

static OUTBOUND: MapShape = MapShape {
    fields: &[
        required(
            "listen",
            Shape::Text(&scalar::LISTEN),
            "Where the application connects: loopback, or a Unix socket.",
        ),
        optional(
            "allow_uids",
            Shape::ListOrEmpty(&Shape::Number(0, 4_294_967_294)),
            "[]",
            "User IDs that may connect over a Unix socket; without it anyone who can open it.",
        ),
        required(
            "to",
            Shape::Text(&scalar::WORKLOAD),
            "The workload that is called.",
        ),
        required("port", Shape::Text(&scalar::NAME), "Its port."),
        optional(
            "endpoints",
            Shape::ListOrEmpty(&Shape::Text(&scalar::HOST_PORT)),
            "[]",
            "Where its inbound listeners are; without it as the control plane says.",
        ),
    ],
    exactly_one: &[],
};

static LIMITS: MapShape = MapShape {
    fields: &[
        optional(
            "connections",
            Shape::Number(1, 10_000_000),
            "20000",
            "Open connections of all listeners.",
        ),
        optional(
            "handshakes",
            Shape::Number(1, 1_000_000),
            "1024",
            "TLS handshakes at once.",
        ),
        optional(
            "handshake",
            Shape::Text(&scalar::DURATION),
            "10s",
            "Deadline of a handshake and of a request head.",
        ),
        optional(
            "connect",
            Shape::Text(&scalar::DURATION),
            "1s",
            "Deadline of connecting to the application.",
        ),
        optional(
            "idle",
            Shape::Text(&scalar::DURATION),
            "",
            "Longest silence of a request or stream; none by default, because sessions may live for days.",
        ),
        optional(
            "head_bytes",
            Shape::Number(1024, 16_777_216),
            "65536",
            "Largest request head in bytes.",
        ),
        optional(
            "streams",
            Shape::Number(1, 100_000),
            "256",
            "Streams of one shared connection.",
        ),
        optional(
            "lanes",
            Shape::Number(1, 1024),
            "8",
            "Workers that keep shared connections to one workload.",
        ),
    ],
    exactly_one: &[],
};

/// Reports what the shape can't say.
pub(crate) fn check(spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let outbound = place.key("outbound", place.owner);
    for (index, listener) in items(spec, "outbound").iter().enumerate() {
        check_outbound(listener, &outbound.index(index, listener), reporter);
    }
    let inbound = place.key("inbound", place.owner);
    let mut names: Vec<&str> = Vec::new();
    for (index, listener) in items(spec, "inbound").iter().enumerate() {
        let ports = inbound.index(index, listener).key("ports", place.owner);
        for (index, port) in items(listener, "ports").iter().enumerate() {
            let place = ports.index(index, port);
            check_upstream(port, &place, reporter);
            let Some((node, name)) = port.get("name").and_then(|n| Some((n, n.text()?))) else {
                continue;
            };
            if names.contains(&name) {
                let problem =
                    reporter.at(node.span, format!("port `{name}` is behind two listeners"));
                reporter.report(problem.path(place.key("name", node.span).path));
            }
            names.push(name);
        }
    }
    if let Some(node) = spec.find(&["identity", "control_plane", "attester"]) {
        let owner = spec
            .find(&["identity", "control_plane"])
            .and_then(|client| client.entry("attester"))
            .map_or(place.owner, |entry| entry.key_span);
        attester::check(
            node,
            &place.key("identity.control_plane.attester", owner),
            reporter,
        );
    }
}

fn check_outbound(listener: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let Some(listen) = listener.get("listen") else {
        return;
    };
    let address = listen.parse::<SocketAddr>();
    if let Some(address) = address
        && !address.ip().is_loopback()
    {
        let problem = reporter
            .at(
                listen.span,
                format!("`{address}` would take plaintext from other machines"),
            )
            .path(place.key("listen", listen.span).path)
            .allowed("a loopback address, or `unix:/path`");
        reporter.report(problem);
    }
    if let (Some(_), Some(uids)) = (address, listener.entry("allow_uids"))
        && !uids.value.items().is_empty()
    {
        let problem = reporter
            .at(
                uids.key_span,
                "`allow_uids` needs a Unix socket: a TCP peer has no user ID",
            )
            .path(place.key("allow_uids", uids.key_span).path)
            .hint("listen on `unix:/path`");
        reporter.report(problem);
    }
}

fn check_upstream(port: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let Some(node) = port.get("upstream") else {
        return;
    };
    let address = node.parse::<SocketAddr>().map(|address| address.ip());
    if let Some(ip) = address.or_else(|| node.parse::<IpAddr>())
        && !ip.is_loopback()
    {
        let problem = reporter
            .at(
                node.span,
                format!("plaintext to `{ip}` leaves this machine"),
            )
            .path(place.key("upstream", node.span).path)
            .hint("put the sidecar beside its application");
        reporter.report(problem.warning());
    }
}

fn items<'n>(node: &'n Node, key: &str) -> &'n [Node] {
    node.get(key).map_or(&[], Node::items)
}

fn read(spec: &Node, folder: &Path) -> Option<ProxyConfig> {
    let trust_domain: TrustDomain = spec.get("trust_domain")?.parse()?;
    let inbound = items(spec, "inbound").iter();
    let outbound = items(spec, "outbound").iter();
    Some(ProxyConfig {
        workload: spec.get("workload")?.parse()?,
        identity: read_identity(spec.get("identity")?, &trust_domain, folder)?,
        inbound: inbound
            .map(|node| read_inbound(node, folder))
            .collect::<Option<_>>()?,
        outbound: outbound
            .map(|node| read_outbound(node, folder))
            .collect::<Option<_>>()?,
        health: optional_value(spec, "health", Node::parse)?,
        metrics: optional_value(spec, "metrics", Node::parse)?,
        admin: path(spec, "admin", folder)?.unwrap_or_else(|| DEFAULT_ADMIN.into()),
        workers: match optional_value(spec, "workers", Node::as_number)? {
            Some(number) => Some(NonZeroUsize::new(usize::try_from(number).ok()?)?),
            None => None,
        },
        access_log: match optional_value(spec, "access_log", Node::text)? {
            None | Some("stdout") => AccessLog::Stdout,
            Some("denials_only") => AccessLog::DenialsOnly,
            Some(text) => AccessLog::File(folder.join(text.strip_prefix("file:")?)),
        },
        lane: read_lane(optional_value(spec, "lane", Node::text)?)?,
        drain: optional_value(spec, "drain", Node::as_duration)?.unwrap_or(DEFAULT_DRAIN),
        limits: match spec.get("limits") {
            Some(node) => read_limits(node)?,
            None => Limits::default(),
        },
        trust_domain,
    })
}

/// `Some(None)`: not written. `None`: written, but wrong.
pub(crate) fn optional_value<'n, T>(
    node: &'n Node,
    key: &str,
    read: impl Fn(&'n Node) -> Option<T>,
) -> Option<Option<T>> {
    match node.get(key) {
        None => Some(None),
        Some(node) => read(node).map(Some),
    }
}

pub(crate) fn path(node: &Node, key: &str, folder: &Path) -> Option<Option<PathBuf>> {
    optional_value(node, key, |node| node.text().map(|text| folder.join(text)))
}

fn read_identity(node: &Node, own: &TrustDomain, folder: &Path) -> Option<IdentitySource> {
    if let Some(node) = node.get("control_plane") {
        let addresses = items(node, "addresses").iter();
        let pins = items(node, "root_pins").iter();
        return Some(IdentitySource::ControlPlane(ControlPlaneClient {
            addresses: addresses
                .map(|node| node.text().map(str::to_owned))
                .collect::<Option<_>>()?,
            root_pins: pins
                .map(|node| scalar::digest(node.text()?).ok())
                .collect::<Option<_>>()?,
            join_token: path(node, "join_token", folder)?,
            attesters: attester::read(node.get("attester")?, folder)?,
        }));
    }
    let node = node.get("files")?;
    let bundle = items(node, "bundle").iter().map(|node| {
        Some(BundleFile {
            trust_domain: optional_value(node, "trust_domain", Node::parse)?
                .unwrap_or_else(|| own.clone()),
            file: path(node, "file", folder)??,
        })
    });
    Some(IdentitySource::Files(IdentityFiles {
        chain: path(node, "chain", folder)??,
        key: path(node, "key", folder)??,
        bundle: bundle.collect::<Option<_>>()?,
        policy: path(node, "policy", folder)??,
    }))
}

fn read_inbound(node: &Node, folder: &Path) -> Option<InboundListener> {
    let ports = items(node, "ports").iter().map(|node| {
        let upstream = node.get("upstream")?.text()?;
        Some(InboundPort {
            name: node.get("name")?.parse()?,
            upstream: match (upstream.strip_prefix("unix:"), upstream.parse()) {
                (Some(socket), _) => Upstream::Unix(folder.join(socket)),
                (None, Ok(address)) => Upstream::SamePort(address),
                (None, Err(_)) => Upstream::Tcp(upstream.parse().ok()?),
            },
            upstream_http: match optional_value(node, "upstream_http", Node::text)? {
                None | Some("auto") => UpstreamHttp::Auto,
                Some("http1") => UpstreamHttp::Http1,
                Some("http2") => UpstreamHttp::Http2,
                Some(_) => return None,
            },
        })
    });
    Some(InboundListener {
        listen: node.get("listen")?.parse()?,
        advertise: optional_value(node, "advertise", Node::text)?.map(str::to_owned),
        ports: ports.collect::<Option<_>>()?,
    })
}

fn read_outbound(node: &Node, folder: &Path) -> Option<OutboundListener> {
    let listen = node.get("listen")?.text()?;
    let uids = items(node, "allow_uids").iter();
    let endpoints = items(node, "endpoints").iter();
    Some(OutboundListener {
        listen: match listen.strip_prefix("unix:") {
            Some(socket) => ListenAddr::Unix(folder.join(socket)),
            None => ListenAddr::Tcp(listen.parse().ok()?),
        },
        allow_uids: uids
            .map(|node| u32::try_from(node.as_number()?).ok())
            .collect::<Option<_>>()?,
        to: node.get("to")?.parse()?,
        port: node.get("port")?.parse()?,
        endpoints: endpoints
            .map(|node| node.text().map(str::to_owned))
            .collect::<Option<_>>()?,
    })
}

fn read_limits(node: &Node) -> Option<Limits> {
    let default = Limits::default();
    let number = |key, default: usize| match optional_value(node, key, Node::as_number)? {
        Some(found) => usize::try_from(found).ok(),
        None => Some(default),
    };
    let duration =
        |key, default| Some(optional_value(node, key, Node::as_duration)?.unwrap_or(default));
    Some(Limits {
        connections: number("connections", default.connections)?,
        handshakes: number("handshakes", default.handshakes)?,
        handshake: duration("handshake", default.handshake)?,
        connect: duration("connect", default.connect)?,
        idle: optional_value(node, "idle", Node::as_duration)?,
        head_bytes: number("head_bytes", default.head_bytes)?,
        streams: match optional_value(node, "streams", Node::as_number)? {
            Some(found) => u32::try_from(found).ok()?,
            None => default.streams,
        },
        lanes: number("lanes", default.lanes)?,
    })
}
