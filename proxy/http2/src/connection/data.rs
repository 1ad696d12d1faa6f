//! Data that comes in, within its windows and as long as its head told (RFC 9113 §6.1, §6.9 and §8.1.1).

use bytes::Bytes;

use super::receive::{Named, closed};
use super::{Core, small_cost};
use crate::error::{Cause, Fault, Reason};
use crate::frame::{self, Header};
use crate::stream::Receiving;

impl Core {
    pub(super) fn data(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let data = frame::unpad(header, payload)?;
        if header.has(frame::PADDED) && !data.is_empty() {
            self.budget.was_useful();
        }
        let whole = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let window = Fault::Connection(Reason::FLOW_CONTROL_ERROR, Cause::Window);
        if !self.recv_window.receive(whole) {
            return Err(window);
        }
        let key = match self.named(header.stream) {
            Named::Live(key) => key,
            Named::Idle => return Err(Fault::protocol(Cause::StreamId)),
            Named::Over { reset } => {
                self.release_connection(whole);
                if reset {
                    return Ok(());
                }
                return Err(closed(header.stream));
            }
        };
        let taken = self.data_of(key, header, data, whole);
        if taken.is_err() {
            self.release_connection(whole);
        }
        taken
    }

    /// Takes data of a live stream, whose connection's window is given back by whoever calls where it is not taken.
    fn data_of(
        &mut self,
        key: usize,
        header: Header,
        data: &[u8],
        whole: u32,
    ) -> Result<(), Fault> {
        let (id, end) = (header.stream, header.has(frame::END_STREAM));
        let Some(stream) = self.streams.get_mut(key) else {
            return Err(closed(id));
        };
        match stream.receiving {
            Receiving::Body => {}
            Receiving::Head => {
                return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR, Cause::Malformed));
            }
            Receiving::Done => return Err(closed(id)),
        }
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let unread = !stream.has_reader;
        // Padding is consumed by being received; without a reader so is all the rest, but only for the connection.
        let passed = if unread { whole } else { whole - length };
        if !unread && !stream.recv_window.receive(whole) {
            return Err(Fault::Stream(id, Reason::FLOW_CONTROL_ERROR, Cause::Window));
        }
        if !stream.counts(data.len(), end) {
            // What the stream holds is given back when it is reset.
            let _ = stream.recv_window.release(if unread { 0 } else { whole });
            return Err(Fault::Stream(
                id,
                Reason::PROTOCOL_ERROR,
                Cause::ContentLength,
            ));
        }
        let mut more = 0;
        if !unread {
            // Held by definition.
            more = stream.recv_window.release(passed).unwrap_or(0);
            if !data.is_empty() {
                let cost = small_cost(data.len());
                let Some(left) = self.small_data.checked_sub(cost) else {
                    return Err(Fault::abuse(Cause::SmallData));
                };
                self.small_data = left;
                // Copied: a small piece would keep a large buffer, and the buffer belongs to the thread.
                stream.data.push(Bytes::copy_from_slice(data));
            }
        }
        if end {
            stream.receiving = Receiving::Done;
            stream.complete = true;
        } else if more > 0 {
            frame::window_update(self.out.tail(), id, more);
            self.replies += frame::HEADER_BYTES + 4;
        }
        if end || !data.is_empty() {
            stream.wake_reader();
        }
        if passed > 0 {
            self.release_connection(passed);
        }
        if end {
            self.settle(key);
        }
        Ok(())
    }
}
