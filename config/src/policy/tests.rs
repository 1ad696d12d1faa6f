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
            binding: Binding::Exporter(testing::now()),
            port: &port,
            number: None,
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
fn each_reason_is_produced_by_its_condition() {
    use vouchsafe_attestation::claims::{ClaimValue, Class, EvidenceKind};
    let policy = compile(POLICY);
    let image = |name: &str| [("image", ClaimValue::Text(name.to_owned()))];
    let tpm = |class, name: &str, age: u64| {
        let age = Duration::from_secs(age);
        testing::result(class, EvidenceKind::Tpm, &image(name), age)
    };
    let gateway = |result| testing::workload_peer("edge/gateway", Some(&result));
    let denied = |peer: &Peer, port, reason| {
        assert_eq!(
            ask(&policy, peer, port, None),
            Decision::Deny(reason),
            "{port}"
        );
    };
    let good = tpm(Class::Software, "llm-1", 0);
    denied(&gateway(good.clone()), "none", DenyReason::UnknownDoor);
    denied(
        &testing::workload_peer("edge/other", Some(&good)),
        "openai",
        DenyReason::NoRule,
    );
    denied(
        &testing::workload_peer("edge/gateway", None),
        "openai",
        DenyReason::Unattested,
    );
    denied(
        &gateway(tpm(Class::Software, "llm-1", 1201)),
        "openai",
        DenyReason::EvidenceTooOld,
    );
    denied(
        &gateway(tpm(Class::Software, "llm-9", 0)),
        "openai",
        DenyReason::Claims,
    );
    let simulated = testing::result(
        Class::Simulated,
        EvidenceKind::Simulated,
        &image("llm-1"),
        Duration::ZERO,
    );
    denied(&gateway(simulated.clone()), "openai", DenyReason::Claims);
    denied(&gateway(simulated), "trial", DenyReason::Class);
    let at_the_limit = gateway(tpm(Class::Software, "llm-2", 1200));
    assert!(matches!(
        ask(&policy, &at_the_limit, "openai", None),
        Decision::Allow(_)
    ));
    let words: Vec<_> = DenyReason::ALL.map(DenyReason::as_str).into();
    assert_eq!(
        words,
        [
            "unknown_door",
            "no_rule",
            "unattested",
            "class",
            "evidence_too_old",
            "claims",
            "request",
            "binding_not_proven",
            // `revocation` and the sidecar have the tests of their own conditions.
            "stale",
            "lapsed",
            "revoked"
        ]
    );
}

#[test]
fn audit_admits_what_policy_denies_but_not_who_is_unknown() {
    let policy = compile(POLICY);
    let attested = |name| testing::workload_peer(name, Some(&testing::attested()));
    let get = |path| Some(("GET", path, false));
    let trial = |peer: &Peer, request| ask(&policy, peer, "trial", request);
    assert!(matches!(
        trial(&attested("edge/gateway"), get("/a")),
        Decision::Allow(_)
    ));
    assert_eq!(
        trial(&attested("edge/gateway"), get("/b")),
        Decision::Audit(DenyReason::Request)
    );
    assert_eq!(
        trial(&attested("edge/other"), get("/a")),
        Decision::Audit(DenyReason::NoRule)
    );
    let unattested = |name| testing::workload_peer(name, None);
    assert_eq!(
        trial(&unattested("edge/gateway"), get("/a")),
        Decision::Deny(DenyReason::Unattested)
    );
    assert_eq!(
        trial(&unattested("edge/other"), get("/a")),
        Decision::Deny(DenyReason::Unattested)
    );
}

#[test]
fn only_the_mesh_s_own_trust_domain_has_its_workloads() {
    let policy = compile(POLICY);
    let foreign = testing::peer(
        "spiffe://evil.example/ns/edge/workload/gateway",
        Some(&testing::attested()),
    );
    assert_eq!(
        ask(&policy, &foreign, "openai", None),
        Decision::Deny(DenyReason::NoRule)
    );
    assert_eq!(
        ask(&policy, &foreign, "kv", None),
        Decision::Deny(DenyReason::NoRule)
    );
    assert_eq!(
        authorize(&Policy::default(), &context(&policy_of_llm(), &foreign)),
        Decision::Deny(DenyReason::UnknownDoor)
    );
}

/// A question's fixed parts.
struct Asked {
    local: WorkloadName,
    port: Name,
}

