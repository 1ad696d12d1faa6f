//! Clients and servers of other makers through a pair of sidecars, on both lanes.
//!
//! `tests/run` installs them and selects this target; with plain cargo it is
//! `VOUCHSAFE_CLIENTS=target/clients/bin/python cargo test --workspace --features vouchsafe-tests/outside --test outside`.
//! A client that is missing is a failure that says so, never a test that passes without having run.

mod clients;
mod pair;
mod postgres;
mod quickstart;
