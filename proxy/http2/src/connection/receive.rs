//! What comes in: each frame judged by its kind, its stream and the rules of RFC 9113, in place.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};

use super::{Block, Core, FAREWELL, Leaving, Role, small_cost};
use crate::error::{Cause, Error, Fault, Reason};
use crate::frame::{self, Header};
use crate::hpack::decoder::Decoded;
use crate::message::{Head, Malformed};
use crate::settings::{self, Setting};
use crate::stream::{Length, Receiving, Sending};

/// What an id that a frame names stands for.
enum Named {
    Live(usize),
    /// Opened once and over; `reset`: by us, so that more may come that was sent before that was known.
    Over {
        reset: bool,
    },
    /// Never opened.
    Idle,
}

impl Core {
    /// Takes in what was received and says how much of it was whole frames; the rest is to be shown again with more behind.
    pub(crate) fn receive(&mut self, input: &[u8]) -> Result<usize, Error> {
        let mut rest = input;
        if self.preface {
            let (begin, more) = rest.split_at(rest.len().min(frame::PREFACE.len()));
            if !frame::PREFACE.starts_with(begin) {
                return Err(self.fault(Fault::protocol(Cause::Preface)));
            }
            if begin.len() < frame::PREFACE.len() {
                return Ok(0);
            }
            self.preface = false;
            rest = more;
        }
        loop {
            if let Some(frame) = self.partial {
                let Some((piece, after)) = self.piece(frame, rest) else {
                    break;
                };
                rest = after;
                let taken = self.data(piece.0, piece.1);
                self.judge(taken)?;
                continue;
            }
            let Some((header, after)) = Header::parse(rest) else {
                break;
            };
            if header.length > usize::try_from(self.config.max_frame).unwrap_or(usize::MAX) {
                return Err(self.fault(frame::frame_size()));
            }
            let Some((payload, after)) = after.split_at_checked(header.length) else {
                if !is_passed_in_pieces(header, after.len()) {
                    break;
                }
                if let Err(fault) = self.admit(header) {
                    return Err(self.fault(fault));
                }
                self.partial = Some(header);
                rest = after;
                continue;
            };
            rest = after;
            let judged = match self.admit(header) {
                Ok(()) => self.frame(header, payload),
                refused => refused,
            };
            self.judge(judged)?;
            if self.replies > REPLY_BYTES && !self.out.is_empty() {
                return Err(self.fault(Fault::abuse(Cause::UnreadReplies)));
            }
        }
        Ok(input.len() - rest.len())
    }

    /// Acts on what a frame was found to be.
    fn judge(&mut self, judged: Result<(), Fault>) -> Result<(), Error> {
        match judged {
            Ok(()) => Ok(()),
            Err(Fault::Stream(id, reason, cause)) => self
                .stream_fault(id, reason, cause)
                .map_err(|fault| self.fault(fault)),
            Err(fault) => Err(self.fault(fault)),
        }
    }

