//! Azure's vTPM evidence from files: one JSON object, or its parts.

use std::time::SystemTime;

use serde_json::Value;

use super::content::{Contents, bytes_of};
use super::dcap::{choose, event_logs, is_quote};
use super::{Dossier, Expected, Rules, only, refuse_expectation, slices};
use crate::evidence::az_vtpm::hcl::{Hardware, HclReport};
use crate::evidence::az_vtpm::{self, Vouching, VtpmQuote};
use crate::evidence::dcap::{self, Case, Tee};
use crate::evidence::sev_snp::chain;
use crate::judgement::Ledger;
use crate::vendor_roots::VendorRoots;

/// What files hold of Azure's evidence.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) hcl: Vec<Vec<u8>>,
    pub(crate) td_quotes: Vec<Vec<u8>>,
    pub(crate) certificates: Vec<Vec<u8>>,
    quotes: Vec<VtpmQuote>,
    messages: Vec<Vec<u8>>,
    signatures: Vec<Vec<u8>>,
    logs: Vec<Vec<u8>>,
}

pub(super) fn judge(
    hardware: Hardware,
    dossier: Dossier<'_>,
    expected: Option<&Expected>,
    rules: &Rules,
    roots: &VendorRoots,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let nonce = match expected {
        None => None,
        Some(Expected::Nonce(nonce)) => Some(nonce.as_slice()),
        Some(Expected::ReportData(_)) => {
            refuse_expectation("the report data is the paravisor's: expect a nonce", ledger);
            return;
        }
    };
    let contents = dossier.opened();
    let mut parts = Parts::read(&contents);
    if let ([message], [signature]) = (parts.messages.as_slice(), parts.signatures.as_slice()) {
        parts.quotes.push(VtpmQuote {
            message: message.clone(),
            signature: bare_signature(signature).to_vec(),
            ..VtpmQuote::default()
        });
    } else if !(parts.messages.is_empty() && parts.signatures.is_empty()) {
        let detail = "files are neither one quote and its signature nor anything else";
        ledger.require("evidence", "evidence_ambiguous", false, detail);
        return;
    }
    contents.report_unread(|bytes| parts.uses(bytes), ledger);
    let Some(hcl) = only(parts.hcl, ledger) else {
        return;
    };
    if !is_hcl(&hcl) {
        ledger.succeed("hcl_format", "hcl_malformed", HclReport::parse(&hcl));
        return;
    }
    let Some(mut quote) = only(parts.quotes, ledger) else {
        return;
    };
    if !parts.logs.is_empty() {
        let Some(log) = only(parts.logs, ledger) else {
            return;
        };
        quote.event_log = Some(log);
    }
    match hardware {
        Hardware::SevSnp => {
            let cached = dossier.cached();
            let endorsements = chain::Endorsements::new(
                [slices(&parts.certificates), slices(&cached.certificates)].concat(),
                slices(&contents.crls),
                slices(&cached.crls),
                roots.amd(),
            );
            let vouching = Vouching::SevSnp(&endorsements, &rules.sev_snp);
            az_vtpm::judge(&hcl, &quote, &vouching, nonce, &rules.az_vtpm, now, ledger);
        }
        Hardware::Tdx => {
            // The paravisor's trust domain leaves the bit clear and handles what follows.
            let dcap_rules = dcap::Rules {
                danger_accept_sept_ve: true,
                ..rules.dcap.clone()
            };
            let td_quote = match parts.td_quotes.len() {
                0 => None,
                _ => match only(parts.td_quotes, ledger) {
                    None => return,
                    found => found,
                },
            };
            let collateral =
                { td_quote.as_deref() }.and_then(|quote| choose(dossier, &contents, quote, roots));
            let case = td_quote.as_deref().map(|quote| Case {
                tee: Tee::Tdx,
                quote,
                collateral: collateral.as_ref(),
                event_log: None,
                rules: &dcap_rules,
                root: roots.intel(),
                now,
            });
            let vouching = Vouching::Tdx(case);
            az_vtpm::judge(&hcl, &quote, &vouching, nonce, &rules.az_vtpm, now, ledger);
        }
    }
}

impl Parts {
    pub(crate) fn gather(dossier: Dossier<'_>) -> Self {
        Self::read(&dossier.opened())
    }

