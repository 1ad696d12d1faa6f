//! The server's end of a connection.

use std::task::{Context, Poll, ready};

use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::drive::{Driver, READS_PER_TURN, share};
use crate::connection::{Core, Role};
use crate::error::{Error, Reason};
use crate::handle::{Handle, RecvStream, SendStream};
use crate::settings::Config;

/// What a server's end is to bear.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    config: Config,
}

builder_options!();

impl Builder {
    /// Streams that the client may have open at a time. Default: 100.
    #[must_use]
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.config.max_streams = streams;
        self
    }

    /// Streams that the client may reset before anybody has looked at them (CVE-2023-44487). Default: 20.
    #[must_use]
    pub fn max_pending_accept_reset_streams(mut self, streams: usize) -> Self {
        self.config.pending_resets = streams;
        self
    }

    /// Streams that the client may make us reset within ten seconds (CVE-2025-8671). Default: 256.
    #[must_use]
    pub fn max_local_error_reset_streams(mut self, streams: usize) -> Self {
        self.config.local_resets = streams;
        self
    }

    /// Begins a connection, and waits until the client has begun it, too (RFC 9113 §3.4).
    ///
    /// # Errors
    /// The other end doesn't speak HTTP/2, or the stream below broke.
    ///
    /// # Cancel safety
    /// Not safe: the stream below is dropped.
    pub async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: T,
    ) -> Result<Connection<T>, Error> {
        let core = share(Core::new(Role::Server, self.config.clone()));
        let mut connection = Connection(Driver::new(io, core));
        std::future::poll_fn(|cx| connection.poll_begin(cx)).await?;
        Ok(connection)
    }
}

/// The connection, which lives by being asked for requests.
#[derive(Debug)]
pub struct Connection<T>(Driver<T>);

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let driver = &mut self.0;
        driver.begin(cx);
        if let Poll::Ready(Err(error)) = driver.poll_write(cx) {
            return Poll::Ready(Err(error));
        }
        while !driver.core().borrow().has_begun() {
            match ready!(driver.poll_read(cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(driver.ended()),
                Err(error) => {
                    driver.cut(cx);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the next request; all streams go on only while this is polled. `None`: the connection has ended.
    ///
    /// What a turn brought together is sent when there is no further request, so after each one this must be polled
    /// again.
    ///
    /// # Errors
    /// The client broke the protocol, or the stream below broke.
    #[expect(
        clippy::type_complexity,
        reason = "a request, and where its answer goes"
    )]
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(Request<RecvStream>, SendResponse), Error>>> {
        let driver = &mut self.0;
        driver.begin(cx);
        if driver.is_finished() {
            return driver.poll_close(cx).map(|closed| closed.err().map(Err));
        }
        let mut reads = 0;
        loop {
            let core = driver.core();
            let next = core.borrow_mut().accept();
            if let Some((key, request)) = next {
                let request = request.map(|()| RecvStream(Handle::new(core, key, true)));
                let respond = SendResponse(Handle::new(core, key, false));
                return Poll::Ready(Some(Ok((request, respond))));
            }
            if core.borrow().over().is_some() {
                return Poll::Ready(None);
            }
            if reads == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match driver.poll_read(cx) {
                Poll::Ready(Ok(true)) => reads += 1,
                Poll::Ready(Ok(false)) => {
                    return Poll::Ready(driver.ended().err().map(Err));
                }
                Poll::Ready(Err(error)) => {
                    driver.cut(cx);
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = driver.poll_write(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        if driver.is_finished() {
            return driver.poll_close(cx).map(|closed| closed.err().map(Err));
        }
        Poll::Pending
    }

    /// [`Self::poll_accept`] as a future.
    ///
    /// # Cancel safety
    /// Safe: a request is taken only when it is returned.
    pub async fn accept(&mut self) -> Option<Result<(Request<RecvStream>, SendResponse), Error>> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Says a farewell: streams that are open, and those that were on their way, end as they would have; then the
    /// connection ends (RFC 9113 §6.8).
    pub fn graceful_shutdown(&mut self) {
        self.0.core().borrow_mut().leave();
    }
}

/// Answers a request.
#[derive(Debug)]
pub struct SendResponse(Handle);

impl SendResponse {
    /// Sends an interim response (1xx).
    ///
    /// # Errors
    /// The stream was reset, the connection is over, or the response was sent.
    pub fn send_informational(&mut self, response: Response<()>) -> Result<(), Error> {
        if !response.status().is_informational() {
            return Err(Error::misuse("an interim response has a status of 1xx"));
        }
        let mut core = self.0.core.borrow_mut();
        core.respond(self.0.key, &response, false)
    }

    /// Sends the head of the response. `end`: it has no body.
    ///
    /// # Errors
    /// The stream was reset, the connection is over, or the response was sent.
    pub fn send_response(
        &mut self,
        response: Response<()>,
        end: bool,
    ) -> Result<SendStream, Error> {
        if response.status().is_informational() {
            return Err(Error::misuse("an interim response is not the answer"));
        }
        let sent = (self.0.core.borrow_mut()).respond(self.0.key, &response, end);
        sent?;
        let handle = Handle::new(&self.0.core, self.0.key, false);
        Ok(SendStream(handle))
    }

    /// Ends the stream in both directions.
    pub fn send_reset(&mut self, reason: Reason) {
        self.0.reset(reason);
    }

    /// Waits until the client resets the stream.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<Result<Reason, Error>> {
        self.0.poll_reset(cx)
    }
}
