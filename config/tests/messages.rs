//! What people read when something is wrong, word for word.

use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;

const MISTAKEN: &str = r#"apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {name: factory}
spec:
  trust_domain: factory.example
  certificates: {lifetme: 1h}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: llm, namespace: inference}
spec:
  profile: measured
  ports:
    - {name: openai, port: "8000", protocol: htp}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: first, namespace: inference}
spec:
  to: {workload: llm, port: opnai}
  from: [{workload: edge/gateway}]
  client: {attested_within: 5m, danger_unattested: yes, require: {tpm: {frmware: 1}}}
  allow: [{methods: [post], paths: ["/v1/*x"], models: [a]}]
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Federation
metadata: {name: r, namespace: inference}
"#;

#[test]
fn all_mistakes_of_a_file_are_shown_in_order_with_frames_and_hints() {
    let found = PolicySet::parse(
        vec![Source::new("policy.yaml", MISTAKEN)],
        Options::default(),
    );
    let shown = found.expect_err("it is full of mistakes").to_string();
    assert_eq!(shown, EXPECTED, "\n{shown}");
}

const EXPECTED: &str = include_str!("messages.txt");
