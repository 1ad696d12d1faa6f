//! Memory that a worker lends to one call after the other, so that connections need none of their own.

use std::fmt;

/// Zeroed memory that begins with a page.
///
/// Where source and destination of a copy lie up to 63 bytes apart within their pages, AMD's Zen 3 copies twenty times
/// slower (`rep movsb`, which kernel and C library both use there). What comes from sockets mostly lies at the beginning of
/// pages, and the allocator's memory a few bytes behind it, so of all places that is the worst.
pub(crate) struct Pages {
    memory: Box<[u8]>,
    begin: usize,
    length: usize,
}

impl Pages {
    pub(crate) fn new(length: usize) -> Self {
        let memory = vec![0; length + PAGE_BYTES].into_boxed_slice();
        // It may say that it can't tell, and then the page is missed.
        let begin = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Self {
            memory,
            begin,
            length,
        }
    }

    pub(crate) fn get(&self) -> &[u8] {
        let end = self.begin + self.length;
        self.memory.get(self.begin..end).unwrap_or_default()
    }

    pub(crate) fn get_mut(&mut self) -> &mut [u8] {
        let end = self.begin + self.length;
        self.memory.get_mut(self.begin..end).unwrap_or_default()
    }
}

const PAGE_BYTES: usize = 4096;

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What lies in it may be anyone's plaintext.
        write!(f, "Pages({})", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_with_a_page_and_is_as_long_as_asked_for() {
        for length in [0, 1, 5_000, 200_000] {
            let mut pages = Pages::new(length);
            assert_eq!(pages.get_mut().len(), length);
            assert_eq!(pages.get().len(), length);
            assert_eq!(pages.get().as_ptr().addr() % PAGE_BYTES, 0);
        }
    }
}
