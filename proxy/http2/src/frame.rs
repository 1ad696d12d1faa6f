//! Frames: their nine bytes of header, read and written (RFC 9113 §4.1 and §6).

use crate::error::{Cause, Fault, Reason};

/// A frame's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Header {
    /// The frame header at the beginning of `bytes`, and what follows it.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        let header = Self {
            length: usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2),
            kind,
            flags,
            // The first bit is reserved and means nothing (§4.1).
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_STREAM_ID,
        };
        Some((header, rest))
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The header as bytes; a length has 24 bits.
    pub(crate) fn bytes(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER_BYTES] {
        let [.., l0, l1, l2] = length.to_be_bytes();
        let [s0, s1, s2, s3] = stream.to_be_bytes();
        [l0, l1, l2, kind, flags, s0, s1, s2, s3]
    }
}

/// What a DATA or HEADERS frame holds without its padding (§6.1).
pub(crate) fn unpad(header: Header, payload: &[u8]) -> Result<&[u8], Fault> {
    if !header.has(PADDED) {
        return Ok(payload);
    }
    let Some((&padding, rest)) = payload.split_first() else {
        return Err(frame_size());
    };
    rest.len()
        .checked_sub(usize::from(padding))
        .and_then(|length| rest.get(..length))
        .ok_or(Fault::protocol(Cause::Padding))
}

/// The stream that a priority makes its stream depend on, and what follows.
pub(crate) fn priority(payload: &[u8]) -> Result<(u32, &[u8]), Fault> {
    let (&[a, b, c, d, _weight], rest) = payload.split_first_chunk().ok_or(frame_size())?;
    Ok((u32::from_be_bytes([a, b, c, d]) & MAX_STREAM_ID, rest))
}

/// The one 32-bit number that a frame holds.
pub(crate) fn number(payload: &[u8]) -> Result<u32, Fault> {
    <[u8; 4]>::try_from(payload)
        .map(u32::from_be_bytes)
        .map_err(|_| frame_size())
}

pub(crate) fn frame_size() -> Fault {
    Fault::Connection(Reason::FRAME_SIZE_ERROR, Cause::FrameSize)
}

/// Appends a RST_STREAM.
pub(crate) fn reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    out.extend_from_slice(&Header::bytes(4, RST_STREAM, 0, stream));
    out.extend_from_slice(&u32::from(reason).to_be_bytes());
}

/// Appends a WINDOW_UPDATE.
pub(crate) fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    out.extend_from_slice(&Header::bytes(4, WINDOW_UPDATE, 0, stream));
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Appends a PING.
pub(crate) fn ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    out.extend_from_slice(&Header::bytes(payload.len(), PING, flags, 0));
    out.extend_from_slice(&payload);
}

/// Appends a GOAWAY.
pub(crate) fn go_away(out: &mut Vec<u8>, last: u32, reason: Reason, why: &str) {
    out.extend_from_slice(&Header::bytes(8 + why.len(), GOAWAY, 0, 0));
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&u32::from(reason).to_be_bytes());
    out.extend_from_slice(why.as_bytes());
}

pub(crate) const HEADER_BYTES: usize = 9;
pub(crate) const MAX_STREAM_ID: u32 = u32::MAX >> 1;
/// What the client's side of a connection begins with (§3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIORITIZED: u8 = 0x20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_without_the_reserved_bit() {
        let bytes = Header::bytes(0x01_02_03, DATA, END_STREAM, 7 | 1 << 31);
        let (header, rest) = Header::parse(&bytes).unwrap();
        let expected = Header {
            length: 0x01_02_03,
            kind: DATA,
            flags: END_STREAM,
            stream: 7,
        };
        assert_eq!((header, rest), (expected, &[][..]));
        for length in 0..HEADER_BYTES {
            assert!(Header::parse(&bytes[..length]).is_none());
        }
    }

    #[test]
    fn padding_must_fit_its_frame() {
        #[track_caller]
        fn check(payload: &[u8], expected: Result<&[u8], Fault>) {
            let header = Header {
                length: payload.len(),
                kind: DATA,
                flags: PADDED,
                stream: 1,
            };
            assert_eq!(unpad(header, payload), expected);
        }
        check(&[0, 1, 2], Ok(&[1, 2]));
        check(&[1, 1, 0], Ok(&[1]));
        check(&[2, 0, 0], Ok(&[]));
        check(&[3, 0, 0], Err(Fault::protocol(Cause::Padding)));
        check(&[], Err(frame_size()));
    }
}
