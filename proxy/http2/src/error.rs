//! What ends a stream or a connection, and which rule it broke.

use std::fmt;
use std::io;

/// An error code of HTTP/2 (RFC 9113 §7).
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Reason(u32);

impl Reason {
    /// No error: a graceful end.
    pub const NO_ERROR: Self = Self(0);
    /// The protocol was broken.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// The end that says it failed.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// More was sent than the window allows.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// Settings were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(4);
    /// A frame came for a stream that is over.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame has a length that its kind forbids.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// The stream was not looked at.
    pub const REFUSED_STREAM: Self = Self(7);
    /// The stream is not needed any more.
    pub const CANCEL: Self = Self(8);
    /// Header compression is out of step.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The connection behind a CONNECT broke.
    pub const CONNECT_ERROR: Self = Self(10);
    /// The other end asks for too much work.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
    /// The transport is not safe enough.
    pub const INADEQUATE_SECURITY: Self = Self(12);
    /// The request must be made over HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Self = Self(13);

    fn word(self) -> Option<&'static str> {
        Some(match self {
            Self::NO_ERROR => "NO_ERROR",
            Self::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Self::INTERNAL_ERROR => "INTERNAL_ERROR",
            Self::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            Self::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
            Self::STREAM_CLOSED => "STREAM_CLOSED",
            Self::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            Self::REFUSED_STREAM => "REFUSED_STREAM",
            Self::CANCEL => "CANCEL",
            Self::COMPRESSION_ERROR => "COMPRESSION_ERROR",
            Self::CONNECT_ERROR => "CONNECT_ERROR",
            Self::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            Self::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
            Self::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
            _ => return None,
        })
    }
}

impl From<u32> for Reason {
    fn from(code: u32) -> Self {
        Self(code)
    }
}

impl From<Reason> for u32 {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word() {
            Some(word) => f.write_str(word),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which rule was broken, or who wanted the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cause {
    /// The other end said so.
    Peer,
    /// This end wanted it.
    Wanted,
    Preface,
    FrameSize,
    StreamId,
    ClosedStream,
    Push,
    Padding,
    Window,
    Settings,
    Priority,
    Continuation,
    Compression,
    Malformed,
    ContentLength,
    HeadTooLarge,
    TooManyStreams,
    TooManyInterims,
    FullOutput,
    ControlFlood,
    ContinuationFlood,
    RapidReset,
    ResetFlood,
    SmallData,
    UnreadReplies,
    StreamIdsUsedUp,
}

impl Cause {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Wanted => "wanted",
            Self::Preface => "preface",
            Self::FrameSize => "frame_size",
            Self::StreamId => "stream_id",
            Self::ClosedStream => "closed_stream",
            Self::Push => "push",
            Self::Padding => "padding",
            Self::Window => "window",
            Self::Settings => "settings",
            Self::Priority => "priority",
            Self::Continuation => "continuation",
            Self::Compression => "compression",
            Self::Malformed => "malformed",
            Self::ContentLength => "content_length",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyStreams => "too_many_streams",
            Self::TooManyInterims => "too_many_interims",
            Self::FullOutput => "full_output",
            Self::ControlFlood => "control_flood",
            Self::ContinuationFlood => "continuation_flood",
            Self::RapidReset => "rapid_reset",
            Self::ResetFlood => "reset_flood",
            Self::SmallData => "small_data",
            Self::UnreadReplies => "unread_replies",
            Self::StreamIdsUsedUp => "stream_ids_used_up",
        }
    }
}

/// What a received frame breaks: its stream alone, or the connection (RFC 9113 §5.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Stream(u32, Reason, Cause),
    Connection(Reason, Cause),
}

impl Fault {
    pub(crate) fn protocol(cause: Cause) -> Self {
        Self::Connection(Reason::PROTOCOL_ERROR, cause)
    }

    pub(crate) fn abuse(cause: Cause) -> Self {
        Self::Connection(Reason::ENHANCE_YOUR_CALM, cause)
    }
}

