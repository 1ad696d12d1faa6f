//! Heads of either version, read alike and written as the other side wants them.
//!
//! Reserved and hop-by-hop fields end here in every direction and between all versions.

use std::cell::{Ref, RefCell};

use bytes::{Bytes, BytesMut};
use http::uri::{self, Authority, PathAndQuery, Scheme};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};

use crate::http::fields::{Seen, filter_request, filter_response, is_hop, parse_length, says_grpc};
use crate::http1::body::Framing;
use crate::http1::fields::is_reserved;
use crate::http1::head::{self as http1, Field, FieldKind, HeadError, Span, Target};

/// A request's head.
#[derive(Debug)]
pub(crate) enum RequestHead {
    Http1(http1::RequestHead),
    /// Boxed: rarer, and much larger.
    Http2(Box<Http2Head>),
}

/// The head of an HTTP/2 request, whose fields were looked at once.
#[derive(Debug)]
pub(crate) struct Http2Head {
    method: Method,
    uri: Uri,
    /// Empty once the last server that may get them has got them.
    headers: RefCell<HeaderMap>,
    is_grpc: bool,
    expects_continue: bool,
    /// Whether some fields are not passed on.
    ends_some: bool,
    told_length: Option<u64>,
}

impl Http2Head {
    /// The fields, to be looked at before they are passed on.
    pub(crate) fn headers(&self) -> Ref<'_, HeaderMap> {
        self.headers.borrow()
    }

    /// The length that the fields tell.
    pub(crate) fn told_length(&self) -> Option<u64> {
        self.told_length
    }
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
    Request { method: Method, target: Target },
}

impl Asked {
    pub(crate) fn method(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Request { method, .. } => method.as_str(),
        }
    }

    /// The path without its query.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Request { target, .. } => target.path(),
        }
    }
}

