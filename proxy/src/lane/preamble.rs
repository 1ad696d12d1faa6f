//! The first bytes of a dedicated lane: for which port the flow is, and what flows.
//!
//! ```text
//! version u8 (1) | length u8 (of all that follows) | protocol u8 | port number u16be | port name (1..=63 bytes)
//! ```
//! Before it may stand one byte of 2, and then the frames of [`crate::lane::control::message`] up to `Done`: where a strict
//! rule wants keys proven over the connection. Who does not know that refuses, as a strict rule wants it.
//!
//! At most 68 bytes, so a reader needs no budget of its own. Anything that is not exactly this is refused; a later
//! version may only be sent to a peer that offered another ALPN.

use vouchsafe_attestation::name::{Name, ParseNameError};

/// What flows after a preamble, or in a CONNECT stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlowProtocol {
    /// Bytes.
    Tcp,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl FlowProtocol {
    /// The word in a CONNECT stream.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }

    /// The protocol that a word names.
    pub(crate) fn from_word(word: &[u8]) -> Option<Self> {
        [Self::Tcp, Self::Http1, Self::Http2]
            .into_iter()
            .find(|protocol| protocol.as_str().as_bytes() == word)
    }

    fn code(self) -> u8 {
        match self {
            Self::Tcp => 1,
            Self::Http1 => 2,
            Self::Http2 => 3,
        }
    }
}

/// For which port a flow is, and what flows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Preamble {
    /// What flows.
    pub protocol: FlowProtocol,
    /// Name of the port in the Workload document.
    pub port: Name,
    /// Its number: tells the ports of a range apart.
    pub number: u16,
}

/// What the bytes read so far are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// A beginning; read more.
    Incomplete,
    /// A preamble of so many bytes; what follows belongs to the flow.
    Complete(Preamble, usize),
}

impl Preamble {
    /// Longest encoding in bytes.
    pub const MAX_BYTES: usize = HEAD_BYTES + FIXED_BYTES + Name::MAX_BYTES;

    /// The wire form.
    pub fn encode(&self) -> Vec<u8> {
        let name = self.port.as_str().as_bytes();
        // A name has at most 63 bytes, so the length always fits.
        let length = u8::try_from(FIXED_BYTES + name.len()).unwrap_or(u8::MAX);
        let mut out = Vec::with_capacity(Self::MAX_BYTES);
        out.extend([VERSION, length, self.protocol.code()]);
        out.extend(self.number.to_be_bytes());
        out.extend(name);
        out
    }

    /// Reads a preamble from the beginning of a flow.
    ///
    /// # Errors
    /// [`PreambleError`] as soon as the bytes can't become a preamble.
    pub fn parse(bytes: &[u8]) -> Result<Parsed, PreambleError> {
        let Some((&version, rest)) = bytes.split_first() else {
            return Ok(Parsed::Incomplete);
        };
        if version != VERSION {
            return Err(PreambleError::Version(version));
        }
        let Some((&length, rest)) = rest.split_first() else {
            return Ok(Parsed::Incomplete);
        };
        let length = usize::from(length);
        if length <= FIXED_BYTES || length > FIXED_BYTES + Name::MAX_BYTES {
            return Err(PreambleError::Length(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(Parsed::Incomplete);
        };
        let preamble = Self::parse_body(body).ok_or(PreambleError::Length(length))??;
        Ok(Parsed::Complete(preamble, HEAD_BYTES + length))
    }

    /// `None` where the body is shorter than its fixed part, which [`Self::parse`] rules out.
    fn parse_body(body: &[u8]) -> Option<Result<Self, PreambleError>> {
        let (&[code, high, low], name) = body.split_first_chunk::<FIXED_BYTES>()?;
        let protocol = match code {
            1 => FlowProtocol::Tcp,
            2 => FlowProtocol::Http1,
            3 => FlowProtocol::Http2,
            other => return Some(Err(PreambleError::Protocol(other))),
        };
        let port = std::str::from_utf8(name)
            .map_err(|_| PreambleError::Text)
            .and_then(|name| Ok(name.parse()?));
        Some(port.map(|port| Self {
            protocol,
            port,
            number: u16::from_be_bytes([high, low]),
        }))
    }
}

/// Why bytes are not a preamble.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PreambleError {
    /// Of a version that this build does not read.
    #[error("preamble of version {0}, this build reads version 1")]
    Version(u8),
    /// Shorter or longer than any preamble.
    #[error("a preamble can't have {0} bytes")]
    Length(usize),
    /// No protocol has this code.
    #[error("{0} is no protocol of a flow")]
    Protocol(u8),
    /// The name is not text.
    #[error("the port's name is not UTF-8")]
    Text,
    /// The name is not a name.
    #[error("the port's name is not a name")]
    Name(#[from] ParseNameError),
}

/// Begins an exchange of proofs before the preamble.
pub(crate) const PROOFS: u8 = 2;
const VERSION: u8 = 1;
/// Version and length.
const HEAD_BYTES: usize = 2;
/// Protocol and port number.
const FIXED_BYTES: usize = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn preamble() -> Preamble {
        Preamble {
            protocol: FlowProtocol::Http1,
            port: "kv-cache".parse().unwrap(),
            number: 5007,
        }
    }

    #[test]
    fn every_prefix_is_incomplete_and_never_a_preamble() {
        let bytes = preamble().encode();
        for end in 0..bytes.len() {
            assert_eq!(
                Preamble::parse(&bytes[..end]),
                Ok(Parsed::Incomplete),
                "{end}"
            );
        }
    }

    #[test]
    fn what_follows_belongs_to_the_flow() {
        let mut bytes = preamble().encode();
        let length = bytes.len();
        bytes.extend(b"GET / HTTP/1.1\r\n");
        assert_eq!(
            Preamble::parse(&bytes),
            Ok(Parsed::Complete(preamble(), length))
        );
    }

    #[test]
    fn each_broken_field_is_refused() {
        let refused = |at: usize, value: u8, error: PreambleError| {
            let mut bytes = preamble().encode();
            bytes[at] = value;
            assert_eq!(Preamble::parse(&bytes), Err(error));
        };
        refused(0, 2, PreambleError::Version(2));
        refused(1, 3, PreambleError::Length(3));
        refused(1, 67, PreambleError::Length(67));
        refused(2, 9, PreambleError::Protocol(9));
        refused(5, 0xff, PreambleError::Text);
        refused(5, b'A', PreambleError::Name(ParseNameError::Character('A')));
    }

    proptest! {
        #[test]
        fn a_preamble_survives_the_wire(name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", number: u16, code in 0_usize..3) {
            let preamble = Preamble {
                protocol: [FlowProtocol::Tcp, FlowProtocol::Http1, FlowProtocol::Http2][code],
                port: name.parse().unwrap(),
                number,
            };
            let bytes = preamble.encode();
            prop_assert!(bytes.len() <= Preamble::MAX_BYTES);
            prop_assert_eq!(Preamble::parse(&bytes), Ok(Parsed::Complete(preamble, bytes.len())));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(Parsed::Complete(preamble, length)) = Preamble::parse(&bytes) {
                prop_assert_eq!(preamble.encode(), &bytes[..length]);
            }
        }
    }
}
