//! Azure's vTPM evidence from files: one JSON object, or its parts.

use std::time::SystemTime;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::dcap::choose;
use super::{Dossier, Expected, Rules, certificates, is_crl, only, refuse_expectation};
use crate::evidence::az_vtpm::hcl::Hardware;
use crate::evidence::az_vtpm::{self, Vouching, VtpmQuote};
use crate::evidence::dcap::collateral::Collateral;
use crate::evidence::dcap::{self, Case, Tee};
use crate::evidence::sev_snp::chain;
use crate::evidence::x509;
use crate::judgement::Ledger;
use crate::vendor_roots::VendorRoots;

/// Evidence as Trustee writes it.
#[derive(Deserialize)]
struct Written {
    hcl_report: String,
    tpm_quote: WrittenQuote,
    #[serde(default)]
    vcek: Option<String>,
    #[serde(default)]
    td_quote: Option<String>,
}

#[derive(Deserialize)]
struct WrittenQuote {
    message: String,
    signature: String,
    #[serde(default)]
    pcrs: Option<Vec<String>>,
}

#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) hcl: Vec<Vec<u8>>,
    quotes: Vec<VtpmQuote>,
    messages: Vec<Vec<u8>>,
    pub(crate) td_quotes: Vec<Vec<u8>>,
    pub(crate) certificates: Vec<Vec<u8>>,
    others: Vec<Vec<u8>>,
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
    let mut parts = Parts::gather(dossier);
    if let ([message], [signature]) = (parts.messages.as_slice(), parts.others.as_slice()) {
        parts.quotes.push(VtpmQuote {
            message: message.clone(),
            signature: signature.clone(),
            pcrs: None,
            event_log: None,
        });
    } else if !(parts.messages.is_empty() && parts.others.is_empty()) {
        let detail = "files are neither one quote and its signature nor anything else";
        ledger.require("evidence", "evidence_ambiguous", false, detail);
        return;
    }
    let Some(hcl) = only(parts.hcl, ledger) else {
        return;
    };
    let Some(quote) = only(parts.quotes, ledger) else {
        return;
    };
    match hardware {
        Hardware::SevSnp => {
            let cached = certificates(dossier.endorsements.iter().copied());
            let all = parts.certificates.iter().chain(&cached);
            let endorsements = chain::Endorsements::new(
                all.map(Vec::as_slice).collect(),
                dossier
                    .judged()
                    .filter(is_crl)
                    .map(|file| file.bytes)
                    .collect(),
                dossier
                    .endorsements
                    .iter()
                    .filter(|file| is_crl(file))
                    .map(|file| file.bytes)
                    .collect(),
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
            let collateral = td_quote.as_deref().and_then(|quote| choose(dossier, quote));
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
        let mut parts = Self::default();
        for file in dossier.judged() {
            let bytes = file.bytes;
            if let Some(found) = x509::certificates(bytes) {
                parts.certificates.extend(found);
            } else if is_crl(&file) || Collateral::parse(bytes).is_some() {
                continue;
            } else if bytes.starts_with(b"HCLA") {
                parts.hcl.push(bytes.to_vec());
            } else if bytes.starts_with(TPM_GENERATED) {
                parts.messages.push(bytes.to_vec());
            } else if bytes.starts_with(TD_QUOTE_4) || bytes.starts_with(TD_QUOTE_5) {
                parts.td_quotes.push(bytes.to_vec());
            } else if parts.add_written(bytes).is_none() {
                parts.others.push(bytes.to_vec());
            }
        }
        parts
    }

    fn add_written(&mut self, bytes: &[u8]) -> Option<()> {
        if bytes.len() > MAX_JSON_BYTES {
            return None;
        }
        if let Ok(written) = serde_json::from_slice::<Written>(bytes) {
            let hcl = decode(&written.hcl_report)?;
            let td_quote = match &written.td_quote {
                Some(text) => Some(decode(text)?),
                None => None,
            };
            let vcek = match &written.vcek {
                Some(text) => Some(decode(text)?),
                None => None,
            };
            self.quotes.push(written.tpm_quote.read()?);
            self.hcl.push(hcl);
            self.td_quotes.extend(td_quote);
            self.certificates.extend(vcek);
            return Some(());
        }
        let quote: WrittenQuote = serde_json::from_slice(bytes).ok()?;
        self.quotes.push(quote.read()?);
        Some(())
    }
}

impl WrittenQuote {
    fn read(&self) -> Option<VtpmQuote> {
        let pcrs = match &self.pcrs {
            Some(pcrs) => Some(
                pcrs.iter()
                    .map(|pcr| hex::decode(pcr).ok())
                    .collect::<Option<_>>()?,
            ),
            None => None,
        };
        Some(VtpmQuote {
            message: hex::decode(&self.message).ok()?,
            signature: hex::decode(&self.signature).ok()?,
            pcrs,
            event_log: None,
        })
    }
}

/// Either alphabet, padded or not: tools differ.
fn decode(text: &str) -> Option<Vec<u8>> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = |alphabet| GeneralPurpose::new(alphabet, lenient);
    let standard = engine(&STANDARD).decode(text);
    standard.or_else(|_| engine(&URL_SAFE).decode(text)).ok()
}

const MAX_JSON_BYTES: usize = 1024 * 1024;
const TPM_GENERATED: &[u8] = b"\xffTCG";
const TD_QUOTE_4: &[u8] = &[4, 0, 2, 0, 0x81];
const TD_QUOTE_5: &[u8] = &[5, 0, 2, 0, 0x81];
