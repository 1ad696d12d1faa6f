//! Reference integrity manifests: what a driver or VBIOS measures, signed by NVIDIA.
//!
//! Source: TCG Reference Integrity Manifest Information Model; ISO/IEC 19770-2.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::signature::Signature;
use super::xml::{Element, XmlError};
use crate::judgement::Ledger;

/// A manifest. Its signature is verified separately, over the same document.
#[derive(Clone, Debug)]
pub(crate) struct Rim {
    root: Element,
    /// Version of the driver or VBIOS that it is about.
    pub(crate) version: String,
    /// The chip, as in `GH100` or `LS10`.
    pub(crate) product: String,
    /// `GPU` or `SWITCH`.
    pub(crate) edition: String,
    /// Digests of active measurements, by index from 0; any of several may be found.
    pub(crate) values: Values,
    /// How many measurements it names, active or not.
    pub(crate) named: usize,
}

/// Digests by index from 0.
pub(crate) type Values = BTreeMap<u8, Vec<Vec<u8>>>;

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
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        bytes.trim_ascii_start().starts_with(b"<")
    }

    /// Reads a manifest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RimError> {
        let root = Element::parse(bytes)?;
        if !root.is(SWID, "SoftwareIdentity") {
            return Err(RimError::Field("SoftwareIdentity"));
        }
        let meta = root.only(SWID, "Meta").ok_or(RimError::Field("Meta"))?;
        let stated = |name: &'static str| {
            meta.attribute(name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
                .ok_or(RimError::Field(name))
        };
        let (values, named) = payload(&root)?;
        Ok(Self {
            version: stated("colloquialVersion")?,
            product: stated("product")?,
            edition: stated("edition")?,
            values,
            named,
            root,
        })
    }

    /// Verifies that NVIDIA signed all of it.
    pub(crate) fn check_signature(&self, root: &[u8], now: SystemTime, ledger: &mut Ledger) {
        let signature = Signature::find(&self.root);
        if let Some(signature) = ledger.succeed("rim_signature_form", "rim_signature", signature) {
            signature.check(root, now, ledger);
        }
    }

    /// Certificates of the signer, leaf first; empty where there is no signature of the form that is read.
    pub(crate) fn certificates(&self) -> Vec<Vec<u8>> {
        Signature::find(&self.root).map_or_else(|_| Vec::new(), Signature::into_chain)
    }
}

pub(super) fn payload(root: &Element) -> Result<(Values, usize), RimError> {
    let payload = root
        .only(SWID, "Payload")
        .ok_or(RimError::Field("Payload"))?;
    let mut values = BTreeMap::new();
    let mut seen = Vec::new();
    for resource in payload.elements() {
        if !resource.is(SWID, "Resource") {
            return Err(RimError::Field("Payload"));
        }
        if resource.attribute("type") != Some("Measurement") {
            return Err(RimError::Resource("type"));
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
    Ok((values, seen.len()))
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

const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
const DIGEST_BYTES: usize = 48;
const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const SHA384: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
