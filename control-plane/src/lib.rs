//! The control plane.

pub mod app;
pub mod ca;
pub mod cli;
pub mod files;
pub mod http;
pub mod issuance;
pub mod keeper;
pub mod log;
pub mod mesh;
pub mod operator;
pub mod policy;
pub mod reference;
pub mod refusal;
pub mod registration;
pub mod rpc;
pub mod server;
pub mod state;
pub mod store;
pub mod svid_template;
pub mod telemetry;
pub mod tls;
