//! Intel SGX.

use vouchsafe_verifier::dossier::Kind;
use vouchsafe_verifier::judgement::Status::Contraindicated;

use crate::{Row, check};

const SGX: &[Row] = &[
    (
        "sgx/sgx-v3-confswhardening",
        &[],
        "2025-07-01T00:00:00Z",
        Contraindicated,
        "tcb_configuration_and_sw_hardening_needed",
    ),
    (
        "sgx/sgx-v3-debug-occlum",
        &[],
        "2025-08-20T00:00:00Z",
        Contraindicated,
        "debug_enabled",
    ),
];

#[test]
fn sgx_vectors_are_judged_as_they_must_be() {
    check(Kind::Sgx, SGX);
}
