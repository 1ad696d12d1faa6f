//! Everything an operator writes, and what it means.
//!
//! Text becomes a tree with places ([`source`], `yaml`), the tree is checked against tables of fields (`shape`) and
//! between documents ([`set`]), and only what is right as a whole becomes typed documents ([`mesh`], [`profile`],
//! [`node`], [`workload`], [`access`]) and a compiled [`policy`]. Mistakes are collected ([`problem`]) and shown
//! together. Nothing here does IO except [`load`].
//!
//! # Why own tables instead of serde
//! serde stops at the first mistake and forgets places. The tables of fields report all mistakes with their spans, and
//! the JSON Schemas that editors use are made from the very same tables ([`schema`]).

pub mod access;
pub mod attester;
pub mod claim;
pub mod control_plane;
pub mod document;
pub mod load;
pub mod mesh;
pub mod node;
pub mod policy;
pub mod policy_test;
pub mod problem;
pub mod profile;
pub mod proxy;
pub mod reason;
pub mod revocation;
pub mod schema;
pub mod set;
pub mod slice;
pub mod source;
pub mod workload;

mod check;
mod scalar;
mod shape;
#[cfg(test)]
mod testing;
mod yaml;

pub use scalar::parse_duration;
