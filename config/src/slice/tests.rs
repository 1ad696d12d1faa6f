//! A slice decides as the whole does, whichever way it came to be.

use vouchsafe_attestation::name::WorkloadName;

use super::*;
use crate::set::Options;
use crate::testing;

const POLICY: &str = "\
apiVersion: vouchsafe.dev/v1alpha1
kind: Mesh
metadata: {name: m}
spec: {trust_domain: factory.example, danger_accept_simulated: true}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AttestationProfile
metadata: {name: any, namespace: team}
spec: {any_of: [{simulated: {images: [{name: dev}]}}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Node
metadata: {name: one, namespace: team}
spec: {hardware: {simulated_machine: laptop}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: llm, namespace: team, labels: {tier: prod}}
spec: {profile: any, members: {nodes: [one]}, ports: [{name: p, port: 1, protocol: tcp}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: store, namespace: team}
spec: {profile: any, members: {nodes: [one]}, ports: [{name: p, port: 2, protocol: tcp}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Workload
metadata: {name: idle, namespace: team}
spec: {profile: any, members: {nodes: [one]}}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: by-name, namespace: team}
spec: {to: {workload: llm, port: p}, from: [{workload: store}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: AccessPolicy
metadata: {name: by-label, namespace: team}
spec: {to: {workload: store, port: p}, from: [{namespace: team, labels: {tier: prod}}]}
---
apiVersion: vouchsafe.dev/v1alpha1
kind: Revocation
metadata: {name: gone, namespace: team}
spec: {match: {workload: [idle]}, action: cut, reason: r}
";

fn set() -> PolicySet {
    let sources = vec![Source::new("all.yaml", POLICY)];
    PolicySet::parse(sources, Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn titles(set: &PolicySet, workload: &str) -> Vec<String> {
    let name: WorkloadName = workload.parse().unwrap();
    let slice = set.slice_for(&name);
    slice.iter().map(|document| document.title()).collect()
}

#[test]
fn a_workload_is_concerned_by_its_own_doors_and_by_those_that_it_may_call() {
    let set = set();
    let both = [
        "Workload team/llm",
        "Workload team/store",
        "AccessPolicy team/by-name",
        "AccessPolicy team/by-label",
        "Revocation team/gone",
    ];
    assert_eq!(titles(&set, "team/llm"), both);
    assert_eq!(titles(&set, "team/store"), both);
    assert_eq!(
        titles(&set, "team/idle"),
        ["Workload team/idle", "Revocation team/gone"]
    );
    assert_eq!(titles(&set, "team/nobody"), [""; 0]);
    let concerns = set.concerns();
    let calls = |workload: &str| {
        let calls = &concerns[&workload.parse::<WorkloadName>().unwrap()].calls;
        calls.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(calls("team/llm"), ["team/store"]);
    assert_eq!(calls("team/store"), ["team/llm"]);
    assert_eq!(calls("team/idle"), [""; 0]);
    let common: Vec<_> = set.common().map(Document::title).collect();
    assert_eq!(common, ["Mesh m", "Revocation team/gone"]);
}

fn texts(set: &PolicySet) -> Vec<(String, String)> {
    let documents = set.slice_for(&"team/llm".parse().unwrap()).into_iter();
    documents
        .map(|document| (document.resource_name(), document.distributable()))
        .collect()
}

fn with(slice: &PolicySlice, changed: &[(String, String)], removed: &[&str]) -> PolicySlice {
    let changed = changed.iter();
    let changed = changed.map(|(name, text)| (name.as_str(), text.as_str()));
    slice
        .with(changed, removed.iter().copied())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn rules(slice: &PolicySlice) -> usize {
    let policy = slice.policy(&testing::trust_domain()).unwrap();
    policy.rules()
}

#[test]
fn what_changes_stands_in_for_what_was_and_the_rest_stays() {
    let texts = texts(&set());
    let whole = with(&PolicySlice::default(), &texts, &[]);
    assert_eq!(rules(&whole), 2);
    // One by one leads to the same.
    let mut grown = PolicySlice::default();
    for one in texts.chunks(1) {
        grown = with(&grown, one, &[]);
    }
    assert_eq!(rules(&grown), 2);
    let less = with(&whole, &[], &["policy/AccessPolicy/team/by-name"]);
    assert_eq!(rules(&less), 1);
    assert_eq!(rules(&whole), 2, "the slice that it came from is as it was");
    let revocations = |slice: &PolicySlice| {
        let policy = slice.policy(&testing::trust_domain()).unwrap();
        policy.revocations().len()
    };
    assert_eq!(revocations(&whole), 1);
    let none = with(&whole, &[], &["policy/Revocation/team/gone"]);
    assert_eq!(revocations(&none), 0);
}

#[test]
fn all_mistakes_of_a_change_are_told_and_nothing_of_it_is_taken() {
    let whole = with(&PolicySlice::default(), &texts(&set()), &[]);
    let error = whole
        .with(
            [
                ("policy/Workload/team/a", "kind: Wish"),
                ("policy/Workload/team/b", "kind: ["),
            ],
            ["policy/AccessPolicy/team/by-name"],
        )
        .unwrap_err();
    assert!(error.errors() >= 2, "{error}");
    assert_eq!(rules(&whole), 2);
}

#[test]
fn a_document_counts_under_its_own_name_only() {
    let texts = texts(&set());
    let (_, text) = &texts[0];
    for name in ["policy/Workload/team/other", "policy/Mesh/-/m", "x"] {
        let found = PolicySlice::default().with([(name, text.as_str())], []);
        let error = found.unwrap_err().to_string();
        assert!(
            error.contains("not the document that its name says"),
            "{error}"
        );
    }
    let two = format!("{text}---\n{text}");
    assert!(
        PolicySlice::default()
            .with([(texts[0].0.as_str(), two.as_str())], [])
            .is_err()
    );
}
