//! The harness: real processes of both binaries, real sockets, real software TPMs, and nothing left behind.
