//! NVIDIA's GPUs and NVSwitches.

use vouchsafe_verifier::dossier::{self, Dossier, Expected, File, Kind, Rules};
use vouchsafe_verifier::judgement::Status::{self, Affirming, Contraindicated, Warning};
use vouchsafe_verifier::judgement::Value;

use crate::{Row, at, borrowed, check, judge, load, sweep};

const NVIDIA_GPU: &[Row] = &[
    (
        "nvidia/hopper-550.90.07-full",
        &[],
        "2025-10-24T12:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "nvidia/hopper-550.90.07-full",
        &[],
        "2026-06-02T00:00:00Z",
        Contraindicated,
        "rim_certificate_expired",
    ),
    // Answers about the device are fresh, those about manifests of the future.
    (
        "nvidia/hopper-550.90.07-full",
        &[],
        "2025-08-21T12:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "nvidia/hopper-550.90.07-full",
        &[],
        "2024-02-01T00:00:00Z",
        Contraindicated,
        "rim_certificate_not_yet_valid",
    ),
    // An answer about something else.
    (
        "nvidia/hopper-550.90.07-full",
        &[
            "report.bin",
            "chain.pem",
            "driver-rim.xml",
            "ocsp-gpu_vbios_l4.b64",
        ],
        "2025-10-24T12:00:00Z",
        Contraindicated,
        "ocsp_other_certificate",
    ),
    (
        "nvidia/hopper-550.90.07-full",
        &["report.bin", "chain.pem", "vbios-rim.xml"],
        "2025-10-24T12:00:00Z",
        Warning,
        "rim_missing",
    ),
    (
        "nvidia/hopper-550.90.07-full",
        &["report.bin", "chain.pem"],
        "2025-10-24T12:00:00Z",
        Warning,
        "rim_missing",
    ),
    (
        "nvidia/hopper-550.90.07-full",
        &["report.bin"],
        "2025-10-24T12:00:00Z",
        Warning,
        "endorsement_missing",
    ),
    (
        "nvidia/hopper-570.124.03-expired-rim",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "rim_certificate_expired",
    ),
    (
        "nvidia/blackwell-575.32",
        &[],
        "2026-06-01T00:00:00Z",
        Warning,
        "rim_missing",
    ),
    (
        "nvidia/switch-ls10",
        &[],
        "2026-06-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "nvidia/neg-hopper-bad-signature",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "report_signature",
    ),
    (
        "nvidia/neg-switch-other-chain",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "report_signature",
    ),
    (
        "nvidia/neg-cert-chains",
        &[],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "chain_incomplete",
    ),
    (
        "nvidia/neg-cert-chains",
        &["chain-case2.pem"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "chain_incomplete",
    ),
    (
        "nvidia/neg-cert-chains",
        &["chain-case3.pem"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "chain_incomplete",
    ),
    (
        "nvidia/neg-cert-chains",
        &["chain-case4.pem"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "chain_incomplete",
    ),
    (
        "nvidia/hopper-590.12-ppcie",
        &[],
        "2026-06-01T00:00:00Z",
        Warning,
        "rim_missing",
    ),
    (
        "nvidia/rim-driver-550.144.03",
        &["rim.xml"],
        "2026-06-01T00:00:00Z",
        Warning,
        "evidence_missing",
    ),
    (
        "nvidia/rim-driver-550.144.03",
        &["rim.xml"],
        "2027-01-01T00:00:00Z",
        Contraindicated,
        "rim_certificate_expired",
    ),
    (
        "nvidia/rim-driver-550.144.03",
        &["rim-badsig.xml"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "rim_signature",
    ),
    (
        "nvidia/rim-driver-550.144.03",
        &["rim-other-chain.xml"],
        "2026-06-01T00:00:00Z",
        Contraindicated,
        "rim_root_not_pinned",
    ),
    (
        "nvidia/eat-nras-samples",
        &[],
        "2026-06-01T00:00:00Z",
        Warning,
        "verdict_of_other_verifier",
    ),
];

#[test]
fn nvidia_vectors_are_judged_as_they_must_be() {
    check(Kind::NvidiaGpu, NVIDIA_GPU);
}

#[test]
fn manifests_that_must_not_parse_do_not() {
    for (name, bytes) in load("nvidia/rim-parse-failures", &[]) {
        let files = [File {
            name: &name,
            bytes: &bytes,
        }];
        let judgement = judge(Kind::NvidiaGpu, &files, at("2026-06-01T00:00:00Z"));
        assert_eq!(
            judgement.status,
            if name == "case.json" {
                Warning
            } else {
                Contraindicated
            },
            "{name}"
        );
    }
}

#[test]
fn every_flip_and_every_truncation_of_a_gpus_report_is_refused() {
    let now = "2025-10-24T12:00:00Z";
    let others = ["chain.pem", "driver-rim.xml", "vbios-rim.xml"];
    sweep(
        Kind::NvidiaGpu,
        "nvidia/hopper-550.90.07-full",
        "report.bin",
        &others,
        now,
        173,
    );
    sweep(
        Kind::NvidiaGpu,
        "nvidia/switch-ls10",
        "report.bin",
        &["chain.pem", "vbios-rim.xml"],
        "2026-06-01T00:00:00Z",
        131,
    );
}

/// Case, files, and files of other cases beside them, at a time when all of them are valid.
#[track_caller]
fn check_mixed(
    case: &str,
    names: &[&str],
    others: &[(&str, &str)],
    now: &str,
    expected: (Status, &str),
) {
    let mut files = load(case, names);
    for (case, name) in others {
        files.extend(load(case, &[name]));
    }
    let judgement = judge(Kind::NvidiaGpu, &borrowed(&files), at(now));
    let found = (judgement.status, judgement.reason);
    assert_eq!(found, expected, "{case} with {others:?}: {judgement:#?}");
}

const HOPPER: &str = "nvidia/hopper-550.90.07-full";
const HOPPER_NEWER: &str = "nvidia/hopper-570.124.03-expired-rim";
const BLACKWELL: &str = "nvidia/blackwell-575.32";
const SWITCH: &str = "nvidia/switch-ls10";
const DEVICE: [&str; 2] = ["report.bin", "chain.pem"];

#[test]
fn parts_of_different_vectors_do_not_fit_together() {
    let october = "2025-10-24T12:00:00Z";
    let refused = |reason| (Contraindicated, reason);
    let other = refused("rim_of_other_version");
    let newer_driver = ("nvidia/rim-driver-550.144.03", "rim.xml");
    let mixed = |case, names: &[&str], others: &[_], expected| {
        check_mixed(case, names, others, october, expected);
    };
    mixed(
        HOPPER,
        &["report.bin", "chain.pem", "vbios-rim.xml"],
        &[newer_driver],
        other,
    );
    mixed(
        HOPPER_NEWER,
        &DEVICE,
        &[(HOPPER, "driver-rim.xml"), (HOPPER, "vbios-rim.xml")],
        other,
    );
    mixed(BLACKWELL, &DEVICE, &[(HOPPER, "driver-rim.xml")], other);
    mixed(SWITCH, &DEVICE, &[(HOPPER, "vbios-rim.xml")], other);
    // A debug manifest of a Blackwell says nothing about a Hopper.
    let debug = ("nvidia/rim-driver-550.144.03", "rim-other-chain.xml");
    mixed(
        HOPPER,
        &["report.bin", "chain.pem", "driver-rim.xml"],
        &[debug],
        other,
    );
    // The report of one device, the chain of another.
    for (report, chain) in [
        (HOPPER, HOPPER_NEWER),
        (HOPPER, SWITCH),
        (SWITCH, BLACKWELL),
    ] {
        let expected = refused("report_signature");
        mixed(report, &["report.bin"], &[(chain, "chain.pem")], expected);
    }
    // Two chains for one report, and a certificate that belongs to nothing.
    let ambiguous = refused("evidence_ambiguous");
    mixed(HOPPER, &DEVICE, &[(SWITCH, "chain.pem")], ambiguous);
    mixed(
        HOPPER,
        &["report.bin", "chain.pem", "driver-rim.xml", "vbios-rim.xml"],
        &[("nvidia/rim-driver-550.144.03", "rim-wrong-root.crt")],
        ambiguous,
    );
}

#[test]
fn claims_of_real_devices_are_what_they_are() {
    let text = |text: &str| Value::Text(text.to_owned());
    let check = |case: &str, names: &[&str], now: &str, claims: &[(&str, Value)]| {
        let files = load(case, names);
        let judgement = judge(Kind::NvidiaGpu, &borrowed(&files), at(now));
        for (name, expected) in claims {
            assert_eq!(judgement.claims.get(name), Some(expected), "{case}: {name}");
        }
    };
    let october = "2025-10-24T12:00:00Z";
    check(
        HOPPER,
        &[],
        october,
        &[
            ("device", text("gpu")),
            ("architecture", text("hopper")),
            ("hardware_model", text("GH100 A01 GSP BROM")),
            ("chip_id", text("41431d480fe5e87274")),
            // As NVIDIA's own verifier says in its token about this device.
            (
                "ueid",
                text("478176379286082186618948445787393647364802107249"),
            ),
            ("driver", text("550.90.07")),
            ("vbios", text("96.00.9F.00.01")),
            ("board", text("1010_0200_882")),
            ("mode", text("single_gpu")),
            ("confidential_compute", Value::Bool(true)),
            ("protected_pcie", Value::Bool(false)),
            ("secure_boot", Value::Bool(true)),
            ("debug", Value::Bool(false)),
            ("revocation_checked", Value::Bool(false)),
            ("count", Value::Number(1)),
        ],
    );
    check(
        "nvidia/hopper-590.12-ppcie",
        &[],
        october,
        &[
            ("driver", text("590.12")),
            ("board", text("G520_0200_885")),
            ("mode", text("protected_pcie")),
            ("confidential_compute", Value::Bool(false)),
            ("protected_pcie", Value::Bool(true)),
        ],
    );
    check(
        BLACKWELL,
        &[],
        october,
        &[
            ("architecture", text("blackwell")),
            ("driver", text("575.32")),
            ("vbios", text("97.00.88.00.0F")),
        ],
    );
    check(
        SWITCH,
        &[],
        october,
        &[
            ("device", text("switch")),
            ("architecture", text("ls10")),
            ("chip_id", text("50203eb31ad9ed0008")),
            ("vbios", text("96.10.55.00.01")),
            ("count", Value::Number(0)),
            ("switches", Value::Number(1)),
        ],
    );
}

#[test]
fn fresh_answers_are_needed_where_rules_demand_them() {
    let look = |now: &str, names: &[&str]| {
        let files = load(HOPPER, names);
        let dossier = Dossier {
            files: &borrowed(&files),
            endorsements: &[],
        };
        let mut rules = Rules::default();
        rules.nvidia_gpu.ocsp.is_required = true;
        let glance = dossier::inspect(Kind::NvidiaGpu, dossier, &rules, at(now));
        let judgement = glance.judgement();
        assert_eq!(
            judgement.claims.get("revocation_checked"),
            Some(&Value::Bool(false))
        );
        (judgement.reason, judgement.is_incomplete)
    };
    // No day has answers about all of it.
    assert_eq!(look("2025-10-24T12:00:00Z", &[]), ("ocsp_expired", true));
    assert_eq!(
        look("2025-08-21T12:00:00Z", &[]),
        ("ocsp_not_yet_valid", true)
    );
    let without = ["report.bin", "chain.pem", "driver-rim.xml", "vbios-rim.xml"];
    assert_eq!(
        look("2025-10-24T12:00:00Z", &without),
        ("ocsp_missing", true)
    );
}

#[test]
fn nonce_is_the_one_of_the_request() {
    let files = load(
        HOPPER,
        &["report.bin", "chain.pem", "driver-rim.xml", "vbios-rim.xml"],
    );
    let dossier = Dossier {
        files: &borrowed(&files),
        endorsements: &[],
    };
    let nonce = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";
    for (nonce, reason) in [
        (nonce, "verified"),
        (&nonce.replace("931d", "931e"), "nonce_mismatch"),
        (&nonce[..62], "nonce_mismatch"),
    ] {
        let bytes: Vec<u8> = (0..nonce.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&nonce[at..at + 2], 16).unwrap())
            .collect();
        let expected = Expected::Nonce(bytes);
        let now = at("2025-10-24T12:00:00Z");
        let rules = Rules::default();
        let judgement = dossier::verify(Kind::NvidiaGpu, dossier, &expected, &rules, now);
        assert_eq!(judgement.reason, reason);
    }
}

#[test]
fn flips_and_cuts_of_what_comes_with_a_report_never_panic_and_change_nothing_that_counts() {
    let now = at("2025-10-24T12:00:00Z");
    for name in [
        "chain.pem",
        "driver-rim.xml",
        "vbios-rim.xml",
        "ocsp-gpu_rim_l2.b64",
    ] {
        let whole = load(HOPPER, &[]);
        let position = whole.iter().position(|(held, _)| held == name).unwrap();
        let original = judge(Kind::NvidiaGpu, &borrowed(&whole), now);
        let length = whole[position].1.len();
        for index in (0..length).step_by(1 + length / 10) {
            for is_cut in [true, false] {
                let mut files = whole.clone();
                if is_cut {
                    files[position].1.truncate(index);
                } else {
                    files[position].1[index] ^= 1 << (index % 8);
                }
                let found = judge(Kind::NvidiaGpu, &borrowed(&files), now);
                // What is not signed, such as an end of line, may differ.
                let is_same = found.claims == original.claims;
                assert!(
                    found.status != Affirming || (is_same && !is_cut),
                    "{name} {index} {is_cut}: {found:#?}"
                );
            }
        }
    }
}
