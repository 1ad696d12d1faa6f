//! Drafts of real evidence, each of which `vouchsafe check` accepts.

use std::path::Path;

use super::*;

fn read(name: &str) -> (String, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("verifier")
        .join(name);
    let bytes = std::fs::read(&path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    (name, bytes)
}

fn asked() -> Asked {
    Asked {
        name: "drafted".into(),
        namespace: "inference".into(),
        image: "llm-11".into(),
        corim_key: None,
    }
}

fn draft_of(names: &[&str]) -> Result<String, DraftError> {
    let group = Group {
        kind: None,
        files: names.iter().map(|name| read(name)).collect(),
    };
    let now: SystemTime = "2026-01-01T00:00:00Z"
        .parse::<jiff::Timestamp>()
        .unwrap()
        .into();
    draft(&[group], &asked(), now)
}

/// The draft, once `vouchsafe check` accepted it.
#[track_caller]
fn checked(names: &[&str]) -> String {
    let text = draft_of(names).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mesh = "apiVersion: vouchsafe.dev/v1alpha1\nkind: Mesh\nmetadata: {name: demo}\nspec:\n  trust_domain: demo.example\n  ek_roots: [{file: manufacturer.pem}]\n";
    let roots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/manufacturer.pem");
    std::fs::copy(roots, folder.path().join("manufacturer.pem")).unwrap();
    std::fs::write(folder.path().join("mesh.yaml"), mesh).unwrap();
    std::fs::write(folder.path().join("profile.yaml"), &text).unwrap();
    let now: SystemTime = "2026-01-01T00:00:00Z"
        .parse::<jiff::Timestamp>()
        .unwrap()
        .into();
    let outcome = crate::cli::check::check(&[folder.path().to_owned()], now);
    assert_eq!(outcome.status, 0, "{}\n{text}", outcome.output);
    text
}

#[track_caller]
fn has(text: &str, wanted: &[&str]) {
    for one in wanted {
        assert!(text.contains(one), "`{one}` is not in\n{text}");
    }
}

#[test]
fn a_quote_demands_what_stays_the_same_and_shows_the_rest() {
    let text = checked(&["testdata/tpm/gce-cos85-nonce9009.pb"]);
    has(
        &text,
        &[
            "# judged offline, bound to nothing: affirming (verified)",
            "- name: \"llm-11\"",
            "  pcrs:  # quoted",
            "        \"4\": d690bdac2aa8b73a1d718cb91990df07d0747b07ea57b3b2d0f0d511f0d90491",
            "        # \"1\": 6eb40f5b6bfafcb9914d486ce59404acd24bc13a6a3c45cda3b44c9d7053d638",
            "        # \"10\": ",
            "# 10: files that the kernel measured (IMA)",
            "secure_boot: true  # by the event log",
            "event_log: required",
        ],
    );
    // What was never extended, or is set aside for dynamic launch, is no reference value.
    assert!(
        !text.contains("\"16\"") && !text.contains("\"17\""),
        "{text}"
    );
}

#[test]
fn an_event_log_alone_demands_what_it_replays_to_and_says_what_was_measured() {
    let text = checked(&["testdata/tpm/eventlog-ubuntu-2404-amd-sevsnp.bin"]);
    has(
        &text,
        &[
            "replayed from the event log, not quoted",
            "#   firmware version GCE Virtual Firmware v2",
            "#   application \\EFI\\ubuntu\\",
            "(not covered by its digest)",
            "secure_boot: false",
        ],
    );
}

#[test]
fn evidence_of_a_machine_that_measured_nothing_gives_no_profile() {
    // A tool's JSON, whose form says nothing: its kind is the one whose verifier can make most of it.
    let refused = draft_of(&["testdata/tpm/quote-rsa-trustee.json"]).unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("no PCR was extended"), "{said}");
}

#[test]
fn a_manifests_registers_become_an_image() {
    let group = Group {
        kind: None,
        files: vec![read("fuzz/corpus/corim/unsigned")],
    };
    let text = draft(&[group], &asked(), SystemTime::UNIX_EPOCH).unwrap();
    has(
        &text,
        &[
            "# manifest \"factory\": not signed",
            "sev_snp:",
            "  - name: \"ovmf\"",
            "    # module llm-11: AMD Genoa ovmf 1.1, measurement 641",
            &format!("    sha384: {}", "07".repeat(48)),
            "tpm:",
            "  pcrs:  # of the manifest",
            &format!("\"4\": {}", "04".repeat(32)),
        ],
    );
}

#[test]
fn what_shows_nothing_is_refused_by_name() {
    let refused = |names: &[&str]| draft_of(names).unwrap_err();
    assert!(matches!(
        refused(&["testdata/tpm/ima-ng-unknown.log"]),
        DraftError::Unknown(_)
    ));
    assert!(matches!(
        refused(&[
            "testdata/tpm/eventlog-ebs-missing.bin",
            "testdata/tpm/quote.msg"
        ]),
        DraftError::NoValue { kind: "tpm", .. }
    ));
}

#[test]
fn texts_of_files_stay_in_their_comment_or_quotes() {
    assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c?d\"");
    assert_eq!(comment("a\nspec: b"), "a?spec: b");
    let hostile = Asked {
        name: "x\", namespace: \"y".into(),
        ..asked()
    };
    let group = Group {
        kind: None,
        files: vec![read("testdata/tpm/eventlog-rhel8-uefi.bin")],
    };
    let text = draft(&[group], &hostile, SystemTime::UNIX_EPOCH).unwrap();
    has(
        &text,
        &["metadata: {name: \"x\\\", namespace: \\\"y\", namespace: \"inference\"}"],
    );
}
