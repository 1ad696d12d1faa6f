//! The client's end of a connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::drive::{Driver, READS_PER_TURN, share};
use crate::connection::{Core, Role, Shared};
use crate::error::Error;
use crate::handle::{Handle, RecvStream, SendStream};
use crate::settings::Config;
use crate::stream::keep;

/// What a client's end is to bear.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    config: Config,
}

builder_options!();

impl Builder {
    /// Begins a connection. Nothing is sent before the connection is polled.
    pub fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: T,
    ) -> (SendRequest, Connection<T>) {
        let mut core = Core::new(Role::Client, self.config.clone());
        let opener = core.add_opener();
        let core = share(core);
        let send = SendRequest {
            core: core.clone(),
            opener,
        };
        (send, Connection(Driver::new(io, core)))
    }
}

/// The connection's task: to be polled as long as streams live. It ends by itself when the last handle and stream are
/// gone and all was sent.
#[derive(Debug)]
pub struct Connection<T>(Driver<T>);

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Connection<T> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let driver = &mut self.get_mut().0;
        driver.begin(cx);
        if driver.is_finished() {
            return driver.poll_close(cx);
        }
        let mut reads = 0;
        loop {
            match driver.poll_read(cx) {
                Poll::Ready(Ok(true)) if reads < READS_PER_TURN => reads += 1,
                Poll::Ready(Ok(true)) => {
                    cx.waker().wake_by_ref();
                    break;
                }
                Poll::Ready(Ok(false)) => return Poll::Ready(driver.ended()),
                Poll::Ready(Err(error)) => {
                    driver.cut(cx);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = driver.poll_write(cx) {
            return Poll::Ready(Err(error));
        }
        if driver.is_finished() {
            return driver.poll_close(cx);
        }
        Poll::Pending
    }
}

/// Opens streams. Clones open them on the same connection, which ends when all of them and all streams are gone.
#[derive(Debug)]
pub struct SendRequest {
    core: Shared,
    opener: u64,
}

impl SendRequest {
    /// Waits until a stream may be opened.
    ///
    /// # Errors
    /// The connection is over, or takes no more streams.
    pub fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut core = self.core.borrow_mut();
        match core.may_open() {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => {
                core.wait_to_open(self.opener, cx.waker());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// [`Self::poll_ready`] as a future. What is ready stays so until the next wait of this task.
    ///
    /// # Errors
    /// The connection is over, or takes no more streams.
    pub async fn ready(mut self) -> Result<Self, Error> {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await?;
        Ok(self)
    }

    /// Opens a stream with a request. `end`: it has no body.
    ///
    /// # Errors
    /// The connection is over, has as many streams as the other end takes, or the head is not one of HTTP/2.
    pub fn send_request(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream), Error> {
        let opened = self.core.borrow_mut().open(&request, end);
        let key = opened?;
        let response = ResponseFuture(Some(Handle::new(&self.core, key, true)));
        Ok((response, SendStream(Handle::new(&self.core, key, false))))
    }

    /// Streams that the other end lets us have open at a time.
    #[must_use]
    pub fn current_max_send_streams(&self) -> usize {
        self.core.borrow().max_send_streams()
    }
}

impl Clone for SendRequest {
    fn clone(&self) -> Self {
        let opener = self.core.borrow_mut().add_opener();
        Self {
            core: self.core.clone(),
            opener,
        }
    }
}

impl Drop for SendRequest {
    fn drop(&mut self) {
        self.core.borrow_mut().drop_opener(self.opener);
    }
}

/// The response that is to come.
#[derive(Debug)]
pub struct ResponseFuture(Option<Handle>);

impl ResponseFuture {
    /// Waits for the next interim response (1xx). `None`: there is no more before the final one.
    ///
    /// # Errors
    /// The stream was reset, or the connection is over: then the future says so, too.
    pub fn poll_informational(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Response<()>, Error>>> {
        let Some(handle) = &self.0 else {
            return Poll::Ready(None);
        };
        let mut core = handle.core.borrow_mut();
        let Some(stream) = core.stream_mut(handle.key) else {
            return Poll::Ready(None);
        };
        if let Some(interim) = stream.interims.pop_front() {
            return Poll::Ready(Some(Ok(interim)));
        }
        if stream.head.is_some() {
            return Poll::Ready(None);
        }
        if let Some(error) = &stream.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        keep(&mut stream.reader, cx);
        Poll::Pending
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<RecvStream>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let slot = &mut self.get_mut().0;
        let Some(handle) = slot else {
            return Poll::Ready(Err(Error::misuse("the response was taken already")));
        };
        let head = {
            let mut core = handle.core.borrow_mut();
            let Some(stream) = core.stream_mut(handle.key) else {
                return Poll::Ready(Err(Error::misuse("the stream is gone")));
            };
            // Nobody asked for them.
            stream.interims.clear();
            match (stream.head.take(), &stream.failed) {
                (Some(head), _) => Ok(head),
                (None, Some(error)) => Err(error.clone()),
                (None, None) => {
                    keep(&mut stream.reader, cx);
                    return Poll::Pending;
                }
            }
        };
        Poll::Ready(match (head, slot.take()) {
            (Ok(head), Some(handle)) => Ok(head.map(|()| RecvStream(handle))),
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(Error::misuse("the response was taken already")),
        })
    }
}
