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
    fields: Fields<'a>,
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
        expect(
            reader.array("request parameters")?,
            SIGNED_AND_ALL,
            "request parameters",
        )?;
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
        let fields = Fields::read(reader.take(length.into(), "opaque data")?)?;
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

    /// Version of the driver; switches have none.
    pub fn driver_version(&self) -> Option<String> {
        self.fields.text(DRIVER_VERSION)
    }

    /// Version of the VBIOS, as its reference values write it: `96.00.9F.00.01`.
    pub fn vbios_version(&self) -> Option<String> {
        match self.fields.get(VBIOS_VERSION)? {
            // GPUs write a number of 32 bits, then one of eight.
            [a, b, c, d, e, 0, 0, 0] => Some(format!("{d:02X}.{c:02X}.{b:02X}.{a:02X}.{e:02X}")),
            _ => self.fields.text(VBIOS_VERSION),
        }
    }

    /// Project, SKU of the project, SKU of the chip: which board it is.
    pub fn board(&self) -> Option<String> {
        let parts = [PROJECT, PROJECT_SKU, CHIP_SKU].map(|field| self.fields.text(field));
        let [Some(project), Some(sku), Some(chip)] = parts else {
            return None;
        };
        Some(format!("{project}_{sku}_{chip}"))
    }

    /// Digest of the firmware that holds the signing key; drivers before 550 write none.
    pub fn firmware_id(&self) -> Option<&'a [u8]> {
        self.fields.get(FIRMWARE_ID)
    }

    /// Whether protected PCIe mode is on; `None` where the driver does not say.
    pub fn protected_pcie(&self) -> Option<bool> {
        self.fields.switch(PROTECTED_PCIE)
    }

    /// The mode that the driver states; those before 590 state none.
    pub fn stated_mode(&self) -> Option<Mode> {
        match self.fields.number(FEATURE_FLAG)? {
            0 => Some(Mode::SingleGpu),
            1 => Some(Mode::MultiGpu),
            2 => Some(Mode::ProtectedPcie),
            _ => None,
        }
    }

    /// Whether the first video decoder is off, so that its firmware is not loaded and not measured. A switch has none,
    /// and says nothing.
    pub fn is_decoder_off(&self) -> bool {
        self.fields.switch(DECODER_STATUS) == Some(false)
    }

    /// Unique numbers that are connected by NVLink: of a GPU those of switches, in the order of its links.
    pub fn switch_pdis(&self) -> Vec<Pdi> {
        // GPUs write them as numbers, least byte first; switches write their own as text is written.
        self.fields.pdis(SWITCH_PDI).map(Pdi::swapped).collect()
    }

    /// The unique number of a switch.
    pub fn own_pdi(&self) -> Option<Pdi> {
        let mut found = self.fields.pdis(SWITCH_PDI);
        match (found.next(), found.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// Of a switch those of GPUs, in the order of its ports.
    pub fn gpu_pdis(&self) -> Vec<Pdi> {
        self.fields.pdis(GPU_PDIS).collect()
    }
}

/// How GPUs protect what they compute.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// One GPU for one guest; links to others are off.
    SingleGpu,
    /// Several GPUs for one guest, with encrypted links between them.
    MultiGpu,
    /// All GPUs and switches of a machine for one guest; links between them are not encrypted.
    ProtectedPcie,
}

impl Mode {
    /// The word in rules and claims.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SingleGpu => "single_gpu",
            Self::MultiGpu => "multi_gpu",
            Self::ProtectedPcie => "protected_pcie",
        }
    }
}

/// A device's unique number (per-device identifier). All zeros where a link is not connected.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Pdi(pub [u8; 8]);

impl Pdi {
    fn swapped(mut self) -> Self {
        self.0.reverse();
        self
    }

    /// Whether something is connected.
    pub fn is_connected(self) -> bool {
        self.0 != [0; 8]
    }
}