    fn read(contents: &Contents) -> Self {
        let mut parts = Self {
            certificates: contents.certificates.clone(),
            logs: event_logs(contents),
            ..Self::default()
        };
        for (_, value) in &contents.documents {
            find_quotes(value, 3, &mut parts.quotes);
        }
        let is_other = |bytes: &[u8]| parts.logs.iter().any(|log| log == bytes);
        let unread = { contents.unread() }.filter(|(_, bytes)| !is_other(bytes));
        let (mut hcl, mut messages, mut signatures, mut td_quotes) = Default::default();
        for (name, bytes) in unread {
            let list: &mut Vec<Vec<u8>> = if is_hcl(bytes) || name.contains("hcl") {
                &mut hcl
            } else if bytes.starts_with(TPM_GENERATED) || name.contains("msg") {
                &mut messages
            } else if is_quote(bytes) {
                &mut td_quotes
            } else if bytes.len() == RSA_2048_BYTES
                || name.contains("sig")
                || bare_signature(bytes).len() != bytes.len()
            {
                &mut signatures
            } else {
                continue;
            };
            list.push(bytes.to_vec());
        }
        let blobs = |is_one: fn(&[u8]) -> bool| {
            { contents.blobs.iter() }
                .filter(move |bytes| is_one(bytes))
                .cloned()
        };
        hcl.extend(blobs(is_hcl));
        td_quotes.extend(blobs(is_quote));
        if hcl.is_empty() && parts.quotes.is_empty() && messages.is_empty() {
            hcl = contents.evidence(is_hcl);
        }
        Self {
            hcl,
            td_quotes,
            messages,
            signatures,
            ..parts
        }
    }

    fn uses(&self, bytes: &[u8]) -> bool {
        [
            &self.hcl,
            &self.td_quotes,
            &self.messages,
            &self.signatures,
            &self.logs,
        ]
        .into_iter()
        .flatten()
        .any(|used| used == bytes)
    }
}

/// Objects with a member that is a TPM's statement and one that is called its signature.
fn find_quotes(value: &Value, depth: usize, found: &mut Vec<VtpmQuote>) {
    let Value::Object(members) = value else {
        return;
    };
    let called = |word: &str| members.iter().find(|(name, _)| name.contains(word));
    let message = { members.values() }
        .filter_map(bytes_of)
        .find(|bytes| bytes.starts_with(TPM_GENERATED))
        .or_else(|| bytes_of(called("message")?.1));
    let signature = called("sig").and_then(|(_, value)| bytes_of(value));
    if let (Some(message), Some(signature)) = (message, signature) {
        found.push(VtpmQuote {
            message,
            signature: bare_signature(&signature).to_vec(),
            // A value that is no digest makes the whole list one that does not match.
            pcrs: called("pcr").map(|(_, value)| pcr_values(value).unwrap_or_default()),
            event_log: None,
        });
    } else if depth > 0 {
        members
            .values()
            .for_each(|member| find_quotes(member, depth - 1, found));
    }
}

/// A list from PCR 0 on, or an object by number, or such an object of the bank of SHA-256.
fn pcr_values(value: &Value) -> Option<Vec<Vec<u8>>> {
    match value {
        Value::Array(items) => items.iter().map(bytes_of).collect(),
        Value::Object(members) => {
            if let Some(bank) = members.get("sha256") {
                return pcr_values(bank);
            }
            let values = (0..members.len()).map(|pcr| members.get(&pcr.to_string()));
            values.map(|value| bytes_of(value?)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A signature without the `TPMT_SIGNATURE` around it, of the one scheme that Azure's vTPMs use.
fn bare_signature(bytes: &[u8]) -> &[u8] {
    let rest = bytes.strip_prefix(RSASSA_SHA256);
    match rest.and_then(|rest| rest.split_first_chunk::<2>()) {
        Some((size, bare)) if usize::from(u16::from_be_bytes(*size)) == bare.len() => bare,
        Some(_) | None => bytes,
    }
}

fn is_hcl(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HCLA")
}

const TPM_GENERATED: &[u8] = b"\xffTCG";
const RSA_2048_BYTES: usize = 256;
/// `TPM_ALG_RSASSA`, `TPM_ALG_SHA256`.
const RSASSA_SHA256: &[u8] = &[0, 0x14, 0, 0x0b];
