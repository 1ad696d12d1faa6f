//! The static table (RFC 7541 Appendix A), as the decoder gives it out and as the encoder looks names up.

use http::header::{HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, StatusCode};

use super::ENTRY_OVERHEAD;
use super::field::{Entry, Field, Name};
use super::lookup::hash;

/// How many entries the table has; the dynamic table's indices follow.
pub(super) const LENGTH: usize = 61;

/// The entry at an index from 1.
pub(super) fn entry(index: usize) -> Option<&'static Entry> {
    ENTRIES.get(index.wrapping_sub(1))
}

/// Index of the entry that has a name, which hashes to `name_hash`; 0 if there is none.
pub(super) fn index_of(name: &[u8], name_hash: u64) -> usize {
    let mut at = slot(name_hash);
    loop {
        match BY_NAME.get(at) {
            None | Some(0) => return 0,
            Some(index) => {
                let index = usize::from(*index);
                let found = NAMES.get(index - 1);
                if found.is_some_and(|found| found.as_bytes() == name) {
                    return index;
                }
            }
        }
        at = (at + 1) % SLOTS;
    }
}

const fn allowed(field: Field, size: usize) -> Entry {
    Entry {
        field: Ok(field),
        size: size + ENTRY_OVERHEAD,
    }
}

const fn forbidden(name: Name, size: usize) -> Entry {
    Entry {
        field: Err(name),
        size: size + ENTRY_OVERHEAD,
    }
}

const fn regular(name: &'static str, value: &'static str) -> Entry {
    let size = name.len() + value.len();
    let field = Field::Regular(
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    );
    allowed(field, size)
}

static ENTRIES: [Entry; LENGTH] = [
    forbidden(Name::Authority, 10),
    allowed(Field::Method(Method::GET), 10),
    allowed(Field::Method(Method::POST), 11),
    allowed(Field::Path(PathAndQuery::from_static("/")), 6),
    allowed(Field::Path(PathAndQuery::from_static("/index.html")), 16),
    allowed(Field::Scheme(Scheme::HTTP), 11),
    allowed(Field::Scheme(Scheme::HTTPS), 12),
    allowed(Field::Status(StatusCode::OK), 10),
    allowed(Field::Status(StatusCode::NO_CONTENT), 10),
    allowed(Field::Status(StatusCode::PARTIAL_CONTENT), 10),
    allowed(Field::Status(StatusCode::NOT_MODIFIED), 10),
    allowed(Field::Status(StatusCode::BAD_REQUEST), 10),
    allowed(Field::Status(StatusCode::NOT_FOUND), 10),
    allowed(Field::Status(StatusCode::INTERNAL_SERVER_ERROR), 10),
    regular("accept-charset", ""),
    regular("accept-encoding", "gzip, deflate"),
    regular("accept-language", ""),
    regular("accept-ranges", ""),
    regular("accept", ""),
    regular("access-control-allow-origin", ""),
    regular("age", ""),
    regular("allow", ""),
    regular("authorization", ""),
    regular("cache-control", ""),
    regular("content-disposition", ""),
    regular("content-encoding", ""),
    regular("content-language", ""),
    regular("content-length", ""),
    regular("content-location", ""),
    regular("content-range", ""),
    regular("content-type", ""),
    regular("cookie", ""),
    regular("date", ""),
    regular("etag", ""),
    regular("expect", ""),
    regular("expires", ""),
    regular("from", ""),
    regular("host", ""),
    regular("if-match", ""),
    regular("if-modified-since", ""),
    regular("if-none-match", ""),
    regular("if-range", ""),
    regular("if-unmodified-since", ""),
    regular("last-modified", ""),
    regular("link", ""),
    regular("location", ""),
    regular("max-forwards", ""),
    regular("proxy-authenticate", ""),
    regular("proxy-authorization", ""),
    regular("range", ""),
    regular("referer", ""),
    regular("refresh", ""),
    regular("retry-after", ""),
    regular("server", ""),
    regular("set-cookie", ""),
    regular("strict-transport-security", ""),
    forbidden(Name::Forbidden(17), 17),
    regular("user-agent", ""),
    regular("vary", ""),
    regular("via", ""),
    regular("www-authenticate", ""),
];

/// Names in the order of the table.
const NAMES: [&str; LENGTH] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// Room for twice the names, so that chains stay short.
const SLOTS: usize = 128;

/// Index of the first entry with a name, at the slot of the name's hash or soon after it.
static BY_NAME: [u8; SLOTS] = by_name();

const fn slot(name_hash: u64) -> usize {
    (name_hash >> 57) as usize
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "runs in the compiler"
)]
const fn by_name() -> [u8; SLOTS] {
    let mut slots = [0; SLOTS];
    let mut index = 1;
    while index <= LENGTH {
        let name = NAMES[index - 1].as_bytes();
        let first = index == 1 || !same(name, NAMES[index - 2].as_bytes());
        if first {
            let mut at = slot(hash(0, name));
            while slots[at] != 0 {
                at = (at + 1) % SLOTS;
            }
            slots[at] = index as u8;
        }
        index += 1;
    }
    slots
}

#[expect(clippy::indexing_slicing, reason = "runs in the compiler")]
const fn same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while one.len() == other.len() && at < one.len() && one[at] == other[at] {
        at += 1;
    }
    one.len() == other.len() && at == one.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_table_say_the_same() {
        for index in 1..=LENGTH {
            let (entry, name) = (entry(index).unwrap(), NAMES[index - 1]);
            let rebuilt = Entry::new(Name::of(name.as_bytes()), b"", false);
            assert_eq!(
                std::mem::discriminant(&entry.name()),
                std::mem::discriminant(&rebuilt.name()),
                "{name}"
            );
            let value = match &entry.field {
                Ok(Field::Method(method)) => method.as_str(),
                Ok(Field::Path(path)) => path.as_str(),
                Ok(Field::Scheme(scheme)) => scheme.as_str(),
                Ok(Field::Status(status)) => status.as_str(),
                Ok(Field::Regular(own, value)) => {
                    assert_eq!(own.as_str(), name);
                    value.to_str().unwrap()
                }
                Err(_) => "",
                other => panic!("{other:?}"),
            };
            assert_eq!(entry.size, name.len() + value.len() + 32, "{name}");
        }
        assert!(entry(0).is_none() && entry(LENGTH + 1).is_none());
    }

    #[test]
    fn a_name_is_found_at_its_first_index() {
        for (at, name) in NAMES.iter().enumerate() {
            let first = NAMES.iter().position(|other| other == name).unwrap();
            let found = index_of(name.as_bytes(), hash(0, name.as_bytes()));
            assert_eq!(found, first + 1, "{name} at {at}");
        }
        for other in ["", "x-request-id", "grpc-status", "te", "accepu"] {
            assert_eq!(index_of(other.as_bytes(), hash(0, other.as_bytes())), 0);
        }
    }
}
