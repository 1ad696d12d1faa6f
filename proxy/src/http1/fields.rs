//! What the fields of a head say to a proxy: framing, host, connection options, and which fields may not pass.

use bytes::Bytes;
use httparse::Header;

use crate::http1::body::Framing;
use crate::http1::head::{Field, FieldKind, HeadError, Span, slice, span_of};

/// The fields of one head, read.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) fields: Vec<Field>,
    pub(crate) nominated: Vec<Span>,
    pub(crate) host: Option<Span>,
    pub(crate) upgrade: Option<Span>,
    pub(crate) expects_continue: bool,
    pub(crate) content_type: Option<Span>,
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrades: u32,
}

impl Collected {
    pub(crate) fn read(bytes: &Bytes, headers: &[Header<'_>]) -> Result<Self, HeadError> {
        let mut collected = Self {
            fields: Vec::with_capacity(headers.len()),
            ..Self::default()
        };
        for header in headers {
            let value = span_of(bytes, header.value);
            let kind = collected.field(bytes, header.name, header.value, &value)?;
            collected.fields.push(Field {
                name: span_of(bytes, header.name.as_bytes()),
                value,
                kind,
            });
        }
        Ok(collected)
    }

    fn field(
        &mut self,
        bytes: &Bytes,
        name: &str,
        value: &[u8],
        span: &Span,
    ) -> Result<FieldKind, HeadError> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // By length first, because most fields are none of these.
        match name.len() {
            2 if is("te") => return Ok(FieldKind::Hop),
            4 if is("host") => {
                if self.host.replace(span.clone()).is_some() {
                    return Err(HeadError::Host);
                }
                return Ok(FieldKind::Hop);
            }
            6 if is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::Expect);
                }
                self.expects_continue = true;
                return Ok(FieldKind::Hop);
            }
            7 if is("upgrade") => {
                self.upgrades += 1;
                self.upgrade = Some(span.clone());
                return Ok(FieldKind::Hop);
            }
            10 if is("connection") => {
                self.connection(bytes, value)?;
                return Ok(FieldKind::Hop);
            }
            10 if is("keep-alive") => return Ok(FieldKind::Hop),
            12 if is("content-type") => self.content_type = Some(span.clone()),
            14 if is("content-length") => {
                let length = parse_length(value).ok_or(HeadError::ContentLength)?;
                if self.content_length.replace(length).is_some() {
                    return Err(HeadError::ContentLength);
                }
                return Ok(FieldKind::Hop);
            }
            14 if is("http2-settings") => return Ok(FieldKind::Hop),
            14 if is("content_length") => return Err(HeadError::FramingTwin),
            16 if is("proxy-connection") => return Ok(FieldKind::Hop),
            17 if is("transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::TransferEncoding);
                }
                self.chunked = true;
                return Ok(FieldKind::Hop);
            }
            17 if is("transfer_encoding") => return Err(HeadError::FramingTwin),
            _ => {}
        }
        if is_reserved(name.as_bytes()) {
            return Ok(FieldKind::Reserved);
        }
        Ok(FieldKind::Ordinary)
    }

    /// Reads the options of a `Connection` field. Which fields it may take away is bounded: what says whose request this
    /// is, or how long, stays.
    fn connection(&mut self, bytes: &Bytes, value: &[u8]) -> Result<(), HeadError> {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.is_empty() {
                continue;
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.connection_upgrade = true;
            } else if KEPT.iter().any(|kept| option.eq_ignore_ascii_case(kept))
                || self.nominated.len() == MAX_NOMINATED
            {
                return Err(HeadError::Connection);
            } else {
                self.nominated.push(span_of(bytes, option));
            }
        }
        Ok(())
    }

    pub(crate) fn request_framing(&self, is_http10: bool) -> Result<Framing, HeadError> {
        self.framing(is_http10, Framing::None)
    }

    pub(crate) fn response_framing(&self, is_http10: bool) -> Result<Framing, HeadError> {
        self.framing(is_http10, Framing::UntilClose)
    }

    fn framing(&self, is_http10: bool, untold: Framing) -> Result<Framing, HeadError> {
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err(HeadError::TwoFramings),
            (true, None) if is_http10 => Err(HeadError::TransferEncoding),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(untold),
        }
    }

    pub(crate) fn keep_alive(&self, is_http10: bool) -> bool {
        !self.close && (!is_http10 || self.keep_alive)
    }

    /// An upgrade that may be passed on. A change to another HTTP would carry requests past policy, so it is not one:
    /// the request goes on without it (RFC 9110 §7.8 lets a server ignore an upgrade).
    pub(crate) fn request_upgrade(
        &self,
        bytes: &Bytes,
        method: &str,
        framing: Framing,
        is_http10: bool,
    ) -> Option<Span> {
        let span = self.upgrade.clone()?;
        let protocol = slice(bytes, &span);
        let is_token = protocol
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-./_+".contains(byte));
        let starts = |prefix: &[u8]| {
            protocol
                .get(..prefix.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
        };
        let is_other_http = starts(b"h2") || starts(b"http") || starts(b"tls");
        let is_plain = method == "GET"
            && matches!(framing, Framing::None | Framing::Length(0))
            && !is_http10
            && self.upgrades == 1
            && self.connection_upgrade;
        (is_plain && is_token && !protocol.is_empty() && !is_other_http).then_some(span)
    }
}

/// Whether a name speaks for the sidecar: `x-forwarded-client-cert` and all of `vouchsafe-…`, in any case, and with `_` or
/// `.` for `-`, because some applications (CGI, WSGI) can't tell these apart.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    // By the first byte, because most fields are none of these.
    if !matches!(name.first(), Some(b'v' | b'V' | b'x' | b'X')) {
        return false;
    }
    let folded = |byte: &u8| match byte {
        b'_' | b'.' => b'-',
        other => other.to_ascii_lowercase(),
    };
    let begins = |with: &[u8]| {
        let same = |(one, other): (&u8, &u8)| folded(one) == *other;
        name.len() >= with.len() && name.iter().zip(with).all(same)
    };
    begins(RESERVED_PREFIX) || (name.len() == CLIENT_CERT.len() && begins(CLIENT_CERT))
}

/// Digits only: no sign, no list, no space; 10^18 bytes are nobody's length.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Options of `Connection`; honest clients send at most three.
const MAX_NOMINATED: usize = 16;
const RESERVED_PREFIX: &[u8] = b"vouchsafe-";
const CLIENT_CERT: &[u8] = b"x-forwarded-client-cert";
/// Fields that `Connection` may not take away: they carry the meaning of the request itself.
const KEPT: [&[u8]; 7] = [
    b"host",
    b"content-length",
    b"content-type",
    b"transfer-encoding",
    b"authorization",
    b"cookie",
    b"expect",
];
