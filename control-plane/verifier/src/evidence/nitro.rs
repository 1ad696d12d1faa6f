//! AWS Nitro Enclaves: an attestation document, signed by the Nitro Security Module.
//!
//! A document is a COSE_Sign1 over a map of PCRs, the certificate of the key that signed, and its chain from AWS's root.
//! The certificate lives three hours, so a document proves something shortly after it was made only. PCR0 is zero in an
//! enclave that was started in debug mode: its memory and console are open to the host.
//!
//! Source: AWS Nitro Enclaves, *Verifying the root of trust*; RFC 9052 §4.2.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use crate::evidence::cbor::{self, CborError, Reader};
use crate::evidence::x509::{self, PathError};
use crate::judgement::{Check, Ledger, check, same_bytes};

/// What an enclave must be.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Accepted values by PCR; a PCR that is not named may have any.
    pub pcrs: BTreeMap<u8, Vec<Vec<u8>>>,
    /// Accept enclaves that the host may read.
    pub danger_accept_debug: bool,
}

/// Every check, in the order in which judgements show them: each has a test that turns its input alone.
pub const CHECKS: &[Check] = &[
    check(
        "document_format",
        &["document_malformed", "trailing_data"],
        "one COSE_Sign1, ES384, canonical, with a document's fields in their bounds",
    ),
    check("chain_format", &["chain_malformed"], "certificates are DER"),
    check(
        "chain",
        &[
            "root_not_pinned",
            "chain_signature",
            "certificate_not_yet_valid",
            "certificate_expired",
        ],
        "from the module's certificate over the document's bundle to AWS's pinned root",
    ),
    check(
        "leaf_role",
        &["leaf_role"],
        "the signing certificate is no authority's",
    ),
    check(
        "document_signature",
        &["document_signature"],
        "the module signed the received bytes",
    ),
    check(
        "timestamp",
        &["timestamp_in_future"],
        "the module's clock is not ahead of ours",
    ),
    check(
        "binding",
        &["nonce_mismatch", "report_data_mismatch"],
        "the nonce, or the user data, against what is expected",
    ),
    check("debug", &["debug_enabled"], "PCR0 is there and not zero"),
    check("pcrs", &["pcrs"], "PCRs among those named"),
];

/// What the document must be bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Binding<'a> {
    /// The field `nonce`.
    Nonce(&'a [u8]),
    /// The field `user_data`.
    UserData(&'a [u8]),
}

/// A document, parsed; nothing in it is verified.
#[derive(Clone, Debug)]
pub struct Document<'a> {
    protected: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
    /// The module that signed.
    pub module_id: &'a str,
    /// Milliseconds since 1970, by the module's clock.
    pub timestamp_ms: u64,
    /// PCRs by number, 48 bytes each.
    pub pcrs: BTreeMap<u8, &'a [u8]>,
    certificate: &'a [u8],
    /// Root first.
    chain: Vec<&'a [u8]>,
    /// A key that the enclave named.
    pub public_key: Option<&'a [u8]>,
    /// What the enclave wanted to say.
    pub user_data: Option<&'a [u8]>,
    /// What the enclave was given.
    pub nonce: Option<&'a [u8]>,
}

