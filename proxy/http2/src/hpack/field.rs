//! Header fields, checked.
//!
//! What a field may be by itself is judged here, once, when its text is read (RFC 9113 §8.2 and §8.3): names in lower
//! case and without those that HTTP/1.1 needs for its connections, values without control characters and without white
//! space around them, each pseudo-header field in its own type. What fields may be together (their order and number) is
//! for the reader of the whole message.

use http::header::{HeaderName, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode};

use super::ENTRY_OVERHEAD;

/// A header field as HTTP allows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Field {
    /// `:method`.
    Method(Method),
    /// `:scheme`.
    Scheme(Scheme),
    /// `:authority`, without user information (RFC 9113 §8.3.1).
    Authority(Authority),
    /// `:path`, which begins with `/` or is `*`.
    Path(PathAndQuery),
    /// `:status`.
    Status(StatusCode),
    /// `:protocol`, a token (RFC 8441 §4).
    Protocol(HeaderValue),
    /// Any other. The value is marked sensitive if it came as never to be indexed (RFC 7541 §6.2.3).
    Regular(HeaderName, HeaderValue),
}

impl Field {
    pub(super) fn name(&self) -> Name {
        match self {
            Self::Method(_) => Name::Method,
            Self::Scheme(_) => Name::Scheme,
            Self::Authority(_) => Name::Authority,
            Self::Path(_) => Name::Path,
            Self::Status(_) => Name::Status,
            Self::Protocol(_) => Name::Protocol,
            Self::Regular(name, _) => Name::Regular(name.clone()),
        }
    }
}

/// What a literal is called before its value is known.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Protocol,
    Regular(HeaderName),
    /// HTTP forbids it; only its length counts on, in the table.
    Forbidden(usize),
}

impl Name {
    pub(super) fn of(text: &[u8]) -> Self {
        match text {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":status" => Self::Status,
            b":protocol" => Self::Protocol,
            // They belong to one HTTP/1.1 connection (RFC 9113 §8.2.2).
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => Self::Forbidden(text.len()),
            _ => {
                HeaderName::from_lowercase(text).map_or(Self::Forbidden(text.len()), Self::Regular)
            }
        }
    }

    /// The field with this name and `value`, if HTTP allows it.
    pub(super) fn with(&self, value: &[u8], never_indexed: bool) -> Option<Field> {
        match self {
            Self::Method => Method::from_bytes(value).ok().map(Field::Method),
            Self::Scheme => {
                // The type would take nothing for a scheme (RFC 3986 §3.1).
                let begins = value.first().is_some_and(u8::is_ascii_alphabetic);
                let scheme = begins.then(|| Scheme::try_from(value).ok()).flatten();
                scheme.map(Field::Scheme)
            }
            Self::Authority => {
                let allowed = !value.contains(&b'@');
                let authority = allowed.then(|| Authority::try_from(value).ok()).flatten();
                authority.map(Field::Authority)
            }
            Self::Path => {
                // The type would cut a fragment off, and guess what does not begin with a slash.
                let begins = value.first() == Some(&b'/') || value == b"*";
                let allowed = begins && !value.contains(&b'#');
                let path = allowed
                    .then(|| PathAndQuery::try_from(value).ok())
                    .flatten();
                path.map(Field::Path)
            }
            Self::Status => StatusCode::from_bytes(value).ok().map(Field::Status),
            Self::Protocol => {
                let token = !value.is_empty() && value.iter().all(in_token);
                let token = token.then(|| HeaderValue::from_bytes(value).ok()).flatten();
                token.map(Field::Protocol)
            }
            Self::Regular(name) => {
                let padded = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
                if padded(value.first()) || padded(value.last()) {
                    return None;
                }
                // The only transfer coding that HTTP/2 leaves (RFC 9113 §8.2.2).
                if *name == TE && !value.eq_ignore_ascii_case(b"trailers") {
                    return None;
                }
                let mut value = HeaderValue::from_bytes(value).ok()?;
                value.set_sensitive(never_indexed);
                Some(Field::Regular(name.clone(), value))
            }
            Self::Forbidden(_) => None,
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Method => ":method".len(),
            Self::Scheme => ":scheme".len(),
            Self::Authority => ":authority".len(),
            Self::Path => ":path".len(),
            Self::Status => ":status".len(),
            Self::Protocol => ":protocol".len(),
            Self::Regular(name) => name.as_str().len(),
            Self::Forbidden(length) => *length,
        }
    }
}

/// A field in a table, allowed or not: both ends count it either way.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The field; its name alone if HTTP forbids the whole.
    pub(super) field: Result<Field, Name>,
    /// What it counts (RFC 7541 §4.1).
    pub(super) size: usize,
}

impl Entry {
    pub(super) fn new(name: Name, value: &[u8], never_indexed: bool) -> Self {
        let size = name.length() + value.len() + ENTRY_OVERHEAD;
        let field = name.with(value, never_indexed).ok_or(name);
        Self { field, size }
    }

    pub(super) fn name(&self) -> Name {
        match &self.field {
            Ok(field) => field.name(),
            Err(name) => name.clone(),
        }
    }
}

/// Whether a token may contain `byte` (RFC 9110 §5.6.2).
fn in_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}
