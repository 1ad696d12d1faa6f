//! What lines say, and that nobody can write one of his own.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::reason::Why;
use crate::registry::LaneKind;
use crate::telemetry::access_log::RequestEntry;

fn line(path: &str, verdict: Verdict<'_>) -> String {
    line_of(path, verdict, None)
}

fn line_of(path: &str, verdict: Verdict<'_>, cut: Option<&Why>) -> String {
    let mut out = Vec::new();
    let entry = Entry {
        id: RequestId {
            run: 0x00c0_ffee,
            worker: 1,
            number: 2,
        },
        revision: Revision {
            epoch: 1,
            sequence: 42,
        },
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_401_600_042),
        direction: Direction::Inbound,
        lane: LaneKind::Shared,
        connection: 7,
        peer: None,
        local: "inference/llm",
        port: "openai",
        port_number: 8_000,
        request: Some(RequestEntry {
            grpc: false,
            method: "POST",
            path,
            status: 200,
        }),
        verdict,
        reason: cut.map(|why| why.reason),
        cut,
        received_bytes: 5,
        sent_bytes: 6,
        elapsed: Duration::from_micros(1_234),
    };
    encode(&mut out, &mut Shared::default(), &entry);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_is_one_json_object() {
    let rule = RuleSource {
        document: "AccessPolicy inference/gateway".to_owned(),
        file: "a.yaml".to_owned(),
        line: 12,
    };
    let line = line("/v1/x", Verdict::Allow(Some(&rule_field(&rule))));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["time"], "2026-11-23T02:40:00.042Z");
    assert_eq!(value["rule"], "AccessPolicy inference/gateway:12");
    assert_eq!(value["elapsed_ms"], 1.234);
    assert_eq!(value["id"], "00c0ffee-1-2");
    assert_eq!(value["revision"], "1.42");
    assert_eq!(value["port_number"], 8_000);
    assert_eq!(line.matches('\n').count(), 1);
}

#[test]
fn what_was_ended_while_live_names_the_document_that_ended_it() {
    let why = Why {
        reason: vouchsafe_config::policy::DenyReason::Revoked.into(),
        document: Some("Revocation app/incident-7:3".into()),
    };
    let line = line_of("/v1/x", Verdict::Allow(None), Some(&why));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["decision"], "allow");
    assert_eq!(value["reason"], "revoked");
    assert_eq!(value["ended_by"], "Revocation app/incident-7:3");
}

#[test]
fn what_a_peer_wrote_stays_inside_its_field() {
    let hostile = "/\"},{\"a\":\"\\\n\r\u{0}\u{7f}é";
    let line = line(hostile, Verdict::Unjudged);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["path"], hostile);
    assert_eq!(line.matches('\n').count(), 1);
}

#[test]
fn a_long_field_is_cut_at_a_character() {
    let line = line(&"é".repeat(5_000), Verdict::Unjudged);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["path"].as_str().unwrap().len(), MAX_FIELD);
}

#[test]
fn numbers_have_all_their_digits_and_no_more() {
    for (value, width, text) in [
        (0, 1, "0"),
        (7, 3, "007"),
        (1_234, 3, "1234"),
        (u64::MAX, 1, "18446744073709551615"),
    ] {
        let mut out = Vec::new();
        number(&mut out, value, width);
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}

#[test]
fn a_second_is_written_anew_when_it_changes() {
    let mut date = Date::default();
    assert_eq!(date.of(0), b"{\"time\":\"1970-01-01T00:00:00.");
    assert_eq!(date.of(1_795_401_600), b"{\"time\":\"2026-11-23T02:40:00.");
    assert_eq!(date.of(1_795_401_600), b"{\"time\":\"2026-11-23T02:40:00.");
    assert_eq!(date.of(1_795_401_601), b"{\"time\":\"2026-11-23T02:40:01.");
}

#[test]
fn days_become_dates() {
    assert_eq!(civil(0), (1970, 1, 1));
    assert_eq!(civil(11_016), (2000, 2, 29));
    assert_eq!(civil(20_780), (2026, 11, 23));
}

#[test]
fn what_lines_share_is_written_anew_when_it_changes() {
    let mut shared = Shared::default();
    let id = |run, worker| RequestId {
        run,
        worker,
        number: 9,
    };
    for (id, text) in [
        (id(0, 0), "Z\",\"id\":\"00000000-0-"),
        (id(1, 0), "Z\",\"id\":\"00000001-0-"),
        (id(1, 2), "Z\",\"id\":\"00000001-2-"),
    ] {
        assert_eq!(shared.ids.of(id), text.as_bytes());
    }
    for (epoch, sequence, text) in [(0, 0, "0.0"), (0, 7, "0.7"), (3, 7, "3.7")] {
        let revision = Revision { epoch, sequence };
        let text = format!(",\"revision\":\"{text}\"");
        assert_eq!(shared.revision.of(revision), text.as_bytes());
    }
}

proptest! {
    #[test]
    fn eight_bytes_at_a_time_find_what_one_at_a_time_finds(
        text in proptest::collection::vec(prop_oneof![
            9 => 0x20u8..0x7f,
            1 => any::<u8>(),
        ], 0..40),
    ) {
        let plain = !text.iter().any(|byte| must_escape(*byte));
        prop_assert_eq!(is_plain(&text), plain);
    }

    #[test]
    fn a_field_reads_as_it_was(value in "\\PC{0,40}|[\u{0}-\u{7f}]{0,40}") {
        let mut out = b"\"".to_vec();
        escape(&mut out, &value);
        out.push(b'"');
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), value);
    }
}
