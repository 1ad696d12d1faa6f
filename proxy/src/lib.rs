//! The sidecar: who its workload is, and who may speak with it.
//!
//! # Life of a connection
//!
//! 1. [`app`] opens the doors, and everything is denied: there is no identity yet.
//! 2. [`svid`] attests. On one TLS session with the control plane it collects evidence ([`attester`]) that is bound to
//!    that session and to a key made for this certificate, and publishes what it gets in [`state`]. Where identity comes
//!    from files instead, [`svid::files`] follows them.
//! 3. [`mesh_state`] follows signed revisions of policy, endpoints and trust bundle; [`policy_folder`] does so for files.
//! 4. The local application connects. A [`worker`] takes the connection and never gives it to another thread: `outbound`
//!    finds the endpoint, `tls` makes sure that it is the workload that was called, policy admits the flow or request,
//!    and a [`lane`] carries it.
//! 5. The peer's sidecar does the same from the other side in `inbound`: handshake, peer, policy, application. No byte
//!    passes before that.
//! 6. The connection ends by itself, at the end of its lease ([`registry`]), after too long a silence, or at the end of a
//!    [`drain`]. Its line in the access log says why, in a word of [`reason`].
//!
//! Time is [`clock`]'s, everywhere. Operators look in by [`admin`], orchestrators by [`health`].
//!
//! # Why
//! Control and traffic are apart: one runtime of one thread for everything that may wait, one thread per core for
//! traffic. What passes between them is whole values, replaced at once ([`state::State`]), so that a slow control plane
//! costs the traffic nothing and a handshake never sees half a change.

pub mod admin;
pub mod app;
pub mod attester;
pub mod clock;
pub mod collect;
pub mod config_dump;
pub mod drain;
pub mod health;
mod http;
pub mod http1;
mod http2;
mod inbound;
mod io;
pub mod lane;
mod listener;
mod memory;
pub mod mesh_state;
mod outbound;
pub mod plain_http;
pub mod policy_folder;
pub mod reason;
mod record;
pub mod registry;
mod relay;
mod scan;
mod spread;
pub mod state;
pub mod svid;
pub mod telemetry;
mod tls;
pub mod worker;
