//! The boot event log: what firmware says it measured, believed only as far as it replays to quoted PCRs.
//!
//! Two forms are read: the crypto-agile one (TCG2, with a `Spec ID Event03` header) and the legacy SHA-1 one, which no
//! quote of ours can confirm. A log is a sequence without an end mark: one cut between two events reads as a shorter
//! log, and then does not replay; one cut inside an event is refused.
//!
//! Event *data* is not covered by the quote; it counts only where an event's digest is the digest of its data.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06 §10 and §9.4.5.3 (start-up locality); UEFI 2.10 §3.3.

use aws_lc_rs::digest;

use super::hash::HashAlgorithm;
use super::pcr::PCR_COUNT;
use super::wire::{ParseError, Reader};

/// A parsed log, borrowing from its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventLog<'a> {
    events: Vec<Event<'a>>,
    startup_locality: u8,
}

/// One event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event<'a> {
    /// The PCR that was extended; any number for an event that extends nothing.
    pub pcr: u32,
    /// Type (`EV_…`).
    pub kind: u32,
    /// Digests by `TPM_ALG_ID`, in the log's order.
    digests: Vec<(u16, &'a [u8])>,
    /// What was measured, or a description of it.
    pub data: &'a [u8],
}

impl Event<'_> {
    /// Digest for one bank, if the event has it.
    pub fn digest(&self, hash: HashAlgorithm) -> Option<&[u8]> {
        self.digest_by_id(hash.id())
    }

    fn digest_by_id(&self, algorithm: u16) -> Option<&[u8]> {
        self.digests
            .iter()
            .find(|(held, _)| *held == algorithm)
            .map(|(_, digest)| *digest)
    }

    /// Whether the bank's digest is that of the data, so that a quote over the PCR covers the data too.
    fn covers_data(&self, hash: HashAlgorithm) -> bool {
        self.digest(hash) == Some(hash.digest(&[self.data]).as_slice())
    }
}

/// What a log says of UEFI Secure Boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SecureBoot {
    /// On.
    Enabled,
    /// Off.
    Disabled,
    /// No event says so, or several do, or its digest does not cover what it says.
    Unknown,
}

impl<'a> EventLog<'a> {
    /// Largest log in bytes. Real ones have 15 to 200 KiB.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// Reads a log of either form.
    ///
    /// # Errors
    /// [`ParseError`] unless the bytes are a whole number of well-formed events, at least one.
    pub fn parse(raw: &'a [u8]) -> Result<Self, ParseError> {
        Self::parse_until(raw, |_| false)
    }

    /// Reads the log of a confidential VM as the ACPI table `CCEL` shows it: after the last event the table's area is
    /// filled with ones, which begin no event.
    ///
    /// # Errors
    /// As [`EventLog::parse`].
    pub fn parse_padded(raw: &'a [u8]) -> Result<Self, ParseError> {
        Self::parse_until(raw, |rest| rest.iter().all(|byte| *byte == 0xff))
    }

    fn parse_until(raw: &'a [u8], is_end: fn(&[u8]) -> bool) -> Result<Self, ParseError> {
        if raw.len() > Self::MAX_BYTES {
            return Err(ParseError::TooLarge("event log"));
        }
        let mut reader = Reader::new(raw);
        let first = legacy_event(&mut reader)?;
        let algorithms = match first.data.strip_prefix(SPEC_ID_EVENT03) {
            _ if first.kind != EV_NO_ACTION => None,
            Some(header) => Some(Algorithms::read(header)?),
            // A legacy log may have a header too; anything else that extends nothing can't come first.
            None if first.data.starts_with(SPEC_ID_EVENT) => None,
            None => return Err(ParseError::Unsupported("header")),
        };
        let mut events = Vec::new();
        if algorithms.is_none() {
            events.push(first);
        }
        while !reader.is_empty() && !is_end(reader.rest()) {
            events.push(match &algorithms {
                Some(algorithms) => agile_event(&mut reader, algorithms)?,
                None => legacy_event(&mut reader)?,
            });
        }
        let startup_locality = startup_locality(&events)?;
        Ok(Self {
            events,
            startup_locality,
        })
    }

    /// The events, without the header.
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// Whether this is a log of a confidential VM, whose events name measurement registers from 1 for RTMR0 on and whose
    /// digests are all SHA-384. A TPM's log has events in PCR 0.
    pub fn is_ccel(&self) -> bool {
        let mut extending = self
            .events
            .iter()
            .filter(|event| event.kind != EV_NO_ACTION);
        !self.events.is_empty()
            && extending.all(|event| {
                let [(algorithm, _)] = event.digests.as_slice() else {
                    return false;
                };
                *algorithm == HashAlgorithm::Sha384.id() && CC_REGISTERS.contains(&event.pcr)
            })
    }

