//! The sidecar.

pub mod clock;
pub mod drain;
pub mod state;
pub mod telemetry;
