//! How streams and the connection end: said by either side, dropped by their holders, or at fault.

use super::{Core, FAREWELL, Leaving, Role, small_cost};
use crate::error::{Cause, Error, Reason};
use crate::frame;
use crate::stream::{Receiving, Sending};

impl Core {
    /// Resets a stream from our side, unless it is over.
    pub(crate) fn reset(&mut self, key: usize, reason: Reason, cause: Cause) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        // Where all was said in both directions the other end has forgotten it.
        if stream.is_over() {
            return;
        }
        let id = stream.id;
        // Whoever has not read it all must not take the rest for all.
        if !stream.data.is_empty() || stream.trailers.is_some() {
            stream.complete = false;
            stream.trailers = None;
        }
        self.fail_stream(key, Error::reset(reason, cause));
        self.send_reset(id, reason);
        self.forget_data(key);
        self.settle(key);
    }

    /// Ends both directions of a stream; whoever calls this settles it.
    pub(super) fn fail_stream(&mut self, key: usize, error: Error) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.fail(error);
            if std::mem::take(&mut stream.queued) {
                self.ready.retain(|queued| *queued != key);
            }
        }
    }

    /// Says that a stream is reset, and keeps in mind that more may come for it.
    pub(super) fn send_reset(&mut self, id: u32, reason: Reason) {
        frame::reset(self.out.tail(), id, reason);
        if self.reset.len() >= RESETS_KEPT
            && let Some(forgotten) = self.reset.pop_front()
        {
            self.reset_below = self.reset_below.max(forgotten);
        }
        self.reset.push_back(id);
    }

    /// Drops what came and was not read, and gives its window back to the connection.
    pub(super) fn forget_data(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let mut small = 0;
        while let Some(data) = stream.data.pop() {
            small += small_cost(data.len());
        }
        let held = stream.recv_window.held();
        // Held by definition.
        let _ = stream.recv_window.release(held);
        self.small_data += small;
        self.release_connection(held);
    }

    /// Takes note of a stream that may have ended.
    pub(super) fn settle(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if !stream.is_over() {
            return;
        }
        if std::mem::take(&mut stream.counted) {
            let id = stream.id;
            let unheld = stream.handles == 0;
            self.streams.retire(id);
            self.active -= 1;
            self.wake_openers();
            if unheld {
                self.streams.remove(key);
            }
        } else if stream.handles == 0 {
            self.streams.remove(key);
        }
    }

    /// A handle is gone; with the last one goes what it was for.
    pub(crate) fn drop_handle(&mut self, key: usize, is_reader: bool) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.handles = stream.handles.saturating_sub(1);
        let last = stream.handles == 0;
        if is_reader {
            stream.has_reader = false;
            if !stream.data.is_empty() || stream.recv_window.held() > 0 {
                self.forget_data(key);
                self.wake();
            }
        }
        if last {
            self.abandon(key);
        }
    }

    /// Ends a stream that nobody holds any more.
    fn abandon(&mut self, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.reader = None;
        stream.writer = None;
        match (stream.sending, stream.receiving) {
            (Sending::Done, Receiving::Done) => {
                self.settle(key);
                if self.is_finished() {
                    self.wake();
                }
            }
            // What is still to be sent is sent.
            (Sending::Ending, Receiving::Done) => {}
            (Sending::Ending, _) if self.role == Role::Server => {}
            (Sending::Done, _) if self.role == Role::Server => {
                // The answer did not need the rest of the request (§8.1).
                self.reset(key, Reason::NO_ERROR, Cause::Wanted);
                self.wake();
            }
            _ => {
                self.reset(key, Reason::CANCEL, Cause::Wanted);
                self.wake();
            }
        }
    }

    /// Ends the connection for a fault of the other end, and says so.
    pub(super) fn fail(&mut self, reason: Reason, cause: Cause) {
        let last = self.last_taken();
        frame::go_away(self.out.tail(), last, reason, cause.as_str());
        self.end(Error::go_away(reason, cause));
    }

    /// The last stream that was taken, as a farewell says it: never more than one has said before (§6.8).
    pub(super) fn last_taken(&self) -> u32 {
        match self.leaving {
            Leaving::Last(last) => last,
            Leaving::No | Leaving::Announced => self.last_peer_id,
        }
    }

    /// Ends the connection and all its streams.
    pub(crate) fn end(&mut self, error: Error) {
        if self.over.is_some() {
            return;
        }
        self.accept.clear();
        self.ready.clear();
        let mut over = Vec::new();
        for (key, stream) in self.streams.all_mut() {
            stream.queued = false;
            if !stream.is_over() {
                let (complete, waits) = (stream.complete, stream.sending != Sending::Done);
                if !complete || waits {
                    stream.fail(error.clone());
                }
            }
            over.push(key);
        }
        self.over = Some(error);
        over.into_iter().for_each(|key| self.settle(key));
        self.wake_openers();
        self.wake();
    }

    /// Says a farewell: streams that are open end as they would have, and no more are taken.
    pub(crate) fn leave(&mut self) {
        if self.leaving == Leaving::No && self.over.is_none() {
            self.leaving = Leaving::Announced;
            let out = self.out.tail();
            frame::go_away(out, frame::MAX_STREAM_ID, Reason::NO_ERROR, "");
            // Once it is answered, all that was on its way has come.
            frame::ping(out, 0, FAREWELL);
            self.wake();
        }
    }

    /// Whether a connection has nothing left to do.
    pub(super) fn is_finished(&self) -> bool {
        match self.role {
            Role::Client => self.openers == 0 && self.streams.len() == 0,
            Role::Server => matches!(self.leaving, Leaving::Last(_)) && self.active == 0,
        }
    }
}

/// Streams that we have reset and keep in mind: more than the other end may have open at a time in most places.
const RESETS_KEPT: usize = 1024;
