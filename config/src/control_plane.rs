//! `control-plane.yaml`: what the control plane is told before it has any state.
//!
//! Every key has a safe default, so that a data folder on the command line is enough.
//! Paths that are not absolute are relative to the file's folder.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// Where vendors' statements about hardware come from.
    pub endorsements: EndorsementSources,
}

/// Services of those who sign statements about hardware: the vendors' own, or mirrors of them.
///
/// Each answer is verified up to a root that is compiled in, so a mirror can withhold, but not forge.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndorsementSources {
    /// Ask nobody: what is needed is imported from bundles.
    pub offline: bool,
    /// AMD's key distribution service.
    pub amd_kds: String,
    /// Intel's provisioning certification service, or a caching one (PCCS).
    pub intel_pcs: String,
    /// NVIDIA's service of reference integrity manifests.
    pub nvidia_rim: String,
    /// NVIDIA's OCSP responder.
    pub nvidia_ocsp: String,
    /// Certificates in PEM that the services' TLS is verified with; by default the system's.
    pub ca_file: Option<PathBuf>,
    /// How long an attestation waits for what is not held yet; default 10 s.
    pub wait: Duration,
}

impl Default for EndorsementSources {
    fn default() -> Self {
        Self {
            offline: false,
            amd_kds: AMD_KDS.to_owned(),
            intel_pcs: INTEL_PCS.to_owned(),
            nvidia_rim: NVIDIA_RIM.to_owned(),
            nvidia_ocsp: NVIDIA_OCSP.to_owned(),
            ca_file: None,
            wait: DEFAULT_ENDORSEMENT_WAIT,
        }
    }
}

/// AMD's own service.
pub const AMD_KDS: &str = "https://kdsintf.amd.com";
/// Intel's own service.
pub const INTEL_PCS: &str = "https://api.trustedservices.intel.com";
/// NVIDIA's own service of manifests.
pub const NVIDIA_RIM: &str = "https://rim.attestation.nvidia.com";
/// NVIDIA's own responder.
pub const NVIDIA_OCSP: &str = "https://ocsp.ndis.nvidia.com";
/// Default of `endorsements.wait`: longer than a slow vendor takes, shorter than a sidecar's patience with an attestation.
pub const DEFAULT_ENDORSEMENT_WAIT: Duration = Duration::from_secs(10);
/// Longest `endorsements.wait`: a challenge is good for a minute.
pub const MAX_ENDORSEMENT_WAIT: Duration = Duration::from_secs(45);

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

static FIELDS: [Field; 6] = [
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
    optional(
        "endorsements",
        Shape::Map(&MapShape {
            fields: &ENDORSEMENTS,
            exactly_one: &[],
        }),
        "",
        "Where vendors' statements about hardware come from.",
    ),
];

static ENDORSEMENTS: [Field; 7] = [
    optional(
        "offline",
        Shape::Bool,
        "false",
        "Ask no service: everything comes from `vouchsafe endorsements import`.",
    ),
    optional(
        "amd_kds",
        Shape::Text(&SERVICE),
        AMD_KDS,
        "AMD's key distribution service, or a mirror of it.",
    ),
    optional(
        "intel_pcs",
        Shape::Text(&SERVICE),
        INTEL_PCS,
        "Intel's provisioning certification service, or a caching one (PCCS).",
    ),
    optional(
        "nvidia_rim",
        Shape::Text(&SERVICE),
        NVIDIA_RIM,
        "NVIDIA's service of reference integrity manifests, or a mirror of it.",
    ),
    optional(
        "nvidia_ocsp",
        Shape::Text(&RESPONDER),
        NVIDIA_OCSP,
        "NVIDIA's OCSP responder, or a proxy of it.",
    ),
    optional(
        "ca_file",
        Shape::Text(&scalar::FILE),
        "",
        "Certificates in PEM that the services' TLS is verified with; by default the system's.",
    ),
    optional(
        "wait",
        Shape::Text(&WAIT),
        "10s",
        "How long an attestation waits for what is not held yet, from 1s to 45s.",
    ),
];

static SERVICE: crate::shape::Text = crate::shape::Text {
    what: "the address of a service",
    allowed: "`https://host`, with port and path where needed; `http://` on loopback only",
    pattern: "^https?://.+$",
    check: |text| service(text, false),
};

/// OCSP goes over plain HTTP nearly everywhere: each answer is signed (RFC 6960 appendix A).
static RESPONDER: crate::shape::Text = crate::shape::Text {
    what: "the address of a responder",
    allowed: "`https://host` or `http://host`, with port and path where needed",
    pattern: "^https?://.+$",
    check: |text| service(text, true),
};

