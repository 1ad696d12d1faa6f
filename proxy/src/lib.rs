//! The sidecar.

pub mod attester;
pub mod clock;
pub mod drain;
pub mod state;
pub mod svid;
pub mod telemetry;
