//! Message bodies (RFC 9112 §6 and §7): length-delimited, chunked, or until the connection ends. Pure.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, and perhaps trailers.
    Chunked,
    /// Everything until the connection ends; responses only.
    UntilClose,
}

/// Reads the body of one message out of the bytes that follow its head.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
}

#[derive(Debug)]
enum State {
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// What a decoder made of the bytes.
#[derive(Debug, Eq, PartialEq)]
pub enum Decoded {
    /// Nothing yet; read more.
    NeedMore,
    /// A piece of the body.
    Data(Bytes),
    /// The end, with trailers where there were any.
    End(Option<HeaderMap>),
}

impl BodyDecoder {
    /// A decoder for a body of this framing.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the whole body was read.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes of the body that follow as they are, with nothing between them.
    pub(crate) fn plain_left(&self) -> u64 {
        match self.state {
            State::Length(left) => left,
            State::UntilClose => u64::MAX,
            _ => 0,
        }
    }

    /// Takes in that so many bytes of [`Self::plain_left`] were passed on.
    pub(crate) fn passed(&mut self, bytes: usize) {
        if let State::Length(left) = self.state {
            let left = left.saturating_sub(bytes as u64);
            self.state = if left == 0 {
                State::Done
            } else {
                State::Length(left)
            };
        }
    }

    /// Takes as much as can be understood from the front of `buf`.
    ///
    /// # Errors
    /// [`BodyError`]; the connection can't be used any more.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End(None)),
                State::Length(left) => return Ok(self.counted(buf, left, State::Length)),
                State::ChunkData(left) => return Ok(self.counted(buf, left, State::ChunkData)),
                State::UntilClose if buf.is_empty() => return Ok(Decoded::NeedMore),
                State::UntilClose => return Ok(Decoded::Data(buf.split().freeze())),
                State::ChunkSize => {
                    let Some(line) = take_line(buf, MAX_CHUNK_LINE)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.state = match chunk_size(&line)? {
                        0 => State::Trailers,
                        size => State::ChunkData(size),
                    };
                }
                State::ChunkEnd => {
                    let Some(line) = take_line(buf, 0)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    if !line.is_empty() {
                        return Err(BodyError::ChunkEnd);
                    }
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let Some(end) = section_end(buf)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    let section = buf.split_to(end).freeze();
                    self.state = State::Done;
                    return Ok(Decoded::End(trailers(&section)?));
                }
            }
        }
    }

    /// Takes in that the connection has ended.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] unless the body is one that ends so.
    pub fn end_of_stream(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    fn counted(&mut self, buf: &mut BytesMut, left: u64, more: fn(u64) -> State) -> Decoded {
        if buf.is_empty() {
            return Decoded::NeedMore;
        }
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let left = left - taken as u64;
        self.state = match (left, &self.state) {
            (0, State::ChunkData(_)) => State::ChunkEnd,
            (0, _) => State::Done,
            _ => more(left),
        };
        Decoded::Data(buf.split_to(taken).freeze())
    }
}

/// Takes one line, without its CRLF, of at most `limit` bytes.
fn take_line(buf: &mut BytesMut, limit: usize) -> Result<Option<BytesMut>, BodyError> {
    let window = buf.get(..buf.len().min(limit + 2)).unwrap_or_default();
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line_end = end.checked_sub(1).ok_or(BodyError::BareLf)?;
            if window.get(line_end) != Some(&b'\r') {
                return Err(BodyError::BareLf);
            }
            let mut line = buf.split_to(end + 1);
            line.truncate(line_end);
            Ok(Some(line))
        }
        None if window.len() == limit + 2 => Err(BodyError::ChunkLine),
        None => Ok(None),
    }
}

/// `chunk-size [ chunk-ext ]`: one to sixteen hexadecimal digits, and nothing that some parsers read differently.
fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    if size.is_empty() || size.len() > 16 {
        return Err(BodyError::ChunkSize);
    }
    // Extensions have no meaning that an intermediary must keep (RFC 9112 §7.1.1); control characters in them do harm.
    let harmless = |byte: &u8| matches!(byte, b'\t' | 0x20..=0x7e);
    let is_extension = extension.first() == Some(&b';') && extension.iter().all(harmless);
    if !extension.is_empty() && !is_extension {
        return Err(BodyError::ChunkSize);
    }
    size.iter()
        .try_fold(0_u64, |value, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            value.checked_mul(16)?.checked_add(u64::from(digit))
        })
        .ok_or(BodyError::ChunkSize)
}

/// End of the trailer section, behind its empty line, if it is all there.
fn section_end(buf: &[u8]) -> Result<Option<usize>, BodyError> {
    let window = buf.get(..buf.len().min(MAX_TRAILERS)).unwrap_or(buf);
    let mut line_start = 0;
    for (at, byte) in window.iter().enumerate() {
        if *byte != b'\n' {
            continue;
        }
        if at == line_start || window.get(at - 1) != Some(&b'\r') {
            return Err(BodyError::BareLf);
        }
        if at == line_start + 1 {
            return Ok(Some(at + 1));
        }
        line_start = at + 1;
    }
    if window.len() == MAX_TRAILERS {
        return Err(BodyError::TrailersTooLarge);
    }
    Ok(None)
}

fn trailers(section: &[u8]) -> Result<Option<HeaderMap>, BodyError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => {
            if fields.is_empty() {
                return Ok(None);
            }
            let mut map = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                let value = HeaderValue::from_bytes(field.value);
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err(BodyError::Trailers);
                };
                map.append(name, value);
            }
            Ok(Some(map))
        }
        _ => Err(BodyError::Trailers),
    }
}

/// Writes one chunk; nothing for no bytes, because a chunk of size zero ends the body: an empty DATA frame would let an
/// HTTP/2 peer decide where an HTTP/1 message ends.
pub(crate) fn encode_chunk(out: &mut BytesMut, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    encode_chunk_head(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Writes a chunk's size line.
fn encode_chunk_head(out: &mut BytesMut, length: usize) {
    let mut started = false;
    for shift in (0..usize::BITS / 4).rev() {
        let nibble = (length >> (shift * 4)) & 0xf;
        started |= nibble != 0 || shift == 0;
        if started && let Some(digit) = b"0123456789abcdef".get(nibble) {
            out.extend_from_slice(&[*digit]);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailers.
pub(crate) fn encode_last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Why bytes are not the body that its head promised.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyError {
    /// The connection ended inside the body.
    #[error("the connection ended inside a body")]
    Truncated,
    /// A line that ends in LF alone.
    #[error("a line ends in LF without CR")]
    BareLf,
    /// No chunk size, one that overflows, or a broken extension.
    #[error("a chunk has no readable size")]
    ChunkSize,
    /// A chunk's first line is too long.
    #[error("the first line of a chunk is too long")]
    ChunkLine,
    /// A chunk is longer than it said.
    #[error("a chunk does not end where it should")]
    ChunkEnd,
    /// The trailers are no fields.
    #[error("the trailers can't be read")]
    Trailers,
    /// The trailers are too long.
    #[error("the trailers are too long")]
    TrailersTooLarge,
}

/// A size, and room for the extensions that some clients send; unbounded ones are an attack.
const MAX_CHUNK_LINE: usize = 256;
const MAX_TRAILERS: usize = 8 * 1024;
const MAX_TRAILER_FIELDS: usize = 32;
