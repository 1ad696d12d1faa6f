use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;
use vouchsafe_attestation::claims::{ClaimValue, Claims, Class, EvidenceKind};
use vouchsafe_attestation::result::{AttestationResult, DeviceResult, InstanceId};
use vouchsafe_attestation::revision::Revision;

use super::*;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/ai-factory")
}

/// What a gateway had proven whose image is another one than the example's rule demands.
fn result(image: &str) -> String {
    let mut claims = Claims::default();
    let image = ClaimValue::Text(image.to_owned());
    claims.set(EvidenceKind::Tpm, "image", image).unwrap();
    let result = AttestationResult {
        class: Class::Software,
        root: EvidenceKind::Tpm,
        instance: InstanceId([7; 16]),
        evidence_time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        policy_revision: Revision::default(),
        ear_sha256: [0; 32],
        devices: vec![DeviceResult {
            kind: EvidenceKind::Tpm,
            index: 0,
            claims,
        }],
        inclusion_promise: None,
    };
    STANDARD.encode(result.encode().unwrap())
}

pub(crate) fn line(path: &str, reason: &str) -> Value {
    serde_json::json!({
        "time": "2027-01-15T08:01:00.000Z", "id": "5f00aa01-1-17", "direction": "inbound", "peer_id": "spiffe://factory.example/ns/edge/workload/gateway",
        "class": "software", "serial": "0a1b", "local": "inference/llm", "port": "openai", "method": "POST", "path": path,
        "grpc": false, "decision": "deny", "reason": reason, "revision": "1.7", "result": result("base-1"),
    })
}

fn explained(lines: &[Value], id: Option<&str>, data: Option<&Path>) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&log, format!("sidecar starts\n{}\n", text.join("\n"))).unwrap();
    explain_log(&ExplainLog {
        log,
        id: id.map(str::to_owned),
        policy: vec![example()],
        data: data.map(Path::to_owned),
    })
}

