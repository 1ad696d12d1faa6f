//! Devices that only unsafe code can talk to: NVIDIA's management library, and the security module of AWS Nitro
//! Enclaves.
//!
//! # Why
//! A crate of its own so that the sidecar can never contain unsafe code. Everything here is a thin, safe function over
//! one foreign call; what an answer means, how long to wait for it and whether it is bound to us is the caller's. Every
//! length that the other side writes is checked against the memory that it was given, before it is believed.
//!
//! `nvml-wrapper` was refused: its report slices by the length that the driver wrote, unchecked, and its error type is
//! that of the whole library; we need nine functions of it.

pub mod nsm;
pub mod nvml;
