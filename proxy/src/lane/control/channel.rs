//! Messages on a byte stream.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::io::Io;
use crate::lane::control::message::{Message, MessageError, Parsed};

/// A byte stream that carries messages.
#[derive(Debug)]
pub(crate) struct Channel<'a> {
    io: &'a mut Io,
    received: BytesMut,
    /// How long the other end may take to answer, and to read what is sent.
    deadline: Duration,
}

impl<'a> Channel<'a> {
    pub(crate) fn new(io: &'a mut Io, deadline: Duration) -> Self {
        Self {
            io,
            received: BytesMut::new(),
            deadline,
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The stream broke, the other end does not read, or the message is larger than a frame.
    pub(crate) async fn send(&mut self, message: &Message) -> Result<(), ChannelError> {
        let frame = message.encode()?;
        let sent = async {
            self.io.write_all(&frame).await?;
            self.io.flush().await
        };
        let sent = tokio::time::timeout(self.deadline, sent).await;
        Ok(sent.map_err(|_| ChannelError::Late)??)
    }

    /// Receives a message, however long it takes.
    ///
    /// # Errors
    /// The stream ended or broke, or holds no message.
    ///
    /// # Cancel safety
    /// Safe: what was read stays for the next call.
    pub(crate) async fn receive(&mut self) -> Result<Message, ChannelError> {
        loop {
            if let Parsed::Complete(message, length) = Message::parse(&self.received)? {
                self.received.advance(length);
                return Ok(*message);
            }
            // Longer than any message it never gets: a whole frame parses or fails.
            if self.io.read_buf(&mut self.received).await? == 0 {
                return Err(ChannelError::Ended);
            }
        }
    }

    /// Receives a message that is due.
    ///
    /// # Errors
    /// As [`Channel::receive`], and when it does not come in time.
    pub(crate) async fn receive_by(&mut self, due: Instant) -> Result<Message, ChannelError> {
        let received = tokio::time::timeout_at(due, self.receive()).await;
        received.unwrap_or(Err(ChannelError::Late))
    }

    /// When an answer to what is asked now is due.
    pub(crate) fn due(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// What was received after the last message.
    pub(crate) fn into_rest(self) -> Bytes {
        self.received.freeze()
    }
}

/// Why a control stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The other end closed it.
    #[error("the other end closed the control stream")]
    Ended,
    /// An answer did not come in time, or nobody read what was sent.
    #[error("the other end did not answer in time")]
    Late,
    /// A message came that is not due.
    #[error("the other end broke the order of the control stream")]
    Order,
    /// Too many proofs failed.
    #[error("the other end sent too many proofs that fail")]
    Refusals,
    /// More signatures were asked for than a connection is worth.
    #[error("the other end asks for more proofs than it may")]
    Budget,
    /// A message can't be read or written.
    #[error("a message can't be read or written")]
    Message(#[from] MessageError),
    /// The stream broke.
    #[error("the control stream broke")]
    Io(#[from] std::io::Error),
}
