//! Nitro from files: one document, bare or wrapped.

use std::time::SystemTime;

use super::{Dossier, Expected, only};
use crate::evidence::nitro::{self, Binding, Rules};
use crate::judgement::Ledger;
use crate::vendor_roots::VendorRoots;

pub(super) fn judge(
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    rules: &Rules,
    roots: &VendorRoots,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let binding = expected.map(|expected| match expected {
        Expected::Nonce(nonce) => Binding::Nonce(nonce),
        Expected::ReportData(data) => Binding::UserData(data),
    });
    let contents = dossier.opened();
    let documents = contents.evidence(is_document);
    if let Some(document) = only(documents, ledger) {
        nitro::judge_below(roots.aws(), &document, binding, rules, now, ledger);
    }
}

/// COSE_Sign1 with the headers that the module writes, tagged or not.
fn is_document(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(&[0xd2]).unwrap_or(bytes);
    bytes.starts_with(&[0x84, 0x44, 0xa1, 0x01])
}
