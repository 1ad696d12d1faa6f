//! The examples are right, complete and say the defaults that hold; the schemas are those of the reader.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

use std::path::{Path, PathBuf};

use vouchsafe_config::document::Kind;
use vouchsafe_config::mesh::EkRootCertificates;
use vouchsafe_config::set::Options;
use vouchsafe_config::{load, schema};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[track_caller]
fn policy(path: &str) -> vouchsafe_config::set::PolicySet {
    match load::policy(&[here(path)], Options::default()) {
        Ok(set) => set,
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn the_small_factory_is_right_and_without_warnings() {
    let set = policy("examples/ai-factory");
    assert!(set.warnings().is_empty(), "{:?}", set.warnings());
    assert_eq!(set.workloads().count(), 3);
    let mesh = set.mesh().unwrap();
    assert_eq!(mesh.outage_budget().as_secs(), 3000);
    assert_eq!(set.policy(&mesh.trust_domain).rules(), 3);
}

#[test]
fn the_full_example_is_right_and_names_every_key() {
    let set = policy("examples/full.yaml");
    let mesh = set.mesh().unwrap();
    assert!(
        matches!(&mesh.ek_roots[..], [roots] if matches!(&roots.certificates, EkRootCertificates::Pem(pem) if pem.contains("BEGIN")))
    );
    let text = std::fs::read_to_string(here("examples/full.yaml")).unwrap();
    // Keys of alternatives that a document can't have beside others, or that the example names in a comment.
    let elsewhere = ["simulated", "expires", "reason"];
    for kind in [
        Kind::Mesh,
        Kind::AttestationProfile,
        Kind::Node,
        Kind::Workload,
        Kind::AccessPolicy,
    ] {
        names_every_key(kind, &text, &elsewhere);
    }
}

#[test]
fn the_bootstrap_examples_are_right_and_name_every_key() {
    for (file, kind) in [
        ("proxy.yaml", Kind::Proxy),
        ("control-plane.yaml", Kind::ControlPlane),
    ] {
        let file = here("examples").join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        let warnings = match kind {
            Kind::Proxy => load::proxy(&file).map(|(_, warnings)| warnings),
            _ => load::control_plane(&file).map(|(_, warnings)| warnings),
        };
        assert_eq!(warnings.unwrap_or_else(|problems| panic!("{problems}")), []);
        names_every_key(kind, &text, &[]);
    }
}

/// Whether the text has every key that the schema has, as a key or in a comment.
#[track_caller]
fn names_every_key(kind: Kind, text: &str, elsewhere: &[&str]) {
    let schema: serde_json::Value = serde_json::from_str(&schema::of(kind)).unwrap();
    let mut keys = Vec::new();
    collect(&schema, &mut keys);
    let is_claim = |key: &str| {
        vouchsafe_attestation::claims::CATALOG
            .iter()
            .any(|claim| claim.name.split('.').any(|part| part == key))
    };
    for key in keys {
        let is_there = text.contains(&format!("{key}:"))
            || text.contains(&format!("{key},"))
            || text.contains(&format!("{key}}}"));
        assert!(
            is_there || is_claim(&key) || elsewhere.contains(&key.as_str()),
            "{kind:?}: `{key}` is missing"
        );
    }
}

fn collect(schema: &serde_json::Value, keys: &mut Vec<String>) {
    match schema {
        serde_json::Value::Object(object) => {
            if let Some(serde_json::Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| collect(value, keys));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

/// `vouchsafe schema --write config/schema` makes them anew.
#[test]
fn committed_schemas_are_those_of_the_reader() {
    for kind in Kind::ALL {
        let file = here("schema").join(schema::file_name(kind));
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(
            committed,
            schema::of(kind),
            "{} is out of date",
            file.display()
        );
    }
}

/// The same command writes it.
#[test]
fn the_committed_page_of_claims_is_that_of_the_catalog() {
    let file = here("schema").join(schema::CLAIMS_FILE);
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(committed, schema::claims_page(), "claims.md is out of date");
}

#[test]
fn bootstrap_files_among_policy_are_left_out_unless_they_hold_policy_too() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        std::fs::copy(here("examples").join(from), folder.path().join(to)).unwrap();
    };
    copy("ai-factory/mesh.yaml", "mesh.yaml");
    copy("proxy.yaml", "llm.proxy.yaml");
    let paths = [folder.path().to_owned()];
    assert_eq!(
        load::policy(&paths, Options::default())
            .unwrap()
            .documents()
            .len(),
        2
    );
    let mesh = std::fs::read_to_string(here("examples/ai-factory/mesh.yaml")).unwrap();
    let proxy = std::fs::read_to_string(here("examples/proxy.yaml")).unwrap();
    std::fs::write(
        folder.path().join("mesh.yaml"),
        format!("{mesh}---\n{proxy}"),
    )
    .unwrap();
    let problems = load::policy(&paths, Options::default())
        .unwrap_err()
        .to_string();
    assert!(
        problems.contains("`Proxy` has no place among policy documents"),
        "{problems}"
    );
}
