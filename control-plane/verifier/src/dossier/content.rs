//! What a file holds, whatever it was wrapped in.
//!
//! Vendors' tools write the same few things in many ways: bare, in hex or base64, as PEM, one after the other, in the
//! table that SNP's host hands out, as members of JSON objects. Here wrappings are taken off, with bounds, and what
//! comes out is sorted by what it *is*: certificates, revocation lists, and the rest by how it begins. Nothing is
//! verified, and no name or member decides what a thing is worth: signatures do, later.
//!
//! A file that holds nothing known is not skipped silently: it is the evidence, or what its name says is missing
//! ([`Contents::evidence`], [`Contents::report_unread`]).
//!
//! Source: AMD 56421 §4.1.8.1 (certificate table); RFC 7468; linux `include/uapi/linux/sev-guest.h`.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::Value;

use super::File;
use crate::evidence::received::table;
use crate::evidence::x509;
use crate::judgement::Ledger;

/// What several files hold together.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Certificates, in DER, in the order of their files.
    pub(crate) certificates: Vec<Vec<u8>>,
    /// Revocation lists, in DER.
    pub(crate) crls: Vec<Vec<u8>>,
    /// JSON documents, as text and as value.
    pub(crate) documents: Vec<(Vec<u8>, Value)>,
    /// Other bytes, also from inside JSON.
    pub(crate) blobs: Vec<Vec<u8>>,
    /// Files in which nothing was found but their bytes.
    unread: Vec<Unread>,
}

/// A file that no wrapping explains.
#[derive(Debug)]
struct Unread {
    name: String,
    bytes: Vec<u8>,
    is_text: bool,
}

impl Contents {
    /// Opens files.
    pub(crate) fn of<'a>(files: impl Iterator<Item = File<'a>>) -> Self {
        let mut contents = Self::default();
        for file in files {
            let mut opener = Opener {
                contents: &mut contents,
                left: MAX_PIECES,
            };
            if let Some(bytes) = opener.open(file.bytes, 0) {
                contents.unread.push(Unread {
                    name: file.name.to_ascii_lowercase(),
                    is_text: !bytes.is_empty() && std::str::from_utf8(&bytes).is_ok(),
                    bytes,
                });
            }
        }
        contents
    }

    /// Pieces that begin as evidence of a kind does; without any, the files that nothing else explains.
    ///
    /// So damaged evidence is judged as evidence. Of several such files, those count whose names speak of evidence.
    pub(crate) fn evidence(&self, is_evidence: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let unread = self.unread.iter().map(|file| &file.bytes);
        let known: Vec<_> = { unread.chain(&self.blobs) }
            .filter(|bytes| is_evidence(bytes))
            .cloned()
            .collect();
        if !known.is_empty() {
            return known;
        }
        let rest = || self.unread.iter().filter(|file| file.role().is_none());
        let named: Vec<_> = rest()
            .filter(|file| EVIDENCE_WORDS.iter().any(|word| file.name.contains(word)))
            .map(|file| file.bytes.clone())
            .collect();
        if !named.is_empty() {
            return named;
        }
        let documents = { self.documents.iter() }
            .filter(|(_, value)| !is_endorsement(value))
            .map(|(text, _)| text.clone());
        rest()
            .map(|file| file.bytes.clone())
            .chain(documents)
            .collect()
    }

    /// Files that nothing explains, with their names in lower case.
    pub(crate) fn unread(&self) -> impl Iterator<Item = (&str, &[u8])> {
        { self.unread.iter() }.map(|file| (file.name.as_str(), file.bytes.as_slice()))
    }

    /// Pieces of a sort that may be absent: those that begin so, or whose file's name says so.
    pub(crate) fn named(&self, role: Role, is_one: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let unread = self.unread.iter();
        let unread = unread.filter(|file| file.role() == Some(role) || is_one(&file.bytes));
        let unread = unread.map(|file| file.bytes.clone());
        let blobs = self.blobs.iter().filter(|bytes| is_one(bytes)).cloned();
        unread.chain(blobs).collect()
    }

    /// Says which files were not understood: an endorsement that can't be read is as bad as one that does not verify.
    pub(crate) fn report_unread(&self, is_used: impl Fn(&[u8]) -> bool, ledger: &mut Ledger) {
        for file in self.unread.iter().filter(|file| !is_used(&file.bytes)) {
            let reason = match file.role() {
                Some(Role::Certificate) => "certificate_malformed",
                Some(Role::Crl) => "crl_malformed",
                Some(Role::Collateral) => "collateral_malformed",
                Some(Role::EventLog) | None => {
                    ledger.skip("files", format!("`{}` is not understood", file.name));
                    continue;
                }
            };
            let detail = format!("`{}` holds nothing that is understood", file.name);
            ledger.require("files", reason, false, detail);
        }
    }
}

