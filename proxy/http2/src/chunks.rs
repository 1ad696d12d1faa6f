//! A queue of pieces of data that mostly holds one.

use std::collections::VecDeque;

use bytes::Bytes;

/// Pieces in order. The first needs no memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
    bytes: usize,
}

impl Chunks {
    pub(crate) fn push(&mut self, data: Bytes) {
        self.bytes += data.len();
        if self.first.is_none() {
            self.first = Some(data);
        } else {
            self.rest.push_back(data);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let data = self.first.take()?;
        self.first = self.rest.pop_front();
        self.bytes -= data.len();
        Some(data)
    }

    /// At most `limit` bytes of the first piece.
    pub(crate) fn take(&mut self, limit: usize) -> Option<Bytes> {
        match &mut self.first {
            Some(first) if first.len() > limit => {
                self.bytes -= limit;
                Some(first.split_to(limit))
            }
            _ => self.pop(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_order_and_are_counted() {
        let mut chunks = Chunks::default();
        for piece in ["one", "two", "three"] {
            chunks.push(Bytes::from_static(piece.as_bytes()));
        }
        assert_eq!(chunks.take(2).unwrap(), "on");
        assert_eq!(chunks.bytes(), 9);
        let rest: Vec<Bytes> = std::iter::from_fn(|| chunks.pop()).collect();
        assert_eq!(rest, ["e", "two", "three"]);
        assert!(chunks.is_empty() && chunks.bytes() == 0);
    }
}
