//! What is asked of files, and how it is answered.

mod profiles;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

pub(in super::super) fn line(rest: &str) -> Result<Arguments, clap::Error> {
    let words = format!("verify {rest}");
    Line::try_parse_from(words.split_whitespace()).map(|line| line.arguments)
}

pub(in super::super) fn case(name: &str) -> String {
    format!("{}/verifier/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn check(rest: &str, status: u8, reason: &str) {
    let outcome = run(&line(&format!("{rest} -o json")).unwrap());
    let found: serde_json::Value = serde_json::from_str(&outcome.output).unwrap();
    assert_eq!(
        (outcome.status, found["reason"].as_str()),
        (status, Some(reason)),
        "{found:#}"
    );
}

#[test]
fn exit_status_says_yes_no_or_cannot_be_judged() {
    let good = case("snp/milan-v2-vcek");
    let at = "--kind sev_snp --at 2025-06-01T00:00:00Z";
    check(&format!("{at} --no-binding {good}"), 0, "verified");
    check(
        &format!("{at} --no-binding {}", case("snp/milan-v2-debug")),
        1,
        "debug_enabled",
    );
    check(
        &format!("{at} --no-binding {good}/report.bin"),
        2,
        "endorsement_missing",
    );
    let other = "00".repeat(64);
    check(
        &format!("{at} --expect-report-data {other} {good}"),
        1,
        "report_data_mismatch",
    );
    let endorsed = format!("{at} --no-binding --endorsements {good} {good}/report.bin");
    check(&endorsed, 0, "verified");
    let missing = run(&line(&format!("{at} --no-binding {good}/none.bin")).unwrap());
    assert_eq!(missing.status, 2);
}

/// Judges a good report by a profile with this section.
#[track_caller]
fn check_profile(section: &str, status: u8, reason: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profile.yaml");
    let text = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\n\
         metadata: {{name: one, namespace: test}}\nspec:\n  any_of:\n    - sev_snp:\n{section}\n"
    );
    std::fs::write(&file, text).unwrap();
    let at = "--kind sev_snp --at 2025-06-01T00:00:00Z --no-binding -o json";
    let (file, good) = (file.display(), case("snp/milan-v2-vcek"));
    let outcome = run(&line(&format!("{at} --profile-file {file} {good}")).unwrap());
    let error = &outcome.error;
    assert!(!outcome.output.is_empty(), "{error}");
    let found: serde_json::Value = serde_json::from_str(&outcome.output).unwrap();
    assert_eq!(
        (outcome.status, found["reason"].as_str()),
        (status, Some(reason)),
        "{found:#}"
    );
    found
}

#[test]
fn a_profile_decides_each_key_by_itself() {
    let good = run(&line(&format!(
        "--kind sev_snp --at 2025-06-01T00:00:00Z --no-binding -o json {}",
        case("snp/milan-v2-vcek")
    ))
    .unwrap());
    let good: serde_json::Value = serde_json::from_str(&good.output).unwrap();
    let claims = &good["claims"];
    let measured = claims["measurement"].as_str().unwrap();
    let images = format!("        images: [{{name: a, sha384: \"{measured}\"}}]");
    let with = |more: &str| format!("{images}\n        {more}");
    let found = check_profile(&images, 0, "verified");
    assert_eq!(found["claims"]["image"], "a");

    let until = "2025-06-01T00:00:00Z";
    let ended = format!("        images: [{{name: a, sha384: \"{measured}\", until: {until}}}]");
    check_profile(&ended, 1, "image");
    let other = format!(
        "        images: [{{name: a, sha384: \"{}\"}}]",
        "00".repeat(48)
    );
    let found = check_profile(&other, 1, "image");
    let checks = found["checks"].as_array().unwrap();
    let image = checks
        .iter()
        .find(|check| check["name"] == "image")
        .unwrap();
    let place = image["policy"].as_str().unwrap();
    assert!(place.ends_with("profile.yaml:7"), "{place}");

    let snp = claims["tcb.snp"].as_u64().unwrap();
    check_profile(&with(&format!("tcb: {{snp: \">={snp}\"}}")), 0, "verified");
    check_profile(&with("tcb: {snp: \">=255\"}"), 1, "reported_tcb_too_old");
    check_profile(&with("product: Milan"), 0, "verified");
    check_profile(&with("product: [Genoa, Turin]"), 1, "claim_not_accepted");
    check_profile(&with("debug: true"), 1, "claim_not_accepted");
    check_profile(&with("csp_id: nobody"), 1, "claim_not_accepted");
}

#[test]
fn a_profile_must_be_there_and_speak_of_the_kind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profile.yaml");
    let at = "--kind nitro --no-binding";
    let missing = run(&line(&format!("{at} --profile-file {} x", file.display())).unwrap());
    assert_eq!(missing.status, 2);
    std::fs::write(
        &file,
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {name: one, namespace: test}\n\
         spec: {any_of: [{simulated: {images: [{name: a}]}}]}\n",
    )
    .unwrap();
    let good = case("snp/milan-v2-vcek");
    let other = run(&line(&format!("{at} --profile-file {} {good}", file.display())).unwrap());
    assert_eq!(other.status, 2);
    assert!(
        other.error.contains("no alternative with `nitro`"),
        "{}",
        other.error
    );
    assert!(line(&format!("{at} --profile test/one {good}")).is_err());
}

#[test]
fn judgement_without_binding_says_so() {
    let good = case("snp/milan-v2-vcek");
    let outcome = run(&line(&format!(
        "--kind sev_snp --at 2025-06-01T00:00:00Z --no-binding -o json {good}"
    ))
    .unwrap());
    let found: serde_json::Value = serde_json::from_str(&outcome.output).unwrap();
    assert_eq!(found["binding"], "not_checked");
    assert_eq!(found["status"], "affirming");
}

#[test]
fn exactly_one_binding_must_be_said() {
    assert!(line("--kind sev_snp file").is_err());
    assert!(line("--kind sev_snp --no-binding --expect-nonce 00 file").is_err());
    assert!(line("--kind sev_snp --expect-report-data 00 file").is_err());
    assert!(line("--kind sev_snp --expect-nonce= file").is_err());
    assert!(line("--kind unheard_of --no-binding file").is_err());
    assert!(line("--kind nitro --expect-nonce 00 file").is_ok());
}
