//! `control-plane.yaml`: what the control plane is told before it has any state.
//!
//! Every key has a safe default, so that a data folder on the command line is enough.
//! Paths that are not absolute are relative to the file's folder.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::document::Kind;
use crate::problem::{Problem, Problems};
use crate::proxy::{optional_value, path};
use crate::scalar;
use crate::set;
use crate::shape::{Field, MapShape, Shape, optional};
use crate::source::Source;
use crate::yaml::Node;

/// A control plane's bootstrap.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    /// Folder of its state: keys, store, records, operator socket. Made with mode 0700.
    pub data: PathBuf,
    /// Where sidecars connect; default `127.0.0.1:15480`.
    pub listen: SocketAddr,
    /// Folder of policy documents; default `policy` in the data folder.
    pub policy: PathBuf,
    /// Where `/metrics`, `/livez` and `/readyz` are served, in plain HTTP; default `127.0.0.1:15481`.
    pub metrics: Option<SocketAddr>,
    /// What is logged; default `info`.
    pub log: LogLevel,
}

/// Least severe event that is logged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogLevel {
    /// An operator must act.
    Error,
    /// Degraded, still safe.
    Warn,
    /// Process and policy changes, denials, issuances.
    #[default]
    Info,
    /// Per connection.
    Debug,
    /// Per frame.
    Trace,
}

impl LogLevel {
    /// The word that `tracing` filters read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Default of `listen`: loopback, so that a first start offers nothing to the network.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15480);
/// Default of `metrics`.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15481);

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 5] = [
    optional(
        "data",
        Shape::Text(&scalar::FILE),
        "/var/lib/vouchsafe",
        "Folder of its state.",
    ),
    optional(
        "listen",
        Shape::Text(&scalar::SOCKET_ADDRESS),
        "127.0.0.1:15480",
        "Where sidecars connect.",
    ),
    optional(
        "policy",
        Shape::Text(&scalar::FILE),
        "",
        "Folder of policy documents; by default `policy` in the data folder.",
    ),
    optional(
        "metrics",
        Shape::Text(&METRICS),
        "127.0.0.1:15481",
        "Where `/metrics`, `/livez` and `/readyz` are served, in plain HTTP; `none` for nowhere.",
    ),
    optional(
        "log",
        Shape::Word(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "Least severe event that is logged.",
    ),
];

static METRICS: crate::shape::Text = crate::shape::Text {
    what: "an address with port, or `none`",
    allowed: "an address with port, or `none`",
    pattern: "^(none|.+:[0-9]{1,5})$",
    check: |text| match text {
        "none" => Ok(()),
        _ => (scalar::SOCKET_ADDRESS.check)(text),
    },
};

impl ControlPlaneConfig {
    /// The defaults for a data folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let data = data.into();
        Self {
            policy: data.join("policy"),
            data,
            listen: DEFAULT_LISTEN,
            metrics: Some(DEFAULT_METRICS),
            log: LogLevel::default(),
        }
    }

    /// Reads the text of a `control-plane.yaml`; `folder` is what its relative paths are relative to.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn parse(source: Source, folder: &Path) -> Result<(Self, Vec<Problem>), Problems> {
        set::parse_single(source, Kind::ControlPlane, |spec| read(spec, folder))
    }
}

fn read(spec: &Node, folder: &Path) -> Option<ControlPlaneConfig> {
    let data = path(spec, "data", folder)?.unwrap_or_else(|| "/var/lib/vouchsafe".into());
    let default = ControlPlaneConfig::new(data);
    Some(ControlPlaneConfig {
        policy: path(spec, "policy", folder)?.unwrap_or(default.policy),
        listen: optional_value(spec, "listen", Node::parse)?.unwrap_or(default.listen),
        metrics: match optional_value(spec, "metrics", Node::text)? {
            None => default.metrics,
            Some("none") => None,
            Some(text) => Some(text.parse().ok()?),
        },
        log: match optional_value(spec, "log", Node::text)? {
            None | Some("info") => LogLevel::Info,
            Some("error") => LogLevel::Error,
            Some("warn") => LogLevel::Warn,
            Some("debug") => LogLevel::Debug,
            Some("trace") => LogLevel::Trace,
            Some(_) => return None,
        },
        data: default.data,
    })
}
