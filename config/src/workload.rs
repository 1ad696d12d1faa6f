//! `Workload`: a name, who may bear it, and its doors.

use std::collections::BTreeMap;
use std::time::SystemTime;

use vouchsafe_attestation::name::{Name, WorkloadName};

use crate::document::Head;
use crate::policy::{Enforcement, Lane, Port, Protocol};
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, not_built, optional, required};
use crate::yaml::Node;

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name: `spiffe://<trust domain>/ns/<namespace>/workload/<name>`.
    pub name: WorkloadName,
    /// Labels, by which rules may select it.
    pub labels: BTreeMap<String, String>,
    /// The profile that its instances must satisfy.
    pub profile: WorkloadName,
    /// Which instances may bear the name.
    pub members: Members,
    /// Its doors.
    pub ports: Vec<Port>,
}

impl Workload {
    /// The port of a name.
    pub fn port(&self, name: &Name) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == *name)
    }
}

/// Which instances may bear a workload's name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Members {
    /// Those on listed machines; names of `Node` documents.
    Nodes(Vec<WorkloadName>),
    /// Those that show a single-use token, which then pins the hardware it first saw.
    JoinTokens(Vec<JoinToken>),
}

/// A single-use join token, known by its digest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JoinToken {
    /// SHA-256 of the token's text.
    pub sha256: [u8; 32],
    /// When it can no longer be used for the first time; the instant itself is too late.
    pub expires: SystemTime,
}

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 3] = [
    required(
        "profile",
        Shape::Text(&scalar::REFERENCE),
        "The AttestationProfile that instances must satisfy.",
    ),
    required(
        "members",
        Shape::Map(&MapShape {
            fields: &[
                optional(
                    "nodes",
                    Shape::List(&Shape::Text(&scalar::REFERENCE)),
                    "",
                    "Names of Node documents: instances on these machines.",
                ),
                optional(
                    "join_tokens",
                    Shape::List(&Shape::Map(&MapShape {
                        fields: &[
                            required(
                                "sha256",
                                Shape::Text(&scalar::SHA256),
                                "SHA-256 of the token's text.",
                            ),
                            required(
                                "expires",
                                Shape::Text(&scalar::TIMESTAMP),
                                "When the token can no longer be used for the first time.",
                            ),
                        ],
                        exactly_one: &[],
                    })),
                    "",
                    "Single-use tokens: each pins the hardware that it first sees.",
                ),
                not_built("claim"),
            ],
            exactly_one: &[&["nodes", "join_tokens"]],
        }),
        "Which instances may bear the name.",
    ),
    optional(
        "ports",
        Shape::ListOrEmpty(&Shape::Map(&PORT)),
        "[]",
        "Doors of the workload; without any it only calls others.",
    ),
];

static PORT: MapShape = MapShape {
    fields: &[
        required(
            "name",
            Shape::Text(&scalar::NAME),
            "Name of the port, by which policies open it.",
        ),
        optional("port", Shape::Number(1, 65535), "", "Port number."),
        optional(
            "ports",
            Shape::Text(&scalar::PORT_RANGE),
            "",
            "Range of port numbers; the sidecar calls the application on the number that was called.",
        ),
        required(
            "protocol",
            Shape::Word(&["http", "tcp"]),
            "What is spoken: `http` (HTTP/1.1, HTTP/2, gRPC) or `tcp`.",
        ),
        optional(
            "enforcement",
            Shape::Word(&["enforce", "audit"]),
            "enforce",
            "`enforce` refuses what policy denies; `audit` admits, counts and logs it.",
        ),
        optional(
            "lane",
            Shape::Word(&["auto", "shared", "dedicated"]),
            "auto",
            "Which connections between sidecars carry it; `auto`: `shared`, and for `tcp` `dedicated` while flows move much.",
        ),
        optional(
            "probes",
            Shape::ListOrEmpty(&Shape::Text(&scalar::PROBE_PATH)),
            "[]",
            "Paths that the health listener asks the application for; `http` ports only.",
        ),
        not_built("until"),
    ],
    exactly_one: &[&["port", "ports"]],
};

