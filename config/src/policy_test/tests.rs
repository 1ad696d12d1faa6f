use super::*;
use crate::set::{Options, PolicySet};
use crate::testing;

const POLICY: &str = include_str!("../../examples/full.yaml");

fn test(expect: &str) -> Result<PolicyTest, Problems> {
    let text = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nspec:\n  expect:\n{expect}"
    );
    PolicyTest::parse(Source::new("t.yaml", text)).map(|(test, _)| test)
}

fn policy() -> Policy {
    let text = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Workload\nmetadata: {name: llm, namespace: a}\nspec:\n  profile: p\n  members: {nodes: [n]}\n  ports: [{name: web, port: 1, protocol: http}, {name: seen, port: 2, protocol: http, enforcement: audit}]\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: r, namespace: a}\nspec:\n  to: {workload: llm, port: web}\n  from: [{workload: b/gateway}, {spiffe_id: \"spiffe://partner.example/x\"}]\n  client: {attested_within: 20m, require: {tpm: {image: [i1, i2], reset_count: \">=3\"}}}\n  allow: [{methods: [POST], paths: [\"/v1/*\"]}]\n";
    let set = PolicySet::slice(vec![Source::new("p.yaml", text)]);
    set.unwrap_or_else(|error| panic!("{error}"))
        .policy(&testing::trust_domain())
}

const GOOD: &str = "    - {name: n, from: b/gateway, to: a/llm, port: web, method: POST, path: /v1/chat, class: software, claims: {tpm: {image: i1, reset_count: 4}}, decision: allow}\n";

#[track_caller]
fn fares(expect: &str, is_met: bool) {
    let test = test(expect).unwrap_or_else(|error| panic!("{error}"));
    let fared = test.expectations[0].run(&policy(), &testing::trust_domain(), testing::now());
    assert_eq!(fared.is_met, is_met, "{}", fared.explanation);
}

#[test]
fn an_expectation_is_met_only_by_the_very_decision() {
    fares(GOOD, true);
    fares(
        &GOOD.replace("decision: allow", "decision: allow, rule: a/r"),
        true,
    );
    fares(
        &GOOD.replace("decision: allow", "decision: allow, rule: a/other"),
        false,
    );
    fares(&GOOD.replace("decision: allow", "decision: deny"), false);
    fares(&GOOD.replace("/v1/chat", "/v2"), false);
    fares(
        &GOOD
            .replace("/v1/chat", "/v2")
            .replace("decision: allow", "decision: deny, reason: request"),
        true,
    );
    fares(
        &GOOD
            .replace("image: i1", "image: i3")
            .replace("decision: allow", "decision: deny, reason: claims"),
        true,
    );
    fares(
        &GOOD.replace(
            "decision: allow",
            "evidence_age: 21m, decision: deny, reason: evidence_too_old",
        ),
        true,
    );
    fares(
        &GOOD.replace(
            "decision: allow",
            "evidence_age: 21m, decision: deny, reason: claims",
        ),
        false,
    );
    fares(
        &GOOD
            .replace("port: web", "port: seen")
            .replace("decision: allow", "decision: audit, reason: no_rule"),
        true,
    );
}

#[test]
fn the_clients_side_is_asked_too() {
    let asked = "    - {name: n, from: b/gateway, to: a/llm, port: web, asked_of: client, decision: deny, reason: unknown_door}\n";
    // The client's own Workload is not in this part of a policy, so its sidecar opens nothing.
    fares(asked, true);
}

#[test]
fn each_expectation_knows_its_line() {
    let test = test(&format!("{GOOD}{GOOD}")).unwrap();
    let lines: Vec<u32> = test.expectations.iter().map(|one| one.line).collect();
    assert_eq!(lines, [6, 7]);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    for (from, to, words) in [
        (
            "reset_count: 4",
            "reset_count: \">=4\"",
            "one value of `tpm.",
        ),
        ("image: i1", "image: [i1, i2]", "one value of `tpm."),
        ("image: i1", "imagee: i1", "did you mean `image`?"),
        ("method: POST, ", "", "`path` needs `method`"),
        (
            "decision: allow",
            "decision: deny, rule: a/r",
            "has no `rule`",
        ),
        (
            "decision: allow",
            "decision: allow, reason: claims",
            "has no `reason`",
        ),
        ("class: software", "class: unattested", "can't stand beside"),
        ("from: b/gateway", "from: gateway", "`namespace/name`"),
        ("/v1/chat", "/v1/../chat", "dot segment"),
        (
            "from: b/gateway",
            "asked_of: client, from: \"spiffe://partner.example/x\"",
            "needs a workload in `from`",
        ),
    ] {
        let error = test(&GOOD.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(words), "{to}: {error}");
        assert!(error.contains("t.yaml:6:"), "{error}");
    }
}

#[test]
fn a_test_among_policy_documents_is_refused() {
    let text = format!(
        "{POLICY}\n---\napiVersion: vouchsafe.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nspec:\n  expect:\n{GOOD}"
    );
    let error =
        PolicySet::parse(vec![Source::new("p.yaml", text)], Options::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`PolicyTest` has no place among policy documents")
    );
}
