//! Heads of requests and responses: parsed into spans of the bytes that came, so that a field which nobody touches is
//! never copied but into the output. Pure.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::uri::PathAndQuery;
use httparse::{ParserConfig, Status};

use crate::http1::body::Framing;
use crate::http1::fields::Collected;
use crate::scan::{self, any_of, below, is, is_foreign};

/// Bytes of a head.
pub(crate) type Span = Range<u32>;

/// One field, by its place in the head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) kind: FieldKind,
}

/// What a field means to a proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FieldKind {
    /// Passed on.
    Ordinary,
    /// Speaks of this connection alone (RFC 9110 §7.6.1), or is written anew.
    Hop,
    /// Says who the peer is: only a sidecar may.
    Reserved,
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    pub(crate) bytes: Bytes,
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) host: Span,
    pub(crate) fields: Vec<Field>,
    /// Fields that `Connection` names.
    pub(crate) nominated: Vec<Span>,
    pub(crate) framing: Framing,
    /// HTTP/1.0 ends the connection with the response and knows no chunks.
    pub(crate) is_http10: bool,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    /// The protocol that an upgrade asks for.
    pub(crate) upgrade: Option<Span>,
    pub(crate) content_type: Option<Span>,
}

/// Path and query; begins with a slash. Read once, so that nobody asks again whether it is text.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Usual(PathAndQuery),
    /// With what a URL may not have, such as `<` in its query: servers take it all the same.
    Odd(Box<str>),
}

impl Target {
    fn new(bytes: &Bytes, target: &str) -> Self {
        let span = span_of(bytes, target.as_bytes());
        let (start, end) = (span.start as usize, span.end as usize);
        let usual = bytes.get(start..end).and_then(|_| {
            let shared = bytes.slice(start..end);
            PathAndQuery::from_maybe_shared(shared).ok()
        });
        usual.map_or_else(|| Self::Odd(target.into()), Self::Usual)
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Usual(target) => target.as_str(),
            Self::Odd(target) => target,
        }
    }

    /// Without the query.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Usual(target) => target.path(),
            Self::Odd(target) => split_query(target).0,
        }
    }
}

/// A target's path, and its query where it has one.
pub(crate) fn split_query(target: &str) -> (&str, Option<&str>) {
    // A byte is found sooner than a character, in texts as short as these.
    let query = target.bytes().position(|byte| byte == b'?');
    match query.and_then(|at| Some((target.get(..at)?, target.get(at + 1..)?))) {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    pub(crate) bytes: Bytes,
    pub(crate) status: u16,
    pub(crate) fields: Vec<Field>,
    pub(crate) nominated: Vec<Span>,
    pub(crate) framing: Framing,
    /// Length that the fields tell, also where there is no body (`HEAD`, 304).
    pub(crate) told_length: Option<u64>,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: Option<Span>,
}

impl RequestHead {
    /// Takes a request's head from the front of `buf`, if it is all there. `scanned` is how much of it was looked at
    /// before; it starts at zero and is kept between calls.
    ///
    /// # Errors
    /// [`HeadError`]: the request is refused and the connection closed.
    pub fn parse(
        buf: &mut BytesMut,
        scanned: &mut usize,
        limit: usize,
    ) -> Result<Option<Self>, HeadError> {
        skip_empty_lines(buf, scanned);
        let Some(bytes) = take_head(buf, scanned, limit)? else {
            return Ok(None);
        };
        let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let status = ParserConfig::default().parse_request_with_uninit_headers(
            &mut parsed,
            &bytes,
            &mut storage,
        )?;
        let (Status::Complete(_), Some(method), Some(target), Some(version)) =
            (status, parsed.method, parsed.path, parsed.version)
        else {
            return Err(HeadError::Syntax);
        };
        if method.eq_ignore_ascii_case("CONNECT") {
            return Err(HeadError::Connect);
        }
        let is_http10 = version == 0;
        let collected = Collected::read(&bytes, parsed.headers)?;
        let framing = collected.request_framing(is_http10)?;
        let (target, authority) = split_target(target)?;
        let host = collected.host.clone().ok_or(HeadError::Host)?;
        let host_text = slice(&bytes, &host);
        if !is_host(host_text) {
            return Err(HeadError::Host);
        }
        if authority.is_some_and(|authority| !authority.as_bytes().eq_ignore_ascii_case(host_text))
        {
            return Err(HeadError::AuthorityMismatch);
        }
        let upgrade = collected.request_upgrade(&bytes, method, framing, is_http10);
        Ok(Some(Self {
            method: Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Syntax)?,
            target: Target::new(&bytes, target),
            host,
            framing,
            is_http10,
            keep_alive: collected.keep_alive(is_http10),
            expects_continue: collected.expects_continue && !is_http10,
            upgrade,
            content_type: collected.content_type,
            fields: collected.fields,
            nominated: collected.nominated,
            bytes,
        }))
    }

    /// Bytes of a span.
    pub(crate) fn slice(&self, span: &Span) -> &[u8] {
        slice(&self.bytes, span)
    }
}

