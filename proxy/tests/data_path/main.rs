//! The data path through its public door: two sidecars' workers, real TLS and real applications, on both lanes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that can't go on should say where; the switches of .clippy.toml cover test functions alone"
)]

mod http;
mod http2;
mod identity;
mod interop;
mod lease;
mod live;
mod raw_peer;
mod spread;
mod strict;
mod support;
mod tcp;