fn policy_of_llm() -> Asked {
    Asked {
        local: "inference/llm".parse().unwrap(),
        port: "openai".parse().unwrap(),
    }
}

fn context<'a>(asked: &'a Asked, peer: &'a Peer) -> Context<'a> {
    Context {
        direction: Direction::Inbound,
        local: &asked.local,
        peer,
        binding: Binding::Exporter(testing::now()),
        port: &asked.port,
        number: None,
        request: None,
        user: None,
        on_behalf_of: None,
        now: testing::now(),
    }
}

#[test]
fn a_peer_of_another_authority_is_admitted_by_its_whole_name() {
    let policy = compile(
        &POLICY
            .replace("from: [{workload: edge/gateway}]\n  client: {attested_within: 20m, require: {tpm: {image: [llm-1, llm-2]}}}",
                "from: [{spiffe_id: \"spiffe://partner.example/spire/gateway\"}]\n  client: {danger_unattested: true}"),
    );
    let partner = testing::peer("spiffe://partner.example/spire/gateway", None);
    let other = testing::peer("spiffe://partner.example/spire/gateway2", None);
    assert!(matches!(
        ask(&policy, &partner, "openai", None),
        Decision::Allow(_)
    ));
    assert_eq!(
        ask(&policy, &other, "openai", None),
        Decision::Deny(DenyReason::NoRule)
    );
}

#[test]
fn outbound_asks_the_peer_s_door_and_what_the_server_proved() {
    let text = POLICY.replace(
        "  allow:\n    - {methods: [POST]",
        "  server: {require: {tpm: {secure_boot: true}}}\n  allow:\n    - {methods: [POST]",
    );
    let policy = compile(&text);
    let ask = |local: &str,
               result: Option<&vouchsafe_attestation::result::AttestationResult>,
               port: &str| {
        let asked = Asked {
            local: local.parse().unwrap(),
            port: port.parse().unwrap(),
        };
        let server = testing::workload_peer("inference/llm", result);
        let context = Context {
            direction: Direction::Outbound,
            ..context(&asked, &server)
        };
        authorize(&policy, &context)
    };
    let plain = testing::attested();
    let secure = [(
        "secure_boot",
        vouchsafe_attestation::claims::ClaimValue::Bool(true),
    )];
    let secure = testing::result(plain.class, plain.root, &secure, Duration::from_secs(9999));
    assert!(matches!(
        ask("edge/gateway", Some(&secure), "openai"),
        Decision::Allow(_)
    ));
    assert_eq!(
        ask("edge/gateway", Some(&plain), "openai"),
        Decision::Deny(DenyReason::Claims)
    );
    assert_eq!(
        ask("edge/gateway", None, "openai"),
        Decision::Deny(DenyReason::Unattested)
    );
    assert_eq!(
        ask("inference/llm", Some(&secure), "openai"),
        Decision::Deny(DenyReason::NoRule)
    );
    assert_eq!(
        ask("edge/nobody", Some(&secure), "openai"),
        Decision::Deny(DenyReason::UnknownDoor)
    );
    assert!(
        matches!(ask("edge/gateway", Some(&plain), "kv"), Decision::Allow(_)),
        "by its labels"
    );
}

#[test]
fn a_break_glass_rule_ends() {
    let expiring = |expires: &str| {
        let text = POLICY.replace(
            "  to: {workload: llm, port: kv}",
            &format!("  expires: {expires}\n  reason: drill\n  to: {{workload: llm, port: kv}}"),
        );
        let gateway = testing::workload_peer("edge/gateway", Some(&testing::attested()));
        ask(&compile(&text), &gateway, "kv", None)
    };
    // `testing::now` is 2027-01-15T08:00:00Z.
    assert!(matches!(
        expiring("2027-01-15T08:00:01Z"),
        Decision::Allow(_)
    ));
    assert_eq!(
        expiring("2027-01-15T08:00:00Z"),
        Decision::Deny(DenyReason::NoRule)
    );
}

