//! Everything an operator writes, and what it means.

pub mod policy;
pub mod proxy;
