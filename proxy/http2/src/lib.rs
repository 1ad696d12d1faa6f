//! HTTP/2 (RFC 9113) for one thread: client and server over any byte stream.
//!
//! The names and the meaning are those of the `h2` crate, as far as the sidecar needs them, without its type parameters,
//! locks and tasks: a connection and the handles of its streams belong to one thread.
//!
//! - Frames are encoded into one buffer when they are sent, as far as the windows allow, and leave together at the end of a
//!   turn of the connection's task. What the windows forbid waits with its stream, and goes frame by frame in turn.
//! - Frames are read in place from a buffer of the thread. An idle connection has no buffers.
//! - Windows are given back only for what was consumed.
//! - Whoever sends what asks for nothing is ended with a reason (`abuse`); every queue and every map has a bound.
//!
//! # Why
//! The sidecar's cost for a call is mostly HTTP/2, four times in a pair. The `h2` crate moves each frame through several
//! queues behind a lock, because streams may live on other threads than their connection; ours never do. It writes each
//! frame of data by itself, and bounds few of the known floods, so that around it everything was parsed and gathered a
//! second time. It is a crate of its own so that what parses a stranger's frames can know nothing of the mesh, and so
//! that it builds, is tested and is fuzzed by itself. Tests keep `h2` as the other end: two that were written apart find
//! each other's mistakes.

#[macro_use]
mod builder;

mod abuse;
mod chunks;
pub mod client;
mod connection;
mod error;
mod flow;
mod frame;
mod handle;
pub mod hpack;
mod message;
mod output;
pub mod server;
mod settings;
mod store;
mod stream;

pub use error::{Error, Reason};
pub use handle::{RecvStream, SendStream};

#[cfg(test)]
mod tests;
