//! `AccessPolicy`: who may come through one door, and for what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use vouchsafe_attestation::claims::Class;
use vouchsafe_attestation::name::{Name, WorkloadName};
use vouchsafe_attestation::spiffe_id::SpiffeId;

use crate::claim::{self, Requirement};
use crate::document::Head;
use crate::policy::{PathPattern, RuleSource};
use crate::problem::Reporter;
use crate::scalar;
use crate::shape::{Field, MapShape, Place, Shape, not_built, optional, required};
use crate::yaml::Node;

/// One rule: it opens one port of one workload of its own namespace.
#[derive(Clone, Debug)]
pub struct AccessPolicy {
    /// Namespace and name of the document.
    pub name: WorkloadName,
    /// The workload whose door it opens.
    pub to: WorkloadName,
    /// The door.
    pub port: Name,
    /// Who may come.
    pub from: Vec<Selector>,
    /// What a client must have proven.
    pub client: Demands,
    /// What the server must have proven to its client.
    pub server: Demands,
    /// What may be asked.
    pub allow: Allow,
    /// For break-glass rules: when it ends, and why it is there.
    pub break_glass: Option<BreakGlass>,
    /// Where it was written.
    pub source: RuleSource,
}

/// Whom a rule admits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selector {
    /// One workload of this mesh.
    Workload(WorkloadName),
    /// All workloads of a namespace that bear all these labels.
    Namespace {
        /// The namespace.
        namespace: Name,
        /// Labels; empty: all of the namespace.
        labels: BTreeMap<String, String>,
    },
    /// A peer that another authority names.
    SpiffeId(SpiffeId),
}

/// What one end must have proven.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Demands {
    /// Greatest age of the evidence; clients only.
    pub attested_within: Option<Duration>,
    /// Accepted classes; empty: all that the mesh issues.
    pub classes: BTreeSet<Class>,
    /// Claims.
    pub require: Vec<Requirement>,
    /// Whether the end must prove its key over the TLS exporter of the very connection (`binding: exporter`).
    pub exporter_binding: bool,
    /// Whether the end may lack an attestation result altogether.
    pub danger_unattested: bool,
}

/// What may be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Allow {
    /// Nothing was written: right for `tcp` ports, and opens no `http` port.
    Connections,
    /// Everything.
    Any,
    /// Requests that match one of these.
    Only(Vec<RequestMatch>),
}

/// One sort of request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RequestMatch {
    /// By method and path.
    Http {
        /// Methods; `None`: any.
        methods: Option<Vec<String>>,
        /// Paths; `None`: any.
        paths: Option<Vec<PathPattern>>,
    },
    /// By gRPC service and method.
    Grpc {
        /// Full name of the service.
        service: String,
        /// Methods; `None`: any.
        methods: Option<Vec<String>>,
    },
}

/// A rule for an emergency.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BreakGlass {
    /// When the rule stops matching; the instant itself is too late.
    pub expires: SystemTime,
    /// Why it is there.
    pub reason: String,
}

/// Longest life of a break-glass rule.
pub const MAX_BREAK_GLASS: Duration = Duration::from_secs(4 * 3600);

pub(crate) static SPEC: MapShape = MapShape {
    fields: &FIELDS,
    exactly_one: &[],
};

