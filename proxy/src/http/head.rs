//! Heads of either version, read alike and written as the other side wants them.
//!
//! Reserved and hop-by-hop fields end here in every direction and between all versions.

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};

use crate::http1::body::Framing;
use crate::http1::fields::is_reserved;
use crate::http1::head::{self as http1, Field, FieldKind, HeadError, Span};

/// A request's head.
#[derive(Debug)]
pub(crate) enum RequestHead {
    Http1(http1::RequestHead),
    /// Boxed: rarer, and much larger.
    Http2(Box<http::request::Parts>),
}

/// A response's head.
#[derive(Debug)]
pub(crate) enum ResponseHead {
    Http1(http1::ResponseHead),
    Http2(Box<http::response::Parts>),
}

/// What a request asks for: its method, and its target as it came.
#[derive(Debug)]
pub(crate) enum Asked {
    Nothing,
    Http1 {
        bytes: Bytes,
        method: Span,
        target: Span,
    },
    Http2 {
        method: Method,
        target: Option<PathAndQuery>,
    },
}

impl Asked {
    pub(crate) fn method(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Http1 { bytes, method, .. } => text(bytes, method),
            Self::Http2 { method, .. } => method.as_str(),
        }
    }

    /// The path without its query.
    pub(crate) fn path(&self) -> &str {
        let target = match self {
            Self::Nothing => "",
            Self::Http1 { bytes, target, .. } => text(bytes, target),
            Self::Http2 { target, .. } => target.as_ref().map_or("/", |target| target.as_str()),
        };
        target.split_once('?').map_or(target, |(path, _)| path)
    }
}

/// Methods and targets are ASCII, as parsers let nothing else through.
fn text<'a>(bytes: &'a Bytes, span: &Span) -> &'a str {
    std::str::from_utf8(http1::slice(bytes, span)).unwrap_or_default()
}

