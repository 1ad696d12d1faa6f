//! Requests, responses and trailers that come in (RFC 9113 §6.2, §6.10 and §8).

use http::{Method, Response, StatusCode};

use super::receive::{Named, closed};
use super::{Block, Core, Role};
use crate::error::{Cause, Fault, Reason};
use crate::frame::{self, Header};
use crate::hpack::decoder::Decoded;
use crate::message::{Head, Malformed};
use crate::stream::{Length, Receiving};

impl Core {
    pub(super) fn headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let mut block = frame::unpad(header, payload)?;
        if header.has(frame::PRIORITIZED) {
            // Otherwise it means nothing any more (§5.3.2).
            let (depends, rest) = frame::priority(block)?;
            if depends == header.stream {
                return Err(Fault::protocol(Cause::Priority));
            }
            block = rest;
        }
        let end = header.has(frame::END_STREAM);
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

    pub(super) fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
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
        if self.is_full() {
            return Err(Fault::Stream(id, Reason::REFUSED_STREAM, Cause::FullOutput));
        }
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
        stream.length = match length {
            Some(length) if request.method() != Method::CONNECT => Length::Left(length),
            _ => Length::Unknown,
        };
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
        let status = response.status();
        let is_bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        stream.length = match length {
            _ if stream.is_head || is_bodiless => Length::None,
            // What a length says there is not meant (RFC 9110 §9.3.6).
            _ if stream.is_connect && status.is_success() => Length::Unknown,
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

/// CONTINUATION frames of one block: honest ones are as large as we take them.
const MAX_CONTINUATIONS: u32 = 32;
/// Interim responses that nobody has looked at.
const MAX_INTERIMS: usize = 16;
