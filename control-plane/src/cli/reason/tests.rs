use super::*;
use std::fs;
use std::path::Path;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/ai-factory")
}

/// The example with one text replaced in one file.
fn edited(file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(example()).unwrap() {
        let path = entry.unwrap().path();
        let mut text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == file {
            assert!(text.contains(from), "{text}");
            text = text.replace(from, to);
        }
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn asked_diff(new: &Path, output: Format, fail_on: FailOn) -> Outcome {
    let (old, new) = (example(), new.to_owned());
    DiffRequest {
        old,
        new,
        output,
        fail_on,
    }
    .run()
}

fn asked_test(folder: &Path, output: Format) -> Outcome {
    TestRequest {
        paths: vec![folder.to_owned()],
        output,
    }
    .run()
}

fn asked_who(door: &str, transitively: bool, output: Format) -> Outcome {
    WhoCanRequest {
        door: door.parse().unwrap(),
        transitively,
        policy: vec![example()],
        output,
    }
    .run()
}

#[test]
fn the_example_meets_its_expectations() {
    let outcome = asked_test(&example(), Format::Table);
    assert_eq!(
        (outcome.status, outcome.output.as_str()),
        (0, "5 met, 0 failed\n"),
        "{}",
        outcome.error
    );
}

#[test]
fn an_expectation_that_fails_says_where_and_why() {
    let folder = edited(
        "llm.yaml",
        "[/v1/chat/completions, /v1/embeddings]",
        "[/v1/files]",
    );
    let outcome = asked_test(folder.path(), Format::Table);
    assert_eq!(outcome.status, 1);
    let output = &outcome.output;
    assert!(
        output.contains("tests.yaml:7 the gateway may ask for completions"),
        "{output}"
    );
    assert!(
        output.contains("expected allow by AccessPolicy inference/gateway-to-llm\n"),
        "{output}"
    );
    assert!(output.contains("DENY: request"), "{output}");
    assert!(output.ends_with("3 met, 2 failed\n"), "{output}");
    let json: Value =
        serde_json::from_str(&asked_test(folder.path(), Format::Json).output).unwrap();
    assert_eq!(json["failed"], 2);
    assert_eq!(json["expectations"][0]["found"], "deny: request");
}

#[test]
fn a_policy_without_expectations_is_no_success() {
    let folder = edited("llm.yaml", "tier: prod", "tier: prod");
    fs::remove_file(folder.path().join("tests.yaml")).unwrap();
    let outcome = asked_test(folder.path(), Format::Table);
    assert_eq!(outcome.status, 2);
    assert!(outcome.error.contains("no expectation was found"));
}

#[test]
fn a_wider_rule_fails_and_a_narrower_one_passes() {
    let wider = edited(
        "llm.yaml",
        "methods: [GET], paths: [/v1/models, \"/v1/models/*\"]",
        "methods: any, paths: [/v1/models, \"/v1/models/*\"]",
    );
    let outcome = asked_diff(wider.path(), Format::Table, FailOn::Widening);
    assert_eq!(outcome.status, 1);
    let output = &outcome.output;
    assert!(output.contains("inference/llm:openai widens for edge/gateway\n  + any method /v1/models, if client is attested, within 20m, server is attested: AccessPolicy inference/gateway-to-llm ("), "{output}");
    let narrower = edited(
        "llm.yaml",
        "    - {methods: [GET], paths: [/v1/models, \"/v1/models/*\"]}",
        "",
    );
    let outcome = asked_diff(narrower.path(), Format::Table, FailOn::Widening);
    assert_eq!(outcome.status, 0);
    assert!(
        outcome
            .output
            .contains("narrows for edge/gateway\n  - GET /v1/models"),
        "{}",
        outcome.output
    );
    assert_eq!(
        asked_diff(narrower.path(), Format::Json, FailOn::Change).status,
        1
    );
}

#[test]
fn programs_read_what_differs() {
    let wider = edited(
        "vector-store.yaml",
        "{workload: llm}",
        "{namespace: inference}",
    );
    let outcome = asked_diff(wider.path(), Format::Json, FailOn::Widening);
    let json: Value = serde_json::from_str(&outcome.output).unwrap();
    assert_eq!(json["may_widen"], true);
    assert_eq!(json["doors"][0]["change"], "opens");
    assert_eq!(json["doors"][0]["door"], "inference/vector-store:query");
    let same = asked_diff(&example(), Format::Table, FailOn::Change);
    assert_eq!(
        (same.status, same.output.as_str()),
        (0, "the policies mean the same\n")
    );
}

#[test]
fn a_broken_policy_is_not_compared() {
    let broken = edited("llm.yaml", "protocol: http", "protocol: htpp");
    let outcome = asked_diff(broken.path(), Format::Table, FailOn::Widening);
    assert_eq!(outcome.status, 2);
    assert!(
        outcome.error.contains("did you mean `http`?"),
        "{}",
        outcome.error
    );
}

#[test]
fn who_can_shows_clients_and_ways() {
    let outcome = asked_who("inference/vector-store:query", true, Format::Table);
    assert_eq!(outcome.status, 0);
    let output = &outcome.output;
    assert!(output.contains("edge/gateway"), "{output}");
    assert!(output.contains("/collections/*/points/search"), "{output}");
    let json = asked_who("inference/vector-store:replication", true, Format::Json).output;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["direct"][0]["client"], "inference/vector-store");
    assert_eq!(
        json["indirect"][0]["via"][0],
        "inference/vector-store:query"
    );
    let outcome = asked_who("inference/llm:opnai", false, Format::Table);
    assert_eq!(outcome.status, 2);
    assert!(
        outcome.error.contains("its ports are `openai`"),
        "{}",
        outcome.error
    );
}