impl RequestHead {
    /// Takes the head of an HTTP/2 request, after the checks that `h2` leaves to us (RFC 9113 §8.3).
    pub(crate) fn from_http2(parts: http::request::Parts) -> Result<Self, HeadError> {
        let host = parts.headers.get_all(header::HOST);
        let mut hosts = host.iter();
        let (host, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(HeadError::Host);
        }
        let authority = parts
            .uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        let host = host.map(HeaderValue::as_bytes);
        match (authority, host) {
            (None, None) => return Err(HeadError::Host),
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                return Err(HeadError::AuthorityMismatch);
            }
            (Some(one), _) | (None, Some(one)) if !http1::is_host(one) => {
                return Err(HeadError::Host);
            }
            _ => {}
        }
        if parts.method == Method::CONNECT {
            return Err(HeadError::Connect);
        }
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let readable = path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !path.starts_with('/') || !readable {
            return Err(HeadError::Target);
        }
        for name in parts.headers.keys() {
            match name.as_str() {
                "content_length" | "transfer_encoding" => return Err(HeadError::FramingTwin),
                _ => {}
            }
        }
        if parts.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
            return Err(HeadError::ContentLength);
        }
        Ok(Self::Http2(Box::new(parts)))
    }

    pub(crate) fn method(&self) -> &str {
        match self {
            Self::Http1(head) => head.text(&head.method),
            Self::Http2(parts) => parts.method.as_str(),
        }
    }

    /// What the request asks for, without a copy of its text.
    pub(crate) fn asked(&self) -> Asked {
        match self {
            Self::Http1(head) => Asked::Http1 {
                bytes: head.bytes.clone(),
                method: head.method.clone(),
                target: head.target.clone(),
            },
            Self::Http2(parts) => Asked::Http2 {
                method: parts.method.clone(),
                target: parts.uri.path_and_query().cloned(),
            },
        }
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        match self {
            Self::Http1(head) => head.text(&head.target),
            Self::Http2(parts) => parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        }
    }

    fn authority(&self) -> &[u8] {
        match self {
            Self::Http1(head) => head.slice(&head.host),
            Self::Http2(parts) => match parts.uri.authority() {
                Some(authority) => authority.as_str().as_bytes(),
                None => parts
                    .headers
                    .get(header::HOST)
                    .map_or(b"", |host| host.as_bytes()),
            },
        }
    }

    /// Whether `content-type` says gRPC: `application/grpc`, perhaps with a suffix, but not `grpc-web`.
    pub(crate) fn is_grpc(&self) -> bool {
        let content_type = match self {
            Self::Http1(head) => head.content_type.as_ref().map(|span| head.slice(span)),
            Self::Http2(parts) => parts
                .headers
                .get(header::CONTENT_TYPE)
                .map(HeaderValue::as_bytes),
        };
        let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method() == "HEAD"
    }

    pub(crate) fn upgrade(&self) -> bool {
        match self {
            Self::Http1(head) => head.upgrade.is_some(),
            Self::Http2(_) => false,
        }
    }

    pub(crate) fn expects_continue(&self) -> bool {
        match self {
            Self::Http1(head) => head.expects_continue,
            Self::Http2(parts) => parts.headers.contains_key(header::EXPECT),
        }
    }

    /// Whether the same request may be sent again where the first was lost (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        matches!(
            self.method(),
            "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"
        )
    }

    /// Writes the head for an HTTP/1.1 server.
    pub(crate) fn encode_http1(
        &self,
        out: &mut BytesMut,
        target: &str,
        framing: Framing,
        add: &[(HeaderName, HeaderValue)],
    ) {
        out.reserve(HEAD_BYTES);
        put(
            out,
            &[
                self.method().as_bytes(),
                b" ",
                target.as_bytes(),
                b" HTTP/1.1\r\n",
            ],
        );
        line(out, b"host", self.authority());
        match self {
            Self::Http1(head) => {
                encode_fields(out, &head.bytes, &head.fields, &head.nominated);
                if let Some(upgrade) = &head.upgrade {
                    put(out, &[b"connection: upgrade\r\n"]);
                    line(out, b"upgrade", head.slice(upgrade));
                }
            }
            Self::Http2(parts) => encode_map(out, &parts.headers, false),
        }
        for (name, value) in add {
            line(out, name.as_str().as_bytes(), value.as_bytes());
        }
        match framing {
            Framing::Length(length) => encode_length(out, length),
            Framing::Chunked => put(out, &[b"transfer-encoding: chunked\r\n"]),
            // Servers wait for a length where a method usually has a body (RFC 9110 §8.6).
            Framing::None if matches!(self.method(), "POST" | "PUT" | "PATCH") => {
                encode_length(out, 0);
            }
            Framing::None | Framing::UntilClose => {}
        }
        put(out, &[b"\r\n"]);
    }

    /// The head for an HTTP/2 server.
    ///
    /// # Errors
    /// A part that HTTP/2 can't carry.
    pub(crate) fn to_http2(
        &self,
        target: &str,
        framing: Framing,
        add: &[(HeaderName, HeaderValue)],
    ) -> Result<Request<()>, HeadError> {
        let authority = http::uri::Authority::try_from(self.authority());
        let uri = Uri::builder()
            .scheme("http")
            .authority(authority.map_err(|_| HeadError::Host)?)
            .path_and_query(target)
            .build()
            .map_err(|_| HeadError::Target)?;
        let mut request = Request::new(());
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        match self {
            Self::Http1(head) => {
                *request.method_mut() =
                    Method::from_bytes(head.slice(&head.method)).map_err(|_| HeadError::Syntax)?;
                *request.headers_mut() = fields_to_map(&head.bytes, &head.fields, &head.nominated)?;
            }
            Self::Http2(parts) => {
                *request.method_mut() = parts.method.clone();
                *request.headers_mut() = filter_map(&parts.headers, false);
                if parts
                    .headers
                    .get(header::TE)
                    .is_some_and(|te| te == "trailers")
                {
                    let trailers = HeaderValue::from_static("trailers");
                    request.headers_mut().insert(header::TE, trailers);
                }
            }
        }
        let headers = request.headers_mut();
        if let Framing::Length(length) = framing {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        for (name, value) in add {
            headers.insert(name.clone(), value.clone());
        }
        Ok(request)
    }
}