/// Why a stream or a connection is over.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] Kind);

#[derive(Clone, Debug, thiserror::Error)]
enum Kind {
    #[error("the stream was reset with {0} (`{word}`)", word = .1.as_str())]
    Reset(Reason, Cause),
    #[error("the connection was ended with {0} (`{word}`)", word = .1.as_str())]
    GoAway(Reason, Cause),
    #[error("the connection below broke: {0}")]
    Io(io::ErrorKind),
    #[error("wrong use of a stream: {0}")]
    Misuse(&'static str),
}

impl Error {
    pub(crate) fn reset(reason: Reason, cause: Cause) -> Self {
        Self(Kind::Reset(reason, cause))
    }

    pub(crate) fn go_away(reason: Reason, cause: Cause) -> Self {
        Self(Kind::GoAway(reason, cause))
    }

    pub(crate) fn io(kind: io::ErrorKind) -> Self {
        Self(Kind::Io(kind))
    }

    pub(crate) fn misuse(what: &'static str) -> Self {
        Self(Kind::Misuse(what))
    }

    /// The error code, where one was said.
    pub fn reason(&self) -> Option<Reason> {
        match self.0 {
            Kind::Reset(reason, _) | Kind::GoAway(reason, _) => Some(reason),
            Kind::Io(_) | Kind::Misuse(_) => None,
        }
    }

    /// Which rule was broken, in one word of a closed set; `peer` where the other end ended it, `wanted` where we did.
    pub fn cause(&self) -> &'static str {
        match self.0 {
            Kind::Reset(_, cause) | Kind::GoAway(_, cause) => cause.as_str(),
            Kind::Io(_) => "io",
            Kind::Misuse(_) => "misuse",
        }
    }

    /// Whether the whole connection was ended, by a GOAWAY of either end.
    pub fn is_go_away(&self) -> bool {
        matches!(self.0, Kind::GoAway(..))
    }

    /// Whether the request was not looked at, so that it may be sent again (RFC 9113 §8.7).
    pub fn is_refused(&self) -> bool {
        matches!(
            self.0,
            Kind::GoAway(_, Cause::Peer | Cause::StreamIdsUsedUp)
                | Kind::Reset(Reason::REFUSED_STREAM, Cause::Peer | Cause::TooManyStreams)
        )
    }

    /// Whether the stream alone was reset.
    pub fn is_reset(&self) -> bool {
        matches!(self.0, Kind::Reset(..))
    }

    /// Whether the connection below broke.
    pub fn is_io(&self) -> bool {
        matches!(self.0, Kind::Io(_))
    }

    /// Whether the other end said it.
    pub fn is_remote(&self) -> bool {
        matches!(
            self.0,
            Kind::Reset(_, Cause::Peer) | Kind::GoAway(_, Cause::Peer)
        )
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error.0 {
            Kind::Io(kind) => kind.into(),
            Kind::Reset(..) | Kind::GoAway(..) | Kind::Misuse(_) => {
                Self::new(io::ErrorKind::ConnectionReset, error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_code_and_rule() {
        let error = Error::go_away(Reason::ENHANCE_YOUR_CALM, Cause::ControlFlood);
        assert_eq!(
            error.to_string(),
            "the connection was ended with ENHANCE_YOUR_CALM (`control_flood`)"
        );
        assert_eq!(error.cause(), "control_flood");
        assert!(error.is_go_away() && !error.is_remote());
        assert_eq!(Reason::from(0xbeef).to_string(), "0xbeef");
    }

    #[test]
    fn a_reset_stays_recognisable_as_an_error_of_a_byte_stream() {
        let error = io::Error::from(Error::reset(Reason::CANCEL, Cause::Peer));
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let inner: &Error = error.get_ref().unwrap().downcast_ref().unwrap();
        assert_eq!(inner.reason(), Some(Reason::CANCEL));
    }
}
