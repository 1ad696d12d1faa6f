//! What becomes of each key of a section that is no claim.

use std::collections::BTreeSet;

use vouchsafe_config::set::{Options, PolicySet};
use vouchsafe_config::source::Source;

use super::*;

/// The rules of a section, by line as a debugger shows them.
fn lines(kind: EvidenceKind, key: &str) -> BTreeSet<String> {
    let digest = "ab".repeat(48);
    let (images, beside) = match kind {
        EvidenceKind::NvidiaGpu => (
            "ocsp: if_present".to_owned(),
            format!(
                "\n      nitro:\n        images: [{{name: a, pcrs: {{sha384: {{0: {digest}}}}}}}]"
            ),
        ),
        EvidenceKind::Nitro => (
            format!("images: [{{name: a, pcrs: {{sha384: {{0: {digest}}}}}}}]"),
            String::new(),
        ),
        EvidenceKind::Tdx => (
            format!("images: [{{name: a, mrtd: {digest}, rtmr1: {digest}}}]"),
            String::new(),
        ),
        _ => (
            format!("images: [{{name: a, sha384: {digest}}}]"),
            String::new(),
        ),
    };
    let text = format!(
        "apiVersion: vouchsafe.dev/v1alpha1\nkind: AttestationProfile\nmetadata: {{name: a, namespace: b}}\nspec:\n  \
         any_of:\n    - {kind}:\n        {}\n        {key}{beside}\n",
        match key.starts_with("ocsp") {
            true => "accept_hold: false".to_owned(),
            false => images,
        }
    );
    let set = PolicySet::parse(vec![Source::new("a.yaml", text)], Options::default());
    let set = set.unwrap_or_else(|error| panic!("{error}"));
    let profile = set.profiles().next().unwrap();
    let configured = &profile.any_of[0].hardware[&kind];
    let rules = reference(kind, configured).rules;
    format!("{rules:#?}")
        .lines()
        .map(|line| line.trim().to_owned())
        .collect()
}

/// Asserts that a key changes these lines of the rules and no others; `""` where the default says the same.
#[track_caller]
fn check(kind: EvidenceKind, key: &str, changed: &[&str]) {
    let before = lines(kind, "");
    let after = lines(kind, key);
    let new: Vec<&str> = after.difference(&before).map(String::as_str).collect();
    assert_eq!(new, changed, "{kind} {key}");
}

#[test]
fn every_option_reaches_its_rule() {
    use EvidenceKind::{Nitro, NvidiaGpu, SevSnp, Tdx};
    for (kind, key, changed) in [
        (
            SevSnp,
            "crl: required",
            &["is_required: true,", "require_crl: true,"][..],
        ),
        (
            SevSnp,
            "refuse_unknown_bits: true",
            &["refuse_unknown_bits: true,"],
        ),
        (
            SevSnp,
            "accept_masked_chip_id: true",
            &["accept_masked_chip_id: true,"],
        ),
        (
            SevSnp,
            "danger_accept_debug: true",
            &["danger_accept_debug: true,"],
        ),
        (
            SevSnp,
            "danger_accept_migration: true",
            &["danger_accept_migration: true,"],
        ),
        (
            SevSnp,
            "danger_accept_reserved: true",
            &["danger_accept_reserved: true,"],
        ),
        (
            SevSnp,
            "required_mitigations: 77",
            &["required_mitigations: 77,"],
        ),
        (SevSnp, "vmpl: \"<=2\"", &["max_vmpl: 2,"]),
        (SevSnp, "signing_key: [vcek, vlek]", &["accept_vlek: true,"]),
        (Tdx, "event_log: required", &["require_event_log: true,"]),
        (
            Tdx,
            "danger_accept_debug: true",
            &["danger_accept_debug: true,"],
        ),
        (
            Tdx,
            "danger_accept_migration: true",
            &["danger_accept_migration: true,"],
        ),
        (
            Tdx,
            "danger_accept_reserved: true",
            &["danger_accept_reserved: true,"],
        ),
        (
            Tdx,
            "danger_accept_sept_ve: true",
            &["danger_accept_sept_ve: true,"],
        ),
        (
            Tdx,
            "danger_accept_service_td: true",
            &["danger_accept_service_td: true,"],
        ),
        (
            Tdx,
            "accepted_advisories: [INTEL-SA-00837]",
            &["\"INTEL-SA-00837\",", "[", "accepted_advisories: Some("],
        ),
        (
            NvidiaGpu,
            "ocsp: required",
            &["is_required: true,", "require_crl: true,"],
        ),
        (NvidiaGpu, "accept_hold: true", &["allow_hold: true,"]),
        (
            Nitro,
            "danger_accept_debug: true",
            &["danger_accept_debug: true,"],
        ),
    ] {
        check(kind, key, changed);
    }
}