impl ResponseHead {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Http1(head) => head.status,
            Self::Http2(parts) => parts.status.as_u16(),
        }
    }

    /// The length that the response tells, body or not.
    pub(crate) fn told_length(&self) -> Option<u64> {
        match self {
            Self::Http1(head) => head.told_length,
            Self::Http2(parts) => {
                let value = parts.headers.get(header::CONTENT_LENGTH)?;
                value.to_str().ok()?.parse().ok()
            }
        }
    }

    /// Writes the head for an HTTP/1 client. `trusted`: whether reserved fields may pass.
    pub(crate) fn encode_http1(
        &self,
        out: &mut BytesMut,
        framing: Framing,
        keep_alive: bool,
        trusted: bool,
    ) {
        out.reserve(HEAD_BYTES);
        let status = self.status();
        let known = StatusCode::from_u16(status).ok();
        let phrase = known
            .and_then(|known| known.canonical_reason())
            .unwrap_or("");
        let mut digits = [0; 3];
        for (digit, unit) in digits.iter_mut().zip([100, 10, 1]) {
            *digit = b'0' + u8::try_from(status / unit % 10).unwrap_or(0);
        }
        put(
            out,
            &[b"HTTP/1.1 ", &digits, b" ", phrase.as_bytes(), b"\r\n"],
        );
        match self {
            Self::Http1(head) => {
                encode_response_fields(out, head, trusted);
                if let Some(upgrade) = &head.upgrade {
                    put(out, &[b"connection: upgrade\r\n"]);
                    line(out, b"upgrade", head.slice(upgrade));
                }
            }
            Self::Http2(parts) => encode_map(out, &parts.headers, trusted),
        }
        match framing {
            Framing::Length(length) => encode_length(out, length),
            Framing::Chunked => put(out, &[b"transfer-encoding: chunked\r\n"]),
            // HEAD and 304 tell the length of what they leave out; 1xx and 204 have none (RFC 9110 §8.6).
            Framing::None if status >= 200 && status != 204 => {
                if let Some(length) = self.told_length() {
                    encode_length(out, length);
                }
            }
            Framing::None | Framing::UntilClose => {}
        }
        if !keep_alive && status >= 200 {
            put(out, &[b"connection: close\r\n"]);
        }
        put(out, &[b"\r\n"]);
    }

    /// The head for an HTTP/2 client.
    ///
    /// # Errors
    /// A part that HTTP/2 can't carry.
    pub(crate) fn to_http2(&self, trusted: bool) -> Result<Response<()>, HeadError> {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(self.status()).map_err(|_| HeadError::Syntax)?;
        *response.headers_mut() = match self {
            Self::Http1(head) => {
                let keeps = |field: &&Field| {
                    field.kind == FieldKind::Ordinary
                        || (trusted && field.kind == FieldKind::Reserved)
                };
                let fields: Vec<Field> = head.fields.iter().filter(keeps).cloned().collect();
                fields_to_map_all(&head.bytes, &fields, &head.nominated)?
            }
            Self::Http2(parts) => filter_map(&parts.headers, trusted),
        };
        if let Some(length) = self.told_length() {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(response)
    }
}

/// Drops from trailers what may not stand there (RFC 9110 §6.5.1), and what only a sidecar may say.
pub(crate) fn clean_trailers(trailers: HeaderMap) -> HeaderMap {
    let mut clean = HeaderMap::with_capacity(trailers.len());
    let mut last = None;
    for (name, value) in trailers {
        last = name.or(last);
        if let Some(name) = &last
            && !is_hop(name)
            && !is_reserved(name.as_str().as_bytes())
            && !NOT_IN_TRAILERS.contains(&name.as_str())
        {
            clean.append(name.clone(), value);
        }
    }
    clean
}