impl ResponseHead {
    /// Takes a response's head from the front of `buf`, if it is all there.
    ///
    /// `to_head`: whether the request was HEAD, so that there is no body whatever the fields say.
    ///
    /// # Errors
    /// [`HeadError`]: the response is replaced by 502 and the connection closed.
    pub fn parse(
        buf: &mut BytesMut,
        scanned: &mut usize,
        limit: usize,
        to_head: bool,
    ) -> Result<Option<Self>, HeadError> {
        let Some(bytes) = take_head(buf, scanned, limit)? else {
            return Ok(None);
        };
        let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let complete = ParserConfig::default().parse_response_with_uninit_headers(
            &mut parsed,
            &bytes,
            &mut storage,
        )?;
        let (Status::Complete(_), Some(status), Some(version)) =
            (complete, parsed.code, parsed.version)
        else {
            return Err(HeadError::Syntax);
        };
        if !(100..=999).contains(&status) {
            return Err(HeadError::Syntax);
        }
        let is_http10 = version == 0;
        let collected = Collected::read(&bytes, parsed.headers)?;
        let told = collected.response_framing(is_http10)?;
        let bodyless = to_head || status < 200 || status == 204 || status == 304;
        let framing = if bodyless { Framing::None } else { told };
        let told_length = match told {
            Framing::Length(length) => Some(length),
            Framing::None | Framing::Chunked | Framing::UntilClose => None,
        };
        Ok(Some(Self {
            status,
            framing,
            told_length,
            keep_alive: collected.keep_alive(is_http10) && framing != Framing::UntilClose,
            upgrade: collected.upgrade.filter(|_| status == 101),
            fields: collected.fields,
            nominated: collected.nominated,
            bytes,
        }))
    }

    /// Bytes of a span.
    pub(crate) fn slice(&self, span: &Span) -> &[u8] {
        slice(&self.bytes, span)
    }
}

/// Empty lines before a request are forgiven (RFC 9112 §2.2): some clients send one after a body.
fn skip_empty_lines(buf: &mut BytesMut, scanned: &mut usize) {
    // A CR alone was looked at before, when its LF had not come.
    while *scanned <= 1 && buf.starts_with(b"\r\n") {
        let _ = buf.split_to(2);
        *scanned = 0;
    }
}

/// Takes a head up to and with its empty line. Lines end in CRLF and nothing else, so that no LF hides a line from us that
/// another parser sees.
fn take_head(
    buf: &mut BytesMut,
    scanned: &mut usize,
    limit: usize,
) -> Result<Option<Bytes>, HeadError> {
    let window = buf.get(..buf.len().min(limit)).unwrap_or_default();
    let mut at = *scanned;
    let next = |at: usize| scan::position(window.get(at..)?, b'\n');
    while let Some(next) = next(at) {
        let end = at + next;
        let before = |back: usize| end.checked_sub(back).and_then(|index| window.get(index));
        if before(1) != Some(&b'\r') {
            return Err(HeadError::BareLf);
        }
        if before(2) == Some(&b'\n') || end == 1 {
            *scanned = 0;
            return Ok(Some(buf.split_to(end + 1).freeze()));
        }
        at = end + 1;
    }
    *scanned = window.len();
    if buf.len() >= limit {
        return Err(HeadError::TooLarge);
    }
    Ok(None)
}

/// A target in origin form, and the authority where it came in absolute form (RFC 9112 §3.2).
fn split_target(target: &str) -> Result<(&str, Option<&str>), HeadError> {
    if target.len() > MAX_TARGET {
        return Err(HeadError::TargetTooLong);
    }
    if !is_readable(target.as_bytes()) {
        return Err(HeadError::Target);
    }
    if target.starts_with('/') {
        return Ok((target, None));
    }
    let (scheme, rest) = target.split_once("://").ok_or(HeadError::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(HeadError::Target);
    }
    let slash = rest.find('/').ok_or(HeadError::Target)?;
    let (authority, path) = rest.split_at(slash);
    Ok((path, Some(authority)))
}

