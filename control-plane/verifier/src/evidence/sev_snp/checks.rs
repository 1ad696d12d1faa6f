//! What is checked of SEV-SNP, for auditors and for tests: each row has a test that turns its input alone.

use crate::judgement::{Check, check};

/// Every check, in the order in which judgements show them.
pub const CHECKS: &[Check] = &[
    check(
        "report_format",
        &["report_malformed"],
        "length, version 2 to 5, signature algorithm, and no byte outside report and signature",
    ),
    check(
        "cpuid",
        &["product_unknown"],
        "family and model against AMD's products",
    ),
    check(
        "vek",
        &["endorsement_missing"],
        "a certificate of the signing key was given",
    ),
    check(
        "vek_issuer",
        &["vek_issuer_unknown"],
        "the issuer is an authority of AMD's",
    ),
    check(
        "vek_dates",
        &["vek_not_yet_valid", "vek_expired"],
        "the certificate's validity",
    ),
    check(
        "product",
        &["product_mismatch"],
        "CPUID against the chain; version 2 has none, and is refused on Turin",
    ),
    check(
        "vek_signature",
        &["vek_signature"],
        "ASK or ASVK signed the key's certificate",
    ),
    check(
        "ask_signature",
        &["ask_signature"],
        "the pinned root signed ASK or ASVK",
    ),
    check(
        "vek_role",
        &["vek_role"],
        "an ASK signs chips' keys only, an ASVK providers' only",
    ),
    check(
        "ask_dates",
        &["ask_not_yet_valid", "ask_expired"],
        "the authority's validity",
    ),
    check(
        "ark_dates",
        &["ark_not_yet_valid", "ark_expired"],
        "the root's validity",
    ),
    check(
        "crl",
        &[
            "crl_malformed",
            "crl_signature",
            "ask_revoked",
            "crl_not_yet_valid",
            "crl_expired",
            "crl_missing",
        ],
        "AMD's revocation list: signature, dates, and whether it names the authority",
    ),
    check(
        "signing_key",
        &["signing_key_mismatch"],
        "the key that the report names, against the certificate",
    ),
    check(
        "chip_key",
        &["chip_key_masked"],
        "the host did not mask the chip's key",
    ),
    check(
        "report_signature",
        &["report_signature"],
        "ECDSA P-384 over the received bytes",
    ),
    check(
        "vek_tcb",
        &["vek_tcb_mismatch"],
        "the reported TCB against the certificate's extensions",
    ),
    check(
        "hwid",
        &["hwid_mismatch", "chip_id_masked"],
        "the chip against the certificate's extension",
    ),
    check(
        "tcb_order",
        &["tcb_order"],
        "reported TCB ≤ committed ≤ current",
    ),
    check("reserved", &["reserved_bits"], "reserved fields are zero"),
    check(
        "unknown_bits",
        &["unknown_bits"],
        "bits of policy and platform that are not known here",
    ),
    check(
        "binding",
        &["report_data_mismatch"],
        "report data against what is expected",
    ),
    check(
        "runtime_data",
        &["runtime_data_mismatch"],
        "report data against the digest of runtime data",
    ),
    check("debug", &["debug_enabled"], "guest policy bit 19"),
    check(
        "migration",
        &["migration_allowed"],
        "guest policy bit 18, and no migration agent",
    ),
    check(
        "vmpl",
        &["vmpl"],
        "privilege level against the highest accepted",
    ),
    check(
        "abi",
        &["abi_too_old"],
        "oldest interface that the guest accepts, against the oldest accepted",
    ),
    check(
        "smt",
        &["smt_allowed"],
        "guest policy bit 16, where demanded clear",
    ),
    check(
        "single_socket",
        &["single_socket"],
        "guest policy bit 20, where demanded",
    ),
    check(
        "cxl",
        &["cxl_allowed"],
        "guest policy bit 21, where demanded clear",
    ),
    check(
        "measurement",
        &["measurement"],
        "launch digest among those named",
    ),
    check("host_data", &["host_data"], "host data among those named"),
    check(
        "id_key_digest",
        &["id_key_digest"],
        "identity key among those named",
    ),
    check(
        "author_key_digest",
        &["author_key_digest"],
        "author key among those named",
    ),
    check("family_id", &["family_id"], "family among those named"),
    check("image_id", &["image_id"], "image among those named"),
    check(
        "guest_svn",
        &["guest_svn"],
        "guest's version against the oldest accepted",
    ),
    check(
        "alias_check",
        &["alias_check"],
        "platform info bit 5, where demanded",
    ),
    check(
        "ciphertext_hiding",
        &["ciphertext_hiding"],
        "platform info bit 4, where demanded",
    ),
    check(
        "power_meter",
        &["power_meter"],
        "platform info bit 3, where demanded",
    ),
    check(
        "mitigations",
        &["mitigations"],
        "mitigations at launch and now, against those demanded",
    ),
    check(
        "tcb_reported",
        &["reported_tcb_too_old"],
        "reported TCB against the floor",
    ),
    check(
        "tcb_committed",
        &["committed_tcb_too_old"],
        "committed TCB against the floor: above it, a host can roll back",
    ),
    check(
        "tcb_current",
        &["current_tcb_too_old"],
        "current TCB against the floor",
    ),
    check(
        "tcb_launch",
        &["launch_tcb_too_old"],
        "TCB at launch against the floor",
    ),
    check(
        "vlek",
        &["vlek_not_accepted"],
        "a provider's key, where accepted",
    ),
    check("csp_id", &["csp_id"], "provider among those named"),
    check("chip_id", &["chip_id"], "chip among those named"),
];