#[track_caller]
fn check(lines: &[Value], id: Option<&str>, data: Option<&Path>, status: u8, words: &[&str]) {
    let outcome = explained(lines, id, data);
    let shown = format!("{}{}", outcome.output, outcome.error);
    for word in words {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert_eq!(outcome.status, status, "{shown}");
}

#[test]
fn a_past_denial_is_found_by_its_id_and_explained_by_file_and_line() {
    let mut other = line("/v1/chat/completions", "request");
    other["id"] = "5f00aa01-1-18".into();
    check(
        &[other, line("/v1/files", "request")],
        Some("5f00aa01-1-17"),
        None,
        1,
        &[
            "5f00aa01-1-17: spiffe://factory.example/ns/edge/workload/gateway (software) -> inference/llm:openai POST /v1/files",
            "DENY: request",
            "llm.yaml:15) does not allow this request",
            "inference/gateway-to-llm allows ",
            "revision 1.7 is not kept here",
        ],
    );
}

#[test]
fn a_policy_that_would_have_decided_otherwise_is_said_to_be_another() {
    let allowed = line("/v1/chat/completions", "request");
    check(
        &[allowed],
        None,
        None,
        1,
        &["ALLOW", "the sidecar decided otherwise (deny: request)"],
    );
}

#[test]
fn the_policy_that_was_kept_explains_rather_than_the_one_of_today() {
    let data = tempfile::tempdir().unwrap();
    let files = load::policy_files(&example()).unwrap().into_iter();
    let files = files.map(|(name, text)| (name, text.replace("/v1/chat/completions", "/v1/old")));
    let revision = Revision {
        epoch: 1,
        sequence: 5,
    };
    let now = SystemTime::UNIX_EPOCH;
    policy_sets::keep(
        data.path(),
        revision,
        policy_sets::Whose::Everybody,
        &files.collect(),
        now,
    )
    .unwrap();
    let denied = line("/v1/chat/completions", "request");
    check(
        &[denied],
        None,
        Some(data.path()),
        1,
        &["DENY: request", "of revision 1.5, as it was kept"],
    );
}

#[test]
fn what_was_ended_while_it_was_live_names_the_document_that_ended_it() {
    let mut ended = ended("revoked");
    ended["ended_by"] = "Revocation platform/incident-7".into();
    let words = [
        "ALLOWED at 2027-01-15T08:01:00.000Z by AccessPolicy inference/gateway-to-llm:15",
        "ENDED while it was live at 2027-01-15T08:03:20.250Z, after 140.250 s: revoked, by Revocation platform/incident-7",
    ];
    check(&[ended], None, None, 1, &words);
}

/// A line of an attested peer that was let in, as a sidecar writes it: without what the peer had proven.
fn ended(reason: &str) -> Value {
    let mut ended = line("/v1/chat/completions", reason);
    ended["decision"] = "allow".into();
    ended["rule"] = "AccessPolicy inference/gateway-to-llm:15".into();
    ended["elapsed_ms"] = 140_250.0.into();
    if let Some(fields) = ended.as_object_mut() {
        fields.remove("result");
    }
    ended
}

#[test]
fn whatever_a_stream_ended_by_it_is_said_to_have_been_allowed_and_never_judged_again() {
    let words = [
        "unknown_door",
        "no_rule",
        "unattested",
        "class",
        "evidence_too_old",
        "claims",
        "request",
        "binding_not_proven",
        "stale",
        "lapsed",
        "revoked",
        "rule_removed",
        "rule_expired",
        "authority_removed",
        "lease_ended",
        "drain",
        "idle",
    ];
    for reason in words {
        let outcome = explained(&[ended(reason)], None, None);
        let shown = &outcome.output;
        for word in [
            "ALLOWED at 2027-01-15T08:01:00.000Z by AccessPolicy inference/gateway-to-llm:15",
            &format!(
                "ENDED while it was live at 2027-01-15T08:03:20.250Z, after 140.250 s: {reason}\n"
            ),
            "  what: ",
            "  do:   ",
        ] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        assert!(!shown.contains("DENY"), "{shown}");
        assert_eq!(outcome.status, 1);
    }
}

#[test]
fn what_passed_and_what_failed_by_itself_are_no_denials() {
    let passed = explained(&[ended("")], None, None);
    assert_eq!(passed.status, 0);
    assert!(
        passed.output.contains("it ended by itself at"),
        "{passed:?}"
    );
    check(
        &[ended("upstream_closed")],
        None,
        None,
        1,
        &["ALLOWED at", "FAILED at", "closed before it had answered"],
    );
    let mut unjudged = ended("no_endpoint");
    unjudged["decision"] = "none".into();
    check(
        &[unjudged],
        None,
        None,
        1,
        &["NOT JUDGED", "no instance of the called workload"],
    );
    check(
        &[ended("made_up")],
        None,
        None,
        1,
        &["does not know the word"],
    );
}

#[test]
fn what_an_audited_port_let_in_and_what_ended_it_are_told_apart() {
    let mut audited = line("/v1/files", "request");
    audited["decision"] = "audit".into();
    check(
        &[audited.clone()],
        None,
        None,
        1,
        &["does not allow this request"],
    );
    audited["reason"] = "revoked".into();
    check(
        &[audited],
        None,
        None,
        1,
        &["the port is in `audit`", "ENDED while it was live: revoked"],
    );
}

#[test]
fn a_denial_that_no_document_makes_is_not_blamed_on_another_policy() {
    for reason in ["stale", "lapsed", "revoked"] {
        let denied = line("/v1/chat/completions", reason);
        let outcome = explained(&[denied], None, None);
        let shown = &outcome.output;
        let words = format!("DENIED: {reason}, whatever rules say");
        assert!(shown.contains(&words), "{shown}");
        assert!(!shown.contains("is not the policy"), "{shown}");
        assert_eq!(outcome.status, 1);
    }
}

#[test]
fn an_id_is_found_by_its_field_and_not_by_what_a_peer_wrote_elsewhere() {
    let mut lure = line("/v1/x", "no_rule");
    lure["id"] = "5f00aa01-1-16".into();
    lure["path"] = "/{\"id\":\"5f00aa01-1-17\"}".into();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let spaced = line("/v1/files", "request").to_string();
    let spaced = spaced.replace("\"id\":", "\"id\" : ");
    std::fs::write(&log, format!("{lure}\n{spaced}\n")).unwrap();
    let found = find(&log, Some("5f00aa01-1-17")).unwrap();
    assert!(found.contains("/v1/files"), "{found}");
}

#[test]
fn a_line_that_is_no_decision_says_what_it_lacks() {
    for (change, words) in [
        ("peer_id", "no `peer_id`"),
        ("serial", "no `serial`"),
        ("revision", "no `revision`"),
        ("local", "no `local`"),
    ] {
        let mut line = line("/", "request");
        line[change] = Value::Null;
        check(&[line], None, None, 2, &[words]);
    }
    check(
        &[line("/", "request")],
        Some("nowhere"),
        None,
        2,
        &["no line with id `nowhere`"],
    );
}

proptest! {
    #[test]
    fn arbitrary_lines_never_panic(text in ".{0,300}", field in "[a-z_]{1,12}", value in ".{0,40}") {
        let _ = read_line(&text);
        let mut line = line("/", "request");
        line[field] = value.into();
        let _ = read_line(&line.to_string());
    }
}