fn encode_fields(out: &mut BytesMut, bytes: &Bytes, fields: &[Field], nominated: &[Span]) {
    for field in fields {
        let name = http1::slice(bytes, &field.name);
        if field.kind == FieldKind::Ordinary && !is_nominated(bytes, nominated, name) {
            line(out, name, http1::slice(bytes, &field.value));
        }
    }
}

fn encode_response_fields(out: &mut BytesMut, head: &http1::ResponseHead, trusted: bool) {
    for field in &head.fields {
        let name = head.slice(&field.name);
        let passes = match field.kind {
            FieldKind::Ordinary => true,
            FieldKind::Reserved => trusted,
            FieldKind::Hop => false,
        };
        if passes && !is_nominated(&head.bytes, &head.nominated, name) {
            line(out, name, head.slice(&field.value));
        }
    }
}

fn encode_map(out: &mut BytesMut, headers: &HeaderMap, trusted: bool) {
    for (name, value) in headers {
        let reserved = is_reserved(name.as_str().as_bytes());
        if !is_hop(name) && name != header::COOKIE && (trusted || !reserved) {
            line(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    // HTTP/2 may split a cookie over fields; HTTP/1.1 may not (RFC 9113 §8.2.3).
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if let Some(first) = cookies.next() {
        put(out, &[b"cookie: ", first.as_bytes()]);
        cookies.for_each(|cookie| put(out, &[b"; ", cookie.as_bytes()]));
        put(out, &[b"\r\n"]);
    }
}

fn fields_to_map(
    bytes: &Bytes,
    fields: &[Field],
    nominated: &[Span],
) -> Result<HeaderMap, HeadError> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        if field.kind == FieldKind::Ordinary {
            append(&mut map, bytes, field, nominated)?;
        }
    }
    Ok(map)
}

fn fields_to_map_all(
    bytes: &Bytes,
    fields: &[Field],
    nominated: &[Span],
) -> Result<HeaderMap, HeadError> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        append(&mut map, bytes, field, nominated)?;
    }
    Ok(map)
}

fn append(
    map: &mut HeaderMap,
    bytes: &Bytes,
    field: &Field,
    nominated: &[Span],
) -> Result<(), HeadError> {
    let name = http1::slice(bytes, &field.name);
    if is_nominated(bytes, nominated, name) {
        return Ok(());
    }
    let name = HeaderName::from_bytes(name).map_err(|_| HeadError::Syntax)?;
    let value = bytes.slice(field.value.start as usize..field.value.end as usize);
    let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadError::Syntax)?;
    map.append(name, value);
    Ok(())
}

fn filter_map(headers: &HeaderMap, trusted: bool) -> HeaderMap {
    // A clone hashes nothing, and few fields end here.
    let mut map = headers.clone();
    for name in headers.keys() {
        if is_hop(name) || (!trusted && is_reserved(name.as_str().as_bytes())) {
            map.remove(name);
        }
    }
    map
}

fn is_nominated(bytes: &Bytes, nominated: &[Span], name: &[u8]) -> bool {
    nominated
        .iter()
        .any(|span| http1::slice(bytes, span).eq_ignore_ascii_case(name))
}

/// Fields that speak of one connection, or are written anew.
fn is_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    put(out, &[name, b": ", value, b"\r\n"]);
}

fn encode_length(out: &mut BytesMut, length: u64) {
    // `HeaderValue` has a number formatter of its own, without an allocation of ours.
    line(out, b"content-length", HeaderValue::from(length).as_bytes());
}

/// Room for a usual head.
const HEAD_BYTES: usize = 1024;
const NOT_IN_TRAILERS: [&str; 4] = ["authorization", "content-type", "cookie", "set-cookie"];
