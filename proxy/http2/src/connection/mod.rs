//! The state of a connection, shared by its task and the handles of its streams; all on one thread.
//!
//! Handles put frames into the output or take what came, and wake the task, which alone reads and writes the stream
//! below ([`drive`]). What comes is judged in [`receive`] and, by kind, in [`data`], [`heads`] and [`control`]; what goes is
//! cut into frames in [`send`]; [`ending`] ends it all.

mod control;
mod data;
pub(crate) mod drive;
mod ending;
mod heads;
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
use crate::stream::{Receiving, Stream};

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
    /// The highest of those that fell out of that list.
    reset_below: u32,
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
    openers: usize,
    waiting_openers: Vec<(u64, Waker)>,
    next_opener: u64,
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
            reset_below: 0,
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
            next_opener: 0,
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
        Ok(self.active < self.peer.max_streams && !self.is_full())
    }

    /// Whether so much waits for an end that does not read it that no more streams may add to it: heads have no windows.
    fn is_full(&self) -> bool {
        self.out.len() > FULL_OUTPUT
    }

    /// A new handle that may open streams, by number.
    pub(crate) fn add_opener(&mut self) -> u64 {
        self.openers += 1;
        self.next_opener += 1;
        self.next_opener
    }

    /// A handle that may open streams is gone.
    pub(crate) fn drop_opener(&mut self, opener: u64) {
        self.openers -= 1;
        self.waiting_openers
            .retain(|(waiting, _)| *waiting != opener);
        if self.openers == 0 {
            self.wake();
        }
    }

    /// Has the task of a handle woken when a stream may be opened again.
    pub(crate) fn wait_to_open(&mut self, opener: u64, waker: &Waker) {
        let mut waiting = self.waiting_openers.iter_mut();
        match waiting.find(|(waiting, _)| *waiting == opener) {
            Some((_, kept)) => kept.clone_from(waker),
            None => self.waiting_openers.push((opener, waker.clone())),
        }
    }

    pub(super) fn wake_openers(&mut self) {
        let waiting = self.waiting_openers.drain(..);
        waiting.for_each(|(_, waker)| waker.wake());
    }

    /// Gives window back to the connection.
    pub(super) fn release_connection(&mut self, bytes: u32) {
        if let Some(more) = self.recv_window.release(bytes)
            && more > 0
            && self.over.is_none()
        {
            frame::window_update(self.out.tail(), 0, more);
            self.replies += frame::HEADER_BYTES + 4;
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

impl Core {
    /// Takes note of what was written, in bytes.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.budget.sent(bytes);
        // What has left can't be unread; where more has left than answers, they count as the first of it.
        self.replies = self.replies.saturating_sub(bytes).min(self.out.len());
        // Others wait for streams to end, which wakes them by itself.
        if !self.is_full() && self.out.len() + bytes > FULL_OUTPUT {
            self.wake_openers();
        }
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
/// A piece of data below this length counts as if it had it: its bookkeeping is memory, too.
const SMALL: usize = 256;
/// What the PING after a farewell holds.
const FAREWELL: [u8; 8] = *b"farewell";
/// Bytes that wait to be sent, from which on no stream is opened or taken any more (heads are what CVE-2019-9517 is with
/// windows that are honoured).
const FULL_OUTPUT: usize = 1024 * 1024;
