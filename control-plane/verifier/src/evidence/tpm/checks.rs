//! What is checked of a TPM's evidence from files, for auditors and for tests: each row has a test that turns its input
//! alone. What an attestation checks besides, which files can't show, is in [`crate::verdict::Check`].

use crate::judgement::{Check, check};

/// Every check, in the order in which judgements show them.
pub const CHECKS: &[Check] = &[
    check(
        "attestation_format",
        &["attestation_malformed"],
        "a message of go-tpm-tools: each field once, in its shortest form",
    ),
    check(
        "evidence_format",
        &["evidence_malformed"],
        "JSON is of a shape that is known",
    ),
    check(
        "evidence",
        &["evidence_missing", "evidence_ambiguous"],
        "files are exactly one piece of evidence",
    ),
    check("parsed_log", &[], "a log in words, which is not used"),
    check(
        "quote",
        &["evidence_missing"],
        "a quote was given; all else is shown and proves nothing",
    ),
    check(
        "signature_hash",
        &["sha1"],
        "the key does not sign with SHA-1",
    ),
    check(
        "ak_format",
        &["evidence_missing", "ak_malformed"],
        "the attestation key was given, and is of a kind that is accepted",
    ),
    check(
        "ak_attributes",
        &["ak_attributes"],
        "the key can't leave its TPM, and signs only what its TPM made",
    ),
    check(
        "ak_scheme",
        &["ak_scheme"],
        "the key's scheme is one of its kind, with SHA-256 or SHA-384",
    ),
    check(
        "quote_format",
        &["quote_malformed"],
        "what was signed is a quote of a TPM",
    ),
    check(
        "quote_signature",
        &["evidence_missing", "quote_signature"],
        "the attestation key signed the quote",
    ),
    check(
        "binding",
        &["nonce_mismatch", "expectation_unsuitable"],
        "the quote's `extraData` against the expected nonce",
    ),
    check(
        "pcr_values",
        &["pcr_values_malformed"],
        "values of the length of their bank, each once",
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
    check(
        "sha1_quote",
        &["quote_signature", "pcr_digest"],
        "a quote of SHA-1 values is genuine, though its values are not used",
    ),
    check(
        "quote_bank",
        &["sha1"],
        "some quote is of a SHA-256 or SHA-384 bank",
    ),
    check(
        "ak_certified",
        &[
            "ak_not_certified",
            "certificate_chain",
            "certificate_not_yet_valid",
            "certificate_expired",
        ],
        "a pinned root certified the key, or the operator enrolled it",
    ),
    check(
        "event_log",
        &["event_log_missing", "event_log_malformed"],
        "the boot event log is there where demanded, and whole",
    ),
    check(
        "event_log_replay",
        &["event_log_replay"],
        "replaying it gives the quoted PCRs 0 to 7",
    ),
    check(
        "event_log_bank",
        &["event_log_unsupported"],
        "a log by itself has digests of SHA-256 or SHA-384",
    ),
    check(
        "secure_boot",
        &["secure_boot"],
        "Secure Boot by the replayed log, against what is demanded",
    ),
    check(
        "ima_format",
        &["ima_malformed", "ima_missing"],
        "the kernel's measurement list is there where demanded, and whole",
    ),
    check(
        "ima_replay",
        &["ima_replay"],
        "replaying it gives the quoted PCR 10",
    ),
    check(
        "ima_measures",
        &["ima_empty"],
        "the kernel measured something, where rules name files",
    ),
    check(
        "ima_files",
        &["ima_file"],
        "each measured file against the rules",
    ),
    check(
        "class",
        &["class"],
        "what the root vouches for, against the classes accepted",
    ),
    check(
        "pcr_coverage",
        &["pcr_not_quoted"],
        "the quoted PCRs against those that must be",
    ),
    check("image", &["image"], "PCRs among the images named"),
    check(
        "certificate_format",
        &["certificate_malformed"],
        "a certificate without a quote can be read",
    ),
    check(
        "certificate_key",
        &["certificate_key"],
        "its key is of a kind that is accepted",
    ),
    check(
        "certificate",
        &[
            "certificate_chain",
            "certificate_not_yet_valid",
            "certificate_expired",
        ],
        "its path to a pinned root, if it has one",
    ),
];
