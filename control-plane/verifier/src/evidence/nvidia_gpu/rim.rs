//! Reference integrity manifests: what a driver or VBIOS measures, signed by NVIDIA.
//!
//! Source: TCG Reference Integrity Manifest Information Model; ISO/IEC 19770-2; XML Signature 1.1.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::xml::{Element, XmlError};
use crate::evidence::x509::{self, PathError};
use crate::judgement::Ledger;

/// A manifest. Its signature is verified separately, over the same document.
#[derive(Clone, Debug)]
pub(crate) struct Rim {
    root: Element,
    /// Version that it is about.
    pub(crate) version: String,
    /// `GPU` or `SWITCH`, and the chip.
    pub(crate) product: String,
    /// Digests of active measurements, by index from 0; any of several may be found.
    pub(crate) values: BTreeMap<u8, Vec<Vec<u8>>>,
    /// All indices, active or not.
    pub(crate) active: usize,
}

/// Why a document is no manifest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum RimError {
    /// Not the XML that is read.
    #[error("the document can't be read")]
    Xml(#[from] XmlError),
    /// Something is missing, or stands twice.
    #[error("`{0}` is missing, doubled or wrong")]
    Field(&'static str),
    /// A resource is wrong.
    #[error("a measurement's `{0}` is missing, doubled or wrong")]
    Resource(&'static str),
}

impl Rim {
    /// Whether a file could be a manifest.
    pub(crate) fn is_likely(bytes: &[u8]) -> bool {
        bytes.trim_ascii_start().starts_with(b"<")
    }

    /// Reads a manifest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RimError> {
        let root = Element::parse(bytes)?;
        if root.local_name() != "SoftwareIdentity" || root.namespace() != SWID {
            return Err(RimError::Field("SoftwareIdentity"));
        }
        let meta = root.only(SWID, "Meta").ok_or(RimError::Field("Meta"))?;
        let version = meta
            .attribute("colloquialVersion")
            .filter(|version| !version.is_empty())
            .ok_or(RimError::Field("colloquialVersion"))?
            .to_owned();
        let product = meta.attribute("product").unwrap_or_default().to_owned();
        let (values, active) = payload(&root)?;
        Ok(Self {
            version,
            product,
            values,
            active,
            root,
        })
    }

    /// Verifies the signature: exactly one, right below the root, over the whole document, by a key below the root of
    /// reference values.
    pub(crate) fn check_signature(&self, root: &[u8], now: SystemTime, ledger: &mut Ledger) {
        let signature = self.root.only(DSIG, "Signature");
        let is_one = self.root.count(DSIG, "Signature") == 1;
        let Some(signature) = signature.filter(|_| is_one) else {
            ledger.require(
                "rim_signature",
                "rim_signature",
                false,
                "not exactly one signature",
            );
            return;
        };
        self.check_chain(signature, root, now, ledger);
        let digest = self.is_digest_right(signature);
        let detail = "the digest of the document";
        ledger.require("rim_digest", "rim_digest", digest, detail);
        let signed = is_signature_right(signature);
        ledger.require(
            "rim_signature",
            "rim_signature",
            signed,
            "ECDSA P-384 over `SignedInfo`",
        );
    }

    /// Certificates of the signature, leaf first, in DER.
    pub(crate) fn certificates(&self) -> Vec<Vec<u8>> {
        self.root
            .only(DSIG, "Signature")
            .map_or_else(Vec::new, certificates)
    }

    fn check_chain(&self, signature: &Element, root: &[u8], now: SystemTime, ledger: &mut Ledger) {
        let chain = certificates(signature);
        let path: Vec<_> = chain
            .iter()
            .rev()
            .filter_map(|der| x509::parse(der).ok())
            .collect();
        if path.len() != chain.len() || path.len() < 2 {
            ledger.require(
                "rim_chain",
                "rim_chain",
                false,
                "certificates can't be read",
            );
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
    }

    fn is_digest_right(&self, signature: &Element) -> bool {
        let Some(expected) = reference_digest(signature) else {
            return false;
        };
        let document = self.root.without(DSIG, "Signature").canonical();
        digest::digest(&digest::SHA384, &document).as_ref() == expected
    }
}

type Values = BTreeMap<u8, Vec<Vec<u8>>>;

fn payload(root: &Element) -> Result<(Values, usize), RimError> {
    let payload = root
        .only(SWID, "Payload")
        .ok_or(RimError::Field("Payload"))?;
    let mut values = BTreeMap::new();
    let mut seen = Vec::new();
    for resource in payload.elements() {
        if resource.local_name() != "Resource" || resource.namespace() != SWID {
            return Err(RimError::Field("Payload"));
        }
        let index: u8 = number(resource, "index")?;
        if seen.contains(&index) {
            return Err(RimError::Resource("index"));
        }
        seen.push(index);
        let hashes = hashes(resource)?;
        match resource.attribute("active") {
            Some("True") => drop(values.insert(index, hashes)),
            Some("False") => {}
            _ => return Err(RimError::Resource("active")),
        }
    }
    if seen.is_empty() {
        return Err(RimError::Field("Payload"));
    }
    let active = values.len();
    Ok((values, active))
}

fn number<T: std::str::FromStr>(resource: &Element, name: &'static str) -> Result<T, RimError> {
    resource
        .attribute(name)
        .and_then(|text| text.parse().ok())
        .ok_or(RimError::Resource(name))
}

fn hashes(resource: &Element) -> Result<Vec<Vec<u8>>, RimError> {
    let count: u8 = number(resource, "alternatives")?;
    let size: usize = number(resource, "size")?;
    if count == 0 || size != DIGEST_BYTES {
        return Err(RimError::Resource("size"));
    }
    (0..count)
        .map(|number| {
            let hash = resource.attribute_of(SHA384, &format!("Hash{number}"));
            hash.and_then(|hash| hex::decode(hash).ok())
                .filter(|hash| hash.len() == size)
                .ok_or(RimError::Resource("Hash"))
        })
        .collect()
}

/// Certificates of `KeyInfo`, leaf first.
fn certificates(signature: &Element) -> Vec<Vec<u8>> {
    let data = signature
        .only(DSIG, "KeyInfo")
        .and_then(|info| info.only(DSIG, "X509Data"));
    let Some(data) = data else { return Vec::new() };
    data.elements()
        .filter(|element| element.local_name() == "X509Certificate")
        .take(x509::MAX_CERTIFICATES)
        .map(|element| decode(&element.text()).unwrap_or_default())
        .collect()
}

/// The digest that is signed, if the reference is exactly: the whole document, enveloped signature, canonical form.
fn reference_digest(signature: &Element) -> Option<Vec<u8>> {
    let info = signature.only(DSIG, "SignedInfo")?;
    let reference = info.only(DSIG, "Reference")?;
    let names = |element: &Element| -> Vec<String> {
        let elements = element.elements();
        elements
            .map(|held| held.attribute("Algorithm").unwrap_or_default().to_owned())
            .collect()
    };
    let transforms = names(reference.only(DSIG, "Transforms")?);
    let is_known = reference.attribute("URI") == Some("")
        && transforms == [ENVELOPED, C14N11]
        && reference.only(DSIG, "DigestMethod")?.attribute("Algorithm") == Some(DIGEST_SHA384);
    is_known.then(|| decode(&reference.only(DSIG, "DigestValue")?.text()))?
}

fn is_signature_right(signature: &Element) -> bool {
    let verify = || {
        let info = signature.only(DSIG, "SignedInfo")?;
        let form = info
            .only(DSIG, "CanonicalizationMethod")?
            .attribute("Algorithm")?;
        let method = info.only(DSIG, "SignatureMethod")?.attribute("Algorithm")?;
        if form != C14N11 || method != ECDSA_SHA384 {
            return None;
        }
        let value = decode(&signature.only(DSIG, "SignatureValue")?.text())?;
        let leaf = certificates(signature).into_iter().next()?;
        let leaf = x509::parse(&leaf).ok()?;
        let key = &leaf.public_key().subject_public_key.data;
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
            .verify(&info.canonical(), &value)
            .ok()
    };
    verify().is_some()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(text).ok()
}

const DIGEST_BYTES: usize = 48;
const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const SHA384: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const C14N11: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const DIGEST_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