    /// The value that replaying a log of a confidential VM leaves in RTMR0, RTMR1, RTMR2 or RTMR3.
    pub fn rtmr(&self, index: u8) -> Option<Vec<u8>> {
        self.replay(HashAlgorithm::Sha384, index.checked_add(1)?)
    }

    /// The value that replaying the log leaves in a firmware PCR (0 to 7); `None` if an event has no digest for the
    /// bank, as in a legacy log.
    pub fn replay(&self, hash: HashAlgorithm, pcr: u8) -> Option<Vec<u8>> {
        self.replay_by_id(hash.id(), pcr)
    }

    fn replay_by_id(&self, algorithm: u16, pcr: u8) -> Option<Vec<u8>> {
        let hash = digest_algorithm(algorithm)?;
        let mut value = vec![0; hash.output_len()];
        if pcr == 0
            && let Some(last) = value.last_mut()
        {
            *last = self.startup_locality;
        }
        for event in self.extending(pcr) {
            let mut context = digest::Context::new(hash);
            context.update(&value);
            context.update(event.digest_by_id(algorithm)?);
            value = context.finish().as_ref().to_vec();
        }
        Some(value)
    }

    fn extending(&self, pcr: u8) -> impl Iterator<Item = &Event<'a>> {
        self.events
            .iter()
            .filter(move |event| event.pcr == u32::from(pcr) && event.kind != EV_NO_ACTION)
    }

    /// Whether Secure Boot was on: the only `SecureBoot` variable that firmware measured into PCR 7 before its
    /// separator. Meaningful only if PCR 7 of the bank replays to its quoted value.
    pub fn secure_boot(&self, hash: HashAlgorithm) -> SecureBoot {
        self.secure_boot_in(hash, SECURE_BOOT_PCR)
    }

    /// The same by the log of a confidential VM, which measures PCRs 1 and 7 into RTMR0.
    pub fn ccel_secure_boot(&self) -> SecureBoot {
        self.secure_boot_in(HashAlgorithm::Sha384, SECURE_BOOT_REGISTER)
    }

    fn secure_boot_in(&self, hash: HashAlgorithm, register: u8) -> SecureBoot {
        let before_separator = self
            .extending(register)
            .take_while(|event| event.kind != EV_SEPARATOR);
        let mut found = SecureBoot::Unknown;
        let mut seen = 0;
        for event in before_separator {
            let Some(value) = secure_boot_variable(event) else {
                continue;
            };
            seen += 1;
            found = match value {
                [1] if event.covers_data(hash) => SecureBoot::Enabled,
                // A variable that does not exist is measured empty (PC Client Profile §3.3.4.8).
                [0] | [] if event.covers_data(hash) => SecureBoot::Disabled,
                _ => SecureBoot::Unknown,
            };
        }
        let separated = self
            .extending(register)
            .any(|event| event.kind == EV_SEPARATOR);
        if seen == 1 && separated {
            found
        } else {
            SecureBoot::Unknown
        }
    }
}

/// Digest sizes that the header declares.
struct Algorithms(Vec<(u16, usize)>);

impl Algorithms {
    /// `TCG_EfiSpecIdEvent` after its signature (PC Client Profile §10.4.5.1).
    fn read(header: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(header);
        reader.u32_le("platform class")?;
        reader.bytes(4, "spec version")?;
        let count = reader.u32_le("algorithm count")?;
        if count == 0 || count > MAX_ALGORITHMS {
            return Err(ParseError::TooLarge("algorithm count"));
        }
        let mut algorithms: Vec<(u16, usize)> = Vec::new();
        for _ in 0..count {
            let id = reader.u16_le("algorithm")?;
            let size = usize::from(reader.u16_le("digest size")?);
            let known = digest_algorithm(id).map(digest::Algorithm::output_len);
            let wrong = known.is_some_and(|known| known != size) || !(1..=64).contains(&size);
            if wrong || algorithms.iter().any(|(held, _)| *held == id) {
                return Err(ParseError::Unsupported("digest size"));
            }
            algorithms.push((id, size));
        }
        let vendor = reader.u8("vendor info size")?;
        reader.bytes(vendor.into(), "vendor info")?;
        reader.finish()?;
        Ok(Self(algorithms))
    }

    fn size(&self, id: u16) -> Option<usize> {
        self.0
            .iter()
            .find(|(held, _)| *held == id)
            .map(|(_, size)| *size)
    }
}

/// `TCG_PCR_EVENT`.
fn legacy_event<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, ParseError> {
    let (pcr, kind) = head(reader)?;
    let digest = reader.bytes(digest::SHA1_OUTPUT_LEN, "digest")?;
    Ok(Event {
        pcr,
        kind,
        digests: vec![(ALG_SHA1, digest)],
        data: data(reader)?,
    })
}

