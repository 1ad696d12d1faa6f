//! What leaves a TLS connection: plaintext gathered into records, and sealed records until the socket has taken them.

use std::cell::RefCell;
use std::io::IoSlice;

use crate::memory::Pages;
use crate::tls::record::{MAX_CONTENT_BYTES, OVERHEAD_BYTES};

/// Plaintext to be written, which may lie in several places.
pub(crate) struct Pieces<'a, 'b> {
    current: &'a [u8],
    rest: &'a [IoSlice<'b>],
}

impl<'a, 'b> Pieces<'a, 'b> {
    pub(crate) fn new(first: &'a [u8], rest: &'a [IoSlice<'b>]) -> Self {
        let mut pieces = Self {
            current: first,
            rest,
        };
        pieces.advance(0);
        pieces
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// Goes on by so many bytes of the current piece, and to the next one where it ends.
    fn advance(&mut self, bytes: usize) {
        self.current = self.current.get(bytes..).unwrap_or_default();
        while let ([], Some((next, rest))) = (self.current, self.rest.split_first()) {
            self.current = next;
            self.rest = rest;
        }
    }

    /// The content of the next record, where it lies in one place.
    pub(crate) fn next_in_one(&mut self) -> Option<&'a [u8]> {
        let current = self.current;
        if current.len() < MAX_CONTENT_BYTES && self.rest.iter().any(|piece| !piece.is_empty()) {
            return None;
        }
        let (content, _) = current.split_at(current.len().min(MAX_CONTENT_BYTES));
        self.advance(content.len());
        Some(content)
    }

    /// Copies the content of the next record together.
    pub(crate) fn gather(&mut self, place: &mut [u8]) -> usize {
        let (mut place, _) = place.split_at_mut(place.len().min(MAX_CONTENT_BYTES));
        let mut gathered = 0;
        while !self.is_empty() && !place.is_empty() {
            let length = self.current.len().min(place.len());
            let (now, _) = self.current.split_at(length);
            let (here, further) = place.split_at_mut(length);
            here.copy_from_slice(now);
            place = further;
            gathered += length;
            self.advance(length);
        }
        gathered
    }
}

/// What the socket has not taken.
#[derive(Debug, Default)]
pub(crate) enum Unsent {
    #[default]
    Nothing,
    /// In memory of the worker's, while there is hope that it leaves at once, or too much for a copy.
    Outgoing(Outgoing),
    /// In memory of its own.
    Kept { sealed: Vec<u8>, sent: usize },
}

impl Unsent {
    pub(crate) fn rest(&self) -> Option<&[u8]> {
        let rest = match self {
            Self::Nothing => None,
            Self::Outgoing(out) => out.rest(),
            Self::Kept { sealed, sent } => sealed.get(*sent..),
        };
        rest.filter(|rest| !rest.is_empty())
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        match self {
            Self::Nothing => {}
            Self::Outgoing(out) => out.sent(bytes),
            Self::Kept { sent, .. } => *sent += bytes,
        }
        if self.rest().is_none() {
            *self = Self::Nothing;
        }
    }

    /// Prepares for a wait: a little is copied, so that many slow readers don't hold a worker's buffer each.
    pub(crate) fn settle(&mut self) {
        if let Self::Outgoing(_) = self
            && let Some(rest) = self.rest()
            && rest.len() <= OUTGOING_BYTES / 4
        {
            *self = Self::Kept {
                sealed: rest.to_vec(),
                sent: 0,
            };
        }
    }
}

/// A worker's buffer for sealed records, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// There, until it is dropped. Boxed, so that connections have no room for what few of them hold.
    buffer: Option<Box<Buffer>>,
}

#[derive(Debug)]
struct Buffer {
    pages: Pages,
    filled: usize,
    sent: usize,
}

impl Outgoing {
    pub(crate) fn take() -> Self {
        let spare = SPARE.with(|spare| spare.borrow_mut().pop());
        let mut buffer = spare.unwrap_or_else(|| {
            Box::new(Buffer {
                pages: Pages::new(OUTGOING_BYTES),
                filled: 0,
                sent: 0,
            })
        });
        (buffer.filled, buffer.sent) = (0, 0);
        Self {
            buffer: Some(buffer),
        }
    }

    pub(crate) fn room(&mut self) -> &mut [u8] {
        let room = self.buffer.as_deref_mut().and_then(|buffer| {
            let pages = buffer.pages.get_mut();
            pages.get_mut(buffer.filled..)
        });
        room.unwrap_or_default()
    }

    /// Takes in that so many bytes of the room were filled.
    pub(crate) fn fill(&mut self, bytes: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.filled += bytes;
        }
    }

    fn rest(&self) -> Option<&[u8]> {
        let buffer = self.buffer.as_ref()?;
        buffer.pages.get().get(buffer.sent..buffer.filled)
    }

    fn sent(&mut self, bytes: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.sent += bytes;
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // While a thread ends there is none to give back to.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.extend(self.buffer.take());
            }
        });
    }
}

/// Most sealed bytes of one write: ten full records, which is what the relay reads at once.
const OUTGOING_BYTES: usize = 10 * (MAX_CONTENT_BYTES + OVERHEAD_BYTES);
/// Buffers kept for the next write: more are only needed while several connections wait for slow readers.
const MAX_SPARE: usize = 2;

/// Boxes are lent out and given back as they are.
type Spare = Vec<Box<Buffer>>;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Vec::new()) };
}
