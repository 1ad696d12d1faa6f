//! One stream: how far each direction is, what waits in it, and who waits for it (RFC 9113 §5.1).

use std::collections::VecDeque;
use std::task::{Context, Waker};

use http::{HeaderMap, Response};

use crate::chunks::Chunks;
use crate::error::Error;
use crate::flow::{RecvWindow, SendWindow};

/// How far our direction is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sending {
    /// Our head is still to come.
    Head,
    Body,
    /// All is said; the end waits behind data that the windows hold back.
    Ending,
    Done,
}

/// How far the other end's direction is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Receiving {
    Head,
    Body,
    Done,
}

/// What ends our direction, behind the data that waits.
#[derive(Debug)]
pub(crate) enum End {
    Data,
    Trailers(HeaderMap),
}

/// What is left of a message whose head told its length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Length {
    Unknown,
    Left(u64),
    /// It describes a body that does not come: the answer to HEAD, or 304.
    None,
}

/// A stream and all that belongs to it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    /// Handles that the user has.
    pub(crate) handles: u8,
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
    /// Why it ended before its time.
    pub(crate) failed: Option<Error>,
    /// The other end said all it had to say.
    pub(crate) complete: bool,
    /// It counts among those that are open.
    pub(crate) counted: bool,
    /// Somebody reads what comes, or will.
    pub(crate) has_reader: bool,
    /// The request was HEAD: its answer has no body.
    pub(crate) is_head: bool,
    /// The request was CONNECT: what follows is not a message.
    pub(crate) is_connect: bool,
    /// It stands in the queue of those that may send.
    pub(crate) queued: bool,
    /// The writer waits for room, and not only for a reset.
    pub(crate) wants_room: bool,
    pub(crate) send_window: SendWindow,
    pub(crate) pending: Chunks,
    pub(crate) end: Option<End>,
    pub(crate) recv_window: RecvWindow,
    pub(crate) length: Length,
    pub(crate) interims: VecDeque<Response<()>>,
    pub(crate) head: Option<Box<Response<()>>>,
    pub(crate) data: Chunks,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

impl Stream {
    pub(crate) fn new(id: u32, send_window: SendWindow, recv_window: RecvWindow) -> Self {
        Self {
            id,
            handles: 0,
            sending: Sending::Head,
            receiving: Receiving::Head,
            failed: None,
            complete: false,
            counted: true,
            has_reader: true,
            is_head: false,
            is_connect: false,
            queued: false,
            wants_room: false,
            send_window,
            pending: Chunks::default(),
            end: None,
            recv_window,
            length: Length::Unknown,
            interims: VecDeque::new(),
            head: None,
            data: Chunks::default(),
            trailers: None,
            reader: None,
            writer: None,
        }
    }

    /// Whether both directions are over.
    pub(crate) fn is_over(&self) -> bool {
        self.sending == Sending::Done && self.receiving == Receiving::Done
    }

    /// Whether something waits that the stream's own window lets pass.
    pub(crate) fn can_send(&self) -> bool {
        !self.pending.is_empty() && self.send_window.left() > 0
    }

    /// Counts data against the length that the head told; `false` where it doesn't fit.
    pub(crate) fn counts(&mut self, bytes: usize, end: bool) -> bool {
        match &mut self.length {
            Length::Unknown => true,
            Length::None => bytes == 0,
            Length::Left(left) => {
                let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                let Some(rest) = left.checked_sub(bytes) else {
                    return false;
                };
                *left = rest;
                !end || rest == 0
            }
        }
    }

    pub(crate) fn wake_reader(&self) {
        if let Some(reader) = &self.reader {
            reader.wake_by_ref();
        }
    }

    pub(crate) fn wake_writer(&self) {
        if let Some(writer) = &self.writer {
            writer.wake_by_ref();
        }
    }

    /// Wakes the writer where it waits for room.
    pub(crate) fn offer_room(&mut self) {
        if std::mem::take(&mut self.wants_room) {
            self.wake_writer();
        }
    }

    /// Ends both directions before their time.
    pub(crate) fn fail(&mut self, error: Error) {
        self.pending.clear();
        self.end = None;
        self.sending = Sending::Done;
        self.receiving = Receiving::Done;
        if self.failed.is_none() {
            self.failed = Some(error);
        }
        self.wake_reader();
        self.wake_writer();
    }
}

/// Keeps a waker, and spares the copy where it is the one that is kept.
pub(crate) fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(kept) if kept.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_must_be_as_long_as_the_head_told() {
        let stream = |length| {
            let mut stream = Stream::new(1, SendWindow::new(1), RecvWindow::new(1, 1));
            stream.length = length;
            stream
        };
        let mut told = stream(Length::Left(5));
        assert!(told.counts(3, false) && told.counts(2, true));
        assert!(!told.counts(1, false));
        assert!(!stream(Length::Left(5)).counts(4, true));
        assert!(stream(Length::Unknown).counts(4, true));
        assert!(!stream(Length::None).counts(1, true));
        assert!(stream(Length::None).counts(0, true));
    }
}
