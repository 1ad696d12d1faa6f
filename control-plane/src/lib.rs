//! The control plane.

pub mod log;
pub mod store;
