//! What is turned: affirmed evidence of each kind, and for each key of its section a change that must refuse.

use super::Kind;

/// Evidence that is affirmed, and how its image is written.
pub(super) struct Subject {
    pub(super) kind: Kind,
    pub(super) files: &'static [&'static str],
    pub(super) endorsements: Option<&'static str>,
    pub(super) at: &'static str,
    /// What else the section must say so that the evidence is affirmed.
    pub(super) more: &'static str,
    /// Keys of an image, each with the claim that has its value.
    pub(super) image: &'static [(&'static str, &'static str)],
    /// PCRs that the image names.
    pub(super) pcrs: &'static [u8],
    /// Reasons of claims that decide earlier than as a condition, by key, with the checks that fail.
    pub(super) rules: &'static [(&'static str, &'static str, &'static [&'static str])],
    /// Changes of other keys.
    pub(super) options: &'static [Turn],
}

/// A key that is no claim, set in a section about other files.
pub(super) struct Turn {
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    /// Files instead of the subject's, or the subject's where empty.
    pub(super) files: &'static [&'static str],
    /// The time, or the subject's where empty.
    pub(super) at: &'static str,
    /// Without the key, and with it.
    pub(super) reasons: [&'static str; 2],
}

const fn turn(key: &'static str, value: &'static str, reasons: [&'static str; 2]) -> Turn {
    Turn {
        key,
        value,
        files: &[],
        at: "",
        reasons,
    }
}

const fn turn_over(files: &'static [&'static str], at: &'static str, turn: Turn) -> Turn {
    Turn { files, at, ..turn }
}

/// Keys of options whose input no real evidence shows: that it is read, and accepts no less than before. The tables of
/// checks turn those inputs over made-up evidence, and `every_option_reaches_its_rule` what becomes of each key.
const fn harmless(key: &'static str) -> Turn {
    turn(key, "true", ["verified"; 2])
}

const SNP_IMAGE: &[(&str, &str)] = &[
    ("sha384", "measurement"),
    ("host_data", "host_data"),
    ("id_key_digest", "id_key_digest"),
    ("author_key_digest", "author_key_digest"),
    ("family_id", "family_id"),
    ("image_id", "image_id"),
];

const TCB_RULES: &[(&str, &str, &[&str])] = &[
    ("tcb.bootloader", "reported_tcb_too_old", TCB_CHECKS),
    ("tcb.tee", "reported_tcb_too_old", TCB_CHECKS),
    ("tcb.snp", "reported_tcb_too_old", TCB_CHECKS),
    ("tcb.microcode", "reported_tcb_too_old", TCB_CHECKS),
];
const TCB_CHECKS: &[&str] = &["tcb_reported", "tcb_committed", "tcb_current", "tcb_launch"];

/// What is up to date is refused by who wants something else, and what is not by its own word.
const DCAP_RULES: &[(&str, &str, &[&str])] = &[
    ("tcb_status", "tcb_up_to_date", &["tcb_status"]),
    DCAP_DATE,
    DCAP_EVALUATION,
];
const OLD_DCAP_RULES: &[(&str, &str, &[&str])] = &[
    ("tcb_status", "tcb_out_of_date", &["tcb_status"]),
    DCAP_DATE,
    DCAP_EVALUATION,
];
const DCAP_DATE: (&str, &str, &[&str]) = ("tcb_date", "tcb_date_too_old", &["tcb_date"]);
const DCAP_EVALUATION: (&str, &str, &[&str]) = (
    "tcb_evaluation_data_number",
    "tcb_evaluation_too_old",
    &["tcb_evaluation"],
);

