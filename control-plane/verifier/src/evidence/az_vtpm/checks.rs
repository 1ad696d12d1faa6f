//! What is checked of Azure's vTPM evidence beside the hardware's own checks, for auditors and for tests.

use crate::judgement::{Check, check};

/// Every check, in the order in which judgements show them; those of the report or quote inside stand after the second.
pub const CHECKS: &[Check] = &[
    check(
        "hcl_format",
        &["hcl_malformed"],
        "exactly one report over SHA-256 of its runtime data",
    ),
    check(
        "hardware",
        &["tee_mismatch"],
        "the hardware inside is the kind that is judged",
    ),
    check(
        "td_quote",
        &["evidence_missing"],
        "a trust domain's quote was given, where TDX is below",
    ),
    check(
        "runtime_format",
        &["runtime_malformed"],
        "runtime data is what Azure's firmware writes",
    ),
    check(
        "secure_boot",
        &["secure_boot"],
        "the machine was started with Secure Boot, where demanded",
    ),
    check(
        "console",
        &["console"],
        "the machine was started without a console, where demanded",
    ),
    check(
        "vtpm_key",
        &["vtpm_key"],
        "runtime data names exactly one attestation key",
    ),
    check(
        "vtpm_quote_signature",
        &["vtpm_quote_signature"],
        "that key signed the vTPM's quote",
    ),
    check(
        "vtpm_quote_format",
        &["vtpm_quote_malformed"],
        "what it signed is a quote of a TPM",
    ),
    check(
        "binding",
        &["nonce_mismatch"],
        "the quote's `extraData` against the expected nonce",
    ),
    check(
        "pcr_values",
        &["pcr_values_missing", "pcr_values_malformed"],
        "values of the PCRs were given",
    ),
    check(
        "pcr_selection",
        &["pcr_selection"],
        "the values given are those that were quoted, no more, no fewer",
    ),
    check(
        "pcr_digest",
        &["pcr_digest"],
        "their digest is the quoted one",
    ),
    check("pcrs", &["pcrs"], "PCRs among those named"),
    check(
        "event_log",
        &["event_log_missing", "event_log_malformed"],
        "the boot event log is there and whole",
    ),
    check(
        "event_log_replay",
        &["event_log_replay"],
        "replaying it gives PCRs 0 to 7",
    ),
];