static FIELDS: [Field; 7] = [
    required(
        "to",
        Shape::Map(&MapShape {
            fields: &[
                required(
                    "workload",
                    Shape::Text(&scalar::REFERENCE),
                    "A workload of this namespace.",
                ),
                required(
                    "port",
                    Shape::Text(&scalar::NAME),
                    "Name of one of its ports.",
                ),
            ],
            exactly_one: &[],
        }),
        "The door that the rule opens.",
    ),
    required(
        "from",
        Shape::List(&Shape::Map(&MapShape {
            fields: &[
                optional(
                    "workload",
                    Shape::Text(&scalar::REFERENCE),
                    "",
                    "One workload.",
                ),
                optional(
                    "namespace",
                    Shape::Text(&scalar::NAME),
                    "",
                    "All workloads of a namespace, or those with `labels`.",
                ),
                optional(
                    "labels",
                    Shape::MapOf(&scalar::LABEL_KEY, &Shape::Text(&scalar::LABEL_VALUE)),
                    "",
                    "Labels that the workloads of `namespace` must bear, all of them.",
                ),
                optional(
                    "spiffe_id",
                    Shape::Text(&scalar::SPIFFE_ID),
                    "",
                    "A peer that another authority names, such as SPIRE.",
                ),
            ],
            exactly_one: &[&["workload", "namespace", "spiffe_id"]],
        })),
        "Who may come.",
    ),
    optional(
        "client",
        Shape::Map(&MapShape {
            fields: &[
                optional(
                    "attested_within",
                    Shape::Text(&scalar::DURATION),
                    "",
                    "Greatest age of the client's evidence; at least twice the mesh's `reattest.root`.",
                ),
                CLASSES,
                REQUIRE,
                BINDING,
                UNATTESTED,
            ],
            exactly_one: &[],
        }),
        "",
        "What the client must have proven; by default, that it has an attestation result.",
    ),
    optional(
        "server",
        Shape::Map(&MapShape {
            fields: &[CLASSES, REQUIRE, BINDING, UNATTESTED],
            exactly_one: &[],
        }),
        "",
        "What the server must have proven to its client; by default, that it has an attestation result.",
    ),
    optional(
        "allow",
        Shape::AnyOr(&Shape::List(&Shape::Map(&ALLOW))),
        "",
        "What may be asked: mandatory for `http` ports, forbidden for `tcp` ports.",
    ),
    optional(
        "expires",
        Shape::Text(&scalar::TIMESTAMP),
        "",
        "Break glass: when the rule ends, at most 4 hours from now; needs `reason`.",
    ),
    optional(
        "reason",
        Shape::Text(&scalar::WORDS),
        "",
        "Break glass: why the rule is there; needs `expires`.",
    ),
];

const CLASSES: Field = optional(
    "classes",
    Shape::List(&Shape::Word(&["hardware", "software", "simulated"])),
    "",
    "Accepted classes; without it all that the mesh issues.",
);

const REQUIRE: Field = optional(
    "require",
    Shape::Map(&claim::REQUIRE),
    "",
    "Claims of the attestation result, by kind of device.",
);

const BINDING: Field = optional(
    "binding",
    Shape::Word(&["certificate", "exporter"]),
    "certificate",
    "`exporter`: before any byte passes, and again and again, the key of the certificate is proven over this very TLS connection; needs our sidecar at both ends.",
);

const UNATTESTED: Field = optional(
    "danger_unattested",
    Shape::Bool,
    "false",
    "Whether the peer may lack an attestation result: under authorities marked `attested: false`.",
);

static ALLOW: MapShape = MapShape {
    fields: &[
        optional(
            "methods",
            Shape::AnyOr(&Shape::List(&Shape::Text(&scalar::METHOD))),
            "",
            "HTTP methods, or `any`.",
        ),
        optional(
            "paths",
            Shape::AnyOr(&Shape::List(&Shape::Text(&scalar::PATH_PATTERN))),
            "",
            "Paths, or `any`; `*` is one segment, `**` the rest.",
        ),
        optional(
            "grpc",
            Shape::Map(&MapShape {
                fields: &[
                    required(
                        "service",
                        Shape::Text(&scalar::GRPC_NAME),
                        "Full name of the gRPC service.",
                    ),
                    required(
                        "methods",
                        Shape::AnyOr(&Shape::List(&Shape::Text(&scalar::GRPC_NAME))),
                        "Methods of the service, or `any`.",
                    ),
                ],
                exactly_one: &[],
            }),
            "",
            "A gRPC service.",
        ),
        not_built("models"),
        not_built("users"),
    ],
    exactly_one: &[],
};