/// Reports what the shape can't say.
pub(crate) fn check(spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let place = place.key("ports", place.owner);
    let ports = spec.get("ports").map_or(&[][..], Node::items);
    let mut names: Vec<&str> = Vec::new();
    let mut ranges: Vec<(u16, u16, &str)> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let place = place.index(index, port);
        let name = port.get("name").and_then(|node| Some((node, node.text()?)));
        if let Some((node, name)) = name {
            if names.contains(&name) {
                let problem = reporter.at(node.span, format!("two ports are called `{name}`"));
                reporter.report(problem.path(place.key("name", node.span).path));
            }
            names.push(name);
        }
        if let Some((node, first, last)) = numbers(port) {
            let overlap = ranges
                .iter()
                .find(|(from, to, _)| first <= *to && *from <= last);
            if let Some((_, _, other)) = overlap {
                let message = format!("the port number is also that of port `{other}`");
                let key = if first == last { "port" } else { "ports" };
                let problem = reporter.at(node.span, message);
                reporter.report(problem.path(place.key(key, node.span).path));
            }
            ranges.push((first, last, name.map_or("", |(_, name)| name)));
        }
        let is_tcp = port.get("protocol").and_then(Node::text) == Some("tcp");
        if let Some(probes) = port.entry("probes")
            && is_tcp
            && !probes.value.items().is_empty()
        {
            let problem = reporter
                .at(probes.key_span, "a `tcp` port has no probes")
                .path(place.key("probes", probes.key_span).path)
                .hint("leave them out, or set `protocol: http`");
            reporter.report(problem);
        }
    }
}

fn numbers(port: &Node) -> Option<(&Node, u16, u16)> {
    if let Some(node) = port.get("ports") {
        let (first, last) = scalar::port_range(node.text()?)?;
        return Some((node, first, last));
    }
    let node = port.get("port")?;
    let number = u16::try_from(node.as_number()?).ok()?;
    Some((node, number, number))
}

pub(crate) fn read(head: &Head, spec: &Node) -> Option<Workload> {
    let name = head.full_name()?;
    let ports = spec.get("ports").map_or(&[][..], Node::items);
    Some(Workload {
        labels: head.labels.clone(),
        profile: scalar::reference(spec.get("profile")?, &name.namespace)?,
        members: read_members(spec.get("members")?, &name.namespace)?,
        ports: ports.iter().map(read_port).collect::<Option<_>>()?,
        name,
    })
}

fn read_members(node: &Node, namespace: &Name) -> Option<Members> {
    match (node.get("nodes"), node.get("join_tokens")) {
        (Some(nodes), None) => {
            let nodes = nodes.items().iter();
            let nodes = nodes.map(|node| scalar::reference(node, namespace));
            nodes.collect::<Option<_>>().map(Members::Nodes)
        }
        (None, Some(tokens)) => {
            let tokens = tokens.items().iter().map(|token| {
                Some(JoinToken {
                    sha256: scalar::digest(token.get("sha256")?.text()?).ok()?,
                    expires: token.get("expires")?.as_time()?,
                })
            });
            tokens.collect::<Option<_>>().map(Members::JoinTokens)
        }
        _ => None,
    }
}

fn read_port(node: &Node) -> Option<Port> {
    let (_, first, last) = numbers(node)?;
    let word = |key| match node.get(key) {
        Some(node) => node.text().map(Some),
        None => Some(None),
    };
    let probes = node.get("probes").map_or(&[][..], Node::items);
    Some(Port {
        name: node.get("name")?.parse()?,
        numbers: (first, last),
        protocol: match word("protocol")? {
            Some("http") => Protocol::Http,
            Some("tcp") => Protocol::Tcp,
            _ => return None,
        },
        enforcement: match word("enforcement")? {
            None | Some("enforce") => Enforcement::Enforce,
            Some("audit") => Enforcement::Audit,
            Some(_) => return None,
        },
        lane: read_lane(word("lane")?)?,
        probes: probes
            .iter()
            .map(|node| node.text().map(str::to_owned))
            .collect::<Option<_>>()?,
    })
}

pub(crate) fn read_lane(word: Option<&str>) -> Option<Lane> {
    match word {
        None | Some("auto") => Some(Lane::Auto),
        Some("shared") => Some(Lane::Shared),
        Some("dedicated") => Some(Lane::Dedicated),
        Some(_) => None,
    }
}
