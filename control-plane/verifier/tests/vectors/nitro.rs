//! AWS Nitro Enclaves.

use vouchsafe_verifier::dossier::Kind;
use vouchsafe_verifier::judgement::Status::{Affirming, Contraindicated};

use crate::{Row, check};

const NITRO: &[Row] = &[
    (
        "nitro/debug-evervault",
        &[],
        "2022-10-12T14:00:00Z",
        Contraindicated,
        "debug_enabled",
    ),
    (
        "nitro/debug-evervault",
        &[],
        "2025-01-01T00:00:00Z",
        Contraindicated,
        "certificate_expired",
    ),
    (
        "nitro/prod-evervault",
        &[],
        "2022-10-13T09:00:00Z",
        Affirming,
        "verified",
    ),
    (
        "nitro/prod-evervault",
        &[],
        "2022-10-13T12:00:00Z",
        Contraindicated,
        "certificate_expired",
    ),
    (
        "nitro/prod-evervault",
        &[],
        "2022-10-13T08:00:00Z",
        Contraindicated,
        "certificate_not_yet_valid",
    ),
    (
        "nitro/prod-dstack-1",
        &[],
        "2025-12-25T13:30:00Z",
        Affirming,
        "verified",
    ),
    (
        "nitro/neg-trailing-data",
        &[],
        "2025-12-25T13:30:00Z",
        Contraindicated,
        "trailing_data",
    ),
];

#[test]
fn nitro_vectors_are_judged_as_they_must_be() {
    check(Kind::Nitro, NITRO);
}
