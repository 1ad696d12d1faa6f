//! Intel TDX.

use vouchsafe_verifier::dossier::Kind;
use vouchsafe_verifier::judgement::Status::{Affirming, Contraindicated, Warning};

use crate::{Row, check};

const TDX: &[Row] = &[
    (
        "tdx/v4-uptodate-dstack",
        &[],
        "2025-07-01T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "tdx/v4-uptodate-dstack",
        &["quote.bin"],
        "2025-07-01T00:00:00Z",
        Warning,
        "endorsement_missing",
    ),
    (
        "tdx/v5-outofdate-azure",
        &[],
        "2026-03-01T00:00:00Z",
        Contraindicated,
        "tcb_no_match",
    ),
    (
        "tdx/v4-debug",
        &[],
        "2026-04-01T00:00:00Z",
        Contraindicated,
        "debug_enabled",
    ),
    (
        "tdx/v5-trustee",
        &[],
        "2026-04-01T00:00:00Z",
        Contraindicated,
        "tcb_no_match",
    ),
    (
        "tdx/v4-spr-e4-google",
        &[],
        "2026-04-01T00:00:00Z",
        Contraindicated,
        "tcb_no_match",
    ),
    (
        "tdx/v4-gcp-padded-8000",
        &[],
        "2025-07-10T00:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "tdx/neg-wrong-fmspc",
        &[],
        "2026-03-01T00:00:00Z",
        Contraindicated,
        "fmspc_mismatch",
    ),
    (
        "tdx/neg-collateral-expired",
        &[],
        "2025-09-01T00:00:00Z",
        Contraindicated,
        "tcb_info_expired",
    ),
    (
        "tdx/neg-collateral-expired",
        &[],
        "2025-06-01T00:00:00Z",
        Contraindicated,
        "tcb_info_not_yet_valid",
    ),
    (
        "tdx/v4-trustee-6-missing-sig-collateral",
        &[],
        "2025-11-01T00:00:00Z",
        Warning,
        "endorsement_missing",
    ),
];

#[test]
fn tdx_vectors_are_judged_as_they_must_be() {
    check(Kind::Tdx, TDX);
}