/// Why bytes are not a document.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DocumentError {
    /// Larger than the module writes.
    #[error("{0} bytes are more than the module writes")]
    TooLarge(usize),
    /// Bytes follow the document.
    #[error("{0} bytes follow the document")]
    Trailing(usize),
    /// Not the CBOR of a document.
    #[error("not a COSE_Sign1 of the module")]
    Cbor(#[from] CborError),
    /// A header that the module does not write.
    #[error("the headers are not exactly ES384")]
    Headers,
    /// A field is wrong, missing, or stands twice.
    #[error("field `{0}` is wrong, missing or doubled")]
    Field(&'static str),
}

impl<'a> Document<'a> {
    /// Certificates in DER, root first.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &'a [u8]> {
        self.chain.iter().copied().chain([self.certificate])
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`DocumentError`] unless the bytes are exactly one document.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_BYTES {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        if reader.peek().is_some_and(|byte| byte >> 5 == 6) && reader.tag()? != COSE_SIGN1 {
            return Err(DocumentError::Headers);
        }
        if reader.array(4, "COSE_Sign1")? != 4 {
            return Err(DocumentError::Field("COSE_Sign1"));
        }
        let protected = reader.bytes()?;
        if reader.map(0, "unprotected headers").is_err() || !is_es384(protected) {
            return Err(DocumentError::Headers);
        }
        let payload = reader.bytes()?;
        let signature = reader.bytes()?;
        reader.finish().map_err(|error| match error {
            CborError::Trailing(left) => DocumentError::Trailing(left),
            other => DocumentError::Cbor(other),
        })?;
        let mut document = Self {
            protected,
            payload,
            signature,
            module_id: "",
            timestamp_ms: 0,
            pcrs: BTreeMap::new(),
            certificate: &[],
            chain: Vec::new(),
            public_key: None,
            user_data: None,
            nonce: None,
        };
        document.read_payload()?;
        Ok(document)
    }

    fn read_payload(&mut self) -> Result<(), DocumentError> {
        let mut reader = Reader::new(self.payload);
        let mut seen: Vec<&str> = Vec::new();
        // Later modules write a map whose end is marked instead of its length.
        let is_open = reader.pass(cbor::OPEN_MAP);
        let count = if is_open {
            MAX_FIELDS
        } else {
            reader.map(MAX_FIELDS, "fields")?
        };
        for _ in 0..count {
            if is_open && reader.peek() == Some(cbor::BREAK) {
                break;
            }
            let field = reader.text()?;
            if seen.contains(&field) {
                return Err(DocumentError::Field("doubled"));
            }
            seen.push(field);
            self.read_field(field, &mut reader)?;
        }
        if is_open && !reader.pass(cbor::BREAK) {
            return Err(DocumentError::Field("fields"));
        }
        reader.finish()?;
        for needed in NEEDED {
            if !seen.contains(&needed) {
                return Err(DocumentError::Field(needed));
            }
        }
        Ok(())
    }

    fn read_field(&mut self, field: &str, reader: &mut Reader<'a>) -> Result<(), DocumentError> {
        match field {
            "module_id" => self.module_id = reader.text()?,
            "digest" => {
                if reader.text()? != "SHA384" {
                    return Err(DocumentError::Field("digest"));
                }
            }
            "timestamp" => self.timestamp_ms = reader.unsigned()?,
            "pcrs" => self.pcrs = read_pcrs(reader)?,
            "certificate" => self.certificate = reader.bytes()?,
            "cabundle" => {
                for _ in 0..reader.array(MAX_CHAIN, "cabundle")? {
                    self.chain.push(reader.bytes()?);
                }
            }
            "public_key" => self.public_key = limited(reader, 1024, "public_key")?,
            "user_data" => self.user_data = limited(reader, 1024, "user_data")?,
            "nonce" => self.nonce = limited(reader, 1024, "nonce")?,
            _ => return Err(DocumentError::Field("unknown")),
        }
        Ok(())
    }

    /// `Sig_structure` of RFC 9052 §4.4, without external data.
    fn signed(&self) -> Vec<u8> {
        let mut out = vec![0x84, 0x6a];
        out.extend_from_slice(b"Signature1");
        cbor::put_bytes(&mut out, self.protected);
        cbor::put_bytes(&mut out, &[]);
        cbor::put_bytes(&mut out, self.payload);
        out
    }
}

fn read_pcrs<'a>(reader: &mut Reader<'a>) -> Result<BTreeMap<u8, &'a [u8]>, DocumentError> {
    let mut pcrs = BTreeMap::new();
    for _ in 0..reader.map(MAX_PCRS, "pcrs")? {
        let number = reader.unsigned()?;
        let value = reader.bytes()?;
        let number = u8::try_from(number)
            .ok()
            .filter(|number| u64::from(*number) < MAX_PCRS);
        let fits = value.len() == PCR_BYTES;
        match number {
            Some(number) if fits && pcrs.insert(number, value).is_none() => {}
            Some(_) | None => return Err(DocumentError::Field("pcrs")),
        }
    }
    Ok(pcrs)
}

fn limited<'a>(
    reader: &mut Reader<'a>,
    most: usize,
    field: &'static str,
) -> Result<Option<&'a [u8]>, DocumentError> {
    let value = reader.optional_bytes()?;
    if value.is_some_and(|value| value.len() > most) {
        return Err(DocumentError::Field(field));
    }
    Ok(value)
}

/// Exactly `{1: -35}`.
fn is_es384(protected: &[u8]) -> bool {
    let mut reader = Reader::new(protected);
    reader.map(1, "headers") == Ok(1)
        && reader.unsigned() == Ok(1)
        && reader.negative() == Ok(34)
        && reader.finish().is_ok()
}

/// Judges a document below a root.
pub(crate) fn judge_below(
    root: &[u8],
    document: &[u8],
    expected: Option<Binding<'_>>,
    rules: &Rules,
    now: SystemTime,
    ledger: &mut Ledger,
) {
    let parsed = Document::parse(document);
    let reason = match parsed {
        Err(DocumentError::Trailing(_)) => "trailing_data",
        Ok(_) | Err(_) => "document_malformed",
    };
    let Some(document) = ledger.succeed("document_format", reason, parsed) else {
        return;
    };
    claims_of(&document, ledger);
    check_chain(&document, root, now, ledger);
    check_signature(&document, ledger);
    check_timestamp(&document, now, ledger);
    check_binding(&document, expected, ledger);
    check_debug(&document, rules, ledger);
    check_pcrs(&document, rules, ledger);
}

