//! Each rule of RFC 9113 that a peer can break, and each known abuse, frame by frame against a real connection.
//!
//! The other end here is bytes written by hand: no client or server that keeps the rules can show what happens to one
//! that does not.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests, outside their functions"
)]

mod abuse;
mod client;
mod connection;
mod flow;
mod frames;
mod heads;
mod raw;
mod responses;
mod streams;
mod truncation;
mod turns;
