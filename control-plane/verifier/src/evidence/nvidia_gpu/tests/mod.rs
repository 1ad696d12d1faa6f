//! Devices of our own, in which every input of every check is turned by itself.

mod devices;
pub(crate) mod maker;
mod manifests;
mod revocation;
mod sets;
mod sweeps;

use self::maker::{Maker, RimMaker};
use super::checks::CHECKS;
use super::*;
use crate::der::{SHA384, element};
use crate::judgement::flips::{assert_known, names_in};
use crate::judgement::{Judgement, Status};

/// Judges, and holds the judgement to the table of checks.
#[track_caller]
fn judged(maker: &Maker) -> Judgement {
    let judgement = maker.judge();
    assert_known(CHECKS, &judgement);
    judgement
}

#[track_caller]
fn affirms(maker: &Maker) {
    let judgement = judged(maker);
    let found = (judgement.status, judgement.reason);
    assert_eq!(found, (Status::Affirming, "verified"), "{judgement:#?}");
}

#[track_caller]
fn refuses(reason: &str, maker: &Maker) {
    let judgement = judged(maker);
    let found = (judgement.status, judgement.reason);
    assert_eq!(found, (Status::Contraindicated, reason), "{judgement:#?}");
}

/// Nothing is wrong, but something is missing.
#[track_caller]
fn lacks(reason: &str, maker: &Maker) {
    let judgement = judged(maker);
    assert!(judgement.is_incomplete, "{judgement:#?}");
    let found = (judgement.status, judgement.reason);
    assert_eq!(found, (Status::Warning, reason), "{judgement:#?}");
}

#[test]
fn every_check_of_the_sources_is_in_the_table_and_every_reason_of_the_table_has_a_test() {
    let sources = [
        include_str!("../mod.rs"),
        include_str!("../chain.rs"),
        include_str!("../measurements.rs"),
        include_str!("../revocation.rs"),
        include_str!("../rim.rs"),
        include_str!("../set.rs"),
        include_str!("../signature.rs"),
        include_str!("../state.rs"),
        include_str!("../../../dossier/nvidia_gpu/mod.rs"),
    ];
    for name in sources.iter().flat_map(|source| names_in(source)) {
        assert!(CHECKS.iter().any(|row| row.name == name), "{name}");
    }
    let tests = [
        include_str!("devices.rs"),
        include_str!("manifests.rs"),
        include_str!("revocation.rs"),
        include_str!("sets.rs"),
        include_str!("../../../dossier/nvidia_gpu/tests.rs"),
    ];
    for reason in CHECKS.iter().flat_map(|row| row.reasons) {
        let quoted = format!("\"{reason}\"");
        let is_tested = tests.iter().any(|test| test.contains(&quoted));
        assert!(is_tested, "no test turns an input into {reason}");
    }
}