impl RequestHead {
    /// Takes the head of an HTTP/2 request, after the checks of `vouchsafe-http2` (RFC 9113 §8.3).
    pub(crate) fn from_http2(parts: http::request::Parts) -> Result<Self, HeadError> {
        let http::request::Parts {
            method,
            uri,
            headers,
            ..
        } = parts;
        let seen = Seen::of(&headers);
        if seen.hosts > 1 {
            return Err(HeadError::Host);
        }
        let authority = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        match (authority, seen.host) {
            (None, None) => return Err(HeadError::Host),
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                return Err(HeadError::AuthorityMismatch);
            }
            (Some(one), _) | (None, Some(one)) if !http1::is_host(one) => {
                return Err(HeadError::Host);
            }
            _ => {}
        }
        if method == Method::CONNECT {
            return Err(HeadError::Connect);
        }
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        if !path.starts_with('/') || !http1::is_readable(path.as_bytes()) {
            return Err(HeadError::Target);
        }
        if seen.has_framing_twin {
            return Err(HeadError::FramingTwin);
        }
        if seen.lengths > 1 {
            return Err(HeadError::ContentLength);
        }
        let (is_grpc, expects_continue) = (seen.is_grpc, seen.expects_continue);
        let (ends_some, told_length) = (seen.ends_some, seen.told_length);
        Ok(Self::Http2(Box::new(Http2Head {
            method,
            uri,
            headers: RefCell::new(headers),
            is_grpc,
            expects_continue,
            ends_some,
            told_length,
        })))
    }

    pub(crate) fn method(&self) -> &Method {
        match self {
            Self::Http1(head) => &head.method,
            Self::Http2(head) => &head.method,
        }
    }

    /// What the request asks for, without a copy of its text.
    pub(crate) fn asked(&self) -> Asked {
        let target = match self {
            Self::Http1(head) => head.target.clone(),
            Self::Http2(head) => {
                let target = head.uri.path_and_query().cloned();
                Target::Usual(target.unwrap_or_else(|| PathAndQuery::from_static("/")))
            }
        };
        Asked::Request {
            method: self.method().clone(),
            target,
        }
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        match self {
            Self::Http1(head) => head.target.as_str(),
            Self::Http2(head) => head.uri.path_and_query().map_or("/", |path| path.as_str()),
        }
    }

    /// Path without the query.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Http1(head) => head.target.path(),
            Self::Http2(head) => head.uri.path(),
        }
    }

    /// Calls with the authority: `:authority`, or else `host`.
    fn with_authority<R>(&self, with: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Http1(head) => with(head.slice(&head.host)),
            Self::Http2(head) => match head.uri.authority() {
                Some(authority) => with(authority.as_str().as_bytes()),
                None => {
                    let headers = head.headers();
                    with(
                        headers
                            .get(header::HOST)
                            .map_or(b"", |host| host.as_bytes()),
                    )
                }
            },
        }
    }

    /// Whether `content-type` says gRPC: `application/grpc`, perhaps with a suffix, but not `grpc-web`.
    pub(crate) fn is_grpc(&self) -> bool {
        match self {
            Self::Http1(head) => {
                let content_type = head.content_type.as_ref();
                content_type.is_some_and(|span| says_grpc(head.slice(span)))
            }
            Self::Http2(head) => head.is_grpc,
        }
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method() == Method::HEAD
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
            Self::Http2(head) => head.expects_continue,
        }
    }

    /// Whether the same request may be sent again where the first was lost (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.method().is_idempotent()
    }

    /// Writes the head for an HTTP/1.1 server.
    pub(crate) fn encode_http1(
        &self,
        out: &mut BytesMut,
        target: &str,
        framing: Framing,
        add: &Added,
    ) {
        out.reserve(HEAD_BYTES);
        put(
            out,
            &[
                self.method().as_str().as_bytes(),
                b" ",
                target.as_bytes(),
                b" HTTP/1.1\r\n",
            ],
        );
        self.with_authority(|authority| line(out, b"host", authority));
        match self {
            Self::Http1(head) => {
                let passes = |kind| kind == FieldKind::Ordinary;
                encode_fields(out, &head.bytes, &head.fields, &head.nominated, passes);
                if let Some(upgrade) = &head.upgrade {
                    put(out, &[b"connection: upgrade\r\n"]);
                    line(out, b"upgrade", head.slice(upgrade));
                }
            }
            Self::Http2(head) => encode_map(out, &head.headers(), false),
        }
        put(out, &[&add.lines]);
        match framing {
            Framing::Length(length) => encode_length(out, length),
            Framing::Chunked => put(out, &[b"transfer-encoding: chunked\r\n"]),
            // Servers wait for a length where a method usually has a body (RFC 9110 §8.6).
            Framing::None
                if matches!(*self.method(), Method::POST | Method::PUT | Method::PATCH) =>
            {
                encode_length(out, 0);
            }
            Framing::None | Framing::UntilClose => {}
        }
        put(out, &[b"\r\n"]);
    }

    /// The head for an HTTP/2 server. `last`: whether no other server can be asked after this one, so that fields which
    /// came over HTTP/2 are handed on and not copied.
    ///
    /// # Errors
    /// A part that HTTP/2 can't carry.
    pub(crate) fn to_http2(
        &self,
        target: &str,
        framing: Framing,
        add: &Added,
        last: bool,
    ) -> Result<Request<()>, HeadError> {
        let mut request = Request::new(());
        *request.uri_mut() = self.uri_for(target)?;
        *request.version_mut() = http::Version::HTTP_2;
        *request.method_mut() = self.method().clone();
        match self {
            Self::Http1(head) => {
                let passes = |kind| kind == FieldKind::Ordinary;
                *request.headers_mut() =
                    fields_to_map(&head.bytes, &head.fields, &head.nominated, passes)?;
            }
            Self::Http2(head) => {
                let mut headers = if last {
                    head.headers.take()
                } else {
                    head.headers().clone()
                };
                if head.ends_some {
                    filter_request(&mut headers);
                }
                *request.headers_mut() = headers;
            }
        }
        let headers = request.headers_mut();
        if let Framing::Length(length) = framing {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        for (name, value) in &add.fields {
            headers.insert(name.clone(), value.clone());
        }
        Ok(request)
    }

    /// The target as an HTTP/2 request names it: with the scheme `http`, whatever the application said.
    fn uri_for(&self, target: &str) -> Result<Uri, HeadError> {
        // What passes as it came is parsed already.
        if let Self::Http2(head) = self
            && head.uri.authority().is_some()
            && target == self.target()
        {
            if head.uri.scheme() == Some(&Scheme::HTTP) {
                return Ok(head.uri.clone());
            }
            let mut parts = head.uri.clone().into_parts();
            parts.scheme = Some(Scheme::HTTP);
            return Uri::from_parts(parts).map_err(|_| HeadError::Target);
        }
        let authority = match self {
            // A part of what came, and no copy of it. That it lies within was seen when it was parsed.
            Self::Http1(head) if !head.slice(&head.host).is_empty() => {
                let host = head.host.start as usize..head.host.end as usize;
                Authority::from_maybe_shared(head.bytes.slice(host))
            }
            _ => self.with_authority(|authority| Authority::try_from(authority)),
        };
        let path = match self {
            Self::Http1(http1::RequestHead {
                target: Target::Usual(usual),
                ..
            }) if usual.as_str() == target => usual.clone(),
            _ => PathAndQuery::try_from(target).map_err(|_| HeadError::Target)?,
        };
        let mut parts = uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority.map_err(|_| HeadError::Host)?);
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map_err(|_| HeadError::Target)
    }
}

/// Fields that only the sidecar may write, made once for many requests.
#[derive(Debug, Default)]
pub(crate) struct Added {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// The same as an HTTP/1 head has them.
    lines: BytesMut,
}

