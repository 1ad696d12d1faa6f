//! The encoder's dynamic table, and how a field is found in it.
//!
//! Entries are numbered as they come, and two small arrays lead from the hash of a field, or of a name alone, to the number
//! of the newest entry in that bucket and on to older ones. A number of an entry that is gone ends the chain, so that
//! nothing has to be kept up when the oldest entries leave. Texts are always compared in full: the hash is no defence, and
//! whoever makes hashes collide makes a chain as long as the table, at most 127 entries.

use std::collections::VecDeque;

use super::{ENTRY_OVERHEAD, static_table};

/// What the peer's decoder holds.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// The number that the next entry gets; they wrap.
    next: u16,
    by_field: [u16; BUCKETS],
    by_name: [u16; BUCKETS],
    size: usize,
    max_size: usize,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    name_hash: u64,
    /// Numbers of the entries that came before in the same buckets.
    older_field: u16,
    older_name: u16,
    name_length: usize,
    /// Name and value.
    text: Box<[u8]>,
}

impl Entry {
    fn size(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD
    }

    fn name(&self) -> &[u8] {
        self.text.get(..self.name_length).unwrap_or_default()
    }

    fn value(&self) -> &[u8] {
        self.text.get(self.name_length..).unwrap_or_default()
    }
}

impl Lookup {
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            next: 0,
            by_field: [0; BUCKETS],
            by_name: [0; BUCKETS],
            size: 0,
            max_size,
        }
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(max_size);
    }

    /// Index of the entry that has this name and value.
    pub(super) fn find(&self, hash: u64, name: &[u8], value: &[u8]) -> Option<usize> {
        let mut age = 0;
        let mut number = *self.by_field.get(bucket(hash))?;
        loop {
            let entry = self.older(number, &mut age)?;
            if entry.hash == hash && entry.value() == value && entry.name() == name {
                return Some(static_table::LENGTH + age);
            }
            number = entry.older_field;
        }
    }

    /// Index of the newest entry that has this name.
    pub(super) fn find_name(&self, name_hash: u64, name: &[u8]) -> Option<usize> {
        let mut age = 0;
        let mut number = *self.by_name.get(bucket(name_hash))?;
        loop {
            let entry = self.older(number, &mut age)?;
            if entry.name_hash == name_hash && entry.name() == name {
                return Some(static_table::LENGTH + age);
            }
            number = entry.older_name;
        }
    }

    /// The entry with a number, if it is there and older than `age`, which becomes its own: 1 is the newest. Numbers wrap,
    /// and one of an entry long gone may be in use again; that each step goes back ends every chain.
    fn older(&self, number: u16, age: &mut usize) -> Option<&Entry> {
        let older = usize::from(self.next.wrapping_sub(number));
        if older <= *age {
            return None;
        }
        *age = older;
        self.entries.get(self.entries.len().checked_sub(older)?)
    }

    /// Adds what is to be sent as a literal with incremental indexing; the caller has seen that it fits.
    pub(super) fn insert(&mut self, hash: u64, name_hash: u64, name: &[u8], value: &[u8]) {
        let mut text = Vec::with_capacity(name.len() + value.len());
        text.extend_from_slice(name);
        text.extend_from_slice(value);
        let mut entry = Entry {
            hash,
            name_hash,
            older_field: 0,
            older_name: 0,
            name_length: name.len(),
            text: text.into_boxed_slice(),
        };
        self.evict(self.max_size.saturating_sub(entry.size()));
        self.size += entry.size();
        let number = self.next;
        self.next = number.wrapping_add(1);
        if let Some(newest) = self.by_field.get_mut(bucket(hash)) {
            entry.older_field = std::mem::replace(newest, number);
        }
        if let Some(newest) = self.by_name.get_mut(bucket(name_hash)) {
            entry.older_name = std::mem::replace(newest, number);
        }
        self.entries.push_back(entry);
    }

    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.size();
        }
    }
}

/// Buckets per array: a connection has two or three dozen fields that repeat.
const BUCKETS: usize = 64;

fn bucket(hash: u64) -> usize {
    (hash >> 58) as usize
}

/// Mixes `text` into `seed`, eight bytes at a time; the upper bits are the better ones.
pub(super) const fn hash(seed: u64, text: &[u8]) -> u64 {
    let mut state = seed ^ text.len() as u64;
    let mut rest = text;
    while let Some((eight, tail)) = rest.split_first_chunk() {
        state = mix(state, u64::from_le_bytes(*eight));
        rest = tail;
    }
    // The last bytes, of which some may have been counted already.
    let last = if let Some(eight) = text.last_chunk() {
        u64::from_le_bytes(*eight)
    } else if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        (first as u64) << 32 | last as u64
    } else {
        match *text {
            [a, b, c] => u32::from_le_bytes([a, b, c, 0]) as u64,
            [a, b] => u16::from_le_bytes([a, b]) as u64,
            [a] => a as u64,
            _ => 0,
        }
    };
    mix(state, last)
}

/// A multiplication carries each bit upwards, and the rotation brings the upper ones down for the next.
const fn mix(state: u64, word: u64) -> u64 {
    (state.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests;