/// `TCG_PCR_EVENT2`.
fn agile_event<'a>(
    reader: &mut Reader<'a>,
    algorithms: &Algorithms,
) -> Result<Event<'a>, ParseError> {
    let (pcr, kind) = head(reader)?;
    let count = reader.u32_le("digest count")?;
    if count > MAX_ALGORITHMS {
        return Err(ParseError::TooLarge("digest count"));
    }
    let mut digests: Vec<(u16, &[u8])> = Vec::new();
    for _ in 0..count {
        let id = reader.u16_le("digest algorithm")?;
        let size = algorithms
            .size(id)
            .ok_or(ParseError::Unsupported("digest algorithm"))?;
        if digests.iter().any(|(held, _)| *held == id) {
            return Err(ParseError::Unsupported("digest algorithm"));
        }
        digests.push((id, reader.bytes(size, "digest")?));
    }
    Ok(Event {
        pcr,
        kind,
        digests,
        data: data(reader)?,
    })
}

fn head(reader: &mut Reader<'_>) -> Result<(u32, u32), ParseError> {
    let pcr = reader.u32_le("PCR")?;
    let kind = reader.u32_le("event type")?;
    if pcr >= u32::from(PCR_COUNT) && kind != EV_NO_ACTION {
        return Err(ParseError::Unsupported("PCR"));
    }
    Ok((pcr, kind))
}

fn data<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], ParseError> {
    let size = reader.u32_le("event size")?;
    let size = usize::try_from(size).map_err(|_| ParseError::TooLarge("event size"))?;
    reader.bytes(size, "event")
}

/// The locality from which the TPM was started: it is the initial value of PCR 0. At most one event says so, before
/// anything is extended into PCR 0.
fn startup_locality(events: &[Event<'_>]) -> Result<u8, ParseError> {
    let mut locality = None;
    let mut extended = false;
    for event in events {
        if event.kind != EV_NO_ACTION {
            extended |= event.pcr == 0;
            continue;
        }
        let Some(value) = event.data.strip_prefix(STARTUP_LOCALITY) else {
            continue;
        };
        match value {
            [value @ (0 | 3 | 4)] if locality.is_none() && !extended => locality = Some(*value),
            _ => return Err(ParseError::Unsupported("startup locality")),
        }
    }
    Ok(locality.unwrap_or(0))
}

/// The value of the `SecureBoot` variable, if the event measures it (`UEFI_VARIABLE_DATA`).
fn secure_boot_variable<'a>(event: &Event<'a>) -> Option<&'a [u8]> {
    if event.kind != EV_EFI_VARIABLE_DRIVER_CONFIG {
        return None;
    }
    let mut reader = Reader::new(event.data);
    let guid = reader.bytes(16, "variable GUID").ok()?;
    let name_length = usize::try_from(reader.u64_le("name length").ok()?).ok()?;
    let data_length = usize::try_from(reader.u64_le("data length").ok()?).ok()?;
    let name = reader
        .bytes(name_length.checked_mul(2)?, "variable name")
        .ok()?;
    let value = reader.bytes(data_length, "variable data").ok()?;
    reader.finish().ok()?;
    let named = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes);
    (guid == EFI_GLOBAL_VARIABLE && named.eq(name.iter().copied())).then_some(value)
}

fn digest_algorithm(id: u16) -> Option<&'static digest::Algorithm> {
    match id {
        ALG_SHA1 => Some(&digest::SHA1_FOR_LEGACY_USE_ONLY),
        0x000b => Some(&digest::SHA256),
        0x000c => Some(&digest::SHA384),
        0x000d => Some(&digest::SHA512),
        _ => None,
    }
}

const SPEC_ID_EVENT: &[u8] = b"Spec ID Event";
const SPEC_ID_EVENT03: &[u8] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
const ALG_SHA1: u16 = 0x0004;
/// SHA-1, the SHA-2 and SHA-3 families and SM3 together are nine; firmware has five at most.
const MAX_ALGORITHMS: u32 = 16;
const SECURE_BOOT_PCR: u8 = 7;
/// RTMR0, to which UEFI 2.10 table 38.4 maps PCRs 1 and 7.
const SECURE_BOOT_REGISTER: u8 = 1;
/// RTMR0 to RTMR3; 0 is the measurement of the VM itself, which nothing extends.
const CC_REGISTERS: std::ops::RangeInclusive<u32> = 1..=4;
const EV_NO_ACTION: u32 = 0x0000_0003;
const EV_SEPARATOR: u32 = 0x0000_0004;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
/// 8be4df61-93ca-11d2-aa0d-00e098032b8c.
const EFI_GLOBAL_VARIABLE: &[u8] = &[
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];

#[cfg(test)]
mod tests;
