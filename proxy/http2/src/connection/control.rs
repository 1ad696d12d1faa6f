//! Frames that come in and concern the connection or the end of a stream (RFC 9113 §6.3 to §6.9).

use super::receive::Named;
use super::{Core, FAREWELL, Leaving, Role};
use crate::error::{Cause, Error, Fault, Reason};
use crate::frame::{self, Header};
use crate::settings::{self, Setting};
use crate::stream::Sending;

impl Core {
    pub(super) fn priority(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let wrong = match frame::priority(payload) {
            Ok((depends, [])) if depends != header.stream => return Ok(()),
            Ok((_, [])) => (Reason::PROTOCOL_ERROR, Cause::Priority),
            _ => (Reason::FRAME_SIZE_ERROR, Cause::FrameSize),
        };
        match self.named(header.stream) {
            Named::Live(_) => Err(Fault::Stream(header.stream, wrong.0, wrong.1)),
            // There is nothing to reset.
            Named::Over { .. } | Named::Idle => Err(Fault::Connection(wrong.0, wrong.1)),
        }
    }

    pub(super) fn peer_reset(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let reason = Reason::from(frame::number(payload)?);
        let key = match self.named(header.stream) {
            Named::Live(key) => key,
            Named::Over { .. } => return Ok(()),
            Named::Idle => return Err(Fault::protocol(Cause::StreamId)),
        };
        self.fail_stream(key, Error::reset(reason, Cause::Peer));
        let waiting = self.accept.len();
        self.accept.retain(|(waiting, _)| *waiting != key);
        let unseen = self.accept.len() < waiting;
        if unseen {
            self.forget_data(key);
        }
        self.settle(key);
        if unseen {
            // Opened and reset in one breath (CVE-2023-44487).
            self.pending_resets += 1;
            if self.pending_resets > self.config.pending_resets {
                return Err(Fault::abuse(Cause::RapidReset));
            }
        }
        Ok(())
    }

    pub(super) fn settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.has(frame::ACK) {
            self.acknowledged = true;
            return if payload.is_empty() {
                Ok(())
            } else {
                Err(frame::frame_size())
            };
        }
        if !self.peer.settled && self.role == Role::Client {
            // A server that names no bound has none.
            self.peer.max_streams = usize::MAX;
        }
        self.peer.settled = true;
        let mut window = None;
        let (peer, encoder) = (&mut self.peer, &mut self.encoder);
        settings::parse(payload, self.role == Role::Client, |setting| {
            match setting {
                Setting::TableSize(size) => encoder.set_peer_table_size(size),
                Setting::MaxStreams(most) => {
                    peer.max_streams = usize::try_from(most).unwrap_or(usize::MAX);
                }
                Setting::StreamWindow(size) => window = Some(size),
                Setting::MaxFrame(size) => peer.max_frame = size,
            }
            Ok(())
        })?;
        if let Some(size) = window {
            self.change_windows(size)?;
        }
        self.wake_openers();
        let out = self.out.tail();
        out.extend_from_slice(&Header::bytes(0, frame::SETTINGS, frame::ACK, 0));
        self.replies += frame::HEADER_BYTES;
        Ok(())
    }

    /// Changes the windows of all streams by as much as their first size has changed (§6.9.2).
    fn change_windows(&mut self, size: u32) -> Result<(), Fault> {
        let by = i64::from(size) - i64::from(self.peer.stream_window);
        self.peer.stream_window = size;
        let mut ready = Vec::new();
        for (key, stream) in self.streams.all_mut() {
            if stream.is_over() {
                continue;
            }
            if !stream.send_window.change(by) {
                return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR, Cause::Window));
            }
            if by > 0 {
                stream.offer_room();
                ready.push(key);
            }
        }
        ready.into_iter().for_each(|key| self.queue(key));
        Ok(())
    }

    pub(super) fn ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let payload = <[u8; 8]>::try_from(payload).map_err(|_| frame::frame_size())?;
        if !header.has(frame::ACK) {
            frame::ping(self.out.tail(), frame::ACK, payload);
            self.replies += frame::HEADER_BYTES + payload.len();
        } else if payload == FAREWELL && self.leaving == Leaving::Announced {
            self.leaving = Leaving::Last(self.last_peer_id);
            frame::go_away(self.out.tail(), self.last_peer_id, Reason::NO_ERROR, "");
        }
        Ok(())
    }

    pub(super) fn go_away(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let (last, rest) = payload.split_first_chunk().ok_or(frame::frame_size())?;
        let (reason, _why) = rest.split_first_chunk().ok_or(frame::frame_size())?;
        let last = u32::from_be_bytes(*last) & frame::MAX_STREAM_ID;
        let reason = Reason::from(u32::from_be_bytes(*reason));
        self.told = Some(reason);
        if self.role == Role::Client {
            for key in self.streams.above(last) {
                self.fail_stream(key, Error::go_away(reason, Cause::Peer));
                self.settle(key);
            }
        }
        self.wake_openers();
        Ok(())
    }

    pub(super) fn window_update(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let by = frame::number(payload)? & frame::MAX_STREAM_ID;
        let id = header.stream;
        if id == 0 {
            if by == 0 {
                return Err(Fault::protocol(Cause::Window));
            }
            if !self.send_window.change(i64::from(by)) {
                return Err(Fault::Connection(Reason::FLOW_CONTROL_ERROR, Cause::Window));
            }
            return Ok(());
        }
        let key = match self.named(id) {
            Named::Live(key) => key,
            Named::Over { .. } => return Ok(()),
            Named::Idle => return Err(Fault::protocol(Cause::StreamId)),
        };
        if by == 0 {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR, Cause::Window));
        }
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        // What we have ended needs no window.
        if stream.sending == Sending::Done {
            return Ok(());
        }
        if !stream.send_window.change(i64::from(by)) {
            return Err(Fault::Stream(id, Reason::FLOW_CONTROL_ERROR, Cause::Window));
        }
        stream.offer_room();
        self.queue(key);
        Ok(())
    }
}
