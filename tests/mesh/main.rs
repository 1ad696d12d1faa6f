//! Promises of the system, kept by real processes and seen through public doors: one file per promise.

mod example;
mod files;
mod identity;
mod leaving;
mod peers;