#[test]
fn a_rule_whose_allow_is_not_of_the_port_s_protocol_opens_nothing() {
    let gateway = testing::workload_peer("edge/gateway", Some(&testing::attested()));
    let http_without = POLICY
        .replace("\n  allow: [{methods: [GET], paths: [/a]}]", "")
        .replace(", enforcement: audit", "");
    assert_eq!(
        ask(&compile(&http_without), &gateway, "trial", None),
        Decision::Deny(DenyReason::NoRule)
    );
    let tcp_with = POLICY.replace(
        "  to: {workload: llm, port: kv}",
        "  to: {workload: llm, port: kv}\n  allow: any",
    );
    assert_eq!(
        ask(&compile(&tcp_with), &gateway, "kv", None),
        Decision::Deny(DenyReason::NoRule)
    );
}

/// Rules that were looked at for one decision.
fn visited(policy: &Policy, peer: &Peer) -> usize {
    struct Count(usize);
    impl authorize::Watch for Count {
        const SEES_ALL: bool = true;

        fn rule(&mut self, _: RuleId, _: Result<(), Failure>) -> bool {
            self.0 += 1;
            false
        }
    }
    let asked = Asked {
        local: "inference/llm-5".parse().unwrap(),
        port: "p".parse().unwrap(),
    };
    let mut count = Count(0);
    let decision = authorize::judge(policy, &Question::from(&context(&asked, peer)), &mut count);
    assert!(matches!(decision, Decision::Allow(_)));
    count.0
}

pub(super) fn many(policies: usize) -> String {
    let mut text = String::new();
    for at in 0..policies {
        text.push_str(&format!(
            "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {{name: llm-{at}, namespace: inference}}\nspec: {{profile: p, members: {{nodes: [a]}}, ports: [{{name: p, port: 80, protocol: tcp}}]}}\n---\n\
             apiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: rule-{at}, namespace: inference}}\nspec:\n  to: {{workload: llm-{at}, port: p}}\n  from: [{{workload: edge/gateway}}, {{workload: llm-{at}}}]\n---\n"
        ));
    }
    text.push_str("apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: gateway, namespace: edge}\nspec: {profile: inference/p, members: {nodes: [inference/a]}}\n---\n\
        apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {name: p, namespace: inference}\nspec: {any_of: [{tpm: {classes: [software], images: [{name: i, pcrs: {sha256: {\"1\": 0000000000000000000000000000000000000000000000000000000000000000}}}]}}]}\n---\n\
        apiVersion: vouchsafe.dev/v1alpha1\nkind: Node\nmetadata: {name: a, namespace: inference}\nspec: {hardware: {tpm_ek_sha256: 0000000000000000000000000000000000000000000000000000000000000000}}\n---\n\
        apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {trust_domain: factory.example}\n");
    text
}