/// What a file's name says it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// A certificate or a chain.
    Certificate,
    /// A revocation list.
    Crl,
    /// Intel's TCB info, identities, or all of its endorsements.
    Collateral,
    /// A boot event log.
    EventLog,
}

impl Unread {
    fn role(&self) -> Option<Role> {
        let words: [(Role, &[&str]); 4] = [
            (Role::Crl, &["crl"]),
            (
                Role::EventLog,
                &["ccel", "eventlog", "event_log", "event-log"],
            ),
            (Role::Collateral, &["collateral", "tcb", "identity"]),
            (
                Role::Certificate,
                &[
                    "cert", "vcek", "vlek", "vek", "ask.", "ark.", "chain", "pck", ".der", ".crt",
                    ".cer", ".pem",
                ],
            ),
        ];
        let found = { words.into_iter() }
            .find(|(_, words)| words.iter().any(|word| self.name.contains(word)))
            .map(|(role, _)| role);
        // A text that is no endorsement tells people something.
        found.filter(|role| !(self.is_text && *role == Role::EventLog))
    }
}

struct Opener<'c> {
    contents: &'c mut Contents,
    left: usize,
}

impl Opener<'_> {
    /// Takes wrappings off. What no wrapping explains comes back, as it was found innermost.
    fn open(&mut self, bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
        if depth > MAX_DEPTH || bytes.len() > MAX_BYTES || self.left == 0 {
            return Some(bytes.to_vec());
        }
        self.left -= 1;
        if x509::parse(bytes).is_ok() {
            self.contents.certificates.push(bytes.to_vec());
            return None;
        }
        if x509::parse_crl(bytes).is_ok() {
            self.contents.crls.push(bytes.to_vec());
            return None;
        }
        if let Some(elements) = elements(bytes) {
            return self.open_all(bytes, &elements, depth);
        }
        let held = table(bytes);
        if !held.is_empty() {
            self.contents
                .certificates
                .extend(held.into_iter().map(<[u8]>::to_vec));
            return None;
        }
        match text(bytes) {
            Some(text) => self.open_text(text, depth),
            None => Some(bytes.to_vec()),
        }
    }

    /// All or nothing: a file that is understood in part only is not understood.
    fn open_all(&mut self, whole: &[u8], parts: &[&[u8]], depth: usize) -> Option<Vec<u8>> {
        let mut inner = Contents::default();
        let mut opener = Opener {
            contents: &mut inner,
            left: self.left,
        };
        let is_whole = parts
            .iter()
            .all(|part| opener.open(part, depth + 1).is_none());
        self.left = opener.left;
        if !is_whole {
            return Some(whole.to_vec());
        }
        self.contents.certificates.append(&mut inner.certificates);
        self.contents.crls.append(&mut inner.crls);
        None
    }

    fn open_text(&mut self, text: &str, depth: usize) -> Option<Vec<u8>> {
        let whole = text.as_bytes();
        if text.contains("-----BEGIN ") && !text.starts_with(['{', '[']) {
            return match pem(whole) {
                Some(parts) => {
                    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                    self.open_all(whole, &parts, depth)
                }
                None => Some(whole.to_vec()),
            };
        }
        if text.starts_with(['{', '[']) {
            return match serde_json::from_str::<Value>(text) {
                Ok(value) => {
                    self.open_members(&value, depth);
                    self.contents.documents.push((whole.to_vec(), value));
                    None
                }
                Err(_) => Some(whole.to_vec()),
            };
        }
        match decode(text) {
            Some(decoded) => self.open(&decoded, depth + 1),
            None => Some(whole.to_vec()),
        }
    }

    /// Members of JSON that are bytes; what they are not is of no interest.
    fn open_members(&mut self, value: &Value, depth: usize) {
        if self.left == 0 {
            return;
        }
        if let Some(bytes) = bytes_of(value) {
            if bytes.len() >= MIN_BYTES
                && let Some(bytes) = self.open(&bytes, depth + 1)
            {
                self.contents.blobs.push(bytes);
            }
            return;
        }
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.open_members(item, depth)),
            Value::Object(members) => {
                members
                    .values()
                    .for_each(|member| self.open_members(member, depth));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// The bytes that a JSON value stands for: a list of them, or a text in hex or base64, or PEM or JSON as a text.
pub(crate) fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => {
            let text = text.trim_ascii();
            if text.contains("-----BEGIN ") || text.starts_with(['{', '[']) {
                return Some(text.as_bytes().to_vec());
            }
            decode(text)
        }
        Value::Array(items) => {
            let byte = |item: &Value| u8::try_from(item.as_u64()?).ok();
            (!items.is_empty()).then(|| items.iter().map(byte).collect::<Option<_>>())?
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// Hex, or base64 of either alphabet, padded or not, with or without breaks of lines: tools differ.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bare = text.strip_prefix("0x").unwrap_or(text).to_owned();
    bare.retain(|letter| !letter.is_ascii_whitespace());
    if bare.is_empty() {
        return None;
    }
    if let Ok(bytes) = hex::decode(&bare) {
        return Some(bytes);
    }
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [STANDARD, URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, lenient).decode(&bare).ok())
}

