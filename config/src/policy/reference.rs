//! A naive reading of the same documents, written from the design and not from the compiled policy: both must agree on
//! every question.

use std::sync::OnceLock;
use std::time::Duration;

use proptest::prelude::*;
use vouchsafe_attestation::claims::{ClaimValue, Class, EvidenceKind};
use vouchsafe_attestation::peer::Peer;
use vouchsafe_attestation::result::AttestationResult;

use super::*;
use crate::access::{AccessPolicy, Allow, Demands, RequestMatch, Selector};
use crate::set::PolicySet;
use crate::source::Source;
use crate::testing;

const WORKLOADS: [(&str, &str, &str); 4] = [
    ("a", "x", "tier: prod"),
    ("a", "y", "tier: dev"),
    ("b", "x", "tier: prod"),
    ("b", "y", ""),
];

const IDS: [&str; 6] = [
    "spiffe://factory.example/ns/a/workload/x",
    "spiffe://factory.example/ns/a/workload/y",
    "spiffe://factory.example/ns/b/workload/x",
    "spiffe://factory.example/ns/b/workload/unknown",
    "spiffe://factory.example/other/path",
    "spiffe://partner.example/ns/a/workload/x",
];

/// Peers of every name with every result, made once: each takes a signature.
pub(crate) fn peers() -> &'static [Peer] {
    static PEERS: OnceLock<Vec<Peer>> = OnceLock::new();
    PEERS.get_or_init(|| {
        let mut results = vec![None];
        for (class, kind) in [
            (Class::Hardware, EvidenceKind::Tpm),
            (Class::Software, EvidenceKind::Tpm),
            (Class::Simulated, EvidenceKind::Simulated),
        ] {
            for (image, count, age) in [("i1", 3, 0), ("i1", 30, 1200), ("i2", 3, 1201)] {
                let mut claims = vec![("image", ClaimValue::Text(image.to_owned()))];
                if kind == EvidenceKind::Tpm {
                    claims.push(("reset_count", ClaimValue::Number(count)));
                }
                results.push(Some(testing::result(
                    class,
                    kind,
                    &claims,
                    Duration::from_secs(age),
                )));
            }
        }
        let each = |id: &&'static str| {
            let id = *id;
            results
                .iter()
                .map(move |result| testing::peer(id, result.as_ref()))
        };
        IDS.iter().flat_map(each).collect()
    })
}

fn pick(from: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(from)
}

pub(crate) fn rule() -> impl Strategy<Value = String> {
    let from = prop::collection::vec(
        pick(&[
            "{workload: a/x}",
            "{workload: y}",
            "{namespace: a}",
            "{namespace: b, labels: {tier: prod}}",
            "{namespace: a, labels: {tier: none}}",
            "{spiffe_id: \"spiffe://partner.example/ns/a/workload/x\"}",
            "{spiffe_id: \"spiffe://factory.example/other/path\"}",
        ]),
        1..3,
    );
    let demands = |within: &'static [&'static str]| {
        let age = pick(within);
        let classes = pick(&["", "classes: [hardware]", "classes: [software, simulated]"]);
        let require = pick(&[
            "",
            "require: {tpm: {image: i1}}",
            "require: {tpm: {reset_count: \"<10\"}}",
            "require: {simulated: {image: [i1, i2]}}",
            "require: {tpm: {secure_boot: false}}",
        ]);
        let binding = pick(&["", "binding: certificate", "binding: exporter"]);
        let shape = (age, classes, require, binding, any::<bool>());
        shape.prop_map(|(age, classes, require, binding, unattested)| {
            if unattested && binding.is_empty() {
                return "{danger_unattested: true}".to_owned();
            }
            if unattested {
                return format!("{{danger_unattested: true, {binding}}}");
            }
            let parts: Vec<_> = [age, classes, require, binding]
                .into_iter()
                .filter(|p| !p.is_empty())
                .collect();
            format!("{{{}}}", parts.join(", "))
        })
    };
    let allow = pick(&[
        "any",
        "[{methods: [GET], paths: any}]",
        "[{methods: any, paths: [/a, \"/b/*\"]}]",
        "[{methods: [POST, PUT], paths: [\"/a/**\"]}, {methods: [GET], paths: [\"/*/c\"]}]",
        "[{grpc: {service: s.S, methods: [M]}}]",
        "[{grpc: {service: s.S, methods: any}}]",
    ]);
    let expires = pick(&[
        "",
        "  expires: 2027-01-15T08:00:00Z\n  reason: r\n",
        "  expires: 2027-01-15T09:00:00Z\n  reason: r\n",
    ]);
    let port = pick(&["http", "tcp", "audit"]);
    let client = demands(&["", "attested_within: 20m"]);
    (from, client, demands(&[""]), allow, expires, port).prop_map(
        |(from, client, server, allow, expires, port)| {
            let allow = if port == "tcp" { String::new() } else { format!("  allow: {allow}\n") };
            format!(
                "  to: {{workload: x, port: {port}}}\n  from: [{}]\n  client: {client}\n  server: {server}\n{allow}{expires}",
                from.join(", ")
            )
        },
    )
}

