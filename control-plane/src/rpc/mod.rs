//! The API: what sidecars and operators may ask.

pub mod attest;
pub mod frames;
pub mod mesh_state;
pub mod operator;
