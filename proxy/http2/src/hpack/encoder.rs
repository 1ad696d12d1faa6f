//! Writes header blocks.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode, Uri};

use super::lookup::{Lookup, hash};
use super::wire::{put_integer, put_text};
use super::{DEFAULT_TABLE_SIZE, ENTRY_OVERHEAD, static_table};

/// The sending end of one connection.
#[derive(Debug)]
pub struct Encoder {
    table: Lookup,
    /// Smallest and last size of the table since the last block, to be said in the next.
    resize: Option<(usize, usize)>,
    /// Hashes of what was lately sent without being in the table.
    seen: [u32; SEEN],
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: Lookup::new(DEFAULT_TABLE_SIZE),
            resize: None,
            seen: [0; SEEN],
        }
    }
}

impl Encoder {
    /// The peer's `SETTINGS_HEADER_TABLE_SIZE`. We never use more than [`DEFAULT_TABLE_SIZE`]: memory on both sides is
    /// worth more than the bytes saved.
    pub fn set_peer_table_size(&mut self, size: u32) {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let size = size.min(DEFAULT_TABLE_SIZE);
        let (smallest, last) = self.resize.unwrap_or((size, self.table.max_size()));
        if size != last {
            self.resize = Some((smallest.min(size), size));
        }
    }

    /// Appends the block of a request. A plain CONNECT has neither scheme nor path (RFC 9113 §8.5).
    pub fn request(&mut self, method: &Method, uri: &Uri, fields: &HeaderMap, out: &mut Vec<u8>) {
        self.start(out);
        match *method {
            Method::GET => out.push(METHOD_GET),
            Method::POST => out.push(METHOD_POST),
            _ => self.put(":method", method.as_str().as_bytes(), out),
        }
        if *method != Method::CONNECT {
            match uri.scheme_str() {
                Some("http") | None => out.push(SCHEME_HTTP),
                Some("https") => out.push(SCHEME_HTTPS),
                Some(other) => self.put(":scheme", other.as_bytes(), out),
            }
            let path = uri.path_and_query().map_or("", |path| path.as_str());
            match path {
                "" if *method == Method::OPTIONS => self.put(":path", b"*", out),
                "" | "/" => out.push(PATH_ROOT),
                // A query may hold a secret, and seldom repeats.
                _ if path.contains('?') => {
                    put_integer(out, WITHOUT_INDEXING, 0x0f, NAME_PATH);
                    put_text(out, path.as_bytes());
                }
                _ => self.put(":path", path.as_bytes(), out),
            }
        }
        if let Some(authority) = uri.authority() {
            self.put(":authority", authority.as_str().as_bytes(), out);
        }
        self.rest(fields, out);
    }

    /// Appends the block of a response.
    pub fn response(&mut self, status: StatusCode, fields: &HeaderMap, out: &mut Vec<u8>) {
        self.start(out);
        match status {
            StatusCode::OK => out.push(STATUS_OK),
            StatusCode::NO_CONTENT => out.push(STATUS_OK + 1),
            StatusCode::PARTIAL_CONTENT => out.push(STATUS_OK + 2),
            StatusCode::NOT_MODIFIED => out.push(STATUS_OK + 3),
            StatusCode::BAD_REQUEST => out.push(STATUS_OK + 4),
            StatusCode::NOT_FOUND => out.push(STATUS_OK + 5),
            StatusCode::INTERNAL_SERVER_ERROR => out.push(STATUS_OK + 6),
            _ => self.put(":status", status.as_str().as_bytes(), out),
        }
        self.rest(fields, out);
    }

    /// Appends the block of trailers.
    pub fn fields(&mut self, fields: &HeaderMap, out: &mut Vec<u8>) {
        self.start(out);
        self.rest(fields, out);
    }

    /// Says at the start of a block how the table's size changed; twice if it was smaller in between (RFC 7541 §4.2).
    fn start(&mut self, out: &mut Vec<u8>) {
        let Some((smallest, last)) = self.resize.take() else {
            return;
        };
        if smallest < last {
            self.table.resize(smallest);
            put_integer(out, TABLE_SIZE, 0x1f, smallest);
        }
        self.table.resize(last);
        put_integer(out, TABLE_SIZE, 0x1f, last);
    }

    fn rest(&mut self, fields: &HeaderMap, out: &mut Vec<u8>) {
        for (name, value) in fields {
            if value.is_sensitive() || is_secret(name) {
                self.put_never_indexed(name.as_str().as_bytes(), value.as_bytes(), out);
            } else {
                self.put(name.as_str(), value.as_bytes(), out);
            }
        }
    }

    /// Appends a field: by index if the table has it, else as a literal that enters the table if it was seen before, or
    /// if its name was and the table does not know it.
    fn put(&mut self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let name = name.as_bytes();
        let name_hash = hash(0, name);
        let field_hash = hash(name_hash, value);
        if let Some(index) = self.table.find(field_hash, name, value) {
            return put_integer(out, INDEXED, 0x7f, index);
        }
        let index = self.index_of(name, name_hash);
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        // Large fields would push out all others.
        let fits = size <= self.table.max_size() / 4;
        if fits && (self.seen(field_hash) || index == 0 && self.seen(name_hash)) {
            self.table.insert(field_hash, name_hash, name, value);
            put_integer(out, WITH_INDEXING, 0x3f, index);
        } else {
            put_integer(out, WITHOUT_INDEXING, 0x0f, index);
        }
        if index == 0 {
            put_text(out, name);
        }
        put_text(out, value);
    }

    /// Appends a field that no table on the way may hold (RFC 7541 §7.1.3).
    fn put_never_indexed(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let index = self.index_of(name, hash(0, name));
        put_integer(out, NEVER_INDEXED, 0x0f, index);
        if index == 0 {
            put_text(out, name);
        }
        put_text(out, value);
    }

    fn index_of(&self, name: &[u8], name_hash: u64) -> usize {
        match static_table::index_of(name, name_hash) {
            0 => self.table.find_name(name_hash, name).unwrap_or(0),
            index => index,
        }
    }

    /// Whether this hash passed here lately; now it did.
    fn seen(&mut self, hash: u64) -> bool {
        let short = (hash >> 32) as u32;
        let at = (hash >> 26) as usize % SEEN;
        match self.seen.get_mut(at) {
            Some(seen) => std::mem::replace(seen, short) == short,
            None => false,
        }
    }
}

/// Whether a value is a secret by what it is called: one that can be guessed byte by byte through the size of compressed
/// blocks, or that lets whoever reads the table act in another's name.
fn is_secret(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION
        || *name == header::COOKIE
        || *name == header::PROXY_AUTHORIZATION
        || *name == header::SET_COOKIE
}

/// How many hashes of fields that are not in the table are remembered: several messages' worth.
const SEEN: usize = 64;

// Representations (RFC 7541 §6).
const INDEXED: u8 = 0x80;
const WITH_INDEXING: u8 = 0x40;
const WITHOUT_INDEXING: u8 = 0x00;
const NEVER_INDEXED: u8 = 0x10;
const TABLE_SIZE: u8 = 0x20;

// Indices of the static table.
const METHOD_GET: u8 = INDEXED | 2;
const METHOD_POST: u8 = INDEXED | 3;
const PATH_ROOT: u8 = INDEXED | 4;
const NAME_PATH: usize = 4;
const SCHEME_HTTP: u8 = INDEXED | 6;
const SCHEME_HTTPS: u8 = INDEXED | 7;
const STATUS_OK: u8 = INDEXED | 8;

#[cfg(test)]
mod tests;
