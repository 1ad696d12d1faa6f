//! The configuration as operators may see it: without secrets, with the addresses that were really bound.

use std::net::SocketAddr;

use serde_json::{Value, json};
use vouchsafe_config::policy::Lane;
use vouchsafe_config::proxy::{
    AccessLog, Attester, IdentitySource, InboundListener, ListenAddr, OutboundListener,
    ProxyConfig, Upstream, UpstreamHttp,
};

/// What was really bound; a port of 0 has become a number.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// One per inbound listener.
    pub inbound: Vec<SocketAddr>,
    /// One per outbound listener.
    pub outbound: Vec<ListenAddr>,
    /// Of the probes listener.
    pub health: Option<SocketAddr>,
    /// Of the metrics listener.
    pub metrics: Option<SocketAddr>,
}

impl Addresses {
    /// For the log line that says where the sidecar listens.
    pub fn to_json(&self) -> Value {
        json!({
            "inbound": self.inbound,
            "outbound": self.outbound.iter().map(listen_addr).collect::<Vec<_>>(),
            "health": self.health,
            "metrics": self.metrics,
        })
    }
}

/// Everything of `proxy.yaml` that is no secret.
pub fn config_dump(config: &ProxyConfig, addresses: &Addresses) -> Value {
    let inbound = config.inbound.iter().zip(&addresses.inbound);
    let outbound = config.outbound.iter().zip(&addresses.outbound);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "trust_domain": config.trust_domain.as_str(),
        "workload": config.workload.to_string(),
        "identity": identity(&config.identity),
        "inbound": inbound.map(|(door, bound)| inbound_listener(door, *bound)).collect::<Vec<_>>(),
        "outbound": outbound.map(|(door, bound)| outbound_listener(door, bound)).collect::<Vec<_>>(),
        "health": addresses.health,
        "metrics": addresses.metrics,
        "admin": config.admin,
        "workers": config.workers,
        "access_log": match &config.access_log {
            AccessLog::Stdout => json!("stdout"),
            AccessLog::File(path) => json!(path),
            AccessLog::DenialsOnly => json!("denials_only"),
        },
        "lane": match config.lane {
            Lane::Auto => "auto",
            Lane::Shared => "shared",
            Lane::Dedicated => "dedicated",
        },
        "drain_ms": config.drain.as_millis(),
        "limits": {
            "connections": config.limits.connections,
            "handshakes": config.limits.handshakes,
            "handshake_ms": config.limits.handshake.as_millis(),
            "connect_ms": config.limits.connect.as_millis(),
            "idle_ms": config.limits.idle.map(|idle| idle.as_millis()),
            "head_bytes": config.limits.head_bytes,
            "streams": config.limits.streams,
            "lanes": config.limits.lanes,
        },
    })
}

fn identity(source: &IdentitySource) -> Value {
    match source {
        IdentitySource::ControlPlane(client) => json!({
            "control_plane": client.addresses,
            "root_pins": client.root_pins.iter().map(hex::encode).collect::<Vec<_>>(),
            // The path; the token itself is never kept.
            "join_token": client.join_token,
            // All of them were found, or the sidecar would not have started.
            "attesters": client.attesters.iter().map(Attester::as_str).collect::<Vec<_>>(),
        }),
        IdentitySource::Files(files) => json!({
            "chain": files.chain,
            "key": files.key,
            "bundle": files.bundle.iter().map(|bundle| json!({
                "trust_domain": bundle.trust_domain.as_str(),
                "file": bundle.file,
            })).collect::<Vec<_>>(),
            "policy": files.policy,
        }),
    }
}

fn inbound_listener(door: &InboundListener, bound: SocketAddr) -> Value {
    let ports: Vec<Value> = door
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name.as_str(),
                "upstream": match &port.upstream {
                    Upstream::Tcp(address) => json!(address),
                    Upstream::SamePort(ip) => json!({"same_port_on": ip}),
                    Upstream::Unix(path) => json!(path),
                },
                "upstream_http": match port.upstream_http {
                    UpstreamHttp::Auto => "auto",
                    UpstreamHttp::Http1 => "http1",
                    UpstreamHttp::Http2 => "http2",
                },
            })
        })
        .collect();
    json!({"listen": bound, "advertise": door.advertise, "ports": ports})
}

fn outbound_listener(door: &OutboundListener, bound: &ListenAddr) -> Value {
    json!({
        "listen": listen_addr(bound),
        "allow_uids": door.allow_uids,
        "to": door.to.to_string(),
        "port": door.port.as_str(),
        "endpoints": door.endpoints,
    })
}

fn listen_addr(bound: &ListenAddr) -> Value {
    match bound {
        ListenAddr::Tcp(address) => json!(address),
        ListenAddr::Unix(path) => json!(path),
    }
}
