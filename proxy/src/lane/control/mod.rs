//! The control stream: what two sidecars say about the connections between them.
//!
//! | Module | Holds |
//! |---|---|
//! | [`message`] | what is said, as bounded frames |
//! | `channel` | frames on a byte stream |
//! | `bond` | one connection, as both ends can name it and prove keys over it |
//! | `bonds` | all of them, so that one worker's control stream can speak of another's connections |
//! | `answer` | the end that answers; the end that asks is `outbound::control` |
//!
//! # Why
//! A proof is bound to the exporter of the connection that it speaks of, so it may travel by any way between the two: one
//! control stream serves all connections to an endpoint, dedicated ones included, whose bytes are the application's. The
//! TLS client opens it and asks, because only it knows which of its connections live; the other end answers, in order. So
//! there is one thing under way at a time, and nothing that two ends could decide differently.

pub(crate) mod answer;
pub(crate) mod bond;
pub(crate) mod bonds;
pub(crate) mod channel;
pub mod message;