/// Reports what the shape can't say.
pub(crate) fn check(
    head: &Head,
    spec: &Node,
    place: &Place,
    now: Option<SystemTime>,
    reporter: &mut Reporter<'_>,
) {
    check_to(head, spec, place, reporter);
    let from = place.key("from", place.owner);
    for (index, node) in spec
        .get("from")
        .map_or(&[][..], Node::items)
        .iter()
        .enumerate()
    {
        let other = node.entry("workload").or(node.entry("spiffe_id"));
        if let (Some(labels), None, Some(_)) =
            (node.entry("labels"), node.entry("namespace"), other)
        {
            let problem = reporter
                .at(labels.key_span, "`labels` needs `namespace`")
                .path(from.index(index, node).key("labels", labels.key_span).path);
            reporter.report(problem);
        }
    }
    for end in ["client", "server"] {
        if let Some(node) = spec.get(end) {
            check_demands(node, &place.key(end, place.owner), reporter);
        }
    }
    let allow = place.key("allow", place.owner);
    for (index, node) in spec
        .get("allow")
        .map_or(&[][..], Node::items)
        .iter()
        .enumerate()
    {
        check_allow(node, &allow.index(index, node), reporter);
    }
    check_break_glass(spec, place, now, reporter);
}

fn check_to(head: &Head, spec: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let (Some(node), Some(namespace)) = (spec.find(&["to", "workload"]), &head.namespace) else {
        return;
    };
    if let Some(workload) = scalar::reference(node, namespace)
        && workload.namespace != *namespace
    {
        let message = format!(
            "an AccessPolicy opens doors of its own namespace `{namespace}` only, not of `{}`",
            workload.namespace
        );
        let problem = reporter
            .at(node.span, message)
            .path(place.key("to.workload", node.span).path)
            .hint(format!(
                "write the rule in namespace `{}`",
                workload.namespace
            ));
        reporter.report(problem);
    }
}

fn check_demands(node: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    if node.get("danger_unattested").and_then(Node::as_bool) != Some(true) {
        return;
    }
    for entry in node.entries() {
        if matches!(
            entry.key.as_str(),
            "attested_within" | "classes" | "require"
        ) {
            let message = format!(
                "`{}` can't stand beside `danger_unattested: true`",
                entry.key
            );
            let problem = reporter
                .at(entry.key_span, message)
                .path(place.key(&entry.key, entry.key_span).path)
                .hint("a peer without a result proves nothing: make two rules of it");
            reporter.report(problem);
        }
    }
}

fn check_allow(node: &Node, place: &Place, reporter: &mut Reporter<'_>) {
    let has = |key| node.entry(key).is_some();
    if !matches!(node.value, crate::yaml::Value::Map(_)) || has("models") || has("users") {
        return;
    }
    if let Some(grpc) = node.entry("grpc") {
        if has("methods") || has("paths") {
            let problem = reporter
                .at(
                    grpc.key_span,
                    "`grpc` can't stand beside `methods` or `paths`",
                )
                .path(place.key("grpc", grpc.key_span).path)
                .hint("make two items of it");
            reporter.report(problem);
        }
        return;
    }
    let missing: &[&str] = match (has("methods"), has("paths")) {
        (true, true) => &[],
        (false, true) => &["methods"],
        (true, false) => &["paths"],
        (false, false) => &["methods", "paths"],
    };
    if !missing.is_empty()
        && node
            .entries()
            .iter()
            .all(|e| ALLOW.fields.iter().any(|f| f.key == e.key))
    {
        let names = crate::problem::list(missing.iter().copied());
        let problem = reporter
            .at(place.owner, format!("missing {names}"))
            .path(place.path.clone())
            .hint("`any` allows all of them");
        reporter.report(problem);
    }
}

fn check_break_glass(
    spec: &Node,
    place: &Place,
    now: Option<SystemTime>,
    reporter: &mut Reporter<'_>,
) {
    for (one, other) in [("expires", "reason"), ("reason", "expires")] {
        if let (Some(entry), None) = (spec.entry(one), spec.entry(other)) {
            let problem = reporter
                .at(entry.key_span, format!("`{one}` needs `{other}`"))
                .path(place.key(one, entry.key_span).path);
            reporter.report(problem);
        }
    }
    let (Some(node), Some(now)) = (spec.get("expires"), now) else {
        return;
    };
    let Some(expires) = node.as_time() else {
        return;
    };
    let path = place.key("expires", node.span).path;
    if expires <= now {
        let problem = reporter.at(node.span, "the rule has expired and matches nothing");
        reporter.report(problem.path(path).hint("delete the document").warning());
    } else if expires > now + MAX_BREAK_GLASS {
        let problem = reporter
            .at(node.span, "a break-glass rule ends within 4 hours")
            .path(path)
            .allowed(format!(
                "at most `{}`",
                scalar::show_time(now + MAX_BREAK_GLASS)
            ))
            .hint("a rule that stays has no `expires`");
        reporter.report(problem);
    }
}

