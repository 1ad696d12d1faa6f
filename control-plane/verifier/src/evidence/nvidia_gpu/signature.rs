//! The signature of a manifest: exactly one, right below the root, over the whole document.
//!
//! # Why
//! XML signatures are broken by moving what is signed to where nobody looks. So there is one form, and all others are
//! refused: a reference to the whole document, the enveloped-signature transform and Canonical XML 1.1 without parameters,
//! SHA-384, ECDSA P-384, certificates in full from leaf to root, and nothing else inside the signature.
//!
//! Source: XML Signature 1.1 §3.2, §6.6.4; Canonical XML 1.1.

use std::time::SystemTime;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::xml::Element;
use crate::evidence::x509::{self, PathError};
use crate::judgement::Ledger;

/// A signature of the one form, with the document that it is in.
#[derive(Clone, Debug)]
pub(crate) struct Signature<'a> {
    root: &'a Element,
    info: &'a Element,
    digest: Vec<u8>,
    value: Vec<u8>,
    /// Leaf first.
    chain: Vec<Vec<u8>>,
}

/// Why a document has no signature of the form that is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SignatureError {
    /// None, several, or one that is deeper than right below the root.
    #[error("not exactly one signature, right below the root")]
    NotOne,
    /// A part is missing, doubled, wrong, or not known here.
    #[error("`{0}` is missing, doubled, wrong or not known here")]
    Part(&'static str),
}

impl<'a> Signature<'a> {
    /// Finds the signature of a document.
    pub(crate) fn find(root: &'a Element) -> Result<Self, SignatureError> {
        let signature = root
            .only(DSIG, "Signature")
            .filter(|_| root.count(DSIG, "Signature") == 1)
            .ok_or(SignatureError::NotOne)?;
        let [info, value, key_info] = parts(
            signature,
            ["SignedInfo", "SignatureValue", "KeyInfo"],
            "Signature",
        )?;
        let [form, method, reference] = parts(
            info,
            ["CanonicalizationMethod", "SignatureMethod", "Reference"],
            "SignedInfo",
        )?;
        check_algorithm(form, C14N11, "CanonicalizationMethod")?;
        check_algorithm(method, ECDSA_SHA384, "SignatureMethod")?;
        let digest = reference_digest(reference)?;
        let [data] = parts(key_info, ["X509Data"], "KeyInfo")?;
        Ok(Self {
            root,
            info,
            digest,
            value: decode(value, "SignatureValue")?,
            chain: certificates(data)?,
        })
    }

    /// Certificates, leaf first.
    pub(crate) fn into_chain(self) -> Vec<Vec<u8>> {
        self.chain
    }

    /// Verifies chain, digest of the document, and signature.
    pub(crate) fn check(&self, root: &[u8], now: SystemTime, ledger: &mut Ledger) {
        self.check_chain(root, now, ledger);
        let document = self
            .root
            .canonical_except(|element| element.is(DSIG, "Signature"));
        let found = digest::digest(&digest::SHA384, &document);
        let detail = "the digest of the document";
        let holds = found.as_ref() == self.digest;
        ledger.require("rim_digest", "rim_digest", holds, detail);
        let leaf = self.chain.first().and_then(|leaf| x509::parse(leaf).ok());
        let signed = leaf.is_some_and(|leaf| {
            let key = &leaf.public_key().subject_public_key.data;
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
                .verify(&self.info.canonical(), &self.value)
                .is_ok()
        });
        let detail = "ECDSA P-384 over `SignedInfo`";
        ledger.require("rim_signature", "rim_signature", signed, detail);
    }

    fn check_chain(&self, root: &[u8], now: SystemTime, ledger: &mut Ledger) {
        let path: Vec<_> = self
            .chain
            .iter()
            .rev()
            .filter_map(|der| x509::parse(der).ok())
            .collect();
        if path.len() != self.chain.len() || path.len() < 2 {
            let detail = "certificates can't be read";
            ledger.require("rim_chain", "rim_chain", false, detail);
            return;
        }
        let result = x509::verify_path(&path, root, now);
        let reason = match result {
            Ok(()) => "rim_chain",
            Err(PathError::Root(_) | PathError::Empty) => "rim_root_not_pinned",
            Err(PathError::Step(_) | PathError::Depth(_) | PathError::Critical(..)) => "rim_chain",
            Err(PathError::NotYet(..)) => "rim_certificate_not_yet_valid",
            Err(PathError::Expired(..)) => "rim_certificate_expired",
        };
        ledger.succeed("rim_chain", reason, result);
        // NVIDIA signs manifests of unfinished firmware with authorities that say so.
        let debug = path
            .iter()
            .find_map(|held| x509::common_name(held.subject()).filter(|name| is_debug(name)));
        let signer = path.last().map(|leaf| leaf.subject().to_string());
        let detail = debug.map_or_else(|| signer.unwrap_or_default(), str::to_owned);
        ledger.require("rim_signer", "rim_debug", debug.is_none(), detail);
    }
}

/// Whether a certificate's name says that it is for parts or firmware that are not for production.
pub(super) fn is_debug(name: &str) -> bool {
    name.to_ascii_lowercase().contains("debug")
}

/// The elements below, which must be exactly these, in this order.
fn parts<'a, const N: usize>(
    element: &'a Element,
    names: [&'static str; N],
    part: &'static str,
) -> Result<[&'a Element; N], SignatureError> {
    let found: Vec<_> = element.elements().collect();
    let found: [&Element; N] = found.try_into().map_err(|_| SignatureError::Part(part))?;
    let fits = found
        .iter()
        .zip(names)
        .all(|(element, name)| element.is(DSIG, name));
    fits.then_some(found).ok_or(SignatureError::Part(part))
}

/// A method that is this one, without parameters.
fn check_algorithm(
    element: &Element,
    expected: &str,
    part: &'static str,
) -> Result<(), SignatureError> {
    let fits =
        element.attribute("Algorithm") == Some(expected) && element.elements().next().is_none();
    fits.then_some(()).ok_or(SignatureError::Part(part))
}

fn reference_digest(reference: &Element) -> Result<Vec<u8>, SignatureError> {
    if reference.attribute("URI") != Some("") {
        return Err(SignatureError::Part("URI"));
    }
    let [transforms, method, value] = parts(
        reference,
        ["Transforms", "DigestMethod", "DigestValue"],
        "Reference",
    )?;
    let [enveloped, form] = parts(transforms, ["Transform", "Transform"], "Transforms")?;
    check_algorithm(enveloped, ENVELOPED, "Transform")?;
    check_algorithm(form, C14N11, "Transform")?;
    check_algorithm(method, DIGEST_SHA384, "DigestMethod")?;
    decode(value, "DigestValue")
}

fn certificates(data: &Element) -> Result<Vec<Vec<u8>>, SignatureError> {
    let part = "X509Certificate";
    let mut found = Vec::new();
    for element in data.elements() {
        if !element.is(DSIG, part) || found.len() == x509::MAX_CERTIFICATES {
            return Err(SignatureError::Part("X509Data"));
        }
        found.push(decode(element, part)?);
    }
    Ok(found)
}

fn decode(element: &Element, part: &'static str) -> Result<Vec<u8>, SignatureError> {
    let text: String = element.text().split_ascii_whitespace().collect();
    let is_text = element.elements().next().is_none();
    let decoded = STANDARD.decode(text).ok().filter(|_| is_text);
    decoded.ok_or(SignatureError::Part(part))
}

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const C14N11: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const DIGEST_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