fn claims_of(document: &Document<'_>, ledger: &mut Ledger) {
    ledger.claim("module_id", document.module_id);
    if let Some((instance, _)) = document.module_id.split_once("-enc") {
        ledger.claim("instance_id", instance);
    }
    ledger.claim("timestamp_ms", document.timestamp_ms);
    // A PCR that nothing was extended into says nothing.
    for (name, number) in PCR_CLAIMS.into_iter().zip(0..) {
        let value = document.pcrs.get(&number);
        if let Some(value) = value.filter(|value| value.iter().any(|byte| *byte != 0)) {
            ledger.claim(name, hex::encode(value));
        }
    }
    ledger.claim("debug", is_debug(document));
    for (name, value) in [
        ("public_key", document.public_key),
        ("user_data", document.user_data),
        ("nonce", document.nonce),
    ] {
        if let Some(value) = value {
            ledger.claim(name, hex::encode(value));
        }
    }
}

fn check_chain(document: &Document<'_>, root: &[u8], now: SystemTime, ledger: &mut Ledger) {
    let chain = document.chain.iter().chain([&document.certificate]);
    let path: Result<Vec<_>, _> = chain.map(|der| x509::parse(der)).collect();
    let Some(path) = ledger.succeed("chain_format", "chain_malformed", path) else {
        return;
    };
    let result = x509::verify_path(&path, root, now);
    let reason = result.as_ref().map_or_else(PathError::reason, |()| "chain");
    ledger.succeed("chain", reason, result);
    let is_leaf = path.last().is_some_and(|leaf| !leaf.is_ca());
    ledger.require(
        "leaf_role",
        "leaf_role",
        is_leaf,
        "an authority signs no document",
    );
}

fn check_signature(document: &Document<'_>, ledger: &mut Ledger) {
    let holds = x509::parse(document.certificate).is_ok_and(|certificate| {
        let key = &certificate.public_key().subject_public_key.data;
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
            .verify(&document.signed(), document.signature)
            .is_ok()
    });
    ledger.require(
        "document_signature",
        "document_signature",
        holds,
        "ES384 by the module's certificate",
    );
}

/// The module's clock must agree with ours that the document is not of the future.
fn check_timestamp(document: &Document<'_>, now: SystemTime, ledger: &mut Ledger) {
    let made = UNIX_EPOCH.checked_add(Duration::from_millis(document.timestamp_ms));
    let holds = made.is_some_and(|made| made <= now + SKEW);
    let detail = format!("{} ms", document.timestamp_ms);
    ledger.require("timestamp", "timestamp_in_future", holds, detail);
}

fn check_binding(document: &Document<'_>, expected: Option<Binding<'_>>, ledger: &mut Ledger) {
    let (found, expected, reason) = match expected {
        Some(Binding::Nonce(expected)) => (document.nonce, expected, "nonce_mismatch"),
        Some(Binding::UserData(expected)) => (document.user_data, expected, "report_data_mismatch"),
        None => {
            ledger.skip("binding", "looked at without an expectation");
            return;
        }
    };
    let holds = found.is_some_and(|found| same_bytes(found, expected));
    ledger.require(
        "binding",
        reason,
        holds,
        found.map(hex::encode).unwrap_or_default(),
    );
}

fn is_debug(document: &Document<'_>) -> bool {
    document
        .pcrs
        .get(&0)
        .is_none_or(|value| value.iter().all(|byte| *byte == 0))
}

fn check_debug(document: &Document<'_>, rules: &Rules, ledger: &mut Ledger) {
    let holds = rules.danger_accept_debug || !is_debug(document);
    ledger.require(
        "debug",
        "debug_enabled",
        holds,
        "PCR0 is zero in debug mode",
    );
}

fn check_pcrs(document: &Document<'_>, rules: &Rules, ledger: &mut Ledger) {
    if rules.pcrs.is_empty() {
        ledger.skip("pcrs", "no reference value is named");
        return;
    }
    let wrong = rules.pcrs.iter().find(|(number, accepted)| {
        let found = document.pcrs.get(number);
        !found.is_some_and(|found| accepted.iter().any(|value| value == found))
    });
    let detail = wrong
        .map(|(number, _)| format!("PCR{number}"))
        .unwrap_or_default();
    ledger.require("pcrs", "pcrs", wrong.is_none(), detail);
}

pub(crate) const AWS_ROOT: &[u8] = include_bytes!("../../roots/aws-nitro-root-g1.der");
const PCR_CLAIMS: [&str; 16] = [
    "pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr5", "pcr6", "pcr7", "pcr8", "pcr9", "pcr10",
    "pcr11", "pcr12", "pcr13", "pcr14", "pcr15",
];
const COSE_SIGN1: u64 = 18;
/// The module writes at most 16 KiB.
const MAX_BYTES: usize = 16 * 1024;
/// The document has nine fields.
const MAX_FIELDS: u64 = 9;
const MAX_CHAIN: u64 = 8;
const MAX_PCRS: u64 = 32;
const PCR_BYTES: usize = 48;
const NEEDED: [&str; 6] = [
    "module_id",
    "digest",
    "timestamp",
    "pcrs",
    "certificate",
    "cabundle",
];
/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests;
