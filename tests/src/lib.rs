//! The harness: real processes of both binaries, real sockets, real software TPMs, and nothing left behind.
//!
//! Everything is plain blocking code on threads: a test reads from top to bottom, and a hang is a deadline that names
//! what was waited for. Nothing sleeps to synchronise; [`wait::until`] polls.
//!
//! # Why processes
//! The promises are about what runs in production, so the tests start the two binaries as an operator would, with files
//! that an operator could have written, and look only through doors that an operator or a peer has.

pub mod backend;
pub mod binaries;
pub mod cable;
pub mod client;
pub mod clock;
pub mod configfs;
pub mod documents;
pub mod factory;
pub mod files;
pub mod flow;
pub mod http2;
pub mod mesh;
pub mod metrics;
pub mod mutation;
pub mod nvml;
pub mod paravisor;
pub mod pki;
pub mod port;
pub mod process;
pub mod sidecar;
pub mod swtpm;
pub mod tls;
pub mod vendor;
pub mod wait;