pub(super) const SUBJECTS: &[Subject] = &[
    Subject {
        kind: Kind::SevSnp,
        files: &["snp/milan-v2-vcek"],
        endorsements: None,
        at: "2025-06-01T00:00:00Z",
        more: "",
        image: SNP_IMAGE,
        pcrs: &[],
        rules: TCB_RULES,
        options: &[
            turn("crl", "required", ["verified", "crl_missing"]),
            turn("required_mitigations", "1", ["verified", "mitigations"]),
            turn_over(
                &["snp/milan-v2-debug"],
                "",
                turn("danger_accept_debug", "true", ["debug_enabled", "verified"]),
            ),
            harmless("refuse_unknown_bits"),
            harmless("accept_masked_chip_id"),
            harmless("danger_accept_migration"),
            harmless("danger_accept_reserved"),
        ],
    },
    Subject {
        kind: Kind::Tdx,
        files: &["tdx/v4-gcp-padded-8000"],
        endorsements: None,
        at: "2025-07-10T00:00:00Z",
        more: "",
        image: &[
            ("mrtd", "mrtd"),
            ("rtmr0", "rtmr0"),
            ("rtmr1", "rtmr1"),
            ("rtmr2", "rtmr2"),
            ("rtmr3", "rtmr3"),
            ("mrconfigid", "mrconfigid"),
            ("mrowner", "mrowner"),
        ],
        pcrs: &[],
        rules: DCAP_RULES,
        options: &[
            turn_over(
                &[
                    "tdx/v4-gcp-padded-8000/quote.bin",
                    "tdx/v4-gcp-padded-8000/collateral.json",
                ],
                "",
                turn("event_log", "required", ["verified", "event_log_missing"]),
            ),
            turn_over(
                &["tdx/v4-debug"],
                "2026-04-01T00:00:00Z",
                turn(
                    "danger_accept_debug",
                    "true",
                    ["debug_enabled", "tcb_out_of_date"],
                ),
            ),
            turn("accepted_advisories", "[]", ["verified", "verified"]),
            harmless("danger_accept_migration"),
            harmless("danger_accept_reserved"),
            harmless("danger_accept_sept_ve"),
            harmless("danger_accept_service_td"),
        ],
    },
    Subject {
        kind: Kind::AzSnpVtpm,
        files: &["az-snp-vtpm/milan-v1"],
        endorsements: None,
        at: "2025-06-01T00:00:00Z",
        more: "",
        image: &[("sha384", "measurement")],
        pcrs: &[4],
        rules: TCB_RULES,
        options: &[
            turn("crl", "required", ["verified", "crl_missing"]),
            turn("required_mitigations", "1", ["verified", "mitigations"]),
            harmless("danger_accept_debug"),
            harmless("refuse_unknown_bits"),
            harmless("accept_masked_chip_id"),
            harmless("danger_accept_migration"),
            harmless("danger_accept_reserved"),
        ],
    },
    Subject {
        kind: Kind::AzTdxVtpm,
        files: &["az-tdx-vtpm/v1"],
        endorsements: Some("tdx/v4-gcp-padded-8000"),
        at: "2025-07-10T00:00:00Z",
        more: "tcb_status: [UpToDate, OutOfDate]",
        image: &[("mrtd", "mrtd")],
        pcrs: &[4],
        rules: OLD_DCAP_RULES,
        options: &[
            turn(
                "accepted_advisories",
                "[]",
                ["verified", "advisory_not_accepted"],
            ),
            harmless("danger_accept_debug"),
            harmless("danger_accept_migration"),
            harmless("danger_accept_reserved"),
            harmless("danger_accept_service_td"),
        ],
    },
    Subject {
        kind: Kind::NvidiaGpu,
        files: &["nvidia/hopper-550.90.07-full"],
        endorsements: None,
        at: "2025-10-24T12:00:00Z",
        more: "",
        image: &[],
        pcrs: &[],
        rules: &[
            (
                "confidential_compute",
                "confidential_compute",
                &["confidential_compute"],
            ),
            ("devtools", "devtools", &["devtools"]),
        ],
        options: &[
            turn("ocsp", "required", ["verified", "ocsp_expired"]),
            harmless("accept_hold"),
        ],
    },
    Subject {
        kind: Kind::Nitro,
        files: &["nitro/prod-evervault"],
        endorsements: None,
        at: "2022-10-13T09:00:00Z",
        more: "",
        image: &[],
        pcrs: &[0, 1, 2],
        rules: &[],
        options: &[turn_over(
            &["nitro/debug-evervault"],
            "2022-10-12T14:00:00Z",
            turn("danger_accept_debug", "true", ["debug_enabled", "image"]),
        )],
    },
    Subject {
        kind: Kind::Tpm,
        files: &["tpm/gce-cos85-nonce9009.pb"],
        endorsements: None,
        at: "2026-01-01T00:00:00Z",
        more: "classes: [hardware, software]",
        image: &[],
        pcrs: &[4],
        rules: &[],
        options: &[
            turn("classes", "[hardware]", ["verified", "class"]),
            turn("secure_boot", "false", ["verified", "secure_boot"]),
            turn("pcrs", "{sha256: [0, 7, 23]}", ["verified", "verified"]),
            turn("pcrs", "{sha384: [0, 23]}", ["verified", "verified"]),
            turn(
                "ima",
                "{files: [{path: /**, danger_any_content: true}]}",
                ["verified", "ima_missing"],
            ),
            turn("event_log", "required", ["verified", "verified"]),
        ],
    },
];