#[test]
fn ten_thousand_policies_in_one_file_load_and_cost_what_ten_cost() {
    let gateway = testing::workload_peer("edge/gateway", Some(&testing::attested()));
    let cost = |policies: usize| {
        let sources = vec![Source::new("many.yaml", many(policies))];
        let set = PolicySet::parse(sources, Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(set.access_policies().count(), policies);
        visited(&set.policy(&testing::trust_domain()), &gateway)
    };
    assert_eq!((cost(10), cost(10_000)), (1, 1));
}

#[test]
fn a_slice_decides_as_the_whole_and_names_the_operator_s_line() {
    let text = many(5);
    let set = PolicySet::parse(
        vec![Source::new("team/many.yaml", &*text)],
        Options::default(),
    )
    .unwrap();
    let slice = set.slice_for(&"inference/llm-3".parse().unwrap());
    let names: Vec<_> = slice.iter().map(|document| document.title()).collect();
    assert_eq!(
        names,
        ["Workload inference/llm-3", "AccessPolicy inference/rule-3"]
    );
    let texts: Vec<_> = slice
        .iter()
        .map(|d| (d.resource_name(), d.distributable()))
        .collect();
    let texts = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    let policy = PolicySet::compile_slice(&testing::trust_domain(), texts).unwrap();
    let asked = Asked {
        local: "inference/llm-3".parse().unwrap(),
        port: "p".parse().unwrap(),
    };
    let gateway = testing::workload_peer("edge/gateway", Some(&testing::attested()));
    let Decision::Allow(rule) = authorize(&policy, &context(&asked, &gateway)) else {
        panic!()
    };
    let line = text
        .lines()
        .position(|line| line.contains("rule-3"))
        .unwrap()
        - 1;
    let source = policy.source(rule).unwrap();
    assert_eq!(
        (source.document.as_str(), source.file.as_str()),
        ("AccessPolicy inference/rule-3", "team/many.yaml")
    );
    assert_eq!(source.line as usize, line);
    let caller = set.slice_for(&"edge/gateway".parse().unwrap());
    assert_eq!(
        caller.len(),
        11,
        "its own document, and the doors that it may call with their rules"
    );
}

#[test]
fn a_strict_rule_admits_who_has_proven_its_key_lately_over_this_connection() {
    let text = POLICY.replace(
        "client: {attested_within: 20m,",
        "client: {binding: exporter, attested_within: 20m,",
    );
    let (policy, plain) = (compile(&text), compile(POLICY));
    let asked = policy_of_llm();
    let peer = testing::workload_peer("edge/gateway", Some(&testing::attested()));
    let decide = |policy: &Policy, binding| {
        let context = Context {
            binding,
            ..context(&asked, &peer)
        };
        authorize(policy, &context)
    };
    let ago = |age| Binding::Exporter(testing::now() - age);
    let (lasts, more) = (Binding::LASTS, Duration::from_nanos(1));
    for good in [ago(Duration::ZERO), ago(lasts)] {
        assert!(matches!(decide(&policy, good), Decision::Allow(_)));
        assert!(good.ends() > Some(testing::now()));
    }
    assert_eq!(ago(lasts + more).ends(), Some(testing::now()));
    for bad in [
        Binding::Certificate,
        ago(lasts + more),
        Binding::Exporter(testing::now() + more),
    ] {
        let denied = Decision::Deny(DenyReason::BindingNotProven);
        assert_eq!(decide(&policy, bad), denied, "{bad:?}");
        assert!(matches!(decide(&plain, bad), Decision::Allow(_)));
    }
    let strict = |policy: &Policy| policy.strict(&asked.local, &asked.port);
    assert_eq!(
        strict(&policy),
        Strict {
            client: true,
            server: false
        }
    );
    assert_eq!(strict(&plain), Strict::default());
}

#[test]
fn who_is_denied_for_something_else_is_not_asked_for_a_proof() {
    let text = POLICY.replace(
        "client: {attested_within: 20m,",
        "client: {binding: exporter, attested_within: 20m,",
    );
    let policy = compile(&text);
    let asked = policy_of_llm();
    let peer = testing::workload_peer("edge/gateway", Some(&testing::attested()));
    let request = Request {
        method: "DELETE",
        path: "/nowhere",
        grpc: false,
    };
    let context = Context {
        binding: Binding::Certificate,
        request: Some(&request),
        ..context(&asked, &peer)
    };
    let decision = authorize(&policy, &context);
    assert_eq!(decision, Decision::Deny(DenyReason::Request));
}

/// The policy with other numbers for the range of ports `kv`.
fn with_range(numbers: &str) -> Policy {
    compile(&POLICY.replace("5000-5031", numbers))
}

#[test]
fn a_number_outside_the_range_is_no_door() {
    let policy = with_range("5000-5031");
    let asked = Asked {
        local: "inference/llm".parse().unwrap(),
        port: "kv".parse().unwrap(),
    };
    let peer = testing::workload_peer("edge/gateway", Some(&testing::attested()));
    let decide = |number| {
        let context = Context {
            number,
            ..context(&asked, &peer)
        };
        authorize(&policy, &context)
    };
    for good in [None, Some(5000), Some(5031)] {
        assert!(matches!(decide(good), Decision::Allow(_)), "{good:?}");
    }
    for bad in [Some(4999), Some(5032), Some(0)] {
        let denied = Decision::Deny(DenyReason::UnknownDoor);
        assert_eq!(decide(bad), denied, "{bad:?}");
    }
}

#[test]
fn a_rule_stands_as_long_as_its_door_loses_no_number() {
    let before = with_range("5000-5031");
    let peer = testing::workload_peer("edge/gateway", Some(&testing::attested()));
    let Decision::Allow(rule) = ask(&before, &peer, "kv", None) else {
        panic!("nobody is admitted");
    };
    let stands = |numbers| with_range(numbers).carried(&before, rule).is_some();
    for good in ["5000-5031", "5000-5032", "4999-5031", "4000-6000"] {
        assert!(stands(good), "{good}");
    }
    for bad in ["5001-5031", "5000-5030", "5032-5063"] {
        assert!(!stands(bad), "{bad}");
    }
}