    /// The next piece of a DATA frame whose end is still to come, as a frame of its own, and what follows it.
    fn piece<'a>(
        &mut self,
        frame: Header,
        rest: &'a [u8],
    ) -> Option<((Header, &'a [u8]), &'a [u8])> {
        let now = frame.length.min(rest.len());
        if now < frame.length && now < PIECE {
            return None;
        }
        let (payload, after) = rest.split_at_checked(now)?;
        let mut piece = Header {
            length: now,
            ..frame
        };
        self.partial = None;
        if now < frame.length {
            piece.flags &= !frame::END_STREAM;
            self.partial = Some(Header {
                length: frame.length - now,
                ..frame
            });
        }
        Some(((piece, payload), after))
    }

    /// Whether the other end has begun as it must.
    pub(crate) fn has_begun(&self) -> bool {
        !self.preface
    }

    /// Whether the stream below may end here without anybody missing something.
    pub(crate) fn may_end(&self) -> bool {
        self.active == 0 && !self.preface
    }

    fn fault(&mut self, fault: Fault) -> Error {
        let (Fault::Connection(reason, cause) | Fault::Stream(_, reason, cause)) = fault;
        self.fail(reason, cause);
        fault.into()
    }

    /// Resets a stream for a fault of the other end, which may make us do so only so often (CVE-2025-8671).
    fn stream_fault(&mut self, id: u32, reason: Reason, cause: Cause) -> Result<(), Fault> {
        let now = Instant::now();
        let (count, since) = &mut self.local_resets;
        if now.duration_since(*since) > RESETS_PERIOD {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count > self.config.local_resets {
            return Err(Fault::abuse(Cause::ResetFlood));
        }
        match self.streams.find(id) {
            Some(key) => {
                self.reset(key, reason, cause);
                // Nobody needs to look at what is over before it was begun.
                self.accept.retain(|(waiting, _)| *waiting != key);
                self.settle(key);
            }
            None => self.send_reset(id, reason),
        }
        self.replies += frame::HEADER_BYTES + 4;
        Ok(())
    }

    /// Judges a frame by its header alone.
    fn admit(&mut self, header: Header) -> Result<(), Fault> {
        if !self.peer.settled && (header.kind != frame::SETTINGS || header.has(frame::ACK)) {
            return Err(Fault::protocol(Cause::Preface));
        }
        if !self.budget.pay(header, Instant::now) {
            return Err(Fault::abuse(Cause::ControlFlood));
        }
        if self.block.is_some() && header.kind != frame::CONTINUATION {
            return Err(Fault::protocol(Cause::Continuation));
        }
        let is_whole = matches!(header.kind, frame::SETTINGS | frame::PING | frame::GOAWAY);
        let is_either = header.kind == frame::WINDOW_UPDATE || header.kind > frame::CONTINUATION;
        if !is_either && is_whole != (header.stream == 0) {
            return Err(Fault::protocol(Cause::StreamId));
        }
        Ok(())
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        match header.kind {
            frame::DATA => self.data(header, payload),
            frame::HEADERS => self.headers(header, payload),
            frame::PRIORITY => self.priority(header, payload),
            frame::RST_STREAM => self.peer_reset(header, payload),
            frame::SETTINGS => self.settings(header, payload),
            // We are a server, or have said that we take none (§8.4).
            frame::PUSH_PROMISE => Err(Fault::protocol(Cause::Push)),
            frame::PING => self.ping(header, payload),
            frame::GOAWAY => self.go_away(payload),
            frame::WINDOW_UPDATE => self.window_update(header, payload),
            frame::CONTINUATION => self.continuation(header, payload),
            // What we don't know means nothing to us (§4.1).
            _ => Ok(()),
        }
    }

    fn named(&self, id: u32) -> Named {
        if let Some(key) = self.streams.find(id) {
            return Named::Live(key);
        }
        let is_own = (id % 2 == 1) == (self.role == Role::Client);
        let opened = if is_own {
            id < self.next_own_id
        } else {
            id <= self.last_peer_id
        };
        if !opened {
            return Named::Idle;
        }
        Named::Over {
            reset: self.reset.contains(&id) || self.is_past_farewell(id),
        }
    }

    /// Whether a stream came after we had said which would be the last: it is not ours to answer (§6.8).
    fn is_past_farewell(&self, id: u32) -> bool {
        self.role == Role::Server && matches!(self.leaving, Leaving::Last(last) if id > last)
    }

    fn data(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let data = frame::unpad(header, payload)?;
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

    fn headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let mut block = frame::unpad(header, payload)?;
        let mut depends = 0;
        if header.has(frame::PRIORITIZED) {
            (depends, block) = frame::priority(block)?;
        }
        let end = header.has(frame::END_STREAM);
        if depends == header.stream {
            return Err(Fault::protocol(Cause::Priority));
        }
        if header.has(frame::END_HEADERS) {
            return self.block(header.stream, end, block);
        }
        self.block = Some(Block {
            stream: header.stream,
            end,
            bytes: block.to_vec(),
            frames: 0,
        });
        Ok(())
    }

    fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let most = 2 * self.max_head() + 16 * 1024;
        let Some(block) = (self.block.as_mut()).filter(|block| block.stream == header.stream)
        else {
            return Err(Fault::protocol(Cause::Continuation));
        };
        block.frames += 1;
        if block.frames > MAX_CONTINUATIONS || block.bytes.len() + payload.len() > most {
            return Err(Fault::abuse(Cause::ContinuationFlood));
        }
        block.bytes.extend_from_slice(payload);
        if !header.has(frame::END_HEADERS) {
            return Ok(());
        }
        let Some(block) = self.block.take() else {
            return Ok(());
        };
        self.block(block.stream, block.end, &block.bytes)
    }

    fn max_head(&self) -> usize {
        usize::try_from(self.config.max_head).unwrap_or(usize::MAX / 4)
    }

    /// Takes a whole header block.
    fn block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Fault> {
        match self.named(id) {
            Named::Live(key) => {
                let (head, decoded) = self.decode(Head::default(), block)?;
                match self.streams.get(key).map(|stream| stream.receiving) {
                    Some(Receiving::Head) => self.response(key, id, end, head, &decoded),
                    Some(Receiving::Body) => self.trailers(key, id, end, head, &decoded),
                    Some(Receiving::Done) | None => Err(closed(id)),
                }
            }
            Named::Over { reset } => {
                // The table must stay in step; nobody wants what comes of it.
                let _ = self.decode(Head::default(), block)?;
                if reset {
                    return Ok(());
                }
                Err(Fault::Connection(
                    Reason::STREAM_CLOSED,
                    Cause::ClosedStream,
                ))
            }
            Named::Idle if self.role == Role::Server && id % 2 == 1 => self.request(id, end, block),
            Named::Idle => Err(Fault::protocol(Cause::StreamId)),
        }
    }

    fn decode(&mut self, mut head: Head, block: &[u8]) -> Result<(Head, Decoded), Fault> {
        let limit = self.max_head();
        let decoded = self.decoder.decode(block, limit, |field| head.take(field));
        let compression = Fault::Connection(Reason::COMPRESSION_ERROR, Cause::Compression);
        Ok((head, decoded.map_err(|_| compression)?))
    }

    fn request(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Fault> {
        self.last_peer_id = id;
        let (head, decoded) = self.decode(Head::for_request(), block)?;
        if self.is_past_farewell(id) {
            return Ok(());
        }
        let most = usize::try_from(self.config.max_streams).unwrap_or(usize::MAX);
        // Those that are over and whose tasks are not yet are bounded, too.
        if self.active >= most || self.streams.len() >= most.saturating_mul(2) {
            return Err(Fault::Stream(
                id,
                Reason::REFUSED_STREAM,
                Cause::TooManyStreams,
            ));
        }
        match decoded {
            Decoded::Complete => {}
            Decoded::Malformed => return Err(malformed(id)),
            Decoded::TooLarge => return self.answer_too_large(id, end),
        }
        let length = head.length();
        let request = head.into_request().map_err(|Malformed| malformed(id))?;
        if end && length.is_some_and(|length| length > 0) {
            return Err(Fault::Stream(
                id,
                Reason::PROTOCOL_ERROR,
                Cause::ContentLength,
            ));
        }
        let mut stream = self.new_stream(id);
        stream.length = length.map_or(Length::Unknown, Length::Left);
        stream.complete = end;
        stream.receiving = if end {
            Receiving::Done
        } else {
            Receiving::Body
        };
        self.active += 1;
        let key = self.streams.insert(stream);
        self.accept.push_back((key, request));
        Ok(())
    }

    /// Says that a head was too large, in HTTP (RFC 6585 §5).
    fn answer_too_large(&mut self, id: u32, end: bool) -> Result<(), Fault> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let mut stream = self.new_stream(id);
        stream.receiving = if end {
            Receiving::Done
        } else {
            Receiving::Body
        };
        self.active += 1;
        let key = self.streams.insert(stream);
        // It is open: nothing can have failed.
        let _ = self.respond(key, &response, true);
        if end {
            return Ok(());
        }
        Err(Fault::Stream(
            id,
            Reason::PROTOCOL_ERROR,
            Cause::HeadTooLarge,
        ))
    }

    fn response(
        &mut self,
        key: usize,
        id: u32,
        end: bool,
        head: Head,
        decoded: &Decoded,
    ) -> Result<(), Fault> {
        check(id, decoded)?;
        let length = head.length();
        let response = head.into_response().map_err(|Malformed| malformed(id))?;
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        if response.status().is_informational() {
            if end {
                return Err(malformed(id));
            }
            if stream.interims.len() >= MAX_INTERIMS {
                return Err(Fault::Stream(
                    id,
                    Reason::ENHANCE_YOUR_CALM,
                    Cause::TooManyInterims,
                ));
            }
            stream.interims.push_back(response);
            stream.wake_reader();
            return Ok(());
        }
        let is_described = stream.is_head || response.status() == StatusCode::NOT_MODIFIED;
        stream.length = match length {
            _ if is_described => Length::None,
            Some(length) => Length::Left(length),
            None => Length::Unknown,
        };
        if end && !stream.counts(0, true) {
            return Err(Fault::Stream(
                id,
                Reason::PROTOCOL_ERROR,
                Cause::ContentLength,
            ));
        }
        stream.head = Some(Box::new(response));
        stream.receiving = Receiving::Body;
        self.end_of(key, end);
        Ok(())
    }

    fn trailers(
        &mut self,
        key: usize,
        id: u32,
        end: bool,
        head: Head,
        decoded: &Decoded,
    ) -> Result<(), Fault> {
        check(id, decoded)?;
        // A second head has no place but at the end (§8.1).
        if !end {
            return Err(malformed(id));
        }
        let trailers = head.into_trailers().map_err(|Malformed| malformed(id))?;
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        if !stream.counts(0, true) {
            return Err(Fault::Stream(
                id,
                Reason::PROTOCOL_ERROR,
                Cause::ContentLength,
            ));
        }
        if stream.has_reader {
            stream.trailers = Some(Box::new(trailers));
        }
        self.end_of(key, true);
        Ok(())
    }

    /// Wakes who waits for what has come, which may have been the end.
    fn end_of(&mut self, key: usize, end: bool) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if end {
            stream.receiving = Receiving::Done;
            stream.complete = true;
        }
        stream.wake_reader();
        if end {
            self.settle(key);
        }
    }

    fn priority(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    fn peer_reset(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    fn settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    fn ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

    fn go_away(&mut self, payload: &[u8]) -> Result<(), Fault> {
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

    fn window_update(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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

/// Whether a frame that is not whole is taken as it comes: then a large one is never put together first.
fn is_passed_in_pieces(header: Header, come: usize) -> bool {
    header.kind == frame::DATA && !header.has(frame::PADDED) && come >= PIECE
}

fn closed(id: u32) -> Fault {
    Fault::Stream(id, Reason::STREAM_CLOSED, Cause::ClosedStream)
}

fn malformed(id: u32) -> Fault {
    Fault::Stream(id, Reason::PROTOCOL_ERROR, Cause::Malformed)
}

fn check(id: u32, decoded: &Decoded) -> Result<(), Fault> {
    match decoded {
        Decoded::Complete => Ok(()),
        Decoded::Malformed => Err(malformed(id)),
        Decoded::TooLarge => Err(Fault::Stream(
            id,
            Reason::PROTOCOL_ERROR,
            Cause::HeadTooLarge,
        )),
    }
}

/// Answers to control frames that may wait for an end that does not read them.
const REPLY_BYTES: usize = 64 * 1024;
/// Least piece of a DATA frame that is taken before the rest has come.
const PIECE: usize = 4 * 1024;
/// CONTINUATION frames of one block: honest ones are as large as we take them.
const MAX_CONTINUATIONS: u32 = 32;
/// Interim responses that nobody has looked at.
const MAX_INTERIMS: usize = 16;
/// In which the other end may make us reset so many streams.
const RESETS_PERIOD: Duration = Duration::from_secs(10);
