//! Which file is what: quotes, keys, values, logs and lists as TPM tools write them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use super::container::{self, Attestation};
use crate::dossier::Dossier;
use crate::evidence::tpm::attest::Quote;
use crate::evidence::tpm::hash::HashAlgorithm;
use crate::evidence::tpm::ima;
use crate::evidence::tpm::pcr::PCR_COUNT;
use crate::evidence::tpm::public::PublicArea;
use crate::evidence::x509;
use crate::judgement::Ledger;

/// What was found.
#[derive(Default)]
pub(super) struct Parts {
    /// Whole pieces of evidence.
    pub(super) quoted: Vec<Quoted>,
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) event_logs: Vec<Vec<u8>>,
    pub(super) ima: Vec<Vec<ima::Entry>>,
    /// Whether a file can't be what its form or name says; already in the ledger.
    pub(super) is_broken: bool,
}

/// A key with its quotes.
#[derive(Default)]
pub(super) struct Quoted {
    pub(super) ak: Option<Ak>,
    /// Of the key, leaf first, as they came in the same message.
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) quotes: Vec<SignedQuote>,
    pub(super) event_log: Option<Vec<u8>>,
    /// What the message itself says its nonce was.
    pub(super) stated_nonce: Option<Vec<u8>>,
}

/// An attestation key as received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Ak {
    /// `TPMT_PUBLIC`: says what the key may do.
    Area(Vec<u8>),
    /// `SubjectPublicKeyInfo`: does not.
    Bare(Vec<u8>),
}

/// A quote as received.
#[derive(Clone, Default)]
pub(super) struct SignedQuote {
    pub(super) message: Vec<u8>,
    /// `TPMT_SIGNATURE`, or the bare signature.
    pub(super) signature: Option<Vec<u8>>,
    pub(super) values: Values,
}

/// Values of PCRs as received.
#[derive(Clone, Default)]
pub(super) enum Values {
    #[default]
    None,
    /// By bank (`TPM_ALG_ID`) and number.
    Named(Vec<(u16, u8, Vec<u8>)>),
    /// One after another, in the order of the quote.
    InOrder(Vec<u8>),
}

