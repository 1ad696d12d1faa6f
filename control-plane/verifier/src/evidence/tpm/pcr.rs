//! Platform configuration registers: selections and values.
//!
//! Source: TPM 2.0 Part 2 §10.6 (`TPML_PCR_SELECTION`).

use std::collections::BTreeMap;
use std::fmt;

use super::hash::HashAlgorithm;
use super::wire::{ParseError, Reader};

/// Number of PCRs of a PC-client TPM.
pub const PCR_COUNT: u8 = 24;

/// A set of PCRs of one bank.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PcrSet(u32);

impl PcrSet {
    /// PCRs 0 to 7: firmware, its configuration, boot loader and Secure Boot policy (PC Client Profile §3.3.4).
    pub const FIRMWARE: Self = Self(0xff);

    /// A set of these PCRs; `None` if one is not below [`PCR_COUNT`].
    pub fn new(pcrs: impl IntoIterator<Item = u8>) -> Option<Self> {
        let mut bits = 0;
        for pcr in pcrs {
            if pcr >= PCR_COUNT {
                return None;
            }
            bits |= 1 << pcr;
        }
        Some(Self(bits))
    }

    /// The PCRs, ascending: the order in which their digest is made.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..PCR_COUNT).filter(move |pcr| self.contains(*pcr))
    }

    /// Whether the set has this PCR.
    pub fn contains(self, pcr: u8) -> bool {
        pcr < PCR_COUNT && self.0 & (1 << pcr) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As a TPM writes it.
    pub(crate) fn bitmap(self) -> [u8; 3] {
        let [first, second, third, _] = self.0.to_le_bytes();
        [first, second, third]
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Which PCRs of which banks, in the order in which their values are digested. Each bank stands once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PcrSelection(Vec<(HashAlgorithm, PcrSet)>);

impl PcrSelection {
    /// Most banks: one per accepted hash.
    pub const MAX_BANKS: usize = HashAlgorithm::ALL.len();

    /// Adds PCRs to a bank.
    pub fn add(&mut self, hash: HashAlgorithm, pcrs: PcrSet) {
        match self.0.iter_mut().find(|(held, _)| *held == hash) {
            Some((_, set)) => *set = set.union(pcrs),
            None => {
                self.0.push((hash, pcrs));
                self.0.sort_unstable_by_key(|(hash, _)| *hash);
            }
        }
    }

    /// The banks.
    pub fn banks(&self) -> impl Iterator<Item = (HashAlgorithm, PcrSet)> {
        self.0.iter().copied()
    }

    /// The PCRs of one bank.
    pub fn bank(&self, hash: HashAlgorithm) -> PcrSet {
        self.banks()
            .find(|(held, _)| *held == hash)
            .map_or_else(PcrSet::default, |(_, set)| set)
    }

    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, set)| set.is_empty())
    }

    /// Whether both select the same, in whatever order.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && HashAlgorithm::ALL
                .iter()
                .all(|hash| self.bank(*hash) == other.bank(*hash))
    }

    /// Reads a `TPML_PCR_SELECTION`, keeping its order.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let count = reader.u32("selection count")?;
        if usize::try_from(count).map_or(true, |count| count > Self::MAX_BANKS) {
            return Err(ParseError::TooLarge("selection count"));
        }
        let mut banks: Vec<(HashAlgorithm, PcrSet)> = Vec::new();
        for _ in 0..count {
            let hash = HashAlgorithm::from_id(reader.u16("selection hash")?, "selection hash")?;
            let length = reader.u8("selection size")?;
            let bitmap = reader.bytes(length.into(), "selection bitmap")?;
            let set = bitmap_to_set(bitmap).ok_or(ParseError::Unsupported("selection bitmap"))?;
            if banks.iter().any(|(held, _)| *held == hash) {
                return Err(ParseError::Unsupported("selection hash"));
            }
            banks.push((hash, set));
        }
        Ok(Self(banks))
    }
}

impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (hash, set)) in self.banks().enumerate() {
            let pcrs: Vec<_> = set.iter().map(|pcr| pcr.to_string()).collect();
            let separator = if index == 0 { "" } else { "+" };
            write!(f, "{separator}{hash}:{}", pcrs.join(","))?;
        }
        Ok(())
    }
}

fn bitmap_to_set(bitmap: &[u8]) -> Option<PcrSet> {
    let bits = bitmap.iter().enumerate().flat_map(|(index, byte)| {
        (0..8_usize)
            .filter(move |bit| byte >> bit & 1 == 1)
            .map(move |bit| index * 8 + bit)
    });
    let pcrs: Option<Vec<u8>> = bits.map(|pcr| u8::try_from(pcr).ok()).collect();
    PcrSet::new(pcrs?)
}

/// Values of PCRs, by bank. Every value has the length of its bank's digest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PcrValues(BTreeMap<(HashAlgorithm, u8), Vec<u8>>);

impl PcrValues {
    /// Adds a value.
    ///
    /// # Errors
    /// [`PcrValueError`] when the PCR does not exist, has a value already, or the value has another length.
    pub fn insert(
        &mut self,
        hash: HashAlgorithm,
        pcr: u8,
        value: Vec<u8>,
    ) -> Result<(), PcrValueError> {
        if pcr >= PCR_COUNT {
            return Err(PcrValueError::NoSuchPcr(pcr));
        }
        if value.len() != hash.digest_len() {
            return Err(PcrValueError::Length {
                hash,
                found: value.len(),
            });
        }
        match self.0.insert((hash, pcr), value) {
            None => Ok(()),
            Some(_) => Err(PcrValueError::Twice { hash, pcr }),
        }
    }

    /// The value of a PCR.
    pub fn get(&self, hash: HashAlgorithm, pcr: u8) -> Option<&[u8]> {
        self.0.get(&(hash, pcr)).map(Vec::as_slice)
    }

    /// All values: by bank, then ascending.
    pub fn iter(&self) -> impl Iterator<Item = (HashAlgorithm, u8, &[u8])> {
        self.0
            .iter()
            .map(|((hash, pcr), value)| (*hash, *pcr, value.as_slice()))
    }

    /// What is selected when exactly these values are quoted.
    pub fn selection(&self) -> PcrSelection {
        let mut selection = PcrSelection::default();
        for (hash, pcr, _) in self.iter() {
            selection.add(hash, PcrSet(1 << pcr));
        }
        selection
    }

    /// The digest that a quote signs: over the values that `selection` names, in its order, with the hash of the
    /// signature. `None` if a value is missing.
    pub(crate) fn digest(&self, selection: &PcrSelection, hash: HashAlgorithm) -> Option<Vec<u8>> {
        let values: Option<Vec<&[u8]>> = selection
            .banks()
            .flat_map(|(bank, set)| set.iter().map(move |pcr| (bank, pcr)))
            .map(|(bank, pcr)| self.get(bank, pcr))
            .collect();
        Some(hash.digest(&values?))
    }
}

/// Why a value is not a PCR's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PcrValueError {
    /// Not below [`PCR_COUNT`].
    #[error("there is no PCR {0}")]
    NoSuchPcr(u8),
    /// Not as long as the bank's digests.
    #[error("a {hash} value has {} bytes, found {found}", hash.digest_len())]
    Length {
        /// The bank.
        hash: HashAlgorithm,
        /// Bytes found.
        found: usize,
    },
    /// A PCR has two values.
    #[error("PCR {pcr} of bank {hash} has two values")]
    Twice {
        /// The bank.
        hash: HashAlgorithm,
        /// The PCR.
        pcr: u8,
    },
}