pub(crate) fn documents(rules: &[String]) -> PolicySet {
    let mut text = Vec::new();
    for (namespace, name, labels) in WORKLOADS {
        text.push(format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\nspec:\n  profile: p\n  members: {{nodes: [n]}}\n  ports:\n    - {{name: http, port: 1, protocol: http}}\n    - {{name: tcp, ports: 20-22, protocol: tcp}}\n    - {{name: audit, port: 3, protocol: http, enforcement: audit}}\n"
        ));
    }
    for (at, rule) in rules.iter().enumerate() {
        let namespace = if at % 2 == 0 { "a" } else { "b" };
        // Three digits, so that the order of names is that of writing.
        text.push(format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: r{at:03}, namespace: {namespace}}}\nspec:\n{rule}"
        ));
    }
    let sources = text.into_iter().map(|text| Source::new("r.yaml", text));
    PolicySet::slice(sources.collect()).unwrap_or_else(|error| panic!("{error}"))
}

/// The naive decision: the title of the rule that allows, or the word of the denial.
fn naive(set: &PolicySet, context: &Context<'_>) -> Result<Vec<String>, (bool, &'static str)> {
    let ours = context.peer.id().trust_domain() == &testing::trust_domain();
    let named = context.peer.id().workload().filter(|_| ours);
    let inbound = context.direction == Direction::Inbound;
    let (server, client) = if inbound {
        (Some(context.local.clone()), named)
    } else {
        (named, Some(context.local.clone()))
    };
    let known = set.workload(context.local).is_some();
    let server = server
        .and_then(|name| set.workload(&name))
        .filter(|_| known);
    let Some(port) = server.and_then(|server| server.port(context.port)) else {
        return Err((false, "unknown_door"));
    };
    if context
        .number
        .is_some_and(|number| number < port.numbers.0 || port.numbers.1 < number)
    {
        return Err((false, "unknown_door"));
    }
    let mut allowed = Vec::new();
    let mut worst = "no_rule";
    let order = [
        "no_rule",
        "unattested",
        "class",
        "evidence_too_old",
        "claims",
        "request",
        "binding_not_proven",
    ];
    for rule in set.access_policies() {
        if Some(&rule.to) != server.map(|server| &server.name) || rule.port != port.name {
            continue;
        }
        let id = inbound.then(|| context.peer.id().as_str());
        let is_for = |selector: &Selector| match selector {
            Selector::Workload(name) => client.as_ref() == Some(name),
            Selector::Namespace { namespace, labels } => client.as_ref().is_some_and(|client| {
                let held = set.workload(client).map(|workload| workload.labels.clone());
                let held = held.unwrap_or_default();
                client.namespace == *namespace && labels.iter().all(|(k, v)| held.get(k) == Some(v))
            }),
            Selector::SpiffeId(wanted) => id == Some(wanted.as_str()),
        };
        let live = rule
            .break_glass
            .as_ref()
            .is_none_or(|glass| context.now < glass.expires);
        if !live || !rule.from.iter().any(is_for) {
            continue;
        }
        let demands = if inbound { &rule.client } else { &rule.server };
        let verdict = proven(demands, context.peer.result(), context.now);
        let verdict = verdict.and_then(|()| asked(rule, port.protocol, context.request));
        let bound = match context.binding {
            Binding::Certificate => false,
            Binding::Exporter(at) => {
                at + Duration::from_secs(30) >= context.now && at <= context.now
            }
        };
        let verdict = verdict.and_then(|()| {
            if demands.exporter_binding && !bound {
                return Err("binding_not_proven");
            }
            Ok(())
        });
        match verdict {
            Ok(()) => allowed.push(rule.source.document.clone()),
            Err(word) => {
                let rank = |word| order.iter().position(|held| *held == word);
                if rank(word) > rank(worst) {
                    worst = word;
                }
            }
        }
    }
    if !allowed.is_empty() {
        return Ok(allowed);
    }
    let audited = port.enforcement == Enforcement::Audit;
    match (audited, worst, context.peer.result()) {
        (true, "no_rule", None) => Err((false, "unattested")),
        (true, "unattested" | "class", _) | (false, _, _) => Err((false, worst)),
        (true, _, _) => Err((true, worst)),
    }
}