static WAIT: crate::shape::Text = crate::shape::Text {
    what: "a duration",
    allowed: "a duration from `1s` to `45s`",
    pattern: "^([0-9]+(ms|s|m|h|d))+$",
    check: |text| match scalar::duration(text) {
        Some(wait) if (Duration::from_secs(1)..=MAX_ENDORSEMENT_WAIT).contains(&wait) => Ok(()),
        Some(_) => Err("an attestation can't wait so long or so short".to_owned()),
        None => (scalar::DURATION.check)(text),
    },
};

fn service(text: &str, plain: bool) -> Result<(), String> {
    let bad = || Err(format!("`{text}` is not the address of a service"));
    let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return bad(),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let with_port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => authority.to_owned(),
        _ => format!("{authority}:443"),
    };
    if text.len() > 512
        || (scalar::HOST_PORT.check)(&with_port).is_err()
        || !path.bytes().all(is_plain)
        || path.split('/').any(|segment| segment == "..")
    {
        return bad();
    }
    let host = with_port.rsplit_once(':').map_or("", |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if is_tls || plain || is_local {
        Ok(())
    } else {
        Err("plain HTTP is for loopback only".to_owned())
    }
}

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
            endorsements: EndorsementSources::default(),
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
        endorsements: match spec.get("endorsements") {
            Some(spec) => endorsements(spec, folder)?,
            None => default.endorsements,
        },
        data: default.data,
    })
}

fn endorsements(spec: &Node, folder: &Path) -> Option<EndorsementSources> {
    let default = EndorsementSources::default();
    let text = |key, default: String| -> Option<String> {
        Some(
            optional_value(spec, key, Node::text)?.map_or(default, |text| {
                // A base to which paths are appended.
                text.trim_end_matches('/').to_owned()
            }),
        )
    };
    Some(EndorsementSources {
        offline: optional_value(spec, "offline", Node::as_bool)?.unwrap_or(default.offline),
        amd_kds: text("amd_kds", default.amd_kds)?,
        intel_pcs: text("intel_pcs", default.intel_pcs)?,
        nvidia_rim: text("nvidia_rim", default.nvidia_rim)?,
        nvidia_ocsp: text("nvidia_ocsp", default.nvidia_ocsp)?,
        ca_file: path(spec, "ca_file", folder)?,
        wait: optional_value(spec, "wait", Node::as_duration)?.unwrap_or(default.wait),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_asked_over_tls_and_responders_also_without() {
        for good in [
            AMD_KDS,
            INTEL_PCS,
            NVIDIA_RIM,
            NVIDIA_OCSP,
            "https://pccs.example:8081/",
            "https://[2001:db8::1]/mirror/amd",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "http://localhost:1",
        ] {
            assert_eq!((SERVICE.check)(good), Ok(()), "{good}");
        }
        let plain = "http://ocsp.example";
        assert!((SERVICE.check)(plain).is_err());
        assert_eq!((RESPONDER.check)(plain), Ok(()));
        for bad in [
            "kdsintf.amd.com",
            "ftp://a",
            "https://",
            "https:///x",
            "https://a b",
            "https://user@host",
            "https://host/?query",
            "https://host/../x",
            "https://host:0",
            "http://127.0.0.1.example",
            "http://127.0.0.1@evil",
        ] {
            assert!((SERVICE.check)(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_are_read_and_have_the_vendors_as_defaults() {
        let read = |spec: &str| {
            let text = format!(
                "apiVersion: vouchsafe.dev/v1alpha1\nkind: ControlPlane\nspec: {{data: d, endorsements: {spec}}}\n"
            );
            let source = Source::new("control-plane.yaml", text);
            ControlPlaneConfig::parse(source, Path::new("/etc"))
                .map(|(config, _)| config.endorsements)
        };
        assert_eq!(read("{}").unwrap(), EndorsementSources::default());
        let found =
            read("{offline: true, intel_pcs: \"https://pccs:8081/\", ca_file: ca.pem, wait: 2s}");
        let expected = EndorsementSources {
            offline: true,
            intel_pcs: "https://pccs:8081".to_owned(),
            ca_file: Some("/etc/ca.pem".into()),
            wait: Duration::from_secs(2),
            ..EndorsementSources::default()
        };
        assert_eq!(found.unwrap(), expected);
        for bad in ["{amd: x}", "{wait: 1m}", "{wait: 0s}", "{offline: yes}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
