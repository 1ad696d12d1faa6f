//! Revocation of what Intel certified.

use x509_parser::certificate::X509Certificate;

use super::collateral::{Collateral, list};
use super::quote::Quote;
use super::{Case, dated};
use crate::evidence::x509;
use crate::judgement::Ledger;

/// The root's list names revoked authorities and signers, the authority's list revoked PCKs.
pub(super) fn check(
    case: &Case<'_>,
    quote: &Quote<'_>,
    collateral: &Collateral,
    ledger: &mut Ledger,
) {
    let chain = x509::certificates(quote.pck_chain).unwrap_or_default();
    let path: Vec<_> = chain
        .iter()
        .rev()
        .filter_map(|der| x509::parse(der).ok())
        .collect();
    let [root, authority, leaf] = path.as_slice() else {
        // The check `pck_role` said so.
        return;
    };
    let signers: Vec<_> = [
        &collateral.tcb_info_issuer_chain,
        &collateral.qe_identity_issuer_chain,
    ]
    .into_iter()
    .filter_map(|chain| x509::certificates(chain.as_bytes())?.into_iter().next())
    .collect();
    let signers: Vec<_> = signers
        .iter()
        .filter_map(|der| x509::parse(der).ok())
        .collect();
    let below_root: Vec<_> = signers.iter().chain([authority]).collect();
    let names = ["root_crl", "root_crl_not_yet_valid", "root_crl_expired"];
    check_list(
        &collateral.root_ca_crl,
        root,
        &below_root,
        case,
        names,
        ledger,
    );
    let names = ["pck_crl", "pck_crl_not_yet_valid", "pck_crl_expired"];
    check_list(&collateral.pck_crl, authority, &[leaf], case, names, ledger);
}

fn check_list(
    text: &str,
    issuer: &X509Certificate<'_>,
    certificates: &[&X509Certificate<'_>],
    case: &Case<'_>,
    names: [&'static str; 3],
    ledger: &mut Ledger,
) {
    let [name, ..] = names;
    if text.is_empty() {
        ledger.missing(name, "crl_missing", "no revocation list was given");
        return;
    }
    let der = list(text).unwrap_or_default();
    let Ok(crl) = x509::parse_crl(&der) else {
        let detail = "not a revocation list as DER in hex or base64, or as PEM";
        ledger.require(name, "crl_malformed", false, detail);
        return;
    };
    if !x509::is_crl_of(&crl, issuer) {
        let detail = format!("not signed by {}", issuer.subject());
        ledger.require(name, "crl_signature", false, detail);
        return;
    }
    for certificate in certificates {
        if x509::is_revoked(&crl, certificate.raw_serial()) {
            let reason = "certificate_revoked";
            ledger.require(name, reason, false, certificate.subject().to_string());
            return;
        }
    }
    let until = crl.next_update().map_or(i64::MIN, |at| at.timestamp());
    let dates = x509::dates(case.now, crl.last_update().timestamp(), Some(until));
    let (reason, holds) = dated(dates, names);
    let next = crl
        .next_update()
        .map(|at| at.to_string())
        .unwrap_or_default();
    ledger.require(
        name,
        reason,
        holds,
        format!("{} to {next}", crl.last_update()),
    );
}
