//! An SGX enclave: what its report says.

use super::Rules;
use super::quote::EnclaveReport;
use crate::judgement::{Ledger, among};

pub(super) fn check_debug(enclave: &EnclaveReport<'_>, rules: &Rules, ledger: &mut Ledger) {
    ledger.claim("debug", enclave.is_debug());
    let holds = rules.danger_accept_debug || !enclave.is_debug();
    let detail = "attribute DEBUG of the enclave";
    ledger.require("debug", "debug_enabled", holds, detail);
}

pub(super) fn judge(enclave: &EnclaveReport<'_>, rules: &Rules, ledger: &mut Ledger) {
    ledger.claim("mrenclave", hex::encode(enclave.mrenclave()));
    ledger.claim("mrsigner", hex::encode(enclave.mrsigner()));
    ledger.claim("isv_prod_id", u64::from(enclave.product_id()));
    ledger.claim("isv_svn", u64::from(enclave.security_version()));
    ledger.claim("attributes", hex::encode(enclave.attributes()));
    among("mrenclave", &rules.mrenclave, &enclave.mrenclave(), ledger);
    among("mrsigner", &rules.mrsigner, &enclave.mrsigner(), ledger);
    let product = enclave.product_id().to_be_bytes();
    among("isv_prod_id", &rules.isv_prod_ids, &product, ledger);
    let version = enclave.security_version();
    let detail = format!("{version}, at least {}", rules.min_isv_svn);
    ledger.require("isv_svn", "isv_svn", version >= rules.min_isv_svn, detail);
    let detail = format!("flags {:#018x}", enclave.flags());
    match rules.enclave_flags {
        None => ledger.skip("enclave_flags", detail),
        Some(bits) => {
            let holds = bits.are_in(enclave.flags());
            ledger.require("enclave_flags", "enclave_flags", holds, detail);
        }
    }
}
