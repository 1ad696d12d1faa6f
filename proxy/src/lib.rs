//! The sidecar.

pub mod admin;
pub mod app;
pub mod attester;
pub mod clock;
pub mod config_dump;
pub mod drain;
pub mod health;
pub mod mesh_state;
pub mod plain_http;
pub mod policy_folder;
pub mod state;
pub mod svid;
pub mod telemetry;
