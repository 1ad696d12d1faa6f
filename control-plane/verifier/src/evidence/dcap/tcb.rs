//! Levels: revocation, the quoting enclave's identity, and how old platform and TDX module are.
//!
//! Source: Intel SGX and TDX PCS API v4, "TCB level selection"; Intel TDX module TCB evaluation.

use x509_parser::certificate::X509Certificate;

use super::chain::check_path;
use super::collateral::{
    Collateral, EnclaveTcbLevel, QeIdentity, TcbInfo, TcbLevel, TcbStatus, timestamp,
};
use super::pck::Platform;
use super::quote::{Body, Quote, TdReport};
use super::{Case, TCB_SIGNER, Tee, dated, is_text_signed, revocation};
use crate::evidence::x509;
use crate::judgement::Ledger;

/// A status with the advisories that explain it.
type Level = (TcbStatus, Vec<String>);

/// Checks everything that Intel's endorsements say.
pub(super) fn check(
    case: &Case<'_>,
    quote: &Quote<'_>,
    platform: &Platform,
    collateral: &Collateral,
    ledger: &mut Ledger,
) {
    let Some(info) = tcb_info(case, platform, collateral, ledger) else {
        return;
    };
    let identity = qe_identity(case, collateral, ledger);
    revocation::check(case, quote, collateral, ledger);
    let Some(identity) = identity else { return };
    let number = info
        .tcb_evaluation_data_number
        .min(identity.tcb_evaluation_data_number);
    ledger.claim("tcb_evaluation_data_number", number);
    let least = case.rules.min_tcb_evaluation_data_number;
    let detail = format!("{number}, at least {least}");
    ledger.require(
        "tcb_evaluation",
        "tcb_evaluation_too_old",
        number >= least,
        detail,
    );
    let enclave = check_qe(quote, &identity, ledger);
    let mut levels = Vec::new();
    match &quote.body {
        Body::Sgx(_) => levels.push(check_platform(case, None, platform, &info, ledger)),
        Body::Tdx(td) => {
            // A trust domain that outlived an update of the module was built by the old one and is run by the new one.
            for svn in [Some(td.tee_tcb_svn()), td.tee_tcb_svn_now()]
                .into_iter()
                .flatten()
            {
                levels.push(check_platform(case, Some(svn), platform, &info, ledger));
                levels.push(check_module(td, svn, &info, ledger));
            }
        }
    }
    levels.push(enclave);
    if let Some(levels) = levels.into_iter().collect() {
        conclude(case, levels, ledger);
    }
}

/// Status and advisories of the whole, against the rules.
fn conclude(case: &Case<'_>, levels: Vec<Level>, ledger: &mut Ledger) {
    // The platform's stands first: what a part adds to the whole depends on the platform's configuration.
    let statuses = levels.iter().map(|(status, _)| *status);
    let status = statuses
        .reduce(TcbStatus::with)
        .unwrap_or(TcbStatus::Revoked);
    let mut advisories: Vec<String> = levels.into_iter().flat_map(|(_, held)| held).collect();
    advisories.sort();
    advisories.dedup();
    ledger.claim("tcb_status", status.as_str());
    ledger.claim("advisories", advisories.clone());
    let detail = format!("{} {}", status.as_str(), advisories.join(" "));
    let holds = status != TcbStatus::Revoked && case.rules.accepted_statuses.contains(&status);
    ledger.require("tcb_status", status.reason(), holds, detail);
    match &case.rules.accepted_advisories {
        None => ledger.skip("advisories", advisories.join(" ")),
        Some(accepted) => {
            let open: Vec<_> = advisories
                .into_iter()
                .filter(|id| !accepted.contains(id))
                .collect();
            ledger.require(
                "advisories",
                "advisory_not_accepted",
                open.is_empty(),
                open.join(" "),
            );
        }
    }
}

fn tcb_info(
    case: &Case<'_>,
    platform: &Platform,
    collateral: &Collateral,
    ledger: &mut Ledger,
) -> Option<TcbInfo> {
    let text = &collateral.tcb_info;
    let signed = signer_of(
        &collateral.tcb_info_issuer_chain,
        case,
        "tcb_info_chain",
        ledger,
        |path| is_text_signed(path, text, &collateral.tcb_info_signature),
    );
    ledger.require("tcb_info_signature", "tcb_info_signature", signed, "");
    let parsed = serde_json::from_str(text);
    let info: TcbInfo = ledger.succeed("tcb_info_format", "tcb_info_malformed", parsed)?;
    let kind = match case.tee {
        Tee::Sgx => {
            info.id.as_deref().is_none_or(|id| id == "SGX") && matches!(info.version, 2 | 3)
        }
        Tee::Tdx => info.id.as_deref() == Some("TDX") && info.version == 3,
    };
    // The only type of levels that is specified: compared part by part.
    let holds = kind && info.tcb_type == 0;
    let detail = format!(
        "{:?} version {} type {}",
        info.id, info.version, info.tcb_type
    );
    ledger.require("tcb_info_kind", "tcb_info_kind", holds, detail);
    let same = info
        .fmspc
        .eq_ignore_ascii_case(&hex::encode(platform.fmspc))
        && info
            .pce_id
            .eq_ignore_ascii_case(&hex::encode(platform.pce_id));
    let detail = format!(
        "TCB info {}, platform {}",
        info.fmspc,
        hex::encode(platform.fmspc)
    );
    if !ledger.require("fmspc", "fmspc_mismatch", same, detail) {
        return None;
    }
    let names = [
        "tcb_info_dates",
        "tcb_info_not_yet_valid",
        "tcb_info_expired",
    ];
    check_dates(case, &info.issue_date, &info.next_update, names, ledger);
    Some(info)
}

