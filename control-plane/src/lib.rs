//! The control plane.

pub mod ca;
pub mod files;
pub mod log;
pub mod store;
pub mod svid_template;
