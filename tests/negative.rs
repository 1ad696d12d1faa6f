//! The list of attacks that real verifiers fell for, each with the tests that show it refused.
//!
//! Numbers are those of the reference's list of negative tests. A test that was renamed or that lost its case is noticed
//! here.

use std::path::Path;

/// Numbers, what is tried, and where it is refused: file, test, and a word of the case in that file.
type Row = (&'static [u8], &'static str, &'static [Proof]);
type Proof = (&'static str, &'static str, &'static str);

const SNP: &str = "control-plane/verifier/src/evidence/sev_snp/tests.rs";
const DCAP: &str = "control-plane/verifier/src/evidence/dcap/tests.rs";
const AZURE: &str = "control-plane/verifier/src/evidence/az_vtpm/tests.rs";
const TPM: &str = "control-plane/verifier/src/dossier/tpm/tests.rs";
const GPU: &str = "control-plane/verifier/src/evidence/nvidia_gpu/tests/devices.rs";
const MANIFESTS: &str = "control-plane/verifier/src/evidence/nvidia_gpu/tests/manifests.rs";
const OCSP: &str = "control-plane/verifier/src/ocsp/tests.rs";
const SETS: &str = "control-plane/verifier/src/appraise/tests/sets.rs";
const HOSTILE: &str = "control-plane/verifier/tests/vectors/hostile.rs";
const CONTAINERS: &str = "control-plane/verifier/tests/vectors/containers.rs";
const LIVE: &str = "control-plane/src/app/tests.rs";
const HARDWARE: &str = "control-plane/src/app/tests/hardware.rs";
const SWTPM: &str = "tests/tpm/attestation.rs";
const PEER: &str = "control-plane/attestation/src/peer/tests.rs";
const MESH_STATE: &str = "proxy/src/mesh_state/tests.rs";
const EVERY_CHECK: &str = "every_check_notices_its_input_alone";
const LIES: &str = "each_lie_of_hardware_gets_its_word_and_can_be_judged_again";

const NEGATIVE: &[Row] = &[
    (
        &[1],
        "expected report data that is empty, short or long",
        &[
            (
                "control-plane/src/cli/attest_verify/tests.rs",
                "exactly_one_binding_must_be_said",
                "--expect-report-data 00 file",
            ),
            (HARDWARE, LIES, "the binding padded"),
            (
                "control-plane/attestation/src/binding.rs",
                "report_data_is_full_and_of_this_binding_only",
                "",
            ),
        ],
    ),
    (
        &[2],
        "a nonce used twice",
        &[
            (LIVE, "a_challenge_is_consumed_by_the_first_evidence", ""),
            (
                HARDWARE,
                "hardware_evidence_is_good_for_one_stream_of_one_connection_only",
                "replayed",
            ),
        ],
    ),
    (
        &[3],
        "a nonce of another stream, replica or epoch",
        &[
            (
                LIVE,
                "evidence_of_one_connection_is_worth_nothing_on_another",
                "",
            ),
            (
                SWTPM,
                "evidence_over_another_view_of_the_connection_is_refused",
                "a later epoch",
            ),
        ],
    ),
    (
        &[4],
        "fresh evidence over another connection's exporter",
        &[
            (
                LIVE,
                "each_lie_gets_its_word_and_a_record",
                "wrong_exporter",
            ),
            (
                SWTPM,
                "evidence_over_another_view_of_the_connection_is_refused",
                "exporter of another connection",
            ),
        ],
    ),
    (
        &[5],
        "mirrored evidence: the other role",
        &[(
            SWTPM,
            "evidence_over_another_view_of_the_connection_is_refused",
            "mirrored role",
        )],
    ),
    (
        &[6],
        "a certificate request for another key than the bound one",
        &[(
            LIVE,
            "each_lie_gets_its_word_and_a_record",
            "other_key_in_request",
        )],
    ),
    (
        &[7],
        "devices of two machines in one set",
        &[
            (
                SETS,
                "a_gpu_that_answered_another_attestation_is_refused",
                "",
            ),
            (SETS, "the_root_commits_to_all_the_rest", ""),
        ],
    ),
    (
        &[8],
        "a valid chain, another chip",
        &[
            (HARDWARE, LIES, "not_a_member"),
            (SNP, EVERY_CHECK, "hwid_mismatch"),
        ],
    ),
    (
        &[9],
        "a VCEK of another TCB",
        &[(SNP, EVERY_CHECK, "vek_tcb_mismatch")],
    ),
    (&[10], "a revoked ASK", &[(SNP, EVERY_CHECK, "ask_revoked")]),
    (
        &[11],
        "the debug bit of a guest policy",
        &[
            (SNP, EVERY_CHECK, "debug_enabled"),
            (HARDWARE, LIES, "debug_enabled"),
        ],
    ),
    (
        &[12],
        "VMPL 1",
        &[(SNP, EVERY_CHECK, "\"vmpl\""), (HARDWARE, LIES, "\"vmpl\"")],
    ),
    (
        &[13],
        "a committed TCB below the floor, the reported one above",
        &[(SNP, EVERY_CHECK, "committed_tcb_too_old")],
    ),
    (
        &[14],
        "a report of version 6",
        &[(SNP, EVERY_CHECK, "(0, 6)")],
    ),
    (
        &[15],
        "a QE identity that is unsigned or forged",
        &[(DCAP, EVERY_CHECK, "qe_identity_signature")],
    ),
    (
        &[16],
        "TCB info that expired, was written anew, or lists too few components",
        &[
            (DCAP, EVERY_CHECK, "tcb_info_expired"),
            (DCAP, EVERY_CHECK, "tcb_info_malformed"),
            (
                CONTAINERS,
                "intels_answers_one_by_one_are_as_good_as_all_in_one",
                "negative test 16",
            ),
        ],
    ),
    (
        &[17],
        "a status out of date without advisories",
        &[(DCAP, EVERY_CHECK, "tcb_out_of_date")],
    ),
    (
        &[18],
        "a trust domain in debug mode",
        &[(DCAP, EVERY_CHECK, "debug_enabled")],
    ),
    (
        &[19],
        "a service trust domain",
        &[(DCAP, EVERY_CHECK, "service_td")],
    ),
    (
        &[20],
        "an event log that is missing or does not replay",
        &[
            (DCAP, EVERY_CHECK, "event_log_missing"),
            (DCAP, EVERY_CHECK, "event_log_replay"),
        ],
    ),
    (
        &[21],
        "a GPU's report over an old nonce",
        &[(
            GPU,
            "nonce_is_the_one_that_was_asked_for_and_stated",
            "nonce_mismatch",
        )],
    ),
    (
        &[22],
        "a GPU in the mode for developers",
        &[(
            GPU,
            "confidential_computing_is_on_where_it_must_be",
            "refuses(\"devtools\"",
        )],
    ),
    (
        &[23],
        "OCSP: unknown, revoked, on hold, expired, for another nonce",
        &[
            (OCSP, "status_is_what_the_issuer_says", ""),
            (
                "control-plane/verifier/src/evidence/nvidia_gpu/tests/revocation.rs",
                "certificate_that_was_revoked_is_refused_for_ever",
                "",
            ),
            (
                "control-plane/verifier/src/evidence/nvidia_gpu/tests/revocation.rs",
                "certificate_that_its_issuer_does_not_know_is_refused",
                "",
            ),
            (
                "control-plane/verifier/src/evidence/nvidia_gpu/tests/revocation.rs",
                "answer_that_is_missing_or_old_is_no_proof",
                "",
            ),
        ],
    ),
    (
        &[24],
        "a field of a GPU's report that stands twice",
        &[(
            GPU,
            "report_of_another_form_is_refused",
            "gpu.fields.push((3,",
        )],
    ),
    (
        &[25],
        "a manifest of another version or chip",
        &[(
            MANIFESTS,
            "manifest_is_that_of_the_very_version_and_chip",
            "rim_of_other_version",
        )],
    ),
    (
        &[26],
        "a right digest over a narrowed selection",
        &[
            (TPM, EVERY_CHECK, "pcr_selection"),
            (AZURE, EVERY_CHECK, "pcr_selection"),
            (SWTPM, "a_narrowed_or_widened_selection_is_refused", ""),
        ],
    ),
    (
        &[27],
        "another attestation key",
        &[
            (TPM, EVERY_CHECK, "ak_not_certified"),
            (SWTPM, "a_quote_by_another_tpm_is_refused", ""),
            (
                SWTPM,
                "another_key_or_another_tpm_is_not_the_enrolled_one",
                "",
            ),
        ],
    ),
    (
        &[28],
        "a violation in the measurement list",
        &[
            (TPM, EVERY_CHECK, "ima_file"),
            (
                "tests/tpm/ima.rs",
                "a_violation_is_refused_unless_the_rules_accept_it",
                "",
            ),
        ],
    ),
    (
        &[29],
        "a reset counter that decreased",
        &[
            (
                SWTPM,
                "a_reboot_is_seen_and_a_restored_snapshot_is_refused",
                "",
            ),
            (SWTPM, "counters_are_compared_within_one_boot", ""),
        ],
    ),
    (
        &[30],
        "evidence ten times its size, compressed, nested without end",
        &[
            (HOSTILE, "evidence_ten_times_its_size_is_refused", ""),
            (HOSTILE, "evidence_that_is_compressed_is_refused", ""),
            (
                HOSTILE,
                "structures_nested_without_end_are_refused_at_once",
                "nested_der",
            ),
            (
                LIVE,
                "each_lie_gets_its_word_and_a_record",
                "oversize_message",
            ),
        ],
    ),
    (
        &[31],
        "two attestation results in one certificate",
        &[(
            PEER,
            "an_attestation_result_stands_once_and_can_be_read",
            "",
        )],
    ),
    (
        &[32],
        "a name of another team, or of the control plane",
        &[
            (
                LIVE,
                "each_lie_gets_its_word_and_a_record",
                "claims_workload",
            ),
            (PEER, "a_role_of_the_mesh_is_no_workload", ""),
        ],
    ),
    (
        &[33],
        "a control plane's certificate without the role",
        &[(
            PEER,
            "neither_a_workload_nor_a_roleless_leaf_of_the_root_is_the_control_plane",
            "",
        )],
    ),
    (
        &[34],
        "an older TLS, a ticket, data before the handshake's end",
        &[
            ("tests/mesh/peers.rs", "tls_1_2_is_refused", "-tls1_2"),
            (
                "proxy/src/svid/tests.rs",
                "a_control_plane_that_answers_in_tls_1_2_is_refused",
                "",
            ),
            (
                "proxy/tests/data_path/interop.rs",
                "tickets_are_never_sent",
                "",
            ),
        ],
    ),
    (
        &[35],
        "a gap in what is streamed to sidecars, revocations among it",
        &[
            (
                MESH_STATE,
                "a_change_that_skips_a_revision_is_not_guessed_at",
                "",
            ),
            (
                MESH_STATE,
                "a_heartbeat_of_a_revision_that_never_came_is_asked_about",
                "",
            ),
            (
                MESH_STATE,
                "a_change_that_leaves_something_out_is_noticed",
                "",
            ),
        ],
    ),
    (
        &[36],
        "policy of an earlier revision or epoch",
        &[
            (MESH_STATE, "yesterdays_revision_is_refused", ""),
            (
                MESH_STATE,
                "a_revision_of_an_earlier_epoch_is_refused_whatever_its_number",
                "",
            ),
            (
                SWTPM,
                "evidence_over_another_view_of_the_connection_is_refused",
                "a later epoch",
            ),
        ],
    ),
    (
        &[37],
        "simulated evidence in a production domain",
        &[
            (
                LIVE,
                "simulated_evidence_is_refused_where_the_trust_domain_was_not_made_for_it",
                "",
            ),
            (
                "control-plane/verifier/src/appraise/tests.rs",
                "simulated_evidence_is_accepted_only_where_the_trust_domain_says_so_and_shows_its_class",
                "",
            ),
        ],
    ),
    (
        &[38],
        "a clock before or after what an endorsement says",
        &[
            (SNP, EVERY_CHECK, "vek_not_yet_valid"),
            (DCAP, EVERY_CHECK, "tcb_info_not_yet_valid"),
            (PEER, "validity_is_judged_at_the_given_time", ""),
        ],
    ),
    (
        &[39],
        "a poisoned cache of endorsements",
        &[
            (
                "control-plane/src/endorsements/tests/keeping.rs",
                "a_poisoned_answer_never_displaces_a_good_one",
                "",
            ),
            (SNP, EVERY_CHECK, "is_cached"),
        ],
    ),
    (
        &[40],
        "a storm of renewals",
        &[
            (
                "tests/mesh/storm.rs",
                "a_hundred_that_renew_at_once_all_get_their_certificates",
                "Purpose::Renew",
            ),
            (
                "tests/mesh/storm.rs",
                "a_forced_renewal_of_many_keeps_its_pace",
                "too_fast",
            ),
            (
                "control-plane/src/admission.rs",
                "thousands_that_renew_at_once_all_get_through_in_time_and_few_at_once",
                "",
            ),
            (
                "control-plane/src/slots.rs",
                "a_crowd_that_came_at_once_is_spread_and_stays_spread",
                "",
            ),
        ],
    ),
];

#[test]
fn every_negative_test_of_the_reference_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut wrong = Vec::new();
    for (numbers, what, proofs) in NEGATIVE {
        if proofs.is_empty() {
            wrong.push(format!("{numbers:?} {what}: no proof"));
        }
        for (file, test, word) in *proofs {
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            if !text.contains(&format!("fn {test}")) || !text.contains(word) {
                wrong.push(format!("{numbers:?} {what}: not in {file}: {test} {word}"));
            }
        }
    }
    let named: Vec<u8> = NEGATIVE
        .iter()
        .flat_map(|(numbers, ..)| numbers.iter().copied())
        .collect();
    let expected: Vec<u8> = (1..=40).collect();
    assert_eq!(named, expected);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
