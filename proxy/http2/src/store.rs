//! The streams of a connection, by the key that handles have and by the id that frames have.

use std::collections::VecDeque;

use slab::Slab;

use crate::stream::Stream;

/// All streams, and which ids are live. Ids only ever rise, so the list of them is sorted by itself.
#[derive(Debug, Default)]
pub(crate) struct Store {
    streams: Slab<Stream>,
    live: VecDeque<(u32, usize)>,
}

impl Store {
    /// Takes in a stream with the highest id so far.
    pub(crate) fn insert(&mut self, stream: Stream) -> usize {
        let id = stream.id;
        let key = self.streams.insert(stream);
        self.live.push_back((id, key));
        key
    }

    pub(crate) fn get(&self, key: usize) -> Option<&Stream> {
        self.streams.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut Stream> {
        self.streams.get_mut(key)
    }

    /// The live stream with an id.
    pub(crate) fn find(&self, id: u32) -> Option<usize> {
        // Most frames are for the newest or for the only one.
        match self.live.back() {
            Some(&(last, key)) if last == id => return Some(key),
            _ => {}
        }
        let at = self.live.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.live.get(at).map(|(_, key)| *key)
    }

    /// Takes an id out of those that are live.
    pub(crate) fn retire(&mut self, id: u32) {
        if let Ok(at) = self.live.binary_search_by_key(&id, |(id, _)| *id) {
            self.live.remove(at);
        }
    }

    pub(crate) fn remove(&mut self, key: usize) {
        self.streams.try_remove(key);
        if self.streams.is_empty() && self.streams.capacity() > KEPT {
            // After a burst an idle connection holds little.
            self.streams = Slab::new();
            self.live = VecDeque::new();
        }
    }

    /// Streams that are live or that somebody still holds.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Keys of the live streams with ids above `last`.
    pub(crate) fn above(&self, last: u32) -> Vec<usize> {
        let above = self.live.iter().rev().take_while(|(id, _)| *id > last);
        above.map(|(_, key)| *key).collect()
    }

    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = (usize, &mut Stream)> {
        self.streams.iter_mut()
    }
}

/// Places for streams that an idle connection keeps.
const KEPT: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{RecvWindow, SendWindow};

    #[test]
    fn a_retired_id_is_found_no_more_and_its_stream_lives_on() {
        let mut store = Store::default();
        let keys: Vec<usize> = (0..10)
            .map(|n| {
                store.insert(Stream::new(
                    2 * n + 1,
                    SendWindow::new(1),
                    RecvWindow::new(1, 1),
                ))
            })
            .collect();
        assert_eq!(store.find(7), Some(keys[3]));
        store.retire(7);
        assert_eq!(store.find(7), None);
        assert_eq!(store.find(8), None);
        assert_eq!(store.find(19), Some(keys[9]));
        assert_eq!(store.get(keys[3]).unwrap().id, 7);
        assert_eq!(store.above(15), [keys[9], keys[8]]);
        keys.iter().for_each(|key| store.remove(*key));
        assert_eq!(store.len(), 0);
    }
}