/// Whether a target has neither a fragment, which is never sent, nor bytes that everyone reads differently: spaces,
/// controls and what is outside ASCII.
pub(crate) fn is_readable(target: &[u8]) -> bool {
    let has_odd = |word| {
        let found = below(word, 0x21) | is(word, b'#') | is(word, 0x7f) | is_foreign(word);
        found != 0
    };
    let is_odd = |byte: u8| !byte.is_ascii_graphic() || byte == b'#';
    !any_of(target, has_odd, is_odd)
}

/// A host and perhaps a port; no user, no list, no path.
pub(crate) fn is_host(host: &[u8]) -> bool {
    let allowed = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':' | b'[' | b']')
    };
    !host.is_empty() && host.len() <= 255 && host.iter().all(allowed)
}

pub(crate) fn slice<'a>(bytes: &'a Bytes, span: &Span) -> &'a [u8] {
    bytes
        .get(span.start as usize..span.end as usize)
        .unwrap_or_default()
}

/// The place of a part of `bytes` within it.
pub(crate) fn span_of(bytes: &Bytes, part: &[u8]) -> Span {
    let start = (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
    // Parts come from parsing these very bytes, which the head limit keeps far below 4 GiB. Were a part from elsewhere,
    // the span would be out of range, and so empty.
    let start = u32::try_from(start).unwrap_or(u32::MAX);
    start..start.saturating_add(u32::try_from(part.len()).unwrap_or(u32::MAX))
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeadError {
    /// Not the syntax of RFC 9112.
    #[error("the head can't be read")]
    Syntax,
    /// A line that ends in LF alone.
    #[error("a line ends in LF without CR")]
    BareLf,
    /// Longer than `limits.head_bytes`.
    #[error("the head is too large")]
    TooLarge,
    /// More fields than are read.
    #[error("the head has too many fields")]
    TooManyFields,
    /// The target is too long.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The target is neither a path nor an absolute URL.
    #[error("the request target is neither a path nor an absolute URL")]
    Target,
    /// `Host` is missing, stands twice, or is no host.
    #[error("`host` is missing, stands twice or is no host")]
    Host,
    /// `Host` differs from the authority of the target.
    #[error("`host` and the authority of the target differ")]
    AuthorityMismatch,
    /// CONNECT is for forward proxies.
    #[error("CONNECT is not served here")]
    Connect,
    /// `Content-Length` stands twice or is no number.
    #[error("`content-length` stands twice or is no number")]
    ContentLength,
    /// `Transfer-Encoding` stands twice or is not `chunked`, or is used in HTTP/1.0.
    #[error("`transfer-encoding` is not exactly `chunked`")]
    TransferEncoding,
    /// Both of them.
    #[error("`content-length` and `transfer-encoding` stand together")]
    TwoFramings,
    /// A framing field written with `_`.
    #[error("a framing field is written with `_`")]
    FramingTwin,
    /// `Connection` names too much, or what it may not take away.
    #[error("`connection` names a field that it may not take away")]
    Connection,
    /// `Expect` is not `100-continue`.
    #[error("`expect` is not `100-continue`")]
    Expect,
}

impl HeadError {
    /// The bounded word.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Syntax => "http_syntax",
            Self::BareLf => "http_bare_lf",
            Self::TooLarge => "http_head_too_large",
            Self::TooManyFields => "http_too_many_fields",
            Self::TargetTooLong => "http_target_too_long",
            Self::Target => "http_target",
            Self::Host => "http_host",
            Self::AuthorityMismatch => "http_authority_mismatch",
            Self::Connect => "http_connect",
            Self::ContentLength => "http_content_length",
            Self::TransferEncoding => "http_transfer_encoding",
            Self::TwoFramings => "http_two_framings",
            Self::FramingTwin => "http_framing_twin",
            Self::Connection => "http_connection",
            Self::Expect => "http_expect",
        }
    }

    /// The status that a client gets (RFC 6585 §5, RFC 9110 §15.5).
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::TooLarge | Self::TooManyFields => 431,
            Self::TargetTooLong => 414,
            Self::Expect => 417,
            _ => 400,
        }
    }
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            _ => Self::Syntax,
        }
    }
}

/// Fields of one head; browsers send about thirty.
const MAX_FIELDS: usize = 128;
/// RFC 9110 §4.1 recommends at least 8,000 bytes.
const MAX_TARGET: usize = 16 * 1024;
