//! Nitro from files: one document.

use std::time::SystemTime;

use super::{Dossier, Expected, only};
use crate::evidence::nitro::{self, Binding, Rules};
use crate::evidence::x509;
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
    let documents = dossier
        .judged()
        .filter(|file| x509::certificates(file.bytes).is_none());
    if let Some(document) = only(documents.collect(), ledger) {
        nitro::judge_below(roots.aws(), document.bytes, binding, rules, now, ledger);
    }
}
