//! One request or flow that policy admitted: what is needed to judge it again, and the way to end it alone.
//!
//! # Why
//! A stream lies in a slot of the connection whose peer it is judged by. A slot costs no allocation once the connection
//! has carried as many streams before, and is found again by those who cut it without an index of streams.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use vouchsafe_attestation::name::Name;
use vouchsafe_config::policy::{self, DenyReason, normalize_path};

use crate::http::head::Asked;
use crate::reason::Why;
use crate::registry::admission::Admission;
use crate::registry::live::Live;

/// What a request or flow asks for, as far as policy may look at it.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// `None` until it is known.
    pub(crate) port: Option<Name>,
    /// Number of that port: tells the ports of a range apart.
    pub(crate) number: u16,
    /// `None` for a flow.
    pub(crate) asked: Option<Asked>,
    /// Whether a request is gRPC.
    pub(crate) is_grpc: bool,
}

impl Facts {
    /// Calls with the request as policy sees it; `None` for a flow.
    pub(super) fn with_request<R>(
        &self,
        judge: impl FnOnce(Option<&policy::Request<'_>>) -> R,
    ) -> R {
        let Some(asked) = &self.asked else {
            return judge(None);
        };
        // It was normalised before it was judged first; a path that can't be then reads as one that no rule admits.
        let path = normalize_path(asked.path()).unwrap_or_default();
        judge(Some(&policy::Request {
            method: asked.method(),
            path: &path,
            grpc: self.is_grpc,
        }))
    }
}

/// A request or flow that policy admitted, for as long as it is open.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) facts: Facts,
    /// What admits it.
    pub(crate) admission: Rc<Admission>,
    /// Where only `audit` admits it: what policy would say.
    pub(crate) audited: Option<DenyReason>,
    /// Why it must end.
    pub(crate) cut: Option<Why>,
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(
        facts: Facts,
        admission: Rc<Admission>,
        audited: Option<DenyReason>,
        cut: Option<Why>,
    ) -> Self {
        Self {
            facts,
            admission,
            audited,
            cut,
            waker: None,
        }
    }

    /// Tells whoever carries the stream to end it. The first cause counts.
    pub(super) fn cut(&mut self, why: &Why) {
        if self.cut.is_none() {
            self.cut = Some(why.clone());
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

/// Keeps a stream registered until it is closed or dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    on: Rc<Live>,
    key: usize,
    is_closed: bool,
}

impl Ticket {
    pub(super) fn new(on: Rc<Live>, key: usize) -> Self {
        Self {
            on,
            key,
            is_closed: false,
        }
    }

    /// Why the stream must end, if it must.
    pub(crate) fn why_cut(&self) -> Option<Why> {
        let open = self.on.open.borrow();
        open.get(self.key).and_then(|stream| stream.cut.clone())
    }

    /// Waits until the stream must end. To be dropped before the ticket is.
    pub(crate) fn cut(&self) -> Cut {
        Cut(Some((Rc::clone(&self.on), self.key)))
    }

    /// Takes the stream, which has ended, out of the registry.
    pub(crate) fn close(mut self) -> Option<Stream> {
        self.is_closed = true;
        self.on.open.borrow_mut().try_remove(self.key)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_closed {
            self.on.open.borrow_mut().try_remove(self.key);
        }
    }
}

/// Ready when a stream must end; never for what is not registered.
#[derive(Debug)]
pub(crate) struct Cut(Option<(Rc<Live>, usize)>);

impl Cut {
    /// Of nothing.
    pub(crate) fn never() -> Self {
        Self(None)
    }
}

impl Future for Cut {
    type Output = Why;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Why> {
        let Some((on, key)) = &self.0 else {
            return Poll::Pending;
        };
        let mut open = on.open.borrow_mut();
        let Some(stream) = open.get_mut(*key) else {
            return Poll::Pending;
        };
        if let Some(why) = &stream.cut {
            return Poll::Ready(why.clone());
        }
        // Polled with each piece of the stream, nearly always by the task that it was polled by before.
        match &stream.waker {
            Some(held) if held.will_wake(cx.waker()) => {}
            _ => stream.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