fn proven(
    demands: &Demands,
    result: Option<&AttestationResult>,
    now: SystemTime,
) -> Result<(), &'static str> {
    let Some(result) = result else {
        return if demands.danger_unattested {
            Ok(())
        } else {
            Err("unattested")
        };
    };
    if !demands.classes.is_empty() && !demands.classes.iter().any(|class| *class == result.class) {
        return Err("class");
    }
    if let Some(within) = demands.attested_within
        && result.evidence_time + within < now
    {
        return Err("evidence_too_old");
    }
    for requirement in &demands.require {
        let devices: Vec<_> = result.devices_of(requirement.kind).collect();
        if devices.is_empty() {
            return Err("claims");
        }
        for device in devices {
            for condition in &requirement.conditions {
                let shown = device.claims.get(condition.claim).map(ToString::to_string);
                let wanted = condition.describe();
                let wanted = wanted.split_once(": ").unwrap().1.trim_matches(['[', ']']);
                let fits = |shown: &String| {
                    wanted.split(", ").any(|one| match one.strip_prefix('<') {
                        Some(limit) => {
                            shown.parse::<u64>().unwrap() < limit.parse::<u64>().unwrap()
                        }
                        None => one == shown,
                    })
                };
                if !shown.as_ref().is_some_and(fits) {
                    return Err("claims");
                }
            }
        }
    }
    Ok(())
}

fn asked(
    rule: &AccessPolicy,
    protocol: Protocol,
    request: Option<&Request<'_>>,
) -> Result<(), &'static str> {
    let (Protocol::Http, Some(request)) = (protocol, request) else {
        return Ok(());
    };
    let good = match &rule.allow {
        Allow::Connections => false,
        Allow::Any => true,
        Allow::Only(list) => list.iter().any(|one| match one {
            RequestMatch::Http { methods, paths } => {
                let method = methods
                    .as_ref()
                    .is_none_or(|list| list.contains(&request.method.to_owned()));
                let path = paths
                    .as_ref()
                    .is_none_or(|list| list.iter().any(|p| fits(&p.to_string(), request.path)));
                method && path
            }
            RequestMatch::Grpc { service, methods } => {
                let calls = |method: &str| request.path == format!("/{service}/{method}");
                let called = match methods {
                    Some(methods) => methods.iter().any(|method| calls(method)),
                    None => {
                        request.path.starts_with(&format!("/{service}/"))
                            && request.path.matches('/').count() == 2
                    }
                };
                request.grpc && request.method == "POST" && called
            }
        }),
    };
    if good { Ok(()) } else { Err("request") }
}

/// Segment by segment, by recursion.
fn fits(pattern: &str, path: &str) -> bool {
    fn go(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            (["**"], [_, ..]) | ([], []) => true,
            (["*", pattern @ ..], [first, path @ ..]) => !first.is_empty() && go(pattern, path),
            ([wanted, pattern @ ..], [first, path @ ..]) => wanted == first && go(pattern, path),
            _ => false,
        }
    }
    let pattern: Vec<_> = pattern.split('/').collect();
    let path: Vec<_> = path.split('/').collect();
    go(&pattern, &path)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_compiled_policy_decides_as_the_documents_read(rules in prop::collection::vec(rule(), 0..8)) {
        let set = documents(&rules);
        let policy = set.policy(&testing::trust_domain());
        let locals: [WorkloadName; 3] = ["a/x", "b/x", "b/unknown"].map(|name| name.parse().unwrap());
        let ports: [Name; 4] = ["http", "tcp", "audit", "none"].map(|name| name.parse().unwrap());
        let requests = [
            None,
            Some(("GET", "/a", false)),
            Some(("POST", "/a/b/c", false)),
            Some(("GET", "/b/c", false)),
            Some(("PUT", "/b/", false)),
            Some(("POST", "/s.S/M", true)),
            Some(("POST", "/s.S/N", true)),
            Some(("POST", "/s.S/M", false)),
        ];
        let second = Duration::from_secs(1);
        let bindings = [
            Binding::Certificate,
            Binding::Exporter(testing::now()),
            Binding::Exporter(testing::now() - 30 * second),
            Binding::Exporter(testing::now() - 31 * second),
            Binding::Exporter(testing::now() + second),
        ];
        let numbers = [None, Some(1), None, Some(20), Some(22), Some(23), Some(3), None];
        let mut turn = 0_usize;
        for peer in peers() {
            for local in &locals {
                for port in &ports {
                    for request in requests {
                        let request = request.map(|(method, path, grpc)| Request { method, path, grpc });
                        for direction in [Direction::Inbound, Direction::Outbound] {
                            turn += 1;
                            let context = Context {
                                direction, local, peer, port,
                                number: numbers[(turn / bindings.len()) % numbers.len()],
                                request: request.as_ref(),
                                binding: bindings[turn % bindings.len()],
                                user: None, on_behalf_of: None, now: testing::now(),
                            };
                            let decision = authorize(&policy, &context);
                            prop_assert_eq!(policy.explain(&Question::from(&context)).decision, decision);
                            let agrees = match (decision, naive(&set, &context)) {
                                (Decision::Allow(rule), Ok(allowed)) => {
                                    allowed.first() == policy.source(rule).map(|source| &source.document)
                                }
                                (Decision::Audit(reason), Err((true, word))) => reason.as_str() == word,
                                (Decision::Deny(reason), Err((false, word))) => reason.as_str() == word,
                                _ => false,
                            };
                            prop_assert!(agrees, "{:?} {:?}: {:?} against {:?}", peer.id(), context.request, decision, naive(&set, &context));
                        }
                    }
                }
            }
        }
    }
}