/// A text, without what editors add around it.
fn text(bytes: &[u8]) -> Option<&str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.trim_matches(['\0', ' ', '\t', '\r', '\n']);
    let is_plain = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t');
    (!text.is_empty() && text.chars().all(is_plain)).then_some(text)
}

/// Certificates and revocation lists of a text; `None` if there are none, or one is damaged.
fn pem(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        if let (SectionKind::Certificate | SectionKind::Crl, der) = section.ok()? {
            found.push(der);
        }
        if found.len() > x509::MAX_CERTIFICATES {
            return None;
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Several DER sequences, one after the other; `None` for one, or for anything else.
fn elements(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let [0x30, 0x82, high, low, ..] = bytes else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low])) + 4;
        let (element, rest) = bytes.split_at_checked(length)?;
        found.push(element);
        bytes = rest;
        if found.len() > x509::MAX_CERTIFICATES {
            return None;
        }
    }
    (found.len() > 1).then_some(found)
}

/// Members by which Intel's, Azure's and AMD's services answer.
fn is_endorsement(document: &Value) -> bool {
    let names = [
        "tcbInfo",
        "tcb_info",
        "enclaveIdentity",
        "qe_identity",
        "root_ca_crl",
        "pck_crl",
        "fmspc",
        "vcekCert",
    ];
    names.iter().any(|name| document.get(name).is_some())
}

/// Names that speak of evidence.
const EVIDENCE_WORDS: [&str; 7] = ["report", "quote", "evidence", "attest", "doc", "hcl", "msg"];
/// Base64 of JSON with base64 of a certificate is three deep.
const MAX_DEPTH: usize = 4;
/// A list of Intel's platforms in hex has the most.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Pieces of one file: twelve devices have four each.
const MAX_PIECES: usize = 512;
/// Nothing of interest is shorter.
const MIN_BYTES: usize = 32;
