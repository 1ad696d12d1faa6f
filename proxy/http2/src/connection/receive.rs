//! What comes in: frames, read in place and judged by their headers (RFC 9113 §4 and §5.1).
//!
//! A DATA frame is passed on in the pieces that it comes in; others are taken when they are whole.

use std::time::{Duration, Instant};

use super::{Core, Leaving, Role};
use crate::error::{Cause, Error, Fault, Reason};
use crate::frame::{self, Header};

/// What an id that a frame names stands for.
pub(super) enum Named {
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
                let Some((piece, payload, after)) = self.piece(frame, rest) else {
                    break;
                };
                rest = after;
                let taken = self.data(piece, payload);
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

    /// Whether a frame is not whole yet, of which `held` came before and `more` bytes now, and is only taken whole.
    pub(crate) fn lacks(&self, held: &[u8], more: usize) -> bool {
        let between = !self.preface && self.partial.is_none();
        match Header::parse(held) {
            Some((header, _)) if between && header.kind != frame::DATA => {
                held.len() + more < frame::HEADER_BYTES + header.length
            }
            _ => false,
        }
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

    /// The next piece of a DATA frame whose end is still to come, as a frame of its own: header, payload, and what follows.
    fn piece<'a>(&mut self, frame: Header, rest: &'a [u8]) -> Option<(Header, &'a [u8], &'a [u8])> {
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
        Some((piece, payload, after))
    }

    /// Whether the other end has begun as it must.
    pub(crate) fn has_begun(&self) -> bool {
        !self.preface
    }

    /// Whether the stream below may end here: between two frames, and not within a head.
    pub(crate) fn may_end(&self) -> bool {
        !self.preface && self.partial.is_none() && self.block.is_none()
    }

    fn fault(&mut self, fault: Fault) -> Error {
        let (Fault::Connection(reason, cause) | Fault::Stream(_, reason, cause)) = fault;
        self.fail(reason, cause);
        fault.into()
    }

    /// Resets a stream for a fault of the other end, which may make us do so only so often (CVE-2025-8671).
    fn stream_fault(&mut self, id: u32, reason: Reason, cause: Cause) -> Result<(), Fault> {
        // Whoever reads slowly may meet a full output now and then; what we answer it is bounded all the same.
        if cause != Cause::FullOutput {
            self.count_reset(cause)?;
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

    fn count_reset(&mut self, cause: Cause) -> Result<(), Fault> {
        let now = Instant::now();
        let (count, since) = &mut self.local_resets;
        if now.duration_since(*since) > RESETS_PERIOD {
            (*count, *since) = (0, now);
        }
        *count += 1;
        let mut most = self.config.local_resets;
        // To open more than we take is no fault before our settings are known.
        if cause == Cause::TooManyStreams && !self.acknowledged {
            most = most.max(EARLY_STREAMS);
        }
        if *count > most {
            return Err(Fault::abuse(Cause::ResetFlood));
        }
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

    pub(super) fn named(&self, id: u32) -> Named {
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
            // A server can't open streams, and the client has seen the end of each that it has forgotten, or has ended it
            // itself: what is late there breaks nothing.
            reset: is_own
                || id <= self.reset_below
                || self.reset.contains(&id)
                || self.is_past_farewell(id),
        }
    }

    /// Whether a stream came after we had said which would be the last: it is not ours to answer (§6.8).
    pub(super) fn is_past_farewell(&self, id: u32) -> bool {
        self.role == Role::Server && matches!(self.leaving, Leaving::Last(last) if id > last)
    }
}

/// Whether a frame that is not whole is taken as it comes: then a large one is never put together first.
fn is_passed_in_pieces(header: Header, come: usize) -> bool {
    header.kind == frame::DATA && !header.has(frame::PADDED) && come >= PIECE
}

pub(super) fn closed(id: u32) -> Fault {
    Fault::Stream(id, Reason::STREAM_CLOSED, Cause::ClosedStream)
}

/// Answers to control frames that may wait for an end that does not read them.
const REPLY_BYTES: usize = 64 * 1024;
/// Least piece of a DATA frame that is taken before the rest has come.
const PIECE: usize = 4 * 1024;
/// Streams that the other end may open in vain before it knows how many we take.
const EARLY_STREAMS: usize = 2_048;
/// In which the other end may make us reset so many streams.
const RESETS_PERIOD: Duration = Duration::from_secs(10);
