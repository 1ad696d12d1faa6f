//! Reads header blocks.

use std::collections::VecDeque;

use super::field::{Entry, Field, Name};
use super::wire::{Text, integer};
use super::{DEFAULT_TABLE_SIZE, HpackError, static_table};

/// The receiving end of one connection.
#[derive(Debug)]
pub struct Decoder {
    /// Newest first. Each entry counts at least 32 bytes, so that `limit` bounds their number.
    entries: VecDeque<Entry>,
    /// What the entries count together, and may count now.
    size: usize,
    max_size: usize,
    /// What the peer may set `max_size` to.
    limit: usize,
    /// The peer has acknowledged a limit below what it uses and has to say so first.
    must_shrink: bool,
}

/// What came of a block that could be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Decoded {
    /// All fields were handed on.
    Complete,
    /// A field that HTTP forbids came, and nothing was handed on from there: the message is malformed (RFC 9113 §8.1.1).
    Malformed,
    /// The list passed its limit, and nothing was handed on from there.
    TooLarge,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max_size: DEFAULT_TABLE_SIZE,
            limit: DEFAULT_TABLE_SIZE,
            must_shrink: false,
        }
    }
}

impl Decoder {
    /// The peer has acknowledged `SETTINGS_HEADER_TABLE_SIZE`. Until then it uses [`DEFAULT_TABLE_SIZE`].
    pub fn set_max_table(&mut self, limit: usize) {
        self.limit = limit;
        self.must_shrink = limit < self.max_size;
    }

    /// Reads a whole block and hands each field on, in order.
    ///
    /// `limit` is for name, value and 32 bytes of each field together (RFC 9113 §6.5.2). What is not handed on is not kept
    /// either, but the table follows the block to its end, so that other streams go on.
    ///
    /// # Errors
    /// If the block breaks RFC 7541. The connection cannot go on then.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        limit: usize,
        mut each: impl FnMut(Field),
    ) -> Result<Decoded, HpackError> {
        self.resize(&mut block)?;
        let (mut left, mut decoded) = (limit, Decoded::Complete);
        while let Some(first) = block.first() {
            match first {
                0x80.. => {
                    let entry = self.entry(integer(&mut block, 0x7f)?)?;
                    if decoded == Decoded::Complete {
                        decoded = count(entry, &mut left);
                    }
                    if decoded == Decoded::Complete
                        && let Ok(field) = &entry.field
                    {
                        each(field.clone());
                    }
                }
                0x40..0x80 => {
                    let entry = self.literal(&mut block, 0x3f, false)?;
                    if decoded == Decoded::Complete {
                        decoded = count(&entry, &mut left);
                    }
                    if decoded == Decoded::Complete
                        && let Ok(field) = &entry.field
                    {
                        each(field.clone());
                    }
                    self.insert(entry);
                }
                0x20..0x40 => return Err(HpackError::LateTableSize),
                0..0x20 if decoded == Decoded::Complete => {
                    let never_indexed = first & 0x10 != 0;
                    let entry = self.literal(&mut block, 0x0f, never_indexed)?;
                    decoded = count(&entry, &mut left);
                    if decoded == Decoded::Complete
                        && let Ok(field) = entry.field
                    {
                        each(field);
                    }
                }
                0..0x20 => self.skip(&mut block)?,
            }
        }
        Ok(decoded)
    }

    /// Reads changes of the table's size, which stand only at the start of a block.
    fn resize(&mut self, block: &mut &[u8]) -> Result<(), HpackError> {
        while let Some(0x20..0x40) = block.first() {
            let size = integer(block, 0x1f)?;
            let max_size = usize::try_from(size).ok();
            self.max_size = max_size
                .filter(|size| *size <= self.limit)
                .ok_or(HpackError::TableSize(size))?;
            self.must_shrink = false;
            self.evict(self.max_size);
        }
        if self.must_shrink {
            return Err(HpackError::MissingTableSize);
        }
        Ok(())
    }

    fn entry(&self, index: u32) -> Result<&Entry, HpackError> {
        let error = HpackError::Index(index);
        let index = usize::try_from(index).map_err(|_| error)?;
        let found = match index.checked_sub(static_table::LENGTH + 1) {
            Some(dynamic) => self.entries.get(dynamic),
            None => static_table::entry(index),
        };
        found.ok_or(error)
    }

    fn literal(
        &self,
        block: &mut &[u8],
        mask: u8,
        never_indexed: bool,
    ) -> Result<Entry, HpackError> {
        let name = match integer(block, mask)? {
            0 => Text::read(block)?.with(Name::of)?,
            index => self.entry(index)?.name(),
        };
        Text::read(block)?.with(|value| Entry::new(name, value, never_indexed))
    }

    /// Passes over a literal that concerns nobody.
    fn skip(&self, block: &mut &[u8]) -> Result<(), HpackError> {
        match integer(block, 0x0f)? {
            0 => drop(Text::read(block)?),
            index => drop(self.entry(index)?),
        }
        Text::read(block).map(drop)
    }

    /// Inserts an entry, which may push out others, or all and itself (RFC 7541 §4.4).
    fn insert(&mut self, entry: Entry) {
        match self.max_size.checked_sub(entry.size) {
            Some(room) => {
                self.evict(room);
                self.size += entry.size;
                self.entries.push_front(entry);
            }
            None => self.evict(0),
        }
    }

    /// Lets the oldest entries go until the rest counts at most `size`.
    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

/// Takes an entry off what is left of a list.
fn count(entry: &Entry, left: &mut usize) -> Decoded {
    match left.checked_sub(entry.size) {
        None => Decoded::TooLarge,
        Some(_) if entry.field.is_err() => Decoded::Malformed,
        Some(rest) => {
            *left = rest;
            Decoded::Complete
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
