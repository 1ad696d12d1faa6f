//! The state of a connection, shared by its task and the handles of its streams; all on one thread.
//!
//! Handles put frames into the output or take what came, and wake the task, which alone reads and writes the stream
//! below ([`drive`]). What comes is judged in [`receive`], what goes is cut into frames in [`send`].

pub(crate) mod drive;
mod receive;
mod send;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use http::Request;

use crate::abuse::Budget;
use crate::error::{Cause, Error, Fault, Reason};
use crate::flow::{RecvWindow, SendWindow};
use crate::frame::{self, Header};
use crate::hpack::decoder::Decoder;
use crate::hpack::encoder::Encoder;
use crate::output::Output;
use crate::settings::{Config, DEFAULT_FRAME, DEFAULT_WINDOW};
use crate::store::Store;
use crate::stream::{Receiving, Sending, Stream};

/// A connection's state, shared.
pub(crate) type Shared = Rc<RefCell<Core>>;

/// Which end we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What the other end has said that it bears.
#[derive(Debug)]
struct Peer {
    stream_window: u32,
    max_frame: usize,
    /// Streams that we may have open.
    max_streams: usize,
    /// Its first SETTINGS have come.
    settled: bool,
}

/// A header block that goes on in CONTINUATION frames.
#[derive(Debug)]
struct Block {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    frames: u32,
}

/// How far our own farewell is (§6.8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Leaving {
    No,
    /// Said, but streams that were on their way are still taken.
    Announced,
    /// Streams above this one are not taken any more.
    Last(u32),
}

/// All there is of a connection, but the stream below.
pub(crate) struct Core {
    role: Role,
    config: Config,
    peer: Peer,
    pub(crate) out: Output,
    streams: Store,
    encoder: Encoder,
    decoder: Decoder,
    send_window: SendWindow,
    recv_window: RecvWindow,
    /// Streams that wait for the connection's window or for the output, in turn.
    ready: VecDeque<usize>,
    /// Requests that nobody has looked at.
    accept: VecDeque<(usize, Request<()>)>,
    block: Option<Block>,
    /// What is left of a DATA frame whose beginning was taken.
    partial: Option<Header>,
    /// The client's preface is still to come.
    preface: bool,
    /// Streams that are open.
    active: usize,
    last_peer_id: u32,
    next_own_id: u32,
    /// Streams that we have reset lately, oldest first: what still comes for them was sent before that was known (§5.4.2).
    reset: VecDeque<u32>,
    budget: Budget,
    /// What small pieces of data may still cost.
    small_data: usize,
    /// Streams that were reset since somebody last looked at all requests.
    pending_resets: usize,
    /// The other end has acknowledged our settings.
    acknowledged: bool,
    /// Streams that the other end made us reset, since when.
    local_resets: (usize, Instant),
    /// Bytes of answers that the other end has not read.
    replies: usize,
    leaving: Leaving,
    /// The other end takes no more streams.
    told: Option<Reason>,
    over: Option<Error>,
    task: Option<Waker>,
    /// The task was woken and has not run.
    awake: bool,
    /// Handles that may open streams.
    pub(crate) openers: usize,
    waiting_openers: Vec<Waker>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what lies in it, which is anyone's plaintext.
        f.debug_struct("Core")
            .field("role", &self.role)
            .field("active", &self.active)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn new(role: Role, config: Config) -> Self {
        let now = Instant::now();
        // It can't be made smaller (§6.9.2).
        let connection_window = config.connection_window.max(DEFAULT_WINDOW);
        let mut out = Output::default();
        if role == Role::Client {
            out.tail().extend_from_slice(frame::PREFACE);
        }
        config.encode(role == Role::Server, out.tail());
        Self {
            role,
            peer: Peer {
                stream_window: DEFAULT_WINDOW,
                max_frame: usize::try_from(DEFAULT_FRAME).unwrap_or(16_384),
                max_streams: UNTOLD_STREAMS,
                settled: false,
            },
            out,
            streams: Store::default(),
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            send_window: SendWindow::new(DEFAULT_WINDOW),
            recv_window: RecvWindow::new(connection_window, connection_window),
            ready: VecDeque::new(),
            accept: VecDeque::new(),
            block: None,
            partial: None,
            preface: role == Role::Server,
            active: 0,
            last_peer_id: 0,
            next_own_id: 1,
            reset: VecDeque::new(),
            budget: Budget::new(now),
            small_data: config.small_data,
            pending_resets: 0,
            acknowledged: false,
            local_resets: (0, now),
            replies: 0,
            leaving: Leaving::No,
            told: None,
            over: None,
            task: None,
            awake: false,
            openers: 0,
            waiting_openers: Vec::new(),
            config,
        }
    }

    /// Why it is over, if it is.
    pub(crate) fn over(&self) -> Option<&Error> {
        self.over.as_ref()
    }

    /// Wakes the connection's task to send what was put into the output.
    pub(crate) fn wake(&mut self) {
        if !self.awake
            && let Some(task) = &self.task
        {
            self.awake = true;
            task.wake_by_ref();
        }
    }

    pub(crate) fn stream(&self, key: usize) -> Option<&Stream> {
        self.streams.get(key)
    }

