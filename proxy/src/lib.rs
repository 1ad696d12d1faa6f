//! The sidecar.

pub mod admin;
pub mod app;
pub mod attester;
pub mod clock;
pub mod config_dump;
pub mod drain;
pub mod health;
mod http;
pub mod http1;
mod http2;
mod inbound;
mod io;
pub mod lane;
mod listener;
pub mod mesh_state;
mod outbound;
pub mod plain_http;
pub mod policy_folder;
pub mod reason;
mod record;
pub mod registry;
mod relay;
pub mod state;
pub mod svid;
pub mod telemetry;
mod tls;
pub mod worker;
