//! Certificates of attestation and endorsement keys: to which root they lead, and what it vouches for.

use std::time::SystemTime;

use vouchsafe_attestation::claims::Class;
use x509_parser::prelude::X509Certificate;

use super::key::key_of_info;
use crate::evidence::tpm::public::Key;
use crate::evidence::tpm::rules::Rules;
use crate::evidence::x509::{self, PathError};
use crate::judgement::Ledger;

/// Finds the certificate of a key and says what its root vouches for.
pub(super) fn check(
    key: &Key,
    pool: &[&Vec<u8>],
    rules: &Rules,
    now: SystemTime,
    ledger: &mut Ledger,
) -> Class {
    ledger.claim("ak_certified", false);
    let certificates: Vec<_> = pool
        .iter()
        .filter_map(|der| x509::parse(der).ok())
        .collect();
    let leaf = certificates
        .iter()
        .find(|one| !one.is_ca() && key_of_info(one.public_key()).as_ref() == Some(key));
    let Some(leaf) = leaf else {
        let detail = "no certificate of the attestation key, which is not enrolled either: \
                      nothing shows that it lives in a TPM";
        ledger.require("ak_certified", "ak_not_certified", false, detail);
        return Class::Software;
    };
    match path(leaf, &certificates, rules, now) {
        Led::ToRoot(class, subject) => {
            ledger.require("ak_certified", "ak_not_certified", true, subject);
            ledger.claim("ak_certified", true);
            class
        }
        Led::Nowhere(issuer) => {
            let detail = format!("no pinned root is above `{issuer}`: class `software`");
            ledger.skip("ak_certified", detail);
            Class::Software
        }
        Led::Wrong(error) => {
            let reason = reason(&error);
            ledger.require("ak_certified", reason, false, error.to_string());
            Class::Software
        }
    }
}

/// A certificate without a quote: its path, if it has one.
pub(super) fn check_alone(
    der: &[u8],
    pool: &[&Vec<u8>],
    rules: &Rules,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let parsed = x509::parse(der);
    let Some(leaf) = ledger.succeed("certificate_format", "certificate_malformed", parsed) else {
        return;
    };
    if leaf.is_ca() {
        return;
    }
    let supported = key_of_info(leaf.public_key()).is_some();
    let detail = "RSA of 2048 bits or more, or a NIST curve";
    ledger.require("certificate_key", "certificate_key", supported, detail);
    let certificates: Vec<_> = pool
        .iter()
        .filter_map(|der| x509::parse(der).ok())
        .collect();
    match path(&leaf, &certificates, rules, now) {
        Led::ToRoot(_, subject) => {
            ledger.require("certificate", "certificate", true, subject);
        }
        Led::Nowhere(issuer) => {
            let detail = format!("no pinned root is above `{issuer}`");
            ledger.skip("certificate", detail);
        }
        Led::Wrong(error) => {
            let reason = reason(&error);
            ledger.require("certificate", reason, false, error.to_string());
        }
    }
}

fn reason(error: &PathError) -> &'static str {
    match error {
        PathError::Expired(..) => "certificate_expired",
        PathError::NotYet(..) => "certificate_not_yet_valid",
        _ => "certificate_chain",
    }
}

/// Where a certificate's issuers lead.
enum Led {
    ToRoot(Class, String),
    Nowhere(String),
    Wrong(PathError),
}

/// Follows issuers by name up to a pinned root. An issuer that is there and did not sign is a forgery, not a gap.
fn path(
    leaf: &X509Certificate<'_>,
    given: &[X509Certificate<'_>],
    rules: &Rules,
    now: SystemTime,
) -> Led {
    let roots = rules
        .ak_roots
        .iter()
        .map(|(der, class)| (der.as_slice(), *class))
        .chain(CLOUD_ROOTS.iter().map(|der| (*der, Class::Software)));
    let roots: Vec<_> = roots
        .filter_map(|(der, class)| Some((x509::parse(der).ok()?, class)))
        .collect();
    let known: Vec<_> = CLOUD_INTERMEDIATES
        .iter()
        .filter_map(|der| x509::parse(der).ok())
        .collect();
    let mut upwards = vec![leaf.clone()];
    while upwards.len() <= MAX_PATH {
        let Some(last) = upwards.last() else { break };
        let issuer = last.issuer().as_raw();
        let is_named = |one: &&X509Certificate<'_>| one.subject().as_raw() == issuer;
        if let Some((root, class)) = roots.iter().find(|(root, _)| is_named(&root)) {
            let subject = root.subject().to_string();
            upwards.push(root.clone());
            upwards.reverse();
            return match x509::verify_path(&upwards, root.as_raw(), now) {
                Ok(()) => Led::ToRoot(*class, subject),
                Err(error) => Led::Wrong(error),
            };
        }
        let candidates = given.iter().chain(&known).filter(is_named);
        let signed = candidates.clone().find(|one| x509::is_issued_by(last, one));
        match signed.or(candidates.clone().next()) {
            Some(issuer) if !upwards.contains(issuer) => upwards.push(issuer.clone()),
            _ => break,
        }
    }
    Led::Nowhere(
        upwards
            .last()
            .map_or_else(String::new, |last| last.issuer().to_string()),
    )
}

/// Clouds sign keys of virtual TPMs, which are programs: they vouch for class `software`.
const CLOUD_ROOTS: [&[u8]; 2] = [
    include_bytes!("../../../roots/gce-ek-ak-root.der"),
    include_bytes!("../../../roots/azure-vtpm-root-2023.der"),
];
/// Here so that an operator need not fetch them; their signatures and dates are checked each time.
const CLOUD_INTERMEDIATES: [&[u8]; 3] = [
    include_bytes!("../../../roots/gce-ek-ak-intermediate-v3.der"),
    include_bytes!("../../../roots/azure-vtpm-intermediate-01.der"),
    include_bytes!("../../../roots/azure-vtpm-intermediate-03.der"),
];
/// Leaf, intermediates and their cross-signed forms.
const MAX_PATH: usize = 6;