    pub(crate) fn stream_mut(&mut self, key: usize) -> Option<&mut Stream> {
        self.streams.get_mut(key)
    }

    /// The next request, for the server.
    pub(crate) fn accept(&mut self) -> Option<(usize, Request<()>)> {
        let next = self.accept.pop_front();
        if next.is_none() {
            self.pending_resets = 0;
        }
        next
    }

    /// Streams that we may have open at a time.
    pub(crate) fn max_send_streams(&self) -> usize {
        self.peer.max_streams
    }

    /// Whether a stream can be opened now: `Some` with the error why it never can.
    pub(crate) fn may_open(&self) -> Result<bool, Error> {
        if let Some(error) = &self.over {
            return Err(error.clone());
        }
        if let Some(reason) = self.told {
            return Err(Error::go_away(reason, Cause::Peer));
        }
        if self.next_own_id > frame::MAX_STREAM_ID {
            return Err(Error::go_away(Reason::NO_ERROR, Cause::StreamIdsUsedUp));
        }
        Ok(self.active < self.peer.max_streams)
    }

    /// Has a task woken when a stream may be opened again.
    pub(crate) fn wait_to_open(&mut self, waker: &Waker) {
        if !self
            .waiting_openers
            .iter()
            .any(|waiting| waiting.will_wake(waker))
        {
            self.waiting_openers.push(waker.clone());
        }
    }

    fn wake_openers(&mut self) {
        self.waiting_openers.drain(..).for_each(Waker::wake);
    }

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
        self.fail_stream(key, Error::reset(reason, cause));
        self.send_reset(id, reason);
        self.forget_data(key);
        self.settle(key);
    }

    /// Ends both directions of a stream; whoever calls this settles it.
    fn fail_stream(&mut self, key: usize, error: Error) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.fail(error);
            if std::mem::take(&mut stream.queued) {
                self.ready.retain(|queued| *queued != key);
            }
        }
    }

    /// Says that a stream is reset, and keeps in mind that more may come for it.
    fn send_reset(&mut self, id: u32, reason: Reason) {
        frame::reset(self.out.tail(), id, reason);
        if self.reset.len() >= RESETS_KEPT {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Drops what came and was not read, and gives its window back to the connection.
    fn forget_data(&mut self, key: usize) {
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

    /// Gives window back to the connection.
    fn release_connection(&mut self, bytes: u32) {
        if let Some(more) = self.recv_window.release(bytes)
            && more > 0
            && self.over.is_none()
        {
            frame::window_update(self.out.tail(), 0, more);
            self.replies += frame::HEADER_BYTES + 4;
        }
    }

    /// Takes note of a stream that may have ended.
    fn settle(&mut self, key: usize) {
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
    fn fail(&mut self, reason: Reason, cause: Cause) {
        frame::go_away(self.out.tail(), self.last_peer_id, reason, cause.as_str());
        self.end(Error::go_away(reason, cause));
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
    fn is_finished(&self) -> bool {
        match self.role {
            Role::Client => self.openers == 0 && self.streams.len() == 0,
            Role::Server => matches!(self.leaving, Leaving::Last(_)) && self.active == 0,
        }
    }

    /// Takes what was received on a stream, and waits where there is nothing.
    pub(crate) fn pop_data(&mut self, key: usize) -> Option<Bytes> {
        let stream = self.streams.get_mut(key)?;
        let data = stream.data.pop()?;
        self.small_data += small_cost(data.len());
        Some(data)
    }

    /// Gives the window of consumed data back, to the stream and the connection.
    pub(crate) fn release(&mut self, key: usize, bytes: usize) -> Result<(), Error> {
        let over = Error::misuse("more is given back than was received");
        let bytes = u32::try_from(bytes).map_err(|_| over.clone())?;
        let stream = self.streams.get_mut(key).ok_or(over.clone())?;
        let more = stream.recv_window.release(bytes).ok_or(over)?;
        let before = self.out.len();
        if more > 0 && stream.receiving != Receiving::Done {
            let id = stream.id;
            frame::window_update(self.out.tail(), id, more);
            self.replies += frame::HEADER_BYTES + 4;
        }
        self.release_connection(bytes);
        if self.out.len() > before {
            self.wake();
        }
        Ok(())
    }
}

/// What a piece of data that nobody has read costs beside its length.
fn small_cost(length: usize) -> usize {
    SMALL.saturating_sub(length)
}

/// The word of a fault that concerns a stream or the connection.
impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Stream(_, reason, cause) => Self::reset(reason, cause),
            Fault::Connection(reason, cause) => Self::go_away(reason, cause),
        }
    }
}

/// Streams that we open before the other end has said how many it takes; most say 100 or more.
const UNTOLD_STREAMS: usize = 100;
/// Streams that we have reset and keep in mind: more than the other end may have open at a time in most places.
const RESETS_KEPT: usize = 1024;
/// A piece of data below this length counts as if it had it: its bookkeeping is memory, too.
const SMALL: usize = 256;
/// What the PING after a farewell holds.
const FAREWELL: [u8; 8] = *b"farewell";
