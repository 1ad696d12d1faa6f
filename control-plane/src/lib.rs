//! The control plane.

pub mod ca;
pub mod files;
pub mod issuance;
pub mod log;
pub mod mesh;
pub mod policy;
pub mod reference;
pub mod refusal;
pub mod registration;
pub mod store;
pub mod svid_template;
pub mod telemetry;
