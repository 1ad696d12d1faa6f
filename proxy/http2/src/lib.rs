//! HTTP/2 (RFC 9113) for one thread: client and server over any byte stream.

pub mod hpack;
