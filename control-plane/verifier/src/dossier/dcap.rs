//! TDX and SGX from files: a quote, Intel's endorsements in the forms that services and tools write, and the event log.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::content::{Contents, Role};
use super::{Dossier, Expected, only, refuse_expectation};
use crate::evidence::dcap::collateral::Collateral;
use crate::evidence::dcap::{self, Case, Rules, Tee, parts};
use crate::evidence::x509;
use crate::judgement::Ledger;
use crate::vendor_roots::VendorRoots;

pub(super) fn judge(
    tee: Tee,
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    rules: &Rules,
    roots: &VendorRoots,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let report_data = expected.and_then(Expected::as_report_data);
    if expected.is_some() && report_data.is_none() {
        refuse_expectation("TDX and SGX have report data and no nonce", ledger);
        return;
    }
    let contents = dossier.opened();
    let quotes = contents.evidence(is_quote);
    let logs = event_logs(&contents);
    let is_used = |bytes: &[u8]| quotes.iter().chain(&logs).any(|used| used == bytes);
    contents.report_unread(is_used, ledger);
    let event_log = match logs.is_empty() {
        true => None,
        false => match only(logs, ledger) {
            Some(log) => Some(log),
            None => return,
        },
    };
    let Some(quote) = only(quotes, ledger) else {
        return;
    };
    let collateral = choose(dossier, &contents, &quote, roots);
    let case = Case {
        tee,
        quote: &quote,
        collateral: collateral.as_ref(),
        event_log: event_log.as_deref(),
        rules,
        root: roots.intel(),
        now,
    };
    case.judge(report_data.into(), ledger);
}

/// Endorsements that came with the quote count as they are; of a cache, those of the quote's platform.
pub(super) fn choose(
    dossier: Dossier<'_>,
    contents: &Contents,
    quote: &[u8],
    roots: &VendorRoots,
) -> Option<Collateral> {
    let fmspc = hex::encode(dcap::fmspc(quote)?);
    // By the text, which is verified later: here it only chooses.
    let is_of_platform = |held: &Collateral| held.tcb_info.to_ascii_lowercase().contains(&fmspc);
    let mut given = whole(contents);
    if let Some(at) = given.iter().position(is_of_platform) {
        return Some(given.swap_remove(at));
    }
    if let Some(other) = given.pop() {
        return Some(other);
    }
    let cached = dossier.cached();
    if let Some(found) = whole(&cached).into_iter().find(is_of_platform) {
        return Some(found);
    }
    let files = || dossier.judged().chain(dossier.endorsements.iter().copied());
    // A cache that is filled from Intel's services holds the answers one by one.
    parts::assemble(quote, files().map(|file| file.bytes))
        .or_else(|| from_answers(quote, &fmspc, [contents, &cached], roots))
}

/// Objects that hold all of it, also inside of others.
fn whole(contents: &Contents) -> Vec<Collateral> {
    fn search(value: &Value, depth: usize, found: &mut Vec<Collateral>) {
        if let Ok(collateral) = Collateral::deserialize(value) {
            found.push(collateral);
        } else if let (Value::Object(members), 1..) = (value, depth) {
            for member in members.values() {
                search(member, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    for (_, value) in &contents.documents {
        search(value, 3, &mut found);
    }
    found
}

/// What Intel's services answer for a platform, as it lies in files: the text that was signed is kept to the byte.
#[derive(Deserialize)]
struct TcbInfoAnswer<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    text: &'a RawValue,
    signature: String,
}

/// What Intel's services answer for quoting enclaves.
#[derive(Deserialize)]
struct IdentityAnswer<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    text: &'a RawValue,
    signature: String,
}

/// Puts together answers, issuers and lists of files; `None` without TCB info, identity, or their signer.
fn from_answers(
    quote: &[u8],
    fmspc: &str,
    sources: [&Contents; 2],
    roots: &VendorRoots,
) -> Option<Collateral> {
    let documents = || sources.into_iter().flat_map(|source| &source.documents);
    let (info, info_signature) = documents()
        .filter_map(|(text, _)| serde_json::from_slice::<TcbInfoAnswer<'_>>(text).ok())
        .map(|answer| (answer.text.get(), answer.signature))
        .find(|(text, _)| text.to_ascii_lowercase().contains(fmspc))?;
    let wanted = parts::Wanted::of(quote)?;
    let (identity, identity_signature) = documents()
        .filter_map(|(text, _)| serde_json::from_slice::<IdentityAnswer<'_>>(text).ok())
        .map(|answer| (answer.text.get(), answer.signature))
        .find(|(text, _)| parts::is_identity_of(text, wanted.tee))?;
    let mut certificates = sources.into_iter().flat_map(|source| &source.certificates);
    let signer = certificates.find(|der| {
        x509::parse(der).is_ok_and(|one| x509::common_name(one.subject()) == Some(dcap::TCB_SIGNER))
    })?;
    let chain = dcap::pem(&[signer.clone(), roots.intel().to_vec()]);
    let list = |issuer: &str| {
        let mut lists = sources.into_iter().flat_map(|source| &source.crls);
        let found = lists.find(|der| {
            x509::parse_crl(der).is_ok_and(|crl| x509::common_name(crl.issuer()) == Some(issuer))
        });
        found.map(hex::encode).unwrap_or_default()
    };
    let root = x509::parse(roots.intel()).ok()?;
    Some(Collateral {
        pck_crl_issuer_chain: String::new(),
        root_ca_crl: list(x509::common_name(root.subject()).unwrap_or_default()),
        pck_crl: list(wanted.ca.common_name()),
        tcb_info_issuer_chain: chain.clone(),
        tcb_info: info.to_owned(),
        tcb_info_signature: info_signature,
        qe_identity_issuer_chain: chain,
        qe_identity: identity.to_owned(),
        qe_identity_signature: identity_signature,
    })
}

/// Version, type of key, kind of hardware.
pub(super) fn is_quote(bytes: &[u8]) -> bool {
    matches!(bytes, [3..=5, 0, 2 | 3, 0, 0 | 0x81, 0, 0, 0, ..])
}

/// A log begins with an event of no action, whose header names its own format.
pub(super) fn event_logs(contents: &Contents) -> Vec<Vec<u8>> {
    let is_log = |bytes: &[u8]| {
        let head = bytes.get(..64).unwrap_or(bytes);
        head.windows(SPEC_ID.len()).any(|window| window == SPEC_ID)
    };
    let mut logs = contents.named(Role::EventLog, is_log);
    logs.retain(|bytes| !bytes.starts_with(CCEL_TABLE));
    logs
}

/// The ACPI table that says where the log is.
const CCEL_TABLE: &[u8] = b"CCEL";
const SPEC_ID: &[u8] = b"Spec ID Event03";
