//! What is checked of TDX and SGX, for auditors and for tests: each row has a test that turns its input alone.

use crate::judgement::{Check, check};

/// Every check, in the order in which judgements show them.
pub const CHECKS: &[Check] = &[
    check(
        "quote_format",
        &["quote_malformed"],
        "version 3 to 5, ECDSA P-256, Intel's quoting enclave, lengths",
    ),
    check(
        "tee",
        &["tee_mismatch"],
        "the quote is of the kind that is judged",
    ),
    check(
        "pck_chain_format",
        &["pck_chain_malformed"],
        "the chain's text has one of the forms that platforms write",
    ),
    check(
        "pck_certificates",
        &["pck_chain_malformed"],
        "its certificates are DER",
    ),
    check(
        "pck_chain",
        PATH,
        "from the PCK certificate to Intel's pinned root",
    ),
    check(
        "pck_role",
        &["pck_role"],
        "a PCK certificate below the platform's or processor's authority",
    ),
    check(
        "qe_report_signature",
        &["qe_report_signature"],
        "the PCK signed the quoting enclave's report",
    ),
    check(
        "pck_extension",
        &["pck_extension"],
        "the PCK certificate says what the platform is",
    ),
    check("ppid", &["ppid"], "machine among those named"),
    check(
        "platform_instance_id",
        &["platform_instance_id"],
        "registration among those named",
    ),
    check(
        "attestation_key",
        &["attestation_key"],
        "the quoting enclave's report data commits to the key",
    ),
    check(
        "quote_signature",
        &["quote_signature"],
        "the key signed header and body as received",
    ),
    check("debug", &["debug_enabled"], "attribute DEBUG"),
    check(
        "profiling",
        &["profiling_enabled"],
        "the other attributes by which a host may look or test",
    ),
    check(
        "collateral",
        &["endorsement_missing"],
        "TCB info, QE identity and revocation lists were given",
    ),
    check(
        "tcb_info_chain",
        PATH,
        "from Intel's signing certificate to the pinned root",
    ),
    check(
        "tcb_info_signature",
        &["tcb_info_signature"],
        "Intel signed the text of the TCB info",
    ),
    check(
        "tcb_info_format",
        &["tcb_info_malformed"],
        "the text is TCB info with all components",
    ),
    check(
        "tcb_info_kind",
        &["tcb_info_kind"],
        "it is of this kind of hardware, in a known version and type",
    ),
    check(
        "fmspc",
        &["fmspc_mismatch"],
        "FMSPC and PCE of TCB info and PCK certificate",
    ),
    check(
        "tcb_info_dates",
        &[
            "tcb_info_dates",
            "tcb_info_not_yet_valid",
            "tcb_info_expired",
        ],
        "issue date ≤ now ≤ next update",
    ),
    check(
        "qe_identity_chain",
        PATH,
        "from Intel's signing certificate to the pinned root",
    ),
    check(
        "qe_identity_signature",
        &["qe_identity_signature"],
        "Intel signed the text of the identity",
    ),
    check(
        "qe_identity_format",
        &["qe_identity_malformed"],
        "the text is an identity",
    ),
    check(
        "qe_identity_kind",
        &["qe_identity_kind"],
        "it is of this kind's quoting enclave",
    ),
    check(
        "qe_identity_dates",
        &[
            "qe_identity_dates",
            "qe_identity_not_yet_valid",
            "qe_identity_expired",
        ],
        "issue date ≤ now ≤ next update",
    ),
    check(
        "root_crl",
        &[
            "crl_missing",
            "crl_malformed",
            "crl_signature",
            "certificate_revoked",
            "root_crl_not_yet_valid",
            "root_crl_expired",
        ],
        "the root's list: authority of PCKs and signers of texts",
    ),
    check(
        "pck_crl",
        &[
            "crl_missing",
            "crl_malformed",
            "crl_signature",
            "certificate_revoked",
            "pck_crl_not_yet_valid",
            "pck_crl_expired",
        ],
        "the authority's list: the PCK certificate",
    ),
    check(
        "tcb_evaluation",
        &["tcb_evaluation_too_old"],
        "evaluation data number against the oldest accepted",
    ),
    check(
        "qe_miscselect",
        &["qe_identity_mismatch"],
        "MISCSELECT of the quoting enclave, masked",
    ),
    check(
        "qe_attributes",
        &["qe_identity_mismatch"],
        "its attributes, masked; never debug",
    ),
    check("qe_signer", &["qe_identity_mismatch"], "its signer"),
    check("qe_product", &["qe_identity_mismatch"], "its product"),
    check(
        "qe_tcb",
        &["qe_tcb_no_match"],
        "its version reaches a level",
    ),
    check(
        "tcb_level",
        &["tcb_no_match"],
        "the platform's sixteen versions, PCE and TDX versions reach a level",
    ),
    check(
        "tcb_date",
        &["tcb_date_too_old"],
        "date of that level against the oldest accepted",
    ),
    check(
        "tdx_module",
        &["tdx_module_unknown"],
        "Intel names a module of this version",
    ),
    check(
        "seam_signer",
        &["tdx_module_mismatch"],
        "the module's signer (MRSIGNERSEAM)",
    ),
    check(
        "seam_attributes",
        &["tdx_module_mismatch"],
        "the module's attributes, masked",
    ),
    check(
        "tdx_module_tcb",
        &["tdx_module_tcb_no_match"],
        "the module's version reaches a level",
    ),
    check(
        "tcb_status",
        &[
            "tcb_sw_hardening_needed",
            "tcb_configuration_needed",
            "tcb_configuration_and_sw_hardening_needed",
            "tcb_out_of_date",
            "tcb_out_of_date_configuration_needed",
            "tcb_revoked",
        ],
        "status of platform, module and quoting enclave together, among those accepted",
    ),
    check(
        "advisories",
        &["advisory_not_accepted"],
        "advisories of those levels, among those accepted",
    ),
    check(
        "reserved",
        &["reserved_bits"],
        "attributes that are not known here are clear",
    ),
    check("sept_ve_disable", &["sept_ve_disable"], "attribute bit 28"),
    check("migration", &["migration_allowed"], "attribute bit 29"),
    check(
        "td_attributes",
        &["td_attributes"],
        "attributes against those demanded",
    ),
    check(
        "xfam",
        &["xfam"],
        "features of the processor against those demanded",
    ),
    check(
        "service_td",
        &["service_td"],
        "no service trust domain, or one that is named",
    ),
    check("mrtd", &["mrtd"], "digest among those named"),
    check("mrseam", &["mrseam"], "module among those named"),
    check(
        "mrconfigid",
        &["mrconfigid"],
        "configuration among those named",
    ),
    check("mrowner", &["mrowner"], "owner among those named"),
    check(
        "mrownerconfig",
        &["mrownerconfig"],
        "owner's configuration among those named",
    ),
    check("rtmr0", &["rtmr0"], "register among those named"),
    check("rtmr1", &["rtmr1"], "register among those named"),
    check("rtmr2", &["rtmr2"], "register among those named"),
    check("rtmr3", &["rtmr3"], "register among those named"),
    check(
        "event_log",
        &["event_log_missing", "event_log_malformed"],
        "the CCEL event log is there and whole",
    ),
    check(
        "event_log_replay",
        &["event_log_replay"],
        "replaying it gives RTMR0 to RTMR2",
    ),
    check("mrenclave", &["mrenclave"], "enclave among those named"),
    check("mrsigner", &["mrsigner"], "signer among those named"),
    check("isv_prod_id", &["isv_prod_id"], "product among those named"),
    check(
        "isv_svn",
        &["isv_svn"],
        "enclave's version against the oldest accepted",
    ),
    check(
        "enclave_flags",
        &["enclave_flags"],
        "flags against those demanded",
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
    check(
        "trailing",
        &["trailing_data"],
        "nothing but zeros follows the quote",
    ),
];

const PATH: &[&str] = &[
    "root_not_pinned",
    "chain_signature",
    "certificate_not_yet_valid",
    "certificate_expired",
];
