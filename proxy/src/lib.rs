//! The sidecar.

pub mod state;
