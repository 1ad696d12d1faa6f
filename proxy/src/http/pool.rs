//! Connections that take requests: HTTP/1.1 ones that are kept between requests, HTTP/2 ones that carry many.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use vouchsafe_config::proxy::Limits;
use vouchsafe_http2::client::SendRequest;

use crate::http1::wire::{Reader, Writer, split};
use crate::http2;
use crate::io::Io;
use crate::reason::Reason;
use crate::registry::live::{Live, StreamGuard};
use crate::worker::Registered;

/// An HTTP/1.1 connection to whoever serves requests.
#[derive(Debug)]
pub(crate) struct Http1Upstream {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// Whether it carried a request before.
    pub(crate) reused: bool,
    pub(crate) held: Held,
    home: Option<Rc<Http1Pool>>,
}

/// What must live as long as a connection, and by which it is judged when it is taken again.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Its entry in the registry, where the other end is a peer.
    pub(crate) registered: Option<Registered>,
    /// Epoch of the identity that it was opened with.
    pub(crate) epoch: u64,
    /// Keeps a stream of a lane, where that is what carries it.
    pub(crate) _lane: Option<(Rc<dyn std::fmt::Debug>, StreamGuard)>,
}

impl Http1Upstream {
    pub(crate) fn new(io: Io, held: Held, home: Option<Rc<Http1Pool>>) -> Self {
        let (reader, writer) = split(io);
        Self {
            reader,
            writer,
            reused: false,
            held,
            home,
        }
    }

    /// Keeps the connection for the next request.
    pub(crate) fn release(mut self: Box<Self>) {
        self.reader.rest();
        self.writer.rest();
        self.reused = true;
        if let Some(home) = self.home.clone() {
            home.put(self);
        }
    }

    fn is_good(&mut self, epoch: u64) -> bool {
        let draining = self.live().is_some_and(Live::is_draining);
        self.held.epoch == epoch && !draining && self.reader.is_quiet()
    }

    /// Its entry in the registry, where the other end is a peer.
    pub(crate) fn live(&self) -> Option<&Live> {
        let registered = self.held.registered.as_ref()?;
        Some(&registered.registration.live)
    }
}

/// Idle HTTP/1.1 connections to one destination.
#[derive(Debug, Default)]
pub(crate) struct Http1Pool {
    /// Boxed as they are in use, so that none is moved.
    idle: RefCell<Vec<(Instant, Box<Http1Upstream>)>>,
}

impl Http1Pool {
    /// The connection that was used last, if it is still good.
    pub(crate) fn take(&self, epoch: u64) -> Option<Box<Http1Upstream>> {
        loop {
            let (_, mut upstream) = self.idle.borrow_mut().pop()?;
            if upstream.is_good(epoch) {
                return Some(upstream);
            }
        }
    }

    fn put(&self, upstream: Box<Http1Upstream>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push((Instant::now(), upstream));
        }
    }

    /// Whether no connection is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    /// Closes what may not be used any more, telling why it was cut, and what nobody has used for a while.
    pub(crate) fn sweep(&self, was_cut: impl Fn(Reason)) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(_, upstream)| {
            let live = upstream.live();
            if let Some(why) = live.and_then(Live::why_cut) {
                was_cut(why.reason);
            }
            !live.is_some_and(Live::is_draining)
        });
        // Oldest first, because connections are taken and put at the end.
        let old = idle.partition_point(|(since, _)| since.elapsed() > IDLE);
        idle.drain(..old);
    }
}

/// An HTTP/2 connection and a place on it.
#[derive(Debug)]
pub(crate) struct Http2Upstream {
    pub(crate) send: SendRequest,
    /// Keeps the connection and counts the stream.
    pub(crate) held: (Rc<dyn CloseLane>, Option<StreamGuard>),
}

/// A connection that can be taken out of use.
pub(crate) trait CloseLane: std::fmt::Debug {
    /// Nobody gets a stream on it any more.
    fn close(&self);
}

/// HTTP/2 connections to the local application.
#[derive(Debug, Default)]
pub(crate) struct Http2Pool {
    lanes: RefCell<Vec<Rc<PlainLane>>>,
    opening: tokio::sync::Mutex<()>,
}

/// A plaintext HTTP/2 connection.
#[derive(Debug)]
struct PlainLane {
    send: SendRequest,
    closed: Rc<Cell<bool>>,
}

impl CloseLane for PlainLane {
    fn close(&self) {
        self.closed.set(true);
    }
}

impl Http2Pool {
    /// A place on a connection; `open` makes the stream for a new one.
    ///
    /// # Errors
    /// Those of `open`.
    pub(crate) async fn take<E>(
        &self,
        limits: &Limits,
        open: impl Future<Output = Result<Io, E>>,
    ) -> Result<Http2Upstream, E> {
        if let Some(lane) = self.usable() {
            return Ok(lane);
        }
        // Boxed: rare.
        Box::pin(self.open(limits, open)).await
    }

    async fn open<E>(
        &self,
        limits: &Limits,
        open: impl Future<Output = Result<Io, E>>,
    ) -> Result<Http2Upstream, E> {
        let _opening = self.opening.lock().await;
        if let Some(lane) = self.usable() {
            return Ok(lane);
        }
        let io = open.await?;
        let (send, connection) = http2::connect(io, limits);
        let closed = Rc::new(Cell::new(false));
        // Ends by itself, after what is still to be sent, when the last handle and stream are gone.
        tokio::task::spawn_local({
            let closed = Rc::clone(&closed);
            async move {
                // How the connection ended is seen by its streams.
                let _ = connection.await;
                closed.set(true);
            }
        });
        let lane = Rc::new(PlainLane { send, closed });
        self.lanes.borrow_mut().push(Rc::clone(&lane));
        Ok(upstream(lane))
    }

    /// Whether no stream is open, nor a connection being opened.
    pub(crate) fn is_idle(&self) -> bool {
        let lanes = self.lanes.borrow();
        self.opening.try_lock().is_ok() && lanes.iter().all(|lane| Rc::strong_count(lane) == 1)
    }

    fn usable(&self) -> Option<Http2Upstream> {
        let mut lanes = self.lanes.borrow_mut();
        lanes.retain(|lane| !lane.closed.get());
        // Each stream holds the lane once, and so does this list.
        let free = lanes.iter().find(|lane| {
            let streams = lane.send.current_max_send_streams().min(MAX_STREAMS);
            Rc::strong_count(lane) <= streams
        });
        free.map(|lane| upstream(Rc::clone(lane)))
    }
}

fn upstream(lane: Rc<PlainLane>) -> Http2Upstream {
    Http2Upstream {
        send: lane.send.clone(),
        held: (lane, None),
    }
}

/// Streams of one connection to the application, whatever it would admit.
///
/// Servers bound what one connection may hold in small DATA frames that nobody has read (in the `h2` crate half the
/// connection window), and end the connection for all its streams when it holds more; 100 is what most servers announce.
const MAX_STREAMS: usize = 100;
/// Idle connections to one destination and worker.
const MAX_IDLE: usize = 256;
/// Shorter than the five seconds after which Node closes a silent connection, the shortest of the common servers.
const IDLE: Duration = Duration::from_secs(3);
