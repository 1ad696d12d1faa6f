//! What follows from a policy without running anything: who can come through a door ([`who_can`]), and what differs
//! between two policies ([`diff`]).
//!
//! # How
//! Every rule is taken apart into grants: one sort of request, under the demands of its rule. Grants compare by
//! inclusion, which is decidable because the vocabulary of rules is small. Inclusion errs on one side
//! only: where several grants include another only together, it says no. So a difference may be reported that several
//! rules cover between them, but none is ever missed.

mod fields;
mod grant;
mod inclusion;

pub mod diff;
pub mod suggest;
pub mod who_can;

pub use grant::{Grant, Subject};
pub(crate) use inclusion::{Ask, demands_less};

#[cfg(test)]
mod tests;
