//! `TPMS_ATTEST` of a quote: what the TPM says about itself.
//!
//! Source: TPM 2.0 Part 2 §10.12.8 and §10.11.1 (`TPMS_CLOCK_INFO`).

use super::pcr::PcrSelection;
use super::wire::{ParseError, Reader};

/// The TPM's own time and counters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM has been powered, over all its life.
    pub clock: u64,
    /// Resets: grows with each boot.
    pub reset_count: u32,
    /// Resumes since the last reset.
    pub restart_count: u32,
    /// Whether no later value of `clock` was ever reported and lost by an unorderly shutdown.
    pub safe: bool,
}

/// A parsed quote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote {
    /// Qualified name of the key that signed: says in which hierarchy it is.
    pub qualified_signer: Vec<u8>,
    /// What the caller asked to be signed along.
    pub extra_data: Vec<u8>,
    /// Time and counters.
    pub clock: ClockInfo,
    /// Vendor's firmware version.
    pub firmware: u64,
    /// Which PCRs are covered.
    pub selection: PcrSelection,
    /// Digest of their values.
    pub pcr_digest: Vec<u8>,
}

/// Why bytes are not a quote.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseQuoteError {
    /// Not made by a TPM: without the magic number, any restricted key would refuse to sign it.
    #[error("the statement does not begin with the TPM's magic number")]
    Magic,
    /// A TPM made it, but it is no quote.
    #[error("the statement is of type 0x{0:04x}, not a quote")]
    Type(u16),
    /// Not of a quote's shape.
    #[error("failed to parse the quote")]
    Shape(#[from] ParseError),
}

impl Quote {
    /// Largest quote: names and digests of SHA-512 and two banks take about 300 bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Reads a `TPMS_ATTEST`.
    ///
    /// # Errors
    /// [`ParseQuoteError`] unless the bytes are exactly one quote.
    pub fn parse(raw: &[u8]) -> Result<Self, ParseQuoteError> {
        if raw.len() > Self::MAX_BYTES {
            return Err(ParseError::TooLarge("quote").into());
        }
        let mut reader = Reader::new(raw);
        if reader.u32("magic")? != TPM_GENERATED_VALUE {
            return Err(ParseQuoteError::Magic);
        }
        let kind = reader.u16("type")?;
        if kind != TPM_ST_ATTEST_QUOTE {
            return Err(ParseQuoteError::Type(kind));
        }
        let quote = Self {
            qualified_signer: reader.sized(MAX_NAME, "qualified signer")?.to_vec(),
            extra_data: reader.sized(MAX_DATA, "extra data")?.to_vec(),
            clock: clock_info(&mut reader)?,
            firmware: reader.u64("firmware version")?,
            selection: PcrSelection::read(&mut reader)?,
            pcr_digest: reader.sized(MAX_DATA, "PCR digest")?.to_vec(),
        };
        reader.finish()?;
        Ok(quote)
    }
}

fn clock_info(reader: &mut Reader<'_>) -> Result<ClockInfo, ParseError> {
    Ok(ClockInfo {
        clock: reader.u64("clock")?,
        reset_count: reader.u32("reset count")?,
        restart_count: reader.u32("restart count")?,
        safe: match reader.u8("safe")? {
            0 => false,
            1 => true,
            _ => return Err(ParseError::Unsupported("safe")),
        },
    })
}

const TPM_GENERATED_VALUE: u32 = 0xff54_4347;
const TPM_ST_ATTEST_QUOTE: u16 = 0x8018;
/// A hash identifier and a SHA-512 digest.
const MAX_NAME: usize = 66;
/// `TPM2B_DATA` holds a hash identifier and a digest at most.
const MAX_DATA: usize = 66;
