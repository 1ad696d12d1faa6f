//! Attestation reports of GPUs and NVSwitches: an SPDM request with the response to it.
//!
//! Source: DMTF DSP0274 (SPDM) 1.1 §10.11; NVIDIA attestation SDK, `spdm` and `opaque data` definitions.

use std::collections::BTreeMap;

/// A report, parsed in place; nothing in it is verified.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// What was signed: request and response without signature.
    pub(crate) signed: &'a [u8],
    pub(crate) signature: &'a [u8],
    /// What the verifier put into the request.
    pub nonce: [u8; 32],
    /// Measurements by index, from 1.
    pub measurements: BTreeMap<u8, &'a [u8]>,
    fields: BTreeMap<u16, &'a [u8]>,
    /// Bytes after the signature. Some collectors leave one.
    pub trailing: usize,
}

/// Why bytes are not a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReportError {
    /// Larger than a device makes.
    #[error("{0} bytes are more than a device makes")]
    TooLarge(usize),
    /// The bytes end inside a field.
    #[error("`{0}` is cut short")]
    Truncated(&'static str),
    /// A field has a value that is not known.
    #[error("`{0}` is {1}, which is not known")]
    Unknown(&'static str, u32),
    /// Something stands twice.
    #[error("`{0}` {1} stands twice")]
    Twice(&'static str, u16),
    /// A count is not that of what follows.
    #[error("`{0}` does not count what follows")]
    Count(&'static str),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], ReportError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(ReportError::Truncated(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ReportError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(ReportError::Truncated(field))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, ReportError> {
        self.array(field).map(u16::from_le_bytes)
    }
}

impl<'a> Report<'a> {
    /// Reads a report.
    ///
    /// # Errors
    /// [`ReportError`] unless the bytes begin with a request for all measurements and the response to it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_BYTES {
            return Err(ReportError::TooLarge(bytes.len()));
        }
        let mut reader = Reader(bytes);
        expect(reader.array("request")?, REQUEST, "request")?;
        reader.take(2, "request parameters")?;
        let nonce = reader.array("nonce")?;
        reader.take(1, "slot")?;
        expect(reader.array("response")?, RESPONSE, "response")?;
        reader.take(2, "response parameters")?;
        let [blocks] = reader.array("number of blocks")?;
        let [low, middle, high] = reader.array("record length")?;
        let length = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
        let record = reader.take(length, "measurement record")?;
        let measurements = read_measurements(record, blocks)?;
        reader.take(32, "responder nonce")?;
        let length = reader.u16("opaque length")?;
        let fields = read_fields(reader.take(length.into(), "opaque data")?)?;
        let signed = bytes
            .get(..bytes.len() - reader.0.len())
            .unwrap_or_default();
        let signature = reader.take(96, "signature")?;
        Ok(Self {
            signed,
            signature,
            nonce,
            measurements,
            fields,
            trailing: reader.0.len(),
        })
    }

    fn text(&self, field: u16) -> Option<String> {
        let bytes = self.fields.get(&field)?;
        let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
        let text = bytes.get(..end)?;
        text.iter()
            .all(u8::is_ascii_graphic)
            .then(|| String::from_utf8_lossy(text).into_owned())
    }

    /// Version of the driver; switches have none.
    pub fn driver_version(&self) -> Option<String> {
        self.text(DRIVER_VERSION)
    }

    /// Version of the VBIOS, as its reference values write it: `96.00.9F.00.01`.
    pub fn vbios_version(&self) -> Option<String> {
        match self.fields.get(&VBIOS_VERSION)? {
            // GPUs write a number of 32 bits, then one of eight.
            [a, b, c, d, e, 0, 0, 0] => Some(format!("{d:02X}.{c:02X}.{b:02X}.{a:02X}.{e:02X}")),
            _ => self.text(VBIOS_VERSION),
        }
    }

    /// Project, SKU of the project, SKU of the chip.
    pub fn board(&self) -> Option<String> {
        let parts = [PROJECT, PROJECT_SKU, CHIP_SKU].map(|field| self.text(field));
        let [Some(project), Some(sku), Some(chip)] = parts else {
            return None;
        };
        Some(format!("{project}_{sku}_{chip}"))
    }

    /// Digest of the firmware that holds the signing key; old drivers write none.
    pub fn firmware_id(&self) -> Option<&'a [u8]> {
        self.fields.get(&FIRMWARE_ID).copied()
    }

    /// Whether protected PCIe mode is on; `None` where the driver does not say.
    pub fn protected_pcie(&self) -> Option<bool> {
        match self.fields.get(&PROTECTED_PCIE)? {
            [0xaa] => Some(true),
            [0x55] => Some(false),
            _ => None,
        }
    }

    /// Whether the first video decoder is on: its measurement counts only then.
    pub fn is_decoder_on(&self) -> bool {
        self.fields.get(&DECODER_STATUS) == Some(&&[0xaa][..])
    }
}

fn expect(found: [u8; 2], expected: [u8; 2], field: &'static str) -> Result<(), ReportError> {
    if found == expected {
        Ok(())
    } else {
        Err(ReportError::Unknown(
            field,
            u16::from_be_bytes(found).into(),
        ))
    }
}

/// Each block is one measurement in DMTF's form: index, form, size, then type, size and digest.
fn read_measurements(bytes: &[u8], blocks: u8) -> Result<BTreeMap<u8, &[u8]>, ReportError> {
    let mut reader = Reader(bytes);
    let mut found = BTreeMap::new();
    for _ in 0..blocks {
        let [index, form] = reader.array("measurement block")?;
        if form != DMTF {
            return Err(ReportError::Unknown("measurement form", form.into()));
        }
        let size = reader.u16("measurement size")?;
        let mut block = Reader(reader.take(size.into(), "measurement")?);
        block.take(1, "measurement type")?;
        let size = block.u16("digest size")?;
        let digest = block.take(size.into(), "digest")?;
        if !block.0.is_empty() {
            return Err(ReportError::Count("measurement size"));
        }
        if found.insert(index, digest).is_some() {
            return Err(ReportError::Twice("measurement", index.into()));
        }
    }
    if !reader.0.is_empty() {
        return Err(ReportError::Count("number of blocks"));
    }
    Ok(found)
}

fn read_fields(bytes: &[u8]) -> Result<BTreeMap<u16, &[u8]>, ReportError> {
    let mut reader = Reader(bytes);
    let mut found = BTreeMap::new();
    while !reader.0.is_empty() {
        let field = reader.u16("opaque field")?;
        let size = reader.u16("opaque field size")?;
        let value = reader.take(size.into(), "opaque field")?;
        if found.insert(field, value).is_some() {
            return Err(ReportError::Twice("opaque field", field));
        }
    }
    Ok(found)
}

/// NVML's buffer for a report.
const MAX_BYTES: usize = 16 * 1024;
/// SPDM 1.1, `GET_MEASUREMENTS`.
const REQUEST: [u8; 2] = [0x11, 0xe0];
/// SPDM 1.1, `MEASUREMENTS`. Request parameters lie between code and nonce.
const RESPONSE: [u8; 2] = [0x11, 0x60];
const DMTF: u8 = 1;
const DRIVER_VERSION: u16 = 3;
const VBIOS_VERSION: u16 = 6;
const DECODER_STATUS: u16 = 11;
const CHIP_SKU: u16 = 15;
const PROJECT: u16 = 17;
const PROJECT_SKU: u16 = 18;
const FIRMWARE_ID: u16 = 20;
const PROTECTED_PCIE: u16 = 21;