pub(crate) fn read(head: &Head, spec: &Node, source: RuleSource) -> Option<AccessPolicy> {
    let name = head.full_name()?;
    let to = spec.get("to")?;
    let from = spec.get("from")?.items().iter();
    let from = from.map(|node| read_selector(node, &name.namespace));
    Some(AccessPolicy {
        to: scalar::reference(to.get("workload")?, &name.namespace)?,
        port: to.get("port")?.parse()?,
        from: from.collect::<Option<_>>()?,
        client: read_demands(spec.get("client"))?,
        server: read_demands(spec.get("server"))?,
        allow: read_allow(spec.get("allow"))?,
        break_glass: match (spec.get("expires"), spec.get("reason")) {
            (None, None) => None,
            (expires, reason) => Some(BreakGlass {
                expires: expires?.as_time()?,
                reason: reason?.text()?.to_owned(),
            }),
        },
        source,
        name,
    })
}

pub(crate) fn read_selector(node: &Node, namespace: &Name) -> Option<Selector> {
    if let Some(workload) = node.get("workload") {
        return scalar::reference(workload, namespace).map(Selector::Workload);
    }
    if let Some(id) = node.get("spiffe_id") {
        return id.parse().map(Selector::SpiffeId);
    }
    let labels = node.get("labels").map_or(&[][..], Node::entries);
    let labels = labels
        .iter()
        .map(|entry| Some((entry.key.clone(), entry.value.text()?.to_owned())));
    Some(Selector::Namespace {
        namespace: node.get("namespace")?.parse()?,
        labels: labels.collect::<Option<_>>()?,
    })
}

pub(crate) fn read_demands(node: Option<&Node>) -> Option<Demands> {
    let Some(node) = node else {
        return Some(Demands::default());
    };
    Some(Demands {
        attested_within: match node.get("attested_within") {
            Some(node) => Some(node.as_duration()?),
            None => None,
        },
        classes: match node.get("classes") {
            Some(list) => list
                .items()
                .iter()
                .map(Node::parse)
                .collect::<Option<_>>()?,
            None => BTreeSet::new(),
        },
        require: claim::read(node.get("require")),
        exporter_binding: node.get("binding").and_then(Node::text) == Some("exporter"),
        danger_unattested: match node.get("danger_unattested") {
            Some(node) => node.as_bool()?,
            None => false,
        },
    })
}

fn read_allow(node: Option<&Node>) -> Option<Allow> {
    let Some(node) = node else {
        return Some(Allow::Connections);
    };
    if node.text() == Some("any") {
        return Some(Allow::Any);
    }
    let matches = node.items().iter().map(|node| match node.get("grpc") {
        Some(grpc) => Some(RequestMatch::Grpc {
            service: grpc.get("service")?.text()?.to_owned(),
            methods: read_any_or(grpc.get("methods")?, |text| Some(text.to_owned()))?,
        }),
        None => Some(RequestMatch::Http {
            methods: read_any_or(node.get("methods")?, |text| Some(text.to_owned()))?,
            paths: read_any_or(node.get("paths")?, |text| PathPattern::parse(text).ok())?,
        }),
    });
    let matches: Vec<_> = matches.collect::<Option<_>>()?;
    (!matches.is_empty()).then_some(Allow::Only(matches))
}

fn read_any_or<T>(node: &Node, read: impl Fn(&str) -> Option<T>) -> Option<Option<Vec<T>>> {
    if node.text() == Some("any") {
        return Some(None);
    }
    let items = node.items().iter().map(|node| read(node.text()?));
    items.collect::<Option<Vec<_>>>().map(Some)
}