fn qe_identity(
    case: &Case<'_>,
    collateral: &Collateral,
    ledger: &mut Ledger,
) -> Option<QeIdentity> {
    let text = &collateral.qe_identity;
    let chain = &collateral.qe_identity_issuer_chain;
    let signed = signer_of(chain, case, "qe_identity_chain", ledger, |path| {
        is_text_signed(path, text, &collateral.qe_identity_signature)
    });
    ledger.require("qe_identity_signature", "qe_identity_signature", signed, "");
    let parsed = serde_json::from_str(text);
    let identity: QeIdentity =
        ledger.succeed("qe_identity_format", "qe_identity_malformed", parsed)?;
    let expected = match case.tee {
        Tee::Sgx => "QE",
        Tee::Tdx => "TD_QE",
    };
    let kind = identity.id == expected && identity.version == 2;
    let detail = format!("`{}` version {}", identity.id, identity.version);
    ledger.require("qe_identity_kind", "qe_identity_kind", kind, detail);
    let names = [
        "qe_identity_dates",
        "qe_identity_not_yet_valid",
        "qe_identity_expired",
    ];
    check_dates(
        case,
        &identity.issue_date,
        &identity.next_update,
        names,
        ledger,
    );
    Some(identity)
}

/// Verifies a chain of Intel's signing certificate and asks whether its key signed.
fn signer_of(
    chain: &str,
    case: &Case<'_>,
    name: &'static str,
    ledger: &mut Ledger,
    is_signed: impl FnOnce(&[X509Certificate<'_>]) -> bool,
) -> bool {
    let chain = x509::certificates(chain.as_bytes()).unwrap_or_default();
    let path: Vec<_> = chain
        .iter()
        .rev()
        .filter_map(|der| x509::parse(der).ok())
        .collect();
    let is_whole = path.len() == chain.len();
    // Anyone with a PCK certificate is below the same root: the signer must be Intel's signing authority by name.
    let named = path
        .last()
        .and_then(|signer| x509::common_name(signer.subject()))
        .is_some_and(|name| name == TCB_SIGNER);
    is_whole && check_path(name, &path, case.root, case.now, ledger) && named && is_signed(&path)
}

fn check_dates(
    case: &Case<'_>,
    from: &str,
    until: &str,
    names: [&'static str; 3],
    ledger: &mut Ledger,
) {
    let [name, ..] = names;
    let detail = format!("{from} to {until}");
    match (timestamp(from), timestamp(until)) {
        (Some(from), Some(until)) => {
            let (reason, holds) = dated(x509::dates(case.now, from, Some(until)), names);
            ledger.require(name, reason, holds, detail);
        }
        _ => {
            ledger.require(name, name, false, detail);
        }
    }
}

fn check_qe(quote: &Quote<'_>, identity: &QeIdentity, ledger: &mut Ledger) -> Option<Level> {
    let qe = &quote.qe_report;
    let miscselect = masked(
        &qe.miscselect().to_be_bytes(),
        &identity.miscselect_mask,
        &identity.miscselect,
    );
    let attributes = !qe.is_debug()
        && masked(
            &qe.attributes(),
            &identity.attributes_mask,
            &identity.attributes,
        );
    let signer = identity
        .mrsigner
        .eq_ignore_ascii_case(&hex::encode(qe.mrsigner()));
    let product = qe.product_id() == identity.isvprodid;
    for (name, holds, found) in [
        (
            "qe_miscselect",
            miscselect,
            format!("{:#x}", qe.miscselect()),
        ),
        ("qe_attributes", attributes, hex::encode(qe.attributes())),
        ("qe_signer", signer, hex::encode(qe.mrsigner())),
        ("qe_product", product, qe.product_id().to_string()),
    ] {
        ledger.require(name, "qe_identity_mismatch", holds, found);
    }
    let level = enclave_level(qe.security_version(), &identity.tcb_levels);
    let detail = format!("security version {}", qe.security_version());
    ledger.require("qe_tcb", "qe_tcb_no_match", level.is_some(), detail);
    level
}

/// Whether `found & mask == expected`, the latter two in hex.
fn masked(found: &[u8], mask: &str, expected: &str) -> bool {
    let (Ok(mask), Ok(expected)) = (hex::decode(mask), hex::decode(expected)) else {
        return false;
    };
    found.len() == mask.len()
        && found.len() == expected.len()
        && found
            .iter()
            .zip(&mask)
            .zip(&expected)
            .all(|((found, mask), expected)| found & mask == *expected)
}

/// Intel lists levels newest first; the first one that is reached counts.
fn enclave_level(version: u16, levels: &[EnclaveTcbLevel]) -> Option<Level> {
    let level = levels.iter().find(|level| version >= level.tcb.isvsvn)?;
    Some((level.tcb_status, level.advisories.clone()))
}

fn check_platform(
    case: &Case<'_>,
    svn: Option<[u8; 16]>,
    platform: &Platform,
    info: &TcbInfo,
    ledger: &mut Ledger,
) -> Option<Level> {
    let mut levels = info.tcb_levels.iter();
    let level = levels.find(|level| reaches(platform, svn, level));
    let detail = match level {
        Some(level) => format!("{} of {}", level.tcb_status.as_str(), level.tcb_date),
        None => format!(
            "components {} pce {}",
            hex::encode(platform.components),
            platform.pce_svn
        ),
    };
    ledger.require("tcb_level", "tcb_no_match", level.is_some(), detail);
    let level = level?;
    ledger.claim("tcb_date", level.tcb_date.as_str());
    match case.rules.min_tcb_date {
        None => ledger.skip("tcb_date", level.tcb_date.as_str()),
        Some(least) => {
            let date = timestamp(&level.tcb_date);
            let holds = date.is_some_and(|date| date >= x509::seconds(least));
            ledger.require(
                "tcb_date",
                "tcb_date_too_old",
                holds,
                level.tcb_date.as_str(),
            );
        }
    }
    Some((level.tcb_status, level.advisories.clone()))
}

fn reaches(platform: &Platform, svn: Option<[u8; 16]>, level: &TcbLevel) -> bool {
    let Some(sgx) = level.tcb.sgx() else {
        return false;
    };
    let sgx = platform.pce_svn >= level.tcb.pcesvn
        && platform
            .components
            .iter()
            .zip(&sgx)
            .all(|(found, least)| found >= least);
    let tdx = match (svn, &level.tcb.tdx) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(found), Some(least)) => {
            // From version 1 on, the first two parts are the module's own, which its identity judges.
            let skipped = if module_version(found) > 0 { 2 } else { 0 };
            found
                .iter()
                .zip(least)
                .skip(skipped)
                .all(|(found, least)| *found >= least.svn)
        }
    };
    sgx && tdx
}

fn module_version([_, version, ..]: [u8; 16]) -> u8 {
    version
}

fn check_module(
    td: &TdReport<'_>,
    svn: [u8; 16],
    info: &TcbInfo,
    ledger: &mut Ledger,
) -> Option<Level> {
    let version = module_version(svn);
    let [security_version, ..] = svn;
    let name = format!("TDX_{version:02X}");
    let detail = format!("`{name}` security version {security_version}");
    let (identity, level) = if version == 0 {
        // Its level is among the platform's.
        (
            info.tdx_module.as_ref(),
            Some((TcbStatus::UpToDate, Vec::new())),
        )
    } else {
        let named = info
            .tdx_module_identities
            .iter()
            .find(|identity| identity.id.eq_ignore_ascii_case(&name));
        let level =
            named.and_then(|named| enclave_level(security_version.into(), &named.tcb_levels));
        (named.map(|named| &named.identity), level)
    };
    let known = identity.is_some();
    if !ledger.require("tdx_module", "tdx_module_unknown", known, detail.clone()) {
        return None;
    }
    let signer = hex::encode(td.mrsignerseam());
    let holds = identity.is_some_and(|identity| identity.mrsigner.eq_ignore_ascii_case(&signer));
    ledger.require("seam_signer", "tdx_module_mismatch", holds, signer);
    let attributes = td.seam_attributes();
    let holds = identity.is_some_and(|identity| {
        masked(&attributes, &identity.attributes_mask, &identity.attributes)
    });
    let shown = hex::encode(attributes);
    ledger.require("seam_attributes", "tdx_module_mismatch", holds, shown);
    ledger.require(
        "tdx_module_tcb",
        "tdx_module_tcb_no_match",
        level.is_some(),
        detail,
    );
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_hexadecimal_and_as_long_as_what_it_masks() {
        assert!(masked(&[5, 9], "07f0", "0500"));
        for (mask, expected) in [
            ("07f0", "0400"),
            ("07", "0500"),
            ("07f0", "05"),
            ("07f000", "050000"),
            ("07zz", "0500"),
            ("07f0", "05zz"),
            ("", ""),
        ] {
            assert!(!masked(&[5, 9], mask, expected), "{mask} {expected}");
        }
    }
}
