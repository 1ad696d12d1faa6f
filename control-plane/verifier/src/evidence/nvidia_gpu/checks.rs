//! What is checked of NVIDIA's devices, for auditors and for tests: each row has tests that turn its input alone.

use crate::judgement::{Check, check};

/// Every check, in the order in which judgements show them.
pub const CHECKS: &[Check] = &[
    check(
        "evidence",
        &[
            "evidence_missing",
            "evidence_ambiguous",
            "verdict_of_other_verifier",
            "too_many_devices",
        ],
        "there is evidence of devices, and it is clear which chain belongs to which report",
    ),
    check(
        "verdict",
        &[],
        "a verdict of NVIDIA's own service that came along is no evidence, and is not judged",
    ),
    check(
        "ocsp_format",
        &["ocsp_malformed", "ocsp_refused"],
        "a response that was given can be read",
    ),
    check(
        "report_format",
        &["report_malformed"],
        "request for all measurements and signed response, counts, sizes, no field twice, known values of fields that decide",
    ),
    check(
        "chain_format",
        &["chain_malformed"],
        "the device's certificates can be read",
    ),
    check(
        "chain_length",
        &["chain_incomplete"],
        "root, something between, firmware",
    ),
    check(
        "chain",
        &[
            "root_not_pinned",
            "chain_incomplete",
            "chain_constraints",
            "certificate_not_yet_valid",
            "certificate_expired",
            "endorsement_missing",
        ],
        "path from NVIDIA's pinned root: names, signatures, authority, depth, critical extensions, dates",
    ),
    check(
        "chain_leaf",
        &["chain_incomplete"],
        "the path ends in a key of firmware, not in an authority",
    ),
    check(
        "production",
        &["debug_part"],
        "no certificate of the path is for debugging",
    ),
    check(
        "architecture",
        &["architecture_unknown"],
        "the chip is one that is known here",
    ),
    check(
        "binding",
        &["nonce_mismatch", "expectation_unsuitable"],
        "the nonce of the request, all 32 bytes",
    ),
    check(
        "stated_nonce",
        &["nonce_mismatch"],
        "the nonce that is written beside the report",
    ),
    check(
        "report_signature",
        &["report_signature"],
        "ECDSA P-384 with SHA-384 over request and response as received",
    ),
    check(
        "firmware_id",
        &["firmware_id_mismatch", "firmware_id_missing"],
        "the firmware of the report is the one that the key was certified for",
    ),
    check(
        "stated_architecture",
        &["architecture_mismatch"],
        "the architecture that is written beside the report",
    ),
    check(
        "switch_pdi",
        &["switch_pdi_mismatch"],
        "a switch's own number is that of its chip's certificate",
    ),
    check(
        "mode_is_one",
        &["mode_contradicts"],
        "fields that state the mode agree",
    ),
    check("mode", &["mode"], "the mode is among those accepted"),
    check(
        "confidential_compute",
        &["confidential_compute"],
        "confidential computing is on, by the report's mode and what the driver says",
    ),
    check(
        "devtools",
        &["devtools"],
        "tools for developers are off, as the driver says",
    ),
    check(
        "driver",
        &["driver", "driver_too_old", "driver_revoked"],
        "version of the driver against what is accepted, the floor, and what is revoked",
    ),
    check(
        "vbios",
        &["vbios", "vbios_too_old", "vbios_revoked"],
        "version of the VBIOS against what is accepted, the floor, and what is revoked",
    ),
    check(
        "rim_format",
        &["rim_malformed"],
        "a manifest that was given can be read",
    ),
    check(
        "driver_rim",
        &["rim_missing", "rim_of_other_version", "version_missing"],
        "the manifest of this very driver, chip and edition",
    ),
    check(
        "vbios_rim",
        &["rim_missing", "rim_of_other_version", "version_missing"],
        "the manifest of this very VBIOS, chip and edition",
    ),
    check(
        "rim_signature_form",
        &["rim_signature"],
        "exactly one signature, right below the root, of the one form that is read",
    ),
    check(
        "rim_chain",
        &[
            "rim_chain",
            "rim_root_not_pinned",
            "rim_certificate_not_yet_valid",
            "rim_certificate_expired",
        ],
        "path from NVIDIA's pinned root of reference values",
    ),
    check(
        "rim_signer",
        &["rim_debug"],
        "no authority of the path is for debugging",
    ),
    check(
        "rim_digest",
        &["rim_digest"],
        "SHA-384 of the whole document without its signature",
    ),
    check(
        "rim_signature",
        &["rim_signature"],
        "ECDSA P-384 with SHA-384 over what is signed",
    ),
    check(
        "rim_overlap",
        &["rim_overlap"],
        "no measurement is claimed by both manifests",
    ),
    check(
        "measurements",
        &["measurement_mismatch"],
        "each active measurement is one of its golden values",
    ),
    check(
        "ocsp",
        &[
            "certificate_revoked",
            "certificate_on_hold",
            "certificate_unknown",
            "ocsp_missing",
            "ocsp_expired",
            "ocsp_not_yet_valid",
            "ocsp_signature",
            "ocsp_responder",
            "ocsp_other_certificate",
        ],
        "each certificate but roots and the firmware's: who answers, about what, and how fresh",
    ),
    check(
        "trailing",
        &[],
        "bytes after the report, which some collectors leave, are counted and not judged",
    ),
    check(
        "set_format",
        &["report_malformed"],
        "each device of a set can be read",
    ),
    check("gpu_count", &["gpu_count"], "as many GPUs as there must be"),
    check(
        "switch_count",
        &["switch_count"],
        "as many switches as there must be",
    ),
    check(
        "unique_devices",
        &["device_twice"],
        "no chip is shown twice",
    ),
    check("one_mode", &["modes_differ"], "all GPUs are in one mode"),
    check(
        "links_of_gpus",
        &["links_differ"],
        "all GPUs name the same switches",
    ),
    check(
        "links_of_switches",
        &["links_differ"],
        "all switches name the same GPUs",
    ),
    check(
        "links",
        &["switch_not_linked"],
        "the switches that GPUs name are those that were shown",
    ),
];
