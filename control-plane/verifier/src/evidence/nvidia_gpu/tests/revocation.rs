//! What OCSP says of each certificate.

use super::maker::Turn;
use super::*;
use crate::judgement::Value;
use crate::ocsp::maker::{Answerer, UNKNOWN_STATUS, revoked};

/// A GPU about whose certificates there are good answers, but for that of its chip: what is given, and how it is turned.
fn chip(rules: OcspRules, answers: &[(bool, Turn)]) -> Maker {
    Maker::gpu().with(|gpu| {
        gpu.answers = Some(|_| {});
        gpu.chip_answers = answers.to_vec();
        gpu.rules.ocsp = rules;
    })
}

const GIVEN: bool = true;
const CACHED: bool = false;
const REQUIRED: OcspRules = OcspRules {
    is_required: true,
    allow_hold: false,
};
const OPTIONAL: OcspRules = OcspRules {
    is_required: false,
    allow_hold: false,
};
const HOLD_ALLOWED: OcspRules = OcspRules {
    is_required: true,
    allow_hold: true,
};

fn good(_: &mut Answerer) {}
fn stale(answerer: &mut Answerer) {
    (answerer.this_update, answerer.next_update) = (1990, Some(1991));
}
fn future(answerer: &mut Answerer) {
    (answerer.this_update, answerer.next_update) = (2010, Some(2011));
}
fn unknown(answerer: &mut Answerer) {
    answerer.status = UNKNOWN_STATUS.to_vec();
}
fn key_compromise(answerer: &mut Answerer) {
    answerer.status = revoked(Some(1));
}
fn old_key_compromise(answerer: &mut Answerer) {
    stale(answerer);
    key_compromise(answerer);
}
fn hold(answerer: &mut Answerer) {
    answerer.status = revoked(Some(6));
}
fn old_hold(answerer: &mut Answerer) {
    stale(answerer);
    hold(answerer);
}
fn forged(answerer: &mut Answerer) {
    answerer.signed_by_other = true;
}
fn of_other_responder(answerer: &mut Answerer) {
    answerer.responder_is_of_other = true;
}

#[test]
fn fresh_answers_about_every_certificate_are_a_claim() {
    let gpu = chip(REQUIRED, &[(GIVEN, good)]);
    affirms(&gpu);
    let claim = |gpu: &Maker| gpu.judge().claims.get("revocation_checked").cloned();
    assert_eq!(claim(&gpu), Some(Value::Bool(true)));
    affirms(&chip(REQUIRED, &[(CACHED, good)]));
    let without = chip(OPTIONAL, &[]).with(|gpu| gpu.answers = None);
    affirms(&without);
    assert_eq!(claim(&without), Some(Value::Bool(false)));
}

#[test]
fn answer_that_is_missing_or_old_is_no_proof() {
    let none = Maker::gpu().with(|gpu| gpu.rules.ocsp = REQUIRED);
    lacks("ocsp_missing", &none);
    lacks("ocsp_expired", &chip(REQUIRED, &[(GIVEN, stale)]));
    lacks("ocsp_expired", &chip(REQUIRED, &[(CACHED, stale)]));
    lacks("ocsp_not_yet_valid", &chip(REQUIRED, &[(GIVEN, future)]));
    affirms(&chip(OPTIONAL, &[(GIVEN, stale)]));
    affirms(&chip(OPTIONAL, &[(CACHED, stale)]));
    affirms(&chip(REQUIRED, &[(CACHED, stale), (CACHED, good)]));
}

#[test]
fn manifests_signers_are_asked_about_too() {
    let gpu = Maker::gpu().with(|gpu| {
        gpu.answers = Some(key_compromise);
        gpu.chip_answers = vec![(GIVEN, good)];
    });
    refuses("certificate_revoked", &gpu);
}

#[test]
fn certificate_that_was_revoked_is_refused_for_ever() {
    let refused = |rules, answers: &[(bool, Turn)]| {
        refuses("certificate_revoked", &chip(rules, answers));
    };
    refused(OPTIONAL, &[(GIVEN, key_compromise)]);
    refused(OPTIONAL, &[(CACHED, key_compromise)]);
    refused(OPTIONAL, &[(CACHED, old_key_compromise)]);
    refused(HOLD_ALLOWED, &[(CACHED, old_key_compromise), (GIVEN, good)]);
}

#[test]
fn hold_refuses_unless_rules_allow_it_or_it_was_lifted() {
    refuses("certificate_on_hold", &chip(OPTIONAL, &[(GIVEN, hold)]));
    refuses(
        "certificate_on_hold",
        &chip(OPTIONAL, &[(CACHED, old_hold)]),
    );
    refuses(
        "certificate_on_hold",
        &chip(HOLD_ALLOWED, &[(GIVEN, old_hold)]),
    );
    affirms(&chip(HOLD_ALLOWED, &[(GIVEN, hold)]));
    affirms(&chip(REQUIRED, &[(CACHED, old_hold), (GIVEN, good)]));
}

#[test]
fn certificate_that_its_issuer_does_not_know_is_refused() {
    refuses("certificate_unknown", &chip(OPTIONAL, &[(GIVEN, unknown)]));
    refuses("certificate_unknown", &chip(OPTIONAL, &[(CACHED, unknown)]));
}

#[test]
fn answer_that_does_not_verify_is_refused_where_given_and_left_out_where_cached() {
    refuses("ocsp_signature", &chip(OPTIONAL, &[(GIVEN, forged)]));
    refuses(
        "ocsp_responder",
        &chip(OPTIONAL, &[(GIVEN, of_other_responder)]),
    );
    affirms(&chip(OPTIONAL, &[(CACHED, forged)]));
    lacks("ocsp_missing", &chip(REQUIRED, &[(CACHED, forged)]));
    affirms(&chip(REQUIRED, &[(CACHED, forged), (CACHED, good)]));
}