/// Opaque data: fields by number.
#[derive(Clone, Debug)]
struct Fields<'a>(BTreeMap<u16, &'a [u8]>);

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ReportError> {
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
        let fields = Self(found);
        fields.check()?;
        Ok(fields)
    }

    /// Fields that decide something have the values that are known; others may come.
    fn check(&self) -> Result<(), ReportError> {
        let version = self.check_number(DATA_VERSION, "opaque data version")?;
        let mode = self.check_number(FEATURE_FLAG, "feature flag")?;
        for (found, most, name) in [
            (version, MAX_DATA_VERSION, "opaque data version"),
            (mode, MAX_FEATURE_FLAG, "feature flag"),
        ] {
            if let Some(found) = found.filter(|found| *found > most) {
                return Err(ReportError::Unknown(name, found.into()));
            }
        }
        for (field, name) in [
            (PROTECTED_PCIE, "protected PCIe status"),
            (DECODER_STATUS, "video decoder status"),
        ] {
            match self.get(field) {
                None | Some([ON | OFF]) => {}
                Some(other) => {
                    let first = other.first().copied().unwrap_or_default();
                    return Err(ReportError::Unknown(name, first.into()));
                }
            }
        }
        for (field, name) in [(SWITCH_PDI, "switch PDIs"), (GPU_PDIS, "GPU PDIs")] {
            if self.get(field).is_some_and(|value| value.len() % 8 != 0) {
                return Err(ReportError::Count(name));
            }
        }
        if self.get(FIRMWARE_ID).is_some_and(|value| value.len() != 48) {
            return Err(ReportError::Count("firmware id"));
        }
        Ok(())
    }

    fn check_number(&self, field: u16, name: &'static str) -> Result<Option<u16>, ReportError> {
        match self.get(field) {
            Some(value) if value.len() != 2 => Err(ReportError::Count(name)),
            Some(_) | None => Ok(self.number(field)),
        }
    }

    fn get(&self, field: u16) -> Option<&'a [u8]> {
        self.0.get(&field).copied()
    }

    fn number(&self, field: u16) -> Option<u16> {
        let value = self.get(field)?;
        value.try_into().ok().map(u16::from_le_bytes)
    }

    fn switch(&self, field: u16) -> Option<bool> {
        match self.get(field)? {
            [ON] => Some(true),
            [OFF] => Some(false),
            _ => None,
        }
    }

    fn pdis(&self, field: u16) -> impl Iterator<Item = Pdi> + 'a {
        let (all, _) = self.get(field).unwrap_or_default().as_chunks();
        all.iter().copied().map(Pdi)
    }

    /// Printable text, which zeros may follow.
    fn text(&self, field: u16) -> Option<String> {
        let bytes = self.get(field)?;
        let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
        let text = bytes.get(..end)?;
        text.iter()
            .all(u8::is_ascii_graphic)
            .then(|| String::from_utf8_lossy(text).into_owned())
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

/// NVML's buffer for a report.
const MAX_BYTES: usize = 16 * 1024;
/// SPDM 1.1, `GET_MEASUREMENTS`.
const REQUEST: [u8; 2] = [0x11, 0xe0];
/// Request parameters, between code and nonce: sign it, and give all measurements.
const SIGNED_AND_ALL: [u8; 2] = [0x01, 0xff];
/// SPDM 1.1, `MEASUREMENTS`.
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
const SWITCH_PDI: u16 = 22;
const GPU_PDIS: u16 = 26;
const DATA_VERSION: u16 = 34;
/// Hopper before 590 and Blackwell's first have none or 0.
const MAX_DATA_VERSION: u16 = 1;
const FEATURE_FLAG: u16 = 36;
const MAX_FEATURE_FLAG: u16 = 2;
/// How firmware writes a switch, so that no single flip turns one into the other.
const ON: u8 = 0xaa;
const OFF: u8 = 0x55;
