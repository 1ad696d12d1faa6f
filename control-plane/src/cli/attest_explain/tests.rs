//! What an auditor reads about real evidence.

use super::super::attest_verify::tests::{case, line};
use super::*;

#[track_caller]
fn explain(rest: &str) -> (u8, Value) {
    let outcome = run(&line(&format!("{rest} -o json")).unwrap());
    let error = &outcome.error;
    assert!(!outcome.output.is_empty(), "{error}");
    let found = serde_json::from_str(&outcome.output).unwrap();
    (outcome.status, found)
}

/// The endorsements of a file, and where each stands in time.
fn states(found: &Value, file: &str) -> Vec<(String, bool)> {
    let held = found["endorsements"].as_array().unwrap();
    let held = held.iter().filter(|one| one["file"] == file);
    held.map(|one| {
        let what = one["what"].as_str().unwrap().to_owned();
        (what, one["expired"].as_bool().unwrap())
    })
    .collect()
}

#[test]
fn each_check_says_what_it_compares_and_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profile.yaml");
    std::fs::write(
        &file,
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\n\
         metadata: {name: one, namespace: test}\nspec:\n  any_of:\n    - sev_snp:\n        \
         images: [{name: a, sha384: \"a1f3930413247bb38cfc171579ea3c12d5fe4901f0c792f63fd75d98f1ef827c23500644e0e692e6be917f9050d3d38c\"}]\n        \
         vmpl: 3\n",
    )
    .unwrap();
    let (profile, good) = (file.display(), case("snp/milan-v2-vcek"));
    let asked = format!(
        "--kind sev_snp --at 2025-06-01T00:00:00Z --no-binding --profile-file {profile} {good}"
    );
    let (status, found) = explain(&asked);
    assert_eq!(status, 1, "{found:#}");
    assert_eq!(found["profile"], "test/one");
    assert_eq!(found["at"], "2025-06-01T00:00:00Z");
    let checks = found["checks"].as_array().unwrap();
    let named = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    let vmpl = checks
        .iter()
        .find(|check| check["name"] == "vmpl" && check["outcome"] == "failed")
        .unwrap();
    assert!(vmpl["policy"].as_str().unwrap().ends_with("profile.yaml:8"));
    assert!(vmpl["detail"].as_str().unwrap().contains('0'), "{vmpl}");
    assert!(
        !named("report_signature")["about"]
            .as_str()
            .unwrap()
            .is_empty()
    );
    for check in checks {
        assert_ne!(check["about"], "", "{check}");
    }
    let shown = run(&line(&asked).unwrap()).output;
    for word in [
        "COMPARES",
        "profile.yaml:8",
        "SEV-VCEK",
        "by profile `test/one`",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

#[test]
fn an_endorsement_has_its_age_at_the_time_that_is_asked_about() {
    let good = case("snp/milan-v2-vcek");
    let asked = |at: &str| format!("--kind sev_snp --at {at} --no-binding {good}");
    let (status, found) = explain(&asked("2025-06-01T00:00:00Z"));
    assert_eq!(status, 0);
    let [key] = found["endorsements"].as_array().unwrap().as_slice() else {
        panic!("{found:#}")
    };
    let time = |name: &str| {
        key[name]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    let at: jiff::Timestamp = "2025-06-01T00:00:00Z".parse().unwrap();
    let age = at.as_second() - time("issued").as_second();
    assert_eq!(key["age_seconds"], age);
    assert_eq!(
        (&key["state"], &key["expired"]),
        (&json!("valid"), &json!(false))
    );

    let late = time("until") + jiff::SignedDuration::from_secs(1);
    let (status, found) = explain(&asked(&late.to_string()));
    assert_eq!((status, &found["reason"]), (1, &json!("vek_expired")));
    assert_eq!(
        states(&found, "vek.der"),
        [("certificate `SEV-VCEK`".to_owned(), true)]
    );
}

#[test]
fn intels_statements_and_nvidias_answers_have_ages_of_their_own() {
    let case_of = |name: &str| case(&format!("tdx/{name}"));
    let (status, found) = explain(&format!(
        "--kind tdx --at 2025-07-01T00:00:00Z --no-binding {}",
        case_of("v4-uptodate-dstack")
    ));
    assert_eq!(status, 0, "{found:#}");
    let held = states(&found, "collateral.json");
    let info = ("TCB info of FMSPC b0c06f000000".to_owned(), false);
    assert!(held.contains(&info), "{held:?}");

    let (_, found) = explain(&format!(
        "--kind nvidia_gpu --at 2025-10-24T12:00:00Z --no-binding {}",
        case("nvidia/hopper-550.90.07-full")
    ));
    let answers = states(&found, "ocsp-gpu_certificate_l2.b64");
    assert!(answers.iter().all(|(_, expired)| *expired), "{answers:?}");
    assert_eq!(states(&found, "driver-rim.xml").len(), 1, "{found:#}");
}

#[test]
fn an_unused_file_of_a_cache_is_not_named() {
    let (good, other) = (case("snp/milan-v2-vcek"), case("snp/turin-v5-azure-aci"));
    let (status, found) = explain(&format!(
        "--kind sev_snp --at 2025-06-01T00:00:00Z --no-binding --endorsements {other} {good}"
    ));
    assert_eq!(status, 0);
    assert_eq!(found["endorsements"].as_array().unwrap().len(), 1);
}