impl Parts {
    pub(super) fn gather(dossier: Dossier<'_>, ledger: &mut Ledger) -> Self {
        let mut parts = Self::default();
        let mut loose = Quoted::default();
        let (mut messages, mut signatures, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for file in dossier.judged() {
            let bytes = file.bytes;
            if let Some(found) = x509::certificates(bytes) {
                parts.certificates.extend(found);
            } else if let Some(key) = bare_key(bytes) {
                loose.ak = Some(Ak::Bare(key));
            } else if container::begins(bytes) {
                let found = Attestation::parse(bytes);
                match ledger.succeed("attestation_format", "attestation_malformed", found) {
                    Some(found) => parts.quoted.push(found.into()),
                    None => parts.is_broken = true,
                }
            } else if let Some(found) = from_json(bytes) {
                parts.quoted.push(found);
            } else if is_parsed_log(bytes) {
                ledger.skip("parsed_log", "a log in words, which nothing covers");
            } else if bytes.starts_with(b"{") {
                let detail = format!("`{}` is JSON of no known shape", file.name);
                ledger.require("evidence_format", "evidence_malformed", false, detail);
                parts.is_broken = true;
            } else if let Some(message) = unsized_message(bytes) {
                messages.push(message.to_vec());
            } else if unsized_area(bytes).is_some_and(is_storage_key) {
                // An endorsement key beside its attestation key: only an attestation shows that they live together.
                continue;
            } else if let Some(area) = unsized_area(bytes) {
                loose.ak = Some(Ak::Area(area.to_vec()));
            } else if is_signature(file.name, bytes) {
                signatures.push(bytes.to_vec());
            } else if let Some(named) = serialized_values(bytes) {
                values.push(Values::Named(named));
            } else if is_named(file.name, &["pcr"]) && bytes.len() <= MAX_VALUES {
                values.push(Values::InOrder(bytes.to_vec()));
            } else if is_list(file.name, bytes) {
                match ledger.succeed("ima_format", "ima_malformed", list(bytes)) {
                    Some(entries) => parts.ima.push(entries),
                    None => parts.is_broken = true,
                }
            } else if !bytes.starts_with(CCEL_TABLE) {
                parts.event_logs.push(bytes.to_vec());
            }
        }
        if !messages.is_empty() || !signatures.is_empty() {
            parts.add_loose(loose, messages, signatures, values, ledger);
        } else if let [only] = parts.quoted.as_mut_slice() {
            // A key beside a whole message replaces nothing in it: it must be the same.
            only.ak = only.ak.take().or(loose.ak);
        }
        parts
    }

    /// Files that together are one quote; several can't be told apart.
    fn add_loose(
        &mut self,
        mut loose: Quoted,
        messages: Vec<Vec<u8>>,
        signatures: Vec<Vec<u8>>,
        values: Vec<Values>,
        ledger: &mut Ledger,
    ) {
        let counts = [messages.len(), signatures.len(), values.len()];
        if counts.iter().any(|count| *count > 1) {
            let detail = format!("{counts:?} messages, signatures and values could be meant");
            ledger.require("evidence", "evidence_ambiguous", false, detail);
            self.is_broken = true;
            return;
        }
        let Some(message) = messages.into_iter().next() else {
            ledger.missing(
                "evidence",
                "evidence_missing",
                "a signature without its quote",
            );
            self.is_broken = true;
            return;
        };
        loose.quotes.push(SignedQuote {
            message,
            signature: signatures.into_iter().next(),
            values: values.into_iter().next().unwrap_or_default(),
        });
        self.quoted.push(loose);
    }
}

impl From<Attestation> for Quoted {
    fn from(found: Attestation) -> Self {
        let quotes = found.quotes.into_iter().map(|quote| {
            let named = |(pcr, value): &(u8, Vec<u8>)| (quote.bank, *pcr, value.clone());
            SignedQuote {
                values: Values::Named(quote.pcrs.iter().map(named).collect()),
                message: quote.message,
                signature: Some(quote.signature),
            }
        });
        Self {
            quotes: quotes.collect(),
            ak: Some(Ak::Area(found.ak_public)),
            certificates: found.certificates,
            event_log: (!found.event_log.is_empty()).then_some(found.event_log),
            stated_nonce: None,
        }
    }
}

/// Evidence as Trustee writes it: base64, the values of SHA-256 PCRs from 0 on in hex.
#[derive(Deserialize)]
struct Trustee {
    ak_public: String,
    tpm_quote: TrusteeQuote,
}

#[derive(Deserialize)]
struct TrusteeQuote {
    message: String,
    signature: String,
    pcrs: Vec<String>,
}

/// A machine as go-attestation dumps it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Dump {
    #[serde(rename = "AK")]
    ak: DumpAk,
    quote: DumpQuote,
    log: DumpLog,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DumpAk {
    public: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DumpQuote {
    #[serde(default)]
    nonce: Option<String>,
    quote: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DumpLog {
    #[serde(rename = "PCRs")]
    pcrs: Vec<DumpPcr>,
    #[serde(default)]
    raw: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DumpPcr {
    index: u8,
    digest: String,
}

fn from_json(bytes: &[u8]) -> Option<Quoted> {
    if bytes.len() > MAX_JSON_BYTES || !bytes.starts_with(b"{") {
        return None;
    }
    let trustee = || serde_json::from_slice::<Trustee>(bytes).ok()?.read();
    let dump = || serde_json::from_slice::<Dump>(bytes).ok()?.read();
    trustee().or_else(dump)
}

impl Trustee {
    fn read(&self) -> Option<Quoted> {
        let pcrs = self.tpm_quote.pcrs.iter().zip(0..PCR_COUNT);
        let pcrs = pcrs
            .map(|(value, pcr)| Some((HashAlgorithm::Sha256.id(), pcr, hex::decode(value).ok()?)));
        let quote = SignedQuote {
            message: STANDARD.decode(&self.tpm_quote.message).ok()?,
            signature: Some(STANDARD.decode(&self.tpm_quote.signature).ok()?),
            values: Values::Named(pcrs.collect::<Option<_>>()?),
        };
        let fits = self.tpm_quote.pcrs.len() <= usize::from(PCR_COUNT);
        fits.then_some(Quoted {
            ak: Some(Ak::Bare(STANDARD.decode(&self.ak_public).ok()?)),
            quotes: vec![quote],
            ..Quoted::default()
        })
    }
}

impl Dump {
    fn read(&self) -> Option<Quoted> {
        let pcrs = self.log.pcrs.iter().map(|pcr| {
            let value = STANDARD.decode(&pcr.digest).ok()?;
            // A bank shows in the length of its values.
            let bank = match value.len() {
                32 => HashAlgorithm::Sha256.id(),
                48 => HashAlgorithm::Sha384.id(),
                _ => ALG_SHA1,
            };
            Some((bank, pcr.index, value))
        });
        let quote = SignedQuote {
            message: STANDARD.decode(&self.quote.quote).ok()?,
            signature: Some(STANDARD.decode(&self.quote.signature).ok()?),
            values: Values::Named(pcrs.collect::<Option<_>>()?),
        };
        let optional = |text: &Option<String>| match text.as_deref() {
            None | Some("") => Some(None),
            Some(text) => STANDARD.decode(text).ok().map(Some),
        };
        Some(Quoted {
            ak: Some(Ak::Area(STANDARD.decode(&self.ak.public).ok()?)),
            quotes: vec![quote],
            event_log: optional(&self.log.raw)?,
            stated_nonce: optional(&self.quote.nonce)?,
            certificates: Vec::new(),
        })
    }
}

/// `-----BEGIN PUBLIC KEY-----`, as `tpm2_readpublic -f pem` writes it.
pub(super) fn bare_key(bytes: &[u8]) -> Option<Vec<u8>> {
    SubjectPublicKeyInfoDer::from_pem_slice(bytes)
        .ok()
        .map(|key| key.to_vec())
}

/// `TPMS_ATTEST`, or `TPM2B_ATTEST` around it.
fn unsized_message(bytes: &[u8]) -> Option<&[u8]> {
    let message = without_size(bytes).unwrap_or(bytes);
    let fits = message.len() <= Quote::MAX_BYTES && message.starts_with(TPM_GENERATED);
    fits.then_some(message)
}

/// `TPMT_PUBLIC`, or `TPM2B_PUBLIC` around it: a key of either kind that is named by a SHA-2 hash.
pub(super) fn unsized_area(bytes: &[u8]) -> Option<&[u8]> {
    let area = without_size(bytes).unwrap_or(bytes);
    matches!(area, [0, 0x01 | 0x23, 0, 0x0b | 0x0c, ..]).then_some(area)
}

fn is_storage_key(area: &[u8]) -> bool {
    PublicArea::parse(area).is_ok_and(|area| area.protects_with_aes_bits.is_some())
}

fn without_size(bytes: &[u8]) -> Option<&[u8]> {
    let (size, content) = bytes.split_first_chunk::<2>()?;
    (usize::from(u16::from_be_bytes(*size)) == content.len()).then_some(content)
}

fn is_signature(name: &str, bytes: &[u8]) -> bool {
    let marked = matches!(
        bytes,
        [0, 0x14 | 0x16 | 0x18, 0, 0x04 | 0x0b | 0x0c | 0x0d, ..]
    );
    bytes.len() <= MAX_SIGNATURE && (marked || is_named(name, &["sig"]))
}

/// `tpm2_quote -o`: the host's structures, little-endian: 16 selections, then lists of eight digests.
fn serialized_values(bytes: &[u8]) -> Option<Vec<(u16, u8, Vec<u8>)>> {
    let (head, lists) = bytes.split_at_checked(SELECTION_BYTES + 4)?;
    let (selection, lists_count) = head.split_at_checked(SELECTION_BYTES)?;
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(*bytes.first_chunk::<4>()?));
    let count = usize::try_from(number(selection)?).ok()?;
    let expected = usize::try_from(number(lists_count)?).ok()?;
    let whole = lists.len() == expected.checked_mul(DIGESTS_BYTES)?;
    if !whole || count > 16 || expected > MAX_LISTS {
        return None;
    }
    let mut digests = Vec::new();
    for list in lists.chunks_exact(DIGESTS_BYTES) {
        let held = usize::try_from(number(list)?).ok()?;
        for digest in list.get(4..)?.chunks_exact(DIGEST_BYTES).take(held) {
            let (size, content) = digest.split_first_chunk::<2>()?;
            digests.push(content.get(..usize::from(u16::from_le_bytes(*size)))?);
        }
    }
    let mut digests = digests.into_iter();
    let mut named = Vec::new();
    for bank in selection.get(4..)?.chunks_exact(8).take(count) {
        let [low, high, size, bits @ ..] = bank else {
            return None;
        };
        let hash = u16::from_le_bytes([*low, *high]);
        let bits = bits.get(..usize::from(*size))?;
        for pcr in 0..PCR_COUNT {
            let byte = bits.get(usize::from(pcr / 8)).copied().unwrap_or(0);
            if byte >> (pcr % 8) & 1 == 1 {
                named.push((hash, pcr, digests.next()?.to_vec()));
            }
        }
    }
    digests.next().is_none().then_some(named)
}

/// What tools print of a log: for people.
fn is_parsed_log(bytes: &[u8]) -> bool {
    let head = bytes.get(..64).unwrap_or(bytes);
    head.windows(PARSED_LOG.len())
        .any(|found| found == PARSED_LOG)
}

/// A list as the kernel shows it in either form, or by its name.
fn is_list(name: &str, bytes: &[u8]) -> bool {
    let text = bytes.starts_with(b"10 ");
    let binary = bytes.starts_with(&[ima::PCR, 0, 0, 0])
        && bytes
            .get(28..32)
            .is_some_and(|name| name.starts_with(b"ima"));
    let readable = !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| matches!(byte, b'\n' | b'\t' | b' '..=b'~'));
    text || binary || readable || is_named(name, &["ima", "runtime_measurements"])
}

fn list(bytes: &[u8]) -> Result<Vec<ima::Entry>, crate::evidence::tpm::wire::ParseError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.starts_with(&[ima::PCR, 0]) => ima::parse_text(text),
        _ => ima::parse(bytes),
    }
}

fn is_named(name: &str, words: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    words.iter().any(|word| name.contains(word))
}

const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;
const TPM_GENERATED: &[u8] = b"\xffTCG";
/// Names the event log of a confidential VM; holds nothing that is measured.
const CCEL_TABLE: &[u8] = b"CCEL";
const PARSED_LOG: &[u8] = b"\"uefi_event_logs\"";
const ALG_SHA1: u16 = 0x0004;
/// RSA-4096 with its head.
const MAX_SIGNATURE: usize = 1024;
/// 24 values of each of two banks, and room.
const MAX_VALUES: usize = 4096;
/// `TPML_PCR_SELECTION` as a C structure: a count and 16 selections of eight bytes.
const SELECTION_BYTES: usize = 4 + 16 * 8;
/// `TPM2B_DIGEST` as a C structure.
const DIGEST_BYTES: usize = 2 + 64;
/// `TPML_DIGEST` as a C structure: a count and eight digests.
const DIGESTS_BYTES: usize = 4 + 8 * DIGEST_BYTES;
/// 24 PCRs of 16 banks, eight at a time.
const MAX_LISTS: usize = 48;
