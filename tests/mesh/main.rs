//! Promises of the system, kept by real processes and seen through public doors: one file per promise.

mod audit;
mod canary;
mod drain;
mod evidence;
mod example;
mod faults;
mod files;
mod goodbye;
mod identity;
mod identity_lost;
mod interop;
mod lease;
mod leaving;
mod live;
mod peers;
mod policy;
mod readme;
mod reattest;
mod record;
mod revocation;
mod secrets;
mod stale;
mod storm;
