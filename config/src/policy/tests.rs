use super::*;
use crate::set::{Options, PolicySet};
use crate::source::Source;
use crate::testing;
use vouchsafe_attestation::peer::Peer;

pub(super) const POLICY: &str = r#"
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: llm, namespace: inference}
spec:
  profile: any
  members: {nodes: [a]}
  ports:
    - {name: openai, port: 8000, protocol: http}
    - {name: kv, ports: 5000-5031, protocol: tcp}
    - {name: trial, port: 8001, protocol: http, enforcement: audit}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: gateway, namespace: edge, labels: {tier: prod}}
spec: {profile: any, members: {nodes: [a]}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: gateway-to-llm, namespace: inference}
spec:
  to: {workload: llm, port: openai}
  from: [{workload: edge/gateway}]
  client: {attested_within: 20m, require: {tpm: {image: [llm-1, llm-2]}}}
  allow:
    - {methods: [POST], paths: [/v1/chat/completions, "/v1/models/*"]}
    - grpc: {service: inference.Llm, methods: [Generate]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: kv, namespace: inference}
spec:
  to: {workload: llm, port: kv}
  from: [{namespace: edge, labels: {tier: prod}}]
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: trial, namespace: inference}
spec:
  to: {workload: llm, port: trial}
  from: [{workload: edge/gateway}]
  client: {classes: [hardware, software]}
  allow: [{methods: [GET], paths: [/a]}]
"#;

pub(super) fn compile(text: &str) -> Policy {
    let documents = text.split("\n---\n").map(|text| ("policy/x", text));
    PolicySet::compile_slice(&testing::trust_domain(), documents).unwrap_or_else(|e| panic!("{e}"))
}

pub(super) fn ask(
    policy: &Policy,
    peer: &Peer,
    port: &str,
    request: Option<(&str, &str, bool)>,
) -> Decision {
    let local = "inference/llm".parse().unwrap();
    let port = port.parse().unwrap();
    let request = request.map(|(method, path, grpc)| Request { method, path, grpc });
    authorize(
        policy,
        &Context {
            direction: Direction::Inbound,
            local: &local,
            peer,
            port: &port,
            request: request.as_ref(),
            user: None,
            on_behalf_of: None,
            now: testing::now(),
        },
    )
}

#[test]
fn a_rule_admits_what_it_names_and_nothing_else() {
    let policy = compile(POLICY);
    let gateway = testing::workload_peer("edge/gateway", Some(&testing::attested()));
    let post = |path| Some(("POST", path, false));
    let allow = |decision| matches!(decision, Decision::Allow(_));
    assert!(allow(ask(&policy, &gateway, "openai", None)));
    assert!(allow(ask(
        &policy,
        &gateway,
        "openai",
        post("/v1/chat/completions")
    )));
    assert!(allow(ask(
        &policy,
        &gateway,
        "openai",
        post("/v1/models/x")
    )));
    assert!(allow(ask(
        &policy,
        &gateway,
        "openai",
        Some(("POST", "/inference.Llm/Generate", true))
    )));
    assert!(allow(ask(&policy, &gateway, "kv", None)));
    let denied = |port, request, reason| {
        assert_eq!(
            ask(&policy, &gateway, port, request),
            Decision::Deny(reason)
        );
    };
    denied("openai", post("/v1/models"), DenyReason::Request);
    denied(
        "openai",
        Some(("GET", "/v1/chat/completions", false)),
        DenyReason::Request,
    );
    denied(
        "openai",
        Some(("POST", "/inference.Llm/Generate", false)),
        DenyReason::Request,
    );
    denied(
        "openai",
        Some(("POST", "/inference.Llm/Train", true)),
        DenyReason::Request,
    );
    denied("other", None, DenyReason::UnknownDoor);
}

#[test]
fn a_whole_set_reads_and_names_lines() {
    let set = PolicySet::parse(vec![Source::new("a.yaml", POLICY)], Options::default());
    let documents: Vec<_> = match &set {
        Ok(set) => set
            .documents()
            .iter()
            .map(|d| (d.title(), d.line))
            .collect(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(
        documents[2],
        ("AccessPolicy inference/gateway-to-llm".to_owned(), 18)
    );
}