impl FromIterator<(HeaderName, HeaderValue)> for Added {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        let fields: Vec<_> = fields.into_iter().collect();
        let mut lines = BytesMut::new();
        for (name, value) in &fields {
            line(&mut lines, name.as_str().as_bytes(), value.as_bytes());
        }
        Self { fields, lines }
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
            Self::Http2(parts) => parts
                .headers
                .get(header::CONTENT_LENGTH)
                .and_then(parse_length),
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
                let passes = |kind| match kind {
                    FieldKind::Ordinary => true,
                    FieldKind::Reserved => trusted,
                    FieldKind::Hop => false,
                };
                encode_fields(out, &head.bytes, &head.fields, &head.nominated, passes);
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
    pub(crate) fn into_http2(self, trusted: bool) -> Result<Response<()>, HeadError> {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(self.status()).map_err(|_| HeadError::Syntax)?;
        let told_length = self.told_length();
        *response.headers_mut() = match self {
            Self::Http1(head) => {
                let passes =
                    |kind| kind == FieldKind::Ordinary || (trusted && kind == FieldKind::Reserved);
                fields_to_map(&head.bytes, &head.fields, &head.nominated, passes)?
            }
            Self::Http2(mut parts) => {
                filter_response(&mut parts.headers, trusted);
                parts.headers
            }
        };
        if let Some(length) = told_length {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(response)
    }
}

/// Writes the fields of these kinds. Those that stand side by side, written as we would, are copied in one piece.
fn encode_fields(
    out: &mut BytesMut,
    bytes: &Bytes,
    fields: &[Field],
    nominated: &[Span],
    passes: impl Fn(FieldKind) -> bool,
) {
    let mut piece = 0..0;
    for field in fields {
        let name = http1::slice(bytes, &field.name);
        if !passes(field.kind) || is_nominated(bytes, nominated, name) {
            continue;
        }
        if !is_as_written(bytes, field) {
            put(out, &[http1::slice(bytes, &piece)]);
            piece = 0..0;
            line(out, name, http1::slice(bytes, &field.value));
            continue;
        }
        let end = field.value.end + 2;
        if piece.end == field.name.start {
            piece.end = end;
        } else {
            put(out, &[http1::slice(bytes, &piece)]);
            piece = field.name.start..end;
        }
    }
    put(out, &[http1::slice(bytes, &piece)]);
}

/// Whether a field stands in its head as [`line`] would write it, line end included.
fn is_as_written(bytes: &Bytes, field: &Field) -> bool {
    let (name, value) = (&field.name, &field.value);
    value.start == name.end.saturating_add(2)
        && http1::slice(bytes, &(name.end..value.start)) == b": "
        && http1::slice(bytes, &(value.end..value.end.saturating_add(2))) == b"\r\n"
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
    passes: impl Fn(FieldKind) -> bool,
) -> Result<HeaderMap, HeadError> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        if passes(field.kind) {
            append(&mut map, bytes, field, nominated)?;
        }
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

fn is_nominated(bytes: &Bytes, nominated: &[Span], name: &[u8]) -> bool {
    nominated
        .iter()
        .any(|span| http1::slice(bytes, span).eq_ignore_ascii_case(name))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str) -> RequestHead {
        let mut request = Request::post(uri).body(()).unwrap();
        let fields = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("vouchsafe-port", "grpc:50051"),
            ("x-app", "a"),
        ];
        for (name, value) in fields {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(name, value);
        }
        RequestHead::from_http2(request.into_parts().0).unwrap()
    }

    #[test]
    fn fields_are_copied_only_where_they_may_be_needed_again() {
        let head = request("http://llm.inference/a.B/C");
        for last in [false, true] {
            let sent = head.to_http2(head.target(), Framing::Chunked, &Added::default(), last);
            let sent = sent.unwrap();
            assert_eq!(sent.headers().len(), 3, "last: {last}");
            assert!(!sent.headers().contains_key("vouchsafe-port"));
            assert!(head.is_grpc() && head.method() == Method::POST);
        }
        let again = head.to_http2(head.target(), Framing::Chunked, &Added::default(), true);
        assert!(again.unwrap().headers().is_empty());
    }

    #[test]
    fn a_target_passes_as_it_was_judged_and_always_as_http() {
        for scheme in ["http", "https"] {
            let head = request(&format!("{scheme}://llm.inference/a%2Db?c=/?"));
            assert_eq!(head.path(), "/a%2Db");
            let sent = |target: &str| {
                let sent = head.to_http2(target, Framing::Chunked, &Added::default(), false);
                sent.unwrap().uri().to_string()
            };
            assert_eq!(sent(head.target()), "http://llm.inference/a%2Db?c=/?");
            assert_eq!(sent("/a-b?c=/?"), "http://llm.inference/a-b?c=/?");
        }
    }
}
